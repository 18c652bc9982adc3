"""A subscriber that comes back by itself: connects, subscribes, resumes by position, backs off by the close code.

The command `subscribe` is its user: it gets lines, and never sees a connection. The library is `websockets`: the only
well-kept client that speaks asyncio and is typed; aiohttp's would bring a whole HTTP stack.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from broker import __version__
from broker.cli.api import unreachable
from broker.cli.output import cell
from broker.cli.target import Door, is_loopback_url
from broker.protocol.close_codes import retry_class

FORMAT = "broker.json.v1"
# RFC 6455 section 7.2.3 suggests up to 5 s at first; half a minute at most, or a person takes it for dead.
FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 30.0
_NOW_SECONDS = 0.25
_OPEN_SECONDS = 10.0
# Between two looks at the token's file, in the last minute before the old one expires (auth.expiring_seconds).
_LOOK_SECONDS = 1.0
# Above any limits.max_message_bytes that makes sense; without a bound a wrong server could fill the memory.
_MOST_EVENT_BYTES = 64 << 20
_PASSING = frozenset({"engine_unavailable", "rate_limited", "overloaded", "internal_error"})
_MOST_REASON = 300
_MOST_WAIT_SECONDS = 300.0
# The process ends, another one is there: `in_ms` has the pause in it, backing off begins if that fails.
_SERVICE_RESTART = 1012


class Event(msgspec.Struct, gc=False):
    """What of any event matters here; the rest is passed on unread."""

    type: str
    channel: str | None = None
    data: msgspec.Raw = msgspec.Raw()
    text: str | None = None
    base64: str | None = None
    position: str | None = None
    missed: int | None = None
    id: str | int | None = None
    channels: list[dict[str, Any]] = []
    code: str = ""
    message: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """What to subscribe to, and from where the first time."""

    channels: Sequence[str]
    since: str | None = None
    last: int | None = None


class GiveUpError(Exception):
    """Nothing that waiting would change; the text is one line for people."""


class _AgainError(Exception):
    """The connection is over; `at_least` seconds before the next one, `now`: without backing off."""

    def __init__(self, line: str, at_least: float = 0.0, now: bool = False) -> None:
        super().__init__(line)
        self.at_least = at_least
        self.now = now


class Listener:
    """`on_event(event, frame)` gets what belongs to the channels: message, gap, join, leave. True from it = enough.

    `say` gets lines for people; `wait` sleeps.
    """

    def __init__(
        self,
        door: Door,
        wanted: Wanted,
        on_event: Callable[[Event, bytes], bool],
        say: Callable[[str], None],
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._door = door
        self._channels = list(wanted.channels)
        self._wanted = wanted
        self._on_event = on_event
        self._say = say
        self._wait = wait
        self._positions: dict[str, str] = {}
        self._decode = msgspec.json.Decoder(Event).decode
        self._failures = 0
        self._been_there = False
        # Channels that were heard before; a token may give others later.
        self._heard: set[str] = set()
        self._token: str | None = None

    async def run(self) -> None:
        """Until on_event has had enough. Raises GiveUpError."""
        while True:
            try:
                await self._once()
                return
            except _AgainError as why:
                self._failures += 1
                pause = max(_pause(self._failures, why.now), why.at_least * (1 + random.random() / 10))
                self._say(f"{why}; comes back in {pause:.1f} s")
            await self._wait(pause)

    async def _once(self) -> None:
        self._token = self._door.renewed() or self._token or self._door.token()
        connection = await self._connect()
        renewing = None
        try:
            await connection.send(self._subscribe(), text=True)
            while True:
                event, frame = self._read(await connection.recv(decode=False))
                if event.type == "expiring" and self._door.token_file is not None:
                    renewing = asyncio.ensure_future(self._renew(connection))
                elif self._take(event, frame):
                    return
        except ConnectionClosed as error:
            raise _why_closed(error) from None
        finally:
            if renewing is not None:
                renewing.cancel()
            await connection.close()

    async def _connect(self) -> ClientConnection:
        url = self._door.url
        try:
            return await connect(
                url,
                subprotocols=[Subprotocol(FORMAT)],
                additional_headers={} if self._token is None else {"Authorization": f"Bearer {self._token}"},
                user_agent_header=f"ws-broker/{__version__}",
                compression=None,  # the broker speaks no extension
                open_timeout=_OPEN_SECONDS,
                max_size=_MOST_EVENT_BYTES,
                # A proxy for the internet (HTTPS_PROXY) knows nothing of this machine's own ports.
                proxy=None if is_loopback_url(url) else True,
            )
        except InvalidStatus as error:
            line, at_least = _refusal(url, error)
            if at_least is not None:
                raise _AgainError(line, at_least) from None
            raise GiveUpError(line) from None
        except InvalidHandshake as error:
            line = (
                f"{url}: answers, but not as the broker's WebSocket does: {cell(str(error))}; see --url or WSBROKER_URL"
            )
        except TimeoutError:
            line = f"{url}: no connection within {_OPEN_SECONDS:g} seconds"
        except OSError as error:
            line = unreachable(url, error, "--url or WSBROKER_URL")
        # Who has never been there is at the wrong address; who has comes back.
        raise (_AgainError if self._been_there else GiveUpError)(line) from None

    def _subscribe(self) -> bytes:
        """One command restores everything."""
        items = []
        for channel in self._channels:
            item: dict[str, object] = {"channel": channel}
            if channel in self._positions:
                item["since"] = self._positions[channel]
            elif not self._been_there:
                item |= {key: value for key in ("since", "last") if (value := getattr(self._wanted, key)) is not None}
            items.append(item)
        return msgspec.json.encode({"type": "subscribe", "channel": items, "id": "subscribe"})

    def _read(self, frame: bytes) -> tuple[Event, bytes]:
        try:
            return self._decode(frame), frame
        except msgspec.MsgspecError:
            raise GiveUpError(f"{self._door.url}: says what is no event of {FORMAT}; is it a broker?") from None

    def _take(self, event: Event, frame: bytes) -> bool:
        """True = on_event has had enough."""
        if event.type in ("message", "gap", "join", "leave"):
            enough = self._on_event(event, frame)
            if event.position is not None and event.channel is not None:
                self._positions[event.channel] = event.position
            return enough
        if event.type == "subscribed":
            self._subscribed(event)
        elif event.type == "unsubscribed":
            self._unsubscribed(event)
        elif event.type == "error":
            self._error(event)
        return False

    def _subscribed(self, event: Event) -> None:
        for entry in event.channels:
            name, error = entry.get("channel"), entry.get("error")
            if error is not None:
                # An entry for what is no name has no name.
                name = self._channels[entry["index"]] if name is None and entry["index"] < len(self._channels) else name
                line = f"{self._door.url}: {cell(str(name))}: {cell(str(error.get('message')))}"
                raise _AgainError(line) if error.get("code") in _PASSING else GiveUpError(line)
            if entry.get("recovered") is False and (name in self._heard or self._wanted.since is not None):
                self._say(f"{cell(str(name))}: not everything since then is kept; messages are missing here")
            elif "recovered" not in entry and name in self._heard:
                self._say(f"{cell(str(name))}: keeps no history; what was published meanwhile is missing here")
            if name is not None:
                self._heard.add(name)
                if entry.get("position") is not None:
                    self._positions[name] = entry["position"]
        self._been_there = True
        self._failures = 0

    def _unsubscribed(self, event: Event) -> None:
        gone = {entry.get("channel") for entry in event.channels}
        self._channels = [channel for channel in self._channels if channel not in gone]
        if not self._channels:
            raise GiveUpError(f"{self._door.url}: the broker has ended the subscription")
        self._say(f"the broker has ended the subscription of {cell(', '.join(map(str, gone)))}")

    async def _renew(self, connection: ClientConnection) -> None:
        """As soon as another token stands in the file: whoever writes it does so at a time of their own."""
        while (token := self._door.renewed()) in (None, self._token):
            await self._wait(_LOOK_SECONDS)
        self._token = token
        with suppress(ConnectionClosed):
            await connection.send(msgspec.json.encode({"type": "refresh", "token": token, "id": "refresh"}), text=True)

    def _error(self, event: Event) -> None:
        line = f"{self._door.url}: {cell(event.message or event.code)}"
        if event.id == "subscribe":
            raise _AgainError(line) if event.code in _PASSING else GiveUpError(line)
        self._say(line)


def _pause(failures: int, now: bool) -> float:
    """Jittered: many that were closed together do not come back together. `now` holds once, not in a loop."""
    if now and failures == 1:
        return random.random() * _NOW_SECONDS
    most = min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10))
    return most * (0.5 + random.random() / 2)


def _why_closed(error: ConnectionClosed) -> Exception:
    """By the number alone; the reason says more to people, and how long to wait at least."""
    if error.rcvd is None:
        return _AgainError("the connection was lost")
    code, reason = error.rcvd.code, error.rcvd.reason
    word, at_least, text = read_reason(reason)
    line = f"closed with {code} {cell(f'{word}: {text}' if word else reason)[:_MOST_REASON]}".rstrip(": ")
    retry = retry_class(code)
    if retry == "never":
        return GiveUpError(line)
    return _AgainError(line, at_least, now=retry == "now" or code == _SERVICE_RESTART)


def read_reason(reason: str) -> tuple[str, float, str]:
    """`code=<word>;in_ms=<n>;<text>` → word, seconds, text; of anything else nothing is known."""
    if not reason.startswith("code="):
        return "", 0.0, reason
    word, _, text = reason.removeprefix("code=").partition(";")
    seconds = 0.0
    if text.startswith("in_ms="):
        number, _, text = text.removeprefix("in_ms=").partition(";")
        if number.isascii() and number.isdigit():
            seconds = min(int(number) / 1000, _MOST_WAIT_SECONDS)
    return word, seconds, text


def _refusal(url: str, error: InvalidStatus) -> tuple[str, float | None]:
    """The line, and seconds to wait if the same request may succeed later."""
    response = error.response
    status = response.status_code
    detail = ""
    if "json" in response.headers.get("Content-Type", ""):
        try:
            problem = msgspec.json.decode(response.body or b"")
            detail = str(problem.get("detail") or problem.get("title") or "")
        except (msgspec.MsgspecError, AttributeError):
            pass
    if detail:
        line = f"{url}: refused with {status}: {cell(detail)[:_MOST_REASON]}"
        if status == 401:
            line += "; give a token with --token-file or WSBROKER_TOKEN (`ws-broker token` makes one)"
    else:
        line = (
            f"{url}: answers {status}, and is no WebSocket of the broker: a proxy in between, or another path than /ws?"
        )
    if status not in (429, 502, 503, 504):
        return line, None
    after = response.headers.get("Retry-After", "")
    return line, min(float(after), _MOST_WAIT_SECONDS) if after.isascii() and after.isdigit() else 0.0
