//! The `.txnindex` of one segment: the aborted transactions whose abort marker lies in it, in the order of their markers.
//!
//! The file exists only where there are entries. It is read once, when it is first asked for, and kept in memory; entries are
//! written as they are added and synced when asked. Where another process writes the file, it is read anew each time.
//! Nothing in it has a checksum: [`TxnIndex::is_sane`] is all that finds damage, and recovery rebuilds the file from the batches.
//!
//! Readers of entries that are in memory wait for no I/O: changing the file has a lock of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::SegmentError;
use crate::format::{AbortedTransaction, BatchHeader, FormatError};
use crate::types::{ErrorKind, Offset, Position};
use crate::vfs::{OpenMode, Vfs, replace_whole, unless_missing};

const ENTRY: usize = AbortedTransaction::SIZE;

#[derive(Debug)]
pub(crate) struct TxnIndex {
    vfs: Arc<dyn Vfs>,
    base: Offset,
    /// Whether another process may be writing the file: then nothing is kept in memory.
    foreign: bool,
    /// Held while the file is changed.
    file: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    /// `None` until the file was read.
    entries: Option<Arc<Vec<AbortedTransaction>>>,
    /// How many of the entries the file holds. The others wait for room on the disk.
    written: usize,
    /// Whether the file is not to be believed. It stands until another one takes its place, so that a crash in between leaves
    /// the next opening the same to find.
    is_stale: bool,
    /// How often the file was changed; 1 for a file from an earlier life of this segment, which may never have been synced.
    changes: u64,
    /// How many of the changes are known to be synced.
    synced: u64,
}

impl TxnIndex {
    /// The entries that stand in the file; a missing file has none.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, path: PathBuf, base: Offset, foreign: bool) -> Self {
        let state = State { path, entries: None, written: 0, is_stale: false, changes: 1, synced: 0 };
        Self { vfs, base, foreign, file: Mutex::default(), state: Mutex::new(state) }
    }

    /// No entries; a file of that name is overwritten with the first one.
    pub(crate) fn empty(vfs: Arc<dyn Vfs>, path: PathBuf, base: Offset, foreign: bool) -> Self {
        let state = State { path, entries: Some(Arc::default()), written: 0, is_stale: false, changes: 0, synced: 0 };
        Self { vfs, base, foreign, file: Mutex::default(), state: Mutex::new(state) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.state.lock().path.clone()
    }

    /// All entries. `log_size` bounds them: every one has its abort marker, a whole batch, in the `.log`.
    pub(crate) fn entries(&self, log_size: u64) -> Result<Arc<Vec<AbortedTransaction>>, SegmentError> {
        let path = {
            let state = self.state.lock();
            if let Some(entries) = &state.entries {
                return Ok(Arc::clone(entries));
            }
            state.path.clone()
        };
        let read = self.read(&path, log_size);
        let mut state = self.state.lock();
        // What was read may have been changed or renamed meanwhile; then somebody else has read it before.
        if let Some(entries) = &state.entries {
            return Ok(Arc::clone(entries));
        }
        let entries = Arc::new(read?);
        if !self.foreign {
            state.written = entries.len();
            state.entries = Some(Arc::clone(&entries));
        }
        Ok(entries)
    }

    fn read(&self, path: &Path, log_size: u64) -> Result<Vec<AbortedTransaction>, SegmentError> {
        let Some(metadata) = self.vfs.metadata(path)? else { return Ok(Vec::new()) };
        let entries_max = log_size / BatchHeader::PEEK_SIZE as u64;
        // What another process writes may be ahead of the `.log` that was looked at, or end within an entry.
        if !self.foreign && metadata.size > entries_max.saturating_mul(ENTRY as u64) {
            let (position, expected) = (Position::ZERO, "at most one entry for each batch of the segment");
            let got = i64::try_from(metadata.size / ENTRY as u64).unwrap_or(i64::MAX);
            let source = FormatError::Invalid { field: "entries", position, expected, got };
            return Err(SegmentError::format(path, position, source));
        }
        let size = usize::try_from(metadata.size.min(entries_max.saturating_mul(ENTRY as u64))).unwrap_or(0);
        let mut bytes = vec![0; size];
        let read = self.vfs.open(path, OpenMode::Read)?.read_at(&mut bytes, 0)?;
        bytes.truncate(if self.foreign { read - read % ENTRY } else { read });
        let parse = |(index, entry)| {
            AbortedTransaction::parse(entry)
                .map_err(|source| SegmentError::format(path, Position::new((index * ENTRY) as u64), source))
        };
        bytes.chunks(ENTRY).enumerate().map(parse).collect()
    }

    /// Whether the file is whole, its markers ascend from the segment's base on, and every entry says what a transaction that its
    /// marker ended can have been. A disk that fails says nothing about the file.
    pub(crate) fn is_sane(&self, log_size: u64) -> Result<bool, SegmentError> {
        let entries = match self.entries(log_size) {
            Ok(entries) => entries,
            Err(error @ SegmentError::Io(_)) => return Err(error),
            Err(_) => return Ok(false),
        };
        let can_have_been = |entry: &AbortedTransaction| {
            entry.first_offset < entry.last_offset && entry.last_stable_offset <= entry.last_offset.next()
        };
        Ok(entries.first().is_none_or(|first| first.last_offset >= self.base)
            && entries.is_sorted_by(|left, right| left.last_offset < right.last_offset)
            && entries.iter().all(can_have_been))
    }

    /// Adds an entry; its marker must lie in the segment, behind the last entry's. On a full disk, and where the file can't be opened,
    /// it is in memory until [`TxnIndex::persist`] writes it.
    pub(crate) fn append(&self, entry: AbortedTransaction, log_size: u64) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        let entries = self.entries(log_size)?;
        let path = self.path();
        let refused = |expected| SegmentError::IndexOrder { file: path.clone(), expected, got: entry.last_offset };
        if entry.last_offset < self.base {
            return Err(refused("a marker at or above the segment's base offset"));
        }
        if entries.last().is_some_and(|last| last.last_offset >= entry.last_offset) {
            return Err(refused("a marker behind the last entry's"));
        }
        self.state.lock().changes += 1;
        self.change(entries, |entries| entries.push(entry));
        match self.write_pending() {
            Err(error) if !may_be_written_later(&error) => {
                let entries = self.entries(log_size)?;
                self.change(entries, |entries| _ = entries.pop());
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Forgets what the file says. What is appended from here on is in memory, until [`TxnIndex::persist`] replaces the file.
    pub(crate) fn begin_anew(&self) {
        let _file = self.file.lock();
        let mut state = self.state.lock();
        state.entries = Some(Arc::default());
        state.written = 0;
        state.is_stale = true;
        state.changes += 1;
    }

    /// Writes the entries that are in memory only.
    pub(crate) fn persist(&self) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.replace_stale()?;
        self.write_pending()
    }

    fn replace_stale(&self) -> Result<(), SegmentError> {
        let (path, entries) = {
            let state = self.state.lock();
            if !state.is_stale {
                return Ok(());
            }
            (state.path.clone(), state.entries.clone().unwrap_or_default())
        };
        if entries.is_empty() {
            unless_missing(self.vfs.remove_file(&path))?;
        } else {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode()).collect();
            replace_whole(&*self.vfs, &path, &bytes)?;
        }
        let mut state = self.state.lock();
        state.written = entries.len();
        state.is_stale = false;
        Ok(())
    }

    /// Whether there are entries in memory only, or the file is not to be believed.
    pub(crate) fn has_unwritten(&self) -> bool {
        let state = self.state.lock();
        state.is_stale || state.entries.as_ref().is_some_and(|entries| entries.len() > state.written)
    }

    fn write_pending(&self) -> Result<(), SegmentError> {
        let (path, entries, written) = {
            let state = self.state.lock();
            if state.is_stale {
                return Ok(());
            }
            let entries = state.entries.clone().unwrap_or_default();
            (state.path.clone(), entries, state.written)
        };
        let pending: Vec<u8> = entries.iter().skip(written).flat_map(|entry| entry.encode()).collect();
        if pending.is_empty() {
            return Ok(());
        }
        // A first entry replaces what an earlier life of this name left behind.
        let mode = if written == 0 { OpenMode::Truncate } else { OpenMode::Create };
        let file = self.vfs.open(&path, mode)?;
        let end = (written * ENTRY) as u64;
        if let Err(error) = file.write_at(&pending, end) {
            // What can't be cut off either is overwritten by the next write, or found by the check at the next opening.
            file.set_size(end).ok();
            return Err(error.into());
        }
        self.state.lock().written = entries.len();
        Ok(())
    }

    /// Changes the entries in memory as those in the file were changed.
    fn change(&self, mut entries: Arc<Vec<AbortedTransaction>>, change: impl FnOnce(&mut Vec<AbortedTransaction>)) {
        let mut state = self.state.lock();
        // So that they are copied only where a reader holds them.
        state.entries = None;
        change(Arc::make_mut(&mut entries));
        state.entries = Some(entries);
    }

    /// Drops the first entry whose marker is at or above `offset` and all behind it; the file goes with the last one.
    /// At or below the base everything goes, whatever the file holds.
    pub(crate) fn truncate(&self, offset: Offset, log_size: u64) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        if offset <= self.base {
            return self.clear();
        }
        let entries = self.entries(log_size)?;
        let keep = entries.iter().take_while(|entry| entry.last_offset < offset).count();
        if keep == entries.len() {
            return Ok(());
        }
        if keep == 0 {
            return self.clear();
        }
        if self.state.lock().written > keep {
            self.vfs.open(&self.path(), OpenMode::Write)?.set_size((keep * ENTRY) as u64)?;
        }
        {
            let mut state = self.state.lock();
            state.changes += 1;
            state.written = state.written.min(keep);
        }
        self.change(entries, |entries| entries.truncate(keep));
        Ok(())
    }

    fn clear(&self) -> Result<(), SegmentError> {
        unless_missing(self.vfs.remove_file(&self.path()))?;
        let mut state = self.state.lock();
        state.entries = Some(Arc::default());
        state.written = 0;
        state.is_stale = false;
        state.changes += 1;
        state.synced = state.changes;
        Ok(())
    }

    /// Writes what the file holds once more. A sync that failed in an earlier life may have dropped it from what a later one writes.
    pub(crate) fn write_again(&self, log_size: u64) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        let entries = self.entries(log_size)?;
        let (path, written) = {
            let state = self.state.lock();
            (state.path.clone(), if state.is_stale { 0 } else { state.written })
        };
        if written == 0 {
            return Ok(());
        }
        let bytes: Vec<u8> = entries.iter().take(written).flat_map(|entry| entry.encode()).collect();
        self.vfs.open(&path, OpenMode::Write)?.write_at(&bytes, 0)?;
        self.state.lock().changes += 1;
        Ok(())
    }

    /// Makes all entries durable; a file that isn't there is left alone. Readers and appends don't wait for the disk.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        self.persist()?;
        let (file, seen) = {
            let state = self.state.lock();
            if state.synced == state.changes {
                return Ok(());
            }
            (self.vfs.open(&state.path, OpenMode::Write), state.changes)
        };
        unless_missing(file.and_then(|file| file.sync_data()))?;
        let mut state = self.state.lock();
        state.synced = state.synced.max(seen);
        Ok(())
    }

    /// Gives the file another name, or the one that a first entry will make. What the old file holds stays readable here,
    /// also where the new name comes to stand for another file.
    pub(crate) fn rename(&self, to: PathBuf, log_size: u64) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        let is_in_memory = match self.entries(log_size) {
            Ok(_) => !self.foreign,
            // A damaged file is renamed like any other. Readers, who find the damage in it, wait meanwhile.
            Err(SegmentError::Format { .. }) => false,
            Err(error) => return Err(error),
        };
        let waiting = (!is_in_memory).then(|| self.state.lock());
        let path = waiting.as_ref().map_or_else(|| self.path(), |state| state.path.clone());
        unless_missing(self.vfs.rename(&path, &to))?;
        let mut state = waiting.unwrap_or_else(|| self.state.lock());
        state.path = to;
        Ok(())
    }
}

/// Whether nothing but room on the disk or a descriptor was missing.
fn may_be_written_later(error: &SegmentError) -> bool {
    error.kind() == ErrorKind::StorageFull || matches!(error, SegmentError::Io(error) if error.failed_to_open())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ProducerId;
    use crate::vfs::MemoryVfs;

    const PATH: &str = "/00000000000000000100.txnindex";
    const LOG_SIZE: u64 = 10_000;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn entry(last_offset: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId::new(7).unwrap(),
            first_offset: offset(last_offset - 2),
            last_offset: offset(last_offset),
            last_stable_offset: offset(last_offset + 1),
        }
    }

    fn open(vfs: &MemoryVfs, foreign: bool) -> TxnIndex {
        TxnIndex::open(Arc::new(vfs.clone()), PATH.into(), offset(100), foreign)
    }

    fn markers(index: &TxnIndex) -> Vec<i64> {
        index.entries(LOG_SIZE).unwrap().iter().map(|entry| entry.last_offset.value()).collect()
    }

    fn size(vfs: &MemoryVfs, path: &str) -> Option<u64> {
        vfs.metadata(Path::new(path)).unwrap().map(|metadata| metadata.size)
    }

    fn put(vfs: &MemoryVfs, bytes: &[u8]) {
        vfs.open(Path::new(PATH), OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
    }

    #[test]
    fn markers_must_ascend_and_a_reopened_file_goes_on_after_its_old_end() {
        let vfs = MemoryVfs::new();
        let index = open(&vfs, false);
        assert_eq!((markers(&index), size(&vfs, PATH)), (vec![], None), "no entries, no file");
        index.append(entry(110), LOG_SIZE).unwrap();
        for not_behind in [110, 109] {
            let refused = index.append(entry(not_behind), LOG_SIZE);
            assert!(matches!(refused, Err(SegmentError::IndexOrder { got, .. }) if got == offset(not_behind)));
        }
        let reopened = open(&vfs, false);
        reopened.append(entry(120), LOG_SIZE).unwrap();
        assert!(reopened.append(entry(119), LOG_SIZE).is_err());
        assert_eq!(markers(&open(&vfs, false)), [110, 120]);
        assert_eq!(size(&vfs, PATH), Some(68));
    }

    #[test]
    fn entries_below_the_base_and_damaged_files_are_not_sane() {
        let vfs = MemoryVfs::new();
        let index = open(&vfs, false);
        assert!(index.is_sane(LOG_SIZE).unwrap());
        assert!(index.append(entry(99), LOG_SIZE).is_err());
        let good = [entry(100).encode(), entry(101).encode()].concat();
        put(&vfs, &good);
        assert!(open(&vfs, false).is_sane(LOG_SIZE).unwrap());
        let newer_version = [&[0, 1], &good[2..]].concat();
        let out_of_order = [entry(101).encode(), entry(100).encode()].concat();
        for bytes in [&entry(99).encode()[..], &good[..67], &newer_version, &out_of_order] {
            put(&vfs, bytes);
            assert!(!open(&vfs, false).is_sane(LOG_SIZE).unwrap(), "{bytes:?}");
        }
        put(&vfs, &good);
        assert!(!open(&vfs, false).is_sane(61).unwrap(), "more entries than batches");
    }

    #[test]
    fn a_damaged_file_is_an_error_until_it_is_cleared() {
        let vfs = MemoryVfs::new();
        put(&vfs, &[0xff; 34]);
        let index = open(&vfs, false);
        assert!(index.entries(LOG_SIZE).is_err() && index.append(entry(110), LOG_SIZE).is_err());
        index.truncate(offset(100), LOG_SIZE).unwrap();
        index.append(entry(110), LOG_SIZE).unwrap();
        assert_eq!(markers(&open(&vfs, false)), [110]);
    }

    #[test]
    fn entries_that_are_added_after_a_rename_reach_the_renamed_file() {
        let vfs = MemoryVfs::new();
        let index = open(&vfs, false);
        index.append(entry(110), LOG_SIZE).unwrap();
        let swap = format!("{PATH}.swap");
        index.rename((&swap).into(), LOG_SIZE).unwrap();
        index.append(entry(120), LOG_SIZE).unwrap();
        index.sync().unwrap();
        assert_eq!((size(&vfs, PATH), size(&vfs, &swap)), (None, Some(68)));
        assert_eq!(index.path(), Path::new(&swap));
    }

    #[test]
    fn a_rename_without_a_file_moves_the_place_of_the_first_entry() {
        let vfs = MemoryVfs::new();
        let index = open(&vfs, false);
        let swap = format!("{PATH}.swap");
        index.rename((&swap).into(), LOG_SIZE).unwrap();
        index.append(entry(110), LOG_SIZE).unwrap();
        assert_eq!((size(&vfs, PATH), size(&vfs, &swap)), (None, Some(34)));
    }

    #[test]
    fn a_cut_drops_markers_at_or_above_the_offset_and_an_empty_file() {
        let vfs = MemoryVfs::new();
        let index = open(&vfs, false);
        for marker in [110, 120, 130] {
            index.append(entry(marker), LOG_SIZE).unwrap();
        }
        let before = index.entries(LOG_SIZE).unwrap();
        index.truncate(offset(131), LOG_SIZE).unwrap();
        assert_eq!(markers(&index), [110, 120, 130]);
        index.truncate(offset(120), LOG_SIZE).unwrap();
        assert_eq!(markers(&index), [110]);
        assert_eq!(markers(&open(&vfs, false)), [110]);
        index.truncate(offset(101), LOG_SIZE).unwrap();
        assert_eq!((markers(&index), size(&vfs, PATH)), (vec![], None));
        assert_eq!(before.len(), 3, "what a reader holds stays as it was");
    }

    #[test]
    fn synced_entries_survive_a_power_loss() {
        let vfs = MemoryVfs::new();
        let index = open(&vfs, false);
        index.append(entry(110), LOG_SIZE).unwrap();
        index.sync().unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        index.append(entry(120), LOG_SIZE).unwrap();
        assert_eq!(markers(&open(&vfs.crash_image(), false)), [110]);
        index.sync().unwrap();
        assert_eq!(markers(&open(&vfs.crash_image(), false)), [110, 120]);
    }

    #[test]
    fn what_another_process_writes_is_read_anew_and_its_unfinished_entry_is_left_out() {
        let vfs = MemoryVfs::new();
        let (writer, reader) = (open(&vfs, false), open(&vfs, true));
        assert_eq!(markers(&reader), [0; 0]);
        writer.append(entry(110), LOG_SIZE).unwrap();
        assert_eq!(markers(&reader), [110]);
        vfs.open(Path::new(PATH), OpenMode::Write).unwrap().write_at(&[0; 10], 34).unwrap();
        assert_eq!(markers(&reader), [110]);
    }
}
