"""Scenario `tiny`: a burst of tiny messages to healthy readers must not cut one of them.

One publisher writes 20 000 messages of 8 bytes at once; 500 readers hang on the channel and read as fast as Python can.
A broker that judges a reader by a queue that filled within one turn cuts all of them. Every byte is compared, so order
and content are checked too.
"""

import time
from dataclasses import dataclass

from loadtests.crowd import Crowd, Spec, numbered_payload
from loadtests.report import Progress, Result
from loadtests.server import Server, need_files
from loadtests.wire import client_frame, open_many, server_frame

NAME = "tiny"
TITLE = "a burst of tiny messages to healthy readers"
ARRIVAL_SECONDS = 120.0


@dataclass(frozen=True)
class Size:
    readers: int = 500
    messages: int = 20_000


QUICK = Size(readers=20, messages=2_000)


def scaled(factor: float) -> Size:
    return Size(readers=max(1, int(500 * factor)))


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(size.readers + 100)
    burst = b"".join(client_frame(numbered_payload(i)) for i in range(size.messages))
    expected = size.messages * len(server_frame(numbered_payload(0)))
    with Server() as server:
        progress(f"connecting {size.readers} readers")
        with Crowd(Spec(server.address, {"burst|recv": size.readers}, numbered=size.messages)) as crowd:
            crowd.opened()
            (publisher,) = open_many(server.address, ["burst|send"])
            publisher.setblocking(True)
            publisher.settimeout(ARRIVAL_SECONDS)
            progress(f"publishing {size.messages} messages at once")
            cpu = server.cpu_seconds()
            started = time.monotonic_ns()
            publisher.sendall(burst)
            count = crowd.wait_for(
                lambda count: count.fewest_bytes == expected or count.ended == count.readers, ARRIVAL_SECONDS
            )
            seconds = (count.last_ns - started) / 1e9
            cpu = server.cpu_seconds() - cpu
            deliveries = size.readers * size.messages
            publisher.close()
        result.add("readers", count.readers, "")
        result.add("messages to each", size.messages, "")
        result.add("readers cut", count.ended, "", exactly=0)
        result.add("readers that miss bytes", int(count.fewest_bytes < expected), "", exactly=0)
        result.add("readers with wrong bytes", count.garbled, "", exactly=0)
        result.add("until the last byte was read", seconds, "s")
        result.add("deliveries", deliveries / seconds, "/s")
        result.add("CPU of the broker per delivery", cpu / deliveries * 1e6, "us")
        result.failures += [f"{ended} readers: {why}" for why, ended in count.endings.items()]
        if count.fewest_bytes < expected:
            result.failures.append(f"of {expected} bytes each the readers got {count.fewest_bytes} at least")
        result.failures += server.stop()
    return result
