//! Readers and appends never wait for the disk work of others: while a sync, a write or a rename of one of a segment's files
//! is stuck, lookups, reads and appends end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::mpsc;
use std::time::Duration;

use stratalog::format::TransactionResult::Abort;
use stratalog::vfs::{Hook, Operation, PathFilter};
use stratalog::{Durability, Isolation, OffsetSpec, Partition, Record};
use support::{Rig, append_at, at, config, in_transaction, marker, offset, read_all};

const LONG: Duration = Duration::from_secs(20);

/// A log of two segments with indexes, aborted transactions in each, and a reader of it that has looked at nothing yet.
fn rig() -> Rig {
    let rig = Rig::new(&[("index.interval.bytes", "0"), ("file.delete.delay.ms", "0")]);
    for round in 0..2 {
        for time in 0..5 {
            append_at(&rig.partition, "a value", i64::from(round) * 10 + time);
        }
        let stamp = in_transaction(1, 0, round);
        rig.partition.append_from(stamp, &[Record::new("never")], Durability::Written).unwrap();
        rig.partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
        if round == 0 {
            rig.partition.roll().unwrap();
        }
    }
    rig
}

fn look_everywhere(partition: &Partition) {
    assert_eq!(read_all(partition).len(), 14);
    for from in 0..14 {
        partition.read(offset(from)).isolation(Isolation::ReadCommitted).fetch().unwrap();
        partition.find_offset(OffsetSpec::Timestamp(at(from))).unwrap();
    }
    partition.find_offset(OffsetSpec::MaxTimestamp).unwrap();
}

/// Runs `slow` until it is stuck at the hook's call, then `quick` to its end, then `slow` to its end.
fn while_stuck(rig: &Rig, hook: Hook, slow: impl FnOnce() + Send, quick: impl FnOnce() + Send) {
    let what = format!("{hook:?}");
    let gate = rig.vfs.block(hook);
    std::thread::scope(|scope| {
        let slow = scope.spawn(slow);
        assert!(gate.wait_until_reached(LONG), "{what}");
        let (sender, ended) = mpsc::channel();
        let quick = scope.spawn(move || {
            quick();
            sender.send(()).unwrap();
        });
        let in_time = ended.recv_timeout(LONG);
        gate.release();
        assert!(quick.join().is_ok() && slow.join().is_ok(), "{what}");
        assert!(in_time.is_ok(), "waited: {what}");
    });
}

#[test]
fn lookups_and_appends_end_while_a_file_of_a_segment_is_being_synced() {
    for base in ["00000000000000000000", "00000000000000000007"] {
        for kind in ["log", "index", "timeindex", "txnindex"] {
            if base.ends_with('7') && kind.ends_with("index") && kind != "txnindex" {
                continue;
            }
            let rig = rig();
            let hook = Hook::at(Operation::Sync).on(PathFilter::ends_with(format!("{base}.{kind}")));
            let flush = || rig.partition.flush().unwrap();
            while_stuck(&rig, hook, flush, || {
                look_everywhere(&rig.partition);
                append_at(&rig.partition, "one more", 100);
                rig.partition.append_from(in_transaction(1, 0, 2), &[Record::new("x")], Durability::Written).unwrap();
                rig.partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
            });
            assert_eq!(rig.partition.last_stable_offset(), rig.partition.log_end_offset());
        }
    }
}

#[test]
fn an_entry_that_is_added_while_the_file_is_synced_is_synced_by_the_next_flush() {
    let rig = rig();
    let hook = Hook::at(Operation::Sync).on(PathFilter::ends_with("07.txnindex"));
    while_stuck(
        &rig,
        hook,
        || rig.partition.flush().unwrap(),
        || {
            rig.partition.append_from(in_transaction(1, 0, 2), &[Record::new("never")], Durability::Written).unwrap();
            rig.partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
        },
    );
    rig.partition.flush().unwrap();
    rig.store.checkpoint().unwrap();
    let store = support::open(std::sync::Arc::new(rig.memory.crash_image()), &rig.clock);
    let survivor = support::partition_of(&store);
    assert_eq!(survivor.log_end_offset(), offset(16));
    assert_eq!(support::read_committed(&survivor, 1 << 20).len(), 10);
}

#[test]
fn a_held_segment_is_read_while_its_files_are_being_renamed() {
    for kind in ["log", "index", "timeindex", "txnindex"] {
        let rig = rig();
        let held = rig.partition.segments();
        rig.partition.delete_records_before(offset(7)).unwrap();
        let hook = Hook::at(Operation::Rename).on(PathFilter::ends_with(format!("00000.{kind}")));
        let retention = || {
            rig.store.tick(at(0)).unwrap();
        };
        while_stuck(&rig, hook, retention, || {
            let first = held.first().unwrap();
            assert_eq!(first.batches().filter(Result::is_ok).count(), 7);
            assert_eq!(first.largest_timestamp().unwrap(), Some(at(4)));
        });
        assert_eq!(held.first().unwrap().batches().filter(Result::is_ok).count(), 7);
    }
}

#[test]
fn appends_that_roll_end_while_the_notes_of_another_partition_are_written() {
    for operation in [Operation::Write, Operation::Sync] {
        let rig = Rig::new(&[("segment.bytes", "100")]);
        let other = rig.store.create_topic("other", 1, config(&[])).unwrap().partition(0).unwrap();
        append_at(&other, "a", 0);
        append_at(&other, "b", 0);
        let appends = || {
            for time in 0..40 {
                append_at(&rig.partition, "a value", time);
            }
            assert!(rig.partition.segments().len() > 20);
        };
        let hook = Hook::at(operation).path("offset-checkpoint");
        while_stuck(&rig, hook, || other.truncate_to(offset(1)).unwrap(), appends);
    }
}

#[test]
fn appends_and_reads_end_while_a_step_of_a_compactions_swap_is_stuck() {
    let hooks = [
        Hook::at(Operation::Rename).path(".log.cleaned"),
        Hook::at(Operation::Rename).path(".log.swap"),
        Hook::at(Operation::Rename).on(PathFilter::ends_with("00000000000000000000.log")),
        Hook::at(Operation::Open).path(".replaced"),
    ];
    for hook in hooks {
        let rig = Rig::new(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
        for number in 0..6 {
            rig.partition.append(&[Record::keyed("k", &number.to_string())]).unwrap();
            rig.partition.roll().unwrap();
        }
        let (partition, quick) = (rig.partition.clone(), rig.partition.clone());
        while_stuck(
            &rig,
            hook,
            move || _ = partition.compact().unwrap(),
            move || {
                quick.append(&[Record::keyed("other", "meanwhile")]).unwrap();
                assert_eq!(read_all(&quick).last().unwrap().1, "meanwhile");
            },
        );
    }
}

#[test]
fn appends_and_reads_end_while_a_removal_is_stuck() {
    for hook in [
        Hook::at(Operation::Rename).on(PathFilter::ends_with("00000000000000000000.log")),
        Hook::at(Operation::SyncDir).path("/t-0"),
        Hook::at(Operation::Remove).path(".deleted"),
    ] {
        let rig = Rig::new(&[("retention.ms", "1000"), ("file.delete.delay.ms", "0")]);
        for time in 0..3 {
            append_at(&rig.partition, "old", time);
            rig.partition.roll().unwrap();
        }
        append_at(&rig.partition, "young", 5000);
        let quick = rig.partition.clone();
        while_stuck(
            &rig,
            hook,
            || assert!((0..2).all(|number| rig.store.tick(at(5000 + number)).unwrap().failures.is_empty())),
            move || {
                append_at(&quick, "meanwhile", 5000);
                assert_eq!(read_all(&quick).last().unwrap().1, "meanwhile");
            },
        );
    }
}
