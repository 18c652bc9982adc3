"""What is wrong with a configuration although every value has the right type: said before anything starts."""

import pytest

from broker.config.errors import ConfigError
from broker.config.load import load
from broker.config.validate import nobody_could_connect

HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
KEY = {"environment": "TOKEN_KEY"}


def wrong(settings: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, settings)
    return [line.removesuffix(" (by a flag)") for line in caught.value.problems]


CASES: list[tuple[dict[str, object], str]] = [
    # Addresses and proxies.
    ({"api.listen": "8001"}, "api.listen: '8001' is not HOST:PORT"),
    ({"api.listen": "127.0.0.1:8000"}, "api.listen: is server.listen already"),
    ({"admin.listen": "9000"}, "admin.listen: '9000' is not HOST:PORT"),
    ({"admin.listen": "127.0.0.1:8000"}, "admin.listen: is server.listen already; take another port"),
    ({"admin.listen": "127.0.0.1:8001"}, "admin.listen: is api.listen already; take another port"),
    ({"api.hosts": ["https://a.example"]}, "api.hosts[0]: 'https://a.example' is not HOST or HOST:PORT"),
    ({"api.hosts": ["a.example", "a.example:99999"]}, "api.hosts[1]: "),
    ({"api.hosts": [""]}, "api.hosts[0]: "),
    ({"server.trusted_proxies": ["10.0.0.1/8"]}, "server.trusted_proxies[0]: '10.0.0.1/8' has bits set behind"),
    ({"server.trusted_proxies": ["10.0.0.0/8", "proxy.test"]}, "server.trusted_proxies[1]: 'proxy.test' is neither"),
    ({"server.client_address": "forwarded"}, "server.client_address: needs server.trusted_proxies"),
    ({"server.proxy_protocol": True}, "server.proxy_protocol: needs server.trusted_proxies"),
    # Keys of the API.
    ({"api.keys.shop": {}}, 'api.keys."shop".sha256: is missing; `ws-broker api-key`'),
    ({"api.keys.shop": {"sha256": "the key itself"}}, 'api.keys."shop".sha256: is not the SHA-256 of a key'),
    ({"api.keys.shop": {"sha256": "g" * 64}}, 'api.keys."shop".sha256: is not the SHA-256 of a key'),
    (
        {"api.keys.shop": {"sha256": "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"}},
        'api.keys."shop".sha256: is the SHA-256 of nothing',
    ),
    (
        {"api.keys.one": {"sha256": HASH}, "api.keys.two": {"sha256": HASH.upper()}},
        'api.keys."two".sha256: is the key one already',
    ),
    ({"api.keys.shop": {"sha256": HASH, "scopes": []}}, 'api.keys."shop".scopes: is empty'),
    ({"api.keys.shop": {"sha256": HASH, "scopes": ["root"]}}, 'api.keys."shop".scopes: invalid enum value'),
    ({"api.keys.shop": {"sha256": HASH, "channels": []}}, 'api.keys."shop".channels: is empty'),
    ({"api.keys.shop": {"sha256": HASH, "channels": ["a.>.b"]}}, 'api.keys."shop".channels[0]: '),
    ({"api.keys.shop": {"sha256": HASH, "channels": ["user.{sub}"]}}, 'api.keys."shop".channels[0]: {sub} is the id'),
    ({"api.keys": {"a\nb": {"sha256": HASH}}}, 'api.keys."a\\nb": a name is 1 to 64 of'),
    # Keys of tokens.
    ({"auth.keys.main": {}}, 'auth.keys."main": says not where the key is'),
    (
        {"auth.keys.main": {"file": "/key.pem", "jwks_url": "https://id.test/jwks"}},
        'auth.keys."main": says twice where the key is: set one of file and jwks_url',
    ),
    ({"auth.keys.main": {"environment": "-----BEGIN"}}, 'auth.keys."main".environment: is not the name of an env'),
    ({"auth.keys.main": {"jwks_url": "file:///etc/passwd"}}, 'auth.keys."main".jwks_url: is not a URL of http'),
    ({"auth.keys.main": {"jwks_url": "https://u:p@id.test/"}}, 'auth.keys."main".jwks_url: must not hold a user'),
    (
        {"auth.keys.main": {"algorithm": "HS256", "jwks_url": "https://id.test/"}},
        'auth.keys."main".jwks_url: HS256 has one secret',
    ),
    ({"auth.keys.main": {**KEY, "algorithm": "none"}}, 'auth.keys."main".algorithm: must be one of HS256'),
    ({"auth.user_claim": ""}, "auth.user_claim: is empty"),
    ({"auth.cookie": "token"}, "auth.cookie: means nothing without a table in auth.keys"),
    ({"auth.keys.main": KEY, "auth.cookie": "a=b"}, "auth.cookie: 'a=b' is not the name of a header or of a cookie"),
    (
        {"auth.allow_tokens_in_urls_that_get_logged": True},
        "auth.allow_tokens_in_urls_that_get_logged: means nothing without a table in auth.keys",
    ),
    # The hook.
    ({"hook.url": "site.test/hook"}, "hook.url: is not a URL of http or https"),
    ({"hook.url": "ftp://site.test/hook"}, "hook.url: is not a URL of http or https"),
    ({"hook.url": "http://site.test:port/"}, "hook.url: is not a URL"),
    ({"hook.url": "http://site.test/a b"}, "hook.url: has characters that no URL has"),
    ({"hook.url": "http://site.test/\r\nX: y"}, "hook.url: has characters that no URL has"),
    ({"hook.url": "http://u:p@site.test/"}, "hook.url: must not hold a user or a password"),
    ({"hook.url": "http://site.test/#here"}, "hook.url: must not have a fragment"),
    ({"hook.url": "http://site.test/", "hook.timeout_seconds": 3}, "hook.timeout_seconds: expected `float` <= 2"),
    ({"hook.url": "http://site.test/", "hook.cookies": ["a", "b;c"]}, "hook.cookies[1]: 'b;c' is not the name"),
    ({"hook.url": "http://site.test/", "hook.headers": ["X Y"]}, "hook.headers[0]: 'X Y' is not the name"),
    ({"hook.url": "http://site.test/", "hook.headers": ["Cookie"]}, "hook.headers[0]: would show the site every"),
    (
        {"hook.url": "http://site.test/", "hook.secret_file": "/s", "hook.secret_environment": "S"},
        "hook.secret_environment: says twice what the secret is",
    ),
    (
        {"hook.url": "http://site.test/", "hook.secret_environment": "s3cret!"},
        "hook.secret_environment: is not the name of an environment variable",
    ),
    ({"hook.cookies": ["sessionid"]}, "hook.cookies: means nothing without hook.url"),
    ({"hook.secret_file": "/s"}, "hook.secret_file: means nothing without hook.url"),
    # Who may publish, and from where.
    (
        {"server.listen": "0.0.0.0:8000", "channels.news": {"publish": "anyone"}},
        'channels."news".publish: with "anyone", whoever reaches 0.0.0.0 writes to everybody who listens',
    ),
    (
        {"server.origins": ["*"], "auth.keys.main": KEY, "auth.cookie": "token"},
        "auth.cookie: is looked at for pages that server.origins names only",
    ),
    (
        {"server.origins": ["null", "*"], "hook.url": "http://site.test/", "hook.cookies": ["sessionid"]},
        "hook.cookies: is looked at for pages that server.origins names only",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "said"), CASES, ids=[said[:60] for _, said in CASES])
def test_what_could_not_work_or_would_open_a_door_stops_the_start(settings: dict[str, object], said: str) -> None:
    (line,) = wrong(settings)
    assert line.startswith(said)


def test_what_is_meant_is_taken() -> None:
    config = load(
        None,
        {
            "server.trusted_proxies": ["10.0.0.0/8", "192.0.2.1", "fd00::/8"],
            "server.client_address": "x-forwarded-for",
            "server.origins": ["https://www.example.org", "https://*.example.org"],
            "api.listen": "0.0.0.0:8001",
            "api.hosts": ["api.example.org", "127.0.0.1:8001", "[::1]:8001"],
            "api.keys.shop": {"sha256": HASH, "channels": ["shop.>"]},
            "auth.keys.main": {"algorithm": "EdDSA", "file": "/key.pem"},
            "auth.keys.next": {"jwks_url": "http://127.0.0.1:9/jwks?tenant=1"},
            "auth.cookie": "__Host-token",
            "hook.url": "http://127.0.0.1:9/hook",
            "hook.cookies": ["sessionid"],
            "hook.headers": ["X-Tenant"],
            "hook.secret_environment": "HOOK_SECRET",
        },
    )
    assert sorted(config.auth.keys) == ["main", "next"]


@pytest.mark.parametrize(
    "settings",
    [
        {"server.listen": "127.0.0.1:8000"},
        {"server.listen": "[::1]:8000"},
        {"server.listen": "0.0.0.0:8000", "server.anyone_may_publish_from_anywhere": True},
    ],
)
def test_anyone_may_publish_on_this_machine_or_where_it_was_meant(settings: dict[str, object]) -> None:
    assert load(None, {**settings, "channels.news": {"publish": "anyone"}}).channels["news"].publish == "anyone"


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    mistakes: list[dict[str, object]] = [
        {"api.keys.shop": {"sha256": "hunter2"}},
        {"auth.keys.main": {"environment": "hunter2 "}},
        {"hook.url": "http://me:hunter2@site.test/"},
        {"hook.url": "hunter2"},
        {"hook.url": "http://site.test/", "hook.secret_environment": "hunter2 "},
    ]
    for settings in mistakes:
        assert not [line for line in wrong(settings) if "hunter2" in line]


@pytest.mark.parametrize(
    ("settings", "nobody"),
    [
        ({}, True),
        ({"channels.news": {}}, True),
        ({"channels.news": {"subscribe": "authenticated", "publish": "claim"}}, True),
        ({"server.dev": True}, False),
        ({"channels.news": {"subscribe": "anyone"}}, False),
        ({"channels.news": {"publish": "anyone"}}, False),
        ({"auth.keys.main": KEY}, False),
        ({"hook.url": "http://site.test/"}, False),
    ],
)
def test_a_broker_to_which_nobody_could_connect_is_recognised(settings: dict[str, object], nobody: bool) -> None:
    assert nobody_could_connect(load(None, settings)) is nobody


def test_an_empty_list_of_permissions_is_never_open() -> None:
    """Without a word of the operator's a channel is neither heard nor written to by anybody (CVE-2018-12550)."""
    policy = load(None, {"channels.news": {}}).channels["news"]
    assert (policy.subscribe, policy.publish) == ("claim", "server")
