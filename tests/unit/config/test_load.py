"""What an operator is told about a configuration, before anything starts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.config.errors import ConfigError
from broker.config.load import load
from broker.config.values import is_loopback, parse_listen
from broker.protocol.names import NameRule

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str) -> Path:
        path = tmp_path / "broker.toml"
        path.write_text(text)
        return path

    return to_file


def problems(path: Path | None, overrides: dict[str, object] | None = None) -> list[str]:
    """What is told, without who set it, which tests/unit/config/test_sources.py is about."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return [line.removesuffix(f" (in {path})").removesuffix(" (by a flag)") for line in caught.value.problems]


def test_no_file_and_no_flags_is_a_working_configuration() -> None:
    config = load()
    assert config.server.listen == "127.0.0.1:8000"
    assert not config.server.dev


def test_a_flag_wins_over_the_file(write: Write) -> None:
    path = write('[server]\nlisten = "127.0.0.1:1"\ntext_ping = false\n')
    config = load(path, {"server.listen": "127.0.0.1:2", "limits.max_headers": 50})
    assert (config.server.listen, config.server.text_ping, config.limits.max_headers) == ("127.0.0.1:2", False, 50)


def test_a_whole_number_is_taken_where_seconds_are_asked_for(write: Write) -> None:
    assert load(write("[limits]\nmessage_seconds = 3\n")).limits.message_seconds == 3.0


def test_everything_wrong_is_reported_at_once_with_dotted_paths(write: Write) -> None:
    path = write(
        "limts = 3\n"
        '[server]\nlisten = "0.0.0.0:8000"\ndev = true\norigins = ["https://a.example/", "null"]\n'
        '[limits]\nmax_mesage_bytes = 3\nmax_headers = "many"\nping_jitter = 2\npong_seconds = 30\n'
        '[channels."room*"]\npayload = "xml"\n[channels.news]\nfoo = 1\n'
    )
    found = problems(path, {"server.refusal": "sulk"})
    assert [line.split(": ")[0] for line in found] == [
        "limts",
        "server.refusal",
        "limits.max_mesage_bytes",
        "limits.max_headers",
        "limits.ping_jitter",
        'channels."room*".payload',
        'channels."news".foo',
        "server.origins[0]",
        "server.listen",
        "limits.pong_seconds",
        'channels."room*"',
    ]


def test_a_misspelt_key_is_answered_with_the_right_one(write: Write) -> None:
    assert problems(write("[limits]\nmax_mesage_bytes = 3\n")) == [
        "limits.max_mesage_bytes: unknown key; did you mean limits.max_message_bytes?"
    ]


def test_a_wrong_choice_is_answered_with_the_choices(write: Write) -> None:
    assert problems(write('[channels.a]\nqueue = "drop"\n')) == [
        'channels."a".queue: must be one of auto, disconnect, drop_oldest, drop_newest, latest, catch_up'
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_fragments", 65_536),  # the parser counts fragments in 16 bits
        ("max_message_bytes", 2**32),
        ("max_message_bytes", -1),
        ("max_message_bytes", True),
        ("max_message_bytes", 1.5),
        ("handshake_seconds", 0),
        ("handshake_seconds", float("nan")),
        ("handshake_seconds", float("inf")),
        ("ping_jitter", -0.1),
        ("max_connections", -1),
        ("max_json_depth", 100_000),
    ],
)
def test_a_value_that_native_code_could_not_hold_never_reaches_it(key: str, value: object) -> None:
    (line,) = problems(None, {f"limits.{key}": value})
    assert line.startswith(f"limits.{key}: ")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"limits.max_offer_bytes": 16_385}, "limits.max_offer_bytes"),
        ({"limits.max_message_bytes": 1_048_577}, "limits.max_message_bytes"),
        ({"limits.send_queue_bytes": 2**30, "limits.memory_bytes": 2**20}, "limits.send_queue_bytes"),
        ({"limits.refusal_hold_min_seconds": 4.0}, "limits.refusal_hold_min_seconds"),
        ({"limits.pong_seconds": 26.0}, "limits.pong_seconds"),
        ({"limits.presence_info_bytes": 2048, "limits.presence_list_bytes": 2047}, "limits.presence_info_bytes"),
        ({"server.dev_on_any_address": True}, "server.dev_on_any_address"),
        ({"server.listen": "0.0.0.0:1", "server.dev": True}, "server.listen"),
        ({"server.listen": "example.org:1", "server.dev": True}, "server.listen"),
        ({"server.extra_channel_characters": "/*"}, "server.extra_channel_characters"),
    ],
)
def test_values_that_contradict_each_other_stop_the_start(settings: dict[str, object], key: str) -> None:
    (line,) = problems(None, settings)
    assert line.startswith(f"{key}: ")


@pytest.mark.parametrize("extra", ["", "/", "é$", "|%", "*", ">", " ", "\n", "\x00", "\u202e", "\u00a0", "a*"])
def test_the_check_allows_exactly_the_characters_that_names_can_then_hold(extra: str) -> None:
    try:
        NameRule(extra)
        works = True
    except ValueError:
        works = False
    try:
        load(None, {"server.extra_channel_characters": extra})
        passes = True
    except ConfigError:
        passes = False
    assert works is passes


def test_dev_listens_on_a_network_only_when_told_so_by_name() -> None:
    config = load(None, {"server.listen": "0.0.0.0:1", "server.dev": True, "server.dev_on_any_address": True})
    assert config.server.listen == "0.0.0.0:1"


@pytest.mark.parametrize("text", ["[limits", "[limits]\nlimits = 1\nlimits = 2\n", "\x00"])
def test_a_file_that_is_not_toml_is_named(write: Write, text: str) -> None:
    path = write(text)
    (line,) = problems(path)
    assert line.startswith(f"{path}: not TOML")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_bytes(b"\xff\xfe")
    assert problems(path)[0].startswith(f"{path}: not TOML")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "absent.toml") == [f"{tmp_path / 'absent.toml'}: No such file or directory"]


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"#" * (2**20 + 1))
    assert "larger than 1 MiB" in problems(path)[0]


@pytest.mark.parametrize("text", ["server = 1\n", "channels = 1\n", "[channels]\na = 1\n", "limits = []\n"])
def test_a_value_where_a_table_belongs_is_said_plainly(write: Write, text: str) -> None:
    (line,) = problems(write(text))
    assert line.endswith("must be a table")


def test_a_flag_for_a_section_that_is_no_table_does_not_hide_the_mistake(write: Write) -> None:
    found = problems(write("limits = 1\n"), {"limits.max_headers": 50})
    assert "limits: must be a table" in found


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_a_listen_address_is_host_and_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "8000", ":8000", "::1:8000", "[::1:8000", "[x]:1", "a:65536", "a:", "a:٣", "a:-1"]
)
def test_a_listen_address_that_could_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[Hh]ost|HOST|IPv6"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("example.org", False),
    ],
)
def test_only_what_stays_on_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_who_develops_does_not_wait_for_the_end_unless_it_is_asked_for(write: Write) -> None:
    assert (load().drain.delay_seconds, load().drain.window_seconds) == (0.0, 10.0)
    for overrides in ({"server.dev": True}, {"server.dev": True, "drain.closes_per_second": 5}):
        drain = load(None, overrides).drain
        assert (drain.delay_seconds, drain.window_seconds) == (0.0, 0.0)
    drain = load(write("[drain]\nwindow_seconds = 3\n"), {"server.dev": True}).drain
    assert (drain.delay_seconds, drain.window_seconds) == (0.0, 3.0)


@pytest.mark.parametrize("dev", [True, False])
def test_a_drain_that_is_no_table_is_reported(write: Write, dev: bool) -> None:
    assert problems(write("drain = 3\n"), {"server.dev": dev}) == ["drain: must be a table"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("delay_seconds", -1), ("window_seconds", -1), ("closes_per_second", 0), ("reconnect_seconds", -1)],
)
def test_an_end_that_cannot_be_is_refused(key: str, value: int) -> None:
    (problem,) = problems(None, {f"drain.{key}": value})
    assert problem.startswith(f"drain.{key}: ")


def test_history_that_contradicts_itself_is_told(write: Write) -> None:
    assert problems(write('[channels.a]\nqueue = "catch_up"\n')) == [
        'channels."a".queue: catch_up reads on from the history, so history_count must be above 0'
    ]
    (problem,) = problems(write("[limits]\nhistory_bytes = 65_536\n[channels.a]\nhistory_count = 1\n"))
    assert problem.startswith('channels."a".history_bytes: must not be above limits.history_bytes (65536)')
    load(write("[limits]\nhistory_bytes = 65_536\n[channels.a]\n"))  # without history its bytes mean nothing
    (problem,) = problems(write("[limits]\nhandshake_seconds = 20.0\n"))
    assert problem.startswith("limits.handshake_seconds: must not be above limits.interest_linger_seconds")


def test_the_flag_for_history_holds_for_every_channel_that_does_not_say_otherwise(write: Write) -> None:
    config = load(write('[channels.a]\nqueue = "catch_up"\n[channels.b]\nhistory_count = 0\n'), None, 7)
    assert {pattern: policy.history_count for pattern, policy in config.channels.items()} == {"a": 7, "b": 0, ">": 7}
    assert load(None, None, 7).channels[">"].history_count == 7
    assert load(None).channels == {}


def test_a_message_that_fits_no_link_is_told(write: Write) -> None:
    (problem,) = problems(write("[limits]\nmax_message_bytes = 200_000\nlink_output_bytes = 100_000\n"))
    assert problem.startswith("limits.max_message_bytes: must not be above limits.link_output_bytes (100000)")


def test_a_message_that_fits_no_bucket_is_a_mistake() -> None:
    (problem,) = problems(None, {"limits.byte_burst": 65_535})
    assert problem.startswith("limits.max_message_bytes: must not be above limits.byte_burst (65535)")


def test_proxies_are_addresses_and_networks_of_both_kinds() -> None:
    proxies = ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "::1"]
    settings = {"server.trusted_proxies": proxies, "server.client_address": "forwarded", "server.proxy_protocol": True}
    assert load(None, settings).server.trusted_proxies == proxies


def test_who_develops_is_bounded_only_by_what_is_set() -> None:
    limits = load(None, {"server.dev": True, "limits.messages_per_second": 7}).limits
    assert (limits.messages_per_second, limits.bytes_per_second, limits.upgrades_per_second) == (7, 0, 0)
    assert load().limits.upgrades_per_second == 2000


@pytest.mark.parametrize(
    ("listen", "api"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9001"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:9000", "[::1]:9001"),
        ("0.0.0.0:9000", "127.0.0.1:9001"),
        ("127.0.0.1:65535", "127.0.0.1:0"),
    ],
)
def test_a_second_broker_in_development_needs_one_other_port_not_two(listen: str, api: str) -> None:
    flags = {"server.dev": True, "server.listen": listen, "server.dev_on_any_address": True}
    assert load(None, flags).api.listen == api
    assert load(None, {**flags, "api.listen": "127.0.0.1:7"}).api.listen == "127.0.0.1:7"
    assert load(None, {"server.listen": "127.0.0.1:8080"}).api.listen == "127.0.0.1:8001"


def test_a_relative_path_in_a_file_is_read_beside_the_file_wherever_the_broker_is_started(write: Write) -> None:
    path = write(
        '[server]\nstate_directory = "."\n[hook]\nurl = "http://127.0.0.1/"\nsecret_file = "secret"\n'
        '[auth.keys.a]\nalgorithm = "ES256"\nfile = "keys/a.pem"\n[auth.keys.b]\nalgorithm = "ES256"\nfile = "/b.pem"\n'
    )
    config = load(path)
    assert config.server.state_directory == str(path.parent)
    assert config.hook.secret_file == str(path.parent / "secret")
    assert [key.file for key in config.auth.keys.values()] == [str(path.parent / "keys/a.pem"), "/b.pem"]
    assert load(None, {"auth.keys.a": {"algorithm": "ES256", "file": "a.pem"}}).auth.keys["a"].file == "a.pem"
