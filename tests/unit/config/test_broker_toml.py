"""config/broker.toml is the reference an operator copies from: it may not differ from the schema in anything."""

import tomllib
from pathlib import Path

from broker.config.load import load
from broker.config.schema import Api, Auth, ChannelPolicy, Config, Drain, Hook, Limits, Server

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
)
FILE = Path(__file__).parents[3] / "config" / "broker.toml"


def test_starting_with_the_reference_file_is_starting_with_the_defaults() -> None:
    loaded = load(FILE)
    assert loaded.server == Server()
    assert loaded.limits == Limits()
    assert loaded.drain == Drain()
    assert loaded.api == Api()
    assert loaded.auth == Auth()
    assert loaded.hook == Hook()
    assert loaded.channels == {">": ChannelPolicy()}
    assert Config().channels == {}


def test_every_key_of_the_schema_is_in_the_reference_file_in_the_same_order() -> None:
    tree = tomllib.loads(FILE.read_text())
    assert tuple(tree) == Config.__struct_fields__
    assert tuple(tree["server"]) == Server.__struct_fields__
    assert tuple(tree["limits"]) == Limits.__struct_fields__
    assert tuple(tree["drain"]) == Drain.__struct_fields__
    for section, struct in (("api", Api), ("auth", Auth), ("hook", Hook)):
        assert sorted(tree[section]) == sorted(struct.__struct_fields__)
    assert tuple(tree["channels"][">"]) == ChannelPolicy.__struct_fields__


def test_every_key_of_the_reference_file_is_explained() -> None:
    explained = False
    for line in FILE.read_text().splitlines():
        if line.startswith("#"):
            explained = True
        elif not line or line.startswith("["):
            explained = False
        elif not line.startswith(SHARE_AN_EXPLANATION):
            assert explained, line
            explained = False
