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
use crate::partition::{NoteLine, PartitionRecovery, Unbroken, VerifiedPoint};
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
    pub unbroken: Option<Unbroken>,
}

impl Lines {
    pub(super) fn of(checkpointed: &Checkpointed, partition: &TopicPartition) -> Self {
        Self {
            log_start_offset: checkpointed.log_start_offsets.get(partition).copied(),
            recovery_point: checkpointed.recovery_points.get(partition).copied(),
            first_dirty_offset: checkpointed.first_dirty_offsets.get(partition).copied(),
            verified: checkpointed.verified.get(partition).copied(),
            unbroken: checkpointed.unbroken.get(partition).copied(),
        }
    }
}

impl From<NoteLine> for Lines {
    fn from(line: NoteLine) -> Self {
        Self {
            // A line says 0 where nothing was noted: then another note may know better.
            log_start_offset: (line.log_start > Offset::ZERO).then_some(line.log_start),
            recovery_point: Some(line.recovery_point),
            first_dirty_offset: line.first_dirty,
            verified: line.verified,
            unbroken: line.unbroken,
        }
    }
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
    /// # Durability
    /// Of a partition that was open, all records survive a power loss on return. Of one that had failed, those below its recovery
    /// point do, until the next flush.
    ///
    /// # Errors
    /// [`StoreError::PartitionFailed`] when it still can't be opened. [`StoreError::Log`] when reopening an open partition fails: it
    /// is offline if reopening had begun. [`StoreError::UnknownPartition`]; [`StoreError::UnknownTopic`] after the topic's
    /// deletion; [`StoreError::Closed`].
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
    /// Whether there are partitions that could not be opened.
    pub(super) fn has_failed(&self) -> bool {
        let topics = self.topics.read();
        topics.values().any(|topic| !topic.name().is_cluster_metadata() && !topic.failed().is_empty())
    }

    /// Refuses while there is a partition that could not be opened.
    pub(super) fn check_none_failed(&self) -> Result<(), StoreError> {
        let topics = self.topics.read();
        let own = topics.values().filter(|topic| !topic.name().is_cluster_metadata());
        match own.flat_map(|topic| topic.failed()).next() {
            Some(FailedPartition { partition, error }) => Err(StoreError::PartitionFailed { partition, source: error }),
            None => Ok(()),
        }
    }

    fn reopen(&self, topic: &Arc<TopicShared>, number: PartitionId) -> Result<PartitionRecovery, StoreError> {
        // While it is held, nobody deletes the topic or opens the partition too.
        let _admin = self.lock_admin()?;
        self.check_live(topic)?;
        if !topic.has_failed(number) {
            // Somebody else was faster.
            return topic.opened_one(number).map_or_else(|| Err(topic.lacks(number)), |open| Ok(open.reopen()?));
        };
        let id = TopicPartition::new(topic.name().clone(), number);
        match self.open_failed(topic, &id) {
            Ok(recovery) => {
                // As after opening a store: recovery may have cut the log. What can't be written now, maintenance writes.
                let _ = self.check_writable().and_then(|()| self.write_checkpoints());
                Ok(recovery)
            }
            Err(error) => {
                let error = Arc::new(error);
                topic.add_failed(number, Arc::clone(&error));
                Err(StoreError::PartitionFailed { partition: id, source: error })
            }
        }
    }

    fn open_failed(&self, topic: &TopicShared, id: &TopicPartition) -> Result<PartitionRecovery, StoreError> {
        let (vfs, root) = (&*self.opener.vfs, &self.opener.root);
        let create = !self.opener.read_only && vfs.metadata(&layout::partition_dir(root, id))?.is_none();
        let lines = self.opener.notes.line(id).map_or_else(Lines::default, Lines::from);
        let job = Job { id: id.clone(), settings: topic.settings(), topic_id: topic.id(), create, lines };
        let opener = Opener { clean: false, ..self.opener.clone() };
        let opened = opener.open(&job)?.ok_or_else(|| topic.lacks(id.partition))?;
        if create {
            vfs.sync_dir(root)?;
        }
        topic.add([opened.partition]);
        Ok(opened.recovery)
    }
}
