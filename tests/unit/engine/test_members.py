"""Workers and the book of an engine elsewhere, with nothing but bytes between them: deaths, and links made anew."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from broker.config.schema import Limits
from broker.engine.base import HistoryRule, Holdings, Joined, Member, PresenceEvent, Present, Publication, Receipt
from broker.engine.members import Members
from broker.engine.presence import Presence

LEAVE, BATCH = 10.0, 0.5
encode, decode = msgspec.msgpack.encode, msgspec.msgpack.decode


class Host:
    """An engine process: one book, and a number for each link there ever was."""

    def __init__(self) -> None:
        self.book = Presence(Limits(presence_leave_seconds=LEAVE, presence_batch_seconds=BATCH))
        self.now = 0.0
        self.links = 0
        self.told: list[tuple[bytes, PresenceEvent]] = []

    def link(self) -> Callable[[bytes], bytes | None]:
        """A new link: what it is sent it takes as bytes."""
        self.links += 1
        owner = self.links

        def take(data: bytes) -> bytes | None:
            verb, channel, said = decode(data, type=tuple[str, bytes, msgspec.Raw])
            if verb == "enter":
                self.book.enter(channel, decode(said, type=Member), owner, self.now)
            elif verb == "exit":
                self.book.exit(channel, decode(said, type=str), owner, self.now)
            else:
                return encode(self.book.present(channel))
            return None

        return take

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.book.next_due()) is not None and due <= until:
            self.now = max(self.now, due)
            self.told.extend(self.book.run(self.now))
        self.now = until

    def names(self) -> set[bytes]:
        return set(self.book.present(b"room").members)


class LinkedEngine:
    """A worker's end. Only presence is asked of it here."""

    direct = False
    local = False

    def start(self, native: object) -> None:
        raise AssertionError("nobody starts here")

    async def usable(self) -> None:
        raise AssertionError("nobody waits here")

    def holdings(self) -> Holdings | None:
        return None

    async def ask_all(self, question: bytes) -> list[bytes]:
        raise AssertionError("nobody asks here")

    async def stop(self) -> None:
        raise AssertionError("nobody stops here")

    def __init__(self, host: Host) -> None:
        self.send = host.link()

    def _say(self, verb: str, channel: bytes, said: Any) -> bytes | None:
        return self.send(encode((verb, channel, said)))

    def enter(self, channel: bytes, member: Member) -> None:
        self._say("enter", channel, member)

    def exit(self, channel: bytes, session: str) -> None:
        self._say("exit", channel, session)

    def presence(self, channel: bytes) -> Present:
        answer = self._say("presence", channel, None)
        assert answer is not None
        return decode(answer, type=Present)

    def publish(self, publication: Publication) -> Receipt:
        raise AssertionError("nobody publishes here")

    def join(self, channel: bytes, history: HistoryRule | None) -> Joined:
        raise AssertionError("nobody joins here")

    def leave(self, channel: bytes) -> None:
        raise AssertionError("nobody leaves here")


def member(session: str, user: str) -> Member:
    return Member(session, user, user.encode())


@pytest.fixture
def host() -> Host:
    return Host()


def test_members_of_all_workers_are_one_list_and_a_death_takes_a_workers_own(host: Host) -> None:
    first, second = Members(LinkedEngine(host)), Members(LinkedEngine(host))
    first.enter(b"room", member("s1", "ann"))
    first.enter(b"room", member("s2", "bob"))
    second.enter(b"room", member("s3", "bob"))
    assert LinkedEngine(host).presence(b"room") == Present((b"ann", b"bob"), 2, False)
    host.wait(BATCH)
    host.book.owner_gone(1)
    host.wait(LEAVE + BATCH)
    assert host.told[1:] == [(b"room", PresenceEvent("leave", (b"ann",), 0, 1))]
    second.end("s3")
    host.wait(LEAVE + BATCH)
    assert host.book.idle


def test_a_link_made_anew_brings_everybody_back_before_anybody_is_missed(host: Host) -> None:
    engine = LinkedEngine(host)
    members = Members(engine)
    members.enter(b"room", member("s1", "ann"))
    members.enter(b"room", member("s2", "bob"))
    host.wait(BATCH)
    host.told.clear()
    host.book.owner_gone(1)
    members.end("s2")  # to the link that is no more: the engine does not hear it
    engine.send = host.link()
    for channel, each in members:
        engine.enter(channel, each)
    host.wait(LEAVE + BATCH)
    assert host.told == [(b"room", PresenceEvent("leave", (b"bob",), 0, 1))]
    assert host.names() == {b"ann"}


def test_an_engine_that_begins_anew_is_told_of_everybody(host: Host) -> None:
    engine = LinkedEngine(host)
    members = Members(engine)
    members.enter(b"room", member("s1", "ann"))
    after = Host()
    engine.send = after.link()
    for channel, each in members:
        engine.enter(channel, each)
    after.wait(BATCH)
    assert after.told == [(b"room", PresenceEvent("join", (b"ann",), 0, 1))]
