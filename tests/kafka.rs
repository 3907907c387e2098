//! The other way round: Apache Kafka reads what we wrote.
//!
//! A store is filled through the `console` example — several partitions, every codec that this build has, many small
//! segments, both kinds of timestamps, headers, nulls beside empties — and handed to `tests/kafka/check.sh`, which
//! lets Kafka's dump tool and then a broker judge it. Every record that the broker serves must be the one our own
//! consumer prints and the one that went in. One more topic is filled through the library, with transactions that were committed,
//! aborted and left open: the broker's consumer of committed records must see what ours sees, and Kafka must make the same
//! transaction indexes and producer snapshots of the log.
//!
//! Where there is no Java 17, no Maven, or no way to fetch Kafka's jars, the broker's part is skipped, and the test
//! says so on standard error; our own round trip is checked either way.
#![cfg(all(unix, feature = "client"))]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of a test: whatever goes wrong here must fail it"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stratalog::format::{ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::{
    CleanupPolicy, CommittedOffset, Durability, Isolation, LogStore, Offset, Partition, Record, StoreConfig,
    StoreOptions, Timestamp, TopicConfig, TransactionCoordinator,
};

/// A topic's served records, by partition, in the order of their offsets.
type Partitions = BTreeMap<u64, Vec<Value>>;

/// What `check.sh` exits with when the machine lacks Java, Maven or a way to the jars.
const KAFKA_IS_ABSENT: i32 = 3;

/// A topic to write: its settings on top of the small ones that all have, and how many records go into one batch.
struct TopicPlan {
    name: &'static str,
    partitions: u64,
    config: &'static [&'static str],
    batch: &'static str,
}

const PLANS: [TopicPlan; 4] = [
    TopicPlan {
        name: "small.segments",
        partitions: 3,
        config: &["segment.bytes=3000", "index.interval.bytes=100"],
        batch: "5",
    },
    TopicPlan {
        name: "append_time",
        partitions: 2,
        config: &["message.timestamp.type=LogAppendTime", "segment.bytes=4096", "index.interval.bytes=0"],
        batch: "3",
    },
    TopicPlan { name: "one-by-one", partitions: 1, config: &["segment.bytes=3000"], batch: "1" },
    TopicPlan { name: "big-batches", partitions: 2, config: &[], batch: "500" },
];

#[test]
fn a_broker_serves_exactly_what_we_wrote() {
    let console = Console::build();
    let folder = tempfile::tempdir().unwrap();
    let mut ours = BTreeMap::new();
    for plan in &PLANS {
        let before = now_ms();
        let input = fill(&console, folder.path(), plan);
        let served = console.consume(folder.path(), plan);
        assert_serves_the_input(plan, &served, input, before);
        ours.insert(plan.name.to_owned(), served);
    }
    let segments = std::fs::read_dir(folder.path().join("small.segments-0")).unwrap();
    let logs = segments.filter(|entry| entry.as_ref().unwrap().path().extension() == Some("log".as_ref())).count();
    assert!(logs > 3, "the plan asks for many small segments, {logs} were written");

    ours.insert(TRANSACTIONAL.to_owned(), fill_with_transactions(folder.path()));
    ours.insert(COMPACTED.to_owned(), fill_and_compact(folder.path()));
    ours.insert(COORDINATED.to_owned(), fill_in_coordinated_transactions(folder.path()));

    let Some(theirs) = ask_kafka(folder.path()) else { return };
    for (topic, served) in &ours {
        for (partition, records) in served {
            let kafka = theirs.get(topic).and_then(|all| all.get(partition)).map_or(&[][..], Vec::as_slice);
            for (our, their) in records.iter().zip(kafka) {
                assert_eq!(our, their, "{topic}-{partition}: our consumer on the left, the broker's on the right");
            }
            assert_eq!(records.len(), kafka.len(), "{topic}-{partition}: records that we and the broker serve");
        }
        assert_eq!(served.len(), theirs.get(topic).map_or(0, BTreeMap::len), "{topic}: partitions with records");
    }
}

/// The topic with transactions.
const TRANSACTIONAL: &str = "transactional";

/// Fills a topic with interleaved transactions of several producers; hands back what readers of committed records get.
fn fill_with_transactions(dir: &Path) -> Partitions {
    let store = LogStore::open(dir).unwrap();
    let config = TopicConfig::new().segment_bytes(2000).index_interval_bytes(100);
    let topic = store.create_topic(TRANSACTIONAL, 2, config).unwrap();
    for partition in topic.partitions() {
        let mut producers: Vec<Writer> = (1..5).map(Writer::new).collect();
        for round in 0..60_usize {
            for (index, producer) in producers.iter_mut().enumerate() {
                let transactional = index > 0;
                producer.append(&partition, round % 3 + 1, transactional);
                if transactional && (round + index).is_multiple_of(index + 2) {
                    producer.end(&partition, (round + index) % 3 == 0);
                }
            }
        }
        producers.iter_mut().skip(2).for_each(|producer| producer.end(&partition, true));
        // One stays open, with records of others behind it.
        producers[1].append(&partition, 1, true);
        producers[0].append(&partition, 2, false);
        assert_eq!(partition.open_transactions().len(), 1);
    }
    let number = |partition: &Partition| u64::try_from(partition.id().partition.value()).unwrap();
    let served: Partitions =
        topic.partitions().iter().map(|partition| (number(partition), committed(partition))).collect();
    assert!(served.values().all(|records| records.len() > 100));
    store.close().unwrap();
    served
}

/// The topic that was compacted.
const COMPACTED: &str = "compacted";

/// Fills a topic with versions of some keys, deleted keys and transactions, and compacts it; hands back what readers of committed
/// records get.
fn fill_and_compact(dir: &Path) -> Partitions {
    let store = LogStore::open(dir).unwrap();
    let config =
        TopicConfig::new().segment_bytes(3000).index_interval_bytes(100).cleanup_policy(CleanupPolicy::COMPACT);
    let topic = store.create_topic(COMPACTED, 1, config.delete_retention_ms(0)).unwrap();
    let partition = topic.partition(0).unwrap();
    let mut producers: Vec<Writer> = (20..23).map(Writer::new).collect();
    for pass in 0..2 {
        for round in 0..120_usize {
            let key = format!("key {}", round % 17 + pass * 11);
            let value = format!("{pass} {round}");
            let record = if round % 13 == 7 { Record::tombstone(&key) } else { Record::keyed(&key, &value) };
            partition.append(&[record, Record::keyed("hot", &value)]).unwrap();
            let producer = &mut producers[round % 3];
            producer.append(&partition, 2, true);
            if round % 5 == 4 {
                producer.end(&partition, round % 2 == 0);
            }
        }
        producers.iter_mut().for_each(|producer| producer.end(&partition, true));
        partition.roll().unwrap();
        // The second time, what got its delete horizon in the first one goes.
        let report = partition.compact().unwrap();
        assert!(report.is_complete && report.records_after * 2 < report.records_before, "{report:?}");
        partition.append(&[Record::keyed("behind", "compaction")]).unwrap();
    }
    let served = Partitions::from([(0, committed(&partition))]);
    assert!(served[&0].len() > 20);
    store.close().unwrap();
    served
}

/// The topic that a transaction coordinator wrote to, the group whose offsets were part of it, and its producer's id.
const COORDINATED: &str = "coordinated";
const GROUP: &str = "billers";
const TRANSACTIONAL_ID: &str = "billing";

/// How many partitions the broker's internal topics have, which decide where its coordinators look.
const OFFSETS_PARTITIONS: u32 = 4;
const TRANSACTION_PARTITIONS: u32 = 2;

/// Runs transactions with committed offsets, the last one aborted; hands back what readers of committed records get.
fn fill_in_coordinated_transactions(dir: &Path) -> Partitions {
    let config = StoreConfig::new()
        .offsets_topic_num_partitions(OFFSETS_PARTITIONS)
        .transaction_state_log_num_partitions(TRANSACTION_PARTITIONS);
    let store = StoreOptions::new().config(config).open(dir).unwrap();
    let partition = store.create_topic(COORDINATED, 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    let (coordinator, _) = TransactionCoordinator::open(&store).unwrap();
    let mut producer = coordinator.init_producer(TRANSACTIONAL_ID, 60_000).unwrap();
    for round in 0..7 {
        let value = format!("bill {round}");
        let mut transaction = producer.begin().unwrap();
        transaction.append(partition.id(), &[Record::keyed("key", &value)]).unwrap();
        let position = CommittedOffset::new(Offset::new(round * 10).unwrap()).metadata("ours");
        transaction.commit_offsets(GROUP, &[(partition.id().clone(), position)]).unwrap();
        if round < 6 { transaction.commit().unwrap() } else { transaction.abort().unwrap() }
    }
    let served = Partitions::from([(0, committed(&partition))]);
    assert_eq!(served[&0].len(), 6);
    store.close().unwrap();
    served
}

/// A producer with its sequence and epoch.
struct Writer {
    id: ProducerId,
    epoch: i16,
    next: Sequence,
}

impl Writer {
    fn new(id: i64) -> Self {
        Self { id: ProducerId::new(id).unwrap(), epoch: 0, next: Sequence::ZERO }
    }

    fn append(&mut self, partition: &Partition, count: usize, transactional: bool) {
        let value = format!("{} {} {}", self.id, self.epoch, self.next);
        let (id, epoch) = (self.id, ProducerEpoch::new(self.epoch).unwrap());
        let stamp = ProducerStamp { id, epoch, base_sequence: self.next, transactional };
        partition.append_from(stamp, &vec![Record::keyed("key", &value); count], Durability::Written).unwrap();
        self.next = self.next.wrapping_add(u32::try_from(count).unwrap());
    }

    /// Ends the transaction as Kafka 4 does: the marker has the next epoch, in which sequences begin anew.
    fn end(&mut self, partition: &Partition, commit: bool) {
        (self.epoch, self.next) = (self.epoch + 1, Sequence::ZERO);
        let marker = TransactionMarker {
            result: if commit { TransactionResult::Commit } else { TransactionResult::Abort },
            producer_id: self.id,
            producer_epoch: ProducerEpoch::new(self.epoch).unwrap(),
            coordinator_epoch: 0,
            timestamp: Timestamp::from_millis(i64::try_from(now_ms()).unwrap()).unwrap(),
        };
        match partition.end_transaction(&marker, Durability::Written) {
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The committed records of a partition, as the broker's answers are printed.
fn committed(partition: &Partition) -> Vec<Value> {
    let (mut next, mut lines) = (partition.log_start_offset(), Vec::new());
    loop {
        let batches = partition.read(next).isolation(Isolation::ReadCommitted).fetch().unwrap();
        for record in batches.records() {
            let record = record.unwrap();
            lines.push(json!({
                "partition": partition.id().partition.value(), "offset": record.offset().value(),
                "timestamp": record.timestamp().unwrap().millis(), "headers": [],
                "key": record.key().map(|key| STANDARD.encode(key)),
                "value": record.value().map(|value| STANDARD.encode(value)),
            }));
        }
        if batches.is_empty() {
            return lines;
        }
        next = batches.next_offset();
    }
}

/// The built `console` example.
struct Console(PathBuf);

impl Console {
    /// Builds the example with the features and the profile of this test, and finds it by what Cargo reports.
    fn build() -> Self {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "console", "--message-format=json", "--no-default-features"]);
        cargo.arg("--features").arg(features().join(","));
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "console does not build: {}", String::from_utf8_lossy(&output.stderr));
        let messages = json_lines(&output.stdout);
        let built = messages.iter().filter_map(|message| message["executable"].as_str()).next_back();
        Self(PathBuf::from(built.expect("Cargo reports the executable")))
    }

    /// Runs one command over the store at `dir`, fed with `input`; fails the test where it fails.
    fn run(&self, dir: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new(&self.0);
        command.arg("--dir").arg(dir).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // a child that ends early closes the pipe: its exit says more than the failed write
        let fed = std::thread::scope(|scope| {
            let feeder = scope.spawn(move || stdin.write_all(input));
            (child.wait_with_output().unwrap(), feeder.join().unwrap())
        });
        let (Output { status, stdout, stderr }, written) = fed;
        assert!(status.success(), "console {arguments:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        written.unwrap();
        stdout
    }

    /// What our own consumer prints of a topic, from its first record on.
    fn consume(&self, dir: &Path, plan: &TopicPlan) -> Partitions {
        let arguments = ["consume", "--topic", plan.name, "--from-beginning", "--timeout-ms", "1000", "--json"];
        let mut partitions = Partitions::new();
        for record in json_lines(&self.run(dir, &arguments, b"")) {
            partitions.entry(record["partition"].as_u64().unwrap()).or_default().push(record);
        }
        partitions
    }
}

/// Creates a plan's topic and produces to it once with each codec; hands back what went in, in that order.
fn fill(console: &Console, dir: &Path, plan: &TopicPlan) -> Vec<Value> {
    let partitions = plan.partitions.to_string();
    let mut create = vec!["topics", "create", "--topic", plan.name, "--partitions", &partitions];
    for entry in plan.config {
        create.extend(["--config", entry]);
    }
    console.run(dir, &create, b"");
    let mut input = Vec::new();
    for codec in codecs() {
        let records: Vec<Value> = (0..300).map(|index| record(codec, index, plan.partitions)).collect();
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        let arguments = ["produce", "--topic", plan.name, "--codec", codec, "--batch", plan.batch, "--json"];
        console.run(dir, &arguments, lines.as_bytes());
        input.extend(records);
    }
    input
}

/// One of the records we send. Those without a partition differ in their value, so that they can be found again.
fn record(codec: &str, index: u64, partitions: u64) -> Value {
    let partition = (!index.is_multiple_of(3)).then_some(index / 3 % partitions);
    let text = format!("{codec} {index} ");
    // long enough to fill segments, and short enough for every batch to fit into the smallest of them
    let value = match (index % 10, partition) {
        (1, Some(_)) => None,
        (2, Some(_)) => Some(String::new()),
        (5, _) => Some(text.repeat(usize::try_from(index % 100).unwrap() + 1)),
        _ => Some(text),
    };
    let key = match index % 7 {
        0 => None,
        1 => Some(String::new()),
        _ => Some(format!("ключ {}", index % 11)),
    };
    let headers = match index % 4 {
        0 => json!([]),
        1 => json!([["trace", bytes(&format!("{index}"))]]),
        2 => json!([["same", bytes("1")], ["same", bytes("2")], ["заголовок", null]]),
        _ => json!([["", bytes("")], ["null", null]]),
    };
    // the clock's time, the epoch itself, and a row that steps back every third record
    let timestamp = match index % 9 {
        0 => None,
        1 => Some(0),
        _ => Some(1_700_000_000_000 + index * 10 - (index % 3) * 25),
    };
    json!({
        "partition": partition,
        "key": key.as_deref().map(bytes),
        "value": value.as_deref().map(bytes),
        "headers": headers,
        "timestamp": timestamp,
    })
}

/// Holds what is served of a topic against what went in: nothing lost, added or changed, and order kept within each
/// partition. Times that were not chosen lie between `start`, when writing began, and now; a key has one home.
fn assert_serves_the_input(plan: &TopicPlan, served: &Partitions, input: Vec<Value>, start: u64) {
    let topic = plan.name;
    let append_time = plan.config.iter().any(|entry| entry.ends_with("LogAppendTime"));
    let mut homes: BTreeMap<String, u64> = BTreeMap::new();
    let mut left: BTreeMap<u64, std::slice::Iter<'_, Value>> =
        served.iter().map(|(partition, records)| (*partition, records.iter())).collect();
    for sent in input {
        let home = match sent["partition"].as_u64() {
            Some(partition) => left.get_mut(&partition),
            None => {
                left.values_mut().find(|rest| rest.as_slice().first().is_some_and(|next| same_content(&sent, next)))
            }
        };
        let got = home.and_then(Iterator::next);
        let got = got.unwrap_or_else(|| panic!("{topic}: sent, but no partition serves it next: {sent}"));
        assert!(same_content(&sent, got), "{topic}: sent {sent}, served {got}");
        let time = got["timestamp"].as_u64().unwrap();
        match sent["timestamp"].as_u64().filter(|_| !append_time) {
            Some(chosen) => assert_eq!(chosen, time, "{topic}: {got}"),
            None => assert!((start..=now_ms()).contains(&time), "{topic}: {got}"),
        }
        if let (None, Some(key)) = (sent["partition"].as_u64(), sent["key"].as_str()) {
            let partition = got["partition"].as_u64().unwrap();
            assert_eq!(
                partition,
                *homes.entry(key.to_owned()).or_insert(partition),
                "{topic}: a key's partition, {got}"
            );
        }
    }
    for (partition, records) in served {
        let offsets: Vec<u64> = records.iter().map(|record| record["offset"].as_u64().unwrap()).collect();
        let dense: Vec<u64> = (0..).take(records.len()).collect();
        assert_eq!(offsets, dense, "{topic}-{partition}: offsets");
    }
    assert!(left.values_mut().all(|rest| rest.next().is_none()), "{topic}: more is served than was sent");
}

fn same_content(sent: &Value, served: &Value) -> bool {
    ["key", "value", "headers"].iter().all(|field| sent[field] == served[field])
}

/// What a broker serves of all topics in the store, or none where there can be no broker. Fails where Kafka complains.
fn ask_kafka(store: &Path) -> Option<BTreeMap<String, Partitions>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/check.sh");
    let mut check = Command::new("bash");
    check.arg(script).arg(store).args(PLANS.iter().map(|plan| plan.name)).args([
        TRANSACTIONAL,
        COMPACTED,
        COORDINATED,
        "__consumer_offsets",
        "__transaction_state",
    ]);
    check.env("ISOLATION", "read_committed").env("COMPACTED", COMPACTED).env("GROUP", GROUP).stdin(Stdio::null());
    let output = match check.output() {
        Ok(output) => output,
        Err(error) => return skipped(&format!("bash does not start: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(KAFKA_IS_ABSENT) {
        return skipped(said.lines().last().unwrap_or_default());
    }
    assert!(output.status.success(), "Kafka refuses what we wrote: {}\n{said}", output.status);
    for state in ["txnindex", "snapshot"] {
        assert!(said.contains(&format!("{state} as Kafka makes it")), "no {state} was compared:\n{said}");
    }
    // Behind the group's name, topic and partition stands its offset; behind the transactional id and its coordinator, the producer
    // id and the state.
    assert!(said.contains(&format!("{GROUP} {COORDINATED} 0 50 ")), "the committed offset:\n{said}");
    let listed = said.lines().find(|line| line.starts_with(TRANSACTIONAL_ID));
    assert!(listed.is_some_and(|line| line.contains("CompleteAbort")), "the transactional id:\n{said}");
    let mut topics: BTreeMap<String, Partitions> = BTreeMap::new();
    for mut record in json_lines(&output.stdout) {
        let topic = record.as_object_mut().unwrap().remove("topic").unwrap();
        let partitions = topics.entry(topic.as_str().unwrap().to_owned()).or_default();
        partitions.entry(record["partition"].as_u64().unwrap()).or_default().push(record);
    }
    Some(topics)
}

/// Says why Kafka was not asked, past the test runner's capture: a passing test that checked half must not be silent.
fn skipped<T>(reason: &str) -> Option<T> {
    let line = format!("SKIPPED: no Kafka broker read what we wrote: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// The features of this build: with the same ones the example finds the library built already.
fn features() -> Vec<&'static str> {
    let default = cfg!(feature = "default").then_some("default");
    default.into_iter().chain(["client"]).chain(compressing_codecs()).collect()
}

fn codecs() -> Vec<&'static str> {
    std::iter::once("none").chain(compressing_codecs()).collect()
}

/// Codecs are features of the same names.
fn compressing_codecs() -> impl Iterator<Item = &'static str> {
    let switched = [
        (cfg!(feature = "gzip"), "gzip"),
        (cfg!(feature = "lz4"), "lz4"),
        (cfg!(feature = "snappy"), "snappy"),
        (cfg!(feature = "zstd"), "zstd"),
    ];
    switched.into_iter().filter_map(|(on, name)| on.then_some(name))
}

fn json_lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn bytes(text: &str) -> String {
    STANDARD.encode(text)
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
