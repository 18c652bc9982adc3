"""The source archive and the wheel, built as a release builds them: from what git tracks, in a folder of its own.

The core is not compiled once more (a minute): the wheel is given what ``make build`` compiled from the same sources,
which setuptools takes for as long as it is newer than them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from tests.process.command import ROOT, environment

COMPILED = ROOT / "build" / "release"
# Both are made once in a run, for all tests that look at them; it goes with the process.
_FOLDER = tempfile.TemporaryDirectory(prefix="wsb-packages-")


def tracked() -> list[str]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in found.stdout.split("\0") if name and (ROOT / name).exists()]


def build(what: str, source: Path, into: Path) -> Path:
    """What `python -m build` makes of a source tree. `what`: sdist or wheel."""
    done = subprocess.run(
        [sys.executable, "-m", "build", f"--{what}", "--no-isolation", "--outdir", str(into), str(source)],
        env=environment(BROKER_BUILD="release"),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = into.iterdir()
    return made


@cache
def make_sdist() -> Path:
    folder = Path(_FOLDER.name)
    source = folder / "checkout"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    shutil.copytree(COMPILED / "cython", source / "build/release/cython")
    return build("sdist", source, folder / "sdist")


@cache
def make_wheel() -> Path:
    sdist, folder = make_sdist(), Path(_FOLDER.name)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    shutil.copytree(COMPILED / "cython", source / "build/release/cython")
    library = f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    shutil.copytree(COMPILED / "lib/broker/native", source / "build" / library / "broker/native")
    for compiled in (source / "build").rglob("*"):
        os.utime(compiled)  # the archive keeps whole seconds only
    return build("wheel", source, folder / "wheel")
