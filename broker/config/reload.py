"""What of a configuration takes effect while the broker runs (SIGHUP), and what waits for a restart.

The one table of it: a reload, docs/configuration.md and a test that every key has its place read it. A named table
(`api.keys`, `auth.keys`) counts as one key; of `channels` each key of a pattern counts.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_type_hints

import msgspec

from broker.config.errors import ConfigError
from broker.config.schema import ChannelPolicy, Config
from broker.config.sources import dotted
from broker.config.validate import contradictions

# now: by every process that runs. workers: by the new workers that several workers are replaced by; one process has
# nobody to take its clients over. restart: held by what a reload leaves running, listeners and the engine.
Applies = Literal["now", "workers", "restart"]


def _keys(section: str, names: str) -> frozenset[str]:
    return frozenset(f"{section}.{name}" for name in names.split())


NOW = (
    _keys("server", "origins allow_absent_origin refusal anyone_may_publish_from_anywhere")
    | _keys("limits", "refusals_per_address_per_minute refusal_hold_min_seconds refusal_hold_max_seconds")
    | _keys("drain", "delay_seconds window_seconds closes_per_second reconnect_seconds")
    | _keys("api", "hosts keys")
    | _keys("auth", "keys user_claim info_claim cookie leeway_seconds")
    | _keys("auth", "expiring_seconds expiry_spread_seconds auth_seconds max_token_bytes cached_tokens")
    | _keys("auth", "jwks_refresh_seconds jwks_timeout_seconds jwks_cooldown_seconds jwks_max_bytes")
    | _keys("hook", "url timeout_seconds max_concurrent max_waiting cookies headers cache_seconds cached_verdicts")
    | _keys("hook", "max_response_bytes secret_file secret_environment")
    | _keys("log", "format level access lines_per_second")
    | _keys("channels", "subscribe publish")
)

RESTART = (
    # server.dev: what may listen on which address was decided when the sockets were opened.
    _keys("server", "listen workers dev dev_on_any_address state_directory")
    | _keys("limits", "listen_backlog history_bytes message_ids link_output_bytes")
    | _keys("limits", "presence_leave_seconds presence_batch_seconds presence_event_members presence_reply_members")
    | _keys("limits", "presence_list_bytes presence_members")
    | _keys("api", "listen")
    | _keys("admin", "listen max_connections")
)

WORKERS = (
    _keys("server", "text_ping extra_channel_characters trusted_proxies client_address proxy_protocol")
    | _keys("supervisor", "stuck_seconds start_seconds most_early_deaths early_death_seconds")
    | _keys("limits", "max_head_bytes max_headers handshake_seconds max_offer_bytes max_channels_per_connection")
    | _keys("limits", "max_message_bytes max_fragments message_seconds max_json_depth")
    | _keys("limits", "read_pass_bytes read_pass_messages read_pass_offers")
    | _keys("limits", "send_queue_bytes send_queue_messages memory_bytes notsent_lowat_bytes")
    | _keys("limits", "ping_seconds ping_jitter pong_seconds write_seconds close_seconds linger_seconds")
    | _keys("limits", "interest_linger_seconds snapshot_seconds max_connections presence_info_bytes")
    | _keys("limits", "link_window_bytes link_silence_seconds")
    | _keys("limits", "messages_per_second message_burst bytes_per_second byte_burst upgrades_per_second upgrade_burst")
    | _keys("limits", "max_connections_total max_connections_per_address blocked_after_refusals_per_minute")
    | _keys("api", "max_body_bytes max_batch_messages request_seconds keep_alive_seconds max_connections")
    | _keys("api", "max_waiting_publishes")
    | _keys("auth", "allow_tokens_in_urls_that_get_logged")
    | _keys(
        "channels", "messages_per_second payload queue history_count history_seconds history_bytes presence raw_gap"
    )
)


def applies(key: str) -> Applies:
    """`key` as the table has it. Raises KeyError for one that has no place in it."""
    for found, keys in (("now", NOW), ("workers", WORKERS), ("restart", RESTART)):
        if key in keys:
            return found  # type: ignore[return-value]
    raise KeyError(key)


class Waits(NamedTuple):
    """A changed setting that is as it was until a restart."""

    key: str
    now: object
    wanted: object

    def __str__(self) -> str:
        return f"{self.key}: is {self.now} until a restart, not {self.wanted}"


def in_force(old: Config, new: Config, *, alone: bool) -> tuple[Config, list[Waits]]:
    """What holds after a reload of `new` over `old`: by new workers, or `alone`, in the one process that runs (`old` is
    then what it started with). And what of it waits. Raises ConfigError if what is kept contradicts what is new.
    """
    waits: list[Waits] = []
    kept = RESTART | WORKERS if alone else RESTART
    sections: dict[str, Any] = {}
    for section in Config.__struct_fields__:
        if section == "channels":
            sections[section] = dict(_channels(old, new, waits)) if alone else new.channels
            continue
        before, after = getattr(old, section), getattr(new, section)
        values = {}
        for key in changed_keys(before, after):
            if f"{section}.{key}" in kept:
                values[key] = getattr(before, key)
                waits.append(Waits(f"{section}.{key}", values[key], getattr(after, key)))
        sections[section] = msgspec.structs.replace(after, **values)
    config = Config(**sections)
    problems = [f"{dotted(fault.path)}: {fault.text}" for fault in contradictions(config)]
    if problems:
        because = [f"{wait}, and what is new does not go with that" for wait in waits]
        raise ConfigError([*problems, *because])
    return config, waits


def _channels(old: Config, new: Config, waits: list[Waits]) -> Iterator[tuple[str, ChannelPolicy]]:
    """Patterns with their new permissions and, where they are not new themselves, everything else as it was."""
    for pattern, after in new.channels.items():
        before = old.channels.get(pattern)
        kept = _waiting(before or ChannelPolicy(), after)
        for key in kept:
            now = getattr(before, key) if before else "as another pattern says"
            waits.append(Waits(dotted(("channels", pattern, key)), now, getattr(after, key)))
        values = {key: getattr(before, key) for key in kept} if before else {}
        yield pattern, msgspec.structs.replace(after, **values)
    for pattern, before in old.channels.items():
        if pattern not in new.channels:
            gone = _waiting(ChannelPolicy(), before)
            waits += [Waits(dotted(("channels", pattern, key)), getattr(before, key), "gone") for key in gone]


def _waiting(before: ChannelPolicy, after: ChannelPolicy) -> list[str]:
    return [key for key in changed_keys(before, after) if f"channels.{key}" in WORKERS]


def changed_keys(before: msgspec.Struct, after: msgspec.Struct) -> Iterable[str]:
    return [key for key in before.__struct_fields__ if getattr(before, key) != getattr(after, key)]


def changed(old: Config, new: Config) -> list[str]:
    """Every key that differs, as the table has it, for a log line: names only, as values may be secret."""
    found = []
    for section in Config.__struct_fields__:
        before, after = getattr(old, section), getattr(new, section)
        if section == "channels":
            found += ["channels"] if before != after else []
        else:
            found += [f"{section}.{key}" for key in changed_keys(before, after)]
    return found


def all_keys() -> Iterator[str]:
    """Every key there is, in the words of the table."""
    for section, kind in get_type_hints(Config).items():
        fields = ChannelPolicy.__struct_fields__ if section == "channels" else kind.__struct_fields__
        yield from (f"{section}.{name}" for name in fields)
