#!/usr/bin/env bash
# A real S3 server with conditional put (Versity S3 Gateway) on this machine, for tests and for
# trying things out.
#
#   scripts/s3.sh start [--port 19000] [--bucket tagstream]
#                                      start a fresh server, wait for it, print the settings
#   scripts/s3.sh stop                 stop it and delete its data
#   scripts/s3.sh kill | restart       SIGKILL it | start it again on its data
#   scripts/s3.sh env                  print the settings as shell exports
#
# The server is built from the Go module pinned in scripts/s3/go.mod (checked against go.sum) and
# kept in the cache folder ($TAGSTREAM_CACHE, default ~/.cache/tagstream). Data live in
# $TAGSTREAM_S3_DIR (default /tmp/tagstream-s3); $TAGSTREAM_S3_PORT is the port where --port is not
# given.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
data=${TAGSTREAM_S3_DIR:-${TMPDIR:-/tmp}/tagstream-s3}

die() { echo "s3.sh: $*" >&2; exit 1; }

server() {
    local sum; sum=$(cat "$here/s3/go.mod" "$here/s3/go.sum" | sha256sum | cut -c1-16)
    binary=$cache/versitygw-$sum
    [ -x "$binary" ] && return
    command -v go >/dev/null || die \
        "Go is missing: install Go 1.26 or newer (scripts/setup.sh tells how)"
    echo "s3.sh: building the S3 server (once)" >&2
    mkdir -p "$cache"
    (cd "$here/s3" && GOFLAGS=-mod=readonly GOTOOLCHAIN=local go build -trimpath \
        -o "$binary.partial" github.com/versity/versitygw/cmd/versitygw) \
        || die "the S3 server could not be built"
    mv "$binary.partial" "$binary"
}

# Entity tags belong in extended attributes: an object and its tag then appear together. In a folder
# beside the data (all that a file system without such attributes allows) a reader may see the new
# tag with the old content.
metadata=()
choose_metadata() {
    local probe=$data/buckets/.probe
    : >"$probe"
    if ! python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.probe", b"1")' "$probe" \
        2>/dev/null; then
        echo "s3.sh: $data has no extended attributes;" \
            "racing writers may see old content under a new tag" >&2
        metadata=(--sidecar "$data/meta")
    fi
    rm -f "$probe"
}

launch() {
    : >"$data/log"
    choose_metadata
    ROOT_ACCESS_KEY=tagstream ROOT_SECRET_KEY=tagstream-secret setsid nohup \
        "$binary" --port "127.0.0.1:$port" --region us-east-1 --health /health \
        posix "${metadata[@]}" "$data/buckets" \
        >>"$data/log" 2>&1 </dev/null &
    echo $! >"$data/pid"
    curl -fsS -o /dev/null --retry 200 --retry-delay 0 --retry-max-time 30 \
        --retry-connrefused "http://127.0.0.1:$port/health" 2>/dev/null \
        || { tail -20 "$data/log" >&2; die "the server did not start; its log is $data/log"; }
}

kill_server() {
    local pid; [ -f "$data/pid" ] || return 0
    pid=$(cat "$data/pid")
    kill -KILL "$pid" 2>/dev/null || true
    timeout 20 tail --pid="$pid" -f /dev/null || die "the server did not die"
}

settings() {
    read -r port bucket <"$data/server" || die "no server: run 'scripts/s3.sh start'"
    cat <<SETTINGS
export TAGSTREAM_TEST_S3_ENDPOINT=http://127.0.0.1:$port
export TAGSTREAM_TEST_S3_BUCKET=$bucket
export TAGSTREAM_TEST_S3_ACCESS_KEY_ID=tagstream
export TAGSTREAM_TEST_S3_SECRET_ACCESS_KEY=tagstream-secret
export TAGSTREAM_TEST_S3_REGION=us-east-1
SETTINGS
}

command=${1:-}; [ $# -gt 0 ] && shift
case $command in
start)
    port=${TAGSTREAM_S3_PORT:-19000} bucket=tagstream
    while [ $# -gt 0 ]; do case $1 in
        --port) port=$2; shift 2 ;;
        --bucket) bucket=$2; shift 2 ;;
        *) die "unknown option $1" ;;
    esac; done
    server
    kill_server; rm -rf "$data"
    mkdir -p "$data/buckets/$bucket" "$data/meta"
    echo "$port $bucket" >"$data/server"
    launch
    settings
    ;;
stop) kill_server; rm -rf "$data" ;;
kill) kill_server ;;
restart)
    server
    read -r port bucket <"$data/server" || die "no server: run 'scripts/s3.sh start'"
    kill_server; launch
    ;;
env) settings ;;
*) sed -n '2,13p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac
