"""[auth] and [hook] of a configuration, with all that they name: checked before anything starts.

Called by whoever checks a configuration, at start and on reload. `hook` and `tokens` load what they need with the same
functions, so nothing that is refused here can get there.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from broker.auth.fetch import url_problem
from broker.auth.keys import load_keys
from broker.auth.secrets import Reader
from broker.config.errors import ConfigError
from broker.config.schema import Config, Hook

# RFC 9110 section 5.6.2; a cookie's name is a token too (RFC 6265 section 4.1.1).
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class LoadedHook(NamedTuple):
    secret: bytes | None
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<LoadedHook {'with' if self.secret else 'without'} secret>"


def load_hook(hook: Hook, environment: Mapping[str, str] | None = None) -> LoadedHook:
    """Checks the settings and reads the secret. Raises ConfigError with everything that is wrong."""
    reader = Reader(environment)
    problems = reader.problems
    if not hook.url:
        if hook.secret_file or hook.secret_environment or hook.cookies or hook.headers:
            problems.append("hook.url: is missing, and without it the rest of [hook] means nothing")
    else:
        problem = url_problem(hook.url, plain_anywhere=True)
        if problem is not None:
            problems.append(f"hook.url: {problem}")
        elif url_problem(hook.url, plain_anywhere=False) is not None:
            reader.warnings.append("hook.url: cookies of users go over the network unencrypted; use https if you can")
    problems.extend(_name_problems(hook))
    secret = _secret(hook, reader)
    if problems:
        raise ConfigError(problems)
    return LoadedHook(secret, tuple(reader.warnings))


def _name_problems(hook: Hook) -> Iterator[str]:
    for key, names in (("cookies", hook.cookies), ("headers", hook.headers)):
        for index, name in enumerate(names):
            if _TOKEN.fullmatch(name) is None:
                yield f"hook.{key}[{index}]: {name!r} is no name of a {key[:-1]}"
    for index, name in enumerate(hook.headers):
        if name.lower() == "cookie":
            yield f"hook.headers[{index}]: would show every cookie; name those that are needed in hook.cookies"


def _secret(hook: Hook, reader: Reader) -> bytes | None:
    if hook.secret_file and hook.secret_environment:
        reader.problems.append("hook.secret_file: secret_environment is given too; the secret is in one place")
    elif hook.secret_file or hook.secret_environment:
        keys = ("secret_file", "secret_environment")
        secret = reader.read("hook", hook.secret_file, hook.secret_environment, keys, secret=True)
        if secret is None or all(0x21 <= byte <= 0x7E for byte in secret):
            return secret
        key = keys[0] if hook.secret_file else keys[1]
        reader.problems.append(f"hook.{key}: a header cannot carry it: printable ASCII without spaces only")
    return None


def check(config: Config, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Reads every key and secret that the configuration names. Returns warnings; raises ConfigError with all that is
    wrong.
    """
    problems: list[str] = []
    warnings: list[str] = []
    try:
        warnings += load_keys(config.auth, environment).warnings
    except ConfigError as error:
        problems += error.problems
    try:
        warnings += load_hook(config.hook, environment).warnings
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    if config.auth.allow_tokens_in_urls_that_get_logged:
        warnings.append(
            "auth.allow_tokens_in_urls_that_get_logged: tokens end up in access logs, histories and Referer headers"
        )
    return tuple(warnings)
