//! The machine may end at any moment of a compaction: opening always succeeds, leaves no unfinished file behind, and shows the
//! same latest value of every key at the same offsets.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/history.rs"]
mod history;
mod support;

use std::sync::Arc;

use history::{Row, committed_rows, table};
use stratalog::format::TransactionResult::{Abort, Commit};
use stratalog::vfs::{FaultyVfs, MemoryVfs, Vfs};
use stratalog::{Clock, CompactionOptions, Durability, Isolation, LogStore, ManualClock, Partition, Record};
use support::{Rig, at, config, in_transaction, marker, open, partition_of, read_committed, stamp};

/// Seeds of crash images; 0 keeps only what was synced.
const SEEDS: u64 = 3;

#[test]
fn a_compaction_rests_on_nothing_that_a_power_loss_can_take() {
    let rig = Rig::new(&[("cleanup.policy", "compact")]);
    rig.partition.append_with(&[Record::keyed("k", "old")], Durability::Durable).unwrap();
    let records = [Record::keyed("k", "new")];
    rig.partition.append_from(in_transaction(1, 0, 0), &records, Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.end_transaction(&marker(Commit, 1, 0), Durability::Written).unwrap();
    rig.partition.compact().unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(read_committed(&partition_of(&store), 1 << 20), [(1, "new".to_owned())]);
}

/// A store with a filled topic, before anything is compacted; all of it is durable.
fn filled(vfs: &FaultyVfs, clock: &ManualClock) -> LogStore {
    let store = open(Arc::new(vfs.clone()), clock);
    let entries = [
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "100000"),
        ("delete.retention.ms", "1000"),
        ("segment.bytes", "700"),
        ("index.interval.bytes", "100"),
        ("file.delete.delay.ms", "10"),
    ];
    let partition = store.create_topic("t", 1, config(&entries)).unwrap().partition(0).unwrap();
    for round in 0..6 {
        // The later half outlives the retention.
        let time = at(if round < 3 { 0 } else { 150_000 } + i64::from(round));
        let own = format!("own {round}");
        let value = format!("{round} {}", "x".repeat(30));
        let put = |key| Record::keyed(key, &value).timestamp(time);
        let remove = |key| Record::tombstone(key).timestamp(time);
        let send = |stamp, records: &[Record<'_>]| {
            partition.append_from(stamp, records, Durability::Written).unwrap();
        };
        partition.append(&[put("a"), put(own.as_str()), put("b")]).unwrap();
        send(in_transaction(1, 0, round * 2), &[put("a"), put("never")]);
        send(in_transaction(2, 0, round * 2), &[put("c"), remove("b")]);
        send(stamp(3, 0, round), &[put("d")]);
        partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
        partition.end_transaction(&marker(Commit, 2, 0), Durability::Written).unwrap();
    }
    partition.flush().unwrap();
    store.checkpoint().unwrap();
    store
}

/// Everything that compaction and retention do to it, until the end of the machine ends it.
fn script(store: &LogStore, clock: &ManualClock) -> Result<(), ()> {
    let partition = partition_of(store);
    let forgetful = CompactionOptions::new().memory(4 * 24);
    partition.compact_with(&forgetful).map_err(drop)?;
    partition.compact().map_err(drop)?;
    clock.advance(1001);
    partition.compact().map_err(drop)?;
    store.tick(clock.now()).map_err(drop)?;
    partition.roll().map_err(drop)?;
    clock.advance(200_000);
    let report = store.tick(clock.now()).map_err(drop)?;
    if report.failures.is_empty() { Ok(()) } else { Err(()) }
}

/// All that readers of committed records may ever see.
fn truth() -> Vec<Row> {
    let store = filled(&FaultyVfs::new(MemoryVfs::new()), &ManualClock::new(at(0)));
    let rows = committed_rows(&partition_of(&store), 0, 1 << 20);
    assert!(rows.iter().any(|row| row.value.is_none()) && rows.iter().all(|row| row.key != "never"));
    rows
}

fn check(partition: &Partition, truth: &[Row], when: &str) {
    let start = partition.log_start_offset().value();
    let found = committed_rows(partition, start, 300);
    for row in &found {
        assert!(truth.contains(row), "{when}: nobody may see {row:?}");
    }
    assert!(found.is_sorted_by(|left, right| left.offset < right.offset), "{when}: {found:?}");
    let expected = table(truth.iter().filter(|row| row.offset >= start));
    assert_eq!(table(&found), expected, "{when}");
    let producers: Vec<_> = partition.producers().iter().map(|entry| entry.producer_id.value()).collect();
    assert!(start > 0 || producers == [1, 2, 3], "{when}: {producers:?}");
}

/// Opens what is left, compacts it again, and lets the power fail once more.
fn go_on(image: &MemoryVfs, clock: &ManualClock, truth: &[Row], when: &str) {
    let store = open(Arc::new(image.clone()), clock);
    let partition = partition_of(&store);
    for entry in image.read_dir(partition.path()).unwrap() {
        let unfinished = [".cleaned", ".swap", ".replaced", ".deleted"];
        assert!(!unfinished.iter().any(|suffix| entry.name.ends_with(suffix)), "{when}: {}", entry.name);
    }
    check(&partition, truth, when);
    let end = partition.log_end_offset();
    partition.roll().unwrap();
    let report = partition.compact().unwrap_or_else(|error| panic!("{when}, compacted again: {error}"));
    assert!(report.is_complete && report.end_offset == end, "{when}: {report:?}");
    check(&partition, truth, &format!("{when}, compacted again"));
    let store = open(Arc::new(image.crash_image()), clock);
    assert_eq!(partition_of(&store).log_end_offset(), end, "{when}, opened again");
    check(&partition_of(&store), truth, &format!("{when}, opened again"));
}

/// The script once to its end; returns how many changes of the disk it is.
fn whole(truth: &[Row]) -> u64 {
    let (vfs, clock) = (FaultyVfs::new(MemoryVfs::new()), ManualClock::new(at(0)));
    let store = filled(&vfs, &clock);
    let before = vfs.mutations();
    script(&store, &clock).unwrap();
    let partition = partition_of(&store);
    check(&partition, truth, "no crash");
    let start = partition.log_start_offset().value();
    assert!(start > 0, "retention took something");
    let left = history::rows(&partition, start, 1 << 20, Isolation::ReadUncommitted);
    // The last round stood in the active segment.
    assert!(left.iter().all(|row| row.value.is_some() || row.offset >= 50), "{left:?}");
    vfs.mutations() - before
}

/// Lets the machine end at each change of the disk, and hands over what is left to `then`.
fn at_each_crash(then: impl Fn(&FaultyVfs, &MemoryVfs, &ManualClock, &[Row], u64)) {
    let truth = truth();
    let mutations = whole(&truth);
    assert!(mutations > 100, "{mutations}");
    for crash_at in 0..mutations {
        let memory = MemoryVfs::new();
        let (vfs, clock) = (FaultyVfs::new(memory.clone()), ManualClock::new(at(0)));
        let store = filled(&vfs, &clock);
        vfs.crash_after(crash_at);
        assert!(script(&store, &clock).is_err() && vfs.is_crashed(), "the end of the machine is noticed");
        then(&vfs, &memory, &clock, &truth, crash_at);
    }
}

#[test]
fn after_a_power_loss_at_any_moment_of_a_compaction_the_latest_value_of_every_key_is_the_same() {
    at_each_crash(|vfs, _, clock, truth, crash_at| {
        for seed in 0..SEEDS {
            let image = vfs.crash_image(seed).unwrap();
            go_on(&image, clock, truth, &format!("end at {crash_at}, image {seed}"));
        }
    });
}

#[test]
fn after_a_kill_at_any_moment_of_a_compaction_the_latest_value_of_every_key_is_the_same() {
    at_each_crash(|_, memory, clock, truth, crash_at| {
        go_on(&memory.process_crash_image(), clock, truth, &format!("kill at {crash_at}"));
    });
}
