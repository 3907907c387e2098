//! An in-process queue: threads produce into a topic of 4 partitions while others consume it, each key in order; then the folder
//! is opened again, and everything must still be there.
//!
//! ```text
//! cargo run --release --example queue -- [--dir DIR] [--records N] [--size BYTES]
//! ```
//!
//! Without `--dir` the folder is a temporary one that is removed at the end. A folder that holds a queue already is added to.

mod options;
mod tally;
mod work;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use stratalog::{ErrorKind, LogStore, Partition, StoreError, TopicConfig};

use options::Options;
use tally::Tally;
use work::{consume, produce, read_back};

/// The topic that is the queue.
const TOPIC: &str = "queue";
/// Its partitions, each consumed by a thread of its own.
const PARTITIONS: u32 = 4;
/// What a batch takes beyond its values, at most.
const BATCH_ROOM: usize = 64 << 10;

/// What the example's functions return: errors may come from other threads.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(words) => {
            eprintln!("queue: {words}\nusage: queue [--dir DIR] [--records N] [--size BYTES]");
            return ExitCode::from(2);
        }
    };
    let done = run(&options);
    if options.is_temporary {
        // A folder that was never created is gone too.
        fs::remove_dir_all(&options.dir).ok();
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("queue: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let store = LogStore::open(&options.dir)?;
    let partitions = open_queue(&store, options)?;
    let starts: Vec<_> = partitions.iter().map(Partition::log_end_offset).collect();
    println!("queue in {}: {PARTITIONS} partitions", options.dir.display());

    let begun = Instant::now();
    let (produced, consumed) = work::both(
        |production_ended| {
            let produced = produce(&partitions, options)?;
            production_ended();
            report("produced", &produced, begun.elapsed());
            Ok(produced)
        },
        |has_ended| consume(&partitions, &starts, has_ended),
    )?;
    report("consumed", &consumed, begun.elapsed());
    consumed.must_equal(&produced)?;
    println!("         every key in the order it was produced in");
    drop(partitions);
    store.close()?;
    prove(&options.dir, &starts, &produced)
}

/// The queue's partitions; created unless they are there.
fn open_queue(store: &LogStore, options: &Options) -> Outcome<Vec<Partition>> {
    let largest = u32::try_from(options.value_size + BATCH_ROOM)?;
    let config = TopicConfig::new().max_message_bytes(largest.max(1 << 20));
    let topic = match store.topic(TOPIC) {
        Err(error) if error.kind() == ErrorKind::NotFound => store.create_topic(TOPIC, PARTITIONS, config)?,
        found => {
            let topic = found?;
            topic.alter_config(config)?;
            topic
        }
    };
    let partitions = (0..PARTITIONS).map(|partition| topic.partition(partition));
    Ok(partitions.collect::<Result<_, StoreError>>()?)
}

/// Opens the folder again and holds what it has against what was produced.
fn prove(dir: &Path, starts: &[stratalog::Offset], produced: &Tally) -> Outcome<()> {
    let begun = Instant::now();
    let store = LogStore::open(dir)?;
    let opened = begun.elapsed();
    let topic = store.topic(TOPIC)?;
    let begun = Instant::now();
    let found = read_back(&topic.partitions(), starts)?;
    report("reopened", &found, begun.elapsed());
    found.must_equal(produced)?;
    println!("         in {:.1} ms: every record is there, equal and in order", opened.as_secs_f64() * 1e3);
    store.close()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "rates are printed with three digits or so")]
fn report(what: &str, tally: &Tally, time: Duration) {
    let seconds = time.as_secs_f64().max(1e-9);
    let (records, mebibytes) = (tally.records as f64, tally.bytes as f64 / f64::from(1 << 20));
    let rates = format!("{:.0} records/s, {:.0} MiB/s", records / seconds, mebibytes / seconds);
    println!("{what} {} records, {mebibytes:.1} MiB in {seconds:.2} s: {rates}", tally.records);
}
