"""One conversation with the HTTP API, for the client commands: a request, its answer or what is wrong.

httpx, over requests (no types) and urllib (no keep-alive): it is in the lock already, for key sets and the hook.
"""

import socket
import ssl
from typing import Any
from urllib.parse import quote

from broker import __version__
from broker.cli.ends import end
from broker.cli.output import cell
from broker.cli.target import Target, is_loopback_url

# curl has no limit and leaves people waiting; a handshake through a VPN takes seconds.
_CONNECT_SECONDS = 10.0
# Longer than the API takes for anything (api.request_seconds: 10).
_ANSWER_SECONDS = 30.0
_MOST_RETRY_AFTER_SECONDS = 60.0


class ApiError(Exception):
    """A request that failed. `certain`: nothing was done, so that asking again is safe. `reached`: it got there.

    `status` 0 = no answer. `retry_after` seconds if the broker named a time.
    """

    def __init__(
        self,
        line: str,
        *,
        status: int = 0,
        code: str = "",
        certain: bool = True,
        reached: bool = True,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(line)
        self.line = line
        self.status = status
        self.code = code
        self.certain = certain
        self.reached = reached
        self.retry_after = retry_after

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed after a pause."""
        return self.status in (0, 429, 502, 503, 504)


class Api:
    """Keep-alive connection to one broker. Close it."""

    def __init__(self, target: Target) -> None:
        import httpx

        if target.key is None:
            end(
                f"no API key for {target.url}: set WSBROKER_API_KEY or name a file with --api-key-file "
                "(`ws-broker api-key` makes one); a broker that you run with --dev needs neither"
            )
        self._target = target
        self._httpx = httpx
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {target.key}", "User-Agent": f"ws-broker/{__version__}"},
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            # A proxy for the internet (HTTP_PROXY) knows nothing of this machine's own ports.
            trust_env=not is_loopback_url(target.url),
        )

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self, method: str, path: str, *, content: bytes | None = None, params: dict[str, str] | None = None
    ) -> Any:
        """The JSON of the answer. Raises ApiError. `path` is percent-encoded already, see `segment`."""
        headers = {} if content is None else {"Content-Type": "application/json"}
        where = self._target.url
        try:
            answer = self._client.request(method, where + path, content=content, params=params, headers=headers)
        except self._httpx.ConnectTimeout:
            raise ApiError(f"{where}: no connection within {_CONNECT_SECONDS:g} seconds", reached=False) from None
        except self._httpx.ConnectError as error:
            raise ApiError(unreachable(where, error, "--api-url or WSBROKER_API_URL"), reached=False) from None
        except self._httpx.ProxyError as error:
            raise ApiError(
                f"{where}: the proxy of the environment (HTTP_PROXY) failed: {error}", reached=False
            ) from None
        except self._httpx.TimeoutException:
            raise ApiError(
                f"{where}: no answer within {_ANSWER_SECONDS:g} seconds; nobody knows whether it was done",
                certain=False,
            ) from None
        except self._httpx.InvalidURL:
            raise ApiError(f"{where}: not a URL that can be read", certain=True) from None
        except self._httpx.HTTPError:
            raise ApiError(
                f"{where}: the connection was lost before the answer (does it speak HTTP?); "
                "nobody knows whether it was done",
                certain=False,
            ) from None
        return self._read(answer)

    def call_or_end(self, method: str, path: str, **more: Any) -> Any:
        try:
            return self.call(method, path, **more)
        except ApiError as error:
            end(error.line)

    def _read(self, answer: Any) -> Any:
        where = self._target.url
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            body = answer.json() if kind.endswith("json") else None
        except ValueError:
            body = None
        if answer.is_success and body is not None:
            return body
        # Every problem of the API has a word; those of its neighbour, the port for pages, have none.
        if not isinstance(body, dict) or not isinstance(body.get("code"), str):
            # A proxy that cannot reach its broker was reached: whether the broker was is anybody's guess.
            said = f", on to {cell(answer.headers['location'])}" if "location" in answer.headers else ""
            raise ApiError(
                f"{where}: answers {answer.status_code} with {cell(kind) or 'no content type'}{said}, which is not the "
                "broker's API: a proxy in between, or another port? See --api-url and WSBROKER_API_URL",
                status=answer.status_code,
                certain=answer.status_code < 500,
                retry_after=_seconds(answer.headers.get("retry-after")),
            )
        detail = body.get("detail") or body.get("title") or "no reason given"
        line = f"{where}: {cell(str(detail))}"
        if answer.status_code == 401:
            line = f"{where}: refuses the API key from {self._target.source}: {cell(str(detail))}"
        elif answer.status_code == 403:
            line = f"{where}: the API key from {self._target.source} may not do this: {cell(str(detail))}"
        raise ApiError(
            line,
            status=answer.status_code,
            code=body["code"],
            # What became of it is told by its own word; everything else says that nothing was done.
            certain=body["code"] != "outcome_unknown" and (answer.status_code < 500 or answer.status_code == 503),
            retry_after=_seconds(answer.headers.get("retry-after")),
        )


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def unreachable(where: str, error: BaseException, flag: str) -> str:
    """Why no connection came about, with what to do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"{where}: its certificate is not trusted here ({cause.verify_message}); "
                "for an authority of your own set SSL_CERT_FILE to its certificate"
            )
        if isinstance(cause, ssl.SSLError):
            reason = cell(cause.reason or "no reason")
            return f"{where}: TLS failed ({reason}); if the port speaks no TLS, write {_plain(where)}"
        if isinstance(cause, socket.gaierror):
            return f"{where}: this host name is not known; see {flag}"
        if isinstance(cause, ConnectionRefusedError):
            return (
                f"{where}: nobody listens there; is the broker running? `ws-broker serve --dev` starts one; "
                f"another address goes into {flag}"
            )
        cause = cause.__cause__ or cause.__context__
    return f"{where}: no connection ({cell(str(error)) or type(error).__name__}); see {flag}"


def _plain(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.removesuffix('s')}://{rest}"


def _seconds(text: str | None) -> float | None:
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(float(text), _MOST_RETRY_AFTER_SECONDS)
