"""An allowance: no more at once than there is, first come first served, and nothing is lost with those who give up."""

import asyncio

import pytest

from broker.engine.allowance import Allowance


class Crowd:
    def __init__(self, *amounts: int) -> None:
        self.allowance = Allowance(10)
        self.through: list[int] = []
        self.tasks = [asyncio.create_task(self._take(number, amount)) for number, amount in enumerate(amounts)]

    async def _take(self, number: int, amount: int) -> None:
        await self.allowance.take(amount)
        self.through.append(number)

    async def settled(self) -> list[int]:
        for _ in range(5):
            await asyncio.sleep(0)
        return self.through


async def test_those_who_find_no_room_wait_in_line_also_if_there_were_room_for_them() -> None:
    crowd = Crowd(6, 4, 8, 1, 1)
    assert await crowd.settled() == [0, 1]
    crowd.allowance.give_back(6)
    assert await crowd.settled() == [0, 1], "the small ones behind it do not overtake the large one"
    crowd.allowance.give_back(4)
    assert await crowd.settled() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("let_through", [False, True])
async def test_whoever_gives_up_takes_nothing_with_him(let_through: bool) -> None:
    crowd = Crowd(10, 7, 10)
    await crowd.settled()
    if let_through:
        crowd.allowance.give_back(10)
    crowd.tasks[1].cancel()
    await asyncio.gather(crowd.tasks[1], return_exceptions=True)
    if not let_through:
        crowd.allowance.give_back(10)
    assert await crowd.settled() == [0, 2]
