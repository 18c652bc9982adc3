"""What tests of documents have in common: the pages, and their blocks of code."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text()


def marked(text: str) -> dict[str, str]:
    """The blocks that stand below `<!-- run: NAME -->`, by that name."""
    found = re.findall(r"^<!-- run: ([\w-]+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = dict(found)
    assert len(blocks) == len(found), "a name stands twice"
    return blocks


def languages(text: str) -> dict[str, int]:
    """How many blocks of each language there are, marked or not."""
    counted: dict[str, int] = {}
    for language in re.findall(r"^```(\w+)$", text, re.MULTILINE):
        counted[language] = counted.get(language, 0) + 1
    return counted
