"""A worker with its HTTP API, and requests of a back end on a plain socket."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from broker.auth.identity import Identity
from broker.gateway.authority import Grant
from broker.native._request import Request
from broker.protocol.offer import Offer
from tests.integration.harness import Answer, Broker, Client, running

KEY, READER, NEWS_ONLY, SLOW = "all-scopes", "reads-only", "one-channel", "two-a-second"


def _key(text: str, *scopes: str, **more: object) -> dict[str, object]:
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "scopes": list(scopes), **more}


KEYS = {
    "back": _key(KEY, "publish", "read", "admin"),
    "reader": _key(READER, "read"),
    "newsroom": _key(NEWS_ONLY, "publish", channels=["news", "news.*"]),
    "slow": _key(SLOW, "publish", messages_per_second=2),
}
CHANNELS = {
    "kept.*": {"history_count": 10, "presence": True},
    "json.*": {"payload": "json"},
    "binary.*": {"payload": "binary"},
}


class ByHeader:
    """Whoever names a user is that user."""

    async def admit(self, request: Request, offer: Offer) -> Grant:
        user = request.header(b"x-user")
        return Grant(Identity(None if user is None else user.decode()))


@asynccontextmanager
async def serving_api(**more: Any) -> AsyncIterator[Broker]:
    settings: dict[str, Any] = {"api_keys": KEYS, "channels": CHANNELS, **more}
    async with running(api=True, authority=ByHeader(), **settings) as broker:
        yield broker


def call(
    target: str, body: object = None, *headers: str, method: str | None = None, key: str | None = KEY, host: str = "a"
) -> bytes:
    """A request; a body that is no bytes goes as JSON."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {target} HTTP/1.1", f"Host: {host}"]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if not isinstance(body, bytes):
            lines.append("Content-Type: application/json")
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + data


async def asked(client: Client, *arguments: Any, **named: Any) -> Any:
    """The JSON of an answer that has to be 200."""
    answer = await client.ask(call(*arguments, host="localhost", **named))
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def refused(client: Client, *arguments: Any, **named: Any) -> tuple[int, str]:
    """Status and code of an answer that has to be a problem document."""
    named.setdefault("host", "localhost")
    return problem(await client.ask(call(*arguments, **named)))


def problem(answer: Answer) -> tuple[int, str]:
    assert answer.one("content-type") == "application/problem+json", answer
    document = json.loads(answer.body)
    assert set(document) == {"title", "status", "detail", "code"}
    assert document["status"] == answer.status
    return answer.status, document["code"]
