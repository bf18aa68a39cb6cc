# tests/long/common.sh - sourced by the long tests: a scratch folder $T, a daemon on a state folder in it,
# counters and the closing line.  Only processes that were started here are ended.
B=$(cd "${1:?usage: $0 BUILD}" && pwd)
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
NAME=$(basename "$0" .sh)
T=$(mktemp -d "${TMPDIR:-/var/tmp}/diffscaler-long.XXXXXX")
DPID= PASSED=0 FAILED=0 SKIPPED=0
cleanup() {
    for p in $DPID $(tree "$DPID"); do kill -CONT "$p" && kill -KILL "$p"; done 2>/dev/null
    [ -z "$DPID" ] || wait "$DPID" 2>/dev/null
    rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
ok() { PASSED=$((PASSED + 1)); }
bad() {
    FAILED=$((FAILED + 1))
    echo "FAILED: $*"
}
skip() { # the whole test
    echo "SKIPPED $NAME: $*"
    echo "$NAME: 0 passed, 0 failed, 1 skipped"
    exit 0
}
finish() {
    echo "$NAME: $PASSED passed, $FAILED failed, $SKIPPED skipped"
    [ "$FAILED" -eq 0 ]
    exit
}
children() { [ -z "$1" ] || cat "/proc/$1/task/"*/children 2>/dev/null; }
tree() { for c in $(children "${1:-}"); do echo "$c" && tree "$c"; done; }

# daemon STATE [OPTION...]: PRELOAD and others come from the environment of the call.
daemon() {
    state=$1
    shift
    "$B/diffscalerd" --state "$state" --settle 0.3 --nice 0 --base-task probe --base "$T/base.safetensors" "$@" \
        >>"$state.log" 2>&1 &
    DPID=$!
    for _ in $(seq 600); do
        ctl "$state" status >/dev/null 2>&1 && return 0
        kill -0 "$DPID" 2>/dev/null || break
        sleep 0.1
    done
    tail -20 "$state.log"
    return 1
}
ctl() {
    state=$1
    shift
    "$B/dsctl" --state "$state" "$@"
}
stop_daemon() {
    [ -n "$DPID" ] && kill -TERM "$DPID" 2>/dev/null && wait "$DPID"
    DPID=
}
# ended STATE: the training has come to an end (done, failed, cancelled).
ended() { ctl "$1" list-jobs --json 2>/dev/null | python3 -c '
import json, sys
try: jobs = json.load(sys.stdin)["items"]
except ValueError: sys.exit(1)
sys.exit(not (any(j["kind"] == "train" for j in jobs) and all(j["state"] not in ("queued", "running") for j in jobs)))'; }
jobs() { ctl "$1" list-jobs --json | python3 -c '
import json, sys
for j in json.load(sys.stdin)["items"]: print(j["kind"], j["state"], (j.get("error") or {}).get("message", ""), sep=" ")'; }
# digests STATE: of the manifest, of the prepared pictures and of the adapter, a line each.
digests() {
    ctl "$1" show-dataset ds --json | python3 -c '
import json, sys
print("manifest", json.load(sys.stdin)["version"]["tree_digest"])'
    for f in "$1"/cache/images-*.bin; do echo "prepared $(basename "$f") $(sha256sum <"$f")"; done
    ctl "$1" list-adapters --json | python3 -c '
import json, sys
for a in json.load(sys.stdin)["items"]: print("adapter", a["ref"], a["status"], a["digest"])'
}

# by_test PROGRAM WORDS [N]: a test program that makes the long run when the environment says so, and then prints WORDS.
by_test() {
    DS_BUILD=$B "$B/tests/$1" >"$T/log" 2>&1 && grep "$2" "$T/log" && PASSED=${3:-1} && finish
    tail -20 "$T/log"
    bad "$1"
    finish
}

# Of a daemon whose workers only scan: expect WHAT COMMAND...; wait_for SECONDS COMMAND...; p99 PATH N: of N requests, in ms.
S=$T/state
expect() {
    what=$1
    shift
    if "$@"; then ok; else bad "$what"; fi
}
wait_for() {
    tries=$(($1 * 5))
    shift
    while [ $tries -gt 0 ]; do
        "$@" && return 0
        tries=$((tries - 1))
        sleep 0.2
    done
    return 1
}
api() { curl -s -m 30 --unix-socket "$S/socket" "$@"; }
ready() { [ "$(api http://d/readyz)" = ok ]; }
start_scanner() {
    "$B/diffscalerd" --state "$S" --workers 0 --settle 0.3 2>>"$T/log" 9>&- &
    DPID=$!
    wait_for 20 ready
}
gone() { ! kill -0 "$DPID" 2>/dev/null; }
p99() {
    for _ in $(seq "$2"); do printf 'url = "http://d%s"\noutput = /dev/null\n' "$1"; done >"$T/urls"
    api -m 60 -w '%{time_total}\n' -K "$T/urls" | awk '{print $1 * 1000}' | sort -n | sed -n $(($2 * 99 / 100))p
}
below() { awk -v a="${1:-1e9}" -v b="$2" 'BEGIN {exit !(a + 0 < b)}'; }
