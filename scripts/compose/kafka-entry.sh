#!/bin/sh
# What Kafka's image does at its start, as far as docker-compose.yml needs it: settings from KAFKA_*
# variables, storage that is formatted once, the broker.
set -e
properties=/tmp/server.properties
env | sed -n 's/^KAFKA_//p' | while IFS='=' read -r name value; do
    echo "$(echo "$name" | tr 'A-Z_' 'a-z.')=$value"
done >"$properties"
heap="-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
java $heap -cp '/opt/kafka/libs/*' kafka.tools.StorageTool format --ignore-formatted \
    --cluster-id dGFnc3RyZWFtdGVzdGNsdQ --config "$properties"
exec java $heap -cp '/opt/kafka/libs/*' -Dorg.slf4j.simpleLogger.showDateTime=true \
    kafka.Kafka "$properties"
