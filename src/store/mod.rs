//! All topics under one root folder.
//!
//! - Opening: [`StoreOptions`] (`open.rs`), over `root.rs` (the folder itself), `layout.rs` (what it holds) and `partitions.rs`
//!   (one partition).
//! - `failed.rs`: partitions that could not be opened; `report.rs`: what opening tells.
//! - Changing topics: `change.rs`, over `topics_file.rs` (the list on disk) and `removal.rs` (folders on their way out).
//! - `follow.rs`: what another process creates and deletes, for a read-only store.
//! - `internal_topics.rs` and `producer_ids.rs`: what coordinators of groups and transactions need of a store.
//! - `checkpoints.rs`: the store-wide files of offsets, and the mark of an orderly stop.
//!
//! # Locks
//!
//! `admin` is held over every change of the root folder, disk work included, so these come one after the other; `topics` is
//! held for a moment only and never over I/O. Appending and reading take neither. Neither is held while waiting for somebody who is
//! inside a partition: a callback in there may change the store.
//!
//! # Ending
//!
//! [`LogStore::close`] ends the store for every clone and every handle made from it. Where nobody calls it, dropping the
//! last [`LogStore`] and [`Topic`] ends it as a crash would: partitions refuse further work, the lock is released, nothing is flushed.
//! Either way, and before folders are renamed, every partition is ended and everybody who is inside has left.

mod change;
mod checkpoints;
mod error;
mod failed;
mod follow;
#[cfg(feature = "groups")]
mod internal_topics;
mod layout;
mod open;
mod parallel;
mod partitions;
#[cfg(feature = "client")]
mod producer_ids;
mod random;
mod removal;
mod report;
mod root;
mod topic;
mod topics_file;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

pub use error::StoreError;
pub use failed::FailedPartition;
pub use layout::{SkipReason, Skipped};
pub use open::StoreOptions;
pub use report::{OpenProgress, OpenReport, OpenWarning, PostponedWork};
pub use topic::Topic;

#[cfg(feature = "client")]
pub(crate) use producer_ids::CoordinatorClaim;

use crate::clock::Clock;
use crate::config::{StoreConfig, StoreSettings, TopicConfig};
use crate::metrics::{Counters, StoreMetrics};
use crate::name::{TopicName, TopicPartition};
use crate::partition::{CutFiles, LogError, Partition, SettledMarks};
use crate::types::Timestamp;
use crate::vfs::DirLock;
use parallel::in_parallel;
use partitions::Opener;
use removal::{Removals, Removed};
use topic::TopicShared;
use topics_file::TopicsFile;

/// An open store: topics of partitions in one folder. Clones share it; every method may be called from many threads.
///
/// # Example
///
/// ```
/// use stratalog::config::TopicConfig;
/// use stratalog::store::LogStore;
///
/// let folder = tempfile::tempdir()?;
/// let store = LogStore::open(folder.path())?;
/// let orders = store.create_topic("orders", 4, TopicConfig::new())?;
/// assert_eq!(orders.partitions().len(), 4);
/// store.close()?;
///
/// let store = LogStore::open(folder.path())?;
/// assert!(store.open_report().clean);
/// assert_eq!(store.topic("orders")?.partitions().len(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// What all handles of a store share.
#[derive(Debug)]
pub(crate) struct Shared {
    opener: Opener,
    config: StoreConfig,
    settings: StoreSettings,
    report: OpenReport,
    /// Whether somebody has asked for the report.
    is_report_read: AtomicBool,
    topics: RwLock<BTreeMap<TopicName, Arc<TopicShared>>>,
    /// Set, under `admin`, by whoever closes the store.
    closed: AtomicBool,
    admin: Mutex<Admin>,
    /// Whether somebody coordinates the transactions of this store.
    #[cfg(feature = "client")]
    has_coordinator: AtomicBool,
}

/// What belongs to whoever changes the root folder.
#[derive(Debug)]
struct Admin {
    list: TopicsFile,
    removals: Removals,
    /// Topics that are being deleted and whose folders still have their names.
    ending: BTreeMap<TopicName, Arc<TopicShared>>,
    /// Held until the store ends; none when it is read-only.
    lock: Option<Box<dyn DirLock>>,
}

impl LogStore {
    /// Opens the store in the folder `path` on this machine's disk, for reading and writing, with Kafka's defaults. The
    /// folder is created when it isn't there.
    ///
    /// # Errors
    /// As [`StoreOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        StoreOptions::new().open(path)
    }

    /// The store's folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.opener.root
    }

    /// What opening the store found and did. What recovery cut is also listed on disk, and every later opening reports it again
    /// until this is called once.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        if !self.shared.is_report_read.swap(true, Ordering::SeqCst) {
            let has_cuts = |id: &TopicPartition| {
                self.shared.report.partitions.iter().any(|found| found.id == *id && !found.cuts.is_empty())
            };
            let partitions = self.shared.own_partitions().into_iter();
            partitions.filter(|partition| has_cuts(partition.id())).for_each(|partition| partition.forget_cut_list());
        }
        &self.shared.report
    }

    /// The config that the store was opened with.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.shared.config
    }

    /// What the store did since it was opened.
    #[must_use]
    pub fn metrics(&self) -> StoreMetrics {
        let cuts = self.shared.cut_files();
        let counters = self.shared.opener.counters.snapshot();
        StoreMetrics { cut_files: cuts.files, cut_file_bytes: cuts.bytes, ..counters }
    }

    /// Removes the `.cut` files of all partitions, see [`Partition::remove_cut_files`]. Returns what is gone.
    ///
    /// # Durability
    /// None is promised: after a power loss the files may be back.
    ///
    /// # Errors
    /// The first failure, as [`StoreError::Log`]; the other partitions were rid of theirs nevertheless. [`StoreError::ReadOnly`],
    /// [`StoreError::Closed`].
    pub fn remove_cut_files(&self) -> Result<CutFiles, StoreError> {
        self.shared.check_writable()?;
        let nothing = CutFiles::default();
        let remove = |partition: &Partition| self.shared.unless_deleted(partition.remove_cut_files(), nothing);
        let removed: Vec<_> = self.shared.own_partitions().iter().map(remove).collect();
        Ok(removed.into_iter().try_fold(nothing, |total, one| Ok::<_, LogError>(total.plus(one?)))?)
    }

    /// Creates a topic of 1 to 100000 partitions.
    ///
    /// # Durability
    /// When it returns, the topic survives a power loss. When the machine or the process dies before, the next opening
    /// finds it in full or not at all.
    ///
    /// # Errors
    /// With nothing changed: [`StoreError::Name`], [`StoreError::NameCollision`], [`StoreError::TopicExists`],
    /// [`StoreError::ReservedTopic`], [`StoreError::PartitionCount`], [`StoreError::Config`],
    /// [`StoreError::FolderInTheWay`], [`StoreError::ReadOnly`], [`StoreError::Closed`]. Else [`StoreError::Io`] or [`StoreError::Log`].
    pub fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<Topic, StoreError> {
        let shared = self.shared.create_topic(&TopicName::parse(name)?, partitions, config)?;
        Ok(self.handle(shared))
    }

    /// The topic of this name. A read-only store looks for what another process created, also partitions, or deleted.
    ///
    /// # Errors
    /// [`StoreError::UnknownTopic`], [`StoreError::Closed`]; read-only, [`StoreError::Io`], [`StoreError::Damaged`] and
    /// [`StoreError::Config`] when looking fails.
    pub fn topic(&self, name: &str) -> Result<Topic, StoreError> {
        self.shared.check_open()?;
        self.shared.follow_topic(name)?;
        self.shared.find(name).map(|shared| self.handle(shared))
    }

    /// All topics by name, Kafka's internal ones included. None when the store is closed. A read-only store looks for what another
    /// process created or deleted.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        if self.shared.check_open().is_err() {
            return Vec::new();
        }
        // Where the root can't be read, those that are known are returned.
        self.shared.follow_topics().ok();
        self.shared.topics.read().values().map(|shared| self.handle(Arc::clone(shared))).collect()
    }

    /// Deletes a topic. Its partitions refuse further work at once; what readers hold stays valid; its files go
    /// `file.delete.delay.ms` later, by maintenance or the next opening.
    ///
    /// # Durability
    /// When it returns, the deletion survives a power loss.
    ///
    /// # Errors
    /// With nothing changed: [`StoreError::UnknownTopic`], [`StoreError::ReservedTopic`], [`StoreError::ReadOnly`],
    /// [`StoreError::Closed`]. After [`StoreError::Io`] the topic may be half gone: call it again, or open the store anew.
    pub fn delete_topic(&self, name: &str) -> Result<(), StoreError> {
        self.shared.delete_topic(name)
    }

    /// Gives a topic more partitions, `total` with those it has. Keys go to other partitions from then on.
    ///
    /// # Durability
    /// When it returns, the partitions survive a power loss.
    ///
    /// # Errors
    /// With nothing changed: [`StoreError::UnknownTopic`], [`StoreError::PartitionCount`] when `total` is not more than there are,
    /// [`StoreError::FixedPartitionCount`] for `__consumer_offsets` and `__transaction_state`, [`StoreError::ReservedTopic`],
    /// [`StoreError::FolderInTheWay`], [`StoreError::ReadOnly`], [`StoreError::Closed`].
    /// After [`StoreError::Io`] or [`StoreError::Log`], call it again, or open the store anew.
    pub fn add_partitions(&self, name: &str, total: u32) -> Result<(), StoreError> {
        self.shared.add_partitions(name, total)
    }

    /// Syncs every partition, then writes the checkpoints.
    ///
    /// # Durability
    /// On return everything appended before the call survives a power loss.
    ///
    /// # Errors
    /// The first failure, [`StoreError::Log`] or [`StoreError::Io`]; the other partitions were synced nevertheless.
    /// [`StoreError::PartitionFailed`] while a partition could not be opened, of whose end nothing is known.
    /// [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub fn flush(&self) -> Result<(), StoreError> {
        self.shared.check_writable()?;
        let flushed = self.shared.for_each_partition(Partition::flush);
        let noted = self.checkpoint();
        flushed?;
        noted?;
        self.shared.check_none_failed()
    }

    /// Writes the checkpoints, with which the next opening has less to verify. Maintenance does it from time to time.
    ///
    /// # Durability
    /// On return the checkpoints survive a power loss. It syncs no records. What is noted of a partition that could not be opened
    /// stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::ReadOnly`], [`StoreError::Closed`]. [`StoreError::Log`] when the checkpoints are written and a
    /// partition's folder fails, in which a mark of its log start stays then.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let _admin = self.shared.change()?;
        for partition in self.shared.own_partitions() {
            // Indexes and snapshots of producers only spare the next opening work: what can't be written now, it does.
            partition.persist_state().ok();
        }
        self.shared.write_checkpoints()
    }

    /// Ends the store in order: every handle made from it or a clone is refused from now on, everything is synced, the
    /// checkpoints and the mark of an orderly stop are written, the lock is released. Waits for every call that is inside. While a
    /// partition could not be opened there is no mark: the next opening verifies what lies above the recovery points.
    ///
    /// # Durability
    /// When it succeeds, everything that was appended survives a power loss; but nothing is done for a partition that could not be
    /// opened.
    ///
    /// # Errors
    /// The first failure; the store is closed and the lock released all the same, but the next opening will verify its end as
    /// after a crash. [`StoreError::Closed`] when a clone was closed before, or is being closed.
    pub fn close(self) -> Result<(), StoreError> {
        // A change of the root folder that goes on comes to its end first; later ones are refused.
        let admin = self.shared.admin.lock();
        if self.shared.closed.swap(true, Ordering::SeqCst) {
            return Err(self.shared.closed_error());
        }
        drop(admin);
        let closed = self.shared.close_partitions();
        self.shared.end_partitions();
        let mut admin = self.shared.admin.lock();
        let result = self.shared.write_end(closed);
        admin.lock = None;
        result
    }

    /// The partitions that maintenance looks after.
    pub(crate) fn maintained_partitions(&self) -> Result<Vec<Partition>, StoreError> {
        self.shared.check_writable()?;
        Ok(self.shared.own_partitions())
    }

    /// The intervals of the background work.
    pub(crate) fn settings(&self) -> &StoreSettings {
        &self.shared.settings
    }

    /// What tells the time.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.opener.clock
    }

    /// What counts the work that was done.
    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.opener.counters
    }

    /// Removes some files of deleted topics whose delay is over, at most 1024.
    pub(crate) fn remove_expired(&self, now: Timestamp) -> Result<Removed, StoreError> {
        let mut admin = self.shared.change()?;
        Ok(admin.removals.step(&*self.shared.opener.vfs, &*self.shared.opener.clock, now))
    }

    fn handle(&self, shared: Arc<TopicShared>) -> Topic {
        Topic { store: Arc::clone(&self.shared), shared }
    }
}

impl Shared {
    fn closed_error(&self) -> StoreError {
        StoreError::Closed { path: self.opener.root.clone() }
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::SeqCst) { Err(self.closed_error()) } else { Ok(()) }
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        self.check_open()?;
        if self.opener.read_only { Err(StoreError::ReadOnly { path: self.opener.root.clone() }) } else { Ok(()) }
    }

    /// Waits for the right to change the root folder.
    fn change(&self) -> Result<MutexGuard<'_, Admin>, StoreError> {
        let admin = self.lock_admin()?;
        self.check_writable().map(|()| admin)
    }

    /// Waits until nobody changes topics, and holds off who would; a read-only store has no such change, but handles.
    fn lock_admin(&self) -> Result<MutexGuard<'_, Admin>, StoreError> {
        let admin = self.admin.lock();
        self.check_open().map(|()| admin)
    }

    fn find(&self, name: &str) -> Result<Arc<TopicShared>, StoreError> {
        self.topics.read().get(name).cloned().ok_or_else(|| change::unknown_topic(name))
    }

    /// Every partition that is ours to write, in order.
    fn own_partitions(&self) -> Vec<Partition> {
        let topics = self.topics.read();
        let own = topics.values().filter(|topic| !topic.name().is_cluster_metadata());
        own.flat_map(|topic| topic.partitions()).collect()
    }

    /// Does `work` for every partition that is ours to write, whatever happens to the others; the first failure.
    fn for_each_partition(&self, work: impl Fn(&Partition) -> Result<(), LogError> + Sync) -> Result<(), LogError> {
        let work = |partition: &Partition| self.unless_deleted(work(partition), ());
        let results = in_parallel(self.settings.num_recovery_threads, &self.own_partitions(), work);
        results.into_iter().collect()
    }

    /// The result of work on a partition, `nothing` where its topic was deleted meanwhile.
    fn unless_deleted<T>(&self, result: Result<T, LogError>, nothing: T) -> Result<T, LogError> {
        match result {
            Err(LogError::Closed { .. }) if self.check_open().is_ok() => Ok(nothing),
            result => result,
        }
    }

    /// Writes the checkpoints. What only marks in the partitions' folders said is said there then, and the marks go.
    fn write_checkpoints(&self) -> Result<(), StoreError> {
        let partitions = self.own_partitions();
        let settled: Vec<_> = partitions.iter().map(Partition::settle_marks).collect();
        self.opener.notes.renew_all(&partitions)?;
        let give_up = |settled: Option<SettledMarks>| settled.map_or(Ok(()), SettledMarks::give_up);
        // A folder that fails keeps no other from its turn.
        let given_up: Vec<_> = settled.into_iter().map(|settled| settled.and_then(give_up)).collect();
        Ok(given_up.into_iter().collect::<Result<(), LogError>>()?)
    }

    fn cut_files(&self) -> CutFiles {
        let partitions = self.topics.read().values().flat_map(|topic| topic.partitions()).collect::<Vec<_>>();
        partitions.iter().fold(CutFiles::default(), |total, partition| total.plus(partition.cut_files()))
    }

    /// Flushes and ends every partition.
    fn close_partitions(&self) -> Result<(), LogError> {
        if self.opener.read_only { Ok(()) } else { self.for_each_partition(Partition::close) }
    }

    /// Writes down, after every partition has ended, what makes the next opening a clean one.
    fn write_end(&self, closed: Result<(), LogError>) -> Result<(), StoreError> {
        if self.opener.read_only {
            return Ok(());
        }
        self.write_checkpoints()?;
        closed?;
        if !self.has_failed() {
            checkpoints::put_clean_mark(&*self.opener.vfs, &self.opener.root)?;
        }
        Ok(())
    }

    /// Ends every partition, of topics that are being deleted too, and waits until nobody is inside one.
    fn end_partitions(&self) {
        let mut topics: Vec<_> = self.topics.read().values().cloned().collect();
        topics.extend(self.admin.lock().ending.values().cloned());
        topics.iter().for_each(|topic| topic.end());
        if !self.opener.read_only {
            // The next life of the store may give their files' names to others.
            topics.iter().flat_map(|topic| topic.partitions()).for_each(|partition| partition.detach_held());
        }
    }
}

impl Drop for Shared {
    /// Before the lock goes, so that no partition that somebody still holds writes beside the next store.
    fn drop(&mut self) {
        self.end_partitions();
    }
}
