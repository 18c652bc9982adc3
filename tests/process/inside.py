"""Faults that only the process itself can have: code that every Python reads when it starts, and runs at a signal.

It is put on the path as `sitecustomize`. It hides the module of that name which chooses the native build, and so runs
it. Nothing of this is in the product.
"""

import os
from pathlib import Path

_START = """
import os, signal, socket, sys, time

{code}

signal.signal(signal.SIGUSR1, act)
for folder in sys.path:
    hidden = os.path.join(folder, "sitecustomize.py")
    if os.path.isfile(hidden) and not os.path.samefile(hidden, __file__):
        with open(hidden) as file:
            exec(compile(file.read(), hidden, "exec"), {{"__name__": "sitecustomize", "__file__": hidden}})
        break
"""

# Its event loop hangs, as in a callback that never returns, and a file tells that it does. Whether a process is stopped
# the kernel knows; of this one only its heartbeat tells.
HANG = """
def act(*_):
    open(os.path.join(os.path.dirname(__file__), "hangs"), "x").close()
    while True:
        time.sleep(3600)
"""

# Its link to the engine is cut, and both ends live on.
CUT_LINK = """
def act(*_):
    for fd in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(fd))) as link:
                if str(link.getpeername()).startswith("b'\\\\x00ws-broker-"):
                    link.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
"""


def at_sigusr1(folder: Path, code: str) -> dict[str, str]:
    """The environment of a broker whose processes do this when they get SIGUSR1."""
    (folder / "sitecustomize.py").write_text(_START.format(code=code))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}
