"""Builds the Cython core, ``broker/native``: one small extension a module, compiled in parallel.

``BROKER_BUILD`` chooses the build: ``release`` (default), ``debug`` (bounds checked, assertions on), ``asan``
(AddressSanitizer and UndefinedBehaviorSanitizer; it runs with libasan preloaded, as ``make test-asan`` does) or
``fuzz`` (clang's AddressSanitizer and coverage for atheris; ``make fuzz``).
Each keeps its generated C and its objects in ``build/``, apart from the others, so that none overwrites another.
``BROKER_MODULES="_frames _queue"`` restricts the build to these modules.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = "broker/native"
BUILDS = {
    "release": ["-O3", "-fno-plt", "-DCYTHON_WITHOUT_ASSERTIONS"],
    "debug": ["-O1", "-g", "-UNDEBUG"],
    # -fno-wrapv takes back what distributions compile Python with, so that a signed overflow is found, not defined.
    "asan": [
        *("-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", "-fno-wrapv"),
        *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    ],
    # For atheris, with clang: the same memory checks, and the coverage that guides mutations.
    "fuzz": ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer", "-fsanitize=address,fuzzer-no-link"],
}
# Only the init function is exported. Cython generates helpers and variables that a module may not use, loops whose two
# counters differ in sign, and values that gcc cannot see set: not our warnings, and pages of them for a first build.
COMMON = ["-fvisibility=hidden", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unused-but-set-variable"]
COMMON += ["-Wno-sign-compare", "-Wno-maybe-uninitialized"]
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


class BuildExtensions(build_ext):
    """``build_ext`` whose outputs stay in ``build/``, also for an editable install, which would start from nothing."""

    def finalize_options(self) -> None:
        if self.inplace or self.editable_mode:
            self.build_lib, self.build_temp = f"build/{build}/lib", f"build/{build}/temp"
        super().finalize_options()
        self.parallel = self.parallel or THREADS


def extensions() -> list[Extension]:
    wanted = os.environ.get("BROKER_MODULES", "").split()
    modules = wanted or sorted(path.stem for path in Path(NATIVE).glob("*.pyx"))
    # Under the fuzzer all of this is resolved at load, in the library that atheris brings and preloads.
    link_args = ["-fsanitize=address,undefined"] if build == "asan" else []
    # Cython follows cimports, but not a header that includes another one; new flags need a new build as well.
    depends = ["setup.py", *sorted(map(str, Path(NATIVE).glob("*.h")))]
    core = [
        Extension(
            f"broker.native.{name}",
            [f"{NATIVE}/{name}.pyx"],
            include_dirs=[NATIVE],
            depends=depends,
            define_macros=[("BROKER_BUILD_NAME", f'"{build}"')],
            extra_compile_args=COMMON + BUILDS[build],
            extra_link_args=link_args,
        )
        for name in modules
    ]
    if not core:
        return []
    checked = build != "release"
    generated = Path(f"build/{build}/cython")
    outputs = [path for name in modules if (path := generated / NATIVE / f"{name}.c").exists()]
    changed = Path("setup.py").stat().st_mtime
    return cythonize(
        core,
        build_dir=str(generated),
        nthreads=THREADS,
        force=any(path.stat().st_mtime < changed for path in outputs),  # directives are set here
        compiler_directives={
            "language_level": 3,
            "boundscheck": checked,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": checked,
            "embedsignature": True,
        },
    )


if __name__ == "__main__":
    if not sys.platform.startswith("linux"):
        sys.exit(f"ws-broker runs on Linux only (it needs epoll and SO_REUSEPORT); this is {sys.platform}")
    build = os.environ.get("BROKER_BUILD", "release")
    if build not in BUILDS:
        sys.exit(f"BROKER_BUILD={build}: no such build; take one of {', '.join(BUILDS)}")
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
