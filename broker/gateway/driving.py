"""Runs a coroutine as far as it goes without waiting, and makes it a task only if it waits.

Nearly every decision and command is done in one step; a task for each would cost more than the work (3 us, measured
against 0.4 us). Used by the gateway alone. Code before the first await runs outside of a task:
`asyncio.current_task()` is None there, so time limits belong behind an await.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], awaited: object) -> Generator[object, Any, None]:
    """Goes on with a coroutine that has yielded `awaited` already: yields that first, as if nobody had asked yet."""
    while True:
        failure: BaseException | None = None
        value = None
        try:
            value = yield awaited
        except BaseException as error:  # cancellation too: the coroutine decides what it means
            failure = error
        try:
            awaited = coroutine.send(value) if failure is None else coroutine.throw(failure)
        except StopIteration:
            return


async def _finish(coroutine: Coroutine[Any, Any, None], awaited: object) -> None:
    await _rest(coroutine, awaited)


class Driver:
    """Keeps the tasks of what waits; `cancel_all` at the end of the worker."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(
        self,
        coroutine: Coroutine[Any, Any, None],
        done: Callable[[BaseException | None], None],
        most_seconds: float | None = None,
    ) -> bool:
        """False: finished at once (what it raised, this raises). True: it waits; `done` is called once, with its
        error or None. After `most_seconds` of waiting it is cancelled.
        """
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            return False
        loop = asyncio.get_running_loop()
        task = loop.create_task(_finish(coroutine, awaited))
        self._tasks.add(task)
        limit = None if most_seconds is None else loop.call_later(most_seconds, task.cancel)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if limit is not None:
                limit.cancel()
            coroutine.close()  # a task that is cancelled before its first turn never ran it
            done(None if task.cancelled() else task.exception())

        task.add_done_callback(ended)
        return True

    @property
    def waiting(self) -> int:
        return len(self._tasks)

    def cancel_all(self) -> None:
        for task in list(self._tasks):
            task.cancel()
