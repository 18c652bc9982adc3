"""Makes docs/images/board.png: a broker of two workers under a load, watched by a real Prometheus, drawn by render.py.

    .venv/bin/python -m pip install --require-hashes --no-deps -r requirements/loadtest.txt
    .venv/bin/python -m tests.tools.board_picture

Three minutes: chats, prices of which only the newest counts, a feed with history, readers that stall, people that come
and go; after half of it one worker is killed. No test: what it shows depends on the machine.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import websockets

from tests.process.admin import FLAGS
from tests.process.command import ROOT, Served, serving
from tests.process.prometheus import watching
from tests.process.supervised import workers

PICTURE = ROOT / "docs" / "images" / "board.png"
ROWS = ("Overview", "Connections", "Messages", "Latency", "Queues", "Engine and processes")
SECONDS = 180.0
LAST_SECONDS = 10.0  # of it for drawing
RATE_SECONDS = 5
READERS, ROOMS = 600, 20
CONFIGURATION = """
[limits]
send_queue_messages = 500
[channels."chat.>"]
subscribe = "anyone"
publish = "anyone"
presence = true
history_count = 50
[channels."prices.>"]
subscribe = "anyone"
publish = "anyone"
queue = "latest"
[channels."feed.>"]
subscribe = "anyone"
publish = "anyone"
history_count = 100
[channels."raw.>"]
subscribe = "anyone"
publish = "anyone"
queue = "drop_oldest"
"""
JSON = "broker.json.v1"


async def reader(url: str, number: int, end: float) -> None:
    """Stays, or comes and goes; comes back when it is cut."""
    offer = [JSON, f"chat.{number % ROOMS}", "prices.all"] if number % 3 else ["raw.all", "feed.news|recv"]
    while time.monotonic() < end:
        stay = end if number % 5 else time.monotonic() + random.uniform(2, 20)
        with suppress(OSError, websockets.WebSocketException, TimeoutError):
            async with websockets.connect(url, subprotocols=offer) as socket:  # type: ignore[arg-type]
                while (left := min(stay, end) - time.monotonic()) > 0:
                    await asyncio.wait_for(socket.recv(), left)
        await asyncio.sleep(random.uniform(0.1, 1.0))


async def stalled(url: str, end: float) -> None:
    """Subscribes to what is busiest and reads nothing of it."""
    _, writing = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]), limit=1)
    writing.write(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Protocol: raw.all\r\n\r\n"
    )
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    writing.close()


async def publisher(url: str, channel: str, size: int, a_second: float, end: float) -> None:
    while time.monotonic() < end:
        with suppress(OSError, websockets.WebSocketException):
            async with websockets.connect(url, subprotocols=[JSON]) as socket:  # type: ignore[list-item]
                listening = asyncio.create_task(_discard(socket))
                for number in itertools.count():
                    if time.monotonic() >= end:
                        break
                    message = {"type": "publish", "channel": channel, "text": f"{number}".rjust(size, ".")}
                    await socket.send(json.dumps(message))
                    await asyncio.sleep(random.expovariate(a_second))
                listening.cancel()


async def _discard(socket: websockets.ClientConnection) -> None:
    with suppress(websockets.WebSocketException):
        async for _ in socket:
            pass


async def backend(api: str, key: str, end: float) -> None:
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):
                await client.post(f"{api}/v1/channels/feed.news/messages", content=b'{"headline": "something"}')
            await asyncio.sleep(0.05)


async def load(broker: Served, api: str, key: str, draw: Callable[[], object]) -> None:
    """`draw` is called just before the load ends."""
    end = time.monotonic() + SECONDS
    async with asyncio.TaskGroup() as group:
        for number in range(READERS):
            group.create_task(reader(broker.url, number, end))
        for _ in range(5):
            group.create_task(stalled(broker.url, end))
        for room in range(ROOMS):
            group.create_task(publisher(broker.url, f"chat.{room}", 80, 1.5, end))
        group.create_task(publisher(broker.url, "prices.all", 40, 10, end))
        group.create_task(publisher(broker.url, "raw.all", 2000, 15, end))
        group.create_task(backend(api, key, end))
        await asyncio.sleep(SECONDS / 2)
        os.kill(workers(broker)[0], signal.SIGKILL)
        await asyncio.sleep(end - time.monotonic() - LAST_SECONDS)
        await asyncio.to_thread(draw)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "broker.toml").write_text(CONFIGURATION)
        flags = ("--workers", "2", *FLAGS, "--config", str(folder / "broker.toml"))
        with (
            serving(*flags) as broker,
            watching(broker.admin_url.removeprefix("http://"), folder, "1s") as prometheus,
        ):
            api = broker.api_url
            key = next(
                word for line in broker.lines if "Bearer" in line for word in line.split("Bearer ")[1].split("'")
            )
            PICTURE.parent.mkdir(exist_ok=True)
            command = [sys.executable, str(ROOT / "deploy" / "grafana" / "render.py"), prometheus.url, str(PICTURE)]
            command += ["--minutes", str((SECONDS - LAST_SECONDS) / 60), "--rate-seconds", str(RATE_SECONDS)]
            command += [word for row in ROWS for word in ("--rows", row)]
            asyncio.run(load(broker, api, key, lambda: subprocess.run(command, check=True)))
            broker.stop()


if __name__ == "__main__":
    main()
