#!/bin/bash
# tests/long/power_cuts.sh BUILD - POWER_CUTS (100) power cuts while adapters are published and gc runs.
#
# The state folder is on an ext4 image.  At a random moment every process stops and the image is copied
# as it is: what was not synced is not in it, as when the power goes.  The copy is mounted (its journal
# is replayed), and everything that a client had been told before is looked for, and all of it checked.
set -u
build=$(cd "${1:-build/release}" && pwd) || exit 1
cuts=${POWER_CUTS:-100}
skip() {
    echo "SKIPPED power_cuts: $1"
    echo "power_cuts: 0 passed, 0 failed, 1 skipped"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "mounting an image needs root"
command -v mkfs.ext4 >/dev/null && command -v sqlite3 >/dev/null || skip "mkfs.ext4 or sqlite3 is missing"
room=/dev/shm
[ "$(df -Pk $room 2>/dev/null | awk 'NR == 2 {print $4}')" -gt 262144 ] 2>/dev/null || room=${TMPDIR:-/tmp}
work=$(mktemp -d "$room/power_cuts.XXXXXX")
mkdir "$work/live" "$work/cut"
workload=
finish() {
    [ -z "$workload" ] || { resume; kill -9 $(family) 2>/dev/null; wait "$workload" 2>/dev/null; }
    umount "$work/cut" 2>/dev/null
    for i in 1 2 3 4 5 6 7 8 9; do
        mountpoint -q "$work/live" || break
        umount "$work/live" 2>/dev/null || sleep 0.3 # who was killed may need a moment
    done
    rm -rf "$work"
}
trap finish EXIT

# The workload and everything that it started, by their parents.
family() {
    local all=$workload new=$workload
    while [ -n "$new" ]; do
        new=$(for p in $new; do ps -o pid= --ppid "$p"; done | tr -s ' \n' ' ')
        new=${new# }
        all="$all $new"
    done
    echo $all
}
stop() { for p in $(family); do kill -STOP "$p" 2>/dev/null; done; }
resume() { for p in $(family); do kill -CONT "$p" 2>/dev/null; done; }

start() {
    truncate -s 96M "$work/disk" && mkfs.ext4 -q -F "$work/disk" || return 1
    mount -o loop,noatime,commit=60 "$work/disk" "$work/live" 2>"$work/why" || return 1
    : >"$work/told"
    TMPDIR=$work/live POWER_CUTS_LOG=$work/told GC_LOAD=200 DS_BUILD=$build \
        "$build/tests/test_daemon_store" >"$work/workload.log" 2>&1 &
    workload=$!
}

# One cut: 0 = all that was told is there and nothing is damaged.
cut() {
    local state lost=0 told
    told=$(wc -l <"$work/told")
    stop
    sleep 0.03 # what the kernel was doing for them
    cp "$work/disk" "$work/copy"
    mount -o loop "$work/copy" "$work/cut" || { resume; return 1; }
    state=$(ls -d "$work"/cut/ds-daemon_store-*/store*/state 2>/dev/null | head -1)
    if [ -n "$state" ] && [ -f "$state/registry.db" ]; then
        sqlite3 "$state/registry.db" "SELECT 'dataset ' || name FROM datasets UNION ALL SELECT 'adapter ' || name FROM adapters_v1" \
            >"$work/there" 2>"$work/why" || { cat "$work/why"; lost=1; }
        head -n "$told" "$work/told" | while read -r line; do
            grep -qx "$line" "$work/there" || { echo "lost: $line"; exit 1; }
        done || lost=1
        "$build/diffscalerd" --state "$state" --fsck full >"$work/fsck" 2>&1
        case $? in
        0) ;;
        *) grep -qE '"blobs":0|has no registry|has no tables' "$work/fsck" && [ "$told" = 0 ] || { cat "$work/fsck"; lost=1; } ;;
        esac
    elif [ "$told" != 0 ]; then
        echo "lost: the whole registry, $told things were told"
        lost=1
    fi
    umount "$work/cut"
    resume # not before: fsck reads the models of the live folder, which the workload removes at its end
    [ "$told" -le "$most" ] || most=$told
    return $lost
}

passed=0 failed=0 most=0
while [ $((passed + failed)) -lt "$cuts" ]; do
    if [ -z "$workload" ]; then
        start || skip "an image cannot be mounted: $(cat "$work/why" 2>/dev/null)"
    fi
    sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
    if ! kill -0 "$workload" 2>/dev/null || ! ps -o stat= -p "$workload" | grep -qv Z; then
        wait "$workload"
        workload=
        umount "$work/live" || sleep 1
        continue
    fi
    if cut; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "power_cuts: up to $most acknowledged things were looked for after a cut"
echo "power_cuts: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
