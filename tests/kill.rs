//! A real process, a real `kill -9`: what was written stays, and the folder's lock goes with the process.
//!
//! The process is the `console` example, which Cargo builds before it runs tests.
#![cfg(unix)]
#![expect(clippy::expect_used, reason = "helpers of a test: whatever goes wrong here must fail it")]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stratalog::{ErrorKind, LogStore, Offset, StoreOptions, TopicConfig};

const RECORDS: i64 = 5;

/// A process that has written [`RECORDS`] records of the topic `t` and holds the folder open.
fn writer(folder: &Path) -> Child {
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.pop();
    let mut child = Command::new(path.join("examples/console"))
        .args(["--dir", folder.to_str().expect("UTF-8"), "produce", "--topic", "t", "--batch", "1"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the console starts");
    let input = child.stdin.as_mut().expect("a pipe");
    for number in 0..RECORDS {
        writeln!(input, "record {number}").expect("the console reads");
    }
    input.flush().expect("the console reads");
    child
}

/// Waits, with a read-only store beside the writer, until all records are there.
fn wait_for_records(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let store = StoreOptions::new().read_only(true).open(folder).expect("a store that is being written");
        let partition = store.topic("t").and_then(|topic| topic.partition(0)).expect("the topic");
        if partition.wait_for(Offset::new(RECORDS - 1).expect("an offset"), Duration::from_millis(100)) {
            return;
        }
        assert!(Instant::now() < deadline, "the console wrote {} records", partition.log_end_offset());
    }
}

#[test]
fn a_killed_writer_loses_nothing_and_locks_nobody_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LogStore::open(folder.path()).expect("a new store");
    store.create_topic("t", 1, TopicConfig::new()).expect("a topic");
    store.close().expect("an orderly stop");

    let mut child = writer(folder.path());
    wait_for_records(folder.path());
    let error = LogStore::open(folder.path()).expect_err("another process writes");
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");

    child.kill().expect("kill -9");
    child.wait().expect("its end");
    let store = LogStore::open(folder.path()).expect("no lock is left behind");
    assert!(!store.open_report().clean);
    let partition = store.topic("t").and_then(|topic| topic.partition(0)).expect("the topic");
    let values = partition.read(Offset::ZERO).fetch().expect("a read").records();
    let values: Vec<_> = values.map(|record| record.expect("an intact record").value().map(<[u8]>::to_vec)).collect();
    let expected: Vec<_> = (0..RECORDS).map(|number| Some(format!("record {number}").into_bytes())).collect();
    assert_eq!(values, expected);
}
