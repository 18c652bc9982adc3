"""The site of docs/ builds strictly, asks nobody else for anything, and what its pages name is there.

That links lead somewhere is mkdocs' own check (`validation` in mkdocs.yml); that they do so on GitHub too, whose
anchors are made by another rule, is checked here.
"""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from prometheus_client import generate_latest

from broker.config.schema import Config
from broker.metrics.collector import registry
from broker.metrics.facts import Facts
from broker.metrics.page import Page
from broker.metrics.patterns import PatternPlaces
from tests.docs.pages import DOCS, ROOT, page
from tests.tools.layout import LAYERS

PAGES = sorted(path.name for path in DOCS.glob("*.md"))
SETTINGS = {
    f"{section}.{field.name}": field.default
    for section, kind in ((one.name, one.type) for one in msgspec.structs.fields(Config))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    for field in msgspec.structs.fields(kind)
}
SECTIONS = {name.partition(".")[0] for name in SETTINGS}
OUTSIDE = re.compile(r"^(https?:)?//")


class Fetched(HTMLParser):
    """Addresses that a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe") and given.get("src"):
            self.urls.append(str(given["src"]))
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.urls.append(str(given["href"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Not --quiet: then a strict build does not see the warnings either.
    assert re.findall(r"^(?:WARNING|ERROR).*", done.stderr + done.stdout, re.MULTILINE) == []
    return folder


def test_the_site_builds_strictly_and_has_every_page(site: Path) -> None:
    assert {path.stem for path in site.glob("*.html")} == {*(Path(name).stem for name in PAGES), "404"}


def test_a_reader_of_the_site_is_told_to_nobody_else(site: Path) -> None:
    for path in site.rglob("*.html"):
        fetched = Fetched()
        fetched.feed(path.read_text())
        # locust's report has everything in itself.
        assert fetched.urls or path.name == "report.html"
        assert [url for url in fetched.urls if OUTSIDE.match(url)] == []
    for path in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", path.read_text()) == []


def test_a_page_that_links_to_a_file_of_the_repository_shows_it(site: Path) -> None:
    shown = (site / "source/config/broker.toml.html").read_text()
    assert "send_queue_bytes" in shown
    assert 'href="source/config/broker.toml.html"' in (site / "configuration.html").read_text()


def test_a_link_by_the_name_of_a_page_reads_as_its_title(site: Path) -> None:
    assert '<a href="protocol.html">The protocol</a>' in (site / "delivery.html").read_text()


def test_code_with_a_bar_in_a_table_is_shown_as_it_is_written(site: Path) -> None:
    shown = re.sub(r"<[^>]+>", "", (site / "protocol.html").read_text())
    assert '"room.42|recv"' in shown
    assert r"\|" not in shown


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    assert sorted(re.findall(r": ([\w-]+\.md)$", navigation, re.MULTILINE)) == PAGES


def test_the_layout_that_is_drawn_is_the_one_that_is_checked() -> None:
    (drawn,) = re.findall(r"## 1\. The layout\n\n```\n(.*?)```", page("architecture.md"), re.DOTALL)
    rows = [line.split("  ")[0].split(", ") for line in drawn.splitlines()]
    assert [unit for row in rows for unit in row] == [unit for row in LAYERS for unit in row if unit != "broker"]


def anchors(name: str) -> set[str]:
    """As GitHub makes them: lower case, what is no word or hyphen goes, spaces become hyphens, the second gets -1."""
    found: dict[str, int] = {}
    text = re.sub(r"^```.*?^```$", "", page(name), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
    return {f"{anchor}-{n}" if n else anchor for anchor, count in found.items() for n in range(count + 1)}


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere_on_github_too(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", page(name), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if OUTSIDE.match(target):
            continue
        file, _, anchor = target.partition("#")
        assert (DOCS / file).exists(), target
        if anchor:
            assert anchor in anchors(file or name), target


@pytest.mark.parametrize("name", [*PAGES, "../README.md"])
def test_a_setting_that_a_page_names_is_one(name: str) -> None:
    named = re.findall(r"`([a-z]+\.[a-z_]+)`", page(name))
    assert {one for one in named if one.partition(".")[0] in SECTIONS} <= {*SETTINGS, "auth.keys", "api.keys"}


@pytest.mark.parametrize("name", PAGES)
def test_a_default_that_a_page_tells_beside_its_setting_is_the_right_one(name: str) -> None:
    """As in `limits.close_seconds` (5 s)."""
    scale = {"": 1, " s": 1, " KiB": 1 << 10, " MiB": 1 << 20}
    for setting, number, unit in re.findall(r"`([a-z]+\.[a-z_]+)` \(([\d.]+)( s| KiB| MiB|)\)", page(name)):
        assert float(number) * scale[unit] == SETTINGS[setting], setting


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """Names as Prometheus has them, without what it adds to a histogram."""
    shared = Page.new(2)
    try:
        text = generate_latest(registry(shared, Facts(Config(), PatternPlaces(), lambda: True))).decode()
    finally:
        os.close(shared.fd)
    return set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))


@pytest.mark.parametrize("name", [*PAGES, "../README.md"])
def test_a_metric_that_a_page_names_is_one(name: str, metrics: set[str]) -> None:
    named = set(re.findall(r"`(wsbroker_[a-z_]+)", page(name)))
    assert {re.sub(r"_(bucket|sum|count)$", "", one) for one in named if not one.endswith("_")} <= metrics


@pytest.mark.parametrize("name", PAGES)
def test_a_picture_says_what_it_shows(name: str) -> None:
    for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page(name)):
        assert len(text) > 30, target
