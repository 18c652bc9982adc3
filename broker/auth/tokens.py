"""From a JSON Web Token (RFC 7519) to an identity: which key, signature, claims, and a cache of what was verified.

The gateway asks `known` first, which never waits, and then `verify`. What a token says before it is verified, kid and
iss, only chooses among the keys of the configuration; it never becomes a path, an address or a part of an error.
Signatures are PyJWT's: small, typed, in steady release. joserfc is its equal but brings encryption that is not wanted
here; authlib is a framework around it; python-jose stood still from 2021 to 2025 (CVE-2024-33663).
"""

import base64
import binascii
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from jwt import PyJWS
from jwt.exceptions import InvalidSignatureError, PyJWTError

from broker.auth import claims
from broker.auth.claims import ClaimError
from broker.auth.identity import AuthError, Identity
from broker.auth.jwks import KeySets
from broker.auth.keys import Keys, VerifyKey, load_keys
from broker.config.schema import Auth, Limits

NOT_A_TOKEN = "this is no signed JSON Web Token"
UNKNOWN_EXTENSION = "the token demands an extension that is not known here (crit)"
NO_KEY = "no key for this token (kid, iss)"
OTHER_ALGORITHM = "the token's algorithm differs from the key's"
WRONG_SIGNATURE = "the token's signature is wrong"
EXPIRED = "the token has expired"
NO_EXPIRY = "the token never expires (exp); it has to"
NOT_YET = "the token is not valid yet (nbf)"
FROM_THE_FUTURE = "the token was made in the future (iat)"
OTHER_AUDIENCE = "the token is for somebody else (aud)"
OTHER_ISSUER = "the token is from another issuer than its key's (iss)"
KEYS_UNAVAILABLE = "the keys for this token cannot be fetched at the moment"


class _Header(msgspec.Struct):
    """RFC 7515 section 4.1, what is looked at; PyJWT reads it again with the signature."""

    alg: str
    kid: str | None = None
    crit: object = None


class _Cached(msgspec.Struct, frozen=True, gc=False):
    identity: Identity
    until: float
    fingerprint: bytes


def count_nothing(name: str) -> None:
    """For who has no counters."""


class Tokens:
    """`keys` as `load_keys` gives them; None: reads them now, which may raise ConfigError. `clock`: unix seconds.

    `count` is called with the name of a counter: n_tokens_verified (signatures checked and right), n_tokens_cached,
    n_tokens_refused, n_key_fetches, n_key_fetches_failed.
    """

    def __init__(
        self,
        auth: Auth,
        limits: Limits | None = None,
        keys: Keys | None = None,
        *,
        clock: Callable[[], float] = time.time,
        count: Callable[[str], None] = count_nothing,
    ) -> None:
        self._auth = auth
        self._limits = limits or Limits()
        self._clock = clock
        self._count = count
        self._keys = load_keys(auth) if keys is None else keys
        self._sets = self._key_sets(auth, self._keys)
        # Digest of a verified token → what it gave, the one used longest ago first. A digest and not the token: what a
        # dump of the memory shows must not open a connection.
        self._cache: OrderedDict[bytes, _Cached] = OrderedDict()
        # PyJWT with one algorithm each: whatever a header says, no other can be chosen.
        self._signatures = {algorithm: PyJWS([algorithm]) for algorithm in ("HS256", "RS256", "ES256", "EdDSA")}

    def __repr__(self) -> str:
        return f"<Tokens {self._keys!r} cached {len(self._cache)}>"

    def _key_sets(self, auth: Auth, keys: Keys) -> KeySets:
        return KeySets(auth, keys.sets, self._drop_unvouched, count=self._count)

    async def start(self) -> None:
        """Waits for key sets, jwks_timeout_seconds at most. Without them tokens are refused, and it goes on trying."""
        await self._sets.start()

    async def stop(self) -> None:
        await self._sets.stop()

    async def reload(self, auth: Auth, keys: Keys) -> None:
        """Takes other settings and keys. Until the new key sets are there the old ones count; then what the new keys do
        not vouch for is forgotten.
        """
        new = self._key_sets(auth, keys)
        await new.start()
        if (auth.user_claim, auth.info_claim) != (self._auth.user_claim, self._auth.info_claim):
            self._cache.clear()
        old, self._sets = self._sets, new
        self._auth, self._keys = auth, keys
        self._drop_unvouched()
        await old.stop()

    def known(self, token: str) -> Identity | None:
        """The identity of a token that was verified before and has not expired. Never waits."""
        if len(token) > self._auth.max_token_bytes:
            return None
        digest = _digest(token)
        found = self._cache.get(digest)
        if found is None:
            return None
        if found.until <= self._clock():
            del self._cache[digest]
            return None
        self._cache.move_to_end(digest)
        self._count("n_tokens_cached")
        return found.identity

    async def verify(self, token: str) -> Identity:
        """Raises AuthError. Waits only if a key set has to be fetched for it."""
        found = self.known(token)
        if found is not None:
            return found
        try:
            key, payload = await self._verified(token)
            identity = self._identity(key, payload)
        except AuthError:
            self._count("n_tokens_refused")
            raise
        self._count("n_tokens_verified")
        self._remember(token, key, identity)
        return identity

    async def _verified(self, token: str) -> tuple[VerifyKey, claims.Members]:
        if len(token) > self._auth.max_token_bytes:
            raise _refused(f"the token is longer than {self._auth.max_token_bytes} bytes")
        header, issuer = _peek(token)
        tried = self._try(token, header, self._fixed(header, issuer) + self._sets.candidates(header.kid, issuer))
        if isinstance(tried, str) and not self._sets.candidates(header.kid, issuer):
            await self._sets.look_again(header.kid, issuer)
            new = self._sets.candidates(header.kid, issuer)
            if new:
                tried = self._try(token, header, new)
            elif self._sets.missing(issuer):
                # Not the client's fault, and over when the key set can be fetched: 503, not 401.
                raise AuthError("overloaded", KEYS_UNAVAILABLE)
        if isinstance(tried, str):
            raise _refused(tried)
        return tried

    def _fixed(self, header: _Header, issuer: str | None) -> list[VerifyKey]:
        return [
            key
            for key in self._keys.fixed
            if (not key.kid or key.kid == header.kid) and (not key.issuer or key.issuer == issuer)
        ]

    def _try(self, token: str, header: _Header, keys: list[VerifyKey]) -> tuple[VerifyKey, claims.Members] | str:
        """Why none of the keys will do is a text. Raises AuthError for what no key could verify.

        In this thread: ES256 takes 136 us, HS256 26 us, RS256 79 us, EdDSA 124 us, of which Python's part could not
        run elsewhere anyway, and handing work to a thread costs 150 us (measured, PyJWT 2.15).
        """
        if not keys:
            return NO_KEY
        fitting = [key for key in keys if key.algorithm == header.alg]
        if not fitting:
            return OTHER_ALGORITHM
        for key in fitting:
            try:
                payload = self._signatures[key.algorithm].decode(token, key.material, [key.algorithm])
                return key, claims.members(payload)
            except InvalidSignatureError:
                continue
            except (PyJWTError, ClaimError):
                raise _refused(NOT_A_TOKEN) from None
        return WRONG_SIGNATURE

    def _identity(self, key: VerifyKey, payload: claims.Members) -> Identity:
        """Reads the claims of a token whose signature is right. Raises AuthError."""
        self._check_issuer_and_audience(key, payload)
        expires = self._check_times(payload)
        auth, limits = self._auth, self._limits
        name = auth.user_claim
        try:
            if name not in payload:
                raise ClaimError("is missing")
            user = claims.user(payload[name])
            name = auth.info_claim
            info = claims.info(payload.get(name), limits.presence_info_bytes)
            name = "subscribe"
            subscribe = claims.names(payload.get(name))
            name = "publish"
            publish = claims.names(payload.get(name))
            name = "subs"
            subs = claims.names(payload.get(name), limits.max_channels_per_connection)
        except ClaimError as error:
            raise _refused(f"the token's claim {name} {error}") from None
        return Identity(user, info, subscribe, publish, subs, expires)

    def _check_issuer_and_audience(self, key: VerifyKey, payload: claims.Members) -> None:
        try:
            issuer = claims.text(payload.get("iss"))
        except ClaimError as error:
            raise _refused(f"the token's claim iss {error}") from None
        try:
            audiences = claims.texts(payload.get("aud"))
        except ClaimError as error:
            raise _refused(f"the token's claim aud {error}") from None
        if key.issuer and issuer != key.issuer:
            raise _refused(OTHER_ISSUER)
        # RFC 7519 section 4.1.3: a token for named audiences is refused by whoever is none of them.
        if key.audience not in audiences if key.audience else "aud" in payload:
            raise _refused(OTHER_AUDIENCE)

    def _check_times(self, payload: claims.Members) -> float:
        """Returns when the identity ends, with the leeway."""
        now, leeway = self._clock(), self._auth.leeway_seconds
        if "exp" not in payload:
            raise _refused(NO_EXPIRY)
        times = {}
        for name in ("exp", "nbf", "iat"):
            if name in payload:
                try:
                    times[name] = claims.moment(payload[name])
                except ClaimError as error:
                    raise _refused(f"the token's claim {name} {error}") from None
        expires = times["exp"] + leeway
        if expires <= now:
            raise AuthError("token_expired", EXPIRED)
        if times.get("nbf", 0.0) > now + leeway:
            raise _refused(NOT_YET)
        if times.get("iat", 0.0) > now + leeway:
            raise _refused(FROM_THE_FUTURE)
        return expires

    def _remember(self, token: str, key: VerifyKey, identity: Identity) -> None:
        if not self._auth.cached_tokens or identity.expires is None:
            return
        self._cache[_digest(token)] = _Cached(identity, identity.expires, key.fingerprint)
        while len(self._cache) > self._auth.cached_tokens:
            self._cache.popitem(last=False)

    def _drop_unvouched(self) -> None:
        """Of keys that are no longer there."""
        live = {key.fingerprint for key in (*self._keys.fixed, *self._sets.keys())}
        gone = [digest for digest, cached in self._cache.items() if cached.fingerprint not in live]
        for digest in gone:
            del self._cache[digest]


def _refused(text: str) -> AuthError:
    return AuthError("not_authenticated", text)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _peek(token: str) -> tuple[_Header, str | None]:
    """The header, and the issuer that the token claims: to choose keys by, before anything is proven."""
    parts = token.split(".")
    if len(parts) != 3 or not all(parts) or not token.isascii():
        raise _refused(NOT_A_TOKEN)
    try:
        header = msgspec.json.decode(_decoded(parts[0]), type=_Header)
        issuer = claims.text(claims.members(_decoded(parts[1])).get("iss"))
    except (ValueError, ClaimError, RecursionError):
        raise _refused(NOT_A_TOKEN) from None
    if header.crit is not None:
        raise _refused(UNKNOWN_EXTENSION)
    return header, issuer


def _decoded(part: str) -> bytes:
    """base64url without padding (RFC 7515 section 2). Raises ValueError."""
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error as error:
        raise ValueError("no base64url") from error
