//! Creating, growing, altering and deleting topics.
//!
//! Every change is checked in full before anything is written, then written to the list of topics, then carried out on
//! the folders. A crash in between is completed by the next opening; an error in between is undone where it can be, and
//! otherwise completed by the next opening or the next attempt.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::error::StoreError;
use super::failed::Lines;
use super::layout;
use super::open::partition_ids;
use super::parallel::in_parallel;
use super::partitions::Job;
use super::random::random_topic_id;
use super::removal;
use super::topic::TopicShared;
use super::topics_file::entries_of;
use super::{Admin, Shared};
use crate::clock::Deadline;
use crate::config::TopicConfig;
use crate::format::{PARTITION_COUNT_MAX, TopicEntry, TopicState};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::partition::Partition;

impl Shared {
    pub(super) fn create_topic(
        &self,
        name: &TopicName,
        partitions: u32,
        config: TopicConfig,
    ) -> Result<Arc<TopicShared>, StoreError> {
        let mut admin = self.change_ended(name)?;
        self.check_new(name, partitions)?;
        let id = random_topic_id(self.opener.clock.now());
        let entry = TopicEntry {
            name: name.clone(),
            id: Some(id),
            partition_count: partitions,
            state: TopicState::Created,
            config: entries_of(&config),
        };
        let defaults = self.config.default_topic_config();
        let topic = TopicShared::new(name.clone(), Some(id), TopicState::Created, config, defaults)?;
        if admin.list.get(name).is_some() {
            // An earlier attempt to create or delete it failed and could not be undone.
            self.discard(&mut admin, name)?;
        }
        self.check_free(name, &partition_ids(0..partitions).collect::<Vec<_>>())?;
        let listed = admin.list.put(&*self.opener.vfs, &self.opener.root, entry).map_err(StoreError::from);
        match listed.and_then(|()| self.open_new(&topic, partition_ids(0..partitions))) {
            Ok(opened) => topic.add(opened),
            Err(error) => {
                // When undoing fails as well, the entry stays, and the next attempt or the next opening finds it.
                let _ = self.discard(&mut admin, name);
                return Err(error);
            }
        }
        let topic = Arc::new(topic);
        self.topics.write().insert(name.clone(), Arc::clone(&topic));
        Ok(topic)
    }

    pub(super) fn add_partitions(&self, name: &str, total: u32) -> Result<(), StoreError> {
        let mut admin = self.change()?;
        let topic = self.find(name)?;
        let name = topic.name();
        check_not_reserved(name)?;
        check_can_grow(name)?;
        let min = topic.partition_count().saturating_add(1);
        check_count(name, min, total)?;
        let known = topic.numbers();
        let missing: Vec<PartitionId> = partition_ids(0..total).filter(|id| !known.contains(id)).collect();
        let promised = |id: &PartitionId| admin.list.has_partition(&TopicPartition::new(name.clone(), *id));
        let unexpected: Vec<PartitionId> = missing.iter().copied().filter(|id| !promised(id)).collect();
        self.check_free(name, &unexpected)?;
        let entry = TopicEntry { partition_count: total, ..entry_of(&admin, &topic) };
        admin.list.put(&*self.opener.vfs, &self.opener.root, entry)?;
        topic.add(self.open_new(&topic, missing.into_iter())?);
        Ok(())
    }

    pub(super) fn alter_config(&self, topic: &Arc<TopicShared>, config: TopicConfig) -> Result<(), StoreError> {
        let mut admin = self.change()?;
        check_not_reserved(topic.name())?;
        self.check_live(topic)?;
        let settings = topic.resolve(&config, self.config.default_topic_config())?;
        let entry = TopicEntry { config: entries_of(&config), ..entry_of(&admin, topic) };
        let listed = admin.list.put(&*self.opener.vfs, &self.opener.root, entry);
        if listed.is_ok() || admin.list.get(topic.name()).is_some_and(|entry| entry.config == entries_of(&config)) {
            // Also when the new list is there but not durable: it is what the next opening goes by.
            topic.apply(config, settings);
        }
        Ok(listed?)
    }

    /// Refuses a handle of a topic that was deleted, also when there is a new one of its name.
    pub(super) fn check_live(&self, topic: &Arc<TopicShared>) -> Result<(), StoreError> {
        let live = self.find(topic.name().as_str())?;
        if Arc::ptr_eq(&live, topic) { Ok(()) } else { Err(unknown_topic(topic.name().as_str())) }
    }

    pub(super) fn delete_topic(&self, name: &str) -> Result<(), StoreError> {
        let name = TopicName::parse(name).map_err(|_| unknown_topic(name))?;
        self.begin_deletion(&name)?;
        let mut admin = match self.change_ended(&name) {
            // It has been deleted all the same: the next opening removes its folders.
            Err(StoreError::Closed { .. }) => return Ok(()),
            admin => admin?,
        };
        // Somebody who creates a topic of this name may have been faster.
        if admin.list.get(&name).is_none_or(|entry| entry.state != TopicState::Deleting) {
            return Ok(());
        }
        self.discard(&mut admin, &name)
    }

    /// Notes on disk that a topic is being deleted, and lets nobody find it any more.
    fn begin_deletion(&self, name: &TopicName) -> Result<(), StoreError> {
        let mut admin = self.change()?;
        let topic = match self.find(name.as_str()) {
            Ok(topic) => topic,
            // An earlier attempt to create or delete it got stuck half way.
            Err(error) => {
                let entry = admin.list.get(name).cloned().ok_or(error)?;
                check_not_reserved(name)?;
                let entry = TopicEntry { state: TopicState::Deleting, ..entry };
                return Ok(admin.list.put(&*self.opener.vfs, &self.opener.root, entry)?);
            }
        };
        check_not_reserved(name)?;
        let entry = TopicEntry { state: TopicState::Deleting, ..entry_of(&admin, &topic) };
        let listed = admin.list.put(&*self.opener.vfs, &self.opener.root, entry);
        if admin.list.get(name).is_some_and(|entry| entry.state == TopicState::Deleting) {
            // Also when the new list is there but not durable: the next opening may delete the topic, so it takes no more records.
            self.topics.write().remove(name);
            admin.ending.insert(name.clone(), Arc::clone(&topic));
            drop(admin);
            topic.end();
        }
        Ok(listed?)
    }

    /// The right to change the root folder, once nobody is inside a deleted topic of this name any more: its folders are renamed
    /// then, under which nobody may go on writing. The wait is without `admin`, which somebody inside may be waiting for.
    fn change_ended(&self, name: &TopicName) -> Result<MutexGuard<'_, Admin>, StoreError> {
        loop {
            let admin = self.change()?;
            match admin.ending.get(name).filter(|topic| !topic.has_ended()).cloned() {
                None => return Ok(admin),
                Some(topic) => {
                    drop(admin);
                    topic.end();
                }
            }
        }
    }

    /// Takes a topic that is not live any more off the disk and off the list.
    fn discard(&self, admin: &mut Admin, name: &TopicName) -> Result<(), StoreError> {
        let (vfs, root) = (&*self.opener.vfs, &self.opener.root);
        let delay_ms = admin.ending.get(name).map_or(0, |topic| topic.settings().file_delete_delay_ms);
        if let Some(entry) = admin.list.get(name).filter(|entry| entry.state != TopicState::Deleting) {
            let entry = TopicEntry { state: TopicState::Deleting, ..entry.clone() };
            admin.list.put(vfs, root, entry)?;
        }
        if let Some(topic) = admin.ending.get(name) {
            topic.partitions().iter().for_each(Partition::detach_held);
        }
        let now = self.opener.clock.now();
        let mut renamed = Vec::new();
        let marked = removal::mark_deleted(vfs, root, name, now, &mut renamed);
        for dir in renamed {
            admin.removals.add(Deadline::after(&*self.opener.clock, delay_ms), dir);
        }
        marked?;
        // Before the list forgets the topic: a new one of its name must not inherit offsets from the checkpoints.
        self.opener.notes.forget(name)?;
        admin.list.remove(vfs, root, std::slice::from_ref(name))?;
        admin.ending.remove(name);
        Ok(())
    }

    /// Creates and opens partitions of a topic that the list has.
    fn open_new(
        &self,
        topic: &TopicShared,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<Vec<Partition>, StoreError> {
        let job = |partition| Job {
            id: TopicPartition::new(topic.name().clone(), partition),
            settings: topic.settings(),
            topic_id: topic.id(),
            create: true,
            lines: Lines::default(),
        };
        let jobs: Vec<Job> = partitions.map(job).collect();
        let results = in_parallel(self.settings.num_recovery_threads, &jobs, |job| self.opener.open(job));
        let opened = results.into_iter().filter_map(Result::transpose);
        let partitions: Vec<Partition> =
            opened.map(|opened| Ok(opened?.partition)).collect::<Result<_, StoreError>>()?;
        self.opener.vfs.sync_dir(&self.opener.root)?;
        // Before the first append: it says that these logs have no gaps.
        self.opener.notes.renew_all(&partitions)?;
        Ok(partitions)
    }

    fn check_new(&self, name: &TopicName, partitions: u32) -> Result<(), StoreError> {
        check_not_reserved(name)?;
        check_count(name, 1, partitions)?;
        let topics = self.topics.read();
        if topics.contains_key(name) {
            return Err(StoreError::TopicExists { name: name.clone() });
        }
        match topics.keys().find(|existing| existing.collides_with(name)) {
            Some(existing) => Err(StoreError::NameCollision { name: name.clone(), existing: existing.clone() }),
            None => Ok(()),
        }
    }

    /// Refuses when a folder of one of these partitions is there, such as one that was skipped at opening.
    fn check_free(&self, name: &TopicName, partitions: &[PartitionId]) -> Result<(), StoreError> {
        let (vfs, root) = (&*self.opener.vfs, &self.opener.root);
        let there = layout::partitions_of(vfs, root, name)?;
        match there.into_iter().find(|id| partitions.contains(&id.partition)) {
            Some(partition) => {
                let path = layout::partition_dir(root, &partition);
                Err(StoreError::FolderInTheWay { partition, path })
            }
            None => Ok(()),
        }
    }
}

/// The entry of a topic, or the one that a topic without any gets. An adopted topic's entry promises no partitions:
/// those that a copied folder lacks are not to be made up.
fn entry_of(admin: &Admin, topic: &TopicShared) -> TopicEntry {
    admin.list.get(topic.name()).cloned().unwrap_or_else(|| TopicEntry {
        name: topic.name().clone(),
        id: topic.id(),
        partition_count: 0,
        state: TopicState::Adopted,
        config: entries_of(&topic.config()),
    })
}

pub(super) fn unknown_topic(name: &str) -> StoreError {
    StoreError::UnknownTopic { name: crate::name::shortened(name) }
}

fn check_not_reserved(name: &TopicName) -> Result<(), StoreError> {
    if name.is_cluster_metadata() { Err(StoreError::ReservedTopic { name: name.clone() }) } else { Ok(()) }
}

/// Refuses the topics of coordinators, which choose a partition by a hash over the number of partitions.
fn check_can_grow(name: &TopicName) -> Result<(), StoreError> {
    if name.is_internal() { Err(StoreError::FixedPartitionCount { topic: name.clone() }) } else { Ok(()) }
}

fn check_count(topic: &TopicName, min: u32, got: u32) -> Result<(), StoreError> {
    if (min..=PARTITION_COUNT_MAX).contains(&got) {
        return Ok(());
    }
    Err(StoreError::PartitionCount { topic: topic.clone(), min, max: PARTITION_COUNT_MAX, got })
}
