//! Opening a partition's folder: leftovers of interrupted work, verification after a crash, and what had to be cut
//! (reference section 10). `recover/` has the first two; here is their order, and what a partition is made of.
//!
//! Opening never fails for damaged batches. Where the log must be cut, what is cut stays in the folder under a name that
//! ends in `.cut`, and the report says file, position and offsets.

mod leftovers;
mod verify;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use parking_lot::{Mutex, RwLock};

use super::append::BuilderPool;
use super::cleaning::CleaningLock;
use super::cuts::CutGauge;
use super::epochs::{EpochCache, EpochTable};
use super::producers::ProducerTable;
use super::roll::draw_jitter;
use super::segments::SegmentList;
use super::snapshots::{self, Rebuild, Rebuilt};
use super::sync::GroupCommit;
use super::wait::Waiters;
use super::{Inner, LogError, Partition, Status, Writer};
use crate::clock::{Clock, Moment};
use crate::config::TopicSettings;
use crate::format::LeaderEpochCheckpoint;
use crate::format::file_name::{FileKind, FileName, LEADER_EPOCH_CHECKPOINT, Suffix};
use crate::metrics::Counters;
use crate::name::TopicPartition;
use crate::segment::{Residency, Scan, Segment, SegmentError, SegmentOptions, file_path};
use crate::types::{Offset, Position};
use crate::vfs::{IoError, Vfs, read_whole};

/// What opening a partition needs.
#[derive(Debug, Clone)]
pub(crate) struct OpenParams {
    pub vfs: Arc<dyn Vfs>,
    pub clock: Arc<dyn Clock>,
    pub counters: Arc<Counters>,
    pub dir: PathBuf,
    pub id: TopicPartition,
    pub settings: Arc<TopicSettings>,
    /// From `log-start-offset-checkpoint`.
    pub log_start_offset: Option<Offset>,
    /// From `recovery-point-offset-checkpoint`.
    pub recovery_point: Option<Offset>,
    /// Whether the store was closed in order.
    pub clean: bool,
    /// How far the active segment was written in this boot of the machine.
    pub verified: Option<VerifiedPoint>,
    pub read_only: bool,
    /// What the segments of the store may keep open.
    pub residency: Arc<Residency>,
    /// From `cleaner-offset-checkpoint`.
    pub first_dirty_offset: Option<Offset>,
    /// `producer.id.expiration.ms`.
    pub producer_expiration_ms: u64,
}

/// Up to where a partition's active segment is known to be intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedPoint {
    /// The active segment's base offset.
    pub base_offset: Offset,
    /// All bytes of its `.log` before this position are whole batches.
    pub position: Position,
}

/// What opening a partition did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionRecovery {
    /// The partition.
    pub id: TopicPartition,
    /// How many segments were verified batch by batch.
    pub recovered_segments: usize,
    /// What was cut off, in the order of offsets.
    pub cuts: Vec<Cut>,
    /// The log end offset after opening.
    pub log_end_offset: Offset,
}

/// A piece that recovery took out of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The `.log` it was in.
    pub file: PathBuf,
    /// Where it stands now.
    pub moved_to: PathBuf,
    /// Where in the `.log` it began.
    pub position: Position,
    /// How many bytes it has.
    pub bytes: u64,
    /// The log ends before this offset now.
    pub from_offset: Offset,
    /// Why the log could not go on there.
    pub reason: String,
}

/// The segments and epochs that opening found, before a [`Partition`] is made of them.
struct Opened {
    list: SegmentList,
    epochs: EpochTable,
    producers: Rebuilt,
    log_start: Offset,
    log_end: Offset,
    report: PartitionRecovery,
    /// Whether segments were verified, so that the recovery point is the checkpoint's.
    verified: bool,
}

impl Partition {
    /// Opens the folder, which must exist.
    pub(crate) fn open(params: OpenParams) -> Result<(Self, PartitionRecovery), LogError> {
        let opened = Opening::new(&params).run()?;
        let now = params.clock.now();
        let report = opened.report.clone();
        let recovery_point = if opened.verified {
            params.recovery_point.unwrap_or(Offset::ZERO).min(opened.log_end)
        } else {
            opened.log_end
        };
        let epochs =
            EpochCache::new(Arc::clone(&params.vfs), params.dir.clone(), opened.epochs.clone(), params.read_only);
        let inner = Inner {
            writer: Mutex::new(Writer {
                segment_created: now,
                jitter_ms: draw_jitter(&params.settings),
                last_flush: Moment::of(&*params.clock),
                last_snapshot: None,
                replayed: opened.log_end,
                following: Default::default(),
            }),
            id: params.id,
            dir: params.dir,
            vfs: params.vfs,
            clock: params.clock,
            counters: params.counters,
            read_only: params.read_only,
            residency: params.residency,
            settings: RwLock::new(params.settings),
            status: RwLock::new(Status::Online),
            log_end: AtomicI64::new(opened.log_end.value()),
            log_start: AtomicI64::new(opened.log_start.value()),
            recovery_point: AtomicI64::new(recovery_point.value()),
            first_unstable: AtomicI64::new(Offset::MAX.value()),
            first_dirty: AtomicI64::new(Offset::to_wire(params.first_dirty_offset)),
            producers: Mutex::new(ProducerTable::default()),
            producer_expiration_ms: params.producer_expiration_ms,
            epochs: Mutex::new(epochs),
            commits: GroupCommit::default(),
            waiters: Waiters::default(),
            builders: BuilderPool::default(),
            trash: Mutex::new(Vec::new()),
            cleaning: CleaningLock::default(),
            uncleanable: Mutex::new(None),
            cut_files: CutGauge::default(),
            segments: RwLock::new(opened.list.clone()),
        };
        inner.adopt(&mut inner.writer.lock(), opened)?;
        let partition = Self { inner: Arc::new(inner) };
        partition.count_cut_files();
        Ok((partition, report))
    }

    /// Brings a partition back that went offline: verifies what lies above the recovery point and writes it anew, so that
    /// nothing rests on bytes whose sync failed. Does nothing else to a partition that is online.
    ///
    /// # Durability
    /// On return every record of the log survives a power loss.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the disk still fails, and then the partition stays offline; [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn reopen(&self) -> Result<PartitionRecovery, LogError> {
        let mut writer = self.inner.writer.lock();
        match self.inner.check_writable() {
            Ok(()) | Err(LogError::Offline { .. }) => {}
            Err(error) => return Err(error),
        }
        let inner = &self.inner;
        let params = OpenParams {
            vfs: Arc::clone(&inner.vfs),
            clock: Arc::clone(&inner.clock),
            counters: Arc::clone(&inner.counters),
            dir: inner.dir.clone(),
            id: inner.id.clone(),
            settings: self.settings(),
            log_start_offset: Some(self.log_start_offset()),
            recovery_point: Some(self.recovery_point()),
            clean: false,
            verified: None,
            read_only: false,
            residency: Arc::clone(&inner.residency),
            first_dirty_offset: self.first_dirty_offset(),
            producer_expiration_ms: inner.producer_expiration_ms,
        };
        for segment in inner.list().iter() {
            // Their transaction indexes are about to be written anew.
            segment.detach().map_err(|error| inner.wrap(error))?;
        }
        let mut opened = Opening::new(&params).reopening().run()?;
        opened.list = inner.rewrite_above(&opened.list, self.recovery_point())?;
        inner.show(opened.list.clone(), opened.log_start, opened.log_end, opened.producers.first_unstable());
        inner.clear_uncleanable();
        let (end, report) = (opened.log_end, opened.report.clone());
        inner.adopt(&mut writer, opened)?;
        *inner.status.write() = Status::Online;
        writer.last_flush = Moment::of(&*inner.clock);
        self.count_cut_files();
        inner.make_durable(end)?;
        Ok(report)
    }
}

impl Inner {
    /// What follows from a log that was just opened: its producers, which segments the next flush must sync, the epochs' ends.
    fn adopt(&self, writer: &mut Writer, opened: Opened) -> Result<(), LogError> {
        self.adopt_producers(writer, opened.producers);
        if self.read_only {
            return Ok(());
        }
        if opened.verified {
            opened.list.sealed().iter().for_each(|segment| self.hand_over(Arc::clone(segment)));
        }
        let mut epochs = EpochCache::new(Arc::clone(&self.vfs), self.dir.clone(), opened.epochs.clone(), false);
        let (start, end) = (opened.log_start, opened.log_end);
        epochs
            .update(|table| table.truncate_from_end(end) | table.truncate_from_start(start) | opened.verified)
            .map_err(|error| self.wrap(error))?;
        *self.epochs.lock() = epochs;
        Ok(())
    }

    fn rewrite_above(&self, list: &SegmentList, recovery_point: Offset) -> Result<SegmentList, LogError> {
        let rewrite = |segment: &Arc<Segment>| {
            let size = Position::new(segment.size());
            segment.rewrite(size).map(Arc::new).map_err(|error| self.wrap(error))
        };
        let first = list.from(recovery_point).next().map_or(Offset::ZERO, |segment| segment.base_offset());
        let mut all = Vec::new();
        for segment in list.iter() {
            all.push(if segment.base_offset() >= first { rewrite(segment)? } else { Arc::clone(segment) });
        }
        let active = all.pop().unwrap_or_else(|| Arc::clone(list.active()));
        Ok(SegmentList::new(all, active))
    }

    /// Refuses to read a partition that was closed; one that is offline can still be read.
    pub(super) fn check_open(&self) -> Result<(), LogError> {
        match &*self.status.read() {
            Status::Closed => Err(LogError::Closed { partition: self.id.clone() }),
            _ => Ok(()),
        }
    }
}

/// Segment options from topic config.
pub(super) fn segment_options(settings: &TopicSettings, foreign: bool, residency: &Arc<Residency>) -> SegmentOptions {
    SegmentOptions {
        index_interval_bytes: u64::from(settings.index_interval_bytes),
        index_size_max: u64::from(settings.segment_index_bytes),
        preallocate: if settings.preallocate { u64::from(settings.segment_bytes) } else { 0 },
        foreign,
        residency: Arc::clone(residency),
    }
}

pub(super) fn log_bases<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<Offset> {
    names
        .filter_map(FileName::parse)
        .filter(|name| name.kind() == FileKind::Log && name.suffix() == Suffix::None)
        .filter_map(|name| name.offset())
        .collect()
}

/// One opening of a folder.
struct Opening<'a> {
    params: &'a OpenParams,
    epochs: EpochTable,
    report: PartitionRecovery,
    reopening: bool,
    /// The first segment whose transaction index is to be written anew, or completed.
    reindex_from: Option<Offset>,
    /// Segments that were verified and hold no batch of a producer with an id.
    plain: BTreeSet<Offset>,
}

impl<'a> Opening<'a> {
    fn new(params: &'a OpenParams) -> Self {
        let report = PartitionRecovery {
            id: params.id.clone(),
            recovered_segments: 0,
            cuts: Vec::new(),
            log_end_offset: Offset::ZERO,
        };
        let (epochs, plain) = (EpochTable::default(), BTreeSet::new());
        Self { params, epochs, report, reopening: false, reindex_from: None, plain }
    }

    /// Files that readers hold must stay: `.deleted` ones wait for their time.
    fn reopening(mut self) -> Self {
        self.reopening = true;
        self
    }

    fn run(mut self) -> Result<Opened, LogError> {
        self.epochs = self.read_epochs()?;
        let mut names = self.names()?;
        if !self.params.read_only && self.finish_swaps(&names)? {
            names = self.names()?;
        }
        let bases = log_bases(names.iter().map(String::as_str));
        if !self.params.read_only {
            self.remove_orphans(&names, &bases)?;
        }
        let (mut segments, rebuilt) = self.open_segments(&bases, &names)?;
        self.drop_damaged_txn_indexes(&segments, &names)?;
        // Rebuilt indexes are in memory only: like verified segments, they are handed over to the next flush.
        let verified = self.recover_segments(&mut segments)? | rebuilt;
        let mut log_end = self.log_end(&segments)?;
        let first = segments.first().map(|segment| segment.base_offset());
        let mut log_start = self.params.log_start_offset.max(first).unwrap_or(Offset::ZERO);
        if !segments.is_empty() && log_end < log_start {
            self.set_aside(&segments, log_start, "the log ends before the log start offset")?;
            segments.clear();
        }
        let active = match segments.pop() {
            Some(active) => active,
            None => {
                log_end = log_start;
                Arc::new(self.create(log_start)?)
            }
        };
        log_start = log_start.min(log_end);
        self.report.log_end_offset = log_end;
        let list = SegmentList::new(segments, active);
        let producers = self.rebuild_producers(&list, log_end, &names)?;
        Ok(Opened { list, epochs: self.epochs, producers, log_start, log_end, report: self.report, verified })
    }

    fn rebuild_producers(&self, list: &SegmentList, log_end: Offset, names: &[String]) -> Result<Rebuilt, LogError> {
        if !self.params.read_only && !self.params.clean {
            // An entry whose marker was lost with the tail.
            list.active().truncate_aborted(log_end).map_err(|error| self.wrap(error))?;
        }
        let rebuild = Rebuild {
            vfs: &*self.params.vfs,
            dir: &self.params.dir,
            list,
            log_end,
            from: self.reindex_from,
            plain: &self.plain,
            clean: self.params.clean,
            read_only: self.params.read_only,
            now: self.params.clock.now(),
            expiration_ms: self.params.producer_expiration_ms,
        };
        rebuild.run(&snapshots::offsets_of(names.iter().map(String::as_str))).map_err(|error| self.wrap(error))
    }

    /// Empties transaction indexes that can't be right; the replay of the log fills them again.
    fn drop_damaged_txn_indexes(&mut self, segments: &[Arc<Segment>], names: &[String]) -> Result<(), LogError> {
        let parsed = names.iter().filter_map(|name| FileName::parse(name));
        let indexed: BTreeSet<Offset> = parsed
            .filter(|name| name.kind() == FileKind::TxnIndex && name.suffix() == Suffix::None)
            .filter_map(|name| name.offset())
            .collect();
        for segment in segments.iter().filter(|segment| indexed.contains(&segment.base_offset())) {
            if !self.params.read_only && !segment.has_sane_txn_index() {
                self.reindex(segment)?;
            }
        }
        Ok(())
    }

    /// Empties a segment's transaction index.
    fn reindex(&mut self, segment: &Segment) -> Result<(), LogError> {
        segment.truncate_aborted(Offset::ZERO).map_err(|error| self.wrap(error))?;
        self.replay_from(segment.base_offset());
        Ok(())
    }

    fn wrap(&self, error: impl Into<SegmentError>) -> LogError {
        LogError::segment(&self.params.id, error)
    }

    fn io<T>(&self, result: Result<T, IoError>) -> Result<T, LogError> {
        result.map_err(|error| self.wrap(error))
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        let entries = self.io(self.params.vfs.read_dir(&self.params.dir))?;
        Ok(entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name).collect())
    }

    fn remove(&self, name: &str) -> Result<(), LogError> {
        self.io(self.params.vfs.remove_file(&self.params.dir.join(name)))
    }

    fn remove_all(&self, names: &[&FileName]) -> Result<(), LogError> {
        names.iter().try_for_each(|name| self.remove(&name.to_string()))
    }

    fn sync_dir(&self) -> Result<(), LogError> {
        self.io(self.params.vfs.sync_dir(&self.params.dir))
    }

    fn read_epochs(&self) -> Result<EpochTable, LogError> {
        let path = self.params.dir.join(LEADER_EPOCH_CHECKPOINT);
        let Some(bytes) = self.io(read_whole(&*self.params.vfs, &path))? else { return Ok(EpochTable::default()) };
        match LeaderEpochCheckpoint::parse(&bytes) {
            Ok(checkpoint) => Ok(EpochTable::new(checkpoint.entries)),
            Err(source) => Err(LogError::Checkpoint { partition: self.params.id.clone(), file: path, source }),
        }
    }

    fn options(&self) -> SegmentOptions {
        segment_options(&self.params.settings, self.params.read_only, &self.params.residency)
    }

    /// The segments, and whether an index was missing and had to be rebuilt.
    fn open_segments(&self, bases: &BTreeSet<Offset>, names: &[String]) -> Result<(Vec<Arc<Segment>>, bool), LogError> {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut segments = Vec::with_capacity(bases.len());
        let mut rebuilt = false;
        for base in bases {
            let path = file_path(&self.params.dir, FileKind::Log, *base, Suffix::None);
            let size = self.io(self.params.vfs.metadata(&path))?.map_or(0, |metadata| metadata.size);
            let vfs = Arc::clone(&self.params.vfs);
            let segment = Segment::open(vfs, &self.params.dir, *base, size, self.options());
            let segment = segment.map_err(|error| self.wrap(error))?;
            let indexes = [FileName::offset_index(*base), FileName::time_index(*base)];
            let is_missing = |index: &FileName| !names.contains(index.to_string().as_str());
            if !self.params.read_only && indexes.iter().any(is_missing) {
                segment.recover(Scan::Whole, &mut |_| {}).map_err(|error| self.wrap(error))?;
                rebuilt = true;
            }
            segments.push(Arc::new(segment));
        }
        Ok((segments, rebuilt))
    }

    fn create(&self, base: Offset) -> Result<Segment, LogError> {
        let (vfs, dir) = (Arc::clone(&self.params.vfs), &self.params.dir);
        if self.params.read_only {
            return Segment::open(vfs, dir, base, 0, self.options()).map_err(|error| self.wrap(error));
        }
        let segment = Segment::create(vfs, dir, base, self.options()).map_err(|error| self.wrap(error))?;
        self.io(self.params.vfs.sync_dir(dir))?;
        Ok(segment)
    }

    fn replay_from(&mut self, base: Offset) {
        self.reindex_from = Some(self.reindex_from.map_or(base, |from| from.min(base)));
    }

    /// The offset after the last batch. A read-only opening takes what is whole and intact as the log.
    fn log_end(&self, segments: &[Arc<Segment>]) -> Result<Offset, LogError> {
        let Some(active) = segments.last() else { return Ok(Offset::ZERO) };
        if self.params.read_only {
            return active.open_following().map_err(|error| self.wrap(error));
        }
        active.end().map(|(_, next)| next).map_err(|error| self.wrap(error))
    }
}
