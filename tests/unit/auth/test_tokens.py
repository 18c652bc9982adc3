"""Which tokens open a connection, and what those that do not are told. Rows of the hardening list are named."""

import base64
import hashlib
import hmac
from pathlib import Path

import jwt
import msgspec
import pytest

from broker.auth import tokens as texts
from broker.auth.identity import AuthError, Identity
from broker.config.schema import Auth, AuthKey, Limits
from tests.unit.auth.making import (
    EC_KEY,
    ED_KEY,
    NOW,
    OTHER_EC_KEY,
    RSA_KEY,
    SECRET,
    Bench,
    PrivateKey,
    as_json,
    claims,
    encoded,
    loaded,
    public_pem,
    raw_token,
    token,
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(*loaded(tmp_path, main=AuthKey()))


async def refused(bench: Bench, text: str) -> AuthError:
    """The error that a token gets. It must hold nothing of the token, nor leave anything in the cache."""
    with pytest.raises(AuthError) as caught:
        await bench.tokens.verify(text)
    said = f"{caught.value} {caught.value.text} {caught.value!r}"
    parts = [part for part in text.split(".") if len(part) > 8]
    assert not any(part in said for part in parts)
    assert bench.tokens.known(text) is None
    assert bench.counts.get("n_tokens_verified", 0) == 0
    assert bench.counts["n_tokens_refused"] == 1
    return caught.value


async def told(bench: Bench, text: str) -> str | None:
    error = await refused(bench, text)
    assert error.word == "not_authenticated"
    return error.text


async def test_a_token_says_who_the_client_is_and_what_it_may_do(bench: Bench) -> None:
    text = token(info={"name": "Ann"}, subscribe=["room.*"], publish=["room.7"], subs=["user.ann"])
    identity = await bench.tokens.verify(text)
    assert identity == Identity("ann", b'{"name":"Ann"}', ("room.*",), ("room.7",), ("user.ann",), NOW + 600 + 10)


def unsigned(header: bytes, payload: bytes) -> str:
    return f"{encoded(header)}.{encoded(payload)}"


KEYS: dict[str, tuple[PrivateKey | str, str]] = {
    "HS256": (SECRET, SECRET),
    "RS256": (RSA_KEY, public_pem(RSA_KEY)),
    "ES256": (EC_KEY, public_pem(EC_KEY)),
    "EdDSA": (ED_KEY, public_pem(ED_KEY)),
}


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
async def test_every_algorithm_of_the_settings_works(algorithm: str, tmp_path: Path) -> None:
    key, content = KEYS[algorithm]
    table = msgspec.convert({"algorithm": algorithm}, AuthKey)
    bench = Bench(*loaded(tmp_path, main=(table, content)))
    assert (await bench.tokens.verify(token(key, algorithm))).user == "ann"
    broken = token(key, algorithm)
    assert await told(Bench(bench.auth, bench.tokens._keys), f"{broken[:-8]}AAAAAAAA") == texts.WRONG_SIGNATURE


# -- hardening: algorithm confusion (CVE-2017-11424, CVE-2022-29217), alg none


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(tmp_path: Path) -> None:
    bench = Bench(*loaded(tmp_path, main=(AuthKey("RS256"), public_pem(RSA_KEY))))
    text = unsigned(b'{"alg":"HS256"}', as_json(claims()))
    forged = hmac.new(public_pem(RSA_KEY).encode(), text.encode(), hashlib.sha256).digest()
    assert await told(bench, f"{text}.{encoded(forged)}") == texts.OTHER_ALGORITHM


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256", "ES384", "ES256K", "es256"])
async def test_a_token_with_another_algorithm_than_its_keys_is_refused(name: str, bench: Bench) -> None:
    text = raw_token(as_json(claims()), as_json({"alg": name}))
    assert await told(bench, text) == texts.OTHER_ALGORITHM


@pytest.mark.parametrize("name", ["none", "None"])
async def test_a_token_without_signature_is_refused(name: str, bench: Bench) -> None:
    assert await told(bench, unsigned(as_json({"alg": name}), as_json(claims())) + ".") == texts.NOT_A_TOKEN


async def test_an_algorithm_is_taken_with_its_own_key_only_where_both_are_configured(tmp_path: Path) -> None:
    tables = loaded(tmp_path, ec=AuthKey(kid="a"), shared=(AuthKey("HS256", kid="b"), SECRET))
    assert await told(Bench(*tables), token(SECRET, "HS256", {"kid": "a"})) == texts.OTHER_ALGORITHM
    assert await told(Bench(*tables), token(EC_KEY, "ES256", {"kid": "b"})) == texts.OTHER_ALGORITHM
    assert (await Bench(*tables).tokens.verify(token(SECRET, "HS256", {"kid": "b"}))).user == "ann"


async def test_a_header_that_names_two_algorithms_cannot_choose(bench: Bench) -> None:
    for header in (b'{"alg":"none","alg":"ES256"}', b'{"alg":"ES256","alg":"none"}'):
        text = raw_token(as_json(claims()), header)
        head, payload, _ = text.split(".")
        one = Bench(bench.auth, bench.tokens._keys)
        with pytest.raises(AuthError):
            await one.tokens.verify(f"{head}.{payload}.AAAA")


# -- hardening: kid traversal and SSRF through kid, iss, jku, x5u, jwk (CVE-2026-32301)


@pytest.mark.parametrize(
    "kid", ["../../dev/null", "/etc/passwd", "http://127.0.0.1:1/keys", "' OR 1=1 --", "a\x00b", ""]
)
async def test_a_kid_is_compared_with_configured_ones_and_opens_nothing(kid: str, tmp_path: Path) -> None:
    bench = Bench(*loaded(tmp_path, main=AuthKey(kid="main")))
    assert await told(bench, token(headers={"kid": kid})) == texts.NO_KEY


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
async def test_a_key_that_a_token_brings_along_is_not_looked_at(name: str, bench: Bench) -> None:
    value = "http://127.0.0.1:1/" if name in ("jku", "x5u") else {"kty": "oct", "k": "AAAA"}
    assert await told(bench, token(OTHER_EC_KEY, headers={name: value})) == texts.WRONG_SIGNATURE


async def test_a_token_is_verified_with_the_key_of_its_issuer_only(tmp_path: Path) -> None:
    tables = loaded(
        tmp_path,
        one=(AuthKey(issuer="https://one", kid="1"), public_pem(EC_KEY)),
        two=(AuthKey(issuer="https://two", kid="1"), public_pem(OTHER_EC_KEY)),
    )
    kid: dict[str, object] = {"kid": "1"}
    assert (await Bench(*tables).tokens.verify(token(EC_KEY, headers=kid, iss="https://one"))).user == "ann"
    assert await told(Bench(*tables), token(EC_KEY, headers=kid, iss="https://two")) == texts.WRONG_SIGNATURE
    assert await told(Bench(*tables), token(EC_KEY, headers=kid, iss="https://three")) == texts.NO_KEY
    assert await told(Bench(*tables), token(EC_KEY, headers=kid)) == texts.NO_KEY


async def test_two_keys_of_one_issuer_overlap_while_they_are_rotated(tmp_path: Path) -> None:
    bench = Bench(*loaded(tmp_path, old=AuthKey(), new=(AuthKey(), public_pem(OTHER_EC_KEY))))
    assert (await bench.tokens.verify(token(EC_KEY))).user == "ann"
    assert (await bench.tokens.verify(token(OTHER_EC_KEY))).user == "ann"


# -- hardening: exp


@pytest.mark.parametrize(
    "value",
    [
        b'"1764000600"',
        b"true",
        b"[]",
        b"{}",
        b"null",
        b"-1",
        b"1764000600000",
        b"1e300",
        b"1e400",
        b"9" * 400,
        b"1e999999",
    ],
)
async def test_a_token_whose_end_is_no_time_is_refused(value: bytes, bench: Bench) -> None:
    text = await told(bench, raw_token(b'{"sub":"ann","exp":' + value + b"}"))
    assert text is not None
    assert "exp" in text or text == texts.NOT_A_TOKEN


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"0x7fffffff", b"+1", b"01"])
async def test_a_token_with_numbers_that_are_not_json_is_refused(value: bytes, bench: Bench) -> None:
    assert await told(bench, raw_token(b'{"sub":"ann","exp":' + value + b"}")) == texts.NOT_A_TOKEN


async def test_a_token_that_never_expires_is_refused(bench: Bench) -> None:
    assert await told(bench, token(exp=None)) == texts.NO_EXPIRY


async def test_an_expired_token_is_told_so_after_the_leeway(bench: Bench) -> None:
    text = token(exp=NOW)
    bench.clock.now = NOW + 9.5
    assert (await bench.tokens.verify(text)).expires == NOW + 10
    bench.clock.now = NOW + 10
    assert bench.tokens.known(text) is None
    with pytest.raises(AuthError, match=texts.EXPIRED) as caught:
        await bench.tokens.verify(text)
    assert caught.value.word == "token_expired"


async def test_a_token_for_later_is_taken_when_its_time_has_come(bench: Bench) -> None:
    for name, why in (("nbf", texts.NOT_YET), ("iat", texts.FROM_THE_FUTURE)):
        text = raw_token(as_json(claims(**{name: NOW + 30})))
        one = Bench(bench.auth, bench.tokens._keys)
        assert await told(one, text) == why
        one.clock.now = NOW + 20
        assert (await one.tokens.verify(text)).user == "ann"


@pytest.mark.parametrize("name", ["nbf", "iat"])
async def test_times_that_are_texts_are_refused(name: str, bench: Bench) -> None:
    assert await told(bench, raw_token(as_json(claims(**{name: str(NOW)})))) == (
        f"the token's claim {name} must be a number of seconds since 1970"
    )


# -- audience, issuer, extensions


@pytest.mark.parametrize(
    ("audience", "fits"),
    [("ws", True), (["x", "ws"], True), ("x", False), (["x"], False), ([], False), (None, False), ("wsx", False)],
)
async def test_a_token_is_for_the_audience_of_its_key(audience: object, fits: bool, tmp_path: Path) -> None:
    bench = Bench(*loaded(tmp_path, main=AuthKey(audience="ws")))
    if fits:
        assert (await bench.tokens.verify(token(aud=audience))).user == "ann"
    else:
        assert await told(bench, token(aud=audience)) == texts.OTHER_AUDIENCE


async def test_a_token_for_an_audience_is_refused_where_none_is_configured(bench: Bench) -> None:
    assert await told(bench, token(aud="api")) == texts.OTHER_AUDIENCE


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": True}, {"crit": []}, {"crit": "b64"}])
async def test_a_token_that_demands_an_extension_is_refused(header: dict[str, object], bench: Bench) -> None:
    text = raw_token(as_json(claims()), as_json({"alg": "ES256", **header}))
    assert await told(bench, text) == texts.UNKNOWN_EXTENSION


async def test_a_detached_payload_is_refused(bench: Bench) -> None:
    head = as_json({"alg": "ES256", "b64": False})
    assert await told(bench, raw_token(as_json(claims()), head)) == texts.NOT_A_TOKEN


# -- what is no token


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a.b.c",
        "a.b",
        "a.b.c.d.e",  # encrypted
        "é.é.é",
        "\udcff.a.b",
        unsigned(b"[]", b"{}") + ".AAAA",
        unsigned(b'{"alg":5}', b"{}") + ".AAAA",
        unsigned(b'{"alg":"ES256","kid":5}', b"{}") + ".AAAA",
        unsigned(b'{"alg":"ES256"}', b"[" * 2000) + ".AAAA",
        unsigned(b"[" * 2500, b"{}") + ".AAAA",
        unsigned(b'{"alg":"ES256"}', b'{"iss":5}') + ".AAAA",
        unsigned(b'{"alg":"ES256"}', b"{}") + ".!!!!",
    ],
)
async def test_what_is_no_token_is_refused_without_an_exception_of_another_kind(text: str, bench: Bench) -> None:
    with pytest.raises(AuthError, match=texts.NOT_A_TOKEN):
        await bench.tokens.verify(text)


async def test_a_token_with_trailing_padding_or_line_ends_is_not_another_spelling_of_one(bench: Bench) -> None:
    """Two spellings would be two entries of the cache, and a revoked one could be spelt anew."""
    for text in (f"{token()}\n", f" {token()}", token().replace(".", ".\n", 1)):
        with pytest.raises(AuthError):
            await bench.tokens.verify(text)


async def test_a_token_that_is_too_long_is_refused_before_anything_is_read(bench: Bench) -> None:
    text = "x" * (bench.auth.max_token_bytes + 1)
    assert bench.tokens.known(text) is None
    assert await told(bench, text) == f"the token is longer than {bench.auth.max_token_bytes} bytes"


# -- claims


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"sub": None}, "sub is missing"),
        ({"sub": ""}, "sub must not be empty"),
        ({"sub": 5}, "sub must be a string"),
        ({"sub": ["ann"]}, "sub must be a string"),
        ({"sub": "a" * 256}, "sub must not be longer than 255 characters"),
        ({"sub": "ann\r\nX-Admin: 1"}, "sub must not hold control characters"),
        ({"sub": "ann\x1b[2J"}, "sub must not hold control characters"),
        ({"sub": "ann\u2028"}, "sub must not hold control characters"),
        ({"info": "x" * 1023}, "info must not be longer than 1024 bytes"),
        ({"subscribe": "room.*"}, "subscribe must be a list of strings"),
        ({"publish": [1]}, "publish must be a list of strings"),
        ({"publish": ["x" * 256]}, "publish must not hold a name longer than 255 characters"),
        ({"subs": ["c"] * 129}, "subs must not name more than 128 channels"),
        ({"subscribe": {"room": 1}}, "subscribe must be a list of strings"),
    ],
)
async def test_a_claim_that_is_wrong_is_named(members: dict[str, object], text: str, bench: Bench) -> None:
    assert await told(bench, raw_token(as_json(claims(**members)))) == f"the token's claim {text}"


async def test_more_patterns_than_a_command_may_name_are_refused(tmp_path: Path) -> None:
    auth, keys = loaded(tmp_path, main=AuthKey())
    bench = Bench(msgspec.structs.replace(auth, max_token_bytes=65_536), keys)
    text = token(subscribe=[f"c{index}" for index in range(1025)])
    assert await told(bench, text) == "the token's claim subscribe must not name more than 1024 channels"


async def test_half_a_surrogate_in_a_name_is_refused(bench: Bench) -> None:
    assert await told(bench, raw_token(b'{"sub":"\\ud800","exp":1764000600}')) is not None


async def test_info_is_kept_without_spaces_and_null_is_nothing(bench: Bench) -> None:
    spaced = raw_token(b'{"sub":"ann","exp":1764000600,"info": { "a" : [ 1 , null ] } }')
    assert (await bench.tokens.verify(spaced)).info == b'{"a":[1,null]}'
    assert (await bench.tokens.verify(raw_token(b'{"sub":"ann","exp":1764000600,"info":null}'))).info is None


async def test_other_claims_can_be_named_in_the_settings(tmp_path: Path) -> None:
    auth, keys = loaded(tmp_path, main=AuthKey())
    bench = Bench(msgspec.structs.replace(auth, user_claim="email", info_claim="profile"), keys)
    identity = await bench.tokens.verify(token(sub=None, email="a@b", profile=1))
    assert (identity.user, identity.info) == ("a@b", b"1")


# -- the cache


async def test_a_token_is_verified_once_and_known_until_it_expires(bench: Bench) -> None:
    text = token()
    assert bench.tokens.known(text) is None
    identity = await bench.tokens.verify(text)
    assert bench.tokens.known(text) is identity
    assert await bench.tokens.verify(text) is identity
    assert bench.counts == {"n_tokens_verified": 1, "n_tokens_cached": 2}
    bench.clock.now = NOW + 610
    assert bench.tokens.known(text) is None
    assert len(bench.tokens._cache) == 0


async def test_a_known_token_with_another_signature_is_not_known(bench: Bench) -> None:
    text = token()
    await bench.tokens.verify(text)
    head, payload, signature = text.split(".")
    other = encoded(bytes(64))
    assert other != signature
    assert bench.tokens.known(f"{head}.{payload}.{other}") is None
    with pytest.raises(AuthError, match=texts.WRONG_SIGNATURE):
        await bench.tokens.verify(f"{head}.{payload}.{other}")


async def test_the_cache_forgets_the_token_that_was_used_longest_ago(tmp_path: Path) -> None:
    auth, keys = loaded(tmp_path, main=AuthKey())
    bench = Bench(msgspec.structs.replace(auth, cached_tokens=2), keys)
    first, second, third = (token(sub=name) for name in ("a", "b", "c"))
    await bench.tokens.verify(first)
    await bench.tokens.verify(second)
    assert bench.tokens.known(first) is not None
    await bench.tokens.verify(third)
    assert [bench.tokens.known(text) is not None for text in (first, second, third)] == [True, False, True]


async def test_nothing_is_cached_if_the_settings_say_so(tmp_path: Path) -> None:
    auth, keys = loaded(tmp_path, main=AuthKey())
    bench = Bench(msgspec.structs.replace(auth, cached_tokens=0), keys)
    await bench.tokens.verify(token())
    assert bench.tokens.known(token()) is None


async def test_the_cache_holds_no_token(bench: Bench) -> None:
    text = token()
    await bench.tokens.verify(text)
    assert list(bench.tokens._cache) == [hashlib.sha256(text.encode()).digest()]
    assert text not in repr(bench.tokens)


async def test_a_key_that_is_gone_takes_what_it_vouched_for_out_of_the_cache(tmp_path: Path) -> None:
    auth, keys = loaded(tmp_path, old=AuthKey(), new=(AuthKey(), public_pem(OTHER_EC_KEY)))
    bench = Bench(auth, keys)
    old, new = token(EC_KEY), token(OTHER_EC_KEY)
    await bench.tokens.verify(old)
    await bench.tokens.verify(new)
    only_new = loaded(tmp_path, new=(AuthKey(), public_pem(OTHER_EC_KEY)))
    await bench.tokens.reload(*only_new)
    assert bench.tokens.known(old) is None
    assert bench.tokens.known(new) is not None
    with pytest.raises(AuthError, match=texts.WRONG_SIGNATURE):
        await bench.tokens.verify(old)


async def test_a_key_that_demands_an_audience_now_forgets_tokens_without(tmp_path: Path) -> None:
    bench = Bench(*loaded(tmp_path, main=AuthKey()))
    await bench.tokens.verify(token())
    await bench.tokens.reload(*loaded(tmp_path, main=AuthKey(audience="ws")))
    assert bench.tokens.known(token()) is None


async def test_other_claims_empty_the_cache(tmp_path: Path) -> None:
    auth, keys = loaded(tmp_path, main=AuthKey())
    bench = Bench(auth, keys)
    text = token(email="a@b")
    await bench.tokens.verify(text)
    await bench.tokens.reload(msgspec.structs.replace(auth, user_claim="email"), keys)
    assert (await bench.tokens.verify(text)).user == "a@b"


async def test_without_any_key_every_token_is_refused() -> None:
    bench = Bench(Auth(), loaded(Path("/nonexistent"))[1])
    assert await told(bench, token()) == texts.NO_KEY


async def test_info_is_bounded_by_the_setting(tmp_path: Path) -> None:
    bench = Bench(*loaded(tmp_path, main=AuthKey()), Limits(presence_info_bytes=4))
    assert (await bench.tokens.verify(token(info="ab"))).info == b'"ab"'
    with pytest.raises(AuthError, match="info must not be longer than 4 bytes"):
        await bench.tokens.verify(token(info="abc"))


def test_the_tokens_of_these_tests_are_what_a_library_makes() -> None:
    text = raw_token(as_json(claims(exp=4_000_000_000)))
    assert jwt.decode(text, EC_KEY.public_key(), ["ES256"])["sub"] == "ann"
    assert base64.urlsafe_b64decode(text.split(".")[0] + "==")
