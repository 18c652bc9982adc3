"""The file between two processes: whole, young and ours, or not used at all."""

import logging
from pathlib import Path

import pytest

from broker.engine.base import HistoryRule, Publication
from broker.engine.history import History, State
from broker.engine.snapshot import MAGIC, NAME, restore, save

NOW = 1_700_000_000.0
RULE = HistoryRule(100, 60.0, 1_000_000)


def state() -> State:
    history = History(1_000_000, 100, lambda: NOW)
    for number in range(5):
        history.add(Publication(b"news", 2, bytes([number, 255]), b',"id":"x"', history=RULE))
    return history.state()


def read(directory: Path, now: float = NOW, most_bytes: int = 1_000_000) -> State | None:
    return restore(directory, most_bytes, 300.0, lambda: now)


def test_what_was_saved_comes_back_once(tmp_path: Path) -> None:
    saved = state()
    save(tmp_path, saved, NOW)
    assert read(tmp_path, NOW + 299) == saved
    assert read(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_only_the_broker_may_read_what_was_published(tmp_path: Path) -> None:
    save(tmp_path, state(), NOW)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_second_snapshot_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, state(), NOW)
    second = state()
    save(tmp_path, second, NOW)
    assert read(tmp_path) == second


def test_nothing_there_is_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path) is None
    assert caplog.records == []


@pytest.mark.parametrize("now", [NOW + 301, NOW - 1], ids=["too old", "from the future"])
def test_a_snapshot_of_another_time_is_not_used(tmp_path: Path, now: float, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, state(), NOW)
    assert read(tmp_path, now) is None
    assert len(caplog.records) == 1
    assert not (tmp_path / NAME).exists()


def test_no_bit_of_a_snapshot_may_be_wrong(tmp_path: Path) -> None:
    save(tmp_path, state(), NOW)
    whole = (tmp_path / NAME).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / NAME).write_bytes(damaged)
        assert read(tmp_path) is None, place
    for size in range(len(whole)):
        (tmp_path / NAME).write_bytes(whole[:size])
        assert read(tmp_path) is None, size


@pytest.mark.parametrize("contents", [b"", b"hello", MAGIC, MAGIC.replace(b"1", b"2") + bytes(100)])
def test_a_foreign_file_is_told_in_one_line_and_removed(
    tmp_path: Path, contents: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(contents)
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path) is None
    assert len(caplog.records) == 1
    assert not (tmp_path / NAME).exists()


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, state(), NOW)
    assert read(tmp_path, most_bytes=50) is None
    assert "larger" in caplog.text


def test_a_snapshot_that_cannot_be_removed_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, state(), NOW)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert read(tmp_path) is None


def test_a_draft_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    saved = state()
    save(tmp_path, saved, NOW)
    (tmp_path / (NAME + ".draft")).mkdir()
    with pytest.raises(OSError, match="directory"):
        save(tmp_path, state(), NOW)
    assert read(tmp_path) == saved
