//! A process that may open few files, or no more for a moment: nothing that was only about to be opened is taken for a disk that
//! failed. It runs itself again as such a process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;
use std::sync::Arc;

use stratalog::format::TransactionResult;
use stratalog::vfs::{Effect, Fault, FaultyVfs, Operation, PathFilter};
use stratalog::{Durability, LogStore, Record, TopicConfig};
use support::{Rig, append, in_transaction, marker, offset, open, partition_of, read_all, read_committed, stamp};

const FILES_MAX: usize = 128;
const PARTITIONS: u32 = 200;

/// What Linux says where a process has no descriptor left.
const NO_DESCRIPTOR: Effect = Effect::OsError(24);

/// A fault of the next call of a kind on paths that end in `suffix`.
fn fault(operation: Operation, suffix: &str) -> Fault {
    Fault::new(operation, NO_DESCRIPTOR).on(PathFilter::ends_with(suffix))
}

/// What is there after a loss of power, whatever of the unsynced bytes survives.
fn check_durable(rig: &Rig, expected: &[(i64, String)]) {
    for seed in 0..20 {
        let store = open(Arc::new(rig.memory.torn_crash_image(seed)), &rig.clock);
        assert!(read_all(&partition_of(&store)).starts_with(expected), "seed {seed}");
    }
}

#[test]
fn a_process_that_may_open_fewer_files_than_there_are_partitions_appends_to_all_of_them() {
    let own = std::env::current_exe().unwrap();
    let script = format!("ulimit -n {FILES_MAX} && exec \"$0\" --ignored --exact --nocapture in_such_a_process");
    let status = Command::new("sh").arg("-c").arg(script).arg(&own).status().unwrap();
    assert!(status.success());
}

#[test]
#[ignore = "run by the test above"]
fn in_such_a_process() {
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    let topic = store.create_topic("t", PARTITIONS, TopicConfig::new()).unwrap();
    for round in 0..4 {
        for number in 0..PARTITIONS {
            let partition = topic.partition(number).unwrap();
            append(&partition, &round.to_string());
            if round == 1 {
                partition.roll().unwrap();
            }
            assert!(open_files() < FILES_MAX * 3 / 4, "{} files in round {round}", open_files());
        }
    }
    topic.partition(0).unwrap().append_with(&[Record::new("durable")], Durability::Durable).unwrap();
    store.close().unwrap();
    let store = LogStore::open(folder.path()).unwrap();
    let topic = store.topic("t").unwrap();
    assert!((1..PARTITIONS).all(|number| read_all(&topic.partition(number).unwrap()).len() == 4));
}

#[test]
fn an_append_that_finds_no_descriptor_is_refused_and_the_next_one_goes_on() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "before");
    rig.store.clone().close().unwrap();
    let vfs = FaultyVfs::new(rig.memory.clone());
    let store = open(Arc::new(vfs.clone()), &rig.clock);
    let partition = partition_of(&store);
    // Neither the write nor the cut that would undo it.
    vfs.inject(Fault { times: 2, ..fault(Operation::Open, ".log") });
    assert!(partition.append(&[Record::new("refused")]).is_err());
    vfs.clear_faults();
    assert_eq!(append(&partition, "goes on"), 1);
    assert_eq!(read_all(&partition), [(0, "before".to_owned()), (1, "goes on".to_owned())]);
}

#[test]
fn a_snapshot_that_cannot_be_opened_is_no_failure_of_a_durable_append_or_a_flush() {
    let rig = Rig::new(&[]);
    rig.partition.append_from(stamp(7, 0, 0), &[Record::new("0")], Durability::Written).unwrap();
    rig.partition.roll().unwrap();
    rig.vfs.inject(fault(Operation::Open, ".snapshot"));
    assert_eq!(rig.partition.append_with(&[Record::new("1")], Durability::Durable).unwrap().base_offset, offset(1));
    rig.vfs.clear_faults();
    rig.partition.roll().unwrap();
    rig.vfs.inject(Fault { times: u64::MAX, ..fault(Operation::Open, ".snapshot") });
    rig.partition.flush().unwrap();
    assert_eq!(append(&rig.partition, "2"), 2);
    check_durable(&rig, &[(0, "0".to_owned()), (1, "1".to_owned())]);
}

#[test]
fn a_durable_append_whose_folder_cannot_be_opened_is_refused_and_what_it_covered_becomes_durable_with_the_next() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "0");
    rig.partition.roll().unwrap();
    rig.vfs.inject(fault(Operation::SyncDir, "/t-0"));
    assert!(rig.partition.append_with(&[Record::new("1")], Durability::Durable).is_err());
    assert!(rig.partition.recovery_point() < offset(1), "the name of the new segment may be lost");
    assert_eq!(rig.partition.append_with(&[Record::new("2")], Durability::Durable).unwrap().base_offset, offset(2));
    check_durable(
        &rig,
        &["0", "1", "2"].iter().zip(0..).map(|(value, at)| (at, (*value).to_owned())).collect::<Vec<_>>(),
    );
}

#[test]
fn what_an_unclean_opening_has_to_write_again_stays_in_line_while_its_files_cannot_be_opened() {
    let rig = Rig::new(&[]);
    for value in ["0", "1", "2"] {
        append(&rig.partition, value);
        rig.partition.roll().unwrap();
    }
    let memory = rig.memory.process_crash_image();
    for failing in 0..8 {
        let memory = memory.process_crash_image();
        let vfs = FaultyVfs::new(memory.clone());
        let store = open(Arc::new(vfs.clone()), &rig.clock);
        let partition = partition_of(&store);
        vfs.inject(Fault { after: failing, ..fault(Operation::Open, ".log") });
        drop(partition.append_with(&[Record::new("3")], Durability::Durable));
        vfs.clear_faults();
        let end = partition.append_with(&[Record::new("4")], Durability::Durable).unwrap().base_offset;
        let before = read_all(&partition);
        assert_eq!(before.last(), Some(&(end.value(), "4".to_owned())), "open {failing}");
        for seed in 0..20 {
            let store = open(Arc::new(memory.torn_crash_image(seed)), &rig.clock);
            assert_eq!(read_all(&partition_of(&store)), before, "open {failing}, seed {seed}");
        }
    }
}

#[test]
fn an_aborted_transaction_whose_index_cannot_be_opened_is_aborted_all_the_same() {
    let rig = Rig::new(&[]);
    rig.partition.append_from(in_transaction(7, 0, 0), &[Record::new("never")], Durability::Written).unwrap();
    rig.vfs.inject(fault(Operation::Open, ".txnindex"));
    rig.partition.end_transaction(&marker(TransactionResult::Abort, 7, 0), Durability::Written).unwrap();
    assert_eq!(read_committed(&rig.partition, 1 << 20), []);
    rig.partition.append_with(&[Record::new("after")], Durability::Durable).unwrap();
    let store = open(Arc::new(rig.memory.crash_image()), &rig.clock);
    assert_eq!(read_committed(&partition_of(&store), 1 << 20), [(2, "after".to_owned())]);
}
