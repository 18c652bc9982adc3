"""The HTTP API of several worker processes: one is killed, stopped or replaced, the engine dies, keys change.

A back end here is a thread with a plain socket that numbers what it publishes; a subscriber at a worker that is spared
says what was really published.
"""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.log_lines import of_event
from tests.process.api import NEWS, Answered, Api, answer, key_table, write_keys
from tests.process.books import until
from tests.process.command import COMMAND, PATIENCE_SECONDS, ROOT, environment, serving
from tests.process.flow import engine_of, json_client_of
from tests.process.load import JsonClient
from tests.process.supervised import A_WORKER, configuration, worker_of, workers
from tests.process.systemd import handed_over
from tests.process.test_systemd import listening

OTHER_KEY = "another-key"


class BackEnd(threading.Thread):
    """Publishes on one kept connection until it ends, or until it is stopped."""

    def __init__(self, api: Api, name: str, client: socket.socket) -> None:
        super().__init__(daemon=True)
        self._api = api
        self.called = name
        self._client = client
        self._stopping = threading.Event()
        self.answers: list[tuple[str, Answered]] = []
        self.unanswered: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._stopping.is_set():
            text = f"{self.called} {len(self.answers)}"
            try:
                self._client.sendall(self._api.request(NEWS, text.encode()))
                self.answers.append((text, answer(self._client)))
            except (AssertionError, OSError):
                self.unanswered.append(text)
                break
        self._client.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)
        assert not self.is_alive()


def has(backend: BackEnd, condition: Callable[[list[tuple[str, Answered]]], bool], what: str) -> None:
    until(lambda: condition(backend.answers), lambda: f"{backend.called}: {what}; {backend.answers[-1:]}")


def has_more(*backends: BackEnd) -> None:
    for backend in backends:
        count = len(backend.answers)
        has(backend, lambda answers, count=count: len(answers) > count + 20, "20 more answers")  # type: ignore[misc]


def heard(witness: JsonClient, last: str) -> list[str]:
    found: list[str] = []
    while not found or found[-1] != last:
        event = witness.event()
        assert event["type"] == "message", event
        found.append(event["text"])
    return found


def test_a_worker_that_is_killed_takes_only_the_requests_with_it_that_it_had(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        api = Api(broker)
        lost, spared = workers(broker)[0], workers(broker)[1]
        witness = JsonClient(broker, "news", client=json_client_of(broker, spared, "news"))
        dying = [BackEnd(api, f"d{number}", api.client_of(lost)) for number in range(3)]
        living = [BackEnd(api, f"l{number}", api.client_of(spared)) for number in range(3)]
        has_more(*dying, *living)
        os.kill(lost, signal.SIGKILL)
        for each in dying:
            each.join(30)
        has_more(*living)
        for each in living:
            each.stop()
        assert api.ask(NEWS, b"the last").status == 200
        found = heard(witness, "the last")
        assert [each.unanswered for each in living] == [[], [], []]
        assert [len(each.unanswered) for each in dying] == [1, 1, 1]
        for each in (*dying, *living):
            assert {told.status for _, told in each.answers} == {200}
            assert [text for text, _ in each.answers] == [
                text for text in found if text.startswith(f"{each.called} ") and text not in each.unanswered
            ], "what was answered was published, in order"
        witness.close()
        broker.logged("child accepts", 3, child=A_WORKER)
        assert broker.stop() == 0


def test_a_worker_that_hangs_swallows_no_connection_of_a_back_end(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path, "stuck_seconds = 60.0")) as broker:
        api = Api(broker)
        hanging, other = workers(broker)[0], workers(broker)[1]
        os.kill(hanging, signal.SIGSTOP)
        for _ in range(100):
            with closing(api.connect()) as client:
                client.sendall(api.request(NEWS, b"x"))
                assert answer(client).status == 200
                assert api.worker_of(client) == other
        os.kill(hanging, signal.SIGCONT)
        assert broker.stop() == 0


def test_a_reload_refuses_no_request_and_finishes_those_under_way(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        api = Api(broker)
        before = list(workers(broker).values())
        begun = [api.client_of(pid) for pid in before]
        request = api.request(NEWS, b"hello")
        for client in begun:
            client.sendall(request[:-2])
        broker.signal(signal.SIGHUP)
        asked = 0
        while not of_event(broker.errors, "reloaded"):
            assert api.ask(NEWS, b"x").status == 200
            asked += 1
        assert asked > 3
        for client in begun:
            client.sendall(request[-2:])
            assert answer(client).status == 200
            client.close()
        while len(of_event(broker.errors, "child ended", how="ended with status 0")) < 2:
            assert api.ask(NEWS, b"x").status == 200
        assert not set(before) & set(workers(broker).values())
        assert broker.stop() == 0


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_key_that_was_taken_out_is_refused_after_a_reload(count: str, tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    flags = write_keys(file, key_table("shop", OTHER_KEY))
    with serving("--workers", count, *flags) as broker:
        api = Api(broker)
        with closing(api.connect()) as kept:
            kept.sendall(api.request(NEWS, b"x", key=OTHER_KEY))
            assert answer(kept).status == 200
            file.write_text("")
            broker.signal(signal.SIGHUP)
            broker.logged("reloaded")
            if count == "1":
                kept.sendall(api.request(NEWS, b"x", key=OTHER_KEY))
                assert answer(kept).status == 401
        if count == "2":
            broker.logged("child ended", 2, how="ended with status 0")
        assert api.ask(NEWS, b"x", key=OTHER_KEY).status == 401
        assert api.ask(NEWS, b"x").status == 200, "the key of --dev lives as long as the broker"
        file.write_text(key_table("shop", OTHER_KEY))
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded", 2)
        if count == "2":
            broker.logged("child ended", 4, how="ended with status 0")
        assert api.ask(NEWS, b"x", key=OTHER_KEY).status == 200
        assert broker.stop() == 0


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_first_key_that_comes_with_a_reload_is_said_to_need_a_restart(count: str, tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    open_to_all = '[channels.news]\nsubscribe = "anyone"\n'
    flags = [
        *write_keys(file, open_to_all),
        "--workers",
        count,
        "--listen",
        "127.0.0.1:0",
    ]  # without --dev, which has a key
    with subprocess.Popen(
        [*COMMAND, "serve", *flags],
        cwd=ROOT,
        env=environment(WSBROKER_API_LISTEN="127.0.0.1:0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as broker:
        try:
            assert broker.stdout is not None
            assert broker.stderr is not None
            assert "serves ws://" in broker.stdout.readline()
            file.write_text(open_to_all + key_table("shop", OTHER_KEY))
            broker.send_signal(signal.SIGHUP)
            lines = iter(broker.stderr.readline, "")
            assert any(of_event(line, "API stays closed until a restart") for line in lines)
            assert any(of_event(line, "reloaded") for line in lines)
            broker.send_signal(signal.SIGTERM)
            broker.communicate(timeout=PATIENCE_SECONDS)
            assert broker.returncode == 0
        finally:
            if broker.poll() is None:
                broker.kill()


@pytest.mark.parametrize("count", ["1", "2"])
def test_the_api_is_served_on_the_socket_that_is_passed_under_its_name(count: str, tmp_path: Path) -> None:
    with listening() as clients, listening() as api_socket:
        fds = [clients.fileno(), api_socket.fileno()]
        prefix = handed_over(clients, api_socket, names=["web", "api"])
        with serving("--workers", count, *configuration(tmp_path), prefix=prefix, pass_fds=fds) as broker:
            api = Api(broker)
            assert broker.port == clients.getsockname()[1]
            assert api.port == api_socket.getsockname()[1]
            subscriber = JsonClient(broker, "news")
            assert api.ask(NEWS, b"hello").status == 200
            assert subscriber.event()["text"] == "hello"
            subscriber.close()
            assert broker.stop() == 0
        # It is somebody else's, and works on: connections may wait in it over a restart.
        api_socket.setblocking(True)
        with socket.create_connection(api_socket.getsockname(), 5):
            api_socket.accept()[0].close()


def test_an_engine_that_is_killed_loses_nothing_that_was_answered_and_says_when_to_come_back(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        api = Api(broker)
        pids = list(workers(broker).values())
        backends = [BackEnd(api, f"b{at}", api.client_of(pid)) for at, pid in enumerate(pids * 2)]
        has_more(*backends)
        os.kill(engine_of(broker), signal.SIGKILL)
        for each in backends:
            has(each, lambda answers: any(told.status == 503 for _, told in answers), "is refused")
            has(each, lambda answers: answers[-1][1].status == 200, "is served again")
            each.stop()
        for each in backends:
            assert each.unanswered == []
            met = {told.status: told for _, told in each.answers}
            assert set(met) <= {200, 503, 504}
            assert met[503].body["code"] == "engine_unavailable"
            assert re.search(r"(?im)^retry-after: 1\r$", met[503].head)
            unknown = [told for _, told in each.answers if told.status == 504]
            assert len(unknown) <= 1, "at most what was under way"
            assert all(told.body["code"] == "outcome_unknown" for told in unknown)
        assert broker.stop() == 0


def test_a_user_is_reached_at_every_worker(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        api = Api(broker)
        clients = [JsonClient(broker, client=json_client_of(broker, pid)) for pid in workers(broker).values()]
        assert {worker_of(broker, client.sock) for client in clients} == set(workers(broker).values())
        for client in clients:
            assert api.ask(f"/v1/sessions/{client.hello['session']}").status == 200
            assert api.ask(f"/v1/sessions/{client.hello['session']}", method="DELETE").body == {"disconnected": 1}
            with pytest.raises(EOFError, match="4510"):
                client.event()
            client.close()
        assert broker.stop() == 0
