#!/usr/bin/env bash
# Models swapped under full load; see swaps.py. Reads Parquet with the Python peer's packages
# (installed once, pinned by hash).
#
#   TAGSTREAM=target/release/tagstream benches/swaps.sh [head] [categories] [encoder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
eval "$("$here/../scripts/onnxruntime.sh")"
python=$("$here/peer/run.sh" --install)
exec "$python" "$here/swaps.py" --binary "${TAGSTREAM:-$here/../target/release/tagstream}" "$@"
