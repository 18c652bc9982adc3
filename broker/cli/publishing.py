"""Publishing over the HTTP API: bodies, batches in order, and again only where nothing can be published twice."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from broker.cli.api import Api, ApiError

Kind = Literal["text", "json", "base64"]

# api.max_batch_messages is 1000 and api.max_body_bytes 4 MiB; a broker that takes less says 413 and gets halves.
BATCH_MESSAGES = 500
BATCH_BYTES = 1 << 20
# The API's whole body (api.max_body_bytes).
MOST_LINE_BYTES = 4 << 20
_READ_BYTES = 1 << 20
# A broker that restarts is back within some seconds: 0.25 + 0.5 + 1 + 2 + 4 + 8.
_MOST_RETRIES = 6
_FIRST_PAUSE_SECONDS = 0.25
_PASSING = frozenset({"rate_limited", "engine_unavailable", "overloaded"})


class PublishError(Exception):
    """`line` for people. `answers`: to what was published before it, in order."""

    def __init__(self, line: str, answers: Sequence[Any] = ()) -> None:
        super().__init__(line)
        self.line = line
        self.answers = answers


class MessageError(ValueError):
    """What was given is no message of this kind."""


def entry(channel: str, kind: Kind, payload: bytes, message_id: str | None = None) -> bytes:
    """One message as the API takes it. JSON is passed on as it stands. Raises MessageError."""
    body: dict[str, object] = {"channel": channel}
    try:
        if kind == "json":
            msgspec.json.decode(payload)
            body["data"] = msgspec.Raw(payload)
        elif kind == "base64":
            body["base64"] = payload.decode("ascii")
        else:
            body["text"] = payload.decode()
    except UnicodeDecodeError:
        raise MessageError("is not UTF-8; send other bytes with --binary, or as --base64") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MessageError(f"is not JSON: {error}") from None
    if message_id is not None:
        body["message_id"] = message_id
    return msgspec.json.encode(body)


def lines_as_they_come(read: Callable[[int], bytes]) -> Iterator[list[bytes]]:
    """All whole lines that are there, at once: a slow source is passed on line by line, a fast one in batches.

    `read(n)` returns at most n bytes as soon as there are any, nothing at the end. Raises MessageError.
    """
    rest = b""
    while data := read(_READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield lines
        if len(rest) > MOST_LINE_BYTES:
            raise MessageError("has no end within 4 MiB")
    if rest:
        yield [rest]


def batches(entries: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Pieces that the API takes, in order."""
    piece: list[bytes] = []
    size = 0
    for one in entries:
        if piece and (len(piece) == BATCH_MESSAGES or size + len(one) > BATCH_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(one)
        size += len(one)
    if piece:
        yield piece


class Publisher:
    """One request after the other. `repeatable`: every entry has a message id, so a lost answer may be asked again."""

    def __init__(self, api: Api, repeatable: bool, pause: Callable[[float], None] = time.sleep) -> None:
        self._api = api
        self._repeatable = repeatable
        self._pause = pause
        self._reached = False
        self._most = BATCH_MESSAGES

    def one(self, entry: bytes) -> Any:
        """The API's answer. Raises PublishError."""
        try:
            return self._post(entry)
        except ApiError as error:
            raise PublishError(error.line) from None

    def many(self, entries: Sequence[bytes]) -> list[Any]:
        """The answers in order. Raises PublishError at the first one that is an error."""
        answers: list[Any] = []
        retries = 0
        while len(answers) < len(entries):
            piece = entries[len(answers) : len(answers) + self._most]
            try:
                results = self._batch(piece)
            except ApiError as error:
                if error.status == 413 and len(piece) > 1:
                    # Refused as a whole: this broker takes less at once than most (api.max_batch_messages).
                    self._most = len(piece) // 2
                    continue
                raise PublishError(error.line, answers) from None
            failed = [index for index, result in enumerate(results) if "error" in result]
            if not failed:
                answers += results
                retries = 0
                continue
            answers += results[: failed[0]]
            errors = [results[index]["error"] for index in failed]
            # Only if nothing behind the first error was published can the rest be repeated in its order.
            behind = len(piece) - failed[0] - len(failed)
            if not behind and retries < _MOST_RETRIES and all(error.get("code") in _PASSING for error in errors):
                retries += 1
                self._pause(_delay(retries, None))
                continue
            more = f"; {behind} of those behind it were published" if behind else ""
            raise PublishError(f"{errors[0].get('code')}: {errors[0].get('message')}{more}", answers)
        return answers

    def _batch(self, entries: Sequence[bytes]) -> list[Any]:
        """Raises ApiError."""
        answer = self._post(b"[" + b",".join(entries) + b"]")
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) != len(entries):
            raise ApiError("the answer is not that of a broker of this version", certain=False)
        return results

    def _post(self, content: bytes) -> Any:
        """Again while the error passes, nothing can be published twice, and the broker has been there before."""
        for retry in range(_MOST_RETRIES + 1):
            try:
                answer = self._api.call("POST", "/v1/publish", content=content)
            except ApiError as error:
                self._reached |= error.reached
                safe = error.certain or self._repeatable
                if not (error.passes and safe and self._reached) or retry == _MOST_RETRIES:
                    raise
                self._pause(_delay(retry + 1, error.retry_after))
            else:
                self._reached = True
                return answer
        raise AssertionError("the last round returns or raises")


def _delay(retry: int, asked_seconds: float | None) -> float:
    """Doubling, with jitter: whoever was refused together does not come back together."""
    pause = _FIRST_PAUSE_SECONDS * 2 ** (retry - 1) * (0.5 + random.random() / 2)
    return pause if asked_seconds is None else asked_seconds + random.random() * _FIRST_PAUSE_SECONDS
