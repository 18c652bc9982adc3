"""What several workers promise in quiet and in busy times: one order, and nothing left behind.

I1 order, I4 back to the baseline, I6 ledgers, I7 nothing raised, I8 reasons. By hand, with more turns:
`WS_BROKER_TURNS=20000 python -m pytest tests/process/test_order.py -k in_turn`.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.client_frames import TEXT, frame
from tests.process.books import books, check_i7_log, held, until
from tests.process.command import read_frame, serving
from tests.process.flow import flowing, json_client_of
from tests.process.load import JsonClient, Witness
from tests.process.supervised import client_of, configuration, workers

TURNS = int(os.environ.get("WS_BROKER_TURNS", "2000"))


@pytest.mark.timeout(120 + TURNS // 20)
@pytest.mark.parametrize("channel", ["live", "kept"])
def test_i1_acknowledged_publishes_through_two_workers_in_turn_are_never_reversed(channel: str, tmp_path: Path) -> None:
    limits = ['[channels."kept"]', "history_count = 100"]
    with flowing(tmp_path, limits=limits) as (broker, flow), books(broker) as page:
        pids = list(workers(broker).values())
        turns = [JsonClient(broker, client=json_client_of(broker, pid)) for pid in pids]
        witnesses = [Witness(broker, channel, json_client_of(broker, pid, channel)) for pid in pids]
        for number in range(TURNS):
            answer = turns[number % 2].ask(type="publish", channel=channel, text=f"turn {number}")
            assert answer["type"] == "ack"
        for witness in witnesses:
            witness.wait_for(("turn", TURNS - 1))
            witness.close()
            assert witness.heard == [("turn", number) for number in range(TURNS)]
        for client in turns:
            client.close()
        flow.settle()
        page.check_all()
    check_i7_log(broker)


def no_more(now: Iterable[int], before: Iterable[int]) -> bool:
    """Fewer is fine: who has just become ready is still about to close by what it told that."""
    return all(count <= then for count, then in zip(now, before, strict=True))


def test_i4_after_a_churn_of_connections_and_channels_everything_is_back_where_it_was(tmp_path: Path) -> None:
    limits = ['[channels."kept.>"]', "history_count = 10", '[channels."room.>"]', "presence = true"]
    with serving("--workers", "2", *configuration(tmp_path, limits=limits)) as broker, books(broker) as page:
        broker.open().close()
        page.check_i4_nobody_left()
        before = list(held(broker).values())
        for number in range(300):
            client = JsonClient(broker, f"live.{number}", f"kept.{number}", f"room.{number}")
            client.ask(type="publish", channel=f"kept.{number}", text="x")
            if number % 3 == 0:
                client.ask(type="unsubscribe", channel=f"live.{number}")
            if number % 3 == 1:
                client.sock.sendall(b"\xff\xff")  # no frame: it is closed
                with suppress(EOFError):
                    while client.event()["type"] == "join":  # its own, if the machine is slow
                        pass
                    raise AssertionError("it goes on")
            client.close()
        page.check_all()
        assert sum(row["n_accepted"] for row in page.all()) == 301
        until(lambda: no_more(held(broker).values(), before), lambda: f"{held(broker)}, not {before}")
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i4_a_worker_that_died_leaves_nothing_at_the_engine_and_the_others(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker, books(broker) as page:
        before = sorted(held(broker).values())
        for death in range(2):
            lost = [client_of(broker, workers(broker)[1]) for _ in range(10)]
            kept = client_of(broker, workers(broker)[0])
            os.kill(workers(broker)[1], 9)
            broker.logged("child accepts", 2 + death, child="worker 1")
            kept.sendall(frame(TEXT, b"still here"))
            assert read_frame(kept) == (TEXT, b"still here")
            for client in (*lost, kept):
                client.close()
        page.check_all()
        until(lambda: no_more(sorted(held(broker).values()), before), lambda: f"{held(broker)}, not {before}")
        assert broker.stop() == 0
    check_i7_log(broker)
