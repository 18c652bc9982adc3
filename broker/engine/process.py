"""The engine process: one for all workers of a host. Answers joins, sequences, passes on.

The native `Exchange` carries live messages from link to link; here are the verbs of `wire`, in the order in which they
came. Run by the supervisor's child with a listening Unix socket; it ends when it is told to.
"""

import asyncio
import socket
import time
from collections.abc import Callable

from broker.config.schema import Config
from broker.engine import wire
from broker.engine.base import Holdings, PresenceEvent, Publication, Receipt
from broker.engine.link import check_peer
from broker.engine.questions import Questions
from broker.engine.ring import position_of
from broker.engine.roll import Clock, Roll
from broker.engine.snapshot import open_history, save_history
from broker.log import get_logger
from broker.native._exchange import Exchange

log = get_logger(__name__)

BEAT_SECONDS = 0.05
ACCEPT_PAUSE_SECONDS = 0.2


class EngineProcess:
    """The exchange's handler. `listener`: a listening, non-blocking Unix socket. `clock`: of presence."""

    def __init__(
        self,
        listener: socket.socket,
        config: Config,
        clock: Clock | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._sockets: dict[int, socket.socket] = {}
        self._accepts: asyncio.TimerHandle | None = None
        # Links that have said HELLO, each with a number that is never given again: sessions of presence belong to it.
        self._owners: dict[int, int] = {}
        self._links = 0
        self.exchange = Exchange(self, self._loop.call_soon, config.limits.link_output_bytes)
        self._questions = Questions(self.exchange, lambda: list(self._owners), self._loop.call_later)
        self._roll = Roll(config.limits, self._tell_members, clock)
        self._config = config
        self.history = open_history(config)
        # Channels with history that a worker has joined.
        self._kept: set[bytes] = set()

    def start(self) -> None:
        self._loop.add_reader(self.exchange.fileno(), self.exchange.turn)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        if self._accepts is not None:
            self._accepts.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._loop.remove_reader(self.exchange.fileno())
        self.exchange.destroy()
        self._roll.close()
        save_history(self._config, self.history)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor or memory left: the listener would be reported again at once
                log.error("no link is accepted for a moment", seconds=ACCEPT_PAUSE_SECONDS, error=str(error))
                self._loop.remove_reader(self._listener.fileno())
                self._accepts = self._loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again)
                return
            try:
                check_peer(sock)
                sock.setblocking(False)
                self._sockets[self.exchange.attach(sock.fileno())] = sock
            except (OSError, ValueError) as error:
                log.error("link was refused", error=str(error))
                sock.close()

    def _accept_again(self) -> None:
        self._loop.add_reader(self._listener.fileno(), self._accept)

    # What the exchange calls (ExchangeHandler).

    def on_call(self, port: int, verb: int, token: int, name: bytes, payload: bytes) -> None:
        if verb == wire.Verb.HELLO:
            self._hello(port, token, payload)
            return
        if port not in self._owners:
            raise ValueError("a link that has not said HELLO")
        if verb == wire.Verb.JOIN:
            self.exchange.want(port, name)
            self.exchange.reply(port, token, wire.encode(self._join(name, wire.decode_join(payload))), False)
        elif verb == wire.Verb.LEAVE:
            self.exchange.unwant(port, name)
            self._forget(name)
        elif verb == wire.Verb.PUBLISH:
            receipt = self._publish(port, wire.decode_publication(payload))
            self.exchange.reply(port, token, wire.encode(receipt), False)
        elif verb == wire.Verb.ASK_ALL:
            self._questions.ask(port, token, payload)
        elif verb == wire.Verb.ENTER:
            self._roll.enter(name, wire.decode_member(payload), self._owners[port])
        elif verb == wire.Verb.EXIT:
            self._roll.exit(name, wire.decode_exit(payload).session, self._owners[port])
        elif verb == wire.Verb.PRESENT:
            self.exchange.reply(port, token, wire.encode(self._roll.present(name)), False)
        else:
            raise ValueError(f"a worker called with verb {verb}, which this version does not know")

    def _join(self, name: bytes, join: wire.Join) -> wire.Window:
        if join.history is None:
            return wire.Window(self.history.epoch, 0)
        self._kept.add(name)
        ring = self.history.join(name, join.history)
        known = join.after if join.epoch == ring.epoch else ring.start
        window = ring.after(max(known, ring.start), len(ring), ring.cost)
        return wire.Window(ring.epoch, ring.head, tuple(window))

    def holdings(self) -> Holdings:
        return self.history.holdings(self._roll.places)

    def _forget(self, name: bytes) -> None:
        """Nobody wants the channel any more: its ring may go when room is needed."""
        if name in self._kept and not self.exchange.wanted(name):
            self._kept.discard(name)
            self.history.leave(name)

    def _publish(self, port: int, publication: Publication) -> Receipt:
        """One with history, or with an id under which it is published once."""
        history, message_id = self.history, publication.message_id
        if message_id is not None:
            first = history.first_receipt(publication.channel, message_id)
            if first is not None:
                return first
        receipt = Receipt()
        time_ms = int(time.time() * 1000)
        if publication.history is not None:
            publication = history.add(publication)
            receipt = Receipt(None, position_of(publication.epoch, publication.offset))
            time_ms = publication.time_ms
        self.exchange.publish(
            publication.channel,
            publication.kind,
            publication.payload,
            publication.extra,
            port,
            publication.conn,
            publication.echo,
            publication.offset,
            time_ms,
        )
        if message_id is not None:
            history.remember(publication.channel, message_id, receipt)
        return receipt

    def _hello(self, port: int, token: int, payload: bytes) -> None:
        if port in self._owners:
            raise ValueError("a link that has said HELLO already")
        hello = wire.decode_hello(payload)
        self.exchange.reply(port, token, wire.encode(wire.Welcome(wire.VERSION, self.history.epoch)), False)
        if hello.version == wire.VERSION:
            self._links += 1
            self._owners[port] = self._links
            log.info("worker is linked", worker_pid=hello.pid)
        else:
            log.error("worker speaks another version", worker_pid=hello.pid, its=hello.version, ours=wire.VERSION)

    def on_reply(self, port: int, token: int, payload: bytes, failed: bool) -> None:
        self._questions.answered(port, token, payload, failed)

    def on_closed(self, port: int) -> None:
        self._questions.gone(port)
        for name in list(self._kept):
            self._forget(name)
        owner = self._owners.pop(port, None)
        if owner is not None:
            self._roll.owner_gone(owner)
        self._sockets.pop(port).close()

    def _tell_members(self, channel: bytes, event: PresenceEvent) -> None:
        self.exchange.tell_wanting(wire.Verb.MEMBERS, channel, wire.encode(event))

    def on_error(self, error: BaseException) -> None:
        log.error("link of a worker failed", exc_info=error)


async def serve(
    listener: socket.socket, config: Config, beat: Callable[[EngineProcess], None], ready: Callable[[], None]
) -> None:
    """Serves links until it is cancelled. `beat` says that the loop turns; `ready` that workers may come."""
    engine = EngineProcess(listener, config)
    engine.start()
    beat(engine)
    ready()
    try:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            beat(engine)
    finally:
        engine.stop()
