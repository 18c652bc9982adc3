"""What a back end does over HTTP, and what subscribers then hear: one worker, real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from tests.client_frames import BINARY, TEXT
from tests.integration.calling import KEY, NEWS_ONLY, READER, SLOW, asked, call, problem, refused, serving_api
from tests.integration.harness import Broker, Client, wait_until


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with serving_api() as broker:
        yield broker


@pytest.fixture
async def backend(broker: Broker) -> Client:
    return await broker.connect_api()


PUBLISH = "/v1/publish"


def messages(channel: str) -> str:
    return f"/v1/channels/{channel}/messages"


# -- publishing


@pytest.mark.parametrize(
    ("channel", "headers", "body", "heard"),
    [
        ("news", ["Content-Type: application/x-www-form-urlencoded"], b"hello", {"text": "hello"}),
        ("news", [], b"hello", {"text": "hello"}),
        ("news", ["Content-Type: text/plain; charset=UTF-8"], "grüß".encode(), {"text": "grüß"}),
        ("news", ["Content-Type: application/json"], b'{"a": 1}', {"data": {"a": 1}}),
        ("news", ["Content-Type: application/octet-stream"], b"\0\1", {"base64": "AAE="}),
        ("json.a", ["Content-Type: application/x-www-form-urlencoded"], b"[1]", {"data": [1]}),
        ("binary.a", [], b"\xff", {"base64": "/w=="}),
        ("news", [], b"", {"text": ""}),
    ],
)
async def test_the_body_is_published_as_the_kind_that_its_content_type_says(
    broker: Broker, backend: Client, channel: str, headers: list[str], body: bytes, heard: dict[str, object]
) -> None:
    client = await broker.open_json(channel)
    found = await asked(backend, messages(channel), body, *headers)
    assert found == {"channel": channel, "position": None, "subscriptions": 1}
    event = await client.event()
    assert event.pop("time") > 0
    assert event == {"type": "message", "channel": channel, **heard}  # no `from`: the server said it


@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [({"data": {"a": [1]}}, TEXT, b'{"a": [1]}'), ({"text": "t"}, TEXT, b"t"), ({"base64": "AAE="}, BINARY, b"\0\1")],
)
async def test_a_raw_subscriber_gets_the_payload_and_nothing_around_it(
    broker: Broker, backend: Client, message: dict[str, object], opcode: int, payload: bytes
) -> None:
    client = await broker.open("news")
    assert (await asked(backend, PUBLISH, {"channel": "news", **message}))["subscriptions"] == 1
    assert await client.frame() == (opcode, payload)


async def test_a_batch_arrives_in_its_order_and_says_of_each_what_became_of_it(broker: Broker, backend: Client) -> None:
    client = await broker.open("news")
    batch = [{"channel": "news", "text": str(number)} for number in range(100)]
    batch[50:50] = [
        {"channel": "not a name", "text": "x"},
        {"channel": "json.a", "text": "x"},
        {"channel": "news", "base64": "A"},
        {"channel": "news", "text": "x" * 70_000},
    ]
    results = (await asked(backend, PUBLISH, batch))["results"]
    codes = [one.get("error", {}).get("code") for one in results]
    assert codes == [None] * 50 + ["bad_channel", "wrong_payload_kind", "bad_payload", "too_large"] + [None] * 50
    assert [await client.text() for _ in range(100)] == [str(number) for number in range(100)]


async def test_one_message_goes_to_several_channels(broker: Broker, backend: Client) -> None:
    client = await broker.open_json("a", "b")
    results = (await asked(backend, PUBLISH, {"channels": ["a", "kept.b"], "data": 1}))["results"]
    assert [one["channel"] for one in results] == ["a", "kept.b"]
    assert results[0]["position"] is None
    assert results[1]["position"]
    assert (await client.event())["channel"] == "a"


async def test_a_repeated_id_is_published_once_by_whatever_way(broker: Broker, backend: Client) -> None:
    client = await broker.open_json("kept.a")
    first = await asked(backend, messages("kept.a"), b"x", 'Idempotency-Key: "id-1"')
    again = await asked(backend, PUBLISH, {"channel": "kept.a", "text": "x", "message_id": "id-1"})
    await asked(backend, messages("kept.a"), b"y", "Idempotency-Key: id-2")
    assert again == first
    events = [await client.event(), await client.event()]
    assert [(event["text"], event["id"]) for event in events if event["type"] == "message"] == [
        ("x", "id-1"),
        ("y", "id-2"),
    ] or events[0]["type"] == "join"


async def test_a_channel_in_the_path_is_percent_decoded_once(broker: Broker, backend: Client) -> None:
    client = await broker.open("a%3Ab")
    await asked(backend, messages("a%3Ab"), b"x")
    assert await client.text() == "x"
    for bad in ("a%253Ab", "a%2Fb", "%", "%ff", "$x", "bearer.x", "broker%2Ex", "a%0ab", "*"):
        assert await refused(backend, messages(bad), b"x") == (422, "bad_channel")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"\xff", 400, "bad_json"),
        (b"[" * 100_000, 422, "bad_field"),
        (b"5", 422, "bad_field"),
        ({"channel": "news"}, 422, "bad_field"),
        ({"text": "x"}, 422, "bad_field"),
        ({"channel": "news", "channels": ["a"], "text": "x"}, 422, "bad_field"),
        ({"channel": "news", "text": "x", "data": 1}, 422, "bad_field"),
        ({"chanel": "news", "text": "x"}, 422, "bad_field"),
        ([{"channel": "news", "text": "x"}, {"channel": "news"}], 422, "bad_field"),
        ({"channel": "news", "text": 5}, 422, "bad_field"),
        ({"channel": "a b", "text": "x"}, 422, "bad_channel"),
        ({"channel": "news", "base64": "A"}, 422, "bad_payload"),
        (b'{"channel":"news","data":"\\ud800"}', 400, "bad_json"),
        ({"channel": "json.a", "text": "x"}, 415, "wrong_payload_kind"),
        ({"channel": "news", "text": "x" * 65_537}, 413, "too_large"),
        ([{"channel": "news", "text": "x"}] * 1001, 413, "too_large"),
    ],
)
async def test_what_cannot_be_published_is_refused_whole_with_a_code(
    broker: Broker, backend: Client, body: object, status: int, code: str
) -> None:
    client = await broker.open("news")
    assert await refused(backend, PUBLISH, body) == (status, code)
    await asked(backend, messages("news"), b"next")
    assert await client.text() == "next"


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        (["Content-Type: image/png"], b"x", 415, "unsupported_type"),
        (["Content-Type: text/plain; charset=latin-1"], b"x", 415, "unsupported_type"),
        (["Content-Encoding: gzip"], b"x", 415, "unsupported_type"),
        (["Content-Type: text/plain"], b"\xff", 422, "bad_payload"),
        (["Content-Type: application/json"], b"{", 422, "bad_payload"),
        (["Idempotency-Key: a", "Idempotency-Key: b"], b"x", 400, "bad_request"),
        (["Idempotency-Key: " + "a" * 129], b"x", 422, "bad_field"),
        ([], b"x" * 65_537, 413, "too_large"),
    ],
)
async def test_a_body_that_is_no_payload_is_refused(
    backend: Client, headers: list[str], body: bytes, status: int, code: str
) -> None:
    assert await refused(backend, messages("news"), body, *headers) == (status, code)


async def test_a_body_beyond_the_bound_is_refused_before_it_is_read(broker: Broker) -> None:
    backend = await broker.connect_api()
    head = call(PUBLISH, b"", host="localhost").replace(b"Content-Length: 0", b"Content-Length: 99999999")
    answer = await backend.ask(head)
    assert problem(answer) == (413, "too_large")
    await backend.closed()


async def test_a_chunked_body_is_published_and_bounded() -> None:
    async with serving_api(api_max_body_bytes=1000) as broker:
        client = await broker.open("news")
        backend = await broker.connect_api()
        head = call(messages("news"), None, "Transfer-Encoding: chunked", host="localhost", method="POST")
        answer = await backend.ask(head + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
        assert answer.status == 200
        assert await client.text() == "hello"
        await backend.send(head + b"3e9\r\n" + b"x" * 1001 + b"\r\n")
        assert problem(await backend.answer()) == (413, "too_large")
        await backend.closed()


# -- keys


async def test_without_a_right_key_nothing_is_told_but_that(broker: Broker, backend: Client) -> None:
    for key in (None, "wrong", "", KEY + " x"):
        answer = await backend.ask(call("/v1/nothing", key=key, host="localhost"))
        assert problem(answer) == (401, "not_authenticated")
        assert answer.one("www-authenticate").startswith("Bearer")
    assert broker.counter("n_api_unauthenticated") == 4
    assert broker.counter("n_api_unknown_keys") == 3
    line = f"Authorization: Bearer {KEY}"
    assert await refused(backend, "/v1/channels", None, line) == (400, "bad_request")


async def test_a_missing_scope_is_named(backend: Client) -> None:
    answer = await backend.ask(call(PUBLISH, {"channel": "a", "text": "x"}, key=READER, host="localhost"))
    assert problem(answer) == (403, "not_permitted")
    assert "scope publish" in json.loads(answer.body)["detail"]
    for target in ("/v1/channels", messages("kept.a"), "/v1/channels/kept.a/presence"):
        assert await refused(backend, target, key=NEWS_ONLY) == (403, "not_permitted")
    for method, target in (("GET", "/v1/sessions"), ("DELETE", "/v1/sessions/x"), ("POST", "/v1/users/x/disconnect")):
        assert await refused(backend, target, key=READER, method=method) == (403, "not_permitted")


async def test_a_key_publishes_in_its_channels_only(backend: Client) -> None:
    assert await asked(backend, messages("news.a"), b"x", key=NEWS_ONLY)
    assert await refused(backend, messages("other"), b"x", key=NEWS_ONLY) == (403, "not_permitted")
    results = (await asked(backend, PUBLISH, {"channels": ["news", "other"], "text": "x"}, key=NEWS_ONLY))["results"]
    assert [one.get("error", {}).get("code") for one in results] == [None, "not_permitted"]


async def test_a_key_publishes_no_faster_than_it_may(broker: Broker, backend: Client) -> None:
    body = [{"channel": "news", "text": "x"}] * 3
    assert len((await asked(backend, PUBLISH, body, key=SLOW))["results"]) == 3
    answer = await backend.ask(call(PUBLISH, body, key=SLOW, host="localhost"))
    assert problem(answer) == (429, "rate_limited")
    assert int(answer.one("retry-after")) >= 1
    assert broker.counter("n_api_rate_limited") == 1


async def test_pages_and_strange_hosts_are_refused(backend: Client) -> None:
    assert await refused(backend, "/v1/channels", None, "Origin: http://localhost") == (403, "origin_refused")
    assert await refused(backend, "/v1/channels", host="evil.example") == (421, "wrong_host")
    assert await refused(backend, "/v1/openapi.json", host="evil.example:8001") == (421, "wrong_host")
    for host in ("localhost:9", "127.0.0.1", "[::1]:8001"):
        assert (await backend.ask(call("/v1/channels", host=host))).status == 200


# -- reading and administering


async def test_history_is_read_in_pages(backend: Client) -> None:
    await asked(backend, PUBLISH, [{"channel": "kept.a", "data": number} for number in range(5)])
    page = await asked(backend, messages("kept.a") + "?limit=2")
    assert [one["data"] for one in page["messages"]] == [3, 4]
    assert page["recovered"] is None
    assert page["more"] is False
    first = (await asked(backend, messages("kept.a") + "?limit=5"))["messages"][0]["position"]
    page = await asked(backend, messages("kept.a") + f"?since={first}&limit=3")
    assert [one["data"] for one in page["messages"]] == [1, 2, 3]
    assert page["recovered"] is True
    assert page["more"] is True
    assert await refused(backend, messages("news")) == (404, "no_history")
    for query in ("limit=0", "limit=x", "limit=1001", "since=%20"):
        assert await refused(backend, messages("kept.a") + "?" + query) == (422, "bad_field")


async def test_members_and_channels_are_listed(broker: Broker, backend: Client) -> None:
    client = await broker.open("broker.json.v1, kept.a, news", "/ws", "X-User: ann")
    assert (await client.event())["type"] == "hello"
    found = await asked(backend, "/v1/channels/kept.a/presence")
    assert found == {"channel": "kept.a", "members": [{"user": "ann"}], "count": 1, "truncated": False}
    assert await refused(backend, "/v1/channels/news/presence") == (404, "not_supported")
    listed = await asked(backend, "/v1/channels?prefix=kept.")
    assert listed == {"channels": [{"channel": "kept.a", "subscriptions": 1}]}


async def test_sessions_are_found_and_ended(broker: Broker, backend: Client) -> None:
    ann = await broker.open("broker.json.v1, news", "/ws", "X-User: a/nn")
    session = (await ann.event())["session"]
    other = await broker.open("news", "/ws", "X-User: bob")
    (found,) = (await asked(backend, "/v1/sessions?user=a%2Fnn"))["sessions"]
    assert found == {
        "session": session,
        "user": "a/nn",
        "address": "127.0.0.1",
        "format": "json",
        "channels": ["news"],
    }
    assert await asked(backend, f"/v1/sessions/{session}") == found
    everybody = await asked(backend, "/v1/sessions?limit=2")
    assert (len(everybody["sessions"]), everybody["truncated"]) == (2, False)
    some = await asked(backend, "/v1/sessions?limit=1")
    assert (len(some["sessions"]), some["truncated"]) == (1, True)
    assert await refused(backend, "/v1/sessions/nobody") == (404, "not_found")
    assert await asked(backend, "/v1/sessions/nobody", method="DELETE") == {"disconnected": 0}
    assert await asked(backend, f"/v1/sessions/{session}", method="DELETE") == {"disconnected": 1}
    assert (await ann.close_frame())[0] == 4510
    assert await asked(backend, "/v1/users/bob/disconnect", method="POST") == {"disconnected": 1}
    assert (await other.close_frame())[0] == 4510


async def test_a_user_is_subscribed_and_unsubscribed_by_the_back_end(broker: Broker, backend: Client) -> None:
    ann = await broker.open("broker.json.v1", "/ws", "X-User: a/nn")
    assert (await ann.event())["type"] == "hello"
    raw = await broker.open("other", "/ws", "X-User: a/nn")
    stranger = await broker.open_json()
    assert await asked(backend, "/v1/users/a%2Fnn/subscribe", {"channels": ["kept.a", "news"]}) == {"sessions": 2}
    event = await ann.event()
    assert event["type"] == "subscribed"
    assert [state["channel"] for state in event["channels"]] == ["kept.a", "news"]
    assert (await asked(backend, "/v1/channels/kept.a/presence"))["count"] == 1
    assert await asked(backend, "/v1/users/a%2Fnn/subscribe", {"channels": ["news"]}) == {"sessions": 0}
    await asked(backend, messages("news"), b"x")
    assert await raw.text() == "x"
    event = await ann.event()
    while event["type"] == "join":
        event = await ann.event()
    assert event["text"] == "x"
    assert await asked(backend, "/v1/users/a%2Fnn/unsubscribe", {"channels": ["news", "kept.b"]}) == {"sessions": 2}
    assert await ann.event() == {"type": "unsubscribed", "channels": [{"channel": "news", "index": 0}]}
    assert (await asked(backend, messages("news"), b"x"))["subscriptions"] == 0
    assert stranger.silent()
    assert await refused(backend, "/v1/users/ann/subscribe", {"channels": ["a b"]}) == (422, "bad_channel")
    assert await refused(backend, "/v1/users/ann/subscribe", {"channels": []}) == (422, "bad_field")
    assert await refused(backend, "/v1/users/ann/subscribe", b"{", "Content-Type: application/json") == (
        400,
        "bad_json",
    )


async def test_paths_and_methods_that_are_none_are_told_so(backend: Client) -> None:
    assert await refused(backend, "/v1/nothing") == (404, "not_found")
    for method, target, allow in (("GET", PUBLISH, "POST"), ("PUT", "/v1/sessions", "GET")):
        answer = await backend.ask(call(target, method=method, host="localhost"))
        assert problem(answer) == (405, "method_not_allowed")
        assert allow in answer.one("allow")


async def test_our_mistake_is_told_without_detail_and_logged_once(
    broker: Broker, backend: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the secret of the house")

    broker.worker.node.publish = broken  # type: ignore[method-assign,assignment]
    answer = await backend.ask(call(messages("news"), b"x", host="localhost"))
    assert problem(answer) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert [record.message for record in caplog.records] == ["request of the API failed"]
    assert KEY not in caplog.text
    assert broker.counter("n_api_failed") == 1


async def test_answers_name_no_server_and_may_not_be_kept(backend: Client) -> None:
    answer = await backend.ask(call("/v1/channels", host="localhost"))
    assert answer.all("server") == []
    assert answer.one("date")
    answer = await backend.ask(call(messages("news"), b"x", host="localhost"))
    assert answer.one("x-content-type-options") == "nosniff"
    assert answer.one("cache-control") == "no-store"


async def test_the_end_finishes_what_is_under_way_and_closes_the_rest(broker: Broker, backend: Client) -> None:
    idle = await broker.connect_api()
    await asked(idle, messages("news"), b"x")
    request = call(messages("news"), b"hello", host="localhost")
    await backend.send(request[:-2])
    assert broker.worker.api is not None
    connections = broker.worker.api._server.connections
    await wait_until(lambda: len([one for one in connections if one._receiving]) == 1, "half a request")
    broker.worker.api.let_go(take=False)
    await idle.closed()
    await backend.send(request[-2:])
    answer = await backend.answer()
    assert answer.status == 200
    assert answer.one("connection") == "close"
    await backend.closed()
    await broker.worker.api.stop(asyncio.Event())


async def test_whoever_waits_to_be_accepted_at_the_end_is_answered_and_not_reset(broker: Broker) -> None:
    assert broker.worker.api is not None
    sockets = [socket.socket() for _ in range(3)]
    for sock in sockets:  # the kernel does all of this before the loop turns: nobody has accepted them
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", broker.api_port))
    asking, twice, silent = map(Client, sockets)
    broker.clients += [asking, twice, silent]
    request = call(messages("news"), b"hello", host="localhost")
    asking.sock.send(request)
    twice.sock.send(request * 2)
    broker.worker.api.let_go(take=True)
    for client in (asking, twice):
        answer = await client.answer()
        assert (answer.status, answer.one("connection")) == (200, "close")
        assert await client.closed() == b""
    assert await silent.closed() == b"", "without a request it is ended, in good time"
    await broker.worker.api.stop(asyncio.Event())
