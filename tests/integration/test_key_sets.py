"""Tokens of an issuer that publishes its keys: rotation, outages, and strangers who would steer the fetching."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from broker.auth import tokens as texts
from broker.auth.identity import AuthError
from broker.auth.jwks import KeySets
from broker.auth.keys import load_keys
from broker.auth.tokens import Tokens
from broker.config.schema import Auth, AuthKey
from tests.integration.harness import wait_until
from tests.integration.site import Answer, Asked, Site, running_site
from tests.log_lines import of_event
from tests.unit.auth.making import EC_KEY, NOW, OTHER_EC_KEY, RSA_KEY, Clock, Counts, PrivateKey, jwk, token

A = jwk(EC_KEY, kid="a", use="sig", alg="ES256")
B = jwk(OTHER_EC_KEY, kid="b")


class Issuer:
    """Tokens verified with the key set of one site, and its clocks. Time for refreshes passes with `pass_time`."""

    def __init__(self, site: Site, tokens: Tokens, counts: Counts, clock: Clock) -> None:
        self.site = site
        self.tokens = tokens
        self.counts = counts
        self.clock = clock
        self.sleeping: list[tuple[float, asyncio.Future[None]]] = []

    def sleep(self, seconds: float) -> Awaitable[None]:
        future = asyncio.get_running_loop().create_future()
        self.sleeping.append((seconds, future))
        return future

    async def pass_time(self) -> float:
        """Ends the wait for the next fetch; returns how long it would have been."""
        await wait_until(lambda: self.sleeping, "the refresh waits")
        seconds, future = self.sleeping.pop()
        fetched = len(self.site.requests)
        future.set_result(None)
        await wait_until(lambda: len(self.site.requests) > fetched and self.sleeping, "it was fetched again")
        return seconds

    async def user(self, key: PrivateKey, kid: str | None) -> str | None:
        headers: dict[str, object] = {} if kid is None else {"kid": kid}
        return (await self.tokens.verify(token(key, "RS256" if key is RSA_KEY else "ES256", headers))).user


@asynccontextmanager
async def issuing(site: Site, *, start: bool = True, **settings: object) -> AsyncIterator[Issuer]:
    table = AuthKey(jwks_url=site.url)
    auth = Auth(keys={"idp": table}, jwks_timeout_seconds=5.0, **settings)  # type: ignore[arg-type]
    counts, clock = Counts(), Clock()
    tokens = Tokens(auth, None, load_keys(auth), clock=lambda: NOW, count=counts)
    issuer = Issuer(site, tokens, counts, clock)
    tokens._sets = KeySets(auth, {"idp": table}, tokens._drop_unvouched, count=counts, clock=clock, sleep=issuer.sleep)
    if start:
        await tokens.start()
    try:
        yield issuer
    finally:
        await tokens.stop()


async def refused(what: Awaitable[object]) -> tuple[str, str | None]:
    with pytest.raises(AuthError) as caught:
        await what
    return caught.value.word, caught.value.text


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as site:
        site.value = {"keys": [A]}
        yield site


async def test_a_token_of_the_issuer_is_taken(site: Site) -> None:
    async with issuing(site) as issuer:
        assert await issuer.user(EC_KEY, "a") == "ann"
        (asked,) = site.requests
        assert (asked.method, asked.target, asked.body) == ("GET", "/who", b"")


async def test_a_new_key_of_the_issuer_is_fetched_when_the_first_token_names_it(site: Site) -> None:
    async with issuing(site) as issuer:
        site.value = {"keys": [A, B]}
        assert await issuer.user(OTHER_EC_KEY, "b") == "ann"
        assert len(site.requests) == 2


async def test_strangers_with_unknown_keys_do_not_drive_the_fetching(site: Site) -> None:
    async with issuing(site) as issuer:
        unknown = [refused(issuer.user(EC_KEY, f"x{index}")) for index in range(50)]
        assert set(await asyncio.gather(*unknown)) == {("not_authenticated", texts.NO_KEY)}
        assert len(site.requests) == 2
        issuer.clock.now += 29.9
        await refused(issuer.user(EC_KEY, "x"))
        assert len(site.requests) == 2
        issuer.clock.now += 0.1
        await refused(issuer.user(EC_KEY, "x"))
        assert len(site.requests) == 3


async def test_keys_are_fetched_again_and_a_key_that_is_gone_verifies_nothing(site: Site) -> None:
    async with issuing(site) as issuer:
        assert await issuer.user(EC_KEY, "a") == "ann"
        site.value = {"keys": [B]}
        assert await issuer.pass_time() == 300
        assert issuer.tokens.known(token(EC_KEY, headers={"kid": "a"})) is None
        assert await refused(issuer.user(EC_KEY, "a")) == ("not_authenticated", texts.NO_KEY)
        assert await issuer.user(OTHER_EC_KEY, "b") == "ann"


BAD: dict[str, Callable[[], Answer | None]] = {
    "an error": lambda: (500, b"secret trace"),
    "a redirect": lambda: (302, b"", {"Location": "http://127.0.0.1:1/keys"}),
    "no JSON": lambda: (200, b"<html>secret trace"),
    "no set": lambda: (200, b'{"secret trace":[]}'),
    "an empty set": lambda: (200, b'{"keys":[]}'),
    "other keys": lambda: (200, json.dumps({"keys": [{"kty": "oct", "kid": "a", "k": "secret trace"}]}).encode()),
    "too long": lambda: (200, b" " * 262_145),
    "compressed": lambda: (200, b"secret trace", {"Content-Encoding": "gzip"}),
    "too many": lambda: (200, json.dumps({"keys": [A] * 101}).encode()),
    "no answer": lambda: None,
}


@pytest.mark.parametrize("how", BAD)
async def test_a_fetch_that_fails_keeps_the_last_good_set(
    how: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with issuing(site) as issuer:

        async def reply(asked: Asked) -> Answer | None:
            return BAD[how]()

        site.reply = reply
        await issuer.pass_time()
        assert issuer.counts["n_key_fetches_failed"] == 1
        assert await issuer.user(EC_KEY, "a") == "ann"
        assert [line["key_set"] for line in of_event(caplog.text, "key set could not be fetched")] == ["idp"]
        assert "secret trace" not in caplog.text
        assert [await issuer.pass_time() for _ in range(3)] == [1, 2, 4]


async def test_without_a_first_set_tokens_are_refused_until_it_comes(site: Site) -> None:
    site.status = 503
    async with issuing(site) as issuer:
        assert await refused(issuer.user(EC_KEY, "a")) == ("overloaded", texts.KEYS_UNAVAILABLE)
        site.status = 200
        assert await issuer.pass_time() == 1
        assert await issuer.user(EC_KEY, "a") == "ann"


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_the_start_waits_for_a_silent_issuer_only_so_long(site: Site) -> None:
    never = asyncio.Event()

    async def silent(asked: Asked) -> Answer | None:
        await never.wait()
        return None

    site.reply = silent
    auth = Auth(keys={"idp": AuthKey(jwks_url=site.url)}, jwks_timeout_seconds=0.05)
    tokens = Tokens(auth)
    await tokens.start()
    await tokens.stop()
    never.set()


async def test_a_client_that_goes_away_leaves_the_fetch_to_the_others(site: Site) -> None:
    async with issuing(site) as issuer:
        go = asyncio.Event()

        async def slow(asked: Asked) -> Answer | None:
            await go.wait()
            return 200, json.dumps({"keys": [A, B]}).encode()

        site.reply = slow
        first, second = (asyncio.ensure_future(issuer.user(OTHER_EC_KEY, "b")) for _ in range(2))
        await wait_until(lambda: len(site.requests) == 2, "the key is asked for")
        first.cancel()
        go.set()
        assert await second == "ann"
        assert len(site.requests) == 2


@pytest.mark.parametrize(
    "other",
    [{"use": "enc"}, {"alg": "ES384"}, {"key_ops": ["sign"]}, {"crv": "P-384"}, {"kty": "RSA"}, {"d": "AAAA"}],
)
async def test_a_key_for_something_else_is_passed_over(other: dict[str, object], site: Site) -> None:
    site.value = {"keys": [jwk(EC_KEY, kid="a", **other), B]}
    async with issuing(site) as issuer:
        assert await refused(issuer.user(EC_KEY, "a")) == ("not_authenticated", texts.NO_KEY)
        assert await issuer.user(OTHER_EC_KEY, "b") == "ann"


async def test_a_token_without_kid_is_taken_only_if_there_is_one_key(site: Site) -> None:
    async with issuing(site) as issuer:
        assert await issuer.user(EC_KEY, None) == "ann"
        site.value = {"keys": [A, B]}
        await issuer.pass_time()
        assert await refused(issuer.user(OTHER_EC_KEY, None)) == ("not_authenticated", texts.NO_KEY)


async def test_a_token_with_another_algorithm_than_the_sets_is_refused(site: Site) -> None:
    async with issuing(site) as issuer:
        assert await refused(issuer.user(RSA_KEY, "a")) == ("not_authenticated", texts.OTHER_ALGORITHM)


async def test_two_issuers_with_the_same_kid_do_not_vouch_for_each_other(site: Site) -> None:
    """CVE-2026-49998."""
    async with running_site() as other:
        other.value = {"keys": [jwk(OTHER_EC_KEY, kid="a")]}
        keys = {
            "one": AuthKey(jwks_url=site.url, issuer="https://one"),
            "two": AuthKey(jwks_url=other.url, issuer="https://two"),
        }
        tokens = Tokens(Auth(keys=keys), clock=lambda: NOW)
        await tokens.start()
        try:
            kid: dict[str, object] = {"kid": "a"}
            assert (await tokens.verify(token(EC_KEY, headers=kid, iss="https://one"))).user == "ann"
            assert (await tokens.verify(token(OTHER_EC_KEY, headers=kid, iss="https://two"))).user == "ann"
            for key, issuer in ((OTHER_EC_KEY, "https://one"), (EC_KEY, "https://two")):
                said = await refused(tokens.verify(token(key, headers=kid, iss=issuer)))
                assert said == ("not_authenticated", texts.WRONG_SIGNATURE)
        finally:
            await tokens.stop()


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:{port}/evil", "../evil", "x/../../evil?a=b#c"])
async def test_no_claim_of_a_token_becomes_part_of_a_request(issuer: str, site: Site) -> None:
    """CVE-2026-32301."""
    async with running_site() as evil, issuing(site) as own:
        claimed = issuer.format(port=evil.port)
        headers: dict[str, object] = {"kid": claimed, "jku": f"{evil.url}", "x5u": f"{evil.url}"}
        await refused(own.tokens.verify(token(OTHER_EC_KEY, headers=headers, iss=claimed)))
        assert evil.requests == []
        assert [asked.target for asked in site.requests] == ["/who", "/who"]


async def test_a_redirect_is_not_followed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with running_site() as evil:
        evil.value = {"keys": [B]}

        async def redirect(asked: Asked) -> Answer | None:
            return 301, b"", {"Location": evil.url}

        site.reply = redirect
        with caplog.at_level(logging.WARNING):
            async with issuing(site) as issuer:
                assert (await refused(issuer.user(OTHER_EC_KEY, "b")))[0] == "overloaded"
        assert evil.requests == []
