"""History and presence while processes die, end and are replaced: nobody who came back has a hole he was not told of.

I1 order, I2 no silent hole, as in test_faults.py; here with positions.
"""

import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.integration.harness import JSON, request
from tests.process.books import books, check_i7_log, until
from tests.process.command import Served, read_head, serving
from tests.process.flow import engine_of, flowing, json_client_of
from tests.process.inside import CUT_LINK, at_sigusr1
from tests.process.load import FaithfulPublisher, JsonClient, Reader
from tests.process.supervised import A_WORKER, configuration, workers

HISTORY = ("--history", "100000")
# As much as a test publishes, whatever the speed of the machine.
KEEP_ALL = ['[channels."news"]', "history_count = 1_000_000", "history_bytes = 16_777_216"]


def numbered(client: JsonClient, channel: str, numbers: Iterable[int], **more: object) -> list[str]:
    """Publishes one after the other; the position of each."""
    answers = [client.ask(type="publish", channel=channel, text=f"p {number}", **more) for number in numbers]
    assert {answer["type"] for answer in answers} == {"ack"}, answers
    return [answer["position"] for answer in answers]


def resumed(broker: Served, pid: int, channel: str, position: str) -> tuple[JsonClient, bool]:
    """Somebody who comes back at this worker, and whether all that he missed follows."""
    client = JsonClient(broker, client=json_client_of(broker, pid))
    (entry,) = client.ask(type="subscribe", channel=channel, since=position)["channels"]
    return client, entry["recovered"]


def answered(sock: socket.socket) -> socket.socket:
    assert b" 101 " in read_head(sock)
    return sock


def texts(client: JsonClient, count: int) -> list[str]:
    return [client.event()["text"] for _ in range(count)]


def test_i1_i2_a_killed_engine_is_a_new_epoch_and_nobody_hears_twice_or_in_another_order(tmp_path: Path) -> None:
    with flowing(tmp_path, flags=HISTORY) as (broker, flow):
        before = JsonClient(broker, client=json_client_of(broker, workers(broker)[0]))
        (position,) = numbered(before, "old", [0])
        os.kill(engine_of(broker), signal.SIGKILL)
        for witness in flow.witnesses:
            witness.wait_for(None)
            assert witness.ended is None
            assert witness.missed == [None], "nobody knows how many"
        flow.goes_on()
        for pid in workers(broker).values():
            client, recovered = resumed(broker, pid, "old", position)
            assert not recovered, "what was kept is gone"
            (new,) = numbered(client, "old", [1])
            assert new.split(".")[0] != position.split(".")[0]
            client.close()
        flow.settle()
        before.close()
    check_i7_log(broker)


def test_members_are_listed_again_after_the_engine_was_killed(tmp_path: Path) -> None:
    flags = configuration(tmp_path, limits=['[channels."room"]', "presence = true"])
    with serving("--workers", "2", *flags) as broker:
        members = [
            JsonClient(broker, "room", client=json_client_of(broker, pid, "room")) for pid in workers(broker).values()
        ]
        sessions = {member.hello["session"] for member in members}
        engine = engine_of(broker)
        os.kill(engine, signal.SIGKILL)
        broker.logged("child accepts", 2, child="engine")
        for member in members:

            def listed(member: JsonClient = member) -> bool:
                answer = member.ask(type="presence", channel="room")
                # Refused until the link is back; incomplete until the other worker has its own.
                return answer["type"] == "presence" and {one["session"] for one in answer["members"]} == sessions

            until(listed, lambda: "both are listed")
            member.close()
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i2_after_sigterm_and_a_restart_of_several_workers_positions_and_ids_go_on(tmp_path: Path) -> None:
    flags = [*configuration(tmp_path, limits=["[server]", f'state_directory = "{tmp_path}"']), *HISTORY]
    with serving("--workers", "2", *flags) as broker:
        first, second = (JsonClient(broker, client=json_client_of(broker, pid)) for pid in workers(broker).values())
        positions = [numbered(client, "news", [number])[0] for number in range(0, 100, 2) for client in (first, second)]
        (named,) = numbered(first, "orders", [7], message_id="order-7")
        first.close()
        second.close()
        assert broker.stop() == 0
    with serving("--workers", "2", *flags) as broker:
        for pid in workers(broker).values():
            client, recovered = resumed(broker, pid, "news", positions[29])
            assert recovered
            expected = [f"p {number - number % 2}" for number in range(30, 100)]
            assert texts(client, 70) == expected
            assert numbered(client, "orders", [7], message_id="order-7") == [named], "published once, in two lives"
            client.close()
        publisher = JsonClient(broker, client=json_client_of(broker, workers(broker)[1]))
        (new,) = numbered(publisher, "news", [100])
        assert new not in positions, "no offset comes twice"
        client, recovered = resumed(broker, workers(broker)[0], "news", positions[99])
        assert recovered
        assert texts(client, 1) == ["p 100"]
        client.close()
        publisher.close()
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i2_a_rolling_reload_under_load_costs_no_message_and_no_connect(tmp_path: Path) -> None:
    drain = ["[drain]", "window_seconds = 1.0", "reconnect_seconds = 1.0"]
    flags = configuration(tmp_path, limits=[*drain, *KEEP_ALL])
    with serving("--workers", "2", *flags) as broker:
        readers = [Reader(broker, "news") for _ in range(12)]
        publishers = [FaithfulPublisher(broker, "news", f"p{number}", 0.002) for number in range(2)]
        for publisher in publishers:
            publisher.has_acked_more(50)
        former = [os.pidfd_open(pid) for pid in workers(broker).values()]
        broker.signal(signal.SIGHUP)
        connects = 0
        while broker.errors.count("ended with status 0") < 2:
            broker.open().close()  # refused or reset, it would raise
            connects += 1
        assert connects > 20
        clients = [one.returns for one in readers] + [one.returns for one in publishers]
        until(lambda: all(len(one.ends) == 1 for one in clients), lambda: f"all were sent away: {clients}")
        for publisher in publishers:
            publisher.has_acked_more(50)
        last = [(publisher.called, publisher.stop()) for publisher in publishers]
        for reader in readers:
            for each in last:
                reader.wait_for(each)
            reader.close()
            reader.check_i1_order()
            reader.check_i2_nothing_missing(publishers)
            assert reader.recovered == [True]
        ends = [end for one in clients for end in one.ends]
        assert [end.code for end in ends] == [1012] * len(ends)
        assert all(end.in_ms is not None and 0 <= end.in_ms <= 1000 for end in ends)
        assert max(end.at for end in ends) - min(end.at for end in ends) > 0.25, "over the window, not at once"
        assert [one.refused for one in clients] == [[]] * len(clients)
        for pidfd in former:
            os.close(pidfd)
        with books(broker) as page:
            page.check_all()
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i2_a_worker_that_dies_while_it_sends_its_clients_away_costs_no_message_either(tmp_path: Path) -> None:
    # A window that no test outlives: whoever is killed has clients left.
    drain = ["[drain]", "window_seconds = 3600.0", "reconnect_seconds = 0.0"]
    with serving("--workers", "2", *configuration(tmp_path, limits=[*drain, *KEEP_ALL])) as broker:
        former = workers(broker)
        readers = [Reader(broker, "news", json_client_of(broker, former[number % 2], "news")) for number in range(6)]
        publisher = FaithfulPublisher(broker, "news", "p", 0.002)
        publisher.has_acked_more(20)
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded")
        for pid in former.values():
            os.kill(pid, signal.SIGKILL)
        broker.logged("child ended", 2, how="was ended by SIGKILL")
        until(lambda: all(reader.recovered for reader in readers), lambda: "they are back")
        publisher.has_acked_more(20)
        last = publisher.stop()
        for reader in readers:
            reader.wait_for(("p", last))
            reader.close()
            reader.check_i1_order()
            reader.check_i2_nothing_missing([publisher])
        assert len(broker.logged("child accepts", 4, child=A_WORKER)) == 4, "nobody replaces whom a reload has replaced"
        broker.signal(signal.SIGHUP)
        broker.logged("reloaded", 2)
        broker.logged("child ended", 2, how="ended with status 0")
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i2_i5_three_hundred_come_back_at_once_after_a_worker_died_and_have_missed_nothing(tmp_path: Path) -> None:
    patient = ["handshake_seconds = 60.0", "interest_linger_seconds = 60.0"]
    with serving("--workers", "2", *configuration(tmp_path, limits=[*patient, *KEEP_ALL])) as broker:
        clients = [JsonClient(broker, "news") for _ in range(300)]
        start = clients[0].hello["channels"][0]["position"]
        publisher = FaithfulPublisher(broker, "news", "p", 0.002)
        publisher.has_acked_more(20)
        heard = [[client.event() for _ in range(number % 20)] for number, client in enumerate(clients)]
        killed = workers(broker)[0]
        os.kill(killed, signal.SIGKILL)
        for client in clients:  # those of the other worker leave as well: everybody is away
            client.close()
        publisher.has_acked_more(20)
        sockets = [broker.connect() for _ in clients]
        for sock, events in zip(sockets, heard, strict=True):
            position = events[-1]["position"] if events else start
            sock.sendall(request(offer=f"{JSON}, news|since.{position}"))
        back = [JsonClient(broker, client=answered(sock)) for sock in sockets]
        last = publisher.stop()
        for client, events in zip(back, heard, strict=True):
            assert client.hello["channels"][0]["recovered"] is True
            events += [client.event() for _ in range(last + 1 - len(events))]
            assert [event["text"] for event in events] == [f"p {number}" for number in range(last + 1)]
            client.close()
        broker.logged("child accepts", 2, child="worker 0")
        with books(broker) as page:
            page.check_all()
        assert broker.stop() == 0
    check_i7_log(broker)


def test_i2_a_link_that_is_cut_costs_a_channel_with_history_nothing(tmp_path: Path) -> None:
    flags = ["--workers", "2", *configuration(tmp_path, limits=KEEP_ALL)]
    with serving(*flags, extra=at_sigusr1(tmp_path, CUT_LINK)) as broker:
        readers = [Reader(broker, "news", json_client_of(broker, pid, "news")) for pid in workers(broker).values()]
        publishers = [FaithfulPublisher(broker, "news", f"p{number}", 0.001) for number in range(2)]
        for times in range(1, 7):
            for publisher in publishers:
                publisher.has_acked_more(30)
            os.kill(workers(broker)[times % 2], signal.SIGUSR1)
            broker.logged("link to the engine is lost", times)
        last = [(publisher.called, publisher.stop()) for publisher in publishers]
        for reader in readers:
            for each in last:
                reader.wait_for(each)
            reader.close()
            reader.check_i1_order()
            reader.check_i2_nothing_missing(publishers)
            assert reader.returns.ends == []
        assert broker.stop() == 0
    check_i7_log(broker)


@pytest.mark.parametrize("joined", [False, True], ids=["nobody subscribed", "somebody subscribed"])
def test_i2_a_channel_that_was_evicted_and_made_anew_is_never_continued_wrongly(joined: bool, tmp_path: Path) -> None:
    # Some 240 short messages are kept of all channels.
    limits = ["history_bytes = 65_536", '[channels.">"]', "history_count = 1000", "history_bytes = 65_536"]
    with serving("--workers", "2", *configuration(tmp_path, limits=limits)) as broker:
        at = workers(broker)
        publisher = JsonClient(broker, client=json_client_of(broker, at[0]))
        stays = JsonClient(broker, client=json_client_of(broker, at[0]))
        if joined:  # in band: who looks for a worker by the handshake joins at the other one as well
            stays.ask(type="subscribe", channel="a")
        positions = numbered(publisher, "a", range(10))
        numbered(publisher, "b", range(300))
        positions += numbered(publisher, "a", range(10, 12))
        outcomes = []
        for pid in (at[1], at[0]):
            back = [(*resumed(broker, pid, "a", position), number) for number, position in enumerate(positions)]
            outcomes.append([recovered for _, recovered, _ in back])
            (marker,) = numbered(publisher, "a", [len(positions)])
            positions.append(marker)
            for client, recovered, number in back:
                expected = range(number + 1 if recovered else len(positions) - 1, len(positions))
                assert texts(client, len(expected)) == [f"p {one}" for one in expected], (recovered, number)
                client.close()
        assert outcomes[0][:9] == [False] * 9, "what came after these is kept nowhere"
        assert outcomes[0][10:12] == [True] * 2, "nothing that came after these was evicted"
        if joined:
            assert texts(stays, len(positions)) == [f"p {one}" for one in range(len(positions))]
        stays.close()
        publisher.close()
        assert broker.stop() == 0
    check_i7_log(broker)
