//! Acknowledged means what was asked: written survives the process, durable survives the machine, a failed sync is final until
//! the partition is reopened, and a full disk is an error that passes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use stratalog::vfs::{Effect, Fault, Hook, Operation};
use stratalog::{Appended, Clock, Durability, ErrorKind, LogError, Partition, Record};
use support::{Rig, append, names_partition, offset, open, partition_of, read_all};

fn durable(partition: &Partition, value: &str) -> Result<Appended, LogError> {
    partition.append_with(&[Record::new(value)], Durability::Durable)
}

fn on_log(operation: Operation, effect: Effect) -> Fault {
    Fault { path_contains: ".log".to_owned(), ..Fault::new(operation, effect) }
}

fn values(partition: &Partition) -> Vec<String> {
    read_all(partition).into_iter().map(|(_, value)| value).collect()
}

#[test]
fn what_was_written_survives_the_process_and_what_is_durable_survives_the_machine() {
    let rig = Rig::new(&[]);
    assert_eq!(durable(&rig.partition, "durable").unwrap().durability, Durability::Durable);
    append(&rig.partition, "written");
    let after_kill = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&after_kill)), ["durable", "written"]);
    let after_power_loss = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&after_power_loss)), ["durable"]);
    assert_eq!(rig.partition.recovery_point(), offset(1));
    rig.partition.flush().unwrap();
    let after_flush = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&after_flush)), ["durable", "written"]);
}

#[test]
fn a_durable_append_makes_everything_before_it_durable_over_segment_borders() {
    let rig = Rig::new(&[]);
    for value in ["a", "b", "c"] {
        append(&rig.partition, value);
        rig.partition.roll().unwrap();
    }
    durable(&rig.partition, "d").unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&store)), ["a", "b", "c", "d"]);
}

#[test]
fn flush_ms_makes_appends_durable_by_age() {
    let rig = Rig::new(&[("flush.ms", "1000")]);
    rig.partition.append(&[Record::new("written")]).unwrap();
    let appended = Clock::now(&rig.clock);
    assert_eq!(rig.store.tick(appended.saturating_add(999)).unwrap().flushed_partitions, 0);
    assert_eq!(rig.store.tick(appended.saturating_add(1000)).unwrap().flushed_partitions, 1);
    assert_eq!(rig.partition.recovery_point(), rig.partition.log_end_offset());
}

#[test]
fn flush_messages_makes_appends_durable_by_count() {
    let rig = Rig::new(&[("flush.messages", "3")]);
    for expected in [Durability::Written, Durability::Written, Durability::Durable, Durability::Written] {
        assert_eq!(rig.partition.append(&[Record::new("v")]).unwrap().durability, expected);
    }
}

#[test]
fn after_a_failed_sync_the_partition_is_offline_until_it_is_reopened() {
    let rig = Rig::new(&[]);
    durable(&rig.partition, "acknowledged").unwrap();
    append(&rig.partition, "written");
    rig.vfs.inject(on_log(Operation::Sync, Effect::Error(io::ErrorKind::Other)));
    let error = durable(&rig.partition, "unknown").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    for _ in 0..3 {
        let error = durable(&rig.partition, "refused").unwrap_err();
        assert!(matches!(error, LogError::Offline { .. }) && names_partition(&error), "{error}");
        assert!(matches!(rig.partition.flush(), Err(LogError::Offline { .. })));
        assert!(matches!(rig.partition.roll(), Err(LogError::Offline { .. })));
        assert!(matches!(rig.partition.truncate_to(offset(0)), Err(LogError::Offline { .. })));
    }
    assert_eq!(read_all(&rig.partition).len(), 3, "an offline partition can still be read");
    assert_eq!(rig.store.metrics().sync_failures, 1);
    let image = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&image)), ["acknowledged"]);

    rig.partition.reopen().unwrap();
    durable(&rig.partition, "again").unwrap();
    let kept = values(&rig.partition);
    assert_eq!((kept[0].as_str(), kept.last().unwrap().as_str()), ("acknowledged", "again"));
    let image = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&image)), kept, "nothing rests on bytes whose sync failed");
}

#[test]
fn reopening_while_the_disk_still_fails_leaves_the_partition_offline() {
    let rig = Rig::new(&[]);
    durable(&rig.partition, "acknowledged").unwrap();
    rig.vfs.inject(Fault { times: u64::MAX, ..Fault::new(Operation::Sync, Effect::Error(io::ErrorKind::Other)) });
    durable(&rig.partition, "unknown").unwrap_err();
    rig.partition.reopen().unwrap_err();
    assert!(matches!(rig.partition.append(&[Record::new("v")]), Err(LogError::Offline { .. })));
    rig.vfs.clear_faults();
    rig.partition.reopen().unwrap();
    durable(&rig.partition, "again").unwrap();
    let image = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&image)), values(&rig.partition));
}

#[test]
fn durable_appends_of_many_threads_share_syncs_and_all_survive() {
    let rig = Rig::new(&[("segment.bytes", "5000")]);
    thread::scope(|scope| {
        for thread in 0..8 {
            let partition = rig.partition.clone();
            scope.spawn(move || {
                for i in 0..100 {
                    durable(&partition, &format!("{thread} {i}")).unwrap();
                }
            });
        }
    });
    assert!(rig.store.metrics().syncs <= rig.store.metrics().appended_batches);
    let image = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    let survivors = read_all(&partition_of(&image));
    assert_eq!(survivors.len(), 800);
    assert_eq!(survivors, read_all(&rig.partition));
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing_behind_and_passes() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "before");
    let size = rig.partition.size();
    for written in [0, 1, 30, 70] {
        let effect = Effect::ShortWrite { size: written, kind: io::ErrorKind::StorageFull };
        rig.vfs.inject(on_log(Operation::Write, effect));
        let error = rig.partition.append(&[Record::new("no room for this")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert!(error.location().to_string().contains(".log"), "{error}");
        assert_eq!((rig.partition.size(), rig.partition.log_end_offset()), (size, offset(1)));
        let log = rig.partition.segments()[0].path();
        assert_eq!(
            stratalog::vfs::Vfs::metadata(&rig.memory, &log).unwrap().unwrap().size,
            size,
            "the tail is cut back"
        );
    }
    durable(&rig.partition, "after").unwrap();
    assert_eq!(values(&rig.partition), ["before", "after"]);
    let image = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&image)), ["before", "after"]);
}

#[test]
fn a_full_disk_at_a_roll_is_an_error_that_passes() {
    let rig = Rig::new(&[("segment.bytes", "200")]);
    append(&rig.partition, &"a".repeat(100));
    rig.vfs.inject(Fault::new(Operation::Open, Effect::Error(io::ErrorKind::StorageFull)));
    let error = rig.partition.append(&[Record::new(&"b".repeat(100))]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    append(&rig.partition, &"c".repeat(100));
    assert_eq!(values(&rig.partition), ["a".repeat(100), "c".repeat(100)]);
}

#[test]
fn a_tail_that_cannot_be_cut_back_takes_the_partition_offline() {
    let rig = Rig::new(&[]);
    durable(&rig.partition, "before").unwrap();
    rig.vfs.inject(on_log(Operation::Write, Effect::ShortWrite { size: 9, kind: io::ErrorKind::StorageFull }));
    rig.vfs.inject(on_log(Operation::SetSize, Effect::Error(io::ErrorKind::Other)));
    rig.partition.append(&[Record::new("torn")]).unwrap_err();
    assert!(matches!(rig.partition.append(&[Record::new("v")]), Err(LogError::Offline { .. })));
    rig.partition.reopen().unwrap();
    append(&rig.partition, "after");
    assert_eq!(values(&rig.partition), ["before", "after"]);
}

#[test]
fn records_appended_after_a_truncation_are_synced_before_they_are_called_durable() {
    let rig = Rig::new(&[]);
    for i in 0..10 {
        durable(&rig.partition, &format!("old {i}")).unwrap();
    }
    rig.partition.truncate_to(offset(3)).unwrap();
    durable(&rig.partition, "new").unwrap();
    let image = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&image)), ["old 0", "old 1", "old 2", "new"]);
}

#[test]
fn a_sync_that_panics_takes_the_partition_offline_and_lets_nobody_wait_for_ever() {
    let rig = Rig::new(&[]);
    rig.vfs.hook(Hook::at(Operation::Sync).path(".log"), |_| panic!("in a sync"));
    let panicking = rig.partition.clone();
    assert!(thread::spawn(move || drop(durable(&panicking, "0"))).join().is_err());
    assert_eq!(durable(&rig.partition, "1").unwrap_err().kind(), ErrorKind::Offline);
    rig.partition.reopen().unwrap();
    durable(&rig.partition, "2").unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(values(&partition_of(&store)), ["0", "2"]);
}

#[test]
fn appends_wait_for_the_reopening_of_a_partition_that_is_online_and_go_on_after_it() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "before");
    let gate = rig.vfs.block(Hook::at(Operation::ReadDir).path("/t-0"));
    let reopening = thread::spawn({
        let partition = rig.partition.clone();
        move || partition.reopen().map(drop)
    });
    let is_reached = gate.wait_until_reached(Duration::from_secs(20));
    let appending = thread::spawn({
        let partition = rig.partition.clone();
        move || durable(&partition, "meanwhile").map(drop)
    });
    thread::sleep(Duration::from_millis(20));
    let has_waited = !appending.is_finished();
    gate.release();
    reopening.join().unwrap().unwrap();
    appending.join().unwrap().unwrap();
    assert!(is_reached && has_waited);
    assert_eq!(values(&rig.partition), ["before", "meanwhile"]);
}

#[test]
fn a_durable_append_whose_log_is_cut_before_its_sync_says_that_its_outcome_is_unknown() {
    let rig = Rig::new(&[]);
    // The first append of an epoch writes it down, between its batch and its sync.
    let writing = rig.vfs.block(Hook::at(Operation::Write).path("leader-epoch-checkpoint"));
    let appending = thread::spawn({
        let partition = rig.partition.clone();
        move || durable(&partition, "gone")
    });
    assert!(writing.wait_until_reached(Duration::from_secs(20)));
    let cutting = rig.vfs.block(Hook::at(Operation::Open).path(".truncated"));
    let cut = thread::spawn({
        let partition = rig.partition.clone();
        move || partition.truncate_to(offset(0))
    });
    assert!(cutting.wait_until_reached(Duration::from_secs(20)));
    cutting.release();
    writing.release();
    cut.join().unwrap().unwrap();
    let error = appending.join().unwrap().unwrap_err();
    assert!(matches!(error, LogError::OutcomeUnknown { .. }) && names_partition(&error), "{error}");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    durable(&rig.partition, "next").unwrap();
    assert_eq!(values(&rig.partition), ["next"]);
}

/// Calls to the file system that the first durable append makes after a hundred rolls, with a tick after each few of them or none.
fn calls_of_a_durable_append_after_rolls(ticks: bool) -> u64 {
    let rig = Rig::new(&[]);
    for round in 0..100 {
        append(&rig.partition, "v");
        rig.partition.roll().unwrap();
        if ticks && round % 5 == 4 {
            assert!(rig.store.tick(rig.clock.now()).unwrap().failures.is_empty());
        }
    }
    let before = rig.vfs.calls();
    durable(&rig.partition, "durable").unwrap();
    rig.vfs.calls() - before
}

#[test]
fn a_durable_append_pays_for_few_of_the_rolls_before_it() {
    let (ticked, unticked) =
        (calls_of_a_durable_append_after_rolls(true), calls_of_a_durable_append_after_rolls(false));
    assert!(ticked < 20, "{ticked} calls");
    assert!(unticked < 100, "{unticked} calls");
}

#[test]
fn a_snapshot_that_a_tick_cannot_sync_is_synced_by_the_next_and_keeps_the_partition_online() {
    let rig = Rig::new(&[]);
    rig.partition.append_from(support::stamp(1, 0, 0), &[Record::new("a")], Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    let fault = Fault::new(Operation::Sync, Effect::Error(io::ErrorKind::Other));
    rig.vfs.inject(Fault { path_contains: ".snapshot".to_owned(), ..fault });
    assert!(!rig.store.tick(rig.clock.now()).unwrap().failures.is_empty());
    append(&rig.partition, "b");
    rig.partition.roll().unwrap();
    assert!(rig.store.tick(rig.clock.now()).unwrap().failures.is_empty());
    let lost = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    let again = partition_of(&lost).append_from(support::stamp(1, 0, 0), &[Record::new("a")], Durability::Written);
    assert!(again.unwrap().is_duplicate);
}

#[test]
fn an_append_that_failed_with_all_its_bytes_written_does_not_come_back_after_a_flush() {
    for seed in 0..100 {
        let rig = Rig::new(&[]);
        (0..3).for_each(|_| _ = durable(&rig.partition, "v").unwrap());
        rig.vfs.inject(on_log(Operation::Write, Effect::ShortWrite { size: 1 << 20, kind: io::ErrorKind::Other }));
        assert!(rig.partition.append(&[Record::new("failed")]).is_err());
        rig.partition.flush().unwrap();
        let store = open(Arc::new(rig.memory.torn_crash_image(seed)), &rig.clock);
        assert_eq!(values(&partition_of(&store)), ["v", "v", "v"], "{seed}");
    }
}
