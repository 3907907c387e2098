//! Stores as a whole: what opening, changing and closing leave on disk, and what a crash in between does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::ManualClock;
use crate::format::file_name::PartitionDirName;
use crate::format::{OffsetCheckpoint, PartitionMetadata, Record, TopicId, VerifiedPoints};
use crate::types::{ErrorKind, Offset};
use crate::vfs::{DiskVfs, Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs, read_whole};

const ROOT: &str = "/log";

fn options(vfs: &MemoryVfs) -> StoreOptions {
    StoreOptions::new().vfs(Arc::new(vfs.clone()))
}

fn open(vfs: &MemoryVfs) -> LogStore {
    options(vfs).open(ROOT).unwrap()
}

fn create(store: &LogStore, name: &str, partitions: u32) -> Topic {
    store.create_topic(name, partitions, TopicConfig::new()).unwrap()
}

fn append(topic: &Topic, partition: u32, count: usize) {
    let records = vec![Record::new(b"value"); count];
    topic.partition(partition).unwrap().append(&records).unwrap();
}

fn end(store: &LogStore, topic: &str, partition: u32) -> i64 {
    store.topic(topic).unwrap().partition(partition).unwrap().log_end_offset().value()
}

fn root(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

fn put(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) {
    vfs.create_dir_all(path.parent().unwrap()).unwrap();
    vfs.open(path, OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
}

fn get(vfs: &dyn Vfs, path: &Path) -> Option<Vec<u8>> {
    read_whole(vfs, path).unwrap()
}

/// Every file below `dir` with its bytes; folders end in `/`.
fn tree(vfs: &dyn Vfs, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in vfs.read_dir(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            files.insert(format!("{}/", path.display()), Vec::new());
            files.extend(tree(vfs, &path));
        } else {
            files.insert(path.display().to_string(), get(vfs, &path).unwrap());
        }
    }
    files
}

fn names(vfs: &dyn Vfs) -> Vec<String> {
    vfs.read_dir(Path::new(ROOT)).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn offsets(vfs: &dyn Vfs, name: &str) -> Vec<(String, i32, i64)> {
    let checkpoint = OffsetCheckpoint::parse(&get(vfs, &root(name)).unwrap()).unwrap();
    checkpoint.entries.into_iter().map(|(topic, partition, offset)| (topic, partition, offset.value())).collect()
}

/// A partition folder as Kafka leaves it, with an empty log.
fn put_kafka_partition(vfs: &dyn Vfs, name: &str, id: Option<TopicId>) {
    put(vfs, &root(name).join("00000000000000000000.log"), b"");
    if let Some(topic_id) = id {
        put(vfs, &root(name).join("partition.metadata"), &PartitionMetadata { topic_id }.encode());
    }
}

#[test]
fn topics_their_ids_and_configs_survive_an_orderly_stop() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    assert!(!store.open_report().clean);
    let config = TopicConfig::new().segment_bytes(4096);
    let topic = store.create_topic("orders", 3, config.clone()).unwrap();
    append(&topic, 2, 5);
    let id = topic.id().unwrap();
    store.close().unwrap();

    let store = open(&vfs);
    let topic = store.topic("orders").unwrap();
    assert!(store.open_report().clean);
    assert_eq!((topic.id(), topic.config()), (Some(id), config));
    assert_eq!(topic.settings().segment_bytes, 4096);
    assert_eq!(topic.partition(2).unwrap().settings().segment_bytes, 4096);
    assert_eq!(end(&store, "orders", 2), 5);
    let ids: Vec<String> = store.open_report().partitions.iter().map(|partition| partition.id.to_string()).collect();
    assert_eq!(ids, ["orders-0", "orders-1", "orders-2"]);
}

#[test]
fn the_clean_mark_is_there_only_between_an_orderly_stop_and_the_next_opening() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    assert_eq!(get(&vfs, &root(".kafka_cleanshutdown")), None);
    store.close().unwrap();
    assert_eq!(get(&vfs, &root(".kafka_cleanshutdown")).unwrap(), br#"{"version":0,"brokerEpoch":-1}"#);
    let image = vfs.crash_image();
    assert!(open(&image).open_report().clean, "the mark was not durable");

    let store = open(&vfs);
    assert_eq!(get(&vfs, &root(".kafka_cleanshutdown")), None);
    assert_eq!(get(&vfs.crash_image(), &root(".kafka_cleanshutdown")), None, "its removal was not durable");
    drop(store);
    assert!(!open(&vfs).open_report().clean);
}

#[test]
fn a_second_opening_is_refused_until_the_first_store_is_closed_or_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let first = LogStore::open(folder.path()).unwrap();
    let error = LogStore::open(folder.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Locked { path, .. } if path == folder.path()), "{error}");
    assert_eq!(error.kind(), ErrorKind::Locked);
    first.close().unwrap();
    drop(LogStore::open(folder.path()).unwrap());
    assert!(!LogStore::open(folder.path()).unwrap().open_report().clean);
}

#[test]
fn the_lock_files_left_behind_by_a_kill_lock_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    put(&DiskVfs::new(), &folder.path().join(".lock"), b"");
    put(&DiskVfs::new(), &folder.path().join(".stratalog.lock"), b"");
    LogStore::open(folder.path()).unwrap();
}

#[test]
fn closing_ends_every_clone_and_every_handle() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    let topic = create(&store, "orders", 1);
    let partition = topic.partition(0).unwrap();
    let clone = store.clone();
    store.close().unwrap();
    assert_eq!(partition.append(&[Record::new(b"late")]).unwrap_err().kind(), ErrorKind::Offline);
    assert!(matches!(topic.partition(0), Err(StoreError::Closed { .. })));
    assert!(matches!(topic.alter_config(TopicConfig::new()), Err(StoreError::Closed { .. })));
    assert!(matches!(clone.topic("orders"), Err(StoreError::Closed { .. })));
    assert!(matches!(clone.create_topic("other", 1, TopicConfig::new()), Err(StoreError::Closed { .. })));
    assert!(matches!(clone.delete_topic("orders"), Err(StoreError::Closed { .. })));
    assert!(matches!(clone.flush(), Err(StoreError::Closed { .. })));
    assert!(clone.topics().is_empty());
    assert!(matches!(clone.close(), Err(StoreError::Closed { .. })));
    open(&vfs);
}

#[test]
fn a_partition_that_outlives_its_dropped_store_takes_no_more_records() {
    let vfs = MemoryVfs::new();
    let partition = create(&open(&vfs), "orders", 1).partition(0).unwrap();
    assert_eq!(partition.append(&[Record::new(b"late")]).unwrap_err().kind(), ErrorKind::Offline);
    open(&vfs);
}

#[test]
fn a_topic_keeps_its_store_open() {
    let vfs = MemoryVfs::new();
    let topic = create(&open(&vfs), "orders", 1);
    append(&topic, 0, 1);
    assert!(matches!(options(&vfs).open(ROOT), Err(StoreError::Locked { .. })));
}

#[test]
fn illegal_topics_are_refused_with_nothing_changed_on_disk() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    create(&store, "my.topic", 2);
    put(&vfs, &root("taken-1").join("notes.txt"), b"mine");
    let before = tree(&vfs, Path::new(ROOT));
    let refused = |name: &str, partitions, config| store.create_topic(name, partitions, config).unwrap_err();
    let plain = TopicConfig::new;
    for name in ["", ".", "..", "../escape", "a/b", "a\0b", "ä", &"x".repeat(250)] {
        assert!(matches!(refused(name, 1, plain()), StoreError::Name(_)), "{name:?}");
    }
    assert!(matches!(refused("my.topic", 1, plain()), StoreError::TopicExists { .. }));
    assert!(
        matches!(refused("my_topic", 1, plain()), StoreError::NameCollision { existing, .. } if existing.as_str() == "my.topic")
    );
    assert!(matches!(refused("none", 0, plain()), StoreError::PartitionCount { min: 1, max: 100_000, got: 0, .. }));
    assert!(matches!(refused("many", u32::MAX, plain()), StoreError::PartitionCount { .. }));
    assert!(matches!(refused("taken", 2, plain()), StoreError::FolderInTheWay { .. }));
    assert!(matches!(refused("__cluster_metadata", 1, plain()), StoreError::ReservedTopic { .. }));
    let lags = plain().min_compaction_lag_ms(2).max_compaction_lag_ms(1);
    assert!(matches!(refused("lags", 1, lags), StoreError::Config { topic: Some(_), .. }));
    assert!(matches!(store.add_partitions("my.topic", 2), Err(StoreError::PartitionCount { min: 3, got: 2, .. })));
    assert!(matches!(store.add_partitions("nobody", 2), Err(StoreError::UnknownTopic { .. })));
    assert!(matches!(store.delete_topic("../.."), Err(StoreError::UnknownTopic { .. })));
    assert!(matches!(
        store.topic("my.topic").unwrap().partition(2),
        Err(StoreError::UnknownPartition { got: 2, partition_count: 2, .. })
    ));
    assert_eq!(tree(&vfs, Path::new(ROOT)), before);
}

#[test]
fn a_foreign_folder_is_refused_and_left_as_it_was() {
    for strangers in [&["notes.txt"][..], &["backup-2024/photo.jpg", "x.log"], &["empty-1/"], &[".lock", "a"]] {
        let vfs = MemoryVfs::new();
        for name in strangers {
            match name.strip_suffix('/') {
                Some(dir) => vfs.create_dir_all(&root(dir)).unwrap(),
                None => put(&vfs, &root(name), b"mine"),
            }
        }
        let before = tree(&vfs, Path::new(ROOT));
        for read_only in [false, true] {
            let error = options(&vfs).read_only(read_only).open(ROOT).unwrap_err();
            assert!(matches!(error, StoreError::NotAStore { .. }), "{strangers:?}: {error}");
        }
        assert_eq!(tree(&vfs, Path::new(ROOT)), before);
    }
}

#[test]
fn partitions_checkpoints_or_our_own_file_make_a_folder_a_store() {
    for sign in ["t-0/00000000000000000000.log", "recovery-point-offset-checkpoint", "stratalog-topics"] {
        let vfs = MemoryVfs::new();
        put(&vfs, &root("notes.txt"), b"mine");
        put(&vfs, &root(sign), if sign == "stratalog-topics" { b"stratalog-topics 1\nend 5b8b6b6a\n" } else { b"" });
        let result = options(&vfs).open(ROOT);
        assert!(!matches!(result, Err(StoreError::NotAStore { .. })), "{sign}");
    }
}

#[test]
fn a_path_that_is_a_file_and_a_missing_read_only_path_are_named() {
    let vfs = MemoryVfs::new();
    put(&vfs, Path::new("/file"), b"");
    assert!(matches!(options(&vfs).open("/file"), Err(StoreError::NotAFolder { .. })));
    assert!(matches!(options(&vfs).read_only(true).open(ROOT), Err(StoreError::Missing { .. })));
    assert_eq!(vfs.metadata(Path::new(ROOT)).unwrap(), None);
}

#[test]
fn a_read_only_store_opens_beside_the_writer_and_changes_nothing() {
    let vfs = MemoryVfs::new();
    let writer = open(&vfs);
    let topic = create(&writer, "orders", 2);
    append(&topic, 0, 3);
    let before = tree(&vfs, Path::new(ROOT));
    let reader = options(&vfs).read_only(true).open(ROOT).unwrap();
    assert_eq!((end(&reader, "orders", 0), reader.topic("orders").unwrap().id()), (3, topic.id()));
    let append = reader.topic("orders").unwrap().partition(0).unwrap().append(&[Record::new(b"no")]);
    assert_eq!(append.unwrap_err().kind(), ErrorKind::Locked);
    assert!(matches!(reader.create_topic("x", 1, TopicConfig::new()), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(reader.checkpoint(), Err(StoreError::ReadOnly { .. })));
    reader.close().unwrap();
    assert_eq!(tree(&vfs, Path::new(ROOT)), before);
}

#[test]
fn a_read_only_store_leaves_the_clean_mark_and_unfinished_work_alone() {
    let vfs = MemoryVfs::new();
    open(&vfs).close().unwrap();
    vfs.create_dir_all(&root("old-0.0123456789abcdef0123456789abcdef-delete")).unwrap();
    let before = tree(&vfs, Path::new(ROOT));
    let reader = options(&vfs).read_only(true).open(ROOT).unwrap();
    assert!(reader.open_report().clean);
    drop(reader);
    assert_eq!(tree(&vfs, Path::new(ROOT)), before);
}

#[test]
fn kafkas_topics_are_adopted_and_never_expire_by_default() {
    let vfs = MemoryVfs::new();
    let id = TopicId::from_bytes([9; 16]);
    put_kafka_partition(&vfs, "events-0", Some(id));
    put_kafka_partition(&vfs, "events-2", Some(id));
    put_kafka_partition(&vfs, "old-0", None);
    let store = open(&vfs);
    let topic = store.topic("events").unwrap();
    assert_eq!((topic.id(), topic.partitions().len()), (Some(id), 2));
    assert_eq!((topic.settings().retention_ms, topic.settings().retention_bytes), (None, None));
    assert_eq!(topic.config(), TopicConfig::new());
    assert_eq!(topic.effective_config().get("retention.ms").unwrap(), "-1");
    assert_eq!(store.topic("old").unwrap().id(), None);
    assert!(matches!(topic.partition(1), Err(StoreError::UnknownPartition { .. })));

    // What is set later is kept, and lifts nothing else; folders that the copy lacks are not made up.
    topic.alter_config(TopicConfig::new().segment_bytes(1 << 20)).unwrap();
    drop((store, topic));
    let store = open(&vfs);
    let topic = store.topic("events").unwrap();
    assert_eq!((topic.settings().segment_bytes, topic.settings().retention_ms), (1 << 20, None));
    assert_eq!((topic.id(), topic.partitions().len()), (Some(id), 2));
}

#[test]
fn a_default_that_names_a_retention_holds_for_adopted_topics_too() {
    let vfs = MemoryVfs::new();
    put_kafka_partition(&vfs, "events-0", None);
    let defaults = TopicConfig::new().retention_ms(Some(5)).segment_ms(7);
    let store = options(&vfs).config(StoreConfig::new().topic_defaults(defaults)).open(ROOT).unwrap();
    let settings = store.topic("events").unwrap().settings();
    assert_eq!((settings.retention_ms, settings.retention_bytes, settings.segment_ms), (Some(5), None, 7));
}

#[test]
fn folders_that_are_no_partitions_are_skipped_and_reported() {
    let vfs = MemoryVfs::new();
    drop(open(&vfs));
    let future = "t-0.0123456789abcdef0123456789abcdef-future";
    let stray = "t-1.0123456789abcdef0123456789abcdef-stray";
    for name in ["lost+found", "remote-log-index-cache", future, stray] {
        vfs.create_dir_all(&root(name)).unwrap();
    }
    put(&vfs, &root("backup-2024").join("photo.jpg"), b"mine");
    let store = open(&vfs);
    let reported: Vec<(PathBuf, SkipReason)> =
        store.open_report().skipped.iter().map(|skipped| (skipped.path.clone(), skipped.reason.clone())).collect();
    let expected = [
        (root("backup-2024"), SkipReason::NoLogInside),
        (root("lost+found"), SkipReason::NotAPartition),
        (root(future), SkipReason::Future),
        (root(stray), SkipReason::Stray),
    ];
    assert_eq!(reported, expected);
    assert!(store.topics().is_empty());
}

#[test]
fn the_controllers_log_is_listed_but_never_written() {
    let vfs = MemoryVfs::new();
    put_kafka_partition(&vfs, "__cluster_metadata-0", None);
    put_kafka_partition(&vfs, "events-0", None);
    let store = open(&vfs);
    let metadata = store.topic("__cluster_metadata").unwrap();
    let refused = metadata.partition(0).unwrap().append(&[Record::new(b"no")]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(matches!(metadata.alter_config(TopicConfig::new()), Err(StoreError::ReservedTopic { .. })));
    assert!(matches!(store.delete_topic("__cluster_metadata"), Err(StoreError::ReservedTopic { .. })));
    assert!(matches!(store.add_partitions("__cluster_metadata", 5), Err(StoreError::ReservedTopic { .. })));
    store.close().unwrap();
    assert_eq!(offsets(&vfs, "recovery-point-offset-checkpoint"), [("events".to_owned(), 0, 0)]);
}

#[test]
fn a_crash_after_the_list_was_written_is_completed_by_the_next_opening() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    let id = create(&store, "orders", 3).id().unwrap();
    drop(store);
    // As if the process had died between the list and the second folder.
    for name in ["orders-1", "orders-2"] {
        for entry in vfs.read_dir(&root(name)).unwrap() {
            vfs.remove_file(&root(name).join(entry.name)).unwrap();
        }
    }
    vfs.remove_dir(&root("orders-2")).unwrap();
    let reader = options(&vfs).read_only(true).open(ROOT).unwrap();
    assert_eq!(reader.topic("orders").unwrap().partitions().len(), 2);
    let store = open(&vfs);
    assert_eq!(store.topic("orders").unwrap().partitions().len(), 3);
    let created: Vec<String> = store.open_report().created.iter().map(ToString::to_string).collect();
    assert_eq!(created, ["orders-2"]);
    for name in ["orders-0", "orders-1", "orders-2"] {
        let metadata = get(&vfs, &root(name).join("partition.metadata")).unwrap();
        assert_eq!(PartitionMetadata::parse(&metadata).unwrap().topic_id, id);
    }
}

/// Runs `work` on a store that loses power after each number of changes to the disk in turn, and gives `check` the
/// store opened from what was left, with whether `work` got to its end.
fn crash_everywhere(
    prepare: impl Fn(&LogStore),
    work: impl Fn(&LogStore) -> Result<(), StoreError>,
    check: impl Fn(&LogStore, bool),
) {
    for mutations in 0..400 {
        let memory = MemoryVfs::new();
        let faulty = Arc::new(FaultyVfs::new(memory));
        let store = StoreOptions::new().vfs(Arc::clone(&faulty) as Arc<dyn Vfs>).open(ROOT).unwrap();
        prepare(&store);
        faulty.crash_after(mutations);
        let done = work(&store).is_ok() && !faulty.is_crashed();
        faulty.crash();
        drop(store);
        let image = faulty.crash_image(mutations).unwrap();
        let store = open(&image);
        check(&store, done);
        drop(store);
        check(&open(&image), done);
        if done {
            return;
        }
    }
    panic!("the work never ended");
}

#[test]
fn a_topic_is_created_in_full_or_not_at_all_wherever_the_power_fails() {
    let work = |store: &LogStore| store.create_topic("orders", 3, TopicConfig::new().segment_bytes(4096)).map(drop);
    crash_everywhere(
        |_| (),
        work,
        |store, done| match store.topic("orders") {
            Ok(topic) => {
                assert_eq!((topic.partitions().len(), topic.settings().segment_bytes), (3, 4096));
                append(&topic, 2, 1);
            }
            Err(error) => assert!(!done, "a created topic is gone: {error}"),
        },
    );
}

#[test]
fn a_topic_is_deleted_in_full_or_not_at_all_wherever_the_power_fails() {
    let prepare = |store: &LogStore| {
        let topic = create(store, "orders", 3);
        (0..3).for_each(|partition| append(&topic, partition, 4));
        store.flush().unwrap();
    };
    let check = |store: &LogStore, done: bool| match store.topic("orders") {
        Ok(topic) => {
            assert!(!done, "a deleted topic is back");
            let ends: Vec<i64> =
                topic.partitions().iter().map(|partition| partition.log_end_offset().value()).collect();
            assert_eq!(ends, [4, 4, 4]);
        }
        Err(_) => assert!(store.topics().is_empty()),
    };
    crash_everywhere(prepare, |store| store.delete_topic("orders"), check);
}

#[test]
fn partitions_are_added_in_full_or_not_at_all_wherever_the_power_fails() {
    let prepare = |store: &LogStore| {
        let topic = create(store, "orders", 1);
        append(&topic, 0, 4);
        store.flush().unwrap();
    };
    let check = |store: &LogStore, done: bool| {
        let count = store.topic("orders").unwrap().partitions().len();
        assert!(count == 3 || (count == 1 && !done), "{count} partitions");
        assert_eq!(end(store, "orders", 0), 4);
    };
    crash_everywhere(prepare, |store| store.add_partitions("orders", 3), check);
}

#[test]
fn an_altered_config_is_the_old_or_the_new_one_wherever_the_power_fails() {
    let prepare = |store: &LogStore| drop(create(store, "orders", 1));
    let work = |store: &LogStore| store.topic("orders")?.alter_config(TopicConfig::new().segment_bytes(4096));
    crash_everywhere(prepare, work, |store, done| {
        let size = store.topic("orders").unwrap().settings().segment_bytes;
        assert!(size == 4096 || (size == 1 << 30 && !done), "{size}");
    });
}

#[test]
fn an_orderly_stop_loses_nothing_wherever_the_power_fails() {
    let prepare = |store: &LogStore| {
        let topic = create(store, "orders", 2);
        append(&topic, 1, 4);
        store.flush().unwrap();
    };
    let check = |store: &LogStore, _| assert_eq!(end(store, "orders", 1), 4);
    crash_everywhere(prepare, |store| store.clone().close(), check);
}

#[test]
fn a_failed_creation_leaves_no_topic_and_can_be_tried_again() {
    for skipped in 0..30 {
        let faulty = Arc::new(FaultyVfs::new(MemoryVfs::new()));
        let store = StoreOptions::new().vfs(Arc::clone(&faulty) as Arc<dyn Vfs>).open(ROOT).unwrap();
        let broken = Effect::Error(std::io::ErrorKind::Other);
        faulty.inject(Fault { after: skipped, ..Fault::new(Operation::Sync, broken) });
        let result = store.create_topic("orders", 2, TopicConfig::new());
        faulty.clear_faults();
        if result.is_err() {
            assert!(store.topics().is_empty());
            create(&store, "orders", 2);
        }
        append(&store.topic("orders").unwrap(), 1, 1);
        store.close().unwrap();
        let store = StoreOptions::new().vfs(faulty as Arc<dyn Vfs>).open(ROOT).unwrap();
        assert_eq!(end(&store, "orders", 1), 1);
    }
}

#[test]
fn a_deleted_topic_is_gone_at_once_and_its_files_after_the_delay() {
    let vfs = MemoryVfs::new();
    let clock = ManualClock::new(Timestamp::from_millis(1_000_000).unwrap());
    let store = options(&vfs).clock(Arc::new(clock.clone())).open(ROOT).unwrap();
    let topic = store.create_topic("orders", 2, TopicConfig::new().file_delete_delay_ms(500)).unwrap();
    let partition = topic.partition(0).unwrap();
    append(&topic, 0, 3);
    store.checkpoint().unwrap();
    let id = topic.id();
    store.delete_topic("orders").unwrap();
    assert!(matches!(store.topic("orders"), Err(StoreError::UnknownTopic { .. })));
    assert!(matches!(store.delete_topic("orders"), Err(StoreError::UnknownTopic { .. })));
    assert!(matches!(topic.alter_config(TopicConfig::new()), Err(StoreError::UnknownTopic { .. })));
    assert_eq!(partition.append(&[Record::new(b"late")]).unwrap_err().kind(), ErrorKind::Offline);
    assert_eq!(offsets(&vfs, "recovery-point-offset-checkpoint"), []);
    let waiting = || {
        names(&vfs)
            .iter()
            .filter(|name| matches!(PartitionDirName::parse(name), Some(PartitionDirName::Delete { .. })))
            .count()
    };
    assert_eq!(waiting(), 2);

    // A new topic of the same name begins anew.
    assert_ne!(create(&store, "orders", 1).id(), id);
    assert_eq!(end(&store, "orders", 0), 0);
    assert_eq!(store.remove_expired(clock.now()).unwrap().folders, 0);
    clock.advance(500);
    assert_eq!(store.remove_expired(clock.now()).unwrap().folders, 2);
    assert_eq!(waiting(), 0);
}

#[test]
fn folders_whose_removal_was_cut_short_go_at_the_next_opening_in_bounded_steps() {
    let vfs = MemoryVfs::new();
    drop(open(&vfs));
    let dir = root("old-0.0123456789abcdef0123456789abcdef-delete");
    for number in 0..1500 {
        put(&vfs, &dir.join(format!("{number}.deleted")), b"");
    }
    let store = open(&vfs);
    assert_eq!(vfs.read_dir(&dir).unwrap().len(), 1500 - 1024);
    assert_eq!(store.remove_expired(store.clock().now()).unwrap().folders, 1);
    assert_eq!(vfs.metadata(&dir).unwrap(), None);
}

#[test]
fn checkpoints_follow_kafkas_rules() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    let topic = create(&store, "orders", 2);
    append(&topic, 1, 10);
    topic.partition(1).unwrap().flush().unwrap();
    append(&topic, 1, 1);
    topic.partition(1).unwrap().delete_records_before(Offset::new(4).unwrap()).unwrap();
    store.checkpoint().unwrap();
    let orders = |partition, offset| ("orders".to_owned(), partition, offset);
    assert_eq!(offsets(&vfs, "recovery-point-offset-checkpoint"), [orders(0, 0), orders(1, 10)]);
    assert_eq!(offsets(&vfs, "replication-offset-checkpoint"), [orders(0, 0), orders(1, 11)]);
    assert_eq!(offsets(&vfs, "log-start-offset-checkpoint"), [orders(1, 4)]);
    store.flush().unwrap();
    assert_eq!(offsets(&vfs.crash_image(), "recovery-point-offset-checkpoint"), [orders(0, 0), orders(1, 11)]);
    store.close().unwrap();
    let log_start = open(&vfs).topic("orders").unwrap().partition(1).unwrap().log_start_offset();
    assert_eq!(log_start.value(), 4);
}

#[test]
fn an_idle_store_writes_no_checkpoints() {
    let faulty = Arc::new(FaultyVfs::new(MemoryVfs::new()));
    let store = StoreOptions::new().vfs(Arc::clone(&faulty) as Arc<dyn Vfs>).open(ROOT).unwrap();
    create(&store, "orders", 2);
    store.checkpoint().unwrap();
    let before = faulty.mutations();
    store.checkpoint().unwrap();
    assert_eq!(faulty.mutations(), before);
}

#[test]
fn damaged_checkpoints_are_reported_and_do_not_keep_a_store_from_opening() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    append(&create(&store, "orders", 1), 0, 5);
    store.flush().unwrap();
    drop(store);
    let files = ["log-start-offset-checkpoint", "recovery-point-offset-checkpoint", "stratalog-verified"];
    for name in files {
        put(&vfs, &root(name), b"\0\0\0\0");
    }
    put(&vfs, &root("orders-0").join("partition.metadata"), b"\0");
    let store = open(&vfs);
    let mut expected: Vec<PathBuf> = files.iter().map(|name| root(name)).collect();
    expected.insert(1, root("orders-0").join("partition.metadata"));
    let reported: Vec<PathBuf> = store.open_report().skipped.iter().map(|skipped| skipped.path.clone()).collect();
    assert_eq!(reported, expected);
    assert_eq!(end(&store, "orders", 0), 5);
    drop(store);
    assert_eq!(open(&vfs).open_report().skipped.len(), 1, "new checkpoints were written");
}

#[test]
fn a_damaged_list_of_topics_is_an_error_with_its_path_and_opens_once_it_is_removed() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    append(&create(&store, "orders", 2), 0, 5);
    store.close().unwrap();
    let path = root("stratalog-topics");
    let bytes = get(&vfs, &path).unwrap();
    put(&vfs, &path, &bytes[..bytes.len() - 3]);
    let error = options(&vfs).open(ROOT).unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
    assert_eq!((error.kind(), error.location().file()), (ErrorKind::Corrupt, Some(path.as_path())));
    vfs.remove_file(&path).unwrap();
    assert_eq!(end(&open(&vfs), "orders", 0), 5);
}

#[test]
fn verified_points_count_after_a_kill_in_the_same_boot_only() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    append(&create(&store, "orders", 1), 0, 5);
    store.checkpoint().unwrap();
    let load = |vfs: &dyn Vfs, clean| {
        let mut skipped = Vec::new();
        checkpoints::Checkpointed::load(vfs, Path::new(ROOT), clean, &mut skipped).unwrap().verified
    };
    let verified = load(&vfs.process_crash_image(), false);
    let point = verified.values().next().unwrap();
    assert!(point.base_offset == Offset::ZERO && point.position.value() > 0);
    assert!(load(&vfs.process_crash_image(), true).is_empty());
    let bytes = get(&vfs, &root("stratalog-verified")).unwrap();
    let other = VerifiedPoints { boot_id: "another".into(), ..VerifiedPoints::parse(&bytes).unwrap() };
    put(&vfs, &root("stratalog-verified"), &other.encode());
    assert!(load(&vfs, false).is_empty());
    store.close().unwrap();
    drop(open(&vfs));
    assert_eq!(get(&vfs, &root("stratalog-verified")), None, "it would speak of segments from before the stop");
}

#[test]
fn folders_of_two_topics_with_one_name_are_refused() {
    let refused = |vfs: &MemoryVfs, name: &str| {
        let store = open(vfs);
        let [failed] = &store.open_report().failed[..] else { panic!("{:?}", store.open_report().failed) };
        assert!(
            matches!(&*failed.error, StoreError::TopicIdMismatch { partition, .. } if partition.to_string() == name),
            "{}",
            failed.error
        );
        assert_eq!(failed.partition.to_string(), name);
    };
    let vfs = MemoryVfs::new();
    put_kafka_partition(&vfs, "events-0", Some(TopicId::from_bytes([1; 16])));
    put_kafka_partition(&vfs, "events-1", Some(TopicId::from_bytes([2; 16])));
    refused(&vfs, "events-1");

    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    create(&store, "orders", 1);
    drop(store);
    put_kafka_partition(&vfs, "orders-0", Some(TopicId::from_bytes([1; 16])));
    refused(&vfs, "orders-0");
}

#[test]
fn one_folder_of_another_topic_does_not_outvote_the_rest() {
    let vfs = MemoryVfs::new();
    put_kafka_partition(&vfs, "events-0", Some(TopicId::from_bytes([9; 16])));
    put_kafka_partition(&vfs, "events-1", None);
    for name in ["events-2", "events-3"] {
        put_kafka_partition(&vfs, name, Some(TopicId::from_bytes([1; 16])));
    }
    let store = open(&vfs);
    let topic = store.topic("events").unwrap();
    assert_eq!(topic.id(), Some(TopicId::from_bytes([1; 16])));
    assert_eq!(topic.partitions().len(), 3);
    assert!(matches!(topic.partition(0), Err(StoreError::PartitionFailed { .. })));
}

#[test]
fn an_unreadable_folder_counts_as_a_partition_only_of_a_topic_that_is_known() {
    let vfs = MemoryVfs::new();
    put_kafka_partition(&vfs, "events-0", None);
    put_kafka_partition(&vfs, "events-1", None);
    put(&vfs, &root("backup-2024").join("photo.jpg"), b"mine");
    let faulty = FaultyVfs::new(vfs);
    for name in ["events-1", "backup-2024"] {
        let denied = Fault::new(Operation::ReadDir, Effect::Error(std::io::ErrorKind::PermissionDenied));
        faulty.inject(Fault { path_contains: name.into(), ..denied }.from_nth(1));
    }
    let store = StoreOptions::new().vfs(Arc::new(faulty.clone())).open(ROOT).unwrap();
    let names: Vec<_> = store.topics().iter().map(|topic| topic.name().to_string()).collect();
    assert_eq!(names, ["events"]);
    assert!(matches!(store.topic("events").unwrap().partition(1), Err(StoreError::PartitionFailed { .. })));
    let skipped = &store.open_report().skipped;
    let reason = SkipReason::Unreadable(std::io::ErrorKind::PermissionDenied);
    assert_eq!(skipped[..], [Skipped { path: root("backup-2024"), reason }]);
    faulty.clear_faults();
    store.topic("events").unwrap().reopen_partition(1).unwrap();
    assert_eq!(store.topic("events").unwrap().partitions().len(), 2);
}

#[test]
fn altering_reaches_open_partitions_and_survives() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    let topic = create(&store, "orders", 1);
    let partition = topic.partition(0).unwrap();
    let before = tree(&vfs, Path::new(ROOT));
    let illegal = TopicConfig::new().min_compaction_lag_ms(2).max_compaction_lag_ms(1);
    assert!(matches!(topic.alter_config(illegal), Err(StoreError::Config { topic: Some(_), .. })));
    assert_eq!(tree(&vfs, Path::new(ROOT)), before);
    topic.alter_config(TopicConfig::new().retention_ms(Some(9))).unwrap();
    assert_eq!(partition.settings().retention_ms, Some(9));
    topic.alter_config(TopicConfig::new()).unwrap();
    assert_eq!(partition.settings().retention_ms, Some(604_800_000));
    topic.alter_config(TopicConfig::new().retention_ms(Some(7))).unwrap();
    drop((store, topic));
    assert_eq!(open(&vfs).topic("orders").unwrap().settings().retention_ms, Some(7));
}

#[test]
fn added_partitions_are_empty_and_usable_at_once() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    let topic = create(&store, "orders", 1);
    store.add_partitions("orders", 4).unwrap();
    assert_eq!(topic.partitions().len(), 4);
    append(&topic, 3, 2);
    drop((store, topic));
    assert_eq!(end(&open(&vfs), "orders", 3), 2);
}

#[test]
fn progress_counts_up_to_the_total() {
    let vfs = MemoryVfs::new();
    create(&open(&vfs), "orders", 9);
    let mut config = StoreConfig::new();
    config.set("num.recovery.threads.per.data.dir", "4").unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let count = move |progress: &OpenProgress| {
        assert_eq!((progress.opened, progress.total), (seen.fetch_add(1, Ordering::SeqCst) + 1, 9));
    };
    let store = options(&vfs).config(config).on_progress(count).open(ROOT).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 9);
    assert!(store.open_report().partitions.is_sorted_by_key(|partition| partition.id.clone()));
}

#[test]
fn many_threads_change_topics_at_once() {
    let vfs = MemoryVfs::new();
    let store = open(&vfs);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = store.clone();
            scope.spawn(move || {
                for round in 0..5 {
                    let topic = create(&store, &format!("t{thread}-{round}"), 2);
                    append(&topic, 1, 1);
                    store.checkpoint().unwrap();
                    if round % 2 == 0 {
                        store.delete_topic(topic.name().as_str()).unwrap();
                    }
                }
            });
        }
    });
    store.close().unwrap();
    assert_eq!(open(&vfs).topics().len(), 8);
}

#[test]
fn the_disk_itself_serves_as_well_as_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a").join("b");
    let store = LogStore::open(&path).unwrap();
    append(&create(&store, "orders", 2), 1, 3);
    store.close().unwrap();
    let before = tree(&DiskVfs::new(), &path);
    let reader = StoreOptions::new().read_only(true).open(&path).unwrap();
    assert_eq!(end(&reader, "orders", 1), 3);
    drop(reader);
    assert_eq!(tree(&DiskVfs::new(), &path), before);
    let store = LogStore::open(&path).unwrap();
    store.delete_topic("orders").unwrap();
    store.close().unwrap();
}
