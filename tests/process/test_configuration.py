"""`check-config` and `show-config` as an operator, a script and a unit file use them."""

import json
import tomllib
from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.reload import all_keys
from tests.integration.harness import request
from tests.process.command import read_head, run, serving

USAGE = 2
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

SITE = f"""
[server]
listen = "127.0.0.1:8000"
origins = ["https://www.example.org"]
[api.keys.shop]
sha256 = "{HASH}"
[hook]
url = "http://127.0.0.1:9/hook?secret=hunter2"
cookies = ["sessionid"]
[channels."user.{{sub}}"]
subscribe = "authenticated"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "broker.toml"
    path.write_text(SITE)
    return path


def test_a_right_configuration_is_one_line_of_what_would_be_served(file: Path) -> None:
    result = run("check-config", "--config", str(file), "--workers", "auto")
    assert (result.status, result.errors) == (0, "")
    assert result.output == (
        "would serve WebSockets on 127.0.0.1:8000 with auto workers; the API on 127.0.0.1:8001 (1 key); "
        "clients: by asking the site (hook.url); 1 channel pattern\n"
    )


def test_a_wrong_configuration_is_a_line_for_each_fault_of_each_layer(file: Path) -> None:
    file.write_text('[server]\nstate_directory = "/nowhere"\n[limits]\nmax_haeders = 1\n')
    result = run(
        *("check-config", "--config", str(file), "--listen", "80"),
        WSBROKER_LIMITS_MAX_HEADERS="many",
        WSBROKER_SERVER_PORT="80",
    )
    assert (result.status, result.output) == (USAGE, "")
    assert [line.removeprefix("ws-broker: ").split(": ")[0] for line in result.errors.splitlines()] == [
        "limits.max_headers",
        "limits.max_haeders",
        "server.listen",
        "WSBROKER_SERVER_PORT",
        "nobody could connect",
        "server.state_directory",
    ]
    assert "(by --listen)" in result.errors
    assert f"(in {file})" in result.errors
    assert "(by WSBROKER_LIMITS_MAX_HEADERS)" in result.errors


def test_a_state_directory_that_cannot_be_written_is_found_before_the_start(tmp_path: Path) -> None:
    for folder in (str(tmp_path / "absent"), __file__):
        for command in ("check-config", "serve"):
            result = run(command, "--dev", "--listen", "127.0.0.1:0", WSBROKER_SERVER_STATE_DIRECTORY=folder)
            assert (result.status, result.output) == (USAGE, "")
            assert result.one_line == f"server.state_directory: {folder} is no directory that can be written"


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_an_empty_or_unreadable_key_file_fails_closed(tmp_path: Path, command: str) -> None:
    """Mosquitto CVE-2018-12550: an empty file of permissions was open to everybody."""
    (tmp_path / "empty").write_text("")
    for name in ("empty", "absent"):
        keys = json.dumps({"main": {"algorithm": "HS256", "file": str(tmp_path / name)}})
        result = run(command, WSBROKER_AUTH_KEYS=keys)
        assert (result.status, result.output) == (USAGE, "")
        assert result.one_line.startswith('auth.keys."main"')


def test_the_file_may_be_named_by_the_environment(file: Path) -> None:
    assert "1 channel pattern" in run("check-config", WSBROKER_CONFIG=str(file)).output
    result = run("check-config", "--config", "/nowhere/other.toml", WSBROKER_CONFIG=str(file))
    assert result.one_line == "/nowhere/other.toml: No such file or directory"


def test_the_default_configuration_lets_nobody_in_and_says_what_to_do() -> None:
    result = run("check-config")
    assert (result.status, result.output) == (USAGE, "")
    assert result.one_line.startswith("nobody could connect: ")
    assert "--dev" in result.one_line


def test_every_value_in_force_is_shown_with_who_set_it(file: Path) -> None:
    result = run("show-config", "--config", str(file), "--listen", "127.0.0.1:1", WSBROKER_SERVER_WORKERS="3")
    assert (result.status, result.errors) == (0, "")
    lines = result.output.splitlines()
    assert 'listen = "127.0.0.1:1"  # --listen' in lines
    assert "workers = 3  # WSBROKER_SERVER_WORKERS" in lines
    assert f'origins = ["https://www.example.org"]  # {file}' in lines
    assert "max_headers = 100  # default" in lines
    assert f'subscribe = "authenticated"  # {file}' in lines
    tree = tomllib.loads(result.output)
    shown = {f"{section}.{key}" for section in tree if section != "channels" for key in tree[section]}
    shown |= {f"channels.{key}" for key in tree["channels"]["user.{sub}"]}
    assert shown | {"auth.keys"} == set(all_keys())  # of the latter there are none


def test_what_is_shown_as_toml_is_the_same_configuration_again(tmp_path: Path) -> None:
    result = run("show-config", "--dev", "--history", "5", WSBROKER_SERVER_EXTRA_CHANNEL_CHARACTERS='/"\\é')
    again = tmp_path / "again.toml"
    again.write_text(result.output)
    extra = {"server.dev": True, "server.extra_channel_characters": '/"\\é', "admin.listen": ""}
    assert load(again) == load(None, extra, 5)


def test_the_same_as_json_for_scripts(file: Path) -> None:
    result = run("show-config", "--config", str(file), "--format", "json", WSBROKER_SERVER_WORKERS="3")
    tree = json.loads(result.output)
    assert tree["server"]["workers"] == {"value": 3, "from": "WSBROKER_SERVER_WORKERS"}
    assert tree["limits"]["max_headers"] == {"value": 100, "from": "default"}
    assert tree["channels"]["user.{sub}"]["subscribe"] == {"value": "authenticated", "from": str(file)}
    assert tree["api"]["keys"]["shop"]["scopes"] == {"value": ["publish"], "from": "default"}


@pytest.mark.parametrize("form", ["toml", "json"])
def test_nothing_secret_is_shown(file: Path, form: str) -> None:
    result = run("show-config", "--config", str(file), "--format", form)
    assert result.status == 0
    assert "hunter2" not in result.output
    assert HASH not in result.output
    assert f"{HASH[:8]}…" in result.output
    assert "http://127.0.0.1:9/hook?…" in result.output


def test_a_wrong_configuration_is_not_shown_as_if_it_were_in_force(file: Path) -> None:
    file.write_text("[limits]\nmax_headers = 1\n")
    for form in ("toml", "json"):
        result = run("show-config", "--dev", "--config", str(file), "--format", form)
        assert (result.status, result.output) == (USAGE, "")
        assert result.one_line.startswith("limits.max_headers: ")


def test_the_environment_configures_a_broker_that_serves() -> None:
    extra = {"WSBROKER_LIMITS_MAX_CHANNELS_PER_CONNECTION": "1", "WSBROKER_PORT": "tcp://10.0.0.1:8000"}
    with serving(extra=extra) as broker:
        with broker.connect() as client:
            client.sendall(request(offer="one, two"))
            assert b" 400 " in read_head(client)
        assert broker.stop() == 0


def test_the_three_commands_have_the_same_options() -> None:
    helps = {command: run(command, "--help").output for command in ("serve", "check-config", "show-config")}
    for text in helps.values():
        for flag in ("--dev", "--listen", "--workers", "--history", "--origin", "--config"):
            assert flag in text
        assert "Examples:" in text
