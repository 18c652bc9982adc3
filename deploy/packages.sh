#!/bin/sh
# Are the system packages here that a source checkout needs? The Makefile calls this before it builds.
#
#   deploy/packages.sh build     what building and running needs; names what is missing and fails
#   deploy/packages.sh test      that and what the tests need; as root it installs what is missing
#   deploy/packages.sh fuzz      the same with a compiler that the fuzzer understands
#
# PYTHON names the interpreter (python3), CHROMIUM the browser of the tests (chromium). When all is there it prints nothing.
set -eu
purpose=${1:?build, test or fuzz}
python=${PYTHON:-python3}

if [ "$(uname -s)" != Linux ]; then
    echo "ws-broker runs on Linux only (it needs epoll and SO_REUSEPORT); this is $(uname -s)" >&2
    exit 1
fi

# One package a line that is missing, in the names of Debian and Ubuntu.
missing() {
    if command -v "$python" >/dev/null; then
        # The header and ensurepip are packages of their own in Debian; a self-built Python has both.
        "$python" - <<'PYTHON_CODE'
import importlib.util, os, sysconfig
if not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("python3-dev")
if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    print("python3-venv")
PYTHON_CODE
    else
        printf '%s\n' python3 python3-dev python3-venv
    fi
    # The preprocessor alone shows both a compiler and the C library's headers.
    echo '#include <stdio.h>' | ${CC:-cc} -E - >/dev/null 2>&1 || printf '%s\n' gcc libc6-dev
    case $purpose in
        test)
            command -v "${CHROMIUM:-chromium}" >/dev/null || echo chromium
            # What the command line's help and documentation show goes through pipes of both.
            command -v curl >/dev/null || echo curl
            command -v jq >/dev/null || echo jq
            # The recipes of docs/browser.md run with the real packages.
            command -v node >/dev/null || echo nodejs
            command -v npm >/dev/null || echo npm
            # Samples of docs/publishing.md.
            command -v ruby >/dev/null || echo ruby
            command -v php >/dev/null || echo php-cli ;;
        fuzz) command -v clang >/dev/null || echo clang ;;
    esac
}

needed=$(missing | tr '\n' ' ')
needed=${needed% }
# On Ubuntu the browser has another name.
if grep -qs '^ID=ubuntu' /etc/os-release; then
    needed=$(echo "$needed" | sed 's/chromium/chromium-browser/')
fi
if [ -n "$needed" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "missing: $needed; install with: sudo apt-get update && sudo apt-get install $needed" >&2
        exit 1
    fi
    if [ "$purpose" = build ]; then
        echo "missing: $needed; install with: apt-get update && apt-get install $needed" >&2
        exit 1
    fi
    echo "installing: $needed"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of words on purpose
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $needed >/dev/null
    needed=$(missing | tr '\n' ' ')
    if [ -n "$needed" ]; then
        echo "still missing after the installation: $needed" >&2
        exit 1
    fi
fi

"$python" - <<'PYTHON_CODE'
import sys
if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"ws-broker needs Python 3.11 or newer, this is {found}; name another one: make PYTHON=python3.11 ...")
PYTHON_CODE
