"""The listening sockets: opened once, before anything serves, and handed to whoever accepts.

Each worker has its own, all with SO_REUSEPORT. Because that option would let a second broker share the port in
silence, the port is first bound without it: whoever holds it, with the option or without, makes that fail.
"""

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from broker.config.schema import Admin, Config, Server
from broker.config.sources import dotted
from broker.config.validate import exposure
from broker.config.values import is_loopback, next_to, parse_listen
from broker.log import get_logger
from broker.supervisor.notify import PassedSocketError, passed_sockets

log = get_logger(__name__, limited=False)

# FileDescriptorName= of the socket that the HTTP API is given.
API_NAME = "api"
# That of the admin port.
ADMIN_NAME = "admin"


class ListenError(Exception):
    """The address cannot be listened on; the text says why and what to do."""


def open_listeners(
    host: str, port: int, backlog: int, count: int = 1, *, shared: bool = False, flag: str = "--listen"
) -> list[socket.socket]:
    """`count` listening, non-blocking sockets on one address. Port 0 = one the system chooses, the same for all.
    A single one that is `shared` between processes needs no SO_REUSEPORT. `flag` is named as the way to another
    address. Raises ListenError.
    """
    family, address = _resolve(host, port)
    opened: list[socket.socket] = []
    try:
        if port:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                # Without SO_REUSEADDR connections that just ended would hold the port (TIME_WAIT); with it only a
                # listener does.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _only_ipv6(probe)
                probe.bind(address)
                probe.listen(1)
        for _ in range(count):
            listener = socket.socket(family, socket.SOCK_STREAM)
            opened.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            _only_ipv6(listener)
            listener.bind(address)
            listener.listen(backlog)
            listener.setblocking(False)
            address = listener.getsockname()
    except OSError as error:
        for listener in opened:
            listener.close()
        raise ListenError(_explain(host, port, flag, error)) from None
    return opened


class Listeners(NamedTuple):
    """`clients`: for WebSockets. `api`: the one of the HTTP API, which all workers share: one that hangs swallows no
    share of its connections, and a reload resets none. `admin`: the one of the admin port, which the main process
    serves. None: there is no API, no admin port.
    """

    clients: list[socket.socket]
    api: socket.socket | None
    admin: socket.socket | None

    def close(self) -> None:
        for listener in (*self.clients, self.api, self.admin):
            if listener is not None:
                listener.close()


def listeners_for(config: Config, workers: int) -> Listeners:
    """The sockets that were passed by socket activation, or else one for each worker, one for the API and one for the
    admin port. Raises ListenError.
    """
    try:
        passed = passed_sockets()
    except PassedSocketError as error:
        raise ListenError(str(error)) from None
    for_api = [one.socket for one in passed if one.name == API_NAME]
    for_admin = [one.socket for one in passed if one.name == ADMIN_NAME]
    for_clients = [one.socket for one in passed if one.name not in (API_NAME, ADMIN_NAME)]
    found = Listeners(_client_listeners(config, workers, for_clients), None, None)
    try:
        found = found._replace(api=_api_listener(config, for_api))
        return found._replace(admin=_admin_listener(config, for_admin))
    except ListenError:
        found.close()
        raise


def _admin_listener(config: Config, passed: list[socket.socket]) -> socket.socket | None:
    if len(passed) > 1:
        raise ListenError(f"more than one socket named {ADMIN_NAME} was passed; the main process serves one")
    if passed:
        log.info("socket of the admin port was passed", instead_of="admin.listen")
        return passed[0]
    return _open_admin(config) if config.admin.listen else None


def _open_admin(config: Config) -> socket.socket:
    host, port = parse_listen(config.admin.listen)
    try:
        return open_listeners(host, port, config.limits.listen_backlog, shared=True, flag="--admin-listen")[0]
    except ListenError as error:
        if config.server.dev and config.admin.listen == Admin().listen:
            # Nobody has asked for this port; the start prints whichever it is.
            log.info("admin port takes another port", why=str(error))
            return open_listeners(host, 0, config.limits.listen_backlog, shared=True)[0]
        raise ListenError(f'admin.listen: {error}, or "" for no admin port') from None


def _api_listener(config: Config, passed: list[socket.socket]) -> socket.socket | None:
    if len(passed) > 1:
        raise ListenError(f"more than one socket named {API_NAME} was passed; all workers share one")
    if not config.api.keys or not (passed or config.api.listen):
        for one in passed:
            one.close()
        return None
    if passed:
        log.info("socket of the API was passed", instead_of="api.listen")
        listener = passed[0]
    else:
        listener = _open_api(config)
    if listener.family != socket.AF_UNIX and not is_loopback(host := listener.getsockname()[0]):
        log.warning(
            "API is open to a network without TLS",
            host=host,
            why="whoever is on the way reads the keys; let a proxy with TLS stand before it, or keep it on 127.0.0.1",
        )
    return listener


def _open_api(config: Config) -> socket.socket:
    host, port = parse_listen(config.api.listen)
    try:
        return open_listeners(host, port, config.limits.listen_backlog, shared=True, flag="--api-listen")[0]
    except ListenError as error:
        if config.server.dev and config.api.listen == next_to(config.server.listen):
            # Nobody has asked for this port; the start prints whichever it is.
            log.info("API takes another port", why=str(error))
            return open_listeners(host, 0, config.limits.listen_backlog, shared=True)[0]
        raise ListenError(f"api.listen: {error}") from None


def _client_listeners(config: Config, workers: int, listeners: list[socket.socket]) -> list[socket.socket]:
    """All as clients need them: the options are inherited by what is accepted, by whichever worker."""
    server, limits = config.server, config.limits
    if listeners:
        for problem in exposures(config, listeners):
            raise ListenError(problem)
        log.info("sockets of clients were passed", count=len(listeners), instead_of="server.listen")
    else:
        host, port = parse_listen(server.listen)
        listeners = open_listeners(host, port, limits.listen_backlog, workers)
    for listener in listeners:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.notsent_lowat_bytes)
    _warn_of_others(server, listeners)
    return listeners


def _warn_of_others(server: Server, listeners: Iterable[socket.socket]) -> None:
    """What an operator should know who listens on an address that others reach, as in a container."""
    hosts = sorted({host for listener in listeners if not is_loopback(host := listener.getsockname()[0])})
    if not hosts:
        return
    log.warning(
        "clients come from a network without TLS",
        hosts=", ".join(hosts),
        why="whoever is on the way reads tokens and messages; let a proxy with TLS stand before it",
    )
    if not server.origins and not server.dev:
        log.warning(
            "no page may connect",
            setting="server.origins",
            why="it is empty; name your pages, for example https://www.example.com",
        )


def exposures(config: Config, listeners: Iterable[socket.socket]) -> Iterator[str]:
    """What may not be served on the addresses that are listened on, which need not be server.listen."""
    for host in sorted({listener.getsockname()[0] for listener in listeners}):
        for fault in exposure(config, host):
            yield f"a listening socket is bound to {host}: {dotted(fault.path)}: {fault.text}"


def _resolve(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: no DNS name has a label that is empty or this long
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ListenError(f"{host}: no such address here ({why})") from None
    family, _, _, _, address = found[0]
    return family, address


def _only_ipv6(listener: socket.socket) -> None:
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _explain(host: str, port: int, flag: str, error: OSError) -> str:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{where} is in use; see who holds it with `ss -ltnp 'sport = :{port}'`, or take another port with {flag}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no such address"
    if error.errno == errno.EACCES:
        return (
            f"{where}: not allowed to bind a port below 1024; take a higher one, "
            "or give the service CAP_NET_BIND_SERVICE"
        )
    return f"{where}: {os.strerror(error.errno or 0)}"
