TABLE: tuple[tuple[str, str], ...]
NAMES: tuple[str, ...]
FIRST_CLOSE_CAUSE: int
SIZE: int
