"""Many subscribers, and a back end that publishes over HTTP: news, scores, notifications.

The subscribers share `--channels` channels, and each channel gets `--rate` messages a second, spread evenly. One
channel with everybody in it would measure the generator: a Python process takes 20 to 30 us for each delivery of a
burst.
"""

from collections.abc import Sequence

from loadtests.locustfiles.options import numbered, options_of
from loadtests.locustfiles.shapes import Ramp
from loadtests.locustfiles.users import BackEnd, Page


class Subscriber(Page):
    def channels(self) -> Sequence[str]:
        return [f"crowd.{self.number % options_of(self).channels}"]


class NewsDesk(BackEnd):
    def channels(self) -> Sequence[str]:
        return numbered("crowd", options_of(self).channels)


class Shape(Ramp):
    pass
