"""Several workers are one broker: whoever publishes where, every subscriber gets it, in one order; who is where."""

import asyncio
import time

from tests.client_frames import TEXT, frame
from tests.fake_clock import FakeClock
from tests.integration.harness import Client, wait_until
from tests.integration.several import Cluster, several


async def test_a_subscriber_hears_what_is_published_at_another_worker_and_at_its_own(cluster: Cluster) -> None:
    one, two = cluster.workers
    here, there = await one.open("news"), await two.open("news")
    json_here, json_there = await one.open_json("news"), await two.open_json("news")
    await here.send(frame(TEXT, b"raw"))
    for client in (here, there):
        assert await client.text() == "raw"
    for client in (json_here, json_there):
        event = await client.event()
        assert (event["channel"], event["text"], sorted(event["from"])) == ("news", "raw", ["session"])
    await json_there.command(type="publish", channel="news", data={"x": 1}, id=1)
    for client in (here, there):
        assert await client.text() == '{"x": 1}'
    event = await json_here.event()
    assert event["data"] == {"x": 1}
    got = [await json_there.event(), await json_there.event()]
    assert {event["type"] for event in got} == {"message", "ack"}


async def test_everybody_is_told_the_same_time_of_a_message(cluster: Cluster) -> None:
    one, two = cluster.workers
    readers = [await one.open_json("news"), await two.open_json("news")]
    await (await one.open("news|send")).send(frame(TEXT, b"x"))
    first, second = [await reader.event() for reader in readers]
    assert first["time"] == second["time"]
    assert abs(first["time"] / 1000 - time.time()) < 60


async def test_without_echo_only_the_publishing_connection_gets_no_copy(cluster: Cluster) -> None:
    one, two = cluster.workers
    publisher, sibling, other = await one.open_json("news"), await one.open_json("news"), await two.open_json("news")
    await publisher.command(type="publish", channel="news", text="x", echo=False, id=1)
    assert (await publisher.event())["type"] == "ack"
    assert (await sibling.event())["text"] == "x"
    assert (await other.event())["text"] == "x"
    await publisher.command(type="ping", id=2)
    assert await publisher.event() == {"type": "ack", "id": 2}


async def test_publishers_at_both_workers_are_heard_in_one_order_by_all(cluster: Cluster) -> None:
    one, two = cluster.workers
    readers = [await worker.open("news|recv") for worker in (one, two, one, two)]
    publishers = [await worker.open("news|send") for worker in (one, two, one, two)]
    count = 300

    async def publish(name: int, publisher: Client) -> None:
        for number in range(count):
            await publisher.send(frame(TEXT, b"%d %d" % (name, number)))
            if number % 7 == name:
                await asyncio.sleep(0)

    async def read(reader: Client) -> list[str]:
        return [await reader.text() for _ in range(count * len(publishers))]

    publishing = asyncio.gather(*(publish(*each) for each in enumerate(publishers)))
    heard = await asyncio.gather(*map(read, readers))
    await publishing
    assert heard[0] == heard[1] == heard[2] == heard[3]
    for name in range(len(publishers)):
        own = [int(line.split()[1]) for line in heard[0] if line.startswith(f"{name} ")]
        assert own == list(range(count)), "first in, first out for each publisher"


async def test_acked_publishes_through_different_workers_are_never_reversed(cluster: Cluster) -> None:
    one, two = cluster.workers
    readers = [await worker.open("news|recv") for worker in (one, two)]
    publishers = [await worker.open_json() for worker in (one, two)]
    count = 500
    for number in range(count):
        publisher = publishers[number % 2]
        await publisher.command(type="publish", channel="news", text=str(number), id=number)
        assert await publisher.event() == {"type": "ack", "id": number}
    for reader in readers:
        assert [await reader.text() for _ in range(count)] == list(map(str, range(count)))


async def test_a_channel_nobody_wants_costs_the_other_worker_nothing(cluster: Cluster) -> None:
    one, two = cluster.workers
    publisher = await one.open("news|send")
    await publisher.send(frame(TEXT, b"nobody hears"))
    await publisher.caught_up()
    await wait_until(lambda: cluster.engine.exchange.sequenced == 1)
    assert cluster.engine.exchange.names() == []
    reader = await two.open("news")
    assert cluster.engine.exchange.wanted(b"news") == 1
    await publisher.send(frame(TEXT, b"heard"))
    assert await reader.text() == "heard"
    assert one.counter("n_offered") == 0


async def test_the_ledger_of_each_worker_says_what_it_published_and_what_was_sequenced(cluster: Cluster) -> None:
    one, two = cluster.workers
    reader = await two.open("news|recv")
    publisher, commander = await one.open("news|send"), await one.open_json()
    for _ in range(10):
        await publisher.send(frame(TEXT, b"x"))
    for number in range(5):
        await commander.command(type="publish", channel="news", text="y", id=number)
        await commander.event()
    for _ in range(15):
        await reader.text()
    await wait_until(lambda: one.counter("n_sequenced") == 15)
    assert (one.counter("n_published"), two.counter("n_published")) == (15, 0)
    assert (one.counter("n_offered"), two.counter("n_offered")) == (0, 15)


async def test_a_message_with_history_is_counted_once_where_it_was_published() -> None:
    async with several(2, channels={"kept": {"history_count": 10}}) as cluster:
        one, two = cluster.workers
        readers = [await one.open("kept|recv"), await two.open("kept|recv")]
        publisher = await one.open_json()
        for number in range(5):
            await publisher.command(type="publish", channel="kept", text="y", id=number)
            await publisher.event()
        for reader in readers:
            for _ in range(5):
                await reader.text()
        assert (one.counter("n_published"), two.counter("n_published")) == (5, 0)
        assert (one.counter("n_sequenced"), two.counter("n_sequenced")) == (5, 0)


# Presence.

PRESENT = {"room": {"presence": True}}


async def joins_and_leaves(client: Client, clock: FakeClock) -> list[dict[str, object]]:
    """What the client has been told once a batch is due; the answer of the engine comes behind it."""
    clock.advance(0.6)
    events: list[dict[str, object]] = []
    await client.command(type="presence", channel="room", id="end")
    while (event := await client.event()).get("id") != "end":
        events.append(event)
    return events


async def test_a_page_sees_those_of_other_workers_join_and_leave() -> None:
    clock = FakeClock()
    async with several(2, clock=clock, channels=PRESENT) as cluster:
        one, two = cluster.workers
        here = await one.open_json("room")
        await wait_until(lambda: clock.alarms)
        (own,) = await joins_and_leaves(here, clock)
        assert (own["type"], own["count"]) == ("join", 1)
        there = await two.open_json("room")
        await there.command(type="presence", channel="room", id=1)
        answer = await there.event()
        assert (answer["id"], answer["count"]) == (1, 2)
        await wait_until(lambda: clock.alarms)
        (other,) = await joins_and_leaves(here, clock)
        assert (other["type"], other["count"]) == ("join", 2)
        there.close()
        await wait_until(lambda: two.reactor.connections == 0)
        await here.command(type="presence", channel="room", id=2)
        assert (await here.event())["count"] == 2, "it may be a reload"
        clock.advance(10.1)
        (left,) = await joins_and_leaves(here, clock)
        assert (left["type"], left["count"]) == ("leave", 1)


async def test_the_members_of_a_lost_link_leave_unless_it_is_back_in_time() -> None:
    clock = FakeClock()
    async with several(2, clock=clock, channels=PRESENT) as cluster:
        one, two = cluster.workers
        here, there = await one.open_json("room"), await two.open_json("room")
        await wait_until(lambda: clock.alarms)
        await joins_and_leaves(here, clock)
        cluster.links[1]._native.detach_link()  # cut, with both ends alive
        await wait_until(lambda: not cluster.links[1].up)
        await cluster.all_linked()
        await wait_until(lambda: cluster.engine.exchange.wanted(b"room") == 2)
        clock.advance(20)
        assert await joins_and_leaves(here, clock) == []
        await here.command(type="presence", channel="room", id=1)
        assert (await here.event())["count"] == 2
        assert (await there.event())["type"] == "join"
        assert await there.event() == {"type": "gap", "channel": "room", "missed": None}
