//! The threads at both ends of the queue.
//!
//! Each producer thread has keys of its own, so the order of a key's records is the order in which one thread made them. It
//! collects a batch for each partition and appends it when it is full. Each consumer thread follows one partition, asleep while
//! there is nothing new.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use stratalog::client::partitioner::partition_for_key;
use stratalog::{Offset, Partition, Record};

use crate::options::Options;
use crate::tally::Tally;
use crate::{Outcome, PARTITIONS};

const PRODUCERS: u64 = 4;
/// Keys of one producer.
const KEYS: usize = 250;
/// Bytes of values that make a batch.
const BATCH_SIZE: usize = 128 << 10;
/// How long a consumer sleeps at most before it asks whether production has ended.
const PATIENCE: Duration = Duration::from_millis(50);

/// Runs both ends of the queue at once. The first gets what it calls when it is done, the second what tells it so.
pub fn both<A: Send, B: Send>(
    produce: impl FnOnce(&dyn Fn()) -> Outcome<A> + Send,
    consume: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> Outcome<B> + Send,
) -> Outcome<(A, B)> {
    let ended = AtomicBool::new(false);
    thread::scope(|threads| {
        let consumer = threads.spawn(|| consume(&|| ended.load(Ordering::Acquire)));
        let produced = produce(&|| ended.store(true, Ordering::Release));
        // A producer that failed must not leave the consumers waiting.
        ended.store(true, Ordering::Release);
        let consumed = consumer.join().map_err(|_| "a consumer panicked")?;
        Ok((produced?, consumed?))
    })
}

/// Produces all records from several threads; what they made.
pub fn produce(partitions: &[Partition], options: &Options) -> Outcome<Tally> {
    in_threads(0..PRODUCERS, |number| Producer::new(number, partitions, options).run(options.records))
}

/// Follows every partition from its start until production has ended and all of it was seen.
pub fn consume(partitions: &[Partition], starts: &[Offset], has_ended: &(dyn Fn() -> bool + Sync)) -> Outcome<Tally> {
    in_threads(partitions.iter().zip(starts), |(partition, &start)| follow(partition, start, has_ended))
}

/// Reads every partition from its start to its end.
pub fn read_back(partitions: &[Partition], starts: &[Offset]) -> Outcome<Tally> {
    consume(partitions, starts, &|| true)
}

/// Does `work` for each item in a thread of its own, and sums up.
fn in_threads<I: Send>(items: impl Iterator<Item = I>, work: impl Fn(I) -> Outcome<Tally> + Sync) -> Outcome<Tally> {
    let work = &work;
    thread::scope(|threads| {
        let running: Vec<_> = items.map(|item| threads.spawn(move || work(item))).collect();
        running
            .into_iter()
            .try_fold(Tally::default(), |sum, thread| Ok(sum.merged(thread.join().map_err(|_| "a thread panicked")??)))
    })
}

fn follow(partition: &Partition, start: Offset, has_ended: &(dyn Fn() -> bool + Sync)) -> Outcome<Tally> {
    let (mut next, mut tally) = (start, Tally::default());
    loop {
        // Asked before looking, so that what came in between is still seen.
        let last_look = has_ended();
        if !partition.wait_for(next, if last_look { Duration::ZERO } else { PATIENCE }) && last_look {
            return Ok(tally);
        }
        for batch in &partition.read(next).fetch()? {
            let batch = batch?;
            for record in batch.records() {
                let record = record?;
                if record.offset() >= next {
                    tally.take(record.key().unwrap_or_default(), record.value().unwrap_or_default())?;
                }
            }
            next = batch.last_offset().next();
        }
    }
}

/// One producing thread.
struct Producer<'a> {
    number: u64,
    value_size: usize,
    keys: Vec<Key>,
    batches: Vec<Batch<'a>>,
    tally: Tally,
}

struct Key {
    name: String,
    /// Where Kafka's partitioner sends it.
    partition: usize,
    /// The sequence number of its next record.
    next: u64,
}

/// Records on their way to one partition: values of equal size in one piece of memory, and whose they are.
struct Batch<'a> {
    partition: &'a Partition,
    keys: Vec<usize>,
    values: Vec<u8>,
}

impl<'a> Producer<'a> {
    fn new(number: u64, partitions: &'a [Partition], options: &Options) -> Self {
        const COUNT: NonZeroU32 = NonZeroU32::new(PARTITIONS).unwrap();
        let key = |index| {
            let name = format!("key-{number}-{index}");
            let partition = partition_for_key(name.as_bytes(), COUNT) as usize;
            Key { name, partition, next: 0 }
        };
        let batch = |partition| Batch { partition, keys: Vec::new(), values: Vec::new() };
        Self {
            number,
            value_size: options.value_size,
            keys: (0..KEYS).map(key).collect(),
            batches: partitions.iter().map(batch).collect(),
            tally: Tally::default(),
        }
    }

    /// Makes this thread's share of the records.
    fn run(mut self, records: u64) -> Outcome<Tally> {
        let share = records / PRODUCERS + u64::from(self.number < records % PRODUCERS);
        for index in (0..KEYS).cycle().zip(0..share).map(|(key, _)| key) {
            self.make_record(index)?;
        }
        for batch in &mut self.batches {
            batch.append(&self.keys, self.value_size)?;
        }
        Ok(self.tally)
    }

    fn make_record(&mut self, index: usize) -> Outcome<()> {
        let Some(key) = self.keys.get_mut(index) else { return Err("no such key".into()) };
        let Some(batch) = self.batches.get_mut(key.partition) else { return Err("no such partition".into()) };
        let begin = batch.values.len();
        batch.values.extend_from_slice(&key.next.to_be_bytes());
        let filler = (key.next % 26) as u8 + b'a';
        batch.values.resize(begin + self.value_size, filler);
        batch.keys.push(index);
        key.next += 1;
        self.tally.take(key.name.as_bytes(), batch.values.get(begin..).unwrap_or_default())?;
        if batch.values.len() >= BATCH_SIZE { batch.append(&self.keys, self.value_size) } else { Ok(()) }
    }
}

impl Batch<'_> {
    /// Appends what was collected, as one batch.
    fn append(&mut self, keys: &[Key], value_size: usize) -> Outcome<()> {
        let keys = self.keys.iter().filter_map(|&index| keys.get(index));
        let values = self.values.chunks_exact(value_size);
        let records: Vec<Record<'_>> = keys.zip(values).map(|(key, value)| Record::keyed(&key.name, value)).collect();
        if !records.is_empty() {
            self.partition.append(&records)?;
        }
        self.keys.clear();
        self.values.clear();
        Ok(())
    }
}
