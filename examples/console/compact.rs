//! `compact`: keeps the newest record of each key, now, and says what that brought.
//!
//! The active segment is closed first, so that all that was written takes part, but for what `min.compaction.lag.ms` and open
//! transactions hold back.

use std::io::{self, Write};

use stratalog::partition::Partition;

use crate::arguments::{Arguments, once, required, unknown};
use crate::failure::Failure;
use crate::root::Root;

const COMMAND: &str = "compact";

/// Runs `compact`.
pub fn run(root: &Root, mut arguments: Arguments) -> Result<(), Failure> {
    let (mut topic, mut partition) = (None, None);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--topic" => once(&mut topic, &word, arguments.value(&word)?)?,
            "--partition" => once(&mut partition, &word, arguments.number(&word, "a partition's number")?)?,
            other => return Err(unknown(COMMAND, other)),
        }
    }
    let topic: String = required(topic, COMMAND, "--topic")?;
    root.write(|store| {
        let topic = store.topic(&topic)?;
        let partitions = match partition {
            Some(partition) => vec![topic.partition(partition)?],
            None => topic.partitions(),
        };
        let policy = topic.settings().cleanup_policy;
        if !policy.compacts() {
            let name = topic.name();
            return Err(Failure::input(format!("topic {name} is not compacted: its cleanup.policy is \"{policy}\"")));
        }
        partitions.iter().try_for_each(compact)
    })
}

fn compact(partition: &Partition) -> Result<(), Failure> {
    let size_before = partition.size();
    partition.roll()?;
    let report = partition.compact()?;
    let mut out = io::stdout().lock();
    write!(out, "{}: {size_before} bytes to {}", partition.id(), partition.size())?;
    write!(out, ", {} records to {}", report.records_before, report.records_after)?;
    write!(out, ", {} segments to {}", report.segments_before, report.segments_after)?;
    write!(out, ", {} keys in what was new", report.keys)?;
    if report.unkeyed_records > 0 {
        write!(out, ", {} records without a key dropped", report.unkeyed_records)?;
    }
    writeln!(out, "; compacted up to offset {} of {}", report.end_offset, partition.log_end_offset())?;
    Ok(out.flush()?)
}
