//! Transactions and producers of folders that a real Kafka wrote: what Kafka keeps beside the log is rebuilt from the log alone to
//! the same bytes, committed reads show what Kafka's rules say, and the producers of those logs can go on.
#![cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/golden.rs"]
mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use golden::{copy, expected, files, golden};
use serde_json::Value;
use stratalog::format::{ProducerEntry, ProducerSnapshot, ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::{
    Durability, Isolation, LogError, LogStore, ManualClock, Offset, Partition, ProducerError, Record, StoreConfig,
    StoreOptions, Timestamp, TopicConfig,
};

const FOLDERS: [&str; 2] = ["transactions-0", "transactions-1"];

/// Opens a store whose clock stands at the beginning of time, so that no producer is idle for long.
fn open(root: &Path) -> LogStore {
    let config = StoreConfig::new().topic_defaults(TopicConfig::new().index_interval_bytes(100));
    StoreOptions::new().clock(Arc::new(ManualClock::new(Timestamp::ZERO))).config(config).open(root).unwrap()
}

fn partition(store: &LogStore, name: &str) -> Partition {
    let (topic, number) = name.rsplit_once('-').unwrap();
    store.topic(topic).unwrap().partition(number.parse().unwrap()).unwrap()
}

fn committed(partition: &Partition) -> Vec<i64> {
    let mut next = partition.log_start_offset();
    let mut offsets = Vec::new();
    loop {
        let batches = partition.read(next).max_bytes(3000).isolation(Isolation::ReadCommitted).fetch().unwrap();
        offsets.extend(batches.records().map(|record| record.unwrap().offset().value()));
        if batches.is_empty() {
            return offsets;
        }
        next = batches.next_offset();
    }
}

/// The offsets that a reader of committed records must get, from the expected lines: every transaction kept until its marker.
fn decided(name: &str) -> Vec<i64> {
    let (mut decided, mut open) = (Vec::new(), BTreeMap::<i64, Vec<i64>>::new());
    let mut batch = Value::Null;
    for line in expected(&golden().join("store").join(name)) {
        match line["type"].as_str().unwrap() {
            "batch" => batch = line,
            "record" if batch["transactional"] == true => {
                open.entry(batch["producer_id"].as_i64().unwrap()).or_default().push(line["offset"].as_i64().unwrap());
            }
            "record" => decided.push(line["offset"].as_i64().unwrap()),
            "control" => {
                let records = open.remove(&batch["producer_id"].as_i64().unwrap()).unwrap_or_default();
                if line.to_string().contains("commit") {
                    decided.extend(records);
                }
            }
            _ => {}
        }
    }
    let stable = open.values().flatten().min().copied().unwrap_or(i64::MAX);
    decided.retain(|offset| *offset < stable);
    decided.sort_unstable();
    decided
}

#[test]
fn the_transaction_index_is_rebuilt_from_the_log_to_kafkas_bytes() {
    for name in FOLDERS {
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (golden().join("store").join(name), root.path().join(name));
        copy(&source, &target);
        for (file, _) in files(&target, ".txnindex").into_iter().chain(files(&target, ".snapshot")) {
            fs::remove_file(target.join(file)).unwrap();
        }
        let store = open(root.path());
        assert_eq!(committed(&partition(&store, name)), decided(name), "{name}");
        store.close().unwrap();
        assert!(files(&source, ".txnindex").len() > 3);
        assert!(files(&target, ".txnindex") == files(&source, ".txnindex"), "{name}");
    }
}

#[test]
fn the_producers_at_every_snapshot_of_kafkas_are_rebuilt_from_the_log() {
    for name in FOLDERS {
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (golden().join("store").join(name), root.path().join(name));
        copy(&source, &target);
        for (file, _) in files(&target, ".snapshot") {
            fs::remove_file(target.join(file)).unwrap();
        }
        let store = open(root.path());
        let partition = partition(&store, name);
        let snapshots = files(&source, ".snapshot");
        assert!(snapshots.len() > 8);
        for (file, bytes) in snapshots.iter().rev() {
            let offset = file.strip_suffix(".snapshot").unwrap().parse().unwrap();
            partition.truncate_to(Offset::new(offset).unwrap()).unwrap();
            same_producers(&partition.producers(), bytes, &format!("{name} at {offset}"));
            // The other way round: from this snapshot of Kafka's and the log after it.
            let only = tempfile::tempdir().unwrap();
            copy(&source, &only.path().join(name));
            for (other, _) in snapshots.iter().filter(|(other, _)| other != file) {
                fs::remove_file(only.path().join(name).join(other)).unwrap();
            }
            let got = self::partition(&open(only.path()), name).producers();
            same_producers(&got, &snapshots.last().unwrap().1, &format!("{name} from {offset}"));
        }
    }
}

/// Compares with a snapshot of Kafka's. Kafka's clock was years after the records' timestamps, so that each restart dropped the
/// producers that had written no marker: they may be missing there.
fn same_producers(got: &[ProducerEntry], kafkas: &[u8], when: &str) {
    let want = ProducerSnapshot::parse(kafkas).unwrap().entries;
    let (known, expired): (Vec<_>, Vec<_>) =
        got.iter().copied().partition(|entry| want.iter().any(|other| other.producer_id == entry.producer_id));
    assert_eq!(known, want, "{when}");
    for entry in expired {
        let idle = entry.timestamp.is_some_and(|last| last.millis() < 1_701_000_000_000);
        assert!(idle && entry.current_transaction_first_offset.is_none(), "{when}: {entry:?}");
    }
}

#[test]
fn committed_reads_of_a_kafka_store_show_what_its_rules_say_and_change_nothing() {
    let store = StoreOptions::new().read_only(true).open(golden().join("store")).unwrap();
    for name in ["transactions-0", "transactions-1", "compacted-transactions-0", "plain-0"] {
        let partition = partition(&store, name);
        assert_eq!(committed(&partition), decided(name), "{name}");
    }
    assert!(
        partition(&store, "transactions-0").last_stable_offset() < partition(&store, "transactions-0").log_end_offset()
    );
}

#[test]
fn the_producers_of_a_kafka_log_go_on_where_they_were() {
    let root = tempfile::tempdir().unwrap();
    copy(&golden().join("store"), root.path());
    let mut expected = BTreeMap::new();
    for round in 0..3 {
        let store = open(root.path());
        let mut seen = BTreeSet::new();
        for name in FOLDERS {
            let partition = partition(&store, name);
            if let Some(expected) = expected.get(name) {
                assert_eq!(&committed(&partition), expected, "{name} round {round}");
            }
            for entry in partition.producers() {
                let open = entry.current_transaction_first_offset.is_some();
                let next = entry.last_sequence.map_or(Sequence::ZERO, |last| last.wrapping_add(1));
                let stamp = |sequence: Sequence| ProducerStamp {
                    id: entry.producer_id,
                    epoch: entry.producer_epoch,
                    base_sequence: sequence,
                    transactional: true,
                };
                let records = [Record::keyed("ours", "value")];
                let gap = partition.append_from(stamp(next.wrapping_add(1)), &records, Durability::Written);
                let refused =
                    matches!(gap, Err(LogError::Producer { source: ProducerError::OutOfOrderSequence { .. }, .. }));
                assert!(refused, "{name} {entry:?}");
                let appended = partition.append_from(stamp(next), &records, Durability::Written).unwrap();
                assert!(partition.append_from(stamp(next), &records, Durability::Written).unwrap().is_duplicate);
                let marker = TransactionMarker {
                    result: if round == 1 { TransactionResult::Abort } else { TransactionResult::Commit },
                    producer_id: entry.producer_id,
                    producer_epoch: ProducerEpoch::new(entry.producer_epoch.value() + 1).unwrap(),
                    coordinator_epoch: i32::MAX,
                    timestamp: Timestamp::ZERO,
                };
                partition.end_transaction(&marker, Durability::Written).unwrap();
                assert!(partition.open_transactions().iter().all(|(id, _)| *id != entry.producer_id));
                seen.insert((entry.producer_id, open, appended.base_offset));
            }
            let ours: Vec<i64> = committed(&partition);
            assert_eq!(partition.last_stable_offset(), partition.log_end_offset());
            expected.insert(name, ours);
        }
        assert!(seen.len() >= 6 && seen.iter().any(|(id, ..)| *id > ProducerId::ZERO));
        store.close().unwrap();
    }
}
