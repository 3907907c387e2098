//! The `.timeindex` of one segment: up to and including a batch's last offset, this is the greatest timestamp.
//!
//! Timestamps strictly increase, offsets never decrease (reference: Kafka's `TimeIndex`).

use std::path::PathBuf;
use std::sync::Arc;

use super::SegmentOptions;
use super::error::SegmentError;
use super::index_file::IndexFile;
use super::offset_index::relative;
use crate::format::TimeIndexEntry;
use crate::types::{Offset, Timestamp};
use crate::vfs::Vfs;

const ENTRY: usize = TimeIndexEntry::SIZE;

/// An entry, and where the one behind it leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub timestamp: Timestamp,
    pub offset: Offset,
    pub next: Option<Offset>,
}

#[derive(Debug)]
pub(crate) struct TimeIndex {
    base: Offset,
    file: IndexFile,
}

impl TimeIndex {
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

    /// Adds an entry unless its timestamp is the last one's; going backwards in either is an error.
    pub(crate) fn maybe_append(&self, timestamp: Timestamp, offset: Offset) -> Result<(), SegmentError> {
        let refused = |expected| SegmentError::IndexOrder { file: self.file.path(), expected, got: offset };
        if let Some((last_timestamp, last_offset)) = self.last()? {
            if offset < last_offset {
                return Err(refused("an offset not below the last entry's"));
            }
            if timestamp < last_timestamp {
                return Err(refused("a timestamp not below the last entry's"));
            }
            if timestamp == last_timestamp {
                return Ok(());
            }
        }
        let relative_offset =
            relative(self.base, offset).ok_or_else(|| refused("an offset within 31 bits of the base"))?;
        self.file.push(&TimeIndexEntry { timestamp, relative_offset }.encode())
    }

    /// The entry with the greatest timestamp.
    pub(crate) fn last(&self) -> Result<Option<(Timestamp, Offset)>, SegmentError> {
        self.file.with(|bytes| (bytes.len() / ENTRY).checked_sub(1).and_then(|i| self.entry(bytes, i)))
    }

    /// The greatest entry whose timestamp is below `target`.
    pub(crate) fn below(&self, target: Timestamp) -> Result<Option<Place>, SegmentError> {
        self.file.with(|bytes| {
            let below = self.count_below(bytes, |timestamp, _| timestamp < target);
            let (timestamp, offset) = below.checked_sub(1).and_then(|i| self.entry(bytes, i))?;
            Some(Place { timestamp, offset, next: self.entry(bytes, below).map(|(_, next)| next) })
        })
    }

    /// Drops every entry with this offset or a greater one.
    pub(crate) fn truncate(&self, offset: Offset) -> Result<(), SegmentError> {
        let keep = self.file.with(|bytes| self.count_below(bytes, |_, entry| entry < offset))?;
        self.file.truncate(keep)
    }

    /// Whether first and last entry are in order, as in every sane index.
    pub(crate) fn is_sane(&self) -> Result<bool, SegmentError> {
        self.file.with(|bytes| {
            let count = bytes.len() / ENTRY;
            let Some(last) = count.checked_sub(1) else { return true };
            match (self.entry(bytes, 0), self.entry(bytes, last)) {
                (Some((first, _)), Some((last, offset))) => (count == 1 || first < last) && offset >= self.base,
                _ => false,
            }
        })
    }

    fn count_below(&self, bytes: &[u8], holds: impl Fn(Timestamp, Offset) -> bool) -> usize {
        let (mut low, mut high) = (0, bytes.len() / ENTRY);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(bytes, middle) {
                Some((timestamp, offset)) if holds(timestamp, offset) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    fn entry(&self, bytes: &[u8], index: usize) -> Option<(Timestamp, Offset)> {
        let start = index.checked_mul(ENTRY)?;
        let entry = TimeIndexEntry::parse(bytes.get(start..start + ENTRY)?).ok()?;
        Some((entry.timestamp, self.base.checked_add(u64::from(entry.relative_offset))?))
    }
}
