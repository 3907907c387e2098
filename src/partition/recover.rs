//! Opening a partition's folder: leftovers of interrupted work, verification after a crash, and what had to be cut
//! (reference section 10). `recover/` has each of these; here is their order, and what a partition is made of.
//!
//! Opening never fails for damaged batches. Where the log must be cut, what is cut stays in the folder under a name that
//! ends in `.cut`, and the report says file, position and offsets; the report of an opening that is cut short itself stands in the
//! next one.

mod adopt;
mod cuts;
mod leftovers;
mod reopen;
mod split;
mod start;
mod verify;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};

use parking_lot::{Mutex, RwLock};

use super::append::BuilderPool;
use super::cleaning::CleaningLock;
use super::cuts::CutGauge;
use super::delete::Removals;
use super::epochs::{EpochCache, EpochTable};
use super::follow::Following;
use super::inside::Status;
use super::notes::{Notes, Unbroken};
use super::offsets::Offsets;
use super::producers::ProducerTable;
use super::roll::draw_jitter;
use super::segments::SegmentList;
use super::snapshots::{self, Rebuild, Rebuilt};
use super::sync::GroupCommit;
use super::{Inner, LogError, Partition, Writer};
use crate::clock::{Clock, Moment};
use crate::config::TopicSettings;
use crate::format::LeaderEpochCheckpoint;
use crate::format::file_name::{FileKind, FileName, LEADER_EPOCH_CHECKPOINT, Suffix};
use crate::metrics::Counters;
use crate::name::TopicPartition;
use crate::segment::{ClosingEntry, Fault, Gaps, Residency, Segment, SegmentError, SegmentOptions, file_path};
use crate::types::{Offset, Position};
use crate::vfs::{IoError, Vfs, read_whole, unless_missing};

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
    /// Where the log was noted to have no gap, if it was.
    pub unbroken: Option<Unbroken>,
    pub notes: Arc<dyn Notes>,
}

/// Up to where a partition's active segment is known to be intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedPoint {
    /// The active segment's base offset.
    pub base_offset: Offset,
    /// All bytes of its `.log` before this position are whole batches.
    pub position: Position,
}

impl VerifiedPoint {
    pub(super) fn of(active: &Segment) -> Self {
        Self { base_offset: active.base_offset(), position: Position::new(active.size()) }
    }
}

/// What opening a partition did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionRecovery {
    /// The partition.
    pub id: TopicPartition,
    /// How many segments were verified batch by batch.
    pub recovered_segments: usize,
    /// What was cut off, by this opening or by an earlier one that nobody read the report of.
    pub cuts: Vec<Cut>,
    /// `leader-epoch-checkpoint`, where it was damaged or the batches contradicted it, and it was made anew. Indexes that were are not
    /// listed.
    pub rebuilt: Vec<PathBuf>,
    /// What could not be done, though the partition is open, on a full disk for example, and notes that the files contradict.
    pub warnings: Vec<String>,
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
    /// The log ended before this offset then; of an empty segment that nobody rolled to, its base offset.
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
    /// The base offset of the first segment that may hold anything unsynced, so that the recovery point is the checkpoint's.
    unsynced_from: Option<Offset>,
    /// Segments with an index that was made anew and is not synced.
    reindexed: BTreeSet<Offset>,
    /// Segments that have left the log and still have their names.
    below_start: Vec<Arc<Segment>>,
    /// Which gaps are the log's own.
    gaps: Gaps,
    /// Marks of the log start that the notes may not know of yet.
    trim_marks: Vec<PathBuf>,
    /// Marks of a log that starts over, which this partition must know of before they go.
    restart_marks: Vec<PathBuf>,
    /// Why the partition can be read only.
    obstacle: Option<LogError>,
}

impl Partition {
    /// Opens the folder, which must exist.
    pub(crate) fn open(params: OpenParams) -> Result<(Self, PartitionRecovery), LogError> {
        let mut following = match params.read_only {
            // Before any other file is looked at.
            true => Following::of(&*params.vfs, &params.dir).map_err(|error| LogError::segment(&params.id, error))?,
            false => Following::default(),
        };
        let opened = Opening::new(&params).run()?;
        if params.read_only {
            let seen = following.opened(&*params.vfs, &params.dir, &opened.list);
            seen.map_err(|error| LogError::segment(&params.id, error))?;
        }
        let now = params.clock.now();
        let report = opened.report.clone();
        let noted = params.recovery_point.unwrap_or(Offset::ZERO).min(opened.log_end);
        let recovery_point = if opened.unsynced_from.is_some() { noted } else { opened.log_end };
        let unbroken_from = match opened.gaps {
            // A writer knows what it appends from here on, a reader nothing.
            Gaps::Anywhere if params.read_only => Offset::MAX,
            Gaps::Anywhere => opened.log_end,
            Gaps::Below(limit) => limit.min(opened.log_end),
        };
        let has_noted_gaps = params.read_only || matches!(opened.gaps, Gaps::Below(limit) if limit <= opened.log_end);
        // What was compacted and cut off must not count as compacted when it is written anew.
        let compacted_to = params.first_dirty_offset.filter(|end| *end <= opened.log_end);
        let compacted_to = compacted_to.map(|end| end.min(opened.list.active().base_offset()));
        let epochs = EpochCache::new(Arc::clone(&params.vfs), params.dir.clone(), opened.epochs.clone());
        let inner = Inner {
            writer: Mutex::new(Writer {
                segment_created: now,
                jitter_ms: draw_jitter(&params.settings),
                last_flush: Moment::of(&*params.clock),
                last_snapshot: None,
                replayed: opened.log_end,
                following,
            }),
            id: params.id,
            dir: params.dir,
            vfs: params.vfs,
            clock: params.clock,
            counters: params.counters,
            read_only: params.read_only,
            residency: params.residency,
            settings: RwLock::new(params.settings),
            status: Status::default(),
            offsets: Offsets::new(opened.log_start, opened.log_end),
            recovery_point: AtomicI64::new(recovery_point.value()),
            first_dirty: AtomicI64::new(Offset::to_wire(compacted_to)),
            producers: Mutex::new(ProducerTable::default()),
            producer_expiration_ms: params.producer_expiration_ms,
            epochs,
            gate: RwLock::new(()),
            structure: Mutex::new(()),
            commits: GroupCommit::default(),
            builders: BuilderPool::default(),
            removals: Removals::new(opened.trim_marks.clone()),
            trash: Mutex::new(Vec::new()),
            notes: params.notes,
            ceiling: Mutex::new(None),
            unbroken_from: AtomicI64::new(unbroken_from.value()),
            has_noted_gaps: AtomicBool::new(has_noted_gaps),
            generation: AtomicU64::new(0),
            cleaning: CleaningLock::default(),
            uncleanable: Mutex::new(None),
            cut_files: CutGauge::default(),
            segments: RwLock::new(opened.list.clone()),
        };
        inner.expect_dense(&opened.list);
        inner.adopt(&mut inner.writer.lock(), opened)?;
        let partition = Self { inner: Arc::new(inner) };
        partition.count_cut_files();
        Ok((partition, report))
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
    /// Whether the partition is in use: files that readers hold must stay as they are.
    reopening: bool,
    /// The first segment whose transaction index is to be written anew, or completed.
    reindex_from: Option<Offset>,
    /// Segments that were verified and hold no batch of a producer with an id.
    plain: BTreeSet<Offset>,
    /// Where a log that was being emptied begins anew.
    restarted_at: Option<Offset>,
    /// The log start, as noted or as a mark in the folder says.
    noted_start: Option<Offset>,
    /// The log start as a mark in the folder says.
    marked_start: Option<Offset>,
    trim_marks: Vec<PathBuf>,
    restart_marks: Vec<PathBuf>,
    /// Segments with an index that was made anew.
    reindexed: BTreeSet<Offset>,
    /// Cuts that an earlier opening announced and did not finish.
    interrupted_cuts: Vec<Cut>,
    /// The files that say that the log is being cut.
    cut_marks: Vec<PathBuf>,
    /// Segments below the log start that nobody has verified: they wait to be removed.
    below_start: Vec<Arc<Segment>>,
    obstacle: Option<LogError>,
}

impl<'a> Opening<'a> {
    fn new(params: &'a OpenParams) -> Self {
        let report = PartitionRecovery {
            id: params.id.clone(),
            recovered_segments: 0,
            cuts: Vec::new(),
            rebuilt: Vec::new(),
            warnings: Vec::new(),
            log_end_offset: Offset::ZERO,
        };
        Self {
            params,
            epochs: EpochTable::default(),
            report,
            reopening: false,
            reindex_from: None,
            plain: BTreeSet::new(),
            restarted_at: None,
            noted_start: params.log_start_offset,
            marked_start: None,
            trim_marks: Vec::new(),
            restart_marks: Vec::new(),
            reindexed: BTreeSet::new(),
            interrupted_cuts: Vec::new(),
            cut_marks: Vec::new(),
            below_start: Vec::new(),
            obstacle: None,
        }
    }

    fn reopening(mut self) -> Self {
        self.reopening = true;
        self
    }

    fn run(mut self) -> Result<Opened, LogError> {
        let noted_epochs = self.read_epochs()?;
        self.epochs = noted_epochs.clone().unwrap_or_default();
        let mut names = self.settle_files()?;
        self.distrust_start();
        let bases = log_bases(names.iter().map(String::as_str));
        let mut segments = self.open_segments(&bases)?;
        let has_epochs = noted_epochs.is_some_and(|table| self.fits_epochs(&table, &segments));
        if !has_epochs {
            self.epochs = EpochTable::default();
        }
        self.drop_damaged_txn_indexes(&segments, &names)?;
        let mut unindexed = self.unindexed(&segments, &names);
        let unsynced_from = self.recover_segments(&mut segments, &mut unindexed)?;
        // An index that is made anew decides nothing about the log: that has been decided.
        self.rebuild_indexes(&mut segments, &unindexed)?;
        if !has_epochs {
            self.rebuild_epochs(&segments)?;
        }
        let mut log_end = self.log_end(&segments)?;
        let mut log_start = self.begin(&mut segments, log_end, &mut names)?;
        let active = match segments.pop() {
            Some(active) => active,
            None => {
                log_end = log_start;
                Arc::new(self.begin_at(log_start)?)
            }
        };
        log_start = log_start.min(log_end);
        self.report.log_end_offset = log_end;
        let list = SegmentList::new(segments, active);
        let producers = if self.params.read_only {
            // A writer takes those below out of the log before it verifies.
            let (below, above) = list.split_below(log_start);
            self.below_start = below;
            self.rebuild_producers(&above, true, log_end, &names)?
        } else {
            self.rebuild_producers(&list, true, log_end, &names)?
        };
        let gaps = self.gaps();
        self.warn_of_lost_end(log_end);
        self.warn_of_lost_start(list.first().base_offset(), gaps);
        self.report_interrupted_cuts()?;
        self.unmark_cut();
        let (epochs, report, obstacle) = (self.epochs, self.report, self.obstacle);
        let (trim_marks, restart_marks) = (self.trim_marks, self.restart_marks);
        Ok(Opened {
            list,
            epochs,
            producers,
            log_start,
            log_end,
            report,
            unsynced_from,
            reindexed: self.reindexed,
            below_start: self.below_start,
            gaps,
            trim_marks,
            restart_marks,
            obstacle,
        })
    }

    /// Ends what a crash interrupted and removes what belongs to no segment; returns the names that are left.
    fn settle_files(&mut self) -> Result<Vec<String>, LogError> {
        if self.params.read_only {
            let names = self.names()?;
            self.read_trim_marks(&names);
            // They are the writer's to remove.
            self.trim_marks.clear();
            return Ok(names);
        }
        if !self.params.clean {
            // A name that came or went just before the crash may count now, and must go on to.
            self.sync_dir()?;
        }
        let mut names = self.names()?;
        self.read_cut_list()?;
        if self.finish_restart(&names)? || self.finish_swaps(&names)? {
            names = self.names()?;
        }
        self.read_trim_marks(&names);
        self.read_cut_marks(&names);
        let bases = log_bases(names.iter().map(String::as_str));
        self.remove_orphans(&names, &bases)?;
        Ok(names)
    }

    fn rebuild_producers(
        &self,
        list: &SegmentList,
        is_verified: bool,
        log_end: Offset,
        names: &[String],
    ) -> Result<Rebuilt, LogError> {
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
            below: &self.below_start,
            clean: self.params.clean,
            read_only: self.params.read_only,
            is_verified,
            now: self.params.clock.now(),
            expiration_ms: self.params.producer_expiration_ms,
        };
        rebuild.run(&snapshots::offsets_of(names.iter().map(String::as_str))).map_err(|error| self.wrap(error))
    }

    /// Forgets transaction indexes that can't be right; the replay of the log makes them anew.
    fn drop_damaged_txn_indexes(&mut self, segments: &[Arc<Segment>], names: &[String]) -> Result<(), LogError> {
        let parsed = names.iter().filter_map(|name| FileName::parse(name));
        let indexed: BTreeSet<Offset> = parsed
            .filter(|name| name.kind() == FileKind::TxnIndex && name.suffix() == Suffix::None)
            .filter_map(|name| name.offset())
            .collect();
        for segment in segments.iter().filter(|segment| indexed.contains(&segment.base_offset())) {
            if !self.params.read_only && !segment.has_sane_txn_index().map_err(|error| self.wrap(error))? {
                self.reindex(segment);
            }
        }
        Ok(())
    }

    /// Forgets a segment's transaction index, which the replay of the log makes anew in memory.
    fn reindex(&mut self, segment: &Segment) {
        self.reindexed.insert(segment.base_offset());
        segment.begin_aborted_anew();
        self.replay_from(segment.base_offset());
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
        // A compaction beside a reopening removes its own drafts.
        self.io(unless_missing(self.params.vfs.remove_file(&self.params.dir.join(name))))
    }

    fn remove_all(&self, names: &[&FileName]) -> Result<(), LogError> {
        names.iter().try_for_each(|name| self.remove(&name.to_string()))
    }

    fn sync_dir(&self) -> Result<(), LogError> {
        self.io(self.params.vfs.sync_dir(&self.params.dir))
    }

    /// The table in the file; `None` when that is damaged, which the report says.
    fn read_epochs(&mut self) -> Result<Option<EpochTable>, LogError> {
        let path = self.params.dir.join(LEADER_EPOCH_CHECKPOINT);
        let Some(bytes) = self.io(read_whole(&*self.params.vfs, &path))? else {
            return Ok(Some(EpochTable::default()));
        };
        if let Ok(checkpoint) = LeaderEpochCheckpoint::parse(&bytes) {
            return Ok(Some(EpochTable::new(checkpoint.entries)));
        }
        Ok(None)
    }

    /// Whether a table says of its newest epoch what the batches say. An empty one doesn't where the log begins with a batch that has
    /// an epoch: the file was emptied or removed.
    fn fits_epochs(&self, table: &EpochTable, segments: &[Arc<Segment>]) -> bool {
        let epoch_at = |segment: Option<&Arc<Segment>>, offset: Offset| {
            let (_, header) = segment?.find(offset).ok()??;
            header.leader_epoch()
        };
        if self.params.read_only {
            return true;
        }
        match table.latest() {
            None => epoch_at(segments.first(), Offset::ZERO).is_none(),
            // One that begins at the log's end has no batches.
            Some((newest, start)) => epoch_at(segments.last(), start).is_none_or(|epoch| epoch == newest),
        }
    }

    /// The epochs as the batches tell them; those behind damage in a segment are left out.
    fn rebuild_epochs(&mut self, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        self.report.rebuilt.push(self.params.dir.join(LEADER_EPOCH_CHECKPOINT));
        let mut table = EpochTable::default();
        for segment in segments {
            for item in segment.headers_from(Offset::ZERO).map_err(|error| self.wrap(error))? {
                match item {
                    Ok((_, header)) => table.note(header.leader_epoch(), header.base_offset()),
                    Err(error) if error.position().is_some() => break,
                    Err(error) => return Err(self.wrap(error)),
                }
            }
        }
        self.epochs = table;
        Ok(())
    }

    fn options(&self) -> SegmentOptions {
        segment_options(&self.params.settings, self.params.read_only, &self.params.residency)
    }

    fn open_segments(&self, bases: &BTreeSet<Offset>) -> Result<Vec<Arc<Segment>>, LogError> {
        let mut segments = Vec::with_capacity(bases.len());
        for base in bases {
            let path = file_path(&self.params.dir, FileKind::Log, *base, Suffix::None);
            let size = self.io(self.params.vfs.metadata(&path))?.map_or(0, |metadata| metadata.size);
            let vfs = Arc::clone(&self.params.vfs);
            let segment = Segment::open(vfs, &self.params.dir, *base, size, self.options());
            segments.push(Arc::new(segment.map_err(|error| self.wrap(error))?));
        }
        Ok(segments)
    }

    /// The segments that lack an index.
    fn unindexed(&self, segments: &[Arc<Segment>], names: &[String]) -> BTreeSet<Offset> {
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let has = |name: FileName| names.contains(name.to_string().as_str());
        let is_whole = |base: Offset| has(FileName::offset_index(base)) && has(FileName::time_index(base));
        let bases = segments.iter().map(|segment| segment.base_offset());
        bases.filter(|base| !self.params.read_only && !is_whole(*base)).collect()
    }

    /// Makes missing indexes anew. A segment that is too wide for them is split.
    fn rebuild_indexes(
        &mut self,
        segments: &mut Vec<Arc<Segment>>,
        unindexed: &BTreeSet<Offset>,
    ) -> Result<(), LogError> {
        let mut index = 0;
        while let Some(segment) = segments.get(index).cloned() {
            if unindexed.contains(&segment.base_offset()) {
                let fault = segment.rebuild_indexes(ClosingEntry::Written).map_err(|error| self.wrap(error))?;
                segment.release();
                self.reindexed.insert(segment.base_offset());
                if matches!(fault, Some(Fault::Overflow)) {
                    self.split(segments, index)?;
                }
            }
            index += 1;
        }
        Ok(())
    }

    fn create(&self, base: Offset) -> Result<Segment, LogError> {
        let (vfs, dir) = (Arc::clone(&self.params.vfs), &self.params.dir);
        if self.params.read_only {
            return Segment::open(vfs, dir, base, 0, self.options()).map_err(|error| self.wrap(error));
        }
        let segment = Segment::create(vfs, dir, base, self.options()).map_err(|failed| self.wrap(failed.error))?;
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
            if matches!(self.gaps(), Gaps::Below(limit) if active.base_offset() >= limit) {
                active.expect_dense();
            }
            return active.open_following().map_err(|error| self.wrap(error));
        }
        active.end().map(|(_, next)| next).map_err(|error| self.wrap(error))
    }
}
