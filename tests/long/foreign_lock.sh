#!/bin/bash
# tests/long/foreign_lock.sh BUILD - another program holds the registry's write lock for LOCK_SECONDS (60): healthz and
# lists answer with p99 < 20 ms all the time, a change of a folder that happened meanwhile becomes a scan afterwards, a
# request to change something gets 503 with Retry-After, the daemon stops on SIGTERM and starts again under the lock.
. "$(dirname "$0")/common.sh"
seconds=${LOCK_SECONDS:-60} holder=
for tool in sqlite3 curl; do command -v $tool >/dev/null || skip "$tool is not installed"; done
trap '[ -z "$holder" ] || kill "$holder" 2>/dev/null; cleanup' EXIT
hold() {
    mkfifo "$T/pipe$1"
    sqlite3 "$S/registry.db" <"$T/pipe$1" &
    holder=$!
    exec 9>"$T/pipe$1"
    printf '.timeout 5000\nBEGIN IMMEDIATE;\n.shell touch %s\n' "$T/held$1" >&9
    wait_for 10 test -e "$T/held$1"
}
let_go() {
    exec 9>&-
    wait "$holder"
    holder=
}
images() { api http://d/v1/datasets/set | grep -q "\"images\":$1,"; }

mkdir "$T/set"
find "$ROOT/examples" -name '*.png' | head -6 | while read -r f; do cp "$f" "$T/set/$(basename "$f")"; done
expect "start" start_scanner
api http://d/v1/datasets -d "{\"path\":\"$T/set\"}" >/dev/null
n=$(ls "$T/set" | wc -l)
expect "the first scan" wait_for 30 images "$n"
expect "the lock is taken" hold 1
cp "$T/set/$(ls "$T/set" | head -1)" "$T/set/copy.png"
until=$(($(date +%s) + seconds))
while [ "$(date +%s)" -lt "$until" ]; do
    for path in /healthz /readyz /v1/status /v1/datasets /v1/jobs; do
        t=$(p99 "$path" 300)
        expect "$path p99 $t ms" below "$t" 20
    done
    sleep 1
done
api -D "$T/head" -X POST http://d/v1/datasets/set/rescan >/dev/null
expect "a change is answered 503" grep -q '^HTTP/1.1 503' "$T/head"
expect "with Retry-After" grep -qi '^Retry-After' "$T/head"
let_go
expect "what happened meanwhile is not forgotten" wait_for 30 images $((n + 1))
expect "the lock is taken again" hold 2
kill -TERM "$DPID"
expect "SIGTERM ends it under the lock" wait_for 10 gone
expect "it starts under the lock" start_scanner
t=$(p99 /healthz 300)
expect "healthz p99 $t ms" below "$t" 20
let_go
expect "and changes are made again" wait_for 10 api -f -X POST http://d/v1/datasets/set/rescan -o /dev/null
kill -TERM "$DPID"
expect "the end" wait_for 10 gone
DPID=
[ "$FAILED" = 0 ] || tail -20 "$T/log"
finish
