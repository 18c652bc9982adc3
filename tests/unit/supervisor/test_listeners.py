"""Opening the listening sockets: who else may hold the port, and what the operator is told when it cannot be had."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from broker.config.load import load
from broker.config.schema import Config
from broker.supervisor import listeners
from broker.supervisor.listeners import ListenError, listeners_for, open_listeners
from tests.log_lines import lines

LOOPBACKS = ["127.0.0.1", "::1"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opened."""
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, host: str = "127.0.0.1", port: int = 0, count: int = 1) -> list[socket.socket]:
    sockets = open_listeners(host, port, 16, count)
    for one in sockets:
        stack.enter_context(one)
    return sockets


def port_of(listener: socket.socket) -> int:
    port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def other(stack: ExitStack, host: str = "127.0.0.1", *options: int, port: int = 0) -> socket.socket:
    """Somebody else's listener."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    for option in options:
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind((host, port))
    listener.listen(1)
    return listener


@pytest.mark.parametrize("host", LOOPBACKS)
def test_port_0_is_one_that_the_system_chooses_and_accepts(stack: ExitStack, host: str) -> None:
    (listener,) = opened(stack, host)
    port = port_of(listener)
    assert port
    assert not listener.getblocking()
    with socket.create_connection((host, port), 5), closing(listener.accept()[0]) as accepted:
        assert accepted.getsockname()[1] == port


def test_several_listeners_share_the_port_that_the_first_was_given(stack: ExitStack) -> None:
    sockets = opened(stack, count=3)
    assert len({port_of(listener) for listener in sockets}) == 1
    assert len({listener.fileno() for listener in sockets}) == 3


def test_several_listeners_share_a_port_that_was_asked_for(stack: ExitStack) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = port_of(free)
    assert [port_of(listener) for listener in opened(stack, port=port, count=2)] == [port, port]


@pytest.mark.parametrize("host", LOOPBACKS)
@pytest.mark.parametrize(
    "options",
    [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)],
    ids=["plain", "SO_REUSEADDR", "SO_REUSEPORT", "both"],
)
def test_a_port_that_somebody_listens_on_is_refused_whatever_options_they_set(
    stack: ExitStack, host: str, options: tuple[int, ...]
) -> None:
    port = port_of(other(stack, host, *options))
    with pytest.raises(ListenError, match="is in use; see who holds it with") as refused:
        open_listeners(host, port, 16)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert str(refused.value).startswith(where)


def test_a_second_broker_does_not_share_the_port_in_silence(stack: ExitStack) -> None:
    port = port_of(opened(stack, count=2)[0])
    with pytest.raises(ListenError, match="is in use"):
        open_listeners("127.0.0.1", port, 16)


def test_somebody_on_every_address_holds_the_port_of_loopback_too(stack: ExitStack) -> None:
    port = port_of(other(stack, "0.0.0.0", socket.SO_REUSEPORT))
    with pytest.raises(ListenError, match="is in use"):
        open_listeners("127.0.0.1", port, 16)


@pytest.mark.parametrize("ended", [False, True], ids=["open", "half-closed"])
def test_connections_of_a_listener_that_is_gone_do_not_hold_the_port(stack: ExitStack, ended: bool) -> None:
    with closing(open_listeners("127.0.0.1", 0, 16)[0]) as listener:
        port = port_of(listener)
        stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        accepted = stack.enter_context(listener.accept()[0])
    if ended:
        accepted.shutdown(socket.SHUT_WR)
    # Nor does TIME_WAIT, which the kernel may leave out when it has too many, so that a test cannot count on it.
    with pytest.raises(OSError, match="in use"):
        other(stack, port=port)
    assert port_of(opened(stack, port=port)[0]) == port


def test_ipv6_leaves_the_same_port_of_ipv4_to_others(stack: ExitStack) -> None:
    port = port_of(opened(stack, "::")[0])
    assert port_of(opened(stack, "127.0.0.1", port)[0]) == port


def test_a_name_is_looked_up(stack: ExitStack) -> None:
    (listener,) = opened(stack, "localhost")
    assert listener.getsockname()[0] in LOOPBACKS


def test_an_unknown_name_is_said_to_be_unknown() -> None:
    with pytest.raises(ListenError, match=r"^nowhere\.invalid: no such address here"):
        open_listeners("nowhere.invalid", 0, 16)


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
def test_a_name_that_cannot_be_one_is_refused_like_an_unknown_one(host: str) -> None:
    with pytest.raises(ListenError, match="no such address here"):
        open_listeners(host, 0, 16)


@pytest.mark.parametrize("port", [0, 9])
def test_an_address_of_another_machine_is_refused(port: int) -> None:
    # TEST-NET-1 (RFC 5737): nobody's. Port 0 fails after a socket was made, which must not stay open: ResourceWarning.
    with pytest.raises(ListenError, match="this machine has no such address"):
        open_listeners("192.0.2.1", port, 16)


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.EACCES, "not allowed to bind a port below 1024"), (errno.ENOBUFS, "No buffer space available")],
)
def test_what_the_system_refuses_is_explained(number: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(number, "refused")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(ListenError, match=text):
        open_listeners("127.0.0.1", 80, 16)


def with_api(listen: str) -> Config:
    key = {"api.keys.shop": {"sha256": "a" * 64}}
    return load(
        None, {"server.dev": True, "server.listen": "127.0.0.1:0", "api.listen": listen, "admin.listen": "", **key}
    )


@pytest.mark.parametrize(
    ("listen", "warned"), [("127.0.0.1:0", []), ("[::1]:0", []), ("0.0.0.0:0", ["0.0.0.0"]), ("[::]:0", ["::"])]
)
def test_an_api_that_a_network_reaches_is_said_to_be_plain_http(
    listen: str, warned: list[str], stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    found = listeners_for(with_api(listen), 1)
    assert found.api is not None
    for one in (*found.clients, found.api):
        stack.enter_context(one)
    said = lines(caplog.text)
    assert {(line["level"], line["event"]) for line in said} <= {("warning", "API is open to a network without TLS")}
    assert [line["host"] for line in said] == warned


def test_without_a_key_the_port_of_the_api_is_not_opened(stack: ExitStack) -> None:
    with socket.socket() as holder:  # nobody could open it, and nobody tries
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        settings = {"server.listen": "127.0.0.1:0", "api.listen": f"127.0.0.1:{port_of(holder)}", "admin.listen": ""}
        config = load(None, settings)
        found = listeners_for(config, 1)
        for one in found.clients:
            stack.enter_context(one)
        assert found.api is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", ["clients come from a network without TLS", "no page may connect"]),
        ('origins = ["https://www.example.com"]', ["clients come from a network without TLS"]),
        ("dev = true\ndev_on_any_address = true", ["clients come from a network without TLS"]),
    ],
)
def test_whoever_listens_for_others_is_told_what_they_can_do(
    settings: str, said: list[str], tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broker.toml").write_text(f'[server]\nlisten = "0.0.0.0:0"\n{settings}\n[admin]\nlisten = ""\n')
    for listener in listeners_for(load(tmp_path / "broker.toml"), 1).clients:
        stack.enter_context(listener)
    assert [(line["level"], line["event"]) for line in lines(caplog.text)] == [("warning", event) for event in said]


def test_whoever_listens_on_this_machine_only_is_not_warned(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    for listener in listeners_for(load(None, {"server.listen": "127.0.0.1:0", "admin.listen": ""}), 1).clients:
        stack.enter_context(listener)
    assert lines(caplog.text) == []


def admin_on(port: int, *, dev: bool = False) -> Config:
    listen = {"server.listen": "127.0.0.1:0", "admin.listen": f"127.0.0.1:{port}"}
    return load(None, {**listen, "server.dev": dev})


def test_an_admin_port_in_use_is_said_by_its_setting_and_nothing_stays_open(stack: ExitStack) -> None:
    port = port_of(other(stack))
    with pytest.raises(ListenError) as caught:  # a socket that stayed open would be a ResourceWarning
        listeners_for(admin_on(port), 2)
    said = str(caught.value)
    assert said.startswith(f"admin.listen: 127.0.0.1:{port} is in use; see who holds it with `ss -ltnp")
    assert said.endswith('or take another port with --admin-listen, or "" for no admin port')


def test_in_development_an_admin_port_that_nobody_asked_for_gives_way(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The default port is this test's here: the real one may be somebody's."""
    port = port_of(other(stack))
    config = admin_on(port, dev=True)
    with pytest.raises(ListenError, match=r"^admin.listen: "):
        listeners_for(config, 1)
    monkeypatch.setattr(listeners, "Admin", lambda: config.admin)
    caplog.set_level("INFO")
    found = listeners_for(config, 1)
    stack.callback(found.close)
    assert found.admin is not None
    assert port_of(found.admin) != port
    assert f"127.0.0.1:{port} is in use" in caplog.text
    assert "admin port takes another port" in caplog.text


def test_without_an_address_there_is_no_admin_port(stack: ExitStack) -> None:
    found = listeners_for(load(None, {"server.listen": "127.0.0.1:0", "admin.listen": ""}), 1)
    stack.callback(found.close)
    assert found.admin is None
