//! `.cut` files: counted when the store opens, shown in the metrics, removed when asked for and never otherwise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{CutFiles, ErrorKind, ManualClock, StoreError, StoreOptions, TopicConfig};
use support::{append, at, open, partition_of};

/// A store whose topic `t` lost a torn batch, with a stranger's file of a similar name beside it.
fn torn() -> (MemoryVfs, ManualClock) {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    let store = open(Arc::new(memory.clone()), &clock);
    store.create_topic("t", 2, TopicConfig::new()).unwrap();
    append(&partition_of(&store), "kept");
    store.close().unwrap();
    let store = open(Arc::new(memory.clone()), &clock);
    append(&partition_of(&store), "torn");
    drop(store);
    let file = memory.open(Path::new("/log/t-0/00000000000000000000.log"), OpenMode::Write).unwrap();
    file.write_at(&[0xff], file.size().unwrap() - 2).unwrap();
    memory.open(Path::new("/log/t-0/holiday.cut"), OpenMode::Create).unwrap();
    (memory, clock)
}

fn names(vfs: &dyn Vfs) -> Vec<String> {
    let entries = vfs.read_dir(Path::new("/log/t-0")).unwrap().into_iter().map(|entry| entry.name);
    entries.filter(|name| name.ends_with(".cut")).collect()
}

#[test]
fn cut_files_are_counted_by_every_opening_until_they_are_removed() {
    let (memory, clock) = torn();
    let mut bytes = 0;
    for round in 0..3 {
        let store = open(Arc::new(memory.clone()), &clock);
        let found = store.open_report().cut_files;
        assert_eq!(found.files, 1, "round {round}");
        if round == 0 {
            bytes = store.open_report().partitions[0].cuts[0].bytes;
        }
        assert!(bytes > 0 && found.bytes == bytes);
        assert_eq!((store.metrics().cut_files, store.metrics().cut_file_bytes), (1, bytes));
        assert_eq!(partition_of(&store).cut_files(), found);
        if round == 2 {
            assert_eq!(store.remove_cut_files().unwrap(), found);
            assert_eq!(store.remove_cut_files().unwrap(), CutFiles::default());
            assert_eq!((store.metrics().cut_files, store.metrics().cut_file_bytes), (0, 0));
        }
        store.close().unwrap();
    }
    assert_eq!(names(&memory), ["holiday.cut"]);
    assert_eq!(open(Arc::new(memory), &clock).open_report().cut_files, CutFiles::default());
}

#[test]
fn what_reopening_cuts_is_counted_at_once() {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    let store = open(Arc::new(memory.clone()), &clock);
    let partition = store.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
    append(&partition, "kept");
    append(&partition, "torn");
    let file = memory.open(Path::new("/log/t-0/00000000000000000000.log"), OpenMode::Write).unwrap();
    file.write_at(&[0xff], file.size().unwrap() - 2).unwrap();
    let bytes = partition.reopen().unwrap().cuts[0].bytes;
    assert_eq!((partition.cut_files().files, partition.cut_files().bytes), (1, bytes));
    assert_eq!((store.metrics().cut_files, store.metrics().cut_file_bytes), (1, bytes));
}

#[test]
fn one_partition_is_rid_of_its_cut_files_and_the_log_stays() {
    let (memory, clock) = torn();
    let store = open(Arc::new(memory.clone()), &clock);
    let other = store.topic("t").unwrap().partition(1).unwrap();
    assert_eq!(other.remove_cut_files().unwrap().files, 0);
    let partition = partition_of(&store);
    assert_eq!(partition.remove_cut_files().unwrap().files, 1);
    assert_eq!((names(&memory).len(), store.metrics().cut_files), (1, 0));
    assert_eq!(append(&partition, "next"), 1);
}

#[test]
fn a_cut_file_that_cannot_be_removed_is_an_error_and_still_counted() {
    let (memory, clock) = torn();
    let vfs = FaultyVfs::new(memory);
    let store = open(Arc::new(vfs.clone()), &clock);
    let denied = Fault::new(Operation::Remove, Effect::Error(io::ErrorKind::PermissionDenied));
    vfs.inject(Fault { path_contains: ".cut".into(), ..denied });
    assert_eq!(store.remove_cut_files().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(store.metrics().cut_files, 1);
    assert_eq!(store.remove_cut_files().unwrap().files, 1);
}

#[test]
fn a_read_only_or_closed_store_removes_nothing() {
    let (memory, clock) = torn();
    drop(open(Arc::new(memory.clone()), &clock));
    let reader = StoreOptions::new().vfs(Arc::new(memory.clone())).read_only(true).open("/log").unwrap();
    assert_eq!(reader.open_report().cut_files.files, 1);
    assert!(matches!(reader.remove_cut_files(), Err(StoreError::ReadOnly { .. })));
    assert_eq!(partition_of(&reader).remove_cut_files().unwrap_err().kind(), ErrorKind::Locked);
    let store = open(Arc::new(memory.clone()), &clock);
    let partition = partition_of(&store);
    let clone = store.clone();
    store.close().unwrap();
    assert!(matches!(clone.remove_cut_files(), Err(StoreError::Closed { .. })));
    assert_eq!(partition.remove_cut_files().unwrap_err().kind(), ErrorKind::Offline);
    assert_eq!(names(&memory).len(), 2);
}
