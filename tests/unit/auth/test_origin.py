"""Which pages get in (hardening against cross-site WebSocket hijacking)."""

import pytest

from broker.auth.origin import OriginRule

LISTED = OriginRule(["https://App.example", "http://app.example:8080", "https://xn--bcher-kva.example"])


@pytest.mark.parametrize(
    "origin",
    [
        b"https://app.example",
        b"HTTPS://APP.EXAMPLE",
        b"https://app.example:443",
        b"http://app.example:8080",
        b"https://xn--bcher-kva.example",
    ],
)
def test_a_listed_page_connects_however_its_origin_is_written(origin: bytes) -> None:
    assert LISTED.allows(origin)


@pytest.mark.parametrize(
    "origin",
    [
        b"http://app.example",  # the scheme counts
        b"https://app.example:8080",  # the port counts
        b"https://app.example.evil.example",
        b"https://evil-app.example",
        b"https://app.example@evil.example",
        b"https://app.example/",
        b"https://app.example https://evil.example",
        b"https://app.example.",
        b"https://app.example:99999",
        b"https://",
        b"app.example",
        b"",
        b"*",
        b"null",
        b"https://b\xc3\xbccher.example",
        b"https://app.example\x00",
        b"https://app.example\n",
    ],
)
def test_a_page_that_only_looks_listed_stays_out(origin: bytes) -> None:
    assert not LISTED.allows(origin)


def test_null_gets_in_only_by_name() -> None:
    assert OriginRule(["null"]).allows(b"null")
    assert not OriginRule(["*"]).allows(b"null")
    assert not OriginRule(dev=True).allows(b"null")


def test_a_client_without_an_origin_is_a_choice_of_its_own() -> None:
    assert OriginRule().allows(None)
    assert not OriginRule(["*"], allow_absent=False).allows(None)


def test_nothing_listed_admits_no_page() -> None:
    assert not OriginRule().allows(b"https://app.example")


def test_a_star_admits_every_page_with_an_origin() -> None:
    anyone = OriginRule(["*"])
    assert anyone.allows(b"https://anything.example:1234")
    assert anyone.allows(b"chrome-extension://abcdefghijklmnop")
    assert not anyone.allows(b"not an origin")


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost:3000",
        b"https://localhost",
        b"http://127.0.0.1:5173",
        b"http://[::1]:8000",
        b"http://LOCALHOST",
    ],
)
def test_a_local_page_connects_in_development_from_any_port(origin: bytes) -> None:
    assert OriginRule(dev=True).allows(origin)
    assert not OriginRule().allows(origin)


@pytest.mark.parametrize(
    "origin",
    [
        b"http://localhost.evil.example",
        b"http://127.0.0.1.evil.example",
        b"http://127.0.0.2",
        b"http://[::2]",
        b"http://192.168.1.2:3000",
        b"file://localhost",
    ],
)
def test_a_foreign_page_does_not_reach_a_developer_s_broker(origin: bytes) -> None:
    assert not OriginRule(dev=True).allows(origin)


def test_an_extension_page_can_be_listed() -> None:
    assert OriginRule(["chrome-extension://abc"]).allows(b"chrome-extension://abc")


@pytest.mark.parametrize("origin", ["https://a/", "a", "https://a:0", ""])
def test_a_list_with_something_else_than_origins_is_an_error(origin: str) -> None:
    with pytest.raises(ValueError, match=r"origin|port"):
        OriginRule([origin])


def test_a_wildcard_admits_every_sub_domain_and_nothing_that_only_looks_like_one() -> None:
    rule = OriginRule(["https://*.example.com", "http://*.example.org:8080"])
    for admitted in (b"https://a.example.com", b"https://a.b.example.com", b"http://x.example.org:8080"):
        assert rule.allows(admitted), admitted
    for refused in (
        b"https://example.com",
        b"https://evilexample.com",
        b"https://a.example.com.evil.test",
        b"http://a.example.com",
        b"https://a.example.com:444",
        b"http://x.example.org",
        b"https://.example.com",
    ):
        assert not rule.allows(refused), refused


@pytest.mark.parametrize("text", ["https://*.com", "https://*", "https://a.*.com", "https://*.[::1]", "*.example.com"])
def test_a_wildcard_that_would_admit_too_much_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"origin|labels"):
        OriginRule([text])


def test_cookies_are_believed_only_for_pages_that_are_meant_by_name() -> None:
    rule = OriginRule(["*", "null", "https://app.example", "https://*.example.com"], dev=True)
    for named in (b"https://app.example", b"https://a.example.com", b"http://localhost:3000"):
        assert rule.names(named), named
    for other in (b"https://evil.test", b"null", None):
        assert rule.allows(other)
        assert not rule.names(other), other
