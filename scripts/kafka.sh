#!/usr/bin/env bash
# A real Apache Kafka (KRaft) on this machine, for tests and for trying things out.
#
#   scripts/kafka.sh start [--brokers 1|3] [--port 19092] [--secure]
#                                             start a fresh cluster and wait until it serves;
#                                             --secure: also listeners with TLS and logins, on the
#                                             ports 200 (client certificates) and 201 (SASL) above,
#                                             with keys in the data folder's tls/
#   scripts/kafka.sh stop                     stop it and delete its data
#   scripts/kafka.sh kill [NODE]              SIGKILL one broker (default 1); its data stay
#   scripts/kafka.sh restart [NODE]           start that broker again on its data
#   scripts/kafka.sh freeze|thaw [NODE]       SIGSTOP and SIGCONT: it answers nothing in between
#   scripts/kafka.sh bootstrap                print the bootstrap servers
#   scripts/kafka.sh tool CLASS [ARG ...]     run one of Kafka's own tools, for example
#       scripts/kafka.sh tool TopicCommand --create --topic images --partitions 6
#
# The artefacts come from Maven Central by the pinned scripts/kafka/pom.xml and are kept in the
# cache folder ($TAGSTREAM_CACHE, default ~/.cache/tagstream). Data live in $TAGSTREAM_KAFKA_DIR
# (default /tmp/tagstream-kafka). $TAGSTREAM_KAFKA_PORT is the port where --port is not given; two
# clusters at once need a folder and a port each. Needs Java 17 and Maven. Readiness is read from
# the broker's own log, not guessed by sleeping.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${TAGSTREAM_CACHE:-$HOME/.cache/tagstream}
data=${TAGSTREAM_KAFKA_DIR:-${TMPDIR:-/tmp}/tagstream-kafka}
cluster_id=dGFnc3RyZWFtdGVzdGNsdQ

die() { echo "kafka.sh: $*" >&2; exit 1; }

libraries() {
    local sum; sum=$(sha256sum "$here/kafka/pom.xml" | cut -c1-16)
    libs=$cache/kafka-$sum
    [ -f "$libs/.complete" ] && return
    command -v mvn >/dev/null || die \
        "Maven is missing: install maven and a Java 17 runtime (scripts/setup.sh does)"
    echo "kafka.sh: fetching Apache Kafka from Maven Central" >&2
    mkdir -p "$libs"
    mvn -q -B -f "$here/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$libs" >&2 \
        || die "Maven could not fetch the broker's artefacts"
    touch "$libs/.complete"
}

java_with() { # heap, class, args...
    local heap=$1 class=$2; shift 2
    java "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$libs/*" \
        -Dorg.slf4j.simpleLogger.defaultLogLevel="${TAGSTREAM_KAFKA_LOG:-info}" \
        -Dorg.slf4j.simpleLogger.showDateTime=true "$class" "$@"
}

broker_ports() { # brokers
    local n
    for n in $(seq 1 "$1"); do echo "localhost:$((port + n - 1))"; done | paste -sd,
}

write_properties() { # node, brokers
    local node=$1 brokers=$2 voters replicas
    voters=$(for n in $(seq 1 "$brokers"); do echo "$n@localhost:$((port + 100 + n - 1))"; done \
        | paste -sd,)
    replicas=$brokers
    local own=PLAINTEXT://localhost:$((port + node - 1))
    [ "$secure" = no ] \
        || own=$own,SSL://localhost:$((port + 200)),SASL_SSL://localhost:$((port + 201))
    cat >"$data/node-$node.properties" <<PROPERTIES
process.roles=broker,controller
node.id=$node
controller.quorum.voters=$voters
controller.listener.names=CONTROLLER
listeners=$own,CONTROLLER://localhost:$((port + 100 + node - 1))
advertised.listeners=$own
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
log.dirs=$data/node-$node
num.partitions=1
default.replication.factor=$replicas
min.insync.replicas=$(( replicas > 1 ? 2 : 1 ))
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$(( replicas > 1 ? 2 : 1 ))
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
log.retention.check.interval.ms=1000
log.initial.task.delay.ms=1000
log.segment.delete.delay.ms=1000
log.cleaner.backoff.ms=500
num.network.threads=2
num.io.threads=4
PROPERTIES
    # Rights are for a broker alone: controllers that vote have to talk before they know any.
    [ "$brokers" != 1 ] || cat >>"$data/node-$node.properties" <<PROPERTIES
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
PROPERTIES
    [ "$secure" = no ] || secure_properties >>"$data/node-$node.properties"
}

# A user of all mechanisms; OAUTHBEARER takes tokens that nobody signed.
user=tagstream password=tagstream-secret

secure_properties() {
    local module=org.apache.kafka.common.security
    cat <<PROPERTIES
ssl.keystore.type=PEM
ssl.keystore.location=$data/tls/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=$data/tls/ca.crt
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=$module.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=$module.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=$module.plain.PlainLoginModule required \\
 user_$user="$password";
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=$module.oauthbearer.OAuthBearerLoginModule \\
 required unsecuredLoginStringClaim_sub="broker";
PROPERTIES
}

# A certificate authority, and certificates by it for the broker and a client.
make_keys() {
    mkdir -p "$data/tls"
    (
        cd "$data/tls"
        key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }
        signed() { # name, extensions
            key "$1"
            openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
            openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
                -extfile <(echo "$2") -out "$1.crt"
        }
        key ca
        openssl req -x509 -new -key ca.key -subj "/CN=test" -days 30 -out ca.crt \
            -addext basicConstraints=critical,CA:true
        signed broker subjectAltName=DNS:localhost,IP:127.0.0.1
        signed client extendedKeyUsage=clientAuth
        cat broker.key broker.crt >broker.pem
    ) >/dev/null 2>"$data/tls.log" || { cat "$data/tls.log" >&2; die "openssl made no keys"; }
}

launch() { # node
    local node=$1 log=$data/node-$1.log
    : >"$log"
    setsid nohup bash -c 'exec "$@"' _ java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -cp "$libs/*" -Dorg.slf4j.simpleLogger.defaultLogLevel="${TAGSTREAM_KAFKA_LOG:-info}" \
        -Dorg.slf4j.simpleLogger.showDateTime=true kafka.Kafka "$data/node-$node.properties" \
        >>"$log" 2>&1 </dev/null &
    echo $! >"$data/node-$node.pid"
}

wait_ready() { # node
    local node=$1 pid log; pid=$(cat "$data/node-$node.pid") log=$data/node-$node.log
    timeout 120 bash -c \
        'tail -n +1 --pid="$1" -F "$2" 2>/dev/null | grep -q -m1 "Kafka Server started"' \
        _ "$pid" "$log" \
        || { tail -20 "$log" >&2; die "broker $node did not start; its log is $log"; }
}

stop_all() {
    local file pid
    for file in "$data"/node-*.pid; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        kill -KILL "$pid" 2>/dev/null || true
        timeout 20 tail --pid="$pid" -f /dev/null || true
    done
    rm -rf "$data"
}

command=${1:-}; [ $# -gt 0 ] && shift
case $command in
start)
    brokers=1 port=${TAGSTREAM_KAFKA_PORT:-19092} secure=no
    while [ $# -gt 0 ]; do case $1 in
        --brokers) brokers=$2; shift 2 ;;
        --port) port=$2; shift 2 ;;
        --secure) secure=yes; shift ;;
        *) die "unknown option $1" ;;
    esac; done
    [ "$brokers" = 1 ] || [ "$brokers" = 3 ] || die "--brokers takes 1 or 3"
    libraries
    [ -d "$data" ] && stop_all
    mkdir -p "$data"
    [ "$secure" = no ] || [ "$brokers" = 1 ] || die "--secure takes one broker"
    echo "$port $brokers" >"$data/cluster"
    users=()
    if [ "$secure" = yes ]; then
        make_keys
        for mechanism in SCRAM-SHA-256 SCRAM-SHA-512; do
            users+=(--add-scram "$mechanism=[name=$user,password=$password]")
        done
    fi
    for node in $(seq 1 "$brokers"); do
        write_properties "$node" "$brokers"
        java_with 256m kafka.tools.StorageTool format --cluster-id "$cluster_id" \
            --config "$data/node-$node.properties" "${users[@]}" >"$data/format.log" 2>&1 \
            || { cat "$data/format.log" >&2; die "formatting failed"; }
    done
    for node in $(seq 1 "$brokers"); do launch "$node"; done
    for node in $(seq 1 "$brokers"); do wait_ready "$node"; done
    broker_ports "$brokers"
    ;;
stop) stop_all ;;
kill)
    node=${1:-1}; pid=$(cat "$data/node-$node.pid") || die "no broker $node"
    kill -KILL "$pid" 2>/dev/null || true
    timeout 20 tail --pid="$pid" -f /dev/null || die "broker $node did not die"
    ;;
freeze|thaw)
    node=${1:-1}; pid=$(cat "$data/node-$node.pid") || die "no broker $node"
    [ "$command" = freeze ] && signal=STOP || signal=CONT
    kill -"$signal" "$pid"
    ;;
restart)
    node=${1:-1}; libraries
    pid=$(cat "$data/node-$node.pid") || die "no broker $node"
    kill -KILL "$pid" 2>/dev/null && timeout 20 tail --pid="$pid" -f /dev/null || true
    launch "$node"; wait_ready "$node"
    ;;
bootstrap)
    read -r port brokers <"$data/cluster" || die "no cluster: run 'scripts/kafka.sh start'"
    broker_ports "$brokers"
    ;;
tool)
    libraries
    read -r port brokers <"$data/cluster" || die "no cluster: run 'scripts/kafka.sh start'"
    class=$1; shift
    TAGSTREAM_KAFKA_LOG=warn java_with 256m "org.apache.kafka.tools.$class" \
        --bootstrap-server "$(broker_ports "$brokers")" "$@"
    ;;
*) sed -n '2,21p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac
