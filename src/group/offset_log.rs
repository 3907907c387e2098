//! The offsets that consumer groups have committed, in Kafka's compacted topic `__consumer_offsets`.
//!
//! Each group lives in one partition of the topic. A partition is read when one of its groups is first asked for, and from then on
//! only its new records are, so that whatever wrote them, this handle, another one or a transaction, is seen. What a
//! transaction has written is invisible until its commit marker and gone after its abort marker.
//!
//! An offset is the next one to read; it is not compared with the log it points into.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::GroupError;
use super::follow::{FollowError, follow};
use super::replay::GroupOffsets;
use crate::clock::Clock;
use crate::format::{CommittedOffset, Record, encode_offset_key};
use crate::name::{PartitionId, TopicPartition};
use crate::partition::{Appended, Durability, Partition};
use crate::store::{LogStore, Topic};
use crate::types::Offset;

/// Kafka's topic of groups.
const TOPIC: &str = "__consumer_offsets";

/// The most bytes of the words that go with a committed offset.
pub const OFFSET_METADATA_SIZE_MAX: usize = 4096;

/// The most bytes of a group's name: what its length field holds.
const GROUP_SIZE_MAX: usize = 32_767;

/// The committed offsets of a store's consumer groups. Clones share what they have read.
///
/// # Example
///
/// ```
/// use stratalog::format::CommittedOffset;
/// use stratalog::group::OffsetLog;
/// use stratalog::{Durability, LogStore, Offset, Record, TopicConfig};
///
/// let folder = tempfile::tempdir()?;
/// let store = LogStore::open(folder.path())?;
/// let orders = store.create_topic("orders", 1, TopicConfig::new())?.partition(0)?;
/// let appended = orders.append(&[Record::new("1 pear")])?;
///
/// let offsets = OffsetLog::open(&store)?;
/// let position = CommittedOffset::new(appended.last_offset.next());
/// offsets.commit("billing", &[(orders.id().clone(), position)], Durability::Durable)?;
/// let committed = offsets.committed("billing", orders.id())?.map(|committed| committed.offset);
/// assert_eq!(committed, Some(orders.log_end_offset()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct OffsetLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    topic: Topic,
    clock: Arc<dyn Clock>,
    /// What was read of each partition; at most one entry a partition of the topic.
    followed: Mutex<BTreeMap<PartitionId, Arc<Mutex<Followed>>>>,
}

/// A partition of the topic, read up to `next`.
#[derive(Debug, Default)]
struct Followed {
    next: Option<Offset>,
    offsets: GroupOffsets,
}

/// The records of one commit: keys and values, ready to be appended.
#[derive(Debug)]
pub(crate) struct OffsetCommit {
    /// The partition that keeps the group.
    pub partition: Partition,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl OffsetCommit {
    /// What to append.
    pub(crate) fn records(&self) -> Vec<Record<'_>> {
        self.records.iter().map(|(key, value)| Record::keyed(key, value)).collect()
    }
}

impl OffsetLog {
    /// The committed offsets in `store`. The topic is made when it isn't there, with `offsets.topic.num.partitions` partitions.
    ///
    /// # Errors
    /// [`GroupError::Store`].
    pub fn open(store: &LogStore) -> Result<Self, GroupError> {
        let topic = store.internal_topic(TOPIC, store.settings().offsets_topic_num_partitions)?;
        let clock = Arc::clone(store.clock());
        Ok(Self { shared: Arc::new(Shared { topic, clock, followed: Mutex::default() }) })
    }

    /// Commits offsets of a group, all of them or none. An offset without a timestamp gets the clock's. With no offsets
    /// nothing is done.
    ///
    /// # Durability
    /// As `durability` says.
    ///
    /// # Errors
    /// With nothing written: [`GroupError::GroupTooLong`], [`GroupError::MetadataTooLarge`], [`GroupError::Store`]. [`GroupError::Log`] as
    /// [`Partition::append_with`], whose size limit holds for all offsets of one call together.
    pub fn commit(
        &self,
        group: &str,
        offsets: &[(TopicPartition, CommittedOffset)],
        durability: Durability,
    ) -> Result<Option<Appended>, GroupError> {
        let commit = self.prepare(group, offsets)?;
        if offsets.is_empty() {
            return Ok(None);
        }
        Ok(Some(commit.partition.append_with(&commit.records(), durability)?))
    }

    /// Up to where `group` has read `partition`; `None` when it never said.
    ///
    /// # Errors
    /// [`GroupError::Store`], [`GroupError::Log`], [`GroupError::Damaged`].
    pub fn committed(&self, group: &str, partition: &TopicPartition) -> Result<Option<CommittedOffset>, GroupError> {
        let kept_in = self.shared.topic.partition_for(group)?;
        let followed = self.followed(kept_in.id().partition);
        let mut followed = followed.lock();
        followed.catch_up(&kept_in)?;
        Ok(followed.offsets.get(group, partition).cloned())
    }

    /// Checks a commit and encodes its records.
    ///
    /// # Errors
    /// As [`OffsetLog::commit`], with nothing written.
    pub(crate) fn prepare(
        &self,
        group: &str,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<OffsetCommit, GroupError> {
        if group.len() > GROUP_SIZE_MAX {
            return Err(GroupError::GroupTooLong { limit: GROUP_SIZE_MAX, got: group.len() });
        }
        let too_large = |(_, committed): &&(_, CommittedOffset)| committed.metadata.len() > OFFSET_METADATA_SIZE_MAX;
        if let Some((partition, committed)) = offsets.iter().find(too_large) {
            return Err(GroupError::MetadataTooLarge {
                partition: partition.clone(),
                limit: OFFSET_METADATA_SIZE_MAX,
                got: committed.metadata.len(),
            });
        }
        let now = self.shared.clock.now();
        let encode = |(partition, committed): &(TopicPartition, CommittedOffset)| {
            let timestamp = committed.timestamp.or(Some(now));
            let value = CommittedOffset { timestamp, ..committed.clone() };
            (encode_offset_key(group, partition), value.encode())
        };
        let records = offsets.iter().map(encode).collect();
        Ok(OffsetCommit { partition: self.shared.topic.partition_for(group)?, records })
    }

    fn followed(&self, partition: PartitionId) -> Arc<Mutex<Followed>> {
        Arc::clone(self.shared.followed.lock().entry(partition).or_default())
    }
}

impl Followed {
    /// Takes in what was appended since the last time. Starts anew where the log was cut, or where nothing is known after an error.
    fn catch_up(&mut self, partition: &Partition) -> Result<(), GroupError> {
        let (start, end) = (partition.log_start_offset(), partition.log_end_offset());
        let resumed = self.next.take().filter(|next| (start..=end).contains(next));
        if resumed.is_none() {
            self.offsets = GroupOffsets::default();
        }
        let next = follow(partition, resumed.unwrap_or(start), |batch| self.offsets.apply(batch));
        self.next = Some(next.map_err(|error| match error {
            FollowError::Log(error) => GroupError::Log(error),
            FollowError::Damaged { offset, source } => {
                GroupError::Damaged { partition: partition.id().clone(), offset, source }
            }
        })?);
        Ok(())
    }
}
