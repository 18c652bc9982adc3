"""The scenarios about order and history run end to end in a small size, and notice a broker that loses or reorders."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import pytest

from loadtests import acked, resume
from loadtests.board import HEAD, NewBoard
from loadtests.report import Result
from loadtests.returning import Count, Returning, Spec, counted, wait_for
from loadtests.sequence import Tally, number_text
from loadtests.sequencing import Publisher, one_at_each_worker
from loadtests.server import BenchError, Server
from loadtests.wire import client_frame, open_many

TINY = resume.Size(messages=2000, subscribers=6, window=300, queue=100, turn=50, life=150, raw_of=3)


def quiet(line: str) -> None:
    """Nobody reads the progress of a test."""


def value(result: Result, name: str) -> float:
    return next(row.value for row in result.rows if row.name == name)


def test_resume_accounts_for_every_message_across_workers_and_a_restart() -> None:
    result = resume.run(TINY, quiet)
    assert result.ok, result
    assert value(result, "reconnects") > 6
    assert value(result, "resumes: recovered") > 6
    assert value(result, "deliveries checked") + value(result, "messages told to be missing") == 2000 * 6


def test_a_broker_that_forgets_its_history_in_a_restart_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtests.server.STATE", "")
    with pytest.raises(BenchError, match="is acknowledged at position"):
        resume.run(TINY, quiet)


def test_acked_publishes_in_turns_through_both_workers_and_every_subscriber_agrees() -> None:
    result = acked.run(acked.Size(messages=100, subscribers=2, crowd=4, burst=2), quiet)
    assert result.ok, result
    assert value(result, "deliveries checked") == 100 * 4
    assert value(result, "messages to each of the crowd meanwhile") == 100 * 2 * 2
    assert value(result, "connections of the worker with fewer") >= 1


@pytest.fixture
def readers() -> Iterator[tuple[Server, NewBoard, Returning]]:
    """Two of each format on a live channel, expecting ten messages."""
    with (
        Server() as server,
        NewBoard(2) as board,
        Returning(Spec(server.address, "turns", 2, 2, 10, 0, 1, 0, board.path, 2, 1)) as readers,
    ):
        assert readers.opened().subscribed == 4
        yield server, board, readers


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0, 1, 2, 4], Tally(messages=16, lost=4)),
        ([0, 1, 2, 2, 3], Tally(messages=20, duplicated=4)),
        ([0, 1, 3, 2, 4], Tally(messages=20, reordered=4)),
    ],
    ids=["lost", "duplicated", "reordered"],
)
def test_what_a_broker_does_wrong_is_counted_for_every_subscriber(
    readers: tuple[Server, NewBoard, Returning], numbers: list[int], found: Tally
) -> None:
    server, board, crowd = readers
    board[HEAD] = 10
    (publisher,) = open_many(server.address, ["turns|send"])
    publisher.send(b"".join(client_frame(number_text(number)) for number in numbers))
    count = wait_for([crowd], lambda count: count.tally.messages == 4 * len(numbers), 10)
    publisher.close()
    count.tally.notes.clear()
    assert count.tally == found


def test_a_subscriber_that_the_broker_cuts_is_told_of(readers: tuple[Server, NewBoard, Returning]) -> None:
    server, _, crowd = readers
    crowd.finish()
    assert server.stop() == []
    count = wait_for([crowd], lambda count: count.connected == 0, 10)
    assert count.ends == {"close 1001": 4}


def test_whoever_publishes_knows_how_far_the_slowest_is(readers: tuple[Server, NewBoard, Returning]) -> None:
    server, board, crowd = readers
    board[HEAD] = 3
    publisher = Publisher(server.address, "turns")
    publisher.send(0, 3, repeatable=False)
    assert publisher.acknowledged(0, 3, history=False) == 3
    wait_for([crowd], lambda count: board.slowest() == 3, 10)
    publisher.close()
    assert board.slowest() == 3
    assert counted([crowd]).complete == 0


def test_counts_of_several_processes_are_one() -> None:
    both = Count(readers=2, ends={"close 1001": 1}, tally=Tally(lost=1))
    both.add(Count(readers=3, ends={"close 1001": 2, "reset": 1}, tally=Tally(lost=2)))
    assert both == Count(readers=5, ends={"close 1001": 3, "reset": 1}, tally=Tally(lost=3))
    assert Count.read(dataclasses.asdict(both)) == both


def test_a_broker_that_refuses_a_publish_is_not_measured_on() -> None:
    with Server('[channels."json"]\npayload = "json"\n') as server:
        publisher = Publisher(server.address, "json")
        publisher.send(0, 1)
        publisher.sock.settimeout(5)
        with pytest.raises(BenchError, match="wrong_payload_kind"):
            publisher.acknowledged(0, 1)
        publisher.close()


def test_a_broker_that_restarts_has_its_address_and_its_history() -> None:
    with Server(resume.config(TINY), workers=2) as server, contextlib.ExitStack() as closing:
        publishers = one_at_each_worker(server, resume.CHANNEL, 2, closing)
        publishers[0].send(0, 20)
        assert publishers[0].acknowledged(0, 20) == 20
        address = server.address
        for publisher in publishers:
            publisher.close()
        assert server.restart() == []
        assert server.address == address
        again = Publisher(address, resume.CHANNEL)
        again.send(10, 30)  # of which ten are published already, under the same ids
        assert again.acknowledged(10, 30) == 30
        again.close()
        assert server.stop() == []


def test_a_broker_of_several_processes_is_measured_as_one() -> None:
    with Server(workers=2) as server:
        pids = server.pids()
        assert len(pids) == 4  # supervisor, engine, two workers
        assert server.rss_bytes() > len(pids) * 1_000_000
        assert server.files() > len(os.listdir(f"/proc/{server.pid}/fd"))
        assert server.cpu_seconds() > 0
        clients = list(open_many(server.address, ["news"] * 4))
        found = server.peers()
        assert {client.getsockname() for client in clients} == set(found)
        assert set(found.values()) <= set(pids[1:])
        for client in clients:
            client.close()
