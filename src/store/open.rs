//! Opening a store: check the folder, lock it, finish what a crash cut short, open the partitions, report.
//!
//! The order matters. Nothing is changed in a folder that isn't ours. The mark of an orderly stop is gone before the
//! first partition is touched, so that a crash from here on is seen as one. The list of topics is written before their
//! folders, so what it says and the disk lacks is created, and what it calls deleted and the disk has is renamed away.
//! A read-only store takes no lock and changes nothing: it leaves out what would have to be created.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};

use super::checkpoints::{self, Checkpointed, Checkpoints};
use super::error::StoreError;
use super::layout::{self, Found, Skipped};
use super::parallel::in_parallel;
use super::partitions::{Job, Opened, Opener};
use super::removal::{self, Removals};
use super::root;
use super::topic::TopicShared;
use super::topics_file::{self, TopicsFile};
use super::{Admin, LogStore, Shared};
use crate::clock::{Clock, SystemClock};
use crate::config::{StoreConfig, StoreSettings, TopicConfig};
use crate::format::{TopicEntry, TopicState};
use crate::metrics::Counters;
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::partition::PartitionRecovery;
use crate::segment::Residency;
use crate::vfs::{DirLock, DiskVfs, Vfs};

/// One step of opening a store: a partition was opened.
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
    /// Whether the store had been stopped in order; then nothing was verified.
    pub clean: bool,
    /// Every partition, in order, with what recovery did to it.
    pub partitions: Vec<PartitionRecovery>,
    /// Partitions that the list of topics has and whose folders were missing: they begin empty. A crash while a topic was
    /// being created leaves some; otherwise somebody removed the folders.
    pub created: Vec<TopicPartition>,
    /// Folders that were left out and files that could not be understood, in the order of their paths.
    pub skipped: Vec<Skipped>,
}

pub(super) type Progress = dyn Fn(&OpenProgress) + Send + Sync;

/// How to open a store.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use stratalog::config::TopicConfig;
/// use stratalog::store::StoreOptions;
/// use stratalog::vfs::MemoryVfs;
///
/// let store = StoreOptions::new().vfs(Arc::new(MemoryVfs::new())).open("/log")?;
/// store.create_topic("orders", 3, TopicConfig::new())?;
/// assert_eq!(store.topics().len(), 1);
/// store.close()?;
/// # Ok::<(), stratalog::store::StoreError>(())
/// ```
pub struct StoreOptions {
    vfs: Arc<dyn Vfs>,
    clock: Arc<dyn Clock>,
    config: StoreConfig,
    read_only: bool,
    progress: Option<Box<Progress>>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("config", &self.config)
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

impl StoreOptions {
    /// A store on this machine's disk and clock, for reading and writing, with Kafka's defaults.
    #[must_use]
    pub fn new() -> Self {
        let (vfs, clock) = (Arc::new(DiskVfs::new()), Arc::new(SystemClock));
        Self { vfs, clock, config: StoreConfig::new(), read_only: false, progress: None }
    }

    /// Where the files are. Default: the disk.
    #[must_use]
    pub fn vfs(self, vfs: Arc<dyn Vfs>) -> Self {
        Self { vfs, ..self }
    }

    /// What tells the time. Default: the system's clock.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// The store's config, and the defaults of its topics.
    #[must_use]
    pub fn config(self, config: StoreConfig) -> Self {
        Self { config, ..self }
    }

    /// Whether to leave everything as it is: no lock is taken, no file created, changed or removed, and what another
    /// process is writing, or Kafka has written, can be read. Default: no.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// Called after each partition that was opened, from the thread that opened it, one call at a time.
    #[must_use]
    pub fn on_progress(self, progress: impl Fn(&OpenProgress) + Send + Sync + 'static) -> Self {
        Self { progress: Some(Box::new(progress)), ..self }
    }

    /// Opens the store in the folder `path`, which is created when it isn't there, with the folders above it. The empty path is
    /// the current folder.
    ///
    /// # Durability
    /// When it returns, the folder and those above it that were made survive a power loss.
    ///
    /// After a crash it recovers what has to be; no damage in a partition's files keeps a store from opening.
    /// See [`LogStore::open_report`] for what was done.
    ///
    /// # Errors
    /// - [`StoreError::Locked`]: the folder is open for writing elsewhere.
    /// - [`StoreError::NotAStore`], [`StoreError::NotAFolder`], [`StoreError::Missing`] (read-only): nothing was changed.
    /// - [`StoreError::Damaged`]: the list of topics can't be understood. Without that file the store opens, with default configs.
    /// - [`StoreError::TopicIdMismatch`]: folders of two topics of one name.
    /// - [`StoreError::Config`]: the config is refused.
    /// - [`StoreError::Io`], [`StoreError::Log`]: the disk failed.
    pub fn open(self, path: impl AsRef<Path>) -> Result<LogStore, StoreError> {
        let root = root::root_of(path.as_ref());
        let settings = self.config.resolve().map_err(|source| StoreError::Config { topic: None, source })?;
        root::prepare(&*self.vfs, &root, self.read_only)?;
        let lock = if self.read_only { None } else { Some(root::lock(&*self.vfs, &root)?) };
        Opening { options: self, root, settings, report: OpenReport::default() }.run(lock)
    }
}

/// A store that is being opened.
struct Opening {
    options: StoreOptions,
    root: PathBuf,
    settings: StoreSettings,
    report: OpenReport,
}

impl Opening {
    fn run(mut self, lock: Option<Box<dyn DirLock>>) -> Result<LogStore, StoreError> {
        let vfs = Arc::clone(&self.options.vfs);
        let clean = self.take_clean_mark()?;
        self.report.clean = clean;
        let (mut list, is_listed) = TopicsFile::load(&*vfs, &self.root)?;
        if !self.options.read_only {
            finish_deletions(&*vfs, &self.root, &mut list, &*self.options.clock)?;
            if !is_listed {
                root::sync_above(&*vfs, &self.root)?;
                list.save(&*vfs, &self.root)?;
            }
        }
        let found = layout::scan(&*vfs, &self.root, |id| list.has_partition(id))?;
        let deleted = found.deleted.clone();
        let opener = self.opener(clean);
        let plan = self.plan(&list, found)?;
        let topics = self.open_partitions(&opener, plan)?;
        let store = self.assemble(opener, list, topics, lock);
        store.settle(deleted)?;
        Ok(store)
    }

    fn take_clean_mark(&self) -> Result<bool, StoreError> {
        let vfs = &*self.options.vfs;
        if self.options.read_only {
            return Ok(checkpoints::is_clean(vfs, &self.root)?);
        }
        let clean = checkpoints::take_clean_mark(vfs, &self.root)?;
        if clean {
            checkpoints::forget_verified(vfs, &self.root)?;
        }
        Ok(clean)
    }

    fn opener(&self, clean: bool) -> Opener {
        Opener {
            vfs: Arc::clone(&self.options.vfs),
            clock: Arc::clone(&self.options.clock),
            counters: Arc::new(Counters::default()),
            root: self.root.clone(),
            clean,
            read_only: self.options.read_only,
            residency: Arc::new(Residency::of_process(self.options.vfs.open_files_max())),
            producer_expiration_ms: self.settings.producer_id_expiration_ms,
        }
    }

    /// What to open: each topic with its config and one job for each partition.
    fn plan(&mut self, list: &TopicsFile, found: Found) -> Result<Vec<Plan>, StoreError> {
        let vfs = Arc::clone(&self.options.vfs);
        self.report.skipped = found.skipped;
        let checkpointed = Checkpointed::load(&*vfs, &self.root, self.report.clean, &mut self.report.skipped)?;
        let mut by_topic: BTreeMap<TopicName, BTreeSet<PartitionId>> = BTreeMap::new();
        for id in &found.partitions {
            by_topic.entry(id.topic.clone()).or_default().insert(id.partition);
        }
        for entry in list.entries().filter(|entry| entry.state != TopicState::Deleting) {
            let partitions = by_topic.entry(entry.name.clone()).or_default();
            let listed = partition_ids(0..entry.partition_count);
            if self.options.read_only { continue } else { partitions.extend(listed) }
        }
        let present: BTreeSet<TopicPartition> = found.partitions.into_iter().collect();
        let is_deleting = |name: &TopicName| list.get(name).is_some_and(|entry| entry.state == TopicState::Deleting);
        let topics = by_topic.into_iter().filter(|(name, _)| !is_deleting(name));
        topics
            .map(|(name, partitions)| self.plan_topic(list.get(&name), &checkpointed, &present, name, partitions))
            .collect()
    }

    fn plan_topic(
        &self,
        entry: Option<&TopicEntry>,
        checkpointed: &Checkpointed,
        present: &BTreeSet<TopicPartition>,
        name: TopicName,
        partitions: BTreeSet<PartitionId>,
    ) -> Result<Plan, StoreError> {
        let config = entry.map_or_else(|| Ok(TopicConfig::new()), topics_file::config_of)?;
        let state = entry.map_or(TopicState::Adopted, |entry| entry.state);
        let id = entry.and_then(|entry| entry.id);
        let topic = TopicShared::new(name.clone(), id, state, config, self.options.config.default_topic_config())?;
        let settings = topic.settings();
        let job = |partition| {
            let partition = TopicPartition::new(name.clone(), partition);
            Job {
                settings: Arc::clone(&settings),
                topic_id: id,
                create: !present.contains(&partition),
                log_start_offset: checkpointed.log_start_offsets.get(&partition).copied(),
                recovery_point: checkpointed.recovery_points.get(&partition).copied(),
                first_dirty_offset: checkpointed.first_dirty_offsets.get(&partition).copied(),
                verified: checkpointed.verified.get(&partition).copied(),
                id: partition,
            }
        };
        Ok(Plan { jobs: partitions.into_iter().map(job).collect(), topic })
    }

    /// Opens every partition of the plan; the report gets them in order.
    fn open_partitions(&mut self, opener: &Opener, plans: Vec<Plan>) -> Result<Vec<TopicShared>, StoreError> {
        let (topics, jobs): (Vec<TopicShared>, Vec<Vec<Job>>) =
            plans.into_iter().map(|plan| (plan.topic, plan.jobs)).unzip();
        let jobs: Vec<Job> = jobs.into_iter().flatten().collect();
        let opened = Mutex::new(0);
        let results = in_parallel(self.settings.num_recovery_threads, &jobs, |job| {
            let result = opener.open(job);
            if let (Ok(Some(done)), Some(progress)) = (&result, &self.options.progress) {
                let mut opened = opened.lock();
                *opened += 1;
                let recovered_segments = done.recovery.recovered_segments;
                progress(&OpenProgress {
                    partition: job.id.clone(),
                    recovered_segments,
                    opened: *opened,
                    total: jobs.len(),
                });
            }
            result
        });
        let mut topics: BTreeMap<TopicName, TopicShared> =
            topics.into_iter().map(|topic| (topic.name().clone(), topic)).collect();
        for (job, result) in jobs.iter().zip(results) {
            match (result?, topics.get_mut(&job.id.topic)) {
                (Some(opened), Some(topic)) => self.admit(topic, job, opened)?,
                _ => self.report.skipped.push(opener.vanished(&job.id)),
            }
        }
        if !self.report.created.is_empty() {
            opener.vfs.sync_dir(&self.root)?;
        }
        self.report.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(topics.into_values().filter(|topic| topic.partition_count() > 0).collect())
    }

    fn admit(&mut self, topic: &mut TopicShared, job: &Job, opened: Opened) -> Result<(), StoreError> {
        topic.admit(&self.root, opened.topic_id, opened.partition)?;
        self.report.partitions.push(opened.recovery);
        self.report.skipped.extend(opened.damage);
        if job.create {
            self.report.created.push(job.id.clone());
        }
        Ok(())
    }

    fn assemble(
        self,
        opener: Opener,
        list: TopicsFile,
        topics: Vec<TopicShared>,
        lock: Option<Box<dyn DirLock>>,
    ) -> LogStore {
        let admin = Admin { list, checkpoints: Checkpoints::default(), removals: Removals::default(), lock };
        let topics = topics.into_iter().map(|topic| (topic.name().clone(), Arc::new(topic))).collect();
        LogStore {
            shared: Arc::new(Shared {
                opener: Opener { clean: true, ..opener },
                config: self.options.config,
                settings: self.settings,
                report: self.report,
                topics: RwLock::new(topics),
                closed: AtomicBool::new(false),
                admin: Mutex::new(admin),
                #[cfg(feature = "client")]
                has_coordinator: AtomicBool::new(false),
            }),
        }
    }
}

/// A topic and the partitions to open for it.
struct Plan {
    topic: TopicShared,
    jobs: Vec<Job>,
}

/// The legal numbers in a range.
pub(super) fn partition_ids(range: std::ops::Range<u32>) -> impl Iterator<Item = PartitionId> {
    range.filter_map(|number| i32::try_from(number).ok().and_then(PartitionId::new))
}

/// Renames away the folders of topics whose deletion a crash cut short, and takes these topics off the list.
fn finish_deletions(vfs: &dyn Vfs, root: &Path, list: &mut TopicsFile, clock: &dyn Clock) -> Result<(), StoreError> {
    let deleting = list.entries().filter(|entry| entry.state == TopicState::Deleting);
    let names: Vec<TopicName> = deleting.map(|entry| entry.name.clone()).collect();
    if names.is_empty() {
        return Ok(());
    }
    for name in &names {
        removal::mark_deleted(vfs, root, name, clock.now())?;
    }
    Ok(list.remove(vfs, root, &names)?)
}
