"""How the process ends: on SIGTERM and Ctrl-C it says goodbye to everybody, and the port is free at once."""

import json
import re
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.client_frames import TEXT, close, frame
from tests.integration.harness import JSON
from tests.process.command import (
    PATIENCE_SECONDS,
    Served,
    read_end,
    read_exactly,
    read_frame,
    read_head,
    say_goodbye,
    serving,
)

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def patient(tmp_path: Path) -> list[str]:
    """Flags of a broker that would wait longer for its clients than a test waits for its end."""
    file = tmp_path / "broker.toml"
    file.write_text("[limits]\nclose_seconds = 300.0\nlinger_seconds = 300.0\n")
    return ["--config", str(file)]


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGTERM", "SIGINT"])
def test_every_session_is_told_1001_and_the_status_is_0(number: int) -> None:
    with serving() as broker:
        clients = [broker.open(offer) for offer in ("news", "news|recv", f"{JSON}, news", JSON)]
        broker.signal(number)
        assert [say_goodbye(client) for client in clients] == [1001] * 4
        assert broker.status() == 0
        assert broker.complaints == []


def test_without_any_client_it_ends_at_once(patient: list[str]) -> None:
    with serving(*patient) as broker:
        assert broker.stop() == 0


def test_what_was_sent_before_the_end_is_delivered_before_the_close() -> None:
    with serving() as broker:
        subscriber, publisher = broker.open("news|recv"), broker.open("news|send")
        sent = [f"message {number}".encode() for number in range(1000)]
        publisher.sendall(b"".join(frame(TEXT, payload) for payload in sent))
        assert read_frame(subscriber) == (TEXT, sent[0])  # the broker is in the middle of it
        broker.signal(signal.SIGTERM)
        for payload in sent[1:]:
            assert read_frame(subscriber) == (TEXT, payload)
        assert say_goodbye(subscriber) == 1001
        assert say_goodbye(publisher) == 1001
        assert broker.status() == 0


def test_connections_that_a_browser_opened_in_advance_do_not_hold_it_up(patient: list[str]) -> None:
    with serving(*patient) as broker:
        idle = [broker.connect() for _ in range(4)]
        idle[0].sendall(b"GET /ws HTT")
        say_goodbye_to = broker.open()
        broker.signal(signal.SIGTERM)
        assert say_goodbye(say_goodbye_to) == 1001
        with closing(idle.pop(0)) as begun:
            assert read_end(begun).startswith(b"HTTP/1.1 503 ")
        assert broker.status() == 0  # although the browser keeps its side of the others
        for client in idle:
            with closing(client):
                assert read_end(client) == b""


def test_clients_that_neither_read_nor_answer_hold_it_up_until_their_deadlines(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("[limits]\nclose_seconds = 0.2\nlinger_seconds = 0.2\n")
    with serving("--config", str(file)) as broker:
        silent = [broker.open(), broker.open(), broker.connect()]
        assert broker.stop() == 0
        for client in silent:
            client.close()


@pytest.mark.parametrize("second", SIGNALS, ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_it_without_waiting_for_the_silent(second: int, patient: list[str]) -> None:
    with serving(*patient) as broker:
        silent = broker.open()
        broker.signal(signal.SIGTERM)
        assert read_frame(silent)[0] == 8
        broker.signal(second)
        assert broker.status() == 0
        silent.close()


def test_nobody_gets_in_while_it_ends() -> None:
    with serving() as broker:
        silent = broker.open()
        broker.signal(signal.SIGTERM)
        assert read_frame(silent)[0] == 8
        with pytest.raises(ConnectionRefusedError):
            broker.connect()
        broker.signal(signal.SIGTERM)
        assert broker.status() == 0
        silent.close()


@pytest.fixture
def drain(tmp_path: Path) -> Callable[..., list[str]]:
    """Flags of a broker that ends in steps."""

    def flags(**settings: float) -> list[str]:
        file = tmp_path / "drain.toml"
        file.write_text("[drain]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        return ["--config", str(file)]

    return flags


def test_pages_are_sent_away_over_the_window_and_told_when_to_come_back(drain: Callable[..., list[str]]) -> None:
    with serving(*drain(window_seconds=1.0, reconnect_seconds=0.5)) as broker:
        raw = [broker.open(offer) for offer in ("news", "news|recv") * 5]
        pages = [broker.open(f"{JSON}, news") for _ in range(10)]
        for page in pages:
            assert json.loads(read_frame(page)[1])["type"] == "hello"
        before = time.monotonic()
        broker.signal(signal.SIGTERM)
        told = []
        for page in pages:
            event = json.loads(read_frame(page)[1])
            assert event["type"] == "drain"
            assert leave(page) == event["reconnect_in_ms"]
            told.append(event["reconnect_in_ms"])
        told += [leave(client) for client in raw]
        assert broker.status() == 0
        assert time.monotonic() - before > 0.8, "20 of them over a second"
        assert max(told) <= 500
        assert len(set(told)) > 1
        assert broker.complaints == []


def leave(client: socket.socket) -> int:
    """Reads the Close of a drain, answers it, sees the server end first; returns `in_ms`."""
    with closing(client):
        opcode, payload = read_frame(client)
        assert (opcode, payload[:2]) == (8, (1012).to_bytes(2))
        client.sendall(close(1012))
        assert read_end(client) == b""
        found = re.fullmatch(rb"code=service_restart;in_ms=(\d+);the server restarts", payload[2:])
        assert found, payload
        return int(found[1])


@pytest.mark.parametrize("second", SIGNALS, ids=["SIGTERM", "SIGINT"])
def test_a_second_signal_does_not_wait_for_the_window(second: int, drain: Callable[..., list[str]]) -> None:
    with serving(*drain(window_seconds=80_000.0)) as broker:
        clients = [broker.open() for _ in range(10)]
        broker.signal(signal.SIGTERM)
        first, _, _ = select.select(clients, [], [], PATIENCE_SECONDS)
        broker.signal(second)
        assert [say_goodbye(client) for client in first] == [1012]
        assert {say_goodbye(client) for client in clients if client not in first} == {1001}
        assert broker.status() == 0
        assert broker.complaints == []


def test_it_accepts_until_nobody_is_sent_there_any_more(drain: Callable[..., list[str]]) -> None:
    with serving(*drain(delay_seconds=3000.0)) as broker:
        before = broker.open()
        broker.signal(signal.SIGTERM)
        after = [broker.open() for _ in range(20)]
        before.sendall(frame(TEXT, b"still here"))
        assert [read_frame(client) for client in after] == [(TEXT, b"still here")] * 20
        broker.signal(signal.SIGTERM)
        assert {say_goodbye(client) for client in [before, *after]} == {1001}
        assert broker.status() == 0


def test_it_starts_again_on_the_same_port_at_once() -> None:
    with serving() as first:
        clients = [first.open() for _ in range(3)]
        port = first.port
        first.signal(signal.SIGTERM)
        # The server ends first, so its side of these connections stays in TIME_WAIT.
        assert [say_goodbye(client) for client in clients] == [1001] * 3
        assert first.status() == 0
    with serving(listen=f"127.0.0.1:{port}") as second:
        assert second.port == port
        second.open().close()
        assert second.stop() == 0


def test_it_starts_again_on_the_same_port_after_it_was_killed() -> None:
    with serving() as first:
        client, port = first.open(), first.port
        first.signal(signal.SIGKILL)
        assert first.status() == -signal.SIGKILL
        with serving(listen=f"127.0.0.1:{port}") as second:
            second.open().close()
            assert second.stop() == 0
        client.close()


def heard(broker: Served, target: str) -> bytes:
    with closing(broker.connect()) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: {broker.host}\r\n\r\n".encode())
        head = read_head(client)
        assert b"Connection: close" in head
        return head.split(b"\r\n")[0] + b" " + read_end(client)[:15]


def test_the_page_it_names_is_there() -> None:
    with serving() as broker:
        assert heard(broker, "/") == b"HTTP/1.1 200 OK <!doctype html>"
        assert heard(broker, "/healthz") == b"HTTP/1.1 200 OK ok\n"
        assert broker.stop() == 0


def test_it_serves_on_ipv6_loopback_and_names_that_page() -> None:
    with serving(listen="[::1]:0") as broker:
        assert broker.host == "::1"
        assert any(f"http://[::1]:{broker.port}/" in line for line in broker.lines)
        client = broker.open()
        broker.signal(signal.SIGTERM)
        assert say_goodbye(client) == 1001
        assert broker.status() == 0


def test_the_line_for_a_page_works_as_it_is_printed() -> None:
    with serving() as broker:
        assert broker.process.stdout is not None
        line = broker.process.stdout.readline()
        assert f'new WebSocket("ws://127.0.0.1:{broker.port}/ws", ["news"])' in line
        assert broker.stop() == 0


def test_more_connections_than_the_soft_limit_of_file_descriptors_are_served() -> None:
    with serving(prefix=["prlimit", "--nofile=64:4096", "--"]) as broker:
        clients: list[socket.socket] = [broker.open("news|recv") for _ in range(150)]
        publisher = broker.open("news|send")
        publisher.sendall(frame(TEXT, b"to all of you"))
        for client in clients:
            assert read_frame(client) == (TEXT, b"to all of you")
        with open(f"/proc/{broker.process.pid}/limits", encoding="ascii") as limits:
            (line,) = (line for line in limits if line.startswith("Max open files"))
        assert line.split()[3:5] == ["4096", "4096"]
        broker.signal(signal.SIGTERM)
        assert {say_goodbye(client) for client in [*clients, publisher]} == {1001}
        assert broker.status() == 0


def test_beyond_the_hard_limit_clients_are_told_to_come_back_and_the_others_are_served() -> None:
    with serving(prefix=["prlimit", "--nofile=64:74", "--"]) as broker:
        served = [broker.open() for _ in range(10)]
        with closing(broker.connect()) as refused:
            assert read_exactly(refused, 13) == b"HTTP/1.1 503 "
        served[0].sendall(frame(TEXT, b"still here"))
        assert read_frame(served[1]) == (TEXT, b"still here")
        broker.signal(signal.SIGTERM)
        assert {say_goodbye(client) for client in served} == {1001}
        assert broker.status() == 0
