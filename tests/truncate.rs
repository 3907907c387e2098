//! Cutting the end of a log: exact afterwards, and nothing that a reader holds changes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use stratalog::vfs::{Hook, Operation};
use stratalog::{LogError, OffsetSpec, Partition, Record};
use support::{Rig, append, append_at, at, bases, offset, open, partition_of, read_all};

#[test]
fn appending_and_cutting_the_last_record_thirty_times_reads_exact_each_time() {
    let rig = Rig::new(&[("index.interval.bytes", "0")]);
    (0..5).for_each(|i| assert_eq!(append(&rig.partition, &format!("kept {i}")), i));
    let kept = read_all(&rig.partition);
    let held = rig.partition.read(offset(0)).fetch().unwrap();
    let bytes = held.bytes().to_vec();
    for round in 0..30 {
        assert_eq!(append(&rig.partition, &format!("cut {round}")), 5);
        let reader = rig.partition.read(offset(5)).fetch().unwrap();
        rig.partition.truncate_to(offset(5)).unwrap();
        assert_eq!(read_all(&rig.partition), kept);
        let value = reader.iter().next().unwrap().unwrap();
        let values: Vec<_> = value.records().map(|record| record.unwrap().value().unwrap().to_vec()).collect();
        assert_eq!(values, [format!("cut {round}").into_bytes()]);
    }
    assert_eq!(held.bytes()[..], bytes);
}

#[test]
fn at_or_beyond_the_end_nothing_is_cut_and_below_the_first_segment_everything() {
    let rig = Rig::new(&[]);
    rig.partition.truncate_fully_and_start_at(offset(10)).unwrap();
    (10..14).for_each(|i| assert_eq!(append(&rig.partition, "v"), i));
    for end in [14, 15, 1000] {
        rig.partition.truncate_to(offset(end)).unwrap();
        assert_eq!(read_all(&rig.partition).len(), 4);
    }
    rig.partition.truncate_to(offset(3)).unwrap();
    assert_eq!((bases(&rig.partition), rig.partition.log_end_offset()), (vec![3], offset(3)));
    assert_eq!(append(&rig.partition, "again"), 3);
}

#[test]
fn later_segments_go_and_the_cut_one_is_appended_to_again() {
    let rig = Rig::new(&[]);
    for i in 0..12 {
        append(&rig.partition, &i.to_string());
        if i % 3 == 2 {
            rig.partition.roll().unwrap();
        }
    }
    rig.partition.truncate_to(offset(4)).unwrap();
    assert_eq!(bases(&rig.partition), [0, 3]);
    assert_eq!(append(&rig.partition, "new"), 4);
    assert_eq!(read_all(&rig.partition).last().unwrap(), &(4, "new".to_owned()));
}

fn append_keyed(partition: &Partition) -> i64 {
    partition.append(&[Record::keyed("next", "next")]).unwrap().base_offset.value()
}

#[test]
fn the_new_end_is_kept_where_no_batch_reaches_up_to_it() {
    type Filling = fn(&Rig);
    let inside_a_batch: Filling = |rig| _ = rig.partition.append(&vec![Record::keyed("k", "v"); 8]).unwrap();
    let behind_what_compaction_took: Filling = |rig| {
        (0..8).for_each(|_| _ = rig.partition.append(&[Record::keyed("k", "v")]).unwrap());
        rig.partition.roll().unwrap();
        rig.partition.compact().unwrap();
    };
    for (number, fill) in [inside_a_batch, behind_what_compaction_took].into_iter().enumerate() {
        let rig = Rig::new(&[("cleanup.policy", "compact")]);
        fill(&rig);
        rig.partition.truncate_to(offset(6)).unwrap();
        rig.partition.truncate_to(offset(5)).unwrap();
        assert_eq!(rig.partition.log_end_offset(), offset(5));
        let images = (0..20).map(|seed| rig.memory.torn_crash_image(seed)).chain([rig.memory.process_crash_image()]);
        for image in images {
            let store = open(Arc::new(image), &rig.clock);
            let partition = partition_of(&store);
            assert_eq!(partition.log_end_offset(), offset(5), "{number}");
            assert!(partition.read(offset(2)).fetch().unwrap().is_empty(), "{number}: nothing is left, and no hole");
            assert_eq!(append_keyed(&partition), 5, "{number}");
        }
        assert_eq!(append_keyed(&rig.partition), 5, "{number}");
        assert_eq!(read_all(&rig.partition), [(5, "next".to_owned())], "{number}");
    }
}

/// A log with a gap that a cut inside a batch left: 0 to 3, then 6 and on. Opened anew, so that nothing of it is in memory.
fn with_a_gap() -> Rig {
    let rig = Rig::new(&[]);
    (0..2).for_each(|_| _ = rig.partition.append(&vec![Record::new("v"); 4]).unwrap());
    rig.partition.truncate_to(offset(6)).unwrap();
    append_at(&rig.partition, "behind the gap", 1000);
    rig.partition.roll().unwrap();
    append_at(&rig.partition, "last", 2000);
    let Rig { memory, vfs, clock, store, .. } = rig;
    store.close().unwrap();
    let store = open(Arc::new(vfs.clone()), &clock);
    let partition = partition_of(&store);
    Rig { memory, vfs, clock, store, partition }
}

/// Stops `look` at each of its calls to the disk in turn, and cuts the log below its gap meanwhile.
fn assert_sound_beside_a_cut(look: impl Fn(&Partition) -> Result<(), LogError> + Sync) {
    for nth in 1.. {
        let rig = with_a_gap();
        let gate = rig.vfs.block(Hook::at(Operation::Any).nth(nth));
        let (sender, has_cut) = mpsc::channel();
        let was_reached = std::thread::scope(|scope| {
            let looking = scope.spawn(|| look(&rig.partition));
            while !gate.is_reached() && !looking.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let was_reached = gate.is_reached();
            scope.spawn(|| sender.send(rig.partition.truncate_to(offset(4))));
            // Where the cut needs what the reader holds, it goes on behind it.
            let cut = has_cut.recv_timeout(Duration::from_millis(100));
            gate.release();
            let looked = looking.join().unwrap();
            assert!(looked.is_ok(), "call {nth}, {cut:?}: {looked:?}");
            was_reached
        });
        assert_eq!(rig.partition.log_end_offset(), offset(4));
        if !was_reached {
            assert!(nth > 2, "no call was stopped");
            return;
        }
    }
}

#[test]
fn a_lookup_by_time_beside_a_cut_takes_no_gap_of_the_old_log_for_damage() {
    for target in [500, 1500, 5000] {
        assert_sound_beside_a_cut(|partition| partition.find_offset(OffsetSpec::Timestamp(at(target))).map(drop));
    }
    assert_sound_beside_a_cut(|partition| partition.find_offset(OffsetSpec::MaxTimestamp).map(drop));
}

#[test]
fn a_read_beside_a_cut_takes_no_gap_of_the_old_log_for_damage() {
    assert_sound_beside_a_cut(|partition| match partition.read(offset(4)).fetch() {
        Err(LogError::OffsetOutOfRange { .. }) => Ok(()),
        found => found.map(drop),
    });
}

#[test]
fn who_waits_for_an_offset_is_woken_when_the_log_starts_over_above_it() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "v");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.partition.wait_for(offset(50), Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(50));
        rig.partition.truncate_fully_and_start_at(offset(100)).unwrap();
        assert!(waiting.join().unwrap());
    });
    assert!(begun.elapsed() < Duration::from_secs(30));
}
