"""client.js in Chromium while the broker is killed, drained and restarted under it: the protocol's acceptance test."""

import json
import os
import signal
import socket as sockets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.process.command import Served, serving
from tests.process.supervised import workers

from .conftest import Broker, show_page

OpenTab = Callable[[], Page]

# Playwright's synchronous interface keeps a loop running here that nobody else uses.
pytestmark = pytest.mark.blocks_loop

# Everything the client tells, in order, in window.told; messages in window.heard.
START = """async ([script, url, options]) => {
  const { connect } = await import(script);
  Object.assign(window, {heard: [], told: [], states: [], tokens: [...options.tokens ?? []]});
  const note = event => told.push(event);
  const token = options.tokens && (async () => tokens.length > 1 ? tokens.shift() : tokens[0]);
  window.broker = connect(url, {
    channels: options.channels, token,
    onmessage: event => heard.push(event.data), ongap: note, onrecovered: note, onerror: note, ondrain: note,
    onsubscribed: note, onstate: event => { states.push(event); },
  });
}"""
HEARD_ALL = "count => heard.length >= count"


def told(page: Page, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("kind => told.filter(event => event.type === kind)", kind)
    return found


def await_told(page: Page, kind: str, count: int = 1) -> None:
    page.wait_for_function("([kind, n]) => told.filter(e => e.type === kind).length >= n", arg=[kind, count])


def open_client(page: Page, served: Served, channel: str = "news") -> Page:
    origin = f"http://{served.host}:{served.port}"
    show_page(page, f"{origin}/plain.html")
    page.evaluate(START, [f"{origin}/client.js", "/ws", {"channels": [channel]}])
    await_told(page, "subscribed")
    return page


def publish(served: Served, numbers: range) -> None:
    """Each with an ack; a connection that ends begins anew, and the id makes the repetition harmless."""
    left = list(numbers)
    while left:
        try:
            with connect(f"ws://{served.host}:{served.port}/ws", subprotocols=["broker.json.v1"]) as socket:  # type: ignore[list-item]
                socket.recv()
                while left:
                    command = {
                        "type": "publish",
                        "channel": "news",
                        "data": left[0],
                        "message_id": str(left[0]),
                        "id": 1,
                    }
                    socket.send(json.dumps(command))
                    assert json.loads(socket.recv())["type"] == "ack"
                    del left[0]
        except (ConnectionClosed, OSError):
            continue


def test_pages_miss_nothing_when_one_worker_after_the_other_is_killed(new_page: OpenTab) -> None:
    with serving("--workers", "2", "--history", "1000") as served:
        pages = [open_client(new_page(), served) for _ in range(4)]
        publish(served, range(40))
        for number, pid in enumerate(workers(served).values()):
            os.kill(pid, signal.SIGKILL)
            publish(served, range(40 + 40 * number, 80 + 40 * number))
        for page in pages:
            page.wait_for_function(HEARD_ALL, arg=120)
            assert page.evaluate("heard") == list(range(120))
            assert told(page, "gap") == []
            assert told(page, "recovered")
        assert served.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["SIGHUP", "SIGTERM"])
def test_pages_miss_nothing_when_the_broker_is_drained(new_page: OpenTab, tmp_path: Path, number: int) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        f'[server]\nstate_directory = "{tmp_path}"\n[drain]\nwindow_seconds = 0.5\nreconnect_seconds = 0.5\n'
    )
    flags = ["--workers", "2", "--history", "1000", "--config", str(file)]
    with serving(*flags) as first:
        pages = [open_client(new_page(), first) for _ in range(3)]
        publish(first, range(40))
        first.signal(number)
        if number == signal.SIGHUP:
            for page in pages:
                await_told(page, "recovered")
            publish(first, range(40, 80))
            settle(pages)
            assert first.stop() == 0
        else:
            assert first.status() == 0
    if number == signal.SIGTERM:
        with serving(*flags, listen=f"127.0.0.1:{first.port}") as second:
            publish(second, range(40, 80))
            settle(pages)
            assert second.stop() == 0


def settle(pages: list[Page]) -> None:
    """Everything arrived once and in order, and each page was told when to come back."""
    for page in pages:
        page.wait_for_function(HEARD_ALL, arg=80)
        assert page.evaluate("heard") == list(range(80))
        assert told(page, "gap") == []
        (drain,) = told(page, "drain")
        waits = page.evaluate("states.filter(e => e.code === 1012).map(e => e.in_ms)")
        assert waits == [drain["reconnect_in_ms"]]


def test_a_page_is_told_of_the_gap_when_the_whole_broker_was_killed(new_page: OpenTab) -> None:
    with serving("--workers", "2", "--history", "1000") as first:
        page = open_client(new_page(), first)
        publish(first, range(10))
        page.wait_for_function(HEARD_ALL, arg=10)
        first.signal(signal.SIGKILL)
        first.status()
    with serving("--workers", "2", "--history", "1000", listen=f"127.0.0.1:{first.port}") as second:
        await_told(page, "gap")
        publish(second, range(10, 20))
        page.wait_for_function(HEARD_ALL, arg=20)
        assert page.evaluate("heard") == list(range(20))
        assert [(gap["channel"], gap["missed"]) for gap in told(page, "gap")] == [("news", None)]
        assert second.stop() == 0


def test_a_publish_before_the_connection_waits_and_one_that_is_refused_says_why(broker: Broker, plain: Page) -> None:
    said = plain.evaluate(
        """async url => {
          const { connect } = await import("/client.js");
          const broker = connect(url, {channels: ["room.7"]});
          const ack = await broker.publish("room.7", {x: 1});
          const code = await broker.publish("$system", 1).catch(error => error.code);
          broker.close();
          return [ack.type, code, await broker.publish("room.7", 2).catch(error => error.code)];
        }""",
        broker.ws_url,
    )
    assert said == ["ack", "bad_channel", "not_sent"]


def test_a_channel_that_is_no_name_is_told_once_and_the_others_go_on(broker: Broker, plain: Page) -> None:
    plain.evaluate(START, ["/client.js", broker.ws_url, {"channels": ["$no", "news.a"]}])
    await_told(plain, "error")
    plain.evaluate("async () => { broker.subscribe('news.b'); await broker.publish('news.a', 'heard'); }")
    plain.wait_for_function(HEARD_ALL, arg=1)
    await_told(plain, "subscribed", 2)
    assert [(error["code"], error["channel"]) for error in told(plain, "error")] == [("bad_channel", "$no")]


Script = Callable[[ServerConnection, int], None]
HELLO = {
    "type": "hello",
    "session": "s",
    "user": "ann",
    "channels": [],
    "limits": {"max_message_bytes": 65536, "max_channels": 128},
    "heartbeat_seconds": 25,
}


@contextmanager
def scripted(script: Script) -> Iterator[tuple[str, list[str]]]:
    """A server that does to its n-th connection what the test says; yields its address and the credentials offered."""
    offered: list[str] = []

    def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        offer = socket.request.headers.get("Sec-WebSocket-Protocol", "").split(", ")
        offered.append(next((token for token in offer if token.startswith("bearer.")), ""))
        script(socket, len(offered))

    with serve(handle, "127.0.0.1", 0, subprotocols=["broker.json.v1"]) as server:  # type: ignore[list-item]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws", offered
        finally:
            server.shutdown()
            thread.join()


def until_closed(page: Page) -> dict[str, Any]:
    page.wait_for_function("states.at(-1)?.state === 'closed'")
    last: dict[str, Any] = page.evaluate("states.at(-1)")
    return last


@pytest.mark.parametrize("code", [4219, 4501])
def test_a_fresh_token_that_is_refused_ends_it_and_a_kept_one_is_replaced_once(plain: Page, code: int) -> None:
    def script(socket: ServerConnection, number: int) -> None:
        if number == 1:
            socket.send(json.dumps(HELLO))
            socket.close(1012, "code=service_restart;in_ms=1;")
        else:
            socket.close(code, "code=token_expired;")

    with scripted(script) as (url, offered):
        plain.evaluate(START, ["/client.js", url, {"tokens": ["first", "second", "third"]}])
        assert until_closed(plain)["code"] == code
        # The first was good and kept; refused, it was replaced; the second was refused fresh.
        assert offered == ["bearer.first", "bearer.first", "bearer.second"]
        assert [error["code"] for error in told(plain, "error")] == ["token_expired"]


def test_a_token_that_expires_is_refreshed_in_band(plain: Page) -> None:
    commands: list[dict[str, Any]] = []

    def script(socket: ServerConnection, number: int) -> None:
        socket.send(json.dumps(HELLO))
        socket.send(json.dumps({"type": "expiring", "in_ms": 2}))
        commands.append(json.loads(socket.recv()))
        socket.close(4510, "code=disconnected_by_operator;")

    with scripted(script) as (url, offered):
        plain.evaluate(START, ["/client.js", url, {"tokens": ["first", "second"]}])
        assert until_closed(plain)["code"] == 4510
        assert offered == ["bearer.first"]
        assert [(c["type"], c["token"]) for c in commands] == [("refresh", "second")]


@pytest.mark.parametrize(
    ("code", "comes_back"),
    [(1000, False), (1008, False), (1011, True), (3999, True), (4199, True), (4299, True), (4599, False)],
)
def test_the_band_of_a_code_alone_says_whether_to_come_back(plain: Page, code: int, comes_back: bool) -> None:
    def script(socket: ServerConnection, number: int) -> None:
        socket.send(json.dumps(HELLO))
        socket.close(code if number == 1 else 4500)

    with scripted(script) as (url, offered):
        plain.evaluate(START, ["/client.js", url, {}])
        until_closed(plain)
        assert len(offered) == 1 + comes_back


def test_a_publish_whose_ack_was_lost_has_an_unknown_outcome_and_is_not_repeated(plain: Page) -> None:
    def script(socket: ServerConnection, number: int) -> None:
        socket.send(json.dumps(HELLO))
        if number == 1:
            socket.recv()
            socket.close(1011)
        else:
            assert json.loads(socket.recv())["data"] == "second"
            socket.close(4500)

    with scripted(script) as (url, _):
        plain.evaluate(START, ["/client.js", url, {}])
        assert plain.evaluate("broker.publish('news', 'first').catch(error => error.code)") == "outcome_unknown"
        plain.evaluate("{ broker.publish('news', 'second').catch(() => {}); }")
        until_closed(plain)


def test_a_dead_link_is_noticed_by_its_silence_and_replaced(plain: Page) -> None:
    release = threading.Event()

    def script(socket: ServerConnection, number: int) -> None:
        if number == 1:  # says hello and never again anything
            socket.send(json.dumps(HELLO))
            release.wait(60)
        else:
            socket.send(json.dumps(HELLO))
            socket.close(4500)

    with scripted(script) as (url, offered):
        plain.clock.install()
        plain.evaluate(START, ["/client.js", url, {}])
        plain.wait_for_function("states.at(-1)?.state === 'open'", polling=50)
        plain.clock.fast_forward(40_000)  # heartbeat_seconds and its grace
        plain.clock.fast_forward(2_000)  # the first back-off
        plain.wait_for_function("states.at(-1)?.state === 'closed'", polling=50)
        release.set()
        assert len(offered) == 2
        assert plain.evaluate("states.find(e => e.state === 'waiting').reason") == "silence"


def test_a_tab_that_is_shown_again_asks_whether_the_link_lives(plain: Page) -> None:
    asked: list[dict[str, Any]] = []

    def script(socket: ServerConnection, number: int) -> None:
        socket.send(json.dumps(HELLO))
        asked.append(json.loads(socket.recv()))
        socket.close(4500)

    with scripted(script) as (url, _):
        plain.evaluate(START, ["/client.js", url, {}])
        plain.wait_for_function("states.at(-1)?.state === 'open'")
        plain.evaluate("dispatchEvent(new Event('visibilitychange'))")
        until_closed(plain)
        assert asked == [{"type": "ping"}]


class Hole:
    """A TCP proxy; after `freeze` nothing passes on the connections it has, and nobody is told. New ones work."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = sockets.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[sockets.socket] = []
        self._frozen: set[sockets.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._frozen.update(self._ends)

    def close(self) -> None:
        for end in [self._listener, *self._ends]:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = sockets.create_connection(("127.0.0.1", self._target))
            self._ends += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: sockets.socket, sink: sockets.socket) -> None:
        try:
            while data := source.recv(65536):
                if source not in self._frozen:
                    sink.sendall(data)
            if source not in self._frozen:
                sink.shutdown(sockets.SHUT_WR)
        except OSError:
            return  # closed at the end of the test


def test_a_page_whose_network_swallows_everything_comes_back_and_misses_nothing(new_page: OpenTab) -> None:
    with serving("--history", "1000") as served:
        hole = Hole(served.port)
        page = show_page(new_page(), f"http://{served.host}:{served.port}/plain.html")
        page.clock.install()
        page.evaluate(START, ["/client.js", f"ws://127.0.0.1:{hole.port}/ws", {"channels": ["news"]}])
        page.wait_for_function("told.some(event => event.type === 'subscribed')", polling=50)
        hole.freeze()
        publish(served, range(20))
        page.clock.fast_forward(40_000)  # heartbeat_seconds and its grace
        page.clock.fast_forward(2_000)  # the first back-off
        page.wait_for_function("heard.length >= 20", polling=50)
        assert page.evaluate("heard") == list(range(20))
        assert (len(told(page, "recovered")), told(page, "gap")) == (1, [])
        hole.close()
        assert served.stop() == 0


def test_a_browser_that_has_the_client_already_is_not_sent_it_again(broker: Broker, plain: Page) -> None:
    seen = plain.evaluate(
        """async () => {
          const first = await fetch("/client.js"), etag = first.headers.get("etag");
          const again = await fetch("/client.js", {headers: {"If-None-Match": etag}, cache: "no-store"});
          return [first.status, again.status, await again.text(), again.headers.get("etag") === etag];
        }"""
    )
    assert seen == [200, 304, "", True]
