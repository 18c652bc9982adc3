"""What every test gets: a reproducible hypothesis, a loop that must not be blocked, the native build it asked for.

Nothing here knows the broker's parts; fixtures that do live beside their tests.
"""

import asyncio
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from broker.log.lines import formatter

NATIVE_BUILD = os.environ.get("BROKER_NATIVE_BUILD", "release")

# No deadline per example: the machine is shared and the sanitizers are slow; the per-test timeout bounds the whole.
settings.register_profile("local", deadline=None, print_blob=True)
# The same examples every time, so that what CI reports can be had again by whoever reads the report.
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.register_profile(
    "sanitized",
    parent=settings.get_profile("ci"),
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.hookimpl(tryfirst=True)  # before hypothesis' own, which reads the seed
def pytest_configure(config: pytest.Config) -> None:
    profile = "sanitized" if NATIVE_BUILD == "asan" else "ci" if os.environ.get("CI") else "local"
    settings.load_profile(profile)
    if profile == "local" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))


def pytest_report_header(config: pytest.Config) -> str:
    seed = config.option.hypothesis_seed
    how = f"again with --hypothesis-seed={seed}" if seed is not None else "derandomized"
    return f"native build: {NATIVE_BUILD}; hypothesis examples: {how}"


def refuse_on_a_loop(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return call(*args, **kwargs)
        raise AssertionError(f"{name} blocks the event loop it is called on")

    return guarded


@pytest.fixture(autouse=True)
def blocking_call_detector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that most often stop a loop unnoticed fail when a loop runs in their thread."""
    if request.node.get_closest_marker("blocks_loop"):
        return
    for owner, name in (
        (time, "sleep"),
        (socket, "create_connection"),
        (socket, "getaddrinfo"),
        (subprocess.Popen, "wait"),
        (subprocess.Popen, "communicate"),
    ):
        call = getattr(owner, name)
        monkeypatch.setattr(owner, name, refuse_on_a_loop(call, f"{owner.__name__}.{name}"))


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """`caplog.text` is what stands on standard error, fields and exceptions included."""
    before = caplog.handler.formatter
    caplog.handler.setFormatter(formatter("json", "test"))
    yield caplog
    caplog.handler.setFormatter(before)  # the handler is that of every test
