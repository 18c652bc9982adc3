"""What stops the start: one clear line or a complete list, and a status that a script can tell apart."""

import shutil
import socket
import sys
from pathlib import Path

import pytest

from broker import __version__
from tests.integration.harness import request
from tests.process.command import COMMAND, ROOT, read_head, run, serving

CANNOT_RUN, USAGE = 1, 2


@pytest.mark.parametrize(
    "options",
    [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)],
    ids=["plain", "SO_REUSEADDR", "SO_REUSEPORT"],
)
def test_a_port_in_use_is_one_line_that_says_how_to_find_who_has_it(options: tuple[int, ...]) -> None:
    with socket.socket() as other:
        for option in options:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run("serve", "--dev", "--listen", f"127.0.0.1:{port}")
    assert (result.status, result.output) == (CANNOT_RUN, "")
    assert result.one_line.startswith(f"127.0.0.1:{port} is in use; see who holds it with `ss -ltnp 'sport = :{port}'`")


def test_a_second_broker_on_the_port_does_not_start_and_the_first_goes_on() -> None:
    with serving() as first:
        result = run("serve", "--dev", "--listen", f"127.0.0.1:{first.port}")
        assert result.status == CANNOT_RUN
        assert "is in use" in result.one_line
        first.open().close()
        assert first.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "helpful"),
    [
        (["--frob"], "No such option '--frob'"),
        (["--lisen", "127.0.0.1:1"], "Did you mean one of: '--admin-listen', '--api-listen', '--listen'?"),
        (["--workers", "two"], "'two' is neither a number nor auto"),
        (["--workers", "-1"], "'-1' is neither a number nor auto"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_a_wrong_flag_is_named_with_the_way_to_the_help(arguments: list[str], helpful: str) -> None:
    result = run("serve", "--dev", *arguments)
    assert (result.status, result.output) == (USAGE, "")
    assert helpful in result.errors
    assert "Usage: ws-broker serve" in result.errors
    assert "ws-broker serve --help" in result.errors
    assert "Traceback" not in result.errors


def test_an_unknown_command_is_named() -> None:
    result = run("publsh")
    assert result.status == USAGE
    assert "No such command 'publsh'" in result.errors


@pytest.mark.parametrize("workers", ["0", "257"])
def test_a_number_of_workers_that_cannot_be_is_refused_with_its_bounds(workers: str) -> None:
    result = run("serve", "--dev", "--workers", workers)
    assert (result.status, result.output) == (USAGE, "")
    assert result.one_line.startswith("server.workers: ")


def test_without_dev_nothing_is_opened_and_the_reason_said() -> None:
    result = run("serve")
    assert (result.status, result.output) == (USAGE, "")
    assert "--dev" in result.one_line


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:8000", "broker.test:8000"])
def test_dev_is_not_opened_to_the_network_by_accident(listen: str) -> None:
    result = run("serve", "--dev", "--listen", listen)
    assert (result.status, result.output) == (USAGE, "")
    assert result.one_line.startswith("server.listen: ")
    assert "only a loopback address is taken" in result.one_line
    assert "server.dev_on_any_address = true" in result.one_line


@pytest.mark.parametrize(
    ("listen", "helpful"),
    [
        ("8000", "'8000' is not HOST:PORT (for example 127.0.0.1:8000"),
        (":8000", "for every address write 0.0.0.0:8000"),
        ("127.0.0.1:99999", "is not HOST:PORT"),
        ("::1:8000", "write an IPv6 address in brackets"),
        ("127.0.0.1:http", "is not HOST:PORT"),
    ],
)
def test_a_wrong_address_is_answered_with_a_right_one(listen: str, helpful: str) -> None:
    result = run("serve", "--dev", "--listen", listen)
    assert result.status == USAGE
    assert result.one_line.startswith("server.listen: ")
    assert helpful in result.one_line


def test_everything_wrong_with_a_configuration_is_said_at_once_by_dotted_path(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(
        """
        [server]
        listen = "nowhere"
        origins = ["localhost:3000"]
        [limits]
        max_mesage_bytes = 1
        ping_seconds = "soon"
        max_channels_per_connection = 0
        [channels."a.>.b"]
        queue = "drop"
        [chanels]
        """
    )
    result = run("serve", "--dev", "--config", str(file))
    assert (result.status, result.output) == (USAGE, "")
    lines = result.errors.splitlines()
    assert all(line.startswith("ws-broker: ") for line in lines)
    said = [line.removeprefix("ws-broker: ").split(": ")[0] for line in lines]
    assert sorted(said) == sorted(
        [
            "server.listen",
            "server.origins[0]",
            "limits.max_mesage_bytes",
            "limits.ping_seconds",
            "limits.max_channels_per_connection",
            'channels."a.>.b"',
            'channels."a.>.b".queue',
            "chanels",
        ]
    )
    assert "did you mean limits.max_message_bytes?" in result.errors
    assert "must be one of auto, disconnect, drop_oldest, drop_newest, latest, catch_up" in result.errors


def test_a_configuration_that_is_not_there_is_named() -> None:
    result = run("serve", "--dev", "--config", "/nowhere/broker.toml")
    assert result.status == USAGE
    assert result.one_line == "/nowhere/broker.toml: No such file or directory"


def test_a_flag_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('[server]\nlisten = "127.0.0.1:1"\n[limits]\nmax_channels_per_connection = 1\n')
    with serving("--config", str(file)) as broker:
        assert broker.port != 1
        with broker.connect() as client:
            client.sendall(request(offer="one, two"))
            assert b" 400 " in read_head(client)
        assert broker.stop() == 0


@pytest.fixture(scope="module")
def without_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which nothing was compiled."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "broker", folder / "broker", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def test_a_core_that_is_not_built_is_one_line_with_the_way_out(without_core: Path) -> None:
    result = run("serve", "--dev", "--listen", "127.0.0.1:0", cwd=without_core, PYTHONPATH=str(without_core))
    assert (result.status, result.output) == (CANNOT_RUN, "")
    assert "the native core is not built" in result.one_line
    assert "make build" in result.one_line


def test_the_help_is_there_before_the_core_is_built(without_core: Path) -> None:
    for arguments in (["--help"], ["serve", "--help"]):
        result = run(*arguments, cwd=without_core, PYTHONPATH=str(without_core))
        assert (result.status, result.errors) == (0, "")


@pytest.mark.parametrize("system", ["darwin", "win32", "freebsd14"])
def test_another_system_is_one_line_that_names_it(system: str) -> None:
    program = (
        f"import click, sys; sys.platform = {system!r}; from broker.cli.main import main; main(prog_name='ws-broker')"
    )
    result = run("serve", "--dev", command=[sys.executable, "-c", program])
    assert (result.status, result.output) == (CANNOT_RUN, "")
    assert "runs on Linux only" in result.one_line
    assert system in result.one_line


def test_the_help_teaches_by_example() -> None:
    result = run("--help")
    assert (result.status, result.errors) == (0, "")
    assert "ws-broker serve --dev" in result.output
    assert "two tabs" in result.output
    served = run("serve", "--help")
    assert "Examples:" in served.output
    for flag in ("--dev", "--listen", "--workers", "--origin", "--config", "--verbose"):
        assert flag in served.output


def test_without_a_command_it_says_what_there_is() -> None:
    result = run()
    assert result.status in (0, USAGE)
    assert "serve" in result.output + result.errors


def test_the_version_names_the_build_of_the_core() -> None:
    result = run("--version")
    assert (result.status, result.errors) == (0, "")
    assert result.output.startswith(f"ws-broker {__version__}")


def test_the_installed_command_is_the_same_one() -> None:
    script = Path(sys.executable).with_name("ws-broker")
    assert run("--version", command=[str(script)]).output == run("--version", command=COMMAND).output


def test_a_broker_whose_tables_strangers_can_make_slow_does_not_start() -> None:
    result = run("serve", "--dev", "--listen", "127.0.0.1:0", PYTHONHASHSEED="0")
    assert result.status == CANNOT_RUN
    assert result.one_line.startswith("PYTHONHASHSEED=0 lets any client")
