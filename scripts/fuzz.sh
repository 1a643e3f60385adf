#!/usr/bin/env bash
# Runs the fuzz targets one after the other, each for SECONDS, and ends at the first that fails:
#   scripts/fuzz.sh [SECONDS] [TARGET...]        7200 seconds and all targets
#   scripts/fuzz.sh --asan [SECONDS]             `image` under AddressSanitizer (needs nightly)
# The stable compiler is enough for the first; fuzz/README.md says what is instrumented.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
asan=
if [ "${1:-}" = --asan ]; then asan=1; shift; fi
seconds=${1:-7200}; shift || true
targets=("$@")
root=${CARGO_TARGET_DIR:-$PWD/target}
# What one input may cost: memory that C code asks for at once, all of the process, seconds.
limits=(-malloc_limit_mb=2048 -rss_limit_mb=4096 -timeout=20 -max_len=65536)

if [ -n "$asan" ]; then
    # libjpeg-turbo and libwebp are C: the C compiler instruments them, nightly's rustc all else.
    export CC=gcc CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g"
    RUSTFLAGS="-Zsanitizer=address --cfg fuzzing -Cdebug-assertions=on -Ccodegen-units=1"
    RUSTFLAGS+=" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-pc-table"
    RUSTFLAGS+=" -Cllvm-args=-sanitizer-coverage-trace-compares"
    export RUSTFLAGS CARGO_TARGET_DIR=$root/fuzz-asan
    host=$(rustc -vV | sed -n 's/^host: //p')
    cargo +nightly build --release --manifest-path fuzz/Cargo.toml --no-default-features \
        --bin image --target "$host"
    mkdir -p fuzz/corpus/image
    # No allocation of ours is a leak: buffers are kept for the next picture.
    exec "$CARGO_TARGET_DIR/$host/release/image" fuzz/corpus/image fuzz/seeds/image \
        "${limits[@]}" -max_total_time="$seconds" -detect_leaks=0
fi

export CARGO_TARGET_DIR=$root/fuzz
RUSTC_WRAPPER=$PWD/fuzz/instrument.sh \
    cargo build --release --bins --manifest-path fuzz/Cargo.toml
if [ ${#targets[@]} = 0 ]; then
    targets=(message mapping schemas uri image decoders bundle registry labels label_exports)
fi
for target in "${targets[@]}"; do
    seeds=fuzz/seeds/$target
    if [ "$target" = decoders ]; then
        # Its helper is the program itself, uninstrumented: limits and sandbox as they are in use.
        seeds=fuzz/seeds/image
        if [ -z "${TAGSTREAM_FUZZ_HELPER:-}" ]; then
            CARGO_TARGET_DIR=$root cargo build --release --locked --bin tagstream
            export TAGSTREAM_FUZZ_HELPER=$root/release/tagstream
        fi
    fi
    echo "== $target, $seconds s"
    mkdir -p "fuzz/corpus/$target" fuzz/artifacts
    "$CARGO_TARGET_DIR/release/$target" "fuzz/corpus/$target" "$seeds" "${limits[@]}" \
        -max_total_time="$seconds" -artifact_prefix="fuzz/artifacts/$target-"
done
