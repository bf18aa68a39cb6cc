#!/bin/bash
# tests/long/pauses.sh BUILD - PAUSES (30) times the daemon, the worker, a decoder, or all of them stand
# still (SIGSTOP) at a random moment of a preparation and a short training: mostly for a second, each
# sixth time for PAUSE_LONG (12) seconds.  Manifest, prepared pictures and adapter must be those of a
# run that nothing disturbed, at the first attempt.
. "$(dirname "$0")/common.sh"
cd "$ROOT" || exit 1
pauses=${PAUSES:-30} long=${PAUSE_LONG:-12}
RANDOM=${SEED:-$$}
"$B/tests/long/fixture" "$T" 40 || exit 1
add() { ctl "$1" add-dataset "$T/ds" --name ds --steps 300 --batch 8 --n 8 >/dev/null 2>&1; }

# pause PID...: stop them, wait, let them go on.
pause() {
    count=$((count + 1))
    length=0.$((RANDOM % 9 + 1))
    [ $((count % 6)) -ne 0 ] || length=$long
    echo "pause $count: $what for $length s"
    kill -STOP "$@" 2>/dev/null
    sleep "$length"
    kill -CONT "$@" 2>/dev/null
}
disturb() {
    sleep "$((RANDOM % 2)).$((RANDOM % 10))"
    workers=$(children "$DPID")
    decoders=$(for w in $workers; do children "$w"; done)
    case $((RANDOM % 4)) in
    0) what=daemon && pause "$DPID" ;;
    1) [ -z "$workers" ] || { what=worker && pause $workers; } ;;
    2) [ -z "$decoders" ] || { what=decoder && pause $decoders; } ;;
    3) [ -z "$workers" ] || { what=all && pause "$DPID" $workers $decoders; } ;;
    esac
}

daemon "$T/quiet" && add "$T/quiet" || { bad "no daemon" && finish; }
until ended "$T/quiet"; do sleep 0.2; done
digests "$T/quiet" >"$T/want"
cat "$T/want"
[ "$(wc -l <"$T/want")" -eq 3 ] || { bad "undisturbed: $(jobs "$T/quiet")" && finish; }
stop_daemon
count=0
for run in $(seq 100); do
    [ "$count" -lt "$pauses" ] || break
    state=$T/run$run
    daemon "$state" && add "$state" || { bad "run $run: no daemon" && finish; }
    until ended "$state"; do [ "$count" -ge "$pauses" ] && sleep 0.2 || disturb; done
    digests "$state" >"$T/got"
    if cmp -s "$T/want" "$T/got"; then ok; else
        bad "run $run: other digests"
        diff "$T/want" "$T/got"
        jobs "$state"
        cat "$state"/jobs/*/worker.log
    fi
    again=$(grep -c 'tried again' "$state.log")
    [ "$again" -eq 0 ] || bad "run $run: a pause cost an attempt: $(grep 'tried again' "$state.log")"
    stop_daemon
    rm -rf "$state"
done
finish
