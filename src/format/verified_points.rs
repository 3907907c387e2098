//! `stratalog-verified`: up to where the last segment of each partition was known to be whole, and in which boot of the
//! machine that was. A file of our own, used only after a process was killed while the machine went on.
//!
//! It is a sealed text file (see `sealed_text.rs`) of kind `stratalog-verified`, version 1:
//!
//! | line | words | meaning |
//! |---|---|---|
//! | boot | `boot <id>` | the first line of the body: the boot in which the rest holds, escaped |
//! | partition | `partition <topic> <partition> <base offset> <position>` | every byte of that segment before that position was written or verified by us |
//!
//! Deleting the file costs time at the next opening, never data.

use std::fmt::Write as _;

use super::error::FormatError;
use super::sealed_text::{Line, escape, seal, unescape, unseal};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::types::{Offset, Position};

/// The first word of the file.
const KIND: &str = "stratalog-verified";

/// The version this build writes and knows.
const VERSION: u32 = 1;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifiedPoints {
    /// The boot in which it was written.
    pub boot_id: String,
    /// Partition, base offset of its last segment, and the position in that segment's `.log`.
    pub points: Vec<(TopicPartition, Offset, Position)>,
}

impl VerifiedPoints {
    /// The bytes of the file.
    #[must_use]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = format!("boot {}\n", escape(&self.boot_id));
        for (id, base_offset, position) in &self.points {
            // Writing to a String can't fail.
            let _ = writeln!(body, "partition {} {} {base_offset} {position}", id.topic, id.partition);
        }
        seal(KIND, VERSION, &body)
    }

    /// The content of a file.
    ///
    /// # Errors
    /// A [`FormatError`] for a file that was changed since it was written, or that a later version wrote.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut lines = unseal(KIND, VERSION, bytes)?;
        let boot_id = lines.next().map(|line| parse_boot(&line)).transpose()?.unwrap_or_default();
        let points = lines.map(|line| parse_point(&line)).collect::<Result<_, _>>()?;
        Ok(Self { boot_id, points })
    }
}

fn parse_boot(line: &Line<'_>) -> Result<String, FormatError> {
    let expected = "`boot` and the id of a boot";
    let [word, id] = line.words(expected)?;
    unescape(id).filter(|_| word == "boot").ok_or_else(|| line.refused(expected))
}

fn parse_point(line: &Line<'_>) -> Result<(TopicPartition, Offset, Position), FormatError> {
    let expected = "a partition with topic, number, base offset and position";
    let [word, topic, partition, base_offset, position] = line.words(expected)?;
    let point = || {
        let id = TopicPartition::new(TopicName::parse(topic).ok()?, PartitionId::new(partition.parse().ok()?)?);
        let base_offset = Offset::new(base_offset.parse().ok()?)?;
        Some((id, base_offset, Position::new(position.parse().ok()?)))
    };
    point().filter(|_| word == "partition").ok_or_else(|| line.refused(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives() {
        let id = TopicPartition::new(TopicName::parse("a-b").unwrap(), PartitionId::ZERO);
        let points = vec![(id, Offset::new(5).unwrap(), Position::new(u64::MAX))];
        let verified = VerifiedPoints { boot_id: "odd id".into(), points };
        assert_eq!(VerifiedPoints::parse(&verified.encode()).unwrap(), verified);
    }

    #[test]
    fn illegal_points_are_refused() {
        for line in
            ["partition a -1 0 0", "partition a 0 -1 0", "partition a 0 0 -1", "partition a/b 0 0 0", "x a 0 0 0"]
        {
            let bytes = seal(KIND, VERSION, &format!("boot b\n{line}\n"));
            assert!(VerifiedPoints::parse(&bytes).is_err(), "{line}");
        }
        assert!(VerifiedPoints::parse(&seal(KIND, VERSION, "partition a 0 0 0\n")).is_err());
    }
}
