//! Opening a store: check the folder, lock it, finish what a crash cut short, open the partitions, report.
//!
//! The order matters. Nothing is changed in a folder that isn't ours. The mark of an orderly stop is gone before the
//! first partition is touched, so that a crash from here on is seen as one. The list of topics is written before their
//! folders, so what it says and the disk lacks is created, and what it calls deleted and the disk has is renamed away.
//! A read-only store takes no lock and changes nothing: it leaves out what would have to be created.
//!
//! A partition that can't be opened is left out and reported (`failed.rs`). What can't be written now, on a full disk for
//! example, is a warning: a store that opens can free space.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};

use super::checkpoints::{self, Checkpointed, NoteKeeper};
use super::error::StoreError;
use super::failed::{FailedPartition, Lines};
use super::layout::{self, Found};
use super::parallel::in_parallel;
use super::partitions::{Job, Opened, Opener};
use super::removal::{self, Removals};
use super::report::{OpenProgress, OpenReport, OpenWarning, PostponedWork};
use super::root;
use super::topic::TopicShared;
use super::topics_file::{self, TopicsFile};
use super::{Admin, LogStore, Shared};
use crate::clock::{Clock, Deadline, SystemClock};
use crate::config::{StoreConfig, StoreSettings, TopicConfig};
use crate::format::{TopicEntry, TopicId, TopicState};
use crate::metrics::Counters;
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::segment::Residency;
use crate::types::ErrorKind;
use crate::vfs::{DirLock, DiskVfs, IoError, Vfs};

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
    /// After a crash it recovers what has to be. No partition keeps a store from opening: one that is damaged beyond recovery, or
    /// whose disk fails, is left out. Nor does a full disk. See [`LogStore::open_report`] for what was done, left out and put off.
    ///
    /// # Errors
    /// - [`StoreError::Locked`]: the folder is open for writing elsewhere.
    /// - [`StoreError::NotAStore`], [`StoreError::NotAFolder`], [`StoreError::Missing`] (read-only): nothing was changed.
    /// - [`StoreError::Damaged`]: the list of topics can't be understood. Without that file the store opens, with default configs.
    /// - [`StoreError::Config`]: the config is refused.
    /// - [`StoreError::Io`]: the disk failed at a file of the whole store.
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
        // What refuses the opening leaves the mark for the next one.
        let (mut list, is_listed) = TopicsFile::load(&*vfs, &self.root)?;
        let clean = self.take_clean_mark()?;
        self.report.clean = clean;
        let mut deleted = Vec::new();
        if !self.options.read_only {
            if !clean {
                // The folder of a partition, or a list of topics, that came just before the crash counts now, and must go on to.
                vfs.sync_dir(&self.root)?;
            }
            deleted = self.finish_deletions(&list);
            if !is_listed {
                root::sync_above(&*vfs, &self.root)?;
                self.begin_list(&mut list)?;
            }
        }
        let found = layout::scan(&*vfs, &self.root, |id| list.has_partition(id))?;
        let leftovers = found.deleted.clone();
        let noted = Checkpointed::load(&*vfs, &self.root, clean, &mut self.report.skipped)?;
        let plan = self.plan(&list, found, &noted)?;
        let is_ours = |job: &&Job| !job.id.topic.is_cluster_metadata();
        let jobs = || plan.iter().flat_map(|plan| &plan.jobs).filter(is_ours);
        let has_all_notes = jobs().all(|job| job.lines.unbroken.is_some());
        let notes = NoteKeeper::new(Arc::clone(&vfs), self.root.clone(), &noted, jobs().map(|job| &job.id));
        let opener = self.opener(clean, notes);
        let topics = self.open_partitions(&opener, plan)?;
        let mut shared = self.assemble(opener, list, topics, lock);
        shared.settle(leftovers, &deleted, has_all_notes);
        Ok(LogStore { shared: Arc::new(shared) })
    }

    /// Renames away the folders of topics whose deletion a crash cut short; returns the names of those that are gone from the
    /// disk. They leave the list once the checkpoints have forgotten them too.
    fn finish_deletions(&mut self, list: &TopicsFile) -> Vec<TopicName> {
        let (vfs, now) = (Arc::clone(&self.options.vfs), self.options.clock.now());
        let deleting = list.entries().filter(|entry| entry.state == TopicState::Deleting);
        let mut gone = Vec::new();
        for entry in deleting {
            // The scan that comes next finds what was renamed.
            match removal::mark_deleted(&*vfs, &self.root, &entry.name, now, &mut Vec::new()) {
                Ok(()) => gone.push(entry.name.clone()),
                Err(error) => self.report.warnings.push(OpenWarning::new(PostponedWork::TopicDeletion, error)),
            }
        }
        gone
    }

    /// Writes the first list of topics. On a full disk a folder that Kafka wrote opens without.
    fn begin_list(&mut self, list: &mut TopicsFile) -> Result<(), StoreError> {
        match list.save(&*self.options.vfs, &self.root) {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.report.warnings.push(OpenWarning::new(PostponedWork::TopicList, error));
                Ok(())
            }
            saved => Ok(saved?),
        }
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

    fn opener(&self, clean: bool, notes: NoteKeeper) -> Opener {
        Opener {
            vfs: Arc::clone(&self.options.vfs),
            clock: Arc::clone(&self.options.clock),
            counters: Arc::new(Counters::default()),
            root: self.root.clone(),
            clean,
            read_only: self.options.read_only,
            residency: Arc::new(Residency::of_process(self.options.vfs.open_files_max())),
            producer_expiration_ms: self.settings.producer_id_expiration_ms,
            notes: Arc::new(notes),
        }
    }

    /// What to open: each topic with its config and one job for each partition.
    fn plan(&mut self, list: &TopicsFile, found: Found, noted: &Checkpointed) -> Result<Vec<Plan>, StoreError> {
        self.report.skipped.extend(found.skipped);
        let mut present: BTreeSet<TopicPartition> = found.partitions.iter().cloned().collect();
        let mut by_topic: BTreeMap<TopicName, BTreeSet<PartitionId>> = BTreeMap::new();
        for id in &found.partitions {
            by_topic.entry(id.topic.clone()).or_default().insert(id.partition);
        }
        for entry in list.entries().filter(|entry| entry.state != TopicState::Deleting) {
            let partitions = by_topic.entry(entry.name.clone()).or_default();
            let listed = partition_ids(0..entry.partition_count);
            if self.options.read_only { continue } else { partitions.extend(listed) }
        }
        for (id, skipped) in found.unreadable {
            // Of a topic that is known it is a partition, which fails. Else its name proves nothing.
            match by_topic.get_mut(&id.topic) {
                Some(partitions) => {
                    partitions.insert(id.partition);
                    present.insert(id);
                }
                None => self.report.skipped.push(skipped),
            }
        }
        let is_deleting = |name: &TopicName| list.get(name).is_some_and(|entry| entry.state == TopicState::Deleting);
        let topics = by_topic.into_iter().filter(|(name, _)| !is_deleting(name));
        topics.map(|(name, partitions)| self.plan_topic(list.get(&name), noted, &present, name, partitions)).collect()
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
                lines: Lines::of(checkpointed, &partition),
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
        let mut by_topic: BTreeMap<TopicName, Vec<Outcome<'_>>> = BTreeMap::new();
        for (job, result) in jobs.iter().zip(results) {
            by_topic.entry(job.id.topic.clone()).or_default().push((job, result));
        }
        for (name, outcomes) in by_topic {
            if let Some(topic) = topics.get_mut(&name) {
                self.admit_all(opener, topic, outcomes);
            }
        }
        if !self.report.created.is_empty() {
            opener.vfs.sync_dir(&self.root)?;
        }
        self.report.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(topics.into_values().filter(|topic| topic.partition_count() > 0).collect())
    }

    /// Takes the partitions of one topic in, or notes why one could not be opened.
    fn admit_all(&mut self, opener: &Opener, topic: &mut TopicShared, outcomes: Vec<Outcome<'_>>) {
        let opened = |outcome: &Outcome<'_>| outcome.1.as_ref().ok().and_then(Option::as_ref)?.topic_id;
        let named: Vec<TopicId> = outcomes.iter().filter_map(opened).collect();
        topic.elect_id(&named);
        for (job, result) in outcomes {
            match result.and_then(|opened| self.admit(topic, job, opened)) {
                Ok(true) => {}
                Ok(false) => self.report.skipped.push(opener.vanished(&job.id)),
                Err(error) => {
                    let error = Arc::new(error);
                    let failed = FailedPartition { partition: job.id.clone(), error: Arc::clone(&error) };
                    self.report.failed.push(failed);
                    topic.add_failed(job.id.partition, error);
                }
            }
        }
    }

    /// Whether there is a partition to take in.
    fn admit(&mut self, topic: &TopicShared, job: &Job, opened: Option<Opened>) -> Result<bool, StoreError> {
        let Some(opened) = opened else { return Ok(false) };
        topic.check_id(&self.root, &job.id, opened.topic_id)?;
        self.report.cut_files = self.report.cut_files.plus(opened.partition.cut_files());
        topic.add([opened.partition]);
        self.report.partitions.push(opened.recovery);
        self.report.skipped.extend(opened.damage);
        let unwritten = opened.unwritten.map(|error| OpenWarning::new(PostponedWork::PartitionMetadata, error));
        self.report.warnings.extend(unwritten);
        if job.create {
            self.report.created.push(job.id.clone());
        }
        Ok(true)
    }

    fn assemble(
        self,
        opener: Opener,
        list: TopicsFile,
        topics: Vec<TopicShared>,
        lock: Option<Box<dyn DirLock>>,
    ) -> Shared {
        let admin = Admin { list, removals: Removals::default(), ending: BTreeMap::new(), lock };
        let topics = topics.into_iter().map(|topic| (topic.name().clone(), Arc::new(topic))).collect();
        Shared {
            opener: Opener { clean: true, ..opener },
            config: self.options.config,
            settings: self.settings,
            report: self.report,
            is_report_read: AtomicBool::new(false),
            topics: RwLock::new(topics),
            closed: AtomicBool::new(false),
            admin: Mutex::new(admin),
            #[cfg(feature = "client")]
            has_coordinator: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// The last part of opening a store for writing: `leftovers` are folders to remove, `deleted` topics to forget.
    /// `has_all_notes` says that every partition was noted.
    fn settle(&mut self, leftovers: Vec<PathBuf>, deleted: &[TopicName], has_all_notes: bool) {
        if self.opener.read_only {
            return;
        }
        let (vfs, clock) = (Arc::clone(&self.opener.vfs), Arc::clone(&self.opener.clock));
        let partitions = self.own_partitions();
        let (admin, warnings) = (self.admin.get_mut(), &mut self.report.warnings);
        leftovers.into_iter().for_each(|dir| admin.removals.add(Deadline::after(&*clock, 0), dir));
        let removed = admin.removals.step(&*vfs, &*clock, clock.now());
        warnings.extend(removed.failure.map(|error| OpenWarning::new(PostponedWork::Removal, error)));
        let are_noted = has_all_notes && partitions.iter().all(|partition| partition.has_noted_gaps());
        if self.report.clean && deleted.is_empty() && are_noted {
            return;
        }
        // Where a log has no gaps must be known before it grows.
        let (root, notes) = (&self.opener.root, &self.opener.notes);
        if let Err(error) = notes.renew_all(&partitions) {
            // The list keeps deleted topics until the checkpoints have forgotten them: a new topic of that name would inherit
            // their offsets.
            warnings.push(OpenWarning::new(PostponedWork::Checkpoints, error));
        } else if let Err(error) = forget(&mut admin.list, &*vfs, root, deleted) {
            warnings.push(OpenWarning::new(PostponedWork::TopicDeletion, error));
        }
    }
}

/// Takes topics off the list.
fn forget(list: &mut TopicsFile, vfs: &dyn Vfs, root: &Path, topics: &[TopicName]) -> Result<(), IoError> {
    if topics.is_empty() { Ok(()) } else { list.remove(vfs, root, topics) }
}

/// One partition to open, and what came of it.
type Outcome<'a> = (&'a Job, Result<Option<Opened>, StoreError>);

/// A topic and the partitions to open for it.
struct Plan {
    topic: TopicShared,
    jobs: Vec<Job>,
}

/// The legal numbers in a range.
pub(super) fn partition_ids(range: std::ops::Range<u32>) -> impl Iterator<Item = PartitionId> {
    range.filter_map(|number| i32::try_from(number).ok().and_then(PartitionId::new))
}
