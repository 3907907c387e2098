//! A log of thousands of segments costs a process no map and no open file for each, whatever is asked of it. Alone in its file,
//! for it counts what the process holds, and it runs itself again as a process that may open few files.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::Arc;

use stratalog::format::{ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::{
    Durability, Isolation, LogStore, ManualClock, Offset, OffsetSpec, Partition, Record, StoreOptions, Timestamp,
    TopicConfig,
};

const SEGMENTS: i64 = 800;
const FILES_MAX: usize = 256;
const START: i64 = 1_700_000_000_000;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis).unwrap()
}

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Maps of files of the log.
fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains("/t-0/")).count()
}

fn open(folder: &std::path::Path) -> LogStore {
    StoreOptions::new().clock(Arc::new(ManualClock::new(at(0)))).open(folder).unwrap()
}

/// A transaction of one record that is aborted.
fn abort_one(partition: &Partition) {
    let (id, epoch) = (ProducerId::new(1).unwrap(), ProducerEpoch::new(0).unwrap());
    let stamp = ProducerStamp { id, epoch, base_sequence: Sequence::ZERO, transactional: true };
    partition.append_from(stamp, &[Record::new("never")], Durability::Written).unwrap();
    let (result, coordinator_epoch) = (TransactionResult::Abort, 0);
    let marker =
        TransactionMarker { result, producer_id: id, producer_epoch: epoch, coordinator_epoch, timestamp: at(0) };
    partition.end_transaction(&marker, Durability::Written).unwrap();
}

#[test]
fn a_process_that_may_open_few_files_uses_a_log_of_thousands_of_segments() {
    let own = std::env::current_exe().unwrap();
    let script = format!("ulimit -n {FILES_MAX} && exec \"$0\" --ignored --exact --nocapture in_such_a_process");
    let status = Command::new("sh").arg("-c").arg(script).arg(&own).status().unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "run by the test above"]
fn in_such_a_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let config = TopicConfig::new().retention_ms(Some(1000)).retention_bytes(None).file_delete_delay_ms(0);
    let partition = store.create_topic("t", 1, config).unwrap().partition(0).unwrap();
    abort_one(&partition);
    partition.roll().unwrap();
    for time in 0..SEGMENTS {
        partition.append(&[Record::new("a value").timestamp(at(time))]).unwrap();
        partition.roll().unwrap();
        if time % 100 == 0 {
            partition.flush().unwrap();
        }
    }
    partition.flush().unwrap();
    assert!(open_files() < FILES_MAX, "{} files after writing", open_files());

    // Retention asks every segment for its time, and nothing is due.
    store.tick(at(0)).unwrap();
    assert!(maps() < 100, "{} maps after retention looked", maps());
    for time in [1, 400, SEGMENTS - 1] {
        let found = partition.find_offset(OffsetSpec::Timestamp(at(time))).unwrap().unwrap();
        assert_eq!(found.offset, offset(time + 2));
    }
    assert!(maps() < 100, "{} maps after lookups by time", maps());

    let mut next = Offset::ZERO;
    while next < partition.log_end_offset() {
        let read = partition.read(next).isolation(Isolation::ReadCommitted).fetch().unwrap();
        next = read.next_offset();
    }
    assert!(open_files() < FILES_MAX * 3 / 4, "{} files after reading", open_files());
    assert!(maps() <= 8192 + 100, "{} maps after reading", maps());

    store.tick(at(1200)).unwrap();
    assert_eq!(partition.log_start_offset(), offset(202));
    assert!(partition.read(offset(202)).fetch().unwrap().records().all(|record| record.is_ok()));
    // One budget for all partitions: one for each would be more than there is.
    for partition in store.create_topic("u", 4, TopicConfig::new()).unwrap().partitions() {
        for _ in 0..100 {
            partition.append(&[Record::new("a value")]).unwrap();
            partition.roll().unwrap();
        }
        partition.flush().unwrap();
        (0..100).for_each(|place| _ = partition.read(offset(place)).fetch().unwrap());
        assert!(open_files() < FILES_MAX * 3 / 4, "{} files after reading {}", open_files(), partition.id());
    }
    drop((partition, store));

    // As after a crash: everything is verified.
    let store = open(folder.path());
    let partition = store.topic("t").unwrap().partition(0).unwrap();
    assert_eq!(partition.log_end_offset(), offset(SEGMENTS + 2));
    assert!(open_files() < FILES_MAX * 3 / 4, "{} files after recovery", open_files());
    assert!(maps() < 100, "{} maps after recovery", maps());
    partition.append(&[Record::new("goes on")]).unwrap();
    store.close().unwrap();
}
