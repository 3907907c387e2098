//! Topics and partitions that another process creates and deletes while this store is open read-only.
//!
//! A store that is asked for its topics looks at the root folder again. A topic that was deleted, or deleted and created anew, leaves:
//! its partitions are closed. One that is known is looked at by two names only, so that asking for each topic in turn costs no listing
//! each time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Shared;
use super::checkpoints::{self, Checkpointed};
use super::error::StoreError;
use super::failed::Lines;
use super::layout;
use super::partitions::{Job, Opener};
use super::topic::TopicShared;
use super::topics_file::{self, TopicsFile};
use crate::config::TopicConfig;
use crate::format::file_name::FileName;
use crate::format::{PartitionMetadata, TopicState};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::partition::Partition;
use crate::vfs::{IoError, read_whole};

impl Shared {
    /// Looks again for the topic `name`, if this store is read-only.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`], [`StoreError::Config`].
    pub(super) fn follow_topic(&self, name: &str) -> Result<(), StoreError> {
        let known = self.topics.read().get(name).cloned();
        match known {
            Some(topic) if !self.opener.read_only || self.is_as_known(&topic)? => Ok(()),
            _ => self.follow_topics(),
        }
    }

    /// Looks again for all topics, if this store is read-only.
    ///
    /// # Errors
    /// As [`Shared::follow_topic`].
    pub(super) fn follow_topics(&self) -> Result<(), StoreError> {
        if !self.opener.read_only {
            return Ok(());
        }
        // One look at a time.
        let _admin = self.lock_admin()?;
        let (vfs, root) = (&*self.opener.vfs, &self.opener.root);
        let (list, _) = TopicsFile::load(vfs, root)?;
        let is_known = |id: &TopicPartition| {
            let topics = self.topics.read();
            topics.get(&id.topic).is_some_and(|topic| topic.opened_one(id.partition).is_some())
        };
        let found = layout::scan(vfs, root, |id| list.has_partition(id) || is_known(id))?;
        let mut numbers: BTreeMap<TopicName, BTreeSet<PartitionId>> = BTreeMap::new();
        for id in found.partitions {
            numbers.entry(id.topic).or_default().insert(id.partition);
        }
        numbers.retain(|name, _| list.get(name).is_none_or(|entry| entry.state != TopicState::Deleting));
        self.drop_deleted(&list, &numbers)?;
        let clean = checkpoints::is_clean(vfs, root)?;
        let checkpointed = Checkpointed::load(vfs, root, clean, &mut Vec::new())?;
        let opener = Opener { clean, ..self.opener.clone() };
        for (name, numbers) in numbers {
            self.take_in(&opener, &list, &checkpointed, name, &numbers)?;
        }
        Ok(())
    }

    /// Whether a topic's first partition still is one of it, and no further partition was added.
    fn is_as_known(&self, topic: &TopicShared) -> Result<bool, IoError> {
        let next = i32::try_from(topic.partition_count()).ok().and_then(PartitionId::new);
        let is_there = |number: PartitionId| {
            let id = TopicPartition::new(topic.name().clone(), number);
            Ok::<_, IoError>(self.opener.vfs.metadata(&layout::partition_dir(&self.opener.root, &id))?.is_some())
        };
        if let Some(next) = next
            && is_there(next)?
        {
            return Ok(false);
        }
        self.is_same(topic)
    }

    /// Whether the folder of the topic's first partition is there and names no other topic.
    fn is_same(&self, topic: &TopicShared) -> Result<bool, IoError> {
        let Some(first) = topic.partitions().first().cloned() else { return Ok(false) };
        let path = first.path().join(FileName::partition_metadata().to_string());
        let Some(bytes) = read_whole(&*self.opener.vfs, &path)? else {
            return Ok(self.opener.vfs.metadata(first.path())?.is_some());
        };
        let found = PartitionMetadata::parse(&bytes).ok().map(|metadata| metadata.topic_id);
        Ok(found.is_none() || topic.id().is_none() || found == topic.id())
    }

    /// Closes topics that are gone, or that others of their names have followed.
    fn drop_deleted(
        &self,
        list: &TopicsFile,
        numbers: &BTreeMap<TopicName, BTreeSet<PartitionId>>,
    ) -> Result<(), StoreError> {
        let known: Vec<Arc<TopicShared>> = self.topics.read().values().cloned().collect();
        for topic in known {
            let listed = list.get(topic.name()).and_then(|entry| entry.id);
            let is_other = listed.is_some() && topic.id().is_some() && listed != topic.id();
            if !is_other && numbers.contains_key(topic.name()) && self.is_same(&topic)? {
                continue;
            }
            self.topics.write().remove(topic.name());
            topic.partitions().iter().for_each(Partition::invalidate);
        }
        Ok(())
    }

    /// Opens the partitions of a topic that are not open yet.
    fn take_in(
        &self,
        opener: &Opener,
        list: &TopicsFile,
        checkpointed: &Checkpointed,
        name: TopicName,
        numbers: &BTreeSet<PartitionId>,
    ) -> Result<(), StoreError> {
        let known = self.topics.read().get(&name).cloned();
        let mut topic = if known.is_none() { Some(self.new_topic(list, &name)?) } else { None };
        let Some(shared) = known.as_deref().or(topic.as_ref()) else { return Ok(()) };
        let missing = numbers.iter().filter(|number| shared.opened_one(**number).is_none());
        let jobs: Vec<Job> = missing
            .map(|number| {
                let id = TopicPartition::new(name.clone(), *number);
                let (lines, settings) = (Lines::of(checkpointed, &id), shared.settings());
                Job { settings, topic_id: shared.id(), create: false, lines, id }
            })
            .collect();
        let opened: Vec<_> = jobs.iter().map(|job| (job, opener.open(job))).collect();
        if let Some(topic) = &mut topic {
            let found = opened.iter().filter_map(|(_, result)| result.as_ref().ok()?.as_ref()?.topic_id);
            topic.elect_id(&found.collect::<Vec<_>>());
        }
        let Some(shared) = known.or(topic.map(Arc::new)) else { return Ok(()) };
        for (job, result) in opened {
            let admitted = result.and_then(|opened| {
                let Some(opened) = opened else { return Ok(()) };
                shared.check_id(&self.opener.root, &job.id, opened.topic_id)?;
                shared.add([opened.partition]);
                Ok(())
            });
            if let Err(error) = admitted {
                shared.add_failed(job.id.partition, Arc::new(error));
            }
        }
        if shared.partition_count() > 0 {
            self.topics.write().insert(name, shared);
        }
        Ok(())
    }
    /// A topic that was created meanwhile, without partitions yet.
    fn new_topic(&self, list: &TopicsFile, name: &TopicName) -> Result<TopicShared, StoreError> {
        let entry = list.get(name);
        let config = entry.map_or_else(|| Ok(TopicConfig::new()), topics_file::config_of)?;
        let state = entry.map_or(TopicState::Adopted, |entry| entry.state);
        let (id, defaults) = (entry.and_then(|entry| entry.id), self.config.default_topic_config());
        TopicShared::new(name.clone(), id, state, config, defaults)
    }
}
