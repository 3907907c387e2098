//! The files that are read as a whole: snapshots, checkpoints, and the small ones of one line or two.
//!
//! None of them is large in a working store, so one that is larger than [`SIZE_MAX`] is damage and isn't loaded.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use stratalog::format::{
    CleanShutdown, FormatError, LeaderEpochCheckpoint, MetaProperties, OffsetCheckpoint, PartitionMetadata,
    ProducerSnapshot,
};
use stratalog::types::Position;

use crate::line::Line;
use crate::report::Report;

/// Bytes of the largest file that is loaded: more than a million producers.
const SIZE_MAX: u64 = 64 << 20;

/// Prints a `.snapshot`.
pub fn dump_snapshot(report: &mut Report<'_>, path: &Path) -> io::Result<()> {
    parsed(report, path, ProducerSnapshot::parse, |report, snapshot| {
        snapshot.entries.iter().try_for_each(|entry| report.line(&Line::Producer(*entry)))
    })
}

/// Prints a `leader-epoch-checkpoint`.
pub fn dump_leader_epochs(report: &mut Report<'_>, path: &Path) -> io::Result<()> {
    parsed(report, path, LeaderEpochCheckpoint::parse, |report, checkpoint| {
        let mut entries = checkpoint.entries.iter();
        entries.try_for_each(|&(epoch, start_offset)| report.line(&Line::LeaderEpoch { epoch, start_offset }))
    })
}

/// Prints one of the checkpoints of a store.
pub fn dump_checkpoint(report: &mut Report<'_>, path: &Path) -> io::Result<()> {
    parsed(report, path, OffsetCheckpoint::parse, |report, checkpoint| {
        checkpoint.entries.iter().try_for_each(|(topic, partition, offset)| {
            report.line(&Line::Checkpoint { topic, partition: *partition, offset: *offset })
        })
    })
}

/// Prints a `partition.metadata`.
pub fn dump_metadata(report: &mut Report<'_>, path: &Path) -> io::Result<()> {
    parsed(report, path, PartitionMetadata::parse, |report, metadata| {
        report.line(&Line::TopicId(&metadata.topic_id.to_string()))
    })
}

/// Prints a `meta.properties`.
pub fn dump_properties(report: &mut Report<'_>, path: &Path) -> io::Result<()> {
    parsed(report, path, MetaProperties::parse, |report, properties| {
        properties.entries().try_for_each(|(key, value)| report.line(&Line::Meta { key, value }))
    })
}

/// Prints a `.kafka_cleanshutdown`.
pub fn dump_clean_shutdown(report: &mut Report<'_>, path: &Path) -> io::Result<()> {
    let parse = |bytes: &[u8]| Ok(CleanShutdown::parse(bytes));
    parsed(report, path, parse, |report, mark| report.line(&Line::CleanShutdown(mark.broker_epoch)))
}

/// Prints with `print` what `parse` makes of the whole file, or what is wrong with it.
fn parsed<T>(
    report: &mut Report<'_>,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    print: impl FnOnce(&mut Report<'_>, &T) -> io::Result<()>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let size = File::open(path)?.take(SIZE_MAX + 1).read_to_end(&mut bytes)? as u64;
    if size > SIZE_MAX {
        let what = "file";
        return report.damage(0, FormatError::TooLarge { what, position: Position::ZERO, limit: SIZE_MAX, got: size });
    }
    match parse(&bytes) {
        Ok(content) => print(report, &content),
        Err(error) => {
            let position = place(&error, &bytes);
            report.damage_words(position, &format!("{}: {error}", error.code()))
        }
    }
}

/// Where in the file an error stands: at its position, or where its line begins.
fn place(error: &FormatError, bytes: &[u8]) -> u64 {
    match error {
        FormatError::Text { line, .. } => {
            let before = bytes.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1));
            before.map(|line| line.len() as u64).sum()
        }
        _ => error.position().map_or(0, Position::value),
    }
}
