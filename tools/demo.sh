#!/bin/sh
# tools/demo.sh BUILD - the main job on real images: three sets that look nothing like the base, one after the
# other, through a daemon on a state folder of its own, demo-out/state, which stays.  Leaves demo-out/report.json
# and demo-out/grid.png.  Run again, it goes on with that state (what is trained is not trained again);
# FRESH=1 begins anew.
set -eu
build=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/demo-out
sets=${DEMO_SETS:-"digits:1600 flags:400 photos:600"} # name:steps, so that it all ends within minutes
start=$(date +%s)
state=${DEMO_STATE:-$out/state}
# The path of a unix socket has 107 bytes at most.
[ ${#state} -le 98 ] || state=${TMPDIR:-/tmp}/diffscaler-demo-$(id -u)
export DIFFSCALER_STATE="$state"
dsctl() { "$build/dsctl" "$@"; }
own=
stop() {
    [ -z "$own" ] || { dsctl stop >/dev/null 2>&1 || kill "$own" 2>/dev/null || true; wait "$own" 2>/dev/null || true; }
}
trap stop EXIT
trap 'exit 130' INT TERM

if dsctl status --quiet >/dev/null 2>&1; then
    [ -z "${FRESH:-}" ] || { echo "error: a daemon runs on $state: end it first with dsctl --state '$state' stop" >&2; exit 1; }
    echo "The daemon on $state runs already: it is used, and goes on running."
else
    [ -z "${FRESH:-}" ] || rm -rf "$state"
    if [ -e "$state/registry.db" ]; then
        echo "Going on with the state of an earlier demo: $state (FRESH=1 begins anew)."
    else
        echo "Starting diffscalerd on a state folder of its own: $state"
    fi
    mkdir -p "$out" "$state"
    "$build/diffscalerd" --settle 1 2>"$out/daemon.log" &
    own=$!
    for _ in $(seq 100); do dsctl status >/dev/null 2>&1 && break; sleep 0.1; done
fi
mkdir -p "$out"
rm -f "$out"/grid*.png "$out/report.json"
dsctl status || { echo "the daemon did not start:"; cat "$out/daemon.log"; exit 1; }

files=
for set in $sets; do
    name=${set%:*} steps=${set#*:}
    printf '\n$ dsctl add-dataset examples/%s --wait --steps %s\n' "$name" "$steps"
    dsctl add-dataset "$root/examples/$name" --name "$name" --wait --steps "$steps"
    job=$(dsctl list-jobs --kind train --dataset "$name" --status done --quiet --limit 1)
    [ -f "$state/jobs/$job/grid.png" ] || continue # tidied away since
    cp "$state/jobs/$job/grid.png" "$out/grid-$name.png"
    files="$files $out/grid-$name.png"
done

printf '\n$ dsctl verify --all\n'
dsctl verify --all
printf '\n$ dsctl list-adapters\n'
dsctl list-adapters
printf '\n$ dsctl report -o demo-out/report.json\n'
dsctl report -o "$out/report.json"
[ -z "$files" ] || "$build/diffscaler-worker" montage -o "$out/grid.png" $files
printf '\n%s seconds. Per set: real images, samples of the base, samples of the adapter:\n  demo-out/grid.png   demo-out/report.json   demo-out/daemon.log\n' \
    $(($(date +%s) - start))
cat <<END

The state is kept in $state ($(du -sh "$state" | cut -f1)), the programs are in
$build. To go on:

  export DIFFSCALER_STATE=$state PATH=$build:\$PATH
  diffscalerd &                            start the daemon
  dsctl sample digits -o digits.png        look at what it has learned
  dsctl add-dataset DIR --wait             teach it your own images
  dsctl stop                               stop the daemon

make demo again uses this state; make demo FRESH=1 begins anew; rm -rf demo-out removes it.
END
