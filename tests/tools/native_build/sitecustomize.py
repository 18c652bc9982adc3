"""Loads ``broker.native`` from ``build/$BROKER_NATIVE_BUILD/lib`` instead of from the source tree.

``make test-debug`` and ``make test-asan`` put this folder on PYTHONPATH, so that Python imports it at every start, of
the tests as well as of every broker they start. A module that this build lacks is an error, never one of another build.
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

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
            raise ImportError(f"{name} is not in {LIBRARY}: run make test-{BUILD}", name=name)
        return spec


sys.meta_path.insert(0, NativeBuild)
