//! `produce`: lines of standard input become records.
//!
//! With `--batch N` each partition's records are appended N at a time. Without it they are appended when the input pauses,
//! so that what somebody types is readable at once, and at the latest a thousand at a time.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use stratalog::client::partitioner::choose_partition;
use stratalog::format::{Compression, Record};
use stratalog::partition::{Durability, Partition};
use stratalog::store::Topic;

use crate::arguments::{Arguments, once, required, unknown};
use crate::failure::Failure;
use crate::input::{Input, InputError, InputRecord, Layout};
use crate::root::Root;

/// Records of a batch, unless the user says otherwise.
const BATCH_COUNT: usize = 1000;
/// Bytes that are held back for one partition, at most, whatever the topic allows.
const HELD_SIZE_MAX: usize = 8 << 20;
/// Bytes of a batch before its records.
const HEADER_SIZE: usize = 61;

/// Runs `produce`.
pub fn run(root: &Root, arguments: Arguments) -> Result<(), Failure> {
    let options = parse(arguments)?;
    root.write(|store| {
        let topic = store.topic(&options.topic)?;
        let mut producer = Producer::new(topic, &options)?;
        let mut input = Input::new(options.layout);
        let done = producer.run(&mut input, options.batch_count.is_none());
        producer.report();
        done
    })
}

/// What the options say.
struct Options {
    topic: String,
    partition: Option<u32>,
    layout: Layout,
    durability: Durability,
    batch_count: Option<usize>,
    codec: Compression,
}

fn parse(mut arguments: Arguments) -> Result<Options, Failure> {
    const COMMAND: &str = "produce";
    let (mut topic, mut partition, mut separator, mut batch_count, mut codec) = (None, None, None, None, None);
    let (mut durability, mut json) = (Durability::Written, false);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--topic" => once(&mut topic, &word, arguments.value(&word)?)?,
            "--partition" => once(&mut partition, &word, arguments.number(&word, "a partition's number")?)?,
            "--key-separator" => once(&mut separator, &word, arguments.value(&word)?)?,
            "--batch" => once(&mut batch_count, &word, arguments.number(&word, "a number of records")?)?,
            "--codec" => once(&mut codec, &word, codec_of(&arguments.value(&word)?)?)?,
            "--durable" => durability = Durability::Durable,
            "--json" => json = true,
            other => return Err(unknown(COMMAND, other)),
        }
    }
    if batch_count == Some(0) {
        return Err(Failure::input("--batch: expected at least 1 record"));
    }
    let layout = match (separator, json) {
        (Some(_), true) => return Err(Failure::input("--json and --key-separator exclude each other")),
        (Some(separator), _) if separator.is_empty() => {
            return Err(Failure::input("--key-separator must not be empty"));
        }
        (Some(separator), _) => Layout::KeysAndValues(separator),
        (None, true) => Layout::Json,
        (None, false) => Layout::Values,
    };
    let topic = required(topic, COMMAND, "--topic")?;
    Ok(Options { topic, partition, layout, durability, batch_count, codec: codec.unwrap_or_default() })
}

fn codec_of(name: &str) -> Result<Compression, Failure> {
    let expected = "expected none, gzip, snappy, lz4 or zstd";
    Compression::from_name(name).ok_or_else(|| Failure::input(format!("--codec: {expected}, got {name:?}")))
}

/// Records of one partition that are not appended yet.
struct Held {
    partition: Partition,
    records: Vec<InputRecord>,
    size: usize,
    written: u64,
}

/// Chooses partitions, makes batches, and counts.
struct Producer {
    topic: Topic,
    partition: Option<u32>,
    partition_count: NonZeroU32,
    durability: Durability,
    codec: Compression,
    batch_count: usize,
    batch_size: usize,
    /// Counts the records without a key.
    turn: u32,
    held: BTreeMap<u32, Held>,
}

impl Producer {
    fn new(topic: Topic, options: &Options) -> Result<Self, Failure> {
        let last = topic.partitions().last().map(|last| last.id().partition.value().unsigned_abs());
        let partition_count = last.and_then(|last| NonZeroU32::new(last.saturating_add(1)));
        let Some(partition_count) = partition_count else {
            return Err(Failure::input(format!("topic {} has no partitions", topic.name())));
        };
        if let Some(partition) = options.partition {
            topic.partition(partition)?;
        }
        let settings = topic.settings();
        let size_max = settings.max_message_bytes.min(settings.segment_bytes);
        Ok(Self {
            topic,
            partition: options.partition,
            partition_count,
            durability: options.durability,
            codec: options.codec,
            batch_count: options.batch_count.unwrap_or(BATCH_COUNT),
            batch_size: usize::try_from(size_max).unwrap_or(usize::MAX).min(HELD_SIZE_MAX),
            turn: 0,
            held: BTreeMap::new(),
        })
    }

    /// Appends all of the input; what was read before a bad line is appended too.
    fn run(&mut self, input: &mut Input, flush_at_pauses: bool) -> Result<(), Failure> {
        loop {
            match input.next() {
                Ok(Some(record)) => self.take(record)?,
                Ok(None) => return self.flush(),
                Err(error) => {
                    self.flush()?;
                    return Err(match error {
                        InputError::Io(error) => error.into(),
                        InputError::Line(words) => self.at_line(input.line, Failure::Input(words)),
                    });
                }
            }
            if flush_at_pauses && input.is_drained() {
                self.flush()?;
            }
        }
    }

    /// Puts a record to those of its partition, and appends them when a batch is full.
    fn take(&mut self, record: InputRecord) -> Result<(), Failure> {
        let chosen = match record.partition.or(self.partition) {
            Some(partition) => partition,
            None => choose_partition(record.key.as_deref(), self.next_turn(&record), self.partition_count),
        };
        if !self.held.contains_key(&chosen) {
            match self.topic.partition(chosen) {
                Ok(partition) => {
                    self.held.insert(chosen, Held { partition, records: Vec::new(), size: HEADER_SIZE, written: 0 });
                }
                Err(error) => {
                    self.flush()?;
                    return Err(self.at_line(record.line, error.into()));
                }
            }
        }
        let size = record.size_max();
        let is_full = |held: &Held| held.size + size > self.batch_size && !held.records.is_empty();
        if self.held.get(&chosen).is_some_and(is_full) {
            self.append(chosen)?;
        }
        let Some(held) = self.held.get_mut(&chosen) else { return Ok(()) };
        held.records.push(record);
        held.size += size;
        if held.records.len() >= self.batch_count { self.append(chosen) } else { Ok(()) }
    }

    const fn next_turn(&mut self, record: &InputRecord) -> u32 {
        let turn = self.turn;
        if record.key.is_none() {
            self.turn = turn.wrapping_add(1);
        }
        turn
    }

    /// Appends everything that is held back.
    fn flush(&mut self) -> Result<(), Failure> {
        let chosen: Vec<u32> = self.held.keys().copied().collect();
        chosen.into_iter().try_for_each(|partition| self.append(partition))
    }

    /// Appends the records of one partition as a batch. When it is refused they are tried one by one, which finds the bad line.
    fn append(&mut self, chosen: u32) -> Result<(), Failure> {
        let (durability, codec) = (self.durability, self.codec);
        let Some(held) = self.held.get_mut(&chosen) else { return Ok(()) };
        let inputs = std::mem::take(&mut held.records);
        held.size = HEADER_SIZE;
        if inputs.is_empty() {
            return Ok(());
        }
        let failed = match append_batch(held, &inputs, codec, durability) {
            Ok(()) => None,
            Err(failure) if failure.is_input() => inputs.chunks(1).find_map(|input| {
                let failure = append_batch(held, input, codec, durability).err()?;
                Some((input.first().map_or(0, |input| input.line), failure))
            }),
            Err(failure) => Some((inputs.first().map_or(0, |input| input.line), failure)),
        };
        match failed {
            Some((line, failure)) => Err(self.at_line(line, failure)),
            None => Ok(()),
        }
    }

    fn at_line(&self, line: u64, failure: Failure) -> Failure {
        let written: u64 = self.held.values().map(|held| held.written).sum();
        failure.with_context(|words| format!("standard input, line {line}: {words} ({written} records were written)"))
    }

    /// Says on standard error how many records went where.
    fn report(&self) {
        let total: u64 = self.held.values().map(|held| held.written).sum();
        eprintln!("console: {total} records written to topic {}", self.topic.name());
        for (partition, held) in self.held.iter().filter(|(_, held)| held.written > 0) {
            let end = held.partition.log_end_offset();
            eprintln!("console:   partition {partition}: {} records, log end offset {end}", held.written);
        }
    }
}

fn append_batch(
    held: &mut Held,
    inputs: &[InputRecord],
    codec: Compression,
    durability: Durability,
) -> Result<(), Failure> {
    let records: Vec<Record<'_>> = inputs.iter().map(InputRecord::record).collect();
    held.partition.append_compressed(&records, codec, durability)?;
    held.written += inputs.len() as u64;
    Ok(())
}
