#!/bin/sh
# tools/gate_bench.sh BUILD WORK - how often the comparison of a new version with its bar is wrong (docs/math.md has the figures).
# Trains 24 adapters of the digits that differ in their seed alone, on a small base of the photos that it makes first, or on BASE=FILE;
# spoils copies of them with noise; measures all on the same noise; and prints what the gate says of the pairs (bench/bench_gate.c).
# What is in WORK already is kept, so it goes on where it was.  Variables: BASE STEPS BATCH LR EMA N SAMPLE_STEPS NOISE.
set -eu
build=$(cd "$1" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
net=$root/models/inception-v3-mixed6c.safetensors.zst
base=${BASE:-$work/base.safetensors}
worker=$build/diffscaler-worker
n=${N:-128}
[ -f "$base" ] || "$worker" pretrain --data "$root/examples/photos" --out "$base" --name small --side 16 --patch 4 --width 64 --depth 3 \
    --heads 4 --steps 1500 --batch 32 --lr 0.002 --ema 0.995 --threads 1 --every 1500 --seed 1 >"$work/pretrain.log" 2>&1
mkdir -p "$work/scan"
cat >"$work/scan/spec.json" <<SPEC
{"schema":"diffscaler.job/1","kind":"scan","job":1,"dataset":"digits","root":"$root/examples/digits","hash_cache":"","min_side":8,
 "max_pixels":67108864,"max_classes":10000,"max_files":10000000}
SPEC
[ -f "$work/scan/manifest.ndjson" ] || "$worker" run "$work/scan" 2>"$work/scan/log"
tree=$(sha256sum <"$work/scan/manifest.ndjson" | cut -d' ' -f1)
base_sha=$(sha256sum <"$base" | cut -d' ' -f1)
net_sha=$(zstd -dc "$net" | sha256sum | cut -d' ' -f1)
for seed in $(seq -w 1 24); do
    job=$work/jobs/$seed
    mkdir -p "$job"
    [ -f "$job/result.json" ] && continue
    cat >"$job/spec.json" <<SPEC
{"schema":"diffscaler.job/1","kind":"train","job":1,"name":"digits","version":1,"device":{"kind":"cpu","precision":"bf16","threads":1},
 "base":{"name":"base","path":"$base","sha256":"$base_sha"},"feature_net":{"name":"inception","path":"$net","sha256":"$net_sha"},
 "dataset":{"name":"digits","version":1,"root":"$root/examples/digits","manifest":"$work/scan/manifest.ndjson","tree_digest":"$tree"},
 "cache_dir":"$work/cache","base_reference":{"cache":"$work/cache/base"},
 "method":{"name":"affiner","rank":4,"side":"out","phi":"identity","freeze_v":false,"targets":["q","k","v","proj","fc1","fc2","adaln","final"]},
 "train":{"steps":${STEPS:-1000},"batch":${BATCH:-32},"micro_batch":${BATCH:-32},"lr":${LR:-0.006},"warmup":10,"cosine":true,"clip":1.0,
  "weight_decay":0.0,"ema":${EMA:-0.99},"label_dropout":0.1,"flip":false,"seed":${seed#0},"vb_weight":1.0,"focus":0.8,"focus_mean":-0.6,
  "checkpoint_every":100000,"heldout_every":100000,"heldout":16},
 "sample":{"sampler":"dpmpp2m","steps":4,"guidance":1.5,"guidance_mode":"none"},
 "evaluate":{"n":4,"seed":7,"kid_subsets":2,"kid_subset_size":4},"probe":{"n":1,"seed":11},"old_tasks":[],
 "gate":{"verify":"auto","fd_tolerance":0.02,"kid_tolerance_sigmas":3.0}}
SPEC
    "$worker" run "$job" 2>"$job/log"
done
reference=$work/jobs/01/reference.safetensors.zst
features() { "$build/bench/bench_gate" features "$base" "$net" "$reference" "$work/features" "$n" "${SAMPLE_STEPS:-10}" "$@"; }
features "$work"/jobs/*/adapter.safetensors.zst
for noise in ${NOISE:-0.025 0.03}; do
    features --noise "$noise" "$work"/jobs/*/adapter.safetensors.zst
done
"$build/bench/bench_gate" judge "$reference" "$work"/features/??.features -- "$work"/features/??-*.features
