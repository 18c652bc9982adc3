"""What a reload changes and what it leaves, by the one table of it."""

import pytest

from broker.config.errors import ConfigError
from broker.config.load import load
from broker.config.reload import NOW, RESTART, WORKERS, all_keys, applies, changed, in_force
from broker.config.schema import ApiKey, ChannelPolicy, Config


def config(**channels: ChannelPolicy) -> Config:
    return Config(channels=channels)


def test_every_key_has_one_place_in_the_table_and_the_table_has_no_others() -> None:
    listed = [*NOW, *WORKERS, *RESTART]
    assert sorted(listed) == sorted(all_keys())
    assert len(set(listed)) == len(listed)
    assert {applies(key) for key in all_keys()} == {"now", "workers", "restart"}
    with pytest.raises(KeyError):
        applies("limits.nonsense")


def test_only_what_a_reload_cannot_change_is_named() -> None:
    old = load(None, {"server.listen": "127.0.0.1:1", "limits.listen_backlog": 10, "limits.max_headers": 9})
    new = load(None, {"server.listen": "127.0.0.1:2", "limits.listen_backlog": 10, "limits.max_headers": 8})
    held, waits = in_force(old, new, alone=False)
    assert list(map(str, waits)) == ["server.listen: is 127.0.0.1:1 until a restart, not 127.0.0.1:2"]
    assert (held.server.listen, held.limits.max_headers) == ("127.0.0.1:1", 8)
    held, waits = in_force(old, new, alone=True)
    assert [wait.key for wait in waits] == ["server.listen", "limits.max_headers"]
    assert held == old
    assert in_force(old, old, alone=True) == (old, [])


def test_nothing_that_is_named_with_its_values_is_a_secret() -> None:
    """Lines of the log say both values of what waits: nothing of a key or of the hook may."""
    named = [key for key in WORKERS | RESTART if key.startswith(("auth.", "hook.", "api.keys"))]
    assert named == ["auth.allow_tokens_in_urls_that_get_logged"]  # true or false


def test_what_a_reload_changed_is_told_by_name_alone() -> None:
    old = load(None, {"hook.url": "https://site.test/?key=one"})
    new = load(None, {"hook.url": "https://site.test/?key=two", "api.keys.shop": {"sha256": "a" * 64}})
    assert changed(old, new) == ["api.keys", "hook.url"]


def test_permissions_of_a_pattern_change_in_one_process_and_the_rest_of_it_waits() -> None:
    old = config(news=ChannelPolicy(subscribe="claim", history_count=5))
    new = config(news=ChannelPolicy(subscribe="anyone", history_count=9))
    held, waits = in_force(old, new, alone=True)
    assert held.channels["news"] == ChannelPolicy(subscribe="anyone", history_count=5)
    assert list(map(str, waits)) == ['channels."news".history_count: is 5 until a restart, not 9']
    assert in_force(old, new, alone=False) == (new, [])


def test_a_new_pattern_permits_at_once_and_says_what_of_it_waits() -> None:
    held, waits = in_force(config(), config(news=ChannelPolicy(subscribe="anyone", presence=True)), alone=True)
    assert held.channels["news"].subscribe == "anyone"
    assert [wait.key for wait in waits] == ['channels."news".presence']


def test_a_pattern_that_is_taken_out_permits_nothing_any_more_and_says_what_stays() -> None:
    held, waits = in_force(config(news=ChannelPolicy(subscribe="anyone", presence=True)), config(), alone=True)
    assert held.channels == {}
    assert list(map(str, waits)) == ['channels."news".presence: is True until a restart, not gone']


def test_what_is_kept_is_judged_together_with_what_is_new() -> None:
    """With the new address anybody may publish; the old one, which is still listened on, is open to a network."""
    old = load(None, {"server.listen": "0.0.0.0:8000", "auth.keys.main": {"environment": "KEY"}})
    new = load(None, {"server.listen": "127.0.0.1:8000", "channels.news": {"publish": "anyone"}})
    for alone in (True, False):
        with pytest.raises(ConfigError) as caught:
            in_force(old, new, alone=alone)
        first, second = caught.value.problems
        assert first.startswith('channels."news".publish: with "anyone", whoever reaches 0.0.0.0 writes to everybody')
        assert second.startswith("server.listen: is 0.0.0.0:8000 until a restart, not 127.0.0.1:8000, and what is new")


def test_a_key_of_the_api_that_is_taken_out_is_out_at_once() -> None:
    old = load(None, {"api.keys.shop": {"sha256": "a" * 64}})
    held, waits = in_force(old, load(), alone=True)
    assert (held.api.keys, waits) == ({}, [])
    assert old.api.keys == {"shop": ApiKey(sha256="a" * 64)}
