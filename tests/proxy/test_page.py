"""docs/proxies.md and the shipped files say the same, and the files fit the broker's own defaults."""

import re

import pytest

from broker.config.schema import Limits
from tests.process.command import ROOT

from .proxies import SHIPPED

PAGE = (ROOT / "docs/proxies.md").read_text()
FILES = {file.name: file.read_text() for file in sorted(SHIPPED.iterdir())}
IDLE = {
    "nginx.conf": [r"proxy_read_timeout (\d+)s;", r"proxy_send_timeout (\d+)s;"],
    "haproxy.cfg": [r"timeout tunnel (\d+)s\n", r"timeout client (\d+)s\n", r"timeout server (\d+)s\n"],
    "envoy.yaml": [r"stream_idle_timeout: (\d+)s\n"],
}


def test_every_shipped_file_is_on_the_page_and_has_its_timeouts_looked_at() -> None:
    assert FILES.keys() == IDLE.keys()
    assert all(f"](../deploy/proxy/{name})" in PAGE for name in FILES)


@pytest.mark.parametrize("name", IDLE)
def test_a_ping_that_is_lost_does_not_cut_an_idle_connection(name: str) -> None:
    latest = Limits().ping_seconds * (1 + Limits().ping_jitter)
    for pattern in IDLE[name]:
        (seconds,) = re.findall(pattern, FILES[name])
        assert int(seconds) > 2 * latest


def test_what_the_page_shows_of_a_file_stands_in_it() -> None:
    parts = re.findall(r"<!-- part: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert parts
    for name, part in parts:
        lines = [line.strip() for line in FILES[name].splitlines()]
        shown = [line.strip() for line in part.splitlines()]
        at = lines.index(shown[0])
        kept = iter(lines[at:])
        assert all(line in kept for line in shown), f"not in this order in {name}: {shown}"


def test_the_page_names_the_budget_of_an_offer_and_the_pings_as_they_are() -> None:
    assert f"every `limits.ping_seconds` ({Limits().ping_seconds:.0f} s)" in PAGE
    assert Limits().max_offer_bytes == 4096
    assert "4 KiB of it (`limits.max_offer_bytes`)" in PAGE
