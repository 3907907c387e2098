//! One segment: a `.log` with its sparse `.index` and `.timeindex` and the `.txnindex` that some have, all named after one base offset.
//!
//! A segment is written by one thread at a time (whoever holds its partition's append lock) and read by any number.
//! Readers see a batch once its bytes, and nothing else, are in place: the indexes are hints that may lag behind.
//!
//! What it leaves to the partition: which offsets are valid, when to roll, which segments exist.

mod cleaned;
mod descriptor;
mod error;
mod follow;
mod glance;
mod index_file;
mod log_file;
mod lookup;
mod offset_index;
mod recover;
mod residency;
mod time_index;
mod txn_index;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

pub(crate) use cleaned::CleanedSegment;
pub use error::SegmentError;
pub(crate) use log_file::LOG_SIZE_MAX;
pub(crate) use recover::{ClosingEntry, Fault, Gaps, Recovered, Scan};
pub(crate) use residency::Residency;

use crate::format::file_name::{FileKind, FileName, Suffix};
use crate::format::{AbortedTransaction, BatchHeader, FormatError, RecordBatch};
use crate::types::{Offset, Position, Timestamp};
use crate::vfs::{Vfs, unless_missing};
use log_file::LogFile;
use offset_index::{OffsetIndex, relative};
use time_index::TimeIndex;
use txn_index::TxnIndex;

/// What a segment needs to know of its topic's config.
#[derive(Debug, Clone)]
pub(crate) struct SegmentOptions {
    /// `index.interval.bytes`.
    pub index_interval_bytes: u64,
    /// `segment.index.bytes`: bounds how many entries an index may get.
    pub index_size_max: u64,
    /// Bytes to reserve for the `.log` when it is created (`preallocate`), 0 for none.
    pub preallocate: u64,
    /// Whether another process may be writing these files: then they are read by copying and never changed.
    pub foreign: bool,
    /// How many maps and open files are kept; all segments of a store share it.
    pub residency: Arc<Residency>,
}

/// One segment of a partition, for tools: its place, its size and its batches.
#[derive(Debug)]
pub struct Segment {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    base_offset: Offset,
    options: SegmentOptions,
    log: LogFile,
    offset_index: OffsetIndex,
    time_index: TimeIndex,
    txn_index: TxnIndex,
    growth: Mutex<Growth>,
    /// What was seen of a segment that another process writes.
    seen: Mutex<follow::Seen>,
}

/// What appending keeps track of.
#[derive(Debug, Clone, Default)]
struct Growth {
    /// Bytes since the last index entry, or since this segment was opened.
    unindexed_size: u64,
    /// The greatest timestamp and the last offset of its batch; `None` in the outer option: not looked up yet.
    greatest: Option<Option<(Timestamp, Offset)>>,
    /// What `greatest` comes from.
    source: Source,
    /// The first batch's greatest timestamp, likewise.
    first: Option<Option<Timestamp>>,
    /// The damage that hides the greatest timestamp, and how many bytes there were when it was met: so it is looked for once, and not by each
    /// tick.
    damage: Option<(u64, Position, FormatError)>,
}

/// What a greatest timestamp comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Source {
    /// The batches alone, all of them.
    Batches,
    /// The time index had a part in it.
    #[default]
    Index,
    /// What was appended behind damage. A damaged batch may have had a greater one, so no index and no answer is made of it.
    Remains,
}

impl Growth {
    /// What is known of a segment without batches.
    const fn of_empty() -> Self {
        Self { unindexed_size: 0, greatest: Some(None), source: Source::Batches, first: Some(None), damage: None }
    }

    /// Of a segment whose greatest timestamp damage hides.
    const fn behind_damage(unindexed_size: u64) -> Self {
        Self { unindexed_size, greatest: Some(None), source: Source::Remains, first: None, damage: None }
    }

    /// The greatest timestamp of all batches; `None` where that isn't known.
    fn known_greatest(&self) -> Option<Option<(Timestamp, Offset)>> {
        self.greatest.filter(|_| self.source != Source::Remains)
    }
}

/// The facts about a batch that a segment files it under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchFacts {
    pub last_offset: Offset,
    pub max_timestamp: Option<Timestamp>,
}

impl From<&BatchHeader> for BatchFacts {
    fn from(header: &BatchHeader) -> Self {
        Self { last_offset: header.last_offset(), max_timestamp: header.max_timestamp() }
    }
}

/// The name of one of a segment's files.
pub(crate) fn file_path(dir: &Path, kind: FileKind, base: Offset, suffix: Suffix) -> PathBuf {
    dir.join(FileName::numbered(kind, base).with_suffix(suffix).to_string())
}

fn create_file(vfs: &dyn Vfs, path: &Path, options: &SegmentOptions) -> Result<(), SegmentError> {
    let file = vfs.open(path, crate::vfs::OpenMode::Truncate)?;
    if options.preallocate > 0 {
        file.allocate(options.preallocate)?;
    }
    Ok(())
}

/// A segment that could not be created.
#[derive(Debug)]
pub(crate) struct CreateFailed {
    pub error: SegmentError,
    /// Whether a `.log` of it may be there that can't be removed.
    pub is_left_behind: bool,
}

impl Segment {
    /// Creates the `.log` in full or not at all; leftovers of that base must be gone.
    pub(crate) fn create(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        base_offset: Offset,
        options: SegmentOptions,
    ) -> Result<Self, CreateFailed> {
        let [draft, path] =
            [Suffix::Tmp, Suffix::None].map(|suffix| file_path(dir, FileKind::Log, base_offset, suffix));
        let failed = |error: SegmentError| CreateFailed { error, is_left_behind: false };
        let replaces = vfs.metadata(&path).map_err(|error| failed(error.into()))?.is_some();
        if let Err(error) = create_file(&*vfs, &draft, &options) {
            // What can't be removed now is removed when the partition is opened: such a name is no segment's.
            vfs.remove_file(&draft).ok();
            return Err(failed(error));
        }
        if let Err(error) = vfs.rename(&draft, &path) {
            let is_left_behind = replaces || unless_missing(vfs.remove_file(&path)).is_err();
            vfs.remove_file(&draft).ok();
            return Err(CreateFailed { error: error.into(), is_left_behind });
        }
        Ok(Self::new_over(Suffix::None, vfs, dir, base_offset, options))
    }

    /// As [`Segment::create`], under names that end in `suffix`.
    fn create_as(
        suffix: Suffix,
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        base_offset: Offset,
        options: SegmentOptions,
    ) -> Result<Self, SegmentError> {
        create_file(&*vfs, &file_path(dir, FileKind::Log, base_offset, suffix), &options)?;
        Ok(Self::new_over(suffix, vfs, dir, base_offset, options))
    }

    /// Opens the files of that base: the first `size` bytes of the `.log` are taken as they are.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        base_offset: Offset,
        size: u64,
        options: SegmentOptions,
    ) -> Result<Self, SegmentError> {
        if size > LOG_SIZE_MAX {
            return Err(SegmentError::TooLarge {
                file: file_path(dir, FileKind::Log, base_offset, Suffix::None),
                got: size,
            });
        }
        Ok(Self::over(vfs, dir, base_offset, size, options))
    }

    /// Another value over the files of this sealed segment, to append to.
    pub(crate) fn reopened(&self) -> Result<Self, SegmentError> {
        self.detach()?;
        self.persist_aborted()?;
        Self::open(Arc::clone(&self.vfs), &self.dir, self.base_offset, self.size(), self.options.clone())
    }

    /// The files as they stand.
    fn over(vfs: Arc<dyn Vfs>, dir: &Path, base: Offset, size: u64, options: SegmentOptions) -> Self {
        let foreign = options.foreign;
        let name = |kind| file_path(dir, kind, base, Suffix::None);
        let shared = || Arc::clone(&vfs);
        Self {
            log: LogFile::new(shared(), name(FileKind::Log), size, !foreign, foreign).within(&options.residency),
            offset_index: OffsetIndex::open(shared(), name(FileKind::OffsetIndex), base, &options),
            time_index: TimeIndex::open(shared(), name(FileKind::TimeIndex), base, &options),
            txn_index: TxnIndex::open(shared(), name(FileKind::TxnIndex), base, foreign),
            dir: dir.to_path_buf(),
            base_offset: base,
            options,
            growth: Mutex::new(Growth::default()),
            seen: Mutex::default(),
            vfs,
        }
    }

    /// No batches and no entries, whatever stands in the files.
    fn new_over(suffix: Suffix, vfs: Arc<dyn Vfs>, dir: &Path, base: Offset, options: SegmentOptions) -> Self {
        let foreign = options.foreign;
        let name = |kind| file_path(dir, kind, base, suffix);
        let shared = || Arc::clone(&vfs);
        Self {
            log: LogFile::new(shared(), name(FileKind::Log), 0, !foreign, foreign).within(&options.residency),
            offset_index: OffsetIndex::empty(shared(), name(FileKind::OffsetIndex), base, &options),
            time_index: TimeIndex::empty(shared(), name(FileKind::TimeIndex), base, &options),
            txn_index: TxnIndex::empty(shared(), name(FileKind::TxnIndex), base, foreign),
            dir: dir.to_path_buf(),
            base_offset: base,
            options,
            growth: Mutex::new(Growth::of_empty()),
            seen: Mutex::default(),
            vfs,
        }
    }

    /// The offset that its files are named after; no record in it has a smaller one.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// Bytes of batches in the `.log`.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// The `.log`'s path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.log.path()
    }

    /// The greatest timestamp of its batches; `None` when none has one.
    ///
    /// # Errors
    /// When the `.log` can't be read, or a damaged batch may have a greater one.
    pub fn largest_timestamp(&self) -> Result<Option<Timestamp>, SegmentError> {
        Ok(self.greatest()?.map(|(timestamp, _)| timestamp))
    }

    /// The batches in order, each with its position and its checksum verified; ends at the end of the log or after an error.
    pub fn batches(&self) -> impl Iterator<Item = Result<(Position, RecordBatch), SegmentError>> + '_ {
        let mut walk = Some(self.walk(Position::ZERO));
        std::iter::from_fn(move || {
            let found = walk.as_mut()?.next_header();
            let batch = found.and_then(|found| {
                let Some((position, header)) = found else { return Ok(None) };
                Ok(Some((position, self.log.parse_at(position, &header)?)))
            });
            if !matches!(batch, Ok(Some(_))) {
                walk = None;
            }
            batch.transpose()
        })
    }

    /// When the `.log` was last written.
    pub(crate) fn modified(&self) -> Result<Option<Timestamp>, SegmentError> {
        Ok(self.vfs.metadata(&self.log.path())?.and_then(|metadata| metadata.modified))
    }

    /// Whether either index has no room for another entry (one slot of the time index is kept for the end).
    pub(crate) fn is_index_full(&self) -> Result<bool, SegmentError> {
        let offsets = self.options.index_size_max / 8;
        let times = (self.options.index_size_max / 12).saturating_sub(1);
        Ok(self.offset_index.count()? as u64 >= offsets || self.time_index.count()? as u64 >= times)
    }

    /// Whether an offset can stand in this segment: at most 2^31-1 above the base.
    pub(crate) fn has_room_for(&self, last_offset: Offset) -> bool {
        relative(self.base_offset, last_offset).is_some()
    }

    /// Notes that the next segment begins at `next`: a batch that reaches there is damage.
    pub(crate) fn limit_to(&self, next: Offset) {
        self.log.limit_to(next);
    }

    /// Notes that it was appended to without a gap: one that is found is damage.
    pub(crate) fn expect_dense(&self) {
        self.log.expect_dense();
    }

    /// Notes that it may have gaps.
    pub(crate) fn allow_gaps(&self) {
        self.log.allow_gaps();
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.log.is_dense()
    }

    /// Every batch ends below this offset.
    pub(crate) fn limit(&self) -> Offset {
        self.log.limit()
    }

    /// Writes one encoded batch behind the published ones. Nobody sees it before [`Segment::publish`]; see also [`Segment::cut_back`].
    pub(crate) fn write(&self, batch: &[u8], last_offset: Offset) -> Result<(), SegmentError> {
        self.check_room(last_offset)?;
        self.look_up_greatest()?;
        self.log.write(batch)
    }

    fn check_room(&self, last_offset: Offset) -> Result<(), SegmentError> {
        if self.has_room_for(last_offset) {
            return Ok(());
        }
        Err(SegmentError::OffsetOverflow { file: self.log.path(), base_offset: self.base_offset, last_offset })
    }

    /// Makes a written batch visible and files it in the indexes.
    pub(crate) fn publish(&self, size: u64, facts: BatchFacts) {
        let position = Position::new(self.log.size());
        self.log.publish(position.plus(size).value());
        self.file_batch(position, size, facts);
    }

    /// Keeps both indexes and the counters up with a batch that stands at `position` (reference 4.1). An index that refuses its
    /// entry is wrong; the batch is in the log all the same, so both indexes begin anew behind it.
    fn file_batch(&self, position: Position, size: u64, facts: BatchFacts) {
        let mut growth = self.growth.lock();
        if position == Position::ZERO {
            growth.first = Some(facts.max_timestamp);
        }
        if let Some(known) = growth.greatest
            && let Some(timestamp) = facts.max_timestamp
            && known.is_none_or(|(greatest, _)| timestamp > greatest)
        {
            growth.greatest = Some(Some((timestamp, facts.last_offset)));
        }
        if growth.unindexed_size > self.options.index_interval_bytes {
            let greatest = growth.known_greatest().flatten();
            if self.add_entries(position, facts.last_offset, greatest).is_err() {
                self.clear_indexes().ok();
            }
            growth.unindexed_size = 0;
        }
        growth.unindexed_size += size;
    }

    fn add_entries(
        &self,
        position: Position,
        last_offset: Offset,
        greatest: Option<(Timestamp, Offset)>,
    ) -> Result<(), SegmentError> {
        // The time entry first: an offset entry says that the time index knows of everything before it.
        if let Some((timestamp, offset)) = greatest {
            self.time_index.maybe_append(timestamp, offset)?;
        }
        self.offset_index.append(last_offset, position)?;
        // So too in the files, of which a kill leaves what was written.
        if self.offset_index.file().is_page_pending() {
            // What can't be written now (a full disk) stays pending for the next page, the flush or the seal.
            self.persist_indexes().ok();
        }
        Ok(())
    }

    /// Drops both indexes, files included: lookups walk from the start until they are rebuilt.
    fn clear_indexes(&self) -> Result<(), SegmentError> {
        self.offset_index.file().clear()?;
        self.time_index.file().clear()
    }

    /// Removes a failed append's rest from the file.
    pub(crate) fn cut_back(&self) -> Result<(), SegmentError> {
        self.log.cut_back()
    }

    /// Bytes of the `.log`, cut at its published length.
    pub(crate) fn read(&self, position: Position, size: u64) -> Result<Bytes, SegmentError> {
        self.log.read(position, size)
    }

    /// All bytes of the `.log`, mapped.
    pub(crate) fn bytes(&self) -> Result<Bytes, SegmentError> {
        self.log.whole()
    }

    /// Bytes of the entries in the offset index and in the time index.
    pub(crate) fn index_sizes(&self) -> Result<(u64, u64), SegmentError> {
        Ok((self.offset_index.count()? as u64 * 8, self.time_index.count()? as u64 * 12))
    }

    /// Whether both indexes are in order and point into the `.log`; `false` where they can't be read.
    pub(crate) fn has_sane_indexes(&self) -> bool {
        matches!((self.offset_index.is_sane(self.size()), self.time_index.is_sane()), (Ok(true), Ok(true)))
    }

    /// The aborted transactions whose abort marker lies in this segment, in the order of their markers.
    pub(crate) fn aborted(&self) -> Result<Arc<Vec<AbortedTransaction>>, SegmentError> {
        let entries = self.txn_index.entries(self.size())?;
        if entries.is_empty() && self.options.foreign {
            self.check_still_there()?;
        }
        Ok(entries)
    }

    /// Adds an aborted transaction; its marker must lie behind the last one's. Durable with [`Segment::sync_all`].
    pub(crate) fn add_aborted(&self, entry: AbortedTransaction) -> Result<(), SegmentError> {
        self.txn_index.append(entry, self.size())
    }

    /// Drops the first aborted transaction whose marker is at or above `offset` and all behind it. An `offset` at or below the
    /// base clears a damaged file too.
    pub(crate) fn truncate_aborted(&self, offset: Offset) -> Result<(), SegmentError> {
        self.txn_index.truncate(offset, self.size())
    }

    /// Whether the `.txnindex` is in order; a missing one is.
    pub(crate) fn has_sane_txn_index(&self) -> Result<bool, SegmentError> {
        self.txn_index.is_sane(self.size())
    }

    /// Ends the segment's growth: the last time entry, trimmed and written indexes, preallocated space given back. Nothing is synced.
    pub(crate) fn seal(&self) -> Result<(), SegmentError> {
        self.look_up_greatest()?;
        self.close_time_index();
        // An offset entry says that the time index knows of everything before it: so that one is written first.
        self.time_index.file().seal()?;
        self.offset_index.file().seal()?;
        if self.options.preallocate > 0 {
            self.log.cut_back()?;
        }
        Ok(())
    }

    /// Makes the batches durable, and what else readers of committed records can't do without; not the other indexes.
    pub(crate) fn sync_log(&self) -> Result<(), SegmentError> {
        self.log.sync()?;
        self.txn_index.sync()
    }

    /// Makes batches and indexes durable.
    pub(crate) fn sync_all(&self) -> Result<(), SegmentError> {
        self.log.sync()?;
        if self.time_index.file().sync().and_then(|()| self.offset_index.file().sync()).is_err() {
            // A missing index is made anew by the next opening. One that is half there could be believed.
            self.clear_indexes().ok();
        }
        self.txn_index.sync()
    }

    /// Writes the aborted transactions that are still only in memory.
    pub(crate) fn persist_aborted(&self) -> Result<(), SegmentError> {
        self.txn_index.persist()
    }

    /// Forgets the aborted transactions. Those that are noted from here on replace the file when they are persisted.
    pub(crate) fn begin_aborted_anew(&self) {
        self.txn_index.begin_anew();
    }

    pub(crate) fn has_unwritten_aborted(&self) -> bool {
        self.txn_index.has_unwritten()
    }

    /// Writes the index entries that are still only in memory.
    pub(crate) fn persist_indexes(&self) -> Result<(), SegmentError> {
        self.time_index.file().persist()?;
        self.offset_index.file().persist()
    }

    /// Closes the `.log` until it is used again.
    pub(crate) fn release(&self) {
        self.log.release();
    }

    /// Opens or loads all that reading this segment needs, whatever then happens to the files' names.
    pub(crate) fn detach(&self) -> Result<(), SegmentError> {
        self.log.hold()?;
        self.offset_index.file().hold()?;
        self.time_index.file().hold()?;
        match self.aborted() {
            Ok(_) | Err(SegmentError::Format { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Renames its files to `.deleted`, the `.log` last, with the producer snapshot of its base; whoever holds the segment can
    /// go on reading it. Returns the new names.
    pub(crate) fn mark_deleted(&self) -> Result<Vec<PathBuf>, SegmentError> {
        self.log.hold()?;
        let name = |kind| file_path(&self.dir, kind, self.base_offset, Suffix::Deleted);
        self.offset_index.file().retire(name(FileKind::OffsetIndex))?;
        self.time_index.file().retire(name(FileKind::TimeIndex))?;
        let mut renamed = [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex].map(name).to_vec();
        let live_snapshot = file_path(&self.dir, FileKind::Snapshot, self.base_offset, Suffix::None);
        if self.vfs.metadata(&live_snapshot)?.is_some() {
            self.vfs.rename(&live_snapshot, &name(FileKind::Snapshot))?;
            renamed.push(name(FileKind::Snapshot));
        }
        self.log.rename(name(FileKind::Log))?;
        renamed.push(name(FileKind::Log));
        // Last: a reader in another process must not find a log without its aborted transactions.
        self.txn_index.rename(name(FileKind::TxnIndex), self.size())?;
        Ok(renamed)
    }

    /// Gives the `.log` the name of its base with `suffix`. Reading goes on meanwhile.
    pub(crate) fn rename_log(&self, suffix: Suffix) -> Result<(), SegmentError> {
        self.log.rename(file_path(&self.dir, FileKind::Log, self.base_offset, suffix))
    }

    /// Gives the indexes, those that exist, the names of their base with `suffix`. Reading goes on meanwhile.
    pub(crate) fn rename_indexes(&self, suffix: Suffix) -> Result<(), SegmentError> {
        let name = |kind| file_path(&self.dir, kind, self.base_offset, suffix);
        self.offset_index.file().rename(name(FileKind::OffsetIndex))?;
        self.time_index.file().rename(name(FileKind::TimeIndex))?;
        self.txn_index.rename(name(FileKind::TxnIndex), self.size())
    }

    /// Where its files stand, or would if they existed.
    fn paths(&self) -> Vec<PathBuf> {
        let indexes = [self.offset_index.file().path(), self.time_index.file().path(), self.txn_index.path()];
        indexes.into_iter().chain([self.log.path()]).collect()
    }

    /// Removes all its files at once: a replacement that isn't wanted.
    pub(crate) fn remove(&self) -> Result<(), SegmentError> {
        Ok(self.paths().iter().try_for_each(|path| unless_missing(self.vfs.remove_file(path)))?)
    }

    /// The error of a batch that can't be read here.
    pub(crate) fn format_error(&self, position: Position, source: FormatError) -> SegmentError {
        SegmentError::format(&self.log.path(), position, source)
    }
}
