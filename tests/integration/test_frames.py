"""Frames over a real socket (RFC 6455 section 5): what a rule-breaker is told, and what deadlines a client has."""

import pytest

from broker.native._frames import FAILURES
from tests.client_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, header
from tests.integration.harness import Broker, running, turns, wait_until

LIMIT = 65536
BEGUN = frame(TEXT, b"begun", fin=False)

# For each word of FAILURES, what earns it.
RULE_BREAKERS: dict[str, list[bytes]] = {
    "frame_unmasked": [frame(opcode, b"", mask=None) for opcode in (TEXT, BINARY, CLOSE, PING, PONG)]
    + [BEGUN + frame(CONTINUATION, b"", mask=None)],
    "frame_reserved_bits": [frame(TEXT, b"a", rsv=rsv) for rsv in (1, 2, 4)] + [frame(PING, b"", rsv=4)],
    "frame_opcode": [frame(opcode, b"") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
    "control_fragmented": [frame(PING, b"", fin=False), BEGUN + frame(CLOSE, b"", fin=False)],
    "control_too_long": [frame(PING, b"a" * 126), header(CLOSE, 65536)],
    "length_most_significant_bit": [
        header(BINARY, 2**63),
        header(BINARY, 2**64 - 1),
        BEGUN + header(CONTINUATION, 2**63),
    ],
    "length_not_minimal": [
        frame(TEXT, b"a" * 125, length_bytes=2),
        frame(TEXT, b"", length_bytes=8),
        header(TEXT, 65535, length_bytes=8),
    ],
    "continuation_unexpected": [frame(CONTINUATION, b"a"), BEGUN + frame(CONTINUATION, b"") * 2],
    "continuation_expected": [BEGUN + frame(TEXT, b"a"), BEGUN + frame(BINARY, b"a", fin=False)],
    "text_not_utf8": [
        frame(TEXT, b"\xff"),
        frame(TEXT, b"\xc0\x80"),
        frame(TEXT, b"\xed\xa0\x80"),
        frame(TEXT, b"\xf4\x90\x80\x80"),
        frame(TEXT, b"cut \xe2\x82"),
        frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"a"),
    ],
    "message_too_big": [
        header(TEXT, LIMIT + 1),
        header(BINARY, 2**63 - 1),
        BEGUN + header(CONTINUATION, LIMIT - 4),
        BEGUN + header(CONTINUATION, 2**63 - 1),
    ],
    "too_many_fragments": [
        frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 1024,
        frame(BINARY, b"a", fin=False) + frame(CONTINUATION, b"a", fin=False) * 1024,
    ],
    "close_body": [frame(CLOSE, b"\x03")],
    "close_code": [close(code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)],
    "close_reason_not_utf8": [close(1000, b"\xff"), close(1000, b"cut \xe2\x82")],
}
CASES = [(word, index) for word, cases in RULE_BREAKERS.items() for index in range(len(cases))]


def test_every_way_to_break_the_frame_rules_is_tried_below() -> None:
    assert set(RULE_BREAKERS) == {word for _, word, _ in FAILURES} - {"none", "no_memory"}


@pytest.mark.parametrize(("word", "index"), CASES)
async def test_who_breaks_a_rule_is_told_which_and_nobody_else_notices(broker: Broker, word: str, index: int) -> None:
    witness = await broker.open("news")
    breaker = await broker.open("elsewhere|send")
    code, text = next((code, text) for code, each, text in FAILURES if each == word)
    # What follows the offence is not looked at, not even a proper Close (RFC 6455 section 7.1.7).
    await breaker.send(RULE_BREAKERS[word][index] + frame(TEXT, b"too late") + close(1000))
    assert await breaker.close_frame() == (code, f"code={word};{text}")
    assert await breaker.closed() == b""
    breaker.close()
    await broker.ended_for(word)
    await witness.caught_up()


async def test_in_the_json_format_a_rule_breaker_is_told_the_same(broker: Broker) -> None:
    client = await broker.open_json("news")
    await client.send(frame(TEXT, b"{}", mask=None))
    assert await client.close_frame() == (1002, "code=frame_unmasked;frame is not masked")
    assert await client.closed() == b""


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, LIMIT])
async def test_messages_up_to_the_limit_come_back_as_they_went(broker: Broker, opcode: int, size: int) -> None:
    client = await broker.open("news")
    payload = bytes(65 + i % 26 for i in range(size))
    await client.send(frame(opcode, payload))
    assert await client.frame() == (opcode, payload)


async def test_a_message_in_a_thousand_fragments_arrives_whole(broker: Broker) -> None:
    client = await broker.open("news")
    text = "€" * 341 + "!"
    pieces = [bytes([byte]) for byte in text.encode()]
    assert len(pieces) == 1024
    await client.send(
        frame(TEXT, pieces[0], fin=False)
        + b"".join(frame(CONTINUATION, piece, fin=False) for piece in pieces[1:-1])
        + frame(CONTINUATION, pieces[-1])
    )
    assert await client.text() == text


@pytest.mark.parametrize("payload", [b"", b"a", b"\x00\xff" * 60, b"x" * 125])
async def test_a_ping_is_answered_with_its_own_payload(broker: Broker, payload: bytes) -> None:
    client = await broker.open("news")
    await client.send(frame(PING, payload))
    assert await client.pong() == payload


async def test_pings_and_pongs_between_fragments_do_not_disturb_the_message(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"one ", fin=False) + frame(PING, b"1"))
    assert await client.pong() == b"1"
    await client.send(frame(PONG, b"unasked") + frame(CONTINUATION, b"message") + frame(PONG))
    assert await client.text() == "one message"
    await client.caught_up()


async def stall(broker: Broker, offer: str) -> tuple[int, int]:
    """Publishes to `news` until whoever reads nothing is blocked; returns how many messages of which size it took."""
    publisher = await broker.open("news|send")
    size = 16384
    blocked_at = 0
    for count in range(1, 60):
        await publisher.send(frame(BINARY, b"x" * size))
        await publisher.caught_up()
        if broker.counter("g_blocked") and not blocked_at:
            blocked_at = count
        if blocked_at and count == blocked_at + 10:
            return count, size
    raise AssertionError(f"{offer} reads nothing and was never blocked")


async def test_a_ping_flood_from_a_client_that_reads_nothing_costs_no_memory(broker: Broker) -> None:
    flooder = await broker.connect(receive_buffer=4096)
    await flooder.open("news|recv")
    count, size = await stall(broker, "flooder")
    await flooder.send(frame(PING, b"%125d" % 0))
    await turns()
    before = broker.worker.hub.memory
    for first in range(1, 5_001, 500):
        await flooder.send(b"".join(frame(PING, b"%125d" % i) for i in range(first, first + 500)))
    await wait_until(lambda: broker.counter("n_pongs_coalesced") >= 5_000)
    assert broker.worker.hub.memory - before < 1024
    seen: list[bytes] = []
    messages = 0
    while not seen or int(seen[-1]) < 5_000:
        opcode, payload = await flooder.frame()
        messages += opcode == BINARY and len(payload) == size
        if opcode == PONG:
            seen.append(payload)
    assert len(seen) == 1, "only the last ping is answered"
    while messages < count:
        messages += (await flooder.frame()).opcode == BINARY


# Deadlines.


async def test_a_message_that_is_never_completed_is_given_up(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(BEGUN)
    await client.caught_up()
    broker.advance(20)
    await client.send(frame(CONTINUATION, b"more", fin=False))  # progress does not move the deadline
    await client.caught_up()
    broker.advance(10.1)
    assert await client.close_frame() == (4118, "code=message_timeout;a message was begun and not completed in time")
    assert await client.closed() == b""
    client.close()
    await broker.ended_for("message_timeout")


async def test_a_header_alone_begins_a_message(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(header(TEXT, 1000)[:3])
    await broker.has_read(broker.counter("n_bytes_read") + 3)
    broker.advance(30.1)
    code, _ = await client.close_frame()
    assert code == 4118


@pytest.mark.parametrize("broker", [{"limits_ping_seconds": 1000.0}], indirect=True)
async def test_a_message_completed_in_time_stops_its_deadline(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(BEGUN)
    await client.caught_up()
    broker.advance(20)
    await client.send(frame(CONTINUATION, b""))
    assert await client.text() == "begun"
    broker.advance(20)
    await client.caught_up()
    assert broker.closed_by_cause() == {}


NO_JITTER = [{"limits_ping_jitter": 0.0}]


@pytest.mark.parametrize("broker", NO_JITTER, indirect=True)
async def test_a_client_that_answers_no_ping_is_told_and_cut(broker: Broker) -> None:
    client = await broker.open("news")
    broker.advance(25.1)
    assert await client.frame() == (PING, b"")
    broker.advance(9)
    await turns()
    assert broker.counter("g_sessions") == 1
    broker.advance(1.2)
    assert await client.close_frame() == (4218, "code=pong_timeout;no answer to a ping")
    assert await client.closed() == b""
    client.close()
    await broker.ended_for("pong_timeout")


@pytest.mark.parametrize("broker", NO_JITTER, indirect=True)
@pytest.mark.parametrize("sign", [frame(PONG), frame(TEXT, b"hello"), frame(TEXT, b"begun", fin=False)[:1]])
async def test_any_byte_is_a_sign_of_life(broker: Broker, sign: bytes) -> None:
    client = await broker.open("other|send")
    broker.advance(25.1)
    assert await client.frame() == (PING, b"")
    read = broker.counter("n_bytes_read")
    await client.send(sign)
    await broker.has_read(read + 1)
    broker.advance(11)
    await turns()
    assert broker.counter("g_sessions") == 1


@pytest.mark.parametrize("broker", NO_JITTER, indirect=True)
async def test_a_page_sees_each_ping_as_an_event_in_the_same_write(broker: Broker) -> None:
    client = await broker.open_json("news")
    for _ in range(3):
        writes = broker.counter("n_writes")
        broker.advance(25.1)
        assert await client.frame() == (PING, b"")
        assert await client.event() == {"type": "ping"}
        assert broker.counter("n_writes") == writes + 1
        await client.send(frame(PONG))
        await client.caught_up()


async def test_pings_are_spread_over_time(broker: Broker) -> None:
    clients = [await broker.open("news") for _ in range(20)]
    broker.advance(25)
    await turns()
    pinged = 0
    for client in clients:
        await client.send(frame(PING, b"mine"))
        opcode, payload = await client.frame()
        if (opcode, payload) == (PING, b""):
            pinged += 1
            assert await client.pong() == b"mine"
    assert 0 < pinged < 20


async def test_a_reader_that_makes_no_progress_is_told_when_it_reads_again(broker: Broker) -> None:
    reader = await broker.connect(receive_buffer=4096)
    await reader.open("news|recv")
    count, size = await stall(broker, "reader")
    broker.advance(30.1)
    messages = 0
    while (got := await reader.frame()).opcode == BINARY:
        messages += len(got.payload) == size
    assert messages < count, "what was queued behind is given up"
    assert got == (CLOSE, (4208).to_bytes(2) + b"code=too_slow;the connection took its messages too slowly")
    assert await reader.closed() == b""
    reader.close()
    await wait_until(lambda: broker.closed_by_cause().get("write_timeout") == 1)


async def test_a_reader_that_never_reads_again_is_reset(broker: Broker) -> None:
    reader = await broker.connect(receive_buffer=4096)
    await reader.open("news|recv")
    await stall(broker, "reader")
    broker.advance(30.1)
    await turns()
    broker.advance(5.1)
    await wait_until(lambda: broker.closed_by_cause() == {"write_timeout": 1})
    assert await reader.was_reset()


async def test_a_reader_that_takes_a_little_now_and_then_is_kept() -> None:
    async with running(limits_write_seconds=10.0) as broker:
        reader = await broker.connect(receive_buffer=4096)
        await reader.open("news|recv")
        await stall(broker, "reader")
        for _ in range(5):
            written = broker.counter("n_bytes_written")
            while broker.counter("n_bytes_written") == written:
                await reader.read(8192)
                await turns(3)
            broker.advance(6)
        assert broker.closed_by_cause() == {}
