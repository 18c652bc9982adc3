"""Time that stands still until a test moves it, with what an engine asks of a loop."""

from collections.abc import Callable


class FakeAlarm:
    def __init__(self, clock: "FakeClock", due: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        self._clock.alarms.remove(self)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.alarms: list[FakeAlarm] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> FakeAlarm:
        alarm = FakeAlarm(self, self.now + delay, callback)
        self.alarms.append(alarm)
        return alarm

    def advance(self, seconds: float) -> None:
        """Lets time pass and rings, one after the other, what is due within it."""
        until = round(self.now + seconds, 6)  # tenths add up to what they say
        while due := [alarm for alarm in self.alarms if alarm.due <= until]:
            first = min(due, key=lambda alarm: alarm.due)
            self.now = max(self.now, first.due)
            self.alarms.remove(first)
            first.callback()
        self.now = until
