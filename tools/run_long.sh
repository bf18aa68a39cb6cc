#!/bin/sh
# tools/run_long.sh BUILD [NAME...] - run the executable files of tests/long/, one after the other, each
# with BUILD as its argument; a line each, then the sum.  Each prints a closing line
# "name: N passed, N failed, N skipped".  LONG_SECONDS bounds one of them (3600).
set -u
build=${1:?usage: tools/run_long.sh BUILD [NAME...]}
shift
cd "$(dirname "$0")/.." || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0 bad=
for program in tests/long/*; do
    name=$(basename "$program")
    name=${name%.*}
    [ -f "$program" ] && [ -x "$program" ] || continue
    [ $# -eq 0 ] || case " $* " in *" $name "*) ;; *) continue ;; esac
    start=$(date +%s)
    timeout -k 60 "${LONG_SECONDS:-3600}" "$program" "$build" >"$log" 2>&1
    rc=$?
    line=$(grep -aE '^[^:]*: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -1)
    [ -n "$line" ] || line="$name: 0 passed, 1 failed, 0 skipped"
    n=$(echo "${line##*: }" | tr -dc '0-9 ' | tr -s ' ')
    p=${n%% *} n=${n#* } f=${n%% *} n=${n#* } s=${n%% *}
    [ $rc -eq 0 ] || [ "$f" -gt 0 ] || f=1
    printf '%-40s %5s passed %3s failed %3s skipped %6s s\n' "$name" "$p" "$f" "$s" "$(($(date +%s) - start))"
    grep -a '^SKIPPED' "$log"
    [ "$f" -eq 0 ] || { echo "---- $program: exit $rc" && tail -60 "$log" && bad="$bad $name"; }
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
[ -z "$bad" ] || echo "failed:$bad"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
