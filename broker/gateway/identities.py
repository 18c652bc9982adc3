"""What says who clients are, as the configuration asks for it: tokens, the site's hook, neither or both.

The worker makes, starts, renews and stops it; `Gatekeeper` asks what is in it. Their libraries are loaded
only if there is something for them to do: the cryptography takes 20 MB of each worker, the HTTP client 8 (measured).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.config.schema import Config

if TYPE_CHECKING:
    from broker.auth.hook import Hook
    from broker.auth.tokens import Tokens


class Identities:
    """Raises ConfigError for keys and secrets that cannot be read. `count` is called with the name of a counter."""

    def __init__(self, config: Config, count: Callable[[str], None]) -> None:
        self._count = count
        self._config = config
        self.tokens = self._tokens(config) if config.auth.keys else None
        self.hook = self._hook(config) if config.hook.url else None

    def _tokens(self, config: Config) -> "Tokens":
        from broker.auth.tokens import Tokens

        return Tokens(config.auth, config.limits, count=self._count)

    def _hook(self, config: Config) -> "Hook":
        from broker.auth.hook import Hook

        return Hook(config.hook, config.limits, count=self._count)

    async def start(self) -> None:
        """Waits for key sets, auth.jwks_timeout_seconds at most."""
        for part in (self.tokens, self.hook):
            if part is not None:
                await part.start()

    async def stop(self) -> None:
        for part in (self.tokens, self.hook):
            if part is not None:
                await part.stop()

    async def renew(self, config: Config, use: Callable[["Tokens | None", "Hook | None"], None]) -> None:
        """Takes another configuration, and reads keys and secrets again: a file of the same name may hold another key.
        `use` is given what counts from now on, before what counted until now is stopped: whoever is asked to stop
        answers nobody any more. Raises ConfigError, and has changed nothing then.
        """
        from broker.auth.keys import load_keys

        keys = load_keys(config.auth)
        hook = self._hook(config) if config.hook.url else None
        if hook is not None:
            await hook.start()
        tokens, new = self.tokens, None
        if config.auth.keys:
            if tokens is None:
                new = self._tokens(config)
                await new.start()
            else:
                new = tokens
                await tokens.reload(config.auth, keys)
        old, self.hook, self.tokens = self.hook, hook, new
        self._config = config
        use(new, hook)
        if old is not None:
            await old.stop()
        if tokens is not None and new is None:
            await tokens.stop()
