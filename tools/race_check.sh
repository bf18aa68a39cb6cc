#!/bin/bash
# tools/race_check.sh BUILD TEST... - runs tests of the kernels over the race checker (tests/emu/race.cc).
# Prints for each the accesses counted and the findings, with their lines; exit 1 on any finding, on a
# failed test, and when nothing was counted.
set -u
build=$1 failed=0
shift
lib=$build/tests/emu/libdiffscaler-cuda.so
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    # in one process: the checker's memory would not outlive a forked test
    CK_FORK=no DS_BUILD=$build "$build/tests/$t" >"$log" 2>&1
    status=$?
    grep '^race: ' "$log" | while read -r line; do
        for at in $(grep -o '+0x[0-9a-f]*' <<<"$line" | sort -u); do
            line=${line//$at /$(addr2line -e "$lib" "${at#+}" | sed "s|^$PWD/||; s|^[.]/||; s| (disc.*||") }
        done
        echo "$line"
    done | awk '{places = $0; gsub(/ \([^)]*\)/, "", places)} !seen[places]++' # templates repeat them
    counted=$(sed -n 's/^race-check: //p' "$log")
    echo "$t: ${counted:-nothing counted}"
    grep -qE '^race-check: [1-9][0-9]* accesses, 0 findings$' "$log" || failed=1
    [ $status -eq 0 ] || { failed=1 && grep -v '^race: ' "$log" | tail -n 20; }
done
exit $failed
