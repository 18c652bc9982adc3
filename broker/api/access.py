"""Who may speak to the API at all: Host, Origin, key. Looked at before anything else of a request, its body least."""

from collections.abc import Callable, Sequence

from broker.api.keys import Key, Keys
from broker.api.problems import Problem
from broker.config.schema import Api
from broker.config.values import LOOPBACK_NAMES, is_loopback, parse_listen

Headers = Sequence[tuple[bytes, bytes]]

_SCHEME = b"bearer "
_SPACE = b" \t"


class Access:
    """`on_refused` is told of each key that is none of ours."""

    def __init__(self, api: Api, on_refused: Callable[[], None] = lambda: None) -> None:
        self._keys = Keys({})
        self._on_refused = on_refused
        self.reload(api)

    def reload(self, api: Api) -> None:
        """Other keys and hosts, for every request whose head has not been looked at."""
        self._keys = Keys(api.keys, before=self._keys)
        hosts = [host.lower() for host in api.hosts]
        if not hosts and is_loopback(parse_listen(api.listen)[0]):
            hosts = sorted(LOOPBACK_NAMES)
        # None: every one.
        self._hosts = frozenset(host.encode() for host in hosts) if hosts else None

    def check_place(self, headers: Headers) -> None:
        """Host and Origin: a page that has its own name point to this machine must not reach it, with a key or
        without one. Raises Problem.
        """
        host = None
        for name, value in headers:
            if name == b"host":
                if host is not None:
                    raise Problem("bad_request", "more than one Host header")
                host = value.lower()
            elif name == b"origin":
                raise Problem("origin_refused")
        if self._hosts is not None and (
            host is None or (host not in self._hosts and _without_port(host) not in self._hosts)
        ):
            raise Problem("wrong_host")

    def key(self, headers: Headers) -> Key:
        """Raises Problem."""
        presented = None
        for name, value in headers:
            if name == b"authorization":
                if presented is not None:
                    raise Problem("bad_request", "more than one Authorization header")
                presented = value
        if presented is None:
            raise Problem("not_authenticated")
        key = None
        if presented[:7].lower() == _SCHEME:
            key = self._keys.find(presented[7:].strip(_SPACE))
        if key is None:
            self._on_refused()
            raise Problem("not_authenticated", "no key of this server")
        return key


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return name if colon and port.isdigit() else host
