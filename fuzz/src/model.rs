//! A partition over a disk that fails, and what must be there whenever it is opened again: no record that was never appended at
//! its offset, and every one that was called durable and not deleted since.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;

use crate::reading::{Row, rows};
use arbitrary::Arbitrary;
use stratalog::format::{ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, Operation};
use stratalog::{
    Appended, CleanupPolicy, Durability, Isolation, LogError, LogStore, ManualClock, Offset, Partition, Record,
    StoreOptions, Timestamp, TopicConfig,
};

/// Steps of one input; more find nothing new.
pub const STEPS_MAX: usize = 60;

/// Records of one batch.
const RECORDS_MAX: u8 = 4;

/// One operation, on the partition or on the disk beneath it.
#[derive(Debug, Arbitrary)]
pub enum Step {
    Append { keys: Vec<u8>, is_durable: bool },
    AppendFrom { producer: u8, sequence_gap: bool, transactional: bool, is_durable: bool },
    EndTransaction { producer: u8, commits: bool, is_durable: bool },
    Roll,
    Flush,
    Checkpoint,
    Compact,
    Tick(u16),
    DeleteBefore(u8),
    Truncate(u8),
    ReopenPartition,
    Reopen,
    Kill,
    PowerLoss(u64),
    CrashAfter(u8, u64),
    Fail { operation: u8, after: u8, times: u8, written: Option<u8> },
    FailRandomly(u64),
    Heal,
}

/// What is to be found at an offset: key and value.
type Content = (Option<Vec<u8>>, Option<Vec<u8>>);

/// The partition, and what is known of it.
pub struct World {
    memory: MemoryVfs,
    vfs: FaultyVfs,
    clock: ManualClock,
    store: Option<LogStore>,
    partition: Option<Partition>,
    compacts: bool,
    serial: u32,
    /// Everything that was ever handed to an append, by the offset it was to get.
    sent: BTreeMap<Offset, BTreeSet<Content>>,
    /// What must be there, or where the topic is compacted a newer record of its key.
    durable: BTreeMap<Offset, Content>,
    /// The image that the next crash leaves, once the machine has ended.
    seed: u64,
}

impl World {
    /// An empty partition on a good disk.
    pub fn new(compacts: bool) -> Self {
        let memory = MemoryVfs::new();
        let clock = ManualClock::new(Timestamp::from_millis(0).expect("not negative"));
        let (sent, durable) = (BTreeMap::new(), BTreeMap::new());
        let vfs = FaultyVfs::new(memory.clone());
        let mut world =
            Self { memory, vfs, clock, store: None, partition: None, compacts, serial: 0, sent, durable, seed: 0 };
        let policy = if compacts { CleanupPolicy::COMPACT } else { CleanupPolicy::DELETE };
        let config = TopicConfig::new().segment_bytes(400).index_interval_bytes(60).segment_index_bytes(120);
        let store = world.open().expect("an empty disk");
        store.create_topic("t", 1, config.cleanup_policy(policy)).expect("a first topic");
        drop(store);
        world.boot(world.memory.clone());
        world
    }

    fn open(&self) -> Result<LogStore, stratalog::StoreError> {
        StoreOptions::new().vfs(Arc::new(self.vfs.clone())).clock(Arc::new(self.clock.clone())).open("/log")
    }

    /// Opens what a disk without faults holds, and checks it.
    fn boot(&mut self, memory: MemoryVfs) {
        (self.store, self.partition) = (None, None);
        (self.vfs, self.memory) = (FaultyVfs::new(memory.clone()), memory);
        let store = self.open().expect("opening succeeds whatever came before");
        let partition = store.topic("t").and_then(|topic| topic.partition(0)).expect("the topic is there");
        let (found, at_end) = rows(&partition, Isolation::ReadUncommitted);
        assert!(at_end, "all of {} can be read", partition.id());
        self.check(&found);
        (self.store, self.partition) = (Some(store), Some(partition));
    }

    fn check(&self, found: &[Row]) {
        for (offset, key, value) in found {
            let content = (key.clone(), value.clone());
            let was_sent = self.sent.get(offset).is_some_and(|sent| sent.contains(&content));
            assert!(was_sent, "offset {offset} holds {content:?}, which was never appended there");
        }
        for (durable, content) in &self.durable {
            let same = |(at, key, value): &Row| at == durable && (key, value) == (&content.0, &content.1);
            let newer = |(at, key, _): &Row| self.compacts && at > durable && *key == content.0;
            assert!(found.iter().any(|row| same(row) || newer(row)), "the durable record at {durable}: {content:?}");
        }
    }

    /// Ends the machine, and opens and checks what that leaves, as the seed decides.
    pub fn lose_power(&mut self, seed: u64) {
        let image = self.memory.torn_crash_image(seed);
        self.boot(image);
    }

    /// Does one step; where the machine ended within it, opens what is left.
    pub fn step(&mut self, step: &Step) {
        let partition = self.partition.clone().expect("an open partition");
        match step {
            Step::Append { keys, is_durable } => {
                let keys: Vec<_> = keys.iter().take(RECORDS_MAX.into()).map(|key| vec![key % 4]).collect();
                self.append(&partition, &keys, *is_durable, |records, durability| {
                    partition.append_with(records, durability)
                });
            }
            Step::AppendFrom { producer, sequence_gap, transactional, is_durable } => {
                let stamp = stamp(&partition, *producer, *sequence_gap, *transactional);
                // Not the keys of the others: an aborted record is no newer one.
                let key = vec![b'p', *producer % 3];
                self.append(&partition, &[key], *is_durable, |records, durability| {
                    partition.append_from(stamp, records, durability)
                });
            }
            Step::EndTransaction { producer, commits, is_durable } => {
                let marker = TransactionMarker {
                    result: if *commits { TransactionResult::Commit } else { TransactionResult::Abort },
                    producer_id: ProducerId::new(i64::from(*producer % 3)).expect("not negative"),
                    producer_epoch: ProducerEpoch::ZERO,
                    coordinator_epoch: 0,
                    timestamp: Timestamp::from_millis(0).expect("not negative"),
                };
                if partition.end_transaction(&marker, durability(*is_durable)).is_ok() && *is_durable {
                    self.all_is_durable(&partition);
                }
            }
            Step::Roll => drop(partition.roll()),
            Step::Flush if partition.flush().is_ok() => self.all_is_durable(&partition),
            Step::Flush => {}
            Step::Checkpoint => drop(self.store.as_ref().map(LogStore::checkpoint)),
            Step::Compact => drop(partition.compact()),
            Step::Tick(millis) => {
                self.clock.advance(u64::from(*millis));
                drop(self.store.as_ref().map(|store| store.tick(stratalog::Clock::now(&self.clock))));
            }
            Step::DeleteBefore(place) => {
                let place = self.place(&partition, *place);
                self.durable.retain(|offset, _| *offset >= place);
                let _ = partition.delete_records_before(place);
            }
            Step::Truncate(place) => {
                let place = self.place(&partition, *place);
                self.forget_from(batch_at(&partition, place));
                let _ = partition.truncate_to(place);
            }
            Step::ReopenPartition => drop(partition.reopen()),
            Step::Reopen => {
                drop(self.store.take().map(LogStore::close));
                self.partition = None;
                drop(partition);
                if self.vfs.is_crashed() {
                    return self.lose_power(self.seed);
                }
                let _ = self.open();
                self.boot(self.memory.clone());
            }
            Step::Kill => self.boot(self.memory.process_crash_image()),
            Step::PowerLoss(seed) => self.lose_power(*seed),
            Step::CrashAfter(mutations, seed) => {
                self.vfs.crash_after(u64::from(*mutations));
                self.seed = *seed;
            }
            Step::Fail { operation, after, times, written } => {
                let operation = FAILING[usize::from(*operation) % FAILING.len()];
                let kind = ErrorKind::StorageFull;
                let effect = written.map_or(Effect::Error(ErrorKind::Other), |size| Effect::ShortWrite {
                    size: usize::from(size),
                    kind,
                });
                let (after, times) = (u64::from(*after), u64::from(*times));
                self.vfs.inject(Fault { after, times, ..Fault::new(operation, effect) });
            }
            Step::FailRandomly(seed) => self.vfs.inject_randomly(*seed, 0.05),
            Step::Heal => self.vfs.clear_faults(),
        }
        if self.vfs.is_crashed() {
            self.lose_power(self.seed);
        }
    }

    fn append(
        &mut self,
        partition: &Partition,
        keys: &[Vec<u8>],
        is_durable: bool,
        append: impl FnOnce(&[Record<'_>], Durability) -> Result<Appended, LogError>,
    ) {
        let base = partition.log_end_offset();
        let contents: Vec<Content> = keys.iter().map(|key| (Some(key.clone()), Some(self.value()))).collect();
        let mut offset = base;
        for content in &contents {
            self.sent.entry(offset).or_default().insert(content.clone());
            offset = offset.next();
        }
        let records: Vec<_> =
            contents.iter().map(|(key, value)| Record::from_parts(key.as_deref(), value.as_deref())).collect();
        let Ok(appended) = append(&records, durability(is_durable)) else { return };
        assert_eq!(appended.base_offset, base);
        if is_durable {
            self.all_is_durable(partition);
        }
    }

    fn value(&mut self) -> Vec<u8> {
        self.serial += 1;
        format!("{:04} {}", self.serial, "x".repeat(40)).into_bytes()
    }

    /// Everything in the log was just called durable. Where a read fails for a fault, nothing new is known.
    fn all_is_durable(&mut self, partition: &Partition) {
        let (rows, at_end) = rows(partition, Isolation::ReadUncommitted);
        let is_counted = |key: &Option<Vec<u8>>| !self.compacts || key.as_ref().is_some_and(|key| key.len() == 1);
        let rows = rows.into_iter().filter(|(_, key, _)| at_end && is_counted(key));
        self.durable.extend(rows.map(|(offset, key, value)| (offset, (key, value))));
    }

    /// A truncation takes the records at and above `end`; below it a compaction may have taken those that gave way to them.
    fn forget_from(&mut self, end: Offset) {
        let compacts = self.compacts;
        let above = self.sent.range(end..).flat_map(|(_, contents)| contents);
        let newer: BTreeSet<_> = above.filter(|_| compacts).map(|(key, _)| key).collect();
        self.durable.retain(|offset, (key, _)| *offset < end && !newer.contains(key));
    }

    fn place(&self, partition: &Partition, place: u8) -> Offset {
        let (start, end) = (partition.log_start_offset(), partition.log_end_offset());
        start.checked_add(end.since(start) * u64::from(place) / 255).expect("between start and end")
    }
}

const FAILING: [Operation; 10] = [
    Operation::Open,
    Operation::Rename,
    Operation::Remove,
    Operation::SyncDir,
    Operation::Read,
    Operation::Write,
    Operation::SetSize,
    Operation::Allocate,
    Operation::Sync,
    Operation::Map,
];

const fn durability(is_durable: bool) -> Durability {
    if is_durable { Durability::Durable } else { Durability::Written }
}

/// The base of the batch that `place` falls into, which a truncation takes whole; where it can't be read, the lowest there may be.
fn batch_at(partition: &Partition, place: Offset) -> Offset {
    let first = partition.read(place).fetch().ok().and_then(|batches| batches.iter().next()?.ok());
    let base = first.map_or(place.value() - i64::from(RECORDS_MAX - 1), |batch| batch.header().base_offset().value());
    Offset::new(base).map_or(Offset::ZERO, |base| base.min(place))
}

/// The next stamp of that producer, or one with a gap; in a transaction where one is open.
fn stamp(partition: &Partition, producer: u8, sequence_gap: bool, transactional: bool) -> ProducerStamp {
    let id = ProducerId::new(i64::from(producer % 3)).expect("not negative");
    let entry = partition.producers().into_iter().find(|entry| entry.producer_id == id);
    let last = entry.and_then(|entry| entry.last_sequence);
    let base_sequence = last.map_or(Sequence::ZERO, |last| last.wrapping_add(1 + u32::from(sequence_gap)));
    let is_open = entry.is_some_and(|entry| entry.current_transaction_first_offset.is_some());
    ProducerStamp { id, epoch: ProducerEpoch::ZERO, base_sequence, transactional: transactional || is_open }
}
