"""The contract of engines (`broker/engine/base.py`), one suite over every engine.

A `Site` is one broker of two workers: here they share an engine, or, where the engine serves one worker only, both
names stand for the same worker. Whatever is published through one has to reach whoever listens at the other.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import pytest
import uvloop

from tests.integration.harness import Broker, running
from tests.integration.several import several

CHANNELS = {
    "kept": {"history_count": 100, "history_seconds": 60.0},
    "few": {"history_count": 3, "history_seconds": 60.0},
    "room": {"presence": True},
}


class Site(NamedTuple):
    here: Broker
    there: Broker


@asynccontextmanager
async def memory(**settings: Any) -> AsyncIterator[Site]:
    async with running(channels=CHANNELS, **settings) as broker:
        yield Site(broker, broker)


@asynccontextmanager
async def memory_links(**settings: Any) -> AsyncIterator[Site]:
    async with several(2, channels=CHANNELS, **settings) as cluster:
        yield Site(*cluster.workers)


ENGINES: dict[str, Callable[..., AbstractAsyncContextManager[Site]]] = {
    "memory": memory,
    "memory behind links": memory_links,
}


@pytest.fixture(params=ENGINES)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with ENGINES[request.param]() as site:
        yield site


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}
