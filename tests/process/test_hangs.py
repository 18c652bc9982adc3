"""One worker hangs, is full or is taken up by a client; the others and their clients do not notice.

I2 no silent hole, I3 nobody is slowed down by somebody else's trouble, I5 new connections are served.
"""

import os
import resource
import signal
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.client_frames import TEXT, frame
from tests.process.books import books, check_i7_log, until
from tests.process.command import Served, read_frame, serving
from tests.process.flow import flowing
from tests.process.inside import HANG, at_sigusr1
from tests.process.supervised import (
    client_of,
    configuration,
    descriptors,
    slowest_connect,
    worker_of,
    workers,
)

# Long beside the quarter of a second after which siblings help, on a machine that others use as well.
STUCK_SECONDS = 3.0
# From a kill to a worker that accepts.
BACK_SECONDS = 10.0
# Medians of few round trips on a machine that others use as well.
MOST_RATIO = 3.0


def test_i2_i5_a_worker_whose_event_loop_hangs_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    flags = ["--workers", "2", *configuration(tmp_path, f"stuck_seconds = {STUCK_SECONDS}")]
    with serving(*flags, extra=at_sigusr1(tmp_path, HANG)) as broker:
        hanging, spared = workers(broker)[0], workers(broker)[1]
        kept, lost = client_of(broker, spared), client_of(broker, hanging)
        os.kill(hanging, signal.SIGUSR1)
        begun = time.monotonic()
        until((tmp_path / "hangs").exists, lambda: "it hangs")
        assert slowest_connect(broker, 50) < STUCK_SECONDS / 2, "the other takes its new clients"
        (stuck,) = broker.logged("child is stuck and is killed", child="worker 0", child_pid=hanging)
        assert stuck["silent_seconds"] >= STUCK_SECONDS
        broker.logged("child accepts", 2, child="worker 0")
        assert time.monotonic() - begun < 2 * STUCK_SECONDS + BACK_SECONDS
        with closing(lost):
            assert lost.recv(1) == b"", "its client is told by the end of the connection"
        kept.sendall(frame(TEXT, b"still here"))
        assert read_frame(kept) == (TEXT, b"still here")
        kept.close()
        assert len(broker.logged("child is stuck and is killed")) == 1
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i5_a_worker_out_of_file_descriptors_leaves_its_clients_to_the_other_and_recovers(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker, books(broker) as page:
        short, other = workers(broker)[0], workers(broker)[1]
        soft, hard = resource.prlimit(short, resource.RLIMIT_NOFILE)
        resource.prlimit(short, resource.RLIMIT_NOFILE, (len(descriptors(short)) + 5, hard))
        clients = [broker.open() for _ in range(60)]
        held = [worker_of(broker, client) for client in clients]
        assert held.count(other) >= 55
        assert page.worker(0)["n_accept_pauses"] > 0
        assert [row["n_refused_full"] for row in page.all()] == [0, 0]
        clients[0].sendall(frame(TEXT, b"to all of you"))
        for client in clients:
            assert read_frame(client) == (TEXT, b"to all of you")
        resource.prlimit(short, resource.RLIMIT_NOFILE, (soft, hard))
        before = page.worker(0)["n_opened"]

        def takes_again() -> bool:
            broker.open().close()
            return page.worker(0)["n_opened"] > before

        until(takes_again, lambda: "it takes clients again")
        for client in clients:
            client.close()
        page.check_all()
        assert broker.stop() == 0
    check_i7_log(broker)


def round_trips(publisher: socket.socket, subscriber: socket.socket, count: int) -> float:
    """The median of the seconds from publishing to hearing."""
    took = []
    for number in range(count):
        payload = b"%d" % number
        begun = time.monotonic()
        publisher.sendall(frame(TEXT, payload))
        assert read_frame(subscriber) == (TEXT, payload)
        took.append(time.monotonic() - begun)
    return statistics.median(took)


def check_i3_no_slower(measure: Callable[[], float], disturb: Callable[[bool], None]) -> None:
    """I3: undisturbed and disturbed in turn, so that what else the machine does hits both alike."""
    ratios = []
    for _ in range(5):
        alone = measure()
        disturb(True)
        ratios.append(measure() / alone)
        disturb(False)
    assert statistics.median(ratios) < MOST_RATIO, ratios


def test_i3_a_worker_that_is_stopped_slows_nobody_at_the_others(tmp_path: Path) -> None:
    with serving("--workers", "3", *configuration(tmp_path, "stuck_seconds = 3600.0")) as broker:
        near, far, stopped = (workers(broker)[index] for index in range(3))
        # The stopped one wants all of it, too: it waits for it at the engine.
        silent = client_of(broker, stopped, "news|recv")
        subscriber, publisher = client_of(broker, near, "news|recv"), client_of(broker, far, "news|send")
        check_i3_no_slower(
            lambda: round_trips(publisher, subscriber, 200),
            lambda stop: os.kill(stopped, signal.SIGSTOP if stop else signal.SIGCONT),
        )
        for client in (silent, subscriber, publisher):
            client.close()
        assert broker.stop() == 0
    check_i7_log(broker)


def flood(broker: Served, pid: int) -> list[socket.socket]:
    """Clients of a worker that read nothing of a channel in which a megabyte waits for each of them."""
    readers = [client_of(broker, pid, "flood|recv") for _ in range(4)]
    with closing(client_of(broker, pid, "flood|send")) as publisher:
        for _ in range(100):
            publisher.sendall(frame(TEXT, b"x" * 10_000))
    return readers


def test_i3_clients_that_read_nothing_slow_nobody_at_the_same_worker(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker, books(broker) as page:
        pid = workers(broker)[0]
        subscriber, publisher = client_of(broker, pid, "news|recv"), client_of(broker, pid, "news|send")
        silent: list[socket.socket] = []

        def disturb(begin: bool) -> None:
            if begin:
                silent.extend(flood(broker, pid))
                until(lambda: page.worker(0)["g_blocked"] == 4, lambda: "they are blocked")
            else:
                while silent:
                    silent.pop().close()
                until(lambda: page.worker(0)["g_blocked"] == 0, lambda: "they have left")

        check_i3_no_slower(lambda: round_trips(publisher, subscriber, 200), disturb)
        subscriber.close()
        publisher.close()
        page.check_all()
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i6_i8_the_books_of_every_worker_balance_after_a_load_with_slow_readers(tmp_path: Path) -> None:
    with flowing(tmp_path, count=2) as (broker, flow), books(broker) as page:
        silent = [reader for pid in workers(broker).values() for reader in flood(broker, pid)]
        flow.goes_on(200)
        flow.settle()
        for reader in silent:
            reader.close()
        page.check_all()
        for worker in page.all():
            assert worker["n_published"] > 200
            assert worker["n_discarded"] > 0, "what the slow readers left"
    check_i7_log(broker)
