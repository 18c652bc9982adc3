"""`ws-broker channels`, `sessions`, `top`, `disconnect`, `version`: what a running broker says, and who has to go."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from broker import __version__
from broker.cli.ends import EXIT_CANNOT_RUN, EXIT_NOTHING_FOUND, check_system, end, say
from broker.cli.output import cell, put, table
from broker.cli.target import api_options, find_api

# The API gives no more at once (its `limit`).
MOST_SESSIONS = 1000
MOST_TOP = 100

_JSON = click.option("--json", "as_json", is_flag=True, help="One line of JSON each, for scripts.")


@click.command(short_help="List the channels that somebody hears.")
@click.option("--prefix", default="", metavar="TEXT", help="Only channels whose name begins so.")
@_JSON
@api_options
def channels(prefix: str, as_json: bool, api_url: str | None, api_key_file: Path | None) -> None:
    """List the channels that somebody is subscribed to.

    Ends with 3 if there is none. Needs an API key with the scope read.

    \b
    Examples:
      ws-broker channels
      ws-broker channels --prefix room. --json | jq -r .channel
    """
    from broker.cli.api import Api

    with Api(find_api(api_url, api_key_file)) as api:
        answer = api.call_or_end("GET", "/v1/channels", params={"prefix": prefix} if prefix else None)
    found = _list(answer, "channels")
    if not found:
        end("nobody is subscribed to any channel" + (f" {cell(prefix)}…" if prefix else ""), EXIT_NOTHING_FOUND)
    _print(found, as_json, ("channel", "subscriptions"))


@click.command(short_help="List who is connected.")
@click.argument("session", required=False)
@click.option("--user", metavar="USER", help="Only those of this user.")
@click.option(
    "--most",
    type=click.IntRange(1, MOST_SESSIONS),
    default=100,
    metavar="N",
    help=f"At most N, up to {MOST_SESSIONS}. [default: 100]",
)
@_JSON
@api_options
def sessions(
    session: str | None, user: str | None, most: int, as_json: bool, api_url: str | None, api_key_file: Path | None
) -> None:
    """List who is connected: everybody, one user, or the session of this id.

    Ends with 3 if there is none, and says so if there are more than N. Needs an API key with the scope admin.

    \b
    Examples:
      ws-broker sessions
      ws-broker sessions --user ann
      ws-broker sessions --user ann --json | jq -r .session
    """
    if session is not None and user is not None:
        raise click.UsageError("give a session's id or --user, not both")
    from broker.cli.api import Api, ApiError, segment

    with Api(find_api(api_url, api_key_file)) as api:
        try:
            if session is None:
                params = {"limit": str(most)} if user is None else {"limit": str(most), "user": user}
                answer = api.call("GET", "/v1/sessions", params=params)
            else:
                answer = {"sessions": [api.call("GET", f"/v1/sessions/{segment(session)}")]}
        except ApiError as error:
            end(error.line, EXIT_NOTHING_FOUND if error.code == _NOT_FOUND else EXIT_CANNOT_RUN)
    found = _list(answer, "sessions")
    if not found:
        end("nobody is connected" if user is None else f"the user {cell(user)} has no session", EXIT_NOTHING_FOUND)
    _print(found, as_json, ("session", "user", "address", "format", "channels"))
    if answer.get("truncated"):
        say(f"there are more than these {len(found)}; --most N shows up to {MOST_SESSIONS}, --user those of one user")


@click.command(short_help="Show the busiest channels and the slowest sessions.")
@click.option(
    "--channels-by",
    type=click.Choice(["messages", "deliveries", "subscriptions"]),
    default="messages",
    help="What makes a channel busy. [default: messages]",
)
@click.option(
    "--sessions-by",
    type=click.Choice(["waiting_ms", "queued_bytes", "queued_messages"]),
    default="waiting_ms",
    help="What makes a session slow. [default: waiting_ms]",
)
@click.option(
    "--most",
    type=click.IntRange(1, MOST_TOP),
    default=10,
    metavar="N",
    help=f"At most N of each, up to {MOST_TOP}. [default: 10]",
)
@_JSON
@api_options
def top(
    channels_by: str, sessions_by: str, most: int, as_json: bool, api_url: str | None, api_key_file: Path | None
) -> None:
    """Show the busiest channels of the last seconds, and the sessions for which most waits now.

    Ends with 3 if nothing happens at all. Needs an API key with the scope admin.

    \b
    Examples:
      ws-broker top
      ws-broker top --channels-by deliveries --most 3
      ws-broker top --sessions-by queued_bytes --json | jq -r 'select(.session) | .session'
    """
    from broker.cli.api import Api

    with Api(find_api(api_url, api_key_file)) as api:
        limit = {"limit": str(most)}
        busy = api.call_or_end("GET", "/v1/top/channels", params={"by": channels_by, **limit})
        slow = api.call_or_end("GET", "/v1/top/sessions", params={"by": sessions_by, **limit})
    found, waiting = _list(busy, "channels"), _list(slow, "sessions")
    if not found and not waiting:
        end(f"no channel has {channels_by} now, and nothing waits for any session", EXIT_NOTHING_FOUND)
    if found:
        _print(found, as_json, ("channel", "messages_per_second", "deliveries_per_second", "subscriptions"))
    if found and waiting and not as_json:
        put("")
    if waiting:
        of_session = ("session", "user", "address", "format", "waiting_ms", "queued_messages", "queued_bytes")
        _print(waiting, as_json, of_session)
    elif not as_json:
        say("nothing waits for any session: all of them read")


@click.command(short_help="Close a session, or all of a user.")
@click.argument("session", required=False)
@click.option("--user", metavar="USER", help="All sessions of this user.")
@_JSON
@api_options
def disconnect(
    session: str | None, user: str | None, as_json: bool, api_url: str | None, api_key_file: Path | None
) -> None:
    """Close one session by its id, or all of a user. They are told not to come back (4510).

    Ends with 3 if there was none. Needs an API key with the scope admin. A client whose token is still valid could
    connect again: take that from it first.

    \b
    Examples:
      ws-broker disconnect --user ann
      ws-broker sessions --user ann --json | jq -r .session | xargs -n 1 ws-broker disconnect
    """
    if (session is None) == (user is None):
        raise click.UsageError("give a session's id, or --user")
    from broker.cli.api import Api, ApiError, segment

    with Api(find_api(api_url, api_key_file)) as api:
        try:
            if session is None:
                answer = api.call("POST", f"/v1/users/{segment(user or '')}/disconnect")
            else:
                answer = api.call("DELETE", f"/v1/sessions/{segment(session)}")
        except ApiError as error:
            end(error.line, EXIT_NOTHING_FOUND if error.code == _NOT_FOUND else EXIT_CANNOT_RUN)
    count = answer.get("disconnected", 0) if isinstance(answer, dict) else 0
    if not count:
        end("there is no such session" if user is None else f"the user {cell(user)} has no session", EXIT_NOTHING_FOUND)
    put(json.dumps(answer) if as_json else f"{count} session{'' if count == 1 else 's'} disconnected")


@click.command(short_help="Print version, build and Python.")
def version() -> None:
    """Print the version, the build of the native core, and the Python it runs on.

    \b
    Examples:
      ws-broker version
    """
    put(version_line())


def version_line() -> str:
    check_system()
    from broker.native._build import BUILD

    python = ".".join(map(str, sys.version_info[:3]))
    return f"ws-broker {__version__} ({BUILD} build, Python {python})"


# A proxy's own 404 has no such word: it is trouble, and no answer to the question.
_NOT_FOUND = "not_found"


def _list(answer: Any, name: str) -> list[Any]:
    found = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(found, list):
        end("the answer is not that of a broker of this version")
    return found


def _print(rows: Sequence[dict[str, Any]], as_json: bool, columns: Sequence[str]) -> None:
    lines = (
        [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        if as_json
        else table([name.upper() for name in columns], [[_text(row.get(name)) for name in columns] for row in rows])
    )
    for line in lines:
        put(line)


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(str(one.get("channel", "?")) if isinstance(one, dict) else str(one) for one in value) or "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
