"""Scenario `acked`: a publish that begins after another's ack never comes before it, whoever hears it and wherever.

Two publishers at two workers take turns, one message each, always after the ack of the other's. Before each message a
burst goes through either worker to a crowd on another channel, so that links and workers are never idle. Subscribers in
both formats, connected wherever they came out, check the order; the crowd's bytes are counted.
"""

import contextlib
import time
from dataclasses import dataclass

from loadtests import crowd
from loadtests.board import HEAD, NewBoard
from loadtests.loop import Loop
from loadtests.loop import Publisher as Flood
from loadtests.report import Progress, Result
from loadtests.returning import Returning, Spec, counted, wait_for
from loadtests.sequencing import Publisher, one_at_each_worker
from loadtests.server import BenchError, Server, need_files
from loadtests.wire import marked, server_frame

NAME = "acked"
TITLE = "publishes in turns through two workers, under load"
WORKERS = 2
CHANNEL = "turns"
PAYLOAD_BYTES = 64
AHEAD = 2000
SILENCE_SECONDS = 60.0
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class Size:
    """`subscribers` in each format. `burst`: messages to the crowd through each worker before each one to them."""

    messages: int = 20_000
    subscribers: int = 20
    crowd: int = 50
    burst: int = 4


QUICK = Size(messages=300, subscribers=4, crowd=10)


def scaled(factor: float) -> Size:
    return Size(subscribers=max(2, int(20 * factor)), crowd=max(2, int(50 * factor)))


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(2 * size.subscribers + size.crowd + 100)
    with (
        Server(workers=WORKERS) as server,
        NewBoard(2) as board,
        Loop() as loop,
        contextlib.ExitStack() as closing,
        Returning(
            Spec(server.address, CHANNEL, size.subscribers, size.subscribers, size.messages, 0, 1, 0, board.path, 2, 1)
        ) as readers,
    ):
        readers.opened()
        with crowd.Crowd(crowd.Spec(server.address, {"flood|recv": size.crowd}, yields=True)) as flooded:
            flooded.opened()
            publishers = one_at_each_worker(server, CHANNEL, WORKERS, closing)
            floods = [Flood(loop, server.address, "flood", PAYLOAD_BYTES) for _ in range(WORKERS)]
            for flood in floods:
                closing.callback(flood.close)
            seconds = _publish(size, publishers, floods, loop, board, readers, progress)
            loop.run_until(time.monotonic_ns())  # whatever is still to be written
            _judge(result, size, readers, seconds)
            _judge_crowd(result, flooded, sum(flood.sent for flood in floods))
            served = list(server.peers().values())
            fewest = min(sorted((served.count(pid) for pid in server.pids()), reverse=True)[:WORKERS])
            result.add("connections of the worker with fewer", fewest, "")
            closing.close()
        readers.finish()
        result.failures += server.stop()
    return result


def _publish(
    size: Size,
    publishers: list[Publisher],
    floods: list[Flood],
    loop: Loop,
    board: NewBoard,
    readers: Returning,
    progress: Progress,
) -> float:
    """Returns the seconds that it took."""
    started = told = time.monotonic()
    for number in range(size.messages):
        now = time.monotonic_ns()
        for flood in floods:
            for _ in range(size.burst):
                flood.publish(now)
        loop.run_until(now)
        board[HEAD] = number + 1
        publisher = publishers[number % len(publishers)]
        publisher.send(number, number + 1, repeatable=False)
        if publisher.acknowledged(number, number + 1, history=False) == number:
            raise BenchError(f"a publisher was cut before the ack of message {number}")
        # Nobody is to be cut because this machine gave its readers no time.
        deadline = time.monotonic() + SILENCE_SECONDS
        while number - board.slowest() > AHEAD:
            time.sleep(0.001)
            if time.monotonic() > deadline:
                raise BenchError(f"a subscriber stands at {board.slowest()} of {number}: {counted([readers]).tally}")
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            progress(f"{number} of {size.messages}")
    return time.monotonic() - started


def _judge(result: Result, size: Size, readers: Returning, seconds: float) -> None:
    complete = wait_for([readers], lambda count: count.complete == count.readers, SILENCE_SECONDS).complete
    count = counted([readers])  # with whatever came after the last message
    tally = count.tally
    result.add("messages, each after the ack of the one before", size.messages, "")
    result.add("subscribers", count.readers, "")
    result.add("deliveries checked", tally.messages, "")
    result.add("reordered", tally.reordered, "", exactly=0)
    result.add("lost", tally.lost, "", exactly=0)
    result.add("duplicated", tally.duplicated, "", exactly=0)
    result.add("wrong frames", tally.wrong, "", exactly=0)
    result.add("subscribers that did not get the last message", count.readers - complete, "", exactly=0)
    result.add("a publish and its ack, on average", seconds / size.messages * 1e6, "us")
    result.failures += [f"{number} subscribers: {why}" for why, number in sorted(count.ends.items())]
    result.failures += tally.notes


def _judge_crowd(result: Result, flooded: crowd.Crowd, sent: int) -> None:
    expected = sent * len(server_frame(marked(0, PAYLOAD_BYTES)))
    count = flooded.wait_for(lambda count: count.fewest_bytes == expected, SILENCE_SECONDS)
    result.add("messages to each of the crowd meanwhile", sent, "")
    result.add("of the crowd, cut", count.ended, "", exactly=0)
    result.add("bytes that the crowd misses, at most", expected - count.fewest_bytes, "", exactly=0)
