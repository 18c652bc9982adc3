"""A flow of numbered messages through a broker of several workers: publishers and witnesses at each of them."""

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.process.command import Served, serving
from tests.process.load import Publisher, Witness
from tests.process.supervised import children, client_of, configuration, workers


def engine_of(broker: Served) -> int:
    (engine,) = set(children(broker)) - set(workers(broker).values())
    return engine


class Flow:
    """Publishers and witnesses at each of the workers."""

    def __init__(self, broker: Served) -> None:
        self.broker = broker
        pids = [pid for _, pid in sorted(workers(broker).items())]
        self.witnesses = [self._witness(pid) for pid in pids]
        self.publishers = [self._publisher(pid, number) for number, pid in enumerate(pids)]

    def _witness(self, pid: int) -> Witness:
        return Witness(self.broker, "news", json_client_of(self.broker, pid, "news"))

    def _publisher(self, pid: int, number: int) -> Publisher:
        return Publisher(self.broker, "news", f"p{number}", json_client_of(self.broker, pid))

    def goes_on(self, count: int = 50) -> None:
        for publisher in self.publishers:
            if publisher.ended is None:
                publisher.has_acked_more(count)

    def settle(self) -> None:
        """Everything that was acknowledged last has arrived at every witness that is left; then they are judged."""
        last = [(publisher.called, publisher.stop()) for publisher in self.publishers if publisher.acked]
        ended = {publisher.called for publisher in self.publishers if publisher.ended is not None}
        refused = {one.called: {number for number, _ in one.refused} for one in self.publishers}
        for witness in self.witnesses:
            for each in last:
                if each[0] not in ended:
                    witness.wait_for(each)
            witness.close()
            witness.check_i1_order()
            witness.check_i2_no_silent_hole(refused)


def json_client_of(broker: Served, pid: int, *channels: str) -> socket.socket:
    return client_of(broker, pid, ", ".join(["broker.json.v1", *channels]))


@contextmanager
def flowing(
    tmp_path: Path,
    *lines: str,
    count: int = 2,
    flags: Sequence[str] = (),
    limits: Iterable[str] = (),
    extra: Mapping[str, str] | None = None,
) -> Iterator[tuple[Served, Flow]]:
    """A flow under way. `lines` and `limits` as `configuration` takes them."""
    with serving(
        "--workers", str(count), *flags, *configuration(tmp_path, *lines, limits=limits), extra=extra
    ) as broker:
        flow = Flow(broker)
        flow.goes_on()
        yield broker, flow
        assert broker.stop() == 0
