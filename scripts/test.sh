#!/usr/bin/env bash
# All tests: units, the end-to-end suite on the embedded broker and again on a real Apache Kafka and a real S3 server, the
# Parquet readers, and a short chaos run. A missing part fails; nothing passes by being left out.
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
$cargo --test '*' --quiet

step "the end-to-end suite on a real Apache Kafka and a real S3 server"
trap 'scripts/kafka.sh stop; scripts/s3.sh stop' EXIT
TAGSTREAM_TEST_KAFKA=$(scripts/kafka.sh start)
export TAGSTREAM_TEST_KAFKA
eval "$(scripts/s3.sh start)"
$cargo --test e2e --quiet
unset TAGSTREAM_TEST_KAFKA

step "chaos, shortened"
$cargo --test chaos --quiet -- --rounds "${TAGSTREAM_CHAOS_ROUNDS:-8}" --seed "${TAGSTREAM_CHAOS_SEED:-7}" --brokers 1

if [ "$(find /dev -maxdepth 1 -name 'nvidia[0-9]*' | wc -l)" = 0 ]; then
    echo; echo "not tested here: the CUDA and TensorRT providers (no GPU on this machine)"
fi
