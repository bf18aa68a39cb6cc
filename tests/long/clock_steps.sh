#!/bin/bash
# tests/long/clock_steps.sh BUILD - STEPS (50) times the clock is set by up to two days, forth or back, while
# a dataset is scanned, prepared and trained, its worker is killed once (so that a back-off is pending),
# and gc runs with a grace of a minute.  Manifest, prepared pictures and adapter must be those of a run
# without steps, and no job may wait for longer than its back-off.
. "$(dirname "$0")/common.sh"
cd "$ROOT" || exit 1
steps=${STEPS:-50} patience=${PATIENCE:-180}
RANDOM=${SEED:-$$}
lib=$(ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null | head -1)
[ -n "$lib" ] || skip "libfaketime is not installed"
"$B/tests/long/fixture" "$T" 20 || exit 1
add() { ctl "$1" add-dataset "$T/ds" --name ds --steps 300 --batch 8 --n 8 >/dev/null 2>&1; }
set_clock() { echo "$1" >"$T/clock.new" && mv "$T/clock.new" "$T/clock"; }
faked() {
    LD_PRELOAD=$lib FAKETIME_TIMESTAMP_FILE=$T/clock FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 \
        daemon "$@"
}

daemon "$T/quiet" && add "$T/quiet" || { bad "no daemon" && finish; }
until ended "$T/quiet"; do sleep 0.2; done
digests "$T/quiet" >"$T/want"
cat "$T/want"
[ "$(wc -l <"$T/want")" -eq 3 ] || { bad "undisturbed: $(jobs "$T/quiet")" && finish; }
stop_daemon
count=0 kills=0
for run in $(seq 100); do
    [ "$count" -lt "$steps" ] || break
    state=$T/run$run killed=0 begun=$SECONDS
    set_clock "+0"
    faked "$state" && add "$state" || { bad "run $run: no daemon" && finish; }
    until ended "$state"; do
        if [ $((SECONDS - begun)) -gt "$patience" ]; then
            bad "run $run: not at an end after $patience s"
            jobs "$state"
            tail -5 "$state.log"
            finish
        fi
        sleep "0.$((RANDOM % 9 + 1))"
        [ "$count" -lt "$steps" ] || continue
        count=$((count + 1))
        case $((RANDOM % 4)) in
        0) clock=+172800 ;;
        1) clock=-172800 ;;
        *) clock=$((RANDOM * 10 - 163840)) && [ "$clock" -lt 0 ] || clock=+${clock#+} ;;
        esac
        set_clock "$clock"
        ctl "$state" gc --older-than 1m >/dev/null 2>&1
        for w in $(children "$DPID"); do
            [ "$killed" -eq 0 ] && grep -q '"kind": *"train"' /proc/"$w"/cwd/spec.json 2>/dev/null
            [ "$killed" -eq 0 ] && [ $((count % 5)) -eq 3 ] && kill -KILL "$w" && killed=1 && kills=$((kills + 1))
        done
    done
    digests "$state" >"$T/got"
    if cmp -s "$T/want" "$T/got"; then ok; else
        bad "run $run: other digests"
        diff "$T/want" "$T/got"
        jobs "$state"
    fi
    set_clock "+172800" # what was published a moment ago is not old
    ctl "$state" gc --older-than 1m >/dev/null 2>&1
    if ctl "$state" pull-adapter ds -o "$T/adapter" --force >/dev/null 2>"$T/why"; then ok; else
        bad "run $run: the adapter is gone: $(cat "$T/why")"
    fi
    stop_daemon
    rm -rf "$state"
done
echo "$count steps of the clock and $kills killed workers in $run runs"
finish
