"""Reads the bytes a server sends. Tests only; it refuses what a server may not send, and whatever is torn."""

import json
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def frame(opcode: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    length = b"\x7e" + size.to_bytes(2) if size < 65536 else b"\x7f" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + payload


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """(opcode, payload) of each frame; the last one must be whole."""
    found, at = [], 0
    while at < len(data):
        assert data[at] & 0xF0 == 0x80, f"FIN and reserved bits are {data[at] >> 4:04b}"
        size, start = data[at + 1], at + 2
        if size > 125:
            start = at + (4 if size == 126 else 10)
            size = int.from_bytes(data[at + 2 : start])
        payload = data[start : start + size]
        assert len(payload) == size, f"a torn frame at the end: {data[at : at + 100]!r}"
        assert data[at:start] == frame(data[at] & 15, payload)[: start - at], "the length is not minimal"
        found.append((data[at] & 15, payload))
        at = start + size
    return found


def texts(data: bytes) -> list[str]:
    assert all(opcode == TEXT for opcode, _ in frames(data))
    return [payload.decode() for _, payload in frames(data)]


def events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts(data)]


def shown(data: bytes) -> list[object]:
    """Events as a subscriber sees them: the text of a message, the count of a gap."""
    return [event["text"] if event["type"] == "message" else event["missed"] for event in events(data)]
