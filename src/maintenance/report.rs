//! What a step of background work tells: counts of what it did, and each failure with the kind of work that failed.

use std::fmt;

use super::Pace;
use crate::location::Location;
use crate::name::TopicPartition;
use crate::partition::LogError;
use crate::store::StoreError;
use crate::types::ErrorKind;

/// What one step of background work did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TickReport {
    /// Partitions that were synced because their oldest unsynced record was older than `flush.ms`.
    pub flushed_partitions: usize,
    /// Segments that retention removed from their logs.
    pub expired_segments: usize,
    /// Bytes of their `.log` files.
    pub expired_bytes: u64,
    /// Files that were unlinked after `file.delete.delay.ms`.
    pub removed_files: usize,
    /// Producers that were forgotten after `producer.id.expiration.ms`, each counted in every partition.
    pub expired_producers: usize,
    /// Partitions that were compacted.
    pub compacted_partitions: usize,
    /// Bytes of batches that compactions read, those that did not go through included.
    pub compaction_bytes_read: u64,
    /// Bytes of batches that they wrote.
    pub compaction_bytes_written: u64,
    /// Whether the checkpoints were written.
    pub checkpointed: bool,
    /// What failed, in the order in which it did. One failure stops nothing else: the other work, and the other partitions, had
    /// their turn nevertheless, and the next step tries again.
    pub failures: Vec<MaintenanceFailure>,
}

impl TickReport {
    /// Keeps a failure, and tells who asked to be told; what succeeded is returned. A partition or store that was closed
    /// meanwhile is no failure: somebody ended it.
    ///
    /// The caller holds no lock: whoever is told may call back into the store.
    pub(super) fn note<T>(
        &mut self,
        work: MaintenanceWork,
        result: Result<T, impl Into<StoreError>>,
        pace: &Pace<'_>,
    ) -> Option<T> {
        match result.map_err(Into::into) {
            Ok(value) => Some(value),
            Err(StoreError::Closed { .. } | StoreError::Log(LogError::Closed { .. })) => None,
            Err(error) => {
                let failure = MaintenanceFailure { work, error };
                (pace.on_failure)(&failure);
                self.failures.push(failure);
                None
            }
        }
    }
}

/// A kind of background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MaintenanceWork {
    /// Syncing a partition by `flush.ms`.
    Flush,
    /// Taking segments out of a log by `retention.ms`, `retention.bytes` or the log start offset. A damaged segment stays as
    /// long as what can't be read of it may be younger than `retention.ms`; of each such segment one step tells.
    Retention,
    /// Compacting a partition.
    Compaction,
    /// Unlinking files of deleted segments and topics.
    Removal,
    /// Writing the checkpoints.
    Checkpoint,
}

impl fmt::Display for MaintenanceWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flush => "flush",
            Self::Retention => "retention",
            Self::Compaction => "compaction",
            Self::Removal => "removal",
            Self::Checkpoint => "checkpoint",
        })
    }
}

/// Background work that failed. It prints as its error does, with partition and file as far as known.
#[derive(Debug)]
#[non_exhaustive]
pub struct MaintenanceFailure {
    /// Which work.
    pub work: MaintenanceWork,
    /// What happened.
    pub error: StoreError,
}

impl MaintenanceFailure {
    /// What the error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// The partition, file and position it happened at, as far as known.
    #[must_use]
    pub fn location(&self) -> Location {
        self.error.location()
    }

    /// The partition; `None` for what concerns the store as a whole.
    #[must_use]
    pub fn partition(&self) -> Option<&TopicPartition> {
        match &self.error {
            StoreError::Log(error) => Some(error.partition()),
            _ => None,
        }
    }
}

impl fmt::Display for MaintenanceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for MaintenanceFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}
