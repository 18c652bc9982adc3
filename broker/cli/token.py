"""`ws-broker token` and `ws-broker new-key`: what a back end does with a few lines of its own, to try it by hand.

PyJWT, which the broker verifies with too. A secret never is an argument: every user of the machine could read it.
"""

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli.ends import EXIT_USAGE, end, say
from broker.cli.files import read_secret, write_new
from broker.cli.output import put

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ALGORITHMS = ("ES256", "EdDSA", "RS256", "HS256")
# RFC 7518 section 3.2.
_MIN_SECRET_BYTES = 32
_RSA_BITS = 2048
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MOST_SECONDS = 366 * 86_400
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Duration(click.ParamType[int]):
    """`90s`, `15m`, `1h`, `7d` → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhd])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is not a time like 90s, 15m, 1h or 7d", param, ctx)
        seconds = int(found[1]) * _UNITS[found[2]]
        if not 1 <= seconds <= _MOST_SECONDS:
            self.fail(f"{value!r} is not between 1s and 366d", param, ctx)
        return seconds


def _pattern(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from broker.config.values import parse_pattern

    for value in values:
        try:
            parse_pattern(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return values


def _channel(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value or "*" in value or ">" in value:
            raise click.BadParameter(f"{value!r}: a channel by its name, no pattern; for patterns there is --subscribe")
    return values


@click.command(short_help="Print a token (JWT) for a client.")
@click.option("--sub", metavar="USER", help="The user's id.")
@click.option("--subscribe", multiple=True, metavar="PATTERN", callback=_pattern, help="May subscribe to. Repeatable.")
@click.option("--publish", multiple=True, metavar="PATTERN", callback=_pattern, help="May publish in. Repeatable.")
@click.option("--subs", multiple=True, metavar="CHANNEL", callback=_channel, help="Is subscribed to. Repeatable.")
@click.option("--expires", type=Duration(), default="1h", metavar="TIME", help="90s, 15m, 1h, 7d. [default: 1h]")
@click.option("--info", metavar="JSON", help="What others are shown with the user.")
@click.option("--key-file", type=click.Path(path_type=Path), metavar="FILE", help="Private key: PEM or JWK.")
@click.option("--secret-file", type=click.Path(path_type=Path), metavar="FILE", help="Shared secret, for HS256.")
@click.option("--key-environment", metavar="NAME", help="Variable that holds the private key or the secret.")
@click.option("--algorithm", type=click.Choice(ALGORITHMS), help="[default: what fits the key]")
@click.option("--kid", metavar="ID", help="Names the key, if the broker's auth.keys does.")
@click.option("--issuer", metavar="NAME", help="The claim iss, if the broker's auth.keys names one.")
@click.option("--audience", metavar="NAME", help="The claim aud, likewise.")
def token(
    sub: str | None,
    subscribe: tuple[str, ...],
    publish: tuple[str, ...],
    subs: tuple[str, ...],
    expires: int,
    info: str | None,
    key_file: Path | None,
    secret_file: Path | None,
    key_environment: str | None,
    algorithm: str | None,
    kid: str | None,
    issuer: str | None,
    audience: str | None,
) -> None:
    """Print a token (JWT) that says who a client is and what it may do.

    `ws-broker new-key` makes the key. Patterns are those of the configuration: * is one segment between dots, a last >
    is all that follow. A site makes such tokens itself; this is for trying, and for scripts.

    \b
    Examples:
      ws-broker token --sub ann --subscribe 'room.*' --key-file keys/site.private.pem
      ws-broker token --sub ann --publish room.42 --expires 15m --key-file keys/site.private.pem > ann.token
      ws-broker token --sub ann --subs user.ann --info '{"name": "Ann"}' --key-file keys/site.private.pem
    """
    if (key_file is not None) + (secret_file is not None) + (key_environment is not None) != 1:
        raise click.UsageError(
            "a token is signed with one key: --key-file, --secret-file or --key-environment "
            "(`ws-broker new-key keys` makes one)"
        )
    signed_with, key = _signing_key(key_file, secret_file, key_environment, algorithm)
    now = int(time.time())
    claims: dict[str, object] = {"iat": now, "exp": now + expires}
    said = {"sub": sub, "iss": issuer, "aud": audience}
    listed = {"subscribe": list(subscribe), "publish": list(publish), "subs": list(subs)}
    claims |= {name: value for name, value in said.items() if value is not None}
    claims |= {name: values for name, values in listed.items() if values}
    if info is not None:
        try:
            claims["info"] = json.loads(info)
        except ValueError as error:
            raise click.BadParameter(f"not JSON: {error}", param_hint="--info") from None
    import jwt

    put(jwt.encode(claims, key, signed_with, headers=None if kid is None else {"kid": kid}))


def _signing_key(
    key_file: Path | None, secret_file: Path | None, variable: str | None, algorithm: str | None
) -> tuple[str, Any]:
    """Algorithm and key. Ends the command if they do not fit; never shows anything of the key."""
    if secret_file is not None:
        return _secret(read_secret(secret_file, "--secret-file"), f"--secret-file {secret_file}", algorithm)
    if key_file is not None:
        where, content = f"--key-file {key_file}", read_secret(key_file, "--key-file")
    else:
        where = f"--key-environment {variable}"
        content = os.environb.get(os.fsencode(variable or ""), b"")
        if not content.strip():
            end(f"{where}: the variable is not set, or empty", EXIT_USAGE)
    if not content.lstrip().startswith((b"-----BEGIN", b"{")):
        if key_file is not None:
            end(f"{where}: is neither PEM nor a JWK; a shared secret goes into --secret-file", EXIT_USAGE)
        return _secret(content, where, algorithm)
    fits, key = _private_key(content, where)
    if algorithm not in (None, fits):
        end(f"{where}: is a key for {fits}, not for {algorithm}", EXIT_USAGE)
    return fits, key


def _secret(content: bytes, where: str, algorithm: str | None) -> tuple[str, bytes]:
    if content.lstrip().startswith(b"-----BEGIN"):
        end(f"{where}: is a PEM, and no shared secret; give it as --key-file", EXIT_USAGE)
    if algorithm not in (None, "HS256"):
        end(f"{where}: a shared secret is for HS256; {algorithm} takes a private key", EXIT_USAGE)
    if len(content) < _MIN_SECRET_BYTES:
        end(f"{where}: has {len(content)} bytes, and HS256 needs {_MIN_SECRET_BYTES} or more (RFC 7518)", EXIT_USAGE)
    return "HS256", content


def _private_key(content: bytes, where: str) -> tuple[str, Any]:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key: Any
    if b"PUBLIC KEY-----" in content:
        end(f"{where}: is a public key; a token is signed with the private one", EXIT_USAGE)
    if b"BEGIN CERTIFICATE-----" in content:
        end(f"{where}: is a certificate; a token is signed with its private key", EXIT_USAGE)
    try:
        key = jwt.PyJWK.from_json(content.decode()).key if content.lstrip()[:1] == b"{" else None
        if key is None:
            key = load_pem_private_key(content, None)
    except TypeError:
        end(f"{where}: is encrypted; take the password off: openssl pkey -in FILE -out PLAIN", EXIT_USAGE)
    except Exception as error:  # cryptography and PyJWT have a dozen of their own, whose texts may quote the key
        end(f"{where}: is no private key that can be read ({type(error).__name__})", EXIT_USAGE)
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return "ES256", key
    if isinstance(key, rsa.RSAPrivateKey):
        return "RS256", key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "EdDSA", key
    end(f"{where}: is no private key on P-256 (ES256), of Ed25519 (EdDSA) or RSA (RS256)", EXIT_USAGE)


@click.command("new-key", short_help="Make the keys that tokens are signed with.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--name", default="site", metavar="NAME", help="Of the files, and of the key in auth.keys. [default: site]"
)
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default="ES256", help="[default: ES256]")
def new_key(folder: Path, name: str, algorithm: str) -> None:
    """Make what tokens are signed and verified with, in FOLDER, and print the lines for the configuration.

    Two files: NAME.private.pem signs and stays with your back end (only you can read it), NAME.public.pem verifies and
    is all the broker needs. For HS256 it is one secret, NAME.secret, that both share. Nothing is ever overwritten.

    \b
    Examples:
      ws-broker new-key keys >> broker.toml
      ws-broker new-key keys --name partner --algorithm EdDSA
    """
    if _NAME.fullmatch(name) is None:
        raise click.BadParameter("1 to 64 of A-Z a-z 0-9 _ -", param_hint="--name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        end(f"{folder}: {(error.strerror or str(error)).lower()}")
    if algorithm == "HS256":
        import secrets

        file = private = folder / f"{name}.secret"
        write_new(private, f"{secrets.token_hex(32)}\n".encode(), 0o600)
        flag = "--secret-file"
    else:
        private, file = folder / f"{name}.private.pem", folder / f"{name}.public.pem"
        if file.exists():
            end(f"{file} is there already, and keys are never overwritten; name another place")
        private_pem, public_pem = _key_pair(algorithm)
        write_new(private, private_pem, 0o600)
        write_new(file, public_pem, 0o644)
        flag = "--key-file"
    # JSON writes a string as TOML does, but for characters that no sane path holds.
    path = json.dumps(str(file.resolve()), ensure_ascii=False)
    put(f'[auth.keys.{name}]\nalgorithm = "{algorithm}"\nfile = {path}')
    say(f"the lines on standard output go into the broker's configuration; sign with: ws-broker token {flag} {private}")


def _key_pair(algorithm: str) -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key: PrivateKeyTypes
    if algorithm == "ES256":
        key = ec.generate_private_key(ec.SECP256R1())
    elif algorithm == "EdDSA":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = rsa.generate_private_key(65_537, _RSA_BITS)
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
