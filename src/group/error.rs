//! What can go wrong with committed offsets.

use crate::format::FormatError;
use crate::location::Location;
use crate::name::TopicPartition;
use crate::partition::LogError;
use crate::store::StoreError;
use crate::types::{ErrorKind, Offset};

/// An error of the committed offsets of groups.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The store: its internal topic could not be made or found.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The partition that keeps the group could not be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The name of a group over 32767 bytes.
    #[error("a group's name has {got} bytes, expected at most {limit}")]
    GroupTooLong {
        /// The most bytes of a name.
        limit: usize,
        /// The bytes of this one.
        got: usize,
    },
    /// The words that go with an offset are over 4096 bytes. Kafka's `OFFSET_METADATA_TOO_LARGE`.
    #[error("the metadata of the offset for {partition} has {got} bytes, expected at most {limit}")]
    MetadataTooLarge {
        /// The partition whose offset was to be committed.
        partition: TopicPartition,
        /// The most bytes of metadata.
        limit: usize,
        /// The bytes of this one.
        got: usize,
    },
    /// A record of the internal topic can't be understood. Nothing of its partition is used.
    #[error("{partition}: the record at offset {offset} is damaged: {source}")]
    Damaged {
        /// The partition of the internal topic.
        partition: TopicPartition,
        /// The record, or the batch that should hold it.
        offset: Offset,
        /// What is wrong with it.
        source: FormatError,
    },
}

impl From<StoreError> for GroupError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl GroupError {
    /// What this error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(source) => source.kind(),
            Self::Log(source) => source.kind(),
            Self::GroupTooLong { .. } => ErrorKind::InvalidInput,
            Self::MetadataTooLarge { .. } => ErrorKind::TooLarge,
            Self::Damaged { source, .. } => source.kind(),
        }
    }

    /// The partition, file and position it happened at, as far as known.
    #[must_use]
    pub fn location(&self) -> Location {
        match self {
            Self::Store(source) => source.location(),
            Self::Log(source) => source.location(),
            Self::Damaged { partition, .. } => Location::unknown().in_partition(partition.clone()),
            Self::GroupTooLong { .. } | Self::MetadataTooLarge { .. } => Location::unknown(),
        }
    }
}
