//! Errors that say nothing about the bytes pass: compaction goes on once they are over. Only damage makes it give a log up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::vfs::{Effect, Fault, FaultyVfs, Hook, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{Clock as _, CompactionOptions, LogStore, ManualClock, Partition, Record, StoreConfig, StoreOptions};
use support::{Rig, at, config, offset, read_all};

const COMPACT: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("segment.bytes", "400"), ("min.cleanable.dirty.ratio", "0")];

/// A log of several sealed segments with a record too many.
fn rig() -> Rig {
    let rig = Rig::new(&COMPACT);
    for key in ["a", "b"].repeat(10) {
        rig.partition.append(&[Record::keyed(key, "v")]).unwrap();
    }
    rig.partition.roll().unwrap();
    rig
}

/// The values of Linux for what passes: interrupted, I/O, try again, no memory, no descriptor (store, system), no space, quota.
const PASSING: [i32; 8] = [4, 5, 11, 12, 23, 24, 28, 122];

#[test]
fn no_error_of_the_operating_system_makes_a_log_uncleanable() {
    for number in PASSING {
        for operation in [
            Operation::Open,
            Operation::Read,
            Operation::Map,
            Operation::Metadata,
            Operation::Write,
            Operation::SetModified,
            Operation::Rename,
            Operation::Sync,
            Operation::SyncDir,
            Operation::Remove,
        ] {
            for after in [0, 1, 3] {
                let case = format!("error {number} of call {after} to {operation:?}");
                let rig = rig();
                let fault = Fault::new(operation, Effect::OsError(number));
                rig.vfs.inject(Fault { path_contains: "t-0".to_owned(), after, ..fault });
                let _ = rig.store.tick(rig.clock.now());
                assert_eq!(rig.partition.uncleanable(), None, "{case}");
                assert_eq!(rig.store.metrics().uncleanable_partitions, 0, "{case}");
                rig.vfs.clear_faults();
                let _ = rig.partition.reopen();
                rig.store.tick(rig.clock.now()).unwrap();
                assert_eq!(read_all(&rig.partition).len(), 2, "{case}");
            }
        }
    }
}

/// A store whose compaction has this much memory, and its partition.
fn with_memory(bytes: u64) -> (LogStore, Partition, ManualClock) {
    let clock = ManualClock::new(at(0));
    let mut settings = StoreConfig::new();
    settings.set("log.cleaner.dedupe.buffer.size", &bytes.to_string()).unwrap();
    let options = StoreOptions::new().vfs(Arc::new(MemoryVfs::new())).clock(Arc::new(clock.clone()));
    let store = options.config(settings).open("/log").unwrap();
    let config = config(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
    let partition = store.create_topic("t", 1, config).unwrap().partition(0).unwrap();
    (store, partition, clock)
}

#[test]
fn batches_of_more_records_than_the_memory_has_bits_for_are_compacted_all_the_same() {
    let (store, partition, clock) = with_memory(1024);
    for count in [2047, 2048, 2049, 2100, 2100, 1, 5000] {
        partition.append(&vec![Record::keyed("k", "v"); count]).unwrap();
    }
    partition.roll().unwrap();
    let mut runs = 0;
    while store.tick(clock.now()).unwrap().compacted_partitions > 0 && runs < 50 {
        runs += 1;
    }
    assert_eq!(partition.uncleanable(), None);
    let records: usize = partition
        .segments()
        .iter()
        .flat_map(|segment| segment.batches())
        .map(|batch| batch.unwrap().1.records().count())
        .sum();
    assert_eq!(records, 1, "after {runs} runs");
    assert!(runs <= 8, "each run takes at least one batch: {runs}");
}

#[test]
fn any_memory_from_none_to_all_compacts_a_log_in_the_end() {
    for memory in [0, 1, 19, 20, 40, 41, 1023, 1024, 4096, u64::MAX - 1, u64::MAX] {
        for rate in [1.0, f64::MAX, f64::INFINITY] {
            let rig = rig();
            let options = CompactionOptions::new().memory(memory);
            let options = if rate > 1.0 { options.bytes_per_second(rate) } else { options };
            for _ in 0..25 {
                let report = rig.partition.compact_with(&options).unwrap();
                assert!(report.key_memory <= memory.max(40), "{} bytes of {memory}", report.key_memory);
            }
            assert_eq!(read_all(&rig.partition).len(), 2, "with {memory} bytes");
        }
    }
}

#[test]
fn what_is_compacted_of_a_log_is_found_out_when_its_turn_comes() {
    let clock = ManualClock::new(at(0));
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let store = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone())).open("/log").unwrap();
    let topic = store.create_topic("t", 2, config(&COMPACT)).unwrap();
    let (first, second) = (topic.partition(0).unwrap(), topic.partition(1).unwrap());
    for (partition, count) in [(&first, 30), (&second, 20)] {
        partition.append(&vec![Record::keyed("clean", "v"); 2]).unwrap();
        partition.roll().unwrap();
        partition.compact().unwrap();
        for _ in 0..count {
            partition.append(&[Record::keyed("k", "v")]).unwrap();
        }
        partition.roll().unwrap();
    }
    // While the first one is written, the second one is cut down to what was compacted.
    let cut = second.clone();
    vfs.hook(Hook::at(Operation::Open).path(".cleaned"), move |path| {
        assert!(path.to_string_lossy().contains("t-0"), "{path:?}");
        cut.truncate_to(offset(2)).unwrap();
    });
    let report = store.tick(clock.now()).unwrap();
    assert_eq!((report.compacted_partitions, report.failures.len()), (1, 0));
    assert_eq!(read_all(&second).len(), 1);
    second.append(&[Record::keyed("clean", "newer")]).unwrap();
    second.roll().unwrap();
    second.compact().unwrap();
    assert_eq!(read_all(&second), [(2, "newer".to_owned())]);
}

#[test]
fn a_compaction_that_a_full_disk_ends_before_it_renames_anything_leaves_its_partition_online() {
    for nth in 1.. {
        let rig = rig();
        let full = Fault::new(Operation::Write, Effect::Error(std::io::ErrorKind::StorageFull));
        rig.vfs.inject(full.from_nth(nth));
        let compacted = rig.partition.compact();
        rig.vfs.clear_faults();
        rig.partition.append(&[Record::keyed("a", "there is room")]).unwrap();
        assert!(rig.partition.compact().unwrap().is_complete);
        if compacted.is_ok() {
            assert!(nth > 3);
            return;
        }
    }
}

#[test]
fn a_reopening_beside_a_compaction_that_removes_its_drafts_goes_on() {
    let rig = rig();
    let names = rig.files();
    let draft = rig
        .partition
        .path()
        .join(names.iter().find(|name| name.ends_with(".log")).unwrap())
        .with_extension("log.cleaned");
    rig.memory.open(&draft, OpenMode::Create).unwrap();
    let memory = rig.memory.clone();
    rig.vfs.hook(Hook::at(Operation::Remove).path(".cleaned"), move |path| memory.remove_file(path).unwrap());
    rig.partition.reopen().unwrap();
    assert_eq!(read_all(&rig.partition).len(), 20);
}

#[test]
fn a_compaction_lists_the_folder_once_however_many_segments_it_replaces() {
    let rig = Rig::new(&COMPACT);
    (0..60).for_each(|key| _ = rig.partition.append(&[Record::keyed(&key.to_string(), "v")]).unwrap());
    rig.partition.roll().unwrap();
    let listing_again = Fault::new(Operation::ReadDir, Effect::Error(std::io::ErrorKind::Other)).from_nth(2);
    rig.vfs.inject(listing_again);
    let report = rig.partition.compact().unwrap();
    assert!(report.is_complete && report.segments_after > 5, "{report:?}");
}
