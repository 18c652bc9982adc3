"""Settings that give up some safety. None is a default; those in force are said at the start and in the metrics."""

from broker.config.schema import Config


def unsafe_settings(config: Config) -> list[str]:
    """Dotted names of those that are in force, in the order of the schema."""
    server, auth = config.server, config.auth
    found = {
        "server.dev": server.dev,
        "server.dev_on_any_address": server.dev_on_any_address,
        "server.origins": "*" in server.origins,
        "server.anyone_may_publish_from_anywhere": server.anyone_may_publish_from_anywhere,
        "auth.allow_tokens_in_urls_that_get_logged": auth.allow_tokens_in_urls_that_get_logged,
    }
    return [name for name, in_force in found.items() if in_force]
