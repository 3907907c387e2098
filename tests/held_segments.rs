//! A segment that somebody holds stays readable, record for record, whatever then happens to its files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use stratalog::vfs::Vfs;
use stratalog::{Partition, Record, Segment};
use support::{Rig, at, config, offset};

const CONFIG: [(&str, &str); 3] =
    [("index.interval.bytes", "0"), ("file.delete.delay.ms", "0"), ("cleanup.policy", "compact,delete")];

fn values(segment: &Segment) -> Vec<String> {
    let batches: Vec<_> = segment.batches().map(|batch| batch.unwrap().1).collect();
    let records = batches.iter().flat_map(|batch| batch.records());
    records.map(|record| String::from_utf8_lossy(record.unwrap().value().unwrap()).into_owned()).collect()
}

/// Three segments of two records each; returns the segments and what they hold.
fn fill(partition: &Partition) -> (Vec<Arc<Segment>>, Vec<Vec<String>>) {
    for number in 0..6 {
        let (key, value) = (format!("k{}", number % 2), format!("old {number}"));
        partition.append(&[Record::keyed(&key, &value).timestamp(at(number))]).unwrap();
        if number % 2 == 1 {
            partition.roll().unwrap();
        }
    }
    let mut held = partition.segments();
    held.pop();
    let expected = held.iter().map(|segment| values(segment)).collect();
    (held, expected)
}

fn check(held: &[Arc<Segment>], expected: &[Vec<String>], what: &str) {
    for (segment, expected) in held.iter().zip(expected) {
        assert_eq!(&values(segment), expected, "{what}");
        assert!(segment.largest_timestamp().unwrap() >= Some(at(1)), "{what}");
    }
}

#[test]
fn a_held_segment_outlives_its_topic_and_a_new_one_of_that_name() {
    for has_read in [false, true] {
        let rig = Rig::new(&CONFIG);
        let (mut held, expected) = fill(&rig.partition);
        if !has_read {
            // Taken anew, so that nothing of them is open or mapped.
            rig.store.clone().close().unwrap();
            let store = support::open(Arc::new(rig.vfs.clone()), &rig.clock);
            held = support::partition_of(&store).segments();
            held.pop();
            delete_and_create(&rig, &store);
            check(&held, &expected, "never read before");
        } else {
            delete_and_create(&rig, &rig.store);
            check(&held, &expected, "read before");
        }
    }
}

fn delete_and_create(rig: &Rig, store: &stratalog::LogStore) {
    store.delete_topic("t").unwrap();
    store.tick(at(10_000_000)).unwrap();
    let left = rig.memory.read_dir(store.path()).unwrap();
    assert!(left.iter().all(|entry| !entry.is_dir), "{left:?}");
    let partition = store.create_topic("t", 1, config(&CONFIG)).unwrap().partition(0).unwrap();
    for _ in 0..9 {
        partition.append(&[Record::keyed("k", "another topic's")]).unwrap();
    }
    store.checkpoint().unwrap();
}

#[test]
fn a_held_segment_outlives_retention_truncation_and_compaction() {
    type Change = fn(&Rig);
    let changes: [(&str, Change); 4] = [
        ("retention", |rig| assert_eq!(rig.partition.delete_records_before(offset(6)).unwrap(), offset(6))),
        ("truncation", |rig| rig.partition.truncate_to(offset(3)).unwrap()),
        ("starting over", |rig| rig.partition.truncate_fully_and_start_at(offset(0)).unwrap()),
        ("compaction", |rig| assert_eq!(rig.partition.compact().unwrap().records_after, 2)),
    ];
    for (what, change) in changes {
        let rig = Rig::new(&CONFIG);
        let (held, expected) = fill(&rig.partition);
        change(&rig);
        rig.store.tick(at(0)).unwrap();
        rig.store.tick(at(10_000)).unwrap();
        for _ in 0..9 {
            rig.partition.append(&[Record::keyed("k", "another life's")]).unwrap();
        }
        check(&held, &expected, what);
    }
}

#[test]
fn what_is_held_of_a_mapped_log_outlives_a_reopening_that_cuts_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = stratalog::LogStore::open(folder.path()).unwrap();
    let partition = store.create_topic("t", 1, stratalog::TopicConfig::new()).unwrap().partition(0).unwrap();
    let value = "v".repeat(3000);
    for _ in 0..20 {
        partition.append(&[Record::new(&value)]).unwrap();
    }
    let held = partition.segments().pop().unwrap();
    let batches = partition.read(offset(0)).fetch().unwrap();
    // The last batch rots, and the reopening cuts it off.
    let file = std::fs::File::options().write(true).open(held.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"rot", held.size() - 100).unwrap();
    assert_eq!(partition.reopen().unwrap().cuts.len(), 1);
    assert_eq!(partition.log_end_offset(), offset(19));
    assert_eq!(batches.records().filter(Result::is_ok).count(), 19);
    assert_eq!(held.batches().filter(Result::is_ok).count(), 19);
    assert_eq!(support::append(&partition, "next"), 19);
}
