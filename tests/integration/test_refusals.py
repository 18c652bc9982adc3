"""How a connection is told no: so that a page can read it, and so that a crowd of them cannot abuse it."""

import json

import pytest

from tests.client_frames import CLOSE, PING, TEXT, close, frame
from tests.integration.harness import JSON, Answer, Broker, Client, request, running, turns

ORIGIN = "http://localhost:3000"
BAD_OFFER = "news, a|fast"
REASON = "code=bad_offer;offer[1]: unknown option of a channel"


async def ask(broker: Broker, offer: str | None, origin: str | None, target: str = "/ws") -> tuple[Client, Answer]:
    client = await broker.connect()
    return client, await client.ask(request(target, offer=offer, origin=origin))


async def readable(broker: Broker, client: Client, reason: str, code: int = 4500) -> None:
    """The Close is held back for one to three seconds, then says why."""
    broker.advance(0.4)
    await turns()
    assert client.silent(), "it came too early"
    broker.advance(2.8)
    assert await client.close_frame() == (code, reason)
    await client.send(close(code))
    assert await client.closed() == b""


async def test_a_page_reads_why_its_offer_was_refused(broker: Broker) -> None:
    client, answer = await ask(broker, BAD_OFFER, ORIGIN)
    assert (answer.status, answer.one("Sec-WebSocket-Protocol")) == (101, "news")
    await readable(broker, client, REASON)
    await broker.ended_for("bad_offer")
    counters = broker.counters()
    assert (counters["n_refused_close"], counters["n_refused_http"], counters["n_opened"]) == (1, 0, 0)


async def test_the_format_is_answered_even_though_the_offer_is_refused(broker: Broker) -> None:
    client, answer = await ask(broker, f"a|fast, {JSON}", ORIGIN)
    assert answer.one("Sec-WebSocket-Protocol") == JSON
    await readable(broker, client, "code=bad_offer;offer[0]: unknown option of a channel")


async def test_a_page_of_the_future_reads_that_its_format_is_not_spoken(broker: Broker) -> None:
    client, answer = await ask(broker, "broker.json.v9", ORIGIN)
    assert answer.one("Sec-WebSocket-Protocol") == "broker.json.v9"  # or the browser would hide the reason
    await readable(broker, client, "code=bad_offer;offer[0]: offer a format or a channel that can be answered")


async def test_a_page_whose_query_is_bad_reads_why_too(broker: Broker) -> None:
    client, answer = await ask(broker, None, ORIGIN, "/ws?channel=a%20b")
    assert (answer.status, answer.all("Sec-WebSocket-Protocol")) == (101, [])
    await readable(
        broker,
        client,
        "code=bad_offer;offer[0]: a character or the length of the channel name is not allowed",
    )


async def test_what_a_refused_page_sends_is_discarded_and_counted(broker: Broker) -> None:
    listener = await broker.open("news|recv")
    client, _ = await ask(broker, BAD_OFFER, ORIGIN)
    await client.send(frame(TEXT, b"hello") * 3 + frame(PING, b"anybody?"))
    await readable(broker, client, REASON)
    assert broker.counter("n_messages_discarded") == 3
    assert broker.counter("n_published") == 0
    await listener.caught_up()


async def test_a_refused_page_that_closes_first_is_answered_at_once(broker: Broker) -> None:
    client, _ = await ask(broker, BAD_OFFER, ORIGIN)
    await client.send(close(1000))
    assert await client.frame() == (CLOSE, (1000).to_bytes(2))
    assert await client.closed() == b""
    await broker.ended_for("bad_offer")


async def test_a_refused_page_that_breaks_the_frame_rules_is_let_go(broker: Broker) -> None:
    client, _ = await ask(broker, BAD_OFFER, ORIGIN)
    await client.send(frame(TEXT, b"a", mask=None))
    assert (await client.close_frame())[0] == 1002
    assert await client.closed() == b""
    client.close()
    await broker.ended_for("bad_offer")


async def test_pages_that_were_refused_together_do_not_come_back_together(broker: Broker) -> None:
    clients = [(await ask(broker, BAD_OFFER, ORIGIN))[0] for _ in range(30)]
    broker.advance(2)
    await turns()
    ended = 0
    for client in clients:
        ended += not client.silent()
    assert 0 < ended < 30


async def test_a_program_reads_why_in_http(broker: Broker) -> None:
    client, answer = await ask(broker, BAD_OFFER, None)
    assert answer.status == 400
    assert answer.one("Content-Type") == "application/problem+json"
    assert json.loads(answer.body) == {
        "title": "Bad Request",
        "status": 400,
        "detail": "offer[1]: unknown option of a channel",
        "code": "bad_offer",
    }
    assert await client.closed() == b""
    client.close()
    await broker.ended_for("bad_offer")


@pytest.mark.parametrize("offer", ["bearer.e30.e30.e30", "bearer.a, bearer.b", "bearer."])
async def test_where_nothing_may_be_answered_the_refusal_is_http(broker: Broker, offer: str) -> None:
    _, answer = await ask(broker, offer, ORIGIN)
    assert answer.status == 400
    assert offer not in answer.body.decode()


@pytest.mark.parametrize(
    ("style", "origin", "status"),
    [("close", None, 101), ("close", ORIGIN, 101), ("http", None, 400), ("http", ORIGIN, 400), ("auto", ORIGIN, 101)],
)
async def test_the_operator_chooses_how_to_refuse(style: str, origin: str | None, status: int) -> None:
    async with running(server_refusal=style) as broker:
        client, answer = await ask(broker, BAD_OFFER, origin)
        assert answer.status == status
        if status == 101:
            await readable(broker, client, REASON)


async def test_an_address_that_is_refused_too_often_gets_plain_http() -> None:
    async with running(limits_refusals_per_address_per_minute=2) as broker:
        statuses = [(await ask(broker, BAD_OFFER, ORIGIN))[1].status for _ in range(4)]
        assert statuses == [101, 101, 400, 400]
        assert (await broker.open("news", origin=ORIGIN)) is not None  # a good offer still gets in


async def test_a_refusal_costs_a_hundred_others_nothing(broker: Broker) -> None:
    good = await broker.open("news")
    for _ in range(50):
        client, _ = await ask(broker, BAD_OFFER, None)
        client.close()
    for _ in range(50):
        client, _ = await ask(broker, BAD_OFFER, ORIGIN)
        client.reset()
    await good.send(frame(TEXT, b"still here"))
    assert await good.text() == "still here"
    good.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
async def test_a_foreign_page_learns_nothing_but_403(broker: Broker, origin: str) -> None:
    _, answer = await ask(broker, BAD_OFFER, origin)
    assert answer.status == 403
    assert json.loads(answer.body)["detail"] == "pages of this origin may not connect"
