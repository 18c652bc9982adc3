"""Settings that give up some safety. None is a default; those in force are said at the start and in the metrics."""

from urllib.parse import urlsplit

from broker.config.schema import Config
from broker.config.values import is_loopback


def unsafe_settings(config: Config) -> list[str]:
    """Dotted names of those that are in force, in the order of the schema."""
    return list(dangers(config))


def dangers(config: Config) -> dict[str, str]:
    """Key to what it lets happen, of those that are set so. The texts hold no value."""
    server, found = config.server, {}
    if server.dev:
        found["server.dev"] = "it is for trying things out: whoever reaches this machine's ports may do everything"
        if config.auth.keys or config.hook.url:
            found["server.dev"] = "it is for trying things out: every page of this machine may connect"
    if server.dev_on_any_address:
        found["server.dev_on_any_address"] = "whoever reaches the port may do everything"
    if "*" in server.origins:
        found["server.origins"] = "with * every page that a user visits may connect from his browser"
    elif "null" in server.origins:
        found["server.origins"] = "with null every page can connect, from a sandboxed frame"
    if server.anyone_may_publish_from_anywhere:
        found["server.anyone_may_publish_from_anywhere"] = "clients without identity may publish, from any address"
    if config.auth.allow_tokens_in_urls_that_get_logged:
        found["auth.allow_tokens_in_urls_that_get_logged"] = (
            "tokens end up in access logs, histories and Referer headers"
        )
    url = urlsplit(config.hook.url)
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        found["hook.url"] = "cookies of users go over the network unencrypted; use https if you can"
    return found
