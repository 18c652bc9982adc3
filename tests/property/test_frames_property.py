"""The frame parser under generated input: any split gives the same events, and the ``websockets`` library agrees.

Where we differ from ``websockets`` 17 on purpose, and what is therefore not generated for the comparison:

- It accepts a length that is not minimally encoded, which RFC 6455 section 5.2 forbids.
- It calls a length with the top bit set too big (1009); to us it is malformed (1002).
- It applies the message limit to control frames as well, which hold at most 125 bytes anyway.
- It checks the size of a frame before its reserved bits and its place: both wrong is 1009 there and 1002 here.
- It refuses a Close between fragments, which section 5.4 allows.
- It has no limit on the number of fragments.
- It needs the whole frame; we refuse from the header, or at the first byte that cannot become UTF-8.

Its ``Protocol`` leaves UTF-8 to the layer above, which ``reference`` plays here, frame by frame.
"""

import itertools

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from broker.native._frames import FAILURES, Event, Frames, encode_frame
from tests.client_frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame, header
from tests.fuzz.fuzz_frames import SEEDS, check

CODES = {word: code for code, word, _ in FAILURES}
FRAGMENTS = 1000
AMPLE = 100_000

masks = st.binary(min_size=4, max_size=4)
utf8 = st.text(max_size=60).map(str.encode)
almost_utf8 = st.builds(lambda text, cut: text[:cut], utf8, st.integers(0, 60))
payloads = st.one_of(utf8, almost_utf8, st.binary(max_size=150), st.integers(0, 200).map(lambda size: b"a" * size))
controls = st.builds(frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=masks)
closes = st.one_of(
    st.builds(close, st.one_of(st.integers(990, 1020), st.integers(2990, 5010)), st.one_of(utf8, almost_utf8)),
    st.binary(max_size=2).map(lambda body: frame(CLOSE, body)),
).filter(lambda data: len(data) <= 131)


@st.composite
def legal_frames(draw: st.DrawFn, most: int = 12, with_controls: bool = True) -> tuple[bytes, bool]:
    """Frames in a legal order (their text may not be UTF-8), and whether a message is open at the end."""
    data, is_open = b"", False
    for _ in range(draw(st.integers(0, most))):
        if with_controls and draw(st.integers(0, 3)) == 0:
            data += draw(controls)
            continue
        opcode = CONTINUATION if is_open else draw(st.sampled_from([TEXT, TEXT, BINARY]))
        fin = draw(st.booleans())
        data += frame(opcode, draw(payloads), fin=fin, mask=draw(masks))
        is_open = not fin
    return data, is_open


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """Legal frames, then at most one that breaks a rule or closes, then whatever."""
    data, is_open = draw(legal_frames())
    endings = ["nothing", "rogue", "too big"] + ["close"] * (not is_open)
    ending = draw(st.sampled_from(endings))
    if ending == "close":
        data += draw(closes)
    elif ending == "rogue":
        opcodes = [opcode for opcode in range(16) if not (is_open and opcode == CLOSE)]
        data += frame(
            draw(st.sampled_from(opcodes)),
            draw(payloads),
            fin=draw(st.booleans()),
            rsv=draw(st.sampled_from([0, 0, 0, 1, 2, 4, 7])),
            mask=draw(st.one_of(masks, st.none())),
        )
    elif ending == "too big":
        data += header(CONTINUATION if is_open else BINARY, draw(st.integers(AMPLE + 1, 2**63 - 1)))
    if ending in ("close", "too big"):
        data += draw(st.binary(max_size=20))
    return data


def ours(pieces: list[bytes], max_message_bytes: int = AMPLE) -> tuple[list[Event], int]:
    """Events before a failure, and the code of the failure or 0."""
    frames = Frames(max_message_bytes, FRAGMENTS)
    events: list[Event] = []
    for piece in pieces:
        for found in frames.receive_data(piece):
            if found[0] == "failed":
                return events, CODES[str(found[1])]
            events.append(found)
    return events, 0


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def may_become_utf8(data: bytes) -> bool:
    """The lowest or the highest continuation byte fits wherever any does (Python's own decoder waits too long here)."""
    endings = (bytes(ending) for size in range(4) for ending in itertools.product((0x80, 0xBF), repeat=size))
    return any(is_utf8(data + ending) for ending in endings)


def reference(data: bytes, max_message_bytes: int = AMPLE) -> tuple[list[Event], int]:
    """The same from ``websockets``."""
    protocol = Protocol(SERVER, state=OPEN, max_size=max_message_bytes)
    protocol.receive_data(data)
    events: list[Event] = []
    kind, message = "", b""
    for received in protocol.events_received():
        assert isinstance(received, Frame)
        payload = bytes(received.data)
        if received.opcode in (Opcode.PING, Opcode.PONG):
            events.append((received.opcode.name.lower(), payload))
        elif received.opcode is Opcode.CLOSE:
            events.append(("close", int.from_bytes(payload[:2], "big"), payload[2:]))
        else:
            if received.opcode is not Opcode.CONT:
                kind, message = received.opcode.name.lower(), b""
            message += payload
            if kind == "text" and not (is_utf8(message) if received.fin else may_become_utf8(message)):
                return events, 1007
            if received.fin:
                events.append((kind, message))
    if protocol.parser_exc is None:
        return events, 0
    assert protocol.close_sent is not None
    return events, int(protocol.close_sent.code)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(at % (len(data) + 1) for at in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(conversations())
@example(frame(TEXT, b"\xed", fin=False) + frame(CONTINUATION, b"\xa0", fin=False) + frame(TEXT, b"x"))
@example(frame(TEXT, b"\xf4", fin=False) + frame(CONTINUATION, b"\x90", fin=False) + frame(PING, b"", rsv=1))
@example(close(990, b"\xc2"))
def test_websockets_hears_the_same_messages_and_fails_with_the_same_code(data: bytes) -> None:
    events, code = ours([data])
    event(f"failure {code}")
    assert (events, code) == reference(data)


@given(legal_frames(with_controls=False), st.integers(0, 300))
def test_websockets_draws_the_message_limit_at_the_same_byte(
    frames: tuple[bytes, bool], max_message_bytes: int
) -> None:
    data, _ = frames
    assert ours([data], max_message_bytes) == reference(data, max_message_bytes)


@given(conversations(), st.lists(st.integers(0, 4000), max_size=12))
def test_no_split_of_the_bytes_changes_what_is_heard(data: bytes, cuts: list[int]) -> None:
    assert ours(cut(data, cuts)) == ours([data])
    assert ours([data[at : at + 1] for at in range(len(data))]) == ours([data])


@given(st.binary(max_size=300))
def test_random_bytes_never_break_the_parser(data: bytes) -> None:
    check(data)


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_the_fuzzers_seeds_and_past_findings_hold(seed: bytes) -> None:
    check(seed)
    for choice in range(0, 256, 5):
        check(bytes([choice]) + seed[1:])


@given(st.sampled_from([Opcode.TEXT, Opcode.BINARY]), utf8, st.integers(0, 70000))
def test_what_a_websockets_client_sends_is_heard_unchanged(opcode: Opcode, text: bytes, padding: int) -> None:
    payload = text + b"." * padding
    data = Frame(opcode, payload).serialize(mask=True)
    assert ours([data]) == ([(opcode.name.lower(), payload)], 0)


@given(st.sampled_from([TEXT, BINARY, PING, PONG]), st.one_of(utf8, st.integers(0, 70000).map(bytes)))
def test_what_we_send_is_heard_by_a_websockets_client(opcode: int, payload: bytes) -> None:
    payload = payload[:125] if opcode in (PING, PONG) else payload
    client = Protocol(CLIENT, state=OPEN)
    client.receive_data(encode_frame(opcode, payload))
    (received,) = client.events_received()
    assert isinstance(received, Frame)
    assert (received.opcode, bytes(received.data), received.fin) == (opcode, payload, True)
