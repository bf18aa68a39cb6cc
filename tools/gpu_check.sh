#!/bin/bash
# tools/gpu_check.sh - on a machine with an NVIDIA GPU: build, check and time what only it can show.
#
#   tools/gpu_check.sh              all of it, within GPU_CHECK_SECONDS (570)
#   tools/gpu_check.sh bench pytorch        some of it: checks, bench, pytorch, sanitizer
#   tools/gpu_check.sh --emulate    the same script on the emulated GPU, small, without figures (CI)
#
# Needs nvcc (CUDA 13, cuBLAS, cuDNN, cuSOLVER), gcc, g++, make, python3; for the comparison PyTorch with
# CUDA and triton; compute-sanitizer for its part.  Writes report.txt, report.json and log.txt into $OUT
# (build/gpu/out); the report is written anew every few seconds, so that it is there whatever ends the
# script.  A part that fails or hangs does not stop the others: each has a time limit, and the order is
# that of their worth.  The exit status says whether all passed: 0 all, 1 a part failed, 3 there is no
# GPU (everything was built, nothing checked).
set -u
cd "$(dirname "$0")/.." || exit 1
emulate=0
[ "${1:-}" = --emulate ] && emulate=1 && shift
wanted=" ${*:-checks bench pytorch sanitizer} "
for what in $wanted; do
    case $what in
    checks | bench | pytorch | sanitizer) ;;
    *)
        echo "gpu_check.sh: there is no part '$what': checks, bench, pytorch, sanitizer" >&2
        exit 2
        ;;
    esac
done
wants() { [[ $wanted == *" $1 "* ]]; }
PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
B=${GPU_BUILD:-build/gpu}
OUT=${OUT:-$B/out}
JOBS=${JOBS:-$(nproc)}
PYTHON=${PYTHON:-python3}
BUDGET=${GPU_CHECK_SECONDS:-$((emulate ? 3600 : 570))}
mkdir -p "$B/work" "$OUT" || exit 1
work=$B/work log=$OUT/log.txt failed=0
rm -f "$work"/{part.*,parts.jsonl,machine.txt,python.txt} "$OUT"/{log.txt,under_way.txt,report.txt,report.json}
: >"$work/parts.jsonl"
began=$SECONDS
left() { echo $((BUDGET - (SECONDS - began))); }
at_most() { # the smaller of a limit and what is left but a reserve for the report
    local l=$(($(left) - 8))
    [ "$l" -lt "$1" ] && echo "$l" || echo "$1"
}

report() { "$PYTHON" bench/gpu/report.py table "$work" "$OUT" "$@"; }
(while sleep 6 && kill -0 $$; do
    report unfinished
    tail -c 20000 "$work"/part.*.txt >"$OUT/under_way.txt"
done) >/dev/null 2>&1 &
refresher=$!
trap 'kill $refresher 2>/dev/null' EXIT
finish() { # status message: the last report, and what it comes to
    kill $refresher 2>/dev/null
    wait $refresher 2>/dev/null
    rm -f "$OUT/under_way.txt" # all of it is in the log
    echo
    report || { [ "$1" = 0 ] && set -- 1 "no part failed, but the report could not be written"; }
    echo "gpu-check: $2"
    exit "$1"
}

record() { # name state seconds note
    "$PYTHON" -c 'import json, sys; print(json.dumps(dict(part=sys.argv[1], state=sys.argv[2], seconds=float(sys.argv[3]), note=sys.argv[4])))' \
        "$@" >>"$work/parts.jsonl"
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
        record "$name" partly $((SECONDS - from)) "stopped after $limit s, nothing found"
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
# The first import of PyTorch reads gigabytes: meanwhile.
timeout 100 "$PYTHON" -c 'import sys, torch; print(sys.version.split()[0], "torch", torch.__version__, "cuda", torch.version.cuda, "cudnn", torch.backends.cudnn.version())' \
    >"$work/python.txt" 2>/dev/null &
python=$!
{
    echo "gpu-check $(date -u +%Y-%m-%dT%H:%MZ), $(git rev-parse --short HEAD 2>/dev/null || echo 'no git')"
    if [ $emulate = 1 ]; then
        echo "device   emulated: no figure means anything"
    else
        echo "device   $(timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,clocks.max.sm,mig.mode.current --format=csv,noheader 2>/dev/null || echo 'no nvidia-smi')"
    fi
    echo "toolkit  $(nvcc --version 2>/dev/null | grep -o 'release .*')"
    echo "compiler $(gcc --version | head -1), $(nproc) processors, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
} | tee "$work/machine.txt"
if [ $emulate = 1 ]; then
    library=$B/tests/emu/libdiffscaler-cuda.so
else
    library=$B/libdiffscaler-cuda.so
fi
# cuDNN may have come with PyTorch alone.
cuda=$(dirname "$(dirname "$(realpath "$(command -v nvcc)" 2>/dev/null)")")
if [ -z "${CUDNN_HOME:-}" ] && [ ! -e "$cuda/include/cudnn.h" ] && ! ls /usr/include/{,x86_64-linux-gnu/}cudnn.h >/dev/null 2>&1; then
    CUDNN_HOME=$("$PYTHON" -c 'import nvidia.cudnn; print(list(nvidia.cudnn.__path__)[0])' 2>/dev/null)
    [ -n "$CUDNN_HOME" ] && [ -e "$CUDNN_HOME/lib/libcudnn.so.9" ] && export CUDNN_HOME || unset CUDNN_HOME
    echo "cudnn    ${CUDNN_HOME:-none: own kernels do attention and convolutions}" | tee -a "$work/machine.txt"
fi
# Another compiler may know warnings that ours does not.
part build 300 "nice make --no-print-directory -k -j$JOBS DEPS=0 GPU_CHECK=1 EXTRA=-Wno-error BUILD=$B gpu-programs $library"
wait $python && echo "python   $(cat "$work/python.txt")" | tee -a "$work/machine.txt" || echo "python   no torch" | tee -a "$work/machine.txt"
$PYTHON tools/gpu_flatten.py "$B/flat" tests/golden/dit.safetensors
export DS_FLAT=$B/flat DS_TEST_DEVICES=cuda DIFFSCALER_CUDA_LIBRARY=$PWD/$library
# test_engine_cuda looks for the emulation under DS_BUILD: there it finds the library of this run.
mkdir -p "$work/tests/emu"
ln -sf "$PWD/$library" "$work/tests/emu/libdiffscaler-cuda.so"
export DS_BUILD=$work

if ! timeout -k 5 90 "$B/bin/gpu_steps" train cuda f32 tiny 1 "$work/probe" >"$work/probe.txt" 2>&1; then
    cat "$work/probe.txt" | tee -a "$log"
    record "device" failed 0 "$(tail -1 "$work/probe.txt" | cut -c1-160)"
    if grep -q 'cannot open the cuda device' "$work/probe.txt"; then
        if [ -e "$library" ] && ! timeout 20 nvidia-smi -L >/dev/null 2>&1; then
            finish 3 "the programs are built, but there is no GPU here: nothing was checked"
        fi
        finish 1 "the device was not built, or cannot be opened: see $log"
    fi
fi

# ---------------------------------------------------------------- checks
# All at once: none is timed, and each has a processor for its reference.
if [ $emulate = 1 ]; then
    shape=tiny steps=6 same=5 sample=3
else
    shape=small steps=50 same=20 sample=10
fi
tests=$(cd tests/kernels && ls test_kernels_*.c | grep -v -e _reference -e _gradients | sed "s|^|$B/bin/|; s|\.c$||")
pids=()
begin() { # a part beside others; one by one in emulation
    (failed=0; part "$@"; exit $failed) &
    pids+=($!)
    [ $emulate = 1 ] && wait_all $! && pids=()
}
checks() {
    local t p
    for t in $tests; do
        begin "$(basename "$t" | sed 's/test_kernels_/kernels: /'), f32 bf16 tf32" 120 "$t"
    done
    begin "golden model" 60 "$B/bin/test_engine_golden"
    begin "engine beside the processor" 75 "$B/bin/test_engine_cuda"
    begin "modulations kept for many steps" 75 "$B/bin/test_engine_modulations"
    for p in bf16 f32; do
        begin "determinism, $p: the same $same steps in two processes" 60 \
            "$B/bin/gpu_steps train cuda $p $shape $same $work/same1.$p && $B/bin/gpu_steps train cuda $p $shape $same $work/same2.$p && cmp $work/same1.$p $work/same2.$p"
        begin "determinism, $p: an image alone and in a batch" 60 "$B/bin/gpu_steps sample cuda $p $shape $sample $work/images.$p"
    done
    begin "loss curve of $steps steps, f32, processor and GPU" 75 \
        "$B/bin/gpu_steps train cpu f32 $shape $steps $work/curve.cpu && $B/bin/gpu_steps train cuda f32 $shape $steps $work/curve.gpu && $PYTHON bench/gpu/report.py curve $work/curve.cpu $work/curve.gpu 0.001"
    wait_all "${pids[@]}"
}
wants checks && checks

# ---------------------------------------------------------------- times
# The bench starts anew behind a part that breaks it; the quick ways of PyTorch stand before those that compile.
if [ $emulate = 1 ]; then
    wants bench && part "bench (emulated: to try the program)" 120 \
        "$B/bin/bench_gpu cuda 60 tiny-gemm tiny-train-2 tiny-ops-2 tiny-sample tiny-sample-base tiny-mixed tiny-mixed-stacked tiny-small"
elif wants bench; then
    part "bench of the large model" 110 \
        "$B/bin/bench_gpu cuda 80 gemm train-64 train-32 train-128 sample sample-base mixed mixed-stacked ops-64"
    part "bench of the small one and of features" 50 "$B/bin/bench_gpu cuda 24 small inception inception-8bit inception-f32"
    part "features: processor and GPU, f32 and TF32, recorded and alone" 40 "$B/bin/bench_gpu cuda 20 inception-same"
fi
peer() { # name limit stage
    local limit
    limit=$(at_most "$2")
    [ $emulate = 1 ] && set -- "$@" "--device cpu --tiny" && limit=$2
    soft=1
    part "$1" "$2" "$PYTHON bench/gpu/peer_dit_cuda.py --budget $((limit - 6)) --stage $3 ${4:-}"
    soft=0
}
torch=1
grep -q 'no torch' "$work/machine.txt" && torch=0
if wants pytorch; then
    if [ $torch = 1 ]; then
        peer "pytorch" 240 first
    else
        record "pytorch" not-run 0 "$PYTHON has no torch"
    fi
fi

# ---------------------------------------------------------------- compute-sanitizer
# The first cases of every test, with the guard zones around each array on the device.  Racecheck looks
# at shared memory, so at the project's own kernels: those of the libraries are left out where the tool can.
sanitizer() { # tool limit cases
    local t without=
    if [ "$1" = racecheck ] && compute-sanitizer --help 2>/dev/null | grep -q -e --kernel-name-exclude; then
        without="--kernel-name-exclude kns=cutlass,kns=cublas,kns=cudnn,kns=nvjet,kns=gemm,kns=splitK"
    fi
    for t in $tests; do
        [ "$1 ${t##*_}" = "racecheck dense" ] && continue # libraries alone
        begin "$1, $(basename "$t" | sed 's/test_kernels_//')" "$2" \
            "DS_TEST_FIRST=$3 compute-sanitizer --tool $1 $without --error-exitcode 9 --print-limit 20 $t"
    done
}
if ! wants sanitizer; then
    :
elif [ $emulate = 1 ]; then
    record "compute-sanitizer" not-run 0 "there is no device"
elif command -v compute-sanitizer >/dev/null; then
    soft=1 pids=()
    sanitizer memcheck 50 4
    sanitizer racecheck 50 2
    wait_all "${pids[@]}"
    soft=0
else
    record "compute-sanitizer" not-run 0 "it is not installed"
fi

wants pytorch && [ $torch = 1 ] && [ $emulate = 0 ] && peer "pytorch, slow modes" 400 rest
[ $failed = 1 ] && finish 1 "parts failed: see $OUT/report.txt and $log"
finish 0 "no part failed; $OUT/report.txt"
