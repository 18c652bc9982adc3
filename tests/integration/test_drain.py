"""A worker sends its clients away, over real sockets: what each of them reads, and what the others are still served.

The drain's clock is the test's: it moves when the drain sleeps, and everything that is due has been written by then.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable

import pytest

from broker.config.schema import Drain as Settings
from broker.gateway.drain import Drain
from broker.node import KIND_TEXT
from tests.client_frames import BINARY, TEXT, close, frame
from tests.integration.harness import JSON, Broker, Client, request, turns, wait_until

REASON = re.compile(r"code=service_restart;in_ms=(\d+);the server restarts")


async def drained(
    broker: Broker, each_step: Callable[[float], Awaitable[object]] | None = None, **settings: float
) -> None:
    """The worker has stopped accepting; everybody is told to go. `each_step` sees the seconds passed so far."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        await wait_until(lambda: broker.reactor.settled, "what was due is written")
        if each_step is not None:
            await each_step(now)
        now += seconds

    given = Settings(**settings)  # type: ignore[arg-type]
    broker.reactor.stop_accepting()
    await Drain(broker.reactor, given, asyncio.Event(), clock=lambda: now, sleep=sleep).run()


def staying(broker: Broker) -> int:
    """How many connections have not been told to go."""
    return len(broker.reactor.ids(0, broker.reactor.places))


async def goodbye(client: Client) -> int:
    """The next frame is the Close of a drain. Answers it, sees the server end first; returns `in_ms`."""
    code, reason = await client.close_frame()
    assert code == 1012
    found = REASON.fullmatch(reason)
    assert found, reason
    await client.send(close(1012))
    assert await client.closed() == b""
    return int(found[1])


async def test_a_page_is_told_by_an_event_and_by_the_close_when_to_come_back(broker: Broker) -> None:
    page, raw = await broker.open_json("news"), await broker.open("news")
    await drained(broker)
    event = await page.event()
    assert set(event) == {"type", "reconnect_in_ms"}
    assert event["type"] == "drain"
    assert await goodbye(page) == event["reconnect_in_ms"]
    assert await goodbye(raw) <= 2000
    await broker.ended_for("service_restart", 2)


async def test_pages_leave_over_the_window_and_are_served_until_then(broker: Broker) -> None:
    clients = [await broker.open("news|recv") for _ in range(40)]
    channel = broker.worker.node.channel("news")
    left: list[tuple[float, int]] = []

    async def each_step(now: float) -> None:
        broker.worker.node.publish(channel, KIND_TEXT, f"at {len(left)}".encode())
        left.append((now, staying(broker)))

    await drained(broker, each_step, window_seconds=10.0)
    for now, count in left:
        assert abs(count - 40 * (1 - now / 10)) < 1.001, (now, count)
    heard = []
    for client in clients:
        messages = 0
        while (got := await client.frame()).opcode == TEXT:
            assert got.payload == f"at {messages}".encode(), "every message until its turn, in order"
            messages += 1
        assert got.payload[:2] == (1012).to_bytes(2)
        heard.append(messages)
    # In the step after its last message each was told to go: one in each step, none of them twice.
    assert sorted(heard) == list(range(40))


async def test_the_cap_lengthens_a_window_that_is_too_short(broker: Broker) -> None:
    for _ in range(40):
        await broker.open("news|recv")
    left: list[tuple[float, int]] = []

    async def each_step(now: float) -> None:
        left.append((now, staying(broker)))

    await drained(broker, each_step, window_seconds=0.1, closes_per_second=4)
    assert all(40 - count <= 4 * now + 1 for now, count in left)
    assert 9 <= left[-1][0] <= 11


async def test_what_was_published_before_its_turn_comes_before_the_event_and_the_close(broker: Broker) -> None:
    page = await broker.open_json("news")
    channel = broker.worker.node.channel("news")
    for number in range(500):
        broker.worker.node.publish(channel, KIND_TEXT, str(number).encode())
    assert page.silent(), "nothing was written yet"
    await drained(broker)
    for number in range(500):
        assert (await page.event())["text"] == str(number)
    assert (await page.event())["type"] == "drain"
    await goodbye(page)


@pytest.mark.parametrize("offer", ["news", f"{JSON}, news"])
async def test_a_client_that_is_sending_reads_its_close_and_no_reset(broker: Broker, offer: str) -> None:
    client = await broker.open(offer)
    told = asyncio.Event()

    async def send() -> None:
        while not told.is_set():
            await client.send(frame(BINARY if offer == "news" else TEXT, b'{"type":"ping"}' + b" " * 30_000))
            await asyncio.sleep(0)

    async def read() -> None:
        while b"code=service_restart" not in client.input:
            assert await client.read_more()

    sending = asyncio.create_task(send())
    await broker.has_read(100_000)
    reading = asyncio.create_task(read())
    await drained(broker)
    await reading
    # It learns of the Close late: until it answers, whatever it sends is read and dropped.
    told.set()
    await sending
    await client.send(frame(TEXT, b'{"type":"ping"}' + b" " * 30_000) * 20 + close(1012))
    await client.closed()
    await broker.ended_for("service_restart")


async def test_a_client_that_was_cut_inside_a_message_of_its_own_reads_its_close(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"x" * 60_000)[:30_000])
    await broker.has_read(30_000)
    await drained(broker)
    await client.frame()  # the Close; the rest of its message comes too late, and is no mistake of its
    await client.send(frame(TEXT, b"x" * 60_000)[30_000:] + close(1012))
    assert await client.closed() == b""
    await broker.ended_for("service_restart")


async def test_a_page_that_reads_slowly_gets_event_and_close_instead_of_what_was_queued(broker: Broker) -> None:
    page = await (await broker.connect(receive_buffer=4096)).open(f"{JSON}, news")
    channel = broker.worker.node.channel("news")
    while not broker.counter("g_blocked"):
        broker.worker.node.publish(channel, KIND_TEXT, b"x" * 60_000)
        await turns(1)
    for _ in range(3):
        broker.worker.node.publish(channel, KIND_TEXT, b"x" * 60_000)
    await drained(broker)
    events = [await page.event()]
    while events[-1]["type"] != "drain":
        events.append(await page.event())
    await goodbye(page)
    assert broker.counter("n_discarded") >= 3


async def test_a_handshake_in_the_accept_queue_is_served_and_drained_like_others(broker: Broker) -> None:
    served = [await broker.open("news") for _ in range(3)]
    late = [await broker.connect() for _ in range(20)]
    for client in late:
        await client.send(request(offer="news"))
    await drained(broker, window_seconds=1.0)
    for client in late:
        assert (await client.answer()).status == 101
    for client in [*late, *served]:
        await goodbye(client)


async def test_a_handshake_that_is_finished_during_the_window_is_a_session_and_one_that_is_not_gets_503(
    broker: Broker,
) -> None:
    finished, unfinished, spare = [await broker.connect() for _ in range(3)]
    sessions = [await broker.open("news") for _ in range(5)]
    for client in (finished, unfinished):
        await client.send(request(offer="news")[:50])
    await broker.has_read(broker.counter("n_bytes_read") + 100)
    sent = False

    async def each_step(now: float) -> None:
        nonlocal sent
        if now > 3 and not sent:
            sent = True
            await finished.send(request(offer="news")[50:])
            assert (await finished.answer()).status == 101

    await drained(broker, each_step, window_seconds=10.0)
    await goodbye(finished)
    answer = await unfinished.answer()
    assert (answer.status, answer.one("Retry-After")) == (503, "5")
    assert json.loads(answer.body)["code"] == "service_restart"
    assert await spare.closed() == b""
    for client in sessions:
        await goodbye(client)
    assert broker.counter("n_opened") == 6


async def test_a_drain_ends_when_everybody_has_left_by_themselves(broker: Broker) -> None:
    clients = [await broker.open("news") for _ in range(5)]

    async def each_step(now: float) -> None:
        broker.leave(clients)
        await wait_until(lambda: not broker.reactor.connections)
        assert now == 0, "it went on waiting"

    await drained(broker, each_step, window_seconds=10.0)


async def test_a_goodbye_that_does_not_fit_in_a_control_frame_is_refused_whoever_it_is_for(broker: Broker) -> None:
    client = await broker.open_json("news")
    (conn,) = broker.reactor.ids(0, broker.reactor.places)
    with pytest.raises(ValueError, match="126 bytes"):
        broker.reactor.close_after(conn, b"", b"\x03\xf4" + b"x" * 124, 1)
    with pytest.raises(ValueError, match="126 bytes"):
        broker.reactor.close_after(conn, b"x" * 126, b"\x03\xf4", 1)
    assert not broker.reactor.turn_away(conn, b"HTTP/1.1 503 \r\n\r\n", 1)
    assert broker.reactor.ids(broker.reactor.places, 2**32 - 1) == []
    await client.caught_up()
    client.close()
    await wait_until(lambda: not broker.reactor.connections)
    assert not broker.reactor.close_after(conn, b"", b"\x03\xf4", 1)
    assert not broker.reactor.turn_away(conn, b"", 1)
    assert broker.reactor.ids(0, 2**32 - 1) == []
