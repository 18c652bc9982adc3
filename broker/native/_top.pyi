from broker.native._hub import Hub
from broker.native._verbs import Verbs

CHANNEL_KEYS: tuple[str, ...]
SESSION_KEYS: tuple[str, ...]

class BusiestChannels:
    """The `most` channels with the highest number of one kind, `by` a place in CHANNEL_KEYS; none with 0."""

    def __init__(self, hub: Hub, reactor: Verbs, most: int, by: int) -> None: ...
    def look(self, names: list[bytes]) -> None: ...
    def found(self) -> list[tuple[bytes, float, float, int]]:
        """(name, messages a second, deliveries a second, subscriptions), the highest first."""
    def numbers(self, name: bytes) -> tuple[float, float, int] | None:
        """What `found` says of this channel, whatever it is; None = it is not here."""

class SlowestSessions:
    """The `most` sessions with the highest number of one kind, `by` a place in SESSION_KEYS; none with 0."""

    def __init__(self, reactor: Verbs, most: int, by: int) -> None: ...
    def look(self, first: int, most: int) -> None: ...
    def found(self) -> list[tuple[int, int, int, int]]:
        """(connection, queued bytes, queued messages, milliseconds that the oldest waits), the highest first."""
