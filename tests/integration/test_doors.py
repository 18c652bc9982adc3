"""What a page wants, at each of the three doors: the handshake, the query and in band. It means the same at each."""

import json
import re
from urllib.parse import urlencode

import pytest

from tests.client_frames import BINARY, TEXT, close, frame
from tests.integration.harness import JSON, Broker, Client, request, running

CANNOT_PUBLISH = (4505, "code=cannot_publish;nothing in the offer of this connection takes messages")


def query(*pairs: tuple[str, str]) -> str:
    return "/ws?" + urlencode(pairs)


async def published(client: Client, text: str) -> None:
    await client.send(frame(TEXT, text.encode()))


async def told_and_closed(client: Client) -> None:
    await published(client, "hello")
    assert await client.close_frame() == CANNOT_PUBLISH
    await client.send(close(4505))
    assert await client.closed() == b""


# Raw: who hears, who speaks.


async def test_two_pages_with_one_line_each_talk_to_each_other(broker: Broker) -> None:
    one, other = await broker.open("chat"), await broker.open("chat")
    await one.send(frame(TEXT, "grüße".encode()))
    await other.send(frame(BINARY, b"\x00\xff"))
    for client in (one, other):
        heard = [await client.frame(), await client.frame()]
        assert sorted(heard) == [(TEXT, "grüße".encode()), (BINARY, b"\x00\xff")]


async def test_channels_do_not_hear_each_other(broker: Broker) -> None:
    a, b = await broker.open("a"), await broker.open("b")
    await published(a, "for a")
    assert await a.text() == "for a"
    await b.caught_up()


@pytest.mark.parametrize("offer", ["news|send", "news|since.8f3a.1|send"])
async def test_a_publisher_that_only_sends_hears_nothing(broker: Broker, offer: str) -> None:
    listener, publisher = await broker.open("news|recv"), await broker.open(offer)
    await published(publisher, "hello")
    assert await listener.text() == "hello"
    await publisher.caught_up()


@pytest.mark.parametrize("offer", ["news|recv", "a, b", "a|recv, b|recv", None])
async def test_a_message_that_nothing_takes_is_never_swallowed(broker: Broker, offer: str | None) -> None:
    await told_and_closed(await broker.open(offer))
    await broker.ended_for("cannot_publish")
    assert broker.counter("n_published") == 0


@pytest.mark.parametrize(
    ("offer", "target", "echoed"),
    [
        ("a, b|send", "b", False),
        ("a, b|both", "b", True),
        ("a|both, b|recv, c", "a", True),
        ("a|send, b, c|recv", "a", False),
    ],
)
async def test_of_several_channels_the_marked_one_takes_messages(
    broker: Broker, offer: str, target: str, echoed: bool
) -> None:
    publisher = await broker.open(offer)
    listeners = {name: await broker.open(f"{name}|recv") for name in "abc"}
    await published(publisher, "hello")
    assert await listeners.pop(target).text() == "hello"
    if echoed:
        assert await publisher.text() == "hello"
    for client in (publisher, *listeners.values()):
        await client.caught_up()


@pytest.mark.parametrize("offer", ["a|send, b|send", "a|both, b|send"])
async def test_two_channels_marked_to_take_messages_are_a_mistake_told_at_once(broker: Broker, offer: str) -> None:
    answer = await (await broker.connect()).ask(request(offer=offer))
    assert answer.status == 400
    assert json.loads(answer.body)["detail"] == "offer[1]: only one channel may be marked send or both"


# Text heartbeat.


@pytest.mark.parametrize("offer", ["news", "a, b", "news|recv", JSON])
async def test_a_library_that_sends_ping_as_text_gets_its_pong(broker: Broker, offer: str) -> None:
    client = await broker.open(offer)
    if offer == JSON:
        await client.event()
    listener = await broker.open("news|recv")
    await published(client, "ping")
    assert await client.text() == "pong"
    await listener.caught_up()


@pytest.mark.parametrize(("opcode", "payload"), [(TEXT, b"Ping"), (TEXT, b"ping "), (TEXT, b"pin"), (BINARY, b"ping")])
async def test_only_the_exact_text_is_a_heartbeat(broker: Broker, opcode: int, payload: bytes) -> None:
    client = await broker.open("news")
    await client.send(frame(opcode, payload))
    assert await client.frame() == (opcode, payload)


async def test_a_page_may_publish_the_word_ping_where_the_operator_says_so() -> None:
    async with running(server_text_ping=False) as broker:
        client = await broker.open("news")
        await published(client, "ping")
        assert await client.text() == "ping"


# The doors.


async def test_hello_says_who_is_connected_to_what_and_within_which_limits(broker: Broker) -> None:
    client = await broker.open(f"news, room.42|since.8f3a.1042, {JSON}, old|last.10, out|send")
    hello = await client.event()
    assert re.fullmatch(r"[A-Za-z0-9_-]{16}", hello.pop("session"))
    assert hello == {
        "type": "hello",
        "user": None,
        "channels": [
            {"channel": "news", "index": 0},
            {"channel": "room.42", "index": 1, "recovered": False},
            {"channel": "old", "index": 3, "recovered": False},
            {"channel": "out", "index": 4},
        ],
        "limits": {"max_message_bytes": 65536, "max_channels": 128},
        "heartbeat_seconds": 25.0,
    }


async def test_session_ids_differ(broker: Broker) -> None:
    sessions = {(await (await broker.open(JSON)).event())["session"] for _ in range(50)}
    assert len(sessions) == 50


DOORS = {
    "handshake": (f"{JSON}, news, room.42|since.8f3a.1042", "/ws", [0, 1, 2]),
    "handshake, over two lines": (None, "/ws", [0, 1, 2]),
    "query": (None, query(("format", "json"), ("channel", "news"), ("channel", "room.42|since.8f3a.1042")), [0, 1, 2]),
    "both": (JSON, query(("channel", "news"), ("cache", "1"), ("channel", "room.42|since.8f3a.1042")), [0, 0, 1]),
    "format in the query": ("news, room.42|since.8f3a.1042", query(("format", "broker.json.v1")), [0, 0, 1]),
    "one channel at each": (f"{JSON}, news", query(("channel", "room.42|since.8f3a.1042")), [0, 1, 0]),
}


@pytest.mark.parametrize("door", DOORS)
async def test_format_and_channels_mean_the_same_at_each_door(broker: Broker, door: str) -> None:
    offer, target, (_, news, room) = DOORS[door]
    lines = (
        (f"Sec-WebSocket-Protocol: {JSON}, news", "Sec-WebSocket-Protocol: room.42|since.8f3a.1042")
        if door == "handshake, over two lines"
        else ()
    )
    client = await broker.open(offer, target, *lines)
    assert (await client.event())["channels"] == [
        {"channel": "news", "index": news},
        {"channel": "room.42", "index": room, "recovered": False},
    ]
    await published(await broker.open("room.42|send"), "hello")
    assert (await client.event())["text"] == "hello"


@pytest.mark.parametrize(
    "target", [query(("channel", "news")), query(("format", "raw"), ("channel", "news|both")), "/ws?channel=n%65ws"]
)
async def test_a_raw_page_can_name_its_channel_in_the_url(broker: Broker, target: str) -> None:
    client = await broker.connect()
    answer = await client.ask(request(target))
    assert (answer.status, answer.all("Sec-WebSocket-Protocol")) == (101, [])
    await published(client, "hello")
    assert await client.text() == "hello"


@pytest.mark.parametrize(("token", "value"), [("user%3A7", "user:7"), ("a%2Bb%40c%3Dd", "a+b@c=d"), ("a~b", "a~b")])
async def test_encoded_and_plain_spellings_name_the_same_channel_at_every_door(
    broker: Broker, token: str, value: str
) -> None:
    clients = [await broker.open(token), await broker.open(None, query(("channel", value))), await broker.open_json()]
    await clients[2].command(type="subscribe", channel=value)
    assert (await clients[2].event())["channels"] == [{"channel": value, "index": 0}]
    await published(await broker.open(f"{token}|send"), "hello")
    assert await clients[0].text() == "hello"
    assert await clients[1].text() == "hello"
    event = await clients[2].event()
    assert (event["channel"], event["text"]) == (value, "hello")


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (query(("token", "e30.e30.e30")), "a token does not belong in a URL"),
        (query(("access_token", "secret")), "a token does not belong in a URL"),
        (query(("channel", "bearer.e30.e30")), "a token does not belong in a URL"),
        (query(("format", "xml")), "none of the formats is spoken here"),
        (query(("channel", "a"), ("channel", "a")), "the channel is named twice"),
        (query(("channel", "a|fast")), "unknown option of a channel"),
        (query(("channel", "a|since.x|since.y")), "an option of a channel is given twice"),
        (query(("channel", "a|last.ten")), "last. takes a number of at most 6 digits"),
        (query(("channel", "a b")), "a character or the length of the channel name is not allowed"),
        (query(("channel", "")), "a character or the length of the channel name is not allowed"),
        (query(("channel", "$sys")), "a character or the length of the channel name is not allowed"),
        (query(("channel", "broker.json.v1")), "this beginning of a channel name is reserved"),
        ("/ws?channel=%zz", "bad percent-encoding in a channel name"),
        ("/ws?channel=%ff", "bad percent-encoding in a channel name"),
        ("/ws?x=" + "a" * 4096, "the offer is longer than this server takes"),
    ],
)
async def test_a_bad_query_is_refused_with_its_reason(broker: Broker, target: str, word: str) -> None:
    answer = await (await broker.connect()).ask(request(target))
    assert answer.status == 400
    problem = json.loads(answer.body)
    assert problem["code"] == "bad_offer"
    assert re.fullmatch(r"offer\[\d+\]: .*", problem["detail"])
    assert word in problem["detail"]
    assert "secret" not in problem["detail"]


async def test_a_channel_named_at_two_doors_is_a_duplicate(broker: Broker) -> None:
    answer = await (await broker.connect()).ask(request(query(("channel", "news")), offer="news"))
    assert answer.status == 400
    assert "named twice" in json.loads(answer.body)["detail"]


async def test_as_many_channels_as_allowed_fit_through_the_door_and_not_one_more(broker: Broker) -> None:
    names = [f"c{i}" for i in range(128)]
    client = await broker.open(", ".join([JSON, *names]))
    assert [entry["channel"] for entry in (await client.event())["channels"]] == names
    assert broker.counter("g_subscriptions") == 128
    await client.command(type="subscribe", channel="one.more")
    (refused,) = (await client.event())["channels"]
    assert refused["error"]["code"] == "too_many_channels"
    answer = await (await broker.connect()).ask(request(offer=", ".join([JSON, *names, "one.more"])))
    assert answer.status == 400
    assert "more channels" in json.loads(answer.body)["detail"]


# In band.


async def test_one_frame_restores_everything(broker: Broker) -> None:
    client = await broker.open_json()
    channels = ["news", "room.42|since.8f3a.1042", {"channel": "user:7", "last": 5}, "a|fast", "news", "*", "out|send"]
    await client.command(type="subscribe", channel=channels, id=1)
    event = await client.event()
    assert (event["type"], event["id"]) == ("subscribed", 1)
    assert [(entry["channel"], entry["index"]) for entry in event["channels"]] == [
        ("news", 0),
        ("room.42", 1),
        ("user:7", 2),
        (None, 3),
        (None, 4),
        (None, 5),
        ("out", 6),
    ]
    assert [entry.get("recovered") for entry in event["channels"]] == [None, False, False, None, None, None, None]
    assert [entry.get("error", {}).get("code") for entry in event["channels"]] == [
        None,
        None,
        None,
        "bad_option",
        "duplicate_channel",
        "bad_channel",
        None,
    ]
    assert broker.counter("g_subscriptions") == 4
    for name in ("news", "room.42", "user%3A7", "out"):
        await published(await broker.open(f"{name}|send"), name)
    assert [(await client.event())["channel"] for _ in range(3)] == ["news", "room.42", "user:7"]
    await client.caught_up()


async def test_a_channel_that_was_left_is_silent_and_can_be_joined_again(broker: Broker) -> None:
    client, publisher = await broker.open_json("news", "other"), await broker.open("news|send")
    await client.command(type="unsubscribe", channel=["news", "never", "bad name"], id="x")
    event = await client.event()
    assert (event["type"], event["id"]) == ("unsubscribed", "x")
    assert event["channels"][0] == {"channel": "news", "index": 0}
    assert event["channels"][1]["error"]["code"] == "not_subscribed"
    assert event["channels"][2]["error"]["code"] == "bad_channel"
    await published(publisher, "unheard")
    await publisher.caught_up()
    await client.caught_up()
    await client.command(type="subscribe", channel="news")
    assert (await client.event())["channels"] == [{"channel": "news", "index": 0}]
    await published(publisher, "heard")
    assert (await client.event())["text"] == "heard"


async def test_what_was_published_before_leaving_still_arrives(broker: Broker) -> None:
    client = await broker.open_json("news")
    await client.send(
        frame(TEXT, b'{"type":"publish","channel":"news","text":"one"}')
        + frame(TEXT, b'{"type":"unsubscribe","channel":"news"}')
        + frame(TEXT, b'{"type":"publish","channel":"news","text":"two"}')
        + frame(TEXT, b'{"type":"ping"}')
    )
    first, second, third = [await client.event() for _ in range(3)]
    assert (first["type"], first["text"]) == ("message", "one")
    assert (second["type"], third["type"]) == ("unsubscribed", "ack")


async def test_subscribing_twice_is_told_and_delivers_once(broker: Broker) -> None:
    client = await broker.open_json("news")
    await client.command(type="subscribe", channel="n%65ws")
    (entry,) = (await client.event())["channels"]
    assert entry["error"]["code"] == "already_subscribed"
    await published(await broker.open("news|send"), "once")
    assert (await client.event())["text"] == "once"
    await client.caught_up()
