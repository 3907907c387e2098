//! The end of a store or topic while somebody is inside a partition: nobody touches the folder after its lock is gone, nobody writes
//! under another topic's name, and nobody waits for ever.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use stratalog::vfs::{FaultyVfs, Gate, Hook, MemoryVfs, Operation};
use stratalog::{
    CompactionOptions, Durability, Isolation, LogError, LogStore, ManualClock, Offset, OffsetSpec, Partition, Record,
    StoreConfig, StoreError, StoreOptions, TopicConfig,
};
use support::{at, config, partition_of, read_all};

const SOON: Duration = Duration::from_secs(20);
const A_WHILE: Duration = Duration::from_millis(50);

fn open(vfs: &FaultyVfs) -> Result<LogStore, StoreError> {
    StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(ManualClock::new(at(0)))).open("/log")
}

/// A store with a compacted topic `t` that has something to compact.
fn compacted() -> (FaultyVfs, LogStore) {
    let vfs = FaultyVfs::new(MemoryVfs::new());
    let store = open(&vfs).unwrap();
    let topic = store.create_topic("t", 1, config(&[("cleanup.policy", "compact"), ("file.delete.delay.ms", "0")]));
    let partition = topic.unwrap().partition(0).unwrap();
    for value in ["1", "2", "3"] {
        partition.append(&[Record::keyed("k", value)]).unwrap();
    }
    partition.roll().unwrap();
    (vfs, store)
}

/// Compacts on another thread, which stops at its first write.
fn compact_halfway(vfs: &FaultyVfs, partition: Partition) -> (Gate, thread::JoinHandle<()>) {
    let gate = vfs.block(Hook::at(Operation::Write).path(".cleaned"));
    let compaction = thread::spawn(move || drop(partition.compact()));
    assert!(gate.wait_until_reached(SOON));
    (gate, compaction)
}

/// Runs `end` on another thread and asserts that it waits until the gate is released, and that nothing changes on the disk after it.
fn ends_after_the_compaction(end: impl FnOnce(LogStore) + Send + 'static) -> FaultyVfs {
    let (vfs, store) = compacted();
    let (gate, compaction) = compact_halfway(&vfs, partition_of(&store));
    let has_ended = Arc::new(AtomicBool::new(false));
    let ending = thread::spawn({
        let (has_ended, vfs) = (Arc::clone(&has_ended), vfs.clone());
        move || {
            end(store);
            has_ended.store(true, Ordering::SeqCst);
            vfs.mutations()
        }
    });
    thread::sleep(A_WHILE);
    assert!(!has_ended.load(Ordering::SeqCst), "somebody is still inside");
    gate.release();
    let mutations = ending.join().unwrap();
    compaction.join().unwrap();
    assert_eq!(vfs.mutations(), mutations, "the folder was touched after the end");
    vfs
}

#[test]
fn closing_waits_for_a_compaction() {
    let vfs = ends_after_the_compaction(|store| store.close().unwrap());
    let store = open(&vfs).unwrap();
    assert!(store.open_report().clean);
    assert_eq!(read_all(&partition_of(&store)).last().unwrap().1, "3");
}

#[test]
fn dropping_waits_for_a_compaction() {
    let vfs = ends_after_the_compaction(drop);
    assert_eq!(read_all(&partition_of(&open(&vfs).unwrap())).last().unwrap().1, "3");
}

#[test]
fn deleting_a_topic_waits_for_a_compaction_and_the_name_is_free_afterwards() {
    let vfs = ends_after_the_compaction(|store| {
        store.delete_topic("t").unwrap();
        let topic = store.create_topic("t", 1, TopicConfig::new()).unwrap();
        assert_eq!(read_all(&topic.partition(0).unwrap()), []);
        store.close().unwrap();
    });
    let store = open(&vfs).unwrap();
    assert_eq!(read_all(&partition_of(&store)), []);
}

#[test]
fn creating_a_topic_of_a_name_that_is_being_deleted_waits_too() {
    let vfs = ends_after_the_compaction(|store| {
        let deletion = thread::spawn({
            let store = store.clone();
            move || store.delete_topic("t").unwrap()
        });
        while store.topic("t").is_ok() {
            thread::yield_now();
        }
        let topic = store.create_topic("t", 1, TopicConfig::new()).unwrap();
        deletion.join().unwrap();
        topic.partition(0).unwrap().append(&[Record::new("new")]).unwrap();
        store.close().unwrap();
    });
    assert_eq!(read_all(&partition_of(&open(&vfs).unwrap())), [(0, "new".to_owned())]);
}

#[test]
fn an_append_that_is_under_way_is_over_before_the_store_ends_or_the_name_is_free() {
    type End = fn(LogStore);
    let ends: [(End, usize); 3] = [
        (|store| store.close().unwrap(), 1),
        (drop, 1),
        (
            |store| {
                store.delete_topic("t").unwrap();
                store.create_topic("t", 1, TopicConfig::new()).unwrap();
            },
            0,
        ),
    ];
    for (end, expected) in ends {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let store = open(&vfs).unwrap();
        let topic = store.create_topic("t", 1, config(&[("file.delete.delay.ms", "0")])).unwrap();
        let partition = topic.partition(0).unwrap();
        drop(topic);
        let gate = vfs.block(Hook::at(Operation::Write).path("/t-0/0"));
        let append = thread::spawn(move || partition.append(&[Record::new("v")]).map(drop));
        assert!(gate.wait_until_reached(SOON));
        let ending = thread::spawn(move || end(store));
        thread::sleep(A_WHILE);
        assert!(!ending.is_finished(), "somebody is still inside");
        gate.release();
        append.join().unwrap().unwrap();
        ending.join().unwrap();
        let store = open(&vfs).unwrap();
        assert_eq!(read_all(&partition_of(&store)).len(), expected);
    }
}

#[test]
fn a_durable_append_that_is_under_way_is_durable_though_the_store_is_dropped_meanwhile() {
    for operation in [Operation::Write, Operation::Sync] {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        let store = open(&vfs).unwrap();
        let partition = store.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
        let gate = vfs.block(Hook::at(operation).path("/t-0/0"));
        let append = thread::spawn({
            let partition = partition.clone();
            move || partition.append_with(&[Record::new("v")], Durability::Durable).map(drop)
        });
        assert!(gate.wait_until_reached(SOON));
        let ending = thread::spawn(move || drop(store));
        // The store is ending once it refuses whoever comes now.
        while partition.read(Offset::ZERO).fetch().is_ok() {
            thread::yield_now();
        }
        gate.release();
        append.join().unwrap().unwrap();
        ending.join().unwrap();
        let store = open(&FaultyVfs::new(memory.crash_image())).unwrap();
        assert_eq!(read_all(&partition_of(&store)).len(), 1, "{operation:?}");
    }
}

#[test]
fn closing_and_deleting_come_to_their_end_while_others_try_to_append_without_a_pause() {
    type End = fn(LogStore);
    let ends: [End; 3] = [|store| store.close().unwrap(), drop, |store| store.delete_topic("t").unwrap()];
    for end in ends {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let store = open(&vfs).unwrap();
        let partition = store.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let appending: Vec<_> = (0..8)
            .map(|_| {
                thread::spawn({
                    let (partition, is_over) = (partition.clone(), Arc::clone(&is_over));
                    move || {
                        while !is_over.load(Ordering::SeqCst) {
                            drop(partition.append(&[Record::new("v")]));
                        }
                    }
                })
            })
            .collect();
        thread::sleep(A_WHILE);
        let ending = thread::spawn(move || end(store));
        let deadline = Instant::now() + SOON;
        while !ending.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let has_ended = ending.is_finished();
        is_over.store(true, Ordering::SeqCst);
        appending.into_iter().for_each(|thread| thread.join().unwrap());
        ending.join().unwrap();
        assert!(has_ended, "the end waited for those who came after it");
    }
}

#[test]
fn the_other_topics_can_be_changed_while_a_deletion_waits() {
    let (vfs, store) = compacted();
    let (gate, compaction) = compact_halfway(&vfs, partition_of(&store));
    let deletion = thread::spawn({
        let store = store.clone();
        move || store.delete_topic("t")
    });
    while store.topic("t").is_ok() {
        thread::yield_now();
    }
    store.create_topic("u", 1, TopicConfig::new()).unwrap();
    store.checkpoint().unwrap();
    store.delete_topic("u").unwrap();
    gate.release();
    deletion.join().unwrap().unwrap();
    compaction.join().unwrap();
    store.close().unwrap();
}

#[test]
fn a_closing_that_overtakes_a_deletion_leaves_the_deletion_to_the_next_opening() {
    let (vfs, store) = compacted();
    let (gate, compaction) = compact_halfway(&vfs, partition_of(&store));
    let deletion = thread::spawn({
        let store = store.clone();
        move || store.delete_topic("t")
    });
    while store.topic("t").is_ok() {
        thread::yield_now();
    }
    let closing = thread::spawn(move || store.close());
    thread::sleep(A_WHILE);
    assert!(matches!(open(&vfs), Err(StoreError::Locked { .. })));
    gate.release();
    closing.join().unwrap().unwrap();
    let mutations = vfs.mutations();
    compaction.join().unwrap();
    assert!(matches!(deletion.join().unwrap(), Err(StoreError::Closed { .. }) | Ok(())));
    assert_eq!(vfs.mutations(), mutations);
    assert!(open(&vfs).unwrap().topic("t").is_err());
}

#[test]
fn the_progress_callback_of_a_compaction_may_change_and_end_the_store() {
    type Change = fn(&LogStore);
    let changes: [Change; 4] = [
        |store| drop(store.create_topic("u", 1, TopicConfig::new()).unwrap()),
        |store| store.delete_topic("t").unwrap(),
        |store| store.clone().close().unwrap(),
        |store| drop(store.tick(at(0)).unwrap()),
    ];
    for change in changes {
        let (vfs, store) = compacted();
        let partition = partition_of(&store);
        let done = AtomicBool::new(false);
        let progress = |_| {
            if !done.swap(true, Ordering::SeqCst) {
                change(&store);
            }
            ControlFlow::Continue(())
        };
        drop(partition.compact_with(&CompactionOptions::new().on_progress(&progress)));
        assert!(done.load(Ordering::SeqCst));
        drop(store);
        drop(open(&vfs).unwrap());
    }
}

#[test]
fn a_callback_may_use_the_partition_that_is_compacted_and_is_refused_to_compact_it() {
    type Call = fn(&LogStore, &Partition);
    let calls: [Call; 6] = [
        |_, partition| {
            let refused = partition.compact().unwrap_err();
            assert!(matches!(refused, LogError::InsideCompaction { .. }), "{refused}");
        },
        |store, _| assert!(store.tick(at(0)).unwrap().failures.is_empty()),
        |_, partition| partition.truncate_to(partition.log_start_offset()).unwrap(),
        |_, partition| drop(partition.reopen().unwrap()),
        |_, partition| partition.roll().and_then(|()| partition.flush()).unwrap(),
        |_, partition| _ = partition.delete_records_before(partition.log_end_offset()).unwrap(),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        let (sender, ended) = mpsc::channel();
        thread::spawn(move || {
            let (_vfs, store) = compacted();
            let partition = partition_of(&store);
            let called = AtomicBool::new(false);
            let progress = |_| {
                if !called.swap(true, Ordering::SeqCst) {
                    call(&store, &partition);
                }
                ControlFlow::Continue(())
            };
            drop(partition.compact_with(&CompactionOptions::new().on_progress(&progress)));
            assert!(called.load(Ordering::SeqCst));
            // Refusing one leaves the lock with the one that goes on, and it is free afterwards.
            assert!(partition.compact().is_ok());
            sender.send(()).unwrap();
        });
        assert!(ended.recv_timeout(SOON).is_ok(), "call {number} panicked or hangs");
    }
}

#[test]
fn a_callback_that_changes_topics_does_not_hang_a_deletion_that_waits_for_it() {
    let (_vfs, store) = compacted();
    let partition = partition_of(&store);
    let deletion = std::sync::Mutex::new(None);
    let progress = |_| {
        let mut deletion = deletion.lock().unwrap();
        if deletion.is_none() {
            let own = store.clone();
            *deletion = Some(thread::spawn(move || own.delete_topic("t")));
            while store.topic("t").is_ok() {
                thread::yield_now();
            }
            thread::sleep(A_WHILE);
            store.create_topic("u", 1, TopicConfig::new()).unwrap();
        }
        ControlFlow::Continue(())
    };
    drop(partition.compact_with(&CompactionOptions::new().on_progress(&progress)));
    deletion.into_inner().unwrap().unwrap().join().unwrap().unwrap();
    assert!(store.topic("u").is_ok());
}

#[test]
fn maintenance_threads_leave_the_folder_alone_once_the_store_is_closed() {
    let (vfs, store) = compacted();
    let maintenance = store.spawn_maintenance().unwrap();
    store.close().unwrap();
    let mutations = vfs.mutations();
    let next = open(&FaultyVfs::new(MemoryVfs::new())).unwrap();
    thread::sleep(A_WHILE);
    assert_eq!(vfs.mutations(), mutations);
    maintenance.stop().unwrap();
    next.close().unwrap();
}

#[test]
fn a_topic_that_is_deleted_meanwhile_fails_no_work_on_the_others() {
    type Work = fn(&LogStore) -> Result<(), StoreError>;
    let works: [(Hook, Work); 2] = [
        (Hook::at(Operation::Sync).path("/a-0"), LogStore::flush),
        (Hook::at(Operation::ReadDir).path("/a-0"), |store| store.remove_cut_files().map(drop)),
    ];
    for (hook, work) in works {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let clock = Arc::new(ManualClock::new(at(0)));
        let options = StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(clock);
        let options = options.config(StoreConfig::new().num_recovery_threads(1));
        let store = options.open("/log").unwrap();
        for name in ["a", "b"] {
            let partition = store.create_topic(name, 1, TopicConfig::new()).unwrap().partition(0).unwrap();
            partition.append(&[Record::new("v")]).unwrap();
        }
        let other = store.clone();
        vfs.hook(hook, move |_| other.delete_topic("b").unwrap());
        work(&store).unwrap();
        assert!(store.topic("b").is_err(), "it was deleted in between");
    }
}

#[test]
fn a_read_that_a_deletion_overtook_gives_no_record_of_the_next_topic_of_that_name() {
    type Look = fn(&Partition) -> Result<Vec<Vec<u8>>, LogError>;
    let looks: [Look; 4] = [
        |partition| Ok(values_of(partition.read(Offset::ZERO).fetch()?)),
        |partition| Ok(values_of(partition.read(Offset::ZERO).isolation(Isolation::ReadCommitted).fetch()?)),
        |partition| partition.find_offset(OffsetSpec::MaxTimestamp).map(|_| Vec::new()),
        |partition| partition.find_offset(OffsetSpec::Timestamp(at(5))).map(|_| Vec::new()),
    ];
    for look in looks {
        for nth in 1.. {
            let memory = MemoryVfs::new();
            let store = open(&FaultyVfs::new(memory.clone())).unwrap();
            let create = |store: &LogStore, value: &str| {
                let topic = store.create_topic("t", 1, config(&[("segment.bytes", "400")])).unwrap();
                let partition = topic.partition(0).unwrap();
                (0..20).for_each(|i| _ = partition.append(&[Record::new(value).timestamp(at(i))]).unwrap());
                partition
            };
            create(&store, "old");
            store.close().unwrap();
            let vfs = FaultyVfs::new(memory);
            let store = open(&vfs).unwrap();
            let old = partition_of(&store);
            let gate = vfs.block(Hook::at(Operation::Any).nth(nth));
            let looking = thread::spawn({
                let old = old.clone();
                move || look(&old)
            });
            while !gate.is_reached() && !looking.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            let was_reached = gate.is_reached();
            let (sender, is_deleted) = mpsc::channel();
            let deleting = thread::spawn({
                let store = store.clone();
                move || sender.send(store.delete_topic("t"))
            });
            // Where it needs what the reader holds, it goes on behind it.
            if is_deleted.recv_timeout(A_WHILE).is_ok() {
                create(&store, "new");
            }
            gate.release();
            deleting.join().unwrap().ok();
            match looking.join().unwrap() {
                Err(LogError::Closed { .. }) => {}
                looked => assert!(looked.unwrap().iter().all(|value| value == b"old"), "call {nth}"),
            }
            assert!(old.segments().is_empty(), "the folder is another topic's");
            if !was_reached {
                break;
            }
        }
    }
}

fn values_of(batches: stratalog::Batches) -> Vec<Vec<u8>> {
    batches.records().map(|record| record.unwrap().value().unwrap().to_vec()).collect()
}

#[test]
fn a_segment_that_is_held_over_the_end_of_its_store_stays_what_it_was_in_the_next_life() {
    for is_closed in [true, false] {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let fill = |partition: &Partition, value: &str| {
            (0..20).for_each(|_| _ = partition.append(&[Record::new(value)]).unwrap());
        };
        let store = open(&vfs).unwrap();
        fill(&store.create_topic("t", 1, config(&[("segment.bytes", "400")])).unwrap().partition(0).unwrap(), "old");
        store.close().unwrap();
        let store = open(&vfs).unwrap();
        let held = partition_of(&store).segments();
        if is_closed {
            store.close().unwrap()
        } else {
            drop(store)
        }
        let store = open(&vfs).unwrap();
        let partition = partition_of(&store);
        partition.truncate_to(Offset::ZERO).unwrap();
        fill(&partition, "new");
        let batches = held.iter().flat_map(|segment| segment.batches()).map(|batch| batch.unwrap().1);
        let values: Vec<_> = batches
            .flat_map(|batch| {
                batch.records().map(|record| record.unwrap().value().unwrap().to_vec()).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(values, vec![b"old"; 20], "closed: {is_closed}");
    }
}
