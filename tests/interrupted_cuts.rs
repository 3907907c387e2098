//! Cuts of a log's end that a kill, a failing disk or a power loss interrupts, or that come right after one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::ErrorKind;
use std::sync::Arc;

use stratalog::format::ProducerStamp;
use stratalog::vfs::{Effect, Fault, MemoryVfs, Operation};
use stratalog::{Appended, Durability, LogError, Partition, Record};
use support::{Rig, append, in_transaction, offset, open, partition_of, read_all, stamp};

/// Lets the machine end at each change that `work` makes on what `prepare` made, and hands on what a kill leaves, and what power losses
/// leave.
fn end_at_each_change(prepare: impl Fn() -> Rig, work: impl Fn(&Rig), check: impl Fn(&Rig, MemoryVfs, &str)) {
    for changes in 0.. {
        let rig = prepare();
        rig.vfs.crash_after(changes);
        work(&rig);
        let has_ended = !rig.vfs.is_crashed();
        check(&rig, rig.memory.process_crash_image(), &format!("killed at change {changes}"));
        for seed in 0..10 {
            let image = rig.vfs.crash_image(seed).unwrap();
            check(&rig, image, &format!("change {changes}, power lost with seed {seed}"));
        }
        if has_ended {
            return;
        }
    }
}

fn durable(partition: &Partition, value: &str) -> i64 {
    let appended = partition.append_with(&[Record::new(value)], Durability::Durable).unwrap();
    appended.base_offset.value()
}

fn send(partition: &Partition, stamp: ProducerStamp, count: usize) -> Result<Appended, LogError> {
    partition.append_from(stamp, &vec![Record::new("value"); count], Durability::Durable)
}

/// A log with records at 7, 12 and 13 only, which ends at 14: compaction took the others.
fn compacted() -> Rig {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("segment.bytes", "300"), ("min.cleanable.dirty.ratio", "0")]);
    for key in ["a", "a", "a", "a", "a", "a", "b", "a", "b", "b", "b", "b", "b", "c"] {
        rig.partition.append_with(&[Record::keyed(key, "v")], Durability::Durable).unwrap();
    }
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    rig.partition.flush().unwrap();
    rig.store.checkpoint().unwrap();
    rig
}

#[test]
fn a_cut_of_a_compacted_log_gives_no_offset_twice_wherever_it_is_interrupted() {
    for end in [3, 8, 10, 12, 13] {
        let cut = |rig: &Rig| _ = rig.partition.truncate_to(offset(end));
        end_at_each_change(compacted, cut, |rig, image, when| {
            let store = open(Arc::new(image), &rig.clock);
            let partition = partition_of(&store);
            let log_end = partition.log_end_offset().value();
            assert!(log_end >= end, "{when}: cut to {end}, it ends at {log_end}");
            let kept: Vec<i64> = read_all(&partition).into_iter().map(|(at, _)| at).filter(|at| *at < end).collect();
            let expected: Vec<i64> = [7, 12, 13].into_iter().filter(|at| *at < end).collect();
            assert_eq!(kept, expected, "{when}: cut to {end}");
        });
    }
}

#[test]
fn a_cut_of_a_compacted_log_that_fails_anywhere_gives_no_offset_twice_after_reopening() {
    for nth in 1.. {
        let rig = compacted();
        rig.vfs.inject(Fault::new(Operation::Any, Effect::Error(ErrorKind::Other)).nth(nth));
        let cut = rig.partition.truncate_to(offset(10));
        rig.vfs.clear_faults();
        if rig.vfs.faults_struck() == 0 {
            break;
        }
        if cut.is_err() && rig.partition.append(&[Record::keyed("k", "v")]).is_err() {
            rig.partition.reopen().unwrap();
        }
        assert!(rig.partition.log_end_offset() >= offset(10), "fault {nth}");
    }
}

#[test]
fn a_cut_that_was_made_again_after_a_kill_stays_made_after_a_power_loss() {
    let prepare = || {
        let rig = Rig::new(&[("segment.bytes", "150")]);
        ["a", "b", "c", "d"].into_iter().for_each(|value| _ = durable(&rig.partition, value));
        rig.store.checkpoint().unwrap();
        rig
    };
    let cut = |rig: &Rig| _ = rig.partition.truncate_to(offset(1));
    end_at_each_change(prepare, cut, |rig, image, when| {
        let store = open(Arc::new(image.clone()), &rig.clock);
        let partition = partition_of(&store);
        partition.truncate_to(offset(1)).unwrap();
        partition.flush().unwrap();
        for lost in [image.crash_image(), image.torn_crash_image(3)] {
            let store = open(Arc::new(lost), &rig.clock);
            assert_eq!(read_all(&partition_of(&store)), [(0, "a".to_owned())], "{when}");
        }
    });
}

#[test]
fn a_topic_that_was_there_after_a_kill_is_there_after_a_power_loss() {
    let create = |rig: &Rig| _ = rig.store.create_topic("u", 2, support::config(&[]));
    end_at_each_change(
        || Rig::new(&[]),
        create,
        |rig, image, when| {
            let store = open(Arc::new(image.clone()), &rig.clock);
            let Ok(topic) = store.topic("u") else { return };
            let partition = topic.partition(1).unwrap();
            durable(&partition, "v");
            let store = open(Arc::new(image.crash_image()), &rig.clock);
            assert_eq!(read_all(&store.topic("u").unwrap().partition(1).unwrap()).len(), 1, "{when}");
        },
    );
}

#[test]
fn a_cut_at_the_log_start_forgets_no_producer_and_no_transaction_below_it() {
    for in_transaction_too in [false, true] {
        let prepare = || {
            let rig = Rig::new(&[]);
            send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
            if in_transaction_too {
                send(&rig.partition, in_transaction(8, 0, 0), 1).unwrap();
            } else {
                durable(&rig.partition, "plain");
            }
            send(&rig.partition, stamp(7, 0, 1), 2).unwrap();
            rig.partition.delete_records_before(offset(3)).unwrap();
            rig
        };
        let cut = |rig: &Rig| _ = rig.partition.truncate_to(offset(3));
        end_at_each_change(prepare, cut, |rig, image, when| {
            let store = open(Arc::new(image), &rig.clock);
            let partition = partition_of(&store);
            let retry = send(&partition, stamp(7, 0, 0), 1).unwrap();
            assert!(retry.is_duplicate, "{when}");
            assert_eq!(partition.open_transactions().len(), usize::from(in_transaction_too), "{when}");
        });
    }
}

#[test]
fn a_start_over_below_the_log_start_is_finished_by_reopening_and_by_opening() {
    let prepare = || {
        let rig = Rig::new(&[("segment.bytes", "150")]);
        ["a", "b", "c", "d", "e"].into_iter().for_each(|value| _ = durable(&rig.partition, value));
        rig.store.checkpoint().unwrap();
        rig.partition.delete_records_before(offset(3)).unwrap();
        rig.store.tick(support::at(0)).unwrap();
        rig
    };
    let check = |partition: &Partition, cuts: usize, when: &str| {
        assert_eq!(cuts, 0, "{when}: nothing was damaged");
        let range = (partition.log_start_offset().value(), partition.log_end_offset().value());
        assert!(matches!(range, (1, 1) | (0..=3, 5)), "{when}: {range:?}");
        assert_eq!(append(partition, "next"), range.1, "{when}");
    };
    let start_over = |rig: &Rig| _ = rig.partition.truncate_fully_and_start_at(offset(1));
    end_at_each_change(prepare, start_over, |rig, image, when| {
        let store = open(Arc::new(image), &rig.clock);
        let cuts = store.open_report().partitions.iter().map(|recovery| recovery.cuts.len()).sum();
        check(&partition_of(&store), cuts, when);
    });
    for nth in 1.. {
        let rig = prepare();
        rig.vfs.inject(Fault::new(Operation::Any, Effect::Error(ErrorKind::Other)).nth(nth));
        start_over(&rig);
        rig.vfs.clear_faults();
        if rig.vfs.faults_struck() == 0 {
            break;
        }
        let cuts = rig.partition.reopen().unwrap().cuts.len();
        check(&rig.partition, cuts, &format!("fault {nth}"));
        let image = rig.memory.crash_image();
        assert_eq!(
            partition_of(&open(Arc::new(image), &rig.clock)).log_end_offset().value() + 1,
            rig.partition.log_end_offset().value()
        );
    }
}
