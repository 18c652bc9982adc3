"""What every engine promises: order, receipts, once for each message id, history without a hole, presence."""

import asyncio
import random
from typing import Any

from tests.client_frames import BINARY, TEXT, frame
from tests.contract.conftest import Site
from tests.integration.harness import Broker, Client


async def publish(client: Client, channel: str, text: str, **more: object) -> dict[str, Any]:
    """Publishes and returns the answer; nothing else may be on its way to this client."""
    await client.command(type="publish", channel=channel, text=text, id=text, **more)
    return await client.event()


async def hello(broker: Broker, *channels: str) -> tuple[Client, list[dict[str, Any]]]:
    client = await broker.open(", ".join(["broker.json.v1", *channels]))
    return client, (await client.event())["channels"]


async def test_a_receipt_means_that_every_subscriber_gets_it_wherever_it_is_connected(site: Site) -> None:
    readers = [await site.here.open_json("news"), await site.there.open_json("news")]
    publisher = await site.here.open_json()
    assert (await publish(publisher, "news", "x"))["type"] == "ack"
    for reader in readers:
        assert (await reader.event())["text"] == "x"


async def test_a_publish_begun_after_the_receipt_of_another_never_overtakes_it(site: Site) -> None:
    for channel in ("news", "kept"):
        readers = [await site.here.open_json(channel), await site.there.open_json(channel)]
        publishers = [await site.here.open_json(), await site.there.open_json()]
        for number in range(100):
            assert (await publish(publishers[number % 2], channel, str(number)))["type"] == "ack"
        for reader in readers:
            assert [(await reader.event())["text"] for _ in range(100)] == list(map(str, range(100)))


async def test_all_subscribers_hear_concurrent_publishers_in_one_order(site: Site) -> None:
    for channel in ("news", "kept"):
        readers = [await broker.open_json(channel) for broker in (site.here, site.there) for _ in range(2)]
        publishers = [await broker.open(f"{channel}|send") for broker in (site.here, site.there)]
        for number in range(100):
            for name, publisher in enumerate(publishers):
                await publisher.send(frame(TEXT, b"%d %d" % (name, number)))
        heard = [[(await reader.event())["text"] for _ in range(200)] for reader in readers]
        assert all(other == heard[0] for other in heard)
        for name in range(2):
            own = [int(text.split()[1]) for text in heard[0] if text.startswith(f"{name} ")]
            assert own == list(range(100)), "first in, first out for each publisher"


async def test_a_repeated_message_id_is_sequenced_once_and_answered_with_the_first_receipt(site: Site) -> None:
    for channel in ("news", "kept"):
        reader = await site.there.open_json(channel)
        one, two = await site.here.open_json(), await site.there.open_json()
        first = await publish(one, channel, "a", message_id="m1")
        again = await publish(two, channel, "a", message_id="m1")
        assert (first["type"], first.get("position")) == (again["type"], again.get("position"))
        await publish(one, channel, "b", message_id="m2")
        heard = [await reader.event(), await reader.event()]
        assert [(event["text"], event["id"]) for event in heard] == [("a", "m1"), ("b", "m2")]


async def test_every_payload_kind_arrives_as_it_was_published(site: Site) -> None:
    for channel in ("news", "kept"):
        raw, json = await site.there.open(f"{channel}|recv"), await site.there.open_json(channel)
        publisher, binary = await site.here.open_json(), await site.here.open(f"{channel}|send")
        await publisher.command(type="publish", channel=channel, data={"x": [1, "é"]}, id=1)
        assert (await publisher.event())["type"] == "ack"
        await binary.send(frame(BINARY, b"\x00\xff"))
        assert (await json.event())["data"] == {"x": [1, "é"]}
        assert (await json.event())["base64"] == "AP8="
        assert await raw.text() == '{"x": [1, "\\u00e9"]}'
        assert await raw.frame() == (BINARY, b"\x00\xff")


async def test_without_echo_the_publisher_alone_hears_nothing(site: Site) -> None:
    for channel in ("news", "kept"):
        publisher, other = await site.here.open_json(channel), await site.there.open_json(channel)
        assert (await publish(publisher, channel, "x", echo=False))["type"] == "ack"
        assert (await other.event())["text"] == "x"
        await publisher.command(type="ping", id=1)
        assert await publisher.event() == {"type": "ack", "id": 1}


# History.


async def test_offsets_are_one_higher_each_time_and_the_same_for_everybody(site: Site) -> None:
    readers = [await site.here.open_json("kept"), await site.there.open_json("kept")]
    publishers = [await site.here.open_json(), await site.there.open_json()]
    positions = [(await publish(publishers[number % 2], "kept", str(number)))["position"] for number in range(20)]
    assert len(set(positions)) == 20
    for reader in readers:
        assert [(await reader.event())["position"] for _ in range(20)] == positions


async def test_whoever_comes_back_anywhere_gets_what_it_missed_once_and_in_order(site: Site) -> None:
    reader, (state,) = await hello(site.here, "kept")
    publisher = await site.there.open_json()
    await publish(publisher, "kept", "before")
    position = (await reader.event())["position"]
    assert position != state["position"]
    reader.close()
    for number in range(10):
        await publish(publisher, "kept", str(number))
    back, (entry,) = await hello(site.there, f"kept|since.{position}")
    assert (entry["recovered"], entry["position"]) == (True, position)
    await publish(publisher, "kept", "live")
    assert [(await back.event())["text"] for _ in range(11)] == [*map(str, range(10)), "live"]


async def test_a_window_that_was_exceeded_is_said(site: Site) -> None:
    _, (state,) = await hello(site.here, "few")
    publisher = await site.here.open_json()
    for number in range(4):
        await publish(publisher, "few", str(number))
    _, (entry,) = await hello(site.there, f"few|since.{state['position']}")
    assert entry["recovered"] is False
    last, (entry,) = await hello(site.there, "few|last.2")
    assert entry["recovered"] is True
    assert [(await last.event())["text"] for _ in range(2)] == ["2", "3"]
    _, (entry,) = await hello(site.there, "few|since.zzzzz.1")
    assert entry["recovered"] is False, "another epoch"


async def test_an_empty_channel_has_a_position_to_resume_from(site: Site) -> None:
    _, (state,) = await hello(site.here, "kept")
    publisher = await site.there.open_json()
    await publish(publisher, "kept", "first")
    back, (entry,) = await hello(site.there, f"kept|since.{state['position']}")
    assert entry["recovered"] is True
    assert (await back.event())["text"] == "first"


async def test_history_can_be_read_at_every_worker_without_subscribing(site: Site) -> None:
    publisher, other = await site.here.open_json(), await site.there.open_json()
    positions = [(await publish(publisher, "kept", str(number)))["position"] for number in range(5)]
    await other.command(type="history", channel="kept", since=positions[1], limit=2, id=1)
    answer = await other.event()
    assert [message["text"] for message in answer["messages"]] == ["2", "3"]
    assert (answer["recovered"], answer["more"], answer["position"]) == (True, True, positions[3])


async def test_readers_that_come_back_at_random_miss_nothing_and_hear_nothing_twice(site: Site) -> None:
    chance = random.Random(7)
    total, readers = 600, 6
    publisher = await site.here.open_json()

    async def read(number: int) -> list[int]:
        broker = (site.here, site.there)[number % 2]
        client, (entry,) = await hello(broker, "kept")
        started.release()
        position = entry["position"]
        heard: list[int] = []
        while not heard or heard[-1] < total - 1:
            event = await client.event()
            heard.append(int(event["text"]))
            position = event["position"]
            if chance.random() < 0.05:
                client.close()
                broker = (site.here, site.there)[chance.randrange(2)]
                client, (entry,) = await hello(broker, f"kept|since.{position}")
                assert entry["recovered"] is True
        return heard

    started = asyncio.Semaphore(0)
    reading = [asyncio.ensure_future(read(number)) for number in range(readers)]
    for _ in range(readers):
        await started.acquire()
    for number in range(total):
        await publish(publisher, "kept", str(number))
        if number % 10 == 0:
            await asyncio.sleep(0)
    for heard in await asyncio.gather(*reading):
        assert heard == list(range(total))


# Presence.


async def test_who_is_there_is_the_same_list_at_every_worker(site: Site) -> None:
    one, two = await site.here.open_json("room"), await site.there.open_json("room")
    answers = []
    for client in (one, two):
        await client.command(type="presence", channel="room", id="who")
        while (event := await client.event()).get("id") != "who":
            assert event["type"] == "join"
        answers.append(event)
    assert [answer["count"] for answer in answers] == [2, 2]
    assert sorted(map(str, answers[0]["members"])) == sorted(map(str, answers[1]["members"]))


# Questions to all workers.


async def test_a_session_is_found_and_disconnected_from_any_worker(site: Site) -> None:
    raw, json = await site.there.open("news|recv, room"), await site.here.open("broker.json.v1, news")
    session = (await json.event())["session"]
    control = site.there.worker.control
    (found,) = await control.sessions(session=session)
    assert (found.session, found.user, found.address, found.format) == (session, None, "127.0.0.1", "json")
    assert found.channels == ["news"]
    assert await control.sessions(user="nobody") == []
    assert await control.disconnect(session="0123456789abcdef") == 0
    assert await control.disconnect(session=session) == 1
    assert (await json.close_frame())[0] == 4510
    json.close()
    await raw.caught_up()


async def test_all_channels_are_listed_with_the_subscribers_of_every_worker(site: Site) -> None:
    for broker in (site.here, site.there):
        await broker.open_json("news", "room.1")
        await broker.open("news|send")
    listed = await site.here.worker.control.channels()
    assert listed == {"news": 2, "room.1": 2}
    assert await site.there.worker.control.channels("room.") == {"room.1": 2}
