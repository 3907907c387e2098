//! Old segments leave by time, by size or below the log start, their files go later, and whoever reads one finishes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stratalog::vfs::{FaultyVfs, Hook, OpenMode, Operation, Vfs};
use stratalog::{Clock as _, ErrorKind, MaintenanceWork, TickReport};
use support::{Rig, append, append_at, at, bases, offset, open, partition_of, read_all};

const KEEP: [(&str, &str); 2] = [("retention.ms", "-1"), ("file.delete.delay.ms", "1000")];

fn filled(entries: &[(&str, &str)]) -> Rig {
    let rig = Rig::new(entries);
    for i in 0..15 {
        if i % 5 == 0 {
            rig.partition.roll().unwrap();
        }
        append_at(&rig.partition, "v", i);
    }
    assert_eq!(bases(&rig.partition), [0, 5, 10]);
    rig
}

fn tick(rig: &Rig) -> TickReport {
    let report = rig.store.tick(rig.clock.now()).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    report
}

#[test]
fn only_segments_wholly_below_the_log_start_go_and_the_log_start_stays() {
    let rig = filled(&KEEP);
    rig.partition.delete_records_before(offset(8)).unwrap();
    assert_eq!(tick(&rig).expired_segments, 1);
    assert_eq!(bases(&rig.partition), [5, 10]);
    assert_eq!(rig.partition.log_start_offset(), offset(8));
    assert_eq!(rig.partition.read(offset(7)).fetch().unwrap_err().kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(read_all(&rig.partition).len(), 7);
    let beyond = rig.partition.delete_records_before(offset(16)).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::OffsetOutOfRange);
    assert_eq!(rig.partition.delete_records_before(offset(2)).unwrap(), offset(8), "never lowered");
}

#[test]
fn deleted_files_go_after_the_delay_and_a_reader_that_holds_the_segment_finishes() {
    let rig = filled(&KEEP);
    let held = rig.partition.segments();
    let read = rig.partition.read(offset(0)).fetch().unwrap();
    rig.partition.delete_records_before(offset(5)).unwrap();
    tick(&rig);
    assert!(rig.files().iter().any(|name| name.ends_with(".log.deleted")), "{:?}", rig.files());
    rig.clock.advance(999);
    assert_eq!(tick(&rig).removed_files, 0);
    rig.clock.advance(1);
    assert!(tick(&rig).removed_files > 0);
    assert!(!rig.files().iter().any(|name| name.contains(".deleted")), "{:?}", rig.files());
    assert_eq!(held.first().unwrap().batches().filter(Result::is_ok).count(), 5);
    assert_eq!(read.iter().filter(Result::is_ok).count(), 5);
}

#[test]
fn opening_removes_deleted_files_at_once() {
    let rig = filled(&KEEP);
    rig.partition.delete_records_before(offset(5)).unwrap();
    tick(&rig);
    let image = rig.memory.process_crash_image();
    let store = open(Arc::new(image.clone()), &rig.clock);
    let files = stratalog::vfs::Vfs::read_dir(&image, partition_of(&store).path()).unwrap();
    assert!(!files.iter().any(|entry| entry.name.contains(".deleted")));
    assert_eq!(read_all(&partition_of(&store)).len(), 10);
}

#[test]
fn when_every_segment_is_too_old_one_empty_segment_stays_at_the_log_end() {
    let rig = filled(&[("retention.ms", "1000")]);
    rig.clock.advance(1004);
    assert_eq!(tick(&rig).expired_segments, 0);
    rig.clock.advance(1);
    assert_eq!(tick(&rig).expired_segments, 1);
    rig.clock.advance(100);
    tick(&rig);
    assert_eq!(bases(&rig.partition), [15]);
    assert_eq!((rig.partition.log_start_offset(), rig.partition.size()), (offset(15), 0));
    assert_eq!(append(&rig.partition, "next"), 15);
}

#[test]
fn by_size_segments_go_while_at_least_the_limit_remains() {
    let size = filled(&KEEP).partition.size();
    let limit = (size * 2 / 3).to_string();
    let rig = filled(&[("retention.ms", "-1"), ("retention.bytes", &limit)]);
    assert_eq!(tick(&rig).expired_segments, 1);
    assert_eq!(bases(&rig.partition), [5, 10]);
    assert_eq!(tick(&rig).expired_segments, 0);
}

#[test]
fn a_deleted_segment_is_let_go_though_nothing_was_ever_flushed() {
    let rig = Rig::new(&[("retention.bytes", "1"), ("file.delete.delay.ms", "0")]);
    append(&rig.partition, "old");
    let segment = Arc::downgrade(&rig.partition.segments()[0]);
    rig.partition.roll().unwrap();
    append(&rig.partition, "new");
    rig.store.tick(support::at(1)).unwrap();
    assert_eq!(rig.partition.log_start_offset(), offset(1));
    assert!(segment.upgrade().is_none());
}

#[test]
fn what_is_appended_and_rolled_while_retention_looks_at_ages_stays() {
    let rig = Rig::new(&[("retention.ms", "1000"), ("file.delete.delay.ms", "0")]);
    for time in 0..4 {
        append_at(&rig.partition, "old", time);
        rig.partition.roll().unwrap();
    }
    rig.store.clone().close().unwrap();
    // An opening that knows no age: each is read.
    let vfs = FaultyVfs::new(rig.memory.clone());
    let store = open(Arc::new(vfs.clone()), &rig.clock);
    let partition = partition_of(&store);
    let appending = partition.clone();
    let is_looked_at = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_looked_at);
    vfs.hook(Hook::at(Operation::Open).path("00000000000000000002"), move |_| {
        seen.store(true, Ordering::SeqCst);
        for _ in 0..5 {
            append_at(&appending, "young", 5000);
            appending.roll().unwrap();
        }
    });
    assert!(store.tick(at(5000)).unwrap().failures.is_empty());
    assert!(is_looked_at.load(Ordering::SeqCst));
    let left = read_all(&partition);
    assert_eq!(left.iter().filter(|(_, value)| value == "young").count(), 5, "{left:?}");
    assert!(partition.log_start_offset() <= offset(4));
}

/// A rig whose first segment has five equal batches of these times, closed, with the header of one batch damaged.
fn damaged(times: [i64; 5], batch: u64, entries: &[(&str, &str)]) -> Rig {
    let rig = Rig::new(entries);
    times.iter().for_each(|time| _ = append_at(&rig.partition, "v", *time));
    rig.partition.roll().unwrap();
    append_at(&rig.partition, "w", 100_002);
    rig.store.clone().close().unwrap();
    let log = rig.memory.open(&rig.partition.path().join(format!("{:020}.log", 0)), OpenMode::Write).unwrap();
    log.write_at(&[0; 40], batch * log.size().unwrap() / 5 + 8).unwrap();
    log.set_modified(at(100_001)).unwrap();
    rig
}

#[test]
fn a_segment_whose_age_damage_hides_stays_and_one_step_says_why() {
    let entries =
        |interval| [("index.interval.bytes", interval), ("retention.ms", "50000"), ("file.delete.delay.ms", "0")];
    for interval in ["0", "4096"] {
        for batch in 0..5 {
            let rig = damaged([0, 100_000, 0, 100_001, 0], batch, &entries(interval));
            let store = open(Arc::new(rig.memory.clone()), &rig.clock);
            for now in [100_002, 115_002, 150_000] {
                _ = store.tick(at(now)).unwrap();
                let start = partition_of(&store).log_start_offset();
                assert_eq!(start, offset(0), "interval {interval}, batch {batch}: young records are intact");
            }
            // By its file and by what can be read of it the segment has outlived the limit.
            let failures: Vec<_> = (1..4).flat_map(|n| store.tick(at(200_000 * n)).unwrap().failures).collect();
            assert_eq!(failures.len(), 1, "interval {interval}, batch {batch}: {failures:?}");
            assert_eq!(failures[0].work, MaintenanceWork::Retention);
            assert_eq!(failures[0].kind(), ErrorKind::Corrupt);
            assert_eq!(bases(&partition_of(&store))[0], 0);
            // A record may be ahead of the clock by an hour when it is appended.
            assert!(store.tick(at(3_600_000 + 200_000)).unwrap().failures.is_empty());
            assert!(bases(&partition_of(&store))[0] > 0, "interval {interval}, batch {batch}: none can be younger now");
        }
    }
}

#[test]
fn retention_goes_by_no_header_that_the_time_index_contradicts() {
    // The greatest timestamp of the young batch.
    for (byte, bit) in (35..43).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
        for young in [2, 3] {
            let mut times = [0, 1, 2, 3];
            times[young] = 100_000;
            let rig = Rig::new(&[("retention.ms", "50000"), ("file.delete.delay.ms", "0")]);
            rig.clock.set(at(100_002));
            times.iter().for_each(|time| _ = append_at(&rig.partition, "v", *time));
            rig.partition.roll().unwrap();
            append_at(&rig.partition, "w", 100_002);
            rig.store.clone().close().unwrap();
            let path = rig.partition.path().join(format!("{:020}.log", 0));
            let log = rig.memory.open(&path, OpenMode::Write).unwrap();
            let place = log.size().unwrap() / 4 * young as u64 + byte;
            let mut before = [0];
            log.read_at(&mut before, place).unwrap();
            log.write_at(&[before[0] ^ 1 << bit], place).unwrap();
            let store = open(Arc::new(rig.memory.clone()), &rig.clock);
            _ = store.tick(at(100_002)).unwrap();
            assert_eq!(bases(&partition_of(&store)), [0, 4], "byte {byte}, bit {bit} of batch {young}");
        }
    }
}

#[test]
fn a_segment_whose_age_damage_hides_goes_by_size_and_below_the_log_start() {
    for by_size in [true, false] {
        let limit = if by_size { "1" } else { "-1" };
        let entries = [("retention.bytes", limit), ("retention.ms", "50000"), ("file.delete.delay.ms", "0")];
        let rig = damaged([0, 100_000, 0, 100_001, 0], 3, &entries);
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        if !by_size {
            partition_of(&store).delete_records_before(offset(5)).unwrap();
        }
        let failures = store.tick(at(100_002)).unwrap().failures;
        assert!(failures.is_empty(), "by size: {by_size}: {failures:?}");
        assert_eq!(bases(&partition_of(&store)), [5], "by size: {by_size}");
    }
}

#[test]
fn damage_before_the_end_of_an_active_segment_keeps_nobody_from_appending_and_rolling() {
    let rig = Rig::new(&[("index.interval.bytes", "0"), ("retention.ms", "50000")]);
    [0, 100_000, 0, 100_001, 0].iter().for_each(|time| _ = append_at(&rig.partition, "v", *time));
    rig.store.clone().close().unwrap();
    let log = rig.memory.open(&rig.partition.path().join(format!("{:020}.log", 0)), OpenMode::Write).unwrap();
    let size = log.size().unwrap() / 5;
    log.write_at(&[0; 40], 3 * size + 8).unwrap();
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    let partition = partition_of(&store);
    assert_eq!(partition.log_end_offset(), offset(5), "an orderly stop: only the end is looked at");
    assert_eq!(append_at(&partition, "v", 10), 5);
    partition.roll().unwrap();
    assert_eq!(append_at(&partition, "w", 100_002), 6);
    // What is left to read is old. What the damage hides may not be, and no index was told otherwise.
    for is_reopened in [false, true] {
        let store = if is_reopened {
            store.clone().close().unwrap();
            open(Arc::new(rig.memory.clone()), &rig.clock)
        } else {
            store.clone()
        };
        let partition = partition_of(&store);
        assert!(partition.segments()[0].largest_timestamp().is_err(), "reopened: {is_reopened}");
        _ = store.tick(at(100_002)).unwrap();
        assert_eq!(partition.log_start_offset(), offset(0), "reopened: {is_reopened}");
    }
}

#[test]
fn retention_by_time_takes_no_segment_behind_which_younger_records_are_missing() {
    let size = filled(&KEEP).partition.segments()[0].size() / 5;
    // How many of the records 5 to 9 are left; none of them, or not even the file.
    for left in [None, Some(0), Some(1), Some(4)] {
        let rig = Rig::new(&[("retention.ms", "1000"), ("file.delete.delay.ms", "0"), ("index.interval.bytes", "0")]);
        for i in 0..15 {
            if i % 5 == 0 {
                rig.partition.roll().unwrap();
            }
            append_at(&rig.partition, "v", if i < 8 { i } else { 2000 });
        }
        let Rig { memory, clock, store, .. } = rig;
        store.close().unwrap();
        let path = "/log/t-0/00000000000000000005.log".as_ref();
        match left {
            None => memory.remove_file(path).unwrap(),
            Some(left) => memory.open(path, OpenMode::Write).unwrap().set_size(left * size).unwrap(),
        }
        let store = open(Arc::new(memory.clone()), &clock);
        let partition = partition_of(&store);
        clock.set(at(2500));
        for _ in 0..3 {
            store.tick(clock.now()).unwrap();
        }
        assert_eq!(partition.read(offset(9)).fetch().unwrap_err().kind(), ErrorKind::Corrupt, "{left:?}");
        // Once what lies behind is old as well, all of it goes.
        let last = memory.metadata("/log/t-0/00000000000000000010.log".as_ref()).unwrap().unwrap();
        clock.set(last.modified.unwrap().saturating_add(3_600_000 + 1001));
        store.tick(clock.now()).unwrap();
        assert_eq!(partition.log_start_offset(), offset(15), "{left:?}");
    }
}
