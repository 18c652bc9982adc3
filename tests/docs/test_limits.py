"""The table of limits in docs/protocol.md is the configuration's, and names metrics that there are."""

import re
from pathlib import Path

import pytest

from broker.config.schema import Limits
from broker.metrics.catalogue import COUNTERS
from broker.protocol.close_codes import BY_WORD

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
ROWS = re.findall(
    r"^\| [^|]+ \| `limits\.(\w+)` \| ([0-9.]+) \| ([^|]+) \| (.+?) \|$", PAGE.split("## 6. Limits")[1], re.MULTILINE
)
LABELS = {f"{one.name}_total": {part.label for part in one.parts} for one in COUNTERS}
BOUNDS = {"max_message_bytes", "max_connections_total", "messages_per_second", "upgrades_per_second", "byte_burst"}


def test_the_table_has_the_limits_of_clients() -> None:
    keys = [key for key, *_ in ROWS]
    assert len(keys) == len(set(keys)) == 19
    assert set(keys) >= BOUNDS


@pytest.mark.parametrize(("key", "default", "beyond", "counter"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_says_what_the_code_does(key: str, default: str, beyond: str, counter: str) -> None:
    assert str(getattr(Limits(), key)) == default
    for code, word in re.findall(r"(\d{4}) `(\w+)`", beyond):
        assert BY_WORD[word].code == int(code)
    name, _, label = counter.partition("` `")
    assert (label.strip("`") or None) in LABELS[name.strip("`")]
