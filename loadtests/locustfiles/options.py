"""Flags of the scenarios beside locust's own. The master's values count; locust hands them to all workers."""

from argparse import Namespace

from locust import User, events
from locust.argument_parser import LocustArgumentParser


def _add(parser: LocustArgumentParser) -> None:
    ours = parser.add_argument_group("ws-broker")
    ours.add_argument("--api-url", default="http://127.0.0.1:8001", help="where back ends publish")
    ours.add_argument("--channels", type=int, default=100, help="channels that all users share")
    ours.add_argument("--rate", type=float, default=1.0, help="messages a second that a back end publishes in each")
    ours.add_argument("--think", type=float, default=10.0, help="chat: seconds between two messages of a client")
    ours.add_argument("--hold", type=float, default=60.0, help="seconds with all users there")
    ours.add_argument("--steps", type=int, default=1, help="steps in which users come")
    ours.add_argument("--cuts", type=int, default=3, help="storm: how often everybody is cut")
    ours.add_argument("--slow-share", type=float, default=0.1, help="slow: the share of users that stop reading")
    ours.add_argument("--lag-ms", type=float, default=100.0, help="generator lag (p99) beyond which a run warns")


def options_of(user: User) -> Namespace:
    options: Namespace | None = user.environment.parsed_options
    assert options is not None, "locust was started by its command"
    return options


def numbered(kind: str, count: int) -> list[str]:
    """Channels of one pattern of broker.toml."""
    return [f"{kind}.{number}" for number in range(count)]


events.init_command_line_parser.add_listener(_add)
