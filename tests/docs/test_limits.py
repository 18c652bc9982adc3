"""The table of limits in docs/protocol.md is the configuration's, and names counters and causes that there are."""

import re
from pathlib import Path

import pytest

from broker.config.schema import Limits
from broker.gateway.refusals import CAUSE_OF
from broker.native._connection import CAUSES
from broker.native._counters import NAMES
from broker.protocol.close_codes import BY_WORD

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
ROWS = re.findall(
    r"^\| [^|]+ \| `limits\.(\w+)` \| ([0-9.]+) \| ([^|]+) \| (.+?) \|$", PAGE.split("## 6. Limits")[1], re.MULTILINE
)
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
    kind, name = re.fullmatch(r"(cause )?`(\w+)`", counter).groups()  # type: ignore[union-attr]
    assert name in ((*CAUSES, *CAUSE_OF) if kind else NAMES)
