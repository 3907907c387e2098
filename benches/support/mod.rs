//! What every bench needs: a folder on the disk that holds the build, one topic in it, and records of a given size.
//!
//! Guarantees that nothing is left behind: the folder goes when its value is dropped. Records carry a value and nothing
//! else, so the bytes of the values are the payload that throughput is given in.
#![allow(dead_code, reason = "each bench uses some of this")]

use std::time::Duration;

use criterion::Criterion;
use stratalog::partition::Partition;
use stratalog::store::LogStore;
use stratalog::{Record, TopicConfig};
use tempfile::TempDir;

/// Bytes of the largest value.
const VALUE_SIZE_MAX: usize = 1024;
/// Bytes of a batch's header.
const BATCH_HEADER_SIZE: usize = 61;
/// Bytes that a record takes beside its value, at most, in a batch of a million records over a million milliseconds.
const RECORD_OVERHEAD: usize = 13;

/// The bytes that values are cut from; nothing compresses them, so they need not be random.
static VALUE: [u8; VALUE_SIZE_MAX] = [b'v'; VALUE_SIZE_MAX];

/// Criterion with few samples: a row takes about four seconds.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args()
}

/// An empty folder beside the build, which is on a disk where `/tmp` may not be.
pub fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a new folder")
}

/// The one partition of the new topic `name`, with Kafka's defaults but for deleted files, which go at once.
pub fn create(store: &LogStore, name: &str) -> Partition {
    let config = TopicConfig::new().file_delete_delay_ms(0);
    let topic = store.create_topic(name, 1, config).expect("a new topic");
    topic.partition(0).expect("a partition")
}

/// As many records with values of `value_size` bytes as fit into a batch of `batch_size`, at least one.
pub fn records(value_size: usize, batch_size: usize) -> Vec<Record<'static>> {
    let count = batch_size.saturating_sub(BATCH_HEADER_SIZE) / (value_size + RECORD_OVERHEAD);
    let value = VALUE.get(..value_size).expect("no value is larger");
    vec![Record::new(value); count.max(1)]
}

/// Turns that each side of a comparison takes.
const TURNS: usize = 21;

/// Takes turns, so that whatever else the machine does hits both sides, and prints the median of the second's time over the first's.
pub fn compare(name: &str, first: impl Fn() -> Duration, second: impl Fn() -> Duration) {
    let mut ratios: Vec<f64> =
        (0..TURNS).map(|_| (first(), second())).map(|(a, b)| b.as_secs_f64() / a.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let quartile = |quarter: usize| ratios.get(TURNS * quarter / 4).copied().unwrap_or(f64::NAN);
    println!(
        "{name}: time ratio {:.3} (quartiles {:.3} to {:.3}, {TURNS} turns)",
        quartile(2),
        quartile(1),
        quartile(3)
    );
}

/// Reads a log from its start as a consumer does; returns the number of records and the bytes of their values.
pub fn read_all(partition: &Partition) -> (u64, u64) {
    let (mut count, mut bytes) = (0, 0);
    let mut next = partition.log_start_offset();
    loop {
        let batches = partition.read(next).fetch().expect("fetched");
        // The last batch of a fetch may be cut short; the next fetch begins with it.
        let before = next;
        for batch in &batches {
            let batch = batch.expect("an intact batch");
            for record in batch.records() {
                let record = record.expect("a legal record");
                count += 1;
                bytes += record.value().map_or(0, <[u8]>::len) as u64;
            }
            next = batch.last_offset().next();
        }
        if next == before {
            return (count, bytes);
        }
    }
}
