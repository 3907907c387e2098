//! Compacted topics of a real Kafka, continued and compacted again here: no key loses its newest value, no record its offset,
//! and what Kafka's cleaner had left out stays out.
#![cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use golden::{copy, expected, golden};
use stratalog::format::{ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::{
    CleanupPolicy, Durability, Isolation, LogStore, ManualClock, OwnedRecord, Partition, Record, StoreConfig,
    StoreOptions, Timestamp, TopicConfig,
};

const FOLDERS: [&str; 3] = ["compacted-0", "compacted-expired-0", "compacted-transactions-0"];

/// After every timestamp in the folders, so that whatever may expire has.
const NOW: i64 = 1_900_000_000_000;

fn open(root: &Path, clock: &ManualClock) -> LogStore {
    let topics = TopicConfig::new()
        .cleanup_policy(CleanupPolicy::COMPACT)
        .segment_bytes(4096)
        .index_interval_bytes(200)
        .retention_ms(None)
        .message_timestamp_after_max_ms(u64::MAX >> 1);
    let config = StoreConfig::new().topic_defaults(topics);
    StoreOptions::new().clock(Arc::new(clock.clone())).config(config).open(root).unwrap()
}

fn partition(store: &LogStore, name: &str) -> Partition {
    let (topic, number) = name.rsplit_once('-').unwrap();
    store.topic(topic).unwrap().partition(number.parse().unwrap()).unwrap()
}

fn committed(partition: &Partition) -> Vec<OwnedRecord> {
    let (mut next, mut records) = (partition.log_start_offset(), Vec::new());
    loop {
        let batches = partition.read(next).isolation(Isolation::ReadCommitted).fetch().unwrap();
        records.extend(batches.records().map(Result::unwrap));
        if batches.is_empty() {
            return records;
        }
        next = batches.next_offset();
    }
}

/// The newest value of each key; deleted keys have none.
fn table(records: &[OwnedRecord]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut table = BTreeMap::new();
    for record in records {
        let key = record.key().unwrap().to_vec();
        match record.value() {
            Some(value) => table.insert(key, value.to_vec()),
            None => table.remove(&key),
        };
    }
    table
}

#[test]
fn kafkas_compacted_topics_are_continued_and_compacted_again() {
    for name in FOLDERS {
        let root = tempfile::tempdir().unwrap();
        copy(&golden().join("store"), root.path());
        let clock = ManualClock::new(Timestamp::from_millis(NOW).unwrap());
        let mut before = BTreeMap::new();
        for round in 0..3 {
            let store = open(root.path(), &clock);
            let partition = partition(&store, name);
            let records = committed(&partition);
            if round == 0 {
                let lines = expected(&golden().join("store").join(name)).into_iter();
                let known = lines.filter(|line| line["type"] == "record").count();
                assert!(!records.is_empty() && records.len() <= known, "{name}: {} of {known}", records.len());
                before = table(&records);
            }
            assert_eq!(table(&records), before, "{name}: round {round}, reopened");

            append(&partition, round, &mut before);
            let records = committed(&partition);
            assert_eq!(table(&records), before, "{name}: round {round}, continued");
            partition.roll().unwrap();
            let report = partition.compact().unwrap();
            assert!(report.is_complete && report.end_offset == partition.log_end_offset(), "{name}: {report:?}");

            let left = committed(&partition);
            assert_eq!(table(&left), before, "{name}: round {round}, compacted");
            let content = |record: &OwnedRecord| {
                (record.timestamp(), record.key().map(<[u8]>::to_vec), record.value().map(<[u8]>::to_vec))
            };
            let by_offset: BTreeMap<_, _> = records.iter().map(|record| (record.offset(), content(record))).collect();
            for record in &left {
                assert_eq!(by_offset.get(&record.offset()), Some(&content(record)), "{name}: round {round}");
            }
            let keys: Vec<_> = left.iter().map(|record| record.key().unwrap()).collect();
            let mut distinct = keys.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(keys.len(), distinct.len(), "{name}: round {round}, one record a key is left");
            store.close().unwrap();
            clock.advance(2 * 24 * 60 * 60 * 1000);
        }
    }
}

/// Appends new versions of some keys, in and outside of transactions, and deletes one.
fn append(partition: &Partition, round: i16, table: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let keys: Vec<Vec<u8>> = table.keys().step_by(3).cloned().collect();
    let (id, epoch) = (ProducerId::new(900_000).unwrap(), ProducerEpoch::new(round * 2).unwrap());
    for result in [TransactionResult::Abort, TransactionResult::Commit] {
        let epoch = match result {
            TransactionResult::Abort => epoch,
            TransactionResult::Commit => ProducerEpoch::new(epoch.value() + 1).unwrap(),
        };
        let value = format!("{result:?} {round}");
        let records: Vec<_> = keys.iter().map(|key| Record::keyed(key, &value)).collect();
        let stamp = ProducerStamp { id, epoch, base_sequence: Sequence::ZERO, transactional: true };
        partition.append_from(stamp, &records, Durability::Written).unwrap();
        let marker = TransactionMarker {
            result,
            producer_id: id,
            producer_epoch: ProducerEpoch::new(epoch.value() + 1).unwrap(),
            coordinator_epoch: 0,
            timestamp: Timestamp::from_millis(NOW).unwrap(),
        };
        partition.end_transaction(&marker, Durability::Written).unwrap();
        if result == TransactionResult::Commit {
            table.extend(keys.iter().map(|key| (key.clone(), value.clone().into_bytes())));
        }
    }
    if let Some((key, _)) = table.pop_last() {
        partition.append(&[Record::tombstone(&key), Record::keyed(b"ours", b"value")]).unwrap();
    }
    table.insert(b"ours".to_vec(), b"value".to_vec());
}
