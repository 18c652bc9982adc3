"""Integration tests run on both loops: asyncio's own, the reference, and uvloop, which serves in production.

A test that takes long and for which the loop makes no difference runs on one:
``@pytest.mark.asyncio(loop_factories=["uvloop"])``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.integration.harness import Broker, running
from tests.integration.several import Cluster, several


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Broker]:
    """A worker with --dev; ``@pytest.mark.parametrize("broker", [{...}], indirect=True)`` changes its settings."""
    async with running(**getattr(request, "param", {})) as broker:
        yield broker


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Two workers and their engine."""
    async with several(2) as cluster:
        yield cluster
