//! Readers of committed records get what was committed and what belongs to no transaction, in order, and nothing else, ever.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::TransactionResult::{Abort, Commit};
use stratalog::format::{ProducerStamp, TransactionMarker};
use stratalog::vfs::{FaultyVfs, MemoryVfs, Vfs};
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
fn markers_that_end_nothing_are_refused_and_write_nothing() {
    let rig = Rig::new(&[]);
    let refused = |marker| match rig.partition.end_transaction(&marker, Durability::Written).unwrap_err() {
        LogError::Producer { source, .. } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(refused(marker(Commit, 1, 0)), ProducerError::NoTransaction { .. }));
    send(&rig.partition, stamp(1, 3, 0), "plain");
    assert!(matches!(refused(marker(Abort, 1, 3)), ProducerError::NoTransaction { .. }));
    send(&rig.partition, in_transaction(1, 3, 1), "open");
    let stale = refused(marker(Commit, 1, 2));
    assert!(matches!(stale, ProducerError::InvalidEpoch { .. }));
    assert_eq!(stale.kind(), ErrorKind::Fenced);
    let old = TransactionMarker { coordinator_epoch: 5, ..marker(Commit, 1, 3) };
    end(&rig.partition, old);
    send(&rig.partition, in_transaction(1, 3, 2), "open");
    assert!(matches!(refused(marker(Commit, 1, 3)), ProducerError::CoordinatorFenced { .. }));
    assert_eq!(rig.partition.log_end_offset(), offset(4));
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
