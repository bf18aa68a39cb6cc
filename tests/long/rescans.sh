#!/bin/sh
# tests/long/rescans.sh BUILD - GROWTH_SETS (100) datasets, each rescanned GROWTH_RESCANS (2000) times
# without a change: no row of any table, no page of the registry and no memory is left behind.
set -u
build=${1:-build/release}
export GROWTH_SETS="${GROWTH_SETS:-100}" GROWTH_RESCANS="${GROWTH_RESCANS:-2000}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if DS_BUILD=$build "$build/tests/test_registry_growth" >"$log" 2>&1 && grep 'rescans left 0 rows' "$log"; then
    echo "rescans: 1 passed, 0 failed, 0 skipped"
else
    tail -20 "$log"
    echo "rescans: 0 passed, 1 failed, 0 skipped"
    exit 1
fi
