#!/bin/bash
# tests/long/at_size.sh BUILD - a registry with 10^6 adapters of 5,000 datasets, made by SQL: how long the daemon
# takes to start on it, and how long it takes to answer what people and machines ask all the time.
# DS_ADAPTERS (1000000), DS_DATASETS (5000), DS_REQUESTS (300 each).  Fails where p99 is 5 ms or more, or a start
# takes 0.5 s or more; DS_NO_LIMITS=1 only prints.  Prints a line for each.
set -u
build=$(realpath "${1:-build/release}")
adapters=${DS_ADAPTERS:-1000000} datasets=${DS_DATASETS:-5000} requests=${DS_REQUESTS:-300}
for tool in sqlite3 curl; do
    command -v $tool >/dev/null || { echo "SKIPPED at_size: $tool is not installed"; echo "at_size: 0 passed, 0 failed, 1 skipped"; exit 0; }
done
work=$(mktemp -d "${TMPDIR:-/var/tmp}/at-size.XXXXXX")
pid= passed=0 failed=0
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
state=$work/state db=$work/state/registry.db

check() { # NAME VALUE LIMIT UNIT
    local ok=1
    awk -v a="$2" -v b="$3" 'BEGIN {exit !(a < b)}' || ok=0
    [ -z "${DS_NO_LIMITS:-}" ] || ok=1
    [ $ok = 1 ] && passed=$((passed + 1)) || failed=$((failed + 1))
    printf '%-44s %9s %s%s\n' "$1" "$2" "$4" "$([ $ok = 1 ] || echo "  (limit $3)")"
}

start() { # seconds until readyz says ok, in $took
    local began
    began=$(date +%s%N)
    "$build/diffscalerd" --state "$state" --workers 0 --rescan 0 2>>"$work/log" &
    pid=$!
    until curl -sf --unix-socket "$state/socket" http://d/readyz >/dev/null 2>&1; do
        kill -0 $pid 2>/dev/null || { cat "$work/log"; echo "at_size: 0 passed, 1 failed, 0 skipped"; exit 1; }
        sleep 0.01
    done
    took=$(awk -v a="$began" -v b="$(date +%s%N)" 'BEGIN {printf "%.3f", (b - a) / 1e9}')
}
stop() {
    kill -TERM "$pid"
    wait "$pid"
    pid=
}

start
stop
mkdir -p "$work/data"
for i in $(seq "$datasets"); do mkdir "$work/data/$i"; done
sqlite3 "$db" >/dev/null <<SQL || exit 1
PRAGMA synchronous=OFF; PRAGMA cache_size=-200000;
BEGIN;
CREATE TEMP TABLE n AS WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < $adapters) SELECT i FROM c;
CREATE TEMP TABLE d AS SELECT i FROM n WHERE i <= $datasets;
INSERT INTO blobs(digest, raw_bytes, stored_bytes, stored_sha256, media_type, created_at)
  SELECT printf('%064x', i), 645000, 525000, printf('%064x', i), 'application/x-safetensors', 1700000000000 + i FROM n;
INSERT INTO datasets(id, name, source_path, state, scan_done, created_at)
  SELECT i, 'set' || i, '$work/data/' || i, 'ready', 1, 1700000000000 + i FROM d;
INSERT INTO dataset_versions(id, dataset_id, version, tree_digest, manifest_digest, images, bytes, class_count, classes, created_at)
  SELECT i, i, 1, printf('%064x', i), printf('%064x', i), 500, 5000000, 1, '[{"name":"all","images":500}]', 1700000000000 FROM d;
UPDATE datasets SET version_id = id;
INSERT INTO adapters(id, name, dataset_id, last_version, created_at)
  SELECT i, 'set' || i, i, $adapters / $datasets + 1, 1700000000000 FROM d;
INSERT INTO jobs(id, kind, state, name, dataset_id, dataset_version_id, base_id, created_at, finished_at, result)
  SELECT i, 'train', 'done', 'set' || (1 + i % $datasets), 1 + i % $datasets, 1 + i % $datasets, 1, 1700000000000, 1700000001000, '{}' FROM n
   WHERE i <= $adapters / 5;
INSERT INTO adapter_versions(id, adapter_id, version, status, digest, dataset_version_id, base_id, job_id, generation, method, rank, steps, seed,
  parameters, images, class_count, fd, fd_base, kid, n, config, created_at)
  SELECT i, 1 + i % $datasets, 1 + i / $datasets, CASE i % 10 WHEN 0 THEN 'rejected' ELSE 'published' END, printf('%064x', i),
   1 + i % $datasets, 1, 1 + i % ($adapters / 5), 1, 'affiner', 8, 800, 1, 274796, 500, 1, 5 + i % 7, 50, 0.01, 512, '{}', 1700000000000 + i FROM n;
INSERT INTO aliases(adapter_id, alias, version_id, updated_at)
  SELECT av.adapter_id, 'latest', max(av.id), 1700000000000 FROM adapter_versions av WHERE av.status = 'published' GROUP BY av.adapter_id;
INSERT INTO evaluations(at, job_id, adapter_version_id, dataset_version_id, base_id, subject, metric, value, feature_net, resize)
  SELECT 1700000000000, 1 + i % ($adapters / 5), i, 1 + i % $datasets, 1, 'adapter', 'fd', 5 + i % 7, printf('%064x', 7), 'pil-bicubic-1' FROM n;
COMMIT;
ANALYZE;
PRAGMA wal_checkpoint(TRUNCATE);
SQL
for i in 1 2 3; do
    start
    [ "$i" = 3 ] || stop
    echo "$took" >>"$work/starts"
done
echo "registry of $(du -m "$db" | cut -f1) MB, $adapters adapters, $datasets datasets"
check "start until ready (median of 3)" "$(sort -n "$work/starts" | sed -n 2p)" 0.5 s
sleep 3

ask() { # PATH: p50 and p99 in ms of $requests, over one connection
    for _ in $(seq "$requests"); do printf 'url = "http://d%s"\noutput = /dev/null\n' "$1"; done >"$work/urls"
    curl -s --unix-socket "$state/socket" -w '%{time_total} %{http_code}\n' -K "$work/urls" >"$work/times"
    grep -v ' 200$' "$work/times" | head -1
    awk '{print $1 * 1000}' "$work/times" | sort -n >"$work/sorted"
    p50=$(sed -n "$((requests / 2))p" "$work/sorted")
    p99=$(sed -n "$((requests * 99 / 100))p" "$work/sorted")
}
for path in /healthz /readyz /metrics /v1/status /v1/adapters '/v1/adapters?dataset=set77' '/v1/adapters?status=rejected' /v1/datasets \
    '/v1/datasets?cursor=set4000' /v1/jobs '/v1/jobs?state=done' '/v1/jobs?dataset=set77' '/v1/jobs?state=failed' /v1/evaluations \
    '/v1/evaluations?metric=fd' '/v1/evaluations?dataset=set77' /v1/datasets/set77 /v1/adapters/set77 /v1/adapters/set77@v5 /v1/bases \
    /v1/feature_nets /v1/adapters/set77/aliases; do
    ask "$path"
    check "$path (p50 $p50)" "$p99" 5 "ms p99"
done
stop
echo "at_size: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
