"""The engine of a worker that is not alone: asks the engine process over a Unix socket.

The native core (`_linked`) carries raw live messages without Python. Here are the link's life (connect, greet, break,
again), the publishes of the JSON format, which wait for their acknowledgement, and the questions of `wire`.

A link that has something under way and hears nothing for `link_silence_seconds` counts as broken: a hung engine must
not hold publishers for ever. Whatever was under way then has an unknown outcome.
"""

import asyncio
import os
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable

from broker.config.schema import Limits
from broker.engine import wire
from broker.engine.allowance import Allowance
from broker.engine.base import EngineError, HistoryRule, Holdings, Joined, Member, Present, Publication, Receipt, Sink
from broker.log import get_logger
from broker.native._linked import Linked

log = get_logger(__name__)

# What a kept publication adds to its payload on the way: its channel, its sender, and the numbers.
ENTRY_BYTES = 256
# Publishes that waited for credit and go at one ack, which may take a quarter of a window too much. One at a time would
# be 2 MiB of raw messages for each of them.
LET_THROUGH = 16
CONNECT_FIRST_SECONDS = 0.02
CONNECT_MOST_SECONDS = 1.0
TICK_SECONDS = 0.25

_RECEIPT = Receipt()


class LinkEngine:
    """`address`: of the engine's Unix socket, an abstract one with its leading NUL. `slot`: of this worker."""

    direct = True
    local = False

    def __init__(
        self,
        sink: Sink,
        address: str,
        slot: int,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._address = address
        self._slot = slot
        self._silence_seconds = limits.link_silence_seconds
        self._late_seconds = max(self._silence_seconds / 2, 2 * TICK_SECONDS)
        self._window_bytes = limits.link_window_bytes
        # What joins under way may bring back, as far as their rules let it: the engine gives up a link that waits with
        # four times link_output_bytes, and all that a crowd asks of an empty worker would be more than that.
        self._windows_bytes = limits.link_output_bytes
        self._clock = clock
        self._native: Linked
        self._loop: asyncio.AbstractEventLoop
        self._socket: socket.socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tick: asyncio.TimerHandle | None = None
        self._broken = asyncio.Event()
        self._first = asyncio.Event()
        self._up = False
        self._links = 0
        # When something last came over the link, how much that was by then, and when that was looked at.
        self._heard = 0.0
        self._heard_of = 0
        self._looked = 0.0
        self._token = 0
        self._windows = Allowance(self._windows_bytes)
        # The credit of publishes that go as calls: as much again.
        self._kept = Allowance(self._window_bytes)
        self._calls: dict[int, tuple[asyncio.Future[bytes], wire.Verb, bytes, str]] = {}
        self._unacked: deque[tuple[int, asyncio.Future[Receipt]]] = deque()
        self._without_credit: deque[asyncio.Future[None]] = deque()
        # Questions of other workers that are being answered.
        self._answering: set[asyncio.Task[None]] = set()
        self.epoch = ""

    # Its life.

    def start(self, native: Linked) -> None:
        """Begins to connect. Inside a running loop, before the first connection is accepted."""
        self._native = native
        self._loop = asyncio.get_running_loop()
        native.expect_link(self, self._window_bytes)
        self._keeper = self._loop.create_task(self._keep_linked())
        self._tick = self._loop.call_later(TICK_SECONDS, self._on_tick)

    async def usable(self) -> None:
        await self._first.wait()

    async def stop(self) -> None:
        """Ends the link."""
        if self._tick is not None:
            self._tick.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for answering in self._answering:
            answering.cancel()
        self._up = False
        self._native.detach_link()
        self._close()

    @property
    def up(self) -> bool:
        """Whether a publish can be sequenced now."""
        return self._up

    async def _keep_linked(self) -> None:
        pause = CONNECT_FIRST_SECONDS
        while True:
            try:
                await self._connect()
            except (OSError, EngineError, ValueError) as error:
                log.warning("no link to the engine", error=str(error))
                self._native.detach_link()
                self._close()
                await asyncio.sleep(pause * random.uniform(0.5, 1))
                pause = min(CONNECT_MOST_SECONDS, 2 * pause)
                continue
            pause = CONNECT_FIRST_SECONDS
            self._links += 1
            self._up = True
            self._first.set()
            log.info("link to the engine is up", times=self._links)
            for channel, member in self._sink.members():  # before anything that others would miss them in
                self.enter(channel, member)
            self._sink.linked(self._links > 1)
            await self._broken.wait()
            self._close()

    async def _connect(self) -> None:
        """Connects and greets. Raises OSError, EngineError (no answer), ValueError (not our engine)."""
        self._broken.clear()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = sock
        sock.setblocking(False)
        await self._loop.sock_connect(sock, self._address)
        check_peer(sock)
        self._native.attach_link(sock.fileno())
        hello = wire.Hello(wire.VERSION, self._slot, os.getpid())
        async with asyncio.timeout(self._silence_seconds):
            welcome = wire.decode_welcome(await self._ask(wire.Verb.HELLO, b"", hello, "engine_unavailable"))
        if welcome.version != wire.VERSION:
            raise ValueError(f"the engine speaks version {welcome.version} of the link, this worker {wire.VERSION}")
        if not self._native.linked:  # it broke behind the answer, and nobody will say so again
            raise EngineError("engine_unavailable")
        self.epoch = welcome.epoch

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _on_tick(self) -> None:
        self._tick = self._loop.call_later(TICK_SECONDS, self._on_tick)
        self.check_silence()

    def check_silence(self) -> None:
        """Gives up a link that owes an answer and says nothing. Called regularly: a call that comes much too late tells
        that we stood still ourselves, and what was said meanwhile has yet to be read.
        """
        now, heard_of = self._clock(), self._native.link_heard
        waits = self._calls or self._native.link_under_way
        if not waits or heard_of != self._heard_of or now - self._looked > self._late_seconds:
            self._heard, self._heard_of = now, heard_of
        elif self._native.linked and now - self._heard > self._silence_seconds:
            log.error("engine is silent and its link is given up", seconds=self._silence_seconds)
            self._native.detach_link()
        self._looked = now

    # Verbs.

    def publish(self, publication: Publication) -> Receipt | Awaitable[Receipt]:
        if not self._up:
            raise EngineError("engine_unavailable")
        if publication.history is not None or publication.message_id is not None:
            return self._publish_kept(publication)
        if self._without_credit or not self._native.link_has_credit:
            return self._publish_with_credit(publication)
        return self._send(publication)

    def _send(self, publication: Publication) -> Awaitable[Receipt]:
        number = self._native.link_publish(
            publication.channel,
            publication.kind,
            publication.payload,
            publication.extra,
            publication.conn,
            publication.echo,
        )
        if number == 0:
            raise EngineError("engine_unavailable")
        receipt: asyncio.Future[Receipt] = self._loop.create_future()
        if not self._unacked:
            self._native.link_wait(True)
        self._unacked.append((number, receipt))
        return receipt

    async def _publish_with_credit(self, publication: Publication) -> Receipt:
        """First come, first served: whoever waits is let through in order, as acknowledgements come."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._without_credit.append(turn)
        self._native.link_wait(True)
        try:
            await turn
        finally:
            if not turn.done() or turn.cancelled():
                self._without_credit = deque(other for other in self._without_credit if other is not turn)
        return await self._send(publication)

    async def _publish_kept(self, publication: Publication) -> Receipt:
        size = min(len(publication.payload) + len(publication.extra) + ENTRY_BYTES, self._window_bytes)
        await self._kept.take(size)
        try:
            self._native.link_count(False)
            answer = await self._ask(wire.Verb.PUBLISH, publication.channel, publication, "outcome_unknown")
            self._native.link_count(True)
            return wire.decode_receipt(answer)
        finally:
            self._kept.give_back(size)

    async def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        if history is None:
            return joined_of(await self._ask(wire.Verb.JOIN, channel, wire.Join(history), "engine_unavailable"))
        size = min(history.size + ENTRY_BYTES * history.count, self._windows_bytes)
        await self._windows.take(size)
        try:
            join = wire.Join(history, *self._sink.kept(channel))
            return joined_of(await self._ask(wire.Verb.JOIN, channel, join, "engine_unavailable"))
        finally:
            self._windows.give_back(size)

    def leave(self, channel: bytes) -> None:
        self._native.link_call(wire.Verb.LEAVE, 0, channel, b"")

    def enter(self, channel: bytes, member: Member) -> None:
        # Without a link it is not lost: whoever is here is entered again on the next one.
        self._native.link_call(wire.Verb.ENTER, 0, channel, wire.encode(member))

    def exit(self, channel: bytes, session: str) -> None:
        self._native.link_call(wire.Verb.EXIT, 0, channel, wire.encode(wire.Exit(session)))

    async def presence(self, channel: bytes) -> Present:
        return wire.decode_present(await self._ask(wire.Verb.PRESENT, channel, None, "engine_unavailable"))

    def holdings(self) -> Holdings | None:
        return None

    async def ask_all(self, question: bytes) -> list[bytes]:
        return wire.decode_answers(await self._ask(wire.Verb.ASK_ALL, b"", question, "engine_unavailable"))

    async def _ask(self, verb: wire.Verb, name: bytes, payload: object, if_lost: str) -> bytes:
        """`if_lost`: the word of the EngineError if the link breaks before the answer."""
        self._token += 1
        token = self._token
        answer: asyncio.Future[bytes] = self._loop.create_future()
        if not self._native.link_call(verb, token, name, wire.encode(payload)):
            raise EngineError("engine_unavailable")
        self._calls[token] = (answer, verb, name, if_lost)
        try:
            return await answer
        finally:
            self._calls.pop(token, None)

    # What the native core calls (LinkHandler).

    def on_sequenced(
        self, name: bytes, kind: int, payload: bytes, extra: bytes, conn: int, echo: bool, offset: int, time_ms: int
    ) -> None:
        self._sink.deliver(
            Publication(name, kind, payload, extra, conn, echo, offset=offset, epoch=self.epoch, time_ms=time_ms)
        )

    def on_acked(self, count: int) -> None:
        unacked = self._unacked
        while unacked and unacked[0][0] <= count:
            _, receipt = unacked.popleft()
            if not receipt.done():
                receipt.set_result(_RECEIPT)
        let_through = 0
        while self._without_credit and self._native.link_has_credit and let_through < LET_THROUGH:
            turn = self._without_credit.popleft()
            if not turn.done():
                turn.set_result(None)
                let_through += 1  # they publish in this order; the next ack lets the next ones through
        if not unacked and not self._without_credit:
            self._native.link_wait(False)

    def on_missed(self, name: bytes, number: int, with_offset: bool) -> None:
        self._sink.missed(name, None if with_offset else number)

    def on_call(self, verb: int, token: int, name: bytes, payload: bytes) -> None:
        if verb == wire.Verb.MEMBERS:
            self._sink.presence(name, wire.decode_event(payload))
            return
        if verb == wire.Verb.QUESTION:
            answering = self._loop.create_task(self._answer(token, wire.decode_bytes(payload)))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
            return
        raise ValueError(f"the engine called with verb {verb}, which this version does not know")

    async def _answer(self, token: int, question: bytes) -> None:
        try:
            answer, failed = wire.encode(await self._sink.answer(question)), False
        except Exception:
            log.exception("question of another worker failed")
            answer, failed = b"internal_error", True
        self._native.link_reply(token, answer, failed)

    def on_reply(self, token: int, payload: bytes, failed: bool) -> None:
        call = self._calls.get(token)
        if call is None or call[0].done():
            return  # whoever asked is gone
        answer, verb, name, _ = call
        if failed:
            answer.set_exception(EngineError(payload.decode()))
            return
        answer.set_result(payload)
        if verb == wire.Verb.JOIN:
            self._sink.joined(name, joined_of(payload))

    def on_down(self, unknown: list[int]) -> None:
        was_up, self._up = self._up, False
        unacked, self._unacked = self._unacked, deque()
        calls, self._calls = self._calls, {}
        waiting, self._without_credit = self._without_credit, deque()
        for _, receipt in unacked:
            if not receipt.done():
                receipt.set_exception(EngineError("outcome_unknown"))
        for answer, _, _, word in calls.values():
            if not answer.done():
                answer.set_exception(EngineError(word))
        for turn in waiting:
            if not turn.done():
                turn.set_exception(EngineError("engine_unavailable"))
        self._broken.set()
        if was_up:
            log.error("link to the engine is lost")
        if unknown:  # also of a link that never came up: raw messages went onto it while it was greeted
            self._sink.outcome_unknown(unknown)


def joined_of(payload: bytes) -> Joined:
    window = wire.decode_window(payload)
    return Joined(window.epoch, window.head, window.window)


def check_peer(sock: socket.socket) -> None:
    """Raises PermissionError unless the other end of a Unix socket is a process of this user: anybody on the machine
    can bind or reach an abstract address (unix(7), SO_PEERCRED).
    """
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != os.geteuid():
        raise PermissionError(f"the other end of the link belongs to user {uid}, not to ours")
