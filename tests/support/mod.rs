//! What the tests of the log share: a store in memory with a clock that stands still, and short ways to write and read it.
#![allow(dead_code, reason = "each test file uses some of these helpers")]

use std::sync::Arc;

use stratalog::format::{ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::vfs::{FaultyVfs, MemoryVfs, Vfs};
use stratalog::{
    Isolation, LogError, LogStore, ManualClock, Offset, Partition, Record, StoreOptions, Timestamp, TopicConfig,
    TopicPartition,
};

/// When every test begins, in milliseconds.
pub const START: i64 = 1_700_000_000_000;

/// A topic `t` of one partition in memory, over a file system that fails on demand.
pub struct Rig {
    pub memory: MemoryVfs,
    pub vfs: FaultyVfs,
    pub clock: ManualClock,
    pub store: LogStore,
    pub partition: Partition,
}

impl Rig {
    /// A new store with the given topic config.
    pub fn new(entries: &[(&str, &str)]) -> Self {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        let clock = ManualClock::new(at(0));
        let store = open(Arc::new(vfs.clone()), &clock);
        let partition = store.create_topic("t", 1, config(entries)).unwrap().partition(0).unwrap();
        Self { memory, vfs, clock, store, partition }
    }

    /// The names in the partition's folder.
    pub fn files(&self) -> Vec<String> {
        let entries = self.memory.read_dir(self.partition.path()).unwrap();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

/// Opens the store in a file system.
pub fn open(vfs: Arc<dyn Vfs>, clock: &ManualClock) -> LogStore {
    StoreOptions::new().vfs(vfs).clock(Arc::new(clock.clone())).open("/log").unwrap()
}

/// The one partition of a store that [`Rig::new`] made.
pub fn partition_of(store: &LogStore) -> Partition {
    store.topic("t").unwrap().partition(0).unwrap()
}

pub fn config(entries: &[(&str, &str)]) -> TopicConfig {
    TopicConfig::from_map(entries.iter().copied()).unwrap()
}

pub fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// A time relative to [`START`].
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis).unwrap()
}

/// Appends one record and returns its offset.
pub fn append(partition: &Partition, value: &str) -> i64 {
    partition.append(&[Record::new(value)]).unwrap().base_offset.value()
}

/// Appends one record with a time relative to [`START`].
pub fn append_at(partition: &Partition, value: &str, millis: i64) -> i64 {
    partition.append(&[Record::new(value).timestamp(at(millis))]).unwrap().base_offset.value()
}

/// Every record at or above `from`: offset and value, read in fetches of at most `max_bytes`.
pub fn read_from(partition: &Partition, from: i64, max_bytes: usize) -> Result<Vec<(i64, String)>, LogError> {
    let mut next = offset(from);
    let mut records = Vec::new();
    loop {
        let before = next;
        let batches = partition.read(next).max_bytes(max_bytes).fetch()?;
        for batch in &batches {
            let Ok(batch) = batch else { break };
            for record in batch.records() {
                let record = record.unwrap();
                if record.offset().value() >= from {
                    let value = String::from_utf8(record.value().unwrap_or_default().to_vec()).unwrap();
                    records.push((record.offset().value(), value));
                }
            }
            next = batch.last_offset().next();
        }
        assert!(batches.is_empty() || next > before, "a read that isn't empty holds a whole batch");
        if batches.is_empty() {
            return Ok(records);
        }
    }
}

/// Every readable record: offset and value.
pub fn read_all(partition: &Partition) -> Vec<(i64, String)> {
    read_from(partition, partition.log_start_offset().value(), 1 << 20).unwrap()
}

/// The base offsets of the segments.
pub fn bases(partition: &Partition) -> Vec<i64> {
    partition.segments().iter().map(|segment| segment.base_offset().value()).collect()
}

/// Whether an error names the partition that all rigs have.
pub fn names_partition(error: &LogError) -> bool {
    let id: &TopicPartition = error.partition();
    id.to_string() == "t-0"
}

/// The stamp of a producer's batch that begins with `base_sequence`.
pub fn stamp(id: i64, epoch: i16, base_sequence: i32) -> ProducerStamp {
    ProducerStamp {
        id: ProducerId::new(id).unwrap(),
        epoch: ProducerEpoch::new(epoch).unwrap(),
        base_sequence: Sequence::new(base_sequence).unwrap(),
        transactional: false,
    }
}

/// The same for a batch in a transaction.
pub fn in_transaction(id: i64, epoch: i16, base_sequence: i32) -> ProducerStamp {
    ProducerStamp { transactional: true, ..stamp(id, epoch, base_sequence) }
}

/// The marker that ends a producer's transaction.
pub fn marker(result: TransactionResult, id: i64, epoch: i16) -> TransactionMarker {
    TransactionMarker {
        result,
        producer_id: ProducerId::new(id).unwrap(),
        producer_epoch: ProducerEpoch::new(epoch).unwrap(),
        coordinator_epoch: 0,
        timestamp: at(0),
    }
}

/// What readers of committed records get: offset and value, in fetches of at most `max_bytes`.
pub fn read_committed(partition: &Partition, max_bytes: usize) -> Vec<(i64, String)> {
    let mut next = partition.log_start_offset();
    let mut records = Vec::new();
    loop {
        let read = partition.read(next).max_bytes(max_bytes).isolation(Isolation::ReadCommitted);
        let batches = read.fetch().unwrap();
        for record in batches.records() {
            let record = record.unwrap();
            records.push((record.offset().value(), String::from_utf8(record.value().unwrap().to_vec()).unwrap()));
        }
        if batches.is_empty() {
            return records;
        }
        assert!(batches.next_offset() > next, "a read that isn't empty holds a whole batch");
        next = batches.next_offset();
    }
}
