#!/bin/bash
# tests/long/daemon_faults.sh BUILD - one call of the daemon goes wrong while a dataset is added and scanned:
# memory that is not given, EIO, a write that stops half way; DAEMON_FAULTS (60) calls of each kind, spread
# over all that there are.  No signal may end the daemon, what it acknowledged must be there at its next start,
# the registry must be sound, and the scan must come to the result of an undisturbed one.
. "$(dirname "$0")/common.sh"
cd "$ROOT" || exit 1
most=${DAEMON_FAULTS:-60} lib=$B/tests/long/preload_fault.so
command -v sqlite3 >/dev/null || skip "sqlite3 is not installed"
"$B/tests/long/fixture" "$T" 0 || exit 1
rm -f "$T"/ds/*/0[2-9].png
S=$T/state
start() { # KIND N COUNTS
    rm -f "$S/socket"
    LD_PRELOAD=${1:+$lib} FAULT=${1:+$1:$2:$3} FAULT_PROGRAM=diffscalerd \
        "$B/diffscalerd" --state "$S" --settle 0.3 --nice 0 --workers 0 --base "$T/base.safetensors" \
        >"$T/log" 2>&1 &
    DPID=$!
    for _ in $(seq 300); do
        [ -S "$S/socket" ] && ctl "$S" version >/dev/null 2>&1 && return 0
        kill -0 "$DPID" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}
# The exit status of the daemon; 1000 when it has to be killed.
stop() {
    kill -TERM "$DPID" 2>/dev/null
    for _ in $(seq 600); do
        kill -0 "$DPID" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$DPID" 2>/dev/null && rc=1000 || rc=0
    wait "$DPID"
    code=$?
    DPID=
    [ "$rc" -eq 1000 ] && return 250
    return "$code"
}
# scanned SECONDS: the digest of ds, as soon as there is one.
scanned() {
    for _ in $(seq $(($1 * 10))); do
        ctl "$S" show-dataset ds --json >"$T/ds.json" 2>/dev/null &&
            python3 -c 'import json,sys; v=json.load(open(sys.argv[1]))["version"]; print(v["tree_digest"]) if v else sys.exit(1)' \
                "$T/ds.json" 2>/dev/null && return 0
        kill -0 "$DPID" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
add() { ctl "$S" add-dataset "$T/ds" --name ds >/dev/null 2>"$T/said"; }

try() { # KIND N WANT
    rm -rf "$S"
    start "$1" "$2" ""
    added=1
    [ -n "$DPID" ] && kill -0 "$DPID" 2>/dev/null && add && added=0 && scanned 5 >/dev/null
    stop
    code=$?
    [ "$code" -lt 128 ] || { bad "$1 call $2: the daemon ended with $code: $(tail -2 "$T/log")" && return; }
    if [ -f "$S/registry.db" ]; then
        sound=$(sqlite3 "$S/registry.db" "PRAGMA integrity_check" 2>&1)
        [ "$sound" = ok ] || { bad "$1 call $2: registry: $sound" && return; }
    fi
    start "" || { bad "$1 call $2: does not start again: $(tail -2 "$T/log")" && return; }
    if [ "$added" -eq 0 ] && ! ctl "$S" show-dataset ds >/dev/null 2>&1; then
        bad "$1 call $2: what was acknowledged is gone"
    fi
    [ "$added" -eq 0 ] || add || ctl "$S" show-dataset ds >/dev/null 2>&1 || bad "$1 call $2: cannot be added again: $(cat "$T/said")"
    got=$(scanned 20)
    if [ "$got" = "$3" ]; then ok; else bad "$1 call $2: scanned '$got', not '$3'; $(ctl "$S" list-jobs | tail -1)"; fi
    stop
}
start "" && add && want=$(scanned 20) || { bad "undisturbed: $(tail -3 "$T/log")" && finish; }
stop
for kind in eio short memory; do
    rm -rf "$S"
    start $kind 0 "$T/calls" && add && scanned 20 >/dev/null
    stop
    calls=$(cat "$T/calls" 2>/dev/null || echo 0) before=$FAILED
    step=$(((calls + most - 1) / most))
    [ "$step" -ge 1 ] || step=1
    for n in $(seq $((1 + $$ % step)) "$step" "$calls"); do try $kind "$n" "$want"; done
    echo "$kind: $calls calls, each $step: $((FAILED - before)) failed"
done
finish
