#!/usr/bin/env bash
# Runs the Python peer (for `tagstream bench --peer benches/peer/run.sh`); its packages are
# installed once, pinned by hash, into the cache folder ($TAGSTREAM_CACHE, default
# ~/.cache/tagstream). `run.sh --install` only installs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
sum=$(sha256sum "$here/requirements.txt" | cut -c1-16)
venv=$cache/peer-$sum
if [ ! -f "$venv/.complete" ]; then
    echo "run.sh: installing the peer's packages" >&2
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" --disable-pip-version-check install -q --require-hashes --only-binary=:all: \
        -r "$here/requirements.txt" >&2 \
        || { echo "run.sh: pip could not install the peer's packages" >&2; exit 1; }
    touch "$venv/.complete"
fi
[ "${1:-}" = --install ] && { echo "$venv/bin/python"; exit 0; }
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
exec "$venv/bin/python" "$here/peer.py" "$@"
