//! What finding one record among a million costs.
//!
//! The log holds 1,000,000 records of 100 bytes in batches of at most `<batch>` bytes, one millisecond apart, in the page cache.
//!
//! - `lookup/offset/<batch>`: one record by a random offset: finding its batch, verifying the checksum, decoding records
//!   up to the wanted one. The larger the batch, the more there is to verify and to decode.
//! - `lookup/time/<batch>`: the offset of the first record at or after a random timestamp, by `Partition::find_offset`,
//!   which decodes the batch that it is in.
//!
//! Time is for one lookup by one thread; throughput counts lookups.
#![expect(clippy::expect_used, reason = "a bench whose set-up fails has nothing to measure")]

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use stratalog::partition::{OffsetSpec, Partition};
use stratalog::store::LogStore;
use stratalog::{Offset, Timestamp};

/// Records in the log.
const RECORD_COUNT: i64 = 1_000_000;
/// The first record's timestamp, in milliseconds since 1970.
const FIRST_TIMESTAMP: i64 = 1_700_000_000_000;

fn time_of(index: i64) -> Timestamp {
    Timestamp::from_millis(FIRST_TIMESTAMP + index).expect("after 1970")
}

fn fill(partition: &Partition, batch_size: usize) {
    let batch = support::records(100, batch_size);
    let mut all = Vec::new();
    for index in 0..RECORD_COUNT {
        let record = batch.first().expect("at least one record").clone();
        all.push(record.timestamp(time_of(index)));
    }
    for records in all.chunks(batch.len()) {
        partition.append(records).expect("appended");
    }
}

/// The length of the value at `offset`.
fn value_size_at(partition: &Partition, offset: Offset) -> Option<usize> {
    let batches = partition.read(offset).max_bytes(1).fetch().expect("fetched");
    let batch = batches.iter().next()?.expect("an intact batch");
    let mut records = batch.records().map(|record| record.expect("a legal record"));
    records.find(|record| record.offset() == offset)?.value().map(<[u8]>::len)
}

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    for (batch_name, batch_size) in [("4KiB", 4 * 1024), ("16KiB", 16 * 1024), ("1MiB", 1024 * 1024)] {
        let folder = support::folder();
        let store = LogStore::open(folder.path()).expect("open");
        let partition = support::create(&store, "topic");
        fill(&partition, batch_size);
        let mut random = fastrand::Rng::with_seed(3);
        group.bench_function(BenchmarkId::new("offset", batch_name), |bencher| {
            bencher.iter(|| {
                let offset = Offset::new(random.i64(0..RECORD_COUNT)).expect("not negative");
                assert_eq!(value_size_at(&partition, offset), Some(100), "found");
            });
        });
        group.bench_function(BenchmarkId::new("time", batch_name), |bencher| {
            bencher.iter(|| {
                let index = random.i64(0..RECORD_COUNT);
                let found = partition.find_offset(OffsetSpec::Timestamp(time_of(index))).expect("looked up");
                assert_eq!(black_box(found).map(|found| found.offset.value()), Some(index), "found");
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = support::criterion();
    lookup(&mut criterion);
    criterion.final_summary();
}
