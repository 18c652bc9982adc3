"""Scenario `resume`: subscribers that come and go miss nothing, get nothing twice, and nothing in another order.

Two workers; a publisher at each, taking turns, so that message n has offset n + 1. Subscribers cut their connections
at random and resume, whichever worker they meet; in the middle, while publishes are on their way, the broker is told to
end and started again. Who stays away for longer than the history reaches must be told so, and nobody else.
"""

import contextlib
import os
import time
from dataclasses import dataclass

from loadtests.board import HEAD, NewBoard
from loadtests.report import Progress, Result
from loadtests.returning import Count, Returning, Spec, counted, wait_for
from loadtests.sequencing import Publisher, one_at_each_worker
from loadtests.server import BenchError, Server, need_files

NAME = "resume"
TITLE = "history: subscribers that reconnect at random, and a restart"
WORKERS = 2
CHANNEL = "history"
SILENCE_SECONDS = 60.0
PROGRESS_SECONDS = 5.0
LOOK_SECONDS = 1.0
MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """`window`: messages that the channel keeps. `queue`: messages that may wait for a subscriber, few, so that readers
    fall behind and catch up all the time. `turn`: messages that a publisher sends without waiting. `life`: messages
    between two cuts of a subscriber, on average. One subscriber in `raw_of` is raw.
    """

    messages: int = 100_000
    subscribers: int = 50
    window: int = 4000
    queue: int = 2000
    turn: int = 500
    life: int = 2000
    raw_of: int = 5


QUICK = Size(messages=3000, subscribers=10, window=500, queue=200, turn=50, life=500)
# By hand, with --full.
FULL = Size(messages=1_000_000, subscribers=100, window=10_000, queue=2000, turn=1000, life=5000)


def scaled(factor: float) -> Size:
    return Size(messages=max(10_000, int(100_000 * factor)), subscribers=max(10, int(50 * factor)))


def config(size: Size) -> str:
    return (
        f'send_queue_messages = {size.queue}\n[channels."{CHANNEL}"]\n'
        f"history_count = {size.window}\nhistory_seconds = 3600.0\n"
    )


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(size.subscribers + 100)
    # One for each CPU of the load, and one for whoever publishes and checks the acks.
    processes = max(1, min(size.subscribers // 10, len(os.sched_getaffinity(0)) - 1))
    with (
        Server(config(size), workers=WORKERS) as server,
        NewBoard(1 + processes) as board,
        contextlib.ExitStack() as stack,
    ):
        share = [size.subscribers // processes + (index < size.subscribers % processes) for index in range(processes)]
        crowds = [
            stack.enter_context(
                Returning(
                    Spec(
                        server.address,
                        CHANNEL,
                        share[index] - share[index] // size.raw_of,
                        share[index] // size.raw_of,
                        size.messages,
                        size.window,
                        size.life,
                        size.queue,
                        board.path,
                        1 + processes,
                        1 + index,
                        sum(share[:index]),
                    )
                )
            )
            for index in range(processes)
        ]
        for crowd in crowds:
            crowd.opened()
        _Run(size, server, board, crowds, stack, result, progress).go()
    return result


class _Run:
    def __init__(
        self,
        size: Size,
        server: Server,
        board: NewBoard,
        crowds: list[Returning],
        closing: contextlib.ExitStack,
        result: Result,
        progress: Progress,
    ) -> None:
        self._size = size
        self._server = server
        self._board = board
        self._crowds = crowds
        self._closing = closing
        self._result = result
        self._progress = progress
        self._cpu = 0.0
        self._told = self._looked = time.monotonic()
        # By the address of a reader: the worker where it was last seen; how often it was another than before.
        self._seen: dict[str, int] = {}
        self._moves = 0
        self._repeated = 0

    def go(self) -> None:
        size, server = self._size, self._server
        started = time.monotonic()
        middle = size.messages // 2 // size.turn * size.turn
        publishers = self._publish(one_at_each_worker(server, CHANNEL, WORKERS, self._closing), 0, middle)
        publishers = self._publish_through_a_restart(publishers, middle, middle + size.turn)
        self._publish(publishers, middle + size.turn, size.messages)
        count = wait_for(self._crowds, lambda count: count.complete == size.subscribers, SILENCE_SECONDS)
        seconds = time.monotonic() - started
        self._cpu += server.cpu_seconds()
        rss = server.rss_bytes()
        for publisher in publishers:
            publisher.close()
        for crowd in self._crowds:
            crowd.finish()
        self._result.failures += server.stop()
        # What was under way comes before the end.
        complete = count.complete
        count = wait_for(self._crowds, lambda count: count.connected == 0, SILENCE_SECONDS)
        count.complete = complete
        self._judge(count, seconds, rss)

    def _publish(self, publishers: list[Publisher], first: int, end: int) -> list[Publisher]:
        turn = self._size.turn
        for number in range(first, end, turn):
            self._keep_pace(number)
            publisher = publishers[number // turn % len(publishers)]
            last = min(number + turn, end)
            self._board[HEAD] = last
            publisher.send(number, last)
            reached = publisher.acknowledged(number, last)
            if reached < last:
                raise BenchError(f"message {reached} was not acknowledged, and the broker was not told to end")
        return publishers

    def _publish_through_a_restart(self, publishers: list[Publisher], first: int, end: int) -> list[Publisher]:
        """What was on its way to the broker when that was told to end is published again, under the same ids."""
        self._keep_pace(first)
        self._board[HEAD] = end
        publishers[0].send(first, end)
        self._cpu += self._server.cpu_seconds()
        self._server.terminate()
        reached = publishers[0].acknowledged(first, end)
        for publisher in publishers:
            publisher.close()
        self._result.failures += self._server.restart()
        self._seen.clear()
        self._repeated = end - reached
        self._progress(f"restarted: of {end - first} messages on their way {end - reached} were not acknowledged")
        publishers = one_at_each_worker(self._server, CHANNEL, WORKERS, self._closing)
        if reached < end:
            publishers[0].send(reached, end)
            if publishers[0].acknowledged(reached, end) < end:
                raise BenchError("a publisher was cut after the restart")
        return publishers

    def _keep_pace(self, number: int) -> None:
        """Waits for the slowest of those who read: only who goes or stalls is to be far behind."""
        deadline = time.monotonic() + SILENCE_SECONDS
        while number - self._board.slowest() > self._size.window // 2:
            time.sleep(0.0005)
            if time.monotonic() > deadline:
                raise BenchError(
                    f"a reader stands at {self._board.slowest()} of {number}: {counted(self._crowds).tally}"
                )
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._look()
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            count = counted(self._crowds)
            self._progress(
                f"{number} of {self._size.messages} published, {count.returns} returns, "
                f"{count.tally.exceeded} after too long, {count.tally.messages} deliveries checked"
            )

    def _look(self) -> None:
        """Who is served by another worker than the last time that we looked."""
        for (host, _), worker in self._server.peers().items():
            if host.startswith("127.0.") and host != "127.0.0.1":
                self._moves += self._seen.get(host, worker) != worker
                self._seen[host] = worker

    def _judge(self, count: Count, seconds: float, rss: int) -> None:
        result, size, tally = self._result, self._size, count.tally
        result.add("messages", size.messages, "")
        result.add("subscribers", count.readers, "")
        result.add("deliveries checked", tally.messages, "")
        result.add("lost", tally.lost, "", exactly=0)
        result.add("duplicated", tally.duplicated, "", exactly=0)
        result.add("reordered", tally.reordered, "", exactly=0)
        result.add("wrong frames or positions", tally.wrong, "", exactly=0)
        result.add("subscribers that did not get the last message", count.readers - count.complete, "", exactly=0)
        result.add("reconnects", count.returns, "")
        result.add("reconnects, raw (nothing is told)", count.raw_returns, "")
        result.add("resumes: recovered", tally.recovered, "")
        result.add("resumes: recovered false, and the window was exceeded", tally.exceeded, "")
        result.add("resumes: recovered false, and it was not", tally.unexpected, "", exactly=0)
        result.add("readers that stood still", count.stalls, "")
        result.add("gaps told", tally.gaps, "")
        result.add("gaps over messages that were kept", tally.hasty, "", exactly=0)
        result.add("messages told to be missing", tally.told, "")
        accounted = tally.messages - tally.duplicated + tally.told + tally.lost
        result.add("neither got nor told", size.messages * count.readers - accounted, "", exactly=0)
        result.add("frames cut off", count.cut_frames, "", exactly=0)
        result.add("seen at another worker than a second before", self._moves, "")
        result.add("published again after the restart", self._repeated, "")
        result.add("connects that were tried again", count.retries, "")
        result.add("time", seconds, "s")
        result.add("messages published", size.messages / seconds, "/s")
        result.add("deliveries", tally.messages / seconds, "/s")
        result.add("CPU of the broker per delivery", self._cpu / max(1, tally.messages) * 1e6, "us")
        result.add("RSS of all processes of the broker", rss / MIB, "MiB")
        result.failures += [f"{number} readers: {why}" for why, number in sorted(count.ends.items()) if why != ASKED]
        result.failures += tally.notes


# The restart, with --dev: everybody at once.
ASKED = "close 1001"
