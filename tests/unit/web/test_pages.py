"""The pages' headers: a page that its own policy blocks would be blank."""

import base64
import gzip
import hashlib

import pytest

from broker.web.pages import html_page, load_pages


def test_the_policy_lets_exactly_the_inline_script_and_style_run() -> None:
    policy = dict(html_page(b"<style>a{}</style><script>b()\n</script>").headers)["Content-Security-Policy"]
    for directive, text in (("script-src 'self'", b"b()\n"), ("style-src", b"a{}")):
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")


@pytest.mark.parametrize("body", [b"<style></style>", b"<style></style><script></script><script></script>"])
def test_a_page_whose_script_the_policy_would_block_is_refused_at_start(body: bytes) -> None:
    with pytest.raises(ValueError, match="exactly one inline <script>"):
        html_page(body)


def test_the_demo_page_is_small_and_names_no_other_host() -> None:
    page = load_pages(dev=True)["/"]
    assert dict(page.headers)["Content-Type"] == "text/html; charset=utf-8"
    assert len(page.body) < 15_000
    # The one address in it is the name of the icon's XML namespace, which nobody fetches.
    assert page.body.count(b"http://") == page.body.count(b"xmlns='http://www.w3.org/2000/svg'") == 1
    assert b"https://" not in page.body


def test_every_broker_serves_the_client_to_pages_of_any_origin_and_the_demo_only_with_dev() -> None:
    assert list(load_pages(dev=False)) == ["/client.js"]
    headers = dict(load_pages(dev=True)["/client.js"].headers)
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_client_costs_a_page_two_and_a_half_kilobytes_at_most() -> None:
    body = load_pages(dev=False)["/client.js"].body
    assert len(gzip.compress(body, 9, mtime=0)) <= 2560
    # What a Content-Security-Policy without unsafe-eval would block, and what would need a build.
    for word in (b"eval(", b"new Function", b"import "):
        assert word not in body
