//! What compacting a log costs.
//!
//! - `compact/<value>/<codec>`: a log of 128 MiB of values of `<value>` bytes with keys of 12 bytes, in batches of at most 16 KiB and
//!   segments of 32 MiB, nothing of it compacted before. Each key was written four times over the log, so that a quarter of the
//!   records stays. Time is for the whole compaction: map of keys, cleaning, syncing what is written, swapping. Throughput counts
//!   the bytes of the log.
//! - Behind each row stands a line of medians over some rounds: the log's bytes a second, keys a second, bytes of memory for each key
//!   that the map has room for (a map that may still grow is kept half empty), and the speed as a share of that at which the same log was
//!   read just before: every batch fetched, its checksum verified, its records decoded.
//!
//! The log has just been written, so it is in the page cache. Values are random: a codec finds little in them.
#![expect(clippy::expect_used, reason = "a bench whose set-up fails has nothing to measure")]

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use stratalog::maintenance::CompactionReport;
use stratalog::partition::Partition;
use stratalog::store::LogStore;
use stratalog::{CleanupPolicy, Compression, Durability, Record, TopicConfig};

/// Bytes of values in the log.
const LOG_SIZE: usize = 128 * 1024 * 1024;
/// How often each key is written.
const ROUNDS: usize = 4;
/// Bytes that values are cut from, one behind the other: more than any batch holds, so that nothing repeats in it.
const VALUES_SIZE: usize = 1024 * 1024;
/// Bytes of a batch at most, before it is compressed.
const BATCH_SIZE: usize = 16 * 1024;

/// A log that waits for its compaction.
struct Bed {
    store: LogStore,
    partition: Partition,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn new(value_size: usize, codec: Compression) -> Self {
        let folder = support::folder();
        let store = LogStore::open(folder.path()).expect("open");
        let config = TopicConfig::new()
            .cleanup_policy(CleanupPolicy::COMPACT)
            .segment_bytes(32 * 1024 * 1024)
            .file_delete_delay_ms(0);
        let partition = store.create_topic("table", 1, config).expect("a topic").partition(0).expect("a partition");
        let values = random_bytes(VALUES_SIZE + value_size);
        let keys = LOG_SIZE / value_size / ROUNDS;
        let per_batch = (BATCH_SIZE / (value_size + 25)).max(1);
        for _ in 0..ROUNDS {
            let names: Vec<String> = (0..keys).map(|key| format!("key-{key:08}")).collect();
            for (index, names) in names.chunks(per_batch).enumerate() {
                let value =
                    |at: usize| values.get(at % VALUES_SIZE..at % VALUES_SIZE + value_size).expect("long enough");
                let records: Vec<_> = names
                    .iter()
                    .enumerate()
                    .map(|(at, key)| Record::keyed(key, value((index + at) * value_size)))
                    .collect();
                partition.append_compressed(&records, codec, Durability::Written).expect("appended");
            }
        }
        partition.roll().expect("rolled");
        // What was written goes to the disk before it is measured against.
        store.flush().expect("flushed");
        Self { store, partition, _folder: folder }
    }

    /// Reads the whole log as a consumer does, then compacts it.
    fn run(self) -> Round {
        let size = self.partition.size();
        let start = Instant::now();
        support::read_all(&self.partition);
        let read = start.elapsed();
        let start = Instant::now();
        let report = self.partition.compact().expect("compacted");
        let compacted = start.elapsed();
        assert!(report.is_complete && report.records_after * ROUNDS as u64 == report.records_before, "{report:?}");
        self.store.close().expect("closed");
        Round { size, read, compacted, report }
    }
}

struct Round {
    size: u64,
    read: Duration,
    compacted: Duration,
    report: CompactionReport,
}

fn random_bytes(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(size).collect()
}

fn compact(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compact");
    group.throughput(Throughput::Bytes(LOG_SIZE as u64));
    let codecs = [
        ("none", Compression::None),
        #[cfg(feature = "lz4")]
        ("lz4", Compression::Lz4),
        #[cfg(feature = "zstd")]
        ("zstd", Compression::Zstd),
    ];
    for (value_name, value_size) in [("100B", 100), ("1KiB", 1024)] {
        for &(codec_name, codec) in &codecs {
            let rounds = std::cell::RefCell::new(Vec::new());
            group.bench_function(BenchmarkId::new(value_name, codec_name), |bencher| {
                bencher.iter_custom(|count| {
                    let run = |_| {
                        let round = Bed::new(value_size, codec).run();
                        let compacted = round.compacted;
                        rounds.borrow_mut().push(round);
                        compacted
                    };
                    (0..count).map(run).sum()
                });
            });
            print(&format!("compact/{value_name}/{codec_name}"), &rounds.into_inner());
        }
    }
    group.finish();
}

/// Prints the medians over all rounds; nothing where the row was filtered out.
fn print(name: &str, rounds: &[Round]) {
    let median = |of: &dyn Fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    if rounds.is_empty() {
        return;
    }
    let speed = median(&|round| round.size as f64 / round.compacted.as_secs_f64() / 1e9);
    let keys = median(&|round| round.report.keys as f64 / round.compacted.as_secs_f64() / 1e6);
    let memory = median(&|round| round.report.key_memory as f64 / round.report.key_room as f64);
    let share = median(&|round| round.read.as_secs_f64() / round.compacted.as_secs_f64());
    let count = rounds.len();
    println!(
        "{name}: {speed:.2} GB/s, {keys:.2} M keys/s, {memory:.1} bytes a key, {share:.2} of reading ({count} rounds)"
    );
}

fn main() {
    let mut criterion = support::criterion();
    compact(&mut criterion);
    criterion.final_summary();
}
