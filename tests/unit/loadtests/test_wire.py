"""What the load sends and counts is what the `websockets` library understands."""

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from loadtests.wire import (
    NORMAL_CLOSE,
    Arrivals,
    client_frame,
    close_code,
    marked,
    server_frame,
    source_address,
    upgrade,
)

SIZES = [16, 125, 126, 65_535, 65_536]


def opened() -> ServerProtocol:
    """A server that has taken a request of the load."""
    server = ServerProtocol(max_size=None)
    server.receive_data(upgrade(("127.0.0.1", 8000), "news"))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    assert server.handshake_exc is None
    return server


@pytest.mark.parametrize("size", SIZES)
def test_a_message_to_the_broker_is_one_that_a_server_takes(size: int) -> None:
    server = opened()
    server.receive_data(client_frame(marked(7, size)))
    assert server.events_received() == [Frame(Opcode.TEXT, marked(7, size))]


def test_the_close_of_the_load_says_normal_closure() -> None:
    server = opened()
    server.receive_data(NORMAL_CLOSE)
    assert (server.close_rcvd and server.close_rcvd.code) == 1000


@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_counted_in_frames_as_a_server_writes_them(size: int) -> None:
    payload = marked(7, size)
    assert server_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@pytest.mark.parametrize("size", [16, 200])
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_every_message_is_timed_however_its_bytes_are_split(size: int, piece: int) -> None:
    dues = [5, 2**40, 2**62]
    data = b"".join(server_frame(marked(due, size)) for due in dues)
    arrivals = Arrivals(size)
    found = [due for at in range(0, len(data), piece) for due in arrivals.receive_data(data[at : at + piece])]
    assert found == dues
    assert arrivals.ended is None


def test_a_reader_that_is_cut_says_by_which_code() -> None:
    arrivals = Arrivals(16)
    close = Frame(Opcode.CLOSE, Close(4208, "code=too_slow;").serialize()).serialize(mask=False)
    assert arrivals.receive_data(server_frame(marked(5, 16)) + close) == [5]
    assert arrivals.ended == "close 4208"


def test_bytes_that_are_no_message_are_noticed() -> None:
    arrivals = Arrivals(16)
    assert arrivals.receive_data(b"\x82\x01x") == []
    assert arrivals.ended == "bytes that are no message"


def test_a_close_code_is_read_only_from_a_whole_close_at_the_end() -> None:
    close = Frame(Opcode.CLOSE, Close(1001, "bye").serialize()).serialize(mask=False)
    assert close_code(b"\x81\x01x" + close) == 1001
    assert close_code(close[:-1]) is None
    assert close_code(b"\x88\x00") is None
    assert close_code(b"") is None


def test_ports_do_not_run_out_because_source_addresses_change() -> None:
    assert len({source_address(index) for index in range(200_000)}) == 20
    assert source_address(0) == "127.0.1.1"
