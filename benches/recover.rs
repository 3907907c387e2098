//! What opening a store costs, by how it ended the last time.
//!
//! - `recover/256MiB/clean`: one partition of 256 MiB (100-byte records, batches of 16 KiB) after `LogStore::close`.
//! - `recover/256MiB/killed`: the same log after the process was killed, the machine still running, 16 MiB of it appended
//!   since the last checkpoint: these are verified.
//! - `recover/256MiB/power_loss`: the same log after a loss of power with nothing known to be on the disk: every batch is
//!   verified and the indexes are rebuilt. Throughput counts the bytes of values of the whole log, in these three rows.
//! - `recover/1000_partitions/clean`: 1,000 partitions of one record after `LogStore::close`. Throughput counts partitions.
//!
//! Time is for one `LogStore::open`; closing and bringing back the state to open from are not measured. The files
//! are in the page cache.
#![expect(clippy::expect_used, reason = "a bench whose set-up fails has nothing to measure")]

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use stratalog::store::LogStore;
use stratalog::{Record, TopicConfig};

/// Bytes of values in the large log.
const LOG_SIZE: usize = 256 * 1024 * 1024;
/// Bytes of values appended after the checkpoint.
const TAIL_SIZE: usize = 16 * 1024 * 1024;
/// The files that say how much of the log needs no verifying.
const CHECKPOINTS: [&str; 2] = ["recovery-point-offset-checkpoint", "stratalog-verified"];

/// Writes the large log into `root` and ends as by a kill; returns the checkpoints that stand there then.
fn write_log(root: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let records = support::records(100, 16 * 1024);
    let batch_bytes = records.len() * 100;
    let store = LogStore::open(root).expect("open");
    let partition = support::create(&store, "topic");
    for size in [LOG_SIZE - TAIL_SIZE, TAIL_SIZE] {
        store.checkpoint().expect("written");
        (0..size / batch_bytes).for_each(|_| assert!(partition.append(&records).is_ok(), "appended"));
    }
    CHECKPOINTS.map(|name| (name, fs::read(root.join(name)).expect("a checkpoint"))).to_vec()
}

/// The time of `count` openings, each preceded by `prepare` and followed by `end`.
fn time_opening(root: &Path, count: u64, prepare: impl Fn(), end: impl Fn(LogStore)) -> Duration {
    let open = |_| {
        prepare();
        let start = Instant::now();
        let store = LogStore::open(root).expect("open");
        let taken = start.elapsed();
        end(store);
        taken
    };
    (0..count).map(open).sum()
}

fn large(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recover/256MiB");
    group.throughput(Throughput::Bytes(LOG_SIZE as u64));
    let folder = support::folder();
    let root = folder.path();
    let checkpoints = write_log(root);
    let restore = || checkpoints.iter().for_each(|(name, bytes)| fs::write(root.join(name), bytes).expect("written"));
    let remove = || CHECKPOINTS.iter().for_each(|name| fs::remove_file(root.join(name)).expect("removed"));
    let close = |store: LogStore| store.close().expect("closed");
    group.bench_function("killed", |bencher| {
        bencher.iter_custom(|count| time_opening(root, count, restore, drop));
    });
    group.bench_function("power_loss", |bencher| {
        bencher.iter_custom(|count| time_opening(root, count, remove, drop));
    });
    close(LogStore::open(root).expect("open"));
    group.bench_function("clean", |bencher| {
        bencher.iter_custom(|count| time_opening(root, count, || (), close));
    });
    group.finish();
}

fn many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recover/1000_partitions");
    group.throughput(Throughput::Elements(1000));
    let folder = support::folder();
    let store = LogStore::open(folder.path()).expect("open");
    let topic = store.create_topic("topic", 1000, TopicConfig::new()).expect("a new topic");
    for partition in topic.partitions() {
        partition.append(&[Record::new("one")]).expect("appended");
    }
    store.close().expect("closed");
    group.bench_function("clean", |bencher| {
        bencher.iter_custom(|count| time_opening(folder.path(), count, || (), |store| store.close().expect("closed")));
    });
    group.finish();
}

fn main() {
    let mut criterion = support::criterion();
    large(&mut criterion);
    many(&mut criterion);
    criterion.final_summary();
}
