#!/usr/bin/env bash
# Everything about the GPU path that only a GPU can tell, on a machine with one and without a
# network: the tests that need a GPU, parity with the processor in 32 and 16 bits (cosine >= 0.999,
# same top tags), and speed, start-up and device memory of ViT-B/16 at 224 and RN101 at 448 pixels
# with random weights. Prints a table for docs/performance/gpu.md. Fails if there is no GPU, if
# anything differs, and if a test could not be run.
#
#   scripts/gpu_check.sh                        CUDA, and TensorRT where its libraries are
#   scripts/gpu_check.sh --provider tensorrt    one provider: cuda, tensorrt, or cpu (small models:
#                                               proves only that this script works)
#   ... --bin FILE      a tagstream binary; default: target/release/tagstream, built by cargo
#   ... --tests FILE    the test binary `suite`, built in a folder of this name; default: built
#                       by cargo
#   ... --log FILE      rows of JSON are added here; default: thrown away with the rest
#   ... --seconds S --repeat N                  as for `tagstream bench`; default 6 and 3
#
# Needs: python3 with numpy ($PYTHON), the CUDA build of ONNX Runtime (ORT_DYLIB_PATH, or what
# `scripts/onnxruntime.sh --cuda` left in the cache: run it where there is a network and bring the
# folder), about 3 GB of disk below $TMPDIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "gpu_check.sh: $*" >&2; exit 1; }
step() { echo; echo "== $*"; } >&2
providers= bin= tests= log= seconds=6 repeat=3
while [ $# -gt 0 ]; do
    case $1 in
        --provider) providers=$2 ;;
        --bin) bin=$2 ;;
        --tests) tests=$2 ;;
        --log) log=$2 ;;
        --seconds) seconds=$2 ;;
        --repeat) repeat=$2 ;;
        *) die "unknown argument $1" ;;
    esac
    shift 2 || die "$1: a value is missing"
done
case $providers in ''|cuda|tensorrt|cpu) ;; *) die "--provider: cuda, tensorrt or cpu" ;; esac

version=$(sed -n 's/^version=//p' scripts/onnxruntime.sh)
if [ "$providers" = cpu ]; then
    echo "gpu_check.sh: the processor stands in for a GPU: this shows that the script works," \
        "and nothing about a GPU" >&2
    [ -n "${ORT_DYLIB_PATH:-}" ] || eval "$(scripts/onnxruntime.sh)"
else
    command -v nvidia-smi >/dev/null \
        || die "no GPU: nvidia-smi, which comes with NVIDIA's driver, is not here"
    gpus=$(nvidia-smi -L 2>&1) && [ -n "$gpus" ] || die "no GPU: nvidia-smi says: ${gpus:-nothing}"
    echo "$gpus" >&2
    cached=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}/onnxruntime-gpu-$version
    : "${ORT_DYLIB_PATH:=$cached/libonnxruntime.so.$version}"
    libraries=$(dirname "$ORT_DYLIB_PATH")
    [ -f "$ORT_DYLIB_PATH" ] && [ -f "$libraries/libonnxruntime_providers_cuda.so" ] ||
        die "$libraries holds no ONNX Runtime with CUDA: run scripts/onnxruntime.sh --cuda" \
            "where there is a network, bring the folder"
    if [ -z "$providers" ]; then
        providers=cuda
        if ls "$libraries"/libnvinfer.so* >/dev/null 2>&1 \
            || ldconfig -p | grep -q libnvinfer.so; then
            providers="cuda tensorrt"
        else
            echo "NOT TESTED: TensorRT (its library libnvinfer is not here)"
        fi
    fi
fi
export ORT_DYLIB_PATH

python=${PYTHON:-python3}
"$python" -c 'import numpy' 2>/dev/null \
    || die "$python with numpy is missing (it draws the random weights); name another by PYTHON"

if [ -z "$bin" ]; then
    bin=target/release/tagstream
    ! command -v cargo >/dev/null || cargo build --release --locked --quiet
fi
[ -x "$bin" ] || die "no binary at $bin, and no cargo to build it"
if [ -z "$tests" ] && command -v cargo >/dev/null; then
    tests=$(cargo test --release --locked --no-run --test suite --message-format=json \
        | "$python" -c '
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    if row.get("executable") and row["target"]["name"] == "suite":
        print(row["executable"])')
fi
[ -x "$tests" ] || die "no test binary (--tests), and no cargo to build it"

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
failed=0
fail() { echo "FAILED: $*" >&2; failed=$((failed + 1)); }

for provider in $providers; do
    step "tests on $provider"
    skip=(); [ "$provider" = tensorrt ] || skip=(--skip engines_are_kept_for_the_next_start)
    TAGSTREAM_TEST_PROVIDER=$provider "$tests" gpu:: "${skip[@]}" --test-threads 1 \
        | tee "$work/tests" >&2 || fail "tests on $provider"
    missed=$(grep -ac "^NOT TESTED" "$work/tests" || true)
    ran=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$work/tests")
    [ "$missed" = 0 ] && [ "${ran:-0}" -gt 0 ] \
        || fail "$missed tests could not be run on $provider, ${ran:-0} were"
done

seq -f 'category %g' 1 80 > "$work/categories"
models="vit-b-16:224 rn101:448"
[ "$providers" = cpu ] && models="vit-tiny:224 rn-tiny:448"
for model in $models; do
    shape=${model%:*} side=${model#*:}
    step "$shape at $side: weights and bundles"
    "$python" benches/random_clip.py "$work/$shape" --shape "$shape"
    for precision in fp32 fp16; do
        "$bin" init --clip "$work/$shape" --categories "$work/categories" --input-size "$side" \
            --precision "$precision" --out "$work/$shape-$precision"
    done
    rm -r "${work:?}/$shape"
    for provider in $providers; do
        for precision in fp32 fp16; do
            step "$shape at $side, $precision on $provider"
            "$bin" bench --provider "$provider" --model "$work/$shape-$precision" \
                --reference "$work/$shape-fp32" --case "$shape-$side/$precision/$provider" \
                --megapixels 0.2 --seconds "$seconds" --repeat "$repeat" \
                --log "$work/rows" || fail "bench of $shape, $precision on $provider"
        done
    done
    rm -r "${work:?}/$shape-fp32" "${work:?}/$shape-fp16"
done
[ -z "$log" ] || cat "$work/rows" >> "$log"

step "for docs/performance/gpu.md"
"$python" - "$work/rows" <<'PYTHON' || fail "parity"
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
print("| model at input | precision | on | model alone, images/s (batch) | stage, images/s |"
      " stage / min(a, b x cores) | opened, s |"
      " start to first row, s | GPU memory, MiB | cosine, embedding and regions | same top tags |")
print("|" + "---|" * 11)
same = bool(rows)
for row in rows:
    model, precision, provider = row["case"].split("/")
    stage, ceiling, parity = row["stage"], row["ceiling"], row["parity"]
    memory = stage.get("device_memory_bytes")
    same &= parity["holds"]
    print("| " + " | ".join([
        model.replace("-224", " at 224").replace("-448", " at 448"), precision,
        row["model"]["device"],
        f"{ceiling['model_images_per_second']['median']:.1f} ({ceiling['model_batch']})",
        f"{stage['images_per_second']['median']:.1f}", f"{row['stage_over_ceiling']:.3f}",
        f"{row['model']['load_seconds']:.2f}", f"{stage['startup_seconds']['median']:.2f}",
        f"{memory['median'] / 2**20:.0f}" if memory else "none",
        f"{parity['embedding_cosine']:.5f}, {parity['region_cosine']:.5f}",
        f"{parity['same_top_tags']} of {parity['images']}",
    ]) + " |")
sys.exit(0 if same else 1)
PYTHON
echo; echo "gpu_check.sh: $failed failed"
[ "$failed" = 0 ]
