#!/usr/bin/env bash
# Where tags are seen: the demo model, as it comes and trained on a tenth of the labels of pale
# scenes, on scenes of which the boxes are known. Needs nothing that is not in the repository. The
# rules of boxes were made on scenes of seed 501; these are others. One row a model and style is
# written to benches/runs/boxes.jsonl.
set -euo pipefail
cd "$(dirname "$0")/../.."
ROWS=${ROWS:-benches/runs/boxes.jsonl}
TRAIN=${TRAIN:-1500}
TEST=${TEST:-200}
. benches/quality/program.sh
"$tagstream" scenes --out "$work/train" --count "$TRAIN" --seed 7001 --style pale
for style in plain pale; do
  "$tagstream" scenes --out "$work/$style" --count "$TEST" --seed 9101 --style "$style"
done
"$tagstream" init --clip models/demo-clip --categories "$work/train/categories.txt" \
    --out "$work/zero-shot"
"$tagstream" train --model "$work/zero-shot" --labels "$work/train/labels.csv" \
    --images "$work/train/images" --categories "$work/train/categories.txt" \
    --method trm-ml --seed 0 --known 0.1 --mask-seed 0 --out "$work/trained"
: > "$ROWS"
for model in zero-shot trained; do
  for style in plain pale; do
    "$tagstream" eval --model "$work/$model" --labels "$work/$style/labels.csv" \
        --images "$work/$style/images" --boxes "$work/$style/boxes.csv" --json |
      python3 -c 'import json, sys
row = dict(zip(("date", "host", "commit", "model", "style"), sys.argv[1:]))
print(json.dumps(row | json.load(sys.stdin)["boxes"]))' \
        "$(date -u +%FT%TZ)" "$host" "$commit" "$model" "$style" >> "$ROWS"
  done
done
