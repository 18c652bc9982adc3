"""Payloads: what each kind of channel takes, and that what was accepted reaches every format as it was published."""

import base64
import json
import time

import pytest

from tests.client_frames import BINARY, TEXT, close, frame
from tests.integration.harness import Broker, Client

CHANNELS = [
    {
        "channels": {
            "json": {"payload": "json"},
            "text": {"payload": "text"},
            "binary": {"payload": "binary"},
            "any": {"payload": "any"},
        }
    }
]
kinds = pytest.mark.parametrize("broker", CHANNELS, indirect=True)

TEXTS = ["", "hello", 'quo"te\\ and\nline\ttab\x01', "grüße €  𝄞 😀", "</script>\x7f", "x" * 60_000]
BINARIES = [b"", b"\x00", b"\xff\xfe\xfd", bytes(range(256)), b"ab", b"y" * 40_000]
JSONS = [
    "null",
    "true",
    "1.50",
    "-0.0",
    "1e400".replace("400", "300"),
    '"a\\u00e9\\ud834\\udd1e"',
    '{"a": [1,2 , {}]}',
    '[[],""]',
]


async def both_formats(broker: Broker, channel: str) -> tuple[Client, Client]:
    return await broker.open(f"{channel}|recv"), await broker.open_json(channel)


def body(event: dict[str, object]) -> dict[str, object]:
    return {key: event[key] for key in ("data", "text", "base64") if key in event}


@kinds
@pytest.mark.parametrize("channel", ["any", "text", "unconfigured"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
async def test_text_reaches_both_formats_from_both(broker: Broker, channel: str, text: str) -> None:
    raw, events = await both_formats(broker, channel)
    await (await broker.open(f"{channel}|send")).send(frame(TEXT, text.encode()))
    assert await raw.frame() == (TEXT, text.encode())
    assert body(await events.event()) == {"text": text}
    await events.command(type="publish", channel=channel, text=text)
    assert await raw.frame() == (TEXT, text.encode())
    assert body(await events.event()) == {"text": text}


@kinds
@pytest.mark.parametrize("channel", ["any", "binary"])
@pytest.mark.parametrize("payload", BINARIES, ids=range(len(BINARIES)))
async def test_binary_reaches_both_formats_from_both(broker: Broker, channel: str, payload: bytes) -> None:
    raw, events = await both_formats(broker, channel)
    encoded = base64.b64encode(payload).decode()
    await (await broker.open(f"{channel}|send")).send(frame(BINARY, payload))
    assert await raw.frame() == (BINARY, payload)
    assert body(await events.event()) == {"base64": encoded}
    await events.command(type="publish", channel=channel, base64=encoded)
    assert await raw.frame() == (BINARY, payload)
    assert body(await events.event()) == {"base64": encoded}


@kinds
@pytest.mark.parametrize("value", JSONS)
async def test_json_is_delivered_as_it_was_written(broker: Broker, value: str) -> None:
    raw, events = await both_formats(broker, "json")
    await (await broker.open("json|send")).send(frame(TEXT, value.encode()))
    assert await raw.text() == value
    assert f'"data":{value},' in await events.text()
    await events.send(frame(TEXT, f'{{"type":"publish","channel":"json","data":{value}}}'.encode()))
    assert await raw.text() == value
    assert f'"data":{value},' in await events.text()


@kinds
async def test_json_published_where_anything_goes_stays_json_for_those_who_understand(broker: Broker) -> None:
    raw, events = await both_formats(broker, "any")
    await events.command(type="publish", channel="any", data={"a": [1]})
    assert json.loads(await raw.text()) == {"a": [1]}
    assert body(await events.event()) == {"data": {"a": [1]}}


async def test_an_envelope_says_where_when_and_from_whom(broker: Broker) -> None:
    publisher, listener = await broker.open_json(), await broker.open_json("news")
    before = time.time_ns() // 1_000_000
    await publisher.command(type="publish", channel="news", text="hi", message_id='m"1')
    event = await listener.event()
    assert before <= event.pop("time") <= time.time_ns() // 1_000_000
    sender = event.pop("from")
    assert event == {"type": "message", "channel": "news", "text": "hi", "id": 'm"1'}
    raw = await broker.open("news|send")
    await raw.send(frame(TEXT, b"hi"))
    other = (await listener.event())["from"]
    assert len(sender["session"]) == len(other["session"]) == 16
    assert sender["session"] != other["session"]


@kinds
@pytest.mark.parametrize(
    ("channel", "opcode", "payload", "text"),
    [
        ("json", TEXT, b"{", "json_syntax at byte 1"),
        ("json", TEXT, b"", "json_syntax at byte 0"),
        ("json", TEXT, b"1 2", "json_syntax at byte 2"),
        ("json", TEXT, b'"\\ud800"', "json_surrogate at byte 1"),
        ("json", TEXT, b"1e400", "json_number at byte 0"),
        ("json", TEXT, b"[" * 65 + b"]" * 65, "json_depth at byte 64"),
        ("json", BINARY, b"{}", "binary_refused at byte 0"),
        ("text", BINARY, b"abc", "binary_refused at byte 0"),
        ("binary", TEXT, b"abc", "text_refused at byte 0"),
    ],
)
async def test_a_raw_payload_that_the_channel_does_not_take_is_told_and_not_delivered(
    broker: Broker, channel: str, opcode: int, payload: bytes, text: str
) -> None:
    raw, events = await both_formats(broker, channel)
    publisher = await broker.open(f"{channel}|send")
    await publisher.send(frame(opcode, payload))
    assert await publisher.close_frame() == (4522, f"code=bad_payload;{text}")
    await publisher.send(close(4522))
    assert await publisher.closed() == b""
    await broker.ended_for("bad_payload")
    await raw.caught_up()
    await events.caught_up()
    assert broker.counter("n_published") == 0


@kinds
@pytest.mark.parametrize(
    ("channel", "member", "code"),
    [
        ("json", '"text":"{}"', "wrong_payload_kind"),
        ("json", '"base64":"e30="', "wrong_payload_kind"),
        ("text", '"data":1', "wrong_payload_kind"),
        ("text", '"base64":""', "wrong_payload_kind"),
        ("binary", '"text":"a"', "wrong_payload_kind"),
        ("any", '"data":' + "[" * 65 + "]" * 65, "bad_payload"),
        ("any", '"data":"\\ud800"', "bad_payload"),
        ("any", '"text":"\\udc00"', "bad_payload"),
        ("any", '"data":1e400', "bad_payload"),
        ("any", '"base64":"e30"', "bad_payload"),
        ("any", '"base64":"e3-="', "bad_payload"),
    ],
)
async def test_a_command_whose_payload_cannot_be_delivered_is_an_error_and_the_connection_lives(
    broker: Broker, channel: str, member: str, code: str
) -> None:
    raw, events = await both_formats(broker, channel)
    await events.send(frame(TEXT, f'{{"type":"publish","channel":"{channel}",{member},"id":7}}'.encode()))
    error = await events.event()
    assert (error["type"], error["code"], error["id"]) == ("error", code, 7)
    await raw.caught_up()
    await events.caught_up()
    assert broker.counter("n_published") == 0
