"""A child of the supervisor: `python -m broker.supervisor.child FD`, a worker or the engine.

FD is a memfd with a ChildSpec as JSON: nothing of it, least of all a secret, stands in the arguments, which every user
of the machine can read. The child dies with its supervisor, whatever kills that. What a role needs is imported only for
it: an engine without gateway and API starts in half the time and takes a third less memory, and so does a supervisor.
"""

import ctypes
import importlib
import os
import signal
import sys
from functools import partial

from broker import log
from broker.metrics.page import Page
from broker.native.counting import Count
from broker.supervisor.spec import read_spec

_PR_SET_PDEATHSIG = 1


def die_with(supervisor_pid: int) -> None:
    """Lets the kernel kill this process when the supervisor ends, and ends it if that has happened already.

    SIGKILL, as nobody is left who would look after an orphan that drains or hangs.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor_pid:
        os._exit(1)


def main() -> None:
    spec = read_spec(int(sys.argv[1]))
    die_with(spec.supervisor_pid)
    # A terminal's Ctrl-C is for the supervisor, which tells its children what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.configure(spec.name, spec.config.log)
    page = Page(spec.page_fd, spec.workers)
    row = page.row(spec.slot)
    row.begin(os.getpid())
    log.count_suppressed(partial(Count(row.counters), "n_log_suppressed"))
    importlib.import_module(f"broker.supervisor.as_{spec.role}").run(spec, page)


if __name__ == "__main__":
    main()
