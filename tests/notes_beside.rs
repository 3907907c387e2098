//! What is remembered beside the log (aborted transactions, producers, where the log starts and where it has gaps) is right after a
//! crash, also where it could not be written or synced when it was due.
#![allow(clippy::unwrap_used, clippy::cast_possible_wrap, reason = "a test fails by panicking; logs are short")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;

use stratalog::format::TransactionResult;
use stratalog::vfs::{Effect, Fault, FaultyVfs, Hook, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{Clock, Durability, Partition, Record, StoreOptions};
use support::{
    Rig, append, bases, in_transaction, marker, offset, open, partition_of, read_all, read_committed, stamp,
};

const EIO: Effect = Effect::OsError(5);
const NO_DESCRIPTOR: Effect = Effect::OsError(24);
const FULL: Effect = Effect::OsError(28);

fn committed(partition: &Partition) -> Vec<String> {
    read_committed(partition, 1 << 20).into_iter().map(|(_, value)| value).collect()
}

fn abort_one(partition: &Partition) {
    partition.append_from(in_transaction(7, 0, 0), &[Record::new("aborted")], Durability::Written).unwrap();
    partition.end_transaction(&marker(TransactionResult::Abort, 7, 0), Durability::Written).unwrap();
}

/// A store that was closed in order, and whose one transaction index has rotted.
fn rotten() -> (Rig, MemoryVfs) {
    let rig = Rig::new(&[]);
    append(&rig.partition, "plain");
    abort_one(&rig.partition);
    rig.partition.roll().unwrap();
    append(&rig.partition, "later");
    let index: PathBuf = rig.partition.path().join("00000000000000000000.txnindex");
    rig.store.clone().close().unwrap();
    let memory = rig.memory.crash_image();
    let file = memory.open(&index, OpenMode::Write).unwrap();
    file.write_at(&[0xff; 34], 0).unwrap();
    file.sync_data().unwrap();
    (rig, memory)
}

#[test]
fn a_rotten_index_of_transactions_stands_until_another_one_takes_its_place() {
    for effect in [FULL, NO_DESCRIPTOR] {
        for nth in 1..200 {
            let (rig, memory) = rotten();
            let vfs = FaultyVfs::new(memory.clone());
            vfs.inject(Fault { path_contains: "t-0".into(), ..Fault::new(Operation::Any, effect).nth(nth) });
            let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone()));
            drop(options.open("/log"));
            if vfs.faults_struck() == 0 {
                break;
            }
            for image in [memory.process_crash_image(), memory.crash_image()] {
                let store = open(Arc::new(image), &rig.clock);
                assert_eq!(committed(&partition_of(&store)), ["plain", "later"], "call {nth}: {effect:?}");
            }
        }
    }
}

#[test]
fn a_loss_of_power_while_an_index_of_transactions_is_made_anew_hides_no_abort() {
    for crash_at in 0..40 {
        let (rig, memory) = rotten();
        let vfs = FaultyVfs::new(memory.clone());
        vfs.crash_after(crash_at);
        let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone()));
        drop(options.open("/log"));
        for seed in 0..10 {
            let store = open(Arc::new(memory.torn_crash_image(seed)), &rig.clock);
            assert_eq!(committed(&partition_of(&store)), ["plain", "later"], "{crash_at} {seed}");
        }
    }
}

#[test]
fn no_snapshot_and_no_note_passes_over_an_abort_that_a_full_disk_kept_from_its_index() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "first");
    rig.vfs.inject(Fault { path_contains: ".txnindex".into(), ..Fault::new(Operation::Any, FULL).from_nth(1) });
    abort_one(&rig.partition);
    rig.partition.roll().unwrap();
    append(&rig.partition, "later");
    let still_full = rig.memory.process_crash_image();
    rig.vfs.clear_faults();
    rig.store.checkpoint().unwrap();
    for image in [still_full, rig.memory.process_crash_image()] {
        let store = open(Arc::new(image), &rig.clock);
        assert_eq!(committed(&partition_of(&store)), ["first", "later"]);
    }
}

#[test]
fn a_snapshot_whose_sync_failed_is_synced_before_retention_takes_the_batches() {
    for fault in [Fault::new(Operation::Sync, EIO), Fault::new(Operation::Open, NO_DESCRIPTOR).nth(2)] {
        let rig = Rig::new(&[("retention.ms", "1000")]);
        let send = |partition: &Partition| {
            partition.append_from(stamp(7, 0, 0), &[Record::new("paid")], Durability::Durable).unwrap().is_duplicate
        };
        assert!(!send(&rig.partition));
        rig.clock.advance(5000);
        rig.vfs.inject(Fault { path_contains: ".snapshot".into(), ..fault });
        rig.store.tick(rig.clock.now()).unwrap();
        assert_eq!(rig.vfs.faults_struck(), 1);
        assert!(rig.store.tick(rig.clock.now()).unwrap().failures.is_empty());
        assert_eq!(rig.partition.log_start_offset(), offset(1));
        let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
        assert!(send(&partition_of(&store)), "stored once");
    }
}

#[test]
fn what_is_appended_while_a_log_is_compacted_has_no_hole_after_a_loss_of_power() {
    for seed in 0..100 {
        let rig = Rig::new(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
        for key in ["a", "b"].repeat(3) {
            rig.partition.append(&[Record::keyed(key, "v")]).unwrap();
            rig.partition.roll().unwrap();
        }
        let (partition, start) = (rig.partition.clone(), rig.partition.log_end_offset().value());
        rig.vfs.hook(Hook::at(Operation::Open).path(".cleaned"), move |_| {
            for number in 0..8 {
                partition.append(&[Record::keyed(&format!("new {number}"), "v")]).unwrap();
                if number % 2 == 1 {
                    partition.roll().unwrap();
                }
            }
        });
        rig.partition.compact().unwrap();
        rig.partition.append(&[Record::keyed("last", "v")]).unwrap();
        let store = open(Arc::new(rig.memory.torn_crash_image(seed)), &rig.clock);
        let rows = read_all(&partition_of(&store)).into_iter().map(|(offset, _)| offset);
        let appended: Vec<_> = rows.filter(|offset| *offset >= start).collect();
        assert_eq!(appended, (start..start + appended.len() as i64).collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_reopening_that_cuts_is_online_only_when_the_notes_know_of_it() {
    let rig = Rig::new(&[]);
    (0..10).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    rig.store.flush().unwrap();
    let file = rig.memory.open(&rig.partition.segments()[0].path(), OpenMode::Write).unwrap();
    file.write_at(&[0xff; 4], file.size().unwrap() / 2).unwrap();
    let points = "recovery-point-offset-checkpoint";
    rig.vfs.inject(Fault { path_contains: points.into(), ..Fault::new(Operation::Any, FULL).nth(1) });
    assert!(rig.partition.reopen().is_err());
    assert!(rig.partition.append(&[Record::new("above the noted point")]).is_err());
    rig.partition.reopen().unwrap();
    let end = rig.partition.log_end_offset().value();
    append(&rig.partition, "next");
    for seed in 0..20 {
        let store = open(Arc::new(rig.memory.torn_crash_image(seed)), &rig.clock);
        assert!(read_all(&partition_of(&store)).len() as i64 >= end, "seed {seed}");
    }
}

#[test]
fn a_damaged_batch_keeps_no_segment_from_being_removed() {
    let rig = Rig::new(&[("retention.bytes", "1"), ("retention.ms", "-1")]);
    for _ in 0..3 {
        append(&rig.partition, "old");
        append(&rig.partition, "older");
        rig.partition.roll().unwrap();
    }
    let log = rig.partition.segments()[0].path();
    rig.store.clone().close().unwrap();
    let memory = rig.memory.crash_image();
    let file = memory.open(&log, OpenMode::Write).unwrap();
    file.write_at(&[0xff; 20], file.size().unwrap() / 2).unwrap();
    let store = open(Arc::new(memory), &rig.clock);
    assert!(store.tick(rig.clock.now()).unwrap().failures.is_empty());
    assert_eq!(bases(&partition_of(&store)), [4, 6], "the first two are gone");
}

#[test]
fn compaction_brings_nothing_back_that_retention_removed_meanwhile() {
    let entries =
        [("cleanup.policy", "compact,delete"), ("min.cleanable.dirty.ratio", "0"), ("file.delete.delay.ms", "0")];
    let rig = Rig::new(&entries);
    for key in ["a", "b", "c", "d"] {
        rig.partition.append(&[Record::keyed(key, "v")]).unwrap();
        rig.partition.append(&[Record::keyed(key, "w")]).unwrap();
        rig.partition.roll().unwrap();
    }
    let (partition, clock, store) = (rig.partition.clone(), rig.clock.clone(), rig.store.clone());
    rig.vfs.hook(Hook::at(Operation::Open).path(".cleaned"), move |_| {
        partition.delete_records_before(offset(2)).unwrap();
        store.tick(clock.now()).unwrap();
    });
    rig.partition.compact().unwrap();
    for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
        let store = open(Arc::new(image), &rig.clock);
        assert_eq!(partition_of(&store).log_start_offset(), offset(2));
    }
}
