//! The folders of a store: made durably wherever they are, and never those of somebody else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, PathFilter, Vfs};
use stratalog::{Durability, LogStore, Record, StoreError, StoreOptions, TopicConfig};
use support::{partition_of, read_all};

fn try_open(vfs: impl Vfs + 'static, path: &str) -> Result<LogStore, StoreError> {
    StoreOptions::new().vfs(Arc::new(vfs)).open(path)
}

/// Makes topic `t` and appends one durable record to it.
fn append_durably(store: &LogStore) {
    let topic = store.create_topic("t", 1, TopicConfig::new()).unwrap();
    topic.partition(0).unwrap().append_with(&[Record::new("v")], Durability::Durable).unwrap();
}

fn survives(memory: &MemoryVfs, path: &str) {
    for seed in 0..20 {
        let store = try_open(memory.torn_crash_image(seed), path).unwrap();
        assert_eq!(read_all(&partition_of(&store)).len(), 1, "{path}, seed {seed}");
    }
}

#[test]
fn every_folder_that_was_made_survives_a_power_loss() {
    for path in ["/a", "/a/b/c", "a/b/c", "a", "", ".", "./a/b", "/a/../b/c"] {
        let memory = MemoryVfs::new();
        if path.contains("..") {
            memory.create_dir_all(Path::new("/a")).unwrap();
            memory.sync_dir(Path::new("/")).unwrap();
        }
        append_durably(&try_open(memory.clone(), path).unwrap());
        survives(&memory, path);
    }
}

#[test]
fn folders_that_an_earlier_opening_made_and_did_not_sync_survive_too() {
    let path = "/a/b/c/d";
    for calls in 1..400 {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        // The process dies at this call; the machine goes on.
        vfs.inject(Fault::new(Operation::Any, Effect::Error(io::ErrorKind::Other)).from_nth(calls));
        let is_open = try_open(vfs, path).is_ok();
        let memory = memory.process_crash_image();
        append_durably(&try_open(memory.clone(), path).unwrap());
        survives(&memory, path);
        if is_open {
            return;
        }
    }
    panic!("the store never opened");
}

#[test]
fn folders_above_that_may_not_be_read_are_no_reason_to_fail() {
    let foreign = ["/", "/mnt", "/mnt/data"];
    for denied in foreign {
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported, io::ErrorKind::Other] {
            let memory = MemoryVfs::new();
            memory.create_dir_all(Path::new("/mnt/data")).unwrap();
            let vfs = FaultyVfs::new(memory);
            let only = PathFilter::matching(move |path| path == Path::new(denied));
            vfs.inject(Fault::new(Operation::SyncDir, Effect::Error(kind)).on(only).from_nth(1));
            let opened = try_open(vfs, "/mnt/data/store");
            assert_eq!(opened.is_ok(), kind != io::ErrorKind::Other, "{denied}, {kind}");
        }
    }
}

#[test]
fn a_folder_of_our_own_making_that_cannot_be_synced_is_an_error() {
    for made in ["/mnt/a", "/mnt/a/b"] {
        let memory = MemoryVfs::new();
        memory.create_dir_all(Path::new("/mnt")).unwrap();
        let vfs = FaultyVfs::new(memory);
        let only = PathFilter::matching(move |path| path == Path::new(made));
        vfs.inject(Fault::new(Operation::SyncDir, Effect::Error(io::ErrorKind::PermissionDenied)).on(only).nth(1));
        assert!(try_open(vfs, "/mnt/a/b").is_err(), "{made}");
    }
}

#[test]
fn a_fresh_volume_is_an_empty_folder() {
    let memory = MemoryVfs::new();
    memory.create_dir_all(Path::new("/log/lost+found")).unwrap();
    let vfs = FaultyVfs::new(memory.clone());
    vfs.inject(
        Fault::new(Operation::ReadDir, Effect::Error(io::ErrorKind::PermissionDenied))
            .on(PathFilter::ends_with("lost+found"))
            .from_nth(1),
    );
    assert!(StoreOptions::new().vfs(Arc::new(vfs.clone())).read_only(true).open("/log").unwrap().topics().is_empty());
    let store = try_open(vfs, "/log").unwrap();
    append_durably(&store);
    store.close().unwrap();
    assert!(memory.metadata(Path::new("/log/lost+found")).unwrap().is_some());
}

#[test]
fn a_fresh_volume_with_a_strangers_file_or_a_file_of_that_name_is_not() {
    for (folder, file) in [("/log/lost+found", "/log/notes.txt"), ("/log", "/log/lost+found")] {
        let memory = MemoryVfs::new();
        memory.create_dir_all(Path::new(folder)).unwrap();
        memory.open(Path::new(file), OpenMode::Create).unwrap();
        let error = try_open(memory, "/log").unwrap_err();
        assert!(matches!(error, StoreError::NotAStore { path, .. } if path == Path::new("/log")));
    }
}

#[test]
fn internal_topics_keep_their_number_of_partitions() {
    let store = try_open(MemoryVfs::new(), "/log").unwrap();
    for name in ["__consumer_offsets", "__transaction_state", "__share_group_state"] {
        store.create_topic(name, 3, TopicConfig::new()).unwrap();
        let error = store.add_partitions(name, 5).unwrap_err();
        assert!(matches!(error, StoreError::FixedPartitionCount { .. }), "{error}");
        assert_eq!(error.kind(), stratalog::ErrorKind::InvalidInput);
        assert_eq!(store.topic(name).unwrap().partitions().len(), 3);
    }
}
