"""What a page may offer, and what it is told when it may not."""

import pytest

from broker.protocol.errors import ERRORS
from broker.protocol.names import NameRule
from broker.protocol.offer import (
    NO_OFFER,
    ChannelRequest,
    Offer,
    OfferError,
    OfferRules,
    Refusal,
    combine,
    parse_channel,
    parse_offer,
    parse_query,
    read_offer,
)


def refused(header: bytes, rules: OfferRules | None = None) -> OfferError:
    with pytest.raises(OfferError) as caught:
        parse_offer(header, rules or OfferRules())
    return caught.value


def names(offer: Offer) -> list[str]:
    return [request.name for request in offer.channels]


@pytest.mark.parametrize("header", [None, b"", b" ", b",", b" , ,\t"])
def test_an_empty_header_counts_as_absent(header: bytes | None) -> None:
    assert parse_offer(header) == NO_OFFER
    assert NO_OFFER.answer is None


def test_a_page_offers_its_channels_and_the_first_is_answered() -> None:
    offer = parse_offer(b"news, room.42|since.8f3a.1042|recv ,a|last.10")
    assert offer == Offer(
        "raw",
        b"news",
        None,
        (
            ChannelRequest("news", None, None, None, 0, "news"),
            ChannelRequest("room.42", "8f3a.1042", None, "recv", 1, "room.42|since.8f3a.1042|recv"),
            ChannelRequest("a", None, 10, None, 2, "a|last.10"),
        ),
    )


@pytest.mark.parametrize("direction", ["recv", "send", "both"])
def test_the_usual_single_channel_means_the_same_as_in_a_list(direction: str) -> None:
    token = f"c0|{direction}"
    alone, listed = parse_offer(token.encode()), parse_offer(f"{token},other".encode())
    assert alone.channels[0] == listed.channels[0]
    assert (alone.answer, alone.format) == (listed.answer, listed.format) == (token.encode(), "raw")


def test_a_format_is_answered_wherever_it_stands() -> None:
    offer = parse_offer(b"news,broker.msgpack.v9,broker.json.v1")
    assert (offer.format, offer.answer, names(offer)) == ("json", b"broker.json.v1", ["news"])


def test_a_format_from_the_future_is_ignored_beside_something_we_speak() -> None:
    offer = parse_offer(b"broker.msgpack.v9,news")
    assert (offer.format, offer.answer) == ("raw", b"news")


@pytest.mark.parametrize("header", [b"bearer.abc", b"broker.msgpack.v9", b"BROKER.JSON.V1,Bearer.x"])
def test_an_offer_that_leaves_nothing_to_answer_is_refused_as_that(header: bytes) -> None:
    assert refused(header).refusal is Refusal.NOTHING_TO_ANSWER


def test_a_credential_is_taken_and_neither_answered_nor_shown() -> None:
    offer = parse_offer(b"bearer.eyJh.eyJz.sig-_,broker.json.v1")
    assert offer.credential == "eyJh.eyJz.sig-_"
    assert offer.answer == b"broker.json.v1"
    assert "eyJh" not in repr(offer)
    assert parse_offer(b"BEARER.x,news").credential == "x"


@pytest.mark.parametrize(
    ("header", "refusal", "index"),
    [
        (b"a,bearer.x,bearer.y", Refusal.TWO_CREDENTIALS, 2),
        (b"a,bearer.", Refusal.EMPTY_CREDENTIAL, 1),
        (b"a,%62earer.x", Refusal.RESERVED_NAME, 1),
        (b"a,Bearer%2Ex", Refusal.RESERVED_NAME, 1),
        (b"a,%42ROKER.json.v1", Refusal.RESERVED_NAME, 1),
        (b"a,b%zz", Refusal.BAD_PERCENT, 1),
        (b"a,b%2", Refusal.BAD_PERCENT, 1),
        (b"a,b%", Refusal.BAD_PERCENT, 1),
        (b"a,b%C3", Refusal.BAD_PERCENT, 1),  # half a character
        (b"a,b%ED%A0%80", Refusal.BAD_PERCENT, 1),  # a surrogate
        (b"a,b%C0%AF", Refusal.BAD_PERCENT, 1),  # overlong /
        (b"a,b%2Fc", Refusal.BAD_NAME, 1),
        (b"a,b%20c", Refusal.BAD_NAME, 1),
        (b"a,b%00", Refusal.BAD_NAME, 1),
        (b"a,b%0A", Refusal.BAD_NAME, 1),
        (b"a,caf%C3%A9", Refusal.BAD_NAME, 1),
        (b"a,b%7Csend", Refusal.BAD_NAME, 1),  # an encoded | splits nothing
        (b"a,room.*", Refusal.BAD_NAME, 1),
        (b"a,room.%3E", Refusal.BAD_NAME, 1),
        (b"a,$sys", Refusal.BAD_NAME, 1),
        (b"a,%24sys", Refusal.BAD_NAME, 1),
        (b"a,|recv", Refusal.BAD_NAME, 1),
        (b"a," + b"x" * 256, Refusal.BAD_NAME, 1),
        (b"a,b|", Refusal.UNKNOWN_OPTION, 1),
        (b"a,b||recv", Refusal.UNKNOWN_OPTION, 1),
        (b"a,b|RECV", Refusal.UNKNOWN_OPTION, 1),
        (b"a,b|%72ecv", Refusal.UNKNOWN_OPTION, 1),
        (b"a,b|presence", Refusal.UNKNOWN_OPTION, 1),
        (b"a,b|recv|send", Refusal.REPEATED_OPTION, 1),
        (b"a,b|recv|recv", Refusal.REPEATED_OPTION, 1),
        (b"a,b|last.1|last.1", Refusal.REPEATED_OPTION, 1),
        (b"a,b|since.x|since.y", Refusal.REPEATED_OPTION, 1),
        (b"a,b|since.", Refusal.BAD_POSITION, 1),
        (b"a,b|since.12345678901234567", Refusal.BAD_POSITION, 1),
        (b"a,b|since.%31", Refusal.BAD_POSITION, 1),
        (b"a,b|last.", Refusal.BAD_LAST, 1),
        (b"a,b|last.-1", Refusal.BAD_LAST, 1),
        (b"a,b|last.1e3", Refusal.BAD_LAST, 1),
        (b"a,b|last.1234567", Refusal.BAD_LAST, 1),
        (b"a,%61", Refusal.DUPLICATE_CHANNEL, 1),
        (b"a,b,a|recv", Refusal.DUPLICATE_CHANNEL, 2),
    ],
)
def test_a_bad_token_is_named_by_its_place(header: bytes, refusal: Refusal, index: int) -> None:
    error = refused(header)
    assert (error.refusal, error.index, error.answer) == (refusal, index, b"a")


@pytest.mark.parametrize(
    ("header", "index"),
    [
        (b"a b", 0),
        (b"a,b c", 1),
        (b"a/b", 0),
        (b"a,b:c", 1),
        (b"a,b@c", 1),
        (b"a,b=c", 1),
        (b'a,"b"', 1),
        (b"a,b\x00", 1),
        (b"a,b\r\nX: y", 1),
        (b"a,b\x7f", 1),
        (b"caf\xc3\xa9", 0),
        (b"\xff", 0),
        (b"a,b,a", 2),
        (b"broker.json.v1,broker.json.v1", 1),
    ],
)
def test_what_no_browser_sends_is_a_malformed_request(header: bytes, index: int) -> None:
    error = refused(header)
    assert (error.word, error.index, error.answer) == ("malformed_offer", index, None)


@pytest.mark.parametrize("name", ["a:b", "user@host", "k=v", "a+b", "~x", "A-Z_0.9", "x" * 255])
def test_a_name_that_is_no_token_is_offered_percent_encoded(name: str) -> None:
    encoded = "".join(c if c.isalnum() else f"%{ord(c):02x}" for c in name)
    assert names(parse_offer(encoded.encode())) == [name]
    assert names(parse_query(b"channel=" + encoded.replace("%", "%25").encode())) == [name]


def test_a_refusal_is_answered_with_something_the_page_offered_but_never_with_a_credential() -> None:
    assert refused(b"%2F,bearer.secret").answer == b"%2F"
    assert refused(b"bearer.secret,%2F").answer == b"%2F"
    assert refused(b"x|unknown,broker.json.v1").answer == b"broker.json.v1"
    assert refused(b"%62earer.secret").answer is None
    assert refused(b"bearer.secret,Bearer.other").answer is None
    assert refused(b"x|bearer.secret").answer is None
    assert refused(b"bearer.secret").answer is None


def test_an_offer_over_its_budget_can_still_be_answered() -> None:
    channels = b",".join(b"%04d" % number for number in range(1000))
    error = refused(channels)
    assert (error.refusal, error.answer) == (Refusal.TOO_BIG, b"0000")
    assert refused(b"bearer." + b"x" * 5000).answer is None
    assert parse_offer(b"bearer." + b"x" * (4096 - 9) + b",a").answer == b"a"


def test_one_channel_more_than_allowed_is_refused_and_the_last_allowed_is_not() -> None:
    tokens = [b"c%d" % number for number in range(129)]
    assert len(parse_offer(b",".join(tokens[:128])).channels) == 128
    error = refused(b",".join(tokens))
    assert (error.refusal, error.index) == (Refusal.TOO_MANY_CHANNELS, 128)


def test_an_operator_can_widen_names_but_not_the_reserved_part() -> None:
    rules = OfferRules(names=NameRule("/$é|%"))
    assert names(parse_offer(b"a%2Fb", rules)) == ["a/b"]
    assert names(parse_offer(b"a$", rules)) == ["a$"]
    assert names(parse_offer(b"caf%C3%A9", rules)) == ["café"]
    assert names(parse_offer(b"a%7Csend", rules)) == ["a|send"]
    assert refused(b"$a", rules).refusal is Refusal.BAD_NAME
    assert refused(b"%C3%A9" * 128, rules).refusal is Refusal.BAD_NAME  # 128 characters, 256 bytes
    assert len(names(parse_offer(b"%C3%A9" * 127, rules))[0]) == 127


@pytest.mark.parametrize("extra", ["*", ">", " ", "\n", "\x00", "\u202e", "\ud800", "\u00a0", "\u200b"])
def test_no_operator_allows_names_that_cannot_be_told_apart(extra: str) -> None:
    with pytest.raises(ValueError, match=r"channel names"):
        NameRule(extra)


@pytest.mark.parametrize("extra", ["]", "^", "\\", "a-", "[", "é"])
def test_extra_characters_mean_themselves(extra: str) -> None:
    rule = NameRule(extra)
    assert rule.accepts(f"x{extra}")
    assert not rule.accepts("x/")
    assert not rule.accepts("x!")


# --- the query


def query_refused(query: bytes) -> OfferError:
    with pytest.raises(OfferError) as caught:
        parse_query(query)
    return caught.value


def test_a_page_that_cannot_offer_protocols_says_the_same_in_the_query() -> None:
    offer = parse_query(b"format=json&channel=news&channel=room.42%7Csince.8f3a.1042&_=1699")
    assert (offer.format, offer.answer, offer.credential) == ("json", None, None)
    assert offer.channels == (
        ChannelRequest("news", None, None, None, 1, "news"),
        ChannelRequest("room.42", "8f3a.1042", None, None, 2, "room.42|since.8f3a.1042"),
    )


@pytest.mark.parametrize("query", [b"", b"_=1", b"%zz=1&utm=%zz", b"\xff=1", b"&&=&="])
def test_parameters_of_others_are_left_alone(query: bytes) -> None:
    assert parse_query(query) == NO_OFFER


@pytest.mark.parametrize(
    ("query", "spoken"),
    [
        (b"format=raw", "raw"),
        (b"format=broker.json.v1", "json"),
        (b"format=msgpack&format=json", "json"),
        (b"format=raw&format=json", "raw"),
        (b"channel=a", "raw"),
    ],
)
def test_the_first_format_that_is_spoken_is_taken(query: bytes, spoken: str) -> None:
    assert parse_query(query).format == spoken


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        (b"format=jsn&channel=a", Refusal.UNKNOWN_FORMAT),
        (b"token=x", Refusal.TOKEN_IN_QUERY),
        (b"channel=a&Access_Token=x", Refusal.TOKEN_IN_QUERY),
        (b"%74oken=x", Refusal.TOKEN_IN_QUERY),
        (b"channel=bearer.x", Refusal.TOKEN_IN_QUERY),
        (b"channel=Bearer%2Ex", Refusal.TOKEN_IN_QUERY),
        (b"format=bearer.x", Refusal.TOKEN_IN_QUERY),
        (b"channel=%2562earer.x", Refusal.RESERVED_NAME),
        (b"channel=broker.json.v1", Refusal.RESERVED_NAME),
        (b"channel=", Refusal.BAD_NAME),
        (b"channel", Refusal.BAD_NAME),
        (b"channel=a+b", Refusal.BAD_NAME),
        (b"channel=%zz", Refusal.BAD_PERCENT),
        (b"channel=%FF", Refusal.BAD_PERCENT),
        (b"channel=\xc3\xa9", Refusal.BAD_PERCENT),
        (b"channel=a&channel=a", Refusal.DUPLICATE_CHANNEL),
        (b"channel=a%7Crecv%7Csend", Refusal.REPEATED_OPTION),
        (b"channel=" + b"a" * 5000, Refusal.TOO_BIG),
        (b"&".join(b"channel=c%d" % number for number in range(129)), Refusal.TOO_MANY_CHANNELS),
    ],
)
def test_a_bad_query_is_refused_and_leaves_no_answer(query: bytes, refusal: Refusal) -> None:
    error = query_refused(query)
    assert (error.refusal, error.answer) == (refusal, None)


def test_a_plus_in_a_name_travels_as_urlsearchparams_writes_it() -> None:
    assert names(parse_query(b"channel=a%2Bb")) == ["a+b"]


# --- both doors


def test_both_doors_together_make_one_offer() -> None:
    offer = combine(parse_offer(b"news"), parse_query(b"format=json&channel=room"))
    assert (offer.format, offer.answer, names(offer)) == ("json", b"news", ["news", "room"])


def test_the_format_of_the_handshake_wins() -> None:
    offer = combine(parse_offer(b"broker.json.v1"), parse_query(b"format=raw&channel=a"))
    assert (offer.format, offer.answer, names(offer)) == ("json", b"broker.json.v1", ["a"])


@pytest.mark.parametrize("query", [b"", b"_=1"])
def test_a_query_that_says_nothing_changes_nothing(query: bytes) -> None:
    for header in (b"news", b"broker.json.v1,bearer.x,a", b""):
        assert combine(parse_offer(header), parse_query(query)) == parse_offer(header)


def test_the_query_alone_works_without_a_header() -> None:
    assert combine(NO_OFFER, parse_query(b"channel=a&format=json")) == parse_query(b"channel=a&format=json")


def test_the_credential_of_the_handshake_serves_channels_of_the_query() -> None:
    offer = combine(parse_offer(b"bearer.x,broker.json.v1"), parse_query(b"channel=a"))
    assert (offer.credential, names(offer)) == ("x", ["a"])


def test_a_channel_named_at_both_doors_is_refused_readably() -> None:
    with pytest.raises(OfferError) as caught:
        read_offer(b"a", b"channel=%2561")
    assert (caught.value.refusal, caught.value.answer) == (Refusal.DUPLICATE_CHANNEL, b"a")


def test_a_bad_query_is_refused_readably_if_the_handshake_offers_something_to_answer() -> None:
    for header, answer in ((b"bearer.x,broker.json.v1", b"broker.json.v1"), (None, None)):
        with pytest.raises(OfferError) as caught:
            read_offer(header, b"token=x")
        assert (caught.value.refusal, caught.value.answer) == (Refusal.TOKEN_IN_QUERY, answer)


def test_a_request_is_read_through_both_doors_at_once() -> None:
    assert read_offer(b"news", b"") == parse_offer(b"news")
    assert names(read_offer(b"news", b"channel=room")) == ["news", "room"]
    assert names(read_offer(None, b"channel=room")) == ["room"]


def test_both_doors_share_one_bound_on_channels() -> None:
    header = parse_offer(b",".join(b"h%d" % number for number in range(100)))
    query = parse_query(b"&".join(b"channel=q%d" % number for number in range(29)))
    with pytest.raises(OfferError) as caught:
        combine(header, query)
    assert caught.value.refusal is Refusal.TOO_MANY_CHANNELS


# --- in band, and the words


def test_a_channel_named_in_band_may_hold_what_no_token_may() -> None:
    assert parse_channel("user@host:1|last.5").name == "user@host:1"


def test_every_refusal_has_a_word_that_is_documented() -> None:
    assert {refusal.value[0] for refusal in Refusal} <= set(ERRORS)
    assert {refusal.value[0] for refusal in Refusal} >= {word for word in ERRORS if "offer" in word}


def test_every_text_of_a_refusal_fits_a_close_reason_with_its_place() -> None:
    for refusal in Refusal:
        assert len(f"code=bad_offer;in_ms=86400000;token 2047: {refusal.value[1]}") <= 123
