"""HTTP requests to addresses of the configuration: bounded in time and bytes, without redirects, cookies or proxies.

Used by `jwks` and `hook`. httpx rather than aiohttp: one class to import, typed, and its transport can be replaced;
at some hundred requests a second its cost does not count. Errors have a fixed text and hold nothing of an answer.
"""

import asyncio
import logging
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx

from broker.config.values import is_loopback

# An idle connection is kept for the next question so long; nginx closes its end after 75 s.
KEEP_ALIVE_SECONDS = 30.0

# httpx would log each URL at INFO, a line for each connect; httpcore at DEBUG (`serve --verbose`) the headers of each
# answer, and a site's Set-Cookie is a session.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class FetchError(Exception):
    """No usable answer; the text is ours, or the operating system's about a connection that could not be made."""


def url_problem(text: str, *, plain_anywhere: bool) -> str | None:
    """What is wrong with a URL of the configuration; None = nothing. Plain http is for this machine, unless
    `plain_anywhere`. The text does not repeat the URL, which may hold a secret.
    """
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        return "is no URL"
    if url.username is not None or url.password is not None:
        return "must not hold a user or password: URLs get logged"
    if url.scheme not in ("http", "https") or not host or port == 0:
        return "is no URL: https://HOST[:PORT]/PATH"
    if url.fragment:
        return "has a fragment (#), which no server ever sees"
    if url.scheme == "http" and not plain_anywhere and not is_loopback(host):
        return "plain http is taken for this machine only: whoever is in between could put in keys of theirs; use https"
    return None


def make_client(url: str, max_connections: int, seconds: float) -> httpx.AsyncClient:
    """Keeps connections alive. Forgets what a Set-Cookie says: a site's cookie for one user must not go with the
    question about the next. The system's certificates count (SSL_CERT_FILE too), proxy variables do not: what is asked
    here usually is near.
    """
    verify: ssl.SSLContext | bool = ssl.create_default_context() if urlsplit(url).scheme == "https" else False
    return httpx.AsyncClient(
        verify=verify,
        trust_env=False,
        follow_redirects=False,
        timeout=seconds,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        limits=httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
        ),
        # A compressed answer could be a thousand times as long as what was read.
        headers={"User-Agent": "ws-broker", "Accept": "application/json", "Accept-Encoding": "identity"},
    )


async def fetch(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    seconds: float,
    max_bytes: int,
    content: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """The status, and for 200 the body. Raises FetchError. `seconds` bounds the whole, whatever drips in meanwhile.

    Only for requests that change nothing: one that meets the end of a kept connection is sent once more.
    """
    try:
        async with asyncio.timeout(seconds):
            try:
                return await _fetch(client, method, url, max_bytes, content, headers)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                return await _fetch(client, method, url, max_bytes, content, headers)
    except (TimeoutError, httpx.TimeoutException):
        raise FetchError(f"no answer within {seconds:g} s") from None
    except httpx.ConnectError as error:
        raise FetchError(f"cannot connect: {error}") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise FetchError(f"the connection broke ({type(error).__name__})") from None


async def _fetch(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    max_bytes: int,
    content: bytes | None,
    headers: dict[str, str] | None,
) -> tuple[int, bytes]:
    async with client.stream(method, url, content=content, headers=headers) as response:
        return response.status_code, await _body(response, max_bytes)


async def _body(response: httpx.Response, max_bytes: int) -> bytes:
    """Also read if the status says everything: the connection can then be used again."""
    body = bytearray()
    encoding = response.headers.get("Content-Encoding", "identity")
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > max_bytes:
            if response.status_code == 200:
                raise FetchError(f"the answer is longer than {max_bytes} bytes")
            return b""
    if response.status_code != 200:
        return b""
    if encoding.lower() != "identity":
        raise FetchError("the answer is compressed, which was not asked for")
    return bytes(body)
