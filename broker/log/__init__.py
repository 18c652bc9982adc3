"""The log: what the broker says while it runs, one line an event on standard error, libraries' lines in the same form.

`get_logger` gives a module its logger: a short event that never changes, and what varies as fields. `configure` is
called once by each process (one that serves alone, a supervisor, each child), `use` by a reload; nothing else touches
the standard library's logging. structlog was chosen over python-json-logger for its console form and its bound loggers;
it writes through the standard library, so that one handler sees every line.

What stands in a line is the caller's duty: words, numbers and names of the broker's own, nothing that a client chose
(docs/logs.md says what is excepted). That secrets are cut out here is a second net, not the first.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, TextIO, cast

import structlog
from structlog.stdlib import BoundLogger

from broker.log.lines import Event, formatter
from broker.log.rate import Limiter

ACCESS = "broker.access"

_SUPPRESSED = "log lines suppressed"
# sd-daemon(3). critical is what ends a process.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class Settings(Protocol):
    """[log] of the configuration, which stands above this module."""

    @property
    def format(self) -> Literal["auto", "console", "json"]: ...
    @property
    def level(self) -> Literal["debug", "info", "warning", "error"]: ...
    @property
    def access(self) -> bool: ...
    @property
    def lines_per_second(self) -> int: ...


# Loggers.


def get_logger(name: str, *, limited: bool = True) -> BoundLogger:
    """The logger of a module. Not `limited`: its lines follow from what an operator or the process's own life does, so
    that no client can make many of them.
    """

    def to_record(_: object, __: str, event: Event) -> tuple[tuple[str], dict[str, Any]]:
        text = event.pop("event")
        exc_info = event.pop("exc_info", None)
        return (text,), {"exc_info": exc_info, "extra": {"fields": dict(event), "limited": limited}}

    # Not by structlog.configure: a logger works the same in a test, or in a program with a configuration of its own.
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, to_record],
        wrapper_class=BoundLogger,
        context_class=dict,
    )
    return cast(BoundLogger, logger.bind())


def _kind(record: logging.LogRecord) -> str | None:
    """By what lines are limited; None: not at all. A library's text may hold what varies, so its place in the code
    stands for it.
    """
    limited = getattr(record, "limited", None)
    if limited is None:
        return f"{record.name}:{record.lineno}"
    return str(record.msg) if limited else None


def _own_record(level: int, event: str, **fields: object) -> logging.LogRecord:
    """A line about the log, past every limit."""
    record = logging.LogRecord(__name__, level, __file__, 0, event, (), None)
    record.fields = fields
    return record


class Handler(logging.Handler):
    """Writes lines to a stream, each in one piece: several processes share it. A stream that is broken costs the
    lines, and nobody his connection; one that is full and blocks holds the process, as it would any other.
    """

    def __init__(self, stream: TextIO, limiter: Limiter, *, prioritized: bool = False) -> None:
        super().__init__()
        self.limiter = limiter
        self.on_suppressed: Callable[[], object] = lambda: None
        self._stream = stream
        self._prioritized = prioritized

    def emit(self, record: logging.LogRecord) -> None:
        kind = _kind(record)
        if kind is not None and not self.limiter.take(kind):
            self.on_suppressed()
            return
        self.tell()
        self._write(record)

    def tell(self, *, at_the_end: bool = False) -> None:
        self.acquire()
        try:
            for of, lines in self.limiter.due(at_the_end=at_the_end):
                self._write(_own_record(logging.WARNING, _SUPPRESSED, of=of, lines=lines))
        finally:
            self.release()

    def _write(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # a field or an exception whose text cannot be made; which one, it would hold as well
            line = self.format(
                _own_record(logging.ERROR, "log line could not be made", of=_kind(record) or record.name)
            )
        if self._prioritized:
            line = f"<{_PRIORITIES.get(record.levelname.lower(), 6)}>{line}"
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            pass


# Processes.


class Log:
    """The log of this process, from `configure` to `close`."""

    def __init__(
        self,
        process: str,
        settings: Settings,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._process = process
        self._stream = sys.stderr if stream is None else stream
        self._environment = environment
        journal = _is_journal(self._stream, environment)
        self.handler = Handler(self._stream, Limiter(settings.lines_per_second, clock), prioritized=journal)
        self.use(settings)
        self._levels = [(name, logging.getLogger(name).level) for name in ("", "broker", ACCESS)]
        self._hooks = sys.excepthook, sys.unraisablehook, threading.excepthook

    def begin(self) -> None:
        root = logging.getLogger()
        root.addHandler(self.handler)
        logging.captureWarnings(True)
        sys.excepthook = _on_uncaught
        sys.unraisablehook = _on_unraisable
        threading.excepthook = _on_thread
        self._set_levels()
        atexit.register(self.close)

    def use(self, settings: Settings) -> None:
        """Other settings, from the next line on."""
        self._settings = settings
        terminal = self._stream.isatty()
        form = settings.format
        if form == "auto":
            form = "console" if terminal else "json"
        colors = terminal and "NO_COLOR" not in self._environment
        self.handler.setFormatter(formatter(form, self._process, colors=colors))
        self.handler.limiter.per_second = settings.lines_per_second

    def _set_levels(self) -> None:
        level = getattr(logging, self._settings.level.upper())
        # Libraries tell headers and bodies at DEBUG, some with what a client sent: nothing below INFO is theirs.
        logging.getLogger().setLevel(max(level, logging.INFO))
        logging.getLogger("broker").setLevel(level)
        # Who has asked for it gets it, whatever the level of the rest.
        logging.getLogger(ACCESS).setLevel(min(level, logging.INFO) if self._settings.access else logging.NOTSET)

    def reload(self, settings: Settings) -> None:
        self.use(settings)
        self._set_levels()

    def close(self) -> None:
        """Says what is left to be said; everything is then as it was before `begin`."""
        atexit.unregister(self.close)
        self.handler.tell(at_the_end=True)
        logging.getLogger().removeHandler(self.handler)
        logging.captureWarnings(False)
        for name, level in self._levels:
            logging.getLogger(name).setLevel(level)
        sys.excepthook, sys.unraisablehook, threading.excepthook = self._hooks


_current: Log | None = None


def configure(
    process: str,
    settings: Settings,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    environment: Mapping[str, str] = os.environ,
) -> Log:
    """Every line of this process goes to `stream` from now on, standard error by default, as `process`."""
    global _current
    if _current is not None:
        _current.close()
    _current = Log(process, settings, stream, clock, environment)
    _current.begin()
    return _current


def use(settings: Settings) -> None:
    """After a reload. Without `configure` there is nothing to change."""
    if _current is not None:
        _current.reload(settings)


def tell_suppressed() -> None:
    """Called now and then by whoever has a timer: a flood that has ended is told even if nothing is said after it."""
    if _current is not None:
        _current.handler.tell()


def count_suppressed(count: Callable[[], object]) -> None:
    """`count` is called for each line that is suppressed from now on."""
    if _current is not None:
        _current.handler.on_suppressed = count


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether lines go to journald itself, which takes a priority off their beginning (systemd.exec(5), JOURNAL_STREAM;
    sd-daemon(3)): then `journalctl -p warning` finds ours. For anybody else the prefix would spoil the JSON.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


_log = get_logger(__name__, limited=False)


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    _log.critical("process ends by an error", exc_info=(kind, error, trace))


def _on_unraisable(found: "sys.UnraisableHookArgs") -> None:
    # Not found.object, whose repr may hold anything.
    _log.error("error that nobody could be told", exc_info=found.exc_value)


def _on_thread(found: threading.ExceptHookArgs) -> None:
    _log.error("thread ended by an error", exc_info=found.exc_value)
