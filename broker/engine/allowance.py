"""So much at once, and whoever finds no room waits in line: a semaphore that knows how large things are."""

import asyncio
from collections import deque


class Allowance:
    def __init__(self, most: int) -> None:
        self._left = most
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, amount: int) -> None:
        """`amount` is no more than there is at all. Whoever took it gives it back."""
        if not self._waiting and amount <= self._left:
            self._left -= amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was let through in the same moment
                self.give_back(amount)
            raise

    def give_back(self, amount: int) -> None:
        self._left += amount
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._left):
            amount, turn = self._waiting.popleft()
            if not turn.done():  # else it has been cancelled
                self._left -= amount
                turn.set_result(None)
