#!/usr/bin/env bash
# A real Apache Kafka, one KRaft node on loopback. Needs Java 17 (JDK) and Maven's registry.
#   broker.sh setup                 fetch the jars and compile java/ (once; into $KAFKA_HOME, default a folder beside other temporary files)
#   broker.sh start DATA [k=v]...   format DATA if new, start, wait until it answers; prints the port
#   broker.sh stop DATA | kill DATA clean stop | kill -9
#   broker.sh tool CLASS ARGS...    run one of Kafka's classes, or one of java/
#   broker.sh dump FOLDER...        what Kafka's own classes read there, in the contract of dump_log --json
# Environment: KAFKA_HOME, KAFKA_PORT (default 19092; the next port is taken too), KAFKA_VERSION (default 4.2.0).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${KAFKA_HOME:-$(dirname "$(mktemp -u)")/stratalog-kafka}
port=${KAFKA_PORT:-19092}
version=${KAFKA_VERSION:-4.2.0}
lib=$home/lib-$version
classpath="$home/classes:$lib/*"
quiet=(-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dlog4j2.level=WARN)
run() { java -Xmx512m "${quiet[@]}" -cp "$classpath" "$@"; }
case "${1:-}" in
  setup)
    mkdir -p "$home/classes"
    if [ ! -d "$lib" ]; then
      mvn -q -B -f "$here/pom.xml" -Dkafka="$version" dependency:copy-dependencies -DoutputDirectory="$lib.part.$$"
      mv "$lib.part.$$" "$lib"
    fi
    javac -d "$home/classes" -cp "$lib/*" "$here"/java/*.java ;;
  start)
    data=$2; shift 2; mkdir -p "$data"
    { echo "process.roles=broker,controller"; echo "node.id=1"
      echo "controller.quorum.voters=1@127.0.0.1:$((port + 1))"; echo "controller.listener.names=CONTROLLER"
      echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))"
      echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
      echo "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
      echo "log.dirs=$data/log"; echo "offsets.topic.replication.factor=1"; echo "offsets.topic.num.partitions=4"
      echo "transaction.state.log.replication.factor=1"; echo "transaction.state.log.min.isr=1"; echo "transaction.state.log.num.partitions=2"
      echo "share.coordinator.state.topic.replication.factor=1"; echo "share.coordinator.state.topic.min.isr=1"
      echo "share.coordinator.state.topic.num.partitions=2"
      echo "group.initial.rebalance.delay.ms=0"; echo "auto.create.topics.enable=false"
      for kv in "$@"; do echo "$kv"; done
    } > "$data/server.properties"
    [ -f "$data/log/meta.properties" ] || run kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAg -c "$data/server.properties" > "$data/format.out" 2>&1 || { cat "$data/format.out" >&2; exit 1; }
    # without job control a background job ignores the terminal's interrupt: whoever started the broker stops it
    java -Xmx1g "${quiet[@]}" -cp "$classpath" kafka.Kafka "$data/server.properties" > "$data/server.out" 2>&1 < /dev/null &
    echo $! > "$data/pid"
    for _ in $(seq 120); do
      kill -0 "$(cat "$data/pid")" 2>/dev/null || { tail -20 "$data/server.out" >&2; exit 1; }
      if run Ready "127.0.0.1:$port" 2>/dev/null; then echo "$port"; exit 0; fi
      sleep 0.5
    done
    tail -20 "$data/server.out" >&2; exit 1 ;;
  stop|kill)
    pid=$(cat "$2/pid"); [ "$1" = stop ] && kill "$pid" || kill -9 "$pid"
    for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || { rm "$2/pid"; exit 0; }; sleep 0.1; done
    echo "broker $pid is still up" >&2; exit 1 ;;
  tool) shift; run "$@" ;;
  dump) shift; run Dump "$@" ;;
  *) sed -n '2,8p' "$0"; exit 2 ;;
esac
