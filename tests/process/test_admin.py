"""The admin port of a broker of processes: what a probe is told when a worker hangs, the engine dies, all is full or
the broker ends. Each probe in both directions: a wrong no restarts a broker that is well, a wrong yes keeps sending
clients to one that is not.
"""

import gzip
import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from tests.integration.harness import request
from tests.log_lines import of_event
from tests.process.admin import FLAGS, Admin
from tests.process.books import until
from tests.process.command import COMMAND, PATIENCE_SECONDS, Served, read_end, read_frame, read_head, run, serving
from tests.process.supervised import workers
from tests.process.systemd import handed_over

CANNOT, USAGE = 1, 2
BOTH = pytest.mark.parametrize("count", ["1", "2"], ids=["alone", "two workers"])


def settings(folder: Path, *lines: str) -> list[str]:
    file = folder / "broker.toml"
    file.write_text("\n".join(lines))
    return [*FLAGS, "--config", str(file), "--verbose"]


def engine_of(broker: Served) -> int:
    return int(broker.logged("child accepts", child="engine")[-1]["child_pid"])


# Each path, of one broker of each kind that is well.


@pytest.fixture(scope="module", params=["1", "2"], ids=["alone", "two workers"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Admin, int]]:
    with serving(*FLAGS, "--workers", request.param) as broker:
        yield Admin(broker), int(request.param)
        assert broker.stop() == 0
        assert "Traceback" not in broker.errors


def test_a_broker_that_is_well_is_live_and_ready(served: tuple[Admin, int]) -> None:
    admin, count = served
    assert admin.probe("/livez") == (200, "every event loop turns\n")
    engine = "the engine sequences\n" if count > 1 else ""
    assert admin.probe("/readyz") == (200, f"{count} of {count} workers accept\n{engine}")
    families = {family.name: family for family in parse_prometheus(admin.ask("/metrics").text)}
    workers_now = {sample.labels["state"]: sample.value for sample in families["wsbroker_workers"].samples}
    assert workers_now == {"starting": 0, "accepting": count, "draining": 0}
    assert [sample.value for sample in families["wsbroker_engine_links"].samples] == [count if count > 1 else 0]
    assert admin.ask("/readyz", host="10.1.2.3:9000").status == 200, "a kubelet names the pod's address"


def test_metrics_come_in_the_form_that_is_asked_for(served: tuple[Admin, int]) -> None:
    admin, _ = served
    plain = admin.ask("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert labels_of_build(parse_prometheus(plain.text)) == {"core", "python", "version"}
    asked = admin.ask("/metrics", accept="application/openmetrics-text; version=1.0.0", accept_encoding="gzip")
    assert asked.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert asked.headers["content-encoding"] == "gzip"
    text = gzip.decompress(asked.body).decode()
    assert labels_of_build(parse_open_metrics(text)) == {"core", "python", "version"}  # type: ignore[no-untyped-call]


def labels_of_build(families: Iterable[Metric]) -> set[str]:
    samples = [sample for family in families for sample in family.samples]
    (found,) = (sample.labels for sample in samples if sample.name == "wsbroker_build_info")
    return set(found)


def test_what_a_stranger_sends_is_not_taken_for_text(served: tuple[Admin, int]) -> None:
    admin, _ = served
    with closing(socket.create_connection(admin.address, PATIENCE_SECONDS)) as client:
        head = b"GET /metrics?name[]=%ff HTTP/1.1\r\nHost: \xff\r\nX: \xff\r\nAccept: \xff\r\n"
        client.sendall(head + b"Connection: close\r\n\r\n")
        assert read_end(client).startswith(b"HTTP/1.1 200 ")


def test_everything_else_is_refused_as_it_should_be(served: tuple[Admin, int]) -> None:
    admin, _ = served
    for path in ("/", "/healthz", "/metrics/", "/v1/channels", "/LIVEZ"):
        answer = admin.ask(path, "POST")
        assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
        assert json.loads(answer.body)["code"] == "not_found"
    for path in ("/metrics", "/livez", "/readyz"):
        answer = admin.ask(path, "POST")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert json.loads(answer.body)["code"] == "method_not_allowed"
        head = admin.ask(path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 0
    assert "access-control-allow-origin" not in admin.ask("/metrics", origin="https://a.example").headers


def test_more_connections_than_it_takes_are_told_and_the_others_are_answered(served: tuple[Admin, int]) -> None:
    admin, _ = served
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(admin.address, PATIENCE_SECONDS)) for _ in range(64)]
        with closing(socket.create_connection(admin.address, PATIENCE_SECONDS)) as one_more:
            assert read_end(one_more).startswith(b"HTTP/1.1 503 ")
        for client in held:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert read_end(client).startswith(b"HTTP/1.1 200 ")
    assert admin.probe("/livez")[0] == 200


# Stuck and dead.


def test_a_stuck_worker_is_not_live_until_it_is_replaced(tmp_path: Path) -> None:
    with serving(*settings(tmp_path, "[supervisor]", "stuck_seconds = 2.0"), "--workers", "2") as broker:
        admin, stopped = Admin(broker), workers(broker)[0]
        assert admin.probe("/livez")[0] == 200
        os.kill(stopped, signal.SIGSTOP)
        stuck = rf"worker 0 \(pid {stopped}\) is stuck: its event loop has not turned for \d+\.\d s"
        admin.until("/livez", 503, f"{stuck}|worker 0 was stuck and is being started again")
        assert admin.probe("/readyz")[0] == 200, "the other serves"
        admin.until("/livez", 200, "every event loop turns")
        assert broker.logged("child accepts", 2, child="worker 0")[1]["child_pid"] != stopped
        admin.until("/readyz", 200, "2 of 2 workers accept")
        assert broker.stop() == 0


def test_workers_that_are_all_silent_are_not_ready_long_before_they_are_killed(tmp_path: Path) -> None:
    with serving(*settings(tmp_path, "[supervisor]", "stuck_seconds = 3600"), "--workers", "2") as broker:
        admin, both = Admin(broker), workers(broker)
        os.kill(both[1], signal.SIGSTOP)
        admin.until("/readyz", 200, rf"worker 1 \(pid {both[1]}\) is silent: its event loop has not turned for .* s")
        os.kill(both[0], signal.SIGSTOP)
        admin.until("/readyz", 503, "0 of 2 workers accept")
        for pid in both.values():
            os.kill(pid, signal.SIGCONT)
        admin.until("/readyz", 200, "2 of 2 workers accept")
        assert broker.stop() == 0


def test_a_dead_engine_is_not_ready_and_stays_live_until_it_is_back(tmp_path: Path) -> None:
    with serving(*settings(tmp_path), "--workers", "2") as broker:
        admin = Admin(broker)
        os.kill(engine_of(broker), signal.SIGKILL)

        def live_and(ready_status: int) -> bool:
            assert admin.probe("/livez")[0] == 200
            return admin.probe("/readyz")[0] == ready_status

        until(lambda: live_and(503), lambda: "it is not ready")
        until(lambda: live_and(200), lambda: "it is ready again")
        assert admin.probe("/readyz")[1] == "2 of 2 workers accept\nthe engine sequences\n"
        with closing(broker.open()):
            assert broker.stop() == 0


def test_an_engine_that_hangs_is_not_ready_and_becomes_ready_when_it_goes_on(tmp_path: Path) -> None:
    with serving(*settings(tmp_path, "[supervisor]", "stuck_seconds = 3600"), "--workers", "2") as broker:
        admin, engine = Admin(broker), engine_of(broker)
        os.kill(engine, signal.SIGSTOP)
        admin.until("/readyz", 503, rf"engine \(pid {engine}\) is silent: its event loop has not turned for .* s")
        assert admin.probe("/livez") == (200, "every event loop turns\n")
        os.kill(engine, signal.SIGCONT)
        admin.until("/readyz", 200)
        assert broker.stop() == 0


# Full.


def filled(broker: Served, stack: ExitStack, count: int) -> list[socket.socket]:
    """So many open clients. Just after the start a full worker may not have heard yet that a sibling accepts, and
    refuses whom that one would take (503): those come again.
    """
    clients: list[socket.socket] = []

    def open_one() -> bool:
        client = stack.enter_context(broker.connect())
        client.sendall(request(offer="news"))
        if b" 101 " in read_head(client):
            clients.append(client)
        return len(clients) == count

    until(open_one, lambda: f"{count} clients are open, it is {len(clients)}")
    return clients


@BOTH
def test_a_full_broker_is_not_ready_until_somebody_leaves(count: str, tmp_path: Path) -> None:
    limits = ["[limits]", "max_connections = 2"]
    with serving(*settings(tmp_path, *limits), "--workers", count) as broker, ExitStack() as stack:
        admin = Admin(broker)
        clients = filled(broker, stack, 2 * int(count))
        admin.until("/readyz", 503, "full: no worker takes more connections")
        assert admin.probe("/livez")[0] == 200
        clients[0].close()
        admin.until("/readyz", 200)
        broker.signal(signal.SIGTERM)
        broker.signal(signal.SIGTERM)
        assert broker.status() == 0


@BOTH
def test_a_broker_at_the_limit_of_all_its_workers_is_not_ready_until_somebody_leaves(
    count: str, tmp_path: Path
) -> None:
    limits = ["[limits]", "max_connections_total = 3"]
    with serving(*settings(tmp_path, *limits), "--workers", count) as broker, ExitStack() as stack:
        admin = Admin(broker)
        clients = [stack.enter_context(broker.open()) for _ in range(3)]
        assert admin.probe("/readyz") == (503, "full: 3 connections, limits.max_connections_total is 3\n")
        clients[0].close()
        admin.until("/readyz", 200)
        broker.signal(signal.SIGTERM)
        broker.signal(signal.SIGTERM)
        assert broker.status() == 0


# Starting, renewing, ending.


def test_before_a_worker_accepts_it_is_live_and_not_ready(tmp_path: Path) -> None:
    """The questions are there before the broker is, in a socket that systemd would pass."""
    with (
        socket.create_server(("127.0.0.1", 0)) as admin,
        socket.create_server(("127.0.0.1", 0)) as web,
        ExitStack() as stack,
    ):
        early = []
        for path in ("/livez", "/readyz"):
            client = stack.enter_context(socket.create_connection(admin.getsockname(), PATIENCE_SECONDS))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            early.append(client)
        prefix = handed_over(web, admin, names=["web", "admin"])
        with serving(
            *settings(tmp_path), "--workers", "2", prefix=prefix, pass_fds=[web.fileno(), admin.fileno()]
        ) as broker:
            alive, prepared = (read_end(client).decode() for client in early)
            assert alive.startswith("HTTP/1.1 200 ")
            assert "every event loop turns\n" in alive
            assert prepared.startswith("HTTP/1.1 503 ")
            assert "0 of 2 workers accept\n" in prepared
            assert broker.admin_url == f"http://127.0.0.1:{admin.getsockname()[1]}"
            broker.logged("socket of the admin port was passed")
            assert Admin(broker).probe("/readyz")[0] == 200
            assert broker.stop() == 0


def test_two_passed_sockets_for_one_admin_port_are_a_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        command = [*handed_over(one, two, names=["admin", "admin"]), *COMMAND]
        result = run(
            "serve", "--dev", "--listen", "127.0.0.1:0", command=command, pass_fds=[one.fileno(), two.fileno()]
        )
    assert result.status == CANNOT
    assert result.one_line == "more than one socket named admin was passed; the main process serves one"


@BOTH
def test_it_answers_all_through_a_reload_and_after_it(count: str, tmp_path: Path) -> None:
    with serving(*settings(tmp_path), "--workers", count) as broker:
        admin = Admin(broker)
        broker.signal(signal.SIGHUP)

        def reloaded() -> bool:
            assert admin.probe("/livez")[0] == 200
            assert admin.probe("/readyz")[0] == 200
            return bool(of_event(broker.errors, "reloaded"))

        until(reloaded, lambda: broker.errors)
        assert reloaded()
        assert broker.stop() == 0


@BOTH
def test_from_the_signal_on_it_is_not_ready_and_it_answers_to_the_very_end(count: str, tmp_path: Path) -> None:
    drain = ["[drain]", "delay_seconds = 1.5", "[limits]", "close_seconds = 300", "linger_seconds = 300"]
    with serving(*settings(tmp_path, *drain), "--workers", count) as broker:
        admin = Admin(broker)
        broker.signal(signal.SIGTERM)
        admin.until("/readyz", 503, "draining: the broker was told to end")
        late = broker.open()  # still accepted: whoever sends clients here has yet to hear of it
        assert admin.probe("/livez") == (200, "every event loop turns\n")
        assert read_frame(late)[0] == 8  # the delay is over, and this one holds up the end
        with pytest.raises(ConnectionRefusedError):
            broker.connect()
        assert admin.probe("/livez") == (200, "every event loop turns\n")
        assert admin.probe("/readyz") == (503, "draining: the broker was told to end\n")
        broker.signal(signal.SIGTERM)
        assert broker.status() == 0
        late.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(admin.address, PATIENCE_SECONDS)


# The port itself.


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_port_that_is_taken_is_named_with_what_to_do(count: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        result = run("serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", taken, "--workers", count)
    assert result.status == CANNOT
    assert result.one_line.startswith(f"admin.listen: {taken} is in use; ")
    assert result.one_line.endswith('or take another port with --admin-listen, or "" for no admin port')


def test_without_an_admin_port_nothing_is_said_of_one() -> None:
    with serving("--admin-listen", "") as broker:
        assert broker.stop() == 0
        assert broker.process.stdout is not None
        assert "metrics" not in "\n".join(broker.lines) + broker.process.stdout.read()
