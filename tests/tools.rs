//! The contracts of the two tools, `dump_log` and `console`: what they print, and how they end.
//!
//! `cargo test` builds the examples before it runs tests; these run them as a user does. (`cargo test --test tools` alone
//! doesn't build them.)

#![expect(clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use stratalog::format::{ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use stratalog::{Durability, LogStore, Partition, Record, TopicConfig};

const LOG: &str = "00000000000000000000.log";
const INDEX: &str = "00000000000000000000.index";

fn tool(name: &str) -> Command {
    let mut path = std::env::current_exe().expect("the test's own path");
    path.pop();
    path.pop();
    Command::new(path.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// The lines that `dump_log --json` prints, and its exit code.
fn dump(path: &Path) -> (Vec<Value>, Option<i32>) {
    let output = tool("dump_log").arg("--json").arg(path).output().expect("dump_log runs");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    (lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), output.status.code())
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// The bytes of a `.log` of `count` batches with two records each, and where each batch begins.
fn log_of(count: usize) -> (Vec<u8>, Vec<usize>) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LogStore::open(folder.path()).expect("a new store");
    let partition = store.create_topic("t", 1, TopicConfig::new()).and_then(|t| t.partition(0)).expect("a topic");
    let starts = (0..count).map(|_| {
        let start = usize::try_from(partition.size()).expect("small");
        partition.append(&[Record::new("one"), Record::keyed("key", "two")]).expect("an append");
        start
    });
    let starts = starts.collect();
    store.close().expect("an orderly stop");
    (std::fs::read(folder.path().join("t-0").join(LOG)).expect("the log"), starts)
}

/// What `dump_log` makes of a file of these bytes.
fn dump_bytes(name: &str, bytes: &[u8]) -> (Vec<Value>, Option<i32>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("a written file");
    dump(&path)
}

fn base_offsets(lines: &[Value]) -> Vec<i64> {
    of_type(lines, "batch").iter().map(|batch| batch["base_offset"].as_i64().expect("a number")).collect()
}

fn reasons(lines: &[Value]) -> Vec<(u64, String)> {
    let reason = |line: &&Value| {
        let code = line["reason"].as_str().expect("text").split(':').next().expect("a code");
        (line["position"].as_u64().expect("a number"), code.to_owned())
    };
    of_type(lines, "damage").iter().map(reason).collect()
}

#[test]
fn a_batch_with_a_wrong_checksum_is_shown_as_invalid_without_records() {
    let (mut bytes, starts) = log_of(3);
    bytes[starts[1] + 70] ^= 1;
    let (lines, code) = dump_bytes(LOG, &bytes);
    let valid: Vec<&Value> = of_type(&lines, "batch").iter().map(|batch| &batch["valid"]).collect();
    assert_eq!(valid, [true, false, true]);
    assert_eq!(of_type(&lines, "record").len(), 4);
    assert_eq!(reasons(&lines), [(starts[1] as u64, "crc_mismatch".to_owned())]);
    assert_eq!(code, Some(1));
}

#[test]
fn broken_framing_is_one_damage_and_the_next_good_batch_is_found() {
    let (bytes, starts) = log_of(4);
    for (at, value) in [(8, 0x7f), (8, 0xff), (11, 0), (16, 9)] {
        let mut broken = bytes.clone();
        broken[starts[1] + at] = value;
        let (lines, code) = dump_bytes(LOG, &broken);
        assert_eq!(base_offsets(&lines), [0, 4, 6], "byte {at} set to {value}");
        assert_eq!(reasons(&lines).len(), 1, "byte {at} set to {value}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn an_incomplete_last_batch_is_damage_and_zeros_after_the_last_batch_are_not() {
    let (mut bytes, starts) = log_of(2);
    let (lines, code) = dump_bytes(LOG, &bytes[..bytes.len() - 1]);
    assert_eq!((base_offsets(&lines), code), (vec![0], Some(1)));
    assert_eq!(reasons(&lines), [(starts[1] as u64, "incomplete".to_owned())]);
    bytes.resize(bytes.len() + 100_000, 0);
    let (lines, code) = dump_bytes(LOG, &bytes);
    assert_eq!((base_offsets(&lines), code), (vec![0, 2], Some(0)));
}

#[test]
fn a_batch_that_goes_backwards_is_damage() {
    let (bytes, starts) = log_of(2);
    let doubled = [&bytes[..], &bytes[starts[1]..]].concat();
    let (lines, _) = dump_bytes(LOG, &doubled);
    assert_eq!(base_offsets(&lines), [0, 2, 2]);
    assert_eq!(reasons(&lines), [(bytes.len() as u64, "out_of_order".to_owned())]);
}

#[test]
fn a_preallocated_index_ends_at_its_last_entry_and_a_ragged_one_is_damage() {
    let entries = [[0, 0, 0, 9, 0, 0, 1, 0], [0, 0, 0, 12, 0, 0, 2, 0]].concat();
    let preallocated = [&entries[..], &[0; 4096]].concat();
    let (lines, code) = dump_bytes(INDEX, &preallocated);
    let offsets: Vec<&Value> = of_type(&lines, "index").iter().map(|entry| &entry["offset"]).collect();
    assert_eq!((offsets, code), (vec![&json!(9), &json!(12)], Some(0)));
    let (lines, code) = dump_bytes(INDEX, &preallocated[..preallocated.len() - 3]);
    assert_eq!((of_type(&lines, "index").len(), code), (2, Some(1)));
    assert_eq!(reasons(&lines)[0].1, "incomplete");
    let backwards = [&entries[8..], &entries[..8]].concat();
    let (lines, _) = dump_bytes(INDEX, &backwards);
    assert_eq!(reasons(&lines), [(8, "out_of_order".to_owned())]);
}

#[test]
fn nothing_to_dump_is_bad_usage() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().to_owned(), folder.path().join("nowhere"), PathBuf::from("Cargo.toml")] {
        assert_eq!(dump(&path).1, Some(2), "{}", path.display());
    }
}

/// Runs `console` on a folder.
fn console(folder: &Path, words: &[&str], input: &str) -> Output {
    let mut command = tool("console");
    command.arg("--dir").arg(folder).args(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("console starts");
    // A command that reads no input may be gone before it is written.
    child.stdin.take().expect("piped").write_all(input.as_bytes()).ok();
    child.wait_with_output().expect("console ends")
}

fn with_topic(partitions: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["topics", "create", "--topic", "t", "--partitions", partitions];
    assert!(console(folder.path(), &words, "").status.success());
    folder
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn records_come_out_of_the_console_as_they_went_in() {
    let folder = with_topic("2");
    let lines = [
        r#"{"partition":1,"key":null,"value":null,"headers":[["a","/w=="],["",null]],"timestamp":0}"#,
        r#"{"partition":0,"key":"","value":"aGk=","timestamp":1700000000000}"#,
    ];
    let produced = console(folder.path(), &["produce", "--topic", "t", "--json", "--durable"], &lines.join("\n"));
    assert!(produced.status.success(), "{}", stderr(&produced));
    let words = ["consume", "--topic", "t", "--from-beginning", "--timeout-ms", "0", "--json"];
    let consumed = console(folder.path(), &words, "");
    let got = String::from_utf8(consumed.stdout).expect("UTF-8");
    let got: Vec<Value> = got.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        got,
        [
            json!({"partition":0,"offset":0,"timestamp":1_700_000_000_000_i64,"key":"","value":"aGk=","headers":[]}),
            json!({"partition":1,"offset":0,"timestamp":0,"key":null,"value":null,"headers":[["a","/w=="],["",null]]}),
        ]
    );
}

#[test]
fn a_bad_line_is_named_and_what_came_before_it_is_written() {
    let folder = with_topic("1");
    let input = "{\"value\":\"aGk=\"}\n{\"value\":\"aGk=\"}\n{\"value\":7}\n{\"value\":\"aGk=\"}\n";
    let produced = console(folder.path(), &["produce", "--topic", "t", "--json", "--batch", "2"], input);
    assert_eq!(produced.status.code(), Some(2));
    assert!(stderr(&produced).contains("line 3"), "{}", stderr(&produced));
    assert!(stderr(&produced).contains("2 records"), "{}", stderr(&produced));
    let words = ["consume", "--topic", "t", "--offset", "earliest", "--timeout-ms", "0"];
    assert_eq!(console(folder.path(), &words, "").stdout, b"hi\nhi\n");
}

#[test]
fn a_record_that_the_topic_refuses_is_named_by_its_line() {
    let folder = with_topic("1");
    let words = ["topics", "alter", "--topic", "t", "--config", "max.message.bytes=200"];
    assert!(console(folder.path(), &words, "").status.success());
    let input = format!("a\nb\n{}\nc\n", "x".repeat(300));
    let produced = console(folder.path(), &["produce", "--topic", "t", "--batch", "100"], &input);
    assert_eq!(produced.status.code(), Some(2));
    assert!(stderr(&produced).contains("line 3"), "{}", stderr(&produced));
    let words = ["consume", "--topic", "t", "--from-beginning", "--timeout-ms", "0"];
    assert_eq!(console(folder.path(), &words, "").stdout, b"a\nb\n");
}

#[test]
fn bad_usage_changes_nothing_and_exits_with_2() {
    let folder = with_topic("1");
    for words in [
        &["consume", "--topic", "t", "--from-beginning", "--offset", "0"][..],
        &["consume", "--topic", "t", "--offset", "7"],
        &["consume", "--topic", "t", "--isolation", "serializable"],
        &["consume", "--topic", "t", "--isolation"],
        &["compact"],
        &["compact", "--topic", "nope"],
        &["compact", "--topic", "t"],
        &["compact", "--topic", "t", "--partition", "1"],
        &["compact", "--topic", "t", "--json"],
        &["consume", "--topic", "nope"],
        &["produce", "--topic", "t", "--codec", "rar"],
        &["produce", "--topic", "t", "--partition", "1"],
        &["topics", "create", "--topic", "../t", "--partitions", "1"],
        &["topics", "create", "--topic", "u", "--partitions", "0"],
        &["topics", "create", "--topic", "u", "--partitions", "1", "--config", "retention.ms=never"],
        &["topics", "alter", "--topic", "t", "--partitions", "1"],
        &["topics"],
        &["brew"],
    ] {
        let output = console(folder.path(), words, "");
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty(), "{words:?}");
    }
    assert_eq!(console(folder.path(), &["topics", "list"], "").stdout, b"t\n");
}

/// Appends a record in the transaction of a producer.
fn send(partition: &Partition, producer: i64, value: &str) {
    let stamp = ProducerStamp {
        id: ProducerId::new(producer).expect("a legal id"),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
        transactional: true,
    };
    partition.append_from(stamp, &[Record::new(value)], Durability::Written).expect("an append");
}

/// Ends the transaction of a producer.
fn end(partition: &Partition, producer: i64, result: TransactionResult) {
    let marker = TransactionMarker {
        result,
        producer_id: ProducerId::new(producer).expect("a legal id"),
        producer_epoch: ProducerEpoch::ZERO,
        coordinator_epoch: 7,
        timestamp: Timestamp::ZERO,
    };
    partition.end_transaction(&marker, Durability::Written).expect("a marker");
}

/// A store with an aborted transaction, a committed one, and an open one with a record behind it.
fn with_transactions(folder: &Path) -> (LogStore, Partition) {
    let store = LogStore::open(folder).expect("a new store");
    let partition = store.create_topic("t", 1, TopicConfig::new()).and_then(|t| t.partition(0)).expect("a topic");
    partition.append(&[Record::new("plain")]).expect("an append");
    send(&partition, 1, "aborted");
    send(&partition, 2, "committed");
    end(&partition, 1, TransactionResult::Abort);
    end(&partition, 2, TransactionResult::Commit);
    send(&partition, 3, "open");
    partition.append(&[Record::new("behind")]).expect("an append");
    (store, partition)
}

#[test]
fn records_of_open_and_aborted_transactions_are_shown_unless_only_committed_ones_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, _) = with_transactions(folder.path());
    let consume = |level: &[&str]| {
        let words = [&["consume", "--topic", "t", "--from-beginning", "--timeout-ms", "0"], level].concat();
        String::from_utf8(console(folder.path(), &words, "").stdout).expect("UTF-8")
    };
    let all = "plain\naborted\ncommitted\nopen\nbehind\n";
    assert_eq!(consume(&[]), all);
    assert_eq!(consume(&["--isolation", "read_uncommitted"]), all);
    assert_eq!(consume(&["--isolation", "read_committed"]), "plain\ncommitted\n");
    let described = console(folder.path(), &["topics", "describe", "--topic", "t", "--json"], "");
    let described: Value = serde_json::from_slice(&described.stdout).expect("JSON");
    let partition = &described["partitions"][0];
    assert_eq!((&partition["last_stable_offset"], &partition["log_end_offset"]), (&json!(5), &json!(7)));
    assert_eq!(partition["open_transactions"], json!([{"producer_id":3,"first_offset":5}]));
    store.close().expect("an orderly stop");
}

#[test]
fn a_consumer_of_committed_records_waits_for_the_end_of_a_transaction() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, partition) = with_transactions(folder.path());
    let words =
        ["consume", "--topic", "t", "--offset", "latest", "--isolation", "read_committed", "--max-messages", "2"];
    let mut command = tool("console");
    command.arg("--dir").arg(folder.path()).args(words).args(["--timeout-ms", "30000"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("console starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().expect("a status").is_none(), "the latest records are not decided yet");
    end(&partition, 3, TransactionResult::Commit);
    let output = child.wait_with_output().expect("console ends");
    assert_eq!(output.stdout, b"open\nbehind\n", "the latest committed offset is where the open transaction begins");
    store.close().expect("an orderly stop");
}

#[test]
fn everything_about_transactions_is_dumped() {
    let folder = tempfile::tempdir().expect("a folder");
    let (store, partition) = with_transactions(folder.path());
    store.close().expect("an orderly stop");
    let (lines, code) = dump(partition.path());
    assert_eq!(code, Some(0));
    let flags = |name: &str| of_type(&lines, "batch").iter().map(|batch| batch[name] == true).collect::<Vec<_>>();
    assert_eq!(flags("transactional"), [false, true, true, true, true, true, false]);
    assert_eq!(flags("control"), [false, false, false, true, true, false, false]);
    let markers: Vec<_> = of_type(&lines, "control").iter().map(|m| (&m["kind"], &m["coordinator_epoch"])).collect();
    assert_eq!(markers, [(&json!("abort"), &json!(7)), (&json!("commit"), &json!(7))]);
    let aborted = of_type(&lines, "txnindex");
    let entry = aborted.first().expect("an aborted transaction");
    let numbers = ["producer_id", "first_offset", "last_offset", "last_stable_offset"].map(|name| &entry[name]);
    assert_eq!((aborted.len(), numbers), (1, [&json!(1), &json!(1), &json!(3), &json!(2)]));
    let producers = of_type(&lines, "producer");
    let open: Vec<_> = producers.iter().map(|entry| &entry["current_txn_first_offset"]).collect();
    assert_eq!(open, [&json!(-1), &json!(-1), &json!(5)]);
}

#[test]
fn of_each_key_the_newest_record_is_left_by_compact() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = ["topics", "create", "--topic", "t", "--partitions", "2", "--config", "cleanup.policy=compact"];
    assert!(console(folder.path(), &words, "").status.success());
    let words = ["produce", "--topic", "t", "--key-separator", ":", "--partition", "1", "--batch", "1"];
    assert!(console(folder.path(), &words, "a:1\nb:1\na:2\na:3\n").status.success());
    let compacted = console(folder.path(), &["compact", "--topic", "t", "--partition", "1"], "");
    let printed = String::from_utf8(compacted.stdout).expect("UTF-8");
    assert!(compacted.status.success() && printed.lines().count() == 1, "{printed}");
    assert!(printed.starts_with("t-1: ") && printed.contains("4 records to 2"), "{printed}");
    let words = ["consume", "--topic", "t", "--from-beginning", "--timeout-ms", "0"];
    assert_eq!(console(folder.path(), &words, "").stdout, b"1\n3\n");
    let both = console(folder.path(), &["compact", "--topic", "t"], "");
    assert_eq!(String::from_utf8(both.stdout).expect("UTF-8").lines().count(), 2);
}

#[test]
fn a_topic_that_is_not_compacted_is_refused_in_one_line_and_left_alone() {
    let folder = with_topic("1");
    assert!(console(folder.path(), &["produce", "--topic", "t"], "one\n").status.success());
    let before = dump(&folder.path().join("t-0"));
    let refused = console(folder.path(), &["compact", "--topic", "t"], "");
    assert_eq!((refused.status.code(), stderr(&refused).lines().count()), (Some(2), 1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("cleanup.policy"), "{}", stderr(&refused));
    assert_eq!(dump(&folder.path().join("t-0")), before);
}

#[test]
fn delete_horizons_and_emptied_batches_are_dumped_and_marks_of_our_own_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = LogStore::open(folder.path()).expect("a new store");
    let mut config = TopicConfig::new();
    config.set("cleanup.policy", "compact").expect("a legal policy");
    let partition = store.create_topic("t", 1, config).and_then(|t| t.partition(0)).expect("a topic");
    partition.append(&[Record::tombstone("gone")]).expect("an append");
    let stamp = ProducerStamp {
        id: ProducerId::new(4).expect("a legal id"),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
        transactional: false,
    };
    partition.append_from(stamp, &[Record::keyed("k", "old")], Durability::Written).expect("an append");
    partition.append(&[Record::keyed("k", "new")]).expect("an append");
    partition.roll().expect("a new segment");
    partition.compact().expect("a compaction");
    store.close().expect("an orderly stop");
    std::fs::write(partition.path().join("00000000000000000000.replaced"), "").expect("a mark");
    let (lines, code) = dump(partition.path());
    assert_eq!(code, Some(0));
    let batches = of_type(&lines, "batch");
    assert!(batches.first().is_some_and(|batch| batch["delete_horizon"].as_i64() > Some(0)), "{batches:?}");
    let counts: Vec<_> = batches.iter().map(|batch| (&batch["count"], &batch["last_offset"])).collect();
    assert_eq!(counts, [(&json!(1), &json!(0)), (&json!(0), &json!(1)), (&json!(1), &json!(2))]);
    assert_eq!(of_type(&lines, "record").len(), 2);
    let files = |line: &Value| line["file"].as_str().is_some_and(|file| file.ends_with(".replaced"));
    assert!(!lines.iter().any(files));
    assert_eq!(dump(&folder.path().join("stratalog-topics")).1, Some(2), "no file of Kafka's");
    assert_eq!(dump(folder.path()).1, Some(0), "the store's own files beside the checkpoints don't disturb");
}
