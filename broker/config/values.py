"""Syntax of the strings in a configuration: addresses, origins, URLs, names, channel patterns.

Used by the validation of a configuration and by what works with these values at run time (worker, auth), so that a
string the check accepts is one the broker understands. Each function raises ValueError with a text for the operator.
"""

import ipaddress
import re
from urllib.parse import urlsplit

_PORT = re.compile(r"[0-9]{1,5}")
# scheme "://" host [ ":" port ], nothing after it (RFC 6454 section 6.2).
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\s/:?#@\[\]\\,*]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# RFC 9110 section 5.6.2: names of headers; RFC 6265 section 4.1.1: names of cookies.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?")
# What the operator calls a key: it stands in log lines.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The segment of a pattern that stands for the id of whoever asks.
SUB = "{sub}"

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def parse_listen(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[IPv6]:PORT` → (host without brackets, port). Port 0 lets the system choose."""
    host, colon, port = text.rpartition(":")
    if not colon or _PORT.fullmatch(port) is None or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT (for example 127.0.0.1:8000 or [::1]:8000)")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{text!r} has no IPv6 address between the brackets") from None
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8000")
    elif not host:
        raise ValueError(f"{text!r} names no host; for every address write 0.0.0.0{text}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """True if nobody outside this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def next_to(listen: object) -> str:
    """The API's address of a broker in development: the next port, so that a second broker with another `listen` needs
    nothing more. Port 0 stays 0.
    """
    try:
        host, port = parse_listen(str(listen))
    except ValueError:
        return ""  # `listen` itself is reported
    if not is_loopback(host):
        host = "127.0.0.1"  # whoever opens the WebSocket to a network has not said so of the API
    next_port = port + 1 if 0 < port < 65535 else 0
    return f"[{host}]:{next_port}" if ":" in host else f"{host}:{next_port}"


def parse_origin(text: str) -> tuple[str, str, int | None]:
    """An origin → (scheme, host, port), lower-cased, the port filled in for http and https."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not an origin: scheme://host or scheme://host:port, nothing after it")
    scheme, host, port = match.groups()
    if port is None:
        return scheme, host, _DEFAULT_PORTS.get(scheme)
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} has a port outside 1 to 65535")
    return scheme, host, int(port)


def parse_origin_rule(text: str) -> tuple[str, str, int | None]:
    """An origin, or one for all sub-domains: `https://*.example.com` → as parse_origin, the host with its `*.`.

    The domain itself is not meant: `*.` is one or more labels. It needs a domain of two labels at least, so that
    nobody admits a whole top-level domain by a slip.
    """
    scheme, found, rest = text.partition("://*.")
    if not found:
        return parse_origin(text)
    try:
        scheme, host, port = parse_origin(f"{scheme}://{rest}")
    except ValueError:
        raise ValueError(
            f"{text!r} is not an origin: scheme://*.domain or scheme://*.domain:port, nothing after it"
        ) from None
    if "." not in host or host.startswith("["):
        raise ValueError(f"{text!r}: behind *. stands a domain of two labels at least, as in https://*.example.com")
    return scheme, f"*.{host}", port


def parse_pattern(text: str) -> tuple[str, ...]:
    """A channel pattern → its segments. `*` is one segment, a last `>` one or more, `{sub}` the user's id."""
    segments = tuple(text.split("."))
    if not text:
        raise ValueError("a channel pattern is not empty")
    if text.startswith("$"):
        raise ValueError(f"{text!r}: a leading $ is reserved")
    for index, segment in enumerate(segments):
        if segment == ">" and index != len(segments) - 1:
            raise ValueError(f"{text!r}: > stands only at the end")
        if segment not in ("*", ">", SUB) and any(character in segment for character in "*>{}"):
            raise ValueError(f"{text!r}: *, > and {SUB} stand for whole segments between dots, not for parts of one")
    return segments


def check_extra_characters(text: str) -> None:
    """What may be added to the characters of channel names."""
    for character in text:
        if character in "*> " or not character.isprintable():
            raise ValueError(f"{character!r} cannot be allowed in channel names")


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address or a network."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is neither an address nor a network (for example 10.0.0.0/8 or fd00::1)") from None
    raise ValueError(f"{text!r} has bits set behind the network's; the network is {meant}")


def check_host(text: str) -> None:
    """What a Host header may be: HOST or HOST:PORT."""
    match = _HOST.fullmatch(text)
    if match is None or (match[2] is not None and int(match[2]) > 65535):
        raise ValueError(f"{text!r} is not HOST or HOST:PORT")


def check_url(text: str) -> None:
    """An http or https URL without a user's name or a password; it may hold a secret, so errors do not repeat it."""
    try:
        url = urlsplit(text)
        _ = url.port  # raises for one that is none
    except ValueError:
        raise ValueError("is not a URL") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("is not a URL of http or https, as in https://www.example.org/path")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("has characters that no URL has; write them as %XX")
    if url.username is not None or url.password is not None:
        raise ValueError("must not hold a user or a password, which would end up in logs")
    if url.fragment:
        raise ValueError("must not have a fragment (#…), which is never sent")


def check_token(text: str) -> None:
    """The name of a header or of a cookie."""
    if _TOKEN.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not the name of a header or of a cookie")


def check_name(text: str) -> None:
    """The name of a key of the API or of tokens."""
    if _NAME.fullmatch(text) is None:
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 _ . -")


def check_variable(text: str) -> None:
    """The name of an environment variable; not repeated, as it may be the secret itself."""
    if _VARIABLE.fullmatch(text) is None:
        raise ValueError("is not the name of an environment variable (A-Z a-z 0-9 _); the value does not belong here")
