"""A worker without a supervisor, as far as it needs no process."""

from typing import cast

import pytest

from broker.config.schema import Config
from broker.metrics.facts import Facts
from broker.metrics.patterns import PatternPlaces
from broker.supervisor.alone import _Renewal
from broker.supervisor.notify import Notifier
from broker.worker import Worker


async def test_a_reload_that_fails_in_a_way_that_nobody_thought_of_ends_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        async def reload(self, config: Config) -> None:
            raise RuntimeError("never seen before")

    facts = Facts(Config(), PatternPlaces(), lambda: True)
    renewal = _Renewal(Config(), Config, Notifier.from_environment(), facts)
    await renewal.run(cast(Worker, Broken()))
    assert "reload failed" in caplog.text
    assert "never seen before" in caplog.text
    assert facts.reloads == {"done": 0, "refused": 1}
