//! Folders that a real Kafka wrote, read, rebuilt, recovered and continued (`golden/README.md` says what each shows).
//!
//! What stands in them must come out as Kafka's own classes read it: the expected lines beside each folder. Where we
//! write such files ourselves, they must have Kafka's bytes; where they can't, the test names the folder and why.
#![cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test: whatever goes wrong here must fail it"
)]

#[path = "support/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use golden::{assert_same, copy, expected, expected_path, expected_records, files, golden, short_name, snapshot};
use serde_json::{Value, json};
use stratalog::config::{StoreConfig, TopicConfig};
use stratalog::format::{
    AbortedTransaction, Batches, LeaderEpochCheckpoint, OffsetIndexEntry, ProducerEntry, ProducerSnapshot, RecordBatch,
    RecordRef, TimeIndexEntry,
};
use stratalog::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TimestampType};
use stratalog::{LogStore, Partition, Record, StoreOptions};

/// Every partition folder that has expected lines.
fn folders() -> Vec<PathBuf> {
    let roots = ["legacy", "store", "unclean-recovered", "unclean-torn-recovered"];
    let entries = roots.iter().flat_map(|root| fs::read_dir(golden().join(root)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = paths.filter(|path| path.is_dir() && expected_path(path).exists()).collect();
    folders.sort();
    assert!(folders.len() >= 35, "only {} folders", folders.len());
    folders
}

fn encoded(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |bytes| STANDARD.encode(bytes).into())
}

fn record_line(record: &RecordRef<'_>) -> Value {
    let header = |(name, value): (&[u8], Option<&[u8]>)| json!([String::from_utf8_lossy(name), encoded(value)]);
    let headers: Vec<Value> = record.headers().map(|one| header((one.name, one.value))).collect();
    json!({
        "type": "record", "offset": record.offset().value(), "timestamp": Timestamp::to_wire(record.timestamp()),
        "key": encoded(record.key()), "value": encoded(record.value()), "headers": headers,
    })
}

fn batch_line(file: &str, position: u64, batch: &RecordBatch) -> Value {
    let header = batch.header();
    let timestamp_type = match header.timestamp_type() {
        None => "none",
        Some(TimestampType::Create) => "create",
        Some(TimestampType::LogAppend) => "append",
    };
    json!({
        "type": "batch", "file": file, "position": position, "valid": true,
        "base_offset": batch.base_offset().unwrap().value(), "last_offset": batch.last_offset().value(),
        "count": batch.record_count().unwrap(), "magic": header.magic(), "codec": header.compression().name(),
        "timestamp_type": timestamp_type, "max_timestamp": Timestamp::to_wire(header.max_timestamp()),
        "leader_epoch": LeaderEpoch::to_wire(header.leader_epoch()),
        "producer_id": ProducerId::to_wire(header.producer_id()),
        "producer_epoch": ProducerEpoch::to_wire(header.producer_epoch()),
        "base_sequence": Sequence::to_wire(header.base_sequence()),
        "transactional": header.is_transactional(), "control": header.is_control(),
        "delete_horizon": header.delete_horizon().map(Timestamp::millis), "size": header.size(), "crc": header.crc(),
    })
}

/// The lines of a batch: itself, then its records or its control record.
fn batch_lines(file: &str, position: u64, batch: &RecordBatch) -> Vec<Value> {
    let mut lines = vec![batch_line(file, position, batch)];
    if !batch.header().is_control() {
        lines.extend(batch.records().map(|record| record_line(&record.unwrap())));
        return lines;
    }
    for record in batch.records().map(Result::unwrap) {
        let control = batch.control_record().unwrap().unwrap();
        lines.push(json!({
            "type": "control", "offset": record.offset().value(), "timestamp": Timestamp::to_wire(record.timestamp()),
            "kind": control.kind().name(), "coordinator_epoch": control.coordinator_epoch(),
        }));
    }
    lines
}

fn log_lines(folder: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for (name, bytes) in files(folder, ".log") {
        let mut batches = Batches::new(Bytes::from(bytes));
        loop {
            let position = batches.position().value();
            let Some(batch) = batches.next() else { break };
            lines.extend(batch_lines(&name, position, &batch.unwrap()));
        }
    }
    lines
}

fn index_lines(folder: &Path) -> Vec<Value> {
    let base = |name: &str| name[..20].parse::<i64>().unwrap();
    let mut lines = Vec::new();
    for (name, bytes) in files(folder, ".index") {
        lines.extend(bytes.chunks(OffsetIndexEntry::SIZE).map(OffsetIndexEntry::parse).map(Result::unwrap).map(
            |entry| {
                let offset = base(&name) + i64::from(entry.relative_offset);
                json!({"type": "index", "file": name, "offset": offset, "position": entry.position})
            },
        ));
    }
    for (name, bytes) in files(folder, ".timeindex") {
        lines.extend(bytes.chunks(TimeIndexEntry::SIZE).map(TimeIndexEntry::parse).map(Result::unwrap).map(|entry| {
            let offset = base(&name) + i64::from(entry.relative_offset);
            json!({"type": "timeindex", "file": name, "timestamp": entry.timestamp.millis(), "offset": offset})
        }));
    }
    for (name, bytes) in files(folder, ".txnindex") {
        let entries = bytes.chunks(AbortedTransaction::SIZE).map(AbortedTransaction::parse).map(Result::unwrap);
        lines.extend(entries.map(|entry| {
            json!({
                "type": "txnindex", "file": name, "producer_id": entry.producer_id.value(),
                "first_offset": entry.first_offset.value(), "last_offset": entry.last_offset.value(),
                "last_stable_offset": entry.last_stable_offset.value(),
            })
        }));
    }
    lines
}

fn producer_line(file: &str, entry: &ProducerEntry) -> Value {
    json!({
        "type": "producer", "file": file, "producer_id": entry.producer_id.value(),
        "producer_epoch": entry.producer_epoch.value(), "last_sequence": Sequence::to_wire(entry.last_sequence),
        "last_offset": Offset::to_wire(entry.last_offset), "offset_delta": entry.offset_delta,
        "timestamp": Timestamp::to_wire(entry.timestamp),
        "coordinator_epoch": entry.coordinator_epoch.map_or(-1, i64::from),
        "current_txn_first_offset": Offset::to_wire(entry.current_transaction_first_offset),
    })
}

fn state_lines(folder: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for (name, bytes) in files(folder, ".snapshot") {
        let snapshot = ProducerSnapshot::parse(&bytes).unwrap();
        lines.extend(snapshot.entries.iter().map(|entry| producer_line(&name, entry)));
    }
    for (_, bytes) in files(folder, "leader-epoch-checkpoint") {
        for (epoch, start) in LeaderEpochCheckpoint::parse(&bytes).unwrap().entries {
            lines.push(json!({"type": "leader_epoch", "epoch": epoch.value(), "start_offset": start.value()}));
        }
    }
    lines
}

/// Every record that a reader who starts at the log start gets, by small reads.
fn consumed(partition: &Partition) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut next = partition.log_start_offset();
    loop {
        let batches = partition.read(next).max_bytes(100_000).fetch().unwrap();
        let wanted = next;
        for batch in &batches {
            let batch = batch.unwrap();
            assert!(batch.last_offset() >= next, "{}: a batch twice", partition.id());
            next = batch.last_offset().next();
            if batch.header().is_control() {
                continue;
            }
            let records = batch.records().map(Result::unwrap).filter(|record| record.offset() >= wanted);
            lines.extend(records.map(|record| record_line(&record)));
        }
        if next == wanted {
            return lines;
        }
    }
}

/// The settings of `golden/README.md` that decide where segments end and index entries stand.
fn settings(folder: &str) -> TopicConfig {
    let name = folder.rsplit('/').next().unwrap();
    let is =
        |topics: &[&str]| topics.iter().any(|topic| name.strip_prefix(topic).is_some_and(|rest| rest.starts_with('-')));
    let legacy = folder.starts_with("legacy/");
    let interval = match name {
        _ if legacy && !is(&["mixed", "v1-compacted"]) => 500,
        _ if legacy => 4096,
        _ if is(&["segments", "compacted", "deleted-records"])
            && !is(&["compacted-expired", "compacted-transactions"]) =>
        {
            200
        }
        _ if is(&["append-time", "transactions"]) => 100,
        _ if is(&["unclean"]) => 300,
        _ => 4096,
    };
    let config = TopicConfig::new().index_interval_bytes(interval);
    if is(&["unclean"]) { config.segment_bytes(32_768).segment_index_bytes(4096) } else { config }
}

fn open(root: &Path, defaults: TopicConfig) -> LogStore {
    StoreOptions::new().config(StoreConfig::new().topic_defaults(defaults)).open(root).unwrap()
}

fn only_partition(store: &LogStore) -> Partition {
    let topics = store.topics();
    assert_eq!(topics.len(), 1);
    topics[0].partitions()[0].clone()
}

#[test]
fn every_batch_record_and_control_record_is_what_kafka_reads() {
    for folder in folders() {
        let is_log = |line: &Value| ["batch", "record", "control"].iter().any(|kind| line["type"] == *kind);
        let want: Vec<Value> = expected(&folder).into_iter().filter(is_log).collect();
        assert_same(&short_name(&folder), &log_lines(&folder), &want);
    }
}

#[test]
fn every_index_entry_producer_and_epoch_is_what_kafka_reads() {
    for folder in folders() {
        let lines = expected(&folder);
        let of = |kinds: &[&str]| -> Vec<Value> {
            let of_kind = |kind: &&str| lines.iter().filter(|line| line["type"] == **kind).cloned().collect::<Vec<_>>();
            kinds.iter().flat_map(of_kind).collect()
        };
        let name = short_name(&folder);
        assert_same(&name, &index_lines(&folder), &of(&["index", "timeindex", "txnindex"]));
        assert_same(&name, &state_lines(&folder), &of(&["producer", "leader_epoch"]));
    }
}

/// Deletes the indexes of a copy, lets a store make them anew, and returns the files that differ from Kafka's.
fn rebuilt_otherwise(folder: &Path, clean: bool) -> Vec<String> {
    let name = short_name(folder);
    let root = tempfile::tempdir().unwrap();
    // KRaft's own log is never written to: under another name it is a log like all others.
    let copied = root.path().join(folder.file_name().unwrap().to_str().unwrap().replace("__cluster_metadata", "kraft"));
    copy(folder, &copied);
    for (file, _) in files(&copied, "index") {
        if !file.ends_with(".txnindex") {
            fs::remove_file(copied.join(file)).unwrap();
        }
    }
    if clean {
        fs::write(root.path().join(".kafka_cleanshutdown"), r#"{"version":0,"brokerEpoch":1}"#).unwrap();
    }
    let store = open(root.path(), settings(&name));
    assert_eq!(store.open_report().clean, clean, "{name}");
    assert!(store.open_report().partitions[0].cuts.is_empty(), "{name}: {:?}", store.open_report());
    store.close().unwrap();
    let mut differing = Vec::new();
    for (file, bytes) in files(folder, ".log") {
        assert!(fs::read(copied.join(&file)).unwrap() == bytes, "{name}/{file} was changed");
    }
    for suffix in [".index", ".timeindex"] {
        let (rebuilt, kafkas) = (files(&copied, suffix), files(folder, suffix));
        assert_eq!(rebuilt.len(), kafkas.len(), "{name}");
        let others = rebuilt.into_iter().zip(kafkas).filter(|(rebuilt, kafkas)| rebuilt != kafkas);
        differing.extend(others.map(|((file, _), _)| format!("{name}/{file}")));
    }
    differing
}

/// Indexes that Kafka grew over a stop and a start while the segment was active: closing adds a time entry that goes with
/// no offset entry, and the count of bytes since the last entry begins anew (section 4.1 of the reference, a). A rebuild
/// can't know of it.
const GROWN_OVER_A_RESTART: [&str; 17] = [
    "store/__cluster_metadata-0/00000000000000000000.timeindex",
    "store/__transaction_state-0/00000000000000000000.index",
    "store/__transaction_state-0/00000000000000000000.timeindex",
    "store/__transaction_state-1/00000000000000000000.index",
    "store/__transaction_state-1/00000000000000000000.timeindex",
    "store/deleted-records-0/00000000000000000181.index",
    "store/deleted-records-0/00000000000000000181.timeindex",
    "store/plain-0/00000000000000000000.index",
    "store/plain-0/00000000000000000000.timeindex",
    "store/plain-1/00000000000000000000.index",
    "store/plain-1/00000000000000000000.timeindex",
    "store/plain-2/00000000000000000000.index",
    "store/plain-2/00000000000000000000.timeindex",
    "store/segments-0/00000000000000000591.index",
    "store/segments-0/00000000000000000591.timeindex",
    "store/transactions-0/00000000000000000091.index",
    "store/transactions-1/00000000000000000092.index",
];

/// Indexes of an old Kafka, which looked once per append call, not once per batch: an uncompressed request of the old formats
/// is one call of many one-record batches (section 4.1, b).
const GROWN_BY_CALLS: [&str; 6] = [
    "legacy/v0-none-0/00000000000000000000.index",
    "legacy/v0-none-0/00000000000000000086.index",
    "legacy/v1-none-0/00000000000000000000.index",
    "legacy/v1-none-0/00000000000000000086.index",
    "legacy/v1-none-0/00000000000000000000.timeindex",
    "legacy/v1-none-0/00000000000000000086.timeindex",
];

#[test]
fn rebuilt_indexes_have_kafkas_bytes() {
    let grown_otherwise: Vec<&str> = [&GROWN_BY_CALLS[..], &GROWN_OVER_A_RESTART].concat();
    for clean in [false, true] {
        let differing: Vec<String> = folders().iter().flat_map(|folder| rebuilt_otherwise(folder, clean)).collect();
        assert_eq!(differing, grown_otherwise, "after a clean stop: {clean}");
    }
}

#[test]
fn only_segments_with_a_restart_in_them_were_grown_over_a_restart() {
    for file in GROWN_OVER_A_RESTART {
        let path = golden().join(file);
        let base: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let epochs = fs::read(path.with_file_name("leader-epoch-checkpoint")).unwrap();
        let starts = LeaderEpochCheckpoint::parse(&epochs).unwrap().entries;
        assert!(starts.iter().any(|(_, start)| start.value() > base), "{file}: no leader epoch began in it");
    }
}

/// Recovers a copy of `stopped` and holds it against what Kafka made of it.
fn recovers_like_kafka(stopped: &str, cuts: usize) {
    let root = tempfile::tempdir().unwrap();
    let (before, twin) = (golden().join(stopped), golden().join(format!("{stopped}-recovered")).join("unclean-0"));
    copy(&before, root.path());
    let copied = root.path().join("unclean-0");

    let store = open(root.path(), settings("unclean-0"));
    assert!(!store.open_report().clean);
    let recovery = store.open_report().partitions[0].clone();
    assert_same(stopped, &consumed(&only_partition(&store)), &expected_records(&twin, Offset::ZERO));
    store.close().unwrap();

    for suffix in [".log", ".index", ".timeindex"] {
        assert!(files(&copied, suffix) == files(&twin, suffix), "{stopped}: {suffix}");
    }
    assert_eq!(recovery.cuts.len(), cuts);
    assert_eq!(files(&copied, ".cut").len(), cuts);
    for cut in &recovery.cuts {
        let file = fs::read(before.join("unclean-0").join(cut.file.file_name().unwrap())).unwrap();
        let begin = usize::try_from(cut.position.value()).unwrap();
        assert!(fs::read(&cut.moved_to).unwrap() == file[begin..], "{stopped}: {cut:?}");
        assert_eq!(cut.bytes, (file.len() - begin) as u64);
        assert_eq!(cut.from_offset, recovery.log_end_offset);
    }
}

#[test]
fn a_killed_kafkas_folder_is_recovered_as_kafka_recovers_it() {
    recovers_like_kafka("unclean", 0);
}

#[test]
fn a_folder_torn_inside_a_batch_is_recovered_as_kafka_recovers_it() {
    recovers_like_kafka("unclean-torn", 1);
}

#[test]
fn a_log_directory_of_kafkas_is_read_whole_and_left_as_it_was() {
    for root in ["store", "legacy"] {
        let copied = tempfile::tempdir().unwrap();
        copy(&golden().join(root), copied.path());
        let before = snapshot(copied.path());
        let store = StoreOptions::new().read_only(true).open(copied.path()).unwrap();
        let mut seen = Vec::new();
        for partition in store.topics().iter().flat_map(|topic| topic.partitions()) {
            let folder = golden().join(root).join(partition.id().to_string());
            let want = expected_records(&folder, partition.log_start_offset());
            assert_same(&short_name(&folder), &consumed(&partition), &want);
            seen.push(folder);
        }
        seen.sort();
        let all: Vec<PathBuf> =
            folders().into_iter().filter(|folder| folder.starts_with(golden().join(root))).collect();
        assert_eq!(seen, all);
        store.close().unwrap();
        assert!(snapshot(copied.path()) == before, "{root} was changed");
    }
}

#[test]
fn deleted_records_of_a_kafka_folder_are_not_read() {
    let store = StoreOptions::new().read_only(true).open(golden().join("store")).unwrap();
    let partition = store.topic("deleted-records").unwrap().partition(0).unwrap();
    assert_eq!(partition.log_start_offset().value(), 77);
    assert_eq!(consumed(&partition)[0]["offset"], 77);
    assert!(partition.read(Offset::new(76).unwrap()).fetch().is_err());
}

#[test]
fn a_log_directory_of_kafkas_is_continued() {
    let root = tempfile::tempdir().unwrap();
    copy(&golden().join("store"), root.path());
    let mut want = BTreeMap::new();
    for round in 0..2 {
        let store = open(root.path(), TopicConfig::new());
        assert!(store.open_report().clean);
        for partition in store.topics().iter().flat_map(|topic| topic.partitions()) {
            let name = partition.id().to_string();
            if name.starts_with("__cluster_metadata") {
                continue;
            }
            let folder = golden().join("store").join(&name);
            let start = partition.log_start_offset();
            let want = want.entry(name.clone()).or_insert_with(|| expected_records(&folder, start));
            assert_same(&name, &consumed(&partition), want);
            let (value, end) = (format!("round {round}"), partition.log_end_offset());
            let record = Record::keyed("ours", &value).timestamp(Timestamp::from_millis(1_750_000_000_000).unwrap());
            assert_eq!(partition.append(&[record]).unwrap_or_else(|error| panic!("{name}: {error}")).base_offset, end);
            want.push(consumed(&partition).pop().expect("what was appended"));
            assert_eq!(want.last().unwrap()["value"], STANDARD.encode(&value));
        }
        store.close().unwrap();
    }
    assert!(want.len() >= 20);
    let store = StoreOptions::new().read_only(true).open(root.path()).unwrap();
    for (name, want) in &want {
        let (topic, number) = name.rsplit_once('-').unwrap();
        let partition = store.topic(topic).unwrap().partition(number.parse().unwrap()).unwrap();
        assert_same(name, &consumed(&partition), want);
    }
}
