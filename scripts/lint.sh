#!/usr/bin/env bash
# Formatting, clippy, rustdoc, dependencies, documents and the size of what is tracked; any warning
# fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=$(scripts/setup.sh test); eval "$setup"
echo "== no tracked file above 4 MiB (data belongs outside; the largest one is the demo model)"
large=$(git ls-files -z | xargs -0 -I{} find {} -maxdepth 0 -size +4096k)
if [ -n "$large" ]; then
    printf 'lint.sh: too large to be tracked:\n%s\n' "$large" >&2
    exit 1
fi
echo "== widths: 100 columns"; scripts/widths.py --check
echo "== figures of the documents are those of benches/"; scripts/figures.py --check
echo "== links and file names in documents"; scripts/links.py
echo "== a reason for every dependency"; scripts/dependencies.py
echo "== one form of imports, one home for unit tests"; scripts/imports.py
echo "== Helm chart and manifests"; scripts/chart.sh check
echo "== rules, their tests, and the board"; scripts/alerts.sh
echo "== cargo fmt"; cargo fmt --all --check
clippy="cargo clippy --workspace --locked --quiet --all-targets"
echo "== clippy, default features"; $clippy -- -D warnings
echo "== clippy, all features"; $clippy --all-features -- -D warnings
echo "== without the demonstration"
cargo clippy --locked --quiet --no-default-features --lib --bins -- -D warnings
echo "== rustdoc"
RUSTDOCFLAGS="-D warnings" \
    cargo doc --workspace --locked --quiet --no-deps --document-private-items
# The licences of other platforms' crates are looked at, too; nothing above has fetched those.
cargo fetch --locked --quiet
echo "== cargo deny: licences, bans, sources"
cargo deny --offline --log-level error check licenses bans sources
echo "== cargo deny: advisories"
if cargo deny --log-level error fetch db; then
    cargo deny --offline --log-level error check advisories
else
    echo "NOT CHECKED: the database of advisories cannot be fetched here (docs/dependencies.md)"
fi
