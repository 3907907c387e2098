//! The `.index` of one segment: sparse pairs of a batch's last offset and the position of its first byte.
//!
//! A hint, never the truth: a lookup gives a position from which walking forward is sure to meet the wanted batch.
//! Entries strictly increase in offset (reference: Kafka's `OffsetIndex`).

use std::path::PathBuf;
use std::sync::Arc;

use super::SegmentOptions;
use super::error::SegmentError;
use super::index_file::IndexFile;
use crate::format::OffsetIndexEntry;
use crate::types::{Offset, Position};
use crate::vfs::Vfs;

const ENTRY: usize = OffsetIndexEntry::SIZE;

#[derive(Debug)]
pub(crate) struct OffsetIndex {
    base: Offset,
    file: IndexFile,
}

impl OffsetIndex {
    pub(crate) fn open(vfs: Arc<dyn Vfs>, path: PathBuf, base: Offset, options: &SegmentOptions) -> Self {
        Self { base, file: IndexFile::open(vfs, path, ENTRY, !options.foreign, Arc::clone(&options.residency)) }
    }

    pub(crate) fn empty(vfs: Arc<dyn Vfs>, path: PathBuf, base: Offset, options: &SegmentOptions) -> Self {
        Self { base, file: IndexFile::empty(vfs, path, ENTRY, !options.foreign, Arc::clone(&options.residency)) }
    }

    pub(crate) const fn file(&self) -> &IndexFile {
        &self.file
    }

    pub(crate) fn count(&self) -> Result<usize, SegmentError> {
        self.file.with(|bytes| bytes.len() / ENTRY)
    }

    /// Adds an entry; the offset must be above the last one's.
    pub(crate) fn append(&self, offset: Offset, position: Position) -> Result<(), SegmentError> {
        let refused = |expected| SegmentError::IndexOrder { file: self.file.path(), expected, got: offset };
        let relative_offset =
            relative(self.base, offset).ok_or_else(|| refused("an offset within 31 bits of the base"))?;
        let position = u32::try_from(position.value()).map_err(|_| refused("a position within 31 bits"))?;
        if self.last()?.is_some_and(|(last, _)| last >= offset) {
            return Err(refused("an offset above the last entry's"));
        }
        self.file.push(&OffsetIndexEntry { relative_offset, position }.encode())
    }

    /// The entry with the greatest offset.
    pub(crate) fn last(&self) -> Result<Option<(Offset, Position)>, SegmentError> {
        self.file.with(|bytes| (bytes.len() / ENTRY).checked_sub(1).and_then(|i| self.entry(bytes, i)))
    }

    /// Where to start walking for `offset`: the greatest entry at or below it, else the file's start.
    pub(crate) fn floor(&self, offset: Offset) -> Result<(Offset, Position), SegmentError> {
        self.file.with(|bytes| {
            let below = self.count_below(bytes, |entry, _| entry <= offset);
            below.checked_sub(1).and_then(|i| self.entry(bytes, i)).unwrap_or((self.base, Position::ZERO))
        })
    }

    /// The first entry that points at or behind `position`.
    pub(crate) fn ceiling(&self, position: Position) -> Result<Option<(Offset, Position)>, SegmentError> {
        self.file.with(|bytes| {
            let before = self.count_below(bytes, |_, indexed| indexed < position);
            self.entry(bytes, before)
        })
    }

    /// Drops every entry that points at or behind `end`.
    pub(crate) fn truncate_positions(&self, end: Position) -> Result<(), SegmentError> {
        let keep = self.file.with(|bytes| self.count_below(bytes, |_, position| position < end))?;
        self.file.truncate(keep)
    }

    /// Whether the last entry lies inside a `.log` of `size` bytes and above the base, as every sane index has it.
    pub(crate) fn is_sane(&self, size: u64) -> Result<bool, SegmentError> {
        self.file.with(|bytes| {
            let count = bytes.len() / ENTRY;
            let Some(last) = count.checked_sub(1) else { return true };
            let (Some((last_offset, last_position)), Some((first_offset, _))) =
                (self.entry(bytes, last), self.entry(bytes, 0))
            else {
                return false;
            };
            let ordered = count == 1 || first_offset < last_offset;
            ordered && last_offset >= self.base && last_position.value() < size
        })
    }

    /// How many entries stand before the first that fails `holds`; entries are sorted, so this is a binary search.
    fn count_below(&self, bytes: &[u8], holds: impl Fn(Offset, Position) -> bool) -> usize {
        let (mut low, mut high) = (0, bytes.len() / ENTRY);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(bytes, middle) {
                Some((offset, position)) if holds(offset, position) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    fn entry(&self, bytes: &[u8], index: usize) -> Option<(Offset, Position)> {
        let start = index.checked_mul(ENTRY)?;
        let entry = OffsetIndexEntry::parse(bytes.get(start..start + ENTRY)?).ok()?;
        Some((self.base.checked_add(u64::from(entry.relative_offset))?, Position::new(u64::from(entry.position))))
    }
}

/// `offset - base` if an index can hold it.
pub(crate) fn relative(base: Offset, offset: Offset) -> Option<u32> {
    let distance = offset.value().checked_sub(base.value())?;
    i32::try_from(distance).ok().and_then(|distance| u32::try_from(distance).ok())
}
