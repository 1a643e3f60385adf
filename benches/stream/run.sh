#!/usr/bin/env bash
# `make bench-latency` and `make bench-fetching`: the stage and the Python peer on a real Kafka
# (scripts/kafka.sh, on $KAFKA_PORT, default 19492), pictures behind a server with an answer time.
#
#   benches/stream/run.sh latency|fetching [--rounds N] [--seconds S]
#
# Rows are appended to benches/runs/latency.jsonl or fetching.jsonl ($LOG). TAGSTREAM names the
# binary (default target/release/tagstream). The model has two layers of width 64, so that it is not
# the model that is measured.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
what=${1:-}
case $what in
latency | fetching) shift ;;
*) echo "run.sh: latency or fetching, not '$what'" >&2; exit 2 ;;
esac
tagstream=${TAGSTREAM:-$root/target/release/tagstream}
work=$(mktemp -d "${TMPDIR:-/tmp}/tagstream-stream.XXXXXX")
finish() {
    TAGSTREAM_KAFKA_DIR=$work/kafka "$root/scripts/kafka.sh" stop
    rm -rf "$work"
}
trap finish EXIT

python=$("$root/benches/peer/run.sh" --install)
"$python" "$root/benches/random_clip.py" "$work/clip" --shape vit-tiny
seq -f 'category %g' 80 >"$work/categories.txt"
"$tagstream" init --clip "$work/clip" --categories "$work/categories.txt" --out "$work/model" \
    2>"$work/init.log" || { cat "$work/init.log" >&2; exit 1; }
brokers=$(TAGSTREAM_KAFKA_DIR=$work/kafka "$root/scripts/kafka.sh" start \
    --port "${KAFKA_PORT:-19492}")
cd "$root"
PYTHONPATH=$root/benches:$root/scripts "$python" "$here/$what.py" --binary "$tagstream" \
    --brokers "$brokers" --model "$work/model" --work "$work" \
    --log "${LOG:-$root/benches/runs/$what.jsonl}" "$@"
