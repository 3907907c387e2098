//! A full disk: a killed store opens, retention and deletion free space, and later writes succeed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratalog::format::PartitionMetadata;
use stratalog::store::PostponedWork;
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, PathFilter, Vfs};
use stratalog::{
    Clock as _, Durability, ErrorKind, LogStore, MaintenanceWork, ManualClock, Record, StoreOptions, TopicConfig,
};
use support::{append_at, at, config, offset, partition_of, read_all};

fn open(vfs: &(impl Vfs + Clone + 'static), clock: &ManualClock) -> LogStore {
    StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone())).open("/log").unwrap()
}

/// Lets every call fail that takes space: writes, reservations, new folders and new drafts of files.
fn fill_up(vfs: &FaultyVfs) {
    let full = || Effect::Error(io::ErrorKind::StorageFull);
    for operation in [Operation::Write, Operation::Allocate, Operation::CreateDir] {
        vfs.inject(Fault::new(operation, full()).from_nth(1));
    }
    vfs.inject(Fault::new(Operation::Open, full()).on(PathFilter::ends_with(".tmp")).from_nth(1));
}

/// A store with old records in many segments, killed without a checkpoint.
fn killed() -> (MemoryVfs, ManualClock) {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    let store = open(&memory, &clock);
    let entries = [("segment.bytes", "200"), ("retention.ms", "1000"), ("file.delete.delay.ms", "0")];
    store.create_topic("t", 1, config(&entries)).unwrap();
    store.create_topic("u", 1, config(&entries)).unwrap();
    for time in 0..10 {
        append_at(&partition_of(&store), "a value of some length", time);
    }
    store.flush().unwrap();
    (memory.process_crash_image(), clock)
}

#[test]
fn a_killed_store_opens_and_what_it_could_not_write_is_a_warning() {
    let (memory, clock) = killed();
    let vfs = FaultyVfs::new(memory);
    fill_up(&vfs);
    let store = open(&vfs, &clock);
    let report = store.open_report();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let works: Vec<_> = report.warnings.iter().map(|warning| warning.work).collect();
    assert_eq!(works, [PostponedWork::Checkpoints]);
    assert_eq!(report.warnings[0].error.kind(), ErrorKind::StorageFull);
    assert!(report.warnings[0].to_string().contains("checkpoint"), "{}", report.warnings[0]);
    assert_eq!(read_all(&partition_of(&store)).len(), 10);

    // The first retention frees space, though nothing can be written yet.
    clock.advance(5000);
    let report = store.tick(clock.now()).unwrap();
    assert!(report.expired_segments > 0 && !report.checkpointed, "{report:?}");
    assert!(report.failures.iter().any(|failure| failure.work == MaintenanceWork::Checkpoint));
    let later = store.tick(clock.now()).unwrap();
    assert!(report.removed_files + later.removed_files > 0, "{report:?} {later:?}");

    vfs.clear_faults();
    let next = partition_of(&store).append_with(&[Record::new("room")], Durability::Durable).unwrap();
    assert_eq!(next.base_offset, offset(10));
    let report = store.tick(clock.now()).unwrap();
    assert!(report.checkpointed && report.failures.is_empty(), "{report:?}");
    store.close().unwrap();
    assert!(open(&vfs, &clock).open_report().clean);
}

#[test]
fn a_topic_can_be_deleted_as_soon_as_the_list_can_be_written_and_its_files_go() {
    let (memory, clock) = killed();
    let vfs = FaultyVfs::new(memory);
    fill_up(&vfs);
    let store = open(&vfs, &clock);
    assert_eq!(store.delete_topic("u").unwrap_err().kind(), ErrorKind::StorageFull);
    partition_of(&store);
    vfs.clear_faults();
    store.delete_topic("u").unwrap();
    assert!(store.tick(clock.now()).unwrap().removed_files > 0);
}

#[test]
fn an_unfinished_deletion_waits_and_a_new_topic_of_the_name_inherits_nothing() {
    for crash_at in 0..60 {
        let (memory, clock) = killed();
        let vfs = FaultyVfs::new(memory);
        let store = open(&vfs, &clock);
        partition_of(&store).delete_records_before(offset(7)).unwrap();
        store.checkpoint().unwrap();
        vfs.crash_after(crash_at);
        let is_done = store.delete_topic("t").is_ok() && !vfs.is_crashed();
        drop(store);
        let vfs = FaultyVfs::new(vfs.crash_image(crash_at).unwrap());
        fill_up(&vfs);
        let store = open(&vfs, &clock);
        vfs.clear_faults();
        if let Ok(topic) = store.topic("t") {
            assert!(!is_done);
            assert_eq!(topic.partitions().len(), 1);
            continue;
        }
        let topic = store.create_topic("t", 1, config(&[])).unwrap();
        let partition = topic.partition(0).unwrap();
        for _ in 0..3 {
            partition.append_with(&[Record::new("new")], Durability::Durable).unwrap();
        }
        drop((store, topic));
        let store = open(&vfs.crash_image(0).unwrap(), &clock);
        assert_eq!(read_all(&partition_of(&store)).len(), 3, "crash at {crash_at}");
        if is_done {
            return;
        }
    }
    panic!("the deletion never ended");
}

#[test]
fn a_folder_of_a_deleted_topic_that_cannot_be_renamed_keeps_no_store_from_opening() {
    let (memory, clock) = killed();
    let vfs = FaultyVfs::new(memory);
    let store = open(&vfs, &clock);
    let denied = || Fault::new(Operation::Rename, Effect::Error(io::ErrorKind::PermissionDenied));
    let stuck = || denied().on(PathFilter::ends_with("/u-0")).from_nth(1);
    vfs.inject(stuck());
    store.delete_topic("u").unwrap_err();
    drop(store);
    let store = open(&vfs, &clock);
    assert!(store.topic("u").is_err());
    assert_eq!(store.open_report().warnings[0].work, PostponedWork::TopicDeletion);
    assert!(store.create_topic("u", 1, config(&[])).is_err());
    vfs.clear_faults();
    assert_eq!(read_all(&store.create_topic("u", 1, config(&[])).unwrap().partition(0).unwrap()), []);
    store.close().unwrap();
    assert!(open(&vfs, &clock).open_report().warnings.is_empty());
}

#[test]
fn a_folder_that_kafka_wrote_opens_on_a_full_disk() {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    memory.create_dir_all(Path::new("/log/events-0")).unwrap();
    memory.open(Path::new("/log/events-0/00000000000000000000.log"), OpenMode::Create).unwrap();
    memory.open(Path::new("/log/events-0/00000000000000000000.index"), OpenMode::Create).unwrap();
    memory.open(Path::new("/log/events-0/00000000000000000000.timeindex"), OpenMode::Create).unwrap();
    let vfs = FaultyVfs::new(memory);
    fill_up(&vfs);
    let store = open(&vfs, &clock);
    assert!(store.topic("events").is_ok());
    let works: Vec<_> = store.open_report().warnings.iter().map(|warning| warning.work).collect();
    assert_eq!(works, [PostponedWork::TopicList, PostponedWork::Checkpoints]);
    vfs.clear_faults();
    store.create_topic("t", 1, config(&[])).unwrap();
    store.close().unwrap();
    assert!(open(&vfs, &clock).open_report().warnings.is_empty());
}

#[test]
fn a_missing_partition_metadata_is_written_by_the_next_opening() {
    let (memory, clock) = killed();
    let path = Path::new("/log/t-0/partition.metadata");
    memory.remove_file(path).unwrap();
    let vfs = FaultyVfs::new(memory.clone());
    fill_up(&vfs);
    let store = open(&vfs, &clock);
    let id = store.topic("t").unwrap().id().unwrap();
    assert!(store.open_report().warnings.iter().any(|one| one.work == PostponedWork::PartitionMetadata));
    vfs.clear_faults();
    store.close().unwrap();
    drop(open(&vfs, &clock));
    let file = memory.open(path, OpenMode::Read).unwrap();
    let bytes = file.map(file.size().unwrap()).unwrap();
    assert_eq!(PartitionMetadata::parse(&bytes).unwrap().topic_id, id);
}

#[test]
fn a_killed_preallocated_partition_opens_though_the_disk_has_no_room_to_give_back_its_zeros() {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    let store = open(&memory, &clock);
    store.create_topic("t", 1, config(&[("preallocate", "true"), ("segment.bytes", "4000")])).unwrap();
    append_at(&partition_of(&store), "v", 0);
    let vfs = FaultyVfs::new(memory.process_crash_image());
    vfs.inject(
        Fault::new(Operation::Sync, Effect::Error(io::ErrorKind::StorageFull)).on(PathFilter::ends_with(".log")),
    );
    let store = open(&vfs, &clock);
    assert!(store.open_report().failed.is_empty(), "{:?}", store.open_report());
    assert_eq!(read_all(&partition_of(&store)).len(), 1);
}

#[test]
fn a_cut_that_a_full_disk_puts_off_is_in_no_report_until_it_is_carried_out() {
    for nth in 1..20 {
        let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
        let store = open(&memory, &clock);
        store.create_topic("t", 1, TopicConfig::new()).unwrap();
        (0..5).for_each(|time| _ = append_at(&partition_of(&store), "v", time));
        let image = memory.process_crash_image();
        let log = image.open(Path::new("/log/t-0/00000000000000000000.log"), OpenMode::Write).unwrap();
        log.write_at(b"no batch at all, but bytes", log.size().unwrap()).unwrap();
        let vfs = FaultyVfs::new(image.clone());
        vfs.inject(Fault::new(Operation::Write, Effect::Error(io::ErrorKind::StorageFull)).from_nth(nth));
        let store = open(&vfs, &clock);
        let cuts: Vec<_> = store.open_report().partitions.iter().flat_map(|partition| partition.cuts.clone()).collect();
        for cut in &cuts {
            assert_eq!(image.metadata(&cut.moved_to).unwrap().map(|metadata| metadata.size), Some(cut.bytes), "{nth}");
        }
        let carried_out: u64 = cuts.iter().map(|cut| cut.bytes).sum();
        assert_eq!(store.metrics().bytes_cut, carried_out, "{nth}");
        vfs.clear_faults();
        partition_of(&store).reopen().unwrap();
        assert_eq!(store.metrics().bytes_cut, 26, "{nth}");
    }
}
