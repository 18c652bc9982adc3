"""Readers that stop reading, over real sockets: what they get, and that nobody else notices.

A stalled reader has a small receive buffer and reads nothing; the kernel's own send buffer is kept small with
notsent_lowat_bytes, so that little is enough to block it.
"""

import array
import asyncio
import fcntl
import os
import resource
import socket
import stat
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from tests.client_frames import PING as CLIENT_PING
from tests.client_frames import close, frame
from tests.integration.harness import JSON, Broker, Client, request, running, turns, wait_until
from tests.server_frames import BINARY, CLOSE, TEXT, events, frames, texts

TEXT_KIND = 1
SIOCOUTQNSD = 0x894B  # bytes the kernel holds that were never sent; linux/sockios.h
SO_MEMINFO = 55
WMEM_QUEUED = 5  # index in SO_MEMINFO: bytes of kernel memory of the send queue
LOSSY = ["drop_oldest", "drop_newest", "latest"]
SMALL: dict[str, Any] = {
    "limits_send_queue_messages": 50,
    "limits_send_queue_bytes": 65_536,
    "limits_max_message_bytes": 65_536,
    "limits_notsent_lowat_bytes": 4096,
}
NATIVE_BUILD = os.environ.get("BROKER_NATIVE_BUILD", "release")
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])


def with_policy(policy: str, **more: object) -> dict[str, Any]:
    return {**SMALL, "channels": {"news": {"queue": policy}}, **more}


async def stalled_reader(broker: Broker, offer: str) -> Client:
    """A client that has read nothing after its handshake (and hello)."""
    client = await (await broker.connect(receive_buffer=2048)).open(offer)
    if offer.startswith(JSON):
        assert (await client.event())["type"] == "hello"
    return client


def publish(broker: Broker, channel: str, *payloads: object) -> None:
    for payload in payloads:
        broker.reactor.publish(0, channel.encode(), TEXT_KIND, str(payload).encode(), b"", True)


async def read_text(client: Client, count: int) -> list[str]:
    return [await client.text() for _ in range(count)]


async def block(broker: Broker, channel: str, blocked: int = 1) -> int:
    """Publishes numbered messages until that many readers are blocked; returns how many that took."""
    number = 0
    while broker.counter("g_blocked") < blocked:
        publish(broker, channel, f"{number} ".ljust(900, "."))
        number += 1
        assert number < 10_000
        await turns(2)
    return number


def server_side(client: Client) -> socket.socket:
    """The broker's end of a client's connection, found among this process's descriptors; a duplicate."""
    wanted = client.sock.getsockname()
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            candidate = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # the listing's own descriptor
            continue
        try:
            if candidate.getpeername() == wanted:
                return candidate
        except OSError:  # a listener, or the loop's own pair
            pass
        candidate.close()
    raise AssertionError("the broker has no such connection")


def counted(received: Iterable[dict[str, Any]]) -> tuple[list[int], int]:
    """Numbers of the messages in their order, and how many the gap notices say are missing."""
    numbers, missed = [], 0
    for event in received:
        if event["type"] == "gap":
            missed += event["missed"]
        else:
            numbers.append(int(event["text"].split(" ")[0]))
    return numbers, missed


async def everything(client: Client, broker: Broker) -> bytes:
    """All that waits for a reader, until the broker has nothing more."""
    while broker.counter("g_blocked") or not broker.reactor.settled:
        await client.read_more()
    await client.send(frame(CLIENT_PING, b"end"))
    while not client.input.endswith(b"\x8a\x03end"):
        assert await client.read_more()
    data = bytes(client.input[:-5])
    client.input.clear()
    return data


# One reader stalls, under each policy.


@pytest.mark.parametrize("policy", ["disconnect", *LOSSY])
async def test_a_reader_that_stalls_takes_nothing_from_the_others(policy: str) -> None:
    async with running(**with_policy(policy)) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        fine = [await broker.open("news|recv") for _ in range(5)]
        total = 400
        for start in range(0, total, 20):
            publish(broker, "news", *(f"{number} ".ljust(900, ".") for number in range(start, start + 20)))
            for client in fine:
                received = await read_text(client, 20)
                assert [int(text.split(" ")[0]) for text in received] == list(range(start, start + 20))
        assert broker.counter("n_offered") >= total * 5
        if policy == "disconnect":
            while await stalled.read_more():
                pass
            *messages, (opcode, payload) = frames(bytes(stalled.input))
            assert (opcode, payload[:2]) == (CLOSE, (4208).to_bytes(2))
            numbers = [int(text.split(b" ")[0]) for _, text in messages]
            assert numbers == list(range(len(numbers)))
            stalled.close()
            await broker.ended_for("too_slow")
        else:
            numbers = [int(text.split(" ")[0]) for text in texts(await everything(stalled, broker))]
            assert numbers == sorted(set(numbers))
            assert 0 < len(numbers) < total
            assert (numbers[-1] == total - 1) == (policy != "drop_newest")


@pytest.mark.parametrize("policy", LOSSY)
async def test_what_a_subscriber_gets_and_what_it_is_told_it_missed_is_all_that_was_published(policy: str) -> None:
    async with running(**with_policy(policy)) as broker:
        stalled = await stalled_reader(broker, f"{JSON}, news")
        published = await block(broker, "news")
        for burst in (3, 200, 1, 77):
            publish(broker, "news", *(f"{published + index} ".ljust(900, ".") for index in range(burst)))
            published += burst
            if burst != 200:
                await stalled.read_more()
                await turns()
        received = await everything(stalled, broker)
        numbers, missed = counted(events(received))
        assert missed > 0
        assert len(numbers) + missed == published
        assert numbers == sorted(set(numbers))
        publish(broker, "news", f"{published} ")
        assert (await stalled.event())["text"] == f"{published} "


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_each_stall_is_told_by_its_own_gap_where_it_was(policy: str) -> None:
    async with running(**with_policy(policy)) as broker:
        stalled = await stalled_reader(broker, f"{JSON}, news")
        for _ in range(2):
            published = await block(broker, "news")
            publish(broker, "news", *(f"{published + index} ".ljust(900, ".") for index in range(100)))
            received = events(await everything(stalled, broker))
            (place,) = [index for index, event in enumerate(received) if event["type"] == "gap"]
            before, _ = counted(received[:place])
            after, _ = counted(received[place + 1 :])
            assert before == list(range(len(before)))
            skipped = received[place]["missed"]
            first_after = after[0] if after else published + 100
            assert first_after == len(before) + skipped
            assert after == list(range(first_after, published + 100))


async def test_a_stalled_reader_of_a_latest_channel_gets_the_last_value_of_each_key() -> None:
    async with running(**{**SMALL, "channels": {"key.*": {"queue": "latest"}}}) as broker:
        stalled = await stalled_reader(broker, ", ".join([JSON, *(f"key.{key}" for key in range(8)), "fill"]))
        await block(broker, "key.0")
        for round_ in range(300):
            for key in range(8):
                publish(broker, f"key.{key}", f"{round_} of {key}")
        received = events(await everything(stalled, broker))
        last = {event["channel"]: event["text"] for event in received if event["type"] == "message"}
        assert last == {f"key.{key}": f"299 of {key}" for key in range(8)}
        # Whatever was begun when it stalled, and one of each.
        tail = [event for event in received if event["type"] == "message" and " of " in event["text"]]
        assert len(tail) == 8


async def test_the_third_cut_within_a_minute_says_come_back_later() -> None:
    async with running(**with_policy("disconnect")) as broker:
        codes = []
        for _ in range(4):
            stalled = await stalled_reader(broker, "news|recv")
            await block(broker, "news")
            publish(broker, "news", *("x" * 900 for _ in range(100)))
            while await stalled.read_more():
                pass
            codes.append(int.from_bytes(frames(bytes(stalled.input))[-1][1][:2]))
            stalled.close()
            await wait_until(lambda: broker.reactor.connections == 0)
        assert codes == [4208, 4208, 4108, 4108]


@pytest.mark.parametrize("policy", LOSSY)
async def test_answers_to_a_stalled_reader_of_a_lossy_channel_do_not_cut_it(policy: str) -> None:
    async with running(**with_policy(policy)) as broker:
        stalled = await stalled_reader(broker, f"{JSON}, news")
        await block(broker, "news")
        publish(broker, "news", *("7 ".ljust(900, ".") for _ in range(100)))
        for number in range(10):
            await stalled.command(type="ping", id=number)
        await wait_until(lambda: broker.counter("n_messages_received") == 10)
        await turns()
        received = events(await everything(stalled, broker))
        assert [event["id"] for event in received if event["type"] == "ack"] == list(range(10))


# Healthy readers.


@ONE_LOOP
async def test_twenty_thousand_tiny_messages_at_once_cut_nobody_who_reads() -> None:
    async with running() as broker:
        readers = [await broker.open("news|recv") for _ in range(50)]
        publish(broker, "news", *range(20_000))
        expected = b"".join(bytes([0x81, len(text)]) + text for text in (b"%d" % number for number in range(20_000)))

        async def receive(client: Client) -> None:
            assert await client.read(len(expected)) == expected

        await asyncio.gather(*map(receive, readers))
        assert broker.reactor.connections == 50
        assert broker.counter("n_written") == 20_000 * 50
        assert broker.counter("n_writes") < 20_000 * 50 / 100


async def test_the_largest_message_reaches_a_reader_that_keeps_up_through_a_queue_of_the_same_size() -> None:
    async with running(**SMALL) as broker:
        raw, enveloped = await broker.open("news|recv"), await broker.open_json("news")
        for _ in range(3):
            publish(broker, "news", "\x01" * 65_536)
            assert await raw.text() == "\x01" * 65_536
            assert (await enveloped.event())["text"] == "\x01" * 65_536


async def test_a_peer_that_resets_in_the_middle_of_a_fan_out_takes_nobody_along() -> None:
    async with running(**with_policy("disconnect")) as broker:
        clients = [await broker.open("news|recv") for _ in range(9)]
        for index in (0, 4, 8):
            clients[index].reset()
        for start in range(0, 400, 40):
            publish(broker, "news", *(str(number).ljust(900, ".") for number in range(start, start + 40)))
            for index in (1, 2, 3, 5, 6, 7):
                texts_read = await read_text(clients[index], 40)
                assert [int(text.rstrip(".")) for text in texts_read] == list(range(start, start + 40))
        await wait_until(lambda: broker.reactor.connections == 6)
        assert broker.closed_by_cause() == {"peer_gone": 3}


async def test_messages_queued_before_an_unsubscribe_come_before_its_answer() -> None:
    async with running(**SMALL) as broker:
        stalled = await stalled_reader(broker, f"{JSON}, news")
        published = await block(broker, "news")
        publish(broker, "news", *(f"{published + index} " for index in range(5)))
        await stalled.command(type="unsubscribe", channel="news", id=1)
        await wait_until(lambda: broker.counter("g_subscriptions") == 0)
        received = events(await everything(stalled, broker))
        assert received[-1]["type"] == "unsubscribed"
        assert counted(received[:-1]) == (list(range(published + 5)), 0)


# Memory.


async def test_over_the_workers_memory_the_stalled_reader_with_the_oldest_frame_is_cut_and_no_other() -> None:
    budget = 1 << 20
    settings = {**SMALL, "limits_send_queue_messages": 10_000, "limits_send_queue_bytes": budget}
    async with running(**settings, limits_memory_bytes=budget) as broker:
        old = await stalled_reader(broker, "old|recv")
        fine = await broker.open("fine|recv")
        await block(broker, "old")
        young = await stalled_reader(broker, "young|recv")
        started = await block(broker, "young", 2)
        while broker.worker.hub.memory < budget // 2:
            publish(broker, "old", "o" * 900)
        number = 0
        while not broker.counter("n_memory_evictions"):
            publish(broker, "young", f"{started + number} ".ljust(900, "."))
            number += 1
            if number % 50 == 0:
                publish(broker, "fine", str(number))
                assert await fine.text() == str(number)
            assert broker.worker.hub.memory <= budget
        while await old.read_more():
            pass
        opcode, payload = frames(bytes(old.input))[-1]
        assert (opcode, payload[:2]) == (CLOSE, (4107).to_bytes(2))
        received = texts(await everything(young, broker))
        assert [int(text.split(" ")[0]) for text in received] == list(range(started + number))
        assert broker.counter("n_memory_evictions") == 1


@ONE_LOOP
async def test_a_crowd_of_stalled_readers_stays_within_the_workers_memory_and_hurts_nobody() -> None:
    budget = 2 << 20
    settings = {**SMALL, "limits_send_queue_messages": 10_000, "limits_send_queue_bytes": 1 << 20}
    async with running(**settings, limits_memory_bytes=budget) as broker:
        for number in range(150):
            await stalled_reader(broker, f"own.{number}|recv")
        fine = [await broker.open("fine|recv") for _ in range(5)]
        peak = 0
        for step in range(120):
            for number in range(150):
                publish(broker, f"own.{number}", "x" * 900)
                peak = max(peak, broker.worker.hub.memory)
            publish(broker, "fine", step)
            for client in fine:
                assert await client.text() == str(step)
        assert peak <= budget + 2000
        assert 0 < broker.counter("n_memory_evictions") <= 150
        assert broker.closed_by_cause().keys() <= {"memory"}
        for client in fine:
            await client.caught_up()


async def test_the_kernel_holds_little_for_a_reader_that_has_stalled() -> None:
    async with running(limits_notsent_lowat_bytes=65_536) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        publish(broker, "news", *("x" * 900 for _ in range(500)))
        await turns()
        with server_side(stalled) as ours:
            unsent = array.array("i", [0])
            fcntl.ioctl(ours.fileno(), SIOCOUTQNSD, unsent)
            memory = struct.unpack("9I", ours.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[WMEM_QUEUED]
        assert unsent[0] < 2 * 65_536 + 4096
        assert memory < 4 * 65_536
        assert broker.counter("g_queued") >= 500


# The Close of a slow reader.


async def test_a_slow_readers_close_waits_for_the_frame_that_was_begun_and_is_followed_by_fin() -> None:
    async with running(**with_policy("disconnect")) as broker:
        for size in (100, 5000, 60_000):
            stalled = await stalled_reader(broker, "news|recv")
            while not broker.counter("g_blocked"):
                publish(broker, "news", "x" * size)
                await turns(2)
            publish(broker, "news", *("x" * size for _ in range(60)))
            await wait_until(lambda: broker.counter("g_subscriptions") == 0)
            data = bytearray()
            while await stalled.read_more():
                data += stalled.input
                stalled.input.clear()
            *messages, (opcode, payload) = frames(bytes(data))
            assert {text for _, text in messages} == {b"x" * size}
            assert opcode == CLOSE
            assert int.from_bytes(payload[:2]) in (4208, 4108)
            stalled.close()
            await wait_until(lambda: broker.reactor.connections == 0)


async def test_a_slow_reader_that_answers_the_close_is_let_go_at_once() -> None:
    async with running(**with_policy("disconnect")) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        publish(broker, "news", *("x" * 900 for _ in range(100)))
        while await stalled.read_more():
            pass
        await stalled.send(close(1000))
        stalled.half_close()
        await broker.ended_for("too_slow")


async def test_a_slow_reader_that_never_reads_its_close_is_reset_when_time_is_up() -> None:
    async with running(**with_policy("disconnect"), limits_close_seconds=5) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        publish(broker, "news", *("x" * 900 for _ in range(100)))
        await wait_until(lambda: broker.counter("g_subscriptions") == 0)
        await turns()
        assert broker.reactor.connections == 1
        broker.advance(4.5)
        await turns()
        assert broker.reactor.connections == 1
        broker.advance(1)
        await broker.ended_for("too_slow")
        assert await stalled.was_reset()


async def test_a_slow_reader_that_keeps_its_end_open_is_let_go_after_the_linger() -> None:
    async with running(**with_policy("disconnect"), limits_linger_seconds=2) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        publish(broker, "news", *("x" * 900 for _ in range(100)))
        while await stalled.read_more():
            pass
        await turns()
        assert broker.reactor.connections == 1
        broker.advance(2.2)
        await broker.ended_for("too_slow")


@pytest.mark.parametrize("policy", ["disconnect", *LOSSY])
async def test_a_reader_that_takes_nothing_for_too_long_is_cut_whatever_its_policy(policy: str) -> None:
    async with running(**with_policy(policy), limits_write_seconds=5, limits_ping_seconds=1000) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        await block(broker, "news")
        broker.advance(4.5)
        await turns()
        assert broker.counter("g_subscriptions") == 1
        broker.advance(1)
        await wait_until(lambda: broker.counter("g_subscriptions") == 0)
        broker.advance(10)
        await broker.ended_for("write_timeout")
        assert await stalled.was_reset()


async def test_binary_and_text_keep_their_kind_through_a_stall() -> None:
    async with running(**SMALL) as broker:
        stalled = await stalled_reader(broker, "news|recv")
        published = await block(broker, "news")
        for index in range(20):
            broker.reactor.publish(0, b"news", 1 + index % 2, b"payload", b"", True)
        received = frames(await everything(stalled, broker))
        assert received[published:] == [(TEXT, b"payload"), (BINARY, b"payload")] * 10


# Coming and going.


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@ONE_LOOP
@pytest.mark.timeout(300)
async def test_twenty_thousand_connections_that_come_and_go_leave_no_memory_behind() -> None:
    async with running(channels={"latest.*": {"queue": "latest"}}) as broker:

        async def visit(number: int) -> None:
            channels = [f"{name}.{number * 7 % 97}" for name in ("news", "latest", "own")][: 1 + number % 3]
            offer = ", ".join([JSON, *channels] if number % 2 else [f"{channel}|recv" for channel in channels])
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            client = Client(sock)
            await client.loop.sock_connect(sock, ("127.0.0.1", broker.port))
            answer = await client.ask(request(offer=offer))
            assert answer.status == 101
            publish(broker, channels[0], "x" * (number % 2000))
            if number % 5 == 0:
                client.reset()
            else:
                client.close()

        async def visits(numbers: Iterable[int]) -> None:
            await asyncio.gather(*map(visit, numbers))

        async def crowd(start: int, size: int) -> None:
            for first in range(start, start + size, 100):
                await visits(range(first, first + 100))
            await wait_until(lambda: broker.reactor.connections == 0)

        await crowd(0, 4000)
        before = resident_bytes()
        await crowd(4000, 16_000)
        # AddressSanitizer keeps what was freed for a while, 256 MiB at most.
        allowed = (300 if NATIVE_BUILD == "asan" else 4) << 20
        assert resident_bytes() - before < allowed
        assert broker.worker.hub.names() == []
        assert broker.counter("n_opened") == 20_000
        assert broker.counter("g_memory_bytes") < 1000
