//! The machine may end at any moment: opening always succeeds, every record that was called durable and not deleted since is
//! there, and no record is there that was never appended at that offset.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stratalog::vfs::{FaultyVfs, MemoryVfs, OpenMode, Vfs};
use stratalog::{Durability, LogStore, ManualClock, Partition, Record, StoreOptions};
use support::{at, config, offset, partition_of, read_all};

/// Seeds of crash images; 0 keeps only what was synced.
const SEEDS: u64 = 4;

/// What the script knows when the machine ends.
#[derive(Default)]
struct Truth {
    /// Every value that was ever handed to an append, by the offset it was to get.
    sent: BTreeMap<i64, BTreeSet<String>>,
    /// The durable records, as far as they were not deleted.
    durable: BTreeMap<i64, String>,
    serial: u32,
}

impl Truth {
    fn append(&mut self, partition: &Partition, durability: Durability) -> Result<(), ()> {
        self.serial += 1;
        let value = format!("{:04} {}", self.serial, "x".repeat(40));
        let base = partition.log_end_offset().value();
        self.sent.entry(base).or_default().insert(value.clone());
        let record = Record::new(&value).timestamp(at(i64::from(self.serial)));
        partition.append_with(&[record], durability).map_err(drop)?;
        if durability == Durability::Durable {
            self.flushed(partition);
        }
        Ok(())
    }

    /// Everything in the log was just called durable.
    fn flushed(&mut self, partition: &Partition) {
        self.durable = read_all_or_nothing(partition).into_iter().collect();
    }

    fn delete_below(&mut self, start: i64) {
        self.durable.retain(|offset, _| *offset >= start);
    }

    fn delete_from(&mut self, end: i64) {
        self.durable.retain(|offset, _| *offset < end);
    }
}

/// The machine may have ended between the acknowledgement and the look at the log; then nothing new is known.
fn read_all_or_nothing(partition: &Partition) -> Vec<(i64, String)> {
    let mut records = Vec::new();
    for segment in partition.segments() {
        for batch in segment.batches() {
            let Ok((_, batch)) = batch else { return Vec::new() };
            for record in batch.records() {
                let record = record.unwrap();
                let value = String::from_utf8(record.value().unwrap().to_vec()).unwrap();
                records.push((record.offset().value(), value));
            }
        }
    }
    let start = partition.log_start_offset().value();
    records.retain(|(offset, _)| *offset >= start);
    records
}

fn open(vfs: Arc<dyn Vfs>, clock: &ManualClock) -> Result<LogStore, stratalog::StoreError> {
    StoreOptions::new().vfs(vfs).clock(Arc::new(clock.clone())).open("/log")
}

/// Everything that changes a partition, until the end of the machine ends it.
fn script(vfs: &FaultyVfs, clock: &ManualClock, truth: &mut Truth) -> Result<(), ()> {
    let store = open(Arc::new(vfs.clone()), clock).map_err(drop)?;
    let entries = [("segment.bytes", "600"), ("index.interval.bytes", "100"), ("file.delete.delay.ms", "10")];
    let topic = store.create_topic("t", 1, config(&entries)).map_err(drop)?;
    let partition = topic.partition(0).map_err(drop)?;
    for i in 0..12 {
        truth.append(&partition, if i % 4 == 3 { Durability::Durable } else { Durability::Written })?;
    }
    partition.roll().map_err(drop)?;
    truth.append(&partition, Durability::Written)?;
    partition.flush().map_err(drop)?;
    truth.flushed(&partition);
    store.checkpoint().map_err(drop)?;

    truth.delete_below(6);
    partition.delete_records_before(offset(6)).map_err(drop)?;
    truth.append(&partition, Durability::Durable)?;
    clock.advance(20);
    store.tick(clock_now(clock)).map_err(drop)?;
    clock.advance(20);
    store.tick(clock_now(clock)).map_err(drop)?;

    truth.delete_from(10);
    partition.truncate_to(offset(10)).map_err(drop)?;
    for i in 0..6 {
        truth.append(&partition, if i % 3 == 2 { Durability::Durable } else { Durability::Written })?;
    }
    let end = partition.log_end_offset().value();
    truth.delete_from(end - 1);
    partition.truncate_to(offset(end - 1)).map_err(drop)?;
    truth.append(&partition, Durability::Written)?;
    truth.append(&partition, Durability::Durable)?;
    truth.append(&partition, Durability::Written)?;
    store.flush().map_err(drop)?;
    truth.flushed(&partition);
    truth.append(&partition, Durability::Written)?;
    store.close().map_err(drop)
}

fn clock_now(clock: &ManualClock) -> stratalog::Timestamp {
    stratalog::Clock::now(clock)
}

fn check(truth: &Truth, store: &LogStore, when: &str) -> Vec<(i64, String)> {
    let Ok(topic) = store.topic("t") else {
        assert!(truth.durable.is_empty(), "{when}: the topic is gone");
        return Vec::new();
    };
    let partition = topic.partition(0).unwrap();
    let found = read_all(&partition);
    for (offset, value) in &found {
        let known = truth.sent.get(offset).is_some_and(|sent| sent.contains(value));
        assert!(known, "{when}: offset {offset} holds {value:?}, which was never appended there");
    }
    let end = partition.log_end_offset().value();
    let by_offset: BTreeMap<_, _> = found.iter().cloned().collect();
    for (at, value) in &truth.durable {
        assert_eq!(by_offset.get(at), Some(value), "{when}: the durable record at {at}, log end {end}");
    }
    let expected: Vec<_> = (partition.log_start_offset().value()..end).collect();
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), expected, "{when}: no holes");
    for cut in store.open_report().partitions.iter().flat_map(|recovery| &recovery.cuts) {
        assert!(!cut.reason.is_empty(), "{when}: {cut:?}");
    }
    found
}

#[test]
fn after_a_power_loss_at_any_moment_the_store_opens_with_every_durable_record() {
    let whole = FaultyVfs::new(MemoryVfs::new());
    script(&whole, &ManualClock::new(at(0)), &mut Truth::default()).unwrap();
    for crash_at in 0..=whole.mutations() {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let (clock, mut truth) = (ManualClock::new(at(0)), Truth::default());
        vfs.crash_after(crash_at);
        let ended = script(&vfs, &clock, &mut truth);
        assert!(
            ended.is_err() || !vfs.is_crashed() || crash_at == whole.mutations(),
            "the end of the machine is noticed"
        );
        for seed in 0..SEEDS {
            let when = format!("end at {crash_at}, image {seed}");
            let image = vfs.crash_image(seed).unwrap();
            let store = open(Arc::new(image.clone()), &clock).unwrap_or_else(|error| panic!("{when}: {error}"));
            let found = check(&truth, &store, &when);
            if store.topic("t").is_err() {
                continue;
            }
            partition_of(&store).append_with(&[Record::new("after")], Durability::Durable).unwrap();
            drop(store);
            let store =
                open(Arc::new(image.crash_image()), &clock).unwrap_or_else(|error| panic!("{when}, again: {error}"));
            let mut again = read_all(&partition_of(&store));
            assert_eq!(again.pop().map(|(_, value)| value).as_deref(), Some("after"), "{when}, again");
            assert!(again.ends_with(&found), "{when}: what recovery kept stays");
        }
    }
}

#[test]
fn after_a_kill_at_any_moment_every_acknowledged_record_is_there() {
    let whole = FaultyVfs::new(MemoryVfs::new());
    script(&whole, &ManualClock::new(at(0)), &mut Truth::default()).unwrap();
    for crash_at in 0..whole.mutations() {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        let (clock, mut truth) = (ManualClock::new(at(0)), Truth::default());
        vfs.crash_after(crash_at);
        script(&vfs, &clock, &mut truth).unwrap_err();
        let when = format!("kill at {crash_at}");
        let image = memory.process_crash_image();
        let store = open(Arc::new(image), &clock).unwrap_or_else(|error| panic!("{when}: {error}"));
        check(&truth, &store, &when);
    }
}

#[test]
fn an_index_that_a_kill_left_unwritten_is_rebuilt() {
    for missing in [".index", ".timeindex"] {
        let rig = support::Rig::new(&[]);
        support::append_at(&rig.partition, "old", 100);
        support::append_at(&rig.partition, "older", 50);
        rig.partition.roll().unwrap();
        rig.store.clone().close().unwrap();
        let file = rig.partition.path().join(format!("00000000000000000000{missing}"));
        rig.memory.remove_file(&file).unwrap();
        let store = open(Arc::new(rig.memory.clone()), &rig.clock).unwrap();
        let partition = partition_of(&store);
        let found = partition.find_offset(stratalog::OffsetSpec::Timestamp(at(100))).unwrap().unwrap();
        assert_eq!(found.offset, offset(0), "without {missing}");
        partition.append_with(&[Record::new("new")], Durability::Durable).unwrap();
        assert!(rig.memory.metadata(&file).unwrap().is_some(), "{missing} is back");
    }
}

#[test]
fn indexes_of_a_segment_that_was_sealed_after_the_last_flush_are_not_trusted() {
    let rig = support::Rig::new(&[("index.interval.bytes", "50")]);
    for (value, millis) in [("old", 100), ("older", 50), ("older", 50), ("older", 50)] {
        support::append_at(&rig.partition, value, millis);
    }
    rig.partition.flush().unwrap();
    rig.partition.roll().unwrap();
    rig.store.checkpoint().unwrap();
    rig.memory.sync_dir(rig.partition.path()).unwrap();
    let image = rig.memory.crash_image();
    let write = |name: &str, bytes: &[u8]| {
        let file = image.open(&rig.partition.path().join(name), OpenMode::Truncate).unwrap();
        file.write_at(bytes, 0).unwrap();
    };
    let index = rig.partition.path().join("00000000000000000000.index");
    let size = rig.memory.metadata(&index).unwrap().unwrap().size;
    write("00000000000000000000.index", &rig.memory.open(&index, OpenMode::Read).unwrap().map(size).unwrap());
    write("00000000000000000000.timeindex", &[0; 12]);
    let store = open(Arc::new(image), &rig.clock).unwrap();
    let found = partition_of(&store).find_offset(stratalog::OffsetSpec::Timestamp(at(60))).unwrap();
    assert_eq!(found.map(|found| found.offset), Some(offset(0)));
}

#[test]
fn what_recovery_cuts_is_kept_and_reported() {
    let rig = support::Rig::new(&[("segment.bytes", "300")]);
    for i in 0..8 {
        support::append(&rig.partition, &format!("{i} {}", "x".repeat(100)));
    }
    let image = rig.memory.process_crash_image();
    let segment = &rig.partition.segments()[1];
    let file = image.open(&segment.path(), OpenMode::Write).unwrap();
    file.write_at(b"damage", 100).unwrap();
    // Another boot: nothing is known to be intact.
    file.sync_data().unwrap();
    let list = image.read_dir(rig.store.path()).unwrap();
    for entry in list.into_iter().filter(|entry| entry.name.contains("verified")) {
        image.remove_file(&rig.store.path().join(entry.name)).unwrap();
    }
    let store = open(Arc::new(image.clone()), &rig.clock).unwrap();
    let kept = read_all(&partition_of(&store));
    assert_eq!(kept, read_all(&rig.partition)[..kept.len()]);
    let cuts = &store.open_report().partitions[0].cuts;
    assert!(kept.len() < 8 && !cuts.is_empty(), "the damage was found");
    for cut in cuts {
        let moved = image.metadata(&cut.moved_to).unwrap().unwrap();
        assert_eq!(moved.size, cut.bytes, "{cut:?}");
        assert!(cut.moved_to.to_string_lossy().ends_with(".cut") && !cut.reason.is_empty());
    }
    assert!(store.metrics().bytes_cut > 0);
}

/// What was written before a kill is not verified batch by batch in the same boot of the machine; where the log ends comes from its
/// last batch, though.
#[test]
fn a_damaged_last_batch_does_not_move_the_log_end_after_a_kill() {
    // Of the base offset, which no checksum covers, and of the last offset delta.
    for (byte, value) in [(3, 1), (7, 77), (23, 0x40), (24, 1), (26, 5)] {
        for (policy, flushed, interval) in
            [("delete", true, "4096"), ("delete", false, "0"), ("compact", true, "0"), ("compact", false, "4096")]
        {
            let rig = support::Rig::new(&[("cleanup.policy", policy), ("index.interval.bytes", interval)]);
            (0..5).for_each(|number| {
                _ = rig.partition.append(&[Record::keyed("k", &number.to_string())]).unwrap();
            });
            if flushed {
                rig.partition.flush().unwrap();
            }
            rig.store.checkpoint().unwrap();
            let image = rig.memory.process_crash_image();
            let segment = &rig.partition.segments()[0];
            let file = image.open(&segment.path(), OpenMode::Write).unwrap();
            file.write_at(&[value], segment.size() / 5 * 4 + byte).unwrap();
            let store = open(Arc::new(image), &rig.clock).unwrap();
            let (partition, report) = (partition_of(&store), &store.open_report().partitions[0]);
            let case = format!("byte {byte} is {value}, {policy}, flushed: {flushed}: {report:?}");
            assert_eq!((partition.log_end_offset(), report.cuts.len()), (offset(4), 1), "{case}");
            assert_eq!(read_all(&partition).len(), 4, "{case}");
        }
    }
}
