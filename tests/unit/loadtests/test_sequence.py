"""The checker notices what a subscriber would lose, however the bytes are cut into reads, and blames nobody wrongly."""

import json
import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from loadtests.sequence import Checker, Columns, Tally, number_text, position_of, read_offset
from loadtests.wire import server_frame

# Beyond 1296 = 36 * 36, where positions become a character longer.
TOTAL = 1350
COLUMNS = Columns(TOTAL)
WINDOW = 100


def event(number: int, epoch: str = "8f3az", offset: int | None = None) -> bytes:
    position = position_of(epoch, number + 1 if offset is None else offset)
    text = number_text(number).decode()
    members = {"type": "message", "channel": "c", "text": text, "time": 1764000000000, "position": position}
    sender = {"user": None, "session": "h3XkP0vQm2aLr9sd"}
    return server_frame(json.dumps({**members, "from": sender}, separators=(",", ":")).encode())


def raw(number: int) -> bytes:
    return server_frame(number_text(number))


def answer(offset: int, recovered: bool | None = None, epoch: str = "8f3az") -> bytes:
    entry: dict[str, object] = {"channel": "c", "index": 0, "position": position_of(epoch, offset)}
    if recovered is not None:
        entry["recovered"] = recovered
    return server_frame(json.dumps({"type": "hello", "channels": [entry]}).encode())


def gap(missed: int | None) -> bytes:
    return server_frame(json.dumps({"type": "gap", "channel": "c", "missed": missed}).encode())


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def checked(frames: Iterable[bytes], json_format: bool, piece: int = 100_000, head: int = TOTAL) -> Tally:
    """What a subscriber that has just begun makes of these frames."""
    tally = Tally()
    checker = Checker(COLUMNS, tally, WINDOW, lambda: head, json_format)
    checker.connect(asked=False)
    for data in pieces((answer(0) if json_format else b"") + b"".join(frames), piece):
        checker.receive_data(data)
    assert not checker.incomplete
    return tally


Make = Callable[[int], bytes]
FORMATS = pytest.mark.parametrize("make", [event, raw])
PIECES = pytest.mark.parametrize("piece", [7, 163, 1000, 1_000_000])


@FORMATS
@PIECES
def test_what_is_complete_and_in_order_is_blamed_for_nothing(make: Make, piece: int) -> None:
    tally = checked(map(make, range(TOTAL)), make is event, piece)
    assert tally == Tally(messages=TOTAL)


@FORMATS
@PIECES
@pytest.mark.parametrize("number", [0, 1, 34, 35, 36, 700, 1295, 1296, 1348])
def test_a_message_that_is_missing_is_lost(make: Make, piece: int, number: int) -> None:
    numbers = [*range(number), *range(number + 1, TOTAL)]
    tally = checked(map(make, numbers), make is event, piece)
    tally.notes.clear()
    assert tally == Tally(messages=TOTAL - 1, lost=1)


@FORMATS
@PIECES
@pytest.mark.parametrize("number", [0, 34, 35, 36, 700, 1296, 1349])
def test_a_message_that_comes_twice_is_duplicated(make: Make, piece: int, number: int) -> None:
    numbers = [*range(number + 1), number, *range(number + 1, TOTAL)]
    tally = checked(map(make, numbers), make is event, piece)
    tally.notes.clear()
    assert tally == Tally(messages=TOTAL + 1, duplicated=1)


@FORMATS
@PIECES
@pytest.mark.parametrize("number", [0, 34, 35, 700, 1295, 1348])
def test_two_messages_that_are_swapped_are_reordered(make: Make, piece: int, number: int) -> None:
    numbers = [*range(number), number + 1, number, *range(number + 2, TOTAL)]
    tally = checked(map(make, numbers), make is event, piece)
    tally.notes.clear()
    assert tally == Tally(messages=TOTAL, reordered=1)


@pytest.mark.parametrize("seed", range(20))
def test_many_faults_at_once_are_counted_the_same_in_any_pieces(seed: int) -> None:
    draw = random.Random(seed)
    numbers = list(range(TOTAL))
    for _ in range(draw.randint(1, 20)):
        place = draw.randrange(len(numbers) - 1)
        match draw.randrange(3):
            case 0:
                del numbers[place]
            case 1:
                numbers.insert(place, numbers[place])
            case _:
                numbers[place : place + 2] = reversed(numbers[place : place + 2])
    one_by_one = checked(map(event, numbers), True, 1)
    assert one_by_one.lost + one_by_one.duplicated + one_by_one.reordered > 0
    assert checked(map(event, numbers), True, draw.randint(2, 100_000)) == one_by_one
    assert checked(map(raw, numbers), False, draw.randint(2, 10_000)) == one_by_one


@pytest.mark.parametrize("number", [5, 500, 1349])
def test_a_position_that_belongs_to_another_message_is_wrong(number: int) -> None:
    frames = [event(one, offset=one + (2 if one == number else 1)) for one in range(TOTAL)]
    assert checked(frames, True).wrong == 1


def test_a_position_of_another_epoch_is_wrong() -> None:
    assert checked([*map(event, range(50)), event(50, "other")], True).wrong == 1


@FORMATS
def test_bytes_that_are_no_message_are_wrong(make: Make) -> None:
    frames = [*map(make, range(10)), server_frame(b'{"type":"surprise"}'), *map(make, range(10, 20))]
    tally = checked(frames, make is event)
    assert (tally.wrong, tally.messages, tally.lost) == (1, 20, 0)


def test_a_frame_that_is_not_all_there_is_told() -> None:
    checker = Checker(COLUMNS, Tally(), WINDOW, lambda: TOTAL, json_format=False)
    checker.receive_data(raw(0) + raw(1)[:-1])
    assert checker.incomplete


def resumed(numbers: int, *frames: bytes, head: int = TOTAL) -> tuple[Tally, Checker]:
    """A subscriber that had the first `numbers` messages comes back and gets these frames."""
    tally = Tally()
    checker = Checker(COLUMNS, tally, WINDOW, lambda: head, json_format=True)
    checker.connect(asked=False)
    checker.receive_data(answer(0) + b"".join(map(event, range(numbers))))
    assert read_offset(checker.position) == ("8f3az", numbers)
    checker.connect(asked=True)
    checker.receive_data(b"".join(frames))
    return tally, checker


def test_who_comes_back_and_gets_all_it_missed_is_recovered() -> None:
    tally, _ = resumed(50, answer(50, recovered=True), *map(event, range(50, 200)))
    assert tally == Tally(messages=200, recovered=1)


def test_who_is_told_that_all_follows_and_does_not_get_it_has_lost() -> None:
    tally, _ = resumed(50, answer(50, recovered=True), *map(event, range(53, 200)))
    assert (tally.recovered, tally.lost) == (1, 3)


def test_who_gets_again_what_it_had_has_it_twice() -> None:
    tally, _ = resumed(50, answer(50, recovered=True), *map(event, range(48, 200)))
    assert (tally.recovered, tally.duplicated, tally.lost) == (1, 2, 0)


def test_who_missed_more_than_is_kept_and_is_told_has_lost_nothing_silently() -> None:
    tally, _ = resumed(50, answer(50 + WINDOW + 1, recovered=False), *map(event, range(50 + WINDOW + 1, 300)))
    assert (tally.exceeded, tally.told, tally.unexpected, tally.lost) == (1, WINDOW + 1, 0, 0)


def test_who_missed_no_more_than_is_kept_must_be_recovered() -> None:
    tally, _ = resumed(50, answer(50 + WINDOW, recovered=False), *map(event, range(50 + WINDOW, 300)))
    assert (tally.exceeded, tally.unexpected, tally.lost) == (0, 1, 0)


def test_a_history_that_became_another_one_is_not_expected() -> None:
    tally, _ = resumed(50, answer(900, recovered=False, epoch="other"))
    assert (tally.exceeded, tally.unexpected) == (0, 1)


def test_a_subscription_that_is_refused_is_told_with_its_reason() -> None:
    entry = {"channel": "c", "index": 0, "error": {"code": "engine_unavailable", "message": "later"}}
    tally, checker = resumed(50, server_frame(json.dumps({"type": "subscribed", "channels": [entry]}).encode()))
    assert checker.refused is not None
    assert "engine_unavailable" in checker.refused
    assert not checker.subscribed
    assert tally == Tally(messages=50)


def test_a_gap_is_no_loss_where_it_is_exact() -> None:
    tally = checked([*map(event, range(20)), gap(30), *map(event, range(50, 200))], True, head=200)
    assert (tally.gaps, tally.told, tally.lost, tally.hasty) == (1, 30, 0, 0)


@pytest.mark.parametrize("missed", [29, 31])
def test_a_gap_that_counts_wrongly_is_noticed(missed: int) -> None:
    tally = checked([*map(event, range(20)), gap(missed), *map(event, range(50, 200))], True)
    assert tally.lost + tally.duplicated == 1


def test_a_gap_over_messages_that_are_kept_still_is_noticed() -> None:
    tally = checked([*map(event, range(20)), gap(30), *map(event, range(50, 60))], True, head=49 + WINDOW)
    assert (tally.gaps, tally.hasty) == (1, 1)


def test_a_gap_of_unknown_size_is_wrong_on_a_channel_that_counts() -> None:
    assert checked([*map(event, range(20)), gap(None)], True).wrong == 1


def test_who_is_cut_right_after_a_gap_resumes_from_its_last_message() -> None:
    tally = Tally()
    checker = Checker(COLUMNS, tally, WINDOW, lambda: TOTAL, json_format=True)
    checker.connect(asked=False)
    checker.receive_data(answer(0) + b"".join(map(event, range(20))) + gap(30))
    checker.connect(asked=True)
    checker.receive_data(answer(20, recovered=True) + event(20))
    assert (tally.recovered, tally.told, tally.lost, tally.wrong, checker.next) == (1, 0, 0, 0, 21)


def test_the_tallies_of_several_processes_are_one() -> None:
    both = Tally(messages=2, lost=1, notes=["a"])
    both.add(Tally(messages=3, duplicated=1, notes=["b"]))
    assert both == Tally(messages=5, lost=1, duplicated=1, notes=["a", "b"])


def test_the_code_of_a_close_is_kept() -> None:
    checker = Checker(COLUMNS, Tally(), WINDOW, lambda: TOTAL, json_format=False)
    checker.receive_data(raw(0) + b"\x88\x02\x03\xe9")
    assert (checker.close_code, checker.next) == (1001, 1)
