"""Builds the bytes a WebSocket client sends, rule-breaking ones too. Tests only; the broker itself never masks."""

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"


def unmasked(payload: bytes, mask: bytes) -> bytes:
    """XOR with the mask (RFC 6455 section 5.3), one byte at a time: slow and plainly right."""
    return bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))


def header(
    opcode: int,
    size: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length_bytes: int | None = None,
) -> bytes:
    """A frame header; ``length_bytes`` (0, 2, 8) forces a form of the length that need not be the minimal one."""
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    masked = 0 if mask is None else 0x80
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    extended = size.to_bytes(length_bytes, "big") if length_bytes else b""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    return bytes([first, masked | short]) + extended + (mask or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length_bytes: int | None = None,
) -> bytes:
    head = header(opcode, len(payload), fin=fin, rsv=rsv, mask=mask, length_bytes=length_bytes)
    return head + (payload if mask is None else unmasked(payload, mask))


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason)
