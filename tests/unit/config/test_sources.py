"""Who set a value: what wins over what, what an error says of it, and what is kept for show-config."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.config.errors import ConfigError
from broker.config.load import Loaded, load_with_sources
from broker.config.sources import DEFAULT, DEV, Layers, Source, dotted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


def read(
    file: Path, text: str, environment: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Loaded:
    file.write_text(text)
    return load_with_sources(file, flags, None, environment, {"server.listen": "--listen"})


def told(file: Path, text: str, environment: Mapping[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(file, text, environment, {key.replace("_", ".", 1): value for key, value in flags.items()})
    return [problem.replace(str(file), "FILE") for problem in caught.value.problems]


def test_the_environment_wins_over_the_file_and_a_flag_over_both(file: Path) -> None:
    text = '[server]\nlisten = "127.0.0.1:1"\nrefusal = "http"\ntext_ping = false\n'
    environment = {"WSBROKER_SERVER_LISTEN": "127.0.0.1:2", "WSBROKER_SERVER_REFUSAL": "close"}
    loaded = read(file, text, environment, {"server.listen": "127.0.0.1:3"})
    server = loaded.config.server
    assert (server.listen, server.refusal, server.text_ping) == ("127.0.0.1:3", "close", False)
    assert loaded.sources[("server", "listen")] == Source("flag", "--listen")
    assert loaded.sources[("server", "refusal")] == Source("environment", "WSBROKER_SERVER_REFUSAL")
    assert loaded.sources[("server", "text_ping")] == Source("file", str(file))
    assert ("server", "workers") not in loaded.sources


def test_a_named_table_of_the_environment_adds_to_the_file_key_by_key(file: Path) -> None:
    text = '[channels.a]\nqueue = "latest"\npayload = "json"\n[channels.b]\n'
    environment = {"WSBROKER_CHANNELS": '{a = {queue = "disconnect"}, "c.*" = {subscribe = "anyone"}}'}
    loaded = read(file, text, environment)
    channels = loaded.config.channels
    assert list(channels) == ["a", "b", "c.*"]
    assert (channels["a"].queue, channels["a"].payload) == ("disconnect", "json")
    assert str(loaded.sources[("channels", "a", "queue")]) == "WSBROKER_CHANNELS"
    assert loaded.sources[("channels", "a", "payload")].kind == "file"


def test_what_is_so_because_of_dev_says_so_unless_somebody_set_it(file: Path) -> None:
    loaded = read(file, "[drain]\nwindow_seconds = 3\n", {}, {"server.dev": True})
    assert loaded.sources[("drain", "delay_seconds")] == DEV
    assert loaded.sources[("drain", "window_seconds")].kind == "file"


def test_every_fault_says_where_it_is_whichever_layer_made_it(file: Path) -> None:
    text = '[server]\nrefusal = "sulk"\n[limits]\nmax_haeders = 1\n[channels.a]\nqueue = "catch_up"\n'
    environment = {"WSBROKER_LIMITS_MAX_HEADERS": "many", "WSBROKER_SERVER_ORIGINS": "https://a.example,b"}
    assert told(file, text, environment, server_listen="nowhere") == [
        "limits.max_headers: must be a whole number (by WSBROKER_LIMITS_MAX_HEADERS)",
        "server.refusal: must be one of auto, close, http (in FILE)",
        "limits.max_haeders: unknown key; did you mean limits.max_headers? (in FILE)",
        "server.origins[1]: 'b' is not an origin: scheme://host or scheme://host:port, nothing after it "
        "(by WSBROKER_SERVER_ORIGINS)",
        "server.listen: 'nowhere' is not HOST:PORT (for example 127.0.0.1:8000 or [::1]:8000) (by --listen)",
        'channels."a".queue: catch_up reads on from the history, so history_count must be above 0 (in FILE)',
    ]


def test_a_file_that_cannot_be_read_does_not_hide_what_is_wrong_elsewhere(tmp_path: Path) -> None:
    environment = {
        "WSBROKER_LIMITS_MAX_HEADERS": "0",
        "WSBROKER_LIMITS_PING": "1",
        "WSBROKER_SERVER_CLIENT_ADDRESS": "forwarded",  # the file may well say trusted_proxies
    }
    with pytest.raises(ConfigError) as caught:
        load_with_sources(tmp_path / "absent.toml", None, None, environment)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        str(tmp_path / "absent.toml"),
        "limits.max_headers",
        "WSBROKER_LIMITS_PING",
    ]


def test_a_table_that_misses_something_is_found_where_it_is(file: Path) -> None:
    (line,) = told(file, "[api.keys.shop]\n")
    assert line == 'api.keys."shop".sha256: is missing; `ws-broker api-key` makes a key and prints it (in FILE)'


def test_nothing_is_said_of_a_value_that_goes_with_one_that_cannot_be_read(file: Path) -> None:
    text = '[server]\nclient_address = "forwarded"\ntrusted_proxies = "10.0.0.0/8"\n'
    (line,) = told(file, text)
    assert line.startswith("server.trusted_proxies: expected `array`")


def test_a_value_where_another_layer_has_a_table_is_told(file: Path) -> None:
    assert told(file, "limits = 1\n", {"WSBROKER_LIMITS_MAX_HEADERS": "50"}) == ["limits: must be a table (in FILE)"]
    assert told(file, "channels = 1\n", {"WSBROKER_CHANNELS": "{}"}) == ["channels: must be a table (in FILE)"]


def test_a_key_of_the_api_comes_as_a_table_by_a_flag_beside_those_of_the_file(file: Path) -> None:
    text = f'[api.keys.shop]\nsha256 = "{"a" * 64}"\n'
    loaded = read(file, text, None, {"api.keys.dev": {"sha256": "b" * 64, "scopes": ["admin"]}})
    assert sorted(loaded.config.api.keys) == ["dev", "shop"]
    assert loaded.config.api.keys["dev"].scopes == ("admin",)


def test_names_are_quoted_in_paths_because_they_may_hold_dots() -> None:
    assert dotted(("channels", "a.>", "queue")) == 'channels."a.>".queue'
    assert dotted(("api", "keys", "my.key", "channels", 0)) == 'api.keys."my.key".channels[0]'
    assert dotted(("server", "origins", 2)) == "server.origins[2]"


def test_what_nobody_set_is_the_default() -> None:
    assert Layers().source(("server", "listen")) == DEFAULT
    assert str(DEFAULT) == "default"
