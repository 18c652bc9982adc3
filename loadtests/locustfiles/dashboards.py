"""Dashboards: every page shows a few of many charts, each changes often, and only the newest value counts (`latest`).

A page that does not keep up is told how many values it missed (TOLD gap); a value that is missing without that is lost.
"""

from collections.abc import Sequence

from loadtests.locustfiles.options import numbered, options_of
from loadtests.locustfiles.shapes import Ramp
from loadtests.locustfiles.users import BackEnd, JsonPage

CHARTS_OF_A_PAGE = 5


class Dashboard(JsonPage):
    def channels(self) -> Sequence[str]:
        charts = options_of(self).channels
        first = self.number * CHARTS_OF_A_PAGE
        return [f"dashboard.{(first + place) % charts}" for place in range(min(CHARTS_OF_A_PAGE, charts))]


class Sensors(BackEnd):
    payload_bytes = 64

    def channels(self) -> Sequence[str]:
        return numbered("dashboard", options_of(self).channels)


class Shape(Ramp):
    pass
