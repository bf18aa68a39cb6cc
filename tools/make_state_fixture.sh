#!/bin/bash
# tools/make_state_fixture.sh BUILD VERSION - a small state folder as the programs in BUILD make it, for
# tests/system/test_system_upgrade.c: later programs must open it and find nothing to do.
#   tests/golden/state/VERSION.tar.zst         two sets, three published versions, an alias, a sample, verifications,
#                                              a removed set, a cancelled training
#   tests/golden/state/VERSION-running.tar.zst the same daemon stopped in the middle of a training
#   tests/golden/state/VERSION.txt             what is in them: references, digests, the digest that the training gives
# Caches are left out: they may be deleted at any time.  Pictures are a few of examples/, copied by the test.
set -eu
build=$(realpath "$1") version=$2
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/tests/golden/state
work=$(mktemp -d)
daemon=
trap '[ -z "$daemon" ] || kill -9 $daemon 2>/dev/null; rm -rf "$work"' EXIT
export DIFFSCALER_STATE=$work/state DIFFSCALER_SOCKET=$work/socket NO_COLOR=1
ctl() { "$build/dsctl" "$@"; }
start() {
    "$build/diffscalerd" --base "$work/models/emoji-dit.safetensors" --settle 0.3 --nice 0 \
        --feature-net "$work/models/inception-v3-mixed6c.safetensors.zst" >>"$work/log" 2>&1 &
    daemon=$!
    for _ in $(seq 100); do ctl status >/dev/null 2>&1 && return; sleep 0.1; done
    cat "$work/log"
    exit 1
}
stop() {
    kill -TERM $daemon
    wait $daemon || true
    daemon=
}
pack() { # NAME: without caches, pictures and all but the newest checkpoint, for the room
    rm -rf "$work/state/cache" "$work"/state/jobs/*/stage "$work"/state/jobs/*/*.png
    ls -d "$work"/state/jobs/*/checkpoints/step-* 2>/dev/null | sort | head -n -1 | xargs -r rm -f
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -cf - state | zstd -19 -q -f -o "$out/$1.tar.zst"
}
mkdir -p "$work/data/flags" "$work/models" "$out"
cp "$root"/models/*.safetensors* "$work/models/" # no path of this checkout goes into the registry
for c in 0 1 2; do
    mkdir -p "$work/data/digits/$c"
    cp "$root"/examples/digits/$c/00[0-7].png "$work/data/digits/$c/"
done
cp "$root"/examples/flags/a[a-z]*.png "$work/data/flags/"
mkdir "$work/data/gone"
cp "$root"/examples/digits/3/00[0-7].png "$work/data/gone/"
cp -r "$work/data/gone" "$work/data/halted"

quick="--steps 40 --batch 16 --n 32 --rank 1 --threads 2"
start
ctl add-dataset "$work/data/digits" --wait $quick
ctl add-dataset "$work/data/flags" --wait $quick
ctl add-dataset "$work/data/digits" --wait $quick --steps 60
ctl set-alias digits stable 1
ctl add-dataset "$work/data/gone" --wait $quick --steps 20
ctl remove-dataset gone
ctl verify --all
ctl sample digits -n 4 -o "$work/grid.png"
ctl add-dataset "$work/data/halted" $quick --steps 100000 --no-watch
for _ in $(seq 100); do
    job=$(ctl list-jobs --kind train --json | python3 -c 'import json,sys; i=json.load(sys.stdin); i=i["items"] if isinstance(i,dict) else i; print(i[0]["id"] if i[0]["state"]=="running" else "")')
    [ -n "$job" ] && break
    sleep 0.1
done
ctl cancel-job "$job"
sleep 2
stop
pack "$version"
cp -a "$work/state" "$work/kept"

start
cp -r "$work/data/flags" "$work/data/wavy"
ctl add-dataset "$work/data/wavy" $quick --steps 160
dir=
for _ in $(seq 300); do
    dir=$(ls -d "$work"/state/jobs/*/checkpoints 2>/dev/null | tail -1)
    [ -n "$dir" ] && [ -n "$(ls "$dir")" ] && break
    sleep 0.1
done
stop
pack "$version-running"
start
for _ in $(seq 600); do ctl show-adapter wavy@v1 --json >"$work/wavy.json" 2>/dev/null && break; sleep 0.2; done
{
    echo "# state folder of $version: ref digest"
    for ref in digits@v1 digits@v2 flags@v1 gone@v1 wavy@v1; do
        ctl show-adapter $ref --json | python3 -c 'import json,sys; a=json.load(sys.stdin); print(a["ref"], a["digest"])'
    done
    python3 -c 'import sqlite3,sys; print("class", sqlite3.connect(sys.argv[1]).execute("SELECT device_class FROM probes").fetchone()[0])' "$work/state/registry.db"
} >"$out/$version.txt"
stop
ls -l "$out"
cat "$out/$version.txt"
