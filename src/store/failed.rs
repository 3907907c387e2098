//! Partitions that could not be opened. The store works without them, and says so; they keep their number, their folder and
//! what the checkpoints say of them, until they are opened later or their topic is deleted.
//!
//! A partition that failed was not closed in order, whatever the store's mark said when it was opened. So while there is one, the
//! store puts no mark of an orderly stop, and trying the partition again verifies what lies above its recovery point.

use std::sync::Arc;

use super::checkpoints::Checkpointed;
use super::error::StoreError;
use super::layout;
use super::partitions::{Job, Opener};
use super::topic::TopicShared;
use super::{Shared, Topic};
use crate::name::{PartitionId, TopicPartition};
use crate::partition::{PartitionRecovery, VerifiedPoint};
use crate::types::Offset;

/// A partition that the store is open without.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedPartition {
    /// Which partition.
    pub partition: TopicPartition,
    /// Why it could not be opened.
    pub error: Arc<StoreError>,
}

/// What the checkpoints say of one partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lines {
    pub log_start_offset: Option<Offset>,
    pub recovery_point: Option<Offset>,
    pub first_dirty_offset: Option<Offset>,
    pub verified: Option<VerifiedPoint>,
}

impl Lines {
    pub(super) fn of(checkpointed: &Checkpointed, partition: &TopicPartition) -> Self {
        Self {
            log_start_offset: checkpointed.log_start_offsets.get(partition).copied(),
            recovery_point: checkpointed.recovery_points.get(partition).copied(),
            first_dirty_offset: checkpointed.first_dirty_offsets.get(partition).copied(),
            verified: checkpointed.verified.get(partition).copied(),
        }
    }
}

/// A partition that failed, as its topic keeps it.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub error: Arc<StoreError>,
    /// Written back whenever the checkpoints are: the next opening must not take it for a partition that they don't know.
    pub lines: Lines,
}

impl Topic {
    /// The partitions of this topic that could not be opened, in order.
    #[must_use]
    pub fn failed_partitions(&self) -> Vec<FailedPartition> {
        self.shared.failed()
    }

    /// Tries again to open a partition that could not be opened with the store, and brings back one that went offline, as
    /// [`Partition::reopen`](crate::partition::Partition::reopen) does. Once it succeeded, [`Topic::partition`] returns the partition.
    ///
    /// # Errors
    /// What it fails with this time; the partition stays as it was. [`StoreError::UnknownPartition`], [`StoreError::UnknownTopic`]
    /// after the topic's deletion, [`StoreError::Closed`].
    ///
    /// # Example
    ///
    /// ```
    /// use stratalog::LogStore;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let store = LogStore::open(folder.path())?;
    /// for failed in &store.open_report().failed {
    ///     println!("{}: {}", failed.partition, failed.error);
    ///     let number = failed.partition.partition.value().unsigned_abs();
    ///     store.topic(failed.partition.topic.as_str())?.reopen_partition(number)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reopen_partition(&self, partition: u32) -> Result<PartitionRecovery, StoreError> {
        match self.partition(partition) {
            Ok(open) => Ok(open.reopen()?),
            Err(StoreError::PartitionFailed { partition, .. }) => self.store.reopen(&self.shared, partition.partition),
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    /// What the checkpoints must go on to say of partitions that are not open.
    pub(super) fn failed_lines(&self) -> Vec<(TopicPartition, Lines)> {
        let topics = self.topics.read();
        let own = topics.values().filter(|topic| !topic.name().is_cluster_metadata());
        own.flat_map(|topic| topic.failed_lines()).collect()
    }

    fn reopen(&self, topic: &Arc<TopicShared>, number: PartitionId) -> Result<PartitionRecovery, StoreError> {
        // While it is held, nobody deletes the topic or opens the partition too.
        let mut admin = self.lock_admin()?;
        self.check_live(topic)?;
        let Some(failed) = topic.failed_one(number) else {
            // Somebody else was faster.
            return topic.opened_one(number).map_or_else(|| Err(topic.lacks(number)), |open| Ok(open.reopen()?));
        };
        let id = TopicPartition::new(topic.name().clone(), number);
        match self.open_failed(topic, &id, failed.lines) {
            Ok(recovery) => {
                // As after opening a store: recovery may have cut the log. What can't be written now, maintenance writes.
                let _ = self.check_writable().and_then(|()| self.write_checkpoints(&mut admin));
                Ok(recovery)
            }
            Err(error) => {
                let error = Arc::new(error);
                let lines = self.lines_on_disk(&id).unwrap_or(failed.lines);
                topic.add_failed(number, Failed { error: Arc::clone(&error), lines });
                Err(StoreError::PartitionFailed { partition: id, source: error })
            }
        }
    }

    fn open_failed(
        &self,
        topic: &TopicShared,
        id: &TopicPartition,
        lines: Lines,
    ) -> Result<PartitionRecovery, StoreError> {
        let (vfs, root) = (&*self.opener.vfs, &self.opener.root);
        let create = !self.opener.read_only && vfs.metadata(&layout::partition_dir(root, id))?.is_none();
        let job = Job { id: id.clone(), settings: topic.settings(), topic_id: topic.id(), create, lines };
        let opener = Opener { clean: false, ..self.opener.clone() };
        let opened = opener.open(&job)?.ok_or_else(|| topic.lacks(id.partition))?;
        if create {
            vfs.sync_dir(root)?;
        }
        topic.add([opened.partition]);
        Ok(opened.recovery)
    }

    /// What the checkpoints say now: the attempt may have lowered a line before it cut the log.
    fn lines_on_disk(&self, id: &TopicPartition) -> Option<Lines> {
        let loaded = Checkpointed::load(&*self.opener.vfs, &self.opener.root, false, &mut Vec::new());
        loaded.ok().map(|checkpointed| Lines::of(&checkpointed, id))
    }
}
