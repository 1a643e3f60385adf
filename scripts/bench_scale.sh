#!/usr/bin/env bash
# How the cost of an image grows with categories, embedding size, partitions and files: the stage on small pictures and a small
# model with random weights, so that what grows is seen.
#
#   scripts/bench_scale.sh [categories] [embedding] [partitions] [files]      default: all
#
# Rows are appended to $LOG (default benches/runs/scale.jsonl), one JSON object a point; the case names it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
tagstream=${TAGSTREAM:-$root/target/release/tagstream}
log=${LOG:-$root/benches/runs/scale.jsonl}
work=$(mktemp -d "${TMPDIR:-/tmp}/tagstream-scale.XXXXXX")
trap 'rm -rf "$work"' EXIT
python=$("$root/benches/peer/run.sh" --install)

model() { # categories, embedding
    [ -d "$work/model-$1-$2" ] && return
    "$python" "$root/benches/random_clip.py" "$work/clip-$2" --shape vit-small --dim "$2"
    seq -f 'category %g' "$1" >"$work/$1.txt"
    "$tagstream" init --clip "$work/clip-$2" --categories "$work/$1.txt" --out "$work/model-$1-$2" 2>/dev/null
    rm -rf "$work/clip-$2"
}

point() { # case, model, more arguments
    local case=$1 model=$2; shift 2
    echo "== $case" >&2
    # shellcheck disable=SC2086
    (cd "$root" && ${RUNNER:-} "$tagstream" bench --case "$case" --model "$model" --megapixels 0.1 --pictures 64 \
        --repeat "${REPEAT:-3}" --seconds "${SECONDS_EACH:-5}" --latency-load 0 --log "$log" "$@")
}

axes=("$@"); [ ${#axes[@]} -gt 0 ] || axes=(categories embedding partitions files)
for axis in "${axes[@]}"; do
    case $axis in
    categories)
        for c in 20 80 1000 10000; do model "$c" 256; point "categories=$c" "$work/model-$c-256"; done
        ;;
    embedding)
        for d in 64 256 512 1024; do model 80 "$d"; point "embedding=$d" "$work/model-80-$d"; done
        ;;
    partitions)
        model 80 256
        for p in 1 64 512; do point "partitions=$p" "$work/model-80-256" --partitions "$p"; done
        ;;
    files)
        model 80 256
        for age in 250 1000 4000; do
            TAGSTREAM_OUTPUT__MAX_FILE_AGE_MS=$age point "file-age-ms=$age" "$work/model-80-256" --partitions 16
        done
        ;;
    *) echo "bench_scale.sh: unknown axis $axis" >&2; exit 2 ;;
    esac
done
