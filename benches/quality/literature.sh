#!/usr/bin/env bash
# Zero-shot on the literature's sets: tags of whole pictures (mAP by dense mode, set of templates
# and normalisation of scores, with what to take) and where they are seen (true boxes). Needs the
# set as it is distributed, and the weights that `init --clip` takes; trains nothing.
#
#   benches/quality/literature.sh voc07 /data/VOCdevkit openai/clip-vit-base-patch16
#   benches/quality/literature.sh coco14 /data/coco path/to/weights
#
# Measured are the pictures on which the literature reports: VOC 2007 test, VOC 2012 val, COCO val.
# One row a line of the comparison, and one for the boxes, is appended to
# benches/runs/literature.jsonl (or ROWS).
set -euo pipefail
if [ $# -ne 3 ]; then
  sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
layout=$1 data=$(realpath "$2") clip=$3
[ ! -e "$clip" ] || clip=$(realpath "$clip")
cd "$(dirname "$0")/../.."
ROWS=${ROWS:-benches/runs/literature.jsonl}
case $layout in
  voc07) split=test images=$data/VOC2007/JPEGImages boxes=$data/VOC2007/Annotations ;;
  voc12) split=val images=$data/VOC2012/JPEGImages boxes=$data/VOC2012/Annotations ;;
  coco14) split=val images=$data/val2014 boxes=$data/annotations/instances_val2014.json ;;
  coco17) split=val images=$data/val2017 boxes=$data/annotations/instances_val2017.json ;;
  *) echo "$layout: voc07, voc12, coco14 or coco17" >&2; exit 2 ;;
esac
for needed in "$images" "$boxes"; do
  [ -e "$needed" ] || { echo "$needed is not there: is $data the set's folder?" >&2; exit 2; }
done
. benches/quality/program.sh
"$tagstream" labels dataset --layout "$layout" --split "$split" --out "$work/set" "$data"
# VOC's names as people write them; everything else is written so.
sed -i -e 's/^diningtable$/&\tdining table/' -e 's/^pottedplant$/&\tpotted plant/' \
    -e 's/^tvmonitor$/&\ttv monitor/' "$work/set/categories.txt"
"$tagstream" init --clip "$clip" --categories "$work/set/categories.txt" --out "$work/model"
measure() {
  "$tagstream" eval --model "$work/model" --labels "$work/set/labels.csv" \
      --split "$work/set/splits.csv:$split" --images "$images" "$@"
}
measure --compare --clip "$clip" --json > "$work/compared.json"
measure --boxes "$boxes" --json > "$work/boxes.json"
python3 benches/quality/literature.py "$work" "$ROWS" \
    "$(date -u +%FT%TZ)" "$host" "$commit" "$layout" "$(basename "$clip")"
