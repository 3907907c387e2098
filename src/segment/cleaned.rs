//! The `.cleaned` files of a segment that is being written to take the place of others.
//!
//! Batches come with the offsets they keep, in order. The finished files are what appending the same batches one by one to a
//! fresh segment would have made, trimmed to their content and durable. What is dropped unfinished removes its files.
//! What goes into it, and putting it in place, is for the caller; until then no reader knows of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log_file::LOG_SIZE_MAX;
use super::{BatchFacts, Segment, SegmentError, SegmentOptions, file_path, remove_if_there};
use crate::format::AbortedTransaction;
use crate::format::file_name::{FileKind, Suffix};
use crate::types::{Offset, Position, Timestamp};
use crate::vfs::Vfs;

/// Bytes of batches that are collected before they go to the file.
const WRITE_SIZE: usize = 1024 * 1024;

/// A segment in the making.
#[derive(Debug)]
pub(crate) struct CleanedSegment {
    segment: Segment,
    /// Batches behind the published length of the `.log`.
    pending: Vec<u8>,
    files: Files,
}

/// Removes the files when it is dropped, unless they are wanted.
#[derive(Debug)]
struct Files {
    vfs: Arc<dyn Vfs>,
    paths: Vec<PathBuf>,
}

impl Files {
    fn remove(&self) -> Result<(), SegmentError> {
        self.paths.iter().try_for_each(|path| remove_if_there(&*self.vfs, path))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What can't be removed now is removed when the partition is opened.
        self.remove().ok();
    }
}

impl CleanedSegment {
    /// Begins an empty segment; `.cleaned` files of that base are replaced.
    pub(crate) fn create(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        base_offset: Offset,
        options: SegmentOptions,
    ) -> Result<Self, SegmentError> {
        // Its length is known only at the end: nothing is reserved, so there is nothing to give back.
        let options = SegmentOptions { preallocate: 0, ..options };
        let kinds = [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Log];
        let paths = kinds.map(|kind| file_path(dir, kind, base_offset, Suffix::Cleaned)).to_vec();
        let files = Files { vfs: Arc::clone(&vfs), paths };
        // A `.txnindex` is written only for entries: one that is left from before must not be taken for this segment's.
        files.remove()?;
        let segment = Segment::create_as(Suffix::Cleaned, vfs, dir, base_offset, options)?;
        Ok(Self { segment, pending: Vec::new(), files })
    }

    /// Adds one encoded batch behind the others.
    ///
    /// # Errors
    /// [`SegmentError::OffsetOverflow`] and [`SegmentError::TooLarge`] where there is no room, with nothing done; see
    /// [`CleanedSegment::has_room_for`]. After any other error the segment is good for nothing.
    pub(crate) fn append(&mut self, batch: &[u8], facts: BatchFacts) -> Result<(), SegmentError> {
        self.segment.check_room(facts.last_offset)?;
        let position = Position::new(self.size());
        let end = position.plus(batch.len() as u64).value();
        if end > LOG_SIZE_MAX {
            return Err(SegmentError::TooLarge { file: self.segment.path(), got: end });
        }
        self.segment.file_batch(position, batch.len() as u64, facts)?;
        self.pending.extend_from_slice(batch);
        if self.pending.len() >= WRITE_SIZE { self.write_pending() } else { Ok(()) }
    }

    fn write_pending(&mut self) -> Result<(), SegmentError> {
        self.segment.log.write(&self.pending)?;
        self.segment.log.publish(self.size());
        self.pending.clear();
        Ok(())
    }

    /// Adds an aborted transaction whose marker was added as a batch; markers must ascend.
    pub(crate) fn add_aborted(&mut self, entry: AbortedTransaction) -> Result<(), SegmentError> {
        self.segment.add_aborted(entry)
    }

    /// Bytes of the batches so far.
    pub(crate) fn size(&self) -> u64 {
        self.segment.size().saturating_add(self.pending.len() as u64)
    }

    /// Whether a batch of `size` bytes can still be added. An empty segment has room for any batch that can stand in it at
    /// all, however small its indexes may be.
    pub(crate) fn has_room_for(&self, size: u64, last_offset: Offset) -> bool {
        let is_index_full = self.size() > 0 && self.segment.is_index_full().unwrap_or(true);
        !is_index_full && self.size().saturating_add(size) <= LOG_SIZE_MAX && self.segment.has_room_for(last_offset)
    }

    /// Ends it: the last time entry, everything written, the `.log`'s modification time set. The files keep their `.cleaned` names.
    ///
    /// # Durability
    /// The content of all files survives a power loss; their names do after the next sync of the folder.
    pub(crate) fn finish(mut self, modified: Option<Timestamp>) -> Result<Segment, SegmentError> {
        self.write_pending()?;
        self.segment.seal()?;
        if let Some(modified) = modified {
            self.segment.log.file()?.set_modified(modified)?;
        }
        self.segment.sync_all()?;
        self.segment.release();
        self.files.paths.clear();
        Ok(self.segment)
    }
}
