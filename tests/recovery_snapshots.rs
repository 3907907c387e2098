//! A replay of the log leaves snapshots of the producers where segments begin, so that the next opening need not repeat it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::ProducerSnapshot;
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{Durability, Record};
use support::{Rig, bases, offset, open, partition_of, stamp};

/// A log of several segments; everything below its last segment's base is known to be durable.
fn rig() -> Rig {
    let rig = Rig::new(&[("segment.bytes", "300"), ("index.interval.bytes", "0")]);
    for sequence in 0..30 {
        let producer = i64::from(sequence % 3);
        let sent =
            rig.partition.append_from(stamp(producer, 0, sequence / 3), &[Record::new("v")], Durability::Written);
        sent.unwrap();
    }
    rig.partition.flush().unwrap();
    rig.store.checkpoint().unwrap();
    rig
}

fn snapshots(rig: &Rig, image: &MemoryVfs) -> Vec<i64> {
    let entries = image.read_dir(rig.partition.path()).unwrap();
    let stems = entries.iter().filter_map(|entry| entry.name.strip_suffix(".snapshot"));
    stems.map(|stem| stem.parse().unwrap()).collect()
}

fn without_snapshots(rig: &Rig) -> MemoryVfs {
    let image = rig.memory.crash_image();
    for base in snapshots(rig, &image) {
        image.remove_file(&rig.partition.path().join(format!("{base:020}.snapshot"))).unwrap();
    }
    image
}

#[test]
fn a_replay_leaves_a_snapshot_at_each_segment_that_it_passes() {
    let rig = rig();
    let image = without_snapshots(&rig);
    let store = open(Arc::new(image.clone()), &rig.clock);
    assert_eq!(partition_of(&store).producers(), rig.partition.producers());
    let (_, passed) = bases(&rig.partition).split_first().map(|(first, rest)| (*first, rest.to_vec())).unwrap();
    assert!(passed.len() > 4);
    assert_eq!(snapshots(&rig, &image), passed);
    for base in passed {
        let file = image.open(&rig.partition.path().join(format!("{base:020}.snapshot")), OpenMode::Read).unwrap();
        let snapshot = ProducerSnapshot::parse(&file.map(file.size().unwrap()).unwrap()).unwrap();
        let last = snapshot.entries.iter().filter_map(|entry| entry.last_offset).max();
        assert_eq!(last, Some(offset(base - 1)), "the log up to {base}");
    }
}

#[test]
fn the_next_unclean_opening_begins_at_such_a_snapshot() {
    let rig = rig();
    let image = without_snapshots(&rig);
    let store = open(Arc::new(image.clone()), &rig.clock);
    partition_of(&store).flush().unwrap();
    let image = image.crash_image();
    // Whoever replays the first segment meets this and knows less.
    let first = rig.partition.path().join(format!("{:020}.log", 0));
    image.open(&first, OpenMode::Write).unwrap().write_at(&[0xff; 16], 8).unwrap();
    let again = open(Arc::new(image), &rig.clock);
    assert_eq!(partition_of(&again).producers(), rig.partition.producers());
}

#[test]
fn snapshots_that_cannot_be_written_keep_no_log_from_opening() {
    for kind in [std::io::ErrorKind::StorageFull, std::io::ErrorKind::Other] {
        for operation in [Operation::Open, Operation::Write] {
            let rig = rig();
            let image = without_snapshots(&rig);
            let vfs = FaultyVfs::new(image.clone());
            for _ in 0..20 {
                let fault = Fault::new(operation, Effect::Error(kind));
                vfs.inject(Fault { path_contains: ".snapshot".to_owned(), ..fault });
            }
            let store = open(Arc::new(vfs), &rig.clock);
            let partition = partition_of(&store);
            assert_eq!(partition.producers(), rig.partition.producers());
            assert!(partition.append(&[Record::new("v")]).is_ok());
        }
    }
}

#[test]
fn a_torn_snapshot_of_a_replay_is_ignored() {
    let rig = rig();
    let image = without_snapshots(&rig);
    drop(open(Arc::new(image.clone()), &rig.clock));
    for seed in 0..50 {
        let store = open(Arc::new(image.torn_crash_image(seed)), &rig.clock);
        assert_eq!(partition_of(&store).producers(), rig.partition.producers(), "seed {seed}");
    }
}

#[test]
fn behind_damage_that_hides_batches_no_snapshot_is_taken() {
    let rig = rig();
    let image = without_snapshots(&rig);
    let first = rig.partition.path().join(format!("{:020}.log", 0));
    image.open(&first, OpenMode::Write).unwrap().write_at(&[0xff; 16], 8).unwrap();
    let store = open(Arc::new(image.clone()), &rig.clock);
    assert!(!partition_of(&store).producers().is_empty());
    assert_eq!(snapshots(&rig, &image), []);
}

#[test]
fn a_snapshot_of_an_earlier_life_is_synced_with_what_that_life_left_unsynced() {
    let rig = Rig::new(&[]);
    rig.partition.append_from(stamp(7, 0, 0), &[Record::new("v")], Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.append_from(stamp(7, 0, 1), &[Record::new("v")], Durability::Written).unwrap();
    let killed = rig.memory.process_crash_image();
    partition_of(&open(Arc::new(killed.clone()), &rig.clock)).flush().unwrap();
    let image = killed.crash_image();
    assert_eq!(snapshots(&rig, &image), [1]);
    let file = image.open(&rig.partition.path().join(format!("{:020}.snapshot", 1)), OpenMode::Read).unwrap();
    assert!(ProducerSnapshot::parse(&file.map(file.size().unwrap()).unwrap()).is_ok());
}
