#!/usr/bin/env bash
# A real Kafka reads what someone else wrote: check.sh STORE TOPIC...
#
# STORE holds folders TOPIC-0, TOPIC-1, ... They are copied and never changed. Then, for all of the named topics:
#   1. Kafka's dump tool walks every batch and record of every .log (deep iteration, consecutive offsets, checksums), holds every entry of
#      .index and .timeindex against the log, and runs the index sanity check. Every line it prints must be one of those it prints for a
#      sound folder.
#   2. A broker gets topics of these names and shapes, is stopped, has its empty folders replaced by the copies, and is started again
#      without its clean-shutdown mark and checkpoints, so that it verifies and recovers every segment. It must keep every folder, report
#      nothing, and leave the bytes of every .log as they were. The copies come without .txnindex and .snapshot: what recovery makes of the
#      log must be what STORE holds, where it holds it.
#   3. A consumer reads everything from that broker: one JSON object a record on standard output, in the order of topic, partition and offset:
#        {"topic":"t","partition":0,"offset":7,"timestamp":1700000000000,"key":BASE64|null,"value":BASE64|null,"headers":[["name",BASE64|null],...]}
#
#   4. The broker's coordinators say on standard error what they loaded, where GROUP names a consumer group: its committed offsets, and all
#      transactional ids.
#
# Exit: 0 all well, 1 something was refused or complained about, 2 bad usage, 3 Java 17 (a JDK), Maven or the jars are not to be had here.
# Topics named in COMPACTED have lost records to compaction: holes in their offsets are no complaint, and nothing can be rebuilt from them.
# Environment: KAFKA_HOME (where jars are kept), KAFKA_PORT (default: a free one), KAFKA_VERSION, ISOLATION (read_uncommitted), COMPACTED, GROUP.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
broker="$here/broker.sh"
[ $# -ge 2 ] || { sed -n "2,20p" "$0" >&2; exit 2; }
store=$1; shift; topics=("$@")

absent() { echo "$1" >&2; exit 3; }
for tool in java javac mvn; do command -v "$tool" > /dev/null || absent "no $tool on the path (a Java 17 JDK and Maven are needed)"; done
major=$(javac -version 2>&1 | sed -nE 's/^javac ([0-9]+).*/\1/p')
[ "${major:-0}" -ge 17 ] || absent "javac is of version ${major:-unknown}, 17 is needed"
"$broker" setup >&2 || absent "Kafka's jars could not be fetched"

in_use() { (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((20000 + RANDOM % 12000))
    in_use "$port" || in_use $((port + 1)) || { echo "$port"; return; }
  done
  echo "no free port found" >&2; return 1
}
export KAFKA_PORT=${KAFKA_PORT:-$(free_port)}
address=127.0.0.1:$KAFKA_PORT

work=$(mktemp -d); data="$work/data"
stop_broker() { [ ! -f "$data/pid" ] || "$broker" stop "$data" || "$broker" kill "$data"; }
clean_up() { stop_broker > /dev/null 2>&1 || true; rm -rf "$work"; }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
fail() {
  echo "check.sh: $1" >&2
  [ ! -f "$data/server.out" ] || tail -n 20 "$data/server.out" >&2
  exit 1
}

partition_count() {
  local count=0
  while [ -d "$store/$1-$count" ]; do count=$((count + 1)); done
  echo "$count"
}

is_compacted() { [[ " ${COMPACTED:-} " == *" $1 "* ]]; }

# The tool exits 0 whatever it finds, so what counts is what it prints: any line that a sound folder does not give is a complaint.
sound='^$|^Dumping |^Log starting offset: [0-9]+$| passed sanity check\.$| is empty\.$|^baseOffset: .* isvalid: true$'
dump_tool() {
  local topic=$1 files=$2; shift 2
  "$broker" tool kafka.tools.DumpLogSegments "$@" --files "$files" > "$work/dump.out" 2>&1 || fail "the dump tool gave up on $topic: $(grep -m 1 Exception "$work/dump.out")"
  ! grep -vE "$sound" "$work/dump.out" >&2 || fail "the dump tool complains about $topic (above)"
}
# What of a topic's copied folders ends in one of the given extensions, separated by commas.
files_of() {
  local topic=$1 extension; shift
  for extension in "$@"; do find "$work/copy" -path "$work/copy/$topic-*.$extension" | sort; done | paste -sd, -
}

mkdir "$work/copy"   # the tool opens indexes for writing: it gets a copy of its own
for topic in "${topics[@]}"; do
  count=$(partition_count "$topic")
  [ "$count" -gt 0 ] || { echo "no folder $store/$topic-0" >&2; exit 2; }
  for p in $(seq 0 $((count - 1))); do cp -r "$store/$topic-$p" "$work/copy/"; done
  logs=$(files_of "$topic" log) indexes=$(files_of "$topic" index timeindex)
  [ -n "$logs" ] || fail "$topic has no .log"
  [ -z "$indexes" ] || dump_tool "$topic" "$indexes" --index-sanity-check
  if is_compacted "$topic"; then deep=(); else deep=(--deep-iteration); fi
  dump_tool "$topic" "${indexes:+$indexes,}$logs" --verify-index-only "${deep[@]}" --skip-record-metadata
  rm -rf "$work"/copy/*
done
echo "dump tool: no complaints" >&2

start_broker() { "$broker" start "$data" log.initial.task.delay.ms=600000 > /dev/null || fail "the broker did not start"; }
start_broker
for topic in "${topics[@]}"; do
  "$broker" tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$address" --create --topic "$topic" \
    --partitions "$(partition_count "$topic")" --replication-factor 1 --config retention.ms=-1 > "$work/create.out" 2>&1 || fail "$(cat "$work/create.out")"
done
stop_broker
for topic in "${topics[@]}"; do
  for p in $(seq 0 $(($(partition_count "$topic") - 1))); do
    to="$data/log/$topic-$p"
    cp "$to/partition.metadata" "$work/metadata"   # the topic's id is the broker's own
    rm -rf "$to"; cp -r "$store/$topic-$p" "$to"; cp "$work/metadata" "$to/partition.metadata"
    is_compacted "$topic" || rm -f "$to"/*.txnindex "$to"/*.snapshot
  done
done
rm -f "$data"/log/.kafka_cleanshutdown "$data"/log/{recovery-point-offset,replication-offset,log-start-offset}-checkpoint
start_broker
"$broker" tool ReadAll "$address" "${ISOLATION:-read_uncommitted}" "${topics[@]}" || fail "the broker's topics could not be read"
if [ -n "${GROUP:-}" ]; then
  coordinator() {
    local class=$1; shift
    "$broker" tool "org.apache.kafka.tools.$class" --bootstrap-server "$address" "$@" 2>&1 | tr -s ' ' >&2 || fail "$class gave up"
  }
  coordinator consumer.group.ConsumerGroupCommand --describe --group "$GROUP"
  coordinator TransactionsCommand list
fi

for topic in "${topics[@]}"; do
  for p in $(seq 0 $(($(partition_count "$topic") - 1))); do
    for log in "$store/$topic-$p"/*.log; do
      cmp -s "$log" "$data/log/$topic-$p/${log##*/}" || fail "recovery changed $topic-$p/${log##*/}"
    done
    is_compacted "$topic" && continue
    for state in "$store/$topic-$p"/*.txnindex "$store/$topic-$p"/*.snapshot; do
      theirs="$data/log/$topic-$p/${state##*/}"
      # Recovery takes snapshots of its own choice; every transaction index it must have made.
      if [ -f "$theirs" ] || [[ "$state" == *.txnindex && -f "$state" ]]; then
        cmp "$state" "$theirs" >&2 || fail "recovery made another ${state##*/} of $topic-$p"
        echo "${state##*.} as Kafka makes it" >> "$work/state.out"
      fi
    done
  done
done
! grep -iE 'corrupt|invalid|truncat|exception|stray' "$data/server.out" >&2 || fail "the broker complains (above)"
echo "broker: recovered and served; $(sort "$work/state.out" 2> /dev/null | uniq -c | tr -s ' \n' ' ')" >&2
