//! Compaction keeps the newest record of each key, never changes an offset, and never stops where it can go on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stratalog::format::TransactionResult::{Abort, Commit};
use stratalog::vfs::{FaultyVfs, Hook, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{
    Clock as _, CompactionOptions, Durability, ErrorKind, LogError, LogStore, ManualClock, Partition, Record,
    StoreConfig, StoreOptions, TickReport, Timestamp,
};
use support::{
    Rig, at, bases, config, in_transaction, marker, offset, open, partition_of, read_all, read_committed, stamp,
};

/// Compacted, tombstones for a second, files gone at once, nothing too new for a test's clock.
const COMPACT: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("delete.retention.ms", "1000"),
    ("file.delete.delay.ms", "0"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
];

fn compacted(more: &[(&str, &str)]) -> Rig {
    Rig::new(&[&COMPACT[..], more].concat())
}

fn put(partition: &Partition, key: &str, value: &str) -> i64 {
    partition.append(&[Record::keyed(key, value)]).unwrap().base_offset.value()
}

fn delete(partition: &Partition, key: &str) -> i64 {
    partition.append(&[Record::tombstone(key)]).unwrap().base_offset.value()
}

fn tick(rig: &Rig) -> TickReport {
    rig.store.tick(rig.clock.now()).unwrap()
}

fn offsets(partition: &Partition) -> Vec<i64> {
    read_all(partition).into_iter().map(|(offset, _)| offset).collect()
}

/// Every batch: base offset, last offset, number of records.
fn batches(partition: &Partition) -> Vec<(i64, i64, u32)> {
    let all = partition.segments();
    let batches = all.iter().flat_map(|segment| segment.batches());
    batches
        .map(|batch| {
            let header = *batch.unwrap().1.header();
            (header.base_offset().value(), header.last_offset().value(), header.record_count())
        })
        .collect()
}

#[test]
fn of_each_key_the_newest_record_stays_at_its_offset() {
    let rig = compacted(&[]);
    let records = ["a", "b", "a", "c", "b"].map(|key| Record::keyed(key, "old"));
    rig.partition.append(&records).unwrap();
    put(&rig.partition, "a", "new");
    rig.partition.roll().unwrap();
    put(&rig.partition, "b", "not sealed");
    let report = rig.partition.compact().unwrap();
    assert_eq!(
        read_all(&rig.partition),
        [(3, "old".to_owned()), (4, "old".to_owned()), (5, "new".to_owned()), (6, "not sealed".to_owned())]
    );
    assert_eq!((report.records_before, report.records_after, report.keys), (6, 3, 3));
    assert_eq!((report.segments_before, report.segments_after, report.is_complete), (1, 1, true));
    assert_eq!((report.end_offset, rig.partition.log_end_offset()), (offset(6), offset(7)));
    // An offset that is gone reads as the next one.
    let next = rig.partition.read(offset(1)).fetch().unwrap();
    assert_eq!(next.iter().next().unwrap().unwrap().records().next().unwrap().unwrap().offset(), offset(3));
    let reopened = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(read_all(&partition_of(&reopened)).len(), 4, "compacting synced what it rests on");
}

#[test]
fn a_topic_without_the_policy_is_refused_and_keeps_its_records() {
    let rig = Rig::new(&[("cleanup.policy", "delete")]);
    rig.partition.append(&[Record::new("no key")]).unwrap();
    rig.partition.roll().unwrap();
    let error = rig.partition.compact().unwrap_err();
    assert!(matches!(error, LogError::NotCompacted { .. }) && error.kind() == ErrorKind::InvalidInput);
    assert_eq!(read_all(&rig.partition).len(), 1);
    assert_eq!(tick(&rig).compacted_partitions, 0);
}

#[test]
fn records_without_a_key_are_dropped_and_counted() {
    let rig = Rig::new(&[("cleanup.policy", "delete")]);
    rig.partition.append(&[Record::new("no key"), Record::keyed("k", "v")]).unwrap();
    rig.store.topic("t").unwrap().alter_config(config(&COMPACT)).unwrap();
    rig.partition.roll().unwrap();
    assert_eq!(rig.partition.compact().unwrap().unkeyed_records, 1);
    assert_eq!(offsets(&rig.partition), [1]);
}

#[test]
fn where_only_the_active_segment_holds_data_nothing_happens() {
    let rig = compacted(&[("min.cleanable.dirty.ratio", "0")]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    let report = rig.partition.compact().unwrap();
    assert_eq!((report.segments_before, report.bytes_read, report.is_complete), (0, 0, true));
    assert_eq!(tick(&rig).compacted_partitions, 0);
    assert_eq!(offsets(&rig.partition), [0, 1]);
}

#[test]
fn a_tombstone_of_long_ago_survives_the_first_pass_and_goes_after_its_horizon() {
    let rig = compacted(&[]);
    let ages_ago = Timestamp::from_millis(86_400_000).unwrap();
    rig.partition.append(&[Record::keyed("k", "v").timestamp(ages_ago)]).unwrap();
    rig.partition.append(&[Record::tombstone("k").timestamp(ages_ago)]).unwrap();
    put(&rig.partition, "other", "v");
    rig.partition.roll().unwrap();
    for _ in 0..2 {
        rig.partition.compact().unwrap();
        assert_eq!(offsets(&rig.partition), [1, 2]);
        rig.clock.advance(999);
    }
    let all = rig.partition.segments();
    let first = all[0].batches().next().unwrap().unwrap().1;
    assert_eq!(first.header().delete_horizon(), Some(at(1000)), "later passes leave it alone");
    assert_eq!(first.records().next().unwrap().unwrap().timestamp(), Some(ages_ago));
    rig.partition.compact().unwrap();
    assert_eq!(offsets(&rig.partition), [2]);
}

#[test]
fn aborted_records_go_at_once_and_markers_after_the_pass_that_finds_them_alone() {
    let rig = compacted(&[]);
    let partition = &rig.partition;
    partition.append_from(in_transaction(1, 0, 0), &[Record::keyed("a", "1")], Durability::Written).unwrap();
    partition.append_from(in_transaction(2, 0, 0), &[Record::keyed("b", "2")], Durability::Written).unwrap();
    put(partition, "a", "0");
    partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
    partition.end_transaction(&marker(Commit, 2, 0), Durability::Written).unwrap();
    // Newer transactions of both, so that nothing stays for the producers' sake.
    partition.append_from(in_transaction(1, 0, 1), &[Record::keyed("c", "3")], Durability::Written).unwrap();
    partition.append_from(in_transaction(2, 0, 1), &[Record::keyed("b", "4")], Durability::Written).unwrap();
    partition.end_transaction(&marker(Commit, 1, 0), Durability::Written).unwrap();
    partition.end_transaction(&marker(Commit, 2, 0), Durability::Written).unwrap();
    put(partition, "d", "5");
    partition.roll().unwrap();

    let before = read_committed(partition, 1 << 20);
    partition.compact().unwrap();
    assert_eq!(
        batches(partition),
        [(2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 5, 1), (6, 6, 1), (7, 7, 1), (8, 8, 1), (9, 9, 1)]
    );
    let after = read_committed(partition, 1 << 20);
    assert_eq!(before.iter().filter(|(offset, _)| *offset != 1).cloned().collect::<Vec<_>>(), after);
    assert_eq!(after.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 5, 6, 9]);

    // This pass meets the first two markers alone and dates them, a later one drops them. The others have records left.
    partition.compact().unwrap();
    assert_eq!(batches(partition).len(), 8);
    rig.clock.advance(1000);
    partition.compact().unwrap();
    assert_eq!(batches(partition).iter().map(|batch| batch.0).collect::<Vec<_>>(), [2, 5, 6, 7, 8, 9]);
    assert_eq!(read_committed(partition, 1 << 20), after);
    let reopened = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    assert_eq!(read_committed(&partition_of(&reopened), 1 << 20), after);
}

#[test]
fn nothing_at_or_above_an_open_transaction_is_compacted() {
    let rig = compacted(&[]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    rig.partition.append_from(in_transaction(1, 0, 0), &[Record::keyed("k", "3")], Durability::Written).unwrap();
    put(&rig.partition, "k", "4");
    rig.partition.roll().unwrap();
    assert_eq!(rig.partition.compact().unwrap().end_offset, offset(2));
    assert_eq!(offsets(&rig.partition), [1, 2, 3]);
    rig.partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    assert_eq!(rig.partition.compact().unwrap().end_offset, offset(5));
    assert_eq!(read_committed(&rig.partition, 1 << 20), [(3, "4".to_owned())]);
}

#[test]
fn the_last_batch_of_a_live_producer_stays_as_a_header_until_it_expires() {
    let rig = compacted(&[]);
    rig.partition.append_from(stamp(7, 0, 0), &[Record::keyed("k", "1")], Durability::Written).unwrap();
    rig.partition
        .append_from(stamp(7, 0, 1), &[Record::keyed("k", "2"), Record::keyed("l", "3")], Durability::Written)
        .unwrap();
    put(&rig.partition, "k", "4");
    put(&rig.partition, "l", "5");
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(batches(&rig.partition), [(1, 2, 0), (3, 3, 1), (4, 4, 1)]);
    // What the producer wrote is known from that header alone.
    let reopened = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    let partition = partition_of(&reopened);
    let producer = partition.producers()[0];
    assert_eq!((producer.last_offset, producer.last_sequence.unwrap().value()), (Some(offset(2)), 2));
    partition.append_from(stamp(7, 0, 3), &[Record::keyed("m", "6")], Durability::Written).unwrap();

    rig.clock.advance(90_000_000);
    assert_eq!(tick(&rig).expired_producers, 1);
    rig.partition.compact().unwrap();
    assert_eq!(batches(&rig.partition)[0], (3, 3, 1));
}

#[test]
fn the_last_offset_that_can_be_compacted_stays_known() {
    let rig = compacted(&[]);
    put(&rig.partition, "k", "1");
    rig.partition.append_from(in_transaction(1, 0, 0), &[Record::keyed("k", "2")], Durability::Written).unwrap();
    rig.partition.end_transaction(&marker(Commit, 1, 0), Durability::Written).unwrap();
    rig.partition.append_from(in_transaction(1, 0, 1), &[Record::keyed("k", "3")], Durability::Written).unwrap();
    rig.partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap();
    delete(&rig.partition, "k");
    rig.partition.roll().unwrap();
    for _ in 0..3 {
        rig.partition.compact().unwrap();
        rig.clock.advance(1000);
    }
    assert_eq!(batches(&rig.partition).last(), Some(&(5, 5, 0)));
}

#[test]
fn a_key_with_the_bytes_of_a_marker_touches_no_marker() {
    let rig = compacted(&[]);
    let commit_key = [0_u8, 0, 0, 1];
    rig.partition.append(&[Record::keyed(&commit_key, "old")]).unwrap();
    rig.partition.append_from(in_transaction(1, 0, 0), &[Record::keyed("k", "1")], Durability::Written).unwrap();
    rig.partition.end_transaction(&marker(Commit, 1, 0), Durability::Written).unwrap();
    rig.partition.append(&[Record::keyed(&commit_key, "new")]).unwrap();
    rig.partition.append_from(in_transaction(1, 0, 1), &[Record::keyed("l", "1")], Durability::Written).unwrap();
    rig.partition.end_transaction(&marker(Commit, 1, 0), Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(batches(&rig.partition).iter().map(|batch| batch.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_record_larger_than_any_buffer_and_than_the_limit_of_today_is_compacted() {
    let rig = compacted(&[("max.message.bytes", "8000000")]);
    let large = "x".repeat(5_000_000);
    rig.partition.append(&[Record::keyed("a", "1"), Record::keyed("k", &large)]).unwrap();
    put(&rig.partition, "a", "2");
    let lower = [&COMPACT[..], &[("max.message.bytes", "1000")]].concat();
    rig.store.topic("t").unwrap().alter_config(config(&lower)).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    let left = read_all(&rig.partition);
    assert_eq!(left.iter().map(|(offset, value)| (*offset, value.len())).collect::<Vec<_>>(), [(1, 5_000_000), (2, 1)]);
}

#[test]
fn segments_are_merged_and_trimmed_and_swapped_without_leftovers() {
    let rig = compacted(&[("preallocate", "true"), ("segment.bytes", "4096")]);
    for i in 0..30 {
        put(&rig.partition, "k", &i.to_string());
        if i % 10 == 9 {
            rig.partition.roll().unwrap();
        }
    }
    rig.partition.compact().unwrap();
    assert_eq!(bases(&rig.partition), [0, 30]);
    let log = rig.partition.path().join(format!("{:020}.log", 0));
    assert_eq!(rig.memory.metadata(&log).unwrap().unwrap().size, rig.partition.segments()[0].size());
    tick(&rig);
    let leftovers: Vec<_> = rig
        .files()
        .into_iter()
        .filter(|name| ["cleaned", "swap", "deleted"].iter().any(|end| name.ends_with(end)))
        .collect();
    assert_eq!(leftovers, [""; 0]);
    assert_eq!(offsets(&rig.partition), [29]);
}

#[test]
fn a_log_that_keeps_nothing_still_ends_where_it_ended() {
    let rig = compacted(&[]);
    delete(&rig.partition, "k");
    rig.partition.roll().unwrap();
    put(&rig.partition, "k", "1");
    rig.partition.roll().unwrap();
    delete(&rig.partition, "k");
    rig.partition.roll().unwrap();
    for _ in 0..2 {
        rig.partition.compact().unwrap();
        rig.clock.advance(1000);
    }
    rig.partition.compact().unwrap();
    assert_eq!((offsets(&rig.partition), rig.partition.log_end_offset()), (vec![], offset(3)));
    let reopened = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    assert_eq!(put(&partition_of(&reopened), "k", "2"), 3);
}

#[test]
fn more_keys_than_the_map_holds_are_compacted_by_several_runs_even_from_one_batch() {
    let rig = compacted(&[]);
    let keys: Vec<_> = (0..50).map(|key| key.to_string()).collect();
    for value in ["old", "new"] {
        let records: Vec<_> = keys.iter().map(|key| Record::keyed(key, value)).collect();
        rig.partition.append(&records).unwrap();
    }
    rig.partition.roll().unwrap();
    let options = CompactionOptions::new().memory(10 * 20);
    let mut end = offset(0);
    let mut runs = 0;
    while end < offset(100) {
        let report = rig.partition.compact_with(&options).unwrap();
        assert!(report.end_offset > end && report.keys <= 9 && report.key_memory <= 200, "{report:?}");
        end = report.end_offset;
        runs += 1;
    }
    assert!(runs > 5, "{runs} runs");
    assert_eq!(offsets(&rig.partition), (50..100).collect::<Vec<_>>());
}

#[test]
fn a_batch_that_claims_more_than_its_segment_makes_the_partition_uncleanable_once() {
    let rig = compacted(&[("min.cleanable.dirty.ratio", "0")]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    rig.partition.roll().unwrap();
    let log = rig.partition.path().join(format!("{:020}.log", 0));
    let file = rig.memory.open(&log, OpenMode::Write).unwrap();
    file.write_at(&1_000_000_i32.to_be_bytes(), 8).unwrap();

    let first = tick(&rig);
    assert_eq!((first.failures.len(), first.compacted_partitions), (1, 0));
    let error = &first.failures[0];
    assert_eq!((error.kind(), error.location().file()), (ErrorKind::Corrupt, Some(log.as_path())));
    assert_eq!(rig.partition.uncleanable(), Some(error.to_string()));
    assert!(!rig.files().iter().any(|name| name.ends_with(".cleaned")), "no output is kept");
    assert!(tick(&rig).failures.is_empty(), "reported once");
    assert!(rig.partition.compact().is_err(), "whoever asks for it is told");
    assert_eq!(rig.store.metrics().uncleanable_partitions, 1);

    let reopened = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    assert_eq!(partition_of(&reopened).uncleanable(), None);
}

#[test]
fn a_batch_whose_checksum_is_wrong_is_neither_kept_nor_dropped() {
    let rig = compacted(&[]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    rig.partition.roll().unwrap();
    let size = rig.partition.segments()[0].size();
    let log = rig.partition.path().join(format!("{:020}.log", 0));
    rig.memory.open(&log, OpenMode::Write).unwrap().write_at(b"3", size - 2).unwrap();
    let error = rig.partition.compact().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(rig.partition.segments()[0].size(), size);
    assert!(!rig.files().iter().any(|name| name.ends_with(".cleaned")));
}

#[test]
fn a_damaged_batch_takes_no_record_of_a_segment_before_it_along() {
    let rig = compacted(&[("segment.bytes", "100")]);
    put(&rig.partition, "a", "1");
    put(&rig.partition, "b", "2");
    put(&rig.partition, "c", "3");
    rig.partition.roll().unwrap();
    assert_eq!(bases(&rig.partition), [0, 1, 2, 3]);
    // The key rots from "b" to "a": as it reads now, it would supersede the first record.
    let log = rig.partition.path().join(format!("{:020}.log", 1));
    let size = rig.partition.segments()[1].size();
    rig.memory.open(&log, OpenMode::Write).unwrap().write_at(b"a", size - 4).unwrap();
    assert_eq!(rig.partition.compact().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(rig.partition.read(offset(0)).max_bytes(1).fetch().unwrap().records().count(), 1);
    assert_eq!(bases(&rig.partition), [0, 1, 2, 3]);
}

#[test]
fn a_cancelled_compaction_leaves_everything_as_it_was() {
    let rig = compacted(&[]);
    for i in 0..200 {
        put(&rig.partition, &(i % 7).to_string(), &"v".repeat(1000));
    }
    rig.partition.roll().unwrap();
    let (records, files) = (read_all(&rig.partition), rig.files());
    for steps in 0..4 {
        let left = Cell::new(steps);
        let progress = |_| {
            left.set(left.get() - 1);
            if left.get() < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = rig.partition.compact_with(&CompactionOptions::new().on_progress(&progress)).unwrap();
        assert_eq!((report.is_complete, report.end_offset), (false, offset(0)), "after {steps} steps");
        assert_eq!(rig.files(), files);
    }
    assert_eq!(read_all(&rig.partition), records);
    assert!(rig.partition.compact().unwrap().is_complete);
    assert_eq!(offsets(&rig.partition).len(), 7);
}

#[test]
fn progress_is_told_in_bytes_up_to_what_was_announced() {
    let rig = compacted(&[]);
    for _ in 0..100 {
        put(&rig.partition, "k", &"v".repeat(10_000));
    }
    rig.partition.roll().unwrap();
    let last = Cell::new(None);
    let calls = Cell::new(0);
    let progress = |now: stratalog::CompactionProgress| {
        calls.set(calls.get() + 1);
        last.set(Some(now));
        ControlFlow::Continue(())
    };
    let report = rig.partition.compact_with(&CompactionOptions::new().on_progress(&progress)).unwrap();
    let last = last.get().unwrap();
    assert!(calls.get() > 10 && last.bytes_read <= last.bytes_total, "{last:?}");
    assert_eq!(report.bytes_read, last.bytes_total, "once for the keys, once to clean");
    assert!(report.bytes_written < 20_000);
}

#[test]
fn segments_that_retention_removes_meanwhile_are_not_missed() {
    let rig = compacted(&[]);
    for i in 0..30 {
        put(&rig.partition, &i.to_string(), "v");
        if i % 10 == 9 {
            rig.partition.roll().unwrap();
        }
    }
    let is_first = Cell::new(true);
    let progress = |_| {
        if is_first.replace(false) {
            rig.partition.delete_records_before(offset(15)).unwrap();
            assert_eq!(tick(&rig).expired_segments, 1);
        }
        ControlFlow::Continue(())
    };
    assert!(rig.partition.compact_with(&CompactionOptions::new().on_progress(&progress)).unwrap().is_complete);
    assert_eq!(offsets(&rig.partition), (15..30).collect::<Vec<_>>());
    assert!(tick(&rig).failures.is_empty());
}

#[test]
fn a_log_that_is_cut_meanwhile_is_not_replaced() {
    let rig = compacted(&[]);
    for i in 0..20 {
        put(&rig.partition, "k", &i.to_string());
    }
    rig.partition.roll().unwrap();
    let progress = |_| {
        rig.partition.truncate_to(offset(10)).unwrap();
        ControlFlow::Continue(())
    };
    let report = rig.partition.compact_with(&CompactionOptions::new().on_progress(&progress)).unwrap();
    assert!(!report.is_complete);
    assert_eq!(offsets(&rig.partition), (0..10).collect::<Vec<_>>());
    assert!(!rig.files().iter().any(|name| name.ends_with(".cleaned")), "{:?}", rig.files());
}

#[test]
fn a_tick_compacts_above_the_dirty_ratio_and_not_at_it() {
    let rig = compacted(&[("min.cleanable.dirty.ratio", "0.5")]);
    put(&rig.partition, "a", "1");
    put(&rig.partition, "a", "2");
    rig.partition.roll().unwrap();
    let report = tick(&rig);
    assert_eq!((report.compacted_partitions, report.failures.len()), (1, 0));
    assert!(report.compaction_bytes_read > report.compaction_bytes_written && report.compaction_bytes_written > 0);
    assert_eq!(offsets(&rig.partition), [1]);
    // As much new as old: exactly half is dirty.
    put(&rig.partition, "a", "3");
    rig.partition.roll().unwrap();
    assert_eq!(tick(&rig).compacted_partitions, 0);
    put(&rig.partition, "a", "4");
    rig.partition.roll().unwrap();
    assert_eq!(tick(&rig).compacted_partitions, 1);
    assert_eq!(offsets(&rig.partition), [3]);
    assert_eq!(tick(&rig).compacted_partitions, 0, "nothing is dirty");
    assert_eq!(rig.store.metrics().compactions, 2);
}

#[test]
fn young_segments_wait_and_old_ones_are_not_kept_waiting() {
    let rig = compacted(&[
        ("min.cleanable.dirty.ratio", "1"),
        ("min.compaction.lag.ms", "1000"),
        ("max.compaction.lag.ms", "5000"),
        ("segment.ms", "9000000"),
    ]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    rig.partition.roll().unwrap();
    rig.clock.advance(999);
    assert_eq!(rig.partition.compact().unwrap().end_offset, offset(0), "too young also for whoever asks");
    rig.clock.advance(4001);
    assert_eq!(tick(&rig).compacted_partitions, 0);
    rig.clock.advance(1);
    assert_eq!(tick(&rig).compacted_partitions, 1);
    assert_eq!(offsets(&rig.partition), [1]);
}

#[test]
fn background_compaction_can_be_switched_off() {
    let rig = compacted(&[("min.cleanable.dirty.ratio", "0")]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    rig.partition.roll().unwrap();
    rig.store.close().unwrap();
    let options = StoreOptions::new().vfs(Arc::new(rig.memory.clone())).clock(Arc::new(rig.clock.clone()));
    let store = options.config(StoreConfig::new().cleaner_enable(false)).open("/log").unwrap();
    assert_eq!(store.tick(rig.clock.now()).unwrap().compacted_partitions, 0);
    assert!(partition_of(&store).compact().unwrap().is_complete, "by hand it still goes");
}

#[test]
fn how_far_a_log_is_compacted_survives_closing_and_a_wrong_note_is_reset() {
    let rig = compacted(&[("min.cleanable.dirty.ratio", "0")]);
    put(&rig.partition, "k", "1");
    put(&rig.partition, "k", "2");
    rig.partition.roll().unwrap();
    assert_eq!(tick(&rig).compacted_partitions, 1);
    rig.store.close().unwrap();
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    assert_eq!(store.tick(rig.clock.now()).unwrap().compacted_partitions, 0);
    store.close().unwrap();

    let checkpoint = Path::new("/log/cleaner-offset-checkpoint");
    let noted = |text: &str| {
        let file = rig.memory.open(checkpoint, OpenMode::Truncate).unwrap();
        file.write_at(text.as_bytes(), 0).unwrap();
    };
    noted("0\n1\nt 0 77\n");
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    let report = store.tick(rig.clock.now()).unwrap();
    assert_eq!((report.compacted_partitions, report.checkpointed), (1, true));
    let file = rig.memory.open(checkpoint, OpenMode::Read).unwrap();
    assert_eq!(file.map(file.size().unwrap()).unwrap(), "0\n1\nt 0 2\n");
}

#[test]
fn compact_and_delete_together_do_both() {
    let rig = Rig::new(&[
        ("cleanup.policy", "compact,delete"),
        ("min.cleanable.dirty.ratio", "0"),
        ("retention.ms", "10000"),
        ("file.delete.delay.ms", "0"),
    ]);
    put(&rig.partition, "a", "1");
    put(&rig.partition, "b", "2");
    rig.partition.roll().unwrap();
    rig.clock.advance(6000);
    put(&rig.partition, "a", "3");
    rig.partition.roll().unwrap();
    assert_eq!(tick(&rig).compacted_partitions, 1);
    assert_eq!(offsets(&rig.partition), [1, 2]);
    rig.clock.advance(10_001);
    let report = tick(&rig);
    assert_eq!((report.expired_segments, report.failures.len()), (1, 0));
    assert_eq!((offsets(&rig.partition), rig.partition.log_start_offset()), (vec![], offset(3)));
}

#[test]
fn deleted_records_stay_deleted_through_compactions_and_take_their_tombstones_along() {
    let rig = compacted(&[("segment.bytes", "250")]);
    for round in 0..4 {
        for key in ["a", "b", "c"] {
            put(&rig.partition, key, &format!("{round}"));
        }
    }
    delete(&rig.partition, "a");
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(offsets(&rig.partition), [10, 11, 12]);
    // In the middle of a compacted segment, above what was noted as compacted before.
    rig.partition.delete_records_before(offset(11)).unwrap();
    assert_eq!(offsets(&rig.partition), [11, 12]);
    assert_eq!(rig.partition.read(offset(10)).fetch().unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    put(&rig.partition, "c", "4");
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(offsets(&rig.partition), [12, 13], "the tombstone waits for its horizon");
    rig.clock.advance(1001);
    rig.partition.compact().unwrap();
    assert_eq!((offsets(&rig.partition), rig.partition.log_start_offset()), (vec![13], offset(11)));
    rig.partition.delete_records_before(rig.partition.log_end_offset()).unwrap();
    assert!(tick(&rig).failures.is_empty());
    assert_eq!((offsets(&rig.partition), rig.partition.log_start_offset()), (vec![], offset(14)));
    put(&rig.partition, "d", "5");
    rig.store.checkpoint().unwrap();
    let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    let reopened = partition_of(&store);
    assert_eq!((offsets(&reopened), reopened.log_start_offset()), (vec![14], offset(14)));
}

#[test]
fn a_reader_keeps_what_it_holds_through_a_compaction() {
    let rig = compacted(&[]);
    for i in 0..10 {
        put(&rig.partition, "k", &i.to_string());
    }
    rig.partition.roll().unwrap();
    let (held, read) = (rig.partition.segments(), rig.partition.read(offset(0)).fetch().unwrap());
    rig.partition.compact().unwrap();
    tick(&rig);
    assert_eq!(held[0].batches().filter(Result::is_ok).count(), 10);
    assert_eq!(read.iter().filter(Result::is_ok).count(), 10);
}

/// Writes a table of three keys into many small segments, the older half durably, and compacts it twice. `durable` is what no
/// crash may take away, `sent` everything that was appended, by offset.
fn table(
    vfs: &FaultyVfs,
    clock: &ManualClock,
    sent: &mut BTreeMap<i64, (String, String)>,
    durable: &mut BTreeMap<String, i64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let store = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone())).open("/log")?;
    let small = [&COMPACT[..], &[("segment.bytes", "200"), ("file.delete.delay.ms", "0")]].concat();
    let partition = store.create_topic("t", 1, config(&small))?.partition(0)?;
    for i in 0..16 {
        let (key, value) = ((i % 3).to_string(), i.to_string());
        sent.insert(i, (key.clone(), value.clone()));
        let durability = if i < 8 { Durability::Durable } else { Durability::Written };
        partition.append_with(&[Record::keyed(&key, &value)], durability)?;
        if i < 8 {
            durable.insert(key, i);
        }
        if i % 8 == 7 {
            partition.roll()?;
            partition.compact()?;
        }
    }
    store.tick(clock.now())?;
    store.close()?;
    Ok(())
}

/// The newest offset of each key, every record being one that was appended at that offset.
fn newest(store: &LogStore, sent: &BTreeMap<i64, (String, String)>, when: &str) -> BTreeMap<String, i64> {
    let Ok(topic) = store.topic("t") else { return BTreeMap::new() };
    let partition = topic.partition(0).unwrap();
    let mut newest = BTreeMap::new();
    for (offset, value) in read_all(&partition) {
        let (key, expected) = &sent[&offset];
        assert_eq!(&value, expected, "{when}: offset {offset}");
        newest.insert(key.clone(), offset);
    }
    newest
}

#[test]
fn after_a_power_loss_at_any_moment_of_a_compaction_no_key_has_lost_its_durable_value() {
    let whole = FaultyVfs::new(MemoryVfs::new());
    table(&whole, &ManualClock::new(at(0)), &mut BTreeMap::new(), &mut BTreeMap::new()).unwrap();
    for crash_at in 0..whole.mutations() {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let clock = ManualClock::new(at(0));
        let (mut sent, mut durable) = (BTreeMap::new(), BTreeMap::new());
        vfs.crash_after(crash_at);
        drop(table(&vfs, &clock, &mut sent, &mut durable));
        for seed in 0..2 {
            let when = format!("end at {crash_at}, image {seed}");
            let image = vfs.crash_image(seed).unwrap();
            let store = open(Arc::new(image.clone()), &clock);
            let found = newest(&store, &sent, &when);
            for (key, offset) in &durable {
                assert!(
                    found.get(key).is_some_and(|found| found >= offset),
                    "{when}: {key} of {durable:?} in {found:?}"
                );
            }
            if let Ok(topic) = store.topic("t") {
                let partition = topic.partition(0).unwrap();
                partition.roll().unwrap();
                assert!(partition.compact().unwrap().is_complete, "{when}");
                assert_eq!(newest(&store, &sent, &when), found, "{when}: compacted again");
                assert_eq!(read_all(&partition).len(), found.len(), "{when}");
            }
        }
    }
}

#[test]
fn a_cut_beside_a_compaction_makes_no_sound_log_uncleanable() {
    for end in [4, 3] {
        let rig = compacted(&[]);
        (0..2).for_each(|_| _ = rig.partition.append(&vec![Record::keyed("k", "v"); 4]).unwrap());
        rig.partition.truncate_to(offset(6)).unwrap();
        put(&rig.partition, "k", "behind the gap");
        rig.partition.roll().unwrap();
        let cut = |_| {
            rig.partition.truncate_to(offset(end)).unwrap();
            ControlFlow::Continue(())
        };
        let report = rig.partition.compact_with(&CompactionOptions::new().on_progress(&cut)).unwrap();
        assert!(!report.is_complete, "{end}");
        assert_eq!((rig.partition.uncleanable(), rig.partition.log_end_offset()), (None, offset(end)));
        put(&rig.partition, "k", "newest");
        rig.partition.roll().unwrap();
        assert!(rig.partition.compact().unwrap().is_complete, "{end}");
    }
}

#[test]
fn a_compaction_whose_files_a_reopening_removes_ends_early() {
    for nth in 1.. {
        let rig = compacted(&[]);
        (0..20).for_each(|_| _ = put(&rig.partition, "k", "v"));
        rig.partition.roll().unwrap();
        let gate = rig.vfs.block(Hook::at(Operation::Any).path(".cleaned").nth(nth));
        let report = std::thread::scope(|scope| {
            let compaction = scope.spawn(|| rig.partition.compact());
            while !gate.is_reached() && !compaction.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let was_reached = gate.is_reached();
            let reopening = scope.spawn(|| rig.partition.reopen());
            // While the compaction swaps its files, it goes on behind it.
            std::thread::sleep(Duration::from_millis(20));
            gate.release();
            reopening.join().unwrap().unwrap();
            let report = compaction.join().unwrap();
            assert!(report.is_ok(), "call {nth}: {report:?}");
            was_reached.then(|| report.unwrap())
        });
        assert_eq!(rig.partition.uncleanable(), None, "call {nth}");
        let left = if report.is_none_or(|report| report.is_complete) { 1 } else { 20 };
        assert_eq!(offsets(&rig.partition).len(), left, "call {nth}");
        if report.is_none() {
            assert!(nth > 5, "no call was stopped");
            return;
        }
        assert!(rig.partition.compact().unwrap().is_complete);
        assert_eq!(offsets(&rig.partition), [19]);
    }
}
