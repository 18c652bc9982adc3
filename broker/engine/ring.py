"""What is kept of one channel: publications of consecutive offsets, the oldest going first.

The store of an engine keeps one for each channel with history; a worker whose engine is elsewhere keeps a copy for each
channel that it has joined. All replays read from one. No clock and no I/O; whoever calls says what time it is.
"""

from broker.engine.base import HistoryRule, Publication

# What a kept publication costs besides its bytes: the struct, its objects, its place (measured: 230 to 260 on CPython).
ENTRY_BYTES = 256
# Removed entries leave holes at the front of the list; from so many on they are cut out, if they are the greater half.
COMPACT_FROM = 32

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_OFFSET = 36**10 - 1


def position_of(epoch: str, offset: int) -> str:
    """As clients get it: five characters of epoch, a dot, and ten of offset in base 36 are the 16 that it may have."""
    digits = ""
    while True:
        offset, digit = divmod(offset, 36)
        digits = _DIGITS[digit] + digits
        if not offset:
            return f"{epoch}.{digits}"


def read_position(position: str) -> tuple[str, int] | None:
    """Epoch and offset; None for what no engine of this kind has given out."""
    epoch, _, digits = position.rpartition(".")
    if not epoch or not digits or len(digits) > 10 or not digits.isalnum() or not digits.isascii():
        return None
    return epoch, int(digits, 36)


class Ring:
    """Holds the offsets `start` (exclusive) to `head` (inclusive)."""

    __slots__ = ("_first", "_items", "cost", "epoch", "head", "size")

    def __init__(self, epoch: str, head: int) -> None:
        self.epoch = epoch
        self.head = head
        # Payload bytes, which rules count; and all bytes, which budgets count.
        self.size = 0
        self.cost = 0
        # A list with a moving first index, not a deque: a page begins anywhere, and a deque walks there.
        self._items: list[Publication | None] = []
        self._first = 0

    def __len__(self) -> int:
        return len(self._items) - self._first

    @property
    def start(self) -> int:
        """The offset before the oldest that is kept."""
        return self.head - len(self)

    @property
    def position(self) -> str:
        return position_of(self.epoch, self.head)

    def append(self, publication: Publication) -> None:
        """The next one. A hole before it makes everything older useless for replays, so that goes."""
        if publication.offset != self.head + 1:
            if publication.offset <= self.head:
                return  # known already: what a join answered and what was delivered may overlap
            self.clear()
        self.head = publication.offset
        self.size += len(publication.payload)
        self.cost += _cost(publication)
        self._items.append(publication)

    def trim(self, rule: HistoryRule, now_ms: int) -> None:
        """Takes away what the rule does not keep."""
        born = now_ms - int(rule.seconds * 1000)
        while len(self):
            oldest = self._items[self._first]
            assert oldest is not None
            if len(self) <= rule.count and self.size <= rule.size and oldest.time_ms > born:
                return
            self.drop_oldest()

    def drop_oldest(self) -> None:
        oldest = self._items[self._first]
        assert oldest is not None
        self._items[self._first] = None
        self._first += 1
        self.size -= len(oldest.payload)
        self.cost -= _cost(oldest)
        if self._first >= COMPACT_FROM and self._first * 2 > len(self._items):
            del self._items[: self._first]
            self._first = 0

    def clear(self) -> None:
        """Forgets what is kept, not the position."""
        self._items.clear()
        self._first = self.size = self.cost = 0

    def renew(self, epoch: str, head: int) -> None:
        """Nothing of what was known holds any more."""
        self.clear()
        self.epoch = epoch
        self.head = head

    def after(self, cursor: int, most_count: int, most_bytes: int) -> list[Publication]:
        """The next ones after an offset that is not before `start`; at least one, if there is any."""
        place = self._first + cursor - self.start
        page: list[Publication] = []
        for publication in self._items[place : place + most_count]:
            assert publication is not None
            most_bytes -= len(publication.payload)
            if page and most_bytes < 0:
                break
            page.append(publication)
        return page

    def cursor_of(self, since: str | None, last: int | None) -> tuple[int, bool]:
        """Where somebody begins who asks to resume after a position, or with the last few; and whether nothing that
        was asked for is missing. Without either: at the head.
        """
        if since is not None:
            found = read_position(since)
            if found is not None and found[0] == self.epoch and self.start <= found[1] <= self.head:
                return found[1], True
        if last is None:
            return self.head, since is None
        return max(self.start, self.head - last), since is None


def _cost(publication: Publication) -> int:
    return ENTRY_BYTES + len(publication.payload) + len(publication.extra)
