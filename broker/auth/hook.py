"""Asks the site who a client is: one POST for each question, for sites with sessions instead of tokens.

The gateway keeps `evidence` of the request, and asks at connect and for in-band `subscribe`. It fails closed: no answer
in time, no room to wait, and anything but a well-formed 200 or a 401 or 403 is no identity. httpx: see `fetch`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import httpx
import msgspec

from broker.auth import claims
from broker.auth.claims import ClaimError
from broker.auth.fetch import FetchError, fetch, make_client
from broker.auth.identity import AuthError, Identity
from broker.auth.settings import LoadedHook, load_hook
from broker.config.schema import Hook as Settings
from broker.config.schema import Limits
from broker.log import get_logger

log = get_logger(__name__)

REFUSED = "the site does not let this client in"
UNAVAILABLE = "the site cannot be asked at the moment"
CROWDED = "too many clients are waiting for the site"

_MEMBERS = frozenset({"user", "info", "subscribe", "publish", "subs", "expires"})


class Evidence(NamedTuple):
    """The cookies and headers that the site is shown, as (name, value). Its repr has names only."""

    cookies: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return f"<Evidence {[name for name, _ in self.cookies]} {[name for name, _ in self.headers]}>"


class Verdict(NamedTuple):
    """`identity` None: AuthError(word, text)."""

    identity: Identity | None
    word: str = ""
    text: str = ""


class _Question(NamedTuple):
    """A tuple of tuples: joined to a string, different questions could look the same (CVE-2026-39972)."""

    evidence: Evidence
    origin: str | None
    channels: tuple[str, ...]


def count_nothing(name: str) -> None:
    """For who has no counters."""


class Hook:
    """`loaded` None: reads the secret now, which may raise ConfigError. `clock`: monotonic seconds, `now`: unix ones.

    `count` is called with the name of a counter: n_hook_questions (sent), n_hook_cached, n_hook_failed, n_hook_crowded.
    """

    def __init__(
        self,
        hook: Settings,
        limits: Limits | None = None,
        loaded: LoadedHook | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        count: Callable[[str], None] = count_nothing,
    ) -> None:
        self._hook = hook
        self._limits = limits or Limits()
        self._secret = (load_hook(hook) if loaded is None else loaded).secret
        self._clock = clock
        self._now = now
        self._count = count
        self._client: httpx.AsyncClient | None = None
        self._stopped = False
        self._slots = asyncio.Semaphore(hook.max_concurrent)
        # What is asked now: the task, and how many wait for it. Its end removes it, whichever way it ends.
        self._under_way: dict[_Question, _Asked] = {}
        self._cache: OrderedDict[_Question, tuple[float, Verdict]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Hook under way {len(self._under_way)} cached {len(self._cache)}>"

    async def start(self) -> None:
        self._client = make_client(self._hook.url, self._hook.max_concurrent, self._hook.timeout_seconds)

    async def stop(self) -> None:
        """Who still waits, and who asks later, is refused with `overloaded`."""
        self._stopped = True
        tasks = [asked.task for asked in self._under_way.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._client is not None:
            await self._client.aclose()

    def evidence(self, headers: Iterable[tuple[bytes, bytes]], cookies: bool) -> Evidence:
        """What is kept of a request for this and later questions: the listed cookies and headers, nothing else; without
        `cookies` (a page of an origin that is not named) no cookie.

        A cookie that is there twice with two values is left out: a sub-domain can set one of the same name, and nobody
        can tell which is the site's. A header that is there twice is joined with a comma (RFC 9110 section 5.3).
        """
        values: dict[str, set[str]] = {name: set() for name in self._hook.cookies} if cookies else {}
        found: dict[str, str] = {}
        wanted = {name.lower() for name in self._hook.headers}
        for raw_name, raw_value in headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name == "cookie":
                for pair in value.split(";"):
                    key, equals, text = pair.strip(" \t").partition("=")
                    if equals and key in values:
                        values[key].add(text)
            elif name in wanted:
                found[name] = f"{found[name]}, {value}" if name in found else value
        return Evidence(
            tuple((name, one.pop()) for name, one in values.items() if len(one) == 1),
            tuple((name, found[name]) for name in sorted(wanted & found.keys())),
        )

    async def ask(self, evidence: tuple[object, ...], origin: str | None, channels: tuple[str, ...]) -> Identity:
        """`evidence`: as the method of this name gave it. Raises AuthError: not_authenticated (the site refuses),
        overloaded (no verdict). May be cancelled.
        """
        assert isinstance(evidence, Evidence), "made by evidence()"
        question = _Question(evidence, origin, channels)
        verdict = self._remembered(question)
        if verdict is None:
            verdict = await self._shared(question)
        if verdict.identity is None:
            raise AuthError(verdict.word, verdict.text)
        return verdict.identity

    def _remembered(self, question: _Question) -> Verdict | None:
        found = self._cache.get(question)
        if found is None:
            return None
        until, verdict = found
        expires = None if verdict.identity is None else verdict.identity.expires
        if until <= self._clock() or (expires is not None and expires <= self._now()):
            del self._cache[question]
            return None
        self._cache.move_to_end(question)
        self._count("n_hook_cached")
        return verdict

    async def _shared(self, question: _Question) -> Verdict:
        """The same question under way is asked once. When the last who wants the answer is gone, it is given up."""
        asked = self._under_way.get(question)
        if asked is None:
            if self._stopped:  # a reload has another hook; who was on its way to this one comes back
                return Verdict(None, "overloaded", UNAVAILABLE)
            if len(self._under_way) >= self._hook.max_concurrent + self._hook.max_waiting:
                self._count("n_hook_crowded")
                return Verdict(None, "overloaded", CROWDED)
            asked = self._under_way[question] = _Asked(asyncio.ensure_future(self._answer(question)))
            asked.task.add_done_callback(partial(self._ended, question))
        asked.waiting += 1
        try:
            # Not awaited directly, so that one who goes away does not take it from the others.
            await asyncio.wait([asked.task])
        finally:
            asked.waiting -= 1
            if not asked.waiting and not asked.task.done():
                self._ended(question, asked.task)  # whoever comes now asks anew
                asked.task.cancel()
        return Verdict(None, "overloaded", UNAVAILABLE) if asked.task.cancelled() else asked.task.result()

    def _ended(self, question: _Question, task: "asyncio.Task[Verdict]") -> None:
        asked = self._under_way.get(question)
        if asked is not None and asked.task is task:
            del self._under_way[question]

    async def _answer(self, question: _Question) -> Verdict:
        try:
            # From here, not from when there is a slot: it is how long a client may have to wait.
            async with asyncio.timeout(self._hook.timeout_seconds), self._slots:
                verdict = await self._post(question)
        except TimeoutError:
            return self._failed(f"no answer within {self._hook.timeout_seconds:g} s")
        except FetchError as error:
            return self._failed(str(error))
        except ClaimError as error:
            return self._failed(f"the answer {error}")
        if self._hook.cache_seconds and self._hook.cached_verdicts:
            self._cache[question] = (self._clock() + self._hook.cache_seconds, verdict)
            while len(self._cache) > self._hook.cached_verdicts:
                self._cache.popitem(last=False)
        return verdict

    def _failed(self, why: str) -> Verdict:
        """`why` is ours: of the answer itself nothing is logged."""
        self._count("n_hook_failed")
        log.warning("hook gave no verdict", why=why)
        return Verdict(None, "overloaded", UNAVAILABLE)

    async def _post(self, question: _Question) -> Verdict:
        assert self._client is not None, "start comes first"
        self._count("n_hook_questions")
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret.decode('ascii')}"
        status, body = await fetch(
            self._client,
            "POST",
            self._hook.url,
            seconds=self._hook.timeout_seconds,
            max_bytes=self._hook.max_response_bytes,
            content=msgspec.json.encode(
                {
                    "cookies": dict(question.evidence.cookies),
                    "headers": dict(question.evidence.headers),
                    "origin": question.origin,
                    "channels": question.channels,
                }
            ),
            headers=headers,
        )
        if status in (401, 403):
            return Verdict(None, "not_authenticated", REFUSED)
        if status != 200:
            raise FetchError(f"the answer has status {status}")
        return Verdict(self._identity(body))

    def _identity(self, body: bytes) -> Identity:
        """Raises ClaimError. `user` has to be there, null for nobody: the answer of another address has none."""
        found = claims.members(body)
        if "user" not in found:
            raise ClaimError("has no member user (null for an anonymous client)")
        if not found.keys() <= _MEMBERS:
            raise ClaimError("has a member that is none of user, info, subscribe, publish, subs, expires")
        name = "user"
        try:
            user = None if claims.is_null(found[name]) else claims.user(found[name])
            name = "info"
            info = claims.info(found.get(name), self._limits.presence_info_bytes)
            name = "subscribe"
            subscribe = claims.names(found.get(name))
            name = "publish"
            publish = claims.names(found.get(name))
            name = "subs"
            subs = claims.names(found.get(name), self._limits.max_channels_per_connection)
            name = "expires"
            expires = None
            if name in found and not claims.is_null(found[name]):
                expires = claims.moment(found[name])
                if expires <= self._now():
                    raise ClaimError("is over already; it is seconds since 1970, not how long it lasts")
        except ClaimError as error:
            raise ClaimError(f"has a member {name} that {error}") from None
        return Identity(user, info, subscribe, publish, subs, expires)


class _Asked:
    __slots__ = ("task", "waiting")

    def __init__(self, task: "asyncio.Task[Verdict]") -> None:
        self.task = task
        self.waiting = 0
