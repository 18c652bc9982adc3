"""What a client may say in `broker.json.v1`: publish, subscribe, unsubscribe, history, presence, auth, refresh, ping.

The gateway calls `decode` on each text message of a JSON connection. Anything that is not a command becomes a
CommandError with a word of `ERRORS`, a fixed text and, where the message still shows one, the client's `id`.
It never judges names against permissions and never looks inside `data`: those bytes go on unparsed (msgspec.Raw).

Unknown fields are refused: a misspelt `chanel` or `messageId` is told to its author instead of being dropped.
"""

import binascii
import json
import re
from typing import Annotated

import msgspec

from broker.protocol.errors import ERRORS
from broker.protocol.offer import (
    DEFAULT_RULES,
    ChannelRequest,
    OfferError,
    OfferRules,
    Refusal,
    check_name,
    check_position,
    parse_channel,
)

MAX_ID_CHARACTERS = 64
# The integers every JSON reader on a page can hold (RFC 8259 section 6).
MAX_ID_INTEGER = 2**53 - 1
# An Idempotency-Key is usually a UUID (36 characters); Stripe takes up to 255.
MAX_MESSAGE_ID_CHARACTERS = 128
# Bounds the work of one command whatever the operator allows per connection.
MAX_LIST_ITEMS = 1024
MAX_LAST = 999_999
# Messages in the answer to one `history`.
MAX_HISTORY = 1000
DEFAULT_HISTORY = 100

Id = (
    Annotated[str, msgspec.Meta(max_length=MAX_ID_CHARACTERS)]
    | Annotated[int, msgspec.Meta(ge=-MAX_ID_INTEGER, le=MAX_ID_INTEGER)]
    | None
)
MessageId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MESSAGE_ID_CHARACTERS)] | None
Last = Annotated[int, msgspec.Meta(ge=0, le=MAX_LAST)] | None

ABSENT = msgspec.Raw()


class Publish(msgspec.Struct, frozen=True, gc=False, tag="publish", tag_field="type", forbid_unknown_fields=True):
    """Exactly one of data, text and base64 is set; `data` is absent when it is zero bytes long."""

    channel: str
    data: msgspec.Raw = ABSENT
    text: str | None = None
    base64: str | None = None
    echo: bool = True
    message_id: MessageId = None
    id: Id = None


class SubscribeItem(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One channel by its plain name, with where to start."""

    channel: str
    since: str | None = None
    last: Last = None


SubscribeOne = str | SubscribeItem


class Subscribe(msgspec.Struct, frozen=True, gc=False, tag="subscribe", tag_field="type", forbid_unknown_fields=True):
    """A string is a token of the offer grammar (`room.42|since.8f3a.1042`); an object holds the plain name.

    `since` and `last` beside `channel` hold for those of its channels that do not say it themselves.
    """

    channel: SubscribeOne | Annotated[list[SubscribeOne], msgspec.Meta(min_length=1, max_length=MAX_LIST_ITEMS)]
    since: str | None = None
    last: Last = None
    id: Id = None


class Unsubscribe(
    msgspec.Struct, frozen=True, gc=False, tag="unsubscribe", tag_field="type", forbid_unknown_fields=True
):
    """Plain names."""

    channel: str | Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_LIST_ITEMS)]
    id: Id = None


class Presence(msgspec.Struct, frozen=True, gc=False, tag="presence", tag_field="type", forbid_unknown_fields=True):
    """Who is in a channel; the plain name."""

    channel: str
    id: Id = None


class History(msgspec.Struct, frozen=True, gc=False, tag="history", tag_field="type", forbid_unknown_fields=True):
    """The messages after a position, or the last ones. The plain name; no subscription is needed, and none is made."""

    channel: str
    since: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_HISTORY)] = DEFAULT_HISTORY
    id: Id = None


class Authenticate(msgspec.Struct, frozen=True, gc=False, tag="auth", tag_field="type", forbid_unknown_fields=True):
    """Gives a connection that has no identity yet the one of a token."""

    token: str
    id: Id = None

    def __repr__(self) -> str:
        return f"Authenticate(<hidden>, id={self.id!r})"


class Refresh(msgspec.Struct, frozen=True, gc=False, tag="refresh", tag_field="type", forbid_unknown_fields=True):
    """A newer token of the same user, before the old one expires."""

    token: str
    id: Id = None

    def __repr__(self) -> str:
        return f"Refresh(<hidden>, id={self.id!r})"


class Ping(msgspec.Struct, frozen=True, gc=False, tag="ping", tag_field="type", forbid_unknown_fields=True):
    """Answered by an `ack`: it shows that the server reads commands, which no browser can ask with a ping frame."""

    id: Id = None


Command = Publish | Subscribe | Unsubscribe | History | Presence | Authenticate | Refresh | Ping

_COMMANDS: dict[str, type[msgspec.Struct]] = {
    "publish": Publish,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "presence": Presence,
    "history": History,
    "auth": Authenticate,
    "refresh": Refresh,
    "ping": Ping,
}
_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_FIELD = re.compile(r" - at `\$\.([a-z_0-9]+)")


class CommandError(Exception):
    """A message that is no command. `id` is the client's own, None if it gave none that can be echoed."""

    def __init__(self, word: str, text: str | None = None, id: str | int | None = None) -> None:
        self.word = word
        self.text = ERRORS[word] if text is None else text
        self.id = id
        super().__init__(self.text)


def decode(payload: bytes) -> Command:
    """Reads one command. Raises CommandError, and nothing else, whatever the bytes are."""
    try:
        command = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _explain(payload, error) from None
    if type(command) is Publish:
        if (len(command.data) != 0) + (command.text is not None) + (command.base64 is not None) != 1:
            raise CommandError("bad_command", "publish takes exactly one of data, text and base64", command.id)
    elif (
        type(command) is Subscribe
        and command.since is not None
        and isinstance(command.channel, list)
        and len(command.channel) != 1
    ):
        raise CommandError("bad_command", "since beside a list: a position belongs to one channel", command.id)
    return command


def decode_base64(text: str) -> bytes:
    """Standard alphabet with padding (RFC 4648 section 4). Raises CommandError without an id."""
    try:
        # strict_mode alone lets one "=" too many pass.
        if len(text) % 4 == 0:
            return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:  # binascii.Error and UnicodeEncodeError
        pass
    raise CommandError("bad_payload", "base64 is not standard base64 with padding")


def requests(command: Subscribe, rules: OfferRules = DEFAULT_RULES) -> list[ChannelRequest | OfferError]:
    """One entry per channel asked for, in order; a bad one is an error beside the others, not instead of them."""
    channels = command.channel if isinstance(command.channel, list) else [command.channel]
    found: list[ChannelRequest | OfferError] = []
    names: set[str] = set()
    for index, one in enumerate(channels):
        try:
            request = _request(one, command, rules, index)
            if request.name in names:
                raise OfferError(Refusal.DUPLICATE_CHANNEL, index)
        except OfferError as error:
            found.append(error)
        else:
            names.add(request.name)
            found.append(request)
    return found


def _request(one: SubscribeOne, command: Subscribe, rules: OfferRules, index: int) -> ChannelRequest:
    if isinstance(one, SubscribeItem):
        name = check_name(one.channel, rules, index)
        request = ChannelRequest(name, one.since, one.last, None, index, one.channel)
    else:
        request = parse_channel(one, rules, index)
        if command.since is None and command.last is None:
            return request
    since = command.since if request.since is None else request.since
    last = command.last if request.last is None else request.last
    if since is not None:
        check_position(since, index)
    return ChannelRequest(request.name, since, last, request.direction, index, request.token)


def _explain(payload: bytes, error: Exception) -> CommandError:
    """What was wrong, in our words. Runs only for refused messages, so it may read the message a second time."""
    try:
        # The standard library's reader takes lone surrogates, so the sender of one still gets its id back.
        # Decoded first: given bytes, it would guess UTF-16 and UTF-32.
        message = json.loads(payload.decode())
    except (ValueError, RecursionError):
        return CommandError("bad_json")
    if not isinstance(message, dict):
        return CommandError("bad_json")
    id = _echoable_id(message.get("id"))
    if not isinstance(error, msgspec.ValidationError):
        # Valid for one reader, not for the other: a lone surrogate, NaN, Infinity.
        return CommandError("bad_payload", "the message holds half a surrogate pair or is not strict JSON", id)
    kind = message.get("type")
    if not isinstance(kind, str):
        return CommandError("bad_command", "type is missing or not a string", id)
    struct = _COMMANDS.get(kind)
    if struct is None:
        return CommandError("unknown_type", id=id)
    fields = struct.__struct_fields__
    found = _FIELD.search(str(error))
    if found is not None and found[1] in fields:
        return CommandError("bad_command", f"{kind}: {found[1]} has a wrong type or size", id)
    if "channel" in fields and "channel" not in message:
        return CommandError("bad_command", f"{kind}: channel is missing", id)
    return CommandError("bad_command", f"{kind} takes only: type, {', '.join(fields)}", id)


def _echoable_id(value: object) -> str | int | None:
    if isinstance(value, str) and len(value) <= MAX_ID_CHARACTERS:
        # A lone surrogate has no UTF-8: there is no way to echo it.
        return value if value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value) else None
    if type(value) is int and -MAX_ID_INTEGER <= value <= MAX_ID_INTEGER:
        return value
    return None
