"""The shared page: what is counted stays counted, whatever becomes of the process that counted it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.metrics.page import ACCEPTING, EMPTY, ENGINE, RETIRED, STARTING, Page, worker_slot
from broker.native._counters import NAMES, SIZE
from broker.native._hub import Hub

ROOT = Path(__file__).parents[3]
ACCEPTED, CONNECTIONS = NAMES.index("n_accepted"), NAMES.index("g_connections")


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page.new(3)
    yield page
    os.close(page.fd)


def test_every_worker_of_two_generations_the_engine_and_the_retired_have_rows_of_their_own() -> None:
    slots = [worker_slot(index, generation) for index in range(3) for generation in range(2)]
    assert len({RETIRED, ENGINE, *slots}) == 8
    assert worker_slot(1, 0) == worker_slot(1, 2)


def test_a_row_is_what_native_code_counts_in(page: Page) -> None:
    row = page.row(worker_slot(2, 1))
    hub = Hub(row.counters, 1024, 16, 1 << 20)
    hub.publish(b"news", 1, b"hello", b"")
    assert len(row.counters) == SIZE
    assert page.totals()["n_sequenced"] == 1


def test_what_a_child_says_is_read_by_whoever_maps_the_page(page: Page) -> None:
    theirs, ours = page.row(worker_slot(0, 0)), Page(page.fd, 3).row(worker_slot(0, 0))
    theirs.begin(1234)
    assert (ours.pid, ours.state, ours.paused, ours.heartbeat_ns) == (1234, STARTING, False, 0)
    theirs.state, theirs.paused, theirs.heartbeat_ns = ACCEPTING, True, 2**63 + 1
    assert (ours.state, ours.paused, ours.heartbeat_ns) == (ACCEPTING, True, 2**63 + 1)


def test_rows_do_not_reach_into_each_other(page: Page) -> None:
    rows = [page.row(slot) for slot in range(2 + 2 * 3)]
    for number, row in enumerate(rows):
        row.counters[0] = row.counters[SIZE - 1] = row.heartbeat_ns = number
        row.begin(number)
    assert [(row.counters[0], row.counters[SIZE - 1], row.heartbeat_ns, row.pid) for row in rows] == [
        (number,) * 4 for number in range(8)
    ]


def test_the_dead_leave_their_counters_and_not_their_gauges(page: Page) -> None:
    slot = worker_slot(1, 0)
    for lived in (1, 2):
        row = page.row(slot)
        row.begin(lived)
        row.counters[ACCEPTED], row.counters[CONNECTIONS] = 10, 7
        row.paused, row.heartbeat_ns = True, 5
        page.retire(slot)
        assert (row.state, row.pid, row.paused, row.heartbeat_ns) == (EMPTY, 0, False, 0)
    assert page.totals()["n_accepted"] == 20
    assert page.totals()["g_connections"] == 0


def test_totals_are_summed_over_the_living_and_the_retired(page: Page) -> None:
    for slot, count in ((worker_slot(0, 0), 1), (worker_slot(0, 1), 20), (worker_slot(2, 0), 300)):
        page.row(slot).counters[ACCEPTED] = page.row(slot).counters[CONNECTIONS] = count
    page.retire(worker_slot(2, 0))
    assert page.totals()["n_accepted"] == 321
    assert page.totals()["g_connections"] == 21
    assert page.connections() == [21, 0, 0]


def test_a_counter_that_comes_round_does_not_end_the_supervisor(page: Page) -> None:
    for _ in range(2):
        page.row(ENGINE).counters[ACCEPTED] = 2**64 - 1
        page.retire(ENGINE)
    assert page.totals()["n_accepted"] == 2**64 - 2


def test_what_a_killed_child_had_counted_is_still_there(page: Page) -> None:
    program = (
        "import os, signal\nfrom broker.metrics.page import Page\n"
        f"row = Page({page.fd}, 3).row(3)\nrow.begin(os.getpid())\nrow.counters[{ACCEPTED}] = 42\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run([sys.executable, "-c", program], pass_fds=[page.fd], cwd=ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert page.row(3).pid > 0
    assert page.totals()["n_accepted"] == 42


def test_those_who_are_being_refused_take_no_place_of_the_whole_broker(page: Page) -> None:
    for slot in (worker_slot(0, 0), worker_slot(0, 1), worker_slot(2, 0)):
        page.row(slot).counters[CONNECTIONS] = 10
    page.row(worker_slot(2, 0)).counters[NAMES.index("g_refused")] = 4
    assert page.taken() == 26
