#!/usr/bin/env bash
# All tests: units, the end-to-end suite on the embedded broker and again on a real Apache Kafka, and a short chaos run on a
# real Apache Kafka and a real S3 server.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=$(scripts/setup.sh test); eval "$setup"

step() { echo; echo "== $*"; }
# Failpoints are compiled in for tests only.
cargo="cargo test --locked --features failpoints"

step "build"
$cargo --no-run
step "units and doc tests"
$cargo --lib --bins --quiet
$cargo --doc --quiet
step "suites on the embedded broker and the local disk"
$cargo --test e2e --test suite --quiet

step "the end-to-end suite on a real Apache Kafka (crashes there are the chaos run's part)"
trap 'scripts/kafka.sh stop; scripts/s3.sh stop' EXIT
TAGSTREAM_TEST_KAFKA=$(scripts/kafka.sh start)
export TAGSTREAM_TEST_KAFKA
$cargo --test e2e --quiet -- --skip crash::
unset TAGSTREAM_TEST_KAFKA

step "chaos, shortened"
$cargo --test chaos --quiet -- --rounds "${TAGSTREAM_CHAOS_ROUNDS:-5}" --seed "${TAGSTREAM_CHAOS_SEED:-1}" --brokers 1

if [ "$(find /dev -maxdepth 1 -name 'nvidia[0-9]*' | wc -l)" = 0 ]; then
    echo; echo "not tested here: the CUDA and TensorRT providers (no GPU on this machine)"
fi
