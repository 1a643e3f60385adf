#!/usr/bin/env bash
# What scripts/dist.sh has rustc link with: Zig, against the glibc that $TAGSTREAM_DIST_GLIBC names.
# The unwinder is linked in, so that the program needs no libgcc_s.
set -euo pipefail
arguments=()
for argument in "$@"; do
    case $argument in
    -lgcc_s) arguments+=(-lunwind) ;;
    # Zig has a linker of its own.
    -fuse-ld=* | -B*) ;;
    *) arguments+=("$argument") ;;
    esac
done
exec "$TAGSTREAM_DIST_ZIG" cc -target "x86_64-linux-gnu.$TAGSTREAM_DIST_GLIBC" "${arguments[@]}"
