"""What a message of a load test says, and whether all of them came.

Whoever publishes is an `Author`: it numbers its messages in one channel and writes number and time into the payload. A
subscriber has a `Checker` for each channel. A number that never comes is a loss, unless the broker told of it (`gap`).
At the end of a run the authors' counts are compared with what was heard, so the last messages cannot be lost unseen
either. Nothing here knows a socket, a clock or locust. Times are nanoseconds since 1970: the two sides may be
different machines.
"""

import secrets
from dataclasses import dataclass, field

# Missed from the start is only what was sent so long after the subscription was in force: clocks differ.
CLOCKS_NS = 100_000_000
NEVER_NS = 1 << 63
SEPARATOR = " "


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a payload begins with. `previous_ns`: when the author sent the one before; 0: there was none."""

    author: str
    number: int
    sent_ns: int
    previous_ns: int

    def payload(self, size: int) -> str:
        """At least `size` characters, all of one byte."""
        text = SEPARATOR.join((self.author, str(self.number), str(self.sent_ns), str(self.previous_ns), ""))
        return text.ljust(size, ".")


def read_stamp(payload: str) -> Stamp:
    """Raises ValueError for what no author wrote."""
    fields = payload.split(SEPARATOR, 4)
    if len(fields) != 5:
        raise ValueError(f"no stamp of an author: {payload[:60]!r}")
    return Stamp(fields[0], int(fields[1]), int(fields[2]), int(fields[3]))


@dataclass(frozen=True, slots=True)
class Count:
    """How many messages an author has published, and when it sent the last one."""

    messages: int
    last_ns: int


@dataclass
class Author:
    """Numbers what one publisher says in one channel: `stamp`, publish it, then `published` or `unknown`."""

    name: str = field(default_factory=lambda: secrets.token_hex(4))
    _sent: Count = Count(0, 0)
    _pending_ns: int = 0
    _earlier: dict[str, Count] = field(default_factory=dict)

    def stamp(self, now_ns: int) -> Stamp:
        self._pending_ns = now_ns
        return Stamp(self.name, self._sent.messages, now_ns, self._sent.last_ns)

    def published(self) -> None:
        """The broker has it."""
        self._sent = Count(self._sent.messages + 1, self._pending_ns)

    def unknown(self) -> None:
        """Refused, or nobody knows. It begins anew under another name: so a number that was not published is no loss,
        and one that was published all the same is no surprise.
        """
        if self._sent.messages:
            self._earlier[self.name] = self._sent
        self.name = secrets.token_hex(4)
        self._sent = Count(0, 0)

    def counts(self) -> dict[str, Count]:
        """By name, of all its lives."""
        return {**self._earlier, self.name: self._sent} if self._sent.messages else dict(self._earlier)


@dataclass
class Checker:
    """What one subscriber has heard of one channel. `begin` when it is subscribed, `leave` when it is not any more;
    what is published before or after is none of its business. A subscriber that resumes does neither.

    `received` messages; `lost`: missing and not told; `repeated`: twice, or after one that is newer; `told` as missed
    by the broker. Each method returns how many losses it has just found.
    """

    channel: str
    received: int = 0
    lost: int = 0
    repeated: int = 0
    told: int = 0
    _since_ns: int = NEVER_NS
    _next: dict[str, int] = field(default_factory=dict)
    _missing: int = 0
    _excused: int = 0

    def begin(self, now_ns: int) -> None:
        """Subscribed, without what was published before `now_ns`."""
        self._since_ns = now_ns
        self._next.clear()

    def leave(self) -> None:
        self.begin(NEVER_NS)

    def hear(self, stamp: Stamp) -> int:
        self.received += 1
        due = self._next.get(stamp.author)
        if due is None:
            # The number of its first message is no secret of ours, but when the one before it was sent is in it.
            if stamp.number and self._in_force(stamp.previous_ns):
                self._missing += 1
        elif stamp.number < due:
            self.repeated += 1
            return 0
        else:
            self._missing += stamp.number - due
        self._next[stamp.author] = stamp.number + 1
        return self._found()

    def gap(self, missed: int | None) -> int:
        """The broker says that so many are missing right here; None: it does not know how many."""
        if missed is None:
            self._next.clear()
        else:
            self.told += missed
            self._excused += missed
        return self._found()

    def behind(self, counts: dict[str, Count]) -> int:
        """How many of these it has not heard yet, at least, and was not told about."""
        late = sum(self._late(author, count) for author, count in counts.items())
        return max(0, self._missing + late - self._excused - self.lost)

    def end(self, counts: dict[str, Count]) -> int:
        """Nothing more will come: what is still missing of these is lost."""
        for author, count in counts.items():
            self._missing += self._late(author, count)
            if author in self._next:
                self._next[author] = max(self._next[author], count.messages)
        return self._found()

    def _late(self, author: str, count: Count) -> int:
        due = self._next.get(author)
        if due is None:
            return 1 if self._in_force(count.last_ns) else 0
        return max(0, count.messages - due)

    def _in_force(self, sent_ns: int) -> bool:
        return sent_ns > self._since_ns + CLOCKS_NS

    def _found(self) -> int:
        new = max(0, self._missing - self._excused - self.lost)
        self.lost += new
        return new
