"""One send for many frames: what leaves is what waited, whether it was gathered for this connection or for another."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.native._outbox import Queue, Queues
from tests.server_frames import events, texts

TEXT_KIND = 1
PLENTY = 1 << 30


class Reader:
    """A queue that is flushed into a real socket, whose other end reads when told."""

    def __init__(self, queues: Queues, format: str, *channels: tuple[bytes, str]) -> None:
        self.queue = Queue(queues, format)
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.setblocking(False)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        self.data = b""
        for name, policy in channels:
            self.queue.subscribe(name, policy)

    def flush(self) -> str:
        return self.queue.flush(self.ours.fileno())

    def read(self, size: int = PLENTY) -> None:
        while size > 0:
            try:
                data = self.theirs.recv(min(size, 65536))
            except BlockingIOError:
                return
            self.data += data
            size -= len(data)

    def drain(self) -> bytes:
        """Flushes and reads until nothing waits."""
        while self.flush() != "all" or self.queue.queued():
            self.read()
        self.read()
        return self.data

    def close(self) -> None:
        self.queue.close()
        self.ours.close()
        self.theirs.close()


@contextmanager
def readers(queues: Queues, *specs: tuple[str, dict[bytes, str]]) -> Iterator[list[Reader]]:
    made = [Reader(queues, format, *channels.items()) for format, channels in specs]
    try:
        yield made
    finally:
        for reader in made:
            reader.close()
    assert queues.physical == 0


def publish(queues: Queues, channel: bytes, *payloads: object) -> None:
    for payload in payloads:
        queues.hub.publish(channel, TEXT_KIND, str(payload).encode())


def seen(data: bytes) -> list[object]:
    return [event["text"] if event["type"] == "message" else event["missed"] for event in events(data)]


def test_everything_that_waits_leaves_in_one_send() -> None:
    queues = Queues(PLENTY, 10_000)
    with readers(queues, ("raw", {b"a": "disconnect"})) as (reader,):
        publish(queues, b"a", *range(100))
        assert reader.flush() == "all"
        assert queues.counters()["n_writes"] == 1
        reader.read()
        assert texts(reader.data) == [str(number) for number in range(100)]


def test_what_was_gathered_for_one_is_right_for_the_next_and_wrong_for_who_waits_for_something_else() -> None:
    queues = Queues(PLENTY, 10_000)
    both, only = {b"a": "disconnect", b"b": "disconnect"}, {b"a": "disconnect"}
    with readers(queues, ("raw", both), ("raw", both), ("raw", only), ("json", both), ("raw", both)) as made:
        for number in range(20):
            publish(queues, b"ab"[number % 2 : number % 2 + 1], number)
        for reader in made:
            assert reader.flush() == "all"
            reader.read()
        everything = [str(number) for number in range(20)]
        assert [texts(made[index].data) for index in (0, 1, 4)] == [everything] * 3
        assert texts(made[2].data) == everything[::2]
        assert seen(made[3].data) == everything


def test_who_is_in_the_middle_of_a_frame_is_not_sent_what_was_gathered_whole() -> None:
    queues = Queues(PLENTY, 10_000)
    with readers(queues, *[("raw", {b"a": "disconnect"})] * 2) as (first, second):
        publish(queues, b"a", "one", "two", "three")
        begun = second.queue.write(3)
        assert first.flush() == "all"
        assert second.flush() == "all"
        first.read()
        second.read()
        assert begun + second.data == first.data
        assert texts(first.data) == ["one", "two", "three"]


def test_frames_of_earlier_bursts_are_never_sent_again() -> None:
    queues = Queues(PLENTY, 10_000)
    with readers(queues, *[("raw", {b"a": "disconnect"})] * 3) as made:
        for burst in range(50):  # the allocator hands out the same addresses again
            publish(queues, b"a", f"{burst}.1", f"{burst}.2")
            for reader in made:
                assert reader.flush() == "all"
                reader.read()
        expected = [f"{burst}.{number}" for burst in range(50) for number in (1, 2)]
        assert [texts(reader.data) for reader in made] == [expected] * 3


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_a_notice_or_a_hole_inside_is_not_taken_for_what_was_gathered(order: tuple[int, ...]) -> None:
    queues = Queues(PLENTY, 6)
    lossy = {b"a": "disconnect", b"b": "drop_oldest"}
    with readers(queues, ("json", lossy), ("json", lossy), ("raw", lossy)) as made:
        made[0].queue.room = PLENTY
        for reader in (made[1], made[2]):
            reader.queue.block()
        publish(queues, b"a", "a1", "a2")
        publish(queues, b"b", "b1")
        publish(queues, b"a", "a3")
        publish(queues, b"b", "b2", "b3")
        publish(queues, b"b", "b4")  # the first is flushed, the others lose some of b
        publish(queues, b"a", "a4")
        for reader in (made[1], made[2]):
            reader.queue.unblock()
        for index in order:
            made[index].drain()
        assert seen(made[0].queue.taken() + made[0].data) == ["a1", "a2", "b1", "a3", "b2", "b3", "b4", "a4"]
        assert seen(made[1].data) == ["a1", "a2", 2, "a3", "b3", "b4", "a4"]
        assert texts(made[2].data) == ["a1", "a2", "a3", "b3", "b4", "a4"]


def test_two_notices_with_different_counts_stay_apart() -> None:
    queues = Queues(PLENTY, 2)
    with readers(queues, *[("json", {b"a": "drop_newest"})] * 2) as made:
        for reader in made:
            reader.queue.block()
        publish(queues, b"a", 1, 2, 3)
        made[0].queue.unblock()
        assert made[0].flush() == "all"
        publish(queues, b"a", 4)
        made[1].queue.unblock()
        assert seen(made[1].drain()) == ["1", "2", 2]
        assert seen(made[0].drain()) == ["1", "2", 1, "4"]


def test_large_and_small_frames_keep_their_order() -> None:
    queues = Queues(PLENTY, 10_000)
    sizes = [1, 1023, 1024, 5000, 2, 3, 70_000, 1, 1, 1025, *[1100] * 200, *[900] * 200, 4]
    with readers(queues, *[("raw", {b"a": "disconnect"})] * 2) as made:
        publish(queues, b"a", *(chr(65 + index % 26) * size for index, size in enumerate(sizes)))
        for reader in made:
            assert [len(text) for text in texts(reader.drain())] == sizes
            assert [text[0] for text in texts(reader.data)] == [chr(65 + index % 26) for index in range(len(sizes))]


def test_more_tiny_frames_than_are_remembered_leave_whole() -> None:
    queues = Queues(PLENTY, 10_000)
    with readers(queues, *[("raw", {b"a": "disconnect"})] * 2) as made:
        publish(queues, b"a", *range(5000))
        for reader in made:
            assert texts(reader.drain()) == [str(number) for number in range(5000)]


def test_a_peer_that_is_gone_is_an_answer() -> None:
    queues = Queues(PLENTY, 10_000)
    with readers(queues, ("raw", {b"a": "disconnect"})) as (reader,):
        reader.theirs.close()
        publish(queues, b"a", "x")
        assert reader.flush() == "failed"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("publish"), st.integers(0, 2), st.sampled_from([1, 1, 30, 30, 700, 2500])),
            st.tuples(st.just("flush"), st.integers(0, 3), st.just(0)),
            st.tuples(st.just("read"), st.integers(0, 3), st.sampled_from([1, 200, 5000, PLENTY])),
            st.tuples(st.just("pong"), st.integers(0, 3), st.just(0)),
        ),
        max_size=120,
    )
)
def test_whatever_the_kernel_takes_each_reader_gets_its_own_messages_or_their_count(
    steps: list[tuple[str, int, int]],
) -> None:
    """Invariant: received + counted as missed = published, in order, for every reader and channel."""
    queues = Queues(8000, 12)
    names = (b"a", b"b", b"c")
    lossy = dict(zip(names, ("drop_oldest", "drop_newest", "latest"), strict=True))
    with readers(queues, ("json", lossy), ("json", lossy), ("json", dict.fromkeys(names, "drop_newest"))) as made:
        crowd = [*made, made[0]]
        published: dict[bytes, int] = dict.fromkeys(names, 0)
        for verb, index, value in steps:
            if verb == "publish":
                published[names[index]] += 1
                publish(queues, names[index], f"{published[names[index]]} ".ljust(value, "."))
            elif verb == "flush":
                if not crowd[index].queue.blocked:
                    crowd[index].flush()
            elif verb == "read":
                crowd[index].read(value)
                if crowd[index].queue.blocked:
                    crowd[index].flush()
        for reader in made:
            counted: dict[str, int] = {name.decode(): 0 for name in names}
            last = dict(counted)
            for event in events(reader.drain()):
                channel = event["channel"]
                if event["type"] == "gap":
                    counted[channel] += event["missed"]
                else:
                    counted[channel] += 1
                    number = int(event["text"].split(" ")[0])
                    assert number > last[channel]
                    last[channel] = number
            assert counted == {name.decode(): count for name, count in published.items()}
