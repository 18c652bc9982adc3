"""Imports point down the layout: the broker as it is, and small bad trees that show that the checker can fail."""

from pathlib import Path

import pytest

from tests.tools.layout import LAYERS, MOST_LINES, faults

ROOT = Path(__file__).resolve().parents[1]


def tree(root: Path, files: dict[str, str]) -> Path:
    """A package ``broker`` under ``root`` made of these files; packages get their ``__init__.py``."""
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "broker" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in (root / "broker").rglob("*"):
        if folder.is_dir() and not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text("")
    return root


def test_no_module_of_the_broker_breaks_the_layout() -> None:
    assert faults(ROOT) == []


def test_the_broker_that_is_checked_is_not_empty() -> None:
    assert {"native", "protocol", "gateway"} <= {path.parent.name for path in (ROOT / "broker").rglob("*.py")}


def test_no_unit_stands_in_two_rows_of_the_layout() -> None:
    units = [unit for row in LAYERS for unit in row]
    assert len(units) == len(set(units))


def test_a_tree_that_only_points_down_passes(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "cli.py": "def main() -> None:\n    from broker.worker import run\n    run()\n",
            "worker.py": "from broker.gateway.open import door\nfrom broker import __version__\n",
            "gateway/open.py": "import asyncio\nfrom ..protocol import offer\nfrom . import commands\n",
            "gateway/commands.py": "from broker.native._hub import Hub\n",
            "protocol/offer.py": "import re\nfrom .codes import CODES\n",
            "protocol/codes.py": "from enum import Enum\n",
            "native/_hub.pyx": "from broker.native._queue cimport (\n    Queue,\n)\nfrom libc.string cimport memcpy\n",
            "native/_hub.pyi": "",
            "native/_queue.pxd": "from cpython.bytes cimport PyBytes_AS_STRING\n",
        },
    )
    assert faults(root) == []


UPWARD = {
    "plain import": {"protocol/offer.py": "import broker.config.schema\n", "config/schema.py": ""},
    "from import": {"node.py": "from broker.gateway import open\n", "gateway/open.py": ""},
    "relative": {"engine/memory.py": "from ..node import publish\n", "node.py": ""},
    "of the package": {"auth/token.py": "from broker import worker\n", "worker.py": ""},
    "inside a function": {"api/server.py": "def f() -> None:\n    import broker.gateway.open\n", "gateway/open.py": ""},
    "only for types": {
        "node.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from broker.worker import Worker\n",
        "worker.py": "",
    },
    "within one row": {"web.py": "import broker.log\n", "log.py": ""},
    "out of Cython": {"native/_hub.pyx": "from broker.node import Node\n", "native/_hub.pyi": "", "node.py": ""},
    "from the root": {"__init__.py": "from broker.worker import run\n", "worker.py": ""},
}


@pytest.mark.parametrize("case", UPWARD, ids=UPWARD.keys())
def test_an_import_that_points_up_is_found(case: str, tmp_path: Path) -> None:
    (fault, *_) = faults(tree(tmp_path, UPWARD[case]))
    assert "must not import broker." in fault


def test_only_the_listed_units_may_know_the_native_core(tmp_path: Path) -> None:
    files = {"api/run.py": "from broker.native import _hub\n", "native/_hub.pyx": "", "native/_hub.pyi": ""}
    (fault,) = faults(tree(tmp_path, files))
    assert fault.startswith("broker/api/run.py:1: api must not import broker.native._hub: only ")


@pytest.mark.parametrize(
    "line",
    ["import asyncio", "from socket import socket", "import time", "from asyncio.events import AbstractEventLoop"],
)
def test_protocol_stays_without_io_and_clock(line: str, tmp_path: Path) -> None:
    (fault,) = faults(tree(tmp_path, {"protocol/offer.py": f"def f() -> None:\n    {line}\n"}))
    assert fault.startswith("broker/protocol/offer.py:2: broker.protocol is sans-IO and must not import ")


def test_a_cycle_of_modules_is_found(tmp_path: Path) -> None:
    files = {
        "gateway/a.py": "from .b import B\n",
        "gateway/b.py": "from . import c\n",
        "gateway/c.py": "from .a import A\n",
    }
    assert faults(tree(tmp_path, files)) == [
        "cycle: broker.gateway.a -> broker.gateway.b -> broker.gateway.c -> broker.gateway.a"
    ]


def test_a_cycle_hidden_under_type_checking_is_found(tmp_path: Path) -> None:
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from broker.engine.b import B\n"
    root = tree(tmp_path, {"engine/a.py": hidden, "engine/b.py": "from broker.engine.a import A\n"})
    assert faults(root) == ["cycle: broker.engine.a -> broker.engine.b -> broker.engine.a"]


def test_a_cycle_of_cimports_is_found(tmp_path: Path) -> None:
    files = {"native/_a.pxd": "from broker.native._b cimport B\n", "native/_b.pxd": "from ._a cimport A\n"}
    assert faults(tree(tmp_path, files)) == ["cycle: broker.native._a -> broker.native._b -> broker.native._a"]


def test_a_module_outside_the_layout_is_found(tmp_path: Path) -> None:
    assert faults(tree(tmp_path, {"helpers.py": ""})) == ["broker.helpers: helpers has no row in the layout"]


def test_a_module_of_two_nouns_is_found_by_its_length(tmp_path: Path) -> None:
    root = tree(tmp_path, {"node.py": "x = 1\n" * (MOST_LINES + 1), "worker.py": "x = 1\n" * MOST_LINES})
    assert faults(root) == ["broker/node.py: 501 lines, at most 500; two nouns live here"]


def test_a_textual_include_is_found(tmp_path: Path) -> None:
    root = tree(tmp_path, {"native/_a.pyx": 'x = "include"\ninclude "b.pxi"\n', "native/_a.pyi": ""})
    assert faults(root) == ["broker/native/_a.pyx:2: textual include; cimport a module instead"]


def test_a_native_module_without_its_stub_is_found(tmp_path: Path) -> None:
    assert faults(tree(tmp_path, {"native/_a.pyx": ""})) == ["broker/native/_a.pyx: no _a.pyi says what Python sees"]
