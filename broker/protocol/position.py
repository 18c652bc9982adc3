"""Syntax of a position: where in a channel's history a client stands. Clients hand it back unread.

Used by the offer grammar and the commands. It never looks inside a position: what one means is the engine's business,
here it is only short enough for 128 of them to fit into an offer, and safe in a header, a URL and JSON.
"""

import re

MAX_POSITION_CHARACTERS = 16

_POSITION = re.compile(r"[A-Za-z0-9._~-]{1,16}")


def is_position(text: str) -> bool:
    """True if `text` could have come from this broker."""
    return _POSITION.fullmatch(text) is not None
