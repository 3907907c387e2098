//! A topic: a name, an id, a config, and its partitions.
//!
//! What applies to a topic is what was set for it, over the store's defaults, over Kafka's. A topic that Kafka wrote and
//! that nobody created here is *adopted*: nobody here knows how long its records were meant to live, so they don't
//! expire unless its own config or the store's defaults say so.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Shared;
use super::error::StoreError;
use super::layout;
use crate::config::{TopicConfig, TopicSettings};
use crate::format::file_name::FileName;
use crate::format::{TopicId, TopicState};
use crate::name::{PartitionId, TopicName};
use crate::partition::Partition;

/// A topic of an open store. Clones share it; it ends with the store or with the topic's deletion.
#[derive(Clone)]
pub struct Topic {
    pub(super) store: Arc<Shared>,
    pub(super) shared: Arc<TopicShared>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", self.name()).finish_non_exhaustive()
    }
}

impl Topic {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &TopicName {
        self.shared.name()
    }

    /// The topic's id; `None` for folders of a Kafka that gave topics none.
    #[must_use]
    pub fn id(&self) -> Option<TopicId> {
        self.shared.id
    }

    /// One of the topic's partitions, counted from 0.
    ///
    /// # Errors
    /// [`StoreError::UnknownPartition`], [`StoreError::Closed`].
    pub fn partition(&self, partition: u32) -> Result<Partition, StoreError> {
        self.store.check_open()?;
        let state = self.shared.state.read();
        let id = i32::try_from(partition).ok().and_then(PartitionId::new);
        id.and_then(|id| state.partitions.get(&id).cloned()).ok_or_else(|| StoreError::UnknownPartition {
            topic: self.name().clone(),
            got: partition,
            partition_count: count(&state.partitions),
        })
    }

    /// All partitions that are there, in order. A folder copied from a Kafka cluster may lack some.
    #[must_use]
    pub fn partitions(&self) -> Vec<Partition> {
        self.shared.partitions()
    }

    /// What was set for this topic.
    #[must_use]
    pub fn config(&self) -> TopicConfig {
        self.shared.state.read().config.clone()
    }

    /// What was set for this topic, and for the keys that weren't, what the store's defaults set.
    #[must_use]
    pub fn effective_config(&self) -> TopicConfig {
        let config = self.config();
        config.over(&self.shared.defaults(self.store.config.default_topic_config()))
    }

    /// The config values in force, typed.
    #[must_use]
    pub fn settings(&self) -> Arc<TopicSettings> {
        self.shared.settings()
    }

    /// Replaces what was set for this topic: durably first, then for the open partitions.
    ///
    /// # Errors
    /// [`StoreError::Config`] for a refused value, [`StoreError::ReservedTopic`], [`StoreError::ReadOnly`] and
    /// [`StoreError::Closed`] with nothing changed; [`StoreError::UnknownTopic`] after its deletion; [`StoreError::Io`].
    pub fn alter_config(&self, config: TopicConfig) -> Result<(), StoreError> {
        self.store.alter_config(&self.shared, config)
    }
}

/// What the handles of a topic share.
#[derive(Debug)]
pub(super) struct TopicShared {
    name: TopicName,
    id: Option<TopicId>,
    pub(super) kind: TopicState,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    config: TopicConfig,
    settings: Arc<TopicSettings>,
    partitions: BTreeMap<PartitionId, Partition>,
}

impl TopicShared {
    /// A topic without partitions yet.
    ///
    /// # Errors
    /// [`StoreError::Config`] when its config and the store's defaults exclude each other.
    pub(super) fn new(
        name: TopicName,
        id: Option<TopicId>,
        kind: TopicState,
        config: TopicConfig,
        store_defaults: &TopicConfig,
    ) -> Result<Self, StoreError> {
        let settings = resolve(&name, kind, &config, store_defaults)?;
        Ok(Self { name, id, kind, state: RwLock::new(State { config, settings, partitions: BTreeMap::new() }) })
    }

    pub(super) const fn name(&self) -> &TopicName {
        &self.name
    }

    pub(super) const fn id(&self) -> Option<TopicId> {
        self.id
    }

    pub(super) fn settings(&self) -> Arc<TopicSettings> {
        Arc::clone(&self.state.read().settings)
    }

    pub(super) fn config(&self) -> TopicConfig {
        self.state.read().config.clone()
    }

    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.state.read().partitions.values().cloned().collect()
    }

    /// One more than the greatest partition's number.
    pub(super) fn partition_count(&self) -> u32 {
        count(&self.state.read().partitions)
    }

    /// What lies below this topic's own config.
    pub(super) fn defaults(&self, store_defaults: &TopicConfig) -> TopicConfig {
        defaults(self.kind, store_defaults)
    }

    /// The settings that `config` would give this topic.
    pub(super) fn resolve(
        &self,
        config: &TopicConfig,
        store_defaults: &TopicConfig,
    ) -> Result<Arc<TopicSettings>, StoreError> {
        resolve(&self.name, self.kind, config, store_defaults)
    }

    /// Puts another config in force for all partitions.
    pub(super) fn apply(&self, config: TopicConfig, settings: Arc<TopicSettings>) {
        let mut state = self.state.write();
        for partition in state.partitions.values() {
            partition.set_settings(Arc::clone(&settings));
        }
        state.config = config;
        state.settings = settings;
    }

    /// Takes in a partition whose folder names the topic `id`; the first one to name an id decides it.
    ///
    /// # Errors
    /// [`StoreError::TopicIdMismatch`] when another partition named another id.
    pub(super) fn admit(&mut self, root: &Path, id: Option<TopicId>, partition: Partition) -> Result<(), StoreError> {
        if let (Some(expected), Some(got)) = (self.id, id)
            && expected != got
        {
            let path = layout::partition_dir(root, partition.id()).join(FileName::partition_metadata().to_string());
            return Err(StoreError::TopicIdMismatch { partition: partition.id().clone(), path, expected, got });
        }
        self.id = self.id.or(id);
        self.add([partition]);
        Ok(())
    }

    /// Takes in partitions.
    pub(super) fn add(&self, partitions: impl IntoIterator<Item = Partition>) {
        let by_number = partitions.into_iter().map(|partition| (partition.id().partition, partition));
        self.state.write().partitions.extend(by_number);
    }
}

fn count(partitions: &BTreeMap<PartitionId, Partition>) -> u32 {
    let last = partitions.last_key_value().and_then(|(id, _)| u32::try_from(id.value()).ok());
    last.map_or(0, |last| last.saturating_add(1))
}

fn defaults(kind: TopicState, store_defaults: &TopicConfig) -> TopicConfig {
    match kind {
        TopicState::Adopted => store_defaults.over(&TopicConfig::new().retention_ms(None).retention_bytes(None)),
        TopicState::Created | TopicState::Deleting => store_defaults.clone(),
    }
}

/// The settings of a topic with this config.
///
/// # Errors
/// [`StoreError::Config`] that names the topic.
pub(super) fn resolve(
    name: &TopicName,
    kind: TopicState,
    config: &TopicConfig,
    store_defaults: &TopicConfig,
) -> Result<Arc<TopicSettings>, StoreError> {
    let settings = config.resolve(&defaults(kind, store_defaults));
    settings.map(Arc::new).map_err(|source| StoreError::Config { topic: Some(name.clone()), source })
}
