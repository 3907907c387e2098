//! Readers of committed records get what was committed and what belongs to no transaction, in order, and nothing else, ever.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::TransactionResult::{Abort, Commit};
use stratalog::format::{ProducerStamp, TransactionMarker};
use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
use stratalog::{
    Durability, ErrorKind, Isolation, LogError, ManualClock, Partition, ProducerError, Record, StoreOptions,
};
use support::{
    Rig, append, at, bases, config, in_transaction, marker, offset, open, partition_of, read_all, read_committed, stamp,
};

fn send(partition: &Partition, stamp: ProducerStamp, value: &str) -> i64 {
    partition.append_from(stamp, &[Record::new(value)], Durability::Written).unwrap().base_offset.value()
}

fn end(partition: &Partition, marker: TransactionMarker) -> i64 {
    partition.end_transaction(&marker, Durability::Written).unwrap().base_offset.value()
}

fn committed(partition: &Partition) -> Vec<String> {
    let whole = read_committed(partition, 1 << 20);
    assert_eq!(whole, read_committed(partition, 1), "the size of a fetch decides nothing");
    whole.into_iter().map(|(_, value)| value).collect()
}

#[test]
fn an_open_transaction_holds_back_everything_behind_it() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "b");
    append(&rig.partition, "c");
    assert_eq!(rig.partition.last_stable_offset(), offset(1));
    assert_eq!(rig.partition.open_transactions().len(), 1);
    assert_eq!(committed(&rig.partition), ["a"]);
    assert_eq!(read_all(&rig.partition).len(), 3, "who reads uncommitted records gets all");
    end(&rig.partition, marker(Commit, 1, 0));
    assert_eq!(rig.partition.last_stable_offset(), offset(4));
    assert_eq!(committed(&rig.partition), ["a", "b", "c"]);
}

#[test]
fn what_was_aborted_is_listed_and_left_out() {
    let rig = Rig::new(&[]);
    send(&rig.partition, in_transaction(1, 0, 0), "never");
    append(&rig.partition, "plain");
    send(&rig.partition, in_transaction(2, 0, 0), "second");
    end(&rig.partition, marker(Abort, 1, 1));
    send(&rig.partition, in_transaction(1, 1, 0), "third");
    end(&rig.partition, marker(Commit, 2, 1));
    end(&rig.partition, marker(Commit, 1, 2));
    assert_eq!(committed(&rig.partition), ["plain", "second", "third"]);
    let batches = rig.partition.read(offset(0)).isolation(Isolation::ReadCommitted).fetch().unwrap();
    let aborted: Vec<_> =
        batches.aborted_transactions().iter().map(|(id, first)| (id.value(), first.value())).collect();
    assert_eq!(aborted, [(1, 0)]);
    assert_eq!((batches.next_offset(), batches.last_stable_offset()), (offset(7), offset(7)));
    let uncommitted = rig.partition.read(offset(0)).fetch().unwrap();
    assert!(uncommitted.aborted_transactions().is_empty());
    assert_eq!(uncommitted.records().count(), 4, "control records are for nobody");
}

#[test]
fn transactions_that_overlap_over_many_segments_are_told_apart() {
    let rig = Rig::new(&[("segment.bytes", "250"), ("index.interval.bytes", "50")]);
    let mut expected = Vec::new();
    for round in 0..6_i16 {
        for producer in 1..4_i64 {
            let value = format!("{round} {producer}");
            send(&rig.partition, in_transaction(producer, round, 0), &value);
            send(&rig.partition, in_transaction(producer, round, 1), &value);
            append(&rig.partition, &format!("plain {value}"));
        }
        for producer in [2, 3, 1] {
            let result = if (i64::from(round) + producer) % 2 == 0 { Abort } else { Commit };
            end(&rig.partition, marker(result, producer, round + 1));
        }
        for producer in 1..4 {
            let value = format!("{round} {producer}");
            if (i64::from(round) + producer) % 2 == 1 {
                expected.extend([value.clone(), value.clone()]);
            }
            expected.push(format!("plain {value}"));
        }
    }
    assert!(bases(&rig.partition).len() > 10);
    assert_eq!(committed(&rig.partition), expected);
    let from_inside: Vec<_> = rig
        .partition
        .read(offset(4))
        .isolation(Isolation::ReadCommitted)
        .fetch()
        .unwrap()
        .records()
        .map(|record| record.unwrap().offset().value())
        .collect();
    assert!(from_inside.iter().all(|offset| *offset >= 4), "{from_inside:?}");
}

#[test]
fn a_log_start_inside_of_an_open_transactions_batch_shows_nothing_of_it() {
    let rig = Rig::new(&[]);
    rig.partition.append_from(in_transaction(1, 0, 0), &vec![Record::new("open"); 3], Durability::Written).unwrap();
    rig.partition.delete_records_before(offset(1)).unwrap();
    assert_eq!(rig.partition.last_stable_offset(), offset(1));
    assert!(committed(&rig.partition).is_empty());
    end(&rig.partition, marker(Commit, 1, 0));
    assert_eq!(committed(&rig.partition), ["open", "open"]);
}

#[test]
fn transactions_survive_closing_kills_and_power_losses() {
    let rig = Rig::new(&[("segment.bytes", "300")]);
    for round in 0..8_i16 {
        send(&rig.partition, in_transaction(1, round, 0), &format!("aborted {round}"));
        send(&rig.partition, in_transaction(2, round, 0), &format!("committed {round}"));
        end(&rig.partition, marker(Abort, 1, round + 1));
        end(&rig.partition, marker(Commit, 2, round + 1));
    }
    send(&rig.partition, in_transaction(1, 8, 0), "open");
    append(&rig.partition, "behind");
    rig.partition.flush().unwrap();
    let expected = committed(&rig.partition);
    assert_eq!(expected.len(), 8);
    let stable = rig.partition.last_stable_offset();
    let mut images = vec![rig.memory.process_crash_image(), rig.memory.crash_image()];
    rig.store.clone().close().unwrap();
    images.push(rig.memory.clone());
    // A log without snapshots and indexes, as after somebody removed all that can be rebuilt.
    let bare = rig.memory.crash_image();
    for entry in bare.read_dir(rig.partition.path()).unwrap() {
        if entry.name.ends_with(".txnindex") || entry.name.ends_with(".snapshot") || entry.name.ends_with("index") {
            bare.remove_file(&rig.partition.path().join(entry.name)).unwrap();
        }
    }
    bare.remove_file(&rig.store.path().join(".kafka_cleanshutdown")).unwrap();
    bare.remove_file(&rig.store.path().join("recovery-point-offset-checkpoint")).unwrap();
    images.push(bare);
    for (number, image) in images.into_iter().enumerate() {
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(committed(&partition), expected, "image {number}");
        assert_eq!(partition.last_stable_offset(), stable, "image {number}");
        end(&partition, marker(Commit, 1, 9));
        assert_eq!(committed(&partition)[8..], ["open", "behind"], "image {number}");
    }
}

#[test]
fn a_read_lists_the_aborted_transactions_that_matter_to_its_bytes_and_not_all_of_the_segment() {
    let rig = Rig::new(&[("index.interval.bytes", "100")]);
    for number in 0..500 {
        send(&rig.partition, in_transaction(1, 0, number), "never");
        end(&rig.partition, marker(Abort, 1, 0));
    }
    for from in [0, 400, 990] {
        let read = rig.partition.read(offset(from)).max_bytes(500).isolation(Isolation::ReadCommitted);
        let batches = read.fetch().unwrap();
        assert!((1..=8).contains(&batches.aborted_transactions().len()), "{:?}", batches.aborted_transactions());
        assert_eq!(batches.records().count(), 0);
    }
    assert!(committed(&rig.partition).is_empty());
}

#[test]
fn a_transaction_index_that_would_end_the_search_too_soon_is_written_anew() {
    let rig = Rig::new(&[]);
    for number in 0..3 {
        append(&rig.partition, "plain");
        send(&rig.partition, in_transaction(1, 0, number), "never");
        end(&rig.partition, marker(Abort, 1, 0));
    }
    rig.store.clone().close().unwrap();
    let path = rig.partition.path().join("00000000000000000000.txnindex");
    // The last stable offset of the first entry.
    rig.memory.open(&path, stratalog::vfs::OpenMode::Write).unwrap().write_at(&[1], 28).unwrap();
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    assert_eq!(committed(&partition_of(&store)), ["plain", "plain", "plain"]);
}

#[test]
fn an_index_entry_that_a_flush_beside_a_roll_left_unsynced_is_written_again_after_a_power_loss() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "never");
    end(&rig.partition, marker(Abort, 1, 0));
    rig.partition.roll().unwrap();
    rig.partition.flush().unwrap();
    rig.store.checkpoint().unwrap();
    assert_eq!(rig.partition.recovery_point(), offset(3));
    let image = rig.memory.crash_image();
    assert!(rig.files().contains(&"00000000000000000003.snapshot".to_owned()));
    image.remove_file(&rig.partition.path().join("00000000000000000000.txnindex")).unwrap();
    let store = open(Arc::new(image), &rig.clock);
    assert_eq!(committed(&partition_of(&store)), ["a"]);
}

#[test]
fn an_index_whose_sync_failed_in_an_earlier_life_is_written_again_before_it_counts_as_synced() {
    for (rolls, failing) in (1..30).flat_map(|failing| [(false, failing), (true, failing)]) {
        let rig = Rig::new(&[]);
        append(&rig.partition, "a");
        send(&rig.partition, in_transaction(1, 0, 0), "never");
        // The next openings trust what this one has verified in the same boot.
        let memory = rig.memory.process_crash_image();
        let vfs = FaultyVfs::new(memory.clone());
        let store = open(Arc::new(vfs.clone()), &rig.clock);
        let partition = partition_of(&store);
        end(&partition, marker(Abort, 1, 0));
        if rolls {
            partition.roll().unwrap();
        }
        append(&partition, "b");
        vfs.inject(Fault::new(Operation::Any, Effect::OsError(5)).from_nth(failing));
        partition.flush().ok();
        let memory = memory.process_crash_image();
        open(Arc::new(memory.clone()), &rig.clock).flush().unwrap();
        for seed in 0..4 {
            let store = open(Arc::new(memory.torn_crash_image(seed)), &rig.clock);
            assert_eq!(committed(&partition_of(&store)), ["a", "b"], "{rolls}, {failing}, {seed}");
        }
    }
}

/// Opens a transaction behind a committed record, and takes it back by cutting the log.
fn cut_beside_readers(partition: &Partition, fuse: std::time::Instant) {
    let start = append(partition, "committed");
    for turn in 0_i16.. {
        if fuse.elapsed() > std::time::Duration::from_secs(1) || turn == i16::MAX {
            break;
        }
        append(partition, "committed");
        for sequence in 0..3 {
            send(partition, in_transaction(1, turn, sequence), "open");
        }
        if turn % 2 == 0 {
            end(partition, marker(Abort, 1, turn));
            append(partition, "committed");
        }
        match turn % 5 {
            0 => partition.truncate_fully_and_start_at(offset(start)).unwrap(),
            turn => partition.truncate_to(offset(start + i64::from(turn) % 4)).unwrap(),
        }
    }
}

#[test]
fn readers_beside_a_log_that_is_cut_never_take_what_is_undecided_for_committed() {
    let rig = Rig::new(&[("segment.bytes", "300"), ("file.delete.delay.ms", "0")]);
    let (partition, fuse) = (&rig.partition, std::time::Instant::now());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    let mut next = partition.log_start_offset();
                    loop {
                        let read = partition.read(next).max_bytes(1).isolation(Isolation::ReadCommitted);
                        let Ok(batches) = read.fetch() else { break };
                        for record in batches.records() {
                            assert_eq!(record.unwrap().value().unwrap(), b"committed");
                        }
                        if batches.is_empty() {
                            break;
                        }
                        next = batches.next_offset();
                    }
                }
            });
        }
        let ended = scope.spawn(|| cut_beside_readers(partition, fuse)).join();
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(ended.is_ok());
    });
}

#[test]
fn truncating_brings_back_an_open_transaction_and_forgets_an_aborted_one() {
    let rig = Rig::new(&[("segment.bytes", "250")]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "b");
    let first = end(&rig.partition, marker(Abort, 1, 0));
    send(&rig.partition, in_transaction(1, 0, 1), "c");
    end(&rig.partition, marker(Abort, 1, 0));
    rig.partition.truncate_to(offset(first)).unwrap();
    assert_eq!(rig.partition.last_stable_offset(), offset(1));
    assert_eq!(committed(&rig.partition), ["a"]);
    end(&rig.partition, marker(Commit, 1, 0));
    assert_eq!(committed(&rig.partition), ["a", "b"], "no entry of the first life hides it");
}

#[test]
fn markers_of_old_epochs_and_old_coordinators_are_refused_and_write_nothing() {
    let rig = Rig::new(&[]);
    let refused = |marker| match rig.partition.end_transaction(&marker, Durability::Written).unwrap_err() {
        LogError::Producer { source, .. } => source,
        other => panic!("{other}"),
    };
    send(&rig.partition, stamp(1, 3, 0), "plain");
    assert!(matches!(refused(marker(Abort, 1, 2)), ProducerError::InvalidEpoch { .. }), "no transaction is open");
    send(&rig.partition, in_transaction(1, 3, 1), "open");
    let stale = refused(marker(Commit, 1, 2));
    assert!(matches!(stale, ProducerError::InvalidEpoch { .. }));
    assert_eq!(stale.kind(), ErrorKind::Fenced);
    let old = TransactionMarker { coordinator_epoch: 5, ..marker(Commit, 1, 3) };
    end(&rig.partition, old);
    assert!(matches!(refused(marker(Commit, 1, 3)), ProducerError::CoordinatorFenced { .. }), "no transaction is open");
    send(&rig.partition, in_transaction(1, 3, 2), "open");
    assert!(matches!(refused(marker(Commit, 1, 3)), ProducerError::CoordinatorFenced { .. }));
    assert_eq!(rig.partition.log_end_offset(), offset(4));
}

#[test]
fn a_marker_that_ends_nothing_is_written_fences_and_may_be_repeated() {
    let rig = Rig::new(&[]);
    assert_eq!(end(&rig.partition, marker(Abort, 1, 4)), 0, "of a producer that the log does not know");
    let late = rig.partition.append_from(in_transaction(1, 3, 0), &[Record::new("late")], Durability::Written);
    let late = late.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced, "{late}");
    send(&rig.partition, in_transaction(1, 4, 0), "a");
    for _ in 0..3 {
        end(&rig.partition, marker(Commit, 1, 5));
    }
    send(&rig.partition, in_transaction(1, 5, 0), "never");
    for _ in 0..3 {
        end(&rig.partition, marker(Abort, 1, 6));
    }
    send(&rig.partition, in_transaction(1, 6, 0), "b");
    end(&rig.partition, marker(Commit, 1, 7));
    let is_right = |partition: &Partition| {
        assert_eq!(committed(partition), ["a", "b"]);
        assert_eq!(partition.open_transactions(), []);
        assert_eq!(partition.producers()[0].producer_epoch.value(), 7);
        let late = partition.append_from(stamp(1, 6, 1), &[Record::new("late")], Durability::Written).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Fenced, "{late}");
    };
    is_right(&rig.partition);
    let index = rig.files().into_iter().find(|name| name.ends_with(".txnindex")).unwrap();
    let size = rig.memory.metadata(&rig.partition.path().join(index)).unwrap().unwrap().size;
    assert_eq!(size, 34, "one entry, of the one aborted transaction");
    let killed = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    is_right(&partition_of(&killed));
}

#[test]
fn a_marker_whose_index_entry_cannot_be_written_commits_nothing_and_is_repaired_by_reopening() {
    use stratalog::vfs::{Effect, Fault, Operation};
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "never");
    let effect = Effect::Error(std::io::ErrorKind::Other);
    rig.vfs.inject(Fault { path_contains: ".txnindex".to_owned(), ..Fault::new(Operation::Write, effect) });
    let error = rig.partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).unwrap_err();
    assert!(matches!(error, LogError::Segment { .. }), "{error}");
    assert_eq!(rig.partition.last_stable_offset(), offset(1), "who reads committed records still waits");
    assert!(matches!(rig.partition.append(&[Record::new("refused")]).unwrap_err(), LogError::Offline { .. }));
    rig.partition.reopen().unwrap();
    assert_eq!(rig.partition.last_stable_offset(), offset(3));
    assert_eq!(committed(&rig.partition), ["a"]);
}

#[test]
fn a_read_only_store_follows_transactions_of_the_writer() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "b");
    let reader = stratalog::StoreOptions::new()
        .vfs(Arc::new(rig.memory.clone()))
        .clock(Arc::new(rig.clock.clone()))
        .read_only(true)
        .open("/log")
        .unwrap();
    let partition = partition_of(&reader);
    assert_eq!(committed(&partition), ["a"]);
    append(&rig.partition, "c");
    assert_eq!(committed(&partition), ["a"]);
    end(&rig.partition, marker(Abort, 1, 0));
    send(&rig.partition, in_transaction(1, 0, 1), "d");
    end(&rig.partition, marker(Commit, 1, 0));
    // At the log's end the reader looks for more.
    partition.read(partition.log_end_offset()).fetch().unwrap();
    assert_eq!(committed(&partition), ["a", "c", "d"]);
}

#[test]
fn more_aborted_transactions_than_batches_that_are_left_can_be_cut() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "kept");
    send(&rig.partition, in_transaction(1, 0, 0), "never");
    send(&rig.partition, in_transaction(2, 0, 0), "never");
    end(&rig.partition, marker(Abort, 1, 0));
    end(&rig.partition, marker(Abort, 2, 0));
    rig.partition.truncate_to(offset(1)).unwrap();
    assert_eq!(committed(&rig.partition), ["kept"]);
    assert!(!rig.files().iter().any(|name| name.ends_with(".txnindex")), "{:?}", rig.files());
}

#[test]
fn no_snapshot_brings_a_transaction_back_whose_marker_was_compacted_away() {
    let config = [("cleanup.policy", "compact"), ("delete.retention.ms", "0"), ("segment.bytes", "700")];
    let rig = Rig::new(&config);
    let large = "x".repeat(400);
    rig.partition.append(&[Record::keyed("a", &large)]).unwrap();
    let aborted = [Record::keyed("k", "v")];
    rig.partition.append_from(in_transaction(1, 0, 0), &aborted, Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    end(&rig.partition, marker(Abort, 1, 0));
    // So that the producer's last batch is another one, and no segment is merged with another.
    rig.partition.append_from(stamp(1, 0, 1), &[Record::keyed("b", &large)], Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    for _ in 0..4 {
        rig.partition.compact().unwrap();
    }
    assert_eq!(bases(&rig.partition), [0, 2, 4]);
    rig.store.checkpoint().unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(partition_of(&store).last_stable_offset(), offset(4));
}

#[test]
fn what_was_aborted_stays_so_when_the_power_fails_after_a_flush_and_a_roll() {
    for closes in [false, true] {
        let rig = Rig::new(&[]);
        send(&rig.partition, in_transaction(1, 0, 0), "never");
        end(&rig.partition, marker(Abort, 1, 0));
        rig.partition.flush().unwrap();
        rig.partition.roll().unwrap();
        rig.store.checkpoint().unwrap();
        if closes {
            rig.store.clone().close().unwrap();
        }
        let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
        assert_eq!(partition_of(&store).log_end_offset(), offset(2));
        assert!(committed(&partition_of(&store)).is_empty(), "closed in order: {closes}");
    }
}

#[test]
fn an_index_of_transactions_that_cannot_be_read_is_not_taken_for_a_damaged_one() {
    let rig = Rig::new(&[]);
    send(&rig.partition, in_transaction(1, 0, 0), "never");
    end(&rig.partition, marker(Abort, 1, 0));
    rig.partition.roll().unwrap();
    let Rig { memory, vfs, clock, store, partition } = rig;
    store.close().unwrap();
    drop(partition);
    let refused = Effect::Error(std::io::ErrorKind::PermissionDenied);
    vfs.inject(Fault { path_contains: ".txnindex".into(), ..Fault::new(Operation::Open, refused) });
    let store = open(Arc::new(vfs.clone()), &clock);
    assert_eq!(store.open_report().failed.len(), 1);
    vfs.clear_faults();
    store.topic("t").unwrap().reopen_partition(0).unwrap();
    partition_of(&store).append_with(&[Record::new("after")], Durability::Durable).unwrap();
    assert_eq!(committed(&partition_of(&store)), ["after"]);
    let survivor = open(Arc::new(memory.crash_image()), &clock);
    assert_eq!(committed(&partition_of(&survivor)), ["after"], "a loss of power finds the index as it was");
}

#[test]
fn a_damaged_index_of_transactions_is_durable_again_when_its_store_is_open() {
    let rig = Rig::new(&[]);
    send(&rig.partition, in_transaction(1, 0, 0), "never");
    end(&rig.partition, marker(Abort, 1, 0));
    for value in ["behind", "it"] {
        rig.partition.roll().unwrap();
        append(&rig.partition, value);
    }
    let Rig { memory, vfs, clock, store, partition } = rig;
    let index = partition.path().join(format!("{:020}.txnindex", 0));
    store.close().unwrap();
    drop(partition);
    memory.open(&index, OpenMode::Write).unwrap().write_at(&[0xff; 34], 0).unwrap();
    drop(open(Arc::new(vfs.clone()), &clock));
    // The second opening of this boot takes everything below the recovery point for synced.
    let store = open(Arc::new(vfs), &clock);
    append(&partition_of(&store), "after");
    partition_of(&store).roll().unwrap();
    store.flush().unwrap();
    let survivor = open(Arc::new(memory.crash_image()), &clock);
    assert_eq!(committed(&partition_of(&survivor)), ["behind", "it", "after"]);
}

/// Appends in transactions, until the machine ends: what was promised durable, and what must never be seen.
fn script(vfs: &FaultyVfs, clock: &ManualClock, promised: &mut Vec<String>) -> Result<(), ()> {
    let options = stratalog::StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(clock.clone()));
    let store = options.open("/log").map_err(drop)?;
    let topic = store.create_topic("t", 1, config(&[("segment.bytes", "400")])).map_err(drop)?;
    let partition = topic.partition(0).map_err(drop)?;
    for round in 0..4_i16 {
        let base = i32::from(round) * 2;
        for (producer, value) in [(1, "aborted"), (2, "committed")] {
            for part in 0..2 {
                let stamp = in_transaction(producer, 0, base + part);
                let record = Record::new(value);
                partition.append_from(stamp, &[record], Durability::Written).map_err(drop)?;
            }
        }
        partition.end_transaction(&marker(Abort, 1, 0), Durability::Written).map_err(drop)?;
        partition.end_transaction(&marker(Commit, 2, 0), Durability::Durable).map_err(drop)?;
        promised.extend(["committed".to_owned(), "committed".to_owned()]);
        if round == 1 {
            store.checkpoint().map_err(drop)?;
            store.tick(at(1000)).map_err(drop)?;
        }
    }
    store.close().map_err(drop)
}

#[test]
fn after_a_power_loss_at_any_moment_no_aborted_record_is_seen_and_no_committed_one_is_missing() {
    let whole = FaultyVfs::new(MemoryVfs::new());
    script(&whole, &ManualClock::new(at(0)), &mut Vec::new()).unwrap();
    for crash_at in 0..=whole.mutations() {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let (clock, mut promised) = (ManualClock::new(at(0)), Vec::new());
        vfs.crash_after(crash_at);
        let _ = script(&vfs, &clock, &mut promised);
        for seed in 0..4 {
            let when = format!("end at {crash_at}, image {seed}");
            let store = open(Arc::new(vfs.crash_image(seed).unwrap()), &clock);
            let Ok(topic) = store.topic("t") else {
                assert!(promised.is_empty(), "{when}");
                continue;
            };
            let partition = topic.partition(0).unwrap();
            let found = committed(&partition);
            assert!(found.iter().all(|value| value == "committed"), "{when}: {found:?}");
            assert!(found.len() >= promised.len(), "{when}: {} of {}", found.len(), promised.len());
            assert!(found.len().is_multiple_of(2), "{when}: a transaction is visible as a whole");
        }
    }
}

#[test]
fn a_reader_beside_the_writer_sees_a_transaction_end() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "b");
    let options = StoreOptions::new().vfs(Arc::new(rig.memory.clone())).clock(Arc::new(rig.clock.clone()));
    let beside = options.read_only(true).open("/log").unwrap();
    let reader = partition_of(&beside);
    let next = |from| {
        let batches = reader.read(offset(from)).isolation(Isolation::ReadCommitted).fetch().unwrap();
        let values = batches.records().map(|record| String::from_utf8_lossy(record.unwrap().value().unwrap()).into());
        (batches.next_offset().value(), values.collect::<Vec<String>>())
    };
    assert_eq!(next(0), (1, vec!["a".to_owned()]));
    assert_eq!(next(1), (1, vec![]));
    end(&rig.partition, marker(Commit, 1, 0));
    assert_eq!(next(1), (3, vec!["b".to_owned()]), "the end of the log was known, only what is stable has moved");
    send(&rig.partition, in_transaction(1, 0, 1), "c");
    end(&rig.partition, marker(Abort, 1, 0));
    append(&rig.partition, "d");
    assert_eq!(next(3), (6, vec!["d".to_owned()]));
}

/// What the threads of the race tell each other.
#[derive(Default)]
struct Race {
    /// By transaction: 0 not ended yet, 1 about to be committed, 2 about to be aborted.
    outcomes: Vec<std::sync::atomic::AtomicU8>,
    next: std::sync::atomic::AtomicUsize,
    committed: std::sync::Mutex<std::collections::BTreeSet<i64>>,
    over: std::sync::atomic::AtomicBool,
}

impl Race {
    fn is_over(&self) -> bool {
        self.over.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// One producer: transactions of a few batches, each ended as chance says.
    fn write(&self, partition: &Partition, id: i64, fuse: std::time::Instant) {
        use std::sync::atomic::Ordering::SeqCst;
        let (mut sequence, mut chance) = (0, u64::try_from(id).unwrap() * 7919);
        while fuse.elapsed() < std::time::Duration::from_secs(2) {
            let number = self.next.fetch_add(1, SeqCst);
            if number >= self.outcomes.len() {
                break;
            }
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut offsets = Vec::new();
            for part in 0..1 + (chance >> 33) % 3 {
                let (key, value) = (format!("{number} {part}"), number.to_string());
                let stamp = in_transaction(id, 0, sequence);
                let done = partition.append_from(stamp, &[Record::keyed(&key, &value)], Durability::Written).unwrap();
                offsets.push(done.base_offset.value());
                sequence += 1;
            }
            let (outcome, result) = if chance >> 62 == 0 { (2, Abort) } else { (1, Commit) };
            self.outcomes[number].store(outcome, SeqCst);
            end(partition, marker(result, id, 0));
            if outcome == 1 {
                self.committed.lock().unwrap().extend(offsets);
            }
        }
    }

    /// Reads on from `next`; returns what was seen, and up to where.
    fn read(&self, partition: &Partition, next: &mut i64, max_bytes: usize) -> Option<Vec<i64>> {
        let read = partition.read(offset(*next)).max_bytes(max_bytes).isolation(Isolation::ReadCommitted);
        let batches = match read.fetch() {
            Ok(batches) => batches,
            Err(LogError::OffsetOutOfRange { .. }) => return None,
            Err(error) => panic!("{error}"),
        };
        let mut seen = Vec::new();
        for record in batches.records() {
            let record = record.unwrap();
            assert!(record.offset() < batches.last_stable_offset(), "{} was not decided yet", record.offset());
            let number: usize = std::str::from_utf8(record.value().unwrap()).unwrap().parse().unwrap();
            let outcome = self.outcomes[number].load(std::sync::atomic::Ordering::SeqCst);
            assert_eq!(outcome, 1, "offset {} of transaction {number} is visible", record.offset());
            seen.push(record.offset().value());
        }
        assert!(seen.is_sorted_by(|left, right| left < right));
        *next = batches.next_offset().value();
        Some(seen)
    }

    /// Follows the log to its end, and checks in the end that nothing was left out of any stretch it read.
    fn follow(&self, partition: &Partition, max_bytes: usize) {
        let (mut next, mut stretches) = (0, vec![(0, 0, Vec::new())]);
        loop {
            let (was_over, before) = (self.is_over(), next);
            match self.read(partition, &mut next, max_bytes) {
                Some(seen) => {
                    let stretch = stretches.last_mut().unwrap();
                    stretch.1 = next;
                    stretch.2.extend(seen);
                }
                None => {
                    next = partition.log_start_offset().value();
                    stretches.push((next, next, Vec::new()));
                }
            }
            if next == before {
                if was_over {
                    break;
                }
                std::thread::yield_now();
            }
        }
        let committed = self.committed.lock().unwrap();
        for (from, to, seen) in stretches {
            let expected: Vec<_> = committed.range(from..to).copied().collect();
            assert!(seen == expected, "of {from}..{to}: {} records, not {}", seen.len(), expected.len());
        }
    }
}

#[test]
fn readers_beside_writers_rolls_compaction_and_deletion_see_whole_committed_transactions_only() {
    use std::sync::atomic::Ordering::SeqCst;
    let rig = Rig::new(&[
        ("segment.bytes", "4000"),
        ("index.interval.bytes", "300"),
        ("cleanup.policy", "compact,delete"),
        ("delete.retention.ms", "0"),
    ]);
    let race = Race { outcomes: (0..60_000).map(|_| 0.into()).collect(), ..Race::default() };
    let (partition, fuse) = (&rig.partition, std::time::Instant::now());
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..4)
            .map(|id| {
                scope.spawn({
                    let race = &race;
                    move || race.write(partition, id, fuse)
                })
            })
            .collect();
        for max_bytes in [1, 700, 1 << 20] {
            scope.spawn({
                let race = &race;
                move || race.follow(partition, max_bytes)
            });
        }
        scope.spawn(|| {
            let mut turn = 0_i64;
            while !race.is_over() {
                // Anywhere, also near the end, where the log changes.
                let (start, end) = (partition.log_start_offset().value(), partition.log_end_offset().value());
                turn += 1;
                let mut from =
                    if turn % 2 == 0 { (end - turn % 40).max(start) } else { start + turn * 37 % (end - start + 1) };
                race.read(partition, &mut from, 1 << 20);
            }
        });
        scope.spawn(|| {
            let mut turn = 0_i64;
            while !race.is_over() {
                turn += 1;
                partition.roll().unwrap();
                partition.compact().unwrap();
                let (start, end) = (partition.log_start_offset().value(), partition.last_stable_offset().value());
                partition.delete_records_before(offset(start + (end - start) / 3)).unwrap();
                rig.store.tick(at(turn)).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        });
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        race.over.store(true, SeqCst);
        assert!(ended.iter().all(Result::is_ok));
    });
    assert!(partition.log_start_offset() > offset(0));
}

#[test]
fn a_reader_at_the_end_of_the_log_never_gets_the_batch_that_is_appended_meanwhile() {
    let rig = Rig::new(&[]);
    let (partition, fuse) = (&rig.partition, std::time::Instant::now());
    let race = Race { outcomes: (0..200_000).map(|_| 0.into()).collect(), ..Race::default() };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| race.write(partition, 1, fuse));
        for _ in 0..3 {
            scope.spawn(|| {
                while !race.is_over() {
                    let from = partition.last_stable_offset().value() - 2;
                    race.read(partition, &mut from.max(0), 1 << 20);
                }
            });
        }
        let ended = writer.join();
        race.over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(ended.is_ok());
    });
}

#[test]
fn a_reader_of_another_process_gets_past_a_transaction_that_it_saw_open() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "b");
    append(&rig.partition, "c");
    let options = stratalog::StoreOptions::new().vfs(Arc::new(rig.memory.clone())).clock(Arc::new(rig.clock.clone()));
    let reader = options.read_only(true).open("/log").unwrap();
    let follower = partition_of(&reader);
    assert_eq!(committed(&follower), ["a"]);
    end(&rig.partition, marker(Commit, 1, 0));
    assert_eq!(committed(&follower), ["a", "b", "c"]);
}

#[test]
fn an_open_transaction_outlives_a_lost_snapshot_and_two_orderly_closings() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "open");
    rig.store.clone().close().unwrap();
    let path = rig.partition.path().join("00000000000000000002.snapshot");
    rig.memory.open(&path, stratalog::vfs::OpenMode::Write).unwrap().write_at(b"rot", 20).unwrap();
    for life in 0..3 {
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        assert_eq!(partition_of(&store).last_stable_offset(), offset(1), "life {life}");
        store.close().unwrap();
    }
}

#[test]
fn damage_below_the_recovery_point_does_not_keep_the_log_from_opening_and_hides_no_later_transaction() {
    for (at, damage) in [(8, &[0xff_u8; 4][..]), (0, &[0, 0, 1, 0])] {
        let rig = Rig::new(&[("segment.bytes", "300")]);
        for number in 0..10 {
            append(&rig.partition, &format!("{number}"));
        }
        send(&rig.partition, in_transaction(1, 0, 0), "open");
        rig.store.clone().close().unwrap();
        let log = rig.partition.path().join("00000000000000000000.log");
        rig.memory.open(&log, stratalog::vfs::OpenMode::Write).unwrap().write_at(damage, at).unwrap();
        for name in rig.files().iter().filter(|name| name.ends_with(".snapshot")) {
            let path = rig.partition.path().join(name);
            rig.memory.open(&path, stratalog::vfs::OpenMode::Truncate).unwrap().write_at(b"damaged", 0).unwrap();
        }
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!((partition.last_stable_offset(), partition.log_end_offset()), (offset(10), offset(11)));
    }
}

#[test]
fn a_snapshot_that_speaks_of_offsets_it_cannot_know_is_not_believed() {
    use stratalog::format::ProducerSnapshot;
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    send(&rig.partition, in_transaction(1, 0, 0), "open");
    rig.store.clone().close().unwrap();
    let path = rig.partition.path().join("00000000000000000002.snapshot");
    let entry = rig.partition.producers()[0];
    let beyond = stratalog::format::ProducerEntry { last_offset: Some(offset(2)), ..entry };
    let later = stratalog::format::ProducerEntry { current_transaction_first_offset: Some(offset(1000)), ..entry };
    let other = stratalog::format::ProducerEntry { producer_id: stamp(2, 0, 0).id, ..entry };
    for entries in [vec![beyond], vec![later], vec![entry, entry], vec![entry, other]] {
        let image = rig.memory.process_crash_image();
        let bytes = ProducerSnapshot { entries: entries.clone() }.encode();
        image.open(&path, stratalog::vfs::OpenMode::Truncate).unwrap().write_at(&bytes, 0).unwrap();
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.open_transactions(), [(entry.producer_id, offset(1))], "{entries:?}");
        end(&partition, marker(Commit, 1, 0));
        assert_eq!(committed(&partition), ["a", "open"]);
    }
}

#[test]
fn readers_of_all_records_need_not_understand_a_control_record() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "a");
    let mut builder = stratalog::format::BatchBuilder::new(stratalog::format::BatchOptions::default());
    builder.push(&Record::keyed("?", "?"), Some(at(0))).unwrap();
    let mut strange = builder.finish().unwrap().to_vec();
    strange[22] |= 0x20;
    stratalog::format::set_timestamps(&mut strange, stratalog::TimestampType::Create, Some(at(1))).unwrap();
    stratalog::format::assign_offsets(&mut strange, offset(1), stratalog::types::LeaderEpoch::ZERO).unwrap();
    rig.store.clone().close().unwrap();
    let log = rig.partition.path().join("00000000000000000000.log");
    let size = rig.memory.metadata(&log).unwrap().unwrap().size;
    rig.memory.open(&log, stratalog::vfs::OpenMode::Write).unwrap().write_at(&strange, size).unwrap();
    rig.memory.remove_file(&rig.store.path().join(".kafka_cleanshutdown")).unwrap();
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    let partition = partition_of(&store);
    append(&partition, "b");
    let read = partition.read(offset(0)).fetch().unwrap();
    assert_eq!(read.records().filter(Result::is_ok).count(), 2);
    assert!(read.records().all(|record| record.is_ok()));
}

#[test]
fn readers_beside_failing_syncs_and_reopening_never_take_aborted_records_for_committed() {
    use stratalog::vfs::{Effect, Fault, Operation};
    let rig = Rig::new(&[("segment.bytes", "2000"), ("index.interval.bytes", "100")]);
    let (partition, fuse) = (&rig.partition, std::time::Instant::now());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for max_bytes in [1, 1 << 20] {
            let over = &over;
            scope.spawn(move || {
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    let found = read_committed(partition, max_bytes);
                    assert!(found.iter().all(|(_, value)| value == "committed"));
                }
            });
        }
        let writer = scope.spawn(|| {
            for turn in 0.. {
                if fuse.elapsed() > std::time::Duration::from_secs(1) {
                    break;
                }
                send(partition, in_transaction(1, 0, turn), "aborted");
                append(partition, "committed");
                if turn % 7 == 3 {
                    let path = if turn % 2 == 0 { ".txnindex" } else { ".log" };
                    let operation = if turn % 2 == 0 { Operation::Write } else { Operation::Sync };
                    let fault = Fault::new(operation, Effect::Error(std::io::ErrorKind::Other));
                    rig.vfs.inject(Fault { path_contains: path.to_owned(), ..fault });
                }
                if partition.end_transaction(&marker(Abort, 1, 0), Durability::Durable).is_err() {
                    rig.vfs.clear_faults();
                    partition.reopen().unwrap();
                }
            }
        });
        let ended = writer.join();
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(ended.is_ok());
    });
    assert!(rig.vfs.faults_struck() > 3);
    assert!(partition.open_transactions().is_empty());
}

#[test]
fn waiting_for_committed_records_ends_with_the_transaction_before_them() {
    let rig = Rig::new(&[]);
    send(&rig.partition, in_transaction(1, 0, 0), "a");
    let soon = std::time::Duration::from_millis(5);
    assert!(rig.partition.wait_for(offset(0), soon));
    assert!(!rig.partition.wait_for_committed(offset(0), soon));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| rig.partition.wait_for_committed(offset(0), std::time::Duration::from_secs(60)));
        std::thread::sleep(soon);
        end(&rig.partition, marker(Commit, 1, 0));
        assert!(waiter.join().unwrap());
    });
}
