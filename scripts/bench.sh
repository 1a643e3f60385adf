#!/usr/bin/env bash
# `make bench-stage`: the stage beside what it is made of and beside a Python program that does the
# same, on this machine.
#
#   scripts/bench.sh [CASE ...]      decode-bound, small-model, model-bound, lab-clip (needs
#                                    TAGSTREAM_BENCH_DIR); default: all that can be run
#
# Models with random weights are made on the way. Rows are appended to $LOG (default
# benches/runs/stage.jsonl), one JSON object a case. SECONDS_EACH (default 12) and REPEAT (default
# 3) set how long it takes; KAFKA=1 uses a real Apache Kafka (scripts/kafka.sh) in place of the
# embedded broker; RUNNER is put before every measurement (for example `nice -n -5`). HTTP=1
# measures the model over HTTP (`bench --http`) in place of the stage, into benches/runs/http.jsonl.
set -euo pipefail

# The strongest of the peer's libraries (make bench-mix); rows say which it was.
export TAGSTREAM_PEER_DECODER=${TAGSTREAM_PEER_DECODER:-simplejpeg}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
tagstream=${TAGSTREAM:-$root/target/release/tagstream}
http=${HTTP:-0}
log=${LOG:-$root/benches/runs/$([ "$http" = 1 ] && echo http || echo stage).jsonl}
work=$(mktemp -d "${TMPDIR:-/tmp}/tagstream-bench.XXXXXX")
finish() {
    [ -z "${brokers:-}" ] || TAGSTREAM_KAFKA_DIR=$work/kafka "$here/kafka.sh" stop
    rm -rf "$work"
}
trap finish EXIT

python=$("$root/benches/peer/run.sh" --install)
brokers=
if [ "${KAFKA:-0}" = 1 ]; then
    brokers=$(TAGSTREAM_KAFKA_DIR=$work/kafka "$here/kafka.sh" start --port "${KAFKA_PORT:-19392}")
fi

random_model() { # shape, categories
    [ -d "$work/$1-$2" ] && return
    "$python" "$root/benches/random_clip.py" "$work/clip-$1" --shape "$1"
    seq -f 'category %g' "$2" >"$work/$2.txt"
    "$tagstream" init --clip "$work/clip-$1" --categories "$work/$2.txt" \
        --out "$work/$1-$2" 2>/dev/null
    rm -rf "$work/clip-$1"
}

bench() { # case, more arguments
    local case=$1; shift
    echo "== $case" >&2
    local beside=(--peer benches/peer/run.sh ${brokers:+--brokers "$brokers"})
    [ "$http" != 1 ] || beside=(--http)
    # shellcheck disable=SC2086
    (cd "$root" && ${RUNNER:-} "$tagstream" bench --case "$case" --repeat "${REPEAT:-3}" \
        --seconds "${SECONDS_EACH:-12}" --log "$log" "${beside[@]}" "$@")
}

cases=("$@")
if [ ${#cases[@]} = 0 ]; then
    cases=(decode-bound small-model model-bound)
    if [ -n "${TAGSTREAM_BENCH_DIR:-}" ]; then
        cases+=(lab-clip)
    else
        echo "bench.sh: TAGSTREAM_BENCH_DIR is not set: the case lab-clip is left out" >&2
    fi
fi
for case in "${cases[@]}"; do
    case $case in
    decode-bound)
        # A model that costs next to nothing, so that it is decoding that is measured.
        random_model vit-nano 80
        bench decode-bound --model "$work/vit-nano-80" --megapixels 4 --pictures 32
        ;;
    small-model)
        # 4 MP again, with a model of a tenth of decoding's time.
        random_model vit-tiny 80
        bench small-model --model "$work/vit-tiny-80" --megapixels 4 --pictures 32
        ;;
    model-bound)
        random_model vit-b-16 80
        # Long enough that filling and emptying the line, half a second an image, do not count.
        SECONDS_EACH=${SECONDS_MODEL_BOUND:-$((3 * ${SECONDS_EACH:-12}))} bench model-bound \
            --model "$work/vit-b-16-80" \
            --megapixels 1 --pictures 32 --latency-load 0.5
        ;;
    lab-clip)
        data=${TAGSTREAM_BENCH_DIR:?lab-clip needs TAGSTREAM_BENCH_DIR, see docs/benchmarks.md}
        "$tagstream" init --clip "$data/lab-clip" --categories "$data/corel5k/categories.txt" \
            --out "$work/lab-clip" 2>/dev/null
        mkdir -p "$work/corel5k" && tar -C "$work/corel5k" -xf "$data/corel5k/images.tar"
        bench lab-clip --model "$work/lab-clip" --images "$work/corel5k" --pictures 4999
        ;;
    *) echo "bench.sh: unknown case $case" >&2; exit 2 ;;
    esac
done
