"""Publishing over HTTP: one message, one message for several channels, a batch.

The hot path of the API: a body is decoded once by msgspec, `data` stays as the bytes that came, and an answer is one
encoding. Messages of a batch are handed to the engine in their order, all before the first receipt is waited for.

An engine elsewhere may be slower than back ends are: it takes publishes first come, first served, as its credit lets
them, and no more than `api.max_waiting_publishes` wait for that. Whoever comes then is told so, with nothing published.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import NoReturn

import msgspec

from broker.api.bodies import Failed, ItemError, Publish, Published, Results
from broker.api.keys import Key
from broker.api.problems import PROBLEMS, Problem
from broker.config.schema import Config
from broker.engine.base import EngineError, Receipt
from broker.node import KIND_BINARY, KIND_JSON, KIND_TEXT, PAYLOADS, Channel, Node, PayloadError
from broker.protocol.commands import MAX_MESSAGE_ID_CHARACTERS, CommandError, decode_base64
from broker.protocol.names import NameRule

_decoder: msgspec.json.Decoder[Publish | list[Publish]] = msgspec.json.Decoder(Publish | list[Publish])
_decode = _decoder.decode
_encode = msgspec.json.Encoder().encode

# What curl -d says of a body without being asked.
_FORM = b"application/x-www-form-urlencoded"
_UTF8 = frozenset({b"utf-8", b"utf8", b"us-ascii"})

Outcome = Published | Failed


class Publishing:
    """`on_crowded` is told of each request that is refused because too many messages wait."""

    def __init__(self, node: Node, config: Config, on_crowded: Callable[[], None] = lambda: None) -> None:
        self._node = node
        self._names = NameRule(config.server.extra_channel_characters)
        self._max_message_bytes = config.limits.max_message_bytes
        self._max_messages = config.api.max_batch_messages
        self._max_waiting = config.api.max_waiting_publishes
        # Messages of the requests under way that have no receipt yet.
        self._waiting = 0
        self._on_crowded = on_crowded

    @property
    def waiting(self) -> int:
        """Messages of the requests under way that have no receipt yet."""
        return self._waiting

    def channel(self, name: str) -> Channel:
        """Raises Problem."""
        known = self._node.known.get(name)
        if known is None:
            if not self._names.accepts(name):
                raise Problem("bad_channel")
            known = self._node.channel(name)
        return known

    # What `POST /v1/publish` takes.

    async def publish(self, key: Key, body: bytes) -> bytes:
        """The answer. Raises Problem; for several messages only if none of them was looked at."""
        asked = _read(body)
        if type(asked) is Publish and asked.channel is not None and asked.channels is None:
            _check_shape(asked)
            self._check_room()
            key.spend(1)
            return _encode(await self._publish_one(key, asked.channel, asked))
        messages = list(_flat(asked))
        if len(messages) > self._max_messages:
            raise Problem("too_large", f"more than {self._max_messages} messages in one request")
        self._check_room()
        key.spend(len(messages))
        self._waiting += len(messages)
        try:
            return _encode(Results(await self._publish_all(key, messages)))
        finally:
            self._waiting -= len(messages)

    def _check_room(self) -> None:
        """Raises Problem. A batch needs no more room than a message, or messages that keep coming would starve it."""
        if self._waiting >= self._max_waiting:
            self._on_crowded()
            raise Problem("overloaded", "too many publishes wait for the engine; nothing of this one was published")

    async def _publish_one(self, key: Key, name: str, message: Publish) -> Published:
        key.need_channel(name)
        kind, payload = self._payload(message)
        return await self._publish(self.channel(name), name, kind, payload, message.message_id)

    async def _publish(
        self, channel: Channel, name: str, kind: int, payload: bytes, message_id: str | None
    ) -> Published:
        try:
            receipt = self._node.publish(channel, kind, payload, _extra(message_id), message_id=message_id)
            if not isinstance(receipt, Receipt):
                receipt = await self._waited(receipt)
        except (PayloadError, EngineError) as error:
            raise problem_of(error) from None
        return Published(name, receipt.position, receipt.subscriptions)

    async def _waited(self, receipt: Awaitable[Receipt]) -> Receipt:
        self._waiting += 1
        try:
            return await receipt
        finally:
            self._waiting -= 1

    async def _publish_all(self, key: Key, messages: list[tuple[str, Publish]]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        # Receipts that are still to come, by their place.
        waiting: list[tuple[int, str, asyncio.Future[Receipt]]] = []
        path: bool | None = None
        for name, message in messages:
            try:
                key.need_channel(name)
                channel = self.channel(name)
                # An engine elsewhere takes what has an id or a history on another path than all the rest, and only
                # each of them keeps an order while it waits for credit: before a change everything has arrived.
                other_path = message.message_id is not None or channel.history is not None
                if waiting and other_path is not path:
                    await _collect(outcomes, waiting)
                path = other_path
                kind, payload = self._payload(message)
                receipt = self._node.publish(
                    channel, kind, payload, _extra(message.message_id), message_id=message.message_id
                )
            except Problem as problem:
                outcomes.append(Failed(name, ItemError(problem.code, problem.detail)))
            except (PayloadError, EngineError) as error:
                outcomes.append(_failed(name, error))
            else:
                if isinstance(receipt, Receipt):
                    outcomes.append(Published(name, receipt.position, receipt.subscriptions))
                else:
                    waiting.append((len(outcomes), name, _begun(receipt)))
                    outcomes.append(_PENDING)
        await _collect(outcomes, waiting)
        return outcomes

    def _payload(self, message: Publish) -> tuple[int, bytes]:
        """Raises Problem."""
        if message.text is not None:
            kind, payload = KIND_TEXT, message.text.encode()
        elif message.base64 is not None:
            try:
                kind, payload = KIND_BINARY, decode_base64(message.base64)
            except CommandError as error:
                raise Problem(error.word, error.text) from None
        else:
            kind, payload = KIND_JSON, bytes(message.data)
        self._check_size(payload)
        return kind, payload

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self._max_message_bytes:
            raise Problem("too_large", f"a message has at most {self._max_message_bytes} bytes")

    # What `POST /v1/channels/{channel}/messages` takes.

    async def publish_body(
        self, key: Key, name: str, content_type: bytes | None, message_id: str | None, payload: bytes
    ) -> bytes:
        """The body is the payload. Raises Problem."""
        key.need_channel(name)
        channel = self.channel(name)
        if message_id is not None and not 1 <= len(message_id) <= MAX_MESSAGE_ID_CHARACTERS:
            raise Problem("bad_field", f"Idempotency-Key has 1 to {MAX_MESSAGE_ID_CHARACTERS} characters")
        kind = _kind(content_type, channel)
        self._check_size(payload)
        if kind == KIND_TEXT:
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise Problem("bad_payload", "the body is not UTF-8") from None
        self._check_room()
        key.spend(1)
        return _encode(await self._publish(channel, name, kind, payload, message_id))


_PENDING = Failed("", ItemError("", ""))


def _read(body: bytes) -> Publish | list[Publish]:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise Problem("bad_field", _in_utf8(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem("bad_json", f"the body is not JSON: {_in_utf8(str(error))}") from None


def _in_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _check_shape(message: Publish, index: int | None = None) -> None:
    where = "" if index is None else f" - at `$[{index}]`"
    if (message.channel is None) == (message.channels is None):
        raise Problem("bad_field", f"exactly one of channel and channels is needed{where}")
    if (len(message.data) != 0) + (message.text is not None) + (message.base64 is not None) != 1:
        raise Problem("bad_field", f"exactly one of data, text and base64 is needed{where}")


def _flat(asked: Publish | list[Publish]) -> Iterator[tuple[str, Publish]]:
    """Each message for each of its channels; nothing is published if one is misshapen."""
    if isinstance(asked, Publish):
        _check_shape(asked)
        asked = [asked]
    else:
        for index, message in enumerate(asked):
            _check_shape(message, index)
    for message in asked:
        if message.channel is not None:
            yield message.channel, message
        else:
            for name in message.channels or ():
                yield name, message


def _extra(message_id: str | None) -> bytes:
    return b"" if message_id is None else b',"id":' + _encode(message_id)


def _begun(receipt: Awaitable[Receipt]) -> "asyncio.Future[Receipt]":
    """A coroutine begins at the next turn of the loop, those of one request in their order."""
    return asyncio.ensure_future(receipt)


async def _collect(outcomes: list[Outcome], waiting: list[tuple[int, str, "asyncio.Future[Receipt]"]]) -> None:
    """Waits for every receipt, whatever became of the others."""
    if waiting:
        await asyncio.wait([receipt for _, _, receipt in waiting])
    for place, name, receipt in waiting:
        error = receipt.exception()
        if error is None:
            found = receipt.result()
            outcomes[place] = Published(name, found.position, found.subscriptions)
        elif isinstance(error, EngineError):
            outcomes[place] = _failed(name, error)
        else:
            raise error
    waiting.clear()


def problem_of(error: PayloadError | EngineError) -> Problem:
    return Problem(error.word, error.text if isinstance(error, PayloadError) else None)


def _failed(name: str, error: PayloadError | EngineError) -> Failed:
    text = error.text if isinstance(error, PayloadError) else None
    return Failed(name, ItemError(error.word, text or PROBLEMS[error.word][1]))


def _kind(content_type: bytes | None, channel: Channel) -> int:
    """Which kind of payload a Content-Type announces. Raises Problem."""
    if content_type is None or content_type == _FORM:
        taken = PAYLOADS[channel.payload]
        return {"json": KIND_JSON, "binary": KIND_BINARY}.get(taken, KIND_TEXT)
    media, _, parameters = content_type.lower().partition(b";")
    media = media.strip()
    if media == _FORM:
        return _kind(None, channel)
    if media == b"application/json":
        return KIND_JSON
    if media == b"application/octet-stream":
        return KIND_BINARY
    if media.startswith(b"text/"):
        _check_charset(parameters)
        return KIND_TEXT
    _refuse_type()


def _check_charset(parameters: bytes) -> None:
    for parameter in parameters.split(b";"):
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"charset" and value.strip().strip(b'"') not in _UTF8:
            raise Problem("unsupported_type", "text is taken in UTF-8 only")


def _refuse_type() -> NoReturn:
    raise Problem("unsupported_type", "say application/json, text/plain or application/octet-stream")
