TIME_BOUNDS_NS: tuple[int, ...]
COUNT_BOUNDS: tuple[int, ...]

def observe(table: memoryview, first: int, ns: int) -> None: ...
