"""Events for a whole channel: one frame for all who have events, beside the ledger, and never the end of a reader."""

import json

import pytest

from broker.native._outbox import Queue, Queues
from tests.server_frames import TEXT, events, frame, texts

TEXT_KIND = 1
PLENTY = 1 << 30
EVENT = b'{"type":"join"}'
GAP = {"type": "gap", "channel": "news", "missed": 0}


def crowd(queues: Queues, *formats: str, policy: str = "disconnect") -> list[Queue]:
    readers = [Queue(queues, format) for format in formats]
    for reader in readers:
        reader.subscribe(b"news", policy)
    return readers


def test_everybody_who_has_events_hears_it_by_one_frame_and_nobody_else_does() -> None:
    queues = Queues(PLENTY, 1000)
    readers = crowd(queues, *["json"] * 500, *["raw"] * 500)
    elsewhere, publisher = Queue(queues, "json"), Queue(queues, "json")
    elsewhere.subscribe(b"room", "disconnect")
    publisher.subscribe(b"news", "disconnect", receives=False)
    assert queues.hub.tell(b"news", EVENT) == 500
    assert queues.counters()["g_frames"] == 1
    assert [reader.queued() for reader in readers] == [[frame(TEXT, EVENT)]] * 500 + [[]] * 500
    assert elsewhere.queued() == publisher.queued() == []
    assert queues.hub.tell(b"nobody", EVENT) == 0
    for reader in readers:
        reader.close()
    assert queues.physical == 0


def test_it_is_no_message_so_the_ledger_does_not_know_it() -> None:
    queues = Queues(PLENTY, 1000)
    (reader,) = crowd(queues, "json")
    queues.hub.tell(b"news", EVENT)
    assert reader.write(PLENTY) == frame(TEXT, EVENT)
    queues.hub.tell(b"news", EVENT)
    reader.close()
    counters = queues.counters()
    ledger = ("n_published", "n_offered", "n_written", "n_discarded", "g_queued")
    assert [counters[name] for name in ledger] == [0] * 5
    assert (counters["n_events"], counters["n_events_dropped"]) == (2, 0)


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "drop_newest"])
def test_a_blocked_reader_without_room_is_told_of_a_gap_of_no_messages_and_keeps_what_it_has(policy: str) -> None:
    queues = Queues(PLENTY, 2)
    (reader,) = crowd(queues, "json", policy=policy)
    queues.hub.publish(b"news", TEXT_KIND, b"1")
    queues.hub.publish(b"news", TEXT_KIND, b"2")
    reader.block()
    assert queues.hub.tell(b"news", EVENT) == 0
    assert queues.hub.tell(b"news", EVENT) == 0
    assert not reader.too_slow
    assert reader.slots == 3
    reader.unblock()
    heard = [json.loads(text) for text in texts(reader.write(PLENTY))]
    assert [event.get("text") for event in heard] == ["1", "2", None]
    assert heard[2] == GAP
    assert queues.counters()["n_events_dropped"] == 2
    assert queues.hub.tell(b"news", EVENT) == 1
    assert reader.write(PLENTY) == frame(TEXT, EVENT)
    reader.close()


def test_it_never_takes_the_place_of_the_newest_message() -> None:
    queues = Queues(PLENTY, 1000)
    (reader,) = crowd(queues, "json", policy="latest")
    reader.block()
    queues.hub.publish(b"news", TEXT_KIND, b"1")
    queues.hub.tell(b"news", EVENT)
    queues.hub.publish(b"news", TEXT_KIND, b"2")
    queues.hub.tell(b"news", EVENT)
    reader.unblock()
    heard = [json.loads(text) for text in texts(reader.write(PLENTY))]
    assert [event["type"] for event in heard] == ["gap", "join", "message", "join"]
    assert (heard[0]["missed"], heard[2]["text"]) == (1, "2")
    reader.close()


def test_a_lost_event_makes_a_gap_of_lost_messages_no_larger() -> None:
    queues = Queues(PLENTY, 1)
    (reader,) = crowd(queues, "json", policy="drop_newest")
    queues.hub.publish(b"news", TEXT_KIND, b"1")
    reader.block()
    queues.hub.tell(b"news", EVENT)
    queues.hub.publish(b"news", TEXT_KIND, b"2")
    queues.hub.tell(b"news", EVENT)
    reader.unblock()
    heard = [json.loads(text) for text in texts(reader.write(PLENTY))]
    assert heard[1:] == [GAP | {"missed": 1}]
    reader.close()


def test_a_reader_that_keeps_up_is_flushed_first_and_hears_it() -> None:
    queues = Queues(1000, 1)
    (reader,) = crowd(queues, "json")
    reader.room = PLENTY
    queues.hub.publish(b"news", TEXT_KIND, b"1")
    assert queues.hub.tell(b"news", EVENT) == 1
    assert len(events(reader.taken())) == 1
    assert reader.queued() == [frame(TEXT, EVENT)]
    reader.close()


def test_a_reader_found_gone_meanwhile_takes_nobody_along() -> None:
    queues = Queues(PLENTY, 1)
    gone, fine = crowd(queues, "json", "json")
    queues.hub.publish(b"news", TEXT_KIND, b"1")
    gone.room, fine.room = -1, PLENTY
    assert queues.hub.tell(b"news", EVENT) == 1
    assert gone.closed
    assert fine.queued() == [frame(TEXT, EVENT)]
    gone.close()
    fine.close()


def test_the_worker_is_told_when_events_take_more_than_its_memory() -> None:
    queues = Queues(PLENTY, 1000, memory_bytes=1000)
    (reader,) = crowd(queues, "json")
    reader.block()
    queues.hub.tell(b"news", b"x" * 2000)
    assert queues.reliefs == 1
    reader.close()
