"""Records of a link as bytes, made from their description (`broker/native/_pipe.pxd`), not by the code under test."""

import struct
from typing import NamedTuple

PUBLISH, MESSAGE, ACK, MISSED, CALL, REPLY = range(1, 7)
NO_ECHO, OFFSET, ERROR = 1, 2, 4
HEAD = struct.Struct("=IIIIBBB5xQQQ")


class Record(NamedTuple):
    type: int
    kind: int = 0
    flags: int = 0
    conn: int = 0
    number: int = 0
    value: int = 0
    name: bytes = b""
    extra: bytes = b""
    payload: bytes = b""

    def pack(self, **wrong: int) -> bytes:
        """`wrong` sizes replace the right ones."""
        body = self.name + self.extra + self.payload
        size = (HEAD.size + len(body) + 7) // 8 * 8
        head = HEAD.pack(
            wrong.get("size", size),
            wrong.get("name_size", len(self.name)),
            wrong.get("extra_size", len(self.extra)),
            wrong.get("payload_size", len(self.payload)),
            *(self.type, self.kind, self.flags, self.conn, self.number, self.value),
        )
        return (head + body).ljust(size, b"\0")


def unpack(data: bytes) -> list[Record]:
    """Whole records; whatever is left over is an error."""
    found = []
    while data:
        size, name, extra, payload, type_, kind, flags, conn, number, value = HEAD.unpack_from(data)
        assert size % 8 == 0
        assert size == (HEAD.size + name + extra + payload + 7) // 8 * 8
        body = data[HEAD.size : size]
        assert len(body) == size - HEAD.size
        assert not any(body[name + extra + payload :]), "padding says nothing"
        parts = body[:name], body[name : name + extra], body[name + extra : name + extra + payload]
        found.append(Record(type_, kind, flags, conn, number, value, *parts))
        data = data[size:]
    return found
