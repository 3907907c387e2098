//! Whatever is done to a compacted partition in whatever order, it answers like a plain vector of what was appended.
//!
//! The vector (`support/history.rs`) is never compacted: what readers of committed records must get follows from it. After each
//! step of a random script everything that can be read is held against it. `STRATALOG_CASES` sets how many scripts are run,
//! default 80; a run of hours finds what a run of seconds doesn't.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/follower.rs"]
mod follower;
#[path = "support/history.rs"]
mod history;
mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use follower::{Follower, Glance};
use history::{Batch, History, Kind, Known, Row, committed_rows, physical, table};
use proptest::prelude::*;
use stratalog::format::{ProducerEntry, TransactionResult};
use stratalog::vfs::{FaultyVfs, MemoryVfs, Vfs};
use stratalog::{
    Clock, CompactionOptions, Durability, Isolation, LogStore, ManualClock, OffsetSpec, Partition, Record, StoreConfig,
    StoreOptions, Timestamp,
};
use support::{at, config, in_transaction, marker, offset, partition_of, stamp};

/// `delete.retention.ms`.
const DELETE_RETENTION: i64 = 2000;

/// `retention.ms` where the policy is `compact,delete`.
const RETENTION: i64 = 10_000;

/// `producer.id.expiration.ms`.
const EXPIRATION: i64 = 60_000;

/// A record that a step appends: key, whether it is a tombstone, how far its time is from the clock's, bytes of padding.
type Draft = (u8, bool, i16, u8);

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Draft>, bool),
    /// By one of three producers; always in a transaction where one is open.
    Send {
        producer: u8,
        transactional: bool,
        drafts: Vec<Draft>,
        durable: bool,
    },
    /// Ends a transaction, where one is open; a bump makes the marker's epoch one higher than the producer's.
    End {
        producer: u8,
        commit: bool,
        bump: bool,
        durable: bool,
    },
    /// The producer's last batch again, which must not be written again.
    Repeat(u8),
    /// What must be refused: a gap in the sequences, an old epoch, a null key, a marker without a transaction.
    Refused(u8),
    Roll,
    Flush,
    Checkpoint,
    /// With memory for so many slots of keys, or enough.
    Compact(Option<u8>),
    /// The machine or the process ends after so many changes of the disk.
    CompactAndCrash(u8, Option<u64>),
    Tick,
    Wait(u16),
    WaitLong,
    DeleteRecords(u8),
    /// Down to a place above what compaction has seen, or anywhere.
    Truncate(u8, bool),
    Reopen,
    Kill,
    PowerLoss(u64),
}

/// What of the history is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nothing,
    Tail,
    /// Records below the log start came back, and with them what their producers had forgotten.
    DeletionUndone,
    BelowCleaned,
}

#[derive(Clone)]
struct Script {
    /// `compact,delete` instead of `compact`.
    deletes: bool,
    segment_size: u16,
    compression: &'static str,
    steps: Vec<Step>,
}

/// One step a line.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deletes, segment_size, compression, steps } = self;
        writeln!(f, "deletes: {deletes}, segment_size: {segment_size}, compression: {compression}")?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    prop::collection::vec((0..6_u8, prop::bool::weighted(0.25), -1500..1500_i16, 0..60_u8), 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    let durable = || prop::bool::weighted(0.15);
    prop_oneof![
        10 => (drafts(), durable()).prop_map(|(drafts, durable)| Step::Append(drafts, durable)),
        14 => (0..3_u8, prop::bool::weighted(0.7), drafts(), durable()).prop_map(
            |(producer, transactional, drafts, durable)| Step::Send { producer, transactional, drafts, durable }
        ),
        9 => (0..3_u8, any::<bool>(), prop::bool::weighted(0.3), durable())
            .prop_map(|(producer, commit, bump, durable)| Step::End { producer, commit, bump, durable }),
        3 => (0..3_u8).prop_map(Step::Repeat),
        1 => (0..3_u8).prop_map(Step::Refused),
        4 => Just(Step::Roll),
        1 => Just(Step::Flush),
        1 => Just(Step::Checkpoint),
        6 => prop::option::weighted(0.4, 2..8_u8).prop_map(Step::Compact),
        2 => (any::<u8>(), prop::option::of(any::<u64>())).prop_map(|(after, seed)| Step::CompactAndCrash(after, seed)),
        3 => Just(Step::Tick),
        4 => (0..4000_u16).prop_map(Step::Wait),
        1 => Just(Step::WaitLong),
        1 => any::<u8>().prop_map(Step::DeleteRecords),
        1 => (any::<u8>(), prop::bool::weighted(0.3)).prop_map(|(place, anywhere)| Step::Truncate(place, anywhere)),
        2 => Just(Step::Reopen),
        2 => Just(Step::Kill),
        2 => prop_oneof![Just(0_u64), any::<u64>()].prop_map(Step::PowerLoss),
    ]
}

fn scripts() -> impl Strategy<Value = Script> {
    let codec = if cfg!(feature = "gzip") { "gzip" } else { "uncompressed" };
    let compression = prop::sample::select(vec!["producer", "producer", codec]);
    (any::<bool>(), 400..1500_u16, compression, prop::collection::vec(step(), 1..70))
        .prop_map(|(deletes, segment_size, compression, steps)| Script { deletes, segment_size, compression, steps })
}

/// The partition and what it must be like.
struct World {
    memory: MemoryVfs,
    vfs: FaultyVfs,
    clock: ManualClock,
    store: LogStore,
    partition: Partition,
    history: History,
    follower: Follower,
    deletes: bool,
    serial: u32,
}

fn open(vfs: &FaultyVfs, clock: &ManualClock) -> LogStore {
    let mut config = StoreConfig::new();
    config.set("producer.id.expiration.ms", &EXPIRATION.to_string()).unwrap();
    let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone()));
    options.config(config).open("/log").unwrap()
}

fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Written }
}

/// The id of the producer with that number.
fn id_of(producer: u8) -> i64 {
    100 + i64::from(producer)
}

impl World {
    fn new(script: &Script) -> Self {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        let clock = ManualClock::new(at(0));
        let store = open(&vfs, &clock);
        let (segment_size, retention) = (script.segment_size.to_string(), RETENTION.to_string());
        let entries = [
            ("cleanup.policy", if script.deletes { "compact,delete" } else { "compact" }),
            ("retention.ms", retention.as_str()),
            ("delete.retention.ms", &DELETE_RETENTION.to_string()),
            ("min.cleanable.dirty.ratio", "0.3"),
            ("segment.bytes", &segment_size),
            ("index.interval.bytes", "100"),
            ("file.delete.delay.ms", "100"),
            ("compression.type", script.compression),
        ];
        store.create_topic("t", 1, config(&entries)).unwrap();
        let partition = partition_of(&store);
        let (history, deletes) = (History::default(), script.deletes);
        Self { memory, vfs, clock, store, partition, history, follower: Follower::default(), deletes, serial: 0 }
    }

    fn now(&self) -> i64 {
        self.clock.now().millis()
    }

    /// Lets the follower look in the middle of a step that loses nothing.
    fn glance(&mut self, step: &Step, dice: u32) -> Option<Glance> {
        self.vfs.clear_hooks();
        if matches!(step, Step::CompactAndCrash(..) | Step::PowerLoss(_)) || !dice.is_multiple_of(3) {
            return None;
        }
        let nth = u64::from(dice / 3 % 48) + 1;
        Some(self.follower.glance((&self.memory, &self.vfs), &self.clock, &self.partition, nth).unwrap())
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(drafts, durable) => self.append(None, drafts, *durable),
            Step::Send { producer, transactional, drafts, durable } => {
                let id = id_of(*producer);
                let known = self.history.producers.get(&id);
                let transactional = *transactional || known.is_some_and(|known| known.open.is_some());
                let epoch = known.map_or(0, |known| known.epoch);
                let sequence = known.and_then(|known| known.last).map_or(0, |last| last.last_sequence + 1);
                self.append(Some(Kind::Data { producer: id, epoch, sequence, transactional }), drafts, *durable);
            }
            Step::End { producer, commit, bump, durable } => self.end(id_of(*producer), *commit, *bump, *durable),
            Step::Repeat(producer) => self.repeat(id_of(*producer)),
            Step::Refused(producer) => self.refused(id_of(*producer)),
            Step::Roll => self.partition.roll().unwrap(),
            Step::Flush => {
                self.partition.flush().unwrap();
                assert_eq!(self.partition.recovery_point(), self.partition.log_end_offset());
            }
            Step::Checkpoint => {
                self.store.checkpoint().unwrap();
                self.history.checkpointed_start = self.history.start;
            }
            Step::Compact(slots) => self.compact(*slots),
            Step::CompactAndCrash(after, seed) => self.compact_and_crash(*after, *seed),
            Step::Tick => self.tick(),
            Step::Wait(millis) => self.clock.advance(u64::from(*millis)),
            Step::WaitLong => self.clock.advance(40_000),
            Step::DeleteRecords(place) => {
                let History { start, end, .. } = self.history;
                let place = start + (end - start) * i64::from(*place) / 255;
                assert_eq!(self.partition.delete_records_before(offset(place)).unwrap(), offset(place));
                self.history.start = place;
            }
            Step::Truncate(place, anywhere) => self.truncate(*place, *anywhere),
            Step::Reopen => {
                self.store.clone().close().unwrap();
                self.history.checkpointed_start = self.history.start;
                self.reopen(self.memory.clone(), None);
            }
            Step::Kill => self.reopen(self.memory.process_crash_image(), None),
            Step::PowerLoss(seed) => {
                let durable = self.durable();
                self.reopen(self.memory.torn_crash_image(*seed), Some(durable));
            }
        }
    }

    fn append(&mut self, kind: Option<Kind>, drafts: &[Draft], durable: bool) {
        let base = self.history.end;
        let rows: Vec<_> = (base..)
            .zip(drafts)
            .map(|(offset, (key, is_tombstone, lag, padding))| {
                self.serial += 1;
                let value = format!("{}{}", self.serial, ".".repeat(usize::from(*padding)));
                let value = (!is_tombstone).then_some(value);
                Row { offset, key: format!("k{key}"), value, time: self.now() + i64::from(*lag) }
            })
            .collect();
        let records: Vec<_> = rows
            .iter()
            .map(|row| {
                let value = row.value.as_ref().map(String::as_bytes);
                let record = Record::from_parts(Some(row.key.as_bytes()), value);
                record.timestamp(Timestamp::from_millis(row.time).unwrap())
            })
            .collect();
        let appended = match &kind {
            None => self.partition.append_with(&records, durability(durable)),
            Some(Kind::Data { producer, epoch, sequence, transactional }) => {
                let stamp = if *transactional { in_transaction } else { stamp };
                self.partition.append_from(stamp(*producer, *epoch, *sequence), &records, durability(durable))
            }
            Some(other) => panic!("{other:?} is not appended"),
        };
        let appended = appended.unwrap();
        let last = base + i64::try_from(rows.len()).unwrap() - 1;
        assert_eq!((appended.base_offset, appended.last_offset), (offset(base), offset(last)));
        assert!(!appended.is_duplicate);
        let time = rows.iter().map(|row| row.time).max().unwrap();
        self.history.push(Batch { base, last, kind: kind.unwrap_or(Kind::Plain), rows, time });
        self.check_durable(durable);
    }

    fn check_durable(&self, durable: bool) {
        if durable {
            assert_eq!(self.partition.recovery_point(), self.partition.log_end_offset());
        }
    }

    fn end(&mut self, id: i64, commit: bool, bump: bool, durable: bool) {
        let Some(known) = self.history.producers.get(&id).filter(|known| known.open.is_some()) else { return };
        let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
        let epoch = known.epoch + i16::from(bump);
        let marker = marker(result, id, epoch);
        let marker = stratalog::format::TransactionMarker { timestamp: self.clock.now(), ..marker };
        let appended = self.partition.end_transaction(&marker, durability(durable)).unwrap();
        let base = self.history.end;
        assert_eq!((appended.base_offset, appended.last_offset), (offset(base), offset(base)));
        let kind = Kind::Marker { producer: id, epoch, commit };
        self.history.push(Batch { base, last: base, kind, rows: Vec::new(), time: self.now() });
        self.check_durable(durable);
    }

    fn repeat(&self, id: i64) {
        let Some(known) = self.history.producers.get(&id) else { return };
        let Some(last) = known.last else { return };
        let count = usize::try_from(last.last_offset - last.first_offset + 1).unwrap();
        let first_sequence = last.last_sequence + 1 - i32::try_from(count).unwrap();
        let records = vec![Record::keyed("k0", "again"); count];
        let stamp = stamp(id, known.epoch, first_sequence);
        let appended = self.partition.append_from(stamp, &records, Durability::Written).unwrap();
        assert!(appended.is_duplicate, "{id}: {known:?}");
        // One that was forgotten by age and began anew may have sent the same sequences twice.
        let answered = (appended.base_offset.value(), appended.last_offset.value());
        let same = |batch: &Batch| matches!(batch.kind, Kind::Data { producer, sequence, .. } if producer == id && sequence == first_sequence);
        let candidates = self.history.batches.iter().filter(|batch| same(batch)).map(|batch| (batch.base, batch.last));
        let known = (last.first_offset, last.last_offset);
        assert!(
            answered == known || candidates.into_iter().any(|batch| batch == answered),
            "{answered:?}, not {known:?}"
        );
    }

    fn refused(&self, id: i64) {
        let partition = &self.partition;
        assert!(partition.append(&[Record::new("without a key")]).is_err());
        if let Some(known) = self.history.producers.get(&id) {
            let next = known.last.map_or(0, |last| last.last_sequence + 1);
            let send = |epoch, sequence| {
                partition.append_from(
                    in_transaction(id, epoch, sequence),
                    &[Record::keyed("k", "v")],
                    Durability::Written,
                )
            };
            assert!(send(known.epoch, next + 1).is_err(), "a gap");
            assert!(known.epoch == 0 || send(known.epoch - 1, next).is_err(), "an old epoch");
            let end =
                |epoch| partition.end_transaction(&marker(TransactionResult::Commit, id, epoch), Durability::Written);
            assert!(known.epoch == 0 || end(known.epoch - 1).is_err(), "a marker of an old epoch");
            if known.open.is_some() {
                let outside = stamp(id, known.epoch, next);
                assert!(partition.append_from(outside, &[Record::keyed("k", "v")], Durability::Written).is_err());
            }
        }
    }

    /// Up to where everything may be compacted now.
    fn cleanable_end(&self) -> i64 {
        let active = self.partition.segments().last().unwrap().base_offset().value();
        active.min(self.partition.last_stable_offset().value())
    }

    /// A crash may bring deleted records back, but not the tombstones below the log start that are compacted away meanwhile.
    fn make_log_start_durable(&mut self) {
        if self.history.checkpointed_start < self.history.start {
            self.store.checkpoint().unwrap();
            self.history.checkpointed_start = self.history.start;
        }
    }

    fn compact(&mut self, slots: Option<u8>) {
        self.make_log_start_durable();
        let mut options = CompactionOptions::new();
        if let Some(slots) = slots {
            options = options.memory(u64::from(slots) * 24);
        }
        // A map that is too small needs several runs, each of which must come further.
        let mut reached = -1;
        loop {
            let report = self.partition.compact_with(&options).unwrap();
            assert!(report.is_complete && report.unkeyed_records == 0, "{report:?}");
            assert!(report.records_after <= report.records_before, "{report:?}");
            let end = report.end_offset.value();
            self.history.note_cleaning(self.now(), end);
            if end >= self.cleanable_end() {
                break;
            }
            assert!(slots.is_some() && end > reached, "stuck at {end}: {report:?}");
            reached = end;
            if end % 3 == 0 {
                break;
            }
        }
        assert_eq!(self.partition.uncleanable(), None);
    }

    /// Below this offset nothing may be lost. What a process that was killed has made durable stays so, whatever the next one
    /// knows of it; and deleting records raises the recovery point without a sync.
    fn durable(&self) -> i64 {
        let point = self.partition.recovery_point().value();
        let synced = if point > self.history.start { point } else { 0 };
        self.history.durable.max(synced)
    }

    fn compact_and_crash(&mut self, after: u8, seed: Option<u64>) {
        self.make_log_start_durable();
        self.vfs.crash_after(u64::from(after / 3));
        let result = self.partition.compact();
        self.history.note_cleaning(self.now(), self.cleanable_end());
        if !self.vfs.is_crashed() {
            self.vfs.clear_faults();
            assert!(result.unwrap().is_complete);
            return;
        }
        let durable = self.durable();
        match seed {
            Some(seed) => self.reopen(self.vfs.crash_image(seed).unwrap(), Some(durable)),
            None => self.reopen(self.memory.process_crash_image(), None),
        }
    }

    fn tick(&mut self) {
        let before = physical(&self.partition);
        let report = self.store.tick(self.clock.now()).unwrap();
        assert!(report.failures.is_empty(), "{report:?}");
        let (old, start) = (self.history.start, self.partition.log_start_offset().value());
        assert!(start == old || (self.deletes && start > old), "{start} after {old}");
        let is_old = |batch: &Batch| self.now() - batch.time > RETENTION;
        for batch in before.iter().filter(|batch| (old..start).contains(&batch.base)) {
            assert!(is_old(batch), "retention took {batch:?}");
        }
        self.history.start = start;
        self.history.checkpointed_start = start;
        let now = self.now();
        self.history.producers.retain(|_, known| known.open.is_some() || now - known.time < EXPIRATION);
        self.history.note_cleaning(now, self.cleanable_end());
    }

    fn truncate(&mut self, place: u8, anywhere: bool) {
        let lowest = if anywhere { self.history.start } else { self.history.frozen.max(self.history.start) };
        let place = lowest + (self.history.end - lowest) * i64::from(place) / 255;
        if place >= self.history.end {
            return;
        }
        // A batch goes whole, and then the log would end in a gap, which nothing tells the next opening.
        let place = self.history.batch_at(place).map_or(place, |batch| batch.base);
        let first_base = self.partition.segments()[0].base_offset().value();
        self.partition.truncate_to(offset(place)).unwrap();
        assert_eq!(self.partition.log_end_offset(), offset(place));
        let is_below_cleaned = place < self.history.frozen;
        self.history.cut(place);
        self.history.start = self.partition.log_start_offset().value();
        // As Kafka does. After a crash, the log start and the recovery point noted before would hold for what is written anew.
        self.store.checkpoint().unwrap();
        self.history.checkpointed_start = self.history.start;
        if place < first_base {
            assert_eq!(self.history.start, place);
            self.history.batches.clear();
        } else if is_below_cleaned {
            // What compaction took on the grounds of what is cut now can't come back.
            self.history.batches = self.survivors();
        }
        self.adopt_producers(if is_below_cleaned { Cut::BelowCleaned } else { Cut::Tail });
    }

    /// What is left of the history in the files.
    fn survivors(&self) -> Vec<Batch> {
        physical(&self.partition).iter().map(|found| self.history.same(found)).collect()
    }

    /// Goes on with what a closed store or a killed process left, or a machine without power: then only what is `durable` must be there.
    fn reopen(&mut self, memory: MemoryVfs, durable: Option<i64>) {
        self.vfs = FaultyVfs::new(memory.clone());
        self.memory = memory;
        self.follower = Follower::default();
        // A loss of power may leave what the opening takes away.
        let seen = if durable.is_none() { self.follower.see(&self.memory, &self.clock) } else { None };
        let durable = durable.unwrap_or(self.history.end);
        self.store = open(&self.vfs, &self.clock);
        self.partition = partition_of(&self.store);
        assert_eq!(seen.map_or(Ok(()), |seen| seen.judge(&self.partition)), Ok(()));
        let (start, end) = (self.partition.log_start_offset().value(), self.partition.log_end_offset().value());
        let kept = self.history.batches.iter().filter(|batch| batch.last < durable).map(|batch| batch.last).max();
        assert!(kept.is_none_or(|kept| end > kept), "the log ends at {end}, {durable} were durable");
        assert!(end <= self.history.end, "the log grew to {end}");
        let known_starts = self.history.checkpointed_start.min(end)..=self.history.start;
        assert!(known_starts.contains(&start), "the log starts at {start}, expected {known_starts:?}");
        let is_cut = end < self.history.end;
        let torn = self.history.batch_at(end).is_some_and(|batch| batch.base < end);
        assert!(!torn || end == start, "the log ends at {end}, inside of a batch");
        self.history.cut(end);
        // Of what was not synced, a power loss may take a segment's end and leave the next segment.
        let is_lost = self.history.lose(durable, &physical(&self.partition));
        let cut = match (start < self.history.start, is_cut || is_lost) {
            (true, _) => Cut::DeletionUndone,
            (false, true) => Cut::Tail,
            (false, false) => Cut::Nothing,
        };
        self.history.start = start;
        self.adopt_producers(cut);
    }

    /// Producers are known as before, but for those that may have been forgotten: the idle ones, and those whose last batch is
    /// gone for another reason than compaction.
    fn adopt_producers(&mut self, cut: Cut) {
        // From then on snapshots may know of what compaction took from the files.
        self.history.was_cut_below_cleaned |= cut == Cut::BelowCleaned;
        let was_cut_below_cleaned = self.history.was_cut_below_cleaned;
        let replayed = self.history.replay();
        let mut expected = if cut == Cut::Nothing { self.history.producers.clone() } else { replayed.clone() };
        let found: BTreeMap<_, _> = self.partition.producers().iter().map(adopt).collect();
        let (now, before) = (self.now(), &self.history.producers);
        let files = physical(&self.partition);
        let is_there = |place: i64| files.iter().any(|batch| batch.last == place);
        let start = self.history.start;
        let is_uncertain = |known: &Known| {
            let last = known.last.map_or(known.newest, |last| last.last_offset);
            was_cut_below_cleaned
                || cut == Cut::DeletionUndone
                || (known.open.is_none() && now - known.time >= EXPIRATION)
                || last < start
                || known.open.is_some_and(|first| first < start)
                || (cut == Cut::Tail && !(is_there(last) && is_there(known.newest)))
        };
        // A snapshot may still tell what a replay of the log does not, or the other way round.
        let may_differ = |id: &i64, known: &Known| {
            is_uncertain(known) || [&replayed, before].iter().any(|all| all.get(id).is_some_and(&is_uncertain))
        };
        expected.retain(|id, known| found.contains_key(id) || !may_differ(id, known));
        for (id, found) in found {
            match expected.get(&id) {
                Some(known) if !may_differ(&id, known) => {}
                Some(_) => drop(expected.insert(id, found)),
                // Forgotten in memory, by age or with the log start, and remembered by the log. Or remembered by what it sent below
                // the log start, which was deleted before it was synced and so is in no file.
                None => {
                    let last = found.last.map_or(found.newest, |last| last.last_offset);
                    let outlived = last < start && before.contains_key(&id);
                    assert!(was_cut_below_cleaned || outlived || replayed.contains_key(&id), "{id}: {found:?}");
                    expected.insert(id, found);
                }
            }
        }
        self.history.producers = expected;
    }

    /// Holds everything that can be read against the history; `dice` decides where to look.
    fn check(&mut self, dice: u32) {
        let (partition, history) = (&self.partition, &self.history);
        assert_eq!(partition.log_start_offset(), offset(history.start), "log start");
        assert_eq!(partition.log_end_offset(), offset(history.end), "log end");
        assert_eq!(partition.last_stable_offset(), offset(history.last_stable()), "last stable offset");
        self.check_producers();
        let files = physical(partition);
        for pair in files.windows(2) {
            assert!(pair[0].last < pair[1].base, "{pair:?}");
        }
        for batch in &files {
            history.same(batch);
        }
        self.check_committed(dice);
        self.check_reads_from_inside(&files, dice);
        self.check_times(&files, dice);
        let from = history.start + (history.end - history.start) * i64::from(dice % 97) / 96;
        assert_eq!(self.follower.check(&self.memory, &self.clock, &self.partition, (from, dice)), Ok(()));
        let names = self.vfs.read_dir(partition.path()).unwrap();
        for entry in names {
            let unfinished = [".cleaned", ".swap", ".replaced"];
            assert!(!unfinished.iter().any(|suffix| entry.name.ends_with(suffix)), "{}", entry.name);
        }
    }

    fn check_producers(&self) {
        let found: BTreeMap<_, _> = self.partition.producers().iter().map(adopt).collect();
        let facts = |producers: &BTreeMap<i64, Known>| -> Vec<_> {
            producers.iter().map(|(id, known)| (*id, known.epoch, known.last, known.open)).collect()
        };
        assert_eq!(facts(&found), facts(&self.history.producers), "producers");
        let mut open: Vec<_> = found.iter().filter_map(|(id, known)| Some((known.open?, *id))).collect();
        open.sort_unstable();
        let transactions = self.partition.open_transactions();
        let transactions: Vec<_> = transactions.iter().map(|(id, first)| (first.value(), id.value())).collect();
        assert_eq!(transactions, open, "open transactions");
    }

    fn check_committed(&self, dice: u32) {
        let max_bytes = [1, 300, 1 << 20][dice as usize % 3];
        let found = committed_rows(&self.partition, self.history.start, max_bytes);
        for pair in found.windows(2) {
            assert!(pair[0].offset < pair[1].offset, "{pair:?}");
        }
        let decided = self.history.decided();
        for row in &found {
            assert_eq!(decided.get(&row.offset), Some(&row), "a record that nobody may see");
        }
        let found_at: BTreeMap<_, _> = found.iter().map(|row| (row.offset, row)).collect();
        let newest: BTreeMap<_, _> = decided.values().map(|row| (&row.key, row.offset)).collect();
        for (place, row) in decided.iter().filter(|(place, _)| !found_at.contains_key(place)) {
            assert!(*place < self.history.cleaned_to, "never compacted and missing: {row:?}");
            let is_newest = newest[&row.key] == *place;
            let may_go = row.value.is_none() && self.history.outlived_tombstones(DELETE_RETENTION) > *place;
            assert!(!is_newest || may_go, "the newest of its key is missing: {row:?}");
        }
        assert_eq!(table(&found), table(decided.values().copied()), "the table of latest values");
    }

    fn check_reads_from_inside(&self, files: &[Batch], dice: u32) {
        let History { start, end, .. } = self.history;
        let from = start + (end - start) * i64::from(dice % 97) / 96;
        let expected: Vec<_> = files.iter().flat_map(|batch| &batch.rows).filter(|row| row.offset >= from).collect();
        let found = history::rows(&self.partition, from, 200, Isolation::ReadUncommitted);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "read from {from}");
        let committed = committed_rows(&self.partition, start, 1 << 20);
        let expected: Vec<_> = committed.iter().filter(|row| row.offset >= from).collect();
        let found = committed_rows(&self.partition, from, 200);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "read committed from {from}");
    }

    fn check_times(&self, files: &[Batch], dice: u32) {
        let target = self.now() - i64::from(dice % 8000) + 1500;
        let time = Timestamp::from_millis(target).unwrap();
        let found = self.partition.find_offset(OffsetSpec::Timestamp(time)).unwrap();
        let found = found.map(|found| (found.offset.value(), found.timestamp.unwrap().millis()));
        let mut times = files.iter().flat_map(Batch::times).filter(|(place, _)| *place >= self.history.start);
        assert_eq!(found, times.find(|(_, time)| *time >= target), "the first record since {target}");
    }
}

/// A producer as the partition knows it.
fn adopt(entry: &ProducerEntry) -> (i64, Known) {
    let last = entry.last_offset.map(|last| history::Sent {
        first_offset: last.value() - i64::from(entry.offset_delta),
        last_offset: last.value(),
        last_sequence: entry.last_sequence.unwrap().value(),
    });
    let known = Known {
        epoch: entry.producer_epoch.value(),
        last,
        open: entry.current_transaction_first_offset.map(|first| first.value()),
        time: entry.timestamp.unwrap().millis(),
        newest: last.map_or(-1, |last| last.last_offset),
    };
    (entry.producer_id.value(), known)
}

fn run(script: &Script) {
    let mut world = World::new(script);
    let mut dice = 12345_u32;
    for step in &script.steps {
        let glance = world.glance(step, dice >> 8);
        world.step(step);
        if let Some(glance) = glance {
            assert_eq!(glance.judge(&world.partition, true), Ok(()), "{step:?}");
        }
        world.history.durable = world.durable();
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        world.check(dice >> 8);
    }
}

fn cases() -> u32 {
    std::env::var("STRATALOG_CASES").map_or(80, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_compacted_partition_answers_like_a_vector_of_all_that_was_appended(script in scripts()) {
        run(&script);
    }
}
