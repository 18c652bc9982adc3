"""Fuzz target of the frame parser.

Invariant: whatever the bytes and however they are split, the parser touches no memory but its own, gives the same
events, holds no more than its limits, and hands out only what the standard allows.

``python -m tests.fuzz.fuzz_frames DIRECTORY [libFuzzer options]`` puts the seeds into the directory and fuzzes from
there; it needs atheris, and finds most on the instrumented core that ``make fuzz`` builds. An input that once broke the
parser is added to ``SEEDS`` under the name of the symptom; the test suite runs them all without atheris.
"""

import importlib
import sys
from pathlib import Path

from broker.native._frames import FAILURES, Event, Frames
from tests.client_frames import BINARY, CLOSE, CONTINUATION, PING, TEXT, close, frame, header

WORDS = {word for _, word, _ in FAILURES}
CLOSE_CODES = {0, *range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
CONTROL_MAX = 125

# The first byte chooses how the rest is read: bit 0 raw bytes or a list of frames, the others the limits and the split.
RAW, LISTED = b"\x00", b"\x01"
SEEDS = {
    "empty": b"",
    "hello": RAW + frame(TEXT, b"Hello"),
    "fragments with a ping between": RAW
    + frame(TEXT, b"\xe2", fin=False)
    + frame(PING, b"p")
    + frame(CONTINUATION, b"\x82\xac"),
    "lengths in all three forms": RAW + b"".join(frame(BINARY, bytes(size)) for size in (125, 126, 65536)),
    "close with a reason": RAW + close(1001, "tschüß".encode()) + frame(TEXT, b"late"),
    "close with one byte": RAW + frame(CLOSE, b"\x03"),
    "length 2^64-1 after a fragment": RAW + frame(BINARY, b"x", fin=False) + header(CONTINUATION, 2**64 - 1),
    "length 2^63-1": RAW + header(TEXT, 2**63 - 1),
    "unmasked": RAW + frame(TEXT, b"x", mask=None),
    "surrogate": RAW + frame(TEXT, b"\xed\xa0\x80"),
    "empty fragments": LISTED + b"\x01\x00" + b"\x00\x00" * 20,
    "listed text in pieces": LISTED + b"\x01\x02\xf0\x9f" + b"\x89\x01p" + b"\x80\x02\x98\x80",
}


def listed_frames(data: bytes) -> bytes:
    """Reads (first header byte, payload size, payload) records: mutations then reach beyond mask and length."""
    parts: list[bytes] = []
    at = 0
    while at + 1 < len(data):
        first, size = data[at], data[at + 1]
        payload = data[at + 2 : at + 2 + size]
        parts.append(frame(first & 0xF, payload, fin=first >= 0x80, rsv=first >> 4 & 0x7))
        at += 2 + size
    return b"".join(parts)


def events_of(stream: bytes, piece_bytes: int, max_message_bytes: int, max_fragments: int) -> list[Event]:
    """The events up to the first failure, with what must hold after every call."""
    frames = Frames(max_message_bytes, max_fragments)
    events: list[Event] = []
    for at in range(0, len(stream), piece_bytes):
        events += frames.receive_data(stream[at : at + piece_bytes])
        assert frames.held_bytes <= max_message_bytes + CONTROL_MAX
        assert frames.held_bytes <= max(64, 2 * (at + piece_bytes)) + CONTROL_MAX
        if events and events[-1][0] in ("failed", "close"):
            assert frames.held_bytes == 0
            assert not frames.in_message
        if events and events[-1][0] == "failed":
            break
    return events


def check_event(event: Event, max_message_bytes: int) -> None:
    match event:
        case ("text", bytes() as payload):
            payload.decode()
            assert len(payload) <= max_message_bytes
        case ("binary", bytes() as payload):
            assert len(payload) <= max_message_bytes
        case ("ping" | "pong", bytes() as payload):
            assert len(payload) <= CONTROL_MAX
        case ("close", int() as code, bytes() as reason):
            assert code in CLOSE_CODES
            assert len(reason.decode().encode()) <= CONTROL_MAX - 2
        case ("failed", str() as word):
            assert word in WORDS
        case _:
            raise AssertionError(f"unknown event {event!r}")


def check(data: bytes) -> None:
    """One input; the first byte chooses the limits and the split."""
    if not data:
        return
    choice = data[0]
    stream = listed_frames(data[1:]) if choice & 1 else data[1:]
    limits = ((0, 1), (7, 2), (100, 5), (70000, 1024))[choice >> 1 & 3]
    whole = events_of(stream, max(1, len(stream)), *limits)
    for event in whole:
        check_event(event, limits[0])
    assert all(event[0] not in ("failed", "close") for event in whole[:-1])
    for piece_bytes in {1, 2 + (choice >> 3)}:
        assert events_of(stream, piece_bytes, *limits) == whole


def main() -> None:
    atheris = importlib.import_module("atheris")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, seed in SEEDS.items():
        (directory / name.replace(" ", "-")).write_bytes(seed)
    # On a core that is not instrumented, which way these went is all that guides the mutations.
    for function in (check, check_event, events_of, listed_frames, frame):
        atheris.instrument_func(function)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
