"""Key sets by URL (RFC 7517): fetched in the background, kept while fetching fails, never asked for by an address of a
token.

`tokens` asks `candidates`, and `look_again` for a key that is not there. A set belongs to a table of auth.keys and,
where there are several, to its issuer: a key is found by (issuer, kid), never by kid alone (CVE-2026-49998), and every
URL is the configuration's (CVE-2026-32301). A set that was never fetched verifies nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec

from broker.auth.fetch import FetchError, fetch, make_client
from broker.auth.keys import VerifyKey, public_key_of_jwk
from broker.config.schema import Auth, AuthKey
from broker.log import get_logger

log = get_logger(__name__)

# After a failure the next fetch is due in this long, then twice as long each time, at most jwks_refresh_seconds.
FIRST_RETRY_SECONDS = 1.0
# Of any algorithm in one set. Issuers publish two to four; the bound is on what a token without luck is compared with.
MAX_KEYS = 100


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


def read_set(name: str, table: AuthKey, data: bytes) -> tuple[VerifyKey, ...]:
    """The keys of a set that fit its table; others (another algorithm, use or kid) are passed over. Raises FetchError
    if it is no set or none fits.
    """
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FetchError("the answer is no key set") from None
    if len(document.keys) > MAX_KEYS:
        raise FetchError(f"the set has more than {MAX_KEYS} keys")
    found = []
    for jwk in document.keys:
        kid = jwk.get("kid", "")
        if not isinstance(kid, str) or (table.kid and kid != table.kid):
            continue
        try:
            found.append(VerifyKey(name, table, kid, public_key_of_jwk(table.algorithm, jwk)))
        except ValueError as error:
            log.debug("key of a key set is passed over", key_set=name, why=f"it {error}")
    if not found:
        raise FetchError(f"the set has no key for {table.algorithm}" + (" of this kid" if table.kid else ""))
    return tuple(found)


class _Source:
    """One set. `keys` None: never fetched."""

    def __init__(self, name: str, table: AuthKey, client: httpx.AsyncClient) -> None:
        self.name = name
        self.table = table
        self.client = client
        self.keys: tuple[VerifyKey, ...] | None = None
        self.fetching: asyncio.Task[bool] | None = None
        self.refreshing: asyncio.Task[None] | None = None
        self.asked_at: float | None = None

    def find(self, kid: str | None) -> list[VerifyKey]:
        """A token without kid is verified only with a set of one key: trying all of them would let strangers choose
        how much work a token is.
        """
        keys = self.keys or ()
        if kid is None:
            return list(keys) if len(keys) == 1 else []
        return [key for key in keys if key.kid == kid]


class KeySets:
    """`on_change` is called when keys have been replaced. `clock`: monotonic seconds."""

    def __init__(
        self,
        auth: Auth,
        sets: dict[str, AuthKey],
        on_change: Callable[[], None],
        *,
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._auth = auth
        self._on_change = on_change
        self._count = count
        self._clock = clock
        self._sleep = sleep
        self._sources = [
            _Source(name, table, make_client(table.jwks_url, 2, auth.jwks_timeout_seconds))
            for name, table in sets.items()
        ]

    def inherit(self, others: "KeySets") -> None:
        """Takes over what was fetched for the same tables: a reload while an issuer is away loses nothing."""
        had = {(source.name, source.table): source.keys for source in others._sources}
        for source in self._sources:
            source.keys = had.get((source.name, source.table))

    def keys(self) -> list[VerifyKey]:
        """All that count now."""
        return [key for source in self._sources for key in source.keys or ()]

    def candidates(self, kid: str | None, issuer: str | None) -> list[VerifyKey]:
        return [key for source in self._of(issuer) for key in source.find(kid)]

    def missing(self, issuer: str | None) -> bool:
        """A set that could hold the key of such a token has never been fetched."""
        return any(source.keys is None for source in self._of(issuer))

    def _of(self, issuer: str | None) -> list[_Source]:
        return [source for source in self._sources if not source.table.issuer or source.table.issuer == issuer]

    async def look_again(self, kid: str | None, issuer: str | None) -> None:
        """Fetches the sets that could hold a key that is not there, unless it was tried lately; waits for the answer,
        which all who ask share.
        """
        waits = []
        for source in self._of(issuer):
            if source.keys is not None and (kid is None or source.find(kid)):
                continue
            if source.fetching is None:
                now = self._clock()
                if source.asked_at is not None and now - source.asked_at < self._auth.jwks_cooldown_seconds:
                    continue
                source.asked_at = now
            waits.append(self._fetched(source))
        if waits:
            # Not awaited directly: who asks may go away while others wait for the same; `stop` cancels the fetch only.
            await asyncio.wait(waits)

    async def start(self) -> None:
        """Returns when every set has been fetched or has failed once, which takes jwks_timeout_seconds at most."""
        first = [self._fetched(source) for source in self._sources]
        for source in self._sources:
            source.refreshing = asyncio.ensure_future(self._refresh(source))
        if first:
            await asyncio.wait(first)

    async def stop(self) -> None:
        tasks = [task for source in self._sources for task in (source.refreshing, source.fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in self._sources:
            await source.client.aclose()

    async def _refresh(self, source: _Source) -> None:
        retry = FIRST_RETRY_SECONDS
        while True:
            fetched = self._fetched(source)
            await asyncio.wait([fetched])
            if fetched.result():
                retry = FIRST_RETRY_SECONDS
                await self._sleep(self._auth.jwks_refresh_seconds)
            else:
                await self._sleep(min(retry, self._auth.jwks_refresh_seconds))
                retry *= 2

    def _fetched(self, source: _Source) -> "asyncio.Task[bool]":
        """The fetch under way, or a new one. It gives whether it succeeded, and never raises but when cancelled."""
        if source.fetching is None:
            source.fetching = asyncio.ensure_future(self._fetch(source))
        return source.fetching

    async def _fetch(self, source: _Source) -> bool:
        try:
            return await self._try(source)
        finally:
            source.fetching = None

    async def _try(self, source: _Source) -> bool:
        self._count("n_key_fetches")
        try:
            status, body = await fetch(
                source.client,
                "GET",
                source.table.jwks_url,
                seconds=self._auth.jwks_timeout_seconds,
                max_bytes=self._auth.jwks_max_bytes,
            )
            if status != 200:
                raise FetchError(f"the answer has status {status}")
            keys = read_set(source.name, source.table, body)
        except FetchError as error:
            self._count("n_key_fetches_failed")
            then = "the last one is used on" if source.keys is not None else "tokens that need it are refused"
            log.warning("key set could not be fetched", key_set=source.name, error=str(error), until_then=then)
            return False
        before = {key.fingerprint for key in source.keys or ()}
        source.keys = keys
        if {key.fingerprint for key in keys} != before:
            log.info("key set has changed", key_set=source.name, keys=len(keys))
            self._on_change()
        return True
