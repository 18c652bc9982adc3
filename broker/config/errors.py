"""The one exception for what the operator got wrong."""

from collections.abc import Iterable


class ConfigError(Exception):
    """Everything wrong with a configuration at once, each line beginning with the dotted path of its key."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
