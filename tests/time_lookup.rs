//! An offset is found by name or by time, over any number of segments and whatever order the timestamps came in.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::{TransactionMarker, TransactionResult};
use stratalog::vfs::{OpenMode, Vfs};
use stratalog::{Durability, OffsetSpec, Partition, Record, Timestamp};
use support::{Rig, append_at, at, bases, in_transaction, marker, offset, open, partition_of};

fn found(partition: &Partition, spec: OffsetSpec) -> Option<(i64, Option<Timestamp>)> {
    partition.find_offset(spec).unwrap().map(|found| (found.offset.value(), found.timestamp))
}

#[test]
fn an_empty_log_has_both_ends_at_zero_and_no_record_of_any_time() {
    let rig = Rig::new(&[]);
    assert_eq!(found(&rig.partition, OffsetSpec::Earliest), Some((0, None)));
    assert_eq!(found(&rig.partition, OffsetSpec::Latest), Some((0, None)));
    assert_eq!(found(&rig.partition, OffsetSpec::MaxTimestamp), None);
    assert_eq!(found(&rig.partition, OffsetSpec::Timestamp(at(0))), None);
}

#[test]
fn the_first_offset_at_or_after_a_time_is_what_a_walk_over_all_records_finds() {
    let rig = Rig::new(&[("segment.bytes", "500"), ("index.interval.bytes", "0")]);
    let times: Vec<i64> = (0..60).map(|i| (i * 37) % 41 * 10 + i).collect();
    for time in &times {
        append_at(&rig.partition, "some value", *time);
    }
    assert!(bases(&rig.partition).len() > 5);
    for start in [0, 7, 31, 60] {
        rig.partition.delete_records_before(offset(start)).unwrap();
        let live = || (0..).zip(&times).filter(|(i, _)| *i >= start);
        for target in 0..500 {
            let expected = live().find(|(_, time)| **time >= target).map(|(i, time)| (i, Some(at(*time))));
            assert_eq!(found(&rig.partition, OffsetSpec::Timestamp(at(target))), expected, "{target} from {start}");
        }
        assert_eq!(found(&rig.partition, OffsetSpec::Earliest), Some((start, None)));
        assert_eq!(found(&rig.partition, OffsetSpec::Latest), Some((60, None)));
    }
}

#[test]
fn the_greatest_timestamp_is_found_at_the_first_record_that_has_it() {
    let rig = Rig::new(&[]);
    for time in [5, 90, 3, 90, 20] {
        append_at(&rig.partition, "v", time);
        rig.partition.roll().unwrap();
    }
    assert_eq!(found(&rig.partition, OffsetSpec::MaxTimestamp), Some((1, Some(at(90)))));
}

/// What [`OffsetSpec::MaxTimestamp`] gives: the offset and the time relative to the start of the test.
fn greatest(partition: &Partition) -> Option<(i64, i64)> {
    let (offset, timestamp) = found(partition, OffsetSpec::MaxTimestamp)?;
    Some((offset, timestamp?.millis() - support::START))
}

#[test]
fn a_greatest_timestamp_below_the_log_start_gives_way_to_the_next() {
    let times = [10, 90, 30, 50, 20, 50, 40];
    for rolls in [false, true] {
        let rig = Rig::new(&[("index.interval.bytes", "0")]);
        for time in times {
            append_at(&rig.partition, "v", time);
            if rolls {
                rig.partition.roll().unwrap();
            }
        }
        let expected = [(1, 90), (1, 90), (3, 50), (3, 50), (5, 50), (5, 50), (6, 40)];
        for (start, expected) in (0..).zip(expected) {
            rig.partition.delete_records_before(offset(start)).unwrap();
            assert_eq!(greatest(&rig.partition), Some(expected), "from {start}, rolls: {rolls}");
        }
        rig.partition.delete_records_before(offset(7)).unwrap();
        assert_eq!(greatest(&rig.partition), None);
    }
}

#[test]
fn a_greatest_timestamp_below_the_log_start_may_lie_in_the_batch_that_the_log_starts_in() {
    let rig = Rig::new(&[]);
    let batch = [("a", 5), ("b", 99), ("c", 7), ("d", 6)].map(|(value, time)| Record::new(value).timestamp(at(time)));
    rig.partition.append(&batch).unwrap();
    append_at(&rig.partition, "e", 7);
    assert_eq!(greatest(&rig.partition), Some((1, 99)));
    rig.partition.delete_records_before(offset(2)).unwrap();
    assert_eq!(greatest(&rig.partition), Some((2, 7)));
    rig.partition.delete_records_before(offset(3)).unwrap();
    assert_eq!(greatest(&rig.partition), Some((4, 7)));
}

#[test]
fn a_greatest_timestamp_that_was_compacted_away_gives_way_to_the_next() {
    let rig = Rig::new(&[("cleanup.policy", "compact")]);
    let keyed = |key: &str, time| {
        rig.partition.append(&[Record::keyed(key, "v").timestamp(at(time))]).unwrap();
    };
    for (key, time) in [("a", 90), ("b", 50), ("a", 10), ("c", 30)] {
        keyed(key, time);
    }
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(greatest(&rig.partition), Some((1, 50)));
    // The last batch that can be cleaned keeps its header, and the time in it, without a record.
    keyed("d", 80);
    rig.partition.roll().unwrap();
    keyed("d", 20);
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(greatest(&rig.partition), Some((1, 50)));
}

#[test]
fn the_greatest_timestamp_of_an_aborted_transaction_or_of_a_marker_does_not_count() {
    let rig = Rig::new(&[("index.interval.bytes", "0")]);
    let sent = |id, time| {
        let records = [Record::new("v").timestamp(at(time))];
        rig.partition.append_from(in_transaction(id, 0, 0), &records, Durability::Written).unwrap();
    };
    append_at(&rig.partition, "v", 10);
    sent(1, 90);
    sent(2, 60);
    assert_eq!(greatest(&rig.partition), Some((1, 90)), "open, and readable with read_uncommitted");
    let mark = |result, id, time| {
        let marker = TransactionMarker { timestamp: at(time), ..marker(result, id, 0) };
        rig.partition.end_transaction(&marker, Durability::Written).unwrap();
    };
    mark(TransactionResult::Abort, 1, 95);
    assert_eq!(greatest(&rig.partition), Some((2, 60)));
    mark(TransactionResult::Commit, 2, 99);
    assert_eq!(greatest(&rig.partition), Some((2, 60)));
    rig.partition.delete_records_before(offset(3)).unwrap();
    assert_eq!(greatest(&rig.partition), None, "markers only");
}

#[test]
fn many_batches_that_do_not_count_hide_no_greatest_timestamp() {
    let rig = Rig::new(&[("segment.bytes", "100000")]);
    append_at(&rig.partition, "v", 10);
    append_at(&rig.partition, "v", 20);
    for i in 0..600 {
        let records = [Record::new("v").timestamp(at(100 + i64::from(i)))];
        rig.partition.append_from(in_transaction(1, 0, i), &records, Durability::Written).unwrap();
    }
    append_at(&rig.partition, "v", 20);
    rig.partition.end_transaction(&marker(TransactionResult::Abort, 1, 0), Durability::Written).unwrap();
    assert_eq!(greatest(&rig.partition), Some((1, 20)));
}

#[test]
fn the_greatest_timestamp_is_what_a_walk_over_all_readable_records_finds() {
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..60 {
        let rig = Rig::new(&[("segment.bytes", "700"), ("index.interval.bytes", "0")]);
        let mut readable: Vec<(i64, i64)> = Vec::new();
        for step in 0..30 {
            let times: Vec<i64> = (0..random.usize(1..4)).map(|_| random.i64(0..40)).collect();
            let records: Vec<_> = times.iter().map(|time| Record::new("v").timestamp(at(*time))).collect();
            let is_aborted = random.u8(0..3) == 0;
            let base = if is_aborted {
                let stamp = in_transaction(step, 0, 0);
                rig.partition.append_from(stamp, &records, Durability::Written).unwrap();
                let marker = marker(TransactionResult::Abort, step, 0);
                rig.partition.end_transaction(&marker, Durability::Written).unwrap();
                continue;
            } else {
                rig.partition.append(&records).unwrap().base_offset.value()
            };
            readable.extend((base..).zip(times));
        }
        let start = random.i64(0..rig.partition.log_end_offset().value() + 1);
        rig.partition.delete_records_before(offset(start)).unwrap();
        let live = readable.iter().filter(|(offset, _)| *offset >= start);
        let expected = live.copied().max_by_key(|(offset, time)| (*time, -offset));
        assert_eq!(greatest(&rig.partition), expected, "round {round}");
    }
}

/// How many calls of the file system `work` makes.
fn calls(rig: &Rig, work: impl FnOnce()) -> u64 {
    let before = rig.vfs.calls();
    work();
    rig.vfs.calls() - before
}

#[test]
fn lookups_in_a_log_of_many_segments_ask_few_of_them() {
    const SEGMENTS: i64 = 600;
    let rig = Rig::new(&[]);
    for time in 0..SEGMENTS {
        append_at(&rig.partition, "a value", time);
        rig.partition.roll().unwrap();
    }
    rig.store.clone().close().unwrap();
    let store = support::open(std::sync::Arc::new(rig.vfs.clone()), &rig.clock);
    let partition = support::partition_of(&store);
    let look = |partition: &Partition, time: i64| {
        assert_eq!(found(partition, OffsetSpec::Timestamp(at(time))), Some((time, Some(at(time)))));
    };
    let committed = |from: i64| {
        let read = partition.read(offset(from)).isolation(stratalog::Isolation::ReadCommitted);
        assert!(!read.fetch().unwrap().is_empty());
    };
    look(&partition, SEGMENTS - 1);
    committed(0);
    assert!(calls(&rig, || look(&partition, SEGMENTS / 2)) < 20, "what was asked once is remembered");
    assert!(calls(&rig, || committed(1)) < 20);
    append_at(&partition, "a value", SEGMENTS);
    partition.roll().unwrap();
    assert!(calls(&rig, || look(&partition, SEGMENTS)) < 40, "a roll adds one segment to ask");
    assert!(calls(&rig, || committed(2)) < 20);
    // A lookup asks no segment behind the one with the answer, so damage there doesn't concern it.
    store.close().unwrap();
    let store = support::open(std::sync::Arc::new(rig.vfs.clone()), &rig.clock);
    assert!(calls(&rig, || look(&support::partition_of(&store), 3)) < 60);
}

#[test]
fn a_time_index_that_lost_its_last_entries_hides_no_time() {
    let rig = Rig::new(&[("index.interval.bytes", "0")]);
    for time in [100, 50, 60, 500, 40, 45, 46] {
        append_at(&rig.partition, "value", time);
    }
    rig.partition.roll().unwrap();
    rig.store.clone().close().unwrap();
    let index = rig.partition.path().join("00000000000000000000.timeindex");
    let file = rig.memory.open(&index, OpenMode::Write).unwrap();
    for entries in (0..file.size().unwrap() / 12).rev() {
        file.set_size(entries * 12).unwrap();
        let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
        let partition = partition_of(&store);
        let of = |time| found(&partition, OffsetSpec::Timestamp(at(time))).map(|(place, _)| place);
        assert_eq!([of(80), of(300), of(501)], [Some(0), Some(3), None], "{entries} entries");
        assert_eq!(greatest(&partition).map(|(place, _)| place), Some(3), "{entries} entries");
    }
}

#[test]
fn the_greatest_timestamp_is_found_in_hundreds_of_segments_whatever_was_rolled_or_removed_since() {
    let rig = Rig::new(&[("retention.ms", "-1"), ("file.delete.delay.ms", "0")]);
    let mut random = fastrand::Rng::with_seed(7);
    let (mut times, mut start) = (Vec::new(), 0);
    for round in 0..400 {
        let time = random.i64(0..round + 5);
        append_at(&rig.partition, "v", time);
        times.push(time);
        if random.u8(..) < 200 {
            rig.partition.roll().unwrap();
        }
        if round % 50 == 30 {
            start += random.usize(0..20);
            rig.partition.delete_records_before(offset(i64::try_from(start).unwrap())).unwrap();
        }
        if round % 100 == 60 {
            assert!(rig.store.tick(at(0)).unwrap().failures.is_empty());
        }
        let left = (0i64..).zip(times.iter().copied()).skip(start);
        let expected = left.max_by_key(|(offset, time)| (*time, std::cmp::Reverse(*offset)));
        assert_eq!(greatest(&rig.partition), expected, "round {round}");
    }
    assert!(rig.partition.segments().len() > 130);
}
