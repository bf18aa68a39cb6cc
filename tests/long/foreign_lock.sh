#!/bin/bash
# tests/long/foreign_lock.sh BUILD - another program holds the registry's write lock for LOCK_SECONDS (60): healthz and
# lists answer with p99 < 20 ms all the time, a change of a folder that happened meanwhile becomes a scan afterwards, a
# request to change something gets 503 with Retry-After, the daemon stops on SIGTERM and starts again under the lock.
set -u
build=$(realpath "${1:-build/release}") seconds=${LOCK_SECONDS:-60}
for tool in sqlite3 curl; do
    command -v $tool >/dev/null || { echo "SKIPPED foreign_lock: $tool is not installed"; echo "foreign_lock: 0 passed, 0 failed, 1 skipped"; exit 0; }
done
here=$(dirname "$(realpath "$0")") work=$(mktemp -d "${TMPDIR:-/var/tmp}/lock.XXXXXX") passed=0 failed=0 pid= holder=
trap '[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null; [ -z "$holder" ] || kill "$holder" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
ok() { # WHAT CONDITION...
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "failed: $what"; fi
}
api() { curl -s -m 30 --unix-socket "$work/state/socket" "$@"; }
start() {
    "$build/diffscalerd" --state "$work/state" --workers 0 --settle 0.3 2>>"$work/log" 9>&- &
    pid=$!
    for _ in $(seq 100); do
        [ "$(api http://d/readyz)" = ok ] && return 0
        sleep 0.1
    done
    return 1
}
wait_for() { # SECONDS COMMAND...
    local n=$(($1 * 5))
    shift
    for _ in $(seq "$n"); do
        "$@" && return 0
        sleep 0.2
    done
    return 1
}
hold() {
    mkfifo "$work/pipe$1"
    sqlite3 "$work/state/registry.db" <"$work/pipe$1" &
    holder=$!
    exec 9>"$work/pipe$1"
    printf '.timeout 5000\nBEGIN IMMEDIATE;\n.shell touch %s\n' "$work/held$1" >&9
    wait_for 10 test -e "$work/held$1"
}
let_go() {
    exec 9>&-
    wait "$holder"
    holder=
}
p99() { # PATH: of 300 requests, in ms
    for _ in $(seq 300); do printf 'url = "http://d%s"\noutput = /dev/null\n' "$1"; done >"$work/urls"
    curl -s -m 60 --unix-socket "$work/state/socket" -w '%{time_total}\n' -K "$work/urls" | awk '{print $1 * 1000}' | sort -n | sed -n 297p
}
below() { awk -v a="${1:-1e9}" -v b="$2" 'BEGIN {exit !(a + 0 < b)}'; }
images() { api http://d/v1/datasets/set | grep -q "\"images\":$1,"; }
gone() { ! kill -0 "$pid" 2>/dev/null; }

mkdir "$work/set"
find "$here/../../examples" -name '*.png' | head -6 | while read -r f; do cp "$f" "$work/set/$(basename "$f")"; done
ok "start" start
api http://d/v1/datasets -d "{\"path\":\"$work/set\"}" >/dev/null
n=$(ls "$work/set" | wc -l)
ok "the first scan" wait_for 30 images "$n"
ok "the lock is taken" hold 1
cp "$work/set/$(ls "$work/set" | head -1)" "$work/set/copy.png"
until=$(($(date +%s) + seconds))
while [ "$(date +%s)" -lt "$until" ]; do
    for path in /healthz /readyz /v1/status /v1/datasets /v1/jobs; do
        t=$(p99 $path)
        ok "$path p99 $t ms" below "$t" 20
    done
    sleep 1
done
api -D "$work/head" -X POST http://d/v1/datasets/set/rescan >/dev/null
ok "a change is answered 503" grep -q '^HTTP/1.1 503' "$work/head"
ok "with Retry-After" grep -qi '^Retry-After' "$work/head"
let_go
ok "what happened meanwhile is not forgotten" wait_for 30 images $((n + 1))
ok "the lock is taken again" hold 2
kill -TERM "$pid"
ok "SIGTERM ends it under the lock" wait_for 10 gone
ok "it starts under the lock" start
t=$(p99 /healthz)
ok "healthz p99 $t ms" below "$t" 20
let_go
ok "and changes are made again" wait_for 10 api -f -X POST http://d/v1/datasets/set/rescan -o /dev/null
kill -TERM "$pid"
ok "the end" wait_for 10 gone
pid=
[ "$failed" = 0 ] || tail -20 "$work/log"
echo "foreign_lock: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
