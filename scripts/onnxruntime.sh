#!/usr/bin/env bash
# Puts ONNX Runtime's shared library into the cache folder and prints the line that makes tagstream
# find it.
#
#   scripts/onnxruntime.sh          the CPU library
#   scripts/onnxruntime.sh --cuda   the CUDA build and the NVIDIA libraries it needs, gathered in
#                                   one folder (2 GB)
#
# The library is taken out of the official Python wheel, pinned by version and hash in
# scripts/onnxruntime.txt (with --cuda: scripts/onnxruntime-gpu.txt). tagstream looks in
# ORT_DYLIB_PATH, then beside its binary, then in ../lib/tagstream from there (`make install`), then
# in this cache ($TAGSTREAM_CACHE, default ~/.cache/tagstream).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
version=1.31.1
machine=$(uname -m)
flavour=onnxruntime
[ "${1:-}" = --cuda ] && flavour=onnxruntime-gpu
target=$cache/$flavour-$version
library=$target/libonnxruntime.so.$version

die() { echo "onnxruntime.sh: $*" >&2; exit 1; }

if [ ! -f "$library" ]; then
    command -v python3 >/dev/null || die \
        "python3 with pip is missing; it is needed to fetch the wheel"
    scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
    wheel() { # requirements or names...
        python3 -m pip --disable-pip-version-check download -q --no-deps --only-binary=:all: \
            --implementation cp --python-version 3.11 \
            --platform "manylinux_2_28_$machine" --platform "manylinux_2_27_$machine" \
            --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" \
            --platform "manylinux_2_12_$machine" \
            --platform "manylinux2010_$machine" -d "$scratch" "$@" >&2 \
            || die "pip could not fetch: $*"
    }
    echo "onnxruntime.sh: fetching $flavour $version" >&2
    wheel --require-hashes -r "$here/$flavour.txt"
    mkdir -p "$target.partial"
    python3 - "$scratch" "$target.partial" <<'PYTHON'
import pathlib, sys, zipfile
source, target = map(pathlib.Path, sys.argv[1:])
for wheel in source.glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = name.rsplit("/", 1)[-1]
            library = ".so" in base and "pybind11" not in base
            if library or base in ("LICENSE", "ThirdPartyNotices.txt"):
                (target / base).write_bytes(archive.read(name))
PYTHON
    [ -f "$target.partial/libonnxruntime.so.$version" ] \
        || die "the wheel holds no libonnxruntime.so.$version"
    rm -rf "$target"
    mv "$target.partial" "$target"
fi
echo "export ORT_DYLIB_PATH=$library"
