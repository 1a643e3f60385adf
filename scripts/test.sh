#!/usr/bin/env bash
# All tests: units, the end-to-end suite on the embedded broker and the local disk, the same suite
# again on a real Apache Kafka and a real S3 server, and on both a short chaos run, a diagonal of
# the kill matrix, and the proof that the chaos checker can fail.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
setup=$(scripts/setup.sh test); eval "$setup"

step() { echo; echo "== $*"; }
# Failpoints are compiled in for tests only; traces and the search index are not in the default
# build.
cargo="cargo test --workspace --locked --features failpoints,otlp,search-index"

step "build"
$cargo --no-run
step "units and doc tests"
$cargo --lib --bins --quiet
$cargo --doc --quiet
# Tests that lack their server say so on a line of their own; they are counted at the end.
said=$(mktemp); without_gpu=$(mktemp)
trap 'rm -f "$said" "$without_gpu"; scripts/kafka.sh stop; scripts/s3.sh stop' EXIT

step "suites on the embedded broker and the local disk"
$cargo --test e2e --test suite --quiet -- --skip real_s3 --skip cannot_be_written_to \
    | tee "$without_gpu"

step "the end-to-end suite on a real Apache Kafka and a real S3 server"
TAGSTREAM_TEST_KAFKA=$(scripts/kafka.sh start --secure)
TAGSTREAM_TEST_KAFKA_TLS=${TAGSTREAM_KAFKA_DIR:-${TMPDIR:-/tmp}/tagstream-kafka}/tls
s3=$(scripts/s3.sh start)
(
    eval "$s3"
    export TAGSTREAM_TEST_KAFKA TAGSTREAM_TEST_KAFKA_TLS
    # On a real broker every killed process costs a session: fewer seeds.
    # What only an embedded broker does was tested above.
    TAGSTREAM_TEST_CRASH_SEEDS=${TAGSTREAM_TEST_CRASH_SEEDS:-6} $cargo --test e2e --quiet -- \
        --skip on_an_embedded_broker
) | tee "$said"

chaos() { $cargo --test chaos --quiet -- --brokers 1 "$@"; }
seed=${TAGSTREAM_CHAOS_SEED:-1}
step "chaos, shortened"
chaos --rounds "${TAGSTREAM_CHAOS_ROUNDS:-5}" --seed "$seed"
# Every place of the kill matrix with one of the four actions. The next commit takes the next
# action: four in a row have been through all cells.
diagonal=${TAGSTREAM_MATRIX_SEED:-$(git rev-list --count HEAD 2>/dev/null || echo 1)}
step "kill matrix, diagonal $diagonal"
chaos --matrix short --seed "$diagonal" --partitions 2
step "a put that overwrites, which the checker must find"
chaos --expect-broken --rounds 20 --seed "$seed" --partitions 4 --only FrozenPut \
    --failpoints sabotage.put.overwrite=on
step "offsets committed before the put and trusted, which the checker must find"
chaos --expect-broken --rounds 20 --seed "$seed" --partitions 4 --only Kill \
    --failpoints sabotage.commit.early=on,put.before=delay1500,sabotage.resume.trust=on

no_gpu=$(grep -ac "^NOT TESTED.*TAGSTREAM_TEST_PROVIDER" "$without_gpu" || true)
echo; echo "tests that lacked a GPU: $no_gpu (scripts/gpu_check.sh runs them where there is one)"
no_spark=$(grep -ac "^NOT TESTED.*TAGSTREAM_SPARK_PYTHONS" "$said" || true)
echo; echo "tests that lacked Spark: $no_spark (1.2 GB: scripts/setup.sh readers installs it)"
no_studio=$(grep -ac "^NOT TESTED.*scripts/label_studio.sh" "$said" || true)
echo; echo "tests that lacked Label Studio: $no_studio (make label-studio-test: minutes to install)"
apart="TAGSTREAM_SPARK_PYTHONS|scripts/label_studio.sh"
missed=$(grep -a "^NOT TESTED" "$said" | grep -acvE "$apart" || true)
echo; echo "tests that lacked their server: $missed"
[ "$missed" = 0 ]
