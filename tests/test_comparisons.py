"""Hardening: no secret is compared with an operator that stops at the first difference; and the lint can fail."""

from pathlib import Path

import pytest

from tests.tools.comparisons import faults

ROOT = Path(__file__).resolve().parents[1]


def test_nothing_secret_is_compared_with_an_operator() -> None:
    checked = [path for folder in ("auth", "api") for path in sorted((ROOT / "broker" / folder).rglob("*.py"))]
    assert ROOT / "broker/auth/tokens.py" in checked
    assert [fault for path in checked for fault in faults(path.read_text(), str(path.relative_to(ROOT)))] == []


@pytest.mark.parametrize(
    "line",
    [
        "if secret == given: pass",
        "if given != self.secret: pass",
        "ok = sha256(key).digest() == wanted",
        "ok = wanted == key.sha256",
        "ok = 1 < 2 and a.tokens[0] == b",
        "ok = headers['token'] == x",
        "ok = x in (api_key, other)",
        "ok = x not in [old_secret]",
        "ok = bytes(secret) == x",
        "ok = token.encode() == x",
        "ok = f'Bearer {api_key}' == x",
        "ok = b'Bearer ' + secret == x",
        "ok = x == y == signature",
        "f = lambda password: password == 'x'",
        "xs = [t for t in y if t == hashed_key]",
    ],
)
def test_a_comparison_of_a_secret_is_found(line: str) -> None:
    (fault,) = faults(line, "x.py")
    assert fault.startswith("x.py:1: compares ")


@pytest.mark.parametrize(
    "line",
    [
        "ok = compare_digest(secret, given)",
        "ok = len(secret) >= 32 or len(token) == 3",
        "ok = secret is None or token is not None",
        "ok = key.kid == header.kid",
        "ok = digest in cache",
        "ok = len(token) > max_token_bytes",
        "ok = tokenizer == 1",
    ],
)
def test_what_gives_nothing_away_is_not_found(line: str) -> None:
    assert faults(line, "x.py") == []
