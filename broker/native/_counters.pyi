TABLE: tuple[tuple[str, str], ...]
NAMES: tuple[str, ...]
FIRST_CLOSE_CAUSE: int
SIZE: int
HISTOGRAMS: dict[str, int]
BUCKETS: int
FIRST_PATTERN: int
PATTERN_PLACES: int
