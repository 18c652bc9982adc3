"""What a worker leaves behind when it is gone."""

import asyncio
import gc
import os

from broker.config.load import load
from broker.native._reactor import Reactor
from broker.worker import Worker
from tests.integration.harness import running


async def test_a_worker_that_was_never_drained_is_collected_without_noise() -> None:
    gc.collect()
    before = sum(isinstance(each, Reactor) for each in gc.get_objects())
    Worker(load(None, {"server.dev": True}), [])
    gc.collect()  # worker, gateway and reactor are a cycle; an error in it would be unraisable, which fails the test
    assert sum(isinstance(each, Reactor) for each in gc.get_objects()) == before


async def test_a_drained_worker_keeps_no_file_descriptor() -> None:
    await asyncio.sleep(0)
    before = sorted(os.listdir("/proc/self/fd"))
    async with running() as broker:
        await broker.open("news")
        await broker.open_json("news")
        assert len(os.listdir("/proc/self/fd")) > len(before)
    assert sorted(os.listdir("/proc/self/fd")) == before
