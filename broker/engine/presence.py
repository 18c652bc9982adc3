"""Presence: who is in a channel, and what its subscribers hear of it. No clock and no socket.

Whoever hosts it (the engine in the worker, or the engine process) passes on what sessions do, with the time; asks
`next_due` after each call when to call `run`, and hands on the events that this returns. The rules are those of
`broker.engine.base`; here is how they are kept cheap.

A channel is a *room*. Each session in it has a *seat*; all seats of one user belong to one *person*, a session that is
nobody's is a person by itself. A person without seats *lingers* until its leave is due: listed, and back without a
word. Everything that is due stands in one heap with at most one entry for each person and room, however often somebody
comes and goes: an entry that finds its person back is put back or forgotten.

What each change costs does not depend on how many are in the room, and `run` works in slices, so that the death of a
worker with a hundred thousand sessions holds nobody up.
"""

import heapq
import math
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice

import msgspec

from broker.config.schema import Limits
from broker.engine.base import Member, PresenceEvent, Present

# Through which link a session came: a plain value (a number), never used again after `owner_gone`. A new link is a new
# owner.
Owner = Hashable

# Things done in one `run`; each takes some microseconds.
SLICE = 256

# The key of a room's own entry in the heap. Keys of persons begin with a letter.
_BATCH = ""


class _Person(msgspec.Struct, gc=False):
    key: str
    body: bytes
    seats: int = 0
    # When to go, without seats; None with some.
    leave_at: float | None = None
    # Whether an entry of the heap names it.
    timed: bool = False


class _Seat(msgspec.Struct, frozen=True, gc=False):
    person: _Person
    owner: Owner


class _Room:
    __slots__ = ("batched", "joined", "left", "people", "seats")

    def __init__(self) -> None:
        self.people: dict[str, _Person] = {}
        self.seats: dict[str, _Seat] = {}
        # What the next batch tells: joined are still here, left are not. Nobody is in both.
        self.joined: dict[str, _Person] = {}
        self.left: dict[str, _Person] = {}
        self.batched = False


class Presence:
    """All rooms of one engine. `now` never goes back."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rooms: dict[bytes, _Room] = {}
        # Seats, and persons that linger: one that comes back finds its place kept.
        self._places = 0
        # (due, number, channel, key of a person or _BATCH); the number keeps equal times in order.
        self._heap: list[tuple[float, int, bytes, str]] = []
        self._numbered = 0
        self._owned: dict[Owner, dict[tuple[bytes, str], None]] = {}
        # Sessions of owners that are gone, still to be shown out.
        self._orphans: list[tuple[Owner, dict[tuple[bytes, str], None]]] = []
        # Sessions beyond presence_members, by owner and channel: a number is all that is kept of them.
        self._unlisted: dict[Owner, dict[bytes, int]] = {}

    def enter(self, channel: bytes, member: Member, owner: Owner, now: float) -> None:
        """A session is here, new or again, through `owner`."""
        room = self._rooms.get(channel)
        seat = None if room is None else room.seats.get(member.session)
        if room is not None and seat is not None:
            seat.person.body = member.body
            if seat.owner != owner:
                self._disown(seat.owner, channel, member.session)
                room.seats[member.session] = _Seat(seat.person, owner)
                self._own(owner, channel, member.session)
            return
        key = "s" + member.session if member.user is None else "u" + member.user
        person = None if room is None else room.people.get(key)
        if person is None or person.seats:
            if self._places >= self._limits.presence_members:
                self._count_unlisted(channel, owner)
                return
            self._places += 1
        if room is None:
            room = self._rooms[channel] = _Room()
        if person is None:
            person = room.people[key] = _Person(key, member.body)
            if room.left.pop(key, None) is None:  # else nobody has heard yet that it was away
                room.joined[key] = person
                self._batch(channel, room, now)
        person.body = member.body
        person.seats += 1
        person.leave_at = None
        room.seats[member.session] = _Seat(person, owner)
        self._own(owner, channel, member.session)

    def exit(self, channel: bytes, session: str, owner: Owner, now: float) -> None:
        """A session that came through `owner` is no longer here."""
        room = self._rooms.get(channel)
        seat = None if room is None else room.seats.get(session)
        if room is None or seat is None:
            self._discount_unlisted(channel, owner)
        elif seat.owner == owner:  # else it has moved on
            self._disown(owner, channel, session)
            self._vacate(channel, room, session, now)

    def owner_gone(self, owner: Owner) -> None:
        """A link has ended, a worker has died: none of its sessions is here any longer."""
        self._unlisted.pop(owner, None)
        orphans = self._owned.pop(owner, None)
        if orphans:
            self._orphans.append((owner, orphans))

    def present(self, channel: bytes) -> Present:
        """Who is here, as far as an answer holds it."""
        room = self._rooms.get(channel)
        count = self._count(channel, room)
        if room is None:
            return Present((), count, count > 0)
        members = self._some(room.people.values(), self._limits.presence_reply_members)
        return Present(members, count, len(members) < count)

    def next_due(self) -> float | None:
        """When `run` has something to do; None = not before the next call of something else."""
        if self._orphans:
            return -math.inf
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> list[tuple[bytes, PresenceEvent]]:
        """Does what is due, up to a slice of it, and returns what is to be told."""
        events: list[tuple[bytes, PresenceEvent]] = []
        for _ in range(SLICE):
            if self._orphans:
                self._show_out(now)
            elif self._heap and self._heap[0][0] <= now:
                _, _, channel, key = heapq.heappop(self._heap)
                if key == _BATCH:
                    events.extend((channel, event) for event in self._told(channel))
                else:
                    self._consider_leave(channel, key, now)
            else:
                break
        return events

    @property
    def places(self) -> int:
        """What counts against presence_members."""
        return self._places

    @property
    def idle(self) -> bool:
        """Nothing at all is kept."""
        return not (self._rooms or self._heap or self._owned or self._orphans or self._unlisted or self._places)

    # Seats and persons.

    def _vacate(self, channel: bytes, room: _Room, session: str, now: float) -> None:
        person = room.seats.pop(session).person
        person.seats -= 1
        if person.seats:
            self._places -= 1
            return
        person.leave_at = now + self._limits.presence_leave_seconds
        if not person.timed:
            person.timed = True
            self._at(person.leave_at, channel, person.key)

    def _consider_leave(self, channel: bytes, key: str, now: float) -> None:
        room = self._rooms[channel]
        person = room.people[key]
        if person.leave_at is None:
            person.timed = False
        elif person.leave_at > now:
            self._at(person.leave_at, channel, key)
        else:
            del room.people[key]
            self._places -= 1
            if room.joined.pop(key, None) is None:  # else nobody has heard of it
                room.left[key] = person
                self._batch(channel, room, now)
            self._close_if_empty(channel, room)

    def _close_if_empty(self, channel: bytes, room: _Room) -> None:
        if not room.people and not room.batched:
            del self._rooms[channel]

    # Owners.

    def _own(self, owner: Owner, channel: bytes, session: str) -> None:
        self._owned.setdefault(owner, {})[channel, session] = None

    def _disown(self, owner: Owner, channel: bytes, session: str) -> None:
        """Its sessions may be among the orphans already, where a seat that is taken again is passed over."""
        owned = self._owned.get(owner)
        if owned is not None:
            owned.pop((channel, session), None)
            if not owned:
                del self._owned[owner]

    def _show_out(self, now: float) -> None:
        owner, orphans = self._orphans[-1]
        (channel, session), _ = orphans.popitem()
        if not orphans:
            self._orphans.pop()
        room = self._rooms.get(channel)
        seat = None if room is None else room.seats.get(session)
        if room is not None and seat is not None and seat.owner == owner:
            self._vacate(channel, room, session, now)

    def _count_unlisted(self, channel: bytes, owner: Owner) -> None:
        """Numbers need memory too, one for each channel of an owner: beyond as many of these, not even counted."""
        numbers = self._unlisted.setdefault(owner, {})
        if channel in numbers or len(numbers) < self._limits.presence_members:
            numbers[channel] = numbers.get(channel, 0) + 1

    def _discount_unlisted(self, channel: bytes, owner: Owner) -> None:
        numbers = self._unlisted.get(owner)
        if numbers is None or channel not in numbers:
            return
        numbers[channel] -= 1
        if not numbers[channel]:
            del numbers[channel]
            if not numbers:
                del self._unlisted[owner]

    # Time and events.

    def _at(self, due: float, channel: bytes, key: str) -> None:
        self._numbered += 1
        heapq.heappush(self._heap, (due, self._numbered, channel, key))

    def _batch(self, channel: bytes, room: _Room, now: float) -> None:
        if not room.batched:
            room.batched = True
            self._at(now + self._limits.presence_batch_seconds, channel, _BATCH)

    def _told(self, channel: bytes) -> Iterator[PresenceEvent]:
        room = self._rooms[channel]
        count = self._count(channel, room)
        if room.joined:
            members = self._some(room.joined.values(), self._limits.presence_event_members)
            yield PresenceEvent("join", members, len(room.joined) - len(members), count)
        if room.left:
            members = self._some(room.left.values(), self._limits.presence_event_members)
            yield PresenceEvent("leave", members, len(room.left) - len(members), count)
        room.joined, room.left, room.batched = {}, {}, False
        self._close_if_empty(channel, room)

    def _count(self, channel: bytes, room: _Room | None) -> int:
        unlisted = sum(numbers.get(channel, 0) for numbers in self._unlisted.values())
        return unlisted + (0 if room is None else len(room.people))

    def _some(self, people: Iterable[_Person], most: int) -> tuple[bytes, ...]:
        """The first of them, within both bounds."""
        room_left = self._limits.presence_list_bytes
        bodies: list[bytes] = []
        for person in islice(people, most):
            room_left -= len(person.body) + 1
            if room_left < 0:
                break
            bodies.append(person.body)
        return tuple(bodies)
