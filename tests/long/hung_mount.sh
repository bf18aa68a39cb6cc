#!/bin/bash
# tests/long/hung_mount.sh BUILD - a dataset on a mount that stops answering (HUNG_ROUNDS times, 3): the daemon answers
# everybody else (healthz p99 < 20 ms), goes on with other datasets, stops on SIGTERM, starts again, and is well when the
# mount answers again.  Needs root and /dev/fuse.
set -u
build=$(realpath "${1:-build/release}") here=$(dirname "$(realpath "$0")") rounds=${HUNG_ROUNDS:-3}
skip() { echo "SKIPPED hung_mount: $1"; echo "hung_mount: 0 passed, 0 failed, 1 skipped"; exit 0; }
[ "$(id -u)" = 0 ] || skip "it needs root to mount"
[ -c /dev/fuse ] || skip "there is no /dev/fuse"
command -v curl >/dev/null && command -v cc >/dev/null || skip "curl or cc is not installed"
work=$(mktemp -d "${TMPDIR:-/var/tmp}/hung.XXXXXX") passed=0 failed=0 pid= fuse=
cleanup() {
    rm -f "$work/hang"
    [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null
    umount -l "$work/mnt" 2>/dev/null
    [ -z "$fuse" ] || kill "$fuse" 2>/dev/null
    wait 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
cc -O1 -D_GNU_SOURCE -o "$work/hung_fuse" "$here/hung_fuse.c" || skip "hung_fuse.c does not compile here"
mkdir "$work/mnt" "$work/plain"
picture=$(find "$here/../../examples" -name '*.png' | head -1)
cp "$picture" "$work/plain/a.png"
"$work/hung_fuse" "$work/mnt" "$picture" "$work/hang" &
fuse=$!
for _ in $(seq 50); do
    mountpoint -q "$work/mnt" && break
    kill -0 $fuse 2>/dev/null || skip "a FUSE file system cannot be mounted here"
    sleep 0.1
done
ok() { # WHAT CONDITION...
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "failed: $what"; fi
}
api() { curl -s -m 20 --unix-socket "$work/state/socket" "$@"; }
start() {
    "$build/diffscalerd" --state "$work/state" --workers 0 --settle 0.3 2>>"$work/log" &
    pid=$!
    for _ in $(seq 100); do
        [ "$(api http://d/readyz)" = ok ] && return 0
        sleep 0.1
    done
    return 1
}
reach() { api "http://d/v1/datasets/$1" | grep -o '"reach":{[^}]*}' | grep -o '"state":"[a-z]*"' | cut -d'"' -f4; }
wait_reach() { # NAME WANT
    for _ in $(seq 150); do
        [ "$(reach "$1")" = "$2" ] && return 0
        sleep 0.2
    done
    return 1
}
p99() { # of healthz, in ms, while 200 are asked
    for _ in $(seq 200); do printf 'url = "http://d/healthz"\noutput = /dev/null\n'; done >"$work/urls"
    curl -s -m 60 --unix-socket "$work/state/socket" -w '%{time_total}\n' -K "$work/urls" | awk '{print $1 * 1000}' | sort -n | sed -n 198p
}
below() { awk -v a="${1:-1e9}" -v b="$2" 'BEGIN {exit !(a + 0 < b)}'; }
gone() { # the process has really ended
    for _ in $(seq 350); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    return 1
}

ok "start" start
api http://d/v1/datasets -d "{\"path\":\"$work/mnt\",\"name\":\"hung\"}" >/dev/null
api http://d/v1/datasets -d "{\"path\":\"$work/plain\",\"name\":\"plain\"}" >/dev/null
for round in $(seq "$rounds"); do
    sleep 2
    touch "$work/hang"
    api -X POST http://d/v1/datasets/hung/rescan >/dev/null
    ok "round $round: the dataset is marked" wait_reach hung unreachable
    t=$(p99)
    echo "round $round: healthz p99 $t ms while the mount hangs"
    ok "round $round: healthz p99 $t ms" below "$t" 20
    before=$(api http://d/v1/datasets/plain | grep -o '"done":[0-9]*')
    api -X POST http://d/v1/datasets/plain/rescan >/dev/null
    scanned() { for _ in $(seq 100); do [ "$(api http://d/v1/datasets/plain | grep -o '"done":[0-9]*')" != "$before" ] && return 0; sleep 0.2; done; return 1; }
    ok "round $round: another dataset is scanned" scanned
    kill -TERM "$pid"
    ok "round $round: SIGTERM ends it" gone
    pid=
    ok "round $round: it starts while the mount hangs" start
    ok "round $round: marked again" wait_reach hung unreachable
    rm "$work/hang"
    ok "round $round: well when the mount answers" wait_reach hung ""
done
# A worker that hangs in a read: it cannot be killed, and the daemon does without it.
api -X DELETE http://d/v1/datasets/hung >/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo read >"$work/hang"
api http://d/v1/datasets -d "{\"path\":\"$work/mnt\",\"name\":\"again\"}" >/dev/null
running() { for _ in $(seq 100); do api 'http://d/v1/jobs?kind=scan&dataset=again' | grep -q '"state":"running"' && return 0; sleep 0.1; done; return 1; }
ok "its scan runs, and hangs" running
sleep 1
kill -TERM "$pid"
ok "SIGTERM ends the daemon, not the worker" gone
pid=
ok "it starts beside the worker that hangs" start
t=$(p99)
ok "healthz p99 $t ms" below "$t" 20
rm "$work/hang"
scanned_again() { for _ in $(seq 150); do api http://d/v1/datasets/again | grep -q '1 usable image' && return 0; sleep 0.2; done; return 1; }
ok "the scan is made when the worker is gone" scanned_again
kill -TERM "$pid"
ok "the end" gone
pid=
[ "$failed" = 0 ] || tail -20 "$work/log"
echo "hung_mount: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
