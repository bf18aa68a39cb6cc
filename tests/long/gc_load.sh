#!/bin/sh
# tests/long/gc_load.sh BUILD - gc with the least grace all the time, while GC_LOAD (300) adapters are
# published, every file looks two days old (a clock that stepped), and another program takes the
# registry's write lock every now and then: none is lost, no training fails.
set -u
build=${1:-build/release}
n=${GC_LOAD:-300}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if GC_LOAD=$n DS_BUILD=$build "$build/tests/test_daemon_store" >"$log" 2>&1 &&
    grep "$n adapters published while gc ran, 0 lost" "$log"; then
    echo "gc_load: $n passed, 0 failed, 0 skipped"
else
    tail -20 "$log"
    echo "gc_load: 0 passed, 1 failed, 0 skipped"
    exit 1
fi
