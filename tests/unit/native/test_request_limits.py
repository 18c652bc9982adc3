"""The opening handshake: what its limits are and that hostile heads cost linear time."""

import time

import pytest

from broker.native._request import parse, scan_end
from tests.unit.native.request_heads import head, refused


def test_a_request_line_over_8_kib_is_414_however_it_arrives() -> None:
    longest = b"GET /" + b"a" * (8192 - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert parse(head(line=longest)).status == 101
    over = head(line=longest.replace(b"/", b"/a", 1))
    assert len(over.partition(b"\r")[0]) == 8193
    refused(over, 414)
    assert scan_end(over[:8194], 0) == (0, 8193)  # it ends in a CR, whose LF may not be there any more
    assert scan_end(over[:8195], 0)[0] == -414
    assert scan_end(over[:8195], 8193)[0] == -414
    assert scan_end(b"G" * 16384, 0)[0] == -414
    assert scan_end(b"G" * 100, 0, max_head_bytes=100)[0] == -414


def test_a_head_over_the_limit_is_431_however_it_arrives() -> None:
    size = len(head(b"X: "))
    exact = head(b"X: " + b"a" * (16384 - size))
    assert parse(exact).status == 101
    over = head(b"X: " + b"a" * (16385 - size))
    refused(over, 431)
    assert scan_end(over[:16383], 0)[0] == 0
    assert scan_end(over[:16384], 16383)[0] == -431
    assert parse(over, max_head_bytes=16385).status == 101


@pytest.mark.parametrize("count", [96, 129, 1000, 10_000])
def test_more_than_100_headers_are_431(count: int) -> None:
    lines = [b"X: 1"] * count
    assert parse(head(*lines[:95])).status == 101
    refused(head(*lines), 431)
    assert parse(head(*lines), max_head_bytes=1 << 20).status == 431
    assert parse(head(*lines), max_head_bytes=1 << 20, max_headers=count + 5).status == 101


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"\r\n", b"\n", b" ", b"\x00", b"\x81\x05hello", b"{}", b"\xff"])
def test_what_is_no_http_is_refused_at_its_first_byte(first: bytes) -> None:
    assert scan_end(first[:1], 0)[0] == -400
    refused(first + head(), 400)


def test_a_head_that_drips_in_costs_linear_time() -> None:
    data = head(b"X: " + b"a\tb" * 3000)
    scanned = looked_at = 0
    for size in range(1, len(data)):
        end, moved = scan_end(data[:size], scanned)
        assert end == 0
        assert moved >= size - 1  # at most the one CR at its end is looked at again
        looked_at += size - scanned
        scanned = moved
    assert looked_at < 2 * len(data)
    assert scan_end(data, scanned)[0] == len(data)


def test_a_bare_cr_is_refused_when_the_next_byte_shows_it() -> None:
    assert scan_end(b"GET / HTTP/1.1\r", 0) == (0, 14)
    assert scan_end(b"GET / HTTP/1.1\rX", 14)[0] == -400
    assert scan_end(b"GET / HTTP/1.1\n", 14)[0] == -400


@pytest.mark.parametrize("hostile", [b"b" + b" " * 16000 + b"x", b"b" + b" ," * 8000, b"b,c" * 5000, b"," * 16000])
def test_spaces_and_commas_in_an_offer_cost_no_quadratic_time(hostile: bytes) -> None:
    def seconds(value: bytes) -> float:
        data = head(b"Sec-WebSocket-Protocol: " + value)
        started = time.process_time()
        for _ in range(20):
            assert parse(data, max_head_bytes=1 << 20).status in (101, 400)
        return time.process_time() - started

    small = min(seconds(hostile) for _ in range(3))
    large = min(seconds(hostile * 16) for _ in range(3))
    assert large < 60 * small + 0.01  # linear is 16, quadratic 256


def test_a_thousand_lines_of_one_repeated_header_cost_no_quadratic_time() -> None:
    data = head(*(b"Sec-WebSocket-Protocol: t%d" % i for i in range(5000)))
    started = time.process_time()
    request = parse(data, max_head_bytes=1 << 20, max_headers=6000)
    assert time.process_time() - started < 0.5
    assert request.offer is not None
    assert request.offer.count(b", ") == 4999
