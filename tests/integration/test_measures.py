"""What a worker measures of itself, over real sockets: each number that operators look at comes from something real."""

import time

import pytest

from broker.native._counters import FIRST_PATTERN
from tests.client_frames import BINARY, TEXT, frame
from tests.integration.calling import call, serving_api
from tests.integration.harness import running, turns, wait_until
from tests.integration.several import several
from tests.integration.test_queues import block, publish, stalled_reader, with_policy

CHANNELS = {"news": {}, "room.*": {"queue": "drop_oldest"}, "kept": {"history_count": 2}}


async def test_messages_and_bytes_are_counted_by_format_in_and_out() -> None:
    async with running(channels={">": {}}) as broker:
        raw, json = await broker.open("news"), await broker.open_json("news")
        await raw.send(frame(TEXT, b"hello") + frame(BINARY, b"abc"))
        assert [await raw.text(), (await raw.frame()).payload] == ["hello", b"abc"]
        heard = [await json.frame(), await json.frame()]
        command = b'{"type":"publish","channel":"news","text":"x"}'
        await json.send(frame(TEXT, command))
        heard.append(await json.frame())
        assert await raw.text() == "x"
        counters = broker.counters()
        assert (counters["n_received_raw"], counters["n_received_bytes_raw"]) == (2, 8)
        assert (counters["n_received_json"], counters["n_received_bytes_json"]) == (1, len(command))
        assert (counters["n_sent_raw"], counters["n_sent_json"]) == (3, 3)
        assert counters["n_sent_bytes_raw"] == 2 + 5 + 2 + 3 + 2 + 1, "each with the two bytes of its header"
        sizes = [len(one.payload) for one in heard]
        assert counters["n_sent_bytes_json"] == sum(size + (2 if size < 126 else 4) for size in sizes)


async def test_a_fan_out_is_measured_by_its_size_and_its_time_and_a_handshake_by_its_time() -> None:
    async with running() as broker:
        clients = [await broker.open("news|recv") for _ in range(7)]
        publisher = await broker.open("news|send")
        assert broker.histogram("handshake_ns")[0] == 8
        began = time.monotonic_ns()
        await publisher.send(frame(TEXT, b"one") + frame(TEXT, b"two"))
        for client in clients:
            assert [await client.text(), await client.text()] == ["one", "two"]
        took = time.monotonic_ns() - began
        assert broker.histogram("fanout_deliveries") == (2, 14)
        count, total = broker.histogram("fanout_ns")
        assert count == 2
        assert 0 < total < took
        count, total = broker.histogram("publish_to_write_ns")
        assert count == 2, "once for each message, not for each subscriber"
        assert 0 < total < 2 * took


async def test_a_message_that_waits_for_a_slow_reader_shows_in_its_time_to_the_last_write() -> None:
    async with running(**with_policy("disconnect"), limits_write_seconds=600) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        number = await block(broker, "news")
        before, _ = broker.histogram("publish_to_write_ns")
        broker.advance(100)
        await wait_until(lambda: broker.counter("g_oldest_ns") >= 100e9, "the age of what waits is seen")
        for _ in range(number):
            await stalled.text()
        await wait_until(lambda: broker.counter("g_oldest_ns") == 0, "nothing waits any more")
        count, total = broker.histogram("publish_to_write_ns")
        assert count == number > before
        assert total > 100e9, "the last write of some came 100 s after their publish"


async def test_a_ping_that_waits_for_a_slow_reader_is_not_taken_for_a_message_as_old_as_the_worker() -> None:
    async with running(**with_policy("latest"), limits_write_seconds=600, limits_ping_seconds=25) as broker:
        await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        broker.advance(30)
        await turns(5)
        for _ in range(3):  # what waited before the ping gives way, so the ping is first
            publish(broker, "news", "the newest")
            await turns(2)
        broker.advance(10)
        await wait_until(lambda: broker.counter("g_oldest_ns") >= 10e9, "the age of what waits is seen")
        assert broker.counter("g_oldest_ns") < 100e9


async def test_a_write_to_a_reader_that_was_blocked_is_timed_by_the_moment_of_that_write() -> None:
    async with running(**with_policy("disconnect"), limits_write_seconds=600, limits_ping_seconds=3600) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        number = await block(broker, "news")
        _, before = broker.histogram("publish_to_write_ns")
        broker.advance(10)
        for _ in range(number):  # what is written for it is written because it reads, before any tick
            await stalled.text()
        await wait_until(lambda: broker.counter("g_queued") == 0, "all is written")
        assert broker.histogram("publish_to_write_ns")[1] - before > 10e9


async def test_a_message_that_a_policy_gives_up_is_no_last_write() -> None:
    async with running(**with_policy("drop_newest")) as broker:
        await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        for number in range(100):
            broker.reactor.publish(0, b"news", 1, b"%d" % number, b"", True)
        await turns()
        dropped = broker.counter("n_dropped_newest")
        assert dropped
        assert (
            broker.histogram("publish_to_write_ns")[0] + broker.counter("g_queued") + dropped
            == (broker.histogram("fanout_deliveries")[0])
        )


async def test_patterns_are_counted_by_their_channels_and_nothing_by_channel() -> None:
    async with running(channels=CHANNELS) as broker:
        place = {pattern: at for at, pattern in enumerate(["(none)", *CHANNELS])}

        def of(pattern: str) -> tuple[int, ...]:
            cells = memoryview(broker.worker.counters).cast("B").cast("Q")
            first = FIRST_PATTERN + 3 * place[pattern]
            return tuple(cells[first : first + 3])

        raw, json = await broker.open("room.1"), await broker.open_json("news", "room.2", "kept", "else")
        await raw.send(frame(TEXT, b"raw, without Python"))
        assert await raw.text()
        for channel in ("news", "room.1", "kept", "else", "nobody.is.here"):
            await json.command(type="publish", channel=channel, text="x", id=channel)
            while (await json.event()).get("id") != channel:
                pass
        assert await raw.text() == "x"
        assert of("news") == (1, 1, 0)
        assert of("room.*") == (2, 2, 0)
        assert of("kept") == (1, 1, 0)
        assert of("(none)") == (2, 1, 0)


async def test_drops_are_counted_by_pattern_too() -> None:
    async with running(**with_policy("drop_oldest")) as broker:
        await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        for number in range(200):
            broker.reactor.publish(0, b"news", 1, b"%d" % number, b"", True)
        assert broker.counter("n_dropped_oldest") > 0
        assert broker.counters()["n_pattern_drops_1"] == broker.counter("n_dropped_oldest")


async def test_a_resume_is_counted_as_what_its_client_was_told() -> None:
    async with running(channels=CHANNELS) as broker:
        client = await broker.open_json("kept")
        positions = []
        for number in range(4):
            await client.command(type="publish", channel="kept", text="x", id=number)
            positions.append((await client.event())["position"])
            assert (await client.event())["type"] == "ack"
        await broker.open_json(f"kept|since.{positions[2]}")
        assert (broker.counter("n_resumes_recovered"), broker.counter("n_resumes_incomplete")) == (1, 0)
        await broker.open_json(f"kept|since.{positions[0]}", "news|last.3")
        assert (broker.counter("n_resumes_recovered"), broker.counter("n_resumes_incomplete")) == (1, 2)
        await broker.open_json("kept")
        assert broker.counter("n_resumes_recovered") == 1, "who asks for nothing resumes nothing"


async def test_what_a_worker_holds_is_seen_by_its_next_looks() -> None:
    async with running(channels={"kept": {"history_count": 5, "presence": True}}) as broker:
        client = await broker.open_json("kept")
        for number in range(3):
            await client.command(type="publish", channel="kept", text="x" * 100, id=number)
        await wait_until(lambda: broker.counter("g_history_messages") == 3)
        counters = broker.counters()
        assert counters["g_history_bytes"] > 300
        assert (counters["g_history_channels"], counters["g_presence_members"]) == (1, 1)
        assert counters["g_connections_limit"] == broker.worker.max_connections
        client.close()


@pytest.mark.blocks_loop
async def test_a_loop_that_was_held_shows_it() -> None:
    async with running() as broker:
        await wait_until(lambda: broker.histogram("loop_lag_ns")[0] >= 2)
        _, before = broker.histogram("loop_lag_ns")
        until = time.monotonic() + 0.3
        while time.monotonic() < until:  # as a callback that computes
            pass
        await wait_until(lambda: broker.histogram("loop_lag_ns")[1] - before >= 200e6)
        slow = sum(broker.counters()[f"n_loop_lag_ns_{at}"] for at in range(11, 18))
        assert slow >= 1, "over 100 ms"


async def test_messages_of_an_engine_elsewhere_tell_how_old_they_are_when_they_come() -> None:
    async with several(2) as cluster:
        here, there = cluster.workers
        hears = await there.open("news|recv")
        says = await here.open("news|send")
        await says.send(frame(TEXT, b"hello"))
        assert await hears.text() == "hello"
        assert there.histogram("link_lag_ns")[0] == 1
        assert there.histogram("link_lag_ns")[1] < 10e9
        assert here.histogram("link_lag_ns")[0] == 0, "nobody there wanted it"


async def test_the_api_tells_how_long_its_requests_took() -> None:
    async with serving_api() as broker:
        backend = await broker.connect_api()
        for path, status in (("/v1/openapi.json", 200), ("/else", 404)):
            answer = await backend.ask(call(path, host="localhost"))
            assert answer.status == status
        count, total = broker.histogram("api_request_ns")
        assert count == 2
        assert 0 < total < 20e9
