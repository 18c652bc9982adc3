"""`ws-broker token`, `new-key`, `api-key`: what they make fits the broker, and no secret shows where it must not."""

import hashlib
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import jwt
import pytest

from broker.config.load import load
from tests.process.command import run

USAGE, CANNOT = 2, 1
SECRET = "0123456789abcdef0123456789abcdef"


def made(folder: Path, algorithm: str = "ES256") -> tuple[Path, Path]:
    """Private file and the one the broker reads."""
    result = run("new-key", str(folder), "--algorithm", algorithm)
    assert result.status == 0
    (table,) = tomllib.loads(result.output)["auth"]["keys"].values()
    assert table["algorithm"] == algorithm
    public = Path(table["file"])
    return (public if algorithm == "HS256" else folder / "site.private.pem"), public


def claims(token: str, public: Path, algorithm: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, public.read_text().strip(), algorithms=[algorithm], **more)
    return found


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256", "HS256"])
def test_a_new_key_signs_a_token_that_its_public_half_verifies(algorithm: str, tmp_path: Path) -> None:
    private, public = made(tmp_path / "keys", algorithm)
    flag = "--secret-file" if algorithm == "HS256" else "--key-file"
    result = run("token", "--sub", "ann", flag, str(private))
    assert (result.status, result.errors) == (0, "")
    (token,) = result.output.splitlines()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    said = claims(token, public, algorithm)
    assert said["sub"] == "ann"
    assert said["exp"] - said["iat"] == 3600


def test_only_its_owner_can_read_a_private_key_and_it_is_never_overwritten(tmp_path: Path) -> None:
    private, public = made(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert b"PRIVATE" not in public.read_bytes()
    before = private.read_bytes()
    again = run("new-key", str(tmp_path))
    assert again.status == CANNOT
    assert "never overwritten" in again.one_line
    assert private.read_bytes() == before


def test_the_printed_lines_are_a_configuration(tmp_path: Path) -> None:
    tables = run("new-key", str(tmp_path)).output + run("api-key", "backend").output
    file = tmp_path / "broker.toml"
    file.write_text(tables)
    config = load(file, {"server.dev": True})
    assert config.auth.keys["site"].file == str(tmp_path / "site.public.pem")
    assert config.api.keys["backend"].scopes == ("publish",)


def test_a_token_says_all_that_it_was_asked_to(tmp_path: Path) -> None:
    private, public = made(tmp_path)
    rights = ["--subscribe", "room.*", "--subscribe", "news", "--publish", "room.42", "--subs", "user.ann"]
    names = ["--kid", "k1", "--issuer", "https://site.test", "--audience", "broker", "--info", '{"name": "Ann"}']
    token = run("token", "--sub", "ann", *rights, *names, "--expires", "15m", "--key-file", str(private)).output.strip()
    assert jwt.get_unverified_header(token)["kid"] == "k1"
    said = claims(token, public, "ES256", audience="broker", issuer="https://site.test")
    assert said.pop("exp") - said.pop("iat") == 900
    assert said == {
        "sub": "ann",
        "subscribe": ["room.*", "news"],
        "publish": ["room.42"],
        "subs": ["user.ann"],
        "info": {"name": "Ann"},
        "iss": "https://site.test",
        "aud": "broker",
    }


def test_a_key_can_come_from_the_environment(tmp_path: Path) -> None:
    private, public = made(tmp_path)
    result = run("token", "--sub", "ann", "--key-environment", "SIGNING", SIGNING=private.read_text())
    assert claims(result.output.strip(), public, "ES256")["sub"] == "ann"
    shared = run("token", "--sub", "ann", "--key-environment", "SIGNING", SIGNING=SECRET)
    assert jwt.decode(shared.output.strip(), SECRET, algorithms=["HS256"])["sub"] == "ann"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ws-broker new-key keys"),
        (["--key-file", "site.public.pem"], "is a public key"),
        (["--key-file", "site.private.pem", "--algorithm", "RS256"], "is a key for ES256, not for RS256"),
        (["--key-file", "site.private.pem", "--secret-file", "short"], "signed with one key"),
        (["--secret-file", "site.private.pem"], "is a PEM"),
        (["--secret-file", "short"], "HS256 needs 32 or more"),
        (["--secret-file", "empty"], "is empty"),
        (["--secret-file", "nowhere"], "no such file"),
        (["--key-file", "short"], "is neither PEM nor a JWK"),
        (["--key-file", "broken.pem"], "is no private key that can be read"),
        (["--key-environment", "NOT_THERE"], "not set, or empty"),
        (["--key-file", "site.private.pem", "--expires", "1 hour"], "is not a time like"),
        (["--key-file", "site.private.pem", "--expires", "0s"], "is not between"),
        (["--key-file", "site.private.pem", "--info", "{"], "not JSON"),
        (["--key-file", "site.private.pem", "--subscribe", "a.>.b"], "> stands only at the end"),
        (["--key-file", "site.private.pem", "--subs", "room.*"], "no pattern"),
    ],
)
def test_a_token_that_could_not_be_right_is_not_made(arguments: list[str], said: str, tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "short").write_text("hunter2hunter2")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "broken.pem").write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
    paths = [str(tmp_path / one) if (tmp_path / one).exists() or one == "nowhere" else one for one in arguments]
    result = run("token", "--sub", "ann", *paths)
    assert (result.status, result.output) == (USAGE, "")
    assert said in " ".join(result.errors.split())
    assert "hunter2" not in result.errors


def test_an_api_key_is_shown_once_and_its_hash_is_for_the_configuration() -> None:
    result = run("api-key", "chat", "--scope", "publish", "--scope", "read", "--channel", "room.*")
    assert result.status == 0
    key = result.errors.splitlines()[-1].removeprefix("WSBROKER_API_KEY=")
    assert len(key) >= 43
    assert key not in result.output
    assert tomllib.loads(result.output)["api"]["keys"]["chat"] == {
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "scopes": ["publish", "read"],
        "channels": ["room.*"],
    }
    assert run("api-key", "chat").errors.splitlines()[-1] != result.errors.splitlines()[-1]


def test_an_api_key_can_go_to_a_private_file_unseen(tmp_path: Path) -> None:
    file = tmp_path / "key"
    result = run("api-key", "chat", "--key-file", str(file))
    assert (result.status, result.errors) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = file.read_text().strip()
    assert hashlib.sha256(key.encode()).hexdigest() in result.output
    assert run("api-key", "chat", "--key-file", str(file)).status == CANNOT


@pytest.mark.parametrize("arguments", [["a.b"], ["x", "--scope", "all"], ["x", "--channel", "a.>.b"], []])
def test_an_api_key_that_no_broker_would_take_is_not_made(arguments: list[str]) -> None:
    result = run("api-key", *arguments)
    assert (result.status, result.output) == (USAGE, "")
    assert "WSBROKER_API_KEY" not in result.errors


def test_no_flag_takes_a_secret() -> None:
    for command in (
        "publish",
        "subscribe",
        "token",
        "new-key",
        "api-key",
        "channels",
        "sessions",
        "disconnect",
        "serve",
    ):
        text = run(command, "--help").output
        for name in ("--key ", "--api-key ", "--secret ", "--token ", "--password "):
            assert name not in text, json.dumps([command, name])
