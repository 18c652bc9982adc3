"""How connections end (RFC 6455 section 7): closing handshakes, and peers that vanish at any stage leaving nothing."""

from collections.abc import Callable

import pytest

from tests.client_frames import BINARY, CLOSE, PING, TEXT, close, frame
from tests.integration.harness import JSON, Broker, Client, cause_index, request, running, turns, wait_until

ORIGIN = "http://localhost"
NOT_ALLOWED = (4505, "code=cannot_publish;nothing in the offer of this connection takes messages")


# The peer closes.


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999])
async def test_a_close_is_answered_with_its_code_and_the_server_ends_the_connection_first(
    broker: Broker, code: int
) -> None:
    client = await broker.open("news")
    await client.send(close(code, b"because"))
    assert await client.close_frame() == (code, "")
    assert await client.closed() == b""
    await broker.ended_for("peer_closed")  # while the client's end is still open


async def test_an_empty_close_is_answered_with_an_empty_close(broker: Broker) -> None:
    client = await broker.open_json("news")
    await client.send(frame(CLOSE))
    assert await client.close_frame() == (None, "")
    assert await client.closed() == b""
    await broker.ended_for("peer_closed")


async def test_what_follows_a_close_is_not_published(broker: Broker) -> None:
    listener, client = await broker.open("news|recv"), await broker.open("news")
    await client.send(
        frame(TEXT, b"last words") + close(1000) + frame(TEXT, b"from the grave") + frame(PING, b"hello?")
    )
    assert await listener.text() == "last words"
    assert await client.close_frame() == (1000, "")
    assert await client.closed() == b""
    await listener.caught_up()


async def test_a_close_and_the_end_of_the_stream_in_one_go_is_a_clean_end(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(close(1000))
    client.half_close()
    assert await client.close_frame() == (1000, "")
    assert await client.closed() == b""
    await broker.ended_for("peer_closed")


async def test_a_client_that_closes_while_messages_wait_still_reads_the_answer(broker: Broker) -> None:
    reader = await broker.connect(receive_buffer=4096)
    await reader.open("news|recv")
    publisher = await broker.open("news|send")
    while not broker.counter("g_blocked"):
        await publisher.send(frame(BINARY, b"x" * 16384))
        await publisher.caught_up()
    for _ in range(5):
        await publisher.send(frame(BINARY, b"x" * 16384))
        await publisher.caught_up()
    await reader.send(close(1000))
    await wait_until(lambda: broker.counter("n_discarded") >= 5, "what waits behind a Close is given up")
    while (got := await reader.frame()).opcode == BINARY:
        pass
    assert got == (CLOSE, (1000).to_bytes(2))
    assert await reader.closed() == b""


# The broker closes.


async def refuse_to_publish(broker: Broker) -> Client:
    """A client that was sent a Close: it published where its offer takes nothing."""
    client = await broker.open("news|recv")
    await client.send(frame(TEXT, b"hello"))
    assert await client.close_frame() == NOT_ALLOWED
    return client


async def test_a_client_that_answers_our_close_sees_a_clean_end(broker: Broker) -> None:
    client = await refuse_to_publish(broker)
    await client.send(close(4505))
    assert await client.closed() == b""
    await broker.ended_for("cannot_publish")


async def test_what_arrives_between_our_close_and_its_answer_is_counted_and_discarded(broker: Broker) -> None:
    client = await refuse_to_publish(broker)
    await client.send(frame(TEXT, b"on its way") * 3 + frame(PING, b"me too") + close(4505))
    assert await client.closed() == b""
    assert broker.counter("n_messages_discarded") == 3
    await broker.ended_for("cannot_publish")


async def test_a_client_that_breaks_a_rule_instead_of_answering_gets_no_second_close(broker: Broker) -> None:
    client = await refuse_to_publish(broker)
    await client.send(frame(TEXT, b"unmasked", mask=None))
    assert await client.closed() == b""
    client.close()
    await broker.ended_for("cannot_publish")


async def test_a_client_that_never_answers_our_close_is_reset_after_a_while(broker: Broker) -> None:
    client = await refuse_to_publish(broker)
    broker.advance(4)
    await turns()
    assert broker.reactor.connections == 1
    broker.advance(1.1)
    await broker.ended_for("cannot_publish")
    assert await client.was_reset()


async def test_a_client_that_reads_its_failure_and_stays_is_reset_after_lingering(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"a", mask=None))
    assert (await client.close_frame())[0] == 1002
    assert await client.closed() == b""
    broker.advance(1)
    await turns()
    assert broker.reactor.connections == 1
    broker.advance(1.1)
    await broker.ended_for("frame_unmasked")


async def test_an_http_client_that_stays_after_its_answer_is_let_go(broker: Broker) -> None:
    client = await broker.connect()
    assert (await client.ask(request("/other"))).status == 404
    assert await client.closed() == b""
    broker.advance(2.1)
    await broker.ended_for("bad_request")


async def test_a_client_that_goes_on_sending_after_its_failure_still_reads_why(broker: Broker) -> None:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"a", mask=None) + frame(BINARY, b"x" * 60_000) * 20)
    assert (await client.close_frame())[0] == 1002
    await client.send(frame(BINARY, b"x" * 60_000) * 20)
    assert await client.closed() == b""


async def test_everybody_is_told_when_the_server_ends(broker: Broker) -> None:
    raw, json, waiting = await broker.open("news"), await broker.open_json("news"), await broker.connect()
    await waiting.send(request()[:20])
    await broker.has_read(broker.counter("n_bytes_read") + 20)
    assert broker.worker.gateway.close_all("going_away") == 3
    for client in (raw, json):
        assert await client.close_frame() == (1001, "code=going_away;the server process ends")
        await client.send(close(1001))
        assert await client.closed() == b""
    answer = await waiting.answer()
    assert answer.status == 503
    assert answer.one("Retry-After")
    assert await waiting.closed() == b""


# Peers that vanish.


async def nothing_sent(broker: Broker) -> Client:
    return await broker.connect()


async def half_a_request(broker: Broker) -> Client:
    client = await broker.connect()
    await client.send(request(offer="news")[:60])
    await broker.has_read(60)
    return client


async def a_request_nobody_has_looked_at(broker: Broker) -> Client:
    client = await broker.connect()
    client.sock.send(request(offer="news"))
    return client


async def an_unread_101(broker: Broker) -> Client:
    client = await a_request_nobody_has_looked_at(broker)
    await wait_until(lambda: broker.counter("n_opened") == 1)
    return client


async def a_session(broker: Broker) -> Client:
    return await broker.open("news, room.42")


async def a_json_session(broker: Broker) -> Client:
    return await broker.open_json("news", "room.42")


async def half_a_message(broker: Broker) -> Client:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"x" * 60_000)[:50_000])
    await broker.has_read(50_000)
    return client


async def messages_waiting(broker: Broker) -> Client:
    client = await broker.connect(receive_buffer=4096)
    await client.open("news|recv")
    publisher = await broker.open("news|send")
    while not broker.counter("g_blocked"):
        await publisher.send(frame(BINARY, b"x" * 16384))
        await publisher.caught_up()
    publisher.close()
    await wait_until(lambda: broker.reactor.connections == 1)
    return client


async def a_held_refusal(broker: Broker) -> Client:
    return await broker.open("news, a%zz", origin=ORIGIN)


async def our_close_unanswered(broker: Broker) -> Client:
    return await refuse_to_publish(broker)


async def a_failure(broker: Broker) -> Client:
    client = await broker.open("news")
    await client.send(frame(TEXT, b"a", mask=None))
    await client.close_frame()
    return client


async def an_unread_http_answer(broker: Broker) -> Client:
    client = await broker.connect()
    await client.send(request("/other"))
    await wait_until(lambda: broker.counter("n_refused_http") == 1)
    return client


STAGES = (
    nothing_sent,
    half_a_request,
    a_request_nobody_has_looked_at,
    an_unread_101,
    a_session,
    a_json_session,
    half_a_message,
    messages_waiting,
    a_held_refusal,
    our_close_unanswered,
    a_failure,
    an_unread_http_answer,
)


def half_closed(client: Client) -> None:
    client.half_close()


def gone(client: Client) -> None:
    client.close()


def reset(client: Client) -> None:
    client.reset()


@pytest.mark.parametrize("ending", [half_closed, gone, reset])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_peer_that_vanishes_at_any_stage_leaves_nothing_behind(
    broker: Broker, stage: Callable[[Broker], object], ending: Callable[[Client], None]
) -> None:
    client = await stage(broker)  # type: ignore[misc]
    ending(client)
    await wait_until(lambda: broker.reactor.connections == 0, "the vanished peer forgotten")
    counters = broker.counters()
    assert counters["g_sessions"] == counters["g_subscriptions"] == counters["g_queued"] == counters["g_blocked"] == 0


async def test_a_probe_that_half_closes_after_its_request_still_gets_its_answer(broker: Broker) -> None:
    client = await broker.connect()
    client.sock.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    client.half_close()
    assert (await client.answer()).status == 200
    assert await client.closed() == b""


@pytest.mark.parametrize("offer", [None, JSON, "news", "news, room.42", f"{JSON}, news, room.42, a, b, c, d"])
async def test_connecting_and_leaving_with_any_number_of_channels_leaves_nothing(
    broker: Broker, offer: str | None
) -> None:
    for _ in range(3):
        clients = [await broker.open(offer) for _ in range(3)]
        clients[1].close()
        await wait_until(lambda: broker.reactor.connections == 2)
        clients[0].reset()
        clients[2].close()
        await wait_until(lambda: broker.reactor.connections == 0)
        assert broker.counter("g_channels") == 0
        assert broker.counter("g_subscriptions") == 0


async def test_duplicate_channels_are_refused_and_leave_no_subscription(broker: Broker) -> None:
    client = await broker.connect()
    assert (await client.ask(request(offer="news, n%65ws"))).status == 400
    assert broker.counter("g_subscriptions") == 0


async def test_a_publisher_that_leaves_after_its_message_has_still_published_it(broker: Broker) -> None:
    listener = await broker.open("news|recv")
    publisher = await broker.open("news")
    publisher.sock.send(frame(TEXT, b"bye"))
    publisher.close()
    assert await listener.text() == "bye"


async def test_the_slot_of_a_gone_connection_serves_another_that_shares_nothing_with_it() -> None:
    async with running() as broker:
        for i in range(200):
            client = await broker.open(f"room.{i}")
            await client.send(frame(TEXT, b"%d" % i))
            assert await client.text() == str(i)
            client.close()
            await wait_until(lambda: broker.reactor.connections == 0)


async def test_whoever_is_ended_later_gets_what_was_queued_and_hears_nothing_after_it(broker: Broker) -> None:
    reader, publisher = await broker.open("news|both, room|recv"), await broker.open("news|send")
    await publisher.send(frame(TEXT, b"before"))
    assert await reader.text() == "before"
    (conn,) = [conn for conn in broker.reactor.ids(0, 64) if b"room" in broker.reactor.subscriptions(conn)]
    payload = (1012).to_bytes(2) + b"code=service_restart;"
    assert broker.reactor.close_later(conn, payload, cause_index("service_restart"), 5.0)
    assert broker.reactor.state(conn) == "held"
    assert not broker.reactor.close_later(conn, payload, cause_index("service_restart"), 5.0), "once"
    await publisher.send(frame(TEXT, b"after"))
    await publisher.caught_up()
    await reader.send(frame(TEXT, b"not published"))
    await wait_until(lambda: broker.counter("n_messages_discarded") == 1)
    assert reader.silent()
    broker.advance(5.1)
    assert await reader.close_frame() == (1012, "code=service_restart;")
    await reader.send(close(1012))
    assert await reader.closed() == b""
    assert broker.counter("n_published") == 2
    assert not broker.reactor.close_later(conn, payload, cause_index("service_restart"), 5.0), "gone"


async def test_what_waits_for_a_slow_reader_is_written_before_its_end_comes(broker: Broker) -> None:
    reader, publisher = await broker.connect(receive_buffer=65536), await broker.open("news|send")
    await reader.open("news|recv")
    payload, count = b"x" * 60_000, 10
    await publisher.send(frame(TEXT, payload) * count)
    await wait_until(lambda: broker.counter("g_blocked") == 1 and broker.counter("n_published") == count)
    conn = broker.reactor.ids(0, 64)[0]  # the first that came
    assert broker.reactor.close_later(conn, (1012).to_bytes(2), cause_index("service_restart"), 30.0)
    for _ in range(count):
        assert (await reader.frame()).payload == payload
    broker.advance(30.1)
    assert await reader.close_frame() == (1012, "")
