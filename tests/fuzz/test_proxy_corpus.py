"""The fuzz target of the PROXY header over its corpus and deterministic mutations of it, without atheris."""

import random

import pytest

from tests.fuzz import fuzz_proxy
from tests.fuzz.test_request_corpus import mutate


@pytest.mark.parametrize("data", fuzz_proxy.seeds())
def test_no_known_proxy_header_breaks_the_parser(data: bytes) -> None:
    fuzz_proxy.check(data)


def test_no_mutated_proxy_header_breaks_the_parser() -> None:
    rng = random.Random(2)
    corpus = fuzz_proxy.seeds()
    for _ in range(3000):
        fuzz_proxy.check(mutate(rng, corpus))
