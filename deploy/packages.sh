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

# The manifests of deploy/kubernetes are rendered by the real kustomize; kubectl 1.27 and newer have one of version 5.
built=$(dirname "$0")/../build/tools/kustomize
has_kustomize() {
    [ -x "$built" ] || command -v kustomize >/dev/null ||
        kubectl version --client 2>/dev/null | grep -q '^Kustomize Version: v[5-9]'
}

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
            command -v openssl >/dev/null || echo openssl
            # It judges the units of deploy/systemd, and brings the library of their system call filter.
            command -v systemd-analyze >/dev/null || echo systemd
            command -v jq >/dev/null || echo jq
            # The recipes of docs/browser.md run with the real packages.
            command -v node >/dev/null || echo nodejs
            command -v npm >/dev/null || echo npm
            # Samples of docs/publishing.md.
            command -v ruby >/dev/null || echo ruby
            command -v php >/dev/null || echo php-cli
            # The files of deploy/proxy are started as they are.
            PATH=$PATH:/usr/sbin command -v nginx >/dev/null || echo nginx
            PATH=$PATH:/usr/sbin command -v haproxy >/dev/null || echo haproxy
            # promtool for the alerts; the server itself scrapes a broker. (In a container its service is not started.)
            command -v prometheus >/dev/null || echo prometheus
            # Debian 13's kubectl has a kustomize that is new enough; the one of Debian 12 has not.
            if ! has_kustomize && ! command -v go >/dev/null && grep -qs '^VERSION_ID="1[3-9]"' /etc/os-release; then
                echo kubernetes-client
            fi ;;
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

if [ "$purpose" = test ] && ! has_kustomize; then
    if ! command -v go >/dev/null; then
        echo "missing: kubectl 1.27 or newer, or kustomize 5: https://kubernetes.io/docs/tasks/tools/ (or Go, to build it)" >&2
        exit 1
    fi
    echo "building kustomize with Go, once: a minute"
    GOBIN=$(realpath -m "$built/..") go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
fi

"$python" - <<'PYTHON_CODE'
import sys
if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"ws-broker needs Python 3.11 or newer, this is {found}; name another one: make PYTHON=python3.11 ...")
PYTHON_CODE
