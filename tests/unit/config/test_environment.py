"""Settings in the environment: how each type is read, and which variables with our prefix are whose."""

from collections.abc import Mapping

import pytest

from broker.config.environment import OF_COMMANDS, settings, strangers
from broker.config.errors import ConfigError
from broker.config.load import load
from broker.config.reload import all_keys
from broker.config.schema import Config


def by(**variables: str) -> Config:
    return load(None, None, None, {f"WSBROKER_{name}": text for name, text in variables.items()})


def wrong(environment: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, None, None, environment)
    return list(caught.value.problems)


def test_every_key_has_a_variable() -> None:
    keys = {".".join(map(str, path)) for path, _ in settings().values()}
    assert keys == {key for key in all_keys() if not key.startswith("channels.")} | {"channels"}
    assert not OF_COMMANDS & set(settings())


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("SERVER_LISTEN", "127.0.0.1:9", "server.listen", "127.0.0.1:9"),
        ("API_LISTEN", "", "api.listen", ""),
        ("SERVER_REFUSAL", "close", "server.refusal", "close"),
        ("SERVER_WORKERS", "4", "server.workers", 4),
        ("SERVER_WORKERS", "auto", "server.workers", "auto"),
        ("SERVER_TEXT_PING", "false", "server.text_ping", False),
        ("SERVER_TEXT_PING", "0", "server.text_ping", False),
        ("SERVER_DEV", "True", "server.dev", True),
        ("SERVER_DEV", "1", "server.dev", True),
        ("LIMITS_MAX_MESSAGE_BYTES", "131_072", "limits.max_message_bytes", 131_072),
        ("LIMITS_PING_SECONDS", "20", "limits.ping_seconds", 20.0),
        ("LIMITS_PING_JITTER", "1e-1", "limits.ping_jitter", 0.1),
        ("SERVER_ORIGINS", "https://a.example, https://b.example", "server.origins", ["https://a.example", "https://b.example"]),
        ("SERVER_ORIGINS", "", "server.origins", []),
        ("SERVER_EXTRA_CHANNEL_CHARACTERS", "/,", "server.extra_channel_characters", "/,"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_its_keys_type(variable: str, text: str, key: str, value: object) -> None:
    section, _, name = key.partition(".")
    read = getattr(getattr(by(**{variable: text}), section), name)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("SERVER_DEV", "yes", "server.dev: must be true or false"),
        ("SERVER_DEV", "", "server.dev: must be true or false"),
        ("LIMITS_MAX_HEADERS", "1.5", "limits.max_headers: must be a whole number"),
        ("LIMITS_MAX_HEADERS", "\u0663\u0663", "limits.max_headers: must be a whole number"),
        ("LIMITS_MAX_HEADERS", "", "limits.max_headers: must be a whole number"),
        ("LIMITS_MAX_HEADERS", "1", "limits.max_headers: expected `int` >= 8"),
        ("LIMITS_PING_SECONDS", "soon", "limits.ping_seconds: must be a number"),
        ("LIMITS_PING_SECONDS", "nan", "limits.ping_seconds: expected `float`"),
        ("SERVER_WORKERS", "two", "server.workers: must be a number or auto"),
        ("SERVER_REFUSAL", "sulk", "server.refusal: must be one of auto, close, http"),
        ("SERVER_STATE_DIRECTORY", "/tmp/\udcff", "server.state_directory: is not UTF-8"),
        ("CHANNELS", "news", "channels: is neither a TOML inline table"),
        ("CHANNELS", "[1]", "channels: must be one table"),
        ("CHANNELS", "{}\ny = 1", "channels: must be one table"),
        ("CHANNELS", '{"a": {}, "a": {"publish": "anyone"}}', "channels: names a key twice"),
        ("CHANNELS", '{"a": 1}', 'channels."a": must be a table'),
        ("CHANNELS", "[" * 100_000, "channels: "),
        ("API_KEYS", '{"shop": {"sha256": "x"}}', 'api.keys."shop".sha256: is not the SHA-256'),
    ],
)
def test_a_value_of_another_type_is_told_with_its_variable(variable: str, text: str, said: str) -> None:
    (line,) = wrong({f"WSBROKER_{variable}": text})
    assert line.startswith(said)
    assert line.endswith(f"(by WSBROKER_{variable})")


@pytest.mark.parametrize(
    "text",
    ['{news = {subscribe = "anyone"}}', '{"news": {"subscribe": "anyone"}}', '\n{"news":\n {"subscribe": "anyone"}}\n'],
)
def test_a_named_table_is_an_inline_table_or_json(text: str) -> None:
    assert by(CHANNELS=text).channels["news"].subscribe == "anyone"


def test_keys_come_through_the_environment_as_well() -> None:
    config = by(
        API_KEYS=f'{{shop = {{sha256 = "{"a" * 64}", scopes = ["publish", "read"]}}}}',
        AUTH_KEYS='{"main": {"algorithm": "HS256", "environment": "TOKEN_SECRET"}}',
    )
    assert config.api.keys["shop"].scopes == ("publish", "read")
    assert config.auth.keys["main"].environment == "TOKEN_SECRET"


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("WSBROKER_LIMITS_MAX_HAEDERS", "did you mean WSBROKER_LIMITS_MAX_HEADERS?"),
        ("WSBROKER_SERVER_ORIGIN", "did you mean WSBROKER_SERVER_ORIGINS?"),
        ("WSBROKER_SERVER_PORT", "addresses are HOST:PORT, in WSBROKER_SERVER_LISTEN"),
        ("WSBROKER_PORT", "addresses are HOST:PORT, in WSBROKER_SERVER_LISTEN"),
        ("WSBROKER_CHANNELS_NEWS_PUBLISH", "this table is set as a whole, as in WSBROKER_CHANNELS='{name = {…}}'"),
        ("WSBROKER_API_KEYS_SHOP", "this table is set as a whole, as in WSBROKER_API_KEYS='{name = {…}}'"),
        ("WSBROKER_", "settings are WSBROKER_<SECTION>_<KEY>"),
        ("WSBROKER_QUUX", "settings are WSBROKER_<SECTION>_<KEY>"),
    ],
)
def test_a_variable_that_nobody_reads_is_an_error_with_a_hint(variable: str, hint: str) -> None:
    (line,) = wrong({variable: "hunter2"})
    assert line.startswith(f"{variable}: unknown variable; {hint}")
    assert "hunter2" not in line


def test_what_kubernetes_injects_for_services_of_that_name_is_no_mistake() -> None:
    injected = {
        "WSBROKER_SERVICE_HOST": "10.3.0.7",
        "WSBROKER_SERVICE_PORT": "8000",
        "WSBROKER_SERVICE_PORT_WEBSOCKET": "8000",
        "WSBROKER_PORT": "tcp://10.3.0.7:8000",
        "WSBROKER_PORT_8000_TCP": "tcp://10.3.0.7:8000",
        "WSBROKER_PORT_8000_TCP_PROTO": "tcp",
        "WSBROKER_PORT_8000_TCP_PORT": "8000",
        "WSBROKER_PORT_8000_TCP_ADDR": "10.3.0.7",
        "WSBROKER_PORT_53_UDP": "udp://10.3.0.7:53",
        "WSBROKER_PORT_53_UDP_ADDR": "10.3.0.7",
        "WSBROKER_API_SERVICE_HOST": "10.3.0.8",  # of a service wsbroker-api
        "WSBROKER_API_PORT": "tcp://10.3.0.8:8001",
        "WS_BROKER_SERVICE_HOST": "10.3.0.9",
    }
    assert load(None, None, None, injected) == load()


def test_names_of_the_client_commands_and_what_the_configuration_names_itself_are_known() -> None:
    environment = {
        **dict.fromkeys(OF_COMMANDS, "x"),
        "WSBROKER_AUTH_KEYS": '{main = {algorithm = "HS256", environment = "WSBROKER_TOKEN_SECRET"}}',
        "WSBROKER_TOKEN_SECRET": "s3cret",
        "WSBROKER_HOOK_URL": "https://site.test/hook",
        "WSBROKER_HOOK_SECRET_ENVIRONMENT": "WSBROKER_HOOK_SECRET",
        "WSBROKER_HOOK_SECRET": "s3cret",
    }
    assert load(None, None, None, environment).hook.secret_environment == "WSBROKER_HOOK_SECRET"
    assert list(strangers({"WSBROKER_HOOK_SECRET": "s3cret"}, ())) != []


def test_what_has_another_prefix_is_none_of_ours() -> None:
    assert list(strangers({"PATH": "/bin", "WSBROKERS": "1", "wsbroker_server_listen": "x"}, ())) == []
