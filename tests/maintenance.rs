//! Background work that fails: it is reported by kind, keeps nothing else from its turn, ends no thread, and is tried again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, Operation, PathFilter, Vfs};
use stratalog::{
    CleanupPolicy, Clock as _, Durability, ErrorKind, LogStore, MaintenanceWork, ManualClock, Record, StoreConfig,
    StoreError, StoreOptions, TickReport, TopicConfig,
};
use support::{Rig, append, append_at, at, bases, config, offset, partition_of};

fn always(operation: Operation, path_contains: &str, kind: io::ErrorKind) -> Fault {
    Fault { path_contains: path_contains.to_owned(), times: u64::MAX, ..Fault::new(operation, Effect::Error(kind)) }
}

fn tick(rig: &Rig) -> TickReport {
    rig.store.tick(rig.clock.now()).unwrap()
}

fn works(report: &TickReport) -> Vec<MaintenanceWork> {
    report.failures.iter().map(|failure| failure.work).collect()
}

/// Waits for what another thread does, at most some seconds.
fn eventually(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A store whose background work looks all the time.
fn restless(vfs: &FaultyVfs, clock: &ManualClock) -> LogStore {
    let config = StoreConfig::new()
        .retention_check_interval_ms(1)
        .flush_scheduler_interval_ms(1)
        .cleaner_backoff_ms(1)
        .high_watermark_checkpoint_interval_ms(1);
    let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone()));
    options.config(config).open("/log").unwrap()
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_reported_beside_what_was_done() {
    let rig = Rig::new(&[("retention.ms", "1000")]);
    append_at(&rig.partition, "old", 0);
    rig.clock.advance(5000);
    rig.vfs.inject(always(Operation::Write, "-offset-checkpoint", io::ErrorKind::StorageFull));
    let report = tick(&rig);
    assert_eq!((report.expired_segments, report.checkpointed), (1, false));
    assert_eq!(works(&report), [MaintenanceWork::Checkpoint]);
    assert_eq!(report.failures[0].kind(), ErrorKind::StorageFull);
    assert!(report.failures[0].location().file().is_some());
    assert_eq!(rig.store.metrics().maintenance_failures, 1);
    rig.vfs.clear_faults();
    let report = tick(&rig);
    assert!(report.checkpointed && report.failures.is_empty(), "{report:?}");
}

#[test]
fn a_folder_that_cannot_be_removed_keeps_no_tick_from_checkpointing() {
    let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
    rig.store.create_topic("gone", 1, config(&[("file.delete.delay.ms", "0")])).unwrap();
    rig.store.create_topic("also", 1, config(&[("file.delete.delay.ms", "0")])).unwrap();
    rig.vfs.inject(always(Operation::Remove, "gone-0.", io::ErrorKind::PermissionDenied));
    rig.store.delete_topic("gone").unwrap();
    rig.store.delete_topic("also").unwrap();
    let report = tick(&rig);
    assert_eq!(works(&report), [MaintenanceWork::Removal]);
    assert!(report.checkpointed && report.removed_files == 1, "{report:?}");
    assert!(tick(&rig).checkpointed);
    rig.vfs.clear_faults();
    assert_eq!(tick(&rig).removed_files, 1);
}

#[test]
fn a_flush_that_fails_keeps_neither_retention_nor_other_partitions_from_their_turn() {
    let entries = [("flush.ms", "10"), ("retention.ms", "1000"), ("file.delete.delay.ms", "0")];
    let rig = Rig::new(&entries);
    rig.store.create_topic("u", 1, config(&entries)).unwrap();
    let other = rig.store.topic("u").unwrap().partition(0).unwrap();
    for partition in [&rig.partition, &other] {
        append_at(partition, "old", 0);
        partition.roll().unwrap();
        append_at(partition, "young", 5000);
    }
    let logs = PathFilter::ends_with(".log");
    rig.vfs.inject(always(Operation::Sync, "/t-0/", io::ErrorKind::StorageFull).on(logs));
    rig.clock.advance(5000);
    let report = tick(&rig);
    assert_eq!((works(&report), report.flushed_partitions), (vec![MaintenanceWork::Flush], 1), "{report:?}");
    assert_eq!(report.failures[0].partition(), Some(rig.partition.id()));
    assert_eq!(other.recovery_point(), offset(2));
    assert_eq!((report.expired_segments, bases(&rig.partition), bases(&other)), (2, vec![1], vec![1]));
    assert!(!rig.files().iter().any(|name| name.ends_with(".deleted")), "what frees space comes before the flush");
}

#[test]
fn only_a_closed_or_read_only_store_refuses_a_tick() {
    let rig = Rig::new(&[]);
    rig.store.checkpoint().unwrap();
    let read_only = StoreOptions::new().vfs(Arc::new(rig.memory.clone())).read_only(true).open("/log").unwrap();
    assert!(matches!(read_only.tick(at(0)), Err(StoreError::ReadOnly { .. })));
    let clone = rig.store.clone();
    rig.store.close().unwrap();
    assert!(matches!(clone.tick(at(0)), Err(StoreError::Closed { .. })));
}

#[test]
fn every_failing_operation_leaves_a_report_and_the_next_tick_makes_up_for_it() {
    let operations = [
        Operation::Open,
        Operation::ReadDir,
        Operation::Metadata,
        Operation::Rename,
        Operation::Remove,
        Operation::SyncDir,
        Operation::Read,
        Operation::Write,
        Operation::Allocate,
        Operation::Map,
    ];
    for operation in operations {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let rig = Rig::new(&[("retention.ms", "1000"), ("file.delete.delay.ms", "0"), ("segment.bytes", "200")]);
            (0..6).for_each(|time| _ = append_at(&rig.partition, "a value of some length", time));
            rig.clock.advance(5000);
            append_at(&rig.partition, "young", 5000);
            rig.vfs.inject(always(operation, "", kind));
            rig.store.tick(rig.clock.now()).unwrap();
            rig.vfs.clear_faults();
            rig.partition.reopen().unwrap();
            tick(&rig);
            let report = tick(&rig);
            assert!(report.failures.is_empty() && report.checkpointed, "{operation:?} {kind:?}: {report:?}");
            assert!(!rig.files().iter().any(|name| name.ends_with(".deleted")), "{operation:?}: {:?}", rig.files());
            assert!(rig.partition.log_start_offset() > offset(0), "{operation:?} {kind:?}");
        }
    }
}

#[test]
fn the_threads_outlive_a_full_disk_and_tell_of_it_as_it_comes() {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let clock = ManualClock::new(at(0));
    let store = restless(&vfs, &clock);
    let topic = store.create_topic("t", 1, config(&[("retention.ms", "1000"), ("file.delete.delay.ms", "0")])).unwrap();
    let partition = topic.partition(0).unwrap();
    append_at(&partition, "old", 0);
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let handle =
        store.spawn_maintenance_with(move |failure| sink.lock().unwrap().push((failure.work, failure.kind()))).unwrap();
    vfs.inject(always(Operation::Write, "", io::ErrorKind::StorageFull));
    vfs.inject(always(Operation::Allocate, "", io::ErrorKind::StorageFull));
    partition.append(&[Record::new("no room").timestamp(at(0))]).unwrap_err();
    eventually(|| {
        clock.advance(1);
        told.lock().unwrap().contains(&(MaintenanceWork::Checkpoint, ErrorKind::StorageFull))
    });
    assert!(store.metrics().maintenance_failures > 0);
    assert!(handle.is_running());

    vfs.clear_faults();
    clock.advance(5000);
    eventually(|| {
        clock.advance(1);
        partition.log_start_offset() == offset(1)
    });
    partition.append_with(&[Record::new("room")], Durability::Durable).unwrap();
    let before = store.metrics().maintenance_failures;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(store.metrics().maintenance_failures, before);
    assert!(handle.is_running());
}

#[test]
fn a_failure_that_was_made_up_for_is_none_when_the_threads_are_stopped() {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let clock = ManualClock::new(at(0));
    let store = restless(&vfs, &clock);
    let seen = Arc::new(AtomicUsize::new(0));
    let start = || {
        let seen = Arc::clone(&seen);
        seen.store(0, Ordering::SeqCst);
        store.spawn_maintenance_with(move |_| _ = seen.fetch_add(1, Ordering::SeqCst)).unwrap()
    };
    for is_mended in [false, true] {
        store.create_topic(if is_mended { "b" } else { "a" }, 1, TopicConfig::new()).unwrap();
        append(&store.topic("a").unwrap().partition(0).unwrap(), "something to write a checkpoint for");
        let handle = start();
        vfs.inject(always(Operation::Write, "-offset-checkpoint", io::ErrorKind::StorageFull));
        eventually(|| {
            clock.advance(1);
            seen.load(Ordering::SeqCst) > 0
        });
        if is_mended {
            vfs.clear_faults();
            let written = vfs.mutations();
            eventually(|| {
                clock.advance(1);
                vfs.mutations() > written
            });
            let now = vfs.mutations();
            eventually(|| {
                clock.advance(1);
                vfs.mutations() == now
            });
            std::thread::sleep(Duration::from_millis(20));
            clock.advance(1);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(handle.stop().is_ok(), is_mended);
        vfs.clear_faults();
    }
}

#[test]
fn a_thread_that_panicked_shows_in_the_handle() {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let clock = ManualClock::new(at(0));
    let store = restless(&vfs, &clock);
    store.create_topic("t", 1, TopicConfig::new()).unwrap();
    append(&partition_of(&store), "something to write a checkpoint for");
    vfs.inject(always(Operation::Write, "-offset-checkpoint", io::ErrorKind::StorageFull));
    let handle = store.spawn_maintenance_with(|_| panic!("a careless callback")).unwrap();
    eventually(|| {
        clock.advance(1);
        !handle.is_running()
    });
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handle.stop())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a careless callback"));
}

#[test]
fn a_callback_may_use_the_store_and_drop_the_handle() {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let clock = ManualClock::new(at(0));
    let store = restless(&vfs, &clock);
    store.create_topic("t", 1, config(&[("flush.ms", "0")])).unwrap();
    append(&partition_of(&store), "v");
    vfs.inject(Fault {
        path_contains: "/t-0/".into(),
        ..Fault::new(Operation::Sync, Effect::Error(io::ErrorKind::Other))
    });
    let (own, done) = (store.clone(), Arc::new(AtomicUsize::new(0)));
    let handle = Arc::new(Mutex::new(None));
    let (held, ended) = (Arc::clone(&handle), Arc::clone(&done));
    let spawned = store.spawn_maintenance_with(move |_| {
        own.topic("t").unwrap().partition(0).unwrap().reopen().unwrap();
        own.checkpoint().unwrap();
        while held.lock().unwrap().is_none() {
            std::thread::yield_now();
        }
        drop(held.lock().unwrap().take());
        ended.fetch_add(1, Ordering::SeqCst);
    });
    *handle.lock().unwrap() = Some(spawned.unwrap());
    eventually(|| {
        clock.advance(1);
        done.load(Ordering::SeqCst) > 0
    });
}

#[test]
fn a_closed_store_ends_the_threads() {
    let store = restless(&FaultyVfs::new(MemoryVfs::new()), &ManualClock::new(at(0)));
    let handle = store.spawn_maintenance().unwrap();
    store.close().unwrap();
    eventually(|| !handle.is_running());
    handle.stop().unwrap();
}

#[test]
fn a_clock_set_back_an_hour_stops_no_flush_and_no_thread() {
    let rig = Rig::new(&[("flush.ms", "1000")]);
    append(&rig.partition, "v");
    rig.clock.set(at(-3_600_000));
    rig.clock.advance(999);
    assert_eq!(tick(&rig).flushed_partitions, 0);
    rig.clock.advance(1);
    assert_eq!(tick(&rig).flushed_partitions, 1);

    let vfs = FaultyVfs::new(MemoryVfs::new());
    let clock = ManualClock::new(at(0));
    let store = restless(&vfs, &clock);
    store.create_topic("t", 1, config(&[("segment.bytes", "120")])).unwrap();
    let handle = store.spawn_maintenance().unwrap();
    clock.set(at(-3_600_000));
    let partition = partition_of(&store);
    (0..4).for_each(|_| _ = append(&partition, "a value that fills a segment well"));
    partition.delete_records_before(offset(2)).unwrap();
    eventually(|| {
        clock.advance(1);
        bases(&partition)[0] >= 2
    });
    handle.stop().unwrap();
}

#[test]
fn a_clock_set_back_an_hour_keeps_no_deleted_file_longer() {
    let rig = Rig::new(&[("file.delete.delay.ms", "1000")]);
    append(&rig.partition, "v");
    rig.partition.roll().unwrap();
    rig.partition.delete_records_before(offset(1)).unwrap();
    assert_eq!(tick(&rig).expired_segments, 1);
    rig.store.create_topic("gone", 1, config(&[("file.delete.delay.ms", "1000")])).unwrap();
    rig.store.delete_topic("gone").unwrap();
    let folders = || rig.memory.read_dir("/log".as_ref()).unwrap().iter().filter(|entry| entry.is_dir).count();
    assert_eq!(folders(), 2);
    rig.clock.set(at(-3_600_000));
    rig.clock.advance(999);
    assert_eq!((tick(&rig).removed_files, folders()), (0, 2));
    rig.clock.advance(1);
    assert!(tick(&rig).removed_files > 0);
    assert_eq!(folders(), 1);
}

#[test]
fn a_compaction_that_fails_is_told_as_one() {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
    for value in ["1", "2"] {
        rig.partition.append(&[Record::keyed("k", value)]).unwrap();
    }
    rig.partition.roll().unwrap();
    assert!(rig.partition.settings().cleanup_policy == CleanupPolicy::COMPACT);
    rig.vfs.inject(always(Operation::Write, ".cleaned", io::ErrorKind::StorageFull));
    let report = tick(&rig);
    assert_eq!(works(&report), [MaintenanceWork::Compaction]);
    assert_eq!(report.failures[0].kind(), ErrorKind::StorageFull);
    rig.vfs.clear_faults();
    assert_eq!(tick(&rig).compacted_partitions, 1);
}

/// How often one tick, whose retention empties every partition of a topic, replaces each file of the root.
fn root_files_replaced_by_a_tick(partitions: u32) -> Vec<(String, usize)> {
    let (vfs, clock) = (FaultyVfs::new(MemoryVfs::new()), ManualClock::new(at(0)));
    let store = support::open(Arc::new(vfs.clone()), &clock);
    let topic = store.create_topic("t", partitions, config(&[("retention.ms", "1000")])).unwrap();
    for partition in topic.partitions() {
        append_at(&partition, "old", 0);
    }
    let replaced = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&replaced);
    let in_root = PathFilter::matching(move |path| {
        if path.parent().is_some_and(|parent| parent.ends_with("log")) {
            seen.lock().unwrap().push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        false
    });
    vfs.inject(Fault::new(Operation::Rename, Effect::Error(io::ErrorKind::Other)).on(in_root));
    let report = store.tick(at(5000)).unwrap();
    assert_eq!((report.expired_segments, report.checkpointed), (partitions as usize, true));
    let mut names = replaced.lock().unwrap().clone();
    names.sort();
    names.chunk_by(|left, right| left == right).map(|same| (same.first().unwrap().clone(), same.len())).collect()
}

#[test]
fn a_tick_replaces_each_file_of_the_root_once_however_many_partitions_lose_records() {
    for partitions in [10, 100] {
        let replaced = root_files_replaced_by_a_tick(partitions);
        assert!(!replaced.is_empty());
        assert!(replaced.iter().all(|(_, times)| *times == 1), "{partitions} partitions: {replaced:?}");
    }
}

#[test]
fn the_mark_of_a_raised_log_start_goes_with_the_checkpoint_that_notes_it() {
    let rig = Rig::new(&[("retention.ms", "1000")]);
    append_at(&rig.partition, "old", 0);
    let is_marked = || rig.files().iter().any(|name| name.ends_with(".trimmed"));
    rig.vfs.inject(always(Operation::Write, "-offset-checkpoint", io::ErrorKind::StorageFull));
    assert_eq!(rig.store.tick(at(5000)).unwrap().expired_segments, 1);
    assert!(is_marked());
    append_at(&rig.partition, "old too", 0);
    assert_eq!(rig.store.tick(at(5000)).unwrap().expired_segments, 1);
    assert_eq!(rig.files().iter().filter(|name| name.ends_with(".trimmed")).count(), 1, "{:?}", rig.files());
    rig.vfs.clear_faults();
    assert!(rig.store.tick(at(5000)).unwrap().checkpointed);
    assert!(!is_marked());
}
