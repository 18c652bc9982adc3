"""What the two Python sides of a link say to each other: verbs and their payloads, as MessagePack.

Live messages are records of the native core (`broker/native/_pipe.pxd`) and not here. Used by `link` (the worker's
side) and `process` (the engine's). Both come from one build, so a version that differs ends the link.
"""

import enum

import msgspec

from broker.engine.base import HistoryRule, Member, PresenceEvent, Present, Publication, Receipt

# Raised with every change of a record, verb or struct: a worker of another build must not guess.
VERSION = 1


class Verb(enum.IntEnum):
    """Of a call; each side's own questions."""

    # worker → engine
    HELLO = 1  # Hello → Welcome
    JOIN = 2  # name, Join → Window
    LEAVE = 3  # name; no answer
    PUBLISH = 4  # Publication with history or message_id → Receipt
    ENTER = 5  # name, Member; no answer
    EXIT = 6  # name, Exit; no answer
    PRESENT = 7  # name → Present
    ASK_ALL = 8  # a question to all workers → list of answers
    # engine → worker
    QUESTION = 33  # → the answer
    MEMBERS = 32  # name, PresenceEvent; no answer


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """First call on a link. `shard`: which part of all channels this link is for; there is one today."""

    version: int
    slot: int
    pid: int
    shard: int = 0


class Welcome(msgspec.Struct, frozen=True, array_like=True):
    """`epoch` of the data: another one than before means that what was kept is gone."""

    version: int
    epoch: str


class Join(msgspec.Struct, frozen=True, array_like=True):
    """`epoch` and `after`: what this worker has of the channel's history already."""

    history: HistoryRule | None
    epoch: str = ""
    after: int = 0


class Window(msgspec.Struct, frozen=True, array_like=True):
    """Joined, as it travels."""

    epoch: str
    head: int
    window: tuple[Publication, ...] = ()


class Exit(msgspec.Struct, frozen=True, array_like=True):
    session: str


_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode

decode_hello = msgspec.msgpack.Decoder(Hello).decode
decode_welcome = msgspec.msgpack.Decoder(Welcome).decode
decode_join = msgspec.msgpack.Decoder(Join).decode
decode_window = msgspec.msgpack.Decoder(Window).decode
decode_publication = msgspec.msgpack.Decoder(Publication).decode
decode_receipt = msgspec.msgpack.Decoder(Receipt).decode
decode_member = msgspec.msgpack.Decoder(Member).decode
decode_exit = msgspec.msgpack.Decoder(Exit).decode
decode_event = msgspec.msgpack.Decoder(PresenceEvent).decode
decode_present = msgspec.msgpack.Decoder(Present).decode
decode_bytes = msgspec.msgpack.Decoder(bytes).decode
decode_answers = msgspec.msgpack.Decoder(list[bytes]).decode
