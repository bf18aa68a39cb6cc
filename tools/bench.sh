#!/bin/sh
# tools/bench.sh BUILD - speed of whole steps beside the PyTorch peer, in one run: ratios of medians.
# The peer gets its best environment: a BLAS that knows AVX-512, as many threads as we use.
# Needs Debian's python3-torch and libopenblas0-openmp (or PYTHON=... with torch); without it, our figures alone.
set -eu
build=$1
threads=${THREADS:-$(nproc)}
python=${PYTHON:-/usr/bin/python3}
if grep -q avx512_bf16 /proc/cpuinfo; then core=Cooperlake; elif grep -q avx512f /proc/cpuinfo; then core=SkylakeX; else core=Haswell; fi
peer() {
    OPENBLAS_CORETYPE=$core ATEN_CPU_CAPABILITY=avx512 OMP_NUM_THREADS=$threads \
        LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu/openblas-openmp "$python" bench/peer_dit.py --threads "$threads" "$@" 2>/dev/null
}
field() { echo "$1" | sed -n "s/.*\"$2\": \"\{0,1\}\([^,\"}]*\).*/\1/p"; }
have=1
"$python" -c 'import torch' 2>/dev/null || { have=0; echo "SKIPPED peer: no torch for $python (Debian: python3-torch)"; }
if [ $have = 1 ] && [ ! -e /usr/lib/x86_64-linux-gnu/openblas-openmp/libopenblas.so.0 ] && [ "$python" = /usr/bin/python3 ]; then
    echo "error: the peer would run without its best BLAS (2-4x slower in f32): apt-get install libopenblas0-openmp" >&2
    exit 1
fi
printf '%-6s %-7s %-5s %12s %12s %8s %8s %9s %9s\n' model mode dtype 'ours img/s' 'peer img/s' ratio GFLOP/s 'ours MB' 'peer MB'
for model in ${MODELS:-tiny}; do
    batch=64
    [ "$model" = tiny ] || batch=8
    for mode in train sample; do
        for dtype in fp32 bf16; do
            ours=$("$build/bench/bench_step" "$model" "$mode" "$([ $dtype = fp32 ] && echo f32 || echo bf16)" $batch "$threads")
            a=$(field "$ours" img_s) ma=$(field "$ours" rss_MB) b=- mb=- ratio=-
            if [ $have = 1 ]; then
                adapter=affiner
                [ $mode = train ] || adapter=none
                theirs=$(peer --model "$model" --batch $batch --mode $mode --dtype $dtype --adapter $adapter)
                b=$(field "$theirs" img_s) mb=$(field "$theirs" rss_MB)
                ratio=$(echo "$a $b" | awk '{printf "%.2f", $1 / $2}')
            fi
            printf '%-6s %-7s %-5s %12s %12s %8s %8s %9s %9s\n' "$model" $mode $dtype "$a" "$b" "$ratio" "$(field "$ours" gflop_s)" "$ma" "$mb"
        done
    done
done
