"""What the main process says of the broker as a whole: how it starts, what a reload changed, that it ends.

Called by whoever serves or supervises, so that one process and several say the same.
"""

import sys
import time
from collections.abc import Iterable, Sequence

from broker import __version__
from broker.config.reload import Waits, changed
from broker.config.schema import Config
from broker.config.unsafe import dangers
from broker.log import get_logger
from broker.native._build import BUILD

log = get_logger(__name__, limited=False)

_BEGUN = time.monotonic()


def starting(config: Config, file: str | None, workers: int, advice: Iterable[str]) -> None:
    """Which broker this is and what it is about to do; every setting that opens a door."""
    log.info(
        "broker starts",
        version=__version__,
        build=BUILD,
        python=".".join(map(str, sys.version_info[:3])),
        config=file,
        workers=workers,
        listen=config.server.listen,
        api=config.api.listen if config.api.keys else "",
        admin=config.admin.listen,
        patterns=len(config.channels),
        history=any(policy.history_count for policy in config.channels.values()),
        state_directory=config.server.state_directory,
        log_level=config.log.level,
    )
    warn(config, advice)


def warn(config: Config, advice: Iterable[str] = ()) -> None:
    """`advice`: lines "KEY: what could be safer" of the checks, which also look at files."""
    found = dangers(config)
    for line in advice:
        key, _, why = line.partition(": ")
        found.setdefault(key, why)
    for key, why in found.items():
        log.warning("setting is unsafe", setting=key, why=why)


def accepting(listen: str, api: str | None, admin: str | None) -> None:
    """Everything is open, at these addresses."""
    log.info("broker accepts", listen=listen, api=api, admin=admin, seconds=_since_start())


def reloaded(before: Config, after: Config, waits: Sequence[Waits], *, api_closed: bool) -> None:
    for wait in waits:
        log.warning("setting waits for a restart", setting=wait.key, now=wait.now, wanted=wait.wanted)
    if api_closed and after.api.keys and after.api.listen:
        log.warning("API stays closed until a restart", why="there was no key in api.keys when the broker started")
    warn(after)
    log.info("reloaded", changed=changed(before, after))


def stopping() -> None:
    log.info("broker stops")


def stopped() -> None:
    log.info("broker ended", seconds=_since_start())


def _since_start() -> float:
    return round(time.monotonic() - _BEGUN, 3)
