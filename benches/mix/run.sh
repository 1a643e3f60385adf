#!/usr/bin/env bash
# `make bench-mix`: processor time of an image by kind, the stage's decoders beside other libraries,
# rows in benches/runs/mix.jsonl ($LOG). Packages are installed once, pinned by hash, and pictures
# drawn once, into the cache folder ($TAGSTREAM_CACHE, default ~/.cache/tagstream). Arguments go to
# run.py; `run.sh --install` only installs, and prints the Python to call.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
sum=$(sha256sum "$here/requirements.txt" | cut -c1-16)
venv=$cache/mix-$sum
if [ ! -f "$venv/.complete" ]; then
    echo "run.sh: installing the peers' packages" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    pip=("$venv/bin/pip" --disable-pip-version-check install -q --require-hashes)
    without_pyvips() {
        awk '/^pyvips==/ { out = 1; next } /^[^ ]/ { out = 0 } !out' "$here/requirements.txt"
    }
    # What packs the sources of pyvips comes first.
    "${pip[@]}" --only-binary=:all: -r <(without_pyvips) >&2 \
        && "${pip[@]}" --only-binary=:all: --no-binary=pyvips --no-build-isolation \
            -r "$here/requirements.txt" >&2 \
        || { echo "run.sh: pip could not install the peers' packages" >&2; exit 1; }
    touch "$venv/.complete"
fi
[ "${1:-}" = --install ] && { echo "$venv/bin/python"; exit 0; }
mix=${TAGSTREAM_BENCH_MIX:-$(cd "$root" && cargo bench --locked -p tagstream-image --bench mix \
    --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\/mix-[^"]*\)".*/\1/p' \
    | tail -1)}
[ -n "$mix" ] || { echo "run.sh: cargo named no program" >&2; exit 1; }
drawn=$cache/mix-pictures-$(cat "$here/pictures.py" "$here/requirements.txt" \
    | sha256sum | cut -c1-16)
exec "$venv/bin/python" "$here/run.py" --mix "$mix" --pictures "$drawn" \
    --log "${LOG:-$root/benches/runs/mix.jsonl}" "$@"
