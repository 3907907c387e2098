//! Recovery as a chain: above the recovery point the log is a prefix of what was appended, whatever a crash left, and what is cut
//! is kept and reported.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{Durability, LogStore, Partition, Record};
use support::{Rig, append, offset, open, partition_of, read_all, read_from};

const SMALL: &[(&str, &str)] = &[("segment.bytes", "250"), ("index.interval.bytes", "0")];

fn value(number: i64) -> String {
    format!("{number:02} {}", "x".repeat(10))
}

fn expected(count: i64) -> Vec<(i64, String)> {
    (0..count).map(|number| (number, value(number))).collect()
}

/// Twelve records in four segments of three, written and never synced.
fn four_segments() -> Rig {
    let rig = Rig::new(SMALL);
    (0..12).for_each(|number| assert_eq!(append(&rig.partition, &value(number)), number));
    assert_eq!(support::bases(&rig.partition), [0, 3, 6, 9]);
    rig
}

fn log_path(base: i64) -> PathBuf {
    PathBuf::from(format!("/log/t-0/{base:020}.log"))
}

fn bytes_of(vfs: &MemoryVfs, path: &Path) -> Vec<u8> {
    let file = vfs.open(path, OpenMode::Read).unwrap();
    file.map(file.size().unwrap()).unwrap().to_vec()
}

fn put(vfs: &MemoryVfs, path: &Path, bytes: &[u8]) {
    vfs.open(path, OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
}

/// Makes the next opening one after a power loss: nothing is known of this boot.
fn forget_boot(vfs: &MemoryVfs) {
    match vfs.remove_file(Path::new("/log/stratalog-verified")) {
        Err(error) if !error.is_not_found() => panic!("{error}"),
        _ => {}
    }
}

/// The log is a prefix, what is missing is reported and kept, the next record follows, and opening again changes nothing.
fn check_prefix(image: &MemoryVfs, rig: &Rig, when: &str) -> usize {
    let store = open(Arc::new(image.clone()), &rig.clock);
    let partition = partition_of(&store);
    let kept = read_all(&partition);
    assert_eq!(kept, expected(i64::try_from(kept.len()).unwrap()), "{when}");
    assert_eq!(partition.log_end_offset(), offset(i64::try_from(kept.len()).unwrap()), "{when}");
    let cuts = store.open_report().partitions[0].cuts.clone();
    for cut in &cuts {
        assert_eq!(image.metadata(&cut.moved_to).unwrap().unwrap().size, cut.bytes, "{when}: {cut:?}");
    }
    drop(store);
    let store = open(Arc::new(image.clone()), &rig.clock);
    assert!(store.open_report().partitions[0].cuts.is_empty(), "{when}: nothing is cut twice");
    assert_eq!(read_all(&partition_of(&store)), kept, "{when}");
    assert_eq!(append(&partition_of(&store), "next"), i64::try_from(kept.len()).unwrap());
    kept.len()
}

#[test]
fn a_power_loss_leaves_a_prefix_of_many_segments() {
    let rig = four_segments();
    for seed in 0..400 {
        check_prefix(&rig.memory.torn_crash_image(seed), &rig, &format!("seed {seed}"));
    }
}

#[test]
fn a_middle_segment_that_is_empty_missing_zeroed_or_cut_between_batches_ends_the_log() {
    let rig = four_segments();
    for base in [0, 3, 6] {
        type Damage<'a> = &'a dyn Fn(&MemoryVfs, &Path);
        let damages: [(&str, Damage<'_>, i64); 4] = [
            ("empty", &|vfs, path| put(vfs, path, b""), 0),
            ("missing", &|vfs, path| vfs.remove_file(path).unwrap(), 0),
            ("zeroed", &|vfs, path| put(vfs, path, &vec![0; bytes_of(vfs, path).len()]), 0),
            (
                "cut between batches",
                &|vfs, path| {
                    let bytes = bytes_of(vfs, path);
                    put(vfs, path, &bytes[..bytes.len() / 3]);
                },
                1,
            ),
        ];
        for (name, damage, left) in damages {
            let image = rig.memory.process_crash_image();
            damage(&image, &log_path(base));
            forget_boot(&image);
            let store = open(Arc::new(image.clone()), &rig.clock);
            let cuts = &store.open_report().partitions[0].cuts;
            let later = (9 - base) / 3;
            assert!(i64::try_from(cuts.len()).unwrap() >= later, "{name} {base}: {cuts:?}");
            assert!(cuts.iter().all(|cut| cut.from_offset == offset(base + left)), "{name} {base}: {cuts:?}");
            drop(store);
            assert_eq!(read_all(&partition_of(&open(Arc::new(image), &rig.clock))), expected(base + left));
        }
    }
}

#[test]
fn gaps_stay_where_no_note_contradicts_them() {
    let rig = four_segments();
    rig.partition.flush().unwrap();
    for base in [3, 6] {
        // The folder of the partition alone, copied to another store.
        let copy = MemoryVfs::new();
        copy.create_dir_all(Path::new("/log/t-0")).unwrap();
        for segment in [0, 3, 6, 9].into_iter().filter(|segment| *segment != base) {
            put(&copy, &log_path(segment), &bytes_of(&rig.memory, &log_path(segment)));
        }
        let store = open(Arc::new(copy), &rig.clock);
        let rest = expected(12).into_iter().filter(|(number, _)| !(base..base + 3).contains(number));
        assert_eq!(read_all(&partition_of(&store)), rest.collect::<Vec<_>>());
        assert!(store.open_report().partitions[0].cuts.is_empty());
    }
}

#[test]
fn a_kill_at_any_change_of_a_recovery_leaves_a_prefix_and_its_report() {
    let rig = four_segments();
    let damaged = rig.memory.process_crash_image();
    let bytes = bytes_of(&damaged, &log_path(3));
    put(&damaged, &log_path(3), &bytes[..100]);
    forget_boot(&damaged);
    let whole = FaultyVfs::new(damaged.process_crash_image());
    drop(open(Arc::new(whole.clone()), &rig.clock));
    for crash_at in 0..whole.mutations() {
        let memory = damaged.process_crash_image();
        let vfs = FaultyVfs::new(memory.clone());
        vfs.crash_after(crash_at);
        let options = stratalog::StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone()));
        drop(options.open("/log"));
        for seed in 0..6 {
            let image = vfs.crash_image(seed).unwrap();
            let store = open(Arc::new(image.clone()), &rig.clock);
            let kept = read_all(&partition_of(&store));
            assert_eq!(kept, expected(i64::try_from(kept.len()).unwrap()), "{crash_at} {seed}");
        }
        let store = open(Arc::new(memory.process_crash_image()), &rig.clock);
        assert_eq!(read_all(&partition_of(&store)), expected(4), "{crash_at}");
        let cut: Vec<_> = store.open_report().partitions[0].cuts.iter().map(|cut| cut.file.clone()).collect();
        assert_eq!(cut, [log_path(3), log_path(6), log_path(9)], "{crash_at}: everything is reported");
    }
}

#[test]
fn a_kill_of_a_recovery_that_empties_a_segment_leaves_what_it_cut() {
    let rig = Rig::new(&[]);
    (0..3).for_each(|number| _ = append(&rig.partition, &value(number)));
    rig.partition.delete_records_before(offset(2)).unwrap();
    rig.store.checkpoint().unwrap();
    let damaged = rig.memory.process_crash_image();
    let mut bytes = bytes_of(&damaged, &log_path(0));
    bytes[70] ^= 1;
    put(&damaged, &log_path(0), &bytes);
    forget_boot(&damaged);
    let whole = FaultyVfs::new(damaged.process_crash_image());
    drop(open(Arc::new(whole.clone()), &rig.clock));
    for killed_at in 0..whole.mutations() {
        let memory = damaged.process_crash_image();
        let vfs = FaultyVfs::new(memory.clone());
        vfs.crash_after(killed_at);
        let options = stratalog::StoreOptions::new().vfs(Arc::new(vfs)).clock(Arc::new(rig.clock.clone()));
        drop(options.open("/log"));
        let after = memory.process_crash_image();
        let store = open(Arc::new(after.clone()), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.log_end_offset(), offset(2), "killed at {killed_at}");
        let names = after.read_dir(partition.path()).unwrap().into_iter().map(|entry| entry.name);
        let kept =
            names.filter(|name| name.ends_with(".cut")).map(|name| bytes_of(&after, &partition.path().join(name)));
        assert!(kept.into_iter().any(|kept| kept == bytes), "killed at {killed_at}: what was cut is kept");
    }
}

#[test]
fn a_missing_index_does_not_decide_where_the_log_ends() {
    for is_clean in [false, true] {
        let rig = Rig::new(&[]);
        for number in 0..5 {
            rig.partition.append_with(&[Record::new(value(number).as_str())], Durability::Durable).unwrap();
        }
        let image = rig.memory.process_crash_image();
        let log = log_path(0);
        let mut bytes = bytes_of(&image, &log);
        let size = bytes.len() / 5;
        bytes[2 * size + 70] ^= 1;
        put(&image, &log, &bytes);
        if is_clean {
            put(&image, Path::new("/log/.kafka_cleanshutdown"), b"{\"version\":0}");
        }
        forget_boot(&image);
        let store = open(Arc::new(image.clone()), &rig.clock);
        let partition = partition_of(&store);
        if is_clean {
            assert_eq!(partition.log_end_offset(), offset(5), "all of it is still there");
            assert_eq!(append(&partition, "next"), 5);
            assert_eq!(read_from(&partition, 3, 1).unwrap()[..2], expected(5)[3..]);
            continue;
        }
        assert_eq!(read_all(&partition), expected(2));
        let cuts = &store.open_report().partitions[0].cuts;
        assert_eq!((cuts.len(), cuts[0].bytes), (1, bytes.len() as u64 - 2 * size as u64));
        assert_eq!(bytes_of(&image, &cuts[0].moved_to), bytes[2 * size..]);
    }
}

#[test]
fn a_roll_that_failed_leaves_nothing_that_the_next_opening_takes_for_a_segment() {
    for operation in [Operation::Allocate, Operation::Open, Operation::Rename, Operation::Remove] {
        let rig = Rig::new(&[("segment.bytes", "400"), ("preallocate", "true")]);
        append(&rig.partition, &"x".repeat(200));
        let full = Effect::Error(std::io::ErrorKind::StorageFull);
        let path_contains = "0001.log".to_owned();
        rig.vfs.inject(Fault { path_contains, times: u64::MAX, ..Fault::new(operation, full) });
        if operation == Operation::Remove {
            rig.vfs.inject(Fault { path_contains: "0001.log".into(), ..Fault::new(Operation::Allocate, full) });
        }
        assert!(rig.partition.append(&[Record::new("y".repeat(200).as_str())]).is_err(), "{operation:?}");
        let smaller = rig.partition.append_with(&[Record::new("z")], Durability::Durable);
        rig.vfs.clear_faults();
        for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
            let store = open(Arc::new(image), &rig.clock);
            let kept = read_all(&partition_of(&store));
            assert!(smaller.is_err() || kept.len() == 2, "{operation:?}: {kept:?}");
        }
    }
}

/// Changes the base offset of a batch, which no checksum covers.
fn rebase(vfs: &MemoryVfs, path: &Path, from: i64, to: i64) {
    let mut bytes = bytes_of(vfs, path);
    let at = (0..bytes.len() - 8).find(|at| bytes[*at..*at + 8] == from.to_be_bytes()).unwrap();
    bytes[at..at + 8].copy_from_slice(&to.to_be_bytes());
    put(vfs, path, &bytes);
}

/// Batches of three records each, in one segment.
fn triples(store: &LogStore) -> Partition {
    let partition = partition_of(store);
    for batch in 0..5 {
        let values: Vec<_> = (0..3).map(|record| value(batch * 3 + record)).collect();
        let records: Vec<_> = values.iter().map(Record::new).collect();
        partition.append(&records).unwrap();
    }
    partition
}

#[test]
fn a_base_offset_that_goes_back_or_leaps_is_refused_wherever_batches_are_read() {
    for (from, to) in [(12, 9), (6, 3), (6, 4), (9, 1000), (3, i64::from(i32::MAX) + 9), (3, 4_179_340_454_199_820_293)]
    {
        let rig = Rig::new(&[]);
        triples(&rig.store);
        let image = rig.memory.process_crash_image();
        rebase(&image, &log_path(0), from, to);
        forget_boot(&image);
        let store = open(Arc::new(image.clone()), &rig.clock);
        assert_eq!(read_all(&partition_of(&store)), expected(from), "{from} -> {to}");
        assert_eq!(append(&partition_of(&store), "next"), from);
        assert!(!store.open_report().partitions[0].cuts.is_empty());

        // A log that was closed in order is not verified; its readers notice.
        let rig = Rig::new(&[]);
        let partition = triples(&rig.store);
        rebase(&rig.memory, &log_path(0), from, to);
        let offsets: Result<Vec<_>, _> = partition.read(offset(0)).fetch().map(|batches| {
            batches.records().take_while(Result::is_ok).map(|record| record.unwrap().offset()).collect()
        });
        assert!(offsets.is_err() || offsets.unwrap().is_sorted(), "{from} -> {to}");
    }
}

#[test]
fn offsets_that_span_more_than_31_bits_are_split_when_the_log_is_loaded() {
    let far = (1_i64 << 31) + 4;
    for segment in [&[0, 500, far][..], &[far], &[0, far, far + 1, 2 * far]] {
        let rig = Rig::new(&[]);
        append(&rig.partition, "v");
        let one = bytes_of(&rig.memory, &log_path(0));
        let vfs = MemoryVfs::new();
        vfs.create_dir_all(Path::new("/log/t-0")).unwrap();
        let batches = segment.iter().flat_map(|base| [&base.to_be_bytes()[..], &one[8..]].concat());
        put(&vfs, &log_path(0), &batches.collect::<Vec<_>>());
        let store = open(Arc::new(vfs.clone()), &rig.clock);
        let offsets: Vec<_> = read_all(&partition_of(&store)).into_iter().map(|(at, _)| at).collect();
        assert_eq!(offsets, segment);
        assert!(store.open_report().partitions[0].cuts.is_empty());
        assert_eq!(append(&partition_of(&store), "next"), segment.last().unwrap() + 1);
        drop(store);
        let again = open(Arc::new(vfs), &rig.clock);
        assert_eq!(read_all(&partition_of(&again)).len(), segment.len() + 1);
    }
}

#[test]
fn a_sealed_segment_that_is_too_wide_is_split_where_only_its_indexes_are_made_anew() {
    let far = (1_i64 << 31) + 4;
    let rig = Rig::new(&[]);
    append(&rig.partition, "v");
    let one = bytes_of(&rig.memory, &log_path(0));
    let batch = |base: i64| [&base.to_be_bytes()[..], &one[8..]].concat();
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(Path::new("/log/t-0")).unwrap();
    put(&vfs, &log_path(0), &[batch(0), batch(500), batch(far)].concat());
    put(&vfs, &log_path(far + 1), &batch(far + 1));
    // As a Kafka leaves a log that it has flushed and closed.
    put(&vfs, Path::new("/log/recovery-point-offset-checkpoint"), format!("0\n1\nt 0 {}\n", far + 2).as_bytes());
    put(&vfs, Path::new("/log/.kafka_cleanshutdown"), b"{\"version\":0,\"brokerEpoch\":-1}");
    let store = open(Arc::new(vfs.clone()), &rig.clock);
    assert!(store.open_report().clean);
    let offsets: Vec<_> = read_all(&partition_of(&store)).into_iter().map(|(at, _)| at).collect();
    assert_eq!(offsets, [0, 500, far, far + 1]);
}

#[test]
fn what_an_opening_cut_is_told_by_the_next_until_somebody_has_asked() {
    let rig = Rig::new(&[]);
    (0..4).for_each(|number| _ = append(&rig.partition, &value(number)));
    let image = rig.memory.process_crash_image();
    let mut bytes = bytes_of(&image, &log_path(0));
    *bytes.last_mut().unwrap() ^= 1;
    put(&image, &log_path(0), &bytes);
    forget_boot(&image);
    // Two lives in which nobody looks at the report, one of which ends in order.
    drop(open(Arc::new(image.clone()), &rig.clock));
    open(Arc::new(image.clone()), &rig.clock).close().unwrap();
    let cuts = |store: &stratalog::LogStore| store.open_report().partitions[0].cuts.len();
    assert_eq!(cuts(&open(Arc::new(image.clone()), &rig.clock)), 1);
    assert_eq!(cuts(&open(Arc::new(image), &rig.clock)), 0, "somebody has read of it");
}

#[test]
fn a_segment_whose_base_lies_in_the_one_before_is_set_aside_after_a_crash() {
    let rig = four_segments();
    let image = rig.memory.process_crash_image();
    // Another copy of the second segment begins one offset later.
    let second = bytes_of(&image, &log_path(3));
    put(&image, &log_path(4), &second);
    forget_boot(&image);
    let store = open(Arc::new(image), &rig.clock);
    let found = read_all(&partition_of(&store));
    assert_eq!(found, expected(i64::try_from(found.len()).unwrap()), "a prefix, nothing twice");
    assert!(!store.open_report().partitions[0].cuts.is_empty());
}

#[test]
fn a_kill_at_any_change_of_a_split_loses_nothing() {
    let far = (1_i64 << 31) + 4;
    let rig = Rig::new(&[]);
    append(&rig.partition, "v");
    let one = bytes_of(&rig.memory, &log_path(0));
    let prepared = || {
        let vfs = MemoryVfs::new();
        vfs.create_dir_all(Path::new("/log/t-0")).unwrap();
        let batch = |base: i64| [&base.to_be_bytes()[..], &one[8..]].concat();
        put(&vfs, &log_path(0), &[batch(0), batch(500), batch(far)].concat());
        for folder in ["/log/t-0", "/log", "/"] {
            vfs.sync_dir(Path::new(folder)).unwrap();
        }
        vfs.open(&log_path(0), OpenMode::Write).unwrap().sync_data().unwrap();
        vfs
    };
    let whole = FaultyVfs::new(prepared());
    drop(open(Arc::new(whole.clone()), &rig.clock));
    for killed_at in 0..whole.mutations() {
        let vfs = FaultyVfs::new(prepared());
        vfs.crash_after(killed_at);
        let options = stratalog::StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone()));
        drop(options.open("/log"));
        for seed in 0..6 {
            let store = open(Arc::new(vfs.crash_image(seed).unwrap()), &rig.clock);
            let offsets: Vec<_> = read_all(&partition_of(&store)).into_iter().map(|(at, _)| at).collect();
            assert_eq!(offsets, [0, 500, far], "killed at {killed_at}, seed {seed}");
        }
    }
}

#[test]
fn a_hole_keeps_no_partition_from_opening_on_a_full_disk() {
    for lost in ["a segment", "its batches", "none, but a stray stands there"] {
        let rig = four_segments();
        let image = rig.memory.process_crash_image();
        forget_boot(&image);
        match lost {
            "a segment" => image.remove_file(&log_path(3)).unwrap(),
            "its batches" => put(&image, &log_path(3), b""),
            _ => put(&image, &log_path(4), b""),
        }
        let vfs = FaultyVfs::new(image.clone());
        for operation in [Operation::Write, Operation::Allocate] {
            vfs.inject(Fault::new(operation, Effect::Error(std::io::ErrorKind::StorageFull)).from_nth(1));
        }
        let store = open(Arc::new(vfs.clone()), &rig.clock);
        assert!(store.open_report().failed.is_empty(), "{lost}: {:?}", store.open_report().failed);
        let partition = partition_of(&store);
        let read = read_all(&partition);
        assert_eq!(read, expected(i64::try_from(read.len()).unwrap()), "{lost}");
        assert!(read.len() >= 3, "{lost}: {read:?}");
        vfs.clear_faults();
        partition.reopen().unwrap();
        assert_eq!(append(&partition, "next"), partition.log_end_offset().value() - 1, "{lost}");
        drop(store);
        check_reopened(&image, &rig, lost);
    }
}

fn check_reopened(image: &MemoryVfs, rig: &Rig, lost: &str) {
    let store = open(Arc::new(image.process_crash_image()), &rig.clock);
    let mut kept = read_all(&partition_of(&store));
    assert_eq!(kept.pop().unwrap().1, "next", "{lost}");
    assert_eq!(kept, expected(i64::try_from(kept.len()).unwrap()), "{lost}");
    assert!(!store.open_report().partitions[0].cuts.is_empty(), "{lost}: what was cut is told");
}
