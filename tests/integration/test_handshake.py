"""The opening handshake over a real socket (RFC 6455 section 4.2): who gets in, and what everybody else is told."""

import re

import pytest

from tests.client_frames import TEXT, frame
from tests.integration.harness import JSON, Answer, Broker, Client, request, running, turns, wait_until

EXTENSIONS = "Sec-WebSocket-Extensions"
OFFER = "Sec-WebSocket-Protocol"

# What is wrong with the request, the request, and the status it deserves.
REFUSED: dict[str, tuple[bytes, int]] = {
    "POST": (request(method="POST"), 405),
    "an unknown method": (request(method="BREW"), 405),
    "a method in small letters": (request(method="get"), 405),
    "HTTP/1.0": (request(version="HTTP/1.0"), 505),
    "HTTP/2.0": (request(version="HTTP/2.0"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a stray frame": (frame(TEXT, b"hello"), 400),
    "no Host": (request(host=None), 400),
    "two Hosts": (request("/ws", "Host: other"), 400),
    "no Upgrade": (request(upgrade=None), 426),
    "another Upgrade": (request(upgrade="h2c"), 426),
    "an Upgrade that only contains websocket": (request(upgrade="notwebsocket"), 426),
    "no Connection": (request(connection=None), 426),
    "a Connection that only contains upgrade": (request(connection="notupgrade"), 426),
    "no key": (request(sec_websocket_key=None), 400),
    "an empty key": (request(sec_websocket_key=""), 400),
    "a key of 15 bytes": (request(sec_websocket_key="AAAAAAAAAAAAAAAAAAAA"), 400),
    "a key of 17 bytes": (request(sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAAA="), 400),
    "a key that is no base64": (request(sec_websocket_key="dGhlIHNhbXBsZSBub25j!!=="), 400),
    "two keys": (request("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
    "no version": (request(sec_websocket_version=None), 400),
    "two versions": (request("/ws", "Sec-WebSocket-Version: 13"), 400),
    "a version that is no number": (request(sec_websocket_version="13a"), 400),
    "version 8": (request(sec_websocket_version="8"), 426),
    "version 0": (request(sec_websocket_version="0"), 426),
    "a malformed extension": (request("/ws", f"{EXTENSIONS}: permessage-deflate; ="), 400),
    "an empty extension header": (request("/ws", f"{EXTENSIONS}: "), 400),
    "an offer that is no token": (request(offer="a b"), 400),
    "an offer with a colon": (request(offer="room:42"), 400),
    "an offer twice": (request(offer="news, news"), 400),
    "an offer twice over two lines": (request("/ws", f"{OFFER}: news", offer="news"), 400),
    "a byte beyond ASCII in an offer": (request(offer="caf\xe9"), 400),
    "a byte beyond ASCII in an extension": (request("/ws", f"{EXTENSIONS}: caf\xe9"), 400),
    "NUL in an offer": (request(offer="a\0b"), 400),
    "CR in an offer": (request(offer="a\rb"), 400),
    "LF in an offer": (request(offer="a\nSet-Cookie: a=b"), 400),
    "a folded header": (request("/ws", "X-Long: a\r\n b"), 400),
    "a space before a colon": (request("/ws", "X-Name : a"), 400),
    "a header without a colon": (request("/ws", "nonsense"), 400),
    "a body": (request("/ws", "Content-Length: 5") + b"hello", 400),
    "a chunked body": (request("/ws", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "two lengths": (request("/ws", "Content-Length: 0", "Content-Length: 5"), 400),
    "a length with a sign": (request("/ws", "Content-Length: +0"), 400),
    "an absolute target": (request("http://127.0.0.1/ws"), 400),
    "a fragment": (request("/ws#top"), 400),
    "a line over 8 KiB": (request("/ws?" + "a" * 8192), 414),
    "a head over 16 KiB": (request("/ws", *(f"X-{i}: {'a' * 1000}" for i in range(17))), 431),
    "101 headers": (request("/ws", *(f"X-{i}: a" for i in range(96))), 431),
    "10 000 headers": (request("/ws", *("X: a" for _ in range(10_000))), 431),
    "another path": (request("/other"), 404),
    "a path with a slash more": (request("/ws/"), 404),
    "a foreign Origin": (request(origin="https://evil.example"), 403),
    "an Origin that begins like ours": (request(origin="http://localhost.evil.example"), 403),
    "an Origin with our name in it": (request(origin="http://localhost:8000@evil.example"), 403),
    "Origin null": (request(origin="null"), 403),
    "two Origins": (request("/ws", "Origin: http://localhost", origin="http://localhost"), 400),
}


def fully_framed(answer: Answer, status: int) -> None:
    """`Client.answer` has checked the length already."""
    assert answer.status == status
    assert answer.one("Connection") == "close"
    assert answer.all("Sec-WebSocket-Accept") == []
    assert answer.all(OFFER) == []
    if status != 200:
        assert answer.one("Content-Type") == "application/problem+json"


@pytest.mark.parametrize("why", REFUSED)
async def test_a_refused_request_is_answered_once_and_nothing_after_it_is_a_second_request(
    broker: Broker, why: str
) -> None:
    head, status = REFUSED[why]
    client = await broker.connect()
    fully_framed(await client.ask(head + request("/healthz")), status)
    assert await client.closed() == b""
    assert broker.counter("n_refused_http") == 1
    client.close()
    await broker.ended_for("bad_request")


async def test_what_is_sent_after_a_refusal_is_never_answered(broker: Broker) -> None:
    client = await broker.connect()
    fully_framed(await client.ask(request("/other")), 404)
    await client.send(request("/healthz"))
    assert await client.closed() == b""
    assert broker.counter("n_requests") == 1


async def test_a_client_that_sends_far_too_much_reads_its_refusal_instead_of_a_reset(broker: Broker) -> None:
    client = await broker.connect()
    await client.send(b"GET /ws HTTP/1.1\r\nX: " + b"a" * 2_000_000)
    fully_framed(await client.answer(), 431)
    assert await client.closed() == b""


@pytest.mark.parametrize(
    "head",
    [
        request(connection="keep-alive, Upgrade"),
        request(connection="UPGRADE"),
        request(connection="keep-alive", upgrade="WebSocket").replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\n\r\n"),
        request(upgrade="h2c, websocket"),
        request("/ws", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
        request("/ws", "Sec-WebSocket-Extensions: __class__; constructor=1, foo"),
        request("/ws?cache=1234"),
        request("/ws", *(f"X-{i}: a" for i in range(90))),
        request(version="HTTP/1.2"),
        request(origin="http://localhost:3000"),
        request(origin="https://127.0.0.1"),
        request(origin="http://[::1]:8000"),
    ],
)
async def test_what_browsers_and_proxies_really_send_gets_in(broker: Broker, head: bytes) -> None:
    client = await broker.connect()
    answer = await client.ask(head)
    assert answer.status == 101
    assert answer.one("Upgrade") == "websocket"
    assert answer.one("Connection") == "Upgrade"
    assert answer.one("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer.all(EXTENSIONS) == []  # a browser fails an answer it did not offer
    await client.caught_up()


@pytest.mark.parametrize(
    ("offer", "answered"),
    [
        (("news",), ["news"]),
        (("News.Room_42~x",), ["News.Room_42~x"]),
        (("room.42|since.8f3a.1042|recv",), ["room.42|since.8f3a.1042|recv"]),
        (("room%3A42",), ["room%3A42"]),
        (("news, room.42",), ["news"]),
        (("news", "room.42"), ["news"]),
        (("news, room.42, " + JSON,), [JSON]),
        (("broker.json.v9, " + JSON, "news"), [JSON]),
        (("broker.from.the.future, news",), ["news"]),
        (("bearer.e30.e30.e30, news",), ["news"]),
        ((), []),
        (("",), []),  # counts as absent
    ],
)
async def test_a_page_is_answered_exactly_one_of_what_it_offered_letter_by_letter(
    broker: Broker, offer: tuple[str, ...], answered: list[str]
) -> None:
    client = await broker.connect()
    answer = await client.ask(request("/ws", *(f"{OFFER}: {line}" for line in offer)))
    assert answer.status == 101
    assert answer.all(OFFER) == answered


async def test_a_request_and_a_message_in_any_two_pieces_lose_nothing(broker: Broker) -> None:
    data = request(offer="news") + frame(TEXT, b"sent before the 101")
    read = 0
    for cut in range(1, len(data)):
        client = await broker.connect()
        await client.send(data[:cut])
        await broker.has_read(read + cut)
        await client.send(data[cut:])
        assert (await client.answer()).one(OFFER) == "news"
        assert await client.text() == "sent before the 101"
        client.close()
        await wait_until(lambda: broker.reactor.connections == 0)
        read += len(data)
    await broker.ended_for("peer_gone", len(data) - 1)


async def test_a_request_byte_by_byte_is_still_one_request(broker: Broker) -> None:
    client = await broker.connect()
    data = request(offer="news") + frame(TEXT, b"hello") + frame(TEXT, b"again")
    for sent in range(len(data)):
        await client.send(data[sent : sent + 1])
        await broker.has_read(sent + 1)
    assert (await client.answer()).status == 101
    assert [await client.text(), await client.text()] == ["hello", "again"]
    assert broker.counter("n_requests") == 1


async def test_a_hundred_messages_in_the_write_of_the_request_all_arrive_in_order(broker: Broker) -> None:
    client = await broker.connect()
    messages = [f"message {i}" for i in range(100)]
    await client.send(request(offer="news") + b"".join(frame(TEXT, each.encode()) for each in messages))
    assert (await client.answer()).status == 101
    assert [await client.text() for _ in messages] == messages


@pytest.mark.parametrize(
    "target",
    [
        "/ws%0d%0aX-Injected:%201",
        "/%0aX-Injected:1",
        "/ws?channel=a%0d%0aX-Injected:1",
        "/ws?x=%0d%0a%0d%0aHTTP/1.1%20200",
    ],
)
@pytest.mark.parametrize("origin", [None, "http://localhost"])
async def test_nothing_a_client_writes_becomes_a_header_of_the_answer(
    broker: Broker, target: str, origin: str | None
) -> None:
    client = await broker.connect()
    answer = await client.ask(request(target, offer="a%0d%0aX-Injected%3A1", origin=origin))
    assert answer.all("X-Injected") == []
    assert answer.all(OFFER) in ([], ["a%0d%0aX-Injected%3A1"])
    assert b"Injected" not in answer.body
    assert all(re.fullmatch(r"[\x20-\x7e]*", value) for _, value in answer.headers)


async def test_a_proxy_and_a_probe_get_plain_answers(broker: Broker) -> None:
    probe = await broker.connect()
    health = await probe.ask(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    fully_framed(health, 200)
    assert health.body == b"ok\n"
    assert await probe.closed() == b""

    lost = await broker.connect()
    fully_framed(await lost.ask(b"GET /favicon.ico HTTP/1.1\r\nHost: a\r\n\r\n"), 404)
    assert await lost.closed() == b""
    assert broker.counter("n_opened") == 0


async def test_a_browser_that_opens_the_websocket_url_is_told_what_it_is(broker: Broker) -> None:
    client = await broker.connect()
    answer = await client.ask(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")
    fully_framed(answer, 426)
    assert answer.one("Upgrade") == "websocket"
    assert answer.one("Sec-WebSocket-Version") == "13"
    assert await client.closed() == b""


async def test_a_client_of_another_version_is_told_ours(broker: Broker) -> None:
    client = await broker.connect()
    answer = await client.ask(request(sec_websocket_version="7"))
    fully_framed(answer, 426)
    assert answer.one("Sec-WebSocket-Version") == "13"
    assert answer.one("Upgrade") == "websocket"


async def test_a_client_of_another_method_is_told_ours(broker: Broker) -> None:
    client = await broker.connect()
    answer = await client.ask(request(method="PUT"))
    fully_framed(answer, 405)
    assert answer.one("Allow") == "GET"


@pytest.mark.parametrize("target", ["/healthz", "/", "/ws"])
async def test_a_monitor_that_asks_with_head_gets_no_body(broker: Broker, target: str) -> None:
    client = await broker.connect()
    await client.send(request(target, method="HEAD"))
    head = await client.closed()
    assert head.startswith(b"HTTP/1.1 405 ")
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    assert b"\r\nContent-Length: " in head


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HEAD / HTTP/1.1\nHost: a\n\n", 400),
        (b"HEAD /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"HEAD / HTTP/1.1\r\nA: " + b"a" * 17_000 + b"\r\n\r\n", 431),
    ],
)
@pytest.mark.parametrize("cut", [0, 3])
async def test_a_monitor_whose_head_request_cannot_be_parsed_gets_no_body(
    broker: Broker, head: bytes, status: int, cut: int
) -> None:
    client = await broker.connect()
    await client.send(head[:cut])
    await broker.has_read(cut)
    await client.send(head[cut:])
    answer = await client.closed()
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.index(b"\r\n\r\n") == len(answer) - 4


@pytest.mark.parametrize("dev", [True, False])
async def test_the_demo_page_is_there_in_development_only(dev: bool) -> None:
    async with running(server_dev=dev) as broker:
        client = await broker.connect()
        answer = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        fully_framed(answer, 200 if dev else 404)
        assert (b"<html" in answer.body) is dev
        assert len(answer.all("Content-Security-Policy")) == dev
        assert await client.closed() == b""


async def test_without_development_only_listed_origins_get_in() -> None:
    async with running(server_dev=False, server_origins=["https://app.example"]) as broker:
        for origin, status in (
            ("https://app.example", 101),
            ("https://APP.example:443", 101),
            ("http://app.example", 403),
            ("https://app.example:8443", 403),
            ("http://localhost", 403),
            (None, 101),
        ):
            client = await broker.connect()
            assert (await client.ask(request(origin=origin))).status == status, origin


async def test_when_only_browsers_are_wanted_a_client_without_origin_stays_out() -> None:
    async with running(server_allow_absent_origin=False) as broker:
        client = await broker.connect()
        fully_framed(await client.ask(request()), 403)


async def test_a_slow_request_is_cut_at_the_deadline_however_it_drips(broker: Broker) -> None:
    silent, dripping, good = await broker.connect(), await broker.connect(), await broker.open("news")
    for i in range(5):
        await dripping.send(request()[i : i + 1])
        await broker.has_read(len(request(offer="news")) + i + 1)
        broker.advance(1.8)
    assert broker.closed_by_cause() == {}
    broker.advance(1.1)
    await broker.ended_for("handshake_timeout", 2)
    assert await silent.closed() == b""
    assert await dripping.closed() == b""
    await good.caught_up()


async def turns_to_open(broker: Broker) -> tuple[Client, int]:
    client = await broker.connect()
    sent = broker.counter("n_opened")
    client.sock.send(request(offer="good") + frame(TEXT, b"hello"))
    count = 0
    while broker.counter("n_opened") == sent:
        await turns(1)
        count += 1
    assert (await client.answer()).status == 101
    assert await client.text() == "hello"
    return client, count


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_thousand_dripping_sockets_do_not_delay_a_good_client(broker: Broker) -> None:
    _, alone = await turns_to_open(broker)
    dripping = [await broker.connect() for _ in range(1000)]
    await wait_until(lambda: broker.reactor.connections == 1001)
    head = request()
    for i in range(5):
        for each in dripping:
            each.sock.send(head[i : i + 1])
        _, crowded = await turns_to_open(broker)
        assert crowded <= alone + 20, "a turn takes hundreds of events"
    assert broker.worker.hub.memory < 1000 * 1024
    broker.advance(10.1)
    await broker.ended_for("handshake_timeout", 1000)
