"""A broker as an operator sets it up with the commands alone: keys, an API key, a file, `serve` without --dev."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.process.command import Served, run, serving

CHANNELS = """
[channels.public]
subscribe = "anyone"
[channels."room.*"]
history_count = 100
publish = "claim"
[channels."user.{sub}"]
subscribe = "authenticated"
"""
# Expiring tokens are warned of as soon as they are used, and end on the second.
EXPIRY = "[auth]\nleeway_seconds = 0\nexpiring_seconds = 3600\nexpiry_spread_seconds = 0\n"


class Site(NamedTuple):
    """What a site has beside its broker."""

    folder: Path
    config: Path

    def token(self, *arguments: str) -> str:
        private = self.folder / "keys/site.private.pem"
        result = run("token", "--sub", "ann", *arguments, "--key-file", str(private))
        assert (result.status, result.errors) == (0, "")
        return result.output.strip()

    def write_token(self, name: str, *arguments: str) -> Path:
        file = self.folder / name
        file.write_text(self.token(*arguments) + "\n")
        return file

    def api_key(self, name: str, *arguments: str) -> Path:
        """Its file; it counts in brokers that start after this."""
        file = self.folder / f"{name}.key"
        result = run("api-key", name, *arguments, "--key-file", str(file))
        assert (result.status, result.errors) == (0, "")
        with self.config.open("a") as config:
            config.write(result.output)
        return file


def new_site(folder: Path, settings: str = EXPIRY + CHANNELS) -> Site:
    config = folder / "broker.toml"
    keys = run("new-key", str(folder / "keys"))
    assert keys.status == 0
    config.write_text(settings + keys.output)
    return Site(folder, config)


@contextmanager
def guarded(site: Site, *flags: str, listen: str = "127.0.0.1:0") -> Iterator[Served]:
    with serving("--config", str(site.config), *flags, dev=False, listen=listen) as broker:
        yield broker
        assert broker.stop() == 0
