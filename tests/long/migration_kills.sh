#!/bin/sh
# tests/long/migration_kills.sh BUILD - a registry of version 1 is upgraded, and the process killed at
# every write (each KILL_STEP-th, 1): the next start goes on, and nothing is missing.
set -u
build=${1:-build/release}
export KILL_STEP="${KILL_STEP:-1}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if DS_BUILD=$build "$build/tests/test_registry_place" >"$log" 2>&1 && grep 'upgrades killed, each went on' "$log"; then
    echo "migration_kills: 1 passed, 0 failed, 0 skipped"
else
    tail -20 "$log"
    echo "migration_kills: 0 passed, 1 failed, 0 skipped"
    exit 1
fi
