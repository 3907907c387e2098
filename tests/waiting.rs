//! Who waits for an offset wakes as soon as it is reached, whatever moved it, and as soon as the partition goes offline.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use stratalog::format::TransactionResult::Abort;
use stratalog::vfs::{Effect, Fault, OpenMode, Operation, Vfs};
use stratalog::{Durability, LogError, Partition, Record};

mod support;
use support::{Rig, append, append_at, at, in_transaction, marker, offset};

/// A wait that loses its wake-up lasts this long.
const LONG: Duration = Duration::from_secs(6);

/// Lets a thread wait, does `work`, and returns what the wait said. Fails where nothing woke it.
fn woken_by(
    partition: &Partition,
    wait: impl FnOnce(&Partition, Duration) -> bool + Send,
    work: impl FnOnce(&Partition),
) -> bool {
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let begun = Instant::now();
            (wait(partition, LONG), begun.elapsed())
        });
        // The waiter may begin late: then it finds what it waits for, and the test shows nothing.
        thread::sleep(Duration::from_millis(50));
        work(partition);
        let (reached, waited) = waiter.join().unwrap();
        assert!(waited < LONG / 2, "nothing woke it for {waited:?}");
        reached
    })
}

fn begin_transaction(rig: &Rig) {
    rig.partition
        .append_from(in_transaction(1, 0, 0), &[Record::new("v").timestamp(at(0))], Durability::Written)
        .unwrap();
}

#[test]
fn deleting_records_wakes_who_waits_for_committed_ones() {
    let rig = Rig::new(&[]);
    begin_transaction(&rig);
    let reached = woken_by(
        &rig.partition,
        |partition, timeout| partition.wait_for_committed(offset(0), timeout),
        |partition| _ = partition.delete_records_before(offset(1)).unwrap(),
    );
    assert!(reached);
}

#[test]
fn retention_wakes_who_waits_for_committed_ones() {
    let rig = Rig::new(&[("retention.ms", "1000")]);
    begin_transaction(&rig);
    rig.partition.roll().unwrap();
    append_at(&rig.partition, "kept", 5000);
    let reached = woken_by(
        &rig.partition,
        |partition, timeout| partition.wait_for_committed(offset(0), timeout),
        |_| _ = rig.store.tick(at(5001)).unwrap(),
    );
    assert!(reached && rig.partition.log_start_offset() == offset(1));
}

#[test]
fn a_marker_that_fails_behind_the_log_wakes_who_waits_for_its_offset() {
    let rig = Rig::new(&[]);
    begin_transaction(&rig);
    let fault = Fault::new(Operation::Write, Effect::Error(io::ErrorKind::Other)).from_nth(1);
    let reached = woken_by(
        &rig.partition,
        |partition, timeout| partition.wait_for(offset(1), timeout),
        |partition| {
            rig.vfs.inject(Fault { path_contains: ".txnindex".to_owned(), ..fault });
            partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap_err();
        },
    );
    assert!(reached);
}

#[test]
fn reopening_wakes_who_waits_for_what_it_finds() {
    let other = Rig::new(&[]);
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    append(&other.partition, "a");
    append(&other.partition, "b");
    let path = rig.partition.path().join("00000000000000000000.log");
    let mut longer = vec![0; usize::try_from(other.partition.size()).unwrap()];
    other.memory.open(&path, OpenMode::Read).unwrap().read_at(&mut longer, 0).unwrap();
    go_offline(&rig);
    let reached = woken_by(
        &rig.partition,
        |partition, timeout| partition.wait_for(offset(1), timeout),
        |partition| {
            rig.memory.open(&path, OpenMode::Write).unwrap().write_at(&longer, 0).unwrap();
            partition.reopen().unwrap();
        },
    );
    assert!(reached);
}

#[test]
fn going_offline_ends_a_wait() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    let reached =
        woken_by(&rig.partition, |partition, timeout| partition.wait_for(offset(9), timeout), |_| go_offline(&rig));
    assert!(!reached);
}

#[test]
fn a_wait_for_a_partition_that_is_offline_lasts_and_ends_once_it_is_written_to_again() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    go_offline(&rig);
    assert!(!rig.partition.wait_for(offset(1), Duration::from_millis(20)));
    let reached = woken_by(
        &rig.partition,
        |partition, timeout| partition.wait_for(offset(1), timeout),
        |partition| {
            partition.reopen().unwrap();
            append(partition, "b");
        },
    );
    assert!(reached);
}

fn go_offline(rig: &Rig) {
    rig.vfs.inject(Fault::new(Operation::Sync, Effect::Error(io::ErrorKind::Other)));
    rig.partition.flush().unwrap_err();
    assert!(matches!(rig.partition.append(&[Record::new("v")]), Err(LogError::Offline { .. })));
}
