"""A Django site with sessions and a login, whose view for the broker's hook is the sample of docs/security.md.

A process of its own, because Django is configured once for a process: `python -m tests.browser.django_site FOLDER`
serves until SIGTERM and prints its address. The hook's secret is in FOLDER/hook-secret, as docs/security.md has it.
"""

import hmac
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import django
import uvicorn
from django.conf import settings

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text()
FORM = "<!doctype html><title>log in</title><form method=post>{% csrf_token %}{{ form }}<button>log in</button></form>"
HOME = """<!doctype html><title>home</title><p id=who>{{ user.get_username }}</p>
<form method=post action=/logout>{% csrf_token %}<button>log out</button></form>"""


def configure(folder: Path) -> None:
    settings.configure(
        SECRET_KEY="of-this-test-only",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        WS_HOOK_SECRET=(folder / "hook-secret").read_text().strip(),
        LOGIN_REDIRECT_URL="/",
        LOGOUT_REDIRECT_URL="/",
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "context_processors": ["django.contrib.auth.context_processors.auth"],
                    "loaders": [
                        ("django.template.loaders.locmem.Loader", {"registration/login.html": FORM, "home.html": HOME})
                    ],
                },
            }
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "db.sqlite3")}},
    )
    django.setup()


def urls() -> list[Any]:
    from django.contrib.auth import get_user
    from django.contrib.auth.views import LoginView, LogoutView
    from django.contrib.sessions.backends.db import SessionStore
    from django.http import HttpResponse, JsonResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt
    from django.views.generic import TemplateView

    names: dict[str, Any] = {
        "__name__": __name__,
        "hmac": hmac,
        "json": json,
        "settings": settings,
        "csrf_exempt": csrf_exempt,
        "get_user": get_user,
        "HttpResponse": HttpResponse,
        "JsonResponse": JsonResponse,
        "SessionStore": SessionStore,
    }
    (sample,) = re.findall(r"<!-- sample: django -->\n```python\n(.*?)```", DOCUMENT, re.S)
    exec(compile(sample, "docs/security.md", "exec"), names)
    return [
        path("", TemplateView.as_view(template_name="home.html")),
        path("login", LoginView.as_view()),
        path("logout", LogoutView.as_view()),
        path("ws-auth", names["ws_auth"]),
    ]


urlpatterns: list[Any] = []


def main(folder: Path) -> None:
    configure(folder)
    from django.contrib.auth.models import User
    from django.core.asgi import get_asgi_application
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    for name in ("ann", "bob"):
        User.objects.create_user(name, password=f"{name}'s password")
    # Django looks for the urls in the module that ROOT_URLCONF names, which is this one as the main program.
    sys.modules["__main__"].urlpatterns = urls()  # type: ignore[attr-defined]
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server = uvicorn.Server(uvicorn.Config(get_asgi_application(), lifespan="off", log_config=None, ws="none"))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
