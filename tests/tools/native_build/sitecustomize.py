"""Loads ``broker.native`` from ``build/$BROKER_NATIVE_BUILD/lib`` instead of from the source tree.

``make test-debug``, ``test-asan`` and ``fuzz`` put this folder on PYTHONPATH, so that Python imports it at every start,
of the tests as well as of every broker they start. A module that this build lacks is an error, never one of another.

A sanitizer's libraries have to be loaded before everything else, but a browser would not survive them: so a Python that
lacks them starts itself again with them preloaded, and passes nothing of it on to its children.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PRELOAD = os.environ.get("BROKER_NATIVE_PRELOAD")
if PRELOAD and os.environ.pop("LD_PRELOAD", None) != PRELOAD:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "LD_PRELOAD": PRELOAD})

ROOT = Path(__file__).resolve().parents[3]
BUILD = os.environ["BROKER_NATIVE_BUILD"]
LIBRARY = ROOT / "build" / BUILD / "lib/broker/native"


class NativeBuild:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, module = name.rpartition(".")
        if package != "broker.native" or not module.startswith("_"):
            return None
        spec = PathFinder.find_spec(name, [str(LIBRARY)], target)
        if spec is None:
            raise ImportError(f"{name} is not in {LIBRARY}: build it with make", name=name)
        return spec


sys.meta_path.insert(0, NativeBuild)
