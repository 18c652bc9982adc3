"""Builds the Cython core, ``broker/native``, one small extension a module.

``BROKER_BUILD`` chooses the build: ``release`` (default), ``debug`` (bounds checked, assertions on) or ``asan`` (AddressSanitizer and
UndefinedBehaviorSanitizer; run it with libasan preloaded, as ``make test-asan`` does).
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux"):
    sys.exit(f"ws-broker runs on Linux only (it needs epoll and SO_REUSEPORT); this is {sys.platform}")

BUILDS = {
    "release": (["-O3", "-fno-plt"], []),
    "debug": (["-O1", "-g", "-UNDEBUG"], []),
    "asan": (["-O1", "-g", "-UNDEBUG", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"], ["-fsanitize=address,undefined"]),
}
build = os.environ.get("BROKER_BUILD", "release")
if build not in BUILDS:
    sys.exit(f"BROKER_BUILD={build}: no such build; take one of {', '.join(BUILDS)}")
compile_args, link_args = BUILDS[build]
checked = build != "release"
wanted = os.environ.get("BROKER_MODULES", "").split()  # a developer who rebuilds one module
modules = wanted or sorted(p.stem for p in Path("broker/native").glob("*.pyx"))

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"broker.native.{name}",
                [f"broker/native/{name}.pyx"],
                extra_compile_args=compile_args,
                extra_link_args=link_args,
                define_macros=[("BROKER_BUILD_NAME", f'"{build}"')],
            )
            for name in modules
        ],
        build_dir=f"build/cython-{build}",
        compiler_directives={
            "language_level": 3,
            "boundscheck": checked,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": checked,
            "embedsignature": True,
        },
    )
)
