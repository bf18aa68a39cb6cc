#!/bin/sh
# tools/parity/run.sh PYTHON BUILD - the public implementations beside ours: makes every golden again and compares it
# with the committed one, opens our exports with the programs that they are for, decodes picture files of every kind with
# Pillow and the FID tools and with ours, and measures two folders with each FID tool and with ours: of PARITY_PICTURES
# pictures each (50; 1000 takes half an hour).  (The engine is compared with the goldens by `make test`.)
set -u
python=$1 build=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$root/build/parity-work
rm -rf "$work"
mkdir -p "$work/tests/golden"
bad=0
for script in "$here"/make_*_golden.py; do
    echo "== $(basename "$script")"
    (cd "$work" && "$python" "$script" >log.txt 2>&1) || {
        tail -5 "$work/log.txt"
        bad=1
    }
done
"$python" "$here/compare.py" "$work/tests/golden" "$root/tests/golden" || bad=1
echo "== export.py"
(cd "$root" && "$python" "$here/export.py" "$build") || bad=1
echo "== pixels.py"
(cd "$root" && "$python" -W ignore "$here/pixels.py" "$build/diffscaler-worker" tests/golden/pixels 2>"$work/pixels.txt") || {
    tail -5 "$work/pixels.txt"
    bad=1
}
echo "== objective_bases.py"
(cd "$root" && "$python" "$here/objective_bases.py" small "$build/diffscaler-worker") || bad=1
echo "== fid_folders.py"
(cd "$root" && "$python" -W ignore "$here/fid_folders.py" "$build/diffscaler-worker" "${PARITY_PICTURES:-50}" \
    2>"$work/fid-folders.txt") || {
    tail -5 "$work/fid-folders.txt"
    bad=1
}
echo "== fid_pairs.py"
(cd "$root" && "$python" -W ignore "$here/fid_pairs.py" "$build/diffscaler-worker" "${PARITY_PAIRS:-40}" pytorch-fid \
    2>"$work/fid-pairs.txt") || {
    tail -5 "$work/fid-pairs.txt"
    bad=1
}
[ $bad = 0 ] && echo "parity: all agree" || echo "parity: there are differences"
exit $bad
