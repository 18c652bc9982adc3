from collections.abc import Callable

from broker.native._verbs import Verbs

# What `replay` answers.
GONE: int
QUEUED: int
FULL: int

class Replaying(Verbs):
    """Subscriptions that are behind; see the .pyx."""

    def subscribe_behind(
        self, conn: int, name: bytes, policy: int, payload: int, sends: bool, pattern: int = 0
    ) -> bool: ...
    def replay(
        self, conn: int, name: bytes, kind: int, payload: bytes, extra: bytes, offset: int, time_ms: int
    ) -> int: ...
    def forget_replayed(self) -> None: ...
    def go_live(self, conn: int, name: bytes) -> int: ...
    def missed_behind(self, conn: int, name: bytes, count: int | None) -> bool: ...
    def publish_kept(
        self, conn: int, name: bytes, kind: int, payload: bytes, extra: bytes, echo: bool, offset: int, time_ms: int
    ) -> int: ...
    on_room: Callable[[int, list[tuple[bytes, int]]], None]
