"""A line for each request of the HTTP API, with `log.access`.

Of a request only its method (if it is one that there is), its route and the name of its key are said: paths hold the
names of channels and users, and headers hold keys.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from broker.log import ACCESS, get_logger

log = get_logger(ACCESS, limited=False)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestLog:
    """`route_of` is given the scope of a request that was answered; None: of no route. `clock`: monotonic seconds."""

    def __init__(
        self, route_of: Callable[[MutableMapping[str, Any]], str | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._route_of = route_of
        self._clock = clock

    async def follow(
        self,
        answer: Callable[..., Awaitable[None]],
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Calls `answer` as the server would, and tells what became of it. `status` null: the client went before."""
        begun = self._clock()
        status: int | None = None

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await answer(scope, receive, watched)
        finally:
            key = scope.get("key")
            log.info(
                "api request",
                method=scope["method"] if scope["method"] in _METHODS else None,
                route=self._route_of(scope),
                status=status,
                ms=round(1000 * (self._clock() - begun), 1),
                key=None if key is None else key.name,
            )

    def refused(self, status: int) -> None:
        """What the server answered by itself: no request, or not a whole one."""
        log.info("api request", method=None, route=None, status=status, ms=None, key=None)
