//! What reading a log from its first record to its last costs.
//!
//! - `read/<value>/<batch>`: the whole of a 128 MiB log of records of `<value>` bytes in batches of at most `<batch>`
//!   bytes, by one thread: fetches of 1 MiB, every batch's checksum verified, every record decoded and its value's length
//!   summed up. Time is for the whole log; throughput counts records and bytes of values.
//!
//! The log has just been written, so it is in the page cache: this measures the library, not the disk.
#![expect(clippy::expect_used, reason = "a bench whose set-up fails has nothing to measure")]

mod support;

use criterion::{BenchmarkId, Criterion, Throughput};
use stratalog::store::LogStore;

/// Bytes of values in the log.
const LOG_SIZE: usize = 128 * 1024 * 1024;

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for (value_name, value_size) in [("100B", 100), ("1KiB", 1024)] {
        for (batch_name, batch_size) in [("16KiB", 16 * 1024), ("1MiB", 1024 * 1024)] {
            let records = support::records(value_size, batch_size);
            let batches = LOG_SIZE / (records.len() * value_size);
            let elements = (batches * records.len()) as u64;
            let bytes = elements * value_size as u64;
            group.throughput(Throughput::ElementsAndBytes { elements, bytes });
            group.bench_function(BenchmarkId::new(value_name, batch_name), |bencher| {
                let folder = support::folder();
                let store = LogStore::open(folder.path()).expect("open");
                let partition = support::create(&store, "topic");
                (0..batches).for_each(|_| assert!(partition.append(&records).is_ok(), "appended"));
                bencher.iter(|| assert_eq!(support::read_all(&partition), (elements, bytes), "everything was read"));
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = support::criterion();
    read(&mut criterion);
    criterion.final_summary();
}
