#!/usr/bin/env bash
# The demo model on scenes it was not made for: draws pale scenes, trains every method on a part of
# their labels and measures it on other pale scenes. Needs nothing that is not in the repository.
# One row a run is appended to benches/quality/scenes.csv; a run whose row is there already is
# skipped.
#
#   METHODS="zero-shot dualcoop trm-ml" KNOWN=0.1 SEEDS="0 1 2" benches/quality/scenes.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
METHODS=${METHODS:-"zero-shot dualcoop trm-ml-base trm-ml"}
KNOWN=${KNOWN:-0.1}
SEEDS=${SEEDS:-"0 1 2"}
OVERRIDES=${OVERRIDES:-}
NAME=${NAME:-}
TRAIN=${TRAIN:-1500}
TEST=${TEST:-800}
ROWS=${ROWS:-benches/quality/scenes.csv}
. benches/quality/common.sh
"$tagstream" scenes --out "$work/train" --count "$TRAIN" --seed 7001 --style pale
"$tagstream" scenes --out "$work/test" --count "$TEST" --seed 9001 --style pale
"$tagstream" init --clip models/demo-clip --categories "$work/train/categories.txt" \
    --out "$work/model"

for method in $METHODS; do
  for known in $KNOWN; do
    for seed in $SEEDS; do
      key=pale-$TRAIN,unseen,$method,$NAME,$OVERRIDES,$known,$seed
      if grep -qF ",$key," "$ROWS"; then continue; fi
      out=$work/$method-$known-$seed
      settings=(); for change in $OVERRIDES; do settings+=(--set "$change"); done
      "$tagstream" train --model "$work/model" --labels "$work/train/labels.csv" \
        --images "$work/train/images" --categories "$work/train/categories.txt" \
        --method "$method" --seed "$seed" --known "$known" --mask-seed "$seed" \
        --no-calibration "${settings[@]}" --out "$out" --json > "$out.train.json"
      "$tagstream" eval --model "$out" --labels "$work/test/labels.csv" \
        --images "$work/test/images" --json > "$out.eval.json"
      python3 benches/quality/row.py "$out.train.json" "$out.eval.json" \
        "$(date -u +%FT%TZ),$host,$commit,$key" >> "$ROWS"
      tail -1 "$ROWS" | cut -d, -f4- >&2
      rm -rf "$out" "$out.run"
    done
  done
done
