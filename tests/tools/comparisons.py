"""Finds comparisons that take as long as two secrets are alike: `==` and its kin on what is named like one.

`faults` reads the source only. A name counts by its words: `sent_secret`, `self.token`, `digests[0]`, and also in what
is called on it (`token.encode()`, `bytes(secret)`). Not `key`: in these packages that is mostly a key of a dictionary
or of the settings; `api_key` and `key_bytes` are caught. `in` is caught for lists written out, as it compares each.
hmac.compare_digest on bytes is what to use (CVE-2021-33880 in websockets, CVE-2016-7036 in python-jose).
"""

import ast
from collections.abc import Iterator

WORDS = frozenset({"secret", "token", "digest", "password", "signature", "sha256", "credential", "mac", "hmac"})
PHRASES = ("api_key", "apikey", "key_bytes", "key_hash", "hashed_key")
# What of a secret may be compared: its length, whether there is one, its type.
HARMLESS_CALLS = frozenset({"len", "bool", "type", "isinstance"})


def faults(source: str, name: str) -> list[str]:
    return [
        f"{name}:{node.lineno}: compares {named} in a time that tells how much of it is right; use hmac.compare_digest"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        for named in [_secret_of(node)]
        if named is not None
    ]


def _secret_of(node: ast.Compare) -> str | None:
    for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
        sides = [left, right]
        if isinstance(operator, (ast.In, ast.NotIn)):
            sides = [left, *right.elts] if isinstance(right, (ast.Tuple, ast.List)) else []
        elif not isinstance(operator, (ast.Eq, ast.NotEq)):
            continue
        for name in (name for side in sides for name in _names(side)):
            words = set(name.lower().split("_"))
            if {word.removesuffix("s") for word in words} & WORDS or any(part in name.lower() for part in PHRASES):
                return name
    return None


def _names(node: ast.expr) -> Iterator[str]:
    """What the value is made of: names, attributes, and the string that chooses an item."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
        yield from _names(node.value)
    elif isinstance(node, ast.Subscript):
        yield from _names(node.value)
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            yield node.slice.value
    elif isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id in HARMLESS_CALLS):
            yield from _names(node.func)
            for argument in node.args:
                yield from _names(argument)
    elif isinstance(node, ast.BinOp):
        yield from _names(node.left)
        yield from _names(node.right)
    elif isinstance(node, (ast.Await, ast.Starred, ast.FormattedValue)):
        yield from _names(node.value)
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from _names(part)
