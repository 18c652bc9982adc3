"""What a JSON client may say, and what it is told when it may not."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol.commands import (
    Authenticate,
    Command,
    CommandError,
    Ping,
    Presence,
    Publish,
    Refresh,
    Subscribe,
    Unsubscribe,
    decode,
    decode_base64,
    requests,
)
from broker.protocol.errors import ERRORS
from broker.protocol.offer import ChannelRequest, OfferError, OfferRules, Refusal


def said(**fields: object) -> Command:
    return decode(json.dumps(fields).encode())


def refused(payload: bytes | dict[str, object]) -> CommandError:
    with pytest.raises(CommandError) as caught:
        decode(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return caught.value


def outcome(payload: bytes) -> Command | CommandError:
    """What was read, or the only thing that may be raised instead."""
    try:
        return decode(payload)
    except CommandError as error:
        return error


def test_data_goes_on_exactly_as_written() -> None:
    command = decode(b'{"type":"publish","channel":"c","data": {"b":1.50, "a":[ null ]},"id":7}')
    assert isinstance(command, Publish)
    assert bytes(command.data) == b'{"b":1.50, "a":[ null ]}'
    assert (command.channel, command.echo, command.id, command.message_id) == ("c", True, 7, None)


@pytest.mark.parametrize("data", [b"null", b"0", b'""', b"false", b"[]"])
def test_an_empty_looking_value_is_data_too(data: bytes) -> None:
    command = decode(b'{"type":"publish","channel":"c","data":' + data + b"}")
    assert isinstance(command, Publish)
    assert bytes(command.data) == data


def test_text_and_base64_are_payloads_too() -> None:
    text = said(type="publish", channel="c", text="", echo=False, message_id="m", id="i")
    assert text == Publish("c", text="", echo=False, message_id="m", id="i")
    assert said(type="publish", channel="c", base64="AAE=") == Publish("c", base64="AAE=")


@pytest.mark.parametrize(
    "payload",
    [{}, {"text": "a", "data": 1}, {"text": "a", "base64": ""}, {"data": 1, "base64": ""}, {"text": None}],
)
def test_a_publish_with_none_or_two_payloads_is_told_so(payload: dict[str, object]) -> None:
    error = refused({"type": "publish", "channel": "c", "id": 5, **payload})
    assert (error.word, error.id) == ("bad_command", 5)
    assert "exactly one" in error.text


def test_the_type_may_come_last() -> None:
    assert decode(b'{"id":"x","type":"ping"}') == Ping("x")


@pytest.mark.parametrize("channel", ["a", ["a"], ["a", "b"]])
def test_unsubscribe_takes_one_or_a_list(channel: object) -> None:
    assert said(type="unsubscribe", channel=channel) == Unsubscribe(channel)  # type: ignore[arg-type]


def subscribe(**fields: object) -> list[ChannelRequest | OfferError]:
    command = said(type="subscribe", **fields)
    assert isinstance(command, Subscribe)
    return requests(command)


def test_one_frame_restores_every_subscription() -> None:
    assert subscribe(channel=["a", "b|since.x.1", {"channel": "c", "since": "x.2", "last": 3}]) == [
        ChannelRequest("a", None, None, None, 0, "a"),
        ChannelRequest("b", "x.1", None, None, 1, "b|since.x.1"),
        ChannelRequest("c", "x.2", 3, None, 2, "c"),
    ]


def test_since_and_last_may_stand_beside_the_channel() -> None:
    assert subscribe(channel="a", since="x.1") == [ChannelRequest("a", "x.1", None, None, 0, "a")]
    assert subscribe(channel=["a"], since="x.1", last=2) == [ChannelRequest("a", "x.1", 2, None, 0, "a")]
    assert subscribe(channel=["a", "b|last.1"], last=2) == [
        ChannelRequest("a", None, 2, None, 0, "a"),
        ChannelRequest("b", None, 1, None, 1, "b|last.1"),
    ]


def test_one_position_for_several_channels_is_refused() -> None:
    error = refused({"type": "subscribe", "channel": ["a", "b"], "since": "x", "id": 1})
    assert (error.word, error.id) == ("bad_command", 1)


def test_a_bad_channel_does_not_take_the_good_ones_with_it() -> None:
    channels: list[object] = ["a", "b/c", "a", {"channel": "bearer.x"}, "d|since.12345678901234567", "e"]
    found = subscribe(channel=[*channels, {"channel": "f", "since": ""}])
    good = [one.name for one in found if isinstance(one, ChannelRequest)]
    bad = [(one.index, one.refusal) for one in found if isinstance(one, OfferError)]
    assert good == ["a", "e"]
    assert bad == [
        (1, Refusal.BAD_NAME),
        (2, Refusal.DUPLICATE_CHANNEL),
        (3, Refusal.RESERVED_NAME),
        (4, Refusal.BAD_POSITION),
        (6, Refusal.BAD_POSITION),
    ]


def test_a_string_is_a_token_and_an_object_holds_the_plain_name() -> None:
    assert [one.name for one in subscribe(channel=["%61"]) if isinstance(one, ChannelRequest)] == ["a"]
    (error,) = subscribe(channel={"channel": "%61"})
    assert isinstance(error, OfferError)
    assert error.refusal is Refusal.BAD_NAME


def test_the_operators_rule_for_names_holds_in_band_too() -> None:
    command = said(type="subscribe", channel="ab")
    assert isinstance(command, Subscribe)
    (found,) = requests(command, OfferRules())
    assert isinstance(found, ChannelRequest)


def test_who_is_there_is_asked_of_one_channel() -> None:
    assert said(type="presence", channel="room.1", id=0) == Presence("room.1", 0)


def test_a_token_comes_in_band_and_is_shown_nowhere() -> None:
    for command in (said(type="auth", token="s.e.cret", id="a"), said(type="refresh", token="s.e.cret", id="a")):
        assert isinstance(command, Authenticate | Refresh)
        assert (command.token, command.id) == ("s.e.cret", "a")
        assert "cret" not in repr(command)
    error = refused({"type": "auth", "tokn": "s.e.cret", "id": 1})
    assert (error.word, error.id) == ("bad_command", 1)
    assert "cret" not in error.text


@pytest.mark.parametrize(
    ("payload", "word", "id"),
    [
        ({"type": "publsh", "id": 1}, "unknown_type", 1),
        ({"type": 5, "id": 1}, "bad_command", 1),
        ({"id": 1}, "bad_command", 1),
        ({"type": "publish", "chanel": "c", "text": "", "id": 1}, "bad_command", 1),
        ({"type": "publish", "channel": "c", "text": "", "messageId": "", "id": 1}, "bad_command", 1),
        ({"type": "publish", "channel": 5, "text": "", "id": 1}, "bad_command", 1),
        ({"type": "publish", "channel": "c", "text": 5, "id": 1}, "bad_command", 1),
        ({"type": "publish", "channel": "c", "text": "", "echo": 1, "id": 1}, "bad_command", 1),
        ({"type": "publish", "channel": "c", "text": "", "message_id": "x" * 129, "id": 1}, "bad_command", 1),
        ({"type": "subscribe", "id": 1}, "bad_command", 1),
        ({"type": "subscribe", "channel": [], "id": 1}, "bad_command", 1),
        ({"type": "subscribe", "channel": [5], "id": 1}, "bad_command", 1),
        ({"type": "subscribe", "channel": ["a"] * 1025, "id": 1}, "bad_command", 1),
        ({"type": "subscribe", "channel": {"channel": "a", "sinse": "x"}, "id": 1}, "bad_command", 1),
        ({"type": "subscribe", "channel": "a", "last": -1, "id": 1}, "bad_command", 1),
        ({"type": "unsubscribe", "channel": {"channel": "a"}, "id": 1}, "bad_command", 1),
        ({"type": "presence", "id": 1}, "bad_command", 1),
        ({"type": "presence", "channel": ["a"], "id": 1}, "bad_command", 1),
        ({"type": "presence", "channel": "a", "limit": 1, "id": 1}, "bad_command", 1),
        ({"type": "ping", "id": "x" * 65}, "bad_command", None),
        ({"type": "ping", "id": 2**53}, "bad_command", None),
        ({"type": "ping", "id": True}, "bad_command", None),
        ({"type": "ping", "id": 1.5}, "bad_command", None),
        ({"type": "ping", "id": {"a": 1}}, "bad_command", None),
    ],
)
def test_a_mistake_is_told_with_the_id_of_its_command(payload: dict[str, object], word: str, id: object) -> None:
    error = refused(payload)
    assert (error.word, error.id) == (word, id)


def test_a_wrong_field_is_named() -> None:
    assert refused({"type": "publish", "channel": 5, "text": ""}).text == "publish: channel has a wrong type or size"
    assert refused({"type": "publish", "text": ""}).text == "publish: channel is missing"
    assert refused({"type": "ping", "extra": 1}).text == "ping takes only: type, id"


@pytest.mark.parametrize(
    "payload",
    [b"", b"ping", b"[]", b"1", b"null", b'"x"', b'{"type":"ping"}x', b'{"type":"ping",}', b"{", b"\xff", b"\x00",
     b'\xef\xbb\xbf{"type":"ping"}', '{"type":"ping"}'.encode("utf-16")],
)  # fmt: skip
def test_what_is_no_json_object_is_told_so(payload: bytes) -> None:
    assert refused(payload).word == "bad_json"


@pytest.mark.parametrize(
    "escaped",
    ['"\\ud800"', '"\\udc00"', '"\\ud800 and more"', '"\\ud800\\u0041"', '"\\udc00\\ud800"', '"a\\udfff"'],
)
@pytest.mark.parametrize("field", ["text", "data", "channel"])
def test_half_a_surrogate_pair_is_an_error_because_no_utf8_holds_it(field: str, escaped: str) -> None:
    fields = {"channel": '"c"', "text": '"t"'} | {field: escaped}
    if field == "data":
        del fields["text"]
    inner = ",".join(f'"{key}":{value}' for key, value in fields.items())
    error = refused(f'{{"type":"publish","id":"q",{inner}}}'.encode())
    assert (error.word, error.id) == ("bad_payload", "q")


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert decode(b'{"type":"publish","channel":"c","text":"\\ud83d\\ude00"}') == Publish("c", text="😀")


def test_an_id_that_no_utf8_holds_is_not_echoed() -> None:
    assert refused(b'{"type":"ping","id":"\\ud800"}').id is None


def test_nesting_without_end_does_not_reach_the_stack() -> None:
    deep = b"[" * 30_000 + b"]" * 30_000
    assert refused(b'{"type":"publish","channel":"c","data":' + deep + b"}").word == "bad_json"
    assert refused(b'{"type":"ping","id":' + deep + b"}").word in ("bad_json", "bad_command")
    assert refused(b'{"id":1,"type":"ping","x":' + b'{"a":' * 10_000).word == "bad_json"


def test_a_number_too_long_to_convert_is_an_error_like_others() -> None:
    assert refused(b'{"type":"ping","id":' + b"9" * 10_000 + b"}").word in ("bad_json", "bad_command")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
fields = st.dictionaries(
    st.sampled_from(["channel", "data", "text", "base64", "echo", "message_id", "id", "since", "last", "x"]),
    json_values,
)
kinds = st.sampled_from(["publish", "subscribe", "unsubscribe", "ping", "history", "nope"])


@given(kinds | json_values, fields)
def test_no_object_makes_decode_raise_anything_but_its_own_error(kind: object, rest: dict[str, object]) -> None:
    payload = json.dumps({"type": kind, **rest}).encode("utf-8", "surrogatepass")
    command = outcome(payload)
    assert command.id is None or command.id == rest["id"]
    if isinstance(command, CommandError):
        assert command.word in ERRORS
    elif isinstance(command, Subscribe):
        assert len(requests(command)) >= 1


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b'{"type":"ping",' + tail))
def test_no_bytes_make_decode_raise_anything_but_its_own_error(payload: bytes) -> None:
    command = outcome(payload)
    assert isinstance(command, Ping) or (isinstance(command, CommandError) and command.word in ERRORS)


@given(st.binary())
def test_base64_comes_back_as_the_bytes_it_was(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["A", "AA", "AAA", "AA=", "AA==x", "A A=", "AA\n==", "-_-_", "é===", "AAAA=", "=AAA"])
def test_base64_that_is_not_standard_is_refused(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        decode_base64(text)
    assert caught.value.word == "bad_payload"
