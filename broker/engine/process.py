"""The engine in a process of its own, for the workers of one host."""

import asyncio
import socket
from collections.abc import Callable

BEAT_SECONDS = 0.05


async def serve(listener: socket.socket, beat: Callable[[], None], ready: Callable[[], None]) -> None:
    """Serves until it is cancelled. `beat` says that the loop turns, every 50 ms; `ready` that workers may come."""
    beat()
    ready()
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        beat()
