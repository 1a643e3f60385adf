#!/usr/bin/env bash
# How the cost of an image grows with images, categories, embedding size, partitions and files: the
# stage on small pictures and a small model with random weights (for images and files a tiny one),
# so that what grows is seen.
#
#   scripts/bench_scale.sh [images] [categories] [embedding] [partitions] [files]      default: all
#
# SECONDS_EACH (default 5) and REPEAT (default 3 rounds of an axis) set how long it takes; RUNNER is
# put before every measurement. Rows are appended to $LOG (default benches/runs/scale.jsonl), one
# JSON object a point and round; the case names it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
tagstream=${TAGSTREAM:-$root/target/release/tagstream}
log=${LOG:-$root/benches/runs/scale.jsonl}
work=$(mktemp -d "${TMPDIR:-/tmp}/tagstream-scale.XXXXXX")
trap 'rm -rf "$work"' EXIT
python=$("$root/benches/peer/run.sh" --install)

model() { # categories, embedding, shape
    [ -d "$work/model-$1-$2" ] && return
    "$python" "$root/benches/random_clip.py" "$work/clip-$2" --shape "${3:-vit-small}" --dim "$2"
    seq -f 'category %g' "$1" >"$work/$1.txt"
    "$tagstream" init --clip "$work/clip-$2" --categories "$work/$1.txt" \
        --out "$work/model-$1-$2" 2>/dev/null
    rm -rf "$work/clip-$2"
}

point() { # case, model, more arguments
    local case=$1 model=$2; shift 2
    echo "== $case" >&2
    # shellcheck disable=SC2086
    (cd "$root" && ${RUNNER:-} "$tagstream" bench --case "$case" --model "$model" --megapixels 0.1 \
        --pictures 64 \
        --repeat 1 --seconds "${SECONDS_EACH:-5}" --latency-load 0 --log "$log" "$@")
}

round() { # axis: each of its points once
    case $1 in
    images)
        # The number of images follows from the time they are meant to take.
        model 20 64 vit-tiny
        for s in 3 12 48; do SECONDS_EACH=$s point "images-for=$s" "$work/model-20-64"; done
        ;;
    categories)
        for c in 20 80 1000 10000; do
            model "$c" 256; point "categories=$c" "$work/model-$c-256"
        done
        ;;
    embedding)
        for d in 64 256 512 1024; do model 80 "$d"; point "embedding=$d" "$work/model-80-$d"; done
        ;;
    partitions)
        model 80 256
        for p in 1 64 512; do point "partitions=$p" "$work/model-80-256" --partitions "$p"; done
        ;;
    files)
        # A tiny model, so that a file is a part of the cost that is seen.
        model 20 64 vit-tiny
        for age in 2 20 200 4000; do
            TAGSTREAM_OUTPUT__MAX_FILE_AGE_MS=$age point "file-age-ms=$age" "$work/model-20-64"
        done
        ;;
    *) echo "bench_scale.sh: unknown axis $1" >&2; exit 2 ;;
    esac
}

axes=("$@"); [ ${#axes[@]} -gt 0 ] || axes=(images categories embedding partitions files)
for axis in "${axes[@]}"; do
    # In turns: the machine's own speed changes more within minutes than some points differ.
    for _ in $(seq "${REPEAT:-3}"); do round "$axis"; done
done
