"""What the admin port answers: /metrics, /livez and /readyz, to GET and HEAD, whoever asks.

No key and any Host: a kubelet asks by the pod's address, and there are only numbers to see. Three paths need no
framework; what a broker without an API would load for one is 10 MB.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, make_asgi_app

from broker.admin.health import Health, Verdict, live, ready
from broker.api.front import Message, Receive, Scope, Send, respond
from broker.api.problems import Problem
from broker.log import get_logger

log = get_logger(__name__)

_TEXT = [(b"content-type", b"text/plain; charset=utf-8")]
# What prometheus_client reads of a request; it decodes every header, and a stranger's need not be text.
_NEGOTIATION = frozenset({b"accept", b"accept-encoding"})


class AdminApplication:
    """An ASGI application. `health` is asked for each probe."""

    def __init__(self, registry: CollectorRegistry, health: Callable[[], Health]) -> None:
        self._metrics = make_asgi_app(registry)
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            await self._answer(scope, receive, send)
        except Problem as problem:
            await _refuse(send, problem)
        except Exception:
            log.exception("request of the admin port failed")
            await _refuse(send, Problem("internal_error"))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["raw_path"]
        if path not in (b"/metrics", b"/livez", b"/readyz"):
            raise Problem("not_found")
        if scope["method"] not in ("GET", "HEAD"):
            raise Problem("method_not_allowed", headers=((b"allow", b"GET, HEAD"),))
        if path == b"/metrics":
            await self._show_metrics(scope, receive, send)
        else:
            verdict = (live if path == b"/livez" else ready)(self._health())
            await respond(send, 200 if verdict.well else 503, _TEXT, _text(verdict))

    async def _show_metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """With a length and without a cache, which prometheus_client leaves to its user."""
        asked = {
            **scope,
            "headers": [(name, value) for name, value in scope["headers"] if name in _NEGOTIATION and value.isascii()],
            "query_string": scope["query_string"] if scope["query_string"].isascii() else b"",
        }
        head: Message = {}

        async def whole(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                await respond(send, head["status"], head["headers"], message["body"])

        await self._metrics(asked, receive, whole)


async def _refuse(send: Send, problem: Problem) -> None:
    await respond(send, problem.status, problem.all_headers(), problem.body())


def _text(verdict: Verdict) -> bytes:
    return "".join(f"{reason}\n" for reason in verdict.reasons).encode()
