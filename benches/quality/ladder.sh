#!/usr/bin/env bash
# The ablation ladder: from text-pixel matching to trm-ml, one ingredient a step. Takes what run.sh
# takes and adds its rows to the same file, under the names below.
#
#   TAGSTREAM_BENCH_DIR=/path/to/bench SEEDS=0 SETS=36 benches/quality/ladder.sh
set -euo pipefail
cd "$(dirname "$0")"
step() { METHODS=$1 NAME=$2 OVERRIDES=$3 ./run.sh; }
step positive-coop "" ""
step trm-ml-base "regions" \
    "query.enabled=false distillation.weight=0 contrastive.weight=0 pseudo.form=none"
step trm-ml-base "regions+queries" "distillation.weight=0 contrastive.weight=0 pseudo.form=none"
step trm-ml-base "+distillation" "contrastive.weight=0 pseudo.form=none"
step trm-ml-base "+contrastive" "pseudo.form=none"
step trm-ml-base "" ""
step trm-ml "soft-targets" "global.enabled=false memory.enabled=false regional.enabled=false"
step trm-ml "+global" "memory.enabled=false regional.enabled=false"
step trm-ml "+images" "regional.enabled=false"
step trm-ml "" ""
