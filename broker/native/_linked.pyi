from typing import Protocol

class LinkHandler(Protocol):
    """What hears from the link, from the loop of the turn. A method that raises ends the link."""

    def on_sequenced(
        self, name: bytes, kind: int, payload: bytes, extra: bytes, conn: int, echo: bool, offset: int, time_ms: int
    ) -> None:
        """A message of a channel with history. Live ones go to the hub without Python."""

    def on_acked(self, count: int) -> None:
        """So many of this worker's publishes are sequenced. Only called after `link_wait`."""

    def on_missed(self, name: bytes, number: int, with_offset: bool) -> None:
        """So many messages of a live channel did not fit the link; with history, the first offset that did not."""

    def on_call(self, verb: int, token: int, name: bytes, payload: bytes) -> None:
        """The engine asks or tells (token 0)."""

    def on_reply(self, token: int, payload: bytes, failed: bool) -> None:
        """The answer to `link_call`."""

    def on_down(self, unknown: list[int]) -> None:
        """The link is gone. `unknown`: raw connections that published something nobody knows the fate of."""

class Linked:
    def expect_link(self, handler: LinkHandler, window_bytes: int) -> None: ...
    def attach_link(self, fd: int) -> None: ...
    def link_publish(self, name: bytes, kind: int, payload: bytes, extra: bytes, conn: int, echo: bool) -> int: ...
    def link_call(self, verb: int, token: int, name: bytes, payload: bytes) -> bool: ...
    def link_reply(self, token: int, payload: bytes, failed: bool) -> bool: ...
    def link_count(self, sequenced: bool) -> None: ...
    def link_wait(self, waiting: bool) -> None: ...
    def detach_link(self) -> None: ...
    @property
    def linked(self) -> bool: ...
    @property
    def link_has_credit(self) -> bool: ...
    @property
    def link_under_way(self) -> int: ...
    @property
    def link_heard(self) -> int: ...
