"""The site decides who a client is: what it is shown, what its answer means, and what becomes of those without one."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.auth import hook as texts
from broker.auth.hook import Evidence, Hook, _Question
from broker.auth.identity import AuthError, Identity
from broker.auth.settings import LoadedHook
from broker.config.schema import Hook as Settings
from tests.integration.harness import turns, wait_until
from tests.integration.site import Answer, Asked, Site, answer, running_site
from tests.log_lines import of_event
from tests.unit.auth.making import NOW, Clock, Counts

HEADERS = (
    (b"Host", b"ws.example"),
    (b"Cookie", b"theme=dark; sessionid=s3cret; csrftoken=private"),
    (b"Authorization", b"Basic private"),
    (b"Accept-Language", b"de"),
    (b"accept-language", b"en"),
)


class Asking:
    def __init__(self, hook: Hook, site: Site, clock: Clock, now: Clock, counts: Counts) -> None:
        self.hook, self.site, self.clock, self.now, self.counts = hook, site, clock, now, counts

    async def ask(self, name: str = "s3cret", *channels: str) -> Identity:
        evidence = Evidence((("sessionid", name),), ())
        return await self.hook.ask(evidence, "https://site.example", channels)

    async def refused(self, name: str = "s3cret") -> tuple[str, str | None]:
        with pytest.raises(AuthError) as caught:
            await self.ask(name)
        assert "s3cret" not in f"{caught.value!r}"
        return caught.value.word, caught.value.text

    def idle(self) -> bool:
        return not self.hook._under_way and self.hook._slots._value == self.hook._hook.max_concurrent


@asynccontextmanager
async def asking(site: Site, **settings: object) -> AsyncIterator[Asking]:
    given = {"cookies": ["sessionid"], "headers": ["Accept-Language"], **settings}
    clock, now, counts = Clock(0.0), Clock(), Counts()
    config = Settings(site.url, **given)  # type: ignore[arg-type]
    hook = Hook(config, None, LoadedHook(b"of-the-broker", ()), clock=clock, now=now, count=counts)
    await hook.start()
    try:
        yield Asking(hook, site, clock, now, counts)
    finally:
        await hook.stop()
    assert not hook._under_way


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running_site() as site:
        site.value = {"user": "ann"}
        yield site


@pytest.fixture
async def hook(site: Site) -> AsyncIterator[Asking]:
    async with asking(site) as hook:
        yield hook


async def test_the_site_is_shown_the_listed_cookies_and_headers_and_nothing_else(hook: Asking) -> None:
    evidence = hook.hook.evidence(HEADERS, cookies=True)
    assert "s3cret" not in repr(evidence)
    await hook.hook.ask(evidence, "https://site.example", ("news", "room.7"))
    (asked,) = hook.site.requests
    assert (asked.method, asked.target) == ("POST", "/who")
    assert asked.json == {
        "cookies": {"sessionid": "s3cret"},
        "headers": {"accept-language": "de, en"},
        "origin": "https://site.example",
        "channels": ["news", "room.7"],
    }
    assert asked.headers["authorization"] == "Bearer of-the-broker"
    assert "cookie" not in asked.headers


def test_cookies_of_a_page_of_another_origin_are_not_shown() -> None:
    hook = Hook(Settings("http://127.0.0.1:9/", cookies=["sessionid"]))
    assert hook.evidence(HEADERS, cookies=False) == Evidence((), ())


def test_a_cookie_that_is_there_twice_with_two_values_is_nobodys() -> None:
    hook = Hook(Settings("http://127.0.0.1:9/", cookies=["sessionid"]))
    assert hook.evidence([(b"Cookie", b"sessionid=a; sessionid=b")], cookies=True).cookies == ()
    assert hook.evidence([(b"Cookie", b"sessionid=a"), (b"cookie", b"sessionid=b")], cookies=True).cookies == ()
    twice = hook.evidence([(b"Cookie", b"sessionid=a; sessionid=a")], cookies=True)
    assert twice.cookies == (("sessionid", "a"),)


async def test_the_sites_answer_is_who_the_client_is(hook: Asking) -> None:
    hook.site.value = {
        "user": "ann",
        "info": {"name": "Ann"},
        "subscribe": ["room.*"],
        "publish": ["room.7"],
        "subs": ["user.ann"],
        "expires": NOW + 60,
    }
    expected = Identity("ann", b'{"name":"Ann"}', ("room.*",), ("room.7",), ("user.ann",), NOW + 60)
    assert await hook.ask() == expected
    hook.site.value = {"user": None, "expires": None}
    assert await hook.ask("other") == Identity()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_client_that_the_site_refuses_is_not_authenticated(status: int, hook: Asking) -> None:
    hook.site.status = status
    assert await hook.refused() == ("not_authenticated", texts.REFUSED)


BAD: dict[str, Answer | None] = {
    "an error": (500, b"s3cret"),
    "not found": (404, b"{}"),
    "created": (201, b'{"user":"ann"}'),
    "no content": (204, b""),
    "a redirect": (302, b"", {"Location": "/elsewhere"}),
    "no JSON": (200, b"s3cret"),
    "a list": answer(200, ["ann"]),
    "no user": answer(200, {}),
    "an empty user": answer(200, {"user": ""}),
    "a number": answer(200, {"user": 5}),
    "a line end": answer(200, {"user": "ann\r\n"}),
    "a misspelt member": answer(200, {"user": "ann", "subcribe": []}),
    "no list": answer(200, {"user": "ann", "subscribe": "room.*"}),
    "large info": answer(200, {"user": "ann", "info": "x" * 1024}),
    "a duration": answer(200, {"user": "ann", "expires": 3600}),
    "milliseconds": answer(200, {"user": "ann", "expires": NOW * 1000}),
    "a text": answer(200, {"user": "ann", "expires": "tomorrow"}),
    "NaN": (200, b'{"user":"ann","expires":NaN}'),
    "too long": (200, b'{"user":"ann"}' + b" " * 65_536),
    "compressed": (200, b'{"user":"ann"}', {"Content-Encoding": "gzip"}),
    "nothing": None,
}


@pytest.mark.parametrize("how", BAD)
async def test_anything_but_a_proper_answer_fails_closed_and_is_not_remembered(
    how: str, hook: Asking, caplog: pytest.LogCaptureFixture
) -> None:
    async def bad(asked: Asked) -> Answer | None:
        return BAD[how]

    hook.site.reply = bad
    assert await hook.refused() == ("overloaded", texts.UNAVAILABLE)
    assert hook.counts["n_hook_failed"] == 1
    assert len(of_event(caplog.text, "hook gave no verdict")) == 1
    assert "s3cret" not in caplog.text
    hook.site.reply = hook.site._default
    assert (await hook.ask()).user == "ann"
    assert hook.idle()


async def test_a_silent_site_is_waited_for_only_so_long(site: Site) -> None:
    async def silent(asked: Asked) -> Answer | None:
        await asyncio.Event().wait()
        return None

    # Long enough for the answer at the end, also on a machine that has much else to do.
    async with asking(site, timeout_seconds=0.5, max_concurrent=1) as hook:
        site.reply = silent
        # The second waits for the first's slot, and no longer than if it had one.
        said = await asyncio.gather(hook.refused("a"), hook.refused("b"))
        assert set(said) == {("overloaded", texts.UNAVAILABLE)}
        site.reply = site._default
        assert (await hook.ask("a")).user == "ann"
        assert hook.idle()


async def test_no_site_is_no_identity() -> None:
    async with running_site() as gone:
        pass
    async with asking(gone) as hook:
        assert await hook.refused() == ("overloaded", texts.UNAVAILABLE)


class Gate:
    """A reply that is held until it is opened."""

    def __init__(self, site: Site) -> None:
        self.opened = asyncio.Event()
        self.most = self.now = 0
        self.site = site
        site.reply = self.reply

    async def reply(self, asked: Asked) -> Answer | None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.opened.wait()
        self.now -= 1
        return answer(200, {"user": asked.json["cookies"]["sessionid"]})


async def test_questions_are_bounded_and_so_are_those_that_wait(site: Site) -> None:
    async with asking(site, max_concurrent=3, max_waiting=5) as hook:
        gate = Gate(site)
        waiting = [asyncio.ensure_future(hook.ask(f"u{index}")) for index in range(8)]
        await wait_until(lambda: gate.now == 3, "three are asked")
        assert await hook.refused("one too many") == ("overloaded", texts.CROWDED)
        assert hook.counts["n_hook_crowded"] == 1
        gate.opened.set()
        assert [identity.user for identity in await asyncio.gather(*waiting)] == [f"u{index}" for index in range(8)]
        assert gate.most == 3
        assert hook.idle()


async def test_the_same_question_is_asked_once_at_a_time_and_remembered(hook: Asking) -> None:
    gate = Gate(hook.site)
    waiting = [asyncio.ensure_future(hook.ask("ann")) for _ in range(20)]
    await wait_until(lambda: gate.now, "it is asked")
    gate.opened.set()
    assert {identity.user for identity in await asyncio.gather(*waiting)} == {"ann"}
    assert (await hook.ask("ann")).user == "ann"
    assert len(hook.site.requests) == 1
    hook.clock.now = 5.0
    await hook.ask("ann")
    assert len(hook.site.requests) == 2


async def test_a_refusal_is_remembered_as_well(hook: Asking) -> None:
    hook.site.status = 403
    await hook.refused()
    await hook.refused()
    assert len(hook.site.requests) == 1


async def test_a_verdict_is_not_used_beyond_its_end(hook: Asking) -> None:
    hook.site.value = {"user": "ann", "expires": NOW + 1}
    await hook.ask()
    hook.now.now = NOW + 1
    assert (await hook.refused())[0] == "overloaded"
    assert len(hook.site.requests) == 2


async def test_verdicts_are_bounded_by_count_and_can_be_switched_off(site: Site) -> None:
    async with asking(site, cached_verdicts=2) as hook:
        for name in ("a", "b", "c", "a"):
            await hook.ask(name)
        assert len(site.requests) == 4
        assert len(hook.hook._cache) == 2
    async with asking(site, cache_seconds=0.0) as hook:
        await hook.ask()
        await hook.ask()
        assert len(site.requests) == 6


async def test_the_last_who_goes_away_gives_the_question_up_and_others_keep_it(site: Site) -> None:
    async with asking(site, max_concurrent=1) as hook:
        gate = Gate(site)
        first, second = (asyncio.ensure_future(hook.ask("ann")) for _ in range(2))
        await wait_until(lambda: gate.now, "it is asked")
        first.cancel()
        await turns()
        assert not second.done()
        assert hook.hook._under_way
        second.cancel()
        await wait_until(hook.idle, "the slot is free")
        gate.opened.set()
        assert (await hook.ask("bob")).user == "bob"


@pytest.mark.parametrize("after", range(0, 40, 3))
async def test_cancelling_at_any_await_leaves_no_stuck_slot_and_no_answer_for_somebody_else(
    after: int, site: Site
) -> None:
    """redis-py CVE-2023-28858: a cancelled question's answer went to the next one."""
    async with asking(site, max_concurrent=1, cache_seconds=0.0) as hook:
        gate = Gate(site)
        gate.opened.set()
        await hook.ask("first")  # a connection is kept
        task = asyncio.ensure_future(hook.ask("cancelled"))
        await turns(after)
        task.cancel()
        await asyncio.wait([task])
        await wait_until(hook.idle, "the slot is free")
        assert (await hook.ask("next")).user == "next"
        assert hook.idle()


async def test_a_cookie_that_the_site_sets_for_one_user_does_not_go_with_the_next_question(hook: Asking) -> None:
    async def setting(asked: Asked) -> Answer | None:
        return 200, b'{"user":"ann"}', {"Set-Cookie": "sessionid=s3cret; Path=/"}

    hook.site.reply = setting
    await hook.ask("a")
    await hook.ask("b")
    assert hook.site.connections == 1, "kept alive"
    assert all("cookie" not in asked.headers for asked in hook.site.requests)


async def test_a_kept_connection_that_the_site_has_ended_is_no_refusal(hook: Asking) -> None:
    closing = iter([False, True, False])

    async def reply(asked: Asked) -> Answer | None:
        return None if next(closing) else answer(200, {"user": "ann"})

    hook.site.reply = reply
    await hook.ask("a")
    assert (await hook.ask("b")).user == "ann"


async def test_who_waits_when_the_worker_ends_is_refused(site: Site) -> None:
    async with asking(site) as hook:
        gate = Gate(site)
        waiting = asyncio.ensure_future(hook.refused())
        await wait_until(lambda: gate.now, "it is asked")
        await hook.hook.stop()
        assert await waiting == ("overloaded", texts.UNAVAILABLE)
        assert await hook.refused("too late") == ("overloaded", texts.UNAVAILABLE)


_PAIRS = st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), max_size=3).map(tuple)
_QUESTIONS = st.builds(
    _Question,
    st.builds(Evidence, _PAIRS, _PAIRS),
    st.none() | st.text(max_size=6),
    st.lists(st.text(max_size=6), max_size=3).map(tuple),
)


@given(_QUESTIONS, _QUESTIONS)
def test_two_questions_share_a_verdict_only_if_they_are_the_same_in_every_part(a: _Question, b: _Question) -> None:
    """Mercure CVE-2026-39972."""
    same = (tuple(a.evidence), a.origin, a.channels) == (tuple(b.evidence), b.origin, b.channels)
    assert ({a: 1}.get(b) == 1) == same


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((("n", "a,b"),), (("n", "a"), ("n", "b"))),
        ((("ab", "c"),), (("a", "bc"),)),
        ((), (("", ""),)),
    ],
)
def test_no_spelling_of_one_question_is_another(a: tuple[tuple[str, str], ...], b: tuple[tuple[str, str], ...]) -> None:
    keys = {
        _Question(Evidence(a, ()), None, ()),
        _Question(Evidence(b, ()), None, ()),
        _Question(Evidence((), a), "", ()),
    }
    assert len(keys) == 3
    assert _Question(Evidence((), ()), None, ("a", "b")) != _Question(Evidence((), ()), None, ("a,b",))


async def test_what_a_site_sets_as_a_cookie_stands_in_no_log_however_much_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def reply(asked: Asked) -> Answer:
        return 200, b'{"user": "ann"}', {"Set-Cookie": "sessionid=renewed-s3cret"}

    with caplog.at_level(logging.DEBUG):
        async with running_site() as site:
            site.reply = reply
            async with asking(site) as one:
                assert (await one.ask()).user == "ann"
    assert "s3cret" not in caplog.text
    assert "of-the-broker" not in caplog.text
