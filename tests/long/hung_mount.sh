#!/bin/bash
# tests/long/hung_mount.sh BUILD - a dataset on a mount that stops answering (HUNG_ROUNDS times, 3): the daemon answers
# everybody else (healthz p99 < 20 ms), goes on with other datasets, stops on SIGTERM, starts again, and is well when the
# mount answers again.  Needs root and /dev/fuse.
. "$(dirname "$0")/common.sh"
here=$(dirname "$(realpath "$0")") rounds=${HUNG_ROUNDS:-3} fuse=
[ "$(id -u)" = 0 ] || skip "it needs root to mount"
[ -c /dev/fuse ] || skip "there is no /dev/fuse"
command -v curl >/dev/null && command -v cc >/dev/null || skip "curl or cc is not installed"
unmount() {
    rm -f "$T/hang"
    umount -l "$T/mnt" 2>/dev/null
    [ -z "$fuse" ] || kill "$fuse" 2>/dev/null
    cleanup
}
trap unmount EXIT
cc -O1 -D_GNU_SOURCE -o "$T/hung_fuse" "$here/hung_fuse.c" || skip "hung_fuse.c does not compile here"
mkdir "$T/mnt" "$T/plain"
picture=$(find "$ROOT/examples" -name '*.png' | head -1)
cp "$picture" "$T/plain/a.png"
"$T/hung_fuse" "$T/mnt" "$picture" "$T/hang" &
fuse=$!
for _ in $(seq 50); do
    mountpoint -q "$T/mnt" && break
    kill -0 $fuse 2>/dev/null || skip "a FUSE file system cannot be mounted here"
    sleep 0.1
done
reach() { api "http://d/v1/datasets/$1" | grep -o '"reach":{[^}]*}' | grep -o '"state":"[a-z]*"' | cut -d'"' -f4; }
reached() { [ "$(reach "$1")" = "$2" ]; }

expect "start" start_scanner
api http://d/v1/datasets -d "{\"path\":\"$T/mnt\",\"name\":\"hung\"}" >/dev/null
api http://d/v1/datasets -d "{\"path\":\"$T/plain\",\"name\":\"plain\"}" >/dev/null
for round in $(seq "$rounds"); do
    sleep 2
    touch "$T/hang"
    api -X POST http://d/v1/datasets/hung/rescan >/dev/null
    expect "round $round: the dataset is marked" wait_for 30 reached hung unreachable
    t=$(p99 /healthz 200)
    echo "round $round: healthz p99 $t ms while the mount hangs"
    expect "round $round: healthz p99 $t ms" below "$t" 20
    before=$(api http://d/v1/datasets/plain | grep -o '"done":[0-9]*')
    api -X POST http://d/v1/datasets/plain/rescan >/dev/null
    scanned() { [ "$(api http://d/v1/datasets/plain | grep -o '"done":[0-9]*')" != "$before" ]; }
    expect "round $round: another dataset is scanned" wait_for 20 scanned
    kill -TERM "$DPID"
    expect "round $round: SIGTERM ends it" wait_for 35 gone
    DPID=
    expect "round $round: it starts while the mount hangs" start_scanner
    expect "round $round: marked again" wait_for 30 reached hung unreachable
    rm "$T/hang"
    expect "round $round: well when the mount answers" wait_for 30 reached hung ""
done
# A worker that hangs in a read: it cannot be killed, and the daemon does without it.
api -X DELETE http://d/v1/datasets/hung >/dev/null
echo 3 >/proc/sys/vm/drop_caches
echo read >"$T/hang"
api http://d/v1/datasets -d "{\"path\":\"$T/mnt\",\"name\":\"again\"}" >/dev/null
running() { api 'http://d/v1/jobs?kind=scan&dataset=again' | grep -q '"state":"running"'; }
expect "its scan runs, and hangs" wait_for 10 running
sleep 1
kill -TERM "$DPID"
expect "SIGTERM ends the daemon, not the worker" wait_for 35 gone
DPID=
expect "it starts beside the worker that hangs" start_scanner
t=$(p99 /healthz 200)
expect "healthz p99 $t ms" below "$t" 20
rm "$T/hang"
scanned_again() { api http://d/v1/datasets/again | grep -q '1 usable image'; }
expect "the scan is made when the worker is gone" wait_for 30 scanned_again
kill -TERM "$DPID"
expect "the end" wait_for 35 gone
DPID=
[ "$FAILED" = 0 ] || tail -20 "$T/log"
finish
