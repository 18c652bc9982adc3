"""What one subscriber gets, held against what was published: message n says n and has offset n + 1, both for ever.

A read is checked in columns: frames of one size lie one after the other, so every digit of all their numbers and
positions is one strided slice, compared with a slice made beforehand. That is 25 to 100 ns for a message in reads of
10 KB and more, where parsing it is 4 us; a hundred million can be checked. Whatever does not fit is parsed frame by
frame, which alone decides what is wrong.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

DIGITS = 8  # of a number in a payload
_BASE_36 = b"0123456789abcdefghijklmnopqrstuvwxyz"
_TEXT, _CLOSE, _PING = 0x81, 0x88, 0x89
MOST_NOTES = 10


def number_text(number: int) -> bytes:
    return b"%08d" % number


def read_offset(position: str) -> tuple[str, int]:
    """Epoch and offset, as this broker writes them. A client never does this; who proves that none is lost has to."""
    epoch, _, digits = position.rpartition(".")
    return epoch, int(digits, 36)


def position_of(epoch: str, offset: int) -> str:
    digits = ""
    while offset or not digits:
        offset, digit = divmod(offset, 36)
        digits = chr(_BASE_36[digit]) + digits
    return f"{epoch}.{digits}"


@dataclass
class Tally:
    """What all subscribers of a process have seen. `told`: messages of which the broker said that they are missing.

    `exceeded`: answers `recovered: false` to who had missed more than is kept; `unexpected`: to who had not. `hasty`:
    gaps over messages that were kept still. `wrong`: what is none of the messages, or not where it belongs; `notes` are
    the first few in words.
    """

    messages: int = 0
    recovered: int = 0
    exceeded: int = 0
    unexpected: int = 0
    gaps: int = 0
    hasty: int = 0
    told: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if len(self.notes) < MOST_NOTES:
            self.notes.append(text)

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Columns:
    """Digit by digit, the numbers 0 to total - 1 in decimal, and offsets in base 36, each as long as all messages."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.numbers = [_column(b"0123456789", 10**place, total) for place in reversed(range(DIGITS))]
        self.offsets: list[bytes] = []  # the last digit first; a position has as many as it needs
        place = 1
        while place <= total:
            self.offsets.append(_column(_BASE_36, place, total + 1))
            place *= 36


def _column(alphabet: bytes, period: int, length: int) -> bytes:
    block = b"".join(bytes((digit,)) * min(period, length) for digit in alphabet)
    return (block * (length // len(block) + 1))[:length]


@dataclass(frozen=True)
class _Shape:
    """Where in a frame of a message its number is, and (history) the digits of its position and what is before them."""

    size: int
    header: bytes
    number_at: int
    digits_at: int = 0
    width: int = 0
    epoch_at: int = 0
    epoch: bytes = b""


class Checker:
    """One subscriber across all its connections. `window`: messages that are kept. `head`: how many may be published
    by now.
    """

    def __init__(self, columns: Columns, tally: Tally, window: int, head: Callable[[], int], json_format: bool) -> None:
        self._columns = columns
        self._tally = tally
        self._window = window
        self._head = head
        self._json = json_format
        self._left = b""
        self._shape: _Shape | None = None
        self._holes: list[tuple[int, int]] = []
        self._asked = False
        self.next = 0
        # To resume from; empty: there is none (yet).
        self.position = ""
        # Whether this connection is subscribed, or why it never will be.
        self.subscribed = False
        self.refused: str | None = None
        self.close_code: int | None = None

    def connect(self, asked: bool) -> None:
        """A connection begins; `asked`: with `since`."""
        self._left = b""
        self._shape = None  # another session may publish, and raw frames have no position
        self._holes.clear()
        self._asked = asked
        self.subscribed = not self._json
        self.refused = None
        self.close_code = None
        if self.position:  # a gap after the last message may turn out to be none
            offset = read_offset(self.position)[1]
            self._tally.told -= self.next - offset
            self.next = offset

    @property
    def incomplete(self) -> bool:
        """Whether the last bytes were no whole frame."""
        return bool(self._left)

    def receive_data(self, data: bytes) -> None:
        if self._left:
            data = self._left + data
        at = 0
        while at < len(data):
            taken = self._take_many(data, at) or self._take_one(data, at)
            if not taken:
                break
            at += taken
        self._left = data[at:]

    # Many at a time.

    def _take_many(self, data: bytes, at: int) -> int:
        """Bytes of so many frames from `at` on that are exactly what is due; 0 if the first is not."""
        shape = self._shape
        if shape is None or self._holes:
            return 0
        count = min((len(data) - at) // shape.size, self._columns.total - self.next)
        if shape.width:
            count = min(count, 36**shape.width - self.next - 1)
        while count > 0 and not self._fits(data, at, count, shape):
            count //= 2
        if count <= 0:
            return 0
        self.next += count
        self._tally.messages += count
        if shape.width:
            last = at + (count - 1) * shape.size
            self.position = data[last + shape.epoch_at : last + shape.digits_at + shape.width].decode()
        return count * shape.size

    def _fits(self, data: bytes, at: int, count: int, shape: _Shape) -> bool:
        size, end, first = shape.size, at + count * shape.size, self.next
        for place, byte in enumerate(shape.header):
            if data[at + place : end : size] != bytes((byte,)) * count:
                return False
        for place, column in enumerate(self._columns.numbers, at + shape.number_at):
            if data[place:end:size] != column[first : first + count]:
                return False
        if not shape.width:
            return True
        for place in range(shape.width):
            digits = self._columns.offsets[shape.width - 1 - place][first + 1 : first + 1 + count]
            if data[at + shape.digits_at + place : end : size] != digits:
                return False
        last = end - size + shape.epoch_at
        return data[last : last + len(shape.epoch)] == shape.epoch

    # One by one.

    def _take_one(self, data: bytes, at: int) -> int:
        """Bytes of the frame at `at`; 0 if it is not all there."""
        if len(data) - at < 2:
            return 0
        length, payload_at = data[at + 1], at + 2
        if length >= 126:
            payload_at += 2 if length == 126 else 8
            length = int.from_bytes(data[at + 2 : payload_at])
        if len(data) < payload_at + length:
            return 0
        payload = data[payload_at : payload_at + length]
        size = payload_at + length - at
        if data[at] == _TEXT:
            try:
                self._on_text(payload, data[at:payload_at])
            except (ValueError, KeyError, TypeError, IndexError) as error:
                self._wrong(f"{error!r} in {payload[:200]!r}")
        elif data[at] == _CLOSE:
            self.close_code = int.from_bytes(payload[:2])
        elif data[at] != _PING:
            self._wrong(f"a frame that begins with {data[at]:#x}: {payload[:100]!r}")
        return size

    def _on_text(self, payload: bytes, header: bytes) -> None:
        if not self._json:
            number = _read_number(payload)
            self._on_number(number)
            self._shape = _Shape(len(header) + len(payload), header, len(header))
            return
        event = json.loads(payload)
        match event["type"]:
            case "message":
                self._on_message(event, payload, header)
            case "hello" | "subscribed":
                for entry in event["channels"]:
                    self._on_entry(entry)
            case "gap":
                self._on_gap(event["missed"])
            case "drain":
                pass
            case _:
                self._wrong(f"an event that nobody asked for: {payload[:200]!r}")

    def _on_message(self, event: dict[str, str], payload: bytes, header: bytes) -> None:
        text = event["text"].encode()
        number = _read_number(text)
        self._on_number(number)
        number_at = len(header) + payload.index(b'"text":"' + text) + len(b'"text":"')
        size = len(header) + len(payload)
        position = event.get("position", "")
        if not position:
            if self.position:
                self._wrong(f"no position: {payload[:200]!r}")
            self._shape = _Shape(size, header, number_at)
            return
        epoch, offset = read_offset(position)
        if offset != number + 1 or (self.position and epoch != read_offset(self.position)[0]):
            self._wrong(f"message {number} has position {position}, after {self.position}")
        epoch_at = len(header) + payload.index(b'"position":"') + len(b'"position":"')
        before = len(epoch) + 1
        self._shape = _Shape(
            size, header, number_at, epoch_at + before, len(position) - before, epoch_at, position[:before].encode()
        )
        if number == self.next - 1:
            self.position = position

    def _on_number(self, number: int) -> None:
        self._tally.messages += 1
        if number == self.next:
            self.next += 1
        elif number > self.next:
            self._tally.lost += number - self.next
            self._tally.note(f"{number} instead of {self.next}")
            self._holes.append((self.next, number))
            self.next = number + 1
        else:
            self._on_earlier(number)

    def _on_earlier(self, number: int) -> None:
        self._tally.note(f"{number} instead of {self.next}")
        for index, (first, end) in enumerate(self._holes):
            if first <= number < end:  # it was not lost, but comes late
                self._tally.lost -= 1
                self._tally.reordered += 1
                rest = [hole for hole in ((first, number), (number + 1, end)) if hole[0] < hole[1]]
                self._holes[index : index + 1] = rest
                return
        self._tally.duplicated += 1

    def _on_entry(self, entry: dict[str, object]) -> None:
        """How a subscription begins: what was missed is either said to follow, or how much it was can be counted."""
        if "error" in entry:
            self.refused = json.dumps(entry["error"])
            return
        self.subscribed = True
        position = entry.get("position")
        if not isinstance(position, str):
            if self._asked:
                self._wrong(f"no position: {entry}")
            return
        epoch, offset = read_offset(position)
        if self._asked:
            same = epoch == read_offset(self.position)[0]
            if entry.get("recovered"):
                self._tally.recovered += 1
                if not same or offset != self.next:
                    self._wrong(f"resumed from {self.position}, and the subscription begins at {position}")
            else:
                self._on_refused_resume(offset, same, position)
        self.position = position
        self.next = offset

    def _on_refused_resume(self, offset: int, same: bool, position: str) -> None:
        missed = offset - self.next
        if same and missed > self._window:
            self._tally.exceeded += 1
            self._tally.told += missed
        else:
            self._tally.unexpected += 1
            self._tally.note(f"not recovered: {missed} missed of {self._window} kept, {self.position} to {position}")

    def _on_gap(self, missed: int) -> None:
        self._tally.gaps += 1
        self._tally.told += missed
        following = self.next + missed
        # What follows a gap is the oldest that is kept; so at least a window of messages has been published after it.
        if missed < 1 or following + self._window > self._head():
            self._tally.hasty += 1
            self._tally.note(f"gap of {missed} before {following}, of {self._head()} published")
        self.next = following

    def _wrong(self, note: str) -> None:
        self._tally.wrong += 1
        self._tally.note(note)


def _read_number(text: bytes) -> int:
    if len(text) != DIGITS:
        raise ValueError("no number")
    return int(text)
