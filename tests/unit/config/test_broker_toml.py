"""config/broker.toml is the reference an operator copies from: it may not differ from the schema in anything.

Nor may docs/configuration.md, which is made of both.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.config.load import load
from broker.config.schema import ApiKey, AuthKey, ChannelPolicy, Config
from tests.tools.configuration_reference import DOCUMENT, document, shown_keys

# Each says what it is together with the line before it.
SHARE_AN_EXPLANATION = (
    "refusal_hold_max_seconds",
    "message_burst",
    "byte_burst",
    "upgrade_burst",
    "info_claim",
    "max_waiting",
    "headers",
    "cached_verdicts",
    "secret_environment",
    "# environment",
    "# jwks_url",
)
FILE = Path(__file__).parents[3] / "config" / "broker.toml"
TEXT = FILE.read_text()
EXAMPLES = {"api.keys.shop": ApiKey, "auth.keys.main": AuthKey}
# What an example shows other than the default: a key has to be somewhere.
SHOWN = {"sha256", "file"}


def example(table: str) -> dict[str, Any]:
    """A table that is commented out, as an operator uncomments it."""
    lines = TEXT.splitlines()
    start = lines.index(f"# [{table}]") + 1
    end = next(at for at in range(start, len(lines)) if not lines[at].startswith("#"))
    settings = [line[2:] for line in lines[start:end] if re.match(r"# [a-z][a-z0-9_]* = ", line)]
    return tomllib.loads("\n".join(settings))


def test_starting_with_the_reference_file_is_starting_with_the_defaults() -> None:
    loaded = load(FILE)
    for section in Config.__struct_fields__:
        if section != "channels":
            assert getattr(loaded, section) == getattr(Config(), section)
    assert loaded.channels == {">": ChannelPolicy()}
    assert Config().channels == {}


def test_every_key_of_the_schema_is_in_the_reference_file_in_the_same_order() -> None:
    tree = tomllib.loads(TEXT)
    assert tuple(tree) == Config.__struct_fields__
    for section in Config.__struct_fields__:
        if section == "channels":
            assert tuple(tree[section][">"]) == ChannelPolicy.__struct_fields__
            continue
        # A table of TOML stands behind the plain keys of the one it is in.
        known = getattr(Config(), section).__struct_fields__
        assert tuple(sorted(tree[section], key=known.index)) == known
        plain = [key for key in tree[section] if key != "keys"]
        assert plain == [key for key in known if key != "keys"]


@pytest.mark.parametrize("table", EXAMPLES)
def test_every_key_of_a_commented_example_is_there_with_its_default(table: str) -> None:
    struct = EXAMPLES[table]
    shown = example(table)
    assert tuple(shown) == struct.__struct_fields__
    for key, value in shown.items():
        default = getattr(struct(), key)
        if key in SHOWN:
            assert value != default
        else:
            assert msgspec.convert(value, type=type(default)) == default, key


def test_the_commented_examples_are_taken_when_they_are_uncommented(tmp_path: Path) -> None:
    text = TEXT
    for table in EXAMPLES:
        start = text.index(f"# [{table}]")
        end = text.index("\n\n", start)
        lines = text[start:end].splitlines()
        shown = [line[2:] if re.match(r"# (\[|[a-z][a-z0-9_]* = )", line) else line for line in lines]
        text = text[:start] + "\n".join(shown) + text[end:]
    file = tmp_path / "broker.toml"
    file.write_text(text)
    config = load(file)
    assert (list(config.api.keys), list(config.auth.keys)) == (["shop"], ["main"])


def test_every_key_of_the_reference_file_is_explained() -> None:
    explained = False
    for line in TEXT.splitlines():
        if line.startswith("#") and not re.match(r"# [a-z][a-z0-9_]* = ", line):
            explained = not re.match(r"# \[", line)
        elif not line or line.startswith("["):
            explained = False
        elif not line.startswith(SHARE_AN_EXPLANATION):
            assert explained, line
            explained = False


def test_the_reference_in_the_documentation_is_up_to_date() -> None:
    existing = DOCUMENT.read_text()
    assert existing == document(existing, TEXT), "run `make docs-reference`"


def test_the_reference_in_the_documentation_has_every_key() -> None:
    shown = [(one.table, one.key) for one in shown_keys(TEXT)]
    wanted = [("api.keys.NAME", key) for key in ApiKey.__struct_fields__]
    wanted += [("auth.keys.NAME", key) for key in AuthKey.__struct_fields__]
    wanted += [('channels."PATTERN"', key) for key in ChannelPolicy.__struct_fields__]
    for section in Config.__struct_fields__:
        if section != "channels":
            fields = getattr(Config(), section).__struct_fields__
            wanted += [(section, key) for key in fields if key != "keys"]
    assert sorted(shown) == sorted(wanted)
    assert all(one.meaning for one in shown_keys(TEXT))
