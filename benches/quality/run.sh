#!/usr/bin/env bash
# The quality table: trains every method on partially labelled Corel5k photos and measures it on the
# fully labelled dev split. One row a run is appended to benches/quality/corel5k.csv;
# benches/quality/table.py turns the rows into a table. A run whose row is there already is skipped,
# so that an interrupted table is finished by the same command; to repeat, name other ROWS.
#
#   TAGSTREAM_BENCH_DIR=/path/to/bench benches/quality/run.sh
#
# The folder holds corel5k/ (images.tar, labels.csv, labels74.csv.gz, categories.txt,
# categories74.txt, splits.csv) and lab-clip/ (encoder.onnx, text_encoder.safetensors, config.json,
# tokenizer.json). What is run can be narrowed:
#   METHODS="trm-ml" KNOWN="0.1" SEEDS="0 1" SETS="36" \
#       OVERRIDES="distillation.weight=0" NAME=no-kd benches/quality/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TAGSTREAM_BENCH_DIR:?names the folder with corel5k/ and lab-clip/; needed to measure}"
METHODS=${METHODS:-"zero-shot linear-probe dualcoop positive-coop trm-ml-base trm-ml"}
KNOWN=${KNOWN:-"0.1 0.5 0.9"}
SEEDS=${SEEDS:-"0 1 2"}
SETS=${SETS:-"36 74"}
OVERRIDES=${OVERRIDES:-}
NAME=${NAME:-}
SPLIT=${SPLIT:-dev}
ROWS=${ROWS:-benches/quality/corel5k.csv}
. benches/quality/common.sh
data=$TAGSTREAM_BENCH_DIR/corel5k

for set in $SETS; do
  case $set in
    36) labels=$data/labels.csv categories=$data/categories.txt ;;
    74) labels=$data/labels74.csv.gz categories=$data/categories74.txt ;;
    *) echo "there is no set $set (36 or 74)" >&2; exit 2 ;;
  esac
  for method in $METHODS; do
    for known in $KNOWN; do
      for seed in $SEEDS; do
        key=$set,$SPLIT,$method,$NAME,$OVERRIDES,$known,$seed
        if grep -qF ",$key," "$ROWS"; then continue; fi
        out=$work/$set-$method-$known-$seed
        settings=(); for change in $OVERRIDES; do settings+=(--set "$change"); done
        "$tagstream" train --model "$TAGSTREAM_BENCH_DIR/lab-clip" --labels "$labels" \
          --images "$data/images.tar" --split "$data/splits.csv:train" \
          --categories "$categories" --method "$method" --seed "$seed" --known "$known" \
          --mask-seed "$seed" --no-calibration "${settings[@]}" --out "$out" \
          --json > "$out.train.json"
        "$tagstream" eval --model "$out" --labels "$labels" --images "$data/images.tar" \
          --split "$data/splits.csv:$SPLIT" --json > "$out.eval.json"
        python3 benches/quality/row.py "$out.train.json" "$out.eval.json" \
            "$(date -u +%FT%TZ),$host,$commit,$key" >> "$ROWS"
        tail -1 "$ROWS" | cut -d, -f4- >&2
        rm -rf "$out" "$out.run"
      done
    done
  done
done
