#!/bin/sh
# kafka-topics.sh and its like: the tool that the file is named after.
case $0 in
*kafka-topics.sh) tool=TopicCommand ;;
*kafka-broker-api-versions.sh) tool=BrokerApiVersionsCommand ;;
*) echo "$0: unknown" >&2; exit 2 ;;
esac
exec java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' \
    -Dorg.slf4j.simpleLogger.defaultLogLevel=warn "org.apache.kafka.tools.$tool" "$@"
