"""Commands of the JSON format over a socket: answers, errors that close nothing, and what does close."""

import json

import pytest

from tests.client_frames import BINARY, TEXT, close, frame
from tests.integration.harness import Broker


async def test_an_ack_says_how_many_were_offered_the_message(broker: Broker) -> None:
    client = await broker.open_json("news")
    await broker.open("news|recv")
    await client.command(type="publish", channel="news", data={"price": 1.5}, id="p1")
    first, second = await client.event(), await client.event()
    assert (first["type"], first["data"]) == ("message", {"price": 1.5})
    assert second == {"type": "ack", "id": "p1", "subscriptions": 2}


async def test_a_publish_nobody_hears_is_acknowledged_all_the_same(broker: Broker) -> None:
    client = await broker.open_json()
    await client.command(type="publish", channel="nobody", text="hello", id=0)
    assert await client.event() == {"type": "ack", "id": 0, "subscriptions": 0}


async def test_without_an_id_there_is_no_ack(broker: Broker) -> None:
    client = await broker.open_json()
    await client.command(type="publish", channel="nobody", text="hello")
    await client.caught_up()


async def test_without_echo_everyone_but_the_publisher_hears_it(broker: Broker) -> None:
    client, other, raw = await broker.open_json("news"), await broker.open_json("news"), await broker.open("news")
    await client.command(type="publish", channel="news", text="hello", echo=False, id=1)
    assert await client.event() == {"type": "ack", "id": 1, "subscriptions": 2}
    assert (await other.event())["text"] == "hello"
    assert await raw.text() == "hello"
    await client.caught_up()


async def test_an_acknowledged_publish_is_before_whatever_is_published_after_the_ack(broker: Broker) -> None:
    one, other, listener = await broker.open_json(), await broker.open_json(), await broker.open("news|recv")
    for i in range(0, 40, 2):
        await one.command(type="publish", channel="news", text=str(i), id=i)
        assert (await one.event())["id"] == i
        await other.command(type="publish", channel="news", text=str(i + 1), id=i)
        assert (await other.event())["id"] == i
    assert [await listener.text() for _ in range(40)] == [str(i) for i in range(40)]


async def test_commands_sent_in_one_write_are_answered_in_order(broker: Broker) -> None:
    client = await broker.open_json("news")
    commands = [
        {"type": "ping", "id": 1},
        {"type": "publish", "channel": "news", "text": "a", "id": 2},
        {"type": "subscribe", "channel": "other", "id": 3},
        {"type": "publish", "channel": "other", "text": "b"},
        {"type": "unsubscribe", "channel": "other", "id": 4},
        {"type": "publish", "channel": "other", "text": "c", "id": 5},
        {"type": "ping"},
    ]
    await client.send(b"".join(frame(TEXT, json.dumps(each).encode()) for each in commands))
    events = [await client.event() for _ in range(8)]
    assert [(event["type"], event.get("id"), event.get("text")) for event in events] == [
        ("ack", 1, None),
        ("message", None, "a"),
        ("ack", 2, None),
        ("subscribed", 3, None),
        ("message", None, "b"),
        ("unsubscribed", 4, None),
        ("ack", 5, None),
        ("ack", None, None),
    ]


@pytest.mark.parametrize(
    ("text", "code", "id"),
    [
        ("", "bad_json", None),
        ("hello", "bad_json", None),
        ("[]", "bad_json", None),
        ('{"type":"ping"', "bad_json", None),
        ("{}", "bad_command", None),
        ('{"type":1,"id":9}', "bad_command", 9),
        ('{"type":"dance","id":9}', "unknown_type", 9),
        ('{"type":"refresh","token":"e30","id":9}', "not_supported", 9),
        ('{"type":"auth","token":"e30","id":9}', "not_supported", 9),
        ('{"type":"publish","channel":"a","id":9}', "bad_command", 9),
        ('{"type":"publish","channel":"a","text":"x","data":1,"id":9}', "bad_command", 9),
        ('{"type":"publish","text":"x","id":9}', "bad_command", 9),
        ('{"type":"publish","chanel":"a","text":"x","id":9}', "bad_command", 9),
        ('{"type":"publish","channel":"no spaces","text":"x","id":9}', "bad_channel", 9),
        ('{"type":"publish","channel":"$sys","text":"x","id":9}', "bad_channel", 9),
        ('{"type":"publish","channel":"bearer.x","text":"x","id":9}', "bad_channel", 9),
        ('{"type":"publish","channel":"a","text":"x","id":"' + "i" * 65 + '"}', "bad_command", None),
        ('{"type":"publish","channel":"a","text":"x","id":9007199254740992}', "bad_command", None),
        ('{"type":"subscribe","channel":[],"id":9}', "bad_command", 9),
        ('{"type":"subscribe","channel":["a","b"],"since":"8f3a.1","id":9}', "bad_command", 9),
        ("[" * 10_000, "bad_json", None),
    ],
)
async def test_a_bad_command_is_answered_with_an_error_and_the_connection_lives(
    broker: Broker, text: str, code: str, id: int | None
) -> None:
    client = await broker.open_json("news")
    await client.send(frame(TEXT, text.encode()))
    error = await client.event()
    assert (error["type"], error["code"], error.get("id")) == ("error", code, id)
    assert error["message"]
    await client.command(type="publish", channel="news", text="still here")
    assert (await client.event())["text"] == "still here"
    assert broker.counter("n_published") == 1


async def test_an_error_repeats_nothing_the_client_wrote(broker: Broker) -> None:
    client = await broker.open_json()
    await client.command(type="publish", channel="se cret", text="secret", secret="secret")
    assert "secret" not in await client.text()
    await client.command(type="subscribe", channel=["se*cret", "secret|secret"])
    assert "secret" not in await client.text()


async def test_a_binary_message_closes_a_json_connection(broker: Broker) -> None:
    client = await broker.open_json("news")
    await client.send(frame(BINARY, b'{"type":"ping"}'))
    assert await client.close_frame() == (1003, "code=unsupported_data;this connection takes text frames only")
    await client.send(close(1003))
    assert await client.closed() == b""
    await broker.ended_for("unsupported_data")


async def test_a_client_that_breaks_off_its_own_stream_of_commands_closes_once(broker: Broker) -> None:
    client = await broker.open_json("news")
    await client.send(frame(BINARY, b"") + frame(TEXT, b'{"type":"publish","channel":"news","text":"late"}') * 5)
    assert (await client.close_frame())[0] == 1003
    await client.send(frame(BINARY, b"") + close(1003))
    assert await client.closed() == b""
    assert broker.counter("n_published") == 0
    await broker.ended_for("unsupported_data")


async def test_a_thousand_commands_in_one_write_are_all_answered(broker: Broker) -> None:
    client = await broker.open_json()
    await client.send(b"".join(frame(TEXT, b'{"type":"ping","id":%d}' % i) for i in range(5000)))
    assert [(await client.event())["id"] for _ in range(5000)] == list(range(5000))


async def test_a_large_list_of_channels_is_answered_entry_by_entry(broker: Broker) -> None:
    client = await broker.open_json()
    await client.command(type="subscribe", channel=[f"c{i}" for i in range(1024)], id=1)
    entries = (await client.event())["channels"]
    assert [entry["index"] for entry in entries] == list(range(1024))
    assert [entry["index"] for entry in entries if "error" not in entry] == list(range(128))
    assert {entry["error"]["code"] for entry in entries[128:]} == {"too_many_channels"}
    await client.command(type="unsubscribe", channel=[f"c{i}" for i in range(1024)], id=2)
    entries = (await client.event())["channels"]
    assert [entry["index"] for entry in entries if "error" not in entry] == list(range(128))
    assert broker.counter("g_subscriptions") == 0
