"""The routes of the HTTP API that are asked seldom, and the OpenAPI document of all of them.

Litestar rather than Starlette: it speaks msgspec, and writes the OpenAPI document from the same types. Called behind
Front, which has checked the key. What publishes is answered by Front itself; document.py describes it.
"""

from http import HTTPStatus
from typing import Annotated, Any, NoReturn

import msgspec
from litestar import Litestar, Request, Response, delete, get, post
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import JSONBody, PathParameter, QueryParameter

from broker import __version__
from broker.api.bodies import (
    Affected,
    BusyChannels,
    ChannelKey,
    ChannelList,
    Channels,
    Disconnected,
    Members,
    Messages,
    SessionInfo,
    SessionKey,
    Sessions,
    SlowSessions,
)
from broker.api.directory import Directory
from broker.api.document import with_publishing
from broker.api.front import decoded
from broker.api.keys import Key
from broker.api.problems import PROBLEMS, Problem, ProblemDocument
from broker.api.reading import Reading
from broker.config.schema import Scope
from broker.engine.base import EngineError
from broker.protocol.commands import DEFAULT_HISTORY, MAX_HISTORY
from broker.protocol.names import NameRule

MOST_SESSIONS = 1000
DEFAULT_SESSIONS = 100
MOST_TOP = 100
DEFAULT_TOP = 10

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_HISTORY, description="At most so many messages.")]
SessionLimit = Annotated[int, QueryParameter(ge=1, le=MOST_SESSIONS, description="At most so many sessions.")]
TopLimit = Annotated[int, QueryParameter(ge=1, le=MOST_TOP, description="At most so many.")]
ChannelName = Annotated[str, PathParameter(description="A channel name, percent-encoded.")]
UserId = Annotated[str, PathParameter(description="A user's id, percent-encoded.")]
SessionId = Annotated[str, PathParameter(description="A session's id.")]
Asked = Request[Any, Any, Any]

_SECURITY: list[dict[str, list[str]]] = [{"key": []}]


def _problems(*codes: str) -> dict[int, ResponseSpec]:
    """What each status of these codes, and of those that every request can meet, looks like."""
    met = ("bad_request", "not_authenticated", "not_permitted", "wrong_host", "internal_error", *codes)
    by_status: dict[int, list[str]] = {}
    for code in met:
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return {
        status: ResponseSpec(
            ProblemDocument,
            generate_examples=False,
            description=f"{HTTPStatus(status).phrase}; code {' or '.join(found)}",
            media_type="application/problem+json",
        )
        for status, found in by_status.items()
    }


def _key(request: Asked, scope: Scope) -> Key:
    key: Key = request.scope["key"]  # type: ignore[typeddict-item]  # Front has put it there
    key.need(scope)
    return key


def reading_routes(reading: Reading) -> list[Any]:
    """The handlers of the scope `read`."""

    @get(
        "/v1/channels/{channel:str}/messages",
        responses=_problems("bad_channel", "no_history", "engine_unavailable"),
        operation_id="readMessages",
        summary="Messages of a channel with history",
    )
    async def read_messages(
        request: Asked,
        channel: ChannelName,
        since: Annotated[
            str | None, QueryParameter(description="After this position; without it the last ones.")
        ] = None,
        limit: Limit = DEFAULT_HISTORY,
    ) -> Messages:
        name = decoded(channel, "bad_channel")
        return await reading.messages(_key(request, "read"), name, since, limit)

    @get(
        "/v1/channels/{channel:str}/presence",
        responses=_problems("bad_channel", "not_supported", "engine_unavailable"),
        operation_id="readPresence",
        summary="Who is in a channel",
    )
    async def read_presence(request: Asked, channel: ChannelName) -> Members:
        return await reading.presence(_key(request, "read"), decoded(channel, "bad_channel"))

    @get(
        "/v1/channels",
        responses=_problems("bad_field", "engine_unavailable"),
        operation_id="listChannels",
        summary="Channels that somebody is subscribed to",
    )
    async def list_channels(
        request: Asked, prefix: Annotated[str, QueryParameter(description="What their names begin with.")] = ""
    ) -> Channels:
        return await reading.channels(_key(request, "read"), prefix)

    return [read_messages, read_presence, list_channels]


def session_routes(directory: Directory) -> list[Any]:
    """Those of the scope `admin` that concern sessions."""

    @get(
        "/v1/sessions",
        responses=_problems("bad_field", "engine_unavailable"),
        operation_id="listSessions",
        summary="Sessions, of everybody or of one user",
    )
    async def list_sessions(
        request: Asked,
        user: Annotated[str | None, QueryParameter(description="Only those of this user.")] = None,
        limit: SessionLimit = DEFAULT_SESSIONS,
    ) -> Sessions:
        _key(request, "admin")
        # One more tells whether there are more.
        found = await directory.sessions(user=user, most=limit + 1)
        return Sessions(found[:limit], len(found) > limit)

    @get(
        "/v1/sessions/{session:str}",
        responses=_problems("not_found", "engine_unavailable"),
        operation_id="readSession",
        summary="One session",
    )
    async def read_session(request: Asked, session: SessionId) -> SessionInfo:
        _key(request, "admin")
        found = await directory.sessions(session=decoded(session, "not_found"))
        if not found:
            raise Problem("not_found", "no session has this id")
        return found[0]

    @delete(
        "/v1/sessions/{session:str}",
        status_code=200,
        responses=_problems("not_found", "engine_unavailable"),
        operation_id="disconnectSession",
        summary="End a session",
    )
    async def disconnect_session(request: Asked, session: SessionId) -> Disconnected:
        _key(request, "admin")
        return Disconnected(await directory.disconnect(session=decoded(session, "not_found")))

    @post(
        "/v1/users/{user:str}/disconnect",
        status_code=200,
        responses=_problems("bad_field", "engine_unavailable"),
        operation_id="disconnectUser",
        summary="End all sessions of a user",
    )
    async def disconnect_user(request: Asked, user: UserId) -> Disconnected:
        _key(request, "admin")
        return Disconnected(await directory.disconnect(user=decoded(user, "bad_field")))

    return [list_sessions, read_session, disconnect_session, disconnect_user]


def top_routes(directory: Directory) -> list[Any]:
    """Those of the scope `admin` that say where the load is."""

    @get(
        "/v1/top/channels",
        responses=_problems("bad_field", "engine_unavailable"),
        operation_id="topChannels",
        summary="The busiest channels of the last seconds",
    )
    async def top_channels(
        request: Asked,
        by: Annotated[ChannelKey, QueryParameter(description="What of them is compared.")] = "messages",
        limit: TopLimit = DEFAULT_TOP,
    ) -> BusyChannels:
        _key(request, "admin")
        return BusyChannels(await directory.busiest(by, limit))

    @get(
        "/v1/top/sessions",
        responses=_problems("bad_field", "engine_unavailable"),
        operation_id="topSessions",
        summary="The slowest sessions now",
    )
    async def top_sessions(
        request: Asked,
        by: Annotated[SessionKey, QueryParameter(description="What of them is compared.")] = "waiting_ms",
        limit: TopLimit = DEFAULT_TOP,
    ) -> SlowSessions:
        _key(request, "admin")
        return SlowSessions(await directory.slowest(by, limit))

    return [top_channels, top_sessions]


def user_routes(directory: Directory, names: NameRule) -> list[Any]:
    """Those that concern the channels of users."""

    def _channels(request: Asked, data: ChannelList) -> list[str]:
        key = _key(request, "admin")
        for name in data.channels:
            key.need_channel(name)
            if not names.accepts(name):
                raise Problem("bad_channel")
        return list(dict.fromkeys(data.channels))

    @post(
        "/v1/users/{user:str}/subscribe",
        status_code=200,
        responses=_problems("bad_json", "bad_field", "bad_channel", "too_large", "engine_unavailable"),
        operation_id="subscribeUser",
        summary="Subscribe all sessions of a user",
    )
    async def subscribe_user(request: Asked, user: UserId, data: JSONBody[ChannelList]) -> Affected:
        return Affected(await directory.subscribe(decoded(user, "bad_field"), _channels(request, data)))

    @post(
        "/v1/users/{user:str}/unsubscribe",
        status_code=200,
        responses=_problems("bad_json", "bad_field", "bad_channel", "too_large", "engine_unavailable"),
        operation_id="unsubscribeUser",
        summary="Unsubscribe all sessions of a user",
    )
    async def unsubscribe_user(request: Asked, user: UserId, data: JSONBody[ChannelList]) -> Affected:
        return Affected(await directory.unsubscribe(decoded(user, "bad_field"), _channels(request, data)))

    return [subscribe_user, unsubscribe_user]


def application(reading: Reading, directory: Directory, names: NameRule, max_body_bytes: int) -> tuple[Litestar, bytes]:
    """The application, and the OpenAPI document of the whole API as JSON."""
    app = Litestar(
        [*reading_routes(reading), *session_routes(directory), *top_routes(directory), *user_routes(directory, names)],
        openapi_config=OpenAPIConfig(
            title="ws-broker",
            version=__version__,
            description="Publish, read and administer. Errors are problem documents (RFC 9457).",
            components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
            security=_SECURITY,
            use_handler_docstrings=False,
        ),
        exception_handlers={Exception: _problem},
        logging_config=None,
        debug=False,
        request_max_body_size=max_body_bytes,
        signature_namespace={"Asked": Asked},
    )
    document = with_publishing(app.openapi_schema.to_schema())
    return app, msgspec.json.encode(document)


def _problem(_: Asked, error: Exception) -> Response[bytes]:
    problem = _as_problem(error)
    headers = {name.decode(): value.decode() for name, value in problem.all_headers()}
    headers |= {"x-content-type-options": "nosniff", "cache-control": "no-store"}
    return Response(problem.body(), status_code=problem.status, media_type=headers.pop("content-type"), headers=headers)


def _as_problem(error: Exception) -> Problem:
    """Raises what is no fault of the request: Front logs that once."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, EngineError):
        return Problem(error.word)
    if isinstance(error, NotFoundException):
        return Problem("not_found")
    if isinstance(error, MethodNotAllowedException):
        allow = (error.headers or {}).get("allow", "")
        return Problem("method_not_allowed", headers=((b"allow", allow.encode()),) if allow else ())
    if isinstance(error, ValidationException):
        return Problem("bad_field", _fields(error))
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Problem("too_large")
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return Problem("bad_json", "the body is nested too deeply")
    if isinstance(error, HTTPException) and error.status_code == HTTPStatus.BAD_REQUEST:
        return Problem("bad_json")
    _raise(error)


def _fields(error: ValidationException) -> str:
    """Which parameter, and what is wrong with it."""
    extra = error.extra if isinstance(error.extra, list) else []
    found = [f"{one.get('key') or 'body'}: {one.get('message')}" for one in extra if isinstance(one, dict)]
    return "; ".join(found) or "a parameter or the body has a wrong value"


def _raise(error: Exception) -> NoReturn:
    raise error
