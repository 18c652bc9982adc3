"""Keys, tokens and tables for the tests of identities. Tokens are made by hand where a library would refuse to."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm

from broker.auth.keys import Keys, load_keys
from broker.auth.tokens import Tokens
from broker.config.schema import Auth, AuthKey, Limits

NOW = 1_764_000_000.0
SECRET = "a shared secret of 32 bytes or so"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
OTHER_EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def public_pem(key: PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(key: ec.EllipticCurvePrivateKey, **members: object) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **members}


def claims(**members: object) -> dict[str, object]:
    """Of a token that is right; None leaves a claim out."""
    merged = {"sub": "ann", "exp": NOW + 600, **members}
    return {name: value for name, value in merged.items() if value is not None}


def token(
    key: PrivateKey | str = EC_KEY,
    algorithm: str = "ES256",
    headers: dict[str, object] | None = None,
    **members: object,
) -> str:
    return jwt.encode(claims(**members), key, algorithm=algorithm, headers=headers)


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def raw_token(payload: bytes, header: bytes | None = None) -> str:
    """Signed with EC_KEY, whatever the parts are."""
    head = header or b'{"alg":"ES256"}'
    text = f"{encoded(head)}.{encoded(payload)}"
    return f"{text}.{encoded(ECAlgorithm(ECAlgorithm.SHA256).sign(text.encode(), EC_KEY))}"


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def loaded(folder: Path, **tables: AuthKey | tuple[AuthKey, str]) -> tuple[Auth, Keys]:
    """auth.keys whose tables come with the content of their file."""
    keys = {}
    for name, entry in tables.items():
        table, content = entry if isinstance(entry, tuple) else (entry, public_pem(EC_KEY))
        path = folder / f"{name}.key"
        path.write_text(content)
        path.chmod(0o600)
        keys[name] = AuthKey(table.algorithm, str(path), "", "", table.kid, table.issuer, table.audience)
    auth = Auth(keys=keys)
    return auth, load_keys(auth)


class Counts(dict[str, int]):
    def __call__(self, name: str) -> None:
        self[name] = self.get(name, 0) + 1


class Bench:
    """Tokens with a clock and counters that a test moves and reads."""

    def __init__(self, auth: Auth, keys: Keys, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.counts = Counts()
        self.auth = auth
        self.tokens = Tokens(auth, limits, keys, clock=self.clock, count=self.counts)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()
