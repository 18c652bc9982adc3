"""Fuzz target of the opening handshake: any bytes get one verdict, the same however they arrive, and none raises.

``python -m tests.fuzz.fuzz_request DIRECTORY [libFuzzer options]`` puts the seeds into the directory and fuzzes from
there; it needs atheris, and finds most on the instrumented core that ``make fuzz`` builds. Without it the same
``check`` runs over the same seeds, and over mutations of them, in ``test_request_corpus.py``. An input that broke
something goes into ``corpus/request/``, named after the symptom.
"""

import importlib
import sys
from pathlib import Path

from broker.native._request import parse, scan_end
from tests.unit.native.request_heads import AIOHTTP, CHROMIUM, FIREFOX, WEBSOCKETS, head, plain

CORPUS = Path(__file__).parent / "corpus" / "request"
STATUSES = {101, 200, 400, 405, 414, 426, 431, 505}


def seeds() -> list[bytes]:
    """What mutation starts from: real requests, unusual features, and the inputs kept in the corpus folder."""
    return [
        *(CHROMIUM, FIREFOX, WEBSOCKETS, AIOHTTP, plain(b"Host: a"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        head(b"Sec-WebSocket-Protocol: a", b"Sec-WebSocket-Protocol: b,,c", b'Sec-WebSocket-Extensions: x; y="\\z"'),
        head(b"Content-Length: 0", b"X: \ta\xff ", host=b"[::1]:8000", connection=b"keep-alive, Upgrade"),
        head(b"Content-Length: 5", b"Transfer-Encoding: chunked", host=b"a%20b:1", upgrade=b"h2c/1, websocket"),
        *(path.read_bytes() for path in sorted(CORPUS.iterdir())),
    ]


def check(data: bytes) -> None:
    whole, _ = scan_end(data, 0, max_head_bytes=1024)
    scanned = dripped = 0
    step = 1 + len(data) // 64
    for size in range(0, len(data) + step, step):
        dripped, scanned = scan_end(data[:size], scanned, max_head_bytes=1024)
        if dripped:
            break
    assert dripped == whole, (dripped, whole)
    request = parse(data, max_head_bytes=1024, max_headers=16)
    assert request.status in STATUSES, request.status
    if whole <= 0:
        assert request.status == (-whole or 400), (request.status, whole)
    else:
        assert request.head == data[:whole]
    assert (request.accept is not None) == (request.status == 101)
    if request.offer is not None:
        tokens = request.offer.split(b", ")
        assert all(tokens)
        assert len(set(tokens)) == len(tokens)
    for name, _ in request.headers():
        assert request.header(name) is not None


def main() -> None:
    atheris = importlib.import_module("atheris")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (directory / f"seed-{number}").write_bytes(seed)
    atheris.instrument_func(check)  # all that guides the mutations on a core that is not instrumented
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
