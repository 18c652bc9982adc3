"""Who a connection is and what its identity may do, whoever found that out: a token, the site's hook, nobody.

Made by `tokens` and `hook`, read by the gateway and by `permissions`. Patterns in it are strings as the claim or the
answer gave them: whoever compiles one that is none takes it for a pattern that matches nothing.
"""

import msgspec


class Identity(msgspec.Struct, frozen=True, gc=False):
    """`user` None = anonymous. `info`: one JSON value that others are shown with the user.

    `subscribe`, `publish`: patterns of what channels with `claim` permit to it; `subs`: channels it is subscribed to
    without asking. `expires`: unix seconds, None = never; with the leeway in it.
    """

    user: str | None = None
    info: bytes | None = None
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    subs: tuple[str, ...] = ()
    expires: float | None = None


ANONYMOUS = Identity()


class AuthError(Exception):
    """No identity. `word` of the close codes (not_authenticated, token_expired, overloaded); `text` is ours alone and
    never holds anything of a token, a cookie or a site's answer.
    """

    def __init__(self, word: str, text: str | None = None) -> None:
        self.word = word
        self.text = text
        super().__init__(text or word)
