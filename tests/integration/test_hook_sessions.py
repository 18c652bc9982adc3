"""What a site's hook lets a session do, at connect and in band; the hook's own requests: test_hook.py."""

from broker.auth.identity import AuthError, Identity
from broker.gateway.session import Session
from tests.integration.harness import JSON, request
from tests.integration.identified import NOW, ORIGIN, Clock, Site, Table, broker_with, errors, hello

# -- the hook


async def test_the_site_is_asked_at_connect_and_again_for_each_subscribe() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, room.1", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        event = await hello(client)
        assert (event["user"], errors(event)) == ("ann", {"room.1": None})
        evidence = (b"sessionid=7",)
        assert site.asked == [(evidence, ORIGIN, ("room.1",))]
        await client.command(type="subscribe", channel=["room.2", "public"], id=1)
        assert errors(await client.event()) == {"room.2": None, "public": None}
        assert site.asked[1:] == [(evidence, ORIGIN, ("room.2",))]
        site.answers = lambda channels: Identity("ann")
        await client.command(type="subscribe", channel="room.3", id=2)
        assert errors(await client.event()) == {"room.3": "not_permitted"}


async def test_a_site_that_answers_for_somebody_else_gives_a_session_nothing() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, room.1", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        await hello(client)
        site.answers = lambda channels: Identity("bob", subscribe=channels)
        await client.command(type="subscribe", channel="room.2", id=1)
        assert errors(await client.event()) == {"room.2": "not_permitted"}


async def test_a_site_that_cannot_be_asked_grants_nothing_new_and_takes_nothing_away() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, room.1", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        await hello(client)

        def fails(channels: tuple[str, ...]) -> Identity:
            raise AuthError("overloaded")

        site.answers = fails
        await client.command(type="subscribe", channel=["room.2", "public"], id=1)
        assert errors(await client.event()) == {"room.2": "overloaded", "public": None}
        refused = await broker.connect()
        answer = await refused.ask(request("/ws", "Cookie: sessionid=7", offer="public", origin=ORIGIN))
        assert (answer.status, answer.one("Retry-After")) == (503, "5")


async def test_whoever_is_no_page_of_the_site_does_not_show_it_cookies() -> None:
    site = Site()
    async with broker_with(None, site, auth_keys={}, auth_cookie="") as broker:
        client = await broker.open(f"{JSON}, public", "/ws", "Cookie: sessionid=7")
        await hello(client)
        assert site.asked == [((), None, ("public",))]


async def test_a_token_s_end_is_kept_although_the_site_could_be_asked() -> None:
    site = Site()
    site.answers = lambda channels: Identity(None)
    async with broker_with(Table(), site, auth_cookie="") as broker:
        clock = Clock()
        broker.worker.expiry.clock = clock
        client = await broker.open(f"{JSON}, public", "/ws", "Cookie: sessionid=7", origin=ORIGIN)
        await hello(client)
        await client.command(type="auth", token="ann", id=1)
        assert (await client.event())["user"] == "ann"
        site.answers = lambda channels: Identity("ann", subscribe=channels)
        await client.command(type="subscribe", channel=["room.1", "room.9"], id=2)
        assert errors(await client.event()) == {"room.1": None, "room.9": "not_permitted"}
        (session,) = [broker.worker.reactor.session(conn) for conn in broker.worker.reactor.ids(0, 9)]
        assert isinstance(session, Session)
        assert session.identity.expires == NOW + 3600
