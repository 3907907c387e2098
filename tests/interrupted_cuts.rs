//! Cuts of a log's end that a kill, a failing disk or a power loss interrupts, or that come right after one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use stratalog::format::ProducerStamp;
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{Appended, Durability, LogError, Partition, Record, StoreOptions};
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
    compacted_in_segments_of("300")
}

fn compacted_in_segments_of(size: &str) -> Rig {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("segment.bytes", size), ("min.cleanable.dirty.ratio", "0")]);
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

/// A compacted log of three segments with records at 7 and 12 to 16, of which those below 10 are deleted.
fn compacted_with_a_start() -> Rig {
    let rig = compacted_in_segments_of("3000");
    ["x", "y"].into_iter().for_each(|value| _ = durable_keyed(&rig.partition, value));
    rig.partition.roll().unwrap();
    durable_keyed(&rig.partition, "z");
    rig.partition.delete_records_before(offset(10)).unwrap();
    rig.store.checkpoint().unwrap();
    rig
}

/// A log of batches with four records each that was cut inside one, so that it lacks 12 and 13; its start is 5, its end 18.
fn cut_inside_a_batch() -> Rig {
    cut_inside_a_batch_with(&[])
}

fn cut_inside_a_preallocated_batch() -> Rig {
    cut_inside_a_batch_with(&[("preallocate", "true"), ("segment.bytes", "500")])
}

fn cut_inside_a_batch_with(entries: &[(&str, &str)]) -> Rig {
    let rig = Rig::new(entries);
    let append_four = || _ = rig.partition.append_with(&vec![Record::new("v"); 4], Durability::Durable).unwrap();
    append_four();
    append_four();
    rig.partition.roll().unwrap();
    append_four();
    append_four();
    rig.partition.truncate_to(offset(14)).unwrap();
    append_four();
    rig.partition.delete_records_before(offset(5)).unwrap();
    rig.store.checkpoint().unwrap();
    rig
}

fn durable_keyed(partition: &Partition, key: &str) -> i64 {
    let appended = partition.append_with(&[Record::keyed(key, "v")], Durability::Durable).unwrap();
    appended.base_offset.value()
}

fn offsets_from(partition: &Partition, start: i64) -> Vec<i64> {
    read_all(partition).into_iter().map(|(at, _)| at).filter(|at| *at >= start).collect()
}

#[test]
fn an_interrupted_cut_around_the_log_start_leaves_the_old_log_or_a_prefix_of_it() {
    for (prepare, start, cuts) in [
        (compacted_with_a_start as fn() -> Rig, 10, [9, 10, 11]),
        (cut_inside_a_batch, 5, [1, 2, 5]),
        (cut_inside_a_preallocated_batch, 5, [1, 2, 5]),
    ] {
        let before = offsets_from(&prepare().partition, start);
        for end in cuts {
            let cut = |rig: &Rig| _ = rig.partition.truncate_to(offset(end));
            end_at_each_change(prepare, cut, |rig, image, when| {
                let store = open(Arc::new(image), &rig.clock);
                let after = offsets_from(&partition_of(&store), start);
                assert!(before.starts_with(&after), "{when}: cut to {end}, {before:?} became {after:?}");
            });
        }
    }
}

#[test]
fn a_cut_around_the_log_start_that_fails_anywhere_leaves_the_old_log_or_a_prefix_of_it() {
    for end in [9, 10, 11] {
        for nth in 1.. {
            let rig = compacted_with_a_start();
            rig.vfs.inject(Fault::new(Operation::Any, Effect::Error(ErrorKind::Other)).nth(nth));
            rig.partition.truncate_to(offset(end)).ok();
            rig.vfs.clear_faults();
            if rig.vfs.faults_struck() == 0 {
                break;
            }
            rig.partition.reopen().unwrap();
            let after = offsets_from(&rig.partition, 10);
            assert!([12, 13, 14, 15, 16].starts_with(&after), "cut to {end}, fault {nth}: {after:?}");
        }
    }
}

#[test]
fn an_opening_that_can_not_write_its_notes_lets_no_power_loss_leave_a_hole_later() {
    let prepare = || {
        let rig =
            Rig::new(&[("cleanup.policy", "compact"), ("segment.bytes", "200"), ("min.cleanable.dirty.ratio", "0")]);
        (0..30).for_each(|number| _ = durable_keyed(&rig.partition, ["a", "b"][number % 2]));
        rig.partition.roll().unwrap();
        rig.partition.compact().unwrap();
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
        rig
    };
    for changes in 0.. {
        let rig = prepare();
        rig.vfs.crash_after(changes);
        rig.partition.truncate_to(offset(5)).ok();
        let has_ended = !rig.vfs.is_crashed();
        grow_after_an_opening_without_notes(&rig, &rig.memory.process_crash_image(), &format!("killed at {changes}"));
        if has_ended {
            return;
        }
    }
}

#[test]
fn an_opening_that_can_not_write_its_first_notes_lets_no_power_loss_leave_a_hole_later() {
    let rig = Rig::new(&[("segment.bytes", "200")]);
    (0..4).for_each(|_| _ = durable(&rig.partition, "v"));
    let image = rig.memory.process_crash_image();
    image.remove_file(Path::new("/log/stratalog-unbroken")).unwrap();
    grow_after_an_opening_without_notes(&rig, &image, "no note was there");
}

/// Opens the store on a disk without room for the note of gaps, appends when there is room again, and loses power.
fn grow_after_an_opening_without_notes(rig: &Rig, image: &MemoryVfs, when: &str) {
    let vfs = FaultyVfs::new(image.clone());
    let full = Fault::new(Operation::Write, Effect::Error(ErrorKind::StorageFull));
    vfs.inject(Fault { path_contains: "stratalog-unbroken".into(), ..full }.from_nth(1));
    let Ok(store) = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone())).open("/log")
    else {
        return;
    };
    let partition = partition_of(&store);
    let first = partition.log_end_offset().value();
    vfs.clear_faults();
    for number in 0..10 {
        partition.append(&[Record::keyed(&format!("key {number}"), "value")]).unwrap();
    }
    for seed in 0..60 {
        let store = open(Arc::new(image.torn_crash_image(seed)), &rig.clock);
        let rows = offsets_from(&partition_of(&store), first);
        assert!(rows.iter().copied().eq((first..).take(rows.len())), "{when}, power lost with {seed}: {rows:?}");
    }
}

#[test]
fn a_restart_finds_the_log_that_reopening_after_a_failed_cut_made() {
    for preallocate in ["true", "false"] {
        for nth in 1.. {
            let rig = Rig::new(&[("preallocate", preallocate), ("segment.bytes", "500")]);
            for _ in 0..2 {
                rig.partition.append_with(&vec![Record::new("v"); 3], Durability::Durable).unwrap();
            }
            rig.partition.delete_records_before(offset(4)).unwrap();
            rig.store.checkpoint().unwrap();
            rig.vfs.inject(Fault::new(Operation::Any, Effect::Error(ErrorKind::Other)).nth(nth));
            rig.partition.truncate_to(offset(4)).ok();
            rig.vfs.clear_faults();
            if rig.vfs.faults_struck() == 0 {
                break;
            }
            let end = rig.partition.reopen().unwrap().log_end_offset;
            let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
            assert_eq!(partition_of(&store).log_end_offset(), end, "preallocate: {preallocate}, call {nth}");
        }
    }
}

#[test]
fn what_was_deleted_stays_so_though_a_cut_below_it_fails_or_is_interrupted() {
    type Cut = fn(&Partition) -> Result<(), LogError>;
    let cuts: [Cut; 2] =
        [|partition| partition.truncate_to(offset(3)), |partition| partition.truncate_fully_and_start_at(offset(3))];
    for (cut, preallocate) in cuts.into_iter().flat_map(|cut| [(cut, "false"), (cut, "true")]) {
        let prepare = || {
            let rig = Rig::new(&[("preallocate", preallocate), ("segment.bytes", "4000")]);
            (0..10).for_each(|_| _ = durable(&rig.partition, "v"));
            rig.partition.delete_records_before(offset(6)).unwrap();
            rig.store.checkpoint().unwrap();
            rig
        };
        let is_deleted = |partition: &Partition| read_all(partition).iter().all(|(place, _)| *place >= 6);
        end_at_each_change(
            prepare,
            |rig| cut(&rig.partition).unwrap_or(()),
            |rig, image, case| {
                assert!(is_deleted(&partition_of(&open(Arc::new(image), &rig.clock))), "{preallocate}, {case}");
            },
        );
        for nth in 1.. {
            let rig = prepare();
            rig.vfs.inject(Fault::new(Operation::Any, Effect::Error(ErrorKind::Other)).nth(nth));
            cut(&rig.partition).ok();
            rig.vfs.clear_faults();
            if rig.vfs.faults_struck() == 0 {
                break;
            }
            rig.partition.reopen().unwrap();
            assert!(is_deleted(&rig.partition), "{preallocate}, call {nth}");
        }
    }
}

/// Damages the batch of the first segment that begins at `position`.
fn damage(image: &MemoryVfs, position: u64) {
    let path = Path::new("/log/t-0/00000000000000000000.log");
    image.open(path, OpenMode::Write).unwrap().write_at(&[0xff], position + 65).unwrap();
}

#[test]
fn what_an_interrupted_opening_kept_aside_is_reported_also_where_the_next_one_cuts_elsewhere() {
    for changes in 0.. {
        let rig = Rig::new(&[]);
        let log = Path::new("/log/t-0/00000000000000000000.log");
        let starts = ["first", "second", "third"].map(|value| {
            let size = rig.memory.metadata(log).unwrap().unwrap().size;
            append(&rig.partition, value);
            size
        });
        let image = rig.memory.process_crash_image();
        damage(&image, starts[2]);
        let faulty = FaultyVfs::new(image.clone());
        faulty.crash_after(changes);
        let options = || StoreOptions::new().clock(Arc::new(rig.clock.clone()));
        options().vfs(Arc::new(faulty.clone())).open("/log").ok();
        let image = image.process_crash_image();
        damage(&image, starts[1]);
        let store = options().vfs(Arc::new(image.clone())).open("/log").unwrap();
        let reported: Vec<_> = store.open_report().partitions.iter().flat_map(|recovery| &recovery.cuts).collect();
        let names = image.read_dir(Path::new("/log/t-0")).unwrap().into_iter().map(|entry| entry.name);
        for name in names.filter(|name| name.ends_with(".cut")) {
            let path = Path::new("/log/t-0").join(&name);
            let size = image.metadata(&path).unwrap().unwrap().size;
            let found = reported.iter().any(|cut| cut.moved_to == path && cut.bytes == size);
            assert!(found, "{name} of {size} bytes, change {changes}: {reported:?}");
        }
        if !faulty.is_crashed() {
            return;
        }
    }
}
