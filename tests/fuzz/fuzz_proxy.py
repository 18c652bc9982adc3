"""Fuzz target of the PROXY header: any bytes get one verdict, the same however they arrive, and none raises.

``python -m tests.fuzz.fuzz_proxy DIRECTORY [libFuzzer options]``, as fuzz_request.py. An input that broke something
goes into ``corpus/proxy/``, named after the symptom.
"""

import importlib
import ipaddress
import sys
from pathlib import Path

from broker.native._proxy import parse

CORPUS = Path(__file__).parent / "corpus" / "proxy"


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def check(data: bytes) -> None:
    whole, client = parse(data)
    assert -1 <= whole <= len(data)
    assert whole == 0 or whole == -1 or whole >= 16
    if client is not None:
        assert whole >= 28
        ipaddress.ip_address(client)
    verdict = 0
    for size in (*range(min(len(data), 64)), len(data)):
        verdict, _ = parse(data[:size])
        if verdict:
            break
    assert verdict == whole, (verdict, whole)


def main() -> None:
    atheris = importlib.import_module("atheris")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (directory / f"seed-{number}").write_bytes(seed)
    atheris.instrument_func(check)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
