//! Indexes are hints: damage to them costs time, and no append, record or answer.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::TimeIndexEntry;
use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
use stratalog::{Durability, OffsetSpec, Partition, Record};
use support::{Rig, append_at, at, offset, open, partition_of, read_all};

const INDEXES: [&str; 2] = ["index", "timeindex"];

fn path_of(rig: &Rig, kind: &str) -> std::path::PathBuf {
    rig.partition.path().join(format!("{:020}.{kind}", 0))
}

fn size_of(vfs: &MemoryVfs, rig: &Rig, kind: &str) -> u64 {
    vfs.metadata(&path_of(rig, kind)).unwrap().unwrap().size
}

fn first_at_or_after(partition: &Partition, millis: i64) -> Option<i64> {
    partition.find_offset(OffsetSpec::Timestamp(at(millis))).unwrap().map(|found| found.offset.value())
}

#[test]
fn an_append_over_a_damaged_last_index_entry_is_no_failure_and_everything_is_found() {
    let rig = Rig::new(&[("index.interval.bytes", "50")]);
    (0..8).for_each(|number| _ = append_at(&rig.partition, "old", number * 10));
    rig.store.clone().close().unwrap();
    let killed = rig.memory.process_crash_image();
    drop(open(Arc::new(killed.clone()), &rig.clock));
    for (ending, image) in [("closed", rig.memory.process_crash_image()), ("killed", killed)] {
        for kind in INDEXES {
            let size = size_of(&image, &rig, kind);
            let entry = if kind == "index" { 8 } else { 12 };
            for byte in size.saturating_sub(entry)..size {
                for value in [0, 0x7f, 0xff] {
                    let case = format!("{ending}, byte {byte} of the {kind} is {value}");
                    let image = image.process_crash_image();
                    image.open(&path_of(&rig, kind), OpenMode::Write).unwrap().write_at(&[value], byte).unwrap();
                    let store = open(Arc::new(image), &rig.clock);
                    let partition = partition_of(&store);
                    for number in 8..16 {
                        let record = [Record::new("new").timestamp(at(number * 10))];
                        let appended = partition.append_with(&record, Durability::Durable).unwrap();
                        assert_eq!(appended.base_offset, offset(number), "{case}");
                    }
                    assert_eq!(read_all(&partition).len(), 16, "{case}");
                    for number in 0..16 {
                        assert_eq!(first_at_or_after(&partition, number * 10), Some(number), "{case}");
                        let read = partition.read(offset(number)).fetch().unwrap();
                        assert!(read.records().next().unwrap().unwrap().offset() == offset(number), "{case}");
                    }
                    store.close().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_cut_writes_no_closing_entry_into_the_time_index_of_a_log_that_goes_on() {
    let rig = Rig::new(&[]);
    [30, 20, 10].into_iter().for_each(|millis| _ = append_at(&rig.partition, "v", millis));
    rig.partition.truncate_to(offset(2)).unwrap();
    rig.partition.flush().unwrap();
    let image = rig.memory.process_crash_image();
    let is_empty = image.metadata(&path_of(&rig, "timeindex")).unwrap().is_none_or(|found| found.size == 0);
    assert!(is_empty, "of an active segment that is smaller than the interval");
    append_at(&rig.partition, "v", 40);
    rig.partition.roll().unwrap();
    assert_eq!(size_of(&rig.memory, &rig, "timeindex"), TimeIndexEntry::SIZE as u64, "only the one of the roll");
}

/// Every answer of lookups by time: the first offset of each time, and that of the greatest.
fn answers(partition: &Partition) -> Vec<Option<i64>> {
    let greatest = partition.find_offset(OffsetSpec::MaxTimestamp).unwrap();
    let firsts = (0..9).map(|time| first_at_or_after(partition, time));
    firsts.chain([greatest.map(|found| found.offset.value())]).collect()
}

#[test]
fn no_flipped_bit_of_a_time_index_changes_an_answer() {
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..12 {
        let interval = ["0", "100", "300"][round % 3];
        let rig = Rig::new(&[("index.interval.bytes", interval)]);
        let mut base = 0;
        for step in 0..24 {
            base += i64::from(step % 8 == 7);
            append_at(&rig.partition, "value", base + random.i64(0..5));
        }
        let expected = answers(&rig.partition);
        let is_sealed = round % 2 == 0;
        if is_sealed {
            rig.partition.roll().unwrap();
        }
        rig.store.clone().close().unwrap();
        let bits = size_of(&rig.memory, &rig, "timeindex") * 8;
        for bit in 0..bits {
            let image = rig.memory.process_crash_image();
            let file = image.open(&path_of(&rig, "timeindex"), OpenMode::Write).unwrap();
            let mut byte = [0];
            file.read_at(&mut byte, bit / 8).unwrap();
            file.write_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).unwrap();
            drop(file);
            let store = open(Arc::new(image), &rig.clock);
            let found = answers(&partition_of(&store));
            assert_eq!(found, expected, "round {round}, interval {interval}, sealed: {is_sealed}, bit {bit}");
        }
    }
}
