#!/usr/bin/env bash
# Runs docker-compose.yml as it stands, with podman, on a machine that reaches no image registry:
#
#   scripts/compose_test.sh      builds the images, starts everything, sends drawn pictures and
#                                labels, and sees Parquet files, a promotion, the pages, and the
#                                board's figures in Prometheus; removes it all. The board as a
#                                picture goes to $TAGSTREAM_COMPOSE_BOARD, if that is set
#
# Images have the names that the compose file uses. Debian's base comes from debootstrap; Kafka and
# the S3 server from what scripts/kafka.sh and scripts/s3.sh run; ours is made by the Dockerfile of
# the archive in dist/, so that nothing is compiled twice: `make dist` first.
# Needs root, podman, buildah, runc, netavark, aardvark-dns, iptables, debootstrap, and
# podman-compose, which is fetched. Images are kept; $TAGSTREAM_COMPOSE_KEEP=1 leaves the containers
# running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=$PWD
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
work=$(mktemp -d) project=tagstream-test
die() { echo "compose_test.sh: $*" >&2; exit 1; }
for tool in podman buildah runc iptables debootstrap java; do
    command -v "$tool" >/dev/null || die "$tool is missing (apt-get install podman buildah runc \
netavark aardvark-dns iptables debootstrap openjdk-17-jre-headless)"
done

archives=("${DIST:-dist}"/tagstream-*.tar.gz)
[ -f "${archives[0]}" ] || die "no archive in ${DIST:-dist}: make dist"

# runc and cgroupfs: no systemd is needed, and hybrid cgroups do.
cat >"$work/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=8192:8192", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
export CONTAINERS_CONF=$work/containers.conf BUILDAH_ISOLATION=chroot

compose_venv=$cache/podman-compose-1.6.0
[ -x "$compose_venv/bin/podman-compose" ] || {
    python3 -m venv "$compose_venv"
    "$compose_venv/bin/pip" install -q podman-compose==1.6.0
}
compose() { (cd "$work/project" && "$compose_venv/bin/podman-compose" -p "$project" "$@"); }

step() { echo; echo "== $*"; }

base_image() {
    podman image exists docker.io/library/debian:bookworm-slim && return
    step "Debian's base image"
    debootstrap --variant=minbase bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 \
        || { tail -5 "$work/debootstrap.log" >&2; die "debootstrap failed"; }
    tar -C "$work/rootfs" -c . | podman import -q - docker.io/library/debian:bookworm-slim
    rm -rf "$work/rootfs"
}

# Kafka and the S3 server from what the other scripts keep.
server_images() {
    local context=$work/servers
    mkdir -p "$context"
    cp scripts/compose/kafka-*.sh "$context"
    cp -r "$(dirname "$(ls -t "$cache"/kafka-*/.complete | head -1)")" "$context/kafka"
    cp "$(ls -t "$cache"/versitygw-* | head -1)" "$context/versitygw"
    step "image of Kafka"
    podman build -q -t docker.io/apache/kafka:4.1.0 -f - "$context" <<'FILE'
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update && mkdir -p /usr/share/man/man1 \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*
COPY kafka /opt/kafka/libs
COPY kafka-entry.sh /opt/kafka/entry.sh
COPY kafka-tool.sh /opt/kafka/bin/kafka-topics.sh
COPY kafka-tool.sh /opt/kafka/bin/kafka-broker-api-versions.sh
CMD ["/opt/kafka/entry.sh"]
FILE
    step "image of the S3 server"
    podman build -q -t docker.io/versity/versitygw:v1.8.0 -f - "$context" <<'FILE'
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/*
COPY versitygw /usr/local/bin/versitygw
FILE
    step "image of Prometheus: Debian's 2.42, where the compose file names a newer one"
    podman build -q -t docker.io/prom/prometheus:v3.5.0 -f - "$context" <<'FILE'
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends prometheus \
    && rm -rf /var/lib/apt/lists/* && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus", "--config.file=/etc/prometheus/prometheus.yml", \
    "--storage.tsdb.path=/prometheus"]
FILE
}

our_image() {
    step "image of tagstream"
    local context=$work/ours
    mkdir -p "$context/dist"
    cp "${archives[0]}" "$context/dist"
    # Without the stage that compiles: there is no image of Rust here.
    sed -e '/^FROM rust/,/^COPY . ./d; /^RUN export/,/^$/d' \
        -e 's/^FROM debian/FROM docker.io\/library\/debian/' Dockerfile >"$context/Containerfile"
    podman build -q --build-arg FROM=archive -t localhost/tagstream -f "$context/Containerfile" \
        "$context"
    podman image inspect -f 'size {{.Size}} bytes, user {{.User}}' localhost/tagstream
}

# The container of a service.
container() {
    podman ps -a -q --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$1" | head -1
}
healthy() { podman healthcheck run "$(container "$1")" >/dev/null 2>&1; }
completed() {
    [ "$(podman inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$(container "$1")")" \
        = "exited 0" ]
}

clean_up() {
    local status=$?
    if [ "$status" != 0 ] && [ -d "$work/project" ]; then
        for name in model stage retrain serve prometheus; do
            podman logs --tail 20 "$(container "$name")" >&2 || true
        done
    fi
    if [ -z "${TAGSTREAM_COMPOSE_KEEP:-}" ]; then
        [ ! -d "$work/project" ] || compose down -v >/dev/null 2>&1 || true
        rm -rf "$work"
    fi
    exit "$status"
}
trap clean_up EXIT

# Asks again until the condition holds; each look is an answer of the thing itself.
until_true() { # seconds, what, command...
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || die "$what: not after the time that it may take"
        sleep 1
    done
}
metric() { curl -fsS http://127.0.0.1:9464/metrics 2>/dev/null | sed -n "s/^$1 //p" | head -1; }
ready() { curl -fsS -o /dev/null http://127.0.0.1:9464/health/readyz 2>/dev/null; }

base_image
server_images
our_image

step "pictures and labels"
mkdir -p "$work/project/pictures"
mkdir "$work/unpacked"
tar -xzf "${archives[0]}" -C "$work/unpacked" --strip-components=1
# The archive's own configurations: those of the sources may be newer than it.
cp -r docker-compose.yml deploy "$work/unpacked/share/tagstream/configs" "$work/project/"
binary=$work/unpacked/bin/tagstream
count=${TAGSTREAM_COMPOSE_IMAGES:-800}
"$binary" scenes --out "$work/scenes" --count "$count" --seed 7 --style pale
cp "$work"/scenes/images/* "$work/project/pictures/"
cp "$work/scenes/labels.csv" "$work/project/configs/"
chmod -R a+rX "$work/project"

step "up"
# What stands in `build:` is there already.
sed -i '/^  build: \./d; s/^  image: tagstream/  image: localhost\/tagstream/' \
    "$work/project/docker-compose.yml"
# This podman asks no container how it is (that takes systemd), so podman-compose cannot wait: what
# `depends_on` says is done here.
compose up -d --no-deps kafka s3
until_true 120 "Kafka is healthy" healthy kafka
until_true 60 "the S3 server is healthy" healthy s3
compose up -d --no-deps topics model
until_true 300 "the topics are there" completed topics
until_true 300 "a first model is there" completed model
compose up -d --no-deps stage retrain serve prometheus
until_true 300 "the stage is ready" ready
echo "NOT RUN: grafana. Neither Debian nor a registry that is reached from here has it; the board"
echo "is checked by scripts/boards.py, and drawn below from what Prometheus has."
compose ps

step "tags"
compose --profile tools run --rm --no-deps produce
committed() { [ "$(metric 'tagstream_rows_total{table="'"$1"'"}')" = "$2" ]; }
until_true 300 "$count rows are committed" committed predictions "$count"

step "labels"
compose --profile tools run --rm --no-deps produce labels import /etc/tagstream/labels.csv \
    --brokers kafka:9092 --topic labels
until_true 300 "$count label events are kept" committed labels "$count"

step "a retraining, and the stage takes what it made"
retrained() {
    compose run --rm --no-deps retrain retrain --config /etc/tagstream/retrain.toml --once && return
    local status=$?
    [ "$status" = 75 ] || die "the retraining ended with $status"
    return 1
}
until_true 600 "a promotion" retrained
swapped() { curl -fsS http://127.0.0.1:9464/info | grep -q '"trm-ml-'; }
until_true 60 "the stage serves the new model" swapped
curl -fsS http://127.0.0.1:9464/info

step "pages, and Prometheus with the board's figures"
# By a name that it has been told it has.
page() { curl -fsS -o /dev/null http://localhost:9480/login 2>/dev/null; }
until_true 60 "the pages answer" page
asked() { # PromQL: whether there is a result
    curl -fsS -G --data-urlencode "query=$1" http://127.0.0.1:9090/api/v1/query 2>/dev/null \
        | grep -q '"value":'
}
until_true 120 "Prometheus sees the stage" asked 'up{job="tagstream"} == 1'
rows='tagstream_rows_total{table="predictions"}'
until_true 120 "Prometheus has the rows" asked "$rows == $count"
until_true 300 "Prometheus has a rate" asked 'rate(tagstream_messages_total[5m]) > 0'
curl -fsS http://127.0.0.1:9090/api/v1/rules | grep -q TagstreamEmbeddingsDrift \
    || die "Prometheus has not read the rules"
scripts/board_picture.py http://127.0.0.1:9090 >"$work/board.html"
[ -z "${TAGSTREAM_COMPOSE_BOARD:-}" ] || cp "$work/board.html" "$TAGSTREAM_COMPOSE_BOARD"
echo
echo "compose: $count pictures tagged, $count label events kept, a model promoted and served"
