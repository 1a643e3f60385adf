#!/usr/bin/env bash
# New series: what a method is worth on pictures without relatives in training. Whole series of
# photos are on one side (docs/benchmarks.md has the protocol); everything that is tuned inside is
# cross-validated by series. One row a run is appended to benches/quality/new_series.csv; a run
# whose row is there already is skipped. Ends with the means over folds and mask seeds.
#
#   TAGSTREAM_BENCH_DIR=/path/to/bench benches/quality/new_series.sh
#
# The folder is that of run.sh, with corel5k/new_series.csv: image_id and a column fold0, fold1, ...
# that says train or test. KNOWN takes shares, `none` (pictures without any label) and `single` (one
# positive label a picture). To narrow it:
#   METHODS="zero-shot trm-ml" KNOWN="none 0.1 0.5 single" SEEDS="0 1 2" FOLDS="fold0 fold1" \
#       OVERRIDES="memory.words=0" NAME=no-words benches/quality/new_series.sh
# With further views of each picture in the encoder (three times its work):
#   VIEWS=mirror,middle NAME=views METHODS=trm-ml benches/quality/new_series.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TAGSTREAM_BENCH_DIR:?names the folder with corel5k/ and lab-clip/; needed to measure}"
data=$TAGSTREAM_BENCH_DIR/corel5k
METHODS=${METHODS:-"zero-shot linear-probe trm-ml"}
KNOWN=${KNOWN:-"none 0.1 0.5 single"}
SEEDS=${SEEDS:-"0 1 2"}
FOLDS=${FOLDS:-$(head -1 "$data/new_series.csv" | tr -d '\r' | cut -d, -f2- | tr ',' ' ')}
OVERRIDES=${OVERRIDES:-}
NAME=${NAME:-}
ROWS=${ROWS:-benches/quality/new_series.csv}
SERIES=${SERIES:-'^(\d+)\d{3}$'}
. benches/quality/common.sh

model=$TAGSTREAM_BENCH_DIR/lab-clip
if [ -n "${VIEWS:-}" ]; then
  "$tagstream" init --clip "$model" --categories "$data/categories.txt" --views "$VIEWS" \
      --out "$work/model"
  model=$work/model
fi

for fold in $FOLDS; do
  python3 benches/quality/series.py split "$data" "$fold" "$work"
  for method in $METHODS; do
    for known in $KNOWN; do
      for seed in $SEEDS; do
        key=36,$fold,$method,$NAME,$OVERRIDES,$known,$seed
        if grep -qF ",$key," "$ROWS"; then continue; fi
        case $known in
          none)
            # Nothing is drawn: one seed says it all. Other methods have nothing to learn from.
            if [ "$method" != trm-ml ] || [ "$seed" != 0 ]; then continue; fi
            mask=(--known 0) ;;
          single) mask=(--single-positive) ;;
          *) mask=(--known "$known") ;;
        esac
        out=$work/$fold-$method-$known-$seed
        settings=(); for change in $OVERRIDES; do settings+=(--set "$change"); done
        "$tagstream" train --model "$model" --labels "$data/labels.csv" \
          --images "$data/images.tar" --split "$work/$fold.csv:train" \
          --categories "$data/categories.txt" --group-pattern "$SERIES" --method "$method" \
          --seed "$seed" "${mask[@]}" --mask-seed "$seed" "${settings[@]}" \
          --out "$out" --json > "$out.train.json"
        "$tagstream" eval --model "$out" --labels "$work/$fold.counted.csv" \
          --images "$data/images.tar" --split "$work/$fold.csv:test" --json > "$out.eval.json"
        python3 benches/quality/row.py "$out.train.json" "$out.eval.json" \
            "$(date -u +%FT%TZ),$host,$commit,$key" >> "$ROWS"
        tail -1 "$ROWS" | cut -d, -f4- >&2
        rm -rf "$out" "$out.run"
      done
    done
  done
done
python3 benches/quality/series.py means "$ROWS"
