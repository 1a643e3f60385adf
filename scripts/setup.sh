#!/usr/bin/env bash
# Installs what building and testing need and this machine does not have. Safe to run again.
#
#   scripts/setup.sh build   what `cargo build` and running need (compilers, headers, ONNX Runtime)
#   scripts/setup.sh test    that, and what the tests need (Java and Maven, Go, the Python readers,
#                            cargo-deny)
#
# It says what is missing before it does anything, and asks before it uses sudo if somebody is there
# to answer (TAGSTREAM_SETUP=yes: it does not ask). Debian packages are installed where apt is, and
# elsewhere named. Everything else goes into the cache folder ($TAGSTREAM_CACHE, default
# ~/.cache/tagstream); removing that undoes it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
what=${1:-build}
deny_version=0.20.2

die() { echo "setup.sh: $*" >&2; exit 1; }

missing=()
need() { # command, package
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc gcc; need g++ g++; need make make; need cmake cmake; need nasm nasm
need pkg-config pkg-config; need curl curl
need python3 python3
pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
if [ "$what" = test ]; then
    need java openjdk-17-jre-headless; need mvn maven; need go golang-go
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
    if command -v apt-get >/dev/null; then
        sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
        echo "setup.sh: these Debian packages are missing: ${missing[*]}" >&2
        echo "setup.sh: ${sudo:+sudo }apt-get install ${missing[*]}" >&2
        if [ -n "$sudo" ]; then
            command -v sudo >/dev/null || die "no sudo here: please install them as root"
            if [ "${TAGSTREAM_SETUP:-}" != yes ] && [ -t 0 ]; then
                read -r -p "setup.sh: install them with sudo? [y/N] " answer
                [[ $answer == [yY]* ]] || die "nothing installed; please install: ${missing[*]}"
            fi
        fi
        $sudo apt-get update -qq >&2 || die "apt-get update failed"
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq \
            --no-install-recommends "${missing[@]}" >&2 \
            || die "could not install ${missing[*]}"
    else
        die "please install: ${missing[*]} (Debian package names)"
    fi
fi
command -v cargo >/dev/null || die \
    "Rust is missing: install rustup, then run this again (rust-toolchain.toml names the version)"

"$here/onnxruntime.sh" >/dev/null

if [ "$what" = test ]; then
    sum=$(sha256sum "$here/requirements.txt" | cut -c1-16)
    venv=$cache/readers-$sum
    if [ ! -f "$venv/.complete" ]; then
        echo "setup.sh: installing the Parquet readers" >&2
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" --disable-pip-version-check install -q --require-hashes \
            --only-binary=:all: \
            -r "$here/requirements.txt" >&2 || die "pip could not install the readers"
        touch "$venv/.complete"
    fi
    deny=$cache/cargo-deny-$deny_version
    if [ ! -x "$deny/bin/cargo-deny" ]; then
        echo "setup.sh: building cargo-deny $deny_version (once)" >&2
        CARGO_TARGET_DIR=$cache/cargo-deny-target cargo install --locked -q --root "$deny" \
            --version "$deny_version" cargo-deny >&2 \
            || die "cargo-deny could not be built"
        rm -rf "$cache/cargo-deny-target"
    fi
fi

# What callers evaluate.
"$here/onnxruntime.sh"
if [ "$what" = test ]; then
    echo "export TAGSTREAM_READERS_PYTHON=$venv/bin/python"
    echo "export PATH=$deny/bin:\$PATH"
fi
