"""What is wrong with values that are each of the right type: by their syntax, or together.

`load` calls `contradictions` once all values are read, and a reload again for what then is in force. Each rule here is
one that the types of the schema cannot say. A rule is told by the key that has to be changed; the others that take part
are named too, so that nothing is said about a value that could not even be read.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from broker.config.schema import Admin, ApiKey, Auth, AuthKey, Config, Hook, Server
from broker.config.sources import Path, Source
from broker.config.values import (
    SUB,
    check_extra_characters,
    check_host,
    check_name,
    check_token,
    check_url,
    check_variable,
    is_loopback,
    parse_listen,
    parse_network,
    parse_origin_rule,
    parse_pattern,
)

_HEX = frozenset("0123456789abcdefABCDEF")
# SHA-256 of nothing: what `printf "" | sha256sum` prints when a variable was not set.
_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Fault(NamedTuple):
    """`others`: what else it depends on. `source`: who set it, if it is not who set the value in force."""

    path: Path
    text: str
    others: tuple[Path, ...] = ()
    source: Source | None = None


class Advice(str):
    """A line of a check about what could be safer. It is no reason not to start."""

    __slots__ = ()


class Check(NamedTuple):
    """What a start looks at beyond the values themselves: the machine, files they name. `find` yields lines, some of
    them Advice, or raises ConfigError with them. `needs`: it is not asked if one of these, or something in it, is wrong
    already.
    """

    needs: tuple[Path, ...]
    find: Callable[[Config], Iterable[str]]


def contradictions(config: Config) -> Iterator[Fault]:
    yield from _server(config.server)
    yield from _of_address(config)
    yield from _limits(config)
    yield from _api(config)
    yield from _admin(config)
    yield from _auth(config.auth)
    yield from _hook(config.hook)
    yield from _cookies(config)
    yield from _channels(config)


def exposure(config: Config, host: str) -> Iterator[Fault]:
    """What must not be served on this address: everything to everybody, or a channel that anybody writes to."""
    server = config.server
    if is_loopback(host):
        return
    if server.dev and not server.dev_on_any_address:
        yield Fault(
            ("server", "listen"),
            "with server.dev everything is open to whoever reaches the port, so only a loopback address is taken; "
            "set server.dev_on_any_address = true if you mean it",
            (("server", "dev"), ("server", "dev_on_any_address")),
        )
    if server.anyone_may_publish_from_anywhere or server.dev:
        return
    for pattern, policy in config.channels.items():
        if policy.publish == "anyone":
            yield Fault(
                ("channels", pattern, "publish"),
                f'with "anyone", whoever reaches {host} writes to everybody who listens, so server.listen must be a '
                "loopback address; set server.anyone_may_publish_from_anywhere = true if you mean it",
                (("server", "listen"), ("server", "anyone_may_publish_from_anywhere")),
            )


def nobody_could_connect(config: Config) -> bool:
    """Whether every client would be refused: there is no way to be somebody, and nothing for anybody."""
    return not (
        config.server.dev
        or config.auth.keys
        or config.hook.url
        or any("anyone" in (policy.subscribe, policy.publish) for policy in config.channels.values())
    )


def _checked(check: Callable[[str], object], text: str, path: Path) -> Iterator[Fault]:
    try:
        check(text)
    except ValueError as error:
        yield Fault(path, str(error))


def _each(check: Callable[[str], object], texts: Iterable[str], path: Path) -> Iterator[Fault]:
    for index, text in enumerate(texts):
        yield from _checked(check, text, (*path, index))


def _of_address(config: Config) -> Iterator[Fault]:
    try:
        host, _ = parse_listen(config.server.listen)
    except ValueError as error:
        yield Fault(("server", "listen"), str(error))
    else:
        yield from exposure(config, host)


def _server(server: Server) -> Iterator[Fault]:
    if server.dev_on_any_address and not server.dev:
        yield Fault(("server", "dev_on_any_address"), "means nothing without server.dev", (("server", "dev"),))
    for index, origin in enumerate(server.origins):
        if origin not in ("null", "*"):
            yield from _checked(parse_origin_rule, origin, ("server", "origins", index))
    path = ("server", "extra_channel_characters")
    yield from _checked(check_extra_characters, server.extra_channel_characters, path)
    yield from _each(parse_network, server.trusted_proxies, ("server", "trusted_proxies"))
    proxies = ("server", "trusted_proxies")
    if not server.trusted_proxies:
        text = "needs server.trusted_proxies: whoever else says where a connection comes from is not believed"
        if server.client_address != "peer":
            yield Fault(("server", "client_address"), text, (proxies,))
        if server.proxy_protocol:
            yield Fault(("server", "proxy_protocol"), text, (proxies,))


def _limits(config: Config) -> Iterator[Fault]:
    limits = config.limits
    for smaller, larger, why in (
        ("max_offer_bytes", "max_head_bytes", "the offer is a part of the request head"),
        ("max_message_bytes", "send_queue_bytes", "a message that fits no queue could never be delivered"),
        ("max_message_bytes", "byte_burst", "a message that fits no bucket could never be sent"),
        ("send_queue_bytes", "memory_bytes", "one full queue would exceed the worker's memory"),
        ("presence_info_bytes", "presence_list_bytes", "a member that fits no list could never be shown"),
        ("refusal_hold_min_seconds", "refusal_hold_max_seconds", "the hold is chosen between the two"),
        ("max_message_bytes", "link_output_bytes", "a message that fits no link could reach no worker"),
        ("handshake_seconds", "interest_linger_seconds", "a channel may not be left while somebody connects to it"),
        ("pong_seconds", "ping_seconds", "the answer to a ping is due before the next one"),
    ):
        most = getattr(limits, larger)
        if getattr(limits, smaller) > most:
            text = f"must not be above limits.{larger} ({most}): {why}"
            yield Fault(("limits", smaller), text, (("limits", larger),))


def _api(config: Config) -> Iterator[Fault]:
    api = config.api
    listen = ("api", "listen")
    if api.listen:
        yield from _checked(parse_listen, api.listen, listen)
        if api.listen == config.server.listen and not api.listen.endswith(":0"):
            yield Fault(listen, "is server.listen already; take another port", (("server", "listen"),))
    yield from _each(check_host, api.hosts, ("api", "hosts"))
    names: dict[str, str] = {}
    for name, key in api.keys.items():
        path = ("api", "keys", name)
        yield from _api_key(key, path)
        other = names.setdefault(key.sha256.lower(), name)
        if key.sha256 and other != name:
            yield Fault((*path, "sha256"), f"is the key {other} already; each has its own")


def _admin(config: Config) -> Iterator[Fault]:
    admin, listen = config.admin, ("admin", "listen")
    if not admin.listen:
        return
    yield from _checked(parse_listen, admin.listen, listen)
    if admin.listen.endswith(":0") or (config.server.dev and admin.listen == Admin().listen):
        return  # in development, a port that nobody has asked for gives way
    for other, taken in (("server", config.server.listen), ("api", config.api.listen)):
        if admin.listen == taken:
            text = f'is {other}.listen already; take another port, or "" for no admin port'
            yield Fault(listen, text, ((other, "listen"),))


def _api_key(key: ApiKey, path: Path) -> Iterator[Fault]:
    yield from _checked(check_name, str(path[-1]), path)
    at = (*path, "sha256")
    if not key.sha256:
        yield Fault(at, "is missing; `ws-broker api-key` makes a key and prints it")
    elif len(key.sha256) != 64 or not _HEX.issuperset(key.sha256):
        yield Fault(at, "is not the SHA-256 of a key, 64 hexadecimal digits; the key itself does not belong here")
    elif key.sha256.lower() == _NOTHING:
        yield Fault(at, "is the SHA-256 of nothing; was the key empty?")
    for field in ("scopes", "channels"):
        if not getattr(key, field):
            yield Fault((*path, field), "is empty, so the key could do nothing; take its table out instead")
    yield from _each(parse_pattern, key.channels, (*path, "channels"))
    for index, pattern in enumerate(key.channels):
        if SUB in pattern.split("."):
            yield Fault((*path, "channels", index), "{sub} is the id of a client's user, and a key has none")


def _auth(auth: Auth) -> Iterator[Fault]:
    keys = ("auth", "keys")
    for name, key in auth.keys.items():
        yield from _auth_key(key, (*keys, name))
    if not auth.user_claim:
        yield Fault(("auth", "user_claim"), "is empty; a token that names no user is nobody's")
    if auth.cookie:
        yield from _checked(check_token, auth.cookie, ("auth", "cookie"))
    if not auth.keys:
        text = "means nothing without a table in auth.keys: no token could be verified"
        if auth.cookie:
            yield Fault(("auth", "cookie"), text, (keys,))
        if auth.allow_tokens_in_urls_that_get_logged:
            yield Fault(("auth", "allow_tokens_in_urls_that_get_logged"), text, (keys,))


def _auth_key(key: AuthKey, path: Path) -> Iterator[Fault]:
    yield from _checked(check_name, str(path[-1]), path)
    given = [field for field in ("file", "environment", "jwks_url") if getattr(key, field)]
    if not given:
        yield Fault(path, "says not where the key is: set one of file, environment and jwks_url")
    elif len(given) > 1:
        yield Fault(path, f"says twice where the key is: set one of {' and '.join(given)}")
    if key.environment:
        yield from _checked(check_variable, key.environment, (*path, "environment"))
    if key.jwks_url:
        yield from _checked(check_url, key.jwks_url, (*path, "jwks_url"))
        if key.algorithm == "HS256":
            text = "HS256 has one secret for making and verifying, which no key set publishes; take file or environment"
            yield Fault((*path, "jwks_url"), text, ((*path, "algorithm"),))


def _hook(hook: Hook) -> Iterator[Fault]:
    url = ("hook", "url")
    if hook.url:
        yield from _checked(check_url, hook.url, url)
    yield from _each(check_token, hook.cookies, ("hook", "cookies"))
    yield from _each(check_token, hook.headers, ("hook", "headers"))
    for index, header in enumerate(hook.headers):
        if header.lower() == "cookie":
            yield Fault(
                ("hook", "headers", index), "would show the site every cookie; name those it needs in hook.cookies"
            )
    if hook.secret_environment:
        yield from _checked(check_variable, hook.secret_environment, ("hook", "secret_environment"))
    if hook.secret_file and hook.secret_environment:
        text = "says twice what the secret is: set one of hook.secret_file and hook.secret_environment"
        yield Fault(("hook", "secret_environment"), text, (("hook", "secret_file"),))
    if not hook.url:
        for field in ("cookies", "headers", "secret_file", "secret_environment"):
            if getattr(hook, field):
                yield Fault(("hook", field), "means nothing without hook.url", (url,))


def _cookies(config: Config) -> Iterator[Fault]:
    """A browser sends cookies whatever page connects, so the gateway looks at them for pages that are meant by name."""
    origins = ("server", "origins")
    if not config.server.origins or not {"*", "null"}.issuperset(config.server.origins):
        return
    text = 'is looked at for pages that server.origins names only; "*" and "null" let any page in, and name none'
    if config.auth.cookie:
        yield Fault(("auth", "cookie"), text, (origins,))
    if config.hook.cookies:
        yield Fault(("hook", "cookies"), text, (origins,))


def _channels(config: Config) -> Iterator[Fault]:
    most = config.limits.history_bytes
    for pattern, policy in config.channels.items():
        path = ("channels", pattern)
        yield from _checked(parse_pattern, pattern, path)
        if policy.queue == "catch_up" and not policy.history_count:
            text = "catch_up reads on from the history, so history_count must be above 0"
            yield Fault((*path, "queue"), text, ((*path, "history_count"),))
        if policy.history_count and policy.history_bytes > most:
            text = f"must not be above limits.history_bytes ({most}): one channel would push out all others"
            yield Fault((*path, "history_bytes"), text, (("limits", "history_bytes"),))
