"""An authority that has to ask somebody: the connection stands still meanwhile, and is found again or found gone."""

import json
from collections.abc import AsyncIterator

import pytest

from broker.auth.identity import Identity
from broker.gateway.authority import Grant
from broker.gateway.opening import Denied
from broker.native._request import Request
from broker.protocol.offer import Offer
from tests.client_frames import TEXT, frame
from tests.integration.harness import JSON, Broker, Client, request, running, turns, wait_until
from tests.integration.waiting import SlowAuthority

ORIGIN = "http://localhost:3000"


@pytest.fixture
def authority() -> SlowAuthority:
    return SlowAuthority()


@pytest.fixture
async def broker(authority: SlowAuthority) -> AsyncIterator[Broker]:
    async with running(
        authority=authority, limits_refusal_hold_min_seconds=0.0, limits_refusal_hold_max_seconds=0.0
    ) as broker:
        yield broker


async def ask(
    broker: Broker, authority: SlowAuthority, offer: str, early: bytes = b"", origin: str | None = None
) -> Client:
    """A client whose request waits for its decision."""
    client = await broker.connect()
    before = len(authority.asked)
    await client.send(request(offer=offer, origin=origin) + early)
    await wait_until(lambda: len(authority.asked) > before, "the authority is asked")
    return client


async def test_nothing_is_answered_before_the_decision(broker: Broker, authority: SlowAuthority) -> None:
    client = await ask(broker, authority, "news")
    await turns()
    assert broker.counter("n_opened") == broker.counter("n_bytes_written") == 0
    authority.asked[0].set_result(Grant())
    assert (await client.answer()).one("Sec-WebSocket-Protocol") == "news"


async def test_frames_that_came_with_the_request_are_not_lost_while_it_waits(
    broker: Broker, authority: SlowAuthority
) -> None:
    client = await ask(broker, authority, "news", early=frame(TEXT, b"in the same segment"))
    await client.send(frame(TEXT, b"in the next one"))
    await turns()
    assert broker.counter("n_messages_received") == 0
    authority.asked[0].set_result(Grant())
    assert (await client.answer()).status == 101
    assert [await client.text(), await client.text()] == ["in the same segment", "in the next one"]


async def test_a_json_page_gets_its_hello_before_the_answer_to_what_it_sent_early(
    broker: Broker, authority: SlowAuthority
) -> None:
    early = frame(TEXT, json.dumps({"type": "ping", "id": 1}).encode())
    client = await ask(broker, authority, f"{JSON}, news", early=early)
    authority.asked[0].set_result(Grant(Identity("ann")))
    await client.answer()
    hello = await client.event()
    assert (hello["type"], hello["user"]) == ("hello", "ann")
    assert await client.event() == {"type": "ack", "id": 1}


async def test_what_comes_early_and_is_then_refused_reaches_nobody(broker: Broker, authority: SlowAuthority) -> None:
    listener = await ask(broker, authority, "news|recv")
    authority.asked[0].set_result(Grant())
    await listener.answer()
    client = await ask(broker, authority, "news", early=frame(TEXT, b"let me in"), origin=ORIGIN)
    authority.asked[1].set_exception(Denied("not_authenticated"))
    assert (await client.answer()).status == 101
    broker.advance(1)
    assert await client.close_frame() == (4501, "code=not_authenticated;a valid token is needed")
    await listener.caught_up()
    assert broker.counter("n_published") == 0


async def test_others_are_served_while_one_waits(broker: Broker, authority: SlowAuthority) -> None:
    slow = await ask(broker, authority, "news")
    quick = await ask(broker, authority, "news")
    authority.asked[1].set_result(Grant())
    await quick.answer()
    await quick.send(frame(TEXT, b"first"))
    assert await quick.text() == "first"
    authority.asked[0].set_result(Grant())
    assert (await slow.answer()).status == 101


async def test_a_late_refusal_is_a_status_for_programs(broker: Broker, authority: SlowAuthority) -> None:
    client = await ask(broker, authority, "news")
    authority.asked[0].set_exception(Denied("not_permitted", "not this one"))
    answer = await client.answer()
    assert answer.status == 403
    assert json.loads(answer.body) == {
        "title": "Forbidden",
        "status": 403,
        "detail": "not this one",
        "code": "not_permitted",
    }
    assert await client.closed() == b""


async def test_a_refused_channel_is_told_beside_the_others_in_json_and_refuses_a_raw_page(
    broker: Broker, authority: SlowAuthority
) -> None:
    grant = Grant(refused={"secret": "not_permitted"})
    page = await ask(broker, authority, f"{JSON}, news, secret")
    authority.asked[0].set_result(grant)
    await page.answer()
    channels = (await page.event())["channels"]
    assert [entry.get("error", {}).get("code") for entry in channels] == [None, "not_permitted"]
    raw = await ask(broker, authority, "news, secret")
    authority.asked[1].set_result(grant)
    assert json.loads((await raw.answer()).body)["detail"] == "offer[1]: not allowed for this connection"
    nothing = await ask(broker, authority, f"{JSON}, secret")
    authority.asked[2].set_result(grant)
    assert (await nothing.answer()).status == 403


async def test_who_a_raw_message_comes_from_is_told_to_json_subscribers(
    broker: Broker, authority: SlowAuthority
) -> None:
    page = await ask(broker, authority, f"{JSON}, news")
    authority.asked[0].set_result(Grant())
    await page.answer()
    await page.event()
    raw = await ask(broker, authority, "news")
    authority.asked[1].set_result(Grant(Identity("ann")))
    await raw.answer()
    await raw.send(frame(TEXT, b"hi"))
    assert (await page.event())["from"]["user"] == "ann"


async def test_a_client_that_was_reset_meanwhile_is_forgotten_at_once(broker: Broker, authority: SlowAuthority) -> None:
    client = await ask(broker, authority, "news")
    client.reset()
    await broker.ended_for("peer_gone")
    authority.asked[0].set_result(Grant())
    await turns()
    assert broker.counter("n_opened") == 0


@pytest.mark.parametrize("offer", ["news", f"{JSON}, news"])
async def test_a_client_that_left_meanwhile_leaves_nothing_behind(
    broker: Broker, authority: SlowAuthority, offer: str
) -> None:
    client = await ask(broker, authority, offer)
    client.close()
    authority.asked[0].set_result(Grant(Identity("ann")))
    await wait_until(lambda: broker.reactor.connections == 0)
    assert broker.counter("g_subscriptions") == 0


async def test_a_page_that_left_meanwhile_is_noticed_before_the_decision(
    broker: Broker, authority: SlowAuthority
) -> None:
    client = await ask(broker, authority, "news", origin=ORIGIN)
    client.close()
    await broker.ended_for("peer_gone")
    authority.asked[0].set_result(Grant(Identity("ann")))
    await turns()
    assert broker.counter("n_opened") == 0


async def test_a_tool_that_half_closes_reads_the_decision(broker: Broker, authority: SlowAuthority) -> None:
    client = await ask(broker, authority, "news")
    client.half_close()
    await turns()
    authority.asked[0].set_result(Grant(refused={"news": "not_permitted"}))
    assert (await client.answer()).status == 403
    assert await client.closed() == b""


async def test_a_decision_has_a_deadline_and_comes_too_late_after_it(broker: Broker, authority: SlowAuthority) -> None:
    client = await ask(broker, authority, "news")
    broker.advance(11)
    assert await client.closed() == b""
    await broker.ended_for("decision_timeout")
    authority.asked[0].set_result(Grant())
    await turns()
    assert broker.counter("n_opened") == 0


async def test_an_authority_that_never_answers_is_not_waited_for_by_ever_more_tasks(authority: SlowAuthority) -> None:
    async with running(authority=authority, limits_handshake_seconds=0.1) as broker:
        client = await ask(broker, authority, "news")
        client.reset()
        await wait_until(lambda: authority.asked[0].cancelled(), "the decision is given up")
        await broker.ended_for("peer_gone")


@pytest.mark.parametrize("origin", [None, ORIGIN])
async def test_a_decision_that_fails_late_is_a_500_and_counted(
    broker: Broker, authority: SlowAuthority, origin: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    broker.expected_callback_errors = 1
    client = await ask(broker, authority, "news", origin=origin)
    authority.asked[0].set_exception(RuntimeError("the database said a secret"))
    answer = await client.answer()
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert await client.closed() == b""
    client.close()
    await broker.ended_for("callback_error")
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


class Broken:
    async def admit(self, request: Request, offer: Offer) -> Grant:
        raise RuntimeError("a bug")


async def test_a_decision_that_fails_at_once_is_a_500_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with running(authority=Broken()) as broker:
        broker.expected_callback_errors = 1
        client = await broker.connect()
        answer = await client.ask(request(offer="news"))
        assert (answer.status, answer.one("Connection")) == (500, "close")
        assert await client.closed() == b""
        client.close()
        await broker.ended_for("callback_error")
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_the_end_of_the_process_turns_away_whoever_still_waits(broker: Broker, authority: SlowAuthority) -> None:
    client = await ask(broker, authority, "news")
    broker.worker.gateway.close_all("going_away")
    answer = await client.answer()
    assert (answer.status, answer.one("Retry-After")) == (503, "5")
    broker.worker.gateway.cancel_all()
    await wait_until(lambda: authority.asked[0].cancelled())
