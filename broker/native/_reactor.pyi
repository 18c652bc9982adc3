from collections.abc import Callable, Sequence
from typing import Protocol

from broker.native._hub import Hub
from broker.native._replay import Replaying
from broker.native._request import Request

class Handler(Protocol):
    """What the reactor calls, from the loop of the turn and never inside a fan-out or flush.

    Whatever a method raises closes that connection with 1011, is given to on_error and counted; the turn goes on.
    Methods must not block. `conn` is the connection's id: it stays valid to pass after the connection is gone, verbs
    then return False or None.
    """

    def on_request(self, conn: int, request: Request) -> None:
        """A request head has come (status 101, 200 or a refusal). Answer now or later: open, hold or respond."""

    def on_malformed(self, conn: int, status: int, head_only: bool) -> None:
        """The bytes are no request head; answer with respond. `head_only`: the method is HEAD, which gets no body."""

    def on_message(self, conn: int, session: object, payload: bytes, text: bool) -> bool:
        """A message that the reactor does not publish by itself. True = the command goes on later: input waits for
        resume.
        """

    def on_bad_payload(self, conn: int, session: object, word: str, offset: int) -> None:
        """A raw message does not fit its channel's payload kind."""

    def on_unpublished(self, conn: int, session: object) -> None:
        """A raw message that nobody gets: there is no link to the engine."""

    def on_too_slow(self, conn: int, session: object) -> bytes:
        """A queue is full and its policy is disconnect. Returns the Close payload."""

    def on_closed(self, conn: int, session: object, cause: int) -> None:
        """A connection that was given a session has ended."""

    def on_proxied(self, conn: int, peer: str | None, client: str | None) -> bool:
        """A PROXY header has come from `peer`: the connection is that of `client`, or, None, the proxy's own.
        False = the peer may not say so, and is cut.
        """

    def on_left(self, address: str) -> None:
        """A connection has ended that was given this address by `name`, `told`."""

    def on_error(self, error: BaseException) -> None:
        """A method above raised."""

class Reactor(Replaying):
    def __init__(
        self,
        hub: Hub,
        handler: Handler,
        closes: Sequence[bytes],
        call_soon: Callable[[Callable[[], None]], object],
        *,
        max_head_bytes: int,
        max_headers: int,
        max_message_bytes: int,
        max_fragments: int,
        max_connections: int,
        max_json_depth: int,
        read_pass_bytes: int,
        read_pass_messages: int,
        read_pass_offers: int,
        handshake_seconds: float,
        message_seconds: float,
        ping_seconds: float,
        ping_jitter: float,
        pong_seconds: float,
        write_seconds: float,
        close_seconds: float,
        linger_seconds: float,
        text_ping: bool = True,
        proxy_protocol: bool = False,
        messages_per_second: int = 0,
        message_burst: int = 0,
        bytes_per_second: int = 0,
        byte_burst: int = 0,
    ) -> None: ...
    def fileno(self) -> int: ...
    def turn(self) -> None: ...
    def listen(self, fd: int, notsent_lowat_bytes: int) -> None: ...
    def accept_from(self, fd: int) -> bool: ...
    def leave_accepting(self, left: bool, *, when_full: bool) -> None: ...
    def stop_accepting(self, *, take: bool = True) -> None: ...
    def destroy(self) -> None: ...
    def advance(self, seconds: float) -> None: ...
    def report(self, error: BaseException) -> None: ...
    direct: bool
    @property
    def connections(self) -> int: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def settled(self) -> bool: ...
