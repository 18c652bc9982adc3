"""One meaning at three doors: whatever a page wants to say, it can, and every door reads it the same."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from broker.protocol.names import is_reserved
from broker.protocol.offer import (
    ChannelRequest,
    Offer,
    OfferError,
    Refusal,
    combine,
    parse_channel,
    parse_offer,
    parse_query,
)

T = TypeVar("T")

NAME_CHARACTERS = "ABCXYZabcxyz0189_.:@+=~-"
names = st.text(NAME_CHARACTERS, min_size=1, max_size=40).filter(lambda name: not is_reserved(name))
positions = st.text("abcdef0189.", min_size=1, max_size=16)


@st.composite
def tokens(draw: st.DrawFn) -> tuple[str, ChannelRequest]:
    """A channel token as a page writes it, with what it means."""
    name = draw(names)
    since = draw(st.none() | positions)
    last = draw(st.none() | st.integers(0, 999_999))
    direction = draw(st.sampled_from([None, "both", "recv", "send"]))
    options = [
        *([f"since.{since}"] if since is not None else []),
        *([f"last.{last}"] if last is not None else []),
        *([direction] if direction else []),
    ]
    token = "|".join([quote(name, safe=""), *draw(st.permutations(options))])
    return token, ChannelRequest(name, since, last, direction, 0, token)  # type: ignore[arg-type]


lists = st.lists(tokens(), min_size=1, max_size=6, unique_by=lambda one: one[1].name)


def outcome(read: Callable[[], T]) -> T | OfferError:
    """What was read, or the only thing that may be raised instead."""
    try:
        return read()
    except OfferError as error:
        return error


def unplaced(requests: tuple[ChannelRequest, ...]) -> list[ChannelRequest]:
    return [msgspec.structs.replace(request, index=0) for request in requests]


@given(lists, st.sampled_from([",", ", ", " ,\t", ",,"]))
def test_all_doors_read_the_same_channels(wanted: list[tuple[str, ChannelRequest]], comma: str) -> None:
    meant = [request for _, request in wanted]
    texts = [token for token, _ in wanted]
    header = parse_offer(comma.join(texts).encode())
    query = parse_query(urlencode([("channel", token) for token in texts]).encode())
    assert unplaced(header.channels) == unplaced(query.channels) == [parse_channel(token) for token in texts] == meant
    assert header.answer == texts[0].encode()
    assert [request.index for request in header.channels] == list(range(len(texts)))


@given(lists, lists)
def test_two_doors_never_lose_a_channel(
    first: list[tuple[str, ChannelRequest]], second: list[tuple[str, ChannelRequest]]
) -> None:
    header = parse_offer(",".join(token for token, _ in first).encode())
    query = parse_query(urlencode([("channel", token) for token, _ in second]).encode())
    wanted = [request.name for _, request in (*first, *second)]
    both = outcome(lambda: combine(header, query))
    if isinstance(both, OfferError):
        assert both.refusal is Refusal.DUPLICATE_CHANNEL
        assert len(set(wanted)) < len(wanted)
    else:
        assert [request.name for request in both.channels] == wanted


# Pieces that mean something to the grammar, for input that is wrong in interesting ways.
PIECES = "a b | , , % %62 %2e %7C bearer. Bearer. SECRET broker. json.v1 broker.json.v1 since. last. 9 recv send $ * >"
fragments = st.sampled_from([*PIECES.split(), " ", "%00", "%C3", "%A9", "/", "\x00", "é", "\n"])
soup = st.lists(fragments, max_size=14).map(lambda parts: "".join(parts).encode("latin-1"))


def sound(offer: Offer, source: bytes) -> None:
    """What holds for every offer that is accepted."""
    if offer.answer is not None:
        assert not is_reserved(offer.answer.decode()) or offer.answer == b"broker.json.v1"
        assert offer.answer in [token.strip(b" \t") for token in source.split(b",")]
    assert len({request.name for request in offer.channels}) == len(offer.channels)
    for request in offer.channels:
        assert not is_reserved(request.name)
        assert request.since is None or 1 <= len(request.since) <= 16


@given(soup | st.binary(max_size=60))
@example(b"a,%62earer.SECRET")
@example(b"%62earer.SECRET")
def test_no_header_is_answered_with_a_credential_or_raises_anything_else(header: bytes) -> None:
    offer = outcome(lambda: parse_offer(header))
    if isinstance(offer, OfferError):
        # Fixed text, and an answer that the page did offer and that holds no token.
        assert offer.text == offer.refusal.value[1]
        assert offer.answer is None or offer.answer in [token.strip(b" \t") for token in header.split(b",")]
        assert offer.answer is None or b"bearer." not in offer.answer.lower()
    else:
        assert (offer.answer is None) == (not header.strip(b" \t,"))
        sound(offer, header)


@given(soup | st.binary(max_size=60), st.sampled_from([b"", b"channel=", b"format=", b"channel=a&channel="]))
def test_no_query_raises_anything_else(query: bytes, prefix: bytes) -> None:
    offer = outcome(lambda: parse_query(prefix + query))
    assert offer.answer is None
    if isinstance(offer, Offer):
        assert offer.credential is None
        sound(offer, query)


@given(st.text(max_size=60))
def test_no_string_in_band_raises_anything_else(raw: str) -> None:
    request = outcome(lambda: parse_channel(raw))
    assert request.index == 0
    if isinstance(request, ChannelRequest):
        assert request.token == raw
