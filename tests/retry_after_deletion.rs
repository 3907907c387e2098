//! A retry is answered with its offsets also after its records were deleted and the store was opened again, while its
//! producer lives; and what was cut away is forgotten.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::ProducerStamp;
use stratalog::format::TransactionResult::{Abort, Commit};
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, PathFilter, Vfs};
use stratalog::{Appended, Durability, LogError, LogStore, ManualClock, Partition, Record, StoreOptions};
use support::{Rig, append, at, bases, in_transaction, marker, offset, open, partition_of, read_committed, stamp};

const DAY: i64 = 86_400_000;

fn send(partition: &Partition, stamp: ProducerStamp, count: usize) -> Result<Appended, LogError> {
    partition.append_from(stamp, &vec![Record::new("value"); count], Durability::Written)
}

type Deletion = (&'static str, fn(&Rig));
type Ending = (&'static str, fn(&Rig) -> MemoryVfs);

/// How the records go.
const DELETIONS: [Deletion; 4] = [
    ("deleted up to the log end", |rig| {
        rig.partition.delete_records_before(rig.partition.log_end_offset()).unwrap();
    }),
    ("deleted up to the log end of a fresh segment, and removed", |rig| {
        rig.partition.roll().unwrap();
        rig.partition.delete_records_before(rig.partition.log_end_offset()).unwrap();
        assert!(rig.store.tick(at(0)).unwrap().expired_segments > 0);
    }),
    ("expired by age", |rig| {
        let config = support::config(&[("retention.ms", "1000"), ("segment.bytes", "300")]);
        rig.store.topic("t").unwrap().alter_config(config).unwrap();
        assert!(rig.store.tick(at(2000)).unwrap().expired_segments > 0);
        assert_eq!(rig.partition.segments().len(), 1);
    }),
    ("expired by age, and appended to since", |rig| {
        let config = support::config(&[("retention.ms", "1000"), ("segment.bytes", "300")]);
        rig.store.topic("t").unwrap().alter_config(config).unwrap();
        assert!(rig.store.tick(at(2000)).unwrap().expired_segments > 0);
        append(&rig.partition, "plain");
    }),
];

/// What is left of the store then.
const ENDINGS: [Ending; 6] = [
    ("closed", |rig| {
        rig.store.clone().close().unwrap();
        rig.memory.clone()
    }),
    ("killed", |rig| rig.memory.process_crash_image()),
    ("killed after a checkpoint", |rig| {
        rig.store.checkpoint().unwrap();
        rig.memory.process_crash_image()
    }),
    ("power lost after a checkpoint", |rig| {
        rig.store.checkpoint().unwrap();
        rig.memory.crash_image()
    }),
    ("power lost after a flush", |rig| {
        rig.partition.flush().unwrap();
        rig.memory.crash_image()
    }),
    ("power lost after a flush and a checkpoint, torn", |rig| {
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
        rig.memory.torn_crash_image(5)
    }),
];

fn rig() -> Rig {
    Rig::new(&[("segment.bytes", "300"), ("index.interval.bytes", "0")])
}

#[test]
fn a_retry_gets_its_offsets_after_every_record_was_deleted_and_the_store_was_opened_again() {
    for (deletion, delete) in DELETIONS {
        for (ending, end) in ENDINGS {
            let case = format!("{deletion}, {ending}");
            let rig = rig();
            for sequence in 0..6 {
                send(&rig.partition, stamp(7, 2, sequence * 2), 2).unwrap();
            }
            send(&rig.partition, stamp(8, 0, 40), 1).unwrap();
            rig.partition.flush().unwrap();
            delete(&rig);
            let log_end = rig.partition.log_end_offset();
            let mut image = end(&rig);
            // Once more without anything that is new.
            for again in ["first", "second"] {
                let store = open(Arc::new(image.clone()), &rig.clock);
                let partition = partition_of(&store);
                assert!(partition.log_end_offset() >= partition.log_start_offset(), "{case}");
                let retry = send(&partition, stamp(7, 2, 10), 2).unwrap();
                assert!(retry.is_duplicate, "{case}, {again} time");
                assert_eq!((retry.base_offset, retry.last_offset), (offset(10), offset(11)), "{case}");
                assert!(send(&partition, stamp(8, 0, 40), 1).unwrap().is_duplicate, "{case}, {again} time");
                assert!(send(&partition, stamp(7, 2, 13), 1).is_err(), "{case}: a gap");
                assert!(send(&partition, stamp(7, 1, 12), 1).is_err(), "{case}: a stale epoch");
                assert!(partition.log_end_offset() <= log_end, "{case}: nothing was written");
                image = image.process_crash_image();
            }
            let store = open(Arc::new(image), &rig.clock);
            assert!(!send(&partition_of(&store), stamp(7, 2, 12), 1).unwrap().is_duplicate, "{case}: it goes on");
        }
    }
}

#[test]
fn a_producer_whose_records_were_deleted_expires_all_the_same() {
    for (ending, end) in ENDINGS {
        let rig = rig();
        send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
        rig.partition.flush().unwrap();
        rig.partition.delete_records_before(offset(1)).unwrap();
        let image = end(&rig);
        rig.clock.set(at(DAY));
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.producers(), [], "{ending}");
    }
}

#[test]
fn a_transaction_that_is_open_below_the_log_start_stays_open() {
    for (deletion, delete) in DELETIONS {
        for (ending, end) in ENDINGS {
            let case = format!("{deletion}, {ending}");
            let rig = rig();
            append(&rig.partition, "before");
            send(&rig.partition, in_transaction(7, 0, 0), 1).unwrap();
            rig.partition.flush().unwrap();
            delete(&rig);
            let before = rig.partition.open_transactions();
            assert_eq!(before.len(), 1, "{case}");
            let store = open(Arc::new(end(&rig)), &rig.clock);
            let partition = partition_of(&store);
            assert_eq!(partition.open_transactions(), before, "{case}");
            let (_, first) = before[0];
            assert_eq!(partition.last_stable_offset(), partition.log_start_offset().max(first), "{case}");
            assert!(send(&partition, in_transaction(7, 0, 0), 1).unwrap().is_duplicate, "{case}");
            send(&partition, in_transaction(7, 0, 1), 1).unwrap();
            partition.end_transaction(&marker(Abort, 7, 1), Durability::Written).unwrap();
            send(&partition, in_transaction(7, 1, 0), 1).unwrap();
            partition.end_transaction(&marker(Commit, 7, 2), Durability::Written).unwrap();
            let seen = read_committed(&partition, 1 << 20);
            assert_eq!(seen.iter().filter(|(_, value)| value == "value").count(), 1, "{case}: {seen:?}");
        }
    }
}

#[test]
fn what_was_cut_away_is_forgotten_also_by_the_snapshots() {
    for (ending, end) in ENDINGS {
        for start in [0, 3, 20, 100] {
            let rig = rig();
            for sequence in 0..20 {
                send(&rig.partition, stamp(7, 0, sequence), 1).unwrap();
            }
            rig.partition.delete_records_before(offset(20)).unwrap();
            rig.store.tick(at(0)).unwrap();
            rig.partition.truncate_fully_and_start_at(offset(start)).unwrap();
            let store = open(Arc::new(end(&rig)), &rig.clock);
            let partition = partition_of(&store);
            assert_eq!(partition.producers(), [], "{ending}, {start}");
            let first = send(&partition, stamp(7, 0, 19), 1).unwrap();
            assert!(!first.is_duplicate, "{ending}, {start}");
        }
        let rig = rig();
        for sequence in 0..20 {
            send(&rig.partition, stamp(7, 0, sequence), 1).unwrap();
        }
        rig.partition.delete_records_before(offset(17)).unwrap();
        rig.partition.truncate_to(offset(15)).unwrap();
        let store = open(Arc::new(end(&rig)), &rig.clock);
        let partition = partition_of(&store);
        let again = send(&partition, stamp(7, 0, 15), 1).unwrap();
        assert!(!again.is_duplicate, "{ending}");
    }
}

#[test]
fn a_follower_that_was_emptied_at_its_end_forgets_its_producers() {
    let rig = rig();
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    rig.partition.delete_records_before(offset(1)).unwrap();
    rig.store.checkpoint().unwrap();
    rig.partition.truncate_fully_and_start_at(offset(1)).unwrap();
    assert_eq!(rig.partition.producers(), []);
    let image = rig.memory.process_crash_image();
    assert_eq!(partition_of(&open(Arc::new(image), &rig.clock)).producers(), []);
}

#[test]
fn deleting_the_same_log_again_and_again_leaves_one_snapshot_at_its_end() {
    let rig = rig();
    for round in 0..10 {
        send(&rig.partition, stamp(7, 0, round), 1).unwrap();
        rig.partition.delete_records_before(rig.partition.log_end_offset()).unwrap();
        rig.store.tick(at(0)).unwrap();
        rig.store.checkpoint().unwrap();
    }
    let live: Vec<_> = rig.files().into_iter().filter(|name| name.ends_with(".snapshot")).collect();
    assert!(live.len() <= bases(&rig.partition).len() + 1, "{live:?}");
}

#[test]
fn a_snapshot_below_the_first_segment_is_not_believed() {
    let rig = rig();
    for sequence in 0..24 {
        send(&rig.partition, stamp(7, 0, sequence), 1).unwrap();
    }
    rig.partition.flush().unwrap();
    let segments = bases(&rig.partition);
    assert!(segments.len() > 3);
    let stale = rig.partition.path().join(format!("{:020}.snapshot", segments[1]));
    let saved = rig.memory.open(&stale, stratalog::vfs::OpenMode::Read).unwrap();
    let saved = saved.map(saved.size().unwrap()).unwrap().to_vec();
    rig.partition.delete_records_before(offset(24)).unwrap();
    rig.store.tick(at(0)).unwrap();
    assert!(bases(&rig.partition)[0] > segments[1]);
    let image = rig.memory.process_crash_image();
    // All others are gone, and an old one came back from a copy.
    for entry in image.read_dir(rig.partition.path()).unwrap() {
        if entry.name.ends_with(".snapshot") {
            image.remove_file(&rig.partition.path().join(entry.name)).unwrap();
        }
    }
    image.open(&stale, OpenMode::Create).unwrap().write_at(&saved, 0).unwrap();
    let store = open(Arc::new(image), &rig.clock);
    let partition = partition_of(&store);
    // It would know of fewer batches than the producer has sent, and refuse the next one.
    send(&partition, stamp(7, 0, 24), 1).unwrap();
}

/// Lets the machine end at each change that `work` makes, and checks what then is left, whatever was not synced.
fn crash_at_every_change(work: fn(&Rig), check: impl Fn(&LogStore, &str)) {
    for changes in 0.. {
        let rig = rig();
        for sequence in 0..8 {
            send(&rig.partition, stamp(7, 2, sequence), 1).unwrap();
        }
        rig.partition.roll().unwrap();
        for value in ["a", "b", "c", "d", "e", "f", "g"] {
            append(&rig.partition, value);
        }
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
        rig.vfs.crash_after(changes);
        work(&rig);
        let has_ended = !rig.vfs.is_crashed();
        for seed in 0..6 {
            let mut image = rig.vfs.crash_image(seed).unwrap();
            for opening in 0..2 {
                let store = open(Arc::new(image.clone()), &rig.clock);
                check(&store, &format!("change {changes}, seed {seed}, opening {opening}"));
                image = image.crash_image();
            }
        }
        if has_ended {
            return;
        }
    }
}

fn expect_retry(store: &LogStore, when: &str) {
    let retry = send(&partition_of(store), stamp(7, 2, 7), 1).unwrap();
    assert!(retry.is_duplicate && retry.base_offset == offset(7), "{when}");
}

#[test]
fn a_power_loss_at_any_moment_of_a_retention_forgets_no_producer() {
    let work = |rig: &Rig| {
        let config =
            support::config(&[("retention.ms", "1000"), ("segment.bytes", "300"), ("file.delete.delay.ms", "0")]);
        if rig.store.topic("t").unwrap().alter_config(config).is_ok() {
            for time in [2000, 3000] {
                let _ = rig.store.tick(at(time));
            }
        }
    };
    crash_at_every_change(work, expect_retry);
}

#[test]
fn a_power_loss_at_any_moment_of_a_deletion_forgets_no_producer() {
    let work = |rig: &Rig| {
        let _ = rig.partition.delete_records_before(rig.partition.log_end_offset());
        for time in [0, DAY / 2] {
            let _ = rig.store.tick(at(time));
        }
        let _ = rig.partition.append(&[Record::new("v")]);
    };
    crash_at_every_change(work, expect_retry);
}

#[test]
fn a_compaction_of_what_is_left_forgets_no_producer_of_what_was_deleted() {
    let entries = [("cleanup.policy", "compact,delete"), ("segment.bytes", "300"), ("file.delete.delay.ms", "0")];
    let rig = Rig::new(&entries);
    let keyed = |stamp| {
        rig.partition.append_from(stamp, &[Record::keyed("k", "v")], Durability::Durable).unwrap();
    };
    for sequence in 0..8 {
        keyed(stamp(7, 2, sequence));
    }
    rig.partition.roll().unwrap();
    for sequence in 0..12 {
        keyed(stamp(8, 0, sequence));
    }
    rig.partition.delete_records_before(offset(8)).unwrap();
    assert!(rig.store.tick(at(0)).unwrap().expired_segments > 0);
    rig.partition.roll().unwrap();
    let before = bases(&rig.partition).len();
    rig.partition.compact().unwrap();
    assert!(bases(&rig.partition).len() < before);
    rig.partition.flush().unwrap();
    // The recovery points are lost, so that all is verified and replayed from the first segment on.
    for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
        for name in ["recovery-point-offset-checkpoint", "stratalog-verified"] {
            let _ = image.remove_file(&std::path::Path::new("/log").join(name));
        }
        let mut image = image;
        for opening in 0..3 {
            let store = open(Arc::new(image.clone()), &rig.clock);
            let partition = partition_of(&store);
            for stamp in [stamp(7, 2, 7), stamp(8, 0, 11)] {
                let retry = partition.append_from(stamp, &[Record::keyed("k", "v")], Durability::Written).unwrap();
                assert!(retry.is_duplicate, "opening {opening}");
            }
            image = image.crash_image();
        }
    }
}

/// Expires six batches of producer 7, each in a segment of its own, where `prepare` has been at work on the snapshots.
fn expire(durability: Durability, prepare: impl Fn(&Rig)) -> Rig {
    let rig = rig();
    let config = support::config(&[("retention.ms", "1000"), ("segment.bytes", "100")]);
    rig.store.topic("t").unwrap().alter_config(config).unwrap();
    prepare(&rig);
    for sequence in 0..6 {
        rig.partition.append_from(stamp(7, 0, sequence), &[Record::new("value")], durability).unwrap();
    }
    rig.clock.set(at(5000));
    rig
}

/// How many segments have their names.
fn count_logs(rig: &Rig) -> usize {
    let names = rig.memory.read_dir(rig.partition.path()).unwrap();
    names.iter().filter(|entry| entry.name.ends_with(".log")).count()
}

#[test]
fn a_retry_gets_its_offsets_where_no_snapshot_could_be_written_before_its_segment_expired() {
    let rig = expire(Durability::Durable, |rig| {
        rig.vfs.inject(
            Fault::new(Operation::Write, Effect::OsError(28)).on(PathFilter::contains(".snapshot")).from_nth(1),
        );
    });
    rig.store.tick(at(5000)).unwrap();
    let report = rig.store.tick(at(6000)).unwrap();
    assert!(!report.failures.is_empty(), "what can't be removed is told");
    for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.log_start_offset(), offset(6), "it has expired all the same");
        let retry = send(&partition, stamp(7, 0, 5), 1).unwrap();
        assert!(retry.is_duplicate);
        assert_eq!(retry.base_offset, offset(5));
    }
    rig.vfs.clear_faults();
    rig.store.tick(at(7000)).unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(count_logs(&rig), 1, "with room for the snapshot they go");
    assert!(send(&partition_of(&store), stamp(7, 0, 5), 1).unwrap().is_duplicate);
}

#[test]
fn on_a_full_disk_expired_segments_go_as_far_as_a_snapshot_covers_them() {
    let rig = expire(Durability::Durable, |_| ());
    let last = rig.partition.segments().last().unwrap().base_offset();
    let name = format!("{:020}.snapshot", last.value() + 1);
    rig.vfs.inject(Fault::new(Operation::Write, Effect::OsError(28)).on(PathFilter::contains(name)).from_nth(1));
    rig.store.tick(at(5000)).unwrap();
    assert_eq!(count_logs(&rig), 2, "the active one, and the one whose producers only it remembers");
    let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    assert!(send(&partition_of(&store), stamp(7, 0, 5), 1).unwrap().is_duplicate);
}

#[test]
fn on_a_full_disk_expired_segments_go_where_a_snapshot_covers_them_all() {
    let rig = expire(Durability::Durable, |_| ());
    rig.partition.roll().unwrap();
    rig.partition.flush().unwrap();
    rig.vfs.inject(Fault::new(Operation::Write, Effect::OsError(28)).from_nth(1));
    rig.store.tick(at(5000)).unwrap();
    assert_eq!(count_logs(&rig), 1);
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert!(send(&partition_of(&store), stamp(7, 0, 5), 1).unwrap().is_duplicate);
}

#[test]
fn a_retry_gets_its_offsets_where_the_snapshot_of_an_earlier_life_was_never_synced() {
    let rig = expire(Durability::Written, |_| ());
    rig.clock.set(at(0));
    // The sealed segments are synced, their snapshots are not.
    rig.store.tick(at(0)).unwrap();
    rig.clock.set(at(5000));
    let memory = rig.memory.process_crash_image();
    let store = open(Arc::new(memory.clone()), &rig.clock);
    store.tick(at(5000)).unwrap();
    assert_eq!(partition_of(&store).log_start_offset(), offset(6));
    for seed in 0..50 {
        let store = open(Arc::new(memory.torn_crash_image(seed)), &rig.clock);
        assert!(send(&partition_of(&store), stamp(7, 0, 5), 1).unwrap().is_duplicate, "seed {seed}");
    }
}

/// Opens what was left again and again, with the end of the machine at each change of an opening in between, and each time sends the
/// producer's last batch again.
fn expect_retry_whatever_ends_the_opening(image: &MemoryVfs, clock: &ManualClock, end: i64) {
    let check = |image: MemoryVfs, when: &str| {
        for opening in 0..3 {
            let store = open(Arc::new(image.clone()), clock);
            let partition = partition_of(&store);
            assert_eq!(partition.log_end_offset(), offset(end), "{when}, opening {opening}");
            assert!(send(&partition, stamp(7, 0, 0), 1).unwrap().is_duplicate, "{when}, opening {opening}");
        }
    };
    check(image.process_crash_image(), "as it was left");
    for change in 0.. {
        let vfs = FaultyVfs::new(image.process_crash_image());
        vfs.crash_after(change);
        drop(StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone())).open("/log"));
        for seed in 0..4 {
            check(vfs.crash_image(seed).unwrap(), &format!("change {change}, seed {seed}"));
        }
        if !vfs.is_crashed() {
            return;
        }
    }
}

#[test]
fn a_log_that_lost_its_end_and_begins_anew_at_its_noted_start_knows_its_producers_and_its_end() {
    let rig = rig();
    rig.partition.append_from(stamp(7, 0, 0), &[Record::new("v")], Durability::Durable).unwrap();
    append(&rig.partition, "not durable");
    rig.partition.delete_records_before(offset(2)).unwrap();
    rig.store.checkpoint().unwrap();
    expect_retry_whatever_ends_the_opening(&rig.memory.crash_image(), &rig.clock, 2);
}

#[test]
fn what_an_earlier_life_left_below_the_log_start_is_durable_once_reopening_says_so() {
    let rig = rig();
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    rig.partition.roll().unwrap();
    append(&rig.partition, "v");
    let killed = rig.memory.process_crash_image();
    let store = open(Arc::new(killed.clone()), &rig.clock);
    partition_of(&store).delete_records_before(offset(2)).unwrap();
    partition_of(&store).reopen().unwrap();
    expect_retry_whatever_ends_the_opening(&killed.crash_image(), &rig.clock, 2);
}

#[test]
fn a_damaged_transaction_index_below_the_log_start_costs_no_snapshot_of_the_producers() {
    let rig = rig();
    send(&rig.partition, in_transaction(8, 0, 0), 1).unwrap();
    rig.partition.end_transaction(&marker(Abort, 8, 0), Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    rig.partition.roll().unwrap();
    append(&rig.partition, "v");
    rig.partition.flush().unwrap();
    rig.partition.delete_records_before(offset(4)).unwrap();
    rig.store.checkpoint().unwrap();
    let image = rig.memory.process_crash_image();
    let index = rig.partition.path().join(format!("{:020}.txnindex", 0));
    image.open(&index, OpenMode::Write).unwrap().write_at(&[0xff; 8], 0).unwrap();
    // Nor do these segments help.
    let log = image.open(&rig.partition.path().join(format!("{:020}.log", 2)), OpenMode::Write).unwrap();
    log.set_size(0).unwrap();
    expect_retry_whatever_ends_the_opening(&image, &rig.clock, 4);
}

#[test]
fn a_transaction_that_goes_on_above_the_log_start_begins_where_it_did_also_without_the_snapshot() {
    let rig = rig();
    send(&rig.partition, in_transaction(8, 0, 0), 1).unwrap();
    rig.partition.roll().unwrap();
    rig.memory.remove_file(&rig.partition.path().join(format!("{:020}.snapshot", 1))).unwrap();
    send(&rig.partition, in_transaction(8, 0, 1), 1).unwrap();
    rig.partition.delete_records_before(offset(1)).unwrap();
    let before = rig.partition.open_transactions();
    rig.store.clone().close().unwrap();
    drop(open(Arc::new(rig.memory.clone()), &rig.clock));
    for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
        let store = open(Arc::new(image.clone()), &rig.clock);
        assert_eq!(partition_of(&store).open_transactions(), before);
        assert_eq!(partition_of(&open(Arc::new(image.process_crash_image()), &rig.clock)).open_transactions(), before);
    }
}

#[test]
fn what_was_durable_below_the_log_start_is_known_though_a_power_loss_took_what_lay_between() {
    let rig = rig();
    rig.partition.append_from(stamp(7, 0, 0), &[Record::new("v")], Durability::Durable).unwrap();
    rig.partition.append_from(in_transaction(8, 0, 0), &[Record::new("v")], Durability::Durable).unwrap();
    append(&rig.partition, "not durable");
    rig.partition.roll().unwrap();
    ["nor this", "cut"].into_iter().for_each(|value| _ = append(&rig.partition, value));
    rig.partition.delete_records_before(offset(3)).unwrap();
    // Which notes the log start, and syncs what it leaves in the last segment.
    rig.partition.truncate_to(offset(4)).unwrap();
    for seed in 0..200 {
        let image = rig.memory.torn_crash_image(seed);
        for opening in 0..2 {
            let store = open(Arc::new(image.clone()), &rig.clock);
            let partition = partition_of(&store);
            assert!(send(&partition, stamp(7, 0, 0), 1).unwrap().is_duplicate, "seed {seed}, opening {opening}");
            assert_eq!(partition.open_transactions().len(), 1, "seed {seed}, opening {opening}");
        }
    }
}

#[test]
fn a_snapshot_whose_sync_failed_for_want_of_room_lets_no_segment_go() {
    let rig = rig();
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    rig.partition.roll().unwrap();
    append(&rig.partition, "v");
    rig.partition.delete_records_before(offset(1)).unwrap();
    let fault = Fault::new(Operation::Sync, Effect::Error(std::io::ErrorKind::StorageFull));
    rig.vfs.inject(Fault { path_contains: ".snapshot".to_owned(), ..fault });
    assert_eq!(rig.store.tick(at(0)).unwrap().failures.len(), 1);
    // What that sync has lost is written again before the next.
    assert!(rig.store.tick(at(1)).unwrap().failures.is_empty());
    rig.partition.flush().unwrap();
    for image in [rig.memory.crash_image(), rig.memory.process_crash_image()] {
        let store = open(Arc::new(image), &rig.clock);
        assert!(send(&partition_of(&store), stamp(7, 0, 0), 1).unwrap().is_duplicate);
    }
}

#[test]
fn a_torn_batch_below_the_log_start_makes_no_producer_and_opens_no_transaction() {
    let rig = rig();
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    send(&rig.partition, in_transaction(8, 0, 0), 1).unwrap();
    rig.partition.roll().unwrap();
    append(&rig.partition, "v");
    rig.partition.delete_records_before(offset(2)).unwrap();
    rig.store.checkpoint().unwrap();
    let second = rig.partition.segments()[0].size() / 2;
    for from in 0..60 {
        let image = rig.memory.process_crash_image();
        for end in [2, 3] {
            image.remove_file(&rig.partition.path().join(format!("{end:020}.snapshot"))).unwrap();
        }
        let log = image.open(&rig.partition.path().join(format!("{:020}.log", 0)), OpenMode::Write).unwrap();
        log.write_at(&vec![0; usize::try_from(second).unwrap() - from], second + from as u64).unwrap();
        for opening in 0..2 {
            let partition = partition_of(&open(Arc::new(image.clone()), &rig.clock));
            let ids: Vec<_> = partition.producers().iter().map(|entry| entry.producer_id.value()).collect();
            assert_eq!(ids, [7], "zeros from byte {from} of the second batch on, opening {opening}");
            assert_eq!(partition.open_transactions(), [], "zeros from byte {from} of the second batch on");
        }
    }
}
