#!/bin/bash
# tests/long/faults.sh BUILD - one call of a worker's job goes wrong: memory that is not given, EIO, a write
# that stops half way; each call of a scan, each file call of a training, each FAULT_STRIDE-th (60)
# allocation of a training.  No signal may end the worker, no verdict about the data may come of it (2, 6, 9),
# what it calls done must be what an undisturbed run makes, and run again it must get there.
. "$(dirname "$0")/common.sh"
cd "$ROOT" || exit 1
stride=${FAULT_STRIDE:-60} most=${FAULT_MOST:-1000000} lib=$B/tests/long/preload_fault.so
"$B/tests/long/fixture" "$T" 0 || exit 1
rm -f "$T"/ds/*/0[2-9].png # two pictures of each class

# The specs are those that a daemon writes, made smaller.
daemon "$T/state" && ctl "$T/state" add-dataset "$T/ds" --name ds --steps 2 --batch 4 --n 4 >/dev/null 2>&1
until ended "$T/state"; do sleep 0.1; done
stop_daemon
[ -f "$T/state/jobs/2/spec.json" ] || { bad "no jobs: $(tail -5 "$T/state.log")" && finish; }
"$B/diffscaler-worker" scan "$T/ds" -o "$T/manifest" >/dev/null || exit 1
python3 - "$T" <<'P'
import json, os, sys
T = sys.argv[1]
for kind, number in ("scan", 1), ("train", 2):
    spec = json.load(open(f"{T}/state/jobs/{number}/spec.json"))
    spec["device"] = {"kind": "cpu", "precision": "f32", "threads": 1, "memory_limit": 0}
    if kind == "scan":
        del spec["device"]
        spec["hash_cache"] = T + "/hashes"
    else:
        spec["dataset"]["manifest"] = T + "/manifest"
        spec["cache_dir"], spec["base_reference"]["cache"] = T + "/cache", T + "/cache/base"
        spec["sample"]["steps"] = 2
        spec["train"].update(checkpoint_every=1, heldout_every=1)
    os.makedirs(f"{T}/{kind}")
    json.dump(spec, open(f"{T}/{kind}/spec.json", "w"))
P

RUN=$T/run # of a lane
fresh() {
    rm -rf "$RUN" "$RUN.hashes" && cp -r "$T/$1" "$RUN" &&
        sed -i "s,$T/hashes,$RUN.hashes," "$RUN/spec.json"
}
worker() { "$B/diffscaler-worker" run "$RUN" >"$RUN.said" 2>&1; }
# What the job made; for an adapter also that its file is what result.json says.
made() { python3 -IS - "$RUN" <<'P'
import hashlib, json, sys
run = sys.argv[1]
r = json.load(open(run + "/result.json"))
if "tree_digest" in r:
    m = hashlib.sha256(open(run + "/manifest.ndjson", "rb").read()).hexdigest()
    print(r["tree_digest"], m == r["tree_digest"], r["rejected_count"])
else:
    a = hashlib.sha256(open(run + "/adapter.safetensors.zst", "rb").read()).hexdigest()
    print(r["adapter"]["sha256"], a == r["adapter"]["stored_sha256"], r["gate"]["verdict"], r["rejected_count"])
P
}
disturbed() { LD_PRELOAD=$lib FAULT=$2:$3:$4 FAULT_PROGRAM=diffscaler-worker worker; }

try() { # JOB KIND N WANT
    fresh "$1"
    disturbed "$1" "$2" "$3" ""
    rc=$?
    [ "$rc" -ne 0 ] && [ "$rc" -ne 1 ] && [ "$rc" -ne 75 ] &&
        { bad "$1, $2 call $3: exit $rc: $(tail -2 "$RUN.said")" && return; }
    if [ "$rc" -ne 0 ]; then
        [ -s "$RUN.said" ] || { bad "$1, $2 call $3: exit $rc without a word" && return; }
        worker || { bad "$1, $2 call $3: cannot be run again: $(tail -2 "$RUN.said")" && return; }
    fi
    got=$(made 2>&1)
    if [ "$got" = "$4" ]; then ok; else bad "$1, $2 call $3: made $got, not $4"; fi
}
# Each lane takes its turn of the numbers on standard input, in a folder of its own.
lanes() { # LANES JOB KIND WANT
    cat >"$T/numbers"
    for lane in $(seq "$1"); do
        (
            RUN=$T/run$lane PASSED=0 FAILED=0
            for n in $(awk -v n="$1" -v k="$lane" 'NR % n == k % n' "$T/numbers"); do
                [ "$FAILED" -lt 20 ] || break
                try "$2" "$3" "$n" "$4"
            done
            echo "$PASSED $FAILED" >"$T/count$lane"
        ) &
    done
    wait
    for lane in $(seq "$1"); do
        read -r passed failed <"$T/count$lane" || { bad "lane $lane of $2, $3 came to no end" && continue; }
        PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
        rm "$T/count$lane"
    done
}
for job in ${FAULT_JOBS:-scan train}; do
    fresh $job
    worker || { bad "$job fails undisturbed: $(cat "$RUN.said")" && continue; }
    want=$(made)
    for kind in eio short memory; do
        fresh $job
        disturbed $job $kind 0 "$T/calls"
        calls=$(cat "$T/calls" 2>/dev/null || echo 0) step=1
        [ $job = train ] && [ $kind = memory ] && step=$stride
        before=$FAILED first=$((1 + $$ % step)) side=1
        [ $job = train ] || side=$(nproc) # trainings share a cache
        lanes "$side" $job $kind "$want" < <(seq "$first" "$step" "$calls" | head -"$most")
        echo "$job: $calls $kind calls, each $step from $first: $((FAILED - before)) failed"
    done
done
finish
