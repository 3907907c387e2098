//! One partition that can't be opened: the store opens without it, says so, forgets nothing about it, and tries again when asked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;

use stratalog::format::OffsetCheckpoint;
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, PathFilter, Vfs};
use stratalog::{
    Durability, ErrorKind, LogStore, ManualClock, Partition, Record, StoreConfig, StoreError, StoreOptions, Topic,
};
use support::{at, config, offset, read_all};

/// Topic `t` with three partitions of small segments, each with ten durable records, of which deletion took the first four.
fn filled() -> (MemoryVfs, LogStore) {
    let memory = MemoryVfs::new();
    let store = open(&memory);
    let topic = store.create_topic("t", 3, config(&[("segment.bytes", "200"), ("retention.ms", "-1")])).unwrap();
    for partition in topic.partitions() {
        for number in 0..10 {
            let value = format!("a value of some length {number}");
            partition.append_with(&[Record::keyed("k", &value)], Durability::Durable).unwrap();
        }
        partition.delete_records_before(offset(4)).unwrap();
    }
    store.flush().unwrap();
    (memory, store)
}

fn open(vfs: &(impl Vfs + Clone + 'static)) -> LogStore {
    let config = StoreConfig::new().num_recovery_threads(1);
    let clock = ManualClock::new(at(0));
    let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock));
    options.config(config).open("/log").unwrap()
}

fn topic(store: &LogStore) -> Topic {
    store.topic("t").unwrap()
}

fn failing(operation: Operation, path: &str, nth: u64, kind: io::ErrorKind) -> Fault {
    Fault::new(operation, Effect::Error(kind)).on(PathFilter::contains(path)).from_nth(nth)
}

fn is_whole(partition: &Partition) -> bool {
    let read = read_all(partition);
    read.len() == 6 && read.first().is_some_and(|(offset, _)| *offset == 4)
}

fn lines(vfs: &dyn Vfs, name: &str) -> Vec<(i32, i64)> {
    let file = vfs.open(&Path::new("/log").join(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    let entries = OffsetCheckpoint::parse(&bytes).unwrap().entries;
    let mut lines: Vec<_> = entries.into_iter().map(|(_, partition, offset)| (partition, offset.value())).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_failing_disk_under_one_partition_leaves_the_others_open_and_the_partition_whole() {
    for is_clean in [true, false] {
        for nth in 1..400 {
            let (memory, store) = filled();
            if is_clean {
                store.close().unwrap()
            } else {
                drop(store)
            }
            let vfs = FaultyVfs::new(memory.torn_crash_image(nth));
            vfs.inject(failing(Operation::Any, "/t-1", nth, io::ErrorKind::Other));
            let store = open(&vfs);
            let topic = topic(&store);
            let [first, last] = [0, 2].map(|number| topic.partition(number).unwrap());
            assert!(is_whole(&first) && is_whole(&last), "clean {is_clean}, call {nth}");
            first.append(&[Record::new("more")]).unwrap();
            let failed: Vec<_> = store.open_report().failed.iter().map(|one| one.partition.to_string()).collect();
            let has_failed = topic.partition(1).is_err();
            assert_eq!(failed, if has_failed { vec!["t-1"] } else { vec![] });
            vfs.clear_faults();
            if has_failed {
                topic.reopen_partition(1).unwrap();
                assert!(topic.failed_partitions().is_empty());
            }
            assert!(is_whole(&topic.partition(1).unwrap()), "clean {is_clean}, call {nth}");
            store.close().unwrap();
            let store = open(&vfs);
            assert!(store.open_report().clean && is_whole(&store.topic("t").unwrap().partition(1).unwrap()));
            if !has_failed {
                assert!(nth > 5, "it never failed");
                break;
            }
        }
    }
}

#[test]
fn any_call_that_fails_at_opening_fails_it_or_leaves_a_store_that_is_whole_later() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for is_clean in [true, false] {
            for nth in 1..400 {
                let (memory, store) = filled();
                if is_clean {
                    store.close().unwrap()
                } else {
                    drop(store)
                }
                let vfs = FaultyVfs::new(memory.process_crash_image());
                vfs.inject(Fault::new(Operation::Any, Effect::Error(kind)).nth(nth));
                let opened = StoreOptions::new().vfs(Arc::new(vfs.clone())).open("/log");
                let was_struck = vfs.faults_struck() > 0;
                vfs.clear_faults();
                let store = opened.unwrap_or_else(|_| open(&vfs));
                for failed in topic(&store).failed_partitions() {
                    topic(&store).reopen_partition(failed.partition.partition.value().unsigned_abs()).unwrap();
                }
                let partitions = topic(&store).partitions();
                assert!(
                    partitions.len() == 3 && partitions.iter().all(is_whole),
                    "{kind}, clean {is_clean}, call {nth}"
                );
                store.close().unwrap();
                let store = open(&vfs);
                assert!(store.open_report().clean && store.open_report().failed.is_empty());
                assert!(topic(&store).partitions().iter().all(is_whole));
                if !was_struck {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_failed_partition_keeps_its_number_and_its_reason_and_the_topic_still_changes() {
    let (memory, store) = filled();
    store.close().unwrap();
    let vfs = FaultyVfs::new(memory);
    vfs.inject(failing(Operation::ReadDir, "/t-2", 1, io::ErrorKind::PermissionDenied));
    let store = open(&vfs);
    let topic = topic(&store);
    let error = topic.partition(2).unwrap_err();
    assert!(matches!(&error, StoreError::PartitionFailed { partition, .. } if partition.to_string() == "t-2"));
    assert!(error.to_string().contains("t-2") && error.to_string().contains("cannot list"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!(error.location().topic_partition().map(ToString::to_string), Some("t-2".into()));
    assert!(matches!(topic.partition(3), Err(StoreError::UnknownPartition { partition_count: 3, .. })));
    assert!(matches!(store.add_partitions("t", 3), Err(StoreError::PartitionCount { min: 4, .. })));
    store.add_partitions("t", 5).unwrap();
    topic.partition(4).unwrap().append(&[Record::new("v")]).unwrap();
    assert!(topic.partition(2).is_err() && topic.partitions().len() == 4);
    topic.alter_config(config(&[("retention.ms", "5000")])).unwrap();
    assert!(topic.reopen_partition(2).is_err());
    vfs.clear_faults();
    topic.reopen_partition(2).unwrap();
    let partition = topic.partition(2).unwrap();
    assert!(is_whole(&partition) && partition.settings().retention_ms == Some(5000));
    partition.append(&[Record::new("more")]).unwrap();
    topic.reopen_partition(2).unwrap();
    assert!(matches!(topic.reopen_partition(7), Err(StoreError::UnknownPartition { .. })));
}

#[test]
fn a_topic_with_a_failed_partition_can_be_deleted_and_created_again() {
    let (memory, store) = filled();
    store.close().unwrap();
    let vfs = FaultyVfs::new(memory.clone());
    vfs.inject(failing(Operation::ReadDir, "/t-1", 1, io::ErrorKind::Other));
    let store = open(&vfs);
    let old = topic(&store);
    store.delete_topic("t").unwrap();
    assert!(matches!(old.reopen_partition(1), Err(StoreError::UnknownTopic { .. })));
    assert_eq!(lines(&memory, "recovery-point-offset-checkpoint"), []);
    vfs.clear_faults();
    let new = store.create_topic("t", 3, config(&[])).unwrap();
    assert!(new.partitions().iter().all(|partition| read_all(partition).is_empty()));
    store.close().unwrap();
    assert!(open(&memory).open_report().clean);
}

#[test]
fn what_the_checkpoints_say_of_a_failed_partition_is_kept_over_any_number_of_openings() {
    let files = ["recovery-point-offset-checkpoint", "log-start-offset-checkpoint"];
    for is_clean in [true, false] {
        let (memory, store) = filled();
        if is_clean {
            store.close().unwrap()
        } else {
            drop(store)
        }
        let before = files.map(|name| lines(&memory, name));
        assert!(before.iter().all(|lines| lines.len() == 3), "{before:?}");
        let vfs = FaultyVfs::new(memory.clone());
        vfs.inject(failing(Operation::Open, "/t-1/", 1, io::ErrorKind::Other));
        for round in 0..3 {
            let store = open(&vfs);
            assert_eq!(store.open_report().failed.len(), 1);
            store.tick(at(1)).unwrap();
            topic(&store).partition(0).unwrap().append(&[Record::new("v")]).unwrap();
            if round % 2 == 0 {
                store.close().unwrap()
            } else {
                drop(store)
            }
            let now = files.map(|name| lines(&memory, name));
            let of_failed =
                |lines: &[Vec<(i32, i64)>; 2]| lines.clone().map(|file| file.into_iter().find(|line| line.0 == 1));
            assert_eq!(of_failed(&before), of_failed(&now), "clean {is_clean}, round {round}");
        }
        vfs.clear_faults();
        let store = open(&vfs);
        assert!(!store.open_report().clean, "the partition was not closed in order");
        assert!(is_whole(&topic(&store).partition(1).unwrap()));
        assert_eq!(topic(&store).partition(1).unwrap().log_start_offset(), offset(4));
    }
}

#[test]
fn a_partition_that_failed_is_verified_later_though_the_store_was_closed_meanwhile() {
    let (memory, store) = filled();
    topic(&store).alter_config(config(&[("segment.bytes", "10000")])).unwrap();
    store.close().unwrap();
    let store = open(&memory);
    topic(&store).partition(1).unwrap().append(&[Record::new("not durable")]).unwrap();
    drop(store);
    // The power fails: the last batch is torn.
    let log = memory.read_dir(Path::new("/log/t-1")).unwrap().into_iter().map(|entry| entry.name);
    let active = log.filter(|name| name.ends_with(".log")).max().unwrap();
    let file = memory.open(&Path::new("/log/t-1").join(active), OpenMode::Write).unwrap();
    file.write_at(&[0xff], file.size().unwrap() - 3).unwrap();
    for is_retried in [true, false] {
        let image = memory.process_crash_image();
        let vfs = FaultyVfs::new(image.clone());
        vfs.inject(failing(Operation::ReadDir, "/t-1", 1, io::ErrorKind::Other));
        let store = open(&vfs);
        vfs.clear_faults();
        let cuts = if is_retried {
            topic(&store).reopen_partition(1).unwrap().cuts
        } else {
            store.close().unwrap();
            open(&image).open_report().partitions[1].cuts.clone()
        };
        assert_eq!(cuts.len(), 1, "retried {is_retried}");
    }
}

#[test]
fn a_missing_folder_that_cannot_be_made_fails_alone_and_is_made_later() {
    let (memory, store) = filled();
    drop(store);
    for entry in memory.read_dir(Path::new("/log/t-1")).unwrap() {
        memory.remove_file(&Path::new("/log/t-1").join(entry.name)).unwrap();
    }
    memory.remove_dir(Path::new("/log/t-1")).unwrap();
    let vfs = FaultyVfs::new(memory.clone());
    vfs.inject(failing(Operation::CreateDir, "/t-1", 1, io::ErrorKind::StorageFull));
    let store = open(&vfs);
    let error = topic(&store).partition(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    vfs.clear_faults();
    topic(&store).reopen_partition(1).unwrap();
    let partition = topic(&store).partition(1).unwrap();
    partition.append_with(&[Record::new("v")], Durability::Durable).unwrap();
    let store = open(&memory.crash_image());
    assert_eq!(read_all(&topic(&store).partition(1).unwrap()).len(), 1);
}

#[test]
fn a_file_in_the_place_of_a_folder_fails_alone() {
    let (memory, store) = filled();
    store.close().unwrap();
    for entry in memory.read_dir(Path::new("/log/t-1")).unwrap() {
        memory.remove_file(&Path::new("/log/t-1").join(entry.name)).unwrap();
    }
    memory.remove_dir(Path::new("/log/t-1")).unwrap();
    memory.open(Path::new("/log/t-1"), OpenMode::Create).unwrap();
    let store = open(&memory);
    assert!(topic(&store).partition(1).is_err() && is_whole(&topic(&store).partition(2).unwrap()));
}

#[test]
fn a_read_only_store_opens_without_the_partition_too_and_tries_again() {
    let (memory, _writer) = filled();
    let vfs = FaultyVfs::new(memory);
    vfs.inject(failing(Operation::Open, "/t-1/", 1, io::ErrorKind::PermissionDenied));
    let store = StoreOptions::new().vfs(Arc::new(vfs.clone())).read_only(true).open("/log").unwrap();
    assert_eq!(store.open_report().failed.len(), 1);
    assert!(topic(&store).reopen_partition(1).is_err());
    vfs.clear_faults();
    let mutations = vfs.mutations();
    topic(&store).reopen_partition(1).unwrap();
    assert!(!read_all(&topic(&store).partition(1).unwrap()).is_empty());
    store.close().unwrap();
    assert_eq!(vfs.mutations(), mutations);
}

#[test]
fn whatever_a_single_file_of_a_partition_holds_the_others_open() {
    let (memory, store) = filled();
    store.close().unwrap();
    let folder = Path::new("/log/t-1");
    for entry in memory.read_dir(folder).unwrap() {
        for garbage in
            [&b""[..], b"\0", b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"garbage of some length, longer than a header is"]
        {
            for is_clean in [true, false] {
                let image = memory.process_crash_image();
                if !is_clean {
                    image.remove_file(Path::new("/log/.kafka_cleanshutdown")).unwrap();
                }
                let file = image.open(&folder.join(&entry.name), OpenMode::Truncate).unwrap();
                file.write_at(garbage, 0).unwrap();
                let store = open(&image);
                for number in [0, 2] {
                    assert!(is_whole(&topic(&store).partition(number).unwrap()), "{} {garbage:?}", entry.name);
                }
                store.tick(at(1)).unwrap();
                store.close().unwrap();
            }
        }
    }
}

#[test]
fn flushing_is_no_success_while_nothing_is_known_of_a_partition() {
    let (memory, store) = filled();
    drop(store);
    let vfs = FaultyVfs::new(memory);
    vfs.inject(failing(Operation::ReadDir, "/log/t-1", 1, io::ErrorKind::PermissionDenied));
    let store = open(&vfs);
    assert_eq!(topic(&store).failed_partitions().len(), 1);
    let error = store.flush().unwrap_err();
    assert!(
        matches!(&error, StoreError::PartitionFailed { partition, .. } if partition.to_string() == "t-1"),
        "{error}"
    );
    vfs.clear_faults();
    topic(&store).reopen_partition(1).unwrap();
    store.flush().unwrap();
}

#[test]
fn a_retried_partition_whose_segments_are_gone_gives_no_offset_twice() {
    let (memory, store) = filled();
    let partition = topic(&store).partition(1).unwrap();
    let start = partition.segments()[3].base_offset();
    partition.delete_records_before(start).unwrap();
    store.tick(at(0)).unwrap();
    store.flush().unwrap();
    let logs: Vec<_> = partition.segments().iter().map(|segment| segment.path()).collect();
    drop((partition, store));
    logs.iter().for_each(|log| memory.remove_file(log).unwrap());
    let vfs = FaultyVfs::new(memory);
    vfs.inject(failing(Operation::ReadDir, "/log/t-1", 1, io::ErrorKind::PermissionDenied));
    let store = open(&vfs);
    vfs.clear_faults();
    topic(&store).reopen_partition(1).unwrap();
    assert_eq!(topic(&store).partition(1).unwrap().log_end_offset(), start);
}
