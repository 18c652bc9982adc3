"""What a page reads when its connection ends."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.native._frames import FAILURES
from broker.protocol.close_codes import BY_WORD, CLOSE_CODES, MAX_REASON_BYTES, NEVER_SENT, reason, retry_class
from broker.protocol.errors import ERRORS

PAGE = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()


def test_the_page_about_the_protocol_lists_exactly_these_codes() -> None:
    listed = re.findall(r"^\| (\d{4}) \| `(\w+)` \| (\w+) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert listed == [(str(row.code), row.word, row.retry, row.text) for row in CLOSE_CODES]


def test_the_page_about_the_protocol_lists_exactly_these_errors() -> None:
    section = PAGE.split("### 3.3 ")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \|$", section, re.MULTILINE)
    assert listed == list(ERRORS.items())


def test_what_the_frame_parser_finds_has_the_same_words_in_the_table() -> None:
    assert {row[1:] for row in FAILURES[1:]} <= {(row.word, row.text) for row in CLOSE_CODES}
    assert [BY_WORD[word].code for _, word, _ in FAILURES[1:]] == [code for code, _, _ in FAILURES[1:]]


def test_a_code_that_must_not_be_sent_is_never_in_the_table() -> None:
    for row in CLOSE_CODES:
        assert row.code not in NEVER_SENT
        assert 1000 <= row.code <= 1014 or 4000 <= row.code <= 4999


def test_a_word_names_one_row_and_is_fit_for_a_metric_label() -> None:
    assert len(BY_WORD) == len(CLOSE_CODES)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{2,40}", row.word) for row in CLOSE_CODES)


def test_one_of_our_own_codes_has_one_meaning() -> None:
    own = [row.code for row in CLOSE_CODES if row.code >= 4000]
    assert len(own) == len(set(own))


def test_rows_of_one_code_never_disagree_on_coming_back() -> None:
    assert all(retry_class(row.code) == row.retry for row in CLOSE_CODES)


def test_the_number_alone_says_what_the_row_says() -> None:
    bands = {41: "later", 42: "now", 45: "never"}
    assert all(bands[row.code // 100] == row.retry for row in CLOSE_CODES if row.code >= 4000)


@pytest.mark.parametrize(
    ("code", "retry"),
    [
        (4199, "later"),
        (4200, "now"),
        (4299, "now"),
        (4500, "never"),
        (4599, "never"),
        (4600, "rfc"),
        (4000, "rfc"),
        (3000, "rfc"),
        (1006, "later"),
        (1000, "rfc"),
        (1005, "rfc"),
        (-1, "rfc"),
        (70_000, "rfc"),
    ],
)
def test_a_client_knows_what_to_do_after_a_code_it_has_never_seen(code: int, retry: str) -> None:
    assert retry_class(code) == retry


def test_a_reason_says_word_pause_and_text() -> None:
    assert reason(BY_WORD["too_slow"], 1500) == b"code=too_slow;in_ms=1500;the connection took its messages too slowly"
    assert reason(BY_WORD["bad_offer"], text="token 3: no") == b"code=bad_offer;token 3: no"
    assert reason(BY_WORD["too_slow"], -5).startswith(b"code=too_slow;in_ms=0;")


def test_every_reason_of_the_table_fits_uncut() -> None:
    for row in CLOSE_CODES:
        assert reason(row, 86_400_000).endswith(row.text.encode())


@given(st.text(), st.none() | st.integers())
def test_a_reason_always_fits_a_close_frame_and_is_utf8(text: str, in_ms: int | None) -> None:
    cut = reason(BY_WORD["bad_offer"], None if in_ms is None else in_ms % 10**9, text)
    assert len(cut) <= MAX_REASON_BYTES
    full = cut.decode("utf-8").split(";", 1 if in_ms is None else 2)
    assert full[0] == "code=bad_offer"
    assert text.encode("utf-8", "replace").decode().startswith(full[-1])


@pytest.mark.parametrize("character", ["e", "é", "€", "😀"])
def test_a_long_reason_is_cut_between_two_characters(character: str) -> None:
    cut = reason(BY_WORD["bad_offer"], None, character * 200)
    width = len(character.encode())
    assert MAX_REASON_BYTES - width < len(cut) <= MAX_REASON_BYTES
    assert set(cut.decode().removeprefix("code=bad_offer;")) == {character}
