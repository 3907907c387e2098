//! A producer may send a batch again: the log holds it once, whatever is done to the log in between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::format::{BatchBuilder, BatchOptions, ProducerStamp, TransactionResult, set_timestamps};
use stratalog::vfs::{OpenMode, Vfs};
use stratalog::{
    Appended, Durability, ErrorKind, LogError, Partition, ProducerError, Record, Timestamp, TimestampType,
};
use support::{Rig, append, at, bases, in_transaction, marker, offset, open, partition_of, read_all, stamp};

fn send(partition: &Partition, stamp: ProducerStamp, count: usize) -> Result<Appended, LogError> {
    let records = vec![Record::new("value"); count];
    partition.append_from(stamp, &records, Durability::Written)
}

fn refusal(result: Result<Appended, LogError>) -> ProducerError {
    match result.unwrap_err() {
        LogError::Producer { source, partition } => {
            assert_eq!(partition.to_string(), "t-0");
            source
        }
        other => panic!("expected a producer's error, got {other}"),
    }
}

#[test]
fn a_batch_sent_again_gets_its_offsets_and_is_not_written_again() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "before");
    let first = send(&rig.partition, stamp(7, 0, 0), 3).unwrap();
    append(&rig.partition, "between");
    let again = rig.partition.append_from(stamp(7, 0, 0), &vec![Record::new("value"); 3], Durability::Durable).unwrap();
    assert!(again.is_duplicate && !first.is_duplicate);
    assert_eq!((again.base_offset, again.last_offset), (offset(1), offset(3)));
    assert_eq!(again.durability, Durability::Durable);
    assert_eq!(rig.partition.log_end_offset(), offset(5));
}

#[test]
fn a_repeated_batch_of_a_log_append_time_topic_gets_the_time_it_was_given() {
    let rig = Rig::new(&[("message.timestamp.type", "LogAppendTime")]);
    let first = send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    rig.clock.advance(500);
    let again = send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    assert!(first.timestamp.is_some());
    assert_eq!(again.timestamp, first.timestamp);
}

#[test]
fn refused_batches_leave_nothing_in_the_log() {
    let rig = Rig::new(&[]);
    send(&rig.partition, stamp(7, 3, 0), 2).unwrap();
    let end = rig.partition.log_end_offset();
    let gap = send(&rig.partition, stamp(7, 3, 3), 1);
    assert_eq!(gap.as_ref().unwrap_err().kind(), ErrorKind::OutOfOrder);
    assert!(matches!(refusal(gap), ProducerError::OutOfOrderSequence { .. }));
    let fenced = send(&rig.partition, stamp(7, 2, 2), 1);
    assert_eq!(fenced.as_ref().unwrap_err().kind(), ErrorKind::Fenced);
    assert!(matches!(refusal(fenced), ProducerError::InvalidEpoch { .. }));
    send(&rig.partition, in_transaction(8, 0, 0), 1).unwrap();
    let outside = send(&rig.partition, stamp(8, 0, 1), 1);
    assert_eq!(outside.as_ref().unwrap_err().kind(), ErrorKind::InvalidTransaction);
    assert!(matches!(refusal(outside), ProducerError::TransactionOpen { .. }));
    assert_eq!(rig.partition.log_end_offset(), end.next());
    assert_eq!(rig.store.metrics().append_failures, 3);
}

#[test]
fn an_encoded_batch_with_a_stamp_meets_the_same_rules() {
    let rig = Rig::new(&[]);
    let mut builder = BatchBuilder::new(BatchOptions { producer: Some(stamp(7, 0, 0)), ..BatchOptions::default() });
    builder.push(&Record::new("value"), Some(support::at(0))).unwrap();
    let batch = builder.finish().unwrap().to_vec();
    assert!(!rig.partition.append_batch(&batch, Durability::Written).unwrap().is_duplicate);
    assert!(rig.partition.append_batch(&batch, Durability::Written).unwrap().is_duplicate);
    let mut unnamed = batch;
    unnamed[22] |= 0x10;
    unnamed[43..51].fill(0xff);
    set_timestamps(&mut unnamed, TimestampType::Create, Some(support::at(1))).unwrap();
    let error = rig.partition.append_batch(&unnamed, Durability::Written).unwrap_err();
    assert!(error.to_string().contains("producerId"), "a transaction needs a producer: {error}");
    assert_eq!(rig.partition.log_end_offset(), offset(1));
}

#[test]
fn after_a_clean_close_the_last_batch_is_still_known() {
    let rig = Rig::new(&[]);
    send(&rig.partition, stamp(7, 0, 0), 2).unwrap();
    send(&rig.partition, stamp(7, 0, 2), 2).unwrap();
    rig.store.clone().close().unwrap();
    assert!(rig.files().contains(&"00000000000000000004.snapshot".to_owned()), "{:?}", rig.files());
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    let partition = partition_of(&store);
    assert_eq!(send(&partition, stamp(7, 0, 2), 2).unwrap().base_offset, offset(2));
    // Only the newest batch of each producer is in a snapshot.
    assert!(matches!(refusal(send(&partition, stamp(7, 0, 0), 2)), ProducerError::OutOfOrderSequence { .. }));
    assert!(!send(&partition, stamp(7, 0, 4), 1).unwrap().is_duplicate);
}

#[test]
fn after_a_kill_or_a_power_loss_the_log_says_what_producers_sent() {
    let rig = Rig::new(&[("segment.bytes", "300")]);
    for batch in 0..12 {
        send(&rig.partition, stamp(7, 0, batch * 2), 2).unwrap();
        send(&rig.partition, stamp(8, 1, batch), 1).unwrap();
    }
    rig.partition.flush().unwrap();
    assert!(bases(&rig.partition).len() > 3);
    for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.producers(), rig.partition.producers());
        assert!(send(&partition, stamp(7, 0, 22), 2).unwrap().is_duplicate);
        assert!(!send(&partition, stamp(7, 0, 24), 2).unwrap().is_duplicate);
        assert!(matches!(refusal(send(&partition, stamp(8, 0, 0), 1)), ProducerError::InvalidEpoch { .. }));
    }
}

#[test]
fn every_roll_leaves_a_snapshot_and_deleted_segments_take_theirs_along() {
    let rig = Rig::new(&[("segment.bytes", "300"), ("file.delete.delay.ms", "0"), ("retention.bytes", "1")]);
    for batch in 0..6 {
        send(&rig.partition, stamp(7, 0, batch), 1).unwrap();
    }
    let snapshots = || {
        let names = rig.files().into_iter().filter_map(|name| Some(name.strip_suffix(".snapshot")?.parse().unwrap()));
        names.collect::<Vec<i64>>()
    };
    let rolled = bases(&rig.partition)[1..].to_vec();
    assert!(!rolled.is_empty());
    assert_eq!(snapshots(), rolled);
    rig.store.tick(support::at(10)).unwrap();
    rig.store.tick(support::at(20)).unwrap();
    assert_eq!(bases(&rig.partition).len(), 1);
    // The one of the segment that is left, and the checkpoint's.
    assert_eq!(snapshots(), [bases(&rig.partition)[0], 6]);
    assert!(!rig.files().iter().any(|name| name.ends_with(".deleted")));
}

#[test]
fn a_damaged_snapshot_is_dropped_and_the_log_read_instead() {
    let rig = Rig::new(&[("segment.bytes", "300")]);
    for batch in 0..6 {
        send(&rig.partition, stamp(7, 0, batch), 1).unwrap();
    }
    let before = rig.partition.producers();
    rig.store.clone().close().unwrap();
    for damage in [&b""[..], b"short", &[0; 56]] {
        let image = rig.memory.process_crash_image();
        for name in rig.files().iter().filter(|name| name.ends_with(".snapshot")) {
            let path = rig.partition.path().join(name);
            image.remove_file(&path).unwrap();
            image.open(&path, OpenMode::Create).unwrap().write_at(damage, 0).unwrap();
        }
        let store = open(Arc::new(image.clone()), &rig.clock);
        assert_eq!(partition_of(&store).producers(), before);
        let left = image.read_dir(rig.partition.path()).unwrap();
        assert!(!left.iter().any(|entry| entry.name.ends_with(".snapshot")), "{left:?}");
    }
}

#[test]
fn a_snapshot_that_a_crash_damaged_is_written_anew_before_a_clean_close_counts_on_it() {
    let rig = Rig::new(&[]);
    send(&rig.partition, in_transaction(7, 0, 0), 1).unwrap();
    rig.store.tick(support::at(1)).unwrap();
    let name = rig.files().into_iter().find(|name| name.ends_with(".snapshot")).unwrap();
    let image = rig.memory.process_crash_image();
    image.open(&rig.partition.path().join(name), OpenMode::Truncate).unwrap();
    open(Arc::new(image.clone()), &rig.clock).close().unwrap();
    let partition = partition_of(&open(Arc::new(image), &rig.clock));
    assert_eq!(partition.producers(), rig.partition.producers());
    assert_eq!(partition.last_stable_offset(), offset(0));
}

#[test]
fn a_snapshot_that_tells_of_batches_a_power_loss_took_is_not_believed() {
    let rig = Rig::new(&[]);
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    rig.partition.flush().unwrap();
    send(&rig.partition, stamp(7, 0, 1), 1).unwrap();
    rig.partition.roll().unwrap();
    append(&rig.partition, "behind");
    let names = rig.files();
    // The next segment and the snapshot reached the disk, the end of the segment before them didn't.
    let mut image = rig.memory.crash_image();
    for name in names.iter().filter(|name| name.starts_with("00000000000000000002.")) {
        let path = rig.partition.path().join(name);
        let size = rig.memory.metadata(&path).unwrap().unwrap().size;
        let bytes = rig.memory.open(&path, OpenMode::Read).unwrap().map(size).unwrap();
        let file = image.open(&path, OpenMode::Create).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
    for _ in 0..2 {
        let store = open(Arc::new(image.clone()), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.producers()[0].last_offset, Some(offset(0)));
        append(&partition, "more");
        partition.flush().unwrap();
        store.checkpoint().unwrap();
        image = image.crash_image();
    }
}

#[test]
fn an_epoch_outlives_the_compaction_of_all_that_was_written_in_it() {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("delete.retention.ms", "0")]);
    let record = [Record::keyed("k", "v")];
    rig.partition.append_from(in_transaction(7, 0, 0), &record, Durability::Written).unwrap();
    rig.partition.end_transaction(&marker(TransactionResult::Abort, 7, 1), Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    for _ in 0..3 {
        rig.partition.compact().unwrap();
    }
    let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
    let fenced = partition_of(&store).append_from(stamp(7, 0, 1), &record, Durability::Written);
    assert!(matches!(refusal(fenced), ProducerError::InvalidEpoch { .. }));
}

#[test]
fn truncating_forgets_what_was_cut() {
    let rig = Rig::new(&[("segment.bytes", "300")]);
    for batch in 0..8 {
        send(&rig.partition, stamp(7, 0, batch), 1).unwrap();
    }
    send(&rig.partition, stamp(9, 0, 0), 1).unwrap();
    rig.partition.truncate_to(offset(5)).unwrap();
    assert_eq!(rig.partition.producers().len(), 1);
    assert!(matches!(refusal(send(&rig.partition, stamp(7, 0, 8), 1)), ProducerError::OutOfOrderSequence { .. }));
    assert_eq!(send(&rig.partition, stamp(7, 0, 5), 1).unwrap().base_offset, offset(5));
    // A producer whose records are all gone is unknown: it may go on with any sequence.
    assert!(!send(&rig.partition, stamp(9, 0, 17), 1).unwrap().is_duplicate);
    rig.partition.truncate_fully_and_start_at(offset(100)).unwrap();
    assert!(rig.partition.producers().is_empty());
    assert_eq!(read_all(&rig.partition), []);
}

#[test]
fn idle_producers_are_forgotten_by_the_background_work_and_on_opening() {
    let rig = Rig::new(&[]);
    send(&rig.partition, stamp(7, 0, 0), 1).unwrap();
    send(&rig.partition, in_transaction(8, 0, 0), 1).unwrap();
    let day = 24 * 60 * 60 * 1000;
    rig.store.tick(support::at(day - 1)).unwrap();
    assert_eq!(rig.partition.producers().len(), 2);
    let image = rig.memory.process_crash_image();
    rig.store.tick(support::at(day)).unwrap();
    let left: Vec<_> = rig.partition.producers().iter().map(|entry| entry.producer_id.value()).collect();
    assert_eq!(left, [8], "an open transaction never expires");
    rig.clock.set(Timestamp::from_millis(support::START + day).unwrap());
    let store = open(Arc::new(image), &rig.clock);
    let left: Vec<_> = partition_of(&store).producers().iter().map(|entry| entry.producer_id.value()).collect();
    assert_eq!(left, [8]);
}

#[test]
fn a_roll_that_finds_the_disk_full_fails_one_append_and_the_next_one_goes_on() {
    use stratalog::vfs::{Effect, Fault, Operation};
    for (path, operation) in [
        (".snapshot", Operation::Write),
        (".snapshot", Operation::Open),
        (".log", Operation::Open),
        (".index", Operation::Write),
    ] {
        let rig = Rig::new(&[("segment.bytes", "300"), ("index.interval.bytes", "0")]);
        let mut sequence = 0;
        let effect = Effect::Error(std::io::ErrorKind::StorageFull);
        let fault = Fault { path_contains: path.to_owned(), ..Fault::new(operation, effect) };
        while bases(&rig.partition).len() < 4 {
            let rolls = bases(&rig.partition).len();
            if sequence == 2 {
                rig.vfs.inject(fault.clone());
            }
            let end = rig.partition.log_end_offset();
            match send(&rig.partition, in_transaction(7, 0, sequence), 1) {
                Ok(appended) => assert!(!appended.is_duplicate),
                Err(LogError::Segment { .. }) => {
                    assert_eq!((rig.partition.log_end_offset(), bases(&rig.partition).len()), (end, rolls), "{path}");
                    // A smaller batch may still find room in the old segment.
                    send(&rig.partition, in_transaction(7, 0, sequence), 1).unwrap();
                }
                Err(error) => panic!("{path}: {error}"),
            }
            sequence += 1;
        }
        assert!(rig.vfs.faults_struck() > 0, "{path}");
        assert!(send(&rig.partition, in_transaction(7, 0, sequence - 1), 1).unwrap().is_duplicate);
        rig.partition.flush().unwrap();
        let producers = rig.partition.producers();
        for image in [rig.memory.process_crash_image(), rig.memory.crash_image()] {
            let store = open(Arc::new(image), &rig.clock);
            assert_eq!(partition_of(&store).producers(), producers, "{path}");
        }
        rig.store.clone().close().unwrap();
        assert_eq!(partition_of(&open(Arc::new(rig.memory.clone()), &rig.clock)).producers(), producers, "{path}");
    }
}

#[test]
fn a_producer_that_was_forgotten_and_began_anew_is_not_answered_from_its_earlier_life() {
    for is_killed in [true, false] {
        let rig = Rig::new(&[]);
        send(&rig.partition, stamp(7, 0, 0), 2).unwrap();
        send(&rig.partition, stamp(7, 0, 2), 3).unwrap();
        let day = 86_400_000;
        rig.clock.set(at(day));
        rig.store.tick(at(day)).unwrap();
        assert!(rig.partition.producers().is_empty(), "it has expired");
        assert_eq!(send(&rig.partition, stamp(7, 0, 0), 2).unwrap().base_offset, offset(5));
        let image = rig.memory.process_crash_image();
        // Without a snapshot the log alone tells.
        for entry in image.read_dir(rig.partition.path()).unwrap() {
            if entry.name.ends_with(".snapshot") {
                image.remove_file(&rig.partition.path().join(entry.name)).unwrap();
            }
        }
        let killed = is_killed.then(|| open(Arc::new(image), &rig.clock));
        let partition = partition_of(killed.as_ref().unwrap_or(&rig.store));
        assert!(send(&partition, stamp(7, 0, 0), 2).unwrap().is_duplicate);
        let next = send(&partition, stamp(7, 0, 2), 3).unwrap();
        assert!(!next.is_duplicate, "killed: {is_killed}");
        assert_eq!(next.base_offset, offset(7), "killed: {is_killed}");
    }
}
