"""The samples of docs/security.md, as they stand there, served by uvicorn and asked by the hook."""

import asyncio
import hmac
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import django
import fastapi
import pytest
import uvicorn
from django.conf import settings

from broker.auth.hook import Hook
from broker.auth.identity import AuthError, Identity
from broker.auth.settings import LoadedHook
from broker.config.schema import Hook as Settings
from tests.integration.harness import wait_until

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text()
SECRET = "the-brokers-own"
MOST_LINES = 15


def sample(name: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs the sample in a module that has `names`; returns what the module has then."""
    found = re.search(rf"<!-- sample: {name} -->\n```python\n(.*?)```", DOCUMENT, re.S)
    assert found is not None
    assert found[1].count("\n") < MOST_LINES
    names["__name__"] = name
    exec(compile(found[1], f"docs/security.md ({name})", "exec"), names)
    return names


@asynccontextmanager
async def asked(app: Any, secret: str = SECRET) -> AsyncIterator[Hook]:
    """A hook that asks this application."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    await wait_until(lambda: server.started, "uvicorn serves")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/ws-auth"
    hook = Hook(Settings(url, cookies=["sessionid"]), None, LoadedHook(secret.encode(), ()))
    await hook.start()
    try:
        yield hook
    finally:
        await hook.stop()
        server.should_exit = True
        await serving
        listener.close()


async def ask(hook: Hook, session: str | None) -> Identity:
    headers = [] if session is None else [(b"Cookie", f"sessionid={session}".encode())]
    return await hook.ask(hook.evidence(headers, cookies=True), "https://site.example", ("room.7",))


async def refused(hook: Hook, session: str | None) -> bool:
    with pytest.raises(AuthError) as caught:
        await ask(hook, session)
    return caught.value.word == "not_authenticated"


async def test_the_fastapi_sample_tells_the_broker_who_has_a_session() -> None:
    app = fastapi.FastAPI()
    names: dict[str, Any] = {
        "app": app,
        "hmac": hmac,
        "Header": fastapi.Header,
        "HTTPException": fastapi.HTTPException,
        "HOOK_SECRET": SECRET,
        "sessions": {"abc": "ann"},
    }
    sample("fastapi", names)
    async with asked(app) as hook:
        assert await ask(hook, "abc") == Identity("ann", None, ("room.*",), ("user.ann",))
        assert await refused(hook, "abcd")
        assert await refused(hook, None)
    async with asked(app, "somebody-else") as hook:
        assert await refused(hook, "abc")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, str]]:
    """A Django site with sessions in a database: its application, a session of somebody logged in, that user's id."""
    settings.configure(
        SECRET_KEY="of-this-test-only",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        WS_HOOK_SECRET=SECRET,
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(tmp_path_factory.mktemp("django") / "db.sqlite3"),
            }
        },
    )
    django.setup()
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore
    from django.core.asgi import get_asgi_application
    from django.core.management import call_command
    from django.db import connections
    from django.http import HttpResponse, JsonResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    call_command("migrate", verbosity=0)
    user = User.objects.create_user("Ann")
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    names = sample(
        "django",
        {
            "hmac": hmac,
            "json": json,
            "settings": settings,
            "csrf_exempt": csrf_exempt,
            "get_user": get_user,
            "HttpResponse": HttpResponse,
            "JsonResponse": JsonResponse,
            "SessionStore": SessionStore,
        },
    )
    globals()["urlpatterns"] = [path("ws-auth", names["ws_auth"])]
    connections.close_all()
    yield get_asgi_application(), str(session.session_key), str(user.pk)
    connections.close_all()


async def test_the_django_sample_tells_the_broker_who_is_logged_in(site: tuple[Any, str, str]) -> None:
    application, session, user = site
    async with asked(application) as hook:
        assert await ask(hook, session) == Identity(user, b'{"name":"Ann"}', ("room.*",))
        assert await refused(hook, "x" * 32)
        assert await refused(hook, None)
    async with asked(application, "somebody-else") as hook:
        assert await refused(hook, session)
