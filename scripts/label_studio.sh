#!/usr/bin/env bash
# A Label Studio from PyPI for tests, with the data of a first start: one user with a known key.
#
#   eval "$(scripts/label_studio.sh)"   installs it once (1 GB) and names it for the tests
#
# It stands in the cache folder ($TAGSTREAM_CACHE, default ~/.cache/tagstream); removing it there
# undoes it. The first start makes its database, which takes minutes.
set -euo pipefail

version=1.23.2
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
folder=$cache/label-studio-$version
program=$folder/venv/bin/label-studio

die() { echo "label_studio.sh: $*" >&2; exit 1; }

if [ ! -x "$program" ]; then
    echo "label_studio.sh: installing label-studio $version into $folder" >&2
    mkdir -p "$folder"
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install -q "label-studio==$version" >&2
fi
if [ ! -d "$folder/data" ]; then
    echo "label_studio.sh: the first start" >&2
    rm -rf "$folder/first"
    mkdir -p "$folder/first"
    free='import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
    port=$(python3 -c "$free")
    COLLECT_ANALYTICS=false LATEST_VERSION_CHECK=false SENTRY_DSN='' \
        "$program" start --no-browser --data-dir "$folder/first" -p "$port" \
        --username tester@example.org --password only-for-tests-1 \
        --user-token 0123456789abcdef0123456789abcdef01234567 --enable-legacy-api-token \
        >"$folder/first.log" 2>&1 &
    started=$!
    trap 'kill $started 2>/dev/null || true' EXIT
    until curl -fsS -o /dev/null "http://127.0.0.1:$port/version" 2>/dev/null; do
        kill -0 $started 2>/dev/null || die "it ended: $folder/first.log"
        sleep 1
    done
    kill $started
    wait $started 2>/dev/null || true
    trap - EXIT
    mv "$folder/first" "$folder/data"
fi
echo "export TAGSTREAM_LABEL_STUDIO=$program TAGSTREAM_LABEL_STUDIO_DATA=$folder/data"
