//! The list of topics, in memory and in the file `stratalog-topics` (its bytes: `format/topic_list.rs`).
//!
//! A change is on disk before it is in memory: [`TopicsFile::change`] writes the whole list anew and keeps it only when
//! that worked. A folder that Kafka wrote has no entry until something is set for its topic.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::StoreError;
use super::layout;
use crate::config::TopicConfig;
use crate::format::{TopicEntry, TopicState, encode_topic_list, parse_topic_list};
use crate::name::{TopicName, TopicPartition};
use crate::vfs::{IoError, Vfs, read_whole, replace_whole};

/// The entries of the file by name.
#[derive(Debug, Default)]
pub(super) struct TopicsFile {
    entries: BTreeMap<TopicName, TopicEntry>,
}

impl TopicsFile {
    /// What the file in `root` says, and whether there is one.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] for a file that can't be understood: going on without it would lose the topics' config.
    pub(super) fn load(vfs: &dyn Vfs, root: &Path) -> Result<(Self, bool), StoreError> {
        let path = root.join(layout::TOPIC_LIST);
        let Some(bytes) = read_whole(vfs, &path)? else { return Ok((Self::default(), false)) };
        let list = parse_topic_list(&bytes).map_err(|source| StoreError::Damaged { path, source })?;
        let entries = list.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        Ok((Self { entries }, true))
    }

    pub(super) fn get(&self, name: &TopicName) -> Option<&TopicEntry> {
        self.entries.get(name)
    }

    /// Whether `id` must be there.
    pub(super) fn has_partition(&self, id: &TopicPartition) -> bool {
        let entry = self.entries.get(&id.topic).filter(|entry| entry.state != TopicState::Deleting);
        entry
            .is_some_and(|entry| u32::try_from(id.partition.value()).is_ok_and(|number| number < entry.partition_count))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &TopicEntry> {
        self.entries.values()
    }

    /// Puts `entry` in the place of the one of the same name, durably.
    pub(super) fn put(&mut self, vfs: &dyn Vfs, root: &Path, entry: TopicEntry) -> Result<(), IoError> {
        self.change(vfs, root, |entries| {
            entries.insert(entry.name.clone(), entry);
        })
    }

    /// Takes the entries of `names` out, durably.
    pub(super) fn remove(&mut self, vfs: &dyn Vfs, root: &Path, names: &[TopicName]) -> Result<(), IoError> {
        self.change(vfs, root, |entries| entries.retain(|name, _| !names.contains(name)))
    }

    /// Writes the list as it is, durably.
    pub(super) fn save(&mut self, vfs: &dyn Vfs, root: &Path) -> Result<(), IoError> {
        self.change(vfs, root, |_| ())
    }

    fn change(
        &mut self,
        vfs: &dyn Vfs,
        root: &Path,
        change: impl FnOnce(&mut BTreeMap<TopicName, TopicEntry>),
    ) -> Result<(), IoError> {
        let mut entries = self.entries.clone();
        change(&mut entries);
        replace_whole(vfs, &root.join(layout::TOPIC_LIST), &encode_topic_list(entries.values()))?;
        // From the rename on, the next opening may find the new list, whether or not it is durable.
        self.entries = entries;
        vfs.sync_dir(root)
    }
}

/// The config that an entry carries.
///
/// # Errors
/// [`StoreError::Config`] that names the topic.
pub(super) fn config_of(entry: &TopicEntry) -> Result<TopicConfig, StoreError> {
    let values = entry.config.iter().map(|(key, value)| (key, value));
    TopicConfig::from_map(values).map_err(|source| StoreError::Config { topic: Some(entry.name.clone()), source })
}

/// A config as an entry carries it.
pub(super) fn entries_of(config: &TopicConfig) -> Vec<(String, String)> {
    config.explicit_entries().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
