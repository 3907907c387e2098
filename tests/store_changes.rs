//! Changes of topics on a disk that fails at any call: what is live afterwards stays so, keeps what it acknowledges, and the change
//! can be made again.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use stratalog::vfs::{Effect, Fault, FaultyVfs, Hook, MemoryVfs, Operation, PathFilter, Vfs};
use stratalog::{Clock as _, Durability, LogStore, ManualClock, Record, StoreError, StoreOptions, TopicConfig};
use support::{at, config, partition_of, read_all};

fn open(vfs: &(impl Vfs + Clone + 'static)) -> LogStore {
    let clock = Arc::new(ManualClock::new(at(0)));
    StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(clock).open("/log").unwrap()
}

fn append_durably(store: &LogStore, topic: &str) -> Result<(), StoreError> {
    let partition = store.topic(topic)?.partition(0)?;
    partition.append_with(&[Record::new("v")], Durability::Durable)?;
    Ok(())
}

fn count(store: &LogStore, topic: &str) -> usize {
    store.topic(topic).and_then(|topic| topic.partition(0)).map_or(0, |partition| read_all(&partition).len())
}

type Change = fn(&LogStore) -> Result<(), StoreError>;

/// Makes `change` on a store with topic `t`, with the `nth` call failing, and from then on or once; gives `check` the store after
/// the disk was mended. Then whatever is live takes a durable record, and a loss of power takes none of them.
fn fail_everywhere(change: Change, check: impl Fn(&LogStore, &Result<(), StoreError>)) {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for is_lasting in [false, true] {
            for nth in 1..300 {
                let vfs = FaultyVfs::new(MemoryVfs::new());
                let store = open(&vfs);
                store.create_topic("t", 2, TopicConfig::new()).unwrap();
                append_durably(&store, "t").unwrap();
                let fault = Fault::new(Operation::Any, Effect::Error(kind));
                vfs.inject(if is_lasting { fault.from_nth(nth) } else { fault.nth(nth) });
                let struck = vfs.faults_struck();
                let result = change(&store);
                let was_struck = vfs.faults_struck() > struck;
                vfs.clear_faults();
                check(&store, &result);
                let live: Vec<String> = store.topics().iter().map(|topic| topic.name().to_string()).collect();
                for name in &live {
                    append_durably(&store, name).unwrap();
                }
                let expected: Vec<_> = live.iter().map(|name| count(&store, name)).collect();
                for seed in 0..3 {
                    let survivor = open(&vfs.crash_image(seed).unwrap());
                    let found: Vec<_> = live.iter().map(|name| count(&survivor, name)).collect();
                    assert_eq!(found, expected, "{live:?}: {kind}, call {nth}, lasting {is_lasting}, seed {seed}");
                }
                // Once more, on a disk that works: afterwards the change is there.
                let again = change(&store);
                assert!(
                    matches!(
                        again,
                        Ok(())
                            | Err(StoreError::TopicExists { .. }
                                | StoreError::UnknownTopic { .. }
                                | StoreError::PartitionCount { .. })
                    ),
                    "{again:?}: {kind}, call {nth}"
                );
                check(&store, &Ok(()));
                store.close().unwrap();
                check(&open(&vfs), &Ok(()));
                if !was_struck {
                    result.unwrap();
                    break;
                }
            }
        }
    }
}

#[test]
fn a_creation_that_fails_leaves_no_topic() {
    fail_everywhere(
        |store| store.create_topic("u", 2, TopicConfig::new()).map(drop),
        |store, result| {
            assert_eq!(store.topic("u").is_ok(), result.is_ok(), "{result:?}");
            assert!(count(store, "t") > 0);
        },
    );
}

#[test]
fn a_creation_that_failed_and_was_not_tried_again_is_undone_as_far_as_the_disk_allows() {
    for nth in 1..300 {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let store = open(&vfs);
        vfs.inject(Fault::new(Operation::Any, Effect::Error(io::ErrorKind::Other)).nth(nth));
        let result = store.create_topic("u", 2, TopicConfig::new());
        vfs.clear_faults();
        let is_done = result.is_ok();
        drop((store, result));
        assert_eq!(open(&vfs).topic("u").is_ok(), is_done, "call {nth}");
        if is_done {
            return;
        }
    }
    panic!("it never succeeded");
}

#[test]
fn a_deletion_that_fails_leaves_a_live_topic_or_none() {
    fail_everywhere(
        |store| store.delete_topic("t"),
        |store, result| {
            if result.is_ok() {
                assert!(matches!(store.topic("t"), Err(StoreError::UnknownTopic { .. })));
            }
        },
    );
}

#[test]
fn an_addition_that_fails_keeps_the_partitions_that_are_there() {
    fail_everywhere(
        |store| store.add_partitions("t", 4),
        |store, result| {
            let partitions = store.topic("t").unwrap().partitions().len();
            assert!(partitions == 4 || (partitions == 2 && result.is_err()), "{partitions}, {result:?}");
            assert!(count(store, "t") > 0);
        },
    );
}

#[test]
fn an_alteration_that_fails_leaves_memory_and_disk_the_same() {
    let change: Change = |store| store.topic("t")?.alter_config(config(&[("retention.ms", "7777")]));
    fail_everywhere(change, |store, result| {
        let retention_ms = partition_of(store).settings().retention_ms;
        assert!(retention_ms == Some(7777) || result.is_err());
    });
    for nth in 1..100 {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let store = open(&vfs);
        store.create_topic("t", 1, TopicConfig::new()).unwrap();
        vfs.inject(Fault::new(Operation::Any, Effect::Error(io::ErrorKind::Other)).nth(nth));
        let is_done = change(&store).is_ok();
        vfs.clear_faults();
        let in_memory = partition_of(&store).settings().retention_ms;
        drop(store);
        assert_eq!(partition_of(&open(&vfs)).settings().retention_ms, in_memory, "call {nth}");
        if is_done {
            return;
        }
    }
    panic!("it never succeeded");
}

#[test]
fn a_topic_is_deleted_for_good_also_where_its_creation_got_stuck() {
    for nth in 1..80 {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let store = open(&vfs);
        vfs.inject(Fault::new(Operation::Any, Effect::Error(io::ErrorKind::Other)).from_nth(nth));
        let created = store.create_topic("t", 2, TopicConfig::new());
        vfs.clear_faults();
        match store.delete_topic("t") {
            // Nothing was left of it.
            Err(StoreError::UnknownTopic { .. }) => assert!(created.is_err()),
            deleted => deleted.unwrap(),
        }
        for seed in 0..4 {
            let survivor = open(&vfs.crash_image(seed).unwrap());
            assert!(survivor.topics().is_empty(), "call {nth}, seed {seed}, {created:?}");
        }
        store.create_topic("t", 2, TopicConfig::new()).unwrap();
        append_durably(&store, "t").unwrap();
    }
}

#[test]
fn a_deletion_that_is_overtaken_by_a_close_says_what_became_of_the_topic() {
    for nth in 1..12 {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let store = open(&vfs);
        store.create_topic("t", 1, TopicConfig::new()).unwrap();
        append_durably(&store, "t").unwrap();
        let gate = vfs.block(Hook::at(Operation::Any).nth(nth));
        let deleted = std::thread::scope(|scope| {
            let deleting = scope.spawn(|| store.delete_topic("t"));
            while !gate.is_reached() && !deleting.is_finished() {
                std::thread::yield_now();
            }
            let closing = scope.spawn(|| store.clone().close());
            std::thread::sleep(Duration::from_millis(20));
            gate.release();
            closing.join().unwrap().unwrap();
            deleting.join().unwrap()
        });
        vfs.clear_hooks();
        assert_eq!(open(&vfs).topic("t").is_err(), deleted.is_ok(), "call {nth}: {deleted:?}");
    }
}

#[test]
fn a_deletion_that_failed_half_way_and_is_called_again_leaves_no_folder() {
    for nth in 1..=3 {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        let clock = ManualClock::new(at(0));
        let store = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone())).open("/log").unwrap();
        store.create_topic("t", 3, config(&[("file.delete.delay.ms", "1000")])).unwrap();
        vfs.inject(
            Fault::new(Operation::Rename, Effect::Error(io::ErrorKind::Other)).on(PathFilter::contains("/t-")).nth(nth),
        );
        assert!(store.delete_topic("t").is_err(), "{nth}");
        store.delete_topic("t").unwrap();
        clock.advance(1001);
        store.tick(clock.now()).unwrap();
        let folders: Vec<_> = memory.read_dir("/log".as_ref()).unwrap();
        let left: Vec<_> = folders.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect();
        assert_eq!(left, [""; 0], "{nth}");
    }
}
