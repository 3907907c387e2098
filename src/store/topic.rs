//! A topic: a name, an id, a config, and its partitions.
//!
//! What applies to a topic is what was set for it, over the store's defaults, over Kafka's. A topic that Kafka wrote and
//! that nobody created here is *adopted*: nobody here knows how long its records were meant to live, so they don't
//! expire unless its own config or the store's defaults say so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::Shared;
use super::error::StoreError;
use super::failed::FailedPartition;
use super::layout;
use crate::config::{TopicConfig, TopicSettings};
use crate::format::file_name::FileName;
use crate::format::{TopicId, TopicState};
use crate::name::{PartitionId, TopicName, TopicPartition};
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
    /// [`StoreError::UnknownPartition`]; [`StoreError::PartitionFailed`] with the reason, for one that could not be opened;
    /// [`StoreError::Closed`].
    pub fn partition(&self, partition: u32) -> Result<Partition, StoreError> {
        self.store.check_open()?;
        let number = i32::try_from(partition).ok().and_then(PartitionId::new);
        let number = number.ok_or_else(|| self.shared.unknown(partition))?;
        self.shared.one(number)
    }

    /// All partitions that are open, in order. A folder copied from a Kafka cluster may lack some, and some may have failed:
    /// see [`Topic::failed_partitions`].
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

    /// Replaces what was set for this topic: on disk first, then for the open partitions.
    ///
    /// # Durability
    /// When it returns, the config survives a power loss.
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
    /// Whether every partition has ended and nobody is inside any more.
    ended: AtomicBool,
}

#[derive(Debug)]
struct State {
    config: TopicConfig,
    settings: Arc<TopicSettings>,
    partitions: BTreeMap<PartitionId, Partition>,
    failed: BTreeMap<PartitionId, Arc<StoreError>>,
}

impl State {
    /// One more than the greatest number of a partition, whether it could be opened or not.
    fn partition_count(&self) -> u32 {
        let open = self.partitions.last_key_value().map(|(number, _)| *number);
        let last = open.max(self.failed.last_key_value().map(|(number, _)| *number));
        last.map_or(0, |last| last.value().unsigned_abs().saturating_add(1))
    }
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
        let state = State { config, settings, partitions: BTreeMap::new(), failed: BTreeMap::new() };
        Ok(Self { name, id, kind, state: RwLock::new(state), ended: AtomicBool::new(false) })
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
        self.state.read().partition_count()
    }

    /// The numbers of all partitions, those that failed included.
    pub(super) fn numbers(&self) -> BTreeSet<PartitionId> {
        let state = self.state.read();
        state.partitions.keys().chain(state.failed.keys()).copied().collect()
    }

    /// One partition.
    ///
    /// # Errors
    /// [`StoreError::PartitionFailed`], [`StoreError::UnknownPartition`].
    fn one(&self, number: PartitionId) -> Result<Partition, StoreError> {
        let state = self.state.read();
        match (state.partitions.get(&number), state.failed.get(&number)) {
            (Some(open), _) => Ok(open.clone()),
            (None, Some(error)) => {
                let partition = TopicPartition::new(self.name.clone(), number);
                Err(StoreError::PartitionFailed { partition, source: Arc::clone(error) })
            }
            (None, None) => {
                drop(state);
                Err(self.lacks(number))
            }
        }
    }

    /// One partition that is open.
    pub(super) fn opened_one(&self, number: PartitionId) -> Option<Partition> {
        self.state.read().partitions.get(&number).cloned()
    }

    /// Whether that partition failed.
    pub(super) fn has_failed(&self, number: PartitionId) -> bool {
        self.state.read().failed.contains_key(&number)
    }

    /// The error about a partition that isn't there.
    pub(super) fn lacks(&self, number: PartitionId) -> StoreError {
        self.unknown(number.value().unsigned_abs())
    }

    fn unknown(&self, got: u32) -> StoreError {
        StoreError::UnknownPartition { topic: self.name.clone(), got, partition_count: self.partition_count() }
    }

    /// All partitions that failed.
    pub(super) fn failed(&self) -> Vec<FailedPartition> {
        let state = self.state.read();
        let failed = state.failed.iter().map(|(number, error)| FailedPartition {
            partition: TopicPartition::new(self.name.clone(), *number),
            error: Arc::clone(error),
        });
        failed.collect()
    }

    /// Notes that a partition could not be opened.
    pub(super) fn add_failed(&self, number: PartitionId, error: Arc<StoreError>) {
        self.state.write().failed.insert(number, error);
    }

    /// Ends every partition and waits until nobody is inside one, a compaction included. The caller must not hold what somebody
    /// inside may wait for, such as `admin`.
    pub(super) fn end(&self) {
        let partitions = self.partitions();
        partitions.iter().for_each(Partition::invalidate);
        partitions.iter().for_each(Partition::wait_for_cleaning);
        self.ended.store(true, Ordering::SeqCst);
    }

    /// Whether [`TopicShared::end`] has returned.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
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

    /// Gives a topic whose id nobody knows the one that most of its folders name; of those named equally often, the one that comes
    /// first in `named`. One folder of another topic must not outvote the rest.
    pub(super) fn elect_id(&mut self, named: &[TopicId]) {
        let votes = |id: &TopicId| named.iter().filter(|other| *other == id).count();
        // The last of equals wins a `max_by_key`.
        self.id = self.id.or_else(|| named.iter().rev().max_by_key(|id| votes(id)).copied());
    }

    /// Refuses a folder that names another topic.
    ///
    /// # Errors
    /// [`StoreError::TopicIdMismatch`].
    pub(super) fn check_id(
        &self,
        root: &Path,
        partition: &TopicPartition,
        id: Option<TopicId>,
    ) -> Result<(), StoreError> {
        match (self.id, id) {
            (Some(expected), Some(got)) if expected != got => {
                let path = layout::partition_dir(root, partition).join(FileName::partition_metadata().to_string());
                Err(StoreError::TopicIdMismatch { partition: partition.clone(), path, expected, got })
            }
            _ => Ok(()),
        }
    }

    /// Takes in partitions.
    pub(super) fn add(&self, partitions: impl IntoIterator<Item = Partition>) {
        let mut state = self.state.write();
        for partition in partitions {
            let number = partition.id().partition;
            state.failed.remove(&number);
            state.partitions.insert(number, partition);
        }
    }
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
