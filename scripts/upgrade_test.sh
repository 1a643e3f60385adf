#!/usr/bin/env bash
# A rolling upgrade on real servers: builds an older revision, and replaces a group of its
# processes by this build's one by one, under load, and back. Rows go to benches/runs/upgrade.jsonl.
#   scripts/upgrade_test.sh [REVISION]    46e3ef7 is 0.1.0
# FROM_BINARY=FILE: that older build instead of making one. ROUNDS=n (4), SEED=s (1), STAGES=n (3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
revision=${1:-46e3ef7}
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
setup=$(scripts/setup.sh test)
eval "$setup"
old=${FROM_BINARY:-}
if [ -z "$old" ]; then
    revision=$(git rev-parse --short=12 "$revision")
    old=$cache/upgrade/tagstream-$revision
    if [ ! -x "$old" ]; then
        work=$(mktemp -d)
        trap 'git worktree remove --force "$work/tree" 2>/dev/null; rm -rf "$work"' EXIT
        git worktree add --quiet --detach "$work/tree" "$revision"
        # Debug: what is asked is what it reads and writes, not how fast.
        (cd "$work/tree" && CARGO_TARGET_DIR=$work/target CARGO_PROFILE_DEV_DEBUG=0 \
            cargo build --locked --bin tagstream)
        mkdir -p "$cache/upgrade"
        cp "$work/target/debug/tagstream" "$old"
    fi
fi
"$old" --version
cargo test --release --locked --features failpoints --test chaos -- --upgrade-from "$old" \
    --rounds "${ROUNDS:-4}" --seed "${SEED:-1}" --stages "${STAGES:-3}" --brokers 1 \
    --log benches/runs/upgrade.jsonl
