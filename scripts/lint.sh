#!/usr/bin/env bash
# Formatting, clippy, rustdoc and dependencies; any warning fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=$(scripts/setup.sh test); eval "$setup"
echo "== cargo fmt"; cargo fmt --check
echo "== clippy, default features"; cargo clippy --locked --quiet --all-targets -- -D warnings
echo "== clippy, all features"; cargo clippy --locked --quiet --all-targets --all-features -- -D warnings
echo "== rustdoc"; RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --no-deps --document-private-items
echo "== cargo deny: licences, bans, sources"; cargo deny --offline --log-level error check licenses bans sources
