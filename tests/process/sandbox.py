"""Becomes a command under the unit's system call filter: what systemd makes of the same lines, by the same library.

``python -m tests.process.sandbox SETTINGS COMMAND...``, SETTINGS being JSON: `allowed` system calls, the address
`families` of new sockets. Memory that is written is never executed (MemoryDenyWriteExecute=). Anything else fails with
EPERM (SystemCallErrorNumber=). libseccomp is called as it is: systemd brings it, and the binding on PyPI is unkept.
"""

import ctypes
import errno
import json
import os
import socket
import sys

ALLOW = 0x7FFF0000
REFUSE = 0x00050000 | errno.EPERM
EQUAL, MASKED_EQUAL = 4, 7
WRITE, EXECUTE = 2, 4
SHM_EXEC = 0o100000
NO_NEW_PRIVILEGES = 38  # prctl(2)


class Comparison(ctypes.Structure):
    """`struct scmp_arg_cmp`. Masked: `a` is the mask and `b` the value."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def narrowed(families: list[str]) -> dict[str, list[Comparison]]:
    """Calls that are allowed with some arguments only: with one of these."""
    not_both = [Comparison(2, MASKED_EQUAL, WRITE | EXECUTE, allowed) for allowed in (0, WRITE, EXECUTE)]
    not_executable = [Comparison(2, MASKED_EQUAL, EXECUTE, 0)]
    return {
        "socket": [Comparison(0, EQUAL, getattr(socket, family), 0) for family in families],
        "mmap": not_both,
        "mprotect": not_executable,
        "pkey_mprotect": not_executable,
        "shmat": [Comparison(2, MASKED_EQUAL, SHM_EXEC, 0)],
    }


def confine(allowed: list[str], families: list[str]) -> None:
    """From here on, this process and what it starts. Raises OSError."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(REFUSE))

    def allow(number: int, *comparisons: Comparison) -> None:
        array = (Comparison * len(comparisons))(*comparisons)
        if status := library.seccomp_rule_add_array(context, ALLOW, number, len(comparisons), array):
            raise OSError(-status, os.strerror(-status))

    for name in allowed:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not on this architecture
            continue
        if name in (some := narrowed(families)):
            for comparison in some[name]:
                allow(number, comparison)
        else:
            allow(number)
    if ctypes.CDLL(None).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    if status := library.seccomp_load(context):
        raise OSError(-status, os.strerror(-status))


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    confine(settings["allowed"], settings["families"])
    os.execvp(sys.argv[2], sys.argv[2:])
