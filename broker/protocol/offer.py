"""The offer: which format, channels, options and credential a page wants, through whichever door it says so.

`parse_offer` reads the handshake header, `parse_query` the URL, `combine` joins the two and `read_offer` does all of
that; `parse_channel` reads one channel of an in-band subscribe. Called by the gateway once per connect. It never
decides whether something is allowed, and no error text of it holds a client's bytes.

Order of work, and why: a token is split at "|", classified while still encoded, and only then decoded. Decoding first
would let an encoded "|" smuggle an option, and an encoded prefix turn a credential into a channel that gets answered.
"""

import enum
import re
from typing import Literal

import msgspec

from broker.protocol.names import NameRule, is_reserved, percent_decode
from broker.protocol.position import is_position

Format = Literal["raw", "json"]
Direction = Literal["both", "recv", "send"]

# Case-sensitive as every subprotocol name (RFC 6455 section 11.5); other "broker." tokens are from the future.
FORMAT_TOKENS: dict[str, Format] = {"broker.json.v1": "json"}
_QUERY_FORMATS: dict[str, Format] = {"raw": "raw", "json": "json", **FORMAT_TOKENS}
_DIRECTIONS: dict[str, Direction] = {"both": "both", "recv": "recv", "send": "send"}

# Parameters that exist to carry a secret. A URL ends up in access logs, histories and Referer headers.
_TOKEN_PARAMETERS = frozenset(
    {"token", "access_token", "auth_token", "id_token", "jwt", "bearer", "authorization", "credential"}
)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
_LAST = re.compile(r"[0-9]{1,6}")  # six digits: more than any bounded history holds, and never a long int()
# What nearly every connect offers: one plain name and perhaps a direction. Valid under every NameRule.
_PLAIN = re.compile(r"([A-Za-z0-9_.+~-]{1,255})(?:\|(recv|send|both))?")


class Refusal(enum.Enum):
    """Why an offer is refused: word (see `ERRORS`) and fixed text."""

    MALFORMED = ("malformed_offer", "the offer is not a list of tokens")
    REPEATED_TOKEN = ("malformed_offer", "the offer holds the same token twice")
    TOO_BIG = ("offer_too_big", "the offer is longer than this server takes")
    NOTHING_TO_ANSWER = ("nothing_to_answer", "offer a format or a channel that can be answered")
    UNKNOWN_FORMAT = ("unknown_format", "none of the formats is spoken here")
    TWO_CREDENTIALS = ("bad_credential", "more than one token")
    EMPTY_CREDENTIAL = ("bad_credential", "the token is empty")
    TOKEN_IN_QUERY = ("token_in_query", "a token does not belong in a URL; offer it as bearer.<token>")
    BAD_PERCENT = ("bad_channel", "bad percent-encoding in a channel name")
    RESERVED_NAME = ("bad_channel", "this beginning of a channel name is reserved")
    BAD_NAME = ("bad_channel", "a character or the length of the channel name is not allowed")
    UNKNOWN_OPTION = ("bad_option", "unknown option of a channel")
    REPEATED_OPTION = ("bad_option", "an option of a channel is given twice")
    BAD_POSITION = ("bad_option", "since. takes a position of at most 16 characters")
    BAD_LAST = ("bad_option", "last. takes a number of at most 6 digits")
    DUPLICATE_CHANNEL = ("duplicate_channel", "the channel is named twice")
    TOO_MANY_CHANNELS = ("too_many_channels", "more channels than one connection may have")


class OfferError(Exception):
    """An offer that is refused. `index` is the place of the token, counted from 0 as in the page's array.

    `answer` is a token that may be answered so that the page can read the Close that follows; None if nothing of the
    offer may be (then only an HTTP refusal is possible: a browser fails a 101 without an answer).
    """

    def __init__(self, refusal: Refusal, index: int, answer: bytes | None = None) -> None:
        super().__init__(refusal.value[1])
        self.refusal = refusal
        self.word, self.text = refusal.value
        self.index = index
        self.answer = answer


class ChannelRequest(msgspec.Struct, frozen=True, gc=False):
    """One channel as asked for: `name` is decoded, `token` is what was written."""

    name: str
    since: str | None
    last: int | None
    direction: Direction | None
    index: int
    token: str


class Offer(msgspec.Struct, frozen=True, gc=False):
    """What a connection wants. `answer` goes into Sec-WebSocket-Protocol verbatim; None = answer none."""

    format: Format
    answer: bytes | None
    # Secret: never logged (kept out of repr), never answered.
    credential: str | None
    channels: tuple[ChannelRequest, ...]

    def __repr__(self) -> str:
        shown = "None" if self.credential is None else "<hidden>"
        return f"Offer({self.format!r}, answer={self.answer!r}, credential={shown}, channels={self.channels!r})"


class OfferRules(msgspec.Struct, frozen=True):
    """The operator's bounds; the defaults are those of config/broker.toml."""

    names: NameRule = NameRule()
    # nginx refuses one header line beyond 8 KiB (large_client_header_buffers); half of it leaves room for growth
    # of positions between the first connect and a reconnect.
    max_bytes: int = 4096
    max_channels: int = 128
    # Whether the query parameter `token` is taken, which ends up in logs.
    token_in_query: bool = False


DEFAULT_RULES = OfferRules()
NO_OFFER = Offer("raw", None, None, ())


def parse_offer(header: bytes | None, rules: OfferRules = DEFAULT_RULES) -> Offer:
    """Reads the value of Sec-WebSocket-Protocol (several lines joined with ","). Raises OfferError."""
    if not header:
        return NO_OFFER
    if len(header) > rules.max_bytes:
        raise OfferError(Refusal.TOO_BIG, 0, _answer_to_refusal(_tokens(header)))
    try:
        text = header.decode("ascii")
    except UnicodeDecodeError:
        raise OfferError(Refusal.MALFORMED, 0) from None
    plain = _PLAIN.fullmatch(text)
    if plain is not None and rules.max_channels and not is_reserved(text):
        # .get: None for a channel without a direction.
        direction = _DIRECTIONS.get(plain[2])
        return Offer("raw", header, None, (ChannelRequest(plain[1], None, None, direction, 0, text),))
    return _parse_tokens(_tokens(header), rules)


def _tokens(header: bytes) -> list[str]:
    """The list elements; empty ones are skipped as RFC 9110 section 5.6.1.2 asks of a recipient."""
    elements = (element.strip(" \t") for element in header.decode("latin-1").split(","))
    return [element for element in elements if element]


def _parse_tokens(tokens: list[str], rules: OfferRules) -> Offer:
    if not tokens:
        return NO_OFFER
    seen: set[str] = set()
    for index, token in enumerate(tokens):
        if _TOKEN.fullmatch(token) is None:
            raise OfferError(Refusal.MALFORMED, index)
        if token in seen:
            raise OfferError(Refusal.REPEATED_TOKEN, index)
        seen.add(token)
    try:
        return _classify(tokens, rules)
    except OfferError as error:
        error.answer = _answer_to_refusal(tokens)
        raise


def _classify(tokens: list[str], rules: OfferRules) -> Offer:
    spoken: Format | None = None
    answer: str | None = None
    credential: str | None = None
    channels = _Channels(rules)
    for index, token in enumerate(tokens):
        prefix = token[:7].lower()
        if prefix == "bearer.":
            if credential is not None:
                raise OfferError(Refusal.TWO_CREDENTIALS, index)
            credential = token[7:]
            if not credential:
                raise OfferError(Refusal.EMPTY_CREDENTIAL, index)
        elif prefix == "broker.":
            if spoken is None and token in FORMAT_TOKENS:
                spoken, answer = FORMAT_TOKENS[token], token
        else:
            channels.add(parse_channel(token, rules, index))
    if answer is None:
        if not channels.requests:
            raise OfferError(Refusal.NOTHING_TO_ANSWER, 0)
        answer = channels.requests[0].token
    return Offer(spoken or "raw", answer.encode("ascii"), credential, tuple(channels.requests))


def _answer_to_refusal(tokens: list[str]) -> bytes | None:
    """A token that may go back to the page although the offer is refused; never one that could hold a credential."""
    for token in tokens:
        if token in FORMAT_TOKENS:
            return token.encode("ascii")
    for token in tokens:
        if _TOKEN.fullmatch(token) is not None and "bearer." not in (percent_decode(token) or "bearer.").lower():
            return token.encode("ascii")
    return None


class _Channels:
    """Collects requests and holds them to the two rules that concern all of them: no duplicates, not too many."""

    __slots__ = ("names", "requests", "rules")

    def __init__(self, rules: OfferRules) -> None:
        self.rules = rules
        self.requests: list[ChannelRequest] = []
        self.names: set[str] = set()

    def add(self, request: ChannelRequest) -> None:
        if request.name in self.names:
            raise OfferError(Refusal.DUPLICATE_CHANNEL, request.index)
        if len(self.requests) >= self.rules.max_channels:
            raise OfferError(Refusal.TOO_MANY_CHANNELS, request.index)
        self.names.add(request.name)
        self.requests.append(request)


def parse_channel(raw: str, rules: OfferRules = DEFAULT_RULES, index: int = 0) -> ChannelRequest:
    """Reads `name *( "|" option )`; the name may be percent-encoded. Raises OfferError."""
    encoded, *options = raw.split("|")
    if is_reserved(encoded):
        raise OfferError(Refusal.RESERVED_NAME, index)
    name = percent_decode(encoded)
    if name is None:
        raise OfferError(Refusal.BAD_PERCENT, index)
    check_name(name, rules, index)
    since: str | None = None
    last: int | None = None
    direction: Direction | None = None
    for option in options:
        if option in _DIRECTIONS:
            taken = direction is not None
            direction = _DIRECTIONS[option]
        elif option.startswith("since."):
            taken = since is not None
            since = check_position(option[6:], index)
        elif option.startswith("last."):
            taken = last is not None
            if _LAST.fullmatch(option[5:]) is None:
                raise OfferError(Refusal.BAD_LAST, index)
            last = int(option[5:])
        else:
            raise OfferError(Refusal.UNKNOWN_OPTION, index)
        if taken:
            raise OfferError(Refusal.REPEATED_OPTION, index)
    return ChannelRequest(name, since, last, direction, index, raw)


def check_name(name: str, rules: OfferRules = DEFAULT_RULES, index: int = 0) -> str:
    """Returns `name` if it is a channel name as it stands (no decoding). Raises OfferError."""
    if is_reserved(name):
        raise OfferError(Refusal.RESERVED_NAME, index)
    if not rules.names.accepts(name):
        raise OfferError(Refusal.BAD_NAME, index)
    return name


def check_position(position: str, index: int = 0) -> str:
    """Returns `position` if it could be one. Raises OfferError."""
    if not is_position(position):
        raise OfferError(Refusal.BAD_POSITION, index)
    return position


def parse_query(query: bytes, rules: OfferRules = DEFAULT_RULES) -> Offer:
    """Reads `format=` and `channel=` out of a query string as URLSearchParams writes it. Raises OfferError.

    Other parameters are left alone (pages add cache busters); those that exist to carry a token are refused by name,
    but for `token` where the rules take it.
    `index` of an error and of a request counts the `channel` and `format` parameters from 0.
    """
    if not query:
        return NO_OFFER
    if len(query) > rules.max_bytes:
        raise OfferError(Refusal.TOO_BIG, 0)
    spoken: Format | None = None
    credential: str | None = None
    formats_named = False
    channels = _Channels(rules)
    index = 0
    for pair in query.split(b"&"):
        encoded_key, _, encoded_value = pair.partition(b"=")
        key = _form_decode(encoded_key)
        if key is None:
            continue
        if key == "token" and rules.token_in_query:
            credential = _query_token(credential, encoded_value, index)
            continue
        if key.lower() in _TOKEN_PARAMETERS:
            raise OfferError(Refusal.TOKEN_IN_QUERY, index)
        if key not in ("format", "channel"):
            continue
        value = _query_value(encoded_value, index)
        if key == "channel":
            channels.add(parse_channel(value, rules, index))
        else:
            formats_named = True
            spoken = spoken or _QUERY_FORMATS.get(value)
        index += 1
    if formats_named and spoken is None:
        # In the handshake the answer tells a page that its format was not taken; here nothing would.
        raise OfferError(Refusal.UNKNOWN_FORMAT, 0)
    return Offer(spoken or "raw", None, credential, tuple(channels.requests))


def _query_token(earlier: str | None, encoded: bytes, index: int) -> str:
    if earlier is not None:
        raise OfferError(Refusal.TWO_CREDENTIALS, index)
    token = _form_decode(encoded)
    if not token:
        raise OfferError(Refusal.EMPTY_CREDENTIAL, index)
    return token


def _query_value(encoded: bytes, index: int) -> str:
    value = _form_decode(encoded)
    if value is None:
        raise OfferError(Refusal.BAD_PERCENT, index)
    if value[:7].lower() == "bearer.":
        raise OfferError(Refusal.TOKEN_IN_QUERY, index)
    return value


def _form_decode(raw: bytes) -> str | None:
    """application/x-www-form-urlencoded (WHATWG URL section 5.1), but a bad %XX and bad UTF-8 are None."""
    return percent_decode(raw.decode("latin-1").replace("+", " ")) if raw.isascii() else None


def combine(header: Offer, query: Offer, rules: OfferRules = DEFAULT_RULES) -> Offer:
    """Both doors at once: the channels of both, header first; a channel named at both is a duplicate.

    The format is the header's if the header names one, else the query's. Answer and credential are the header's;
    a credential at both is one too many.
    """
    if query is NO_OFFER:
        return header
    header_names_format = header.answer is not None and header.answer.decode("ascii") in FORMAT_TOKENS
    if not header.channels:
        requests = query.channels
    elif not query.channels:
        requests = header.channels
    else:
        channels = _Channels(rules)
        for request in (*header.channels, *query.channels):
            channels.add(request)
        requests = tuple(channels.requests)
    if header.credential is not None and query.credential is not None:
        raise OfferError(Refusal.TWO_CREDENTIALS, 0)
    format = header.format if header_names_format else query.format
    return Offer(format, header.answer, header.credential or query.credential, requests)


def read_offer(header: bytes | None, query: bytes, rules: OfferRules = DEFAULT_RULES) -> Offer:
    """Header and query of one request. Raises OfferError with whatever of the header may be answered."""
    offer = parse_offer(header, rules)
    if not query:
        return offer
    try:
        return combine(offer, parse_query(query, rules), rules)
    except OfferError as error:
        error.answer = offer.answer
        raise
