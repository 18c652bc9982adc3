"""Several workers and what is lost between them: an engine that dies or hangs, a link that breaks, a worker that stands
still. Whoever is concerned is told; with history nothing is lost.
"""

import asyncio
import errno
import json
import socket

import pytest

from broker.config.schema import Limits
from tests.client_frames import TEXT, frame
from tests.integration.harness import request, wait_until
from tests.integration.several import Cluster, several


async def test_a_lost_engine_is_told_to_every_publisher_and_every_subscriber_and_comes_back(cluster: Cluster) -> None:
    one, two = cluster.workers
    json_reader, raw_reader = await two.open_json("news", "quiet"), await two.open("news|recv")
    commander, publisher = await one.open_json(), await one.open("news|send")
    cluster.stop_engine()
    await wait_until(lambda: not any(link.up for link in cluster.links))
    await commander.command(type="publish", channel="news", text="x", id=1)
    error = await commander.event()
    assert (error["type"], error["code"], error["id"]) == ("error", "engine_unavailable", 1)
    await publisher.send(frame(TEXT, b"x"))
    assert (await publisher.close_frame())[0] == 4103
    publisher.close()
    late = await one.connect()
    refused = await late.ask(request(offer="news"))
    assert refused.status == 503
    assert json.loads(refused.body)["code"] == "engine_unavailable"

    cluster.start_engine()
    await cluster.all_linked()
    told = [await json_reader.event(), await json_reader.event()]
    assert sorted(event["channel"] for event in told) == ["news", "quiet"]
    assert {(event["type"], event["missed"]) for event in told} == {("gap", None)}
    code, reason = await raw_reader.close_frame()
    assert (code, reason.split(";")[0]) == (1012, "code=service_restart")
    raw_reader.close()
    await commander.command(type="publish", channel="news", text="again", id=2)
    assert await commander.event() == {"type": "ack", "id": 2}
    assert (await json_reader.event())["text"] == "again"


async def test_the_gap_of_a_new_link_is_told_before_what_was_published_after_it(cluster: Cluster) -> None:
    one, two = cluster.workers
    reader, publisher = await two.open_json("news"), await one.open_json()
    cluster.stop_engine()
    await wait_until(lambda: not any(link.up for link in cluster.links))
    cluster.start_engine()
    await cluster.all_linked()
    loop = asyncio.get_running_loop()
    loop.remove_reader(two.reactor.fileno())  # so that the answer to its join and a message arrive in one read
    await wait_until(lambda: cluster.engine.exchange.wanted(b"news") == 1)
    await publisher.command(type="publish", channel="news", text="after", id=1)
    assert (await publisher.event())["type"] == "ack"
    loop.add_reader(two.reactor.fileno(), two.reactor.turn)
    assert await reader.event() == {"type": "gap", "channel": "news", "missed": None}
    assert (await reader.event())["text"] == "after"


async def test_publishes_under_way_when_the_link_breaks_have_an_unknown_outcome(cluster: Cluster) -> None:
    one = cluster.workers[0]
    commander, publisher, idle = await one.open_json(), await one.open("news|send"), await one.open("news|send")
    loop = asyncio.get_running_loop()
    loop.remove_reader(cluster.engine.exchange.fileno())  # it stands still, as a stopped process does
    await commander.command(type="publish", channel="news", text="x", id=1)
    await publisher.send(frame(TEXT, b"y"))
    await wait_until(lambda: one.counter("n_published") == 2)
    cluster.stop_engine()
    error = await commander.event()
    assert (error["code"], error["id"]) == ("outcome_unknown", 1)
    code, reason = await publisher.close_frame()
    assert (code, reason.split(";")[0]) == (4104, "code=outcome_unknown")
    publisher.close()
    await idle.caught_up()
    cluster.start_engine()
    await cluster.all_linked()


async def test_an_engine_that_hangs_does_not_hold_publishers_for_ever() -> None:
    async with several(2, engine_limits=Limits(link_silence_seconds=0.3)) as cluster:
        one, two = cluster.workers
        commander, publisher, idle = await one.open_json(), await one.open("news|send"), await two.open_json()
        loop = asyncio.get_running_loop()
        loop.remove_reader(cluster.engine.exchange.fileno())
        await commander.command(type="publish", channel="news", text="x", id=1)
        await publisher.send(frame(TEXT, b"y"))
        error = await commander.event()
        assert (error["code"], error["id"]) == ("outcome_unknown", 1)
        assert (await publisher.close_frame())[0] == 4104
        publisher.close()
        assert cluster.links[1].up, "who has nothing under way need not give up"
        await idle.command(type="ping", id=1)
        assert await idle.event() == {"type": "ack", "id": 1}
        loop.add_reader(cluster.engine.exchange.fileno(), cluster.engine.exchange.turn)
        await cluster.all_linked()
        await commander.command(type="publish", channel="news", text="again", id=2)
        assert await commander.event() == {"type": "ack", "id": 2}


async def test_the_operator_says_how_much_may_be_under_way() -> None:
    async with several(1, engine_limits=Limits(link_window_bytes=20_000)) as cluster:
        (one,) = cluster.workers
        publisher = await one.open("news|send")
        loop = asyncio.get_running_loop()
        loop.remove_reader(cluster.engine.exchange.fileno())
        await publisher.send(frame(TEXT, b"x" * 6000) * 10)
        await wait_until(lambda: not one.reactor.link_has_credit)
        assert one.counter("n_published") == 4
        loop.add_reader(cluster.engine.exchange.fileno(), cluster.engine.exchange.turn)
        await wait_until(lambda: one.counter("n_published") == 10)


async def test_a_publisher_that_is_faster_than_the_engine_is_not_read_and_loses_nothing() -> None:
    async with several(2, limits_send_queue_bytes=2**24) as cluster:
        one, two = cluster.workers
        reader, publisher = await two.open("news|recv"), await one.open("news|send")
        loop = asyncio.get_running_loop()
        loop.remove_reader(cluster.engine.exchange.fileno())
        payload, count = b"x" * 60_000, 200
        sending = asyncio.create_task(publisher.send(frame(TEXT, payload) * count))
        await wait_until(lambda: not one.reactor.link_has_credit, "the window is full")
        published = one.counter("n_published")
        assert published < count
        idle = await one.open_json()
        await idle.command(type="ping", id=1)
        assert await idle.event() == {"type": "ack", "id": 1}
        assert one.counter("n_published") == published, "nothing more is taken without credit"
        loop.add_reader(cluster.engine.exchange.fileno(), cluster.engine.exchange.turn)
        for _ in range(count):
            assert (await reader.frame()).payload == payload
        await sending
        assert one.counter("n_published") == count


async def test_commands_wait_for_credit_in_line_and_are_all_acked(cluster: Cluster) -> None:
    one = cluster.workers[0]
    loop = asyncio.get_running_loop()
    publisher = await one.open("news|send")
    loop.remove_reader(cluster.engine.exchange.fileno())
    sending = asyncio.create_task(publisher.send(frame(TEXT, b"x" * 60_000) * 100))
    await wait_until(lambda: not one.reactor.link_has_credit)
    commanders = [await one.open_json() for _ in range(3)]
    for number, commander in enumerate(commanders):
        await commander.command(type="publish", channel="news", text="z", id=number)
    loop.add_reader(cluster.engine.exchange.fileno(), cluster.engine.exchange.turn)
    for number, commander in enumerate(commanders):
        assert await commander.event() == {"type": "ack", "id": number}
    await sending


async def test_a_worker_that_stands_still_loses_messages_and_its_subscribers_are_told_how_many() -> None:
    async with several(2, engine_limits=Limits(link_output_bytes=100_000)) as cluster:
        one, two = cluster.workers
        fast, slow, raw = await one.open_json("news"), await two.open_json("news"), await two.open("news|recv")
        publisher = await one.open_json()
        loop = asyncio.get_running_loop()
        loop.remove_reader(two.reactor.fileno())
        count = 200
        for number in range(count):
            await publisher.command(type="publish", channel="news", text=f"{number} " + "x" * 20_000, id=number)
            assert (await publisher.event())["id"] == number
            assert (await fast.event())["text"].startswith(f"{number} ")
        assert cluster.engine.exchange.lost_count > 0
        loop.add_reader(two.reactor.fileno(), two.reactor.turn)
        await publisher.command(type="publish", channel="news", text="end", id="end")
        heard, missed = 0, 0
        while True:
            event = await slow.event()
            if event["type"] == "gap":
                missed += event["missed"]
                break
            assert event["text"].startswith(f"{heard} "), "nothing is missing before the gap"
            heard += 1
        # Whatever came after the notice is heard; what came before is either heard or counted.
        late = count + 1 - heard - missed
        assert 0 <= late <= 1
        if late:
            assert (await slow.event())["text"] == "end"
        opcode, payload = 1, b""
        while opcode == 1:
            opcode, payload = await raw.frame()
        assert payload[:2] == (1012).to_bytes(2), "a raw subscriber cannot be told: it is ended"
        raw.close()


async def test_with_history_a_worker_that_stood_still_reads_what_it_missed_and_its_subscribers_miss_nothing() -> None:
    kept = {"kept": {"history_count": 1000}}
    async with several(2, engine_limits=Limits(link_output_bytes=100_000), channels=kept) as cluster:
        one, two = cluster.workers
        reader, raw, publisher = await two.open_json("kept"), await two.open("kept|recv"), await one.open_json()
        loop = asyncio.get_running_loop()
        loop.remove_reader(two.reactor.fileno())
        count = 40
        for number in range(count):
            await publisher.command(type="publish", channel="kept", text=f"{number} " + "x" * 20_000, id=number)
            assert (await publisher.event())["id"] == number
        assert cluster.engine.exchange.lost_count > 0
        loop.add_reader(two.reactor.fileno(), two.reactor.turn)
        for number in range(count):
            assert (await reader.event())["text"].startswith(f"{number} ")
        for number in range(count):
            assert (await raw.text()).startswith(f"{number} ")
        await publisher.command(type="publish", channel="kept", text="live", id="live")
        assert (await reader.event())["text"] == "live"


async def test_with_history_a_link_that_is_cut_loses_nothing() -> None:
    async with several(2, channels={"kept": {"history_count": 1000}}) as cluster:
        one, two = cluster.workers
        reader, publisher = await two.open_json("kept"), await one.open_json()
        for number in range(30):
            if number in (10, 20):
                two.reactor.detach_link()
                await wait_until(lambda: not cluster.links[1].up)
            await publisher.command(type="publish", channel="kept", text=str(number), id=number)
            assert (await publisher.event())["id"] == number
        assert [(await reader.event())["text"] for _ in range(30)] == list(map(str, range(30)))


async def test_what_a_worker_copies_of_all_histories_is_bounded_and_whoever_asks_for_more_is_told() -> None:
    kept = {"kept.*": {"history_count": 1000, "history_bytes": 65_536}}
    async with several(2, channels=kept, limits_history_bytes=65_536) as cluster:
        one, two = cluster.workers
        publisher, readers = await one.open_json(), [await two.open_json(f"kept.{name}") for name in range(4)]
        first = ""
        for name in range(4):
            for number in range(10):
                text = f"{number} " + "x" * 4000
                await publisher.command(type="publish", channel=f"kept.{name}", text=text, id=1)
                position = (await publisher.event())["position"]
                first = first or position
        for reader in readers:
            for number in range(10):
                assert (await reader.event())["text"].startswith(f"{number} ")
        back = await two.open(f"broker.json.v1, kept.0|since.{first}")
        (entry,) = (await back.event())["channels"]
        assert entry["recovered"] is False
        last = await two.open("broker.json.v1, kept.3|last.5")
        await last.event()
        assert [(await last.event())["text"][:2] for _ in range(5)] == [f"{number} " for number in range(5, 10)]


async def test_a_new_engine_has_a_new_epoch_and_says_so_to_whoever_stays_and_whoever_comes_back() -> None:
    async with several(2, channels={"kept": {"history_count": 1000}}) as cluster:
        one, two = cluster.workers
        reader, publisher = await two.open_json("kept"), await one.open_json()
        await publisher.command(type="publish", channel="kept", text="old", id=1)
        position = (await publisher.event())["position"]
        assert (await reader.event())["position"] == position
        cluster.stop_engine()
        await wait_until(lambda: not any(link.up for link in cluster.links))
        cluster.start_engine()
        await cluster.all_linked()
        assert await reader.event() == {"type": "gap", "channel": "kept", "missed": None}
        back = await one.open(f"broker.json.v1, kept|since.{position}")
        (entry,) = (await back.event())["channels"]
        assert entry["recovered"] is False
        await publisher.command(type="publish", channel="kept", text="new", id=2)
        assert (await publisher.event())["type"] == "ack"
        assert [(await client.event())["text"] for client in (reader, back)] == ["new", "new"]


async def test_a_question_is_answered_without_those_who_hang_or_die(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = cluster.workers
    await one.open_json("news")
    await two.open_json("news")
    monkeypatch.setattr("broker.engine.questions.ASK_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    loop.remove_reader(two.reactor.fileno())
    assert await one.worker.control.channels() == {"news": 1}
    asking = asyncio.ensure_future(one.worker.control.channels())
    monkeypatch.setattr("broker.engine.questions.ASK_SECONDS", 30.0)
    await asyncio.sleep(0)
    loop.add_reader(two.reactor.fileno(), two.reactor.turn)
    assert await asking == {"news": 2}
    loop.remove_reader(two.reactor.fileno())
    asking = asyncio.ensure_future(one.worker.control.channels())
    await wait_until(lambda: cluster.engine._questions._asked)
    cluster.engine.exchange.detach(1)  # the second worker was linked second
    assert await asking == {"news": 1}
    loop.add_reader(two.reactor.fileno(), two.reactor.turn)
    await wait_until(lambda: not cluster.links[1].up)
    await cluster.all_linked()


async def test_an_engine_without_descriptors_takes_links_again_when_it_has_some(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, refusals = cluster.listener.accept, 2

    class Listener:
        """The kernel's answer when no descriptor is left, twice."""

        def fileno(self) -> int:
            return cluster.listener.fileno()

        def accept(self) -> object:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise OSError(errno.EMFILE, "no descriptor left")
            return accept()

    monkeypatch.setattr(cluster.engine, "_listener", Listener())
    monkeypatch.setattr("broker.engine.process.ACCEPT_PAUSE_SECONDS", 0.05)
    cluster.workers[0].reactor.detach_link()
    await wait_until(lambda: not cluster.links[0].up)
    await cluster.all_linked()
    assert refusals == 0


async def test_garbage_on_a_link_ends_that_link_alone(cluster: Cluster) -> None:
    one, two = cluster.workers
    reader = await two.open("news|recv")
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, cluster.address)
    await loop.sock_sendall(sock, b"\xff" * 4096)
    assert await loop.sock_recv(sock, 1) == b""
    sock.close()
    await (await one.open("news|send")).send(frame(TEXT, b"still"))
    assert await reader.text() == "still"
    assert all(link.up for link in cluster.links)
