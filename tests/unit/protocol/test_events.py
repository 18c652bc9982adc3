"""What a JSON client hears about its own connection."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.protocol import events
from broker.protocol.errors import ERRORS
from broker.protocol.events import ChannelState, Limits


def test_hello_carries_everything_a_client_needs_to_begin() -> None:
    channels = [
        ChannelState("news", 1),
        ChannelState("room", 2, position="8f3a.1042", recovered=True),
        ChannelState(None, 3, error=events.channel_error("bad_channel")),
    ]
    assert json.loads(events.hello("s1", None, channels, Limits(65_536, 128), 25.0)) == {
        "type": "hello",
        "session": "s1",
        "user": None,
        "channels": [
            {"channel": "news", "index": 1},
            {"channel": "room", "index": 2, "position": "8f3a.1042", "recovered": True},
            {"channel": None, "index": 3, "error": {"code": "bad_channel", "message": ERRORS["bad_channel"]}},
        ],
        "limits": {"max_message_bytes": 65_536, "max_channels": 128},
        "heartbeat_seconds": 25.0,
    }


def test_not_recovered_is_said_and_not_left_out() -> None:
    answer = json.loads(events.subscribed([ChannelState("a", 0, recovered=False)], 3))
    assert answer == {"type": "subscribed", "channels": [{"channel": "a", "index": 0, "recovered": False}], "id": 3}


def test_an_answer_without_an_id_has_none() -> None:
    assert events.ack() == b'{"type":"ack"}'
    assert events.unsubscribed([]) == b'{"type":"unsubscribed","channels":[]}'
    assert events.PING == b'{"type":"ping"}'
    assert events.drain(1500) == b'{"type":"drain","reconnect_in_ms":1500}'


def test_an_ack_says_what_is_known() -> None:
    assert json.loads(events.ack("x", "8f.1", 0)) == {"type": "ack", "id": "x", "position": "8f.1", "subscriptions": 0}


@pytest.mark.parametrize("word", ERRORS)
def test_an_error_has_a_word_and_a_text(word: str) -> None:
    assert json.loads(events.error(word, id=0)) == {"type": "error", "code": word, "message": ERRORS[word], "id": 0}


def test_a_word_that_is_not_in_the_table_cannot_be_sent() -> None:
    with pytest.raises(KeyError):
        events.error("surprise")


@given(st.text(max_size=64), st.text(max_size=64))
def test_any_id_and_name_comes_back_as_it_was(id: str, name: str) -> None:
    answer = json.loads(events.subscribed([ChannelState(name, 0)], id))
    assert (answer["id"], answer["channels"][0]["channel"]) == (id, name)
