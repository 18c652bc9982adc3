"""What a child is told, and that it never outlives its supervisor."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.config.load import load
from broker.metrics.page import ENGINE, Page, worker_slot
from broker.supervisor.processes import describe
from broker.supervisor.spec import ChildSpec, read_spec, write_spec
from broker.supervisor.supervisor import share_out

ROOT = Path(__file__).parents[3]


def spec(**more: object) -> ChildSpec:
    told: dict[str, object] = {
        "role": "worker",
        "config": load(None, {"server.dev": True, "limits.ping_jitter": 0.25}),
        "supervisor_pid": os.getpid(),
        "page_fd": 20,
        "slot": worker_slot(1, 1),
        "workers": 2,
        "ready_fd": 21,
        "link_address": "\0ws-broker-0123",
        "index": 1,
        "generation": 1,
        "listeners": (7, 8),
        "pollers": ((0,), (1,)),
    }
    return ChildSpec(**{**told, **more})  # type: ignore[arg-type]


def test_a_child_reads_what_was_written_for_it() -> None:
    assert read_spec(write_spec(spec())) == spec()


def test_a_child_inherits_what_it_is_told_of_and_a_worker_not_the_engines_door() -> None:
    assert set(spec().fds) == {20, 21, 7, 8}
    assert set(spec(role="engine", link_fd=9, listeners=()).fds) == {20, 21, 9}
    assert (spec().name, spec(role="engine").name) == ("worker 1", "engine")


def start(told: ChildSpec, fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    fd = write_spec(told)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "broker.supervisor.child", str(fd)], cwd=ROOT, pass_fds=(fd, *fds)
        )
    finally:
        os.close(fd)


def test_a_child_whose_supervisor_is_gone_already_does_nothing() -> None:
    page = Page.new(2)
    ready_read, ready_write = os.pipe()
    told = spec(supervisor_pid=1, page_fd=page.fd, ready_fd=ready_write, listeners=(), pollers=((), ()))
    with start(told, told.fds) as child:
        os.close(ready_write)
        assert child.wait(30) == 1
    assert os.read(ready_read, 1) == b""
    assert page.row(worker_slot(1, 1)).pid == 0
    for fd in (ready_read, page.fd):
        os.close(fd)


def test_an_engine_says_when_it_is_ready_and_ends_when_told() -> None:
    page = Page.new(2)
    ready_read, ready_write = os.pipe()
    with socket.socket(socket.AF_UNIX) as link:
        link.bind(f"\0ws-broker-test-child-{os.getpid()}")
        link.listen()
        told = spec(
            role="engine",
            slot=ENGINE,
            page_fd=page.fd,
            ready_fd=ready_write,
            link_fd=link.fileno(),
            listeners=(),
            pollers=(),
        )
        with start(told, told.fds) as child:
            os.close(ready_write)
            assert select.select([ready_read], [], [], 30)[0]
            assert os.read(ready_read, 2) == b"+"
            row = page.row(ENGINE)
            assert row.pid == child.pid
            assert row.heartbeat_ns > 0
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 0
    for fd in (ready_read, page.fd):
        os.close(fd)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "was ended by SIGKILL"),
        (-63, "was ended by signal 63"),
    ],
)
def test_an_end_is_told_in_words(status: int, text: str) -> None:
    assert describe(status) == text


@pytest.mark.parametrize(
    ("listeners", "workers", "shared"),
    [
        (3, 3, ((0,), (1,), (2,))),
        (1, 3, ((0,), (0,), (0,))),
        (2, 3, ((0,), (1,), (0,))),
        (3, 2, ((0, 2), (1,))),
        (2, 1, ((0, 1),)),
    ],
)
def test_every_listener_is_polled_and_every_worker_has_one(
    listeners: int, workers: int, shared: tuple[tuple[int, ...], ...]
) -> None:
    assert share_out(listeners, workers) == shared
