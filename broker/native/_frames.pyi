from typing import Final

Event = tuple[str, bytes] | tuple[str, int, bytes] | tuple[str, str]

FAILURES: Final[tuple[tuple[int, str, str], ...]]
"""(close code, word for metrics, text for the close reason), indexed by FrameFailure."""

PARSER_BYTES: Final[int]
"""Memory of one idle parser."""

def encode_frame(opcode: int, payload: bytes) -> bytes:
    """One server frame: FIN set, not masked."""

class Frames:
    """One parser, for tests and tools; the broker's connections embed the struct instead.

    Events: ("text" | "binary" | "ping" | "pong", payload), ("close", code or 0 for an empty body, reason),
    ("failed", word).
    """

    def __init__(self, max_message_bytes: int, max_fragments: int) -> None: ...
    @property
    def held_bytes(self) -> int:
        """Bytes of memory held between calls."""

    @property
    def in_message(self) -> bool:
        """A message or control frame has begun and is not complete."""

    def receive_data(self, data: bytes) -> list[Event]:
        """Every event these bytes complete. After ("failed", word) each further call answers that alone."""
