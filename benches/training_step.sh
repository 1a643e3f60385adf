#!/usr/bin/env bash
# The training step of benches/training_step.rs beside the same step in PyTorch, in turns, on the
# same number of threads.
#
#   STEP=target/release/deps/training_step-... PYTHON=python3 \
#       benches/training_step.sh ROUNDS [CATEGORIES,POSITIONS,DIM ...]
#
# STEP is the compiled bench (`cargo bench --bench training_step --no-run` names it); PYTHON has
# torch. One JSON line a run is appended to $LOG (default benches/runs/training-step.jsonl), with
# the time, the commit and the round. BEFORE names a further build of the bench that is run in turns
# with the two.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${STEP:?names the compiled bench}"
python=${PYTHON:-python3} log=${LOG:-benches/runs/training-step.jsonl} threads=${THREADS:-4} \
    steps=${STEPS:-15}
rounds=$1; shift
sizes=("$@"); [ ${#sizes[@]} -gt 0 ] || sizes=(36,49,256 80,49,256 36,196,256 36,49,512 80,196,512)
commit=$(git rev-parse --short HEAD)$(git diff --quiet HEAD \
    -- src benches/training_step.rs Cargo.lock || echo +)

row() { # label, command ...: its line, with when and what was measured
    local label=$1 start; shift
    start="\"time\": \"$(date -u +%FT%TZ)\", \"commit\": \"$commit\", \"round\": $round"
    "$@" | sed -e "s/^{/{$start, /" \
        -e "s/\"framework\": \"tagstream\"/\"framework\": \"$label\"/" | tee -a "$log"
}

for round in $(seq "$rounds"); do
    for size in "${sizes[@]}"; do
        IFS=, read -r categories positions dim <<< "$size"
        arguments=("$categories" "$positions" "$dim" 256 4 4 8 "$steps")
        [ -z "${BEFORE:-}" ] || RAYON_NUM_THREADS=$threads row "tagstream, before" "$BEFORE" \
            "${arguments[@]}"
        RAYON_NUM_THREADS=$threads row tagstream "$STEP" "${arguments[@]}"
        [ -n "${WITHOUT_PYTORCH:-}" ] \
            || row pytorch "$python" benches/training_step.py "$threads" "${arguments[@]}"
    done
done
