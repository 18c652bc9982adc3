"""The handshake fuzz target over its corpus and deterministic mutations of it, in every test run, without atheris."""

import random

import pytest

from tests.fuzz import fuzz_request

SEED = 6455


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One input with a few bytes flipped, cut, doubled, or replaced by a piece of another input."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.randint(0, 8))
        piece = rng.choice(corpus)
        cut = rng.randint(0, len(piece))
        data[start:end] = rng.choice(
            [
                b"",
                bytes(data[start:end]) * 2,
                rng.randbytes(end - start),
                rng.choice([b"\r\n", b"\r", b"\n", b"\0", b" ", b",", b'"', b"\xff", b":", b";"]),
                piece[cut : cut + 40],
            ]
        )
    return bytes(data)


@pytest.mark.parametrize("data", fuzz_request.seeds())
def test_no_known_request_head_breaks_the_parser(data: bytes) -> None:
    fuzz_request.check(data)


def test_no_mutated_request_head_breaks_the_parser() -> None:
    rng = random.Random(SEED)
    corpus = fuzz_request.seeds()
    for _ in range(3000):
        data = mutate(rng, corpus)
        try:
            fuzz_request.check(data)
        except Exception as exc:
            raise AssertionError(f"fuzz_request.check({data!r})") from exc
