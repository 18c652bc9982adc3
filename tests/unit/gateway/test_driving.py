"""Coroutines that end at once cost no task; those that wait end in one, and are reported exactly once."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from broker.gateway.driving import Driver
from tests.integration.harness import wait_until


class Ends:
    """What `done` was told."""

    def __init__(self) -> None:
        self.told: list[BaseException | None] = []

    def __call__(self, error: BaseException | None) -> None:
        self.told.append(error)


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def ends() -> Ends:
    return Ends()


async def until_idle(driver: Driver) -> None:
    await wait_until(lambda: driver.waiting == 0)


async def ready() -> None:
    pass


async def test_what_need_not_wait_is_finished_when_run_returns(driver: Driver, ends: Ends) -> None:
    done: list[int] = []

    async def work() -> None:
        await ready()
        done.append(1)

    tasks = asyncio.all_tasks()
    assert driver.run(work(), ends) is False
    assert done == [1]
    assert driver.waiting == 0
    assert asyncio.all_tasks() == tasks
    await asyncio.sleep(0)
    assert ends.told == []


async def test_an_error_before_any_wait_is_raised_to_the_caller_and_not_told_again(driver: Driver, ends: Ends) -> None:
    async def work() -> None:
        raise LookupError("at once")

    with pytest.raises(LookupError, match="at once"):
        driver.run(work(), ends)
    assert driver.waiting == 0
    assert ends.told == []


async def test_a_future_is_waited_for_and_its_result_comes_back(driver: Driver, ends: Ends) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    got: list[int] = []

    async def work() -> None:
        got.append(await future)

    assert driver.run(work(), ends) is True
    await asyncio.sleep(0)
    assert (driver.waiting, got, ends.told) == (1, [], [])
    future.set_result(3)
    await until_idle(driver)
    assert (got, ends.told) == ([3], [None])


async def test_it_may_wait_many_times_for_anything_that_a_task_may(driver: Driver, ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    steps: list[object] = []

    async def work() -> None:
        await asyncio.sleep(0)
        steps.append("turn")
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
        steps.append("future")
        await asyncio.wait_for(asyncio.sleep(0), 5)
        steps.append("task")
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        steps.append(asyncio.current_task() is not None)

    assert driver.run(work(), ends) is True
    await until_idle(driver)
    assert steps == ["turn", "future", "task", True]
    assert ends.told == [None]


async def test_a_future_that_is_done_already_costs_no_task(driver: Driver, ends: Ends) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(1)

    async def work() -> None:
        await future

    assert driver.run(work(), ends) is False


async def test_an_error_after_a_wait_is_told_once(driver: Driver, ends: Ends) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise LookupError("late")

    assert driver.run(work(), ends) is True
    await until_idle(driver)
    (error,) = ends.told
    assert isinstance(error, LookupError)


async def test_the_error_of_what_is_waited_for_can_be_handled_where_it_waits(driver: Driver, ends: Ends) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    handled: list[str] = []

    async def work() -> None:
        try:
            await future
        except LookupError:
            await asyncio.sleep(0)
            handled.append("here")

    driver.run(work(), ends)
    future.set_exception(LookupError())
    await until_idle(driver)
    assert (handled, ends.told) == (["here"], [None])


async def test_cancelled_work_cleans_up_and_is_told_to_have_ended(driver: Driver, ends: Ends) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    cleaned: list[int] = []

    async def work() -> None:
        try:
            await future
        finally:
            cleaned.append(1)

    driver.run(work(), ends)
    await asyncio.sleep(0)
    driver.cancel_all()
    await until_idle(driver)
    assert (cleaned, ends.told, future.cancelled()) == ([1], [None], True)


async def test_work_that_is_cancelled_before_its_first_turn_cleans_up_too(driver: Driver, ends: Ends) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    cleaned: list[int] = []

    async def work() -> None:
        try:
            await future
        finally:
            cleaned.append(1)

    driver.run(work(), ends)
    driver.cancel_all()
    await until_idle(driver)
    assert (cleaned, ends.told) == ([1], [None])


async def test_all_that_waits_is_cancelled_at_the_end(driver: Driver, ends: Ends) -> None:
    def work() -> Coroutine[Any, Any, None]:
        return asyncio.sleep(60)

    for _ in range(3):
        driver.run(work(), ends)
    await asyncio.sleep(0)
    driver.cancel_all()
    await until_idle(driver)
    assert ends.told == [None, None, None]


async def test_what_waits_too_long_is_given_up(driver: Driver, ends: Ends) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await future

    driver.run(work(), ends, 0.01)
    await until_idle(driver)
    assert (ends.told, future.cancelled()) == ([None], True)


async def test_a_limit_of_what_ended_in_time_is_forgotten(driver: Driver, ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    limits: list[asyncio.TimerHandle] = []
    call_later = loop.call_later

    def remembered(*given: Any) -> asyncio.TimerHandle:
        limits.append(call_later(*given))
        return limits[-1]

    loop.call_later = remembered  # type: ignore[method-assign, assignment]
    driver.run(asyncio.sleep(0), ends, 60)
    await until_idle(driver)
    await asyncio.sleep(0)
    assert [limit.cancelled() for limit in limits] == [True]
