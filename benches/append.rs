//! What an append costs.
//!
//! - `append/<value>/<batch>`: one call of `Partition::append`, acknowledged when written, from one thread: records of
//!   `<value>` bytes as one batch of at most `<batch>` bytes (`one`: a single record). Time is for one call: validating,
//!   encoding, checksum, system call, indexes, rolling where it is due. Throughput counts records and bytes of values.
//! - `append_durable/100B/<n>_threads`: one record of 100 bytes a call, acknowledged when durable, from `<n>` threads at
//!   once. Time is the wall time of all threads over the number of acknowledgements; throughput is acknowledgements.
//! - `append_idempotent/<value>/<batch>`: the same call as the first, with a producer id and sequences. Behind the time
//!   stands a line with its ratio to the call without, each taken in turn.
//!
//! The system writes to the disk in the background meanwhile. A topic that has reached 512 MiB is deleted and another one
//! is begun, outside of what is measured.
#![expect(clippy::expect_used, reason = "a bench whose set-up fails has nothing to measure")]

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use stratalog::Record;
use stratalog::format::ProducerStamp;
use stratalog::partition::{Durability, Partition};
use stratalog::store::LogStore;
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};

/// Bytes of values that each side of a comparison appends in one of its turns.
const COMPARED_SIZE: u64 = 8 * 1024 * 1024;

/// Bytes of values after which a topic is replaced.
const TOPIC_SIZE_MAX: u64 = 512 * 1024 * 1024;

/// A store with one topic that never grows without bounds.
struct Bed {
    store: LogStore,
    partition: Partition,
    topics: u32,
    /// Appends that the topic has room for.
    room: u64,
    room_max: u64,
}

impl Bed {
    fn new(store: LogStore, append_size: u64) -> Self {
        let partition = support::create(&store, "topic-0");
        let room_max = (TOPIC_SIZE_MAX / append_size).max(1);
        Self { store, partition, topics: 1, room: room_max, room_max }
    }

    /// Replaces a full topic.
    fn make_room(&mut self) {
        if self.room > 0 {
            return;
        }
        self.store.delete_topic(&format!("topic-{}", self.topics - 1)).expect("deleted");
        self.store.tick(stratalog::Clock::now(&stratalog::SystemClock)).expect("removed");
        self.partition = support::create(&self.store, &format!("topic-{}", self.topics));
        self.topics += 1;
        self.room = self.room_max;
    }

    /// The time that `work` takes for `count` appends, in shares that the topic has room for.
    fn time(&mut self, count: u64, work: impl Fn(&Partition, u64)) -> Duration {
        let (mut left, mut taken) = (count, Duration::ZERO);
        while left > 0 {
            self.make_room();
            let share = left.min(self.room);
            let start = Instant::now();
            work(&self.partition, share);
            taken += start.elapsed();
            left -= share;
            self.room -= share;
        }
        taken
    }
}

fn written(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (value_name, value_size) in [("100B", 100), ("1KiB", 1024)] {
        for (batch_name, batch_size) in [("one", 0), ("16KiB", 16 * 1024), ("1MiB", 1024 * 1024)] {
            let records = support::records(value_size, batch_size);
            let bytes = (records.len() * value_size) as u64;
            group.throughput(Throughput::ElementsAndBytes { elements: records.len() as u64, bytes });
            group.bench_function(BenchmarkId::new(value_name, batch_name), |bencher| {
                let folder = support::folder();
                let mut bed = Bed::new(LogStore::open(folder.path()).expect("open"), bytes);
                bencher.iter_custom(|count| bed.time(count, |partition, share| append_all(partition, &records, share)));
            });
        }
    }
    group.finish();
}

fn append_all(partition: &Partition, records: &[Record<'_>], count: u64) {
    for _ in 0..count {
        partition.append(records).expect("appended");
    }
}

fn durable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_durable/100B");
    group.throughput(Throughput::Elements(1));
    let records = support::records(100, 0);
    for threads in [1, 8] {
        group.bench_function(format!("{threads}_threads"), |bencher| {
            let folder = support::folder();
            let mut bed = Bed::new(LogStore::open(folder.path()).expect("open"), 100);
            bencher.iter_custom(|count| {
                bed.time(count, |partition, share| append_from_threads(partition, &records, threads, share))
            });
        });
    }
    group.finish();
}

fn append_from_threads(partition: &Partition, records: &[Record<'_>], threads: u64, count: u64) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let share = count / threads + u64::from(thread < count % threads);
            scope.spawn(move || {
                for _ in 0..share {
                    partition.append_with(records, Durability::Durable).expect("durable");
                }
            });
        }
    });
}

/// What deduplication costs: the rows with it, and for each a comparison with the same appends without.
fn idempotent(criterion: &mut Criterion) {
    for (value_name, value_size) in [("100B", 100), ("1KiB", 1024)] {
        for (batch_name, batch_size) in [("one", 0), ("16KiB", 16 * 1024), ("1MiB", 1024 * 1024)] {
            let records = support::records(value_size, batch_size);
            let bytes = (records.len() * value_size) as u64;
            let name = format!("append_idempotent/{value_name}/{batch_name}");
            let folder = support::folder();
            let store = LogStore::open(folder.path()).expect("open");
            let mut bed = Bed::new(store, bytes);
            let producer = Producer::default();
            criterion.bench_function(&name, |bencher| {
                bencher.iter_custom(|count| {
                    bed.time(count, |partition, share| producer.append(partition, &records, share))
                });
            });
            let count = (COMPARED_SIZE / bytes).max(1);
            let bed = std::cell::RefCell::new(bed);
            let plain = || bed.borrow_mut().time(count, |partition, share| append_all(partition, &records, share));
            let stamped =
                || bed.borrow_mut().time(count, |partition, share| producer.append(partition, &records, share));
            support::compare(&name, plain, stamped);
        }
    }
}

/// A producer that never repeats itself.
#[derive(Default)]
struct Producer(std::cell::Cell<u32>);

impl Producer {
    fn append(&self, partition: &Partition, records: &[Record<'_>], count: u64) {
        for _ in 0..count {
            let base_sequence = Sequence::ZERO.wrapping_add(self.0.get());
            let (id, epoch) = (ProducerId::ZERO, ProducerEpoch::ZERO);
            let stamp = ProducerStamp { id, epoch, base_sequence, transactional: false };
            partition.append_from(stamp, records, Durability::Written).expect("appended");
            self.0.set(self.0.get().wrapping_add(u32::try_from(records.len()).expect("a small batch")));
        }
    }
}

fn main() {
    let mut criterion = support::criterion();
    written(&mut criterion);
    idempotent(&mut criterion);
    durable(&mut criterion);
    criterion.final_summary();
}
