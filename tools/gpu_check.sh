#!/bin/bash
# tools/gpu_check.sh - on a machine with an NVIDIA GPU: build, check and time what only it can show.
#
#   tools/gpu_check.sh              all of it, within GPU_CHECK_SECONDS (570)
#   tools/gpu_check.sh --emulate    the same script on the emulated GPU, small, without figures (CI)
#
# Needs nvcc (CUDA 13, cuBLAS, cuDNN, cuSOLVER), gcc, g++, make, python3; for the comparison PyTorch with
# CUDA and triton; compute-sanitizer for its part.  Writes text and JSON into $OUT (build/gpu/out): at
# most 8 files.  A part that fails does not stop the others; the exit status says whether all passed:
# 0 all, 1 a part failed, 3 there is no GPU (everything was built, nothing checked).
set -u
cd "$(dirname "$0")/.." || exit 1
emulate=0
[ "${1:-}" = --emulate ] && emulate=1
B=${GPU_BUILD:-build/gpu}
OUT=${OUT:-$B/out}
JOBS=${JOBS:-$(nproc)}
PYTHON=${PYTHON:-python3}
BUDGET=${GPU_CHECK_SECONDS:-$((emulate ? 3600 : 570))}
mkdir -p "$B/work" "$OUT" || exit 1
work=$B/work log=$OUT/log.txt failed=0
rm -f "$work"/part.* "$OUT"/{log.txt,machine.txt,parts.jsonl,bench.jsonl,report.txt,report.json}
: >"$OUT/parts.jsonl"
: >"$OUT/bench.jsonl"
began=$SECONDS
left() { echo $((BUDGET - (SECONDS - began))); }
at_most() { # the smaller of a limit and what is left but a reserve for the report
    local l=$(($(left) - 8))
    [ "$l" -lt "$1" ] && echo "$l" || echo "$1"
}

record() { # name state seconds note
    "$PYTHON" -c 'import json, sys; print(json.dumps(dict(part=sys.argv[1], state=sys.argv[2], seconds=float(sys.argv[3]), note=sys.argv[4])))' \
        "$@" >>"$OUT/parts.jsonl"
    printf '[%3d s] %-7s %s%s\n' $((SECONDS - began)) "$2" "$1" "${4:+: $4}"
    [ "$2" = failed ] && failed=1
    return 0
}

# part NAME LIMIT COMMAND: output to the log, the last lines shown where it fails.  With soft=1 one that
# is not done in time, and has found nothing, is unfinished and no failure.
soft=0
part() {
    local name=$1 limit from=$SECONDS rc file
    limit=$(at_most $((emulate ? 8 * $2 : $2)))
    shift 2
    if [ "$limit" -lt 3 ]; then
        record "$name" not-run 0 "the time was used up"
        return 1
    fi
    file=$work/part.$(echo "$name" | tr -c 'a-z0-9\n' _).txt
    printf '[%3d s]         %s ...\n' $((SECONDS - began)) "$name"
    timeout -k 5 "$limit" bash -c "$*" >"$file" 2>&1
    rc=$?
    { echo "=== $name (exit status $rc)"; tail -c 400000 "$file"; } >>"$log"
    case $rc in
    0) record "$name" ok $((SECONDS - from)) "$(grep -E 'passed, .*failed' "$file" | tail -1)" ;;
    124 | 137) if [ $soft = 1 ] && ! grep -qE '^=+ (Error|Invalid|.* hazard)|FAILED' "$file"; then
        record "$name" partly $((SECONDS - from)) "nothing found in $limit s"
    else
        record "$name" failed $((SECONDS - from)) "not done within $limit s"
    fi ;;
    *)
        record "$name" failed $((SECONDS - from)) "exit status $rc"
        grep -E 'FAILED|rror|fatal|cannot|ERROR SUMMARY' "$file" | head -12 | cut -c1-220
        tail -3 "$file" | cut -c1-220
        ;;
    esac
    return "$rc"
}

wait_all() { # pids: failed=1 if one of them says so
    local pid
    for pid in "$@"; do
        wait "$pid" || failed=1
    done
}

# ---------------------------------------------------------------- machine and build
{
    echo "gpu-check $(date -u +%Y-%m-%dT%H:%MZ), $(git rev-parse --short HEAD 2>/dev/null || echo 'no git')"
    if [ $emulate = 1 ]; then
        echo "device   emulated: no figure means anything"
    else
        echo "device   $(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi')"
    fi
    echo "toolkit  $(nvcc --version 2>/dev/null | grep -o 'release .*')"
    echo "compiler $(gcc --version | head -1), $(nproc) processors, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
    echo "python   $("$PYTHON" -c 'import sys, torch; print(sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda, "cudnn", torch.backends.cudnn.version())' 2>/dev/null || echo 'no torch')"
} | tee "$OUT/machine.txt"
if [ $emulate = 1 ]; then
    library=$B/tests/emu/libdiffscaler-cuda.so
else
    library=$B/libdiffscaler-cuda.so
fi
# Another compiler may know warnings that ours does not.
part build 300 "nice make --no-print-directory -k -j$JOBS DEPS=0 GPU_CHECK=1 EXTRA=-Wno-error BUILD=$B gpu-programs $library"
$PYTHON tools/gpu_flatten.py "$B/flat" tests/golden/dit.safetensors
export DS_FLAT=$B/flat DS_TEST_DEVICES=cuda DIFFSCALER_CUDA_LIBRARY=$PWD/$library
# test_engine_cuda looks for the emulation under DS_BUILD: there it finds the library of this run.
mkdir -p "$work/tests/emu"
ln -sf "$PWD/$library" "$work/tests/emu/libdiffscaler-cuda.so"
export DS_BUILD=$work

if ! "$B/bin/gpu_steps" train cuda f32 tiny 1 "$work/probe" >"$work/probe.txt" 2>&1; then
    cat "$work/probe.txt" | tee -a "$log"
    record "device" failed 0 "$(tail -1 "$work/probe.txt" | cut -c1-160)"
    if grep -q 'cannot open the cuda device' "$work/probe.txt"; then
        $PYTHON bench/gpu/report.py table "$OUT" | sed -n '/^TABLE/,/^$/p'
        echo "gpu-check: the programs are built, but there is no GPU here: nothing was checked"
        exit 3
    fi
fi

# ---------------------------------------------------------------- checks
if [ $emulate = 1 ]; then
    shape=tiny steps=6 same=5 sample=3
else
    shape=small steps=50 same=20 sample=10
fi
# On the processor meanwhile.
"$B/bin/gpu_steps" train cpu f32 $shape $steps "$work/curve.cpu" >"$work/curve.txt" 2>&1 &
cpu=$!

tests=$(cd tests && ls test_kernels_*.c | grep -v -e _reference -e _gradients | sed "s|^|$B/bin/|; s|\.c$||")
pids=()
for t in $tests; do
    (failed=0; part "$(basename "$t" | sed 's/test_kernels_/kernels: /'), f32 bf16 tf32" 200 "$t"; exit $failed) &
    pids+=($!)
    [ $emulate = 1 ] && wait_all $! && pids=()
done
wait_all "${pids[@]}"
part "golden model" 60 "$B/bin/test_engine_golden"
[ -x "$B/bin/test_engine_cuda" ] && part "engine beside the processor" 60 "$B/bin/test_engine_cuda"
[ -x "$B/bin/test_engine_modulations" ] && part "modulations kept for many steps" 60 "$B/bin/test_engine_modulations"

for p in bf16 f32; do
    part "determinism, $p: the same $same steps in two processes" 60 \
        "$B/bin/gpu_steps train cuda $p $shape $same $work/same1 && $B/bin/gpu_steps train cuda $p $shape $same $work/same2 && cmp $work/same1 $work/same2"
    part "determinism, $p: an image alone and in a batch" 60 "$B/bin/gpu_steps sample cuda $p $shape $sample $work/images.$p"
done
wait $cpu || record "curve on the processor" failed 0 "$(tail -1 "$work/curve.txt")"
part "loss curve of $steps steps, f32, processor and GPU" 60 \
    "$B/bin/gpu_steps train cuda f32 $shape $steps $work/curve.gpu && $PYTHON bench/gpu/report.py curve $work/curve.cpu $work/curve.gpu 0.001"
grep '^{' "$work"/part.loss_curve*.txt >>"$OUT/bench.jsonl"

# ---------------------------------------------------------------- compute-sanitizer
# The first cases of every test, with the guard zones around each array on the device.  Racecheck looks
# at shared memory, so at the project's own kernels: those of the libraries are left out where the tool can.
sanitizer() { # tool limit cases
    local pids=() t without=
    if [ "$1" = racecheck ] && compute-sanitizer --help 2>/dev/null | grep -q -e --kernel-name-exclude; then
        without="--kernel-name-exclude kns=cutlass,kns=cublas,kns=cudnn,kns=nvjet,kns=gemm,kns=splitK"
    fi
    soft=1
    for t in $tests; do
        [ "$1 ${t##*_}" = "racecheck dense" ] && continue # libraries alone
        (failed=0; part "$1, $(basename "$t" | sed 's/test_kernels_//')" "$2" \
            "DS_TEST_FIRST=$3 compute-sanitizer --tool $1 $without --error-exitcode 9 --print-limit 20 $t"; exit $failed) &
        pids+=($!)
    done
    wait_all "${pids[@]}"
    soft=0
}
if [ $emulate = 1 ]; then
    record "compute-sanitizer" not-run 0 "there is no device"
elif command -v compute-sanitizer >/dev/null; then
    sanitizer memcheck 60 4
    sanitizer racecheck 40 2
else
    record "compute-sanitizer" not-run 0 "it is not installed"
fi

# ---------------------------------------------------------------- times
if [ $emulate = 1 ]; then
    part "bench (emulated: to try the program)" 120 \
        "$B/bin/bench_gpu cuda 20 tiny-gemm tiny-train-2 tiny-ops-2 tiny-sample tiny-sample-base tiny-mixed tiny-mixed-stacked tiny-small"
else
    part "bench of the large model" 110 \
        "$B/bin/bench_gpu cuda 80 gemm train-64 train-32 train-128 sample sample-base mixed mixed-stacked ops-64"
    part "bench of the small one and of features" 40 "$B/bin/bench_gpu cuda 24 small inception inception-8bit inception-f32"
    part "features: processor and GPU, f32 and TF32, recorded and alone" 40 "$B/bin/bench_gpu cuda 20 inception-same"
    part "pytorch" 260 "$PYTHON bench/gpu/peer_dit_cuda.py --budget $(($(at_most 260) - 6))"
    grep -h '^{' "$work"/part.bench*.txt "$work"/part.pytorch.txt >>"$OUT/bench.jsonl"
fi
echo
$PYTHON bench/gpu/report.py table "$OUT" || failed=1
if [ $failed = 1 ]; then
    echo "gpu-check: parts failed: see $OUT/report.txt and $OUT/log.txt"
    exit 1
fi
echo "gpu-check: all parts passed; $OUT/report.txt"
