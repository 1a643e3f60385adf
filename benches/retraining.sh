#!/usr/bin/env bash
# A retraining from label events beside `tagstream train` on the same labels: does the road over
# broker, label store, registry and job cost quality? And what does it cost in time and memory?
#
#   TAGSTREAM_BENCH_DIR=/path/to/bench TAGSTREAM=target/release/tagstream benches/retraining.sh
#
# The folder holds corel5k/ and lab-clip/ as in docs/benchmarks.md. Of the labels of the 2,200
# training photos a share is drawn (KNOWN, SEED; numpy's RandomState as in the protocol there), sent
# as label events to a real Apache Kafka, filed by `tagstream run --only labels`, and learned by
# `tagstream retrain`; `tagstream train` gets the same labels as a file. Both are measured on the
# 800 photos of the dev split with all their labels. One row is appended to
# benches/runs/retraining.csv.
#   KNOWN=0.1 SEED=0 HELD_OUT=0.2 SET='["prompts.train=false"]'
# RUNNER is put before `retrain` and `train` (for example `nice -n -5`); the job's report is copied
# to REPORT, if that is set.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TAGSTREAM_BENCH_DIR:?names the folder with corel5k/ and lab-clip/; needed to measure}"
: "${TAGSTREAM:?names the release binary}"
KNOWN=${KNOWN:-0.1} SEED=${SEED:-0} HELD_OUT=${HELD_OUT:-0.2} SET=${SET:-[]} \
    PYTHON=${PYTHON:-python3}
ROWS=${ROWS:-benches/runs/retraining.csv}
export TAGSTREAM_KAFKA_PORT=${TAGSTREAM_KAFKA_PORT:-20992}
data=$TAGSTREAM_BENCH_DIR/corel5k clip=$TAGSTREAM_BENCH_DIR/lab-clip
work=$(mktemp -d)
export TAGSTREAM_KAFKA_DIR=$work/kafka
trap 'scripts/kafka.sh stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
say() { echo "retraining.sh: $*" >&2; }

mkdir "$work/images" && tar -xf "$data/images.tar" -C "$work/images"
"$PYTHON" - "$data" "$work" "$KNOWN" "$SEED" <<'PY'
import csv, numpy, os, sys
data, work, known, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
found = [(d, f) for d, _, fs in os.walk(f"{work}/images") for f in fs]
files = {os.path.splitext(f)[0]: os.path.join(d, f) for d, f in found}
train = {r["image_id"] for r in csv.DictReader(open(f"{data}/splits.csv")) if r["split"] == "train"}
rows = [r for r in csv.DictReader(open(f"{data}/labels.csv")) if r["image_id"] in train]
images = list(dict.fromkeys(r["image_id"] for r in rows))
names = [line for line in open(f"{data}/categories.txt").read().split("\n") if line]
drawn = numpy.random.RandomState(seed).rand(len(images), len(names)) < known
i, k = ({x: n for n, x in enumerate(xs)} for xs in (images, names))
with open(f"{work}/labels.csv", "w") as out:
    out.write("image_id,label,state,uri\n")
    for r in rows:
        if drawn[i[r["image_id"]], k[r["label"]]]:
            out.write(f'{r["image_id"]},{r["label"]},{r["state"]},file://{files[r["image_id"]]}\n')
PY
say "$(($(wc -l < "$work/labels.csv") - 1)) labels are known"

say "label events to a broker, and into the label store"
brokers=$(scripts/kafka.sh start --brokers 1)
scripts/kafka.sh tool TopicCommand --create --topic labels --partitions 2 >&2
"$TAGSTREAM" labels import "$work/labels.csv" --annotator bench --brokers "$brokers" \
    --topic labels >&2
cat > "$work/stage.toml" <<TOML
[kafka]
brokers = "$brokers"
[model]
path = "$work/registry"
[output]
url = "$work/tables"
[labels]
enabled = true
[http]
bind = ""
TOML
"$TAGSTREAM" run --config "$work/stage.toml" --only labels --until-drained >&2

say "the champion: zero-shot"
"$TAGSTREAM" init --clip "$clip" --categories "$data/categories.txt" --out "$work/zero-shot" >&2
"$TAGSTREAM" registry add "$work/zero-shot" --promote --registry "$work/registry" >&2

say "retrain"
cat > "$work/retrain.toml" <<TOML
[registry]
url = "$work/registry"
[labels]
url = "$work/tables"
[fetch]
allow_schemes = ["file"]
allow_path_prefixes = ["$work/images"]
[features]
cache = "$work/features"
[train]
set = $SET
seed = $SEED
work_folder = "$work/work"
[judge]
held_out_share = $HELD_OUT
[report]
folder = "$work/report"
TOML
code=0
load=$(cut -d' ' -f1 /proc/loadavg)
# shellcheck disable=SC2086
${RUNNER:-} "$TAGSTREAM" retrain --config "$work/retrain.toml" >&2 || code=$?
case $code in 0 | 3 | 99) ;; *) say "retrain failed: $code"; exit 1 ;; esac

say "train on the same labels"
settings=()
while read -r change; do [ -n "$change" ] && settings+=(--set "$change"); done < <("$PYTHON" -c \
    'import json, sys; print("\n".join(json.loads(sys.argv[1])))' "$SET")
# shellcheck disable=SC2086
${RUNNER:-} /usr/bin/env time -f '%M' -o "$work/train.kib" "$TAGSTREAM" train \
    --model "$work/zero-shot" --labels "$work/labels.csv" --images "$work/images" \
    --categories "$data/categories.txt" --seed "$SEED" --no-calibration "${settings[@]}" \
    --out "$work/trained" --json > "$work/train.json"

for version in 1 2; do
    "$TAGSTREAM" eval --model "$work/registry@$version" --labels "$data/labels.csv" \
        --images "$work/images" --split "$data/splits.csv:dev" --json \
        > "$work/version-$version.json"
done
"$TAGSTREAM" eval --model "$work/trained" --labels "$data/labels.csv" --images "$work/images" \
    --split "$data/splits.csv:dev" --json > "$work/trained.json"

host="$(nproc) x $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -1 | tr ',' ' ')"
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD || echo +)
mkdir -p "$(dirname "$ROWS")"
columns=time,host,load,commit,known,mask_seed,held_out,changes,exit_code,
columns+=map_zero_shot,map_retrain,map_train,
columns+=retrain_features_s,retrain_training_s,retrain_judging_s,retrain_total_s,
columns+=retrain_peak_mib,train_training_s,train_peak_mib
[ -s "$ROWS" ] || echo "$columns" > "$ROWS"
start="$(date -u +%FT%TZ),$host,$load,$commit,$KNOWN,$SEED,$HELD_OUT,${SET//,/;},$code"
"$PYTHON" - "$work" "$start" >> "$ROWS" <<'PY'
import json, sys
work, start = sys.argv[1:3]
load = lambda name: json.load(open(f"{work}/{name}.json"))
maps = [load(name)["map_plain"] for name in ("version-1", "version-2", "trained")]
cost = load("report/report")["cost"]
seconds = dict(cost["seconds"])
features = sum(s for name, s in seconds.items() if "features" in name)
trained = load("train")
took = (features, seconds["training"], seconds["judging"], sum(seconds.values()))
print(start, *(f"{m:.3f}" for m in maps), *(f"{s:.1f}" for s in took), cost["peak_mib"],
      f"{trained['seconds']['training']:.1f}", int(open(f"{work}/train.kib").read()) // 1024,
      sep=",")
PY
[ -z "${REPORT:-}" ] || { mkdir -p "$REPORT" && cp "$work"/report/report.* "$REPORT"; }
tail -1 "$ROWS"
