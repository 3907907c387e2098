//! The address of a problem: which partition, which file, which position, as far as each is known.
//!
//! Errors of every layer above hand out a [`Location`], each layer adding what it knows to what came from below.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::name::TopicPartition;
use crate::types::Position;

/// Where something happened. Prints as `orders-3, file 00000000000000000000.log, position 61`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Location {
    topic_partition: Option<TopicPartition>,
    file: Option<PathBuf>,
    position: Option<Position>,
}

impl Location {
    /// A location of which nothing is known yet.
    #[must_use]
    pub const fn unknown() -> Self {
        Self { topic_partition: None, file: None, position: None }
    }

    /// Adds the partition.
    #[must_use]
    pub fn in_partition(self, topic_partition: TopicPartition) -> Self {
        Self { topic_partition: Some(topic_partition), ..self }
    }

    /// Adds the file, or the folder where a folder is the matter.
    #[must_use]
    pub fn in_file(self, file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), ..self }
    }

    /// Adds the position in the file.
    #[must_use]
    pub fn at_position(self, position: Position) -> Self {
        Self { position: Some(position), ..self }
    }

    /// The partition, when one is concerned.
    #[must_use]
    pub const fn topic_partition(&self) -> Option<&TopicPartition> {
        self.topic_partition.as_ref()
    }

    /// The file or folder, when one is concerned.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The position in the file, or in the bytes handed in where no file is named.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether nothing at all is known.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.topic_partition.is_none() && self.file.is_none() && self.position.is_none()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unknown() {
            return f.write_str("unknown location");
        }
        let mut separator = "";
        if let Some(topic_partition) = &self.topic_partition {
            write!(f, "{topic_partition}")?;
            separator = ", ";
        }
        if let Some(file) = &self.file {
            write!(f, "{separator}file {}", file.display())?;
            separator = ", ";
        }
        if let Some(position) = self.position {
            write!(f, "{separator}position {position}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{PartitionId, TopicName};

    #[test]
    fn a_location_prints_what_is_known_and_nothing_else() {
        let partition = TopicPartition::new(TopicName::parse("orders").unwrap(), PartitionId::new(3).unwrap());
        let file = Location::unknown().in_file("orders-3/0.log");
        let full = file.clone().in_partition(partition.clone()).at_position(Position::new(61));
        assert_eq!(Location::unknown().to_string(), "unknown location");
        assert_eq!(file.to_string(), "file orders-3/0.log");
        assert_eq!(full.to_string(), "orders-3, file orders-3/0.log, position 61");
        assert_eq!(Location::unknown().at_position(Position::ZERO).to_string(), "position 0");
        assert_eq!(full.topic_partition(), Some(&partition));
        assert_eq!(full.file(), Some(Path::new("orders-3/0.log")));
        assert_eq!(full.position(), Some(Position::new(61)));
    }
}
