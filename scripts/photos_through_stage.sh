#!/usr/bin/env bash
# 4,000 real photos through `tagstream run`: embedded broker, a CLIP model, Parquet files, and three
# independent readers.
#
#   TAGSTREAM_BENCH_DIR=DIR scripts/photos_through_stage.sh [TAGSTREAM] [COUNT]
#
# DIR holds corel5k/images.tar (JPEG files), corel5k/categories.txt (a name a line) and lab-clip/
# (what `tagstream init --clip` takes). TAGSTREAM is the binary (default: target/release/tagstream).
# Prints images/s from the first message to the last file, the peak memory of the process, and what
# scripts/check_readers.py finds. Needs `eval "$(scripts/setup.sh test)"` before, for the readers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "photos_through_stage.sh: $*" >&2; exit 1; }
data=${TAGSTREAM_BENCH_DIR:-}
[ -n "$data" ] && [ -f "$data/corel5k/images.tar" ] && [ -d "$data/lab-clip" ] \
    || die "NOT RUN: TAGSTREAM_BENCH_DIR names no folder with corel5k/images.tar and lab-clip/"
tagstream=${1:-target/release/tagstream} count=${2:-4000}
[ -x "$tagstream" ] || die "$tagstream is not there: make build"

work=$(mktemp -d)
broker=
finish() { [ -n "$broker" ] && kill "$broker" 2>/dev/null; rm -rf "$work"; }
trap finish EXIT

mkdir "$work/images"
tar -xf "$data/corel5k/images.tar" -C "$work/images"
find "$work/images" -name '*.jp*g' | sort | sed -n "1,${count}p" >"$work/list"
[ "$(wc -l <"$work/list")" = "$count" ] || die "images.tar holds fewer than $count photos"
"$tagstream" init --clip "$data/lab-clip" --categories "$data/corel5k/categories.txt" \
    --out "$work/model" >"$work/init.log" 2>&1 \
    || { cat "$work/init.log" >&2; die "init failed"; }

mkfifo "$work/hold"
"$tagstream" broker --topic images:4 --topic predictions:4 --topic dead-letters:1 \
    --address-file "$work/address" \
    <"$work/hold" >"$work/broker.log" 2>&1 &
broker=$!
exec 9>"$work/hold"
timeout 30 bash -c 'until [ -f "$1" ]; do sleep 0.05; done' _ "$work/address" \
    || { cat "$work/broker.log" >&2; die "no broker"; }
address=$(cat "$work/address")
"$tagstream" produce --brokers "$address" --topic images "$work/list" >"$work/produce.log" 2>&1 \
    || { cat "$work/produce.log" >&2; die "produce failed"; }

cat >"$work/stage.toml" <<CONFIG
kafka.brokers = "$address"
output.url = "$work/tables"
fetch.allow_schemes = ["file"]
fetch.allow_path_prefixes = ["$work/images"]
http.bind = ""
log.format = "json"
CONFIG
python3 - "$tagstream" "$work" "$count" <<'PYTHON'
import datetime, json, os, resource, subprocess, sys
binary, work, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(f"{work}/run.log", "w") as log:
    command = [binary, "run", "--until-drained", "--config", f"{work}/stage.toml"]
    code = subprocess.call([*command, "--model", f"{work}/model"], stderr=log)
lines = [json.loads(line) for line in open(f"{work}/run.log") if line.startswith("{")]
if code:
    sys.exit("".join(open(f"{work}/run.log")) + f"tagstream run ended with {code}")
def at(text):
    times = [l["timestamp"] for l in lines if text in l.get("message", "")]
    return [datetime.datetime.fromisoformat(time.replace("Z", "+00:00")) for time in times]
seconds = (at("file committed")[-1] - at("partition assigned")[0]).total_seconds()
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(json.dumps({"images": count, "seconds": round(seconds, 2),
                  "images_per_second": round(count / seconds, 1),
                  "peak_memory_mib": round(peak), "cores": os.cpu_count()}))
PYTHON
sparks=()
IFS=: read -r -a pythons <<<"${TAGSTREAM_SPARK_PYTHONS:-}"
for python in ${pythons[@]+"${pythons[@]}"}; do sparks+=(--spark "$python"); done
"${TAGSTREAM_READERS_PYTHON:-python3}" scripts/check_readers.py "$work/tables/predictions" \
    --messages "$count" --dead-letters 0 ${sparks[@]+"${sparks[@]}"}
