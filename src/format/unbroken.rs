//! `stratalog-unbroken`: from where on the log of each partition was appended to without a gap. A file of our own, by which recovery
//! tells a hole that a power loss left from a gap that the log has always had.
//!
//! It is a sealed text file (see `sealed_text.rs`) of kind `stratalog-unbroken`, version 1:
//!
//! | line | words | meaning |
//! |---|---|---|
//! | partition | `partition <topic> <partition> <from> <log start> <leader epoch>` | no offset at or above `from` is missing, in a log that starts at `log start` and is written in that epoch |
//!
//! Deleting the file loses no record: recovery then takes every gap for the log's own.

use std::fmt::Write as _;

use super::error::FormatError;
use super::sealed_text::{Line, seal, unseal};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::types::{LeaderEpoch, Offset};

/// The first word of the file.
const KIND: &str = "stratalog-unbroken";

/// The version this build writes and knows.
const VERSION: u32 = 1;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnbrokenEntry {
    pub partition: TopicPartition,
    pub from: Offset,
    pub log_start: Offset,
    pub leader_epoch: LeaderEpoch,
}

/// The bytes of the file.
pub(crate) fn encode_unbroken(entries: &[UnbrokenEntry]) -> Vec<u8> {
    let mut body = String::new();
    for UnbrokenEntry { partition, from, log_start, leader_epoch } in entries {
        let (topic, number) = (&partition.topic, partition.partition);
        // Writing to a String can't fail.
        let _ = writeln!(body, "partition {topic} {number} {from} {log_start} {leader_epoch}");
    }
    seal(KIND, VERSION, &body)
}

/// The entries of a file.
///
/// # Errors
/// A [`FormatError`] for a file that was changed since it was written, or that a later version wrote.
pub(crate) fn parse_unbroken(bytes: &[u8]) -> Result<Vec<UnbrokenEntry>, FormatError> {
    unseal(KIND, VERSION, bytes)?.map(|line| parse_entry(&line)).collect()
}

fn parse_entry(line: &Line<'_>) -> Result<UnbrokenEntry, FormatError> {
    let expected = "a partition with topic, number, two offsets and a leader epoch";
    let [word, topic, number, from, log_start, leader_epoch] = line.words(expected)?;
    let offset = |text: &str| Offset::new(text.parse().ok()?);
    let entry = || {
        let number = PartitionId::new(number.parse().ok()?)?;
        Some(UnbrokenEntry {
            partition: TopicPartition::new(TopicName::parse(topic).ok()?, number),
            from: offset(from)?,
            log_start: offset(log_start)?,
            leader_epoch: LeaderEpoch::new(leader_epoch.parse().ok()?)?,
        })
    };
    entry().filter(|_| word == "partition").ok_or_else(|| line.refused(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were_written() {
        let entry = UnbrokenEntry {
            partition: TopicPartition::new(TopicName::parse("orders").unwrap(), PartitionId::new(3).unwrap()),
            from: Offset::new(7).unwrap(),
            log_start: Offset::MAX,
            leader_epoch: LeaderEpoch::new(2).unwrap(),
        };
        let entries = [entry.clone(), UnbrokenEntry { from: Offset::ZERO, ..entry }];
        assert_eq!(parse_unbroken(&encode_unbroken(&entries)), Ok(entries.to_vec()));
        let mut bytes = encode_unbroken(&entries);
        bytes[30] ^= 1;
        assert!(parse_unbroken(&bytes).is_err());
    }
}
