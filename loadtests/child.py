"""A process of its own for a crowd: started with a description, asked by a byte, answering with a line of JSON.

What a crowd does is in its module, run as `python -m MODULE SPEC`; its input ends when the scenario does.
"""

import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from loadtests.server import ROOT, BenchError


class Child:
    """The scenario's side: a context around such a process."""

    def __init__(self, module: str, spec: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(spec)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def write(self, question: bytes) -> None:
        assert self._process.stdin is not None, "it was made a pipe"
        self._process.stdin.write(question)
        self._process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The next line that it says. Raises BenchError with its last words if it has ended."""
        assert self._process.stdout is not None, "it was made a pipe"
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None, "it was made a pipe"
            text = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            raise BenchError(f"the readers' process ended: {text[-1] if text else 'it said nothing'}")
        found: dict[str, Any] = json.loads(line)
        return found


def say(values: dict[str, Any]) -> None:
    """The process's side: one line."""
    os.write(1, json.dumps(values).encode() + b"\n")
