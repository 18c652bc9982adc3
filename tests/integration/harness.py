"""One real worker in the test's own loop, and a client made of a plain socket that does exactly what it is told.

`running` gives a Broker and settles the accounts when the test is over. Nothing here sleeps: deadlines are reached with
`Broker.advance`, everything else with `wait_until`. Everything runs in one loop, so nothing here may block it.
"""

import asyncio
import json
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from broker.config.load import load
from broker.engine.base import Engine, Sink
from broker.gateway.authority import Hook, Tokens
from broker.gateway.opening import Authority
from broker.gateway.refusals import CAUSE_WORDS
from broker.metrics.patterns import PatternPlaces
from broker.native._connection import CAUSES, FIRST_POLICY_CAUSE_INDEX
from broker.native._counters import BUCKETS, NAMES
from broker.supervisor.listeners import open_listeners
from broker.worker import Worker
from tests.client_frames import CLOSE, PING, PONG, TEXT, frame

PATIENCE_SECONDS = 10.0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
JSON = "broker.json.v1"
GONE_WITH_CONNECTIONS = (
    "g_connections",
    "g_sessions",
    "g_subscriptions",
    "g_channels",
    "g_queued",
    "g_blocked",
    "g_slots",
)


async def wait_until(predicate: Callable[[], object], what: str = "", seconds: float = PATIENCE_SECONDS) -> None:
    """Lets the loop turn until `predicate` holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not predicate():
        assert loop.time() < deadline, f"not within {seconds} s: {what or predicate}"
        await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Enough turns of the loop for whatever should *not* happen to have happened."""
    for _ in range(count):
        await asyncio.sleep(0)


def cause_index(word: str) -> int:
    return CAUSES.index(word) if word in CAUSES else FIRST_POLICY_CAUSE_INDEX + CAUSE_WORDS.index(word)


def open_sockets() -> int:
    """File descriptors of this process that are sockets."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count


def request(
    target: str = "/ws",
    *extra: str,
    offer: str | None = None,
    origin: str | None = None,
    method: str = "GET",
    version: str = "HTTP/1.1",
    **replaced: str | None,
) -> bytes:
    """A valid upgrade with header lines added, and headers (``sec_websocket_key=``) replaced, or left out when None."""
    headers: dict[str, str | None] = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": offer,
        "Origin": origin,
    }
    names = {name.lower(): name for name in headers}
    for name, value in replaced.items():
        headers[names[name.replace("_", "-")]] = value
    lines = [
        f"{method} {target} {version}",
        *(f"{name}: {value}" for name, value in headers.items() if value is not None),
    ]
    return "\r\n".join([*lines, *extra, "", ""]).encode("latin-1")


class Answer(NamedTuple):
    """The head of an HTTP response, and its body when it has one."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


class ServerFrame(NamedTuple):
    opcode: int
    payload: bytes


class Client:
    """A client's end of one TCP connection. It reads only when asked to, so its receive window is the test's."""

    def __init__(self, sock: socket.socket) -> None:
        # Without it a frame waits for the acknowledgement of the one before, which the kernel delays by 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.input = bytearray()
        self.loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.loop.sock_sendall(self.sock, data)

    async def read_more(self) -> bool:
        """False at the end of the stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            data = await self.loop.sock_recv(self.sock, 65536)
        self.input += data
        return bool(data)

    async def read(self, size: int) -> bytes:
        while len(self.input) < size:
            assert await self.read_more(), f"the stream ended; unread: {bytes(self.input)!r}"
        data = bytes(self.input[:size])
        del self.input[:size]
        return data

    async def answer(self) -> Answer:
        """Reads an HTTP response."""
        while b"\r\n\r\n" not in self.input:
            assert await self.read_more(), f"the stream ended inside an HTTP head: {bytes(self.input)!r}"
        head = (await self.read(self.input.index(b"\r\n\r\n") + 4)).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = [(name, value.strip(" ")) for name, _, value in (field.partition(":") for field in fields)]
        lengths = [int(value) for name, value in headers if name.lower() == "content-length"]
        assert len(lengths) == (status != "101"), head
        return Answer(int(status), headers, await self.read(lengths[0]) if lengths else b"")

    async def ask(self, head: bytes) -> Answer:
        await self.send(head)
        return await self.answer()

    async def open(
        self, offer: str | None = None, target: str = "/ws", *extra: str, origin: str | None = None
    ) -> "Client":
        """A handshake that has to succeed; in the JSON format `hello` is still to be read."""
        answer = await self.ask(request(target, *extra, offer=offer, origin=origin))
        assert answer.status == 101, answer
        assert answer.one("Sec-WebSocket-Accept") == ACCEPT
        return self

    async def frame(self) -> ServerFrame:
        """One frame as the server may send it: whole, unmasked, minimal length, no reserved bit."""
        first, second = await self.read(2)
        assert first & 0xF0 == 0x80, f"FIN and reserved bits are {first >> 4:04b}"
        assert second & 0x80 == 0, "a server must not mask"
        size = second
        if second == 126:
            size = int.from_bytes(await self.read(2))
            assert size > 125
        elif second == 127:
            size = int.from_bytes(await self.read(8))
            assert size > 65535
        return ServerFrame(first & 0x0F, await self.read(size))

    async def text(self) -> str:
        opcode, payload = await self.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    async def event(self) -> dict[str, Any]:
        """The next event of the JSON format."""
        event = json.loads(await self.text())
        assert isinstance(event, dict)
        return event

    async def pong(self) -> bytes:
        opcode, payload = await self.frame()
        assert opcode == PONG, (opcode, payload)
        return payload

    def silent(self) -> bool:
        """True if nothing has arrived that was not read yet, not even an end."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self.input
        return False

    async def close_frame(self) -> tuple[int | None, str]:
        """The next frame is a Close: its code (None = empty) and reason."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE, (opcode, payload)
        assert len(payload) != 1
        return (int.from_bytes(payload[:2]), payload[2:].decode()) if payload else (None, "")

    async def closed(self) -> bytes:
        """Reads to the end of the stream, which must be an end and no reset; returns what came before it."""
        while await self.read_more():
            pass
        rest = bytes(self.input)
        self.input.clear()
        return rest

    async def was_reset(self) -> bool:
        """Reads to the end of the stream; True if that is a reset."""
        with suppress(ConnectionResetError):
            while await self.read_more():
                pass
            return False
        return True

    async def command(self, **members: object) -> None:
        await self.send(frame(TEXT, json.dumps(members).encode()))

    async def caught_up(self) -> None:
        """When this returns, the broker has handled everything sent before. Nothing else may be on its way here."""
        await self.send(frame(PING, b"caught up"))
        assert await self.pong() == b"caught up"

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Ends with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


class Broker:
    """A running worker. `expected_callback_errors` is for tests that make Python raise on purpose."""

    def __init__(self, worker: Worker, port: int) -> None:
        self.worker = worker
        self.port = port
        self.api_port = 0
        self.reactor = worker.reactor
        self.clients: list[Client] = []
        self.expected_callback_errors = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def counters(self) -> dict[str, int]:
        with memoryview(self.worker.counters) as table:
            return dict(zip(NAMES, table.cast("Q").tolist(), strict=True))

    def counter(self, name: str) -> int:
        return self.counters()[name]

    def histogram(self, name: str) -> tuple[int, int]:
        """How many values a histogram has, and their sum."""
        counters = self.counters()
        return sum(counters[f"n_{name}_{at}"] for at in range(BUCKETS)), counters[f"n_{name}_sum"]

    def advance(self, seconds: float) -> None:
        """Moves the reactor's clock, and runs the deadlines that this passes."""
        self.reactor.advance(seconds)

    def closed_by_cause(self) -> dict[str, int]:
        """How many connections ended for which cause, by word; causes nobody ended for are left out."""
        counters = self.counters()
        words = dict(enumerate(CAUSES))
        words |= {FIRST_POLICY_CAUSE_INDEX + index: word for index, word in enumerate(CAUSE_WORDS)}
        found = {
            index: counters[name]
            for index in range(FIRST_POLICY_CAUSE_INDEX * 2)
            if (name := f"n_closed_{index}") in counters
        }
        return {words.get(index, f"cause {index}"): count for index, count in found.items() if count}

    async def ended_for(self, cause: str, count: int = 1) -> None:
        """Waits until that many connections have ended, and all of them for `cause`."""
        await wait_until(lambda: sum(self.closed_by_cause().values()) >= count, f"{count} connections ended")
        assert self.closed_by_cause() == {cause: count}

    async def has_read(self, size: int) -> None:
        """Waits until the broker has read that many bytes in all."""
        await wait_until(lambda: self.counter("n_bytes_read") >= size, f"{size} bytes read")

    async def connect(self, receive_buffer: int | None = None) -> Client:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client = Client(sock)
        self.clients.append(client)
        await client.loop.sock_connect(sock, ("127.0.0.1", self.port))
        return client

    async def connect_api(self) -> Client:
        """A connection to the HTTP API of a broker that runs with `api`."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        client = Client(sock)
        self.clients.append(client)
        await client.loop.sock_connect(sock, ("127.0.0.1", self.api_port))
        return client

    async def open(
        self, offer: str | None = None, target: str = "/ws", *extra: str, origin: str | None = None
    ) -> Client:
        """A client whose handshake has succeeded."""
        return await (await self.connect()).open(offer, target, *extra, origin=origin)

    async def open_json(self, *channels: str) -> Client:
        """A client of the JSON format that has read its hello."""
        client = await self.open(", ".join([JSON, *channels]))
        assert (await client.event())["type"] == "hello"
        return client

    def leave(self, clients: Iterable[Client]) -> None:
        for client in clients:
            client.close()

    def check_ledger(self) -> None:
        """Every delivery that was due is written, dropped by a policy, discarded by a close, or waiting."""
        c = self.counters()
        dropped = c["n_dropped_oldest"] + c["n_dropped_newest"] + c["n_dropped_latest"] + c["n_put_off"]
        assert c["n_offered"] == c["n_written"] + dropped + c["n_discarded"] + c["g_queued"], c


async def _settle(broker: Broker) -> None:
    """Everybody leaves: what is still there afterwards has leaked."""
    broker.check_ledger()
    broker.leave(broker.clients)
    await wait_until(lambda: broker.reactor.connections == 0, "connections left by their clients")
    broker.check_ledger()
    counters = broker.counters()
    assert {name: counters[name] for name in GONE_WITH_CONNECTIONS if counters[name]} == {}
    assert counters["n_callback_errors"] == broker.expected_callback_errors
    causes = broker.closed_by_cause()
    assert sum(causes.values()) == counters["n_accepted"], f"each end has one cause: {causes}"
    assert "unknown" not in causes


@asynccontextmanager
async def running(
    *,
    authority: Authority | None = None,
    tokens: Tokens | None = None,
    hook: Hook | None = None,
    engine: Callable[[Sink], Engine] | None = None,
    alone: bool = True,
    api: bool = False,
    **overrides: object,
) -> AsyncIterator[Broker]:
    """A worker with --dev; `limits_ping_seconds=1` stands for limits.ping_seconds, `channels={...}` for the table.

    Not `alone`: others open sockets meanwhile, and whoever runs them counts those that are left.
    """
    settings: dict[str, object] = {"server.dev": True}
    for name, value in overrides.items():
        section, _, key = name.partition("_")
        if section == "channels":
            settings |= {f"channels.{pattern}": policy for pattern, policy in dict(value).items()}  # type: ignore[call-overload]
        else:
            settings[f"{section}.{key}"] = value
    sockets = open_sockets()
    fd_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    listeners = await asyncio.to_thread(open_listeners, "127.0.0.1", 0, 4096)  # it resolves, which blocks
    for_api = (await asyncio.to_thread(open_listeners, "127.0.0.1", 0, 4096, shared=True))[0] if api else None
    config = load(None, settings)
    broker = Broker(
        Worker(
            config,
            listeners,
            authority=authority,
            tokens=tokens,
            hook=hook,
            engine=engine,
            api=for_api,
            pattern_places=PatternPlaces().assign(config.channels),
        ),
        listeners[0].getsockname()[1],
    )
    broker.worker.start()
    if for_api is not None and broker.worker.api is not None:
        broker.api_port = for_api.getsockname()[1]
        await broker.worker.api.start()
    try:
        yield broker
        await _settle(broker)
    finally:
        broker.leave(broker.clients)
        hasten = asyncio.Event()
        hasten.set()
        await broker.worker.drain(hasten)
        resource.setrlimit(resource.RLIMIT_NOFILE, fd_limit)  # the worker has raised it
    assert broker.counter("g_frames") == 0
    assert broker.worker.hub.memory == 0
    assert open_sockets() == sockets or not alone
