"""The JSON checker and writers beside three oracles: ``json``, ``base64`` and ``msgspec.json``.

The checker refuses on purpose what ``json`` takes: lone surrogates, numbers beyond 64 bits, more than 64 levels, and
``NaN`` and ``Infinity``. ``msgspec`` refuses most of that too, but takes integers of any size and deeper nesting.
"""

import base64 as standard_base64
import json
from typing import Any

import msgspec
from hypothesis import event, example, given
from hypothesis import strategies as st

from broker.native._json import base64, check, quote

integers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from([-(2**63), 2**63 - 1, 2**63, 2**64 - 1]))
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), integers, floats, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=20,
)
PIECES = [
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b'"a"',
        b'"a":',
        b"null",
        b"true",
        b"false",
        b"NaN",
        b"-",
        b"0",
        b"12",
        b".",
    ),
    *(
        b"e",
        b"E+",
        b"1e308",
        b"1e309",
        b"18446744073709551616",
        b"18446744073709551615",
        b"-9223372036854775809",
        b" ",
        b"\n",
    ),
    *(
        b"\\",
        b'\\"',
        b"\\n",
        b"\\u00e4",
        b"\\ud83d",
        b"\\ude00",
        b"\\u",
        b"\x00",
        b"\x1f",
        b"\x7f",
        b"\xc3",
        b"\xa4",
        b"\xed\xa0\x80",
    ),
    *("ä😀".encode(), b"abcdefgh", b"[" * 40, b"]" * 40),
]


class Fault(Exception):
    """A hook of the oracle met what only the checker refuses."""


def fault_of_number(text: str) -> str | None:
    if text.lstrip("-").isdigit():
        # int() of the standard library refuses more digits than this on its own
        return None if len(text) < 25 and -(2**63) <= int(text) <= 2**64 - 1 else "json_number"
    return "json_number" if float(text) in (float("inf"), float("-inf")) else None


def faults(data: bytes) -> set[str]:
    """The words of all that is wrong with `data`, by the standard library; empty = deliverable."""
    found: set[str] = set()

    def number(text: str) -> int:
        found.add(fault_of_number(text) or "")
        return 0

    def constant(text: str) -> None:
        raise Fault(text)

    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"json_utf8", "json_syntax", "json_depth", "json_surrogate", "json_number"}
    try:
        value = json.loads(text, parse_int=number, parse_float=number, parse_constant=constant)
    except (json.JSONDecodeError, Fault):
        return {"json_syntax", "json_depth", "json_surrogate", "json_number"}
    measure(value, 0, found)
    return found - {""}


def measure(value: Any, depth: int, found: set[str]) -> None:
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        found.add("json_surrogate")
    if isinstance(value, list | dict):
        if depth >= 64:
            found.add("json_depth")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            measure(inner, depth + 1, found)


def agrees(data: bytes) -> None:
    expected, verdict = faults(data), check(data)
    event(f"{verdict[0] if verdict else 'accepted'}")
    if verdict is None:
        assert not expected
        msgspec.json.decode(data)
        return
    word, offset = verdict
    assert word in expected
    assert 0 <= offset <= len(data)
    if word in ("json_syntax", "json_surrogate", "json_utf8"):
        try:
            msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        raise AssertionError(f"msgspec takes {data!r}, the checker says {verdict}")


@given(values, st.booleans(), st.sampled_from([None, 2]), st.sampled_from([(",", ":"), (" ,\t", "\r:\n")]))
def test_whatever_json_writes_is_accepted(
    value: object, ascii_only: bool, indent: int | None, separators: tuple[str, str]
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=separators).encode()
    assert check(data) is None
    assert check(msgspec.json.encode(value)) is None
    for cut in range(1, len(data), 1 + len(data) // 16):
        agrees(data[:cut])


@given(values, st.data())
def test_a_damaged_text_gets_the_verdict_of_json_and_msgspec(value: object, draw: st.DataObject) -> None:
    data = json.dumps(value, ensure_ascii=draw.draw(st.booleans())).encode()
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, min(len(data), start + 4)))
    piece = draw.draw(st.one_of(st.sampled_from([b"", *PIECES]), st.binary(max_size=3)))
    agrees(data[:start] + piece + data[end:])


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(b"[" * 40 + b"[" * 40 + b"]" * 40 + b"]" * 40)
@example(b'"\\ud83d\\ude00"')
@example(b'"\\ude00\\ud83d"')
def test_a_soup_of_pieces_gets_the_verdict_of_json_and_msgspec(data: bytes) -> None:
    agrees(data)
    agrees(b'"' + data + b'"')


@given(st.from_regex(r"\A-?[0-9]{0,25}(\.[0-9]{0,25})?([eE][+-]?[0-9]{0,4})?\Z").map(str.encode))
def test_a_number_gets_the_verdict_of_json_and_msgspec(data: bytes) -> None:
    agrees(data)
    agrees(b"[" + data + b"]")


HALF_WAY = 2**1024 - 2**970  # between the largest float and what would follow it


@given(
    st.one_of(st.integers(2**1022, 2**1026), st.integers(HALF_WAY - 9, HALF_WAY + 9)),
    st.integers(0, 400),
    st.booleans(),
)
def test_a_float_overflows_exactly_where_pythons_does(value: int, zeros: int, fraction: bool) -> None:
    digits = str(value)
    padding = "0" * zeros
    text = f"0.{padding}{digits}e{len(digits) + zeros}" if fraction else f"{digits}{padding}e-{zeros}"
    assert (check(text.encode()) is None) == (float(text) != float("inf"))


@given(st.one_of(st.text(max_size=40), st.text('"\\\n\x00\x1fab', max_size=40)))
@example("a" * 8 + '"' + "b" * 8 + "\x01")
def test_a_quoted_text_reads_back_as_itself(text: str) -> None:
    literal = quote(text.encode())
    assert json.loads(literal) == text == msgspec.json.decode(literal)
    assert check(literal) is None
    assert len(literal) <= len(json.dumps(text, ensure_ascii=False).encode())


@given(st.binary(max_size=100))
def test_base64_is_the_standard_one(data: bytes) -> None:
    assert base64(data) == standard_base64.b64encode(data)


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    agrees(data)
    json_string = quote(data)  # bytes that are not UTF-8 are the caller's to refuse, but break nothing here
    assert json_string[:1] == json_string[-1:] == b'"'
