"""What tokens are verified with: the tables of auth.keys, read, checked, and bound to one algorithm each.

Called at start, before anything is forked or opened, by whoever checks a configuration, and on reload. It fails
closed: one key that is empty, unreadable or of the wrong type stops the start, because the operator meant it to count.
Key sets by URL are only checked here; `jwks` fetches them and makes keys of them with `public_key_of_jwk`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from broker.auth.fetch import url_problem
from broker.auth.secrets import Reader
from broker.config.errors import ConfigError
from broker.config.schema import Algorithm, Auth, AuthKey

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

# RFC 7518 section 3.2: as long as the hash. A password that fits in a head is guessed from one token.
MIN_SECRET_BYTES = 32
# RFC 7518 section 3.3. Above the other bound verifying takes milliseconds, which strangers could ask for.
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

_NEEDS: dict[Algorithm, str] = {
    "RS256": "an RSA key of 2048 to 8192 bits",
    "ES256": "a key on the curve P-256",
    "EdDSA": "an Ed25519 key",
}
_KEY_TYPES: dict[Algorithm, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}


_HMAC = HMACAlgorithm(HMACAlgorithm.SHA256)


class VerifyKey:
    """One key, and all that a token has to say to be verified with it. Never shows the material.

    `fingerprint` is equal for keys that vouch for the same tokens; a token in the cache remembers it.
    """

    __slots__ = ("algorithm", "audience", "fingerprint", "issuer", "kid", "material", "name")

    def __init__(self, name: str, table: AuthKey, kid: str, material: PublicKey | bytes) -> None:
        self.name = name
        self.algorithm = table.algorithm
        self.kid = kid
        self.issuer = table.issuer
        self.audience = table.audience
        self.material = material
        raw = (
            material
            if isinstance(material, bytes)
            else material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
        what = (self.algorithm, kid, self.issuer, self.audience, hashlib.sha256(raw).hexdigest())
        self.fingerprint = hashlib.sha256(msgspec.json.encode(what)).digest()

    def __repr__(self) -> str:
        return f"<VerifyKey {self.name!r} {self.algorithm}>"


class Keys:
    """`fixed`: read here. `sets`: name → table of what `jwks` fetches. `warnings`: for the log of the start."""

    __slots__ = ("fixed", "sets", "warnings")

    def __init__(self, fixed: tuple[VerifyKey, ...], sets: dict[str, AuthKey], warnings: tuple[str, ...] = ()) -> None:
        self.fixed = fixed
        self.sets = sets
        self.warnings = warnings

    def __repr__(self) -> str:
        return f"<Keys {[key.name for key in self.fixed]} sets {list(self.sets)}>"


def load_keys(auth: Auth, environment: Mapping[str, str] | None = None) -> Keys:
    """Reads every file and variable of auth.keys. Raises ConfigError with everything that is wrong."""
    reader = Reader(environment)
    fixed: list[VerifyKey] = []
    sets: dict[str, AuthKey] = {}
    for name, table in auth.keys.items():
        path = f'auth.keys."{name}"'
        given = [key for key in ("file", "environment", "jwks_url") if getattr(table, key)]
        if len(given) != 1:
            said = f"not {' and '.join(given)}" if given else "there is none"
            reader.problems.append(f"{path}: needs exactly one of file, environment and jwks_url; {said}")
        elif table.jwks_url:
            sets[name] = table
            reader.problems.extend(_set_problems(path, table))
        else:
            secret = table.algorithm == "HS256"
            content = reader.read(path, table.file, table.environment, ("file", "environment"), secret=secret)
            if content is not None:
                material = _material(f"{path}.{given[0]}", table.algorithm, content, reader)
                if material is not None:
                    fixed.append(VerifyKey(name, table, table.kid, material))
    if len(sets) > 1:
        # Both could sign for each other's users, under the same kid (CVE-2026-49998).
        reader.problems.extend(
            f'auth.keys."{name}".issuer: with several key sets each names its issuer (the claim iss of its tokens)'
            for name, table in sets.items()
            if not table.issuer
        )
    if reader.problems:
        raise ConfigError(reader.problems)
    return Keys(tuple(fixed), sets, tuple(reader.warnings))


def _set_problems(path: str, table: AuthKey) -> list[str]:
    problems = []
    if table.algorithm == "HS256":
        problems.append(f"{path}.algorithm: a key set holds public keys, and HS256 has none; use RS256, ES256 or EdDSA")
    problem = url_problem(table.jwks_url, plain_anywhere=False)
    if problem is not None:
        problems.append(f"{path}.jwks_url: {problem}")
    return problems


def _material(where: str, algorithm: Algorithm, content: bytes, reader: Reader) -> PublicKey | bytes | None:
    try:
        return _secret(content) if algorithm == "HS256" else _public_key(algorithm, content)
    except ValueError as error:
        reader.problems.append(f"{where}: {error}")
        return None


def _secret(content: bytes) -> bytes:
    """Raises ValueError for what is no shared secret. A public key as the secret is how algorithms are confused:
    everybody knows it, so everybody could sign (CVE-2022-29217).
    """
    if b"-----BEGIN" in content:
        raise ValueError("is a PEM; HS256 takes the shared secret itself, and a key pair needs RS256, ES256 or EdDSA")
    if _json_object(content) is not None:
        raise ValueError("is JSON (a JWK?); HS256 takes the shared secret itself")
    if len(content) < MIN_SECRET_BYTES:
        raise ValueError(
            f"has {len(content)} bytes, and HS256 needs {MIN_SECRET_BYTES} or more; make one with: openssl rand -hex 32"
        )
    try:
        return _HMAC.prepare_key(content)
    except InvalidKeyError:  # what PyJWT would refuse with each token: also a key as DER or of SSH
        raise ValueError("is a public key; HS256 takes the shared secret itself") from None


def _public_key(algorithm: Algorithm, content: bytes) -> PublicKey:
    """Raises ValueError with what it is instead."""
    if b"-----BEGIN" not in content:
        jwk = _json_object(content)
        if jwk is None:
            raise ValueError(f"is neither PEM nor a JWK; {algorithm} takes {_NEEDS[algorithm]}, the public half")
        if "keys" in jwk:
            raise ValueError("is a key set; give one of its keys, or serve it and name it as jwks_url")
        return public_key_of_jwk(algorithm, jwk)
    if b"PRIVATE KEY-----" in content:
        raise ValueError(
            "is a private key, and the broker needs the public one only: openssl pkey -in private.pem -pubout"
        )
    if b"BEGIN CERTIFICATE-----" in content:
        raise ValueError("is a certificate; take its key: openssl x509 -in cert.pem -noout -pubkey")
    if content.count(b"-----BEGIN") > 1:
        raise ValueError("holds several keys; give each a table of its own in auth.keys")
    try:
        key = load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("is no public key that can be read; it should begin with -----BEGIN PUBLIC KEY-----") from None
    return _fitting(algorithm, key)


def public_key_of_jwk(algorithm: Algorithm, jwk: dict[str, Any]) -> PublicKey:
    """The public key of a JWK (RFC 7517) for `algorithm`. Raises ValueError for a private key, a key for another
    algorithm or use, and for what is no key.
    """
    kty, curve = _KEY_TYPES[algorithm]
    if "d" in jwk or "k" in jwk:
        raise ValueError("is a private or secret key; the broker needs the public one only")
    if jwk.get("kty") != kty or (curve is not None and jwk.get("crv") != curve):
        raise ValueError(f"is not for {algorithm}, which takes {_NEEDS[algorithm]}")
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError(f"says that it is for another algorithm than {algorithm} (alg)")
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("says that it is not for signatures (use, key_ops)")
    try:
        key: object
        if kty == "RSA":
            key = RSAAlgorithm.from_jwk(jwk)
        elif kty == "EC":
            key = ECAlgorithm.from_jwk(jwk)
        else:
            key = OKPAlgorithm.from_jwk(jwk)
    except (InvalidKeyError, ValueError, TypeError, KeyError, OverflowError, UnsupportedAlgorithm):
        raise ValueError("is no JWK that can be read") from None
    return _fitting(algorithm, key)


def _fitting(algorithm: Algorithm, key: object) -> PublicKey:
    if algorithm == "RS256" and isinstance(key, RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise ValueError(f"is an RSA key of {key.key_size} bits; {algorithm} takes {_NEEDS[algorithm]}")
        return key
    if algorithm == "ES256" and isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    if algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey):
        return key
    raise ValueError(f"is not for {algorithm}, which takes {_NEEDS[algorithm]}")


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
