"""Reconnect storm: everybody's connection breaks at the same moment, `--cuts` times; all come back and resume.

The channels keep a history. Whoever comes back is to hear all it missed, once, in order; "back again" is the time from
the cut to the `hello` that says so, the random pause of up to two seconds before it included.
"""

from collections.abc import Sequence
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import MasterRunner

from loadtests.locustfiles.conductor import conductor
from loadtests.locustfiles.names import BACK_AGAIN, WEBSOCKET
from loadtests.locustfiles.options import numbered, options_of
from loadtests.locustfiles.shapes import Storm
from loadtests.locustfiles.users import BackEnd, JsonPage


class Returning(JsonPage):
    resumes = True

    def channels(self) -> Sequence[str]:
        return [f"kept.{self.number % options_of(self).channels}"]


class Desk(BackEnd):
    def channels(self) -> Sequence[str]:
        return numbered("kept", options_of(self).channels)


class Shape(Storm):
    pass


def prepare(environment: Environment, **_: Any) -> None:
    if isinstance(environment.runner, MasterRunner):
        conductor().checks.append(check)


def check() -> list[str]:
    back, options = conductor().count(WEBSOCKET, BACK_AGAIN), conductor().options
    # Whoever is still away from one cut is spared the next.
    return [] if back >= min(1, options.cuts) * options.num_users else [f"only {back} came back from all cuts"]


events.init.add_listener(prepare)
