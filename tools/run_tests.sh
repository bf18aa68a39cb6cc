#!/bin/sh
# tools/run_tests.sh BUILD... - run every test program of each build folder; one line each, then the sum.
# A program prints its own closing line "name: N passed, N failed, N skipped" (tests/harness.c).
# One more at a time than there are processors, and three that mostly wait beside them; those that
# measure speed run at the end, when nothing computes beside them.
set -u
if [ "${1:-}" = --one ]; then # run one program: its line on stdout, its numbers in $3
    program=$2
    log=$3.log
    DS_BUILD=${program%/tests/*}
    export DS_BUILD
    start=$(date +%s%N)
    timeout 1800 "$program" >"$log" 2>&1
    rc=$?
    tenths=$((($(date +%s%N) - start) / 100000000))
    line=$(grep -aE '^[^:]*: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -1)
    [ -n "$line" ] || line="no closing line: 0 passed, 1 failed, 0 skipped"
    set -- "$3" $(echo "${line##*: }" | tr -dc '0-9 ')
    [ $rc -eq 0 ] || [ "$3" -gt 0 ] || set -- "$1" "$2" 1 "$4"
    echo "$2 $3 $4 $program" >"$1"
    {
        printf '%-60s %5s passed %3s failed %3s skipped %6s s\n' "${program#build/}" "$2" "$3" "$4" "$((tenths / 10)).$((tenths % 10))"
        grep -a '^SKIPPED' "$log"
        [ $rc -eq 0 ] || { echo "---- $program: exit $rc"; tail -40 "$log"; }
    } >"$1.out"
    cat "$1.out"
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
skipped=0 n=0
: >"$work/together"
: >"$work/alone"
: >"$work/quiet"
for build in "$@"; do
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
        n=$((n + 1))
        case "$program" in
        *asan/*) list=together ;; # their times say nothing
        */test_daemon_reach) list=quiet ;;
        */test_*_speed | */test_registry_list | */test_daemon_http) list=alone ;;
        *) list=together ;;
        esac
        echo "--one $program $work/$n" >>"$work/$list"
    done
done
# Tests of the daemon, and those that start programs again and again, mostly wait: three at a time,
# beside the others, which wait for files and for programs of theirs now and then: with one more than
# there are processors none of these is idle.  What takes longest begins first in both, so that
# nothing is left to wait for at the end.
waits='(daemon_[a-z_]*|cli_follow|cli_effects|system_(disk|input|kill|main|upgrade|feature_net)) '
long_waits='(system_kill|daemon_slot|daemon_stall|daemon_store|daemon_reach|system_input|system_upgrade) '
long='release.*(system_gate|worker_bars|worker_nearest|worker_cuda|worker_evaluate) |asan.*(worker_course|worker_evaluate_classes|worker_feature_net|worker_plan|worker_objective|engine_golden) '
longest_first() { # LONG FILE
    grep -E "$1" "$2"
    grep -vE "$1" "$2"
}
grep -E "test_$waits" "$work/together" >"$work/waiting"
grep -vxF -f "$work/waiting" "$work/together" >"$work/busy"
longest_first "$long_waits" "$work/waiting" | xargs -r -L 1 -P 3 "$0" &
longest_first "$long" "$work/busy" | xargs -r -L 1 -P "$(($(nproc) + 1))" "$0"
wait
xargs -r -L 1 -P 1 "$0" <"$work/quiet" & # it measures how soon it is answered, and waits for the rest
xargs -r -L 1 -P 1 "$0" <"$work/alone"
wait
results() { for i in $(seq "$n"); do [ ! -f "$work/$i" ] || cat "$work/$i"; done; }
sum() { results | awk -v k="$1" '{s += $k} END {print s + 0}'; }
passed=$(sum 1) failed=$(sum 2) skipped=$((skipped + $(sum 3)))
ended=$(ls "$work" | grep -c '^[0-9]*$')
[ "$ended" = "$n" ] || { failed=$((failed + n - ended)) && echo "$((n - ended)) test programs have no result"; }
[ "$failed" -eq 0 ] || echo "failed:$(results | awk '$2 > 0 {printf " %s", $4}')"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
