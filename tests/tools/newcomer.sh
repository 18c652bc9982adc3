#!/bin/sh
# A newcomer's path on a machine that has nothing: a fresh Debian (debootstrap), the packages that README.md names, its two
# commands as they stand there, the page's three lines, a publish, the first metric. `make newcomer`; as root, about four
# minutes, most of it Debian. CI does the same from the wheel, in a clean virtual environment (test_packages.py).
#
#   SUITE (bookworm), MIRROR (http://deb.debian.org/debian); BASE=FOLDER copies what debootstrap made before; KEEP=1 leaves
#   the folder.
set -eu
cd "$(dirname "$0")/../.."
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
[ "$(id -u)" = 0 ] || { echo "newcomer.sh: needs root, for debootstrap and chroot" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "newcomer.sh: missing: debootstrap; install with: apt-get install debootstrap" >&2; exit 1; }

began=$(date +%s)
step() { echo "[$(($(date +%s) - began)) s] $*"; }

root=$(mktemp -d /tmp/newcomer.XXXXXX)
chmod 755 "$root" # apt fetches as a user of its own
# Every process whose root it is: make, its shell, the broker.
of_newcomer() {
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/root" 2>/dev/null)" = "$root" ] && echo "${process#/proc/}" || true
    done
}
end() {
    for process in $(of_newcomer); do kill -TERM "$process" 2>/dev/null || true; done
    while [ -n "$(of_newcomer)" ]; do sleep 0.2; done
    for mounted in proc dev; do umount "$root/$mounted" 2>/dev/null || true; done
    [ "${KEEP:-}" = 1 ] && echo "kept: $root" || rm -rf --one-file-system "$root"
}
trap end EXIT
trap 'exit 130' INT TERM

step "a fresh Debian $suite"
if [ -n "${BASE:-}" ]; then
    cp -a "$BASE/." "$root"
else
    debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" 2>&1 || { tail -5 "$root.log"; exit 1; }
    rm -f "$root.log"
fi
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
# What is committed, as anybody else would get it.
git clone --quiet --bare . "$root/repository"
cp /etc/resolv.conf "$root/etc/" 2>/dev/null || true
# Whom pip trusts: as this machine, which may stand behind a site's own authority.
cp "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$root/root/authorities.crt"
inside() {
    chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        PIP_CERT=/root/authorities.crt DEBIAN_FRONTEND=noninteractive sh -euc "cd /root; $1"
}

# What the page says, word for word: if it changes, this walks the new way.
packages=$(sed -n 's/^sudo apt-get install //p' README.md | head -1)
commands=$(awk '/^## Try it/ {there = 1} there && /^```$/ {exit} there && inside {print} there && /^```sh/ {inside = 1}' README.md |
    grep -v '^sudo ')
[ -n "$packages" ] && [ -n "$commands" ] || { echo "newcomer.sh: README.md names no packages or no commands" >&2; exit 1; }

step "the packages of README.md: $packages"
# curl stands for the browser, and runs the line that the broker prints.
inside "apt-get update -qq && apt-get -o Dpkg::Use-Pty=0 install -qq -y --no-install-recommends $packages curl >/dev/null"

step "its two commands:"
echo "$commands" | sed 's/^/    /'
inside "URL=file:///repository; $commands" >"$root/root/said" 2>&1 &
server=$!
until grep -q '^metrics: ' "$root/root/said"; do
    kill -0 "$server" 2>/dev/null || { cat "$root/root/said"; echo "newcomer.sh: make run ended" >&2; exit 1; }
    sleep 0.2
done
sed 's/^/    /' "$root/root/said"

step "the page's three lines, a publish by the line that was printed, a metric"
page=$(sed -n 's|.*open \(http://[^ ]*\).*|\1|p' "$root/root/said" | head -1)
curl=$(sed -n 's/^.*\(curl .*\)$/\1/p' "$root/root/said" | head -1)
metrics=$(sed -n 's/^metrics: //p' "$root/root/said")
inside "curl -fsS $page | grep -q '<title>'"
cat >"$root/root/page.py" <<PYTHON
import subprocess, sys
from websockets.sync.client import connect
with connect("ws" + sys.argv[1].removeprefix("http") + "ws", subprotocols=["news"], proxy=None) as socket:
    socket.send("hello, everyone")
    print("    heard:", socket.recv(10))
    subprocess.run(["sh", "-c", sys.argv[2]], check=True, stdout=subprocess.DEVNULL)
    print("    heard:", socket.recv(10))
PYTHON
inside "ws-broker/.venv/bin/python page.py '$page' '$(echo "$curl" | sed "s/'/'\\\\''/g")'"
inside "curl -fsS $metrics" >"$root/root/metrics"
grep '^wsbroker_messages_total' "$root/root/metrics" | sed 's/^/    /'
step "done"
