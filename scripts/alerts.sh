#!/usr/bin/env bash
# Rules of Prometheus and the board of Grafana: what they name is there, each rule is tested and has
# its paragraph, and Prometheus takes every expression. Needs promtool (scripts/setup.sh test).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}/promtool
scripts/boards.py --check
promtool check rules deploy/prometheus/rules.yml
(cd deploy/prometheus && promtool test rules rules_test.yml)
board=$(mktemp); trap 'rm -f "$board"' EXIT
scripts/boards.py --rules >"$board"
promtool check rules "$board"
