"""The end of a broker of several workers while clients are in the middle of something: everybody is told.

I1 order, I2 no silent hole, I7 nothing is raised, I9 who sends clients here is told before any of them is refused.
"""

import signal
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.client_frames import TEXT, close, frame
from tests.integration.harness import request
from tests.process.books import check_i7_log
from tests.process.command import (
    PATIENCE_SECONDS,
    Served,
    read_end,
    read_frame,
    read_head,
    say_goodbye,
    serving,
)
from tests.process.flow import Flow
from tests.process.supervised import client_of, configuration, worker_of, workers
from tests.process.systemd import messages_so_far, next_message, notifications


def test_clients_in_the_middle_of_their_handshake_are_told_that_the_broker_ends(tmp_path: Path) -> None:
    patient = ["handshake_seconds = 60.0", "interest_linger_seconds = 60.0", "close_seconds = 20.0"]
    limits = [*patient, "[drain]", "window_seconds = 1.0"]
    with serving("--workers", "2", *configuration(tmp_path, limits=limits)) as broker:
        begun = [broker.connect() for _ in range(40)]
        head = request(offer="news")
        for number, client in enumerate(begun):
            client.sendall(head[: 1 + number * (len(head) - 2) // len(begun)])
        opened = [client_of(broker, pid) for pid in workers(broker).values()]
        assert {worker_of(broker, client) for client in begun} == set(workers(broker).values())
        broker.signal(signal.SIGTERM)
        # Half of them go on: they may be in time for a session, which then ends as all others.
        late = begun[1::2]
        for client in late:
            number = begun.index(client)
            client.sendall(head[1 + number * (len(head) - 2) // len(begun) :])
        for client in late:
            answer = read_head(client)
            if b" 101 " in answer:
                assert say_goodbye(client) == 1012
            else:
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After" in answer
                client.close()
        for client in begun[::2]:
            with closing(client):
                assert read_end(client).startswith(b"HTTP/1.1 503 ")
        assert [say_goodbye(client) for client in opened] == [1012] * 2
        assert broker.status() == 0
    check_i7_log(broker)


@pytest.mark.parametrize("window_seconds", [0.0, 1.0], ids=["at once", "over a window"])
def test_i1_the_end_in_the_middle_of_a_fan_out_cuts_no_message_and_tells_everybody(
    window_seconds: float, tmp_path: Path
) -> None:
    limits = ["[drain]", f"window_seconds = {window_seconds}"]
    with serving("--workers", "2", *configuration(tmp_path, limits=limits)) as broker:
        readers = [broker.open("news|recv") for _ in range(200)]
        publisher = client_of(broker, workers(broker)[0], "news|send")
        sent = [b"%06d" % number + b"." * 994 for number in range(400)]
        writing = threading.Thread(target=publisher.sendall, args=(b"".join(frame(TEXT, one) for one in sent),))
        writing.start()
        assert read_frame(readers[0]) == (TEXT, sent[0])
        broker.signal(signal.SIGTERM)
        code = 1012 if window_seconds else 1001
        for number, reader in enumerate(readers):
            with closing(reader):
                heard = [sent[0]] if number == 0 else []
                while (got := read_frame(reader))[0] == TEXT:
                    heard.append(got[1])
                assert heard == sent[: len(heard)], "the first ones, in order, none twice"
                assert got[0] == 8
                assert int.from_bytes(got[1][:2]) == code
                reader.sendall(close(code))
                assert read_end(reader) == b""
        assert say_goodbye(publisher) == code
        writing.join()
        assert broker.status() == 0
    check_i7_log(broker)


def served_until_refused(broker: Served) -> int:
    """How many handshakes succeed, one after the other, before one does not."""
    served = 0
    while True:
        try:
            with closing(broker.connect()) as client:
                client.sendall(request(offer="news"))
                if b" 101 " not in read_head(client):
                    return served
        except (AssertionError, ConnectionError):
            return served
        served += 1


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "two workers"])
def test_i9_stopping_is_said_before_any_client_is_refused(count: int, tmp_path: Path) -> None:
    with notifications() as (receiver, told):
        flags = configuration(tmp_path, limits=["[drain]", "delay_seconds = 1.0"])
        with serving("--workers", str(count), *flags, extra=told) as broker:
            assert next_message(receiver).startswith("READY=1")
            broker.signal(signal.SIGTERM)
            assert served_until_refused(broker) > 0, "it accepts until nobody sends clients here any more"
            said = messages_so_far(receiver)
            assert any(message.startswith("STOPPING=1") for message in said), said
            assert broker.status() == 0
    check_i7_log(broker)


def test_i2_when_the_supervisor_is_killed_under_load_no_connection_is_left_open_in_silence(tmp_path: Path) -> None:
    with serving("--workers", "2", *configuration(tmp_path)) as broker:
        flow = Flow(broker)
        flow.goes_on()
        broker.signal(signal.SIGKILL)
        for publisher in flow.publishers:
            publisher.join(PATIENCE_SECONDS)
            assert publisher.ended == "lost"
            publisher.stop()
        for witness in flow.witnesses:
            witness.join(PATIENCE_SECONDS)
            assert witness.ended == "lost"
            witness.close()
            witness.check_i1_order()
            witness.check_i2_no_silent_hole()
        assert broker.status() == -signal.SIGKILL
