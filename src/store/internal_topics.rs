//! The topics in which Kafka's coordinators keep what they know, `__consumer_offsets` and `__transaction_state`: made when they are
//! first needed, compacted, and each group or transactional id in the partition that Kafka would choose.

use std::num::NonZeroU32;

use super::{LogStore, StoreError, Topic};
use crate::config::{CleanupPolicy, CompressionType, TopicConfig};
use crate::format::coordinator_partition;
use crate::partition::Partition;

/// Bytes of their segments: small, so that compaction soon gets at them.
const SEGMENT_BYTES: u32 = 104_857_600;

impl LogStore {
    /// The internal topic `name`, made with `partitions` partitions when it isn't there. One that Kafka wrote and that nobody here
    /// has configured is compacted from now on, too.
    ///
    /// # Errors
    /// As [`LogStore::create_topic`]; [`StoreError::ReadOnly`] when the topic isn't there and can't be made.
    pub(crate) fn internal_topic(&self, name: &str, partitions: u32) -> Result<Topic, StoreError> {
        let topic = match self.topic(name) {
            Ok(topic) => topic,
            Err(StoreError::UnknownTopic { .. }) => match self.create_topic(name, partitions, config()) {
                // Somebody else was faster.
                Err(StoreError::TopicExists { .. }) => self.topic(name)?,
                other => other?,
            },
            Err(error) => return Err(error),
        };
        let set = topic.config();
        if set.explicit("cleanup.policy").is_none() && !self.shared.opener.read_only {
            topic.alter_config(set.over(&config()))?;
        }
        Ok(topic)
    }
}

impl Topic {
    /// The partition that keeps the group or transactional id `id`.
    ///
    /// # Errors
    /// [`StoreError::UnknownPartition`] where a folder copied from Kafka lacks it, [`StoreError::Closed`].
    pub(crate) fn partition_for(&self, id: &str) -> Result<Partition, StoreError> {
        let count = NonZeroU32::new(self.shared.partition_count()).unwrap_or(NonZeroU32::MIN);
        self.partition(coordinator_partition(id, count))
    }
}

fn config() -> TopicConfig {
    TopicConfig::new()
        .cleanup_policy(CleanupPolicy::COMPACT)
        .segment_bytes(SEGMENT_BYTES)
        .compression_type(CompressionType::Uncompressed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::StoreOptions;
    use crate::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, Operation};

    #[test]
    fn an_internal_topic_is_made_once_and_keeps_its_partitions() {
        let store = StoreOptions::new().vfs(Arc::new(MemoryVfs::new())).open("/log").unwrap();
        let topic = store.internal_topic("__consumer_offsets", 5).unwrap();
        assert_eq!(topic.effective_config().get("cleanup.policy").unwrap(), "compact");
        assert_eq!(store.internal_topic("__consumer_offsets", 9).unwrap().partitions().len(), 5);
        let partition = topic.partition_for("foo").unwrap();
        assert_eq!(partition.id().to_string(), "__consumer_offsets-4");
        topic.alter_config(TopicConfig::new()).unwrap();
        let again = store.internal_topic("__consumer_offsets", 9).unwrap();
        assert_eq!(again.config().get("segment.bytes").unwrap(), "104857600");
    }

    #[test]
    fn an_internal_topic_whose_making_failed_anywhere_is_made_as_soon_as_the_disk_lets_it() {
        for times in [1, u64::MAX] {
            for nth in 1.. {
                let vfs = FaultyVfs::new(MemoryVfs::new());
                let store = StoreOptions::new().vfs(Arc::new(vfs.clone())).open("/log").unwrap();
                let fault = Fault::new(Operation::Any, Effect::Error(std::io::ErrorKind::StorageFull)).nth(nth);
                vfs.inject(Fault { times, ..fault });
                let made = store.internal_topic("__consumer_offsets", 3);
                let has_struck = vfs.faults_struck() > 0;
                vfs.clear_faults();
                let again = store.internal_topic("__consumer_offsets", 3).unwrap();
                assert_eq!(again.partitions().len(), 3, "call {nth}, {times} times: {made:?}");
                assert_eq!(again.effective_config().get("cleanup.policy").unwrap(), "compact");
                if !has_struck {
                    break;
                }
            }
        }
    }
}
