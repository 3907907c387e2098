//! `consume`: prints the records of a topic, and waits for more.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, Instant};

use stratalog::format::{RecordBatch, RecordRef};
use stratalog::partition::{Batches, Isolation, LogError, OffsetSpec, Partition};
use stratalog::types::{Offset, Timestamp};

use crate::arguments::{Arguments, once, required, unknown};
use crate::failure::Failure;
use crate::json::Object;
use crate::root::Root;

/// How long one of several partitions is waited for before the others are looked at.
const TURN: Duration = Duration::from_millis(10);
/// How long a single partition is waited for at a time, when there is no timeout.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs `consume`.
pub fn run(root: &Root, arguments: Arguments) -> Result<(), Failure> {
    let options = parse(arguments)?;
    root.read(|store| {
        let topic = store.topic(&options.topic)?;
        let partitions = match options.partition {
            Some(partition) => vec![topic.partition(partition)?],
            None => topic.partitions(),
        };
        let start = options.start.unwrap_or(Start::Latest);
        let cursors = partitions.into_iter().map(|partition| Cursor::new(partition, start, options.isolation));
        let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
        let left = options.max_count.unwrap_or(u64::MAX);
        let printer = Printer { out, json: options.json, isolation: options.isolation, left };
        Consumer { cursors: cursors.collect::<Result<_, _>>()?, printer }.run(options.timeout)
    })
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Earliest,
    Latest,
    At(Offset),
    From(Timestamp),
}

/// What the options say.
struct Options {
    topic: String,
    partition: Option<u32>,
    start: Option<Start>,
    max_count: Option<u64>,
    timeout: Option<Duration>,
    isolation: Isolation,
    json: bool,
}

fn parse(mut arguments: Arguments) -> Result<Options, Failure> {
    const COMMAND: &str = "consume";
    let (mut topic, mut partition, mut max_count, mut timeout) = (None, None, None, None);
    let (mut start, mut isolation, mut json) = (None, None, false);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--topic" => once(&mut topic, &word, arguments.value(&word)?)?,
            "--partition" => once(&mut partition, &word, arguments.number(&word, "a partition's number")?)?,
            "--offset" => set_start(&mut start, offset(&arguments.value(&word)?)?)?,
            "--from-beginning" => set_start(&mut start, Start::Earliest)?,
            "--from-timestamp" => {
                let expected = "milliseconds since 1970";
                let millis = Timestamp::from_millis(arguments.number(&word, expected)?);
                let time = millis.ok_or_else(|| Failure::input(format!("{word}: expected {expected}, got less")))?;
                set_start(&mut start, Start::From(time))?;
            }
            "--max-messages" => once(&mut max_count, &word, arguments.number(&word, "a number of records")?)?,
            "--timeout-ms" => once(&mut timeout, &word, arguments.number(&word, "a number of milliseconds")?)?,
            "--isolation" => once(&mut isolation, &word, level(&arguments.value(&word)?)?)?,
            "--json" => json = true,
            other => return Err(unknown(COMMAND, other)),
        }
    }
    let topic = required(topic, COMMAND, "--topic")?;
    let (timeout, isolation) = (timeout.map(Duration::from_millis), isolation.unwrap_or_default());
    Ok(Options { topic, partition, start, max_count, timeout, isolation, json })
}

fn offset(word: &str) -> Result<Start, Failure> {
    match word {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        number => {
            number.parse().ok().and_then(Offset::new).map(Start::At).ok_or_else(|| {
                Failure::input(format!("--offset: expected earliest, latest or an offset, got {number:?}"))
            })
        }
    }
}

fn set_start(start: &mut Option<Start>, wanted: Start) -> Result<(), Failure> {
    match start.replace(wanted) {
        Some(other) if other != wanted => Err(Failure::input(
            "--offset, --from-timestamp and --from-beginning name different places to start at: give one",
        )),
        _ => Ok(()),
    }
}

fn level(word: &str) -> Result<Isolation, Failure> {
    match word {
        "read_uncommitted" => Ok(Isolation::ReadUncommitted),
        "read_committed" => Ok(Isolation::ReadCommitted),
        other => {
            Err(Failure::input(format!("--isolation: expected read_uncommitted or read_committed, got {other:?}")))
        }
    }
}

/// A partition and the offset that is printed next.
struct Cursor {
    partition: Partition,
    next: Offset,
    isolation: Isolation,
}

impl Cursor {
    fn new(partition: Partition, start: Start, isolation: Isolation) -> Result<Self, Failure> {
        let spec = match start {
            Start::Earliest => OffsetSpec::Earliest,
            Start::Latest => OffsetSpec::Latest,
            Start::From(time) => OffsetSpec::Timestamp(time),
            Start::At(next) => {
                // A read there says whether the offset is in the log.
                partition.read(next).max_bytes(0).fetch()?;
                return Ok(Self { partition, next, isolation });
            }
        };
        let found = partition.find_offset(spec)?;
        let next = match (found.map(|found| found.offset), isolation) {
            (Some(offset), _) if start != Start::Latest => offset,
            (_, Isolation::ReadCommitted) => partition.last_stable_offset(),
            _ => partition.high_watermark(),
        };
        Ok(Self { partition, next, isolation })
    }

    /// Waits until there may be something to read, at most for `patience`.
    fn wait(&self, patience: Duration) {
        _ = match self.isolation {
            Isolation::ReadCommitted => self.partition.wait_for_committed(self.next, patience),
            _ => self.partition.wait_for(self.next, patience),
        };
    }
}

/// The partitions, read in turns.
struct Consumer {
    cursors: Vec<Cursor>,
    printer: Printer,
}

impl Consumer {
    fn run(&mut self, timeout: Option<Duration>) -> Result<(), Failure> {
        let mut last_seen = Instant::now();
        while self.printer.left > 0 {
            if self.poll()? {
                last_seen = Instant::now();
                continue;
            }
            self.printer.out.flush()?;
            let patience = timeout.map_or(PATIENCE, |timeout| timeout.saturating_sub(last_seen.elapsed()));
            if patience.is_zero() {
                return Ok(());
            }
            self.wait(patience);
        }
        Ok(self.printer.out.flush()?)
    }

    /// Reads once from every partition; whether there was anything.
    fn poll(&mut self) -> Result<bool, Failure> {
        let mut found = false;
        for cursor in &mut self.cursors {
            found |= self.printer.poll(cursor)?;
        }
        Ok(found)
    }

    /// Waits until something may have come, at most for `patience`.
    fn wait(&self, patience: Duration) {
        match self.cursors.as_slice() {
            [cursor] => cursor.wait(patience),
            [cursor, ..] => cursor.wait(patience.min(TURN)),
            [] => std::thread::sleep(patience),
        }
    }
}

/// Writes records to standard output, until there were enough.
struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    json: bool,
    isolation: Isolation,
    /// Records that may still be printed.
    left: u64,
}

impl Printer {
    /// Reads once from a partition and prints what is there; whether there was anything.
    fn poll(&mut self, cursor: &mut Cursor) -> Result<bool, Failure> {
        let batches = match cursor.partition.read(cursor.next).isolation(self.isolation).fetch() {
            Err(LogError::OffsetOutOfRange { start, .. }) if start > cursor.next => {
                let (partition, next) = (cursor.partition.id(), cursor.next);
                eprintln!("console: {partition}: offsets from {next} to below {start} were deleted meanwhile");
                cursor.next = start;
                return Ok(true);
            }
            fetched => fetched?,
        };
        self.print_batches(cursor, &batches)?;
        // Behind control batches and aborted ones too, which nobody is shown.
        cursor.next = cursor.next.max(batches.next_offset());
        Ok(cursor.next > batches.requested())
    }

    /// Prints what a consumer gets of a read.
    fn print_batches(&mut self, cursor: &mut Cursor, batches: &Batches) -> Result<(), Failure> {
        for batch in batches.delivered() {
            let printed = batch.map_err(Failure::from).and_then(|batch| {
                self.print_batch(cursor, &batch)?;
                Ok(batch.last_offset().next())
            });
            let (partition, next) = (cursor.partition.id(), cursor.next);
            let context = |words| format!("{partition}, batch at or after offset {next}: {words}");
            cursor.next = printed.map_err(|failure| failure.with_context(context))?;
        }
        Ok(())
    }

    /// Prints the records of a batch that were asked for.
    fn print_batch(&mut self, cursor: &Cursor, batch: &RecordBatch) -> Result<(), Failure> {
        for record in batch.records() {
            let record = record?;
            if record.offset() >= cursor.next && self.left > 0 {
                self.left -= 1;
                print(&mut self.out, cursor.partition.id().partition.value(), &record, self.json)?;
            }
        }
        Ok(())
    }
}

fn print(out: &mut impl Write, partition: i32, record: &RecordRef<'_>, json: bool) -> io::Result<()> {
    if json {
        let line = Object::new()
            .number("partition", partition)
            .number("offset", record.offset().value())
            .number("timestamp", Timestamp::to_wire(record.timestamp()))
            .key_value_headers(record.key(), record.value(), record.headers().map(|h| (h.name, h.value)));
        return writeln!(out, "{}", line.finish());
    }
    out.write_all(record.value().unwrap_or(b"null"))?;
    out.write_all(b"\n")
}
