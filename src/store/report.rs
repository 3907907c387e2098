//! What opening a store tells: each partition on the way, and at the end what was found, recovered, left out and put off.

use std::fmt;

use super::error::StoreError;
use super::failed::FailedPartition;
use super::layout::Skipped;
use crate::name::TopicPartition;
use crate::partition::{CutFiles, PartitionRecovery};

/// One step of opening a store: a partition was opened. One that fails is told in the report alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenProgress {
    /// Which partition.
    pub partition: TopicPartition,
    /// How many of its segments had to be recovered.
    pub recovered_segments: usize,
    /// How many partitions are open by now, this one included.
    pub opened: usize,
    /// How many there are.
    pub total: usize,
}

/// What opening a store found and did.
#[derive(Debug, Default)]
pub struct OpenReport {
    /// Whether the store had been stopped in order; then only logs that contradict their notes, or end unsoundly, were verified.
    pub clean: bool,
    /// Every partition that is open, in order, with what recovery did to it.
    pub partitions: Vec<PartitionRecovery>,
    /// Partitions that could not be opened, in order. The store works without them:
    /// [`Topic::reopen_partition`](super::Topic::reopen_partition) tries again.
    pub failed: Vec<FailedPartition>,
    /// Partitions that the list of topics has and whose folders were missing: they begin empty. A crash while a topic was
    /// being created leaves some; otherwise somebody removed the folders.
    pub created: Vec<TopicPartition>,
    /// Folders that were left out and files that could not be understood, in the order of their paths.
    pub skipped: Vec<Skipped>,
    /// What could not be written or removed, on a full disk for example. Nothing is lost by it, and it is done later.
    pub warnings: Vec<OpenWarning>,
    /// The files in the partitions' folders that this or an earlier recovery took out of a log.
    /// [`LogStore::remove_cut_files`](super::LogStore::remove_cut_files) removes them.
    pub cut_files: CutFiles,
}

/// Something that opening a store put off.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenWarning {
    /// What was put off.
    pub work: PostponedWork,
    /// Why.
    pub error: StoreError,
}

impl OpenWarning {
    pub(super) fn new(work: PostponedWork, error: impl Into<StoreError>) -> Self {
        Self { work, error: error.into() }
    }
}

impl fmt::Display for OpenWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is put off: {}", self.work, self.error)
    }
}

/// What opening a store can put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostponedWork {
    /// Writing the list of topics: the next change of a topic does it.
    TopicList,
    /// Ending a deletion that a crash cut short: the next opening does it, or another `delete_topic`.
    TopicDeletion,
    /// Removing the files of deleted topics: maintenance does it.
    Removal,
    /// Writing the checkpoints: maintenance does it. A crash before verifies more than it had to. Where the checkpoints would let a log
    /// have gaps that it hasn't, its next append writes them first, or fails.
    Checkpoints,
    /// Writing a missing `partition.metadata`: the next opening does it.
    PartitionMetadata,
}

impl fmt::Display for PostponedWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TopicList => "writing the list of topics",
            Self::TopicDeletion => "ending the deletion of a topic",
            Self::Removal => "removing files of deleted topics",
            Self::Checkpoints => "writing the checkpoints",
            Self::PartitionMetadata => "writing partition.metadata",
        })
    }
}
