"""The lock files carry what pyproject.toml asks for, and the switch between native builds switches."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from broker import native

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PROJECT["dependency-groups"]
LOCKS = {
    "run": PROJECT["project"]["dependencies"],
    "build": [*PROJECT["project"]["dependencies"], *GROUPS["build"]],
    "test": [*PROJECT["project"]["dependencies"], *GROUPS["build"], *GROUPS["test"], *GROUPS["check"]],
    "fuzz": GROUPS["fuzz"],
    "loadtest": GROUPS["loadtest"],
    "docs": GROUPS["docs"],
}
# The start of a requirement: its name in the spelling that the lock files use.
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def locked(lock: str) -> dict[str, str]:
    """name -> everything after it (version, marker, hashes) of each entry."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {normal(line): line for line in lines}


def normal(requirement: str) -> str:
    match = NAME.match(requirement)
    assert match, f"no name in {requirement!r}"
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_the_locked_build_tools_are_those_that_the_build_asks_for() -> None:
    assert GROUPS["build"] == PROJECT["build-system"]["requires"]


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_covers_its_groups_with_hashes_and_names_no_host(lock: str) -> None:
    entries = locked(lock)
    assert {normal(requirement) for requirement in LOCKS[lock]} <= entries.keys()
    for entry in entries.values():
        assert re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry
        assert "://" not in entry


def test_lock_files_agree_so_that_they_install_into_one_environment() -> None:
    pins = {name: entry.split()[0] for name, entry in locked("test").items()}
    for lock in ("run", "build", "fuzz", "loadtest", "docs"):
        other = {name: entry.split()[0] for name, entry in locked(lock).items() if name in pins}
        assert other == {name: pins[name] for name in other}


def test_every_native_module_is_loaded_from_the_build_under_test() -> None:
    build = os.environ.get("BROKER_NATIVE_BUILD")
    folder = ROOT / "build" / build / "lib/broker/native" if build else ROOT / "broker/native"
    for source in (ROOT / "broker/native").glob("*.pyx"):
        module = importlib.import_module(f"{native.__name__}.{source.stem}")
        assert Path(str(module.__file__)).parent == folder


def test_a_python_started_by_a_test_has_the_sanitizer_and_what_it_starts_has_not() -> None:
    code = "import os; print('libasan' in open('/proc/self/maps').read(), 'LD_PRELOAD' in os.environ)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == [str(os.environ.get("BROKER_NATIVE_BUILD") == "asan"), "False"]


def test_a_module_missing_in_the_build_under_test_is_not_taken_from_another_build() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import broker.native._frames"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT / "tests/tools/native_build"), "BROKER_NATIVE_BUILD": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert "ImportError: broker.native._frames is not in " in found.stderr
