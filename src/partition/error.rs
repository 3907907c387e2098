//! What can go wrong with a partition: everything here names the topic-partition.

use super::producers::ProducerError;
use crate::format::FormatError;
use crate::location::Location;
use crate::name::TopicPartition;
use crate::segment::SegmentError;
use crate::types::{ErrorKind, Offset, Timestamp};

/// An error of one partition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A segment's file could not be read, written or understood.
    #[error("{partition}: {source}")]
    Segment {
        /// The partition.
        partition: TopicPartition,
        /// What happened.
        source: SegmentError,
    },
    /// The offset to read, find or delete to lies outside the log.
    #[error("{partition}: offset {got} is out of range, valid are {start} to {end}")]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// The offset that was asked for.
        got: Offset,
        /// The smallest legal one, the log start offset.
        start: Offset,
        /// The greatest legal one.
        end: Offset,
    },
    /// An append of nothing.
    #[error("{partition}: an append needs at least one record")]
    NoRecords {
        /// The partition.
        partition: TopicPartition,
    },
    /// A record that the topic's config doesn't allow.
    #[error("{partition}: record {index} is invalid: expected {expected}, got {got}")]
    InvalidRecord {
        /// The partition.
        partition: TopicPartition,
        /// Which record of the append, counted from 0.
        index: usize,
        /// The rule.
        expected: &'static str,
        /// What the record has.
        got: String,
    },
    /// A record's timestamp is too far from the clock (`message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`).
    #[error("{partition}: record {index} has timestamp {got}, expected {earliest} to {latest}")]
    InvalidTimestamp {
        /// The partition.
        partition: TopicPartition,
        /// Which record of the append, counted from 0.
        index: usize,
        /// Its timestamp in milliseconds.
        got: Timestamp,
        /// The earliest legal one.
        earliest: Timestamp,
        /// The latest legal one.
        latest: Timestamp,
    },
    /// Encoded bytes that are not one legal batch.
    #[error("{partition}: the batch is refused: {source}")]
    InvalidBatch {
        /// The partition.
        partition: TopicPartition,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A batch or marker that doesn't fit what the log knows of its producer.
    #[error("{partition}: {source}")]
    Producer {
        /// The partition.
        partition: TopicPartition,
        /// What doesn't fit.
        source: ProducerError,
    },
    /// A batch over `max.message.bytes` or `segment.bytes`.
    #[error("{partition}: a batch of {got} bytes is too large, {limit_key} allows {limit}")]
    TooLarge {
        /// The partition.
        partition: TopicPartition,
        /// Its size in bytes.
        got: u64,
        /// The limit in bytes.
        limit: u64,
        /// The config that sets the limit.
        limit_key: &'static str,
    },
    /// A write or sync failed in a way that leaves the disk's state unknown; reopening the partition verifies it.
    #[error("{partition} is offline since a failure, reopen it: {reason}")]
    Offline {
        /// The partition.
        partition: TopicPartition,
        /// The failure's message.
        reason: String,
    },
    /// The log was cut or reopened while an append waited for its sync, so it is not known whether the records are in the log.
    /// The partition is online. Appending them again may store them twice, unless the producer has an id.
    #[error("{partition}: the log was cut or reopened before the records were synced, they may be gone")]
    OutcomeUnknown {
        /// The partition.
        partition: TopicPartition,
    },
    /// The store was closed, or the topic deleted.
    #[error("{partition} is closed")]
    Closed {
        /// The partition.
        partition: TopicPartition,
    },
    /// A compaction of a topic whose `cleanup.policy` doesn't have it.
    #[error("{partition} is not compacted: expected `compact` in its cleanup.policy")]
    NotCompacted {
        /// The partition.
        partition: TopicPartition,
    },
    /// A compaction that was asked for by the progress callback of one of the same partition: it would wait for itself.
    #[error("{partition} is being compacted by this very thread, which can't wait for itself")]
    InsideCompaction {
        /// The partition.
        partition: TopicPartition,
    },
    /// The writing process kept replacing or cutting files while this call looked at them. Retriable: the same call reads the log
    /// as it is then. Only for partitions opened read-only.
    #[error("{partition} is being changed by another process, look again")]
    Changed {
        /// The partition.
        partition: TopicPartition,
    },
    /// A change to a partition that is open for reading only.
    #[error("{partition} is open read-only")]
    ReadOnly {
        /// The partition.
        partition: TopicPartition,
    },
}

impl LogError {
    pub(crate) fn segment(partition: &TopicPartition, source: impl Into<SegmentError>) -> Self {
        Self::Segment { partition: partition.clone(), source: source.into() }
    }

    /// Whether a file could not even be opened; see [`IoError::failed_to_open`](crate::vfs::IoError::failed_to_open).
    pub(crate) fn failed_to_open(&self) -> bool {
        matches!(self, Self::Segment { source: SegmentError::Io(error), .. } if error.failed_to_open())
    }

    /// Whether a file isn't there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Segment { source: SegmentError::Io(error), .. } if error.is_not_found())
    }

    /// What this error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Segment { source, .. } => source.kind(),
            Self::OffsetOutOfRange { .. } => ErrorKind::OffsetOutOfRange,
            Self::NoRecords { .. }
            | Self::InvalidRecord { .. }
            | Self::InvalidTimestamp { .. }
            | Self::NotCompacted { .. }
            | Self::InsideCompaction { .. } => ErrorKind::InvalidInput,
            Self::InvalidBatch { source, .. } => source.kind(),
            Self::Producer { source, .. } => source.kind(),
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Offline { .. } | Self::Closed { .. } => ErrorKind::Offline,
            Self::OutcomeUnknown { .. } => ErrorKind::OutcomeUnknown,
            Self::Changed { .. } => ErrorKind::Changed,
            Self::ReadOnly { .. } => ErrorKind::Locked,
        }
    }

    /// The partition it happened in.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        match self {
            Self::Segment { partition, .. }
            | Self::OffsetOutOfRange { partition, .. }
            | Self::NoRecords { partition }
            | Self::InvalidRecord { partition, .. }
            | Self::InvalidTimestamp { partition, .. }
            | Self::InvalidBatch { partition, .. }
            | Self::Producer { partition, .. }
            | Self::TooLarge { partition, .. }
            | Self::Offline { partition, .. }
            | Self::OutcomeUnknown { partition }
            | Self::Closed { partition }
            | Self::NotCompacted { partition }
            | Self::InsideCompaction { partition }
            | Self::Changed { partition }
            | Self::ReadOnly { partition } => partition,
        }
    }

    /// The partition, file and position it happened at, as far as known.
    #[must_use]
    pub fn location(&self) -> Location {
        let location = Location::unknown().in_partition(self.partition().clone());
        let Self::Segment { source, .. } = self else { return location };
        let location = location.in_file(source.file());
        match source.position() {
            Some(position) => location.at_position(position),
            None => location,
        }
    }
}
