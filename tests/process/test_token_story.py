"""Keys, a check of the configuration, `serve`, `subscribe` with a token and `publish` with a key: as docs tell it."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.process.command import PATIENCE_SECONDS, Result, Served, run, talking
from tests.process.guarded import Site, guarded, new_site

CANNOT, NOTHING = 1, 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = new_site(tmp_path_factory.mktemp("site"))
    for name, arguments in {
        "backend": ["--scope", "publish", "--scope", "read", "--scope", "admin"],
        "reader": ["--scope", "read"],
        "news": ["--channel", "news.>"],
    }.items():
        site.api_key(name, *arguments)
    return site


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[Served]:
    with guarded(site, "--workers", "2") as broker:
        yield broker


def asking(broker: Served, site: Site, *arguments: str, key: str = "backend") -> Result:
    return run(*arguments, "--api-url", broker.api_url, "--api-key-file", str(site.folder / f"{key}.key"))


@contextmanager
def subscribing(broker: Served, *arguments: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    with talking("subscribe", *arguments, WSBROKER_URL=broker.url, **more) as process:
        yield process


def test_the_configuration_of_the_story_is_found_right_before_it_is_served(site: Site) -> None:
    result = run("check-config", "--config", str(site.config))
    assert (result.status, result.errors) == (0, "")
    assert "(3 keys)" in result.output
    assert "clients: by tokens (1 key)" in result.output


def test_who_has_a_token_hears_what_the_back_end_publishes_on_any_worker(broker: Served, site: Site) -> None:
    token = site.write_token("ann.token", "--subscribe", "room.*")
    assert asking(broker, site, "publish", "room.1", "first") == (0, "", "")
    with subscribing(broker, "room.1", "--last", "1", "--count", "2", "--token-file", str(token)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        assert asking(broker, site, "publish", "room.1", "second") == (0, "", "")
        assert process.communicate(timeout=PATIENCE_SECONDS) == ("second\n", "")
        assert process.returncode == 0


def test_who_is_connected_is_shown_found_and_sent_away(broker: Served, site: Site) -> None:
    assert asking(broker, site, "publish", "room.2", "here") == (0, "", "")
    for by in ("user", "session"):
        token = site.token("--subscribe", "room.*")
        with subscribing(broker, "room.2", "--last", "1", WSBROKER_TOKEN=token) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            head, row = asking(broker, site, "sessions").output.splitlines()
            session, user, *_, channels = row.split()
            assert (head.split()[0], user, channels) == ("SESSION", "ann", "room.2")
            assert asking(broker, site, "sessions", "--user", "ann").output.splitlines()[1] == row
            assert asking(broker, site, "sessions", session).output.splitlines()[1] == row
            assert asking(broker, site, "channels", "--prefix", "room.").output.splitlines()[1].split() == [
                "room.2",
                "1",
            ]
            whom = ["--user", "ann"] if by == "user" else [session]
            assert asking(broker, site, "disconnect", *whom).output == "1 session disconnected\n"
            output, errors = process.communicate(timeout=PATIENCE_SECONDS)
            assert (process.returncode, output) == (CANNOT, "")
            assert errors.startswith("ws-broker: closed with 4510 ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sessions"], "nobody is connected"),
        (["sessions", "--user", "bob"], "the user bob has no session"),
        (["sessions", "s-1"], "no session has this id"),
        (["channels", "--prefix", "nothing."], "nobody is subscribed to any channel nothing."),
        (["disconnect", "--user", "bob"], "the user bob has no session"),
        (["disconnect", "s-1"], "there is no such session"),
    ],
)
def test_nothing_found_is_3_and_one_line(broker: Served, site: Site, arguments: list[str], said: str) -> None:
    result = asking(broker, site, *arguments)
    assert (result.status, result.output) == (NOTHING, "")
    assert said in result.one_line


@pytest.mark.parametrize(
    ("key", "arguments", "said"),
    [
        ("reader", ["publish", "news.a", "x"], "scope publish"),
        ("reader", ["sessions"], "scope admin"),
        ("news", ["channels"], "scope read"),
        ("news", ["publish", "room.1", "x"], "may not do this"),
    ],
)
def test_a_key_that_may_not_is_told_what_it_lacks(
    broker: Served, site: Site, key: str, arguments: list[str], said: str
) -> None:
    result = asking(broker, site, *arguments, key=key)
    assert (result.status, result.output) == (CANNOT, "")
    assert said in result.one_line


def test_a_wrong_key_is_one_line_that_says_where_it_came_from(broker: Served) -> None:
    result = run("publish", "news", "x", WSBROKER_API_URL=broker.api_url, WSBROKER_API_KEY="wsb_wrong")
    assert result.status == CANNOT
    assert "refuses the API key from WSBROKER_API_KEY" in result.one_line
    assert "wsb_wrong" not in result.errors


def test_the_port_of_pages_is_told_from_that_of_back_ends(broker: Served, site: Site) -> None:
    url = broker.url.replace("ws:", "http:").removesuffix("/ws")
    key = site.folder / "backend.key"
    result = run("publish", "news", "x", "--api-url", url, "--api-key-file", str(key))
    assert result.status == CANNOT
    assert "which is not the broker's API" in result.one_line


@pytest.mark.parametrize(
    ("token", "channel", "said"),
    [
        ([], "user.bob", "user.bob: "),
        ([], "room.1", "room.1: "),
        (None, "room.1", "a valid token is needed"),
        ("not-a-token", "public", "--token-file or WSBROKER_TOKEN"),
    ],
    ids=["another user's", "no claim", "no token", "no such token"],
)
def test_who_is_refused_is_told_in_one_line_and_does_not_come_back(
    broker: Served, site: Site, token: list[str] | str | None, channel: str, said: str
) -> None:
    text = token if isinstance(token, str) else "" if token is None else site.token(*token)
    result = run("subscribe", channel, WSBROKER_URL=broker.url, WSBROKER_TOKEN=text)
    assert (result.status, result.output) == (CANNOT, "")
    assert said in result.one_line
    if text:
        assert text not in result.errors


def test_a_token_about_to_expire_is_replaced_in_band_once_the_file_holds_another(broker: Served, site: Site) -> None:
    """Every token here is about to expire: the broker warns an hour before (auth.expiring_seconds)."""
    file = site.write_token("ann.renewed", "--subscribe", "room.3", "--expires", "1h")
    assert asking(broker, site, "publish", "room.3", "before") == (0, "", "")
    with subscribing(broker, "room.3", "--last", "1", "--count", "2", "--token-file", str(file)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        file.write_text("")  # for a moment, as a shell's `> FILE` does
        file.write_text(site.token("--subscribe", "room.3", "--subs", "room.given", "--expires", "30m") + "\n")
        until_somebody_hears(broker, site, "room.given")
        assert asking(broker, site, "publish", "room.given", "after") == (0, "", "")
        assert process.communicate(timeout=PATIENCE_SECONDS) == ("after\n", "")
        assert process.returncode == 0


def test_a_new_token_with_fewer_rights_ends_what_it_does_not_cover(broker: Served, site: Site) -> None:
    file = site.write_token("ann.less", "--subscribe", "room.*", "--expires", "1h")
    assert asking(broker, site, "publish", "room.5", "before") == (0, "", "")
    with subscribing(broker, "room.5", "--last", "1", "--token-file", str(file)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "before\n"
        site.write_token("ann.less", "--expires", "30m")
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, output) == (CANNOT, "")
    assert errors == f"ws-broker: {broker.url}: the broker has ended the subscription\n"


def until_somebody_hears(broker: Served, site: Site, channel: str) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while asking(broker, site, "channels", "--prefix", channel).status == NOTHING:
        assert time.monotonic() < until


def test_a_token_that_expires_and_is_not_replaced_ends_it_after_one_return(broker: Served, site: Site) -> None:
    for seconds in (2, 4, 8, 16):  # until the machine is quick enough to use it before its end
        token = site.token("--subscribe", "room.*", "--expires", f"{seconds}s")
        result = run("subscribe", "room.4", WSBROKER_URL=broker.url, WSBROKER_TOKEN=token)
        assert (result.status, result.output) == (CANNOT, "")
        *closed, last = result.errors.splitlines()
        assert "the token has expired" in last
        if closed:
            break
    (line,) = closed
    assert "closed with 4219 token_expired" in line
