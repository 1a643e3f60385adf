#!/usr/bin/env bash
# Installs what building and testing need and this machine does not have. Safe to run again.
#
#   scripts/setup.sh build   what `cargo build` and running need (compilers, headers, ONNX Runtime)
#   scripts/setup.sh test    that, and what the tests need (Java and Maven, Go, Chromium, axe-core,
#                            the Python readers, cargo-deny, Helm, promtool)
#   scripts/setup.sh readers that, and Spark 3.5 and 4 for scripts/check_readers.py (1.2 GB)
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
axe_version=4.14.1
axe_sha256=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745

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
case $what in build | test | readers) ;; *) die "build, test or readers, not $what" ;; esac
with_tests=
[ "$what" = build ] || with_tests=yes
if [ -n "$with_tests" ]; then
    # HEIC is decoded by it.
    ldconfig -p | grep -q libde265.so.0 || missing+=(libde265-0)
    need java openjdk-17-jre-headless; need mvn maven; need go golang-go; need npm npm
    if ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
        need chromium chromium
    fi
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

# Makes an environment of a list of packages pinned by hash, once for each content of the list.
venv_of() { # list, name, what pip may build
    local list=$here/$1 venv
    venv=$cache/$2-$(sha256sum "$list" | cut -c1-16)
    if [ ! -f "$venv/.complete" ]; then
        echo "setup.sh: installing $1" >&2
        rm -rf "$venv"
        python3 -m venv "$venv"
        local pip=("$venv/bin/pip" --disable-pip-version-check install -q --require-hashes)
        if [ -n "${3:-}" ]; then
            # What packs the sources comes first, from the same list.
            "${pip[@]}" --only-binary=:all: -r <(without "$3" "$list") >&2 \
                || die "pip could not install $1"
        fi
        "${pip[@]}" --only-binary=:all: ${3:+--no-binary="$3" --no-build-isolation} -r "$list" >&2 \
            || die "pip could not install $1"
        touch "$venv/.complete"
    fi
    echo "$venv"
}
without() { # a package, a list
    awk -v name="$1==" 'index($0, name) == 1 { out = 1; next } /^[^ ]/ { out = 0 } !out' "$2"
}

if [ -n "$with_tests" ]; then
    venv=$(venv_of requirements.txt readers)
    deny=$cache/cargo-deny-$deny_version
    if [ ! -x "$deny/bin/cargo-deny" ]; then
        echo "setup.sh: building cargo-deny $deny_version (once)" >&2
        CARGO_TARGET_DIR=$cache/cargo-deny-target cargo install --locked -q --root "$deny" \
            --version "$deny_version" cargo-deny >&2 \
            || die "cargo-deny could not be built"
        rm -rf "$cache/cargo-deny-target"
    fi
fi

# Of Debian's package of Prometheus promtool alone: installing it would start a server.
fetch_promtool() {
    local scratch; scratch=$(mktemp -d)
    echo "setup.sh: fetching promtool" >&2
    (
        cd "$scratch"
        fetch() { apt-get -qq -o APT::Sandbox::User=root download prometheus >&2; }
        as=; [ "$(id -u)" = 0 ] || as=sudo
        fetch || { $as apt-get -qq update >&2 && fetch; }
        dpkg-deb -x prometheus_*.deb .
    ) || { rm -rf "$scratch"; die "the package prometheus cannot be had; install promtool"; }
    mkdir -p "$cache/promtool"
    mv "$scratch/usr/bin/promtool" "$cache/promtool/promtool"
    rm -rf "$scratch"
}
# What looks at pages for those who see little, use a keyboard, or listen.
fetch_axe() {
    local scratch; scratch=$(mktemp -d)
    echo "setup.sh: fetching axe-core $axe_version" >&2
    (
        cd "$scratch"
        npm pack --silent "axe-core@$axe_version" >&2
        echo "$axe_sha256  axe-core-$axe_version.tgz" | sha256sum --check --quiet >&2
        tar xzf "axe-core-$axe_version.tgz" package/axe.min.js
    ) || { rm -rf "$scratch"; die "axe-core $axe_version cannot be had, or is another file"; }
    mkdir -p "$(dirname "$axe")"
    mv "$scratch/package/axe.min.js" "$axe"
    rm -rf "$scratch"
}
if [ -n "$with_tests" ]; then
    axe=$cache/axe-core-$axe_version/axe.min.js
    [ -f "$axe" ] || fetch_axe
    if ! command -v promtool >/dev/null && [ ! -x "$cache/promtool/promtool" ]; then
        command -v apt-get >/dev/null || die "please install promtool (it comes with Prometheus)"
        fetch_promtool
    fi
    helm=$("$here/chart.sh" helm)
fi

# What callers evaluate.
"$here/onnxruntime.sh"
if [ "$what" = readers ]; then
    spark_35=$(venv_of requirements-spark-3.5.txt spark pyspark)
    spark_4=$(venv_of requirements-spark-4.txt spark pyspark)
    echo "export TAGSTREAM_SPARK_PYTHONS=$spark_35/bin/python:$spark_4/bin/python"
fi
if [ -n "$with_tests" ]; then
    echo "export TAGSTREAM_READERS_PYTHON=$venv/bin/python"
    echo "export TAGSTREAM_TEST_HELM=$helm TAGSTREAM_TEST_AXE=$axe"
    echo "export PATH=$deny/bin:\$PATH:$cache/promtool"
fi
