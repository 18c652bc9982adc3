"""The engine process: one for all workers of a host. Answers joins, sequences, passes on.

The native `Exchange` carries live messages from link to link; here are the verbs of `wire`, in the order in which they
came. Run by the supervisor's child with a listening Unix socket; it ends when it is told to.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable

from broker.engine import wire
from broker.engine.base import Joined, Receipt
from broker.engine.link import check_peer
from broker.native._exchange import Exchange

log = logging.getLogger("broker.engine")

# What may wait for one worker before messages are lost for it: 16 MiB are 250 of the largest of the default
# configuration, and some 10 ms of a Unix socket.
MOST_OUTPUT_BYTES = 16 * 1024 * 1024
BEAT_SECONDS = 0.05


class EngineProcess:
    """The exchange's handler. `listener`: a listening, non-blocking Unix socket."""

    def __init__(self, listener: socket.socket, most_output_bytes: int = MOST_OUTPUT_BYTES) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._sockets: dict[int, socket.socket] = {}
        self._greeted: set[int] = set()
        self.exchange = Exchange(self, self._loop.call_soon, most_output_bytes)
        self.epoch = secrets.token_hex(3)

    def start(self) -> None:
        self._loop.add_reader(self.exchange.fileno(), self.exchange.turn)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._loop.remove_reader(self.exchange.fileno())
        self.exchange.destroy()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.error("no link accepted: %s", error)
                return
            try:
                check_peer(sock)
                sock.setblocking(False)
                self._sockets[self.exchange.attach(sock.fileno())] = sock
            except (OSError, ValueError) as error:
                log.error("a link was refused: %s", error)
                sock.close()

    # What the exchange calls (ExchangeHandler).

    def on_call(self, port: int, verb: int, token: int, name: bytes, payload: bytes) -> None:
        if verb == wire.Verb.HELLO:
            self._hello(port, token, payload)
            return
        if port not in self._greeted:
            raise ValueError("a link that has not said HELLO")
        if verb == wire.Verb.JOIN:
            wire.decode_join(payload)
            self.exchange.want(port, name)
            self.exchange.reply(port, token, wire.encode(Joined(epoch=self.epoch)), False)
        elif verb == wire.Verb.LEAVE:
            self.exchange.unwant(port, name)
        elif verb == wire.Verb.PUBLISH:
            publication = wire.decode_publication(payload)
            self.exchange.publish(
                name,
                publication.kind,
                publication.payload,
                publication.extra,
                port,
                publication.conn,
                publication.echo,
                0,
                0,
            )
            self.exchange.reply(port, token, wire.encode(Receipt()), False)
        else:
            raise ValueError(f"a worker called with verb {verb}, which this version does not know")

    def _hello(self, port: int, token: int, payload: bytes) -> None:
        hello = wire.decode_hello(payload)
        self.exchange.reply(port, token, wire.encode(wire.Welcome(wire.VERSION, self.epoch)), False)
        if hello.version == wire.VERSION:
            self._greeted.add(port)
            log.info("worker %d (process %d) is linked", hello.slot, hello.pid)
        else:
            log.error("worker %d speaks version %d of the link, not %d", hello.slot, hello.version, wire.VERSION)

    def on_reply(self, port: int, token: int, payload: bytes, failed: bool) -> None:
        raise ValueError("an answer to what was never asked")

    def on_closed(self, port: int) -> None:
        self._greeted.discard(port)
        self._sockets.pop(port).close()

    def on_error(self, error: BaseException) -> None:
        log.error("a link of the engine failed", exc_info=error)


async def serve(listener: socket.socket, beat: Callable[[], None], ready: Callable[[], None]) -> None:
    """Serves links until it is cancelled. `beat` says that the loop turns; `ready` that workers may come."""
    engine = EngineProcess(listener)
    engine.start()
    beat()
    ready()
    try:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            beat()
    finally:
        engine.stop()
