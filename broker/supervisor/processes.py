"""Child processes: started, seen to be ready, seen to end, and started again.

Only the supervisor's main thread starts them (a child asks the kernel to die with the *thread* that made it), and each
is a new program: nothing of a running event loop is ever forked.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

from broker.log import get_logger
from broker.supervisor.rules import Restarts
from broker.supervisor.spec import ChildSpec, write_spec

log = get_logger(__name__, limited=False)


class CrashLoopError(Exception):
    """A child that does not live; the text is the line for the operator."""


class Child:
    """A running child. `ready` is done when it accepts; `dead`, with its exit status, when it has ended."""

    def __init__(self, name: str, slot: int, process: subprocess.Popen[bytes], ready_fd: int) -> None:
        self.name = name
        self.slot = slot
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._ready_fd = ready_fd
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.dead: asyncio.Future[int] = self._loop.create_future()
        self.stuck = False  # it is killed because its loop did not turn any more
        # CLOCK_MONOTONIC, as the heartbeats.
        self.ready_since: float | None = None
        self._loop.add_reader(self._pidfd, self._on_end)
        self._loop.add_reader(ready_fd, self._on_ready)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"

    @property
    def reason(self) -> Literal["exit", "killed", "stuck"]:
        """Of its death, once it is dead."""
        return "stuck" if self.stuck else "exit" if self.dead.result() >= 0 else "killed"

    def _on_ready(self) -> None:
        self._loop.remove_reader(self._ready_fd)
        if os.read(self._ready_fd, 1):  # otherwise it has died or gives up
            self.ready_since = time.monotonic()
            self.ready.set_result(None)
        os.close(self._ready_fd)
        self._ready_fd = -1

    def _on_end(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._ready_fd >= 0:
            self._on_ready()
        self.dead.set_result(status)

    def signal(self, number: signal.Signals) -> None:
        """By the pidfd: it can hit nobody else."""
        if not self.dead.done():
            signal.pidfd_send_signal(self._pidfd, number)


def start_child(make_spec: Callable[[int], ChildSpec]) -> Child:
    """Starts a child. `make_spec` is given the file descriptor by which it tells that it is ready. Raises OSError."""
    ready_read, ready_write = os.pipe()
    try:
        spec = make_spec(ready_write)
        spec_fd = write_spec(spec)
        try:
            process = subprocess.Popen(
                # -P: whatever lies in the working directory is no module of ours.
                [sys.executable, "-P", "-m", "broker.supervisor.child", str(spec_fd)],
                stdin=subprocess.DEVNULL,
                pass_fds=(spec_fd, *spec.fds),
                env=_environment(),
                process_group=0,  # a terminal's Ctrl-C and Ctrl-Z are for the supervisor
            )
        finally:
            os.close(spec_fd)
    except BaseException:
        os.close(ready_read)
        raise
    finally:
        os.close(ready_write)
    return Child(spec.name, spec.slot, process, ready_read)


def _environment() -> dict[str, str]:
    """The child finds the modules that this process found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path)}


def describe(status: int) -> str:
    """How a child ended, for a line."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


class Keeper:
    """Keeps one child alive until it is retired: starts it, and again after each death, after a wait.

    `over` is told of each end, before the next start, and whether nobody had told it to. `task` ends when a retired
    child is dead, or with CrashLoopError.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Child],
        restarts: Restarts,
        start_seconds: float,
        over: Callable[[Child, bool], None],
    ) -> None:
        self._name = name
        self._start = start
        self._restarts = restarts
        self._start_seconds = start_seconds
        self._over = over
        self._retired = asyncio.Event()
        self.child: Child | None = None
        # While no child of it is ready: since when, and whether the last one was stuck.
        self.waits_since = time.monotonic()
        self.was_stuck = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while not self._retired.is_set():
            try:
                child = self._start()
            except OSError as error:
                lived, pid, how = None, None, f"could not be started ({error.strerror})"
            else:
                self.child, self.waits_since = child, time.monotonic()
                log.info("child started", child=child.name, child_pid=child.pid)
                lived, pid, how = await self._life(child), child.pid, describe(child.dead.result())
                if self._retired.is_set():
                    log.info("child ended", child=child.name, child_pid=pid, how=how)
                    return
            wait = self._restarts.after_death(lived)
            if wait is None:
                raise CrashLoopError(
                    f"{self._name} died {self._restarts.early} times in a row soon after its start, "
                    f"the last time it {how}; its own output tells why"
                )
            log.error("child died", child=self._name, child_pid=pid, how=how, restart_in_seconds=round(wait, 1))
            await _event_within(self._retired, wait)

    async def _life(self, child: Child) -> float | None:
        """Until its end: how long it was ready, None = never."""
        await self._first_sign(child)
        await child.dead
        self.child = None
        self.waits_since, self.was_stuck = time.monotonic(), child.stuck
        self._over(child, not self._retired.is_set())
        return None if child.ready_since is None else time.monotonic() - child.ready_since

    async def _first_sign(self, child: Child) -> None:
        signs: set[asyncio.Future[Any]] = {child.ready, child.dead}
        await asyncio.wait(signs, timeout=self._start_seconds, return_when=asyncio.FIRST_COMPLETED)
        if child.ready.done():
            log.info("child accepts", child=child.name, child_pid=child.pid)
            if not self.ready.done():
                self.ready.set_result(None)
        elif not child.dead.done():
            log.error(
                "child is not ready and is killed", child=child.name, child_pid=child.pid, seconds=self._start_seconds
            )
            child.signal(signal.SIGKILL)

    def __str__(self) -> str:
        return self._name

    @property
    def over(self) -> bool:
        """It keeps nobody any more."""
        return self._retired.is_set() and self.child is None

    def retire(self) -> None:
        """The child is told to end and is not replaced. Again: it is told to hurry."""
        self._retired.set()
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        if self.child is not None:
            self.child.signal(number)


async def _event_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


async def all_ready(keepers: Iterable[Keeper]) -> None:
    """Each has been ready once."""
    for keeper in keepers:
        await asyncio.wait({keeper.ready})


async def all_over(keepers: Iterable[Keeper]) -> None:
    """Each is retired and dead, or has given up."""
    for keeper in keepers:
        await asyncio.wait({keeper.task})
        keeper.task.exception()  # told by whoever waited for it to live
