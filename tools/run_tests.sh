#!/bin/sh
# tools/run_tests.sh BUILD... - run every test program of each build folder; one line each, then the sum.
# A program prints its own closing line "name: N passed, N failed, N skipped" (tests/harness.c).
set -u
export DS_BUILD
passed=0 failed=0 skipped=0 bad=
log=$(mktemp)
builds="$*"
for build in $builds; do
    DS_BUILD=$build
    for program in "$build"/tests/test_*; do
        case "$program" in *.o | *.d | *.c) continue ;; esac
        [ -x "$program" ] || continue
        case "$program" in
        *asan/tests/test_system_input) ;;
        *asan/tests/test_system_*)
            echo "SKIPPED ${program#build/}: minutes under sanitizers; its programs run there in test_worker_*, test_daemon_*, test_system_input"
            skipped=$((skipped + 1))
            continue ;;
        esac
        start=$(date +%s%N)
        timeout 400 "$program" >"$log" 2>&1
        rc=$?
        seconds=$(( ($(date +%s%N) - start) / 100000000 ))
        line=$(grep -aE '^[^:]*: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -1)
        [ -n "$line" ] || line="no closing line: 0 passed, 1 failed, 0 skipped"
        set -- $(echo "${line##*: }" | tr -dc '0-9 ')
        [ $rc -eq 0 ] || [ "$2" -gt 0 ] || set -- "$1" 1 "$3"
        passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
        printf '%-60s %5s passed %3s failed %3s skipped %6s s\n' "${program#build/}" "$1" "$2" "$3" "$((seconds / 10)).$((seconds % 10))"
        grep -a '^SKIPPED' "$log"
        if [ $rc -ne 0 ]; then
            bad="$bad $program"
            echo "---- $program: exit $rc"
            tail -40 "$log"
        fi
    done
done
rm -f "$log"
[ -z "$bad" ] || echo "failed:$bad"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
