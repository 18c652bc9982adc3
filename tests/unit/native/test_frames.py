"""The frame parser, rule by rule (RFC 6455 sections 5 and 7.4) and flood by flood. No socket, no clock."""

import struct
from collections.abc import Iterable

import pytest

from broker.native._frames import FAILURES, PARSER_BYTES, Event, Frames, encode_frame
from tests.client_frames import BINARY, CLOSE, CONTINUATION, MASK, PING, PONG, TEXT, close, frame, header

LIMIT = 65536
CODES = {word: code for code, word, _ in FAILURES}
OPCODES = (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG)


def parse(*pieces: bytes, max_message_bytes: int = LIMIT, max_fragments: int = 1024) -> list[Event]:
    frames = Frames(max_message_bytes, max_fragments)
    return [event for piece in pieces for event in frames.receive_data(piece)]


def bytewise(data: bytes, **limits: int) -> list[Event]:
    return parse(*(data[at : at + 1] for at in range(len(data))), **limits)


def fails(data: bytes, code: int, word: str, **limits: int) -> None:
    """It fails with this word and nothing else, whole, byte by byte (up to the failure), and for good."""
    frames = Frames(limits.get("max_message_bytes", LIMIT), limits.get("max_fragments", 1024))
    assert frames.receive_data(data) == [("failed", word)]
    assert CODES[word] == code
    assert frames.receive_data(frame(TEXT, b"later")) == [("failed", word)]
    assert frames.held_bytes == 0
    assert not frames.in_message
    assert bytewise(data, **limits)[0] == ("failed", word)


def started(opcode: int = TEXT, payload: bytes = b"begun") -> bytes:
    return frame(opcode, payload, fin=False)


# What is accepted


def test_the_standards_own_examples_are_understood() -> None:  # RFC 6455 section 5.7
    assert parse(bytes.fromhex("818537fa213d7f9f4d5158")) == [("text", b"Hello")]
    assert parse(bytes.fromhex("8a8537fa213d7f9f4d5158")) == [("pong", b"Hello")]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_of_any_size_arrives_whole(size: int, opcode: int) -> None:
    payload = (b"0123456789abcdefghijklmnopqrstuvwxyz" * (size // 36 + 1))[:size]
    kind = "text" if opcode == TEXT else "binary"
    assert parse(frame(opcode, payload)) == [(kind, payload)]
    assert parse(frame(opcode, payload), frame(opcode, payload)) == [(kind, payload)] * 2


def test_every_byte_value_survives_every_mask_phase() -> None:
    payload = bytes(range(256)) * 2
    data = frame(BINARY, payload, mask=b"\x01\x80\xfe\x00")
    for cut in range(len(data) + 1):
        assert parse(data[:cut], data[cut:]) == [("binary", payload)]


def test_several_messages_in_one_read_are_all_delivered_in_order() -> None:
    data = frame(TEXT, b"one") + frame(PING, b"?") + frame(BINARY, b"\xff") + frame(TEXT, b"")
    assert parse(data) == [("text", b"one"), ("ping", b"?"), ("binary", b"\xff"), ("text", b"")]
    assert bytewise(data) == parse(data)


def test_a_fragmented_message_is_put_together() -> None:
    data = started(payload=b"Hel") + frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"lo")
    assert parse(data) == [("text", b"Hello")]
    assert bytewise(data) == [("text", b"Hello")]
    assert parse(started(BINARY, b"") + frame(CONTINUATION, b"\xfe")) == [("binary", b"\xfe")]
    assert parse(started(TEXT, b"") + frame(CONTINUATION)) == [("text", b"")]


def test_nothing_to_read_changes_nothing() -> None:
    frames = Frames(LIMIT, 8)
    assert frames.receive_data(b"") == []
    frames.receive_data(started()[:3])
    assert frames.receive_data(b"") == []
    assert frames.receive_data(started()[3:] + frame(CONTINUATION)) == [("text", b"begun")]


# Framing: F1 to F10


@pytest.mark.parametrize("opcode", OPCODES)
def test_f1_an_unmasked_frame_is_refused_whatever_its_opcode(opcode: int) -> None:
    before = started() if opcode == CONTINUATION else b""
    fails(before + frame(opcode, b"\x03\xe8", mask=None), 1002, "frame_unmasked")


@pytest.mark.parametrize("rsv", [0b100, 0b010, 0b001, 0b111])
@pytest.mark.parametrize("opcode", OPCODES)
def test_f2_a_reserved_bit_is_refused_since_no_extension_was_agreed(opcode: int, rsv: int) -> None:
    before = started() if opcode == CONTINUATION else b""
    fails(before + frame(opcode, rsv=rsv), 1002, "frame_reserved_bits")


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF])
def test_f3_a_reserved_opcode_is_refused(opcode: int) -> None:
    fails(frame(opcode, b"x"), 1002, "frame_opcode")
    fails(started() + frame(opcode, b"x"), 1002, "frame_opcode")


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_f4_a_control_frame_is_short_and_whole(opcode: int) -> None:
    fails(frame(opcode, b"", fin=False), 1002, "control_fragmented")
    fails(frame(opcode, bytes(126)), 1002, "control_too_long")
    fails(header(opcode, 2**62), 1002, "control_too_long")


def test_f4_a_control_frame_of_125_bytes_is_the_longest() -> None:
    payload = bytes(range(125))
    for opcode, kind in ((PING, "ping"), (PONG, "pong")):
        assert parse(frame(opcode, payload)) == [(kind, payload)]
        assert bytewise(frame(opcode, payload)) == [(kind, payload)]
    assert bytewise(close(1000, b"r" * 123)) == [("close", 1000, b"r" * 123)]


@pytest.mark.parametrize("length", [2**63, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_f5_a_length_with_its_top_bit_set_is_refused(length: int, opcode: int) -> None:
    fails(header(opcode, length), 1002, "length_most_significant_bit")


@pytest.mark.parametrize(("size", "length_bytes"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
def test_f5_a_length_that_is_not_minimal_is_refused(size: int, length_bytes: int) -> None:
    fails(frame(BINARY, bytes(size), length_bytes=length_bytes), 1002, "length_not_minimal")


def test_f6_a_continuation_without_a_message_is_refused() -> None:
    for fin in (True, False):
        fails(frame(CONTINUATION, b"x", fin=fin), 1002, "continuation_unexpected")
    assert parse(frame(TEXT, b"done") + frame(CONTINUATION)) == [
        ("text", b"done"),
        ("failed", "continuation_unexpected"),
    ]
    assert parse(frame(PING) + frame(CONTINUATION)) == [("ping", b""), ("failed", "continuation_unexpected")]
    whole = started() + frame(CONTINUATION)
    assert parse(whole + frame(CONTINUATION)) == [("text", b"begun"), ("failed", "continuation_unexpected")]


@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_f6_a_new_message_inside_an_open_one_is_refused(opcode: int, fin: bool) -> None:
    fails(started() + frame(opcode, b"x", fin=fin), 1002, "continuation_expected")
    fails(started(payload=b"") + frame(opcode, b"", fin=fin), 1002, "continuation_expected")


def test_f7_control_frames_between_fragments_disturb_nothing() -> None:
    euro = "€".encode()  # the fragments cut it in two
    data = (
        started(payload=b"5 " + euro[:1])
        + frame(PING, b"\xff\xfe are not UTF-8 and need not be", mask=b"\xaa\xbb\xcc\xdd")
        + frame(CONTINUATION, euro[1:2], fin=False)
        + frame(PONG, b"")
        + frame(CONTINUATION, euro[2:])
    )
    expected = [("ping", b"\xff\xfe are not UTF-8 and need not be"), ("pong", b""), ("text", b"5 " + euro)]
    assert parse(data) == expected
    assert bytewise(data) == expected


def test_f7_a_ping_between_fragments_is_delivered_before_the_message_ends() -> None:
    frames = Frames(LIMIT, 8)
    assert frames.receive_data(started() + frame(PING, b"now")) == [("ping", b"now")]
    assert frames.in_message


def test_f8_ping_and_pong_payloads_are_delivered_unchanged() -> None:
    for payload in (b"", b"\x00", b"\xff" * 125):
        assert parse(frame(PING, payload) + frame(PONG, payload)) == [("ping", payload), ("pong", payload)]


NOT_UTF8 = {
    "continuation byte first": b"\x80",
    "continuation byte after a character": "é".encode() + b"\xbf",
    "two bytes overlong": b"\xc0\x80",
    "two bytes overlong, last": b"\xc1\xbf",
    "three bytes overlong": b"\xe0\x80\x80",
    "three bytes overlong, last": b"\xe0\x9f\xbf",
    "four bytes overlong": b"\xf0\x80\x80\x80",
    "four bytes overlong, last": b"\xf0\x8f\xbf\xbf",
    "first surrogate": b"\xed\xa0\x80",
    "last surrogate": b"\xed\xbf\xbf",
    "surrogate pair": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "lead byte F5": b"\xf5\x80\x80\x80",
    "lead byte FF": b"\xff",
    "ASCII in place of a continuation": b"\xe2\x82a",
    "lead byte in place of a continuation": b"\xf0\x9f\xf0\x9f",
}
BOUNDARIES = (
    "\x00\x7f\x80\u07ff\u0800\u0fff\u1000\ucfff\ud000\ud7ff\ue000\uffff\U00010000\U0003ffff\U00100000\U0010ffff"
)


def test_f9_the_first_and_last_character_of_every_length_is_accepted() -> None:
    for text in (BOUNDARIES, *(f"{'x' * pad}{char}" for char in BOUNDARIES for pad in range(20))):
        payload = text.encode()
        assert parse(frame(TEXT, payload)) == [("text", payload)]
    payload = BOUNDARIES.encode()
    for cut in range(len(payload) + 1):  # over two fragments, and over two reads
        data = started(payload=payload[:cut]) + frame(CONTINUATION, payload[cut:])
        assert parse(data) == [("text", payload)]
        assert parse(frame(TEXT, payload)[: 6 + cut], frame(TEXT, payload)[6 + cut :]) == [("text", payload)]


@pytest.mark.parametrize("pad", [0, 1, 15, 16, 40])
@pytest.mark.parametrize("bad", NOT_UTF8.values(), ids=NOT_UTF8)
def test_f9_text_that_is_not_utf8_is_refused_wherever_it_is_cut(bad: bytes, pad: int) -> None:
    payload = b"." * pad + bad + b"....."
    fails(frame(TEXT, payload), 1007, "text_not_utf8")
    for cut in range(len(payload) + 1):
        fails(started(payload=payload[:cut]) + frame(CONTINUATION, payload[cut:]), 1007, "text_not_utf8")


def test_f9_text_that_ends_inside_a_character_is_refused_at_its_end() -> None:
    for char in ("é", "€", "😀"):
        for cut in range(1, len(char.encode())):
            truncated = b"ok" + char.encode()[:cut]
            fails(frame(TEXT, truncated), 1007, "text_not_utf8")
            fails(started(payload=truncated) + frame(CONTINUATION), 1007, "text_not_utf8")
            open_message = started(payload=truncated)
            assert parse(open_message) == []  # may still become UTF-8


def test_f9_text_fails_at_the_first_byte_that_cannot_become_utf8() -> None:
    for bad in (b"\xff", b"\xc0", b"\xed\xa0", b"\xe0\x9f", b"\xf0\x8f", b"\xf4\x90", b"\xe2a"):
        data = header(TEXT, 1000) + bytes(byte ^ MASK[index] for index, byte in enumerate(bad))
        assert parse(data[:-1]) == []
        assert parse(data) == [("failed", "text_not_utf8")]


def test_f9_ascii_inside_a_character_that_fragments_cut_is_refused_at_once() -> None:
    opened = started(payload=b"\xe2\x82")
    fails(opened + frame(CONTINUATION, b"abc", fin=False), 1007, "text_not_utf8")
    fails(opened + frame(CONTINUATION, b"abc", fin=False) + frame(CONTINUATION, b"\xac"), 1007, "text_not_utf8")


def test_f9_binary_messages_and_the_text_after_them_are_free_of_each_other() -> None:
    assert parse(frame(BINARY, b"\xe2\x82") + frame(TEXT, b"a")) == [("binary", b"\xe2\x82"), ("text", b"a")]


def test_f10_the_message_limit_is_inclusive() -> None:
    assert parse(frame(BINARY, bytes(LIMIT))) == [("binary", bytes(LIMIT))]
    fails(frame(BINARY, bytes(LIMIT + 1)), 1009, "message_too_big")
    assert parse(frame(TEXT, b""), max_message_bytes=0) == [("text", b"")]
    fails(frame(TEXT, b"a"), 1009, "message_too_big", max_message_bytes=0)
    half = started(BINARY, bytes(LIMIT // 2))
    assert parse(half + frame(CONTINUATION, bytes(LIMIT // 2))) == [("binary", bytes(LIMIT))]
    fails(half + header(CONTINUATION, LIMIT // 2 + 1), 1009, "message_too_big")


def test_f10_the_fragment_limit_is_inclusive_and_counts_empty_fragments() -> None:
    for payload in (b"", b"x"):
        three = started(payload=payload) + frame(CONTINUATION, payload, fin=False) + frame(CONTINUATION, payload)
        assert parse(three, max_fragments=3) == [("text", payload * 3)]
        fails(three, 1009, "too_many_fragments", max_fragments=2)
        assert parse(three + three, max_fragments=3) == [("text", payload * 3)] * 2  # the count begins anew


# Closing: C1


VALID_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4500, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535]


def test_c1_every_close_code_that_may_travel_is_accepted() -> None:
    for code in VALID_CODES:
        assert parse(close(code, "tschüß".encode())) == [("close", code, "tschüß".encode())]
        assert parse(close(code)) == [("close", code, b"")]


@pytest.mark.parametrize("code", INVALID_CODES)
def test_c1_a_close_code_that_may_not_travel_is_refused(code: int) -> None:
    fails(close(code), 1002, "close_code")
    fails(close(code, b"reason"), 1002, "close_code")
    fails(close(code, b"\xff"), 1007, "close_reason_not_utf8")  # both wrong: as websockets decides it


def test_c1_only_the_listed_close_codes_are_valid() -> None:
    accepted = {code for code in range(65536) if parse(close(code))[0][0] == "close"}
    assert accepted == {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


def test_c1_a_close_body_is_empty_or_has_a_code_and_a_utf8_reason() -> None:
    assert parse(frame(CLOSE)) == [("close", 0, b"")]
    fails(frame(CLOSE, b"\x03"), 1002, "close_body")
    for bad in (*NOT_UTF8.values(), b"\xe2\x82"):
        fails(close(1000, bad), 1007, "close_reason_not_utf8")


def test_c3_nothing_is_heard_after_a_close() -> None:
    frames = Frames(LIMIT, 8)
    said = frames.receive_data(started() + close(1000, b"bye") + frame(CONTINUATION) + frame(PING, b"still there?"))
    assert said == [("close", 1000, b"bye")]
    assert frames.receive_data(b"\xff" * 100) == []
    assert (frames.held_bytes, frames.in_message) == (0, False)


# Floods and overflows that exhausted or crashed other servers


@pytest.mark.parametrize("payload", [b"", b"x"], ids=["empty", "one byte"])
def test_a_million_tiny_fragments_are_cut_off_at_the_cap(payload: bytes) -> None:
    # CVE-2026-48779, CVE-2026-12151, CVE-2026-62389: a limit on bytes alone does not bound what fragments cost.
    frames = Frames(LIMIT, 1024)
    flood = frame(CONTINUATION, payload, fin=False)
    assert frames.receive_data(started(payload=payload)) == []
    assert frames.receive_data(flood * 1023) == []
    assert frames.held_bytes <= max(64, 2 * 1024 * len(payload))
    assert frames.receive_data(flood * (10**6 - 1024)) == [("failed", "too_many_fragments")]
    assert frames.held_bytes == 0


def test_frames_below_the_limit_do_not_add_up_to_a_message_above_it() -> None:
    # CVE-2026-9675, CVE-2026-63495: a limit per frame and none for the message.
    frames = Frames(LIMIT, 1024)
    part = frame(CONTINUATION, bytes(1000), fin=False)
    assert frames.receive_data(started(BINARY, bytes(1000)) + part * 64) == []
    assert frames.held_bytes <= LIMIT
    assert frames.receive_data(part) == [("failed", "message_too_big")]


def test_one_byte_too_many_is_refused_by_the_header_before_any_payload() -> None:
    # CVE-2026-54274: an incomplete payload escaped the limit.
    head = header(BINARY, LIMIT + 1)
    fails(head, 1009, "message_too_big")
    fails(head[:-4], 1009, "message_too_big")  # not even the mask is waited for


OVERFLOWS = [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("length", OVERFLOWS)
@pytest.mark.parametrize("before", [0, 1, 100])
def test_a_length_near_overflow_is_refused_alone_and_after_a_small_fragment(length: int, before: int) -> None:
    # CVE-2026-27889, CVE-2026-1528, CVE-2020-27813: held + length wrapped below the limit.
    code, word = (1002, "length_most_significant_bit") if length >= 2**63 else (1009, "message_too_big")
    if before:
        fails(started(BINARY, bytes(before)) + header(CONTINUATION, length), code, word)
    else:
        fails(header(BINARY, length), code, word)


def test_the_largest_limit_does_not_wrap_either() -> None:
    most = 2**32 - 1
    fails(header(BINARY, 2**32), 1009, "message_too_big", max_message_bytes=most)
    fails(started(BINARY, b"x") + header(CONTINUATION, most), 1009, "message_too_big", max_message_bytes=most)
    assert parse(started(BINARY, b"x") + header(CONTINUATION, most - 1), max_message_bytes=most) == []


def test_a_declared_length_that_never_comes_costs_no_memory() -> None:
    # RUSTSEC-2022-0035: the declared length was allocated at once.
    frames = Frames(2**30, 1024)
    frames.receive_data(header(BINARY, 2**30))
    assert frames.held_bytes == 0
    frames.receive_data(b"x" * 10)
    assert frames.held_bytes <= 64
    assert frames.in_message


def test_a_mebibyte_in_single_bytes_costs_twice_its_size_and_linear_work() -> None:
    # PYSEC-2026-4389, CVE-2020-36049: one object per read, or the whole copied again at each.
    size = 2**20
    frames = Frames(size, 1)
    payload = bytes(range(256)) * (size // 256)
    data = frame(BINARY, payload)
    moved, held = 0, 0
    for at in range(len(data) - 1):
        assert not frames.receive_data(data[at : at + 1])
        now = frames.held_bytes
        if now != held:
            moved, held = moved + held, now  # what a reallocation copied at most
            assert now <= max(64, 2 * (at + 1 - 14))
    assert moved <= 2 * size
    assert held <= size
    assert frames.receive_data(data[-1:]) == [("binary", payload)]
    assert frames.held_bytes == 0


def test_memory_follows_what_arrived_and_stops_at_the_limit() -> None:
    frames = Frames(1000, 1024)
    frames.receive_data(started(BINARY, bytes(600)))
    assert 600 <= frames.held_bytes <= 1000
    frames.receive_data(frame(CONTINUATION, bytes(300), fin=False))
    assert 900 <= frames.held_bytes <= 1000
    assert frames.receive_data(frame(CONTINUATION, bytes(100))) == [("binary", bytes(1000))]
    assert frames.held_bytes == 0


def test_an_idle_connection_holds_one_cache_line() -> None:
    assert PARSER_BYTES <= 64
    frames = Frames(LIMIT, 1024)
    for data in (
        frame(TEXT, b"whole"),
        started() + frame(PING, b"p") + frame(CONTINUATION, b"!"),
        frame(PONG, b"q" * 99),
    ):
        for at in range(len(data)):
            frames.receive_data(data[at : at + 1])
        assert (frames.held_bytes, frames.in_message) == (0, False)


def test_the_deadline_of_a_message_runs_from_its_first_header_byte_to_its_end() -> None:
    frames = Frames(LIMIT, 8)
    states: list[bool] = []
    for piece in pieces_of(frame(TEXT, b"ab", fin=False), frame(PING, b"p"), frame(CONTINUATION, b"c")):
        frames.receive_data(piece)
        states.append(frames.in_message)
    assert states[-1] is False
    assert all(states[:-1])
    frames.receive_data(frame(PING, b"slow")[:7])
    assert frames.in_message  # a dripping control frame is not life for ever


def pieces_of(*parts: bytes) -> Iterable[bytes]:
    for part in parts:
        for at in range(len(part)):
            yield part[at : at + 1]


# What the server sends, and the table of failures


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f" + struct.pack("!Q", 65536)),
    ],
)
def test_a_server_frame_has_the_shortest_length_and_no_mask(size: int, expected: bytes) -> None:
    assert encode_frame(TEXT, b"x" * size) == expected + b"x" * size


def test_every_failure_has_a_code_a_label_and_a_text_that_fits_a_close_reason() -> None:
    assert FAILURES[0] == (0, "none", "")
    words = [word for _, word, _ in FAILURES]
    assert len(set(words)) == len(words) == 17
    for code, word, text in FAILURES[1:]:
        assert code in {1002, 1007, 1009, 1011}
        assert word == word.lower()
        assert word.replace("_", "a").isalnum()
        assert text.isascii()
        assert 0 < len(f"code={word};{text}") <= 123


def test_limits_outside_what_the_parser_can_count_are_refused() -> None:
    for wrong in ((-1, 1), (2**32, 1), (1, 0), (1, 2**32)):
        with pytest.raises(ValueError, match="not in"):
            Frames(*wrong)
    with pytest.raises(ValueError, match="opcode"):
        encode_frame(16, b"")
