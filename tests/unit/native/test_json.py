"""JSON on the publish edge, case by case: what is accepted can be delivered, what could break a reader is refused."""

import json

import pytest

from broker.native._json import PROBLEMS, base64, check, quote


@pytest.mark.parametrize(
    "text",
    [
        *(
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1",
            "-1",
            "0.0",
            "-0.5",
            "1e5",
            "1E+5",
            "1e-5",
            "12.5e3",
            '""',
            '"a"',
            "[]",
            "{}",
        ),
        *(
            " \t\r\n1 \t\r\n",
            "[ ]",
            "{ }",
            "[1 , 2]",
            '{ "a" : 1 , "b" : [ ] }',
            '[[],[[]],{"a":{}}]',
            '{"a":1,"a":2}',
            '{"":0}',
        ),
        *('"\\"\\\\\\/\\b\\f\\n\\r\\t"', '"\\u0000\\u00e4\\uFFFF"', '"\\ud83d\\ude00"', '"\\uDBFF\\uDFFF"', '"\x7f"'),
        *('"ä€😀"', '"\ud7ff\ue000\U0010ffff"', '"\u2028\u2029"', '"' + "a" * 100 + '"', '"' + "abcdefg" * 9 + '\\n"'),
        *("18446744073709551615", "-9223372036854775808", "9223372036854775808", "10000000000000000000"),
        *(
            "1e308",
            "1.7976931348623157e308",
            "1.7976931348623158e+308",
            "-1.7976931348623157e308",
            "1e-400",
            "0e999999999999",
        ),
        *("0." + "0" * 400 + "1e600", "1" + "0" * 300 + ".5", "1" + "0" * 400 + "e-200", "0.0e99999999999999999999999"),
        *("[" * 64 + "]" * 64, '{"a":' * 63 + "[" + "]" + "}" * 63),
    ],
)
def test_valid_json_is_delivered(text: str) -> None:
    assert check(text.encode()) is None
    json.loads(text)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        *(
            (b"", 0),
            (b" ", 1),
            (b"\xef\xbb\xbf1", 0),
            (b"\x00", 0),
            (b"1\x00", 1),
            (b"1 2", 2),
            (b"[1]]", 3),
            (b"}", 0),
            (b"]", 0),
        ),
        *(
            (b"[", 1),
            (b"[1", 2),
            (b"[1,", 3),
            (b"[1,]", 3),
            (b"[,1]", 1),
            (b"[1 2]", 3),
            (b"[1}", 2),
            (b"{]", 1),
            (b"[:]", 1),
        ),
        *(
            (b"{", 1),
            (b'{"a"', 4),
            (b'{"a":', 5),
            (b'{"a":1', 6),
            (b'{"a":1,', 7),
            (b'{"a":1,}', 7),
            (b"{,}", 1),
            (b"{1:2}", 1),
        ),
        *((b'{"a" 1}', 5), (b'{"a":}', 5), (b"{'a':1}", 1), (b'{"a":1 "b":2}', 7), (b'{"a"}', 4), (b"{null:1}", 1)),
        *(
            (b"tru", 0),
            (b"truE", 0),
            (b"True", 0),
            (b"nul", 0),
            (b"falsey", 5),
            (b"NaN", 0),
            (b"Infinity", 0),
            (b"-Infinity", 1),
        ),
        *(
            (b"01", 1),
            (b"-01", 2),
            (b"-", 1),
            (b"+1", 0),
            (b".5", 0),
            (b"1.", 2),
            (b"1.e5", 2),
            (b"1e", 2),
            (b"1e+", 3),
            (b"0x1", 1),
        ),
        *(
            (b"1_0", 1),
            (b"--1", 1),
            (b"1.5.5", 3),
            (b"00", 1),
            (b"1e5.5", 3),
            (b"- 1", 1),
            (b"// c", 0),
            (b"[1]//", 3),
            (b"\x0b1", 0),
        ),
        *(
            (b'"', 1),
            (b'"a', 2),
            (b'"a\n"', 2),
            (b'"\x00"', 1),
            (b'"\x1f"', 1),
            (b'"12345678\t"', 9),
            (b"'a'", 0),
            (b'"a"b', 3),
        ),
        *(
            (b'"\\', 1),
            (b'"\\"', 3),
            (b'"\\a"', 1),
            (b'"\\U0041"', 1),
            (b'"\\u"', 1),
            (b'"\\u12"', 1),
            (b'"\\u12g4"', 1),
            (b'"\\u123', 1),
        ),
        *((b'"\\x41"', 1), (b'"\\\n"', 1), (b'"\\u-123"', 1), (b"\xff", 0), (b"[\xc3\xa4]", 1)),
    ],
)
def test_what_is_not_one_json_value_is_refused_where_it_breaks(text: bytes, offset: int) -> None:
    assert check(text) == ("json_syntax", offset)


@pytest.mark.parametrize(
    "text",
    [
        *(
            b'"\\ud800"',
            b'"\\udc00"',
            b'"\\uD83D\\uD83D"',
            b'"\\ude00\\ud83d"',
            b'"\\ud83d\\n"',
            b'"\\ud83d\xf0\x9f\x98\x80"',
        ),
        *(b'"\\udbff', b'"\\ud800\\u0041"', b'"\\ud800x"'),
    ],
)
def test_a_lone_surrogate_that_no_utf8_reader_could_take_is_refused(text: bytes) -> None:
    assert check(text) == ("json_surrogate", 1)
    assert check(b'{"long enough for the fast path":' + text + b"}") == ("json_surrogate", 34)


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"\x80",
            b"\xbf",
            b"\xc0\x80",
            b"\xc1\xbf",
            b"\xc3",
            b"\xc3(",
            b"\xe0\x80\x80",
            b"\xe0\x9f\xbf",
            b"\xe2\x82",
            b"\xe2(\xa1",
        ),
        *(
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xf0\x80\x80\x80",
            b"\xf0\x8f\xbf\xbf",
            b"\xf0\x9f\x98",
            b"\xf4\x90\x80\x80",
        ),
        *(b"\xf5\x80\x80\x80", b"\xff", b"\xfe\xff"),
    ],
)
def test_bytes_that_are_not_utf8_are_refused_at_their_first_one(raw: bytes) -> None:
    for before in (b"", b"a", b"\xc3\xa4", b"12345678", b"\\n"):
        assert check(b'"' + before + raw + b'"') == ("json_utf8", 1 + len(before))
        assert check(b'"' + before + raw) == ("json_utf8", 1 + len(before))


@pytest.mark.parametrize(
    "number",
    [
        *(
            "18446744073709551616",
            "-9223372036854775809",
            "100000000000000000000",
            "-10000000000000000000",
            "1" + "0" * 70000,
        ),
        *(
            "1e309",
            "-1e309",
            "1e400",
            "1.7976931348623159e308",
            "17976931348623159e292",
            "0.1e310",
            "1e99999999999999999999999999",
        ),
        *("1" + "0" * 309 + ".0", "1" + "0" * 400 + "e-91", "0." + "0" * 400 + "1e710"),
    ],
)
def test_a_number_that_becomes_another_in_64_bits_is_refused(number: str) -> None:
    assert check(number.encode()) == ("json_number", 0)
    assert check(b'{"a":[' + number.encode() + b"]}") == ("json_number", 6)


def test_the_largest_finite_number_is_told_from_infinity_to_the_last_digit() -> None:
    half_way = str(2**1024 - 2**970)
    below = str(2**1024 - 2**970 - 1)
    for last_finite in (
        f"{below}.9",
        f"{below}.{'9' * 500}",
        f"{below}e0",
        f"0.{below}e309",
        f"{below[0]}.{below[1:]}E+308",
    ):
        assert float(last_finite) < float("inf")
        assert check(last_finite.encode()) is None
    for infinite in (f"{half_way}.0", f"{half_way}e0", f"0.000{half_way}e312", f"{half_way}00e-2", f"{half_way}.1"):
        assert float(infinite) == float("inf")
        assert check(infinite.encode()) == ("json_number", 0)


def test_nesting_is_bounded_without_using_the_stack() -> None:
    assert check(b"[" * 65 + b"]" * 65) == ("json_depth", 64)
    assert check(b'{"a":' * 65 + b"1" + b"}" * 65) == ("json_depth", 5 * 64)
    assert check(b"[" * 10_000_000) == ("json_depth", 64)
    assert check(b"[[1]]", max_depth=2) is None
    assert check(b"[[[1]]]", max_depth=2) == ("json_depth", 2)
    assert check(b"1", max_depth=0) is None
    assert check(b"[]", max_depth=0) == ("json_depth", 0)
    assert check(b"[" * 65 + b"]" * 65, max_depth=1000) == ("json_depth", 64)


def test_siblings_do_not_count_as_nesting() -> None:
    assert check(b"[" + b"[],{}," * 1000 + b"{}]", max_depth=2) is None


def test_each_refusal_has_a_word_and_a_text_of_its_own() -> None:
    words = [word for word, _ in PROBLEMS.values()]
    assert words == ["json_syntax", "json_depth", "json_surrogate", "json_number", "json_utf8"]
    assert list(PROBLEMS) == [1, 2, 3, 4, 5]
    assert all(text and len(text) < 80 for _, text in PROBLEMS.values())


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        (b"", b'""'),
        (b"abc", b'"abc"'),
        (b'"\\/', b'"\\"\\\\/"'),
        (b"\b\f\n\r\t", b'"\\b\\f\\n\\r\\t"'),
        (b"\x00\x01\x0b\x1f\x7f", b'"\\u0000\\u0001\\u000b\\u001f\x7f"'),
        ("ä€😀\u2028".encode(), '"ä€😀\u2028"'.encode()),
        (b'12345678"123456781234567', b'"12345678\\"123456781234567"'),
        (b'1234567"12345678', b'"1234567\\"12345678"'),
    ],
)
def test_a_text_becomes_the_shortest_literal(text: bytes, literal: bytes) -> None:
    assert quote(text) == literal
    assert json.loads(literal) == text.decode()


def test_binary_becomes_base64_with_padding() -> None:
    assert [base64(b"foobar"[:n]) for n in range(7)] == [
        *(b"", b"Zg==", b"Zm8=", b"Zm9v", b"Zm9vYg==", b"Zm9vYmE=", b"Zm9vYmFy"),  # RFC 4648 section 10
    ]
    assert base64(b"\xfb\xff\xfe") == b"+//+"
