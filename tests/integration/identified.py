"""Tokens by name and a site by table, in place of signatures and a back end, for tests of who a connection is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from broker.auth.identity import AuthError, Identity
from tests.integration.harness import Broker, Client, running

ORIGIN = "https://app.example"
NOW = 1_800_000_000.0
CHANNELS = {
    "public": {"subscribe": "anyone"},
    "open": {"subscribe": "anyone", "publish": "anyone", "messages_per_second": 1.0},
    "members.*": {"subscribe": "authenticated", "publish": "authenticated", "presence": True},
    "room.*": {"subscribe": "claim", "publish": "claim", "history_count": 10},
    "user.{sub}": {"subscribe": "authenticated"},
    "staff": {"subscribe": "server"},
    "letters": {"subscribe": "authenticated", "publish": "anyone", "presence": True},
}
ANN = Identity("ann", b'{"name":"Ann"}', subscribe=("room.1", "room.2"), publish=("room.1",), expires=NOW + 3600)
TOKENS = {
    "ann": ANN,
    "ann-later": Identity("ann", None, subscribe=("room.2",), subs=("staff",), expires=NOW + 7200),
    "ann-short": Identity("ann", expires=NOW + 90),
    "bob": Identity("bob"),
    "staff": Identity("eve", subs=("staff", "user.eve", "user.ann", "nowhere", "$bad")),
}


class Table:
    """Tokens by name. `slow` are verified when the test says so."""

    def __init__(self) -> None:
        self.slow: dict[str, asyncio.Future[None]] = {}
        self.asked: list[str] = []

    def known(self, token: str) -> Identity | None:
        return None

    async def verify(self, token: str) -> Identity:
        self.asked.append(token)
        if token in self.slow:
            await self.slow[token]
        if token == "worn-out":
            raise AuthError("token_expired")
        if token == "cannot":
            raise AuthError("overloaded")
        if token not in TOKENS:
            raise AuthError("not_authenticated", "the signature is wrong")
        return TOKENS[token]


class Site:
    """A hook whose answers are a table by what it is shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, str | None, tuple[str, ...]]] = []
        self.answers: Callable[[tuple[str, ...]], Identity] = lambda channels: Identity("ann", subscribe=channels)

    def evidence(self, headers: tuple[tuple[bytes, bytes], ...], cookies: bool) -> tuple[object, ...]:
        return tuple(value for name, value in headers if name.lower() == b"cookie") if cookies else ()

    async def ask(self, evidence: tuple[object, ...], origin: str | None, channels: tuple[str, ...]) -> Identity:
        self.asked.append((evidence, origin, channels))
        return self.answers(channels)


@asynccontextmanager
async def broker_with(tokens: Table | None = None, hook: Site | None = None, **more: object) -> AsyncIterator[Broker]:
    settings: dict[str, object] = {
        "server_dev": False,
        "server_origins": [ORIGIN],
        "limits_refusal_hold_min_seconds": 0.0,
        "limits_refusal_hold_max_seconds": 0.0,
        "auth_cookie": "token",
        "auth_keys": {"main": {"jwks_url": "https://id.example/keys"}},
        "channels": CHANNELS,
        **more,
    }
    async with running(tokens=tokens, hook=hook, **settings) as broker:  # type: ignore[arg-type]
        yield broker


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


async def hello(client: Client) -> dict[str, Any]:
    event = await client.event()
    assert event["type"] == "hello"
    return event


async def next_text(client: Client) -> str:
    """Of the next message, whoever comes and goes meanwhile."""
    while (event := await client.event())["type"] != "message":
        pass
    return str(event["text"])


def errors(event: dict[str, Any]) -> dict[str, str | None]:
    return {state["channel"]: state.get("error", {}).get("code") for state in event["channels"]}
