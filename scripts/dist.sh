#!/usr/bin/env bash
# What is given to others, in dist/: an archive, a Python wheel, the list of components, checksums.
#
#   scripts/dist.sh build    build the program in the profile `dist`, with OpenSSL linked in
#   scripts/dist.sh pack     pack $BINARY (default: what `build` made)
#
#   tagstream-VERSION-TARGET.tar.gz         bin/, lib/ (ONNX Runtime), share/ (configurations, demo
#                                           model, manual, completions, licences, systemd's units)
#   tagstream-VERSION-py3-none-*.whl        the same without lib/: ONNX Runtime is a dependency
#   tagstream-VERSION-TARGET.cdx.json       the list of components (CycloneDX)
#   SHA256SUMS
#
# Nothing of the folders that it is built in goes into it, and what is packed has the commit's time.
# Two builds still differ in a few hundred bytes of machine code: docs/installing.md. Only x86_64 is
# built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
die() { echo "dist.sh: $*" >&2; exit 1; }
out=${DIST:-dist}
# No newer symbol of glibc may be asked for: that of RHEL 8 and Debian 10, and of ONNX Runtime.
glibc=2.28
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
target=$(rustc -vV | sed -n 's/^host: //p')
folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")
binary=${BINARY:-$folder/dist/tagstream}
[ "$target" = x86_64-unknown-linux-gnu ] || die "only x86_64-unknown-linux-gnu, not $target"

zig() {
    local venv; venv=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}/zig-$(sha256sum scripts/zig.txt \
        | cut -c1-16)
    if [ ! -f "$venv/.complete" ]; then
        echo "dist.sh: fetching Zig" >&2
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" --disable-pip-version-check install -q --require-hashes \
            --only-binary=:all: -r scripts/zig.txt >&2 || die "pip could not install Zig"
        touch "$venv/.complete"
    fi
    echo "$venv"/lib/python3.*/site-packages/ziglang/zig
}

# Debian's libssl-dev has the static libraries beside the others; whoever unpacks the archive then
# needs no libssl of the version that this machine has. librdkafka is told so: it then looks for
# the system's certificates where other distributions than Debian keep them, too.
build() {
    local libraries home=${CARGO_HOME:-$HOME/.cargo}
    libraries=$(pkg-config --variable=libdir openssl)
    [ -f "$libraries/libssl.a" ] || die "$libraries has no libssl.a (libssl-dev has it)"
    # Names of this machine's folders stay out of the program.
    local c="" rust="" from
    for from in "$home=/cargo" "$folder=/target" "$PWD=/tagstream"; do
        c+=" -ffile-prefix-map=$from"
        rust+=${rust:+$'\x1f'}--remap-path-prefix=$from
    done
    TAGSTREAM_DIST_ZIG=$(zig); export TAGSTREAM_DIST_ZIG
    CFLAGS="$c -DWITH_STATIC_LIB_libcrypto=1" CXXFLAGS=$c CARGO_ENCODED_RUSTFLAGS=$rust \
        CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=$PWD/scripts/dist_linker.sh \
        TAGSTREAM_DIST_GLIBC=$glibc CARGO_INCREMENTAL=0 \
        OPENSSL_NO_PKG_CONFIG=1 OPENSSL_STATIC=1 OPENSSL_LIB_DIR=$libraries \
        OPENSSL_INCLUDE_DIR=$(pkg-config --variable=includedir openssl) \
        cargo build --profile dist --locked --bin tagstream
}

# What the program needs of the system that it is brought to is what we say that it needs.
check() {
    local needed newest; needed=$(objdump -p "$1" | awk '$1 == "NEEDED" { print $2 }')
    if grep -Evx 'lib(c|m|dl|rt|pthread|util)\.so\.[0-9]|ld-linux-x86-64\.so\.2' <<<"$needed" >&2
    then
        die "$1 wants these libraries of the system; build it with scripts/dist.sh build"
    fi
    newest=$(objdump -T "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1 | cut -d_ -f2)
    [ "$(printf '%s\n' "$newest" $glibc | sort -V | tail -1)" = $glibc ] \
        || die "$1 wants glibc $newest; it may want $glibc at most"
    ! strings -a "$1" | grep -F "$HOME/" >&2 || die "$1 names folders of this machine"
    echo "needs glibc $newest or newer:" $needed
}

# What is in the program, or beside it, and no crate.
parts() { # folder of ONNX Runtime
    local zig rust; zig=$(dirname "$(zig)"); rust=$(rustc --print sysroot)/share/doc/rust
    local numbered; numbered=$(basename "$1")
    parts=(
        --target "$target"
        --part openssl "$(pkg-config --modversion openssl)" Apache-2.0
        /usr/share/doc/libssl-dev/copyright
        --part onnxruntime "${numbered#onnxruntime-}" MIT "$1/LICENSE" "$1/ThirdPartyNotices.txt"
        --part rust-std "$(rustc -V | cut -d" " -f2)" "MIT OR Apache-2.0"
        "$rust/COPYRIGHT-library.html"
        --part zig-runtime "$(sed -n "s/^ziglang==\([^ ]*\).*/\1/p" scripts/zig.txt)"
        "MIT AND Apache-2.0 WITH LLVM-exception AND LGPL-2.1-or-later"
        "$zig/LICENSE" "$zig/lib/libunwind/LICENSE.TXT" "$zig/lib/libc/glibc/LICENSES"
    )
}

pack() {
    [ -x "$binary" ] || die "$binary is not there: scripts/dist.sh build"
    local scratch name root; scratch=$(mktemp -d); trap "rm -rf '$scratch'" EXIT
    name=tagstream-$version-$target root=$scratch/$name
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}; export SOURCE_DATE_EPOCH
    check "$binary"
    # ONNX Runtime with its licences, which caches of older versions of that script do not have.
    TAGSTREAM_CACHE=$scratch/cache scripts/onnxruntime.sh >/dev/null
    local runtime; runtime=$(dirname "$scratch"/cache/onnxruntime-*/libonnxruntime.so.*)
    mkdir -p "$root"
    TAGSTREAM_CACHE=$scratch/cache BINARY=$binary DESTDIR=$root PREFIX=/ scripts/install.sh
    local documents=$root/share/doc/tagstream
    install -D -m 644 -t "$documents" LICENSE README.md CHANGELOG.md docs/runbook.md
    install -D -m 644 -t "$root/share/tagstream/systemd" deploy/systemd/*
    parts "$runtime"
    scripts/components.py licences "$documents/THIRD-PARTY.txt" "${parts[@]}"
    mkdir -p "$out"
    rm -f "$out"/tagstream-* "$out/SHA256SUMS"
    scripts/components.py sbom "$out/$name.cdx.json" "${parts[@]}"
    tar -C "$scratch" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rw,go+r,go-w \
        --mtime="@$SOURCE_DATE_EPOCH" -c "$name" | gzip -n -9 >"$out/$name.tar.gz"
    scripts/wheel.py "$root" "$out" >/dev/null
    (cd "$out" && sha256sum tagstream-* >SHA256SUMS && cat SHA256SUMS && du -h tagstream-*)
}

case ${1:-} in
build) build ;;
pack) pack ;;
*) die "build or pack" ;;
esac
