#!/bin/sh
# tools/demo.sh BUILD - the main job on real images: three sets that look nothing like the base, one after the
# other, through a daemon on a private state folder.  Leaves demo-out/report.json and demo-out/grid.png.
set -eu
build=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/demo-out
sets=${DEMO_SETS:-"digits:800 flags:600 photos:1000"} # name:steps, so that it all ends within minutes
start=$(date +%s)
rm -rf "$out"
mkdir -p "$out"
state=$(mktemp -d "${TMPDIR:-/tmp}/diffscaler-demo.XXXXXX")
export DIFFSCALER_STATE=$state
dsctl() { "$build/dsctl" "$@"; }
stop() {
    [ -z "${pid:-}" ] || { kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; }
    if [ -n "${KEEP:-}" ]; then echo "state folder kept: $state"; else rm -rf "$state"; fi
}
trap stop EXIT
trap 'exit 130' INT TERM

echo "Starting diffscalerd on a private state folder ($state)."
"$build/diffscalerd" --settle 1 2>"$out/daemon.log" &
pid=$!
for _ in $(seq 100); do dsctl status >/dev/null 2>&1 && break; sleep 0.1; done
dsctl status || { echo "the daemon did not start:"; cat "$out/daemon.log"; exit 1; }

files=
for set in $sets; do
    name=${set%:*} steps=${set#*:}
    printf '\n$ dsctl add-dataset examples/%s --wait --steps %s\n' "$name" "$steps"
    dsctl add-dataset "$root/examples/$name" --name "$name" --wait --steps "$steps"
    job=$(dsctl list-jobs --kind train --quiet --limit 1)
    cp "$state/jobs/$job/grid.png" "$out/grid-$name.png"
    files="$files $out/grid-$name.png"
done

printf '\n$ dsctl verify --all\n'
dsctl verify --all
printf '\n$ dsctl list-adapters\n'
dsctl list-adapters
printf '\n$ dsctl report -o demo-out/report.json\n'
dsctl report -o "$out/report.json"
"$build/diffscaler-worker" montage -o "$out/grid.png" $files
printf '\n%s seconds. Per set: real images, samples of the base, samples of the adapter:\n  demo-out/grid.png   demo-out/report.json   demo-out/daemon.log\n' \
    $(($(date +%s) - start))
