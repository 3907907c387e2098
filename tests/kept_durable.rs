//! What was called durable is there after a loss of power, also where a sync had failed before, where the log was cut, and where
//! notes on disk speak of what it was.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::io::ErrorKind;
use std::sync::Arc;

use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, Operation, Vfs};
use stratalog::{Clock, Durability, LogStore, ManualClock, Partition, Record, StoreOptions, TopicConfig};
use support::{Rig, append, at, offset, open, partition_of, read_all};

const EIO: Effect = Effect::Error(ErrorKind::Other);

fn durable(partition: &Partition, value: &str) -> i64 {
    partition.append_with(&[Record::new(value)], Durability::Durable).unwrap().base_offset.value()
}

fn values(store: &LogStore) -> Vec<String> {
    read_all(&partition_of(store)).into_iter().map(|(_, value)| value).collect()
}

#[test]
fn bytes_whose_sync_failed_are_written_again_after_closing_and_opening() {
    for is_closed in [true, false] {
        let rig = Rig::new(&[]);
        append(&rig.partition, "old");
        rig.vfs.inject(Fault { path_contains: ".log".into(), ..Fault::new(Operation::Sync, EIO) });
        assert!(rig.partition.append_with(&[Record::new("refused")], Durability::Durable).is_err());
        rig.vfs.clear_faults();
        if is_closed {
            assert!(rig.store.clone().close().is_err());
        }
        let Rig { memory, vfs, clock, store, partition } = rig;
        drop((store, partition));
        let store = open(Arc::new(vfs), &clock);
        let before = values(&store);
        durable(&partition_of(&store), "durable");
        let image = memory.crash_image();
        let survived = values(&open(Arc::new(image), &clock));
        assert_eq!(survived[..survived.len() - 1], before, "closed: {is_closed}");
        assert_eq!(survived.last().unwrap(), "durable");
    }
}

#[test]
fn a_reopening_that_cuts_lowers_the_recovery_point() {
    let rig = Rig::new(&[]);
    for value in ["a", "b", "c"] {
        durable(&rig.partition, value);
    }
    // Damage below the recovery point, found by a reopening.
    let log = rig.partition.segments()[0].path();
    let file = rig.memory.open(&log, stratalog::vfs::OpenMode::Write).unwrap();
    let size = file.size().unwrap() / 3;
    file.write_at(b"?", 2 * size + 65).unwrap();
    let report = rig.partition.reopen().unwrap();
    assert_eq!((report.cuts.len(), report.log_end_offset), (1, offset(2)));
    assert!(rig.partition.recovery_point() <= offset(2));
    assert_eq!(durable(&rig.partition, "d"), 2);
    let survived = values(&open(Arc::new(rig.memory.crash_image()), &rig.clock));
    assert_eq!(survived, ["a", "b", "d"]);
}

#[test]
fn deleting_records_does_not_make_them_durable() {
    let rig = Rig::new(&[]);
    for value in ["a", "b", "c"] {
        append(&rig.partition, value);
    }
    rig.partition.delete_records_before(offset(2)).unwrap();
    assert_eq!(rig.partition.recovery_point(), offset(0));
    rig.store.checkpoint().unwrap();
    for seed in 0..50 {
        let image = rig.memory.torn_crash_image(seed);
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        let rows = read_all(&partition);
        assert!(rows.is_empty() || rows == [(2, "c".to_owned())], "seed {seed}: {rows:?}");
        assert!(partition.log_end_offset() >= offset(2), "seed {seed}: no offset is given twice");
    }
}

#[test]
fn every_folder_above_a_new_store_is_durable() {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    let open =
        |vfs: MemoryVfs| StoreOptions::new().vfs(Arc::new(vfs)).clock(Arc::new(clock.clone())).open("/a/b/c").unwrap();
    let store = open(memory.clone());
    let partition = store.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    durable(&partition, "kept");
    assert_eq!(values(&open(memory.crash_image())), ["kept"]);
}

#[test]
fn sealed_segments_are_synced_by_ticks_and_give_their_files_back() {
    let rig = Rig::new(&[("segment.bytes", "100")]);
    for number in 0..50 {
        append(&rig.partition, &number.to_string());
        rig.store.tick(rig.clock.now()).unwrap();
    }
    assert_eq!(rig.partition.recovery_point(), offset(49), "up to the active segment");
    let survived = values(&open(Arc::new(rig.memory.crash_image()), &rig.clock));
    assert!(survived.len() >= 49);
}

#[test]
fn where_nobody_ticks_few_segments_wait_and_a_kill_leaves_few_to_sync_again() {
    let rig = Rig::new(&[("segment.bytes", "100")]);
    for number in 0..300 {
        append(&rig.partition, &number.to_string());
    }
    assert!(rig.partition.recovery_point() >= offset(285), "{}", rig.partition.recovery_point());
    let vfs = FaultyVfs::new(rig.memory.process_crash_image());
    let store = open(Arc::new(vfs.clone()), &rig.clock);
    let before = vfs.mutations();
    durable(&partition_of(&store), "first");
    assert!(vfs.mutations() - before < 150, "{} changes of the disk", vfs.mutations() - before);
    assert_eq!(values(&open(Arc::new(vfs.crash_image(0).unwrap()), &rig.clock)).len(), 301);
}

/// Lets power fail after each change of the disk that `change` makes, and hands each image to `check`.
fn power_lost_during(
    entries: &[(&str, &str)],
    fill: &dyn Fn(&Rig),
    change: &dyn Fn(&Partition),
    check: &dyn Fn(&MemoryVfs, &ManualClock, &str),
) {
    let count = {
        let rig = Rig::new(entries);
        fill(&rig);
        let before = rig.vfs.mutations();
        change(&rig.partition);
        rig.vfs.mutations() - before
    };
    for crash_at in 0..=count {
        let rig = Rig::new(entries);
        fill(&rig);
        rig.vfs.crash_after(crash_at);
        change(&rig.partition);
        for seed in 0..40 {
            check(&rig.vfs.crash_image(seed).unwrap(), &rig.clock, &format!("crash at {crash_at}, image {seed}"));
        }
    }
}

#[test]
fn a_log_start_that_was_noted_hides_nothing_that_is_written_after_a_cut() {
    type Change<'a> = &'a dyn Fn(&Partition) -> i64;
    let changes: [(&str, Change<'_>); 2] = [
        ("cut", &|partition| {
            partition.truncate_to(offset(3)).unwrap();
            3
        }),
        ("started over", &|partition| {
            partition.truncate_fully_and_start_at(offset(1)).unwrap();
            1
        }),
    ];
    for (name, change) in changes {
        for is_flushed in [false, true] {
            let rig = Rig::new(&[("segment.bytes", "150")]);
            (0..9).for_each(|number| _ = append(&rig.partition, &number.to_string()));
            if is_flushed {
                rig.partition.flush().unwrap();
            }
            rig.partition.delete_records_before(offset(5)).unwrap();
            rig.store.checkpoint().unwrap();
            let base = change(&rig.partition);
            assert_eq!(durable(&rig.partition, "after"), base);
            for seed in 0..60 {
                let store = open(Arc::new(rig.memory.torn_crash_image(seed)), &rig.clock);
                let rows = read_all(&partition_of(&store));
                assert_eq!(rows.last(), Some(&(base, "after".to_owned())), "{name}, seed {seed}: {rows:?}");
            }
        }
    }
}

#[test]
fn a_truncation_leaves_a_prefix_whenever_the_power_fails() {
    let fill = |rig: &Rig| {
        (0..12).for_each(|number| _ = append(&rig.partition, &number.to_string()));
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
    };
    power_lost_during(
        &[("segment.bytes", "150")],
        &fill,
        &|partition| _ = partition.truncate_to(offset(5)),
        &|image, clock, when| {
            let store = open(Arc::new(image.clone()), clock);
            let rows = read_all(&partition_of(&store));
            let expected: Vec<_> = (0..12).map(|number| (number, number.to_string())).collect();
            assert!(rows.len() >= 5 && rows == expected[..rows.len()], "{when}: {rows:?}");
            assert_eq!(append(&partition_of(&store), "next"), i64::try_from(rows.len()).unwrap(), "{when}");
        },
    );
}

#[test]
fn starting_over_ends_in_the_old_log_or_in_the_new_one() {
    let fill = |rig: &Rig| {
        (0..9).for_each(|number| _ = append(&rig.partition, &number.to_string()));
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
    };
    for start in [0, 3, 4, 1000] {
        power_lost_during(
            &[("segment.bytes", "150")],
            &fill,
            &|partition| _ = partition.truncate_fully_and_start_at(offset(start)),
            &|image, clock, when| {
                let store = open(Arc::new(image.clone()), clock);
                let partition = partition_of(&store);
                let (rows, end) = (read_all(&partition).len(), partition.log_end_offset());
                assert!(
                    (rows, end) == (9, offset(9)) || (rows, end) == (0, offset(start)),
                    "{start}, {when}: {rows} {end}"
                );
                assert_eq!(append(&partition, "next"), end.value(), "{start}, {when}");
            },
        );
    }
}

#[test]
fn retention_leaves_a_suffix_whenever_the_power_fails_and_a_name_stays() {
    let entries = [("segment.bytes", "150"), ("retention.bytes", "200")];
    let fill = |rig: &Rig| (0..20).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    let check = |image: &MemoryVfs, clock: &ManualClock, when: &str| {
        let store = open(Arc::new(image.clone()), clock);
        let partition = partition_of(&store);
        let rows: Vec<_> = read_all(&partition).into_iter().map(|(at, _)| at).collect();
        let start = partition.log_start_offset().value();
        let end = partition.log_end_offset().value();
        assert_eq!(rows, (start..end).collect::<Vec<_>>(), "{when}");
    };
    let count = {
        let rig = Rig::new(&entries);
        fill(&rig);
        let before = rig.vfs.mutations();
        assert!(rig.store.tick(rig.clock.now()).unwrap().expired_segments > 3);
        rig.vfs.mutations() - before
    };
    for crash_at in 0..count {
        let rig = Rig::new(&entries);
        fill(&rig);
        rig.vfs.crash_after(crash_at);
        drop(rig.store.tick(rig.clock.now()));
        (0..30).for_each(|seed| check(&rig.vfs.crash_image(seed).unwrap(), &rig.clock, &format!("{crash_at} {seed}")));
    }
    for failing in 0..12 {
        let rig = Rig::new(&entries);
        fill(&rig);
        rig.vfs.inject(Fault { after: failing, ..Fault::new(Operation::Rename, EIO) });
        drop(rig.store.tick(rig.clock.now()));
        check(&rig.memory.process_crash_image(), &rig.clock, &format!("rename {failing} failed"));
    }
}

#[test]
fn a_damaged_epoch_file_costs_a_rebuild_and_a_line_in_the_report() {
    for bytes in [&b""[..], b"\0\0\0\0", b"0\n1\n0"] {
        let rig = Rig::new(&[]);
        append(&rig.partition, "v");
        let path = rig.partition.path().join("leader-epoch-checkpoint");
        rig.store.close().unwrap();
        let file = rig.memory.open(&path, stratalog::vfs::OpenMode::Truncate).unwrap();
        file.write_at(bytes, 0).unwrap();
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        assert_eq!(values(&store), ["v"]);
        assert_eq!(store.open_report().partitions[0].rebuilt, std::slice::from_ref(&path));
        append(&partition_of(&store), "w");
        store.close().unwrap();
        let again = open(Arc::new(rig.memory.clone()), &rig.clock);
        assert!(again.open_report().partitions[0].rebuilt.is_empty(), "{bytes:?}");
    }
}

#[test]
fn a_second_loss_of_power_brings_nothing_back_that_was_cut() {
    let rig = Rig::new(&[]);
    for value in ["a", "b", "c", "d"] {
        append(&rig.partition, value);
    }
    for seed in 0..200 {
        let first = rig.memory.torn_crash_image(seed);
        let store = open(Arc::new(first.clone()), &rig.clock);
        let kept = values(&store);
        append(&partition_of(&store), "new");
        for second in 0..6 {
            let store = open(Arc::new(first.torn_crash_image(second)), &rig.clock);
            let found = values(&store);
            let expected = [&kept[..], &["new".to_owned()]].concat();
            assert_eq!(found, expected[..found.len()], "seeds {seed}, {second}");
        }
    }
}

#[test]
fn a_prefix_is_cut_though_a_batch_before_it_has_rotted() {
    let rig = Rig::new(&[]);
    (0..12).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    rig.partition.flush().unwrap();
    let log = rig.partition.segments()[0].path();
    let file = rig.memory.open(&log, stratalog::vfs::OpenMode::Write).unwrap();
    let position = file.size().unwrap() / 12 * 2 + 66;
    file.write_at(b"?", position).unwrap();
    rig.partition.truncate_to(offset(9)).unwrap();
    assert_eq!(rig.partition.log_end_offset(), offset(9));
    for place in [0, 1, 3, 4, 5, 6, 7, 8] {
        let batches = rig.partition.read(offset(place)).max_bytes(1).fetch().unwrap();
        assert_eq!(batches.records().next().unwrap().unwrap().offset(), offset(place));
    }
}

#[test]
fn what_retention_took_does_not_come_back_where_its_mark_could_not_be_made() {
    let rig = Rig::new(&[("segment.bytes", "150"), ("retention.bytes", "200")]);
    (0..20).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    let no_descriptor = Effect::OsError(24);
    rig.vfs.inject(Fault { path_contains: ".trimmed".into(), ..Fault::new(Operation::Open, no_descriptor) });
    assert_eq!(rig.store.tick(rig.clock.now()).unwrap().failures.len(), 1);
    rig.vfs.clear_faults();
    let start = rig.partition.log_start_offset();
    assert!(start > offset(0));
    rig.store.flush().unwrap();
    let images = (0..20).map(|seed| rig.memory.torn_crash_image(seed)).chain([rig.memory.process_crash_image()]);
    for (number, image) in images.enumerate() {
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.log_start_offset(), start, "image {number}");
        assert_eq!(read_all(&partition).len(), usize::try_from(20 - start.value()).unwrap(), "image {number}");
    }
}

#[test]
fn a_compacted_log_whose_truncation_was_killed_keeps_what_the_next_opening_found() {
    let entries = [("cleanup.policy", "compact"), ("segment.bytes", "200"), ("min.cleanable.dirty.ratio", "0")];
    let fill = |rig: &Rig| {
        for number in 0..20 {
            let key = ["a", "b", "c"][number % 3];
            rig.partition.append(&[Record::keyed(key, &number.to_string())]).unwrap();
        }
        rig.partition.roll().unwrap();
        rig.partition.compact().unwrap();
    };
    let changes = {
        let rig = Rig::new(&entries);
        fill(&rig);
        let before = rig.vfs.mutations();
        rig.partition.truncate_to(offset(1)).unwrap();
        rig.vfs.mutations() - before
    };
    for killed_at in 0..changes {
        let rig = Rig::new(&entries);
        fill(&rig);
        rig.vfs.crash_after(killed_at);
        drop(rig.partition.truncate_to(offset(1)));
        let lost = (0..4).map(|seed| rig.vfs.crash_image(seed).unwrap());
        for image in lost.chain([rig.memory.process_crash_image()]) {
            let store = open(Arc::new(image.clone()), &rig.clock);
            let mut found = read_all(&partition_of(&store));
            let next = [Record::keyed("next", "next")];
            let appended = partition_of(&store).append_with(&next, Durability::Durable).unwrap();
            found.push((appended.base_offset.value(), "next".to_owned()));
            let survived = open(Arc::new(image.crash_image()), &rig.clock);
            assert_eq!(read_all(&partition_of(&survived)), found, "killed at {killed_at}");
        }
    }
}

/// A log of several segments, durable, whose starting over at 20 fails at a call.
fn half_started_over(failing: u64) -> Rig {
    let rig = Rig::new(&[("segment.bytes", "150")]);
    (0..8).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    rig.store.flush().unwrap();
    rig.vfs.inject(Fault { after: failing, ..Fault::new(Operation::Any, EIO) });
    rig.partition.truncate_fully_and_start_at(offset(20)).ok();
    rig.vfs.clear_faults();
    rig
}

/// The old log, or none that begins at 20.
fn check_whole_or_started_over(partition: &Partition, case: &str) {
    let bounds = (partition.log_start_offset(), partition.log_end_offset());
    if bounds == (offset(20), offset(20)) {
        return;
    }
    assert_eq!(bounds, (offset(0), offset(8)), "{case}");
    assert_eq!(read_all(partition).len(), 8, "{case}");
}

#[test]
fn a_log_that_starts_over_does_so_though_its_reopening_fails_at_any_call() {
    for failing in 0..30 {
        for later in 0..60 {
            let rig = half_started_over(failing);
            rig.vfs.inject(Fault { after: later, times: u64::MAX, ..Fault::new(Operation::Any, EIO) });
            rig.partition.reopen().ok();
            rig.vfs.clear_faults();
            rig.partition.reopen().unwrap();
            let case = format!("call {failing}, then from call {later} of the reopening on");
            check_whole_or_started_over(&rig.partition, &case);
            let place = durable(&rig.partition, "new");
            let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
            let found = read_all(&partition_of(&store));
            assert_eq!(found.last(), Some(&(place, "new".to_owned())), "{case}");
        }
    }
}

#[test]
fn a_log_that_starts_over_does_so_though_the_power_is_lost_while_opening_finishes_it() {
    for failing in 0..30 {
        let rig = half_started_over(failing);
        let image = rig.memory.process_crash_image();
        for end in 0..40 {
            let vfs = FaultyVfs::new(image.process_crash_image());
            vfs.crash_after(end);
            StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone())).open("/log").ok();
            for seed in 0..8 {
                let store = open(Arc::new(vfs.crash_image(seed).unwrap()), &rig.clock);
                check_whole_or_started_over(
                    &partition_of(&store),
                    &format!("call {failing}, change {end}, seed {seed}"),
                );
            }
        }
    }
}

#[test]
fn a_log_that_starts_over_does_so_though_the_power_is_lost_while_reopening_finishes_it() {
    for failing in (0..30).step_by(3) {
        for end in 0..60 {
            let rig = half_started_over(failing);
            rig.vfs.crash_after(end);
            rig.partition.reopen().ok();
            for seed in 0..4 {
                let store = open(Arc::new(rig.vfs.crash_image(seed).unwrap()), &rig.clock);
                let case = format!("call {failing}, change {end} of the reopening, seed {seed}");
                check_whole_or_started_over(&partition_of(&store), &case);
            }
        }
    }
}

#[test]
fn a_reopening_that_fails_leaves_the_partition_offline_and_what_is_durable_afterwards_stays() {
    for later in 0..60 {
        let rig = half_started_over(6);
        rig.vfs.inject(Fault { after: later, ..Fault::new(Operation::Any, EIO) });
        let reopened = rig.partition.reopen();
        rig.vfs.clear_faults();
        if reopened.is_err() {
            assert!(rig.partition.append(&[Record::new("refused")]).is_err(), "call {later}");
            rig.partition.reopen().unwrap();
        }
        let place = durable(&rig.partition, "new");
        rig.store.clone().close().unwrap();
        let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
        assert_eq!(read_all(&partition_of(&store)).last(), Some(&(place, "new".to_owned())), "call {later}");
    }
}

#[test]
fn a_deleted_key_stays_deleted_though_the_log_was_cut_below_what_was_compacted() {
    let entries = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "200"),
        ("min.cleanable.dirty.ratio", "0"),
        ("delete.retention.ms", "0"),
    ];
    let rig = Rig::new(&entries);
    let put = |key: &str, value: &str| rig.partition.append(&[Record::keyed(key, value)]).unwrap();
    for number in 0..8 {
        put(["a", "b"][number % 2], &number.to_string());
    }
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    rig.store.checkpoint().unwrap();
    let cut = rig.partition.log_start_offset().value() + 3;
    rig.partition.truncate_to(offset(cut)).unwrap();
    rig.partition.append_with(&[Record::keyed("a", "last")], Durability::Durable).unwrap();
    rig.partition.append_with(&[Record::tombstone("a"), Record::keyed("c", "kept")], Durability::Durable).unwrap();
    for seed in 0..50 {
        let store = open(Arc::new(rig.memory.torn_crash_image(seed)), &rig.clock);
        let partition = partition_of(&store);
        for _ in 0..2 {
            partition.roll().unwrap();
            partition.compact().unwrap();
            rig.clock.advance(10);
        }
        let values: Vec<_> = read_all(&partition).into_iter().map(|(_, value)| value).collect();
        assert!(!values.contains(&"last".to_owned()), "seed {seed}: {values:?}");
        assert!(values.contains(&"kept".to_owned()), "seed {seed}: {values:?}");
    }
}
