#!/usr/bin/env bash
# For RUSTC_WRAPPER: coverage instrumentation, debug assertions and overflow checks for the crates
# that read hostile bytes, and only for them, so that everything else can come from an ordinary
# build. Needs neither nightly nor cargo-fuzz; see README.md.
set -euo pipefail
rustc=$1; shift
crate=
for (( i = 1; i < $#; i++ )); do
    if [ "${!i}" = --crate-name ]; then next=$((i + 1)); crate=${!next}; fi
done
case $crate in
tagstream | tagstream_core | tagstream_image | tagstream_model | tagstream_train) ;;
image | png | fdeflate | zune_jpeg | zune_core | gif | weezl | tiff) ;;
csv | csv_core) ;;
message | uri | bundle | registry | labels) ;;
*) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" --cfg fuzzing -Cdebug-assertions=on -Coverflow-checks=on -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
