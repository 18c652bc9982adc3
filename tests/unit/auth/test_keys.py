"""What an operator may get wrong about keys: each stops the start with a line that says what to do and shows no key."""

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.auth.keys import load_keys
from broker.auth.settings import check, load_hook
from broker.config.errors import ConfigError
from broker.config.schema import Algorithm, Auth, AuthKey, Config, Hook
from tests.unit.auth.making import EC_KEY, ED_KEY, RSA_KEY, SECRET, jwk, private_pem, public_pem

SMALL_RSA = public_pem(rsa.generate_private_key(65537, 1024))
P384 = ec.generate_private_key(ec.SECP384R1()).public_key()
ED448 = ed448.Ed448PrivateKey.generate().public_key()
SPKI = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def problem(path: Path, algorithm: Algorithm, content: str | bytes) -> str:
    """The one line for a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_keys(Auth(keys={"main": AuthKey(algorithm, str(path))}))
    (line,) = caught.value.problems
    assert line.startswith('auth.keys."main".file: ')
    return line.partition(": ")[2]


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
def test_an_empty_key_file_fails_closed(algorithm: Algorithm, content: str, tmp_path: Path) -> None:
    assert problem(tmp_path / "key", algorithm, content).startswith("is empty")


def test_an_unreadable_key_file_fails_closed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * 65_537)
    for name, why in (
        ("missing", "cannot be read: no such file or directory"),
        ("fifo", "is no regular file"),
        ("large", "is larger than 64 KiB"),
        (".", "is no regular file"),
    ):
        with pytest.raises(ConfigError, match=why):
            load_keys(Auth(keys={"main": AuthKey(file=str(tmp_path / name))}))


@pytest.mark.parametrize(
    ("algorithm", "content", "why"),
    [
        ("ES256", private_pem(EC_KEY), "is a private key"),
        ("ES256", json.dumps(jwk(EC_KEY, d="AAAA")), "is a private or secret key"),
        ("RS256", SMALL_RSA, "is an RSA key of 1024 bits; RS256 takes an RSA key of 2048"),
        ("RS256", public_pem(EC_KEY), "is not for RS256, which takes an RSA key"),
        ("ES256", public_pem(RSA_KEY), "is not for ES256, which takes a key on the curve P-256"),
        ("ES256", P384.public_bytes(*SPKI), "is not for ES256"),
        ("EdDSA", ED448.public_bytes(*SPKI), "is not for EdDSA, which takes an Ed25519 key"),
        ("EdDSA", public_pem(EC_KEY), "is not for EdDSA"),
        ("HS256", public_pem(EC_KEY), "is a PEM; HS256 takes the shared secret itself"),
        ("HS256", private_pem(EC_KEY), "is a PEM"),
        ("HS256", EC_KEY.public_key().public_bytes(Encoding.DER, SPKI[1]), "is a public key"),
        ("HS256", EC_KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "is a public key"),
        ("HS256", json.dumps({"kty": "oct", "k": "A" * 43}), "is JSON"),
        ("HS256", "a" * 31, "has 31 bytes, and HS256 needs 32 or more"),
        ("ES256", SECRET, "is neither PEM nor a JWK"),
        ("ES256", "[1]", "is neither PEM nor a JWK"),
        ("ES256", json.dumps({"keys": [jwk(EC_KEY)]}), "is a key set"),
        ("ES256", json.dumps(jwk(EC_KEY, alg="ES384")), "says that it is for another algorithm"),
        ("ES256", json.dumps(jwk(EC_KEY, use="enc")), "says that it is not for signatures"),
        ("ES256", json.dumps(jwk(EC_KEY, key_ops=["sign"])), "says that it is not for signatures"),
        ("ES256", json.dumps(jwk(EC_KEY, x="AAAA")), "is no JWK that can be read"),
        ("ES256", json.dumps(jwk(EC_KEY, x=5)), "is no JWK that can be read"),
        ("RS256", json.dumps(jwk(EC_KEY)), "is not for RS256"),
        ("ES256", public_pem(EC_KEY) * 2, "holds several keys"),
        ("ES256", public_pem(EC_KEY)[:60], "is no public key that can be read"),
        ("ES256", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "is a certificate"),
    ],
)
def test_a_key_of_the_wrong_type_is_refused_and_named(
    algorithm: Algorithm, content: str | bytes, why: str, tmp_path: Path
) -> None:
    line = problem(tmp_path / "key", algorithm, content)
    assert line.startswith(why)
    text = content if isinstance(content, str) else content.decode("latin-1")
    assert not any(part in line for part in text.split("\n") if len(part) > 20 and "-----" not in part)


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    keys = {
        "none": AuthKey(),
        "two": AuthKey(file="/x", environment="X"),
        "missing": AuthKey(file="/nonexistent/key"),
        "unset": AuthKey(environment="UNSET"),
        "plain": AuthKey(jwks_url="http://idp.example/keys"),
        "shared": AuthKey("HS256", jwks_url="https://idp.example/keys", issuer="i"),
    }
    with pytest.raises(ConfigError) as caught:
        load_keys(Auth(keys=keys), {})
    assert [line.partition(": ")[0] for line in caught.value.problems] == [
        'auth.keys."none"',
        'auth.keys."two"',
        'auth.keys."missing".file',
        'auth.keys."unset".environment',
        'auth.keys."plain".jwks_url',
        'auth.keys."shared".algorithm',
        'auth.keys."plain".issuer',
    ]


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/keys",
        "http://127.0.0.1.evil.example/keys",
        "ftp://idp.example/keys",
        "file:///etc/passwd",
        "//idp.example/keys",
        "https://",
        "https://u:pass@idp.example/keys",
        "https://idp.example/keys#x",
        "https://[::1/keys",
        "https://idp.example:99999/keys",
    ],
)
def test_a_key_set_comes_from_where_nobody_can_put_in_keys(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_keys(Auth(keys={"main": AuthKey(jwks_url=url)}))
    (line,) = caught.value.problems
    assert line.startswith('auth.keys."main".jwks_url: ')
    assert "pass@" not in line


def test_keys_come_from_files_and_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(json.dumps(jwk(EC_KEY, kid="other", use="sig")))
    path.chmod(0o600)
    auth = Auth(keys={"file": AuthKey(file=str(path)), "env": AuthKey("HS256", environment="SECRET")})
    keys = load_keys(auth, {"SECRET": SECRET + "\n"})
    assert [(key.name, key.algorithm, key.kid) for key in keys.fixed] == [("file", "ES256", ""), ("env", "HS256", "")]
    assert keys.fixed[1].material == SECRET.encode()
    assert SECRET not in f"{keys!r} {keys.fixed!r}"


def test_a_secret_that_everybody_may_read_is_warned_of_and_a_public_key_is_not(tmp_path: Path) -> None:
    for name, content in (("secret", SECRET), ("public", public_pem(ED_KEY))):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644)
    keys = {"s": AuthKey("HS256", str(tmp_path / "secret")), "p": AuthKey("EdDSA", str(tmp_path / "public"))}
    (warning,) = load_keys(Auth(keys=keys)).warnings
    assert warning.startswith('auth.keys."s".file: everybody on this machine may read')
    (tmp_path / "secret").chmod(0o640)
    assert load_keys(Auth(keys=keys)).warnings == ()


def test_the_hooks_secret_is_read_and_shown_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret-of-the-hook\n")
    path.chmod(0o600)
    loaded = load_hook(Hook("https://site.example/who", secret_file=str(path)))
    assert loaded.secret == b"s3cret-of-the-hook"
    assert "s3cret" not in repr(loaded)
    path.write_text("two words\n")
    with pytest.raises(ConfigError, match=r"^hook\.secret_file: a header cannot carry it") as caught:
        load_hook(Hook("https://site.example/who", secret_file=str(path)))
    assert "two words" not in str(caught.value)


def test_what_is_wrong_with_a_hook_is_reported_with_what_is_wrong_with_keys() -> None:
    hook = Hook(
        "gopher://x", cookies=["a b"], headers=["Cookie", "x:"], secret_file="/nonexistent", secret_environment="X"
    )
    with pytest.raises(ConfigError) as caught:
        check(Config(auth=Auth(keys={"main": AuthKey()}), hook=hook), {})
    assert [line.partition(": ")[0] for line in caught.value.problems] == [
        'auth.keys."main"',
        "hook.url",
        "hook.cookies[0]",
        "hook.headers[1]",
        "hook.headers[0]",
        "hook.secret_file",
    ]
    with pytest.raises(ConfigError, match=r"^hook\.url: is missing"):
        check(Config(hook=Hook(cookies=["sessionid"])))


def test_what_is_unsafe_and_allowed_is_warned_of() -> None:
    config = Config(auth=Auth(allow_tokens_in_urls_that_get_logged=True), hook=Hook("http://site.internal/who"))
    assert [line.partition(": ")[0] for line in check(config)] == [
        "hook.url",
        "auth.allow_tokens_in_urls_that_get_logged",
    ]
    assert check(Config(hook=Hook("http://127.0.0.1:9/who"))) == ()
