"""Keeping one child alive, with children that exist only here."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable
from typing import cast

import pytest

from broker.supervisor.processes import Child, CrashLoopError, Keeper
from broker.supervisor.rules import Restarts
from tests.integration.harness import turns, wait_until


class FakeChild:
    """Ends by a signal, as a process does; `deaf` ones only by SIGKILL."""

    name = "worker 7"
    slot = 3
    pid = 4711

    def __init__(self, *, deaf: bool = False) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dead: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ready_since: float | None = None
        self.heard: list[int] = []
        self.deaf = deaf
        self.stuck = False

    def accept(self, since: float) -> None:
        self.ready_since = since
        self.ready.set_result(None)

    def signal(self, number: signal.Signals) -> None:
        self.heard.append(number)
        if number == signal.SIGKILL or not self.deaf:
            self.end(-number)

    def end(self, status: int) -> None:
        if not self.dead.done():
            self.dead.set_result(status)


class Nursery:
    """A keeper, and the children that it started."""

    def __init__(self, make: Callable[[], FakeChild] = FakeChild, *, wait: float = 0.0, most: int = 3) -> None:
        self.started: list[FakeChild] = []
        self.over: list[object] = []

        def start() -> Child:
            self.started.append(make())
            return cast(Child, self.started[-1])

        restarts = Restarts(most, 10.0, chance=lambda low, high: wait)
        self.keeper = Keeper("worker 7", start, restarts, 0.05, lambda child, untold: self.over.append((child, untold)))


async def test_a_child_that_dies_is_followed_by_another_once_its_end_was_told() -> None:
    nursery = Nursery()
    await wait_until(lambda: nursery.started)
    nursery.started[0].accept(0.0)
    await nursery.keeper.ready
    nursery.started[0].end(1)
    await wait_until(lambda: len(nursery.started) == 2)
    assert nursery.over == [(nursery.started[0], True)]
    nursery.keeper.retire()
    await nursery.keeper.task
    assert nursery.over == [(nursery.started[0], True), (nursery.started[1], False)]
    assert len(nursery.started) == 2


async def test_a_child_that_does_not_become_ready_is_killed() -> None:
    nursery = Nursery(lambda: FakeChild(deaf=True), most=1)
    with pytest.raises(CrashLoopError, match=r"worker 7 died 1 times in a row .* it was ended by SIGKILL"):
        await nursery.keeper.task
    assert [child.heard for child in nursery.started] == [[signal.SIGKILL]]


async def test_a_child_that_cannot_be_started_is_tried_again_and_then_given_up_with_the_reason() -> None:
    def nothing_left() -> FakeChild:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    nursery = Nursery(nothing_left)
    with pytest.raises(CrashLoopError, match=r"died 3 times .* could not be started \(Resource temporarily"):
        await nursery.keeper.task
    assert nursery.over == []


async def test_one_that_is_retired_while_it_waits_is_not_started_again() -> None:
    nursery = Nursery(wait=3600.0)
    await wait_until(lambda: nursery.started)
    nursery.started[0].end(1)
    await wait_until(lambda: nursery.over)
    await turns()
    nursery.keeper.retire()
    await nursery.keeper.task
    assert len(nursery.started) == 1


async def test_each_retirement_reaches_the_child() -> None:
    nursery = Nursery(lambda: FakeChild(deaf=True))
    await wait_until(lambda: nursery.started)
    nursery.started[0].accept(0.0)
    nursery.keeper.retire()
    nursery.keeper.retire()
    nursery.keeper.signal(signal.SIGKILL)
    await nursery.keeper.task
    assert nursery.started[0].heard == [signal.SIGTERM, signal.SIGTERM, signal.SIGKILL]
