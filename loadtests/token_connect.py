"""Scenario `token_connect`: what a token costs at connect, once it has been verified, and before.

The same number of clients connects in three ways, in turns: without a token, all with one token, each with one of its
own (ES256). What is compared is the CPU of the broker for each connect, within one round, so that what else the machine
does meets all three; the rows are medians over the rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from loadtests.report import Progress, Result
from loadtests.server import Server, need_files, wait_until
from loadtests.wire import open_many

NAME = "token_connect"
TITLE = "connects with a token, verified before and not"
MOST_CACHED_RATIO = 2.0
QUIET_SECONDS = 20.0
CHANNEL = "news|recv"
# Anybody may connect in all three ways, so that they differ by the token alone.
CONFIG = """
[auth.keys.bench]
algorithm = "ES256"
file = "{file}"
[channels.">"]
subscribe = "anyone"
"""


@dataclass(frozen=True)
class Size:
    connects: int = 3000
    rounds: int = 9


QUICK = Size(connects=200, rounds=2)


def scaled(factor: float) -> Size:
    return Size(connects=max(200, int(3000 * factor)))


class Tokens:
    """Makes tokens, each another one."""

    def __init__(self, file: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        file.write_bytes(self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self._made = 0
        self._expires = int(time.time()) + 86_400

    def make(self) -> str:
        self._made += 1
        return jwt.encode({"sub": f"user-{self._made}", "exp": self._expires}, self._key, algorithm="ES256")


def run(size: Size, progress: Progress) -> Result:
    result = Result(NAME, TITLE)
    need_files(size.connects + 100)
    with tempfile.TemporaryDirectory(prefix="ws-broker-bench-") as folder:
        file = Path(folder) / "public.pem"
        tokens = Tokens(file)
        same = tokens.make()
        offers: dict[str, Callable[[], str]] = {
            "anonymous": lambda: CHANNEL,
            "cached": lambda: f"{CHANNEL}, bearer.{same}",
            "uncached": lambda: f"{CHANNEL}, bearer.{tokens.make()}",
        }
        with Server(CONFIG.format(file=file)) as server:
            files = server.files()
            rounds: dict[str, list[float]] = {name: [] for name in offers}
            for number in range(size.rounds + 1):
                for name, offer in offers.items():
                    cost = _cost(server, [offer() for _ in range(size.connects)], files)
                    if number:  # the first round warms up
                        rounds[name].append(cost)
                progress(f"round {number} of {size.rounds}")
            for name, costs in rounds.items():
                result.add(f"CPU of the broker per connect, {name}", statistics.median(costs) * 1e6, "us")
            for name, most in (("cached", MOST_CACHED_RATIO), ("uncached", None)):
                ratios = [cost / base for cost, base in zip(rounds[name], rounds["anonymous"], strict=True)]
                result.add(f"{name} beside anonymous", statistics.median(ratios), "times", most=most)
            result.failures += server.stop()
    return result


def _cost(server: Server, offers: list[str], files: int) -> float:
    """CPU seconds of the broker for each connect, close included."""
    before = server.cpu_seconds()
    for sock in open_many(server.address, offers):
        sock.close()
    wait_until(lambda: server.files() <= files, QUIET_SECONDS)
    # The clock of /proc ticks 100 times a second: a step, and not a division by zero.
    return max(server.cpu_seconds() - before, 0.01) / len(offers)
