//! A segment that another process writes.
//!
//! Its files are read by copying, never mapped and never changed. What was seen of it is checked each time, for the other process
//! may cut, replace or remove them: it must be the same file, the last batch that was followed must still be there, and a sealed
//! segment's file must have the size and the time that it had. Anything else is [`SegmentError::Changed`], and the caller looks at the folder again.
//!
//! Batches that were followed are filed in the indexes in memory, so that following goes on where it ended, however large the
//! segment is.

use std::sync::Arc;

use bytes::Bytes;

use super::log_file::{LOG_SIZE_MAX, is_end_of_log};
use super::{BatchFacts, Growth, Segment, SegmentError};
use crate::format::{BatchHeader, FormatError, RecordBatch};
use crate::types::{Offset, Position, Timestamp};
use crate::vfs::{OpenMode, VfsFile};

/// Bytes at the end of a sealed file that are compared: those of a small batch, or of the last records of a large one.
const LAST_BYTES: u64 = 256;

/// Bytes that are read at once.
const CHUNK: u64 = 64 * 1024;

/// What was seen of another process's segment.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The offset after the last batch that was followed. It is kept here because the call that followed it may have failed later on,
    /// before the partition's end was moved.
    end: Option<Offset>,
    /// Where that batch begins, and its first bytes.
    last_batch: Option<(Position, Bytes)>,
    /// The file's identity, where the file system tells files apart.
    identity: Option<Option<u64>>,
    sealed: Option<Traits>,
}

/// What tells a sealed file from another one of its name.
#[derive(Debug, PartialEq, Eq)]
struct Traits {
    size: u64,
    modified: Option<Timestamp>,
    last_bytes: Vec<u8>,
}

impl Segment {
    /// Makes new bytes visible that another process wrote: walks whole, intact batches behind the published ones and
    /// returns the offset after the last of all; `base`, where there is none. A batch that isn't all there, and zeros, are the end.
    ///
    /// # Errors
    /// [`SegmentError::Changed`] when the file isn't the one that was followed before; [`SegmentError::Format`] when it goes on behind
    /// a batch that can't be read; [`SegmentError::Io`].
    pub(crate) fn follow(&self, base: Offset) -> Result<Offset, SegmentError> {
        let file = self.open_again()?;
        let end = file.size()?.min(LOG_SIZE_MAX);
        self.check_last_batch(&*file, end)?;
        self.log.adopt(&file);
        let mut tail = Tail { file: &*file, end, bytes: Bytes::new(), start: 0 };
        let mut position = Position::new(self.size());
        let mut next = self.seen.lock().end.unwrap_or(base);
        while let Some(batch) = self.next_batch(&mut tail, position, next)? {
            let size = u64::from(batch.header().size());
            next = batch.last_offset().next();
            let head = batch.bytes().slice(..BatchHeader::PEEK_SIZE.min(batch.bytes().len()));
            let mut seen = self.seen.lock();
            seen.last_batch = Some((position, head));
            seen.end = Some(next);
            drop(seen);
            self.publish(size, BatchFacts::from(batch.header()));
            position = position.plus(size);
        }
        Ok(next)
    }

    /// The file that has the segment's name now, which must be the one that had it before.
    fn open_again(&self) -> Result<Arc<dyn VfsFile>, SegmentError> {
        let opened = self.vfs.open(&self.log.path(), OpenMode::Read);
        let file = opened.map_err(|error| if error.is_not_found() { self.changed() } else { error.into() })?;
        let identity = file.identity()?;
        let known = *self.seen.lock().identity.get_or_insert(identity);
        if known == identity { Ok(file) } else { Err(self.changed()) }
    }

    fn changed(&self) -> SegmentError {
        SegmentError::Changed { file: self.log.path() }
    }

    /// Refuses a file that doesn't have the batches that were followed.
    fn check_last_batch(&self, file: &dyn VfsFile, end: u64) -> Result<(), SegmentError> {
        if end < self.size() {
            return Err(self.changed());
        }
        let Some((position, expected)) = self.seen.lock().last_batch.clone() else { return Ok(()) };
        let mut found = vec![0; expected.len()];
        let read = file.read_at(&mut found, position.value())?;
        if read == expected.len() && expected == found { Ok(()) } else { Err(self.changed()) }
    }

    /// The batch at `position`; `None` where the log ends.
    fn next_batch(
        &self,
        tail: &mut Tail<'_>,
        position: Position,
        next: Offset,
    ) -> Result<Option<RecordBatch>, SegmentError> {
        let damage = match tail.batch_at(position)? {
            Next::Batch(batch) => return self.check_place(position, batch, next).map(Some),
            Next::End => return Ok(None),
            Next::Damage { rest, .. } if !tail.has_bytes_at(rest)? => return Ok(None),
            Next::Damage { .. } => {
                // It may have been finished, and the next one begun, since its bytes were read.
                tail.bytes = Bytes::new();
                tail.batch_at(position)?
            }
        };
        match damage {
            Next::Batch(batch) => self.check_place(position, batch, next).map(Some),
            Next::End => Ok(None),
            Next::Damage { source, .. } => Err(self.format_error(position, source)),
        }
    }

    /// Refuses a batch whose offsets can't follow the batches before it: no checksum covers them.
    fn check_place(&self, position: Position, batch: RecordBatch, next: Offset) -> Result<RecordBatch, SegmentError> {
        let base = batch.header().base_offset();
        // Following may begin at a batch in the middle of the file.
        let is_due = self.is_dense() && (position == Position::ZERO || self.seen.lock().last_batch.is_some());
        let is_in_place = if is_due && batch.header().magic() == 2 { base == next } else { base >= next };
        if is_in_place && self.has_room_for(batch.last_offset()) {
            return Ok(batch);
        }
        let expected = "the offset behind the batch before it, or one above it where the log has gaps";
        let (field, got) = ("baseOffset", base.value());
        Err(self.format_error(position, FormatError::Invalid { field, position: Position::ZERO, expected, got }))
    }

    /// Begins to read a file that another process writes: what is whole and intact now is the segment. Returns the offset after it.
    ///
    /// # Errors
    /// As [`Segment::follow`].
    pub(crate) fn start_following(&self) -> Result<Offset, SegmentError> {
        if let Some(from) = self.indexed_end()? {
            self.begin_at(from);
            let end = self.follow(self.base_offset)?;
            if self.size() > from.value() {
                return Ok(end);
            }
            // The index names a batch that isn't there.
        }
        self.offset_index.file().truncate(0)?;
        self.time_index.file().truncate(0)?;
        self.begin_at(Position::ZERO);
        self.follow(self.base_offset)
    }

    /// As [`Segment::start_following`], and damage is the end until somebody follows on: it keeps no log from being opened.
    pub(crate) fn open_following(&self) -> Result<Offset, SegmentError> {
        match self.start_following() {
            Err(SegmentError::Format { .. }) => Ok(self.end()?.1),
            result => result,
        }
    }

    /// The place of the last batch that the offset index names, if both indexes are in order. The time index may say less: the disk
    /// of a machine that lost power keeps any of the two.
    fn indexed_end(&self) -> Result<Option<Position>, SegmentError> {
        let Some((indexed, position)) = self.offset_index.last()? else { return Ok(None) };
        let end = self.vfs.metadata(&self.log.path())?.map_or(0, |metadata| metadata.size);
        if !(self.offset_index.is_sane(end)? && self.time_index.is_sane()?) {
            return Ok(None);
        }
        let mut head = vec![0; BatchHeader::PEEK_SIZE];
        let read = self.log.file()?.read_at(&mut head, position.value())?;
        head.truncate(read);
        Ok(BatchHeader::peek(&head).is_ok_and(|header| header.last_offset() == indexed).then_some(position))
    }

    fn begin_at(&self, position: Position) {
        // Whoever asks for the greatest timestamp of what lies before walks from the last entry that the time index has.
        *self.growth.lock() = if position == Position::ZERO { Growth::of_empty() } else { Growth::default() };
        *self.seen.lock() = Seen::default();
        self.log.publish(position.value());
    }

    /// Ends following: the other process has begun a new segment.
    ///
    /// # Errors
    /// [`SegmentError::Format`] when there are more bytes, which must be damage then; [`SegmentError::Changed`]; [`SegmentError::Io`].
    pub(crate) fn end_following(&self) -> Result<(), SegmentError> {
        let metadata = self.vfs.metadata(&self.log.path())?.ok_or_else(|| self.changed())?;
        let position = Position::new(self.size());
        // By its name: what was followed may have been replaced since, and then it grew and this isn't its end.
        let file = self.open_again()?;
        self.check_last_batch(&*file, metadata.size)?;
        let mut tail = Tail { file: &*file, end: metadata.size, bytes: Bytes::new(), start: 0 };
        if tail.has_bytes_at(position)? {
            let (what, available) = ("batch", metadata.size.saturating_sub(position.value()));
            let source = FormatError::Incomplete { what, position: Position::ZERO, needed: available + 1, available };
            return Err(self.format_error(position, source));
        }
        self.seen.lock().sealed = Some(self.traits(&*file, metadata.modified)?);
        self.offset_index.file().seal()?;
        self.time_index.file().seal()?;
        self.log.release();
        Ok(())
    }

    /// Whether another process has left this sealed segment as it was.
    ///
    /// # Errors
    /// [`SegmentError::Changed`]; [`SegmentError::Io`].
    pub(crate) fn check_unchanged(&self) -> Result<(), SegmentError> {
        let modified = self.vfs.metadata(&self.log.path())?.ok_or_else(|| self.changed())?.modified;
        let file = self.open_again()?;
        let found = self.traits(&*file, modified)?;
        let mut seen = self.seen.lock();
        if seen.sealed.is_none() && found.size == self.size() {
            // What is read is read from this file, which may be opened only now.
            seen.sealed = Some(self.traits(&*self.log.file()?, modified)?).filter(|own| *own == found);
        }
        if seen.sealed.as_ref() != Some(&found) {
            return Err(self.changed());
        }
        Ok(())
    }

    /// Refuses to take a missing index of aborted transactions for an empty one where the `.log` is gone too, or another one: the
    /// other process takes its name first.
    pub(super) fn check_still_there(&self) -> Result<(), SegmentError> {
        let is_growing = {
            let seen = self.seen.lock();
            seen.sealed.is_none() && (seen.last_batch.is_some() || self.size() == 0)
        };
        if is_growing { self.check_still_followed() } else { self.check_unchanged() }
    }

    /// Whether the file of this segment, which may grow, is the one that was followed and has the batches that it had.
    ///
    /// # Errors
    /// [`SegmentError::Changed`]; [`SegmentError::Io`].
    pub(crate) fn check_still_followed(&self) -> Result<(), SegmentError> {
        let file = self.open_again()?;
        self.check_last_batch(&*file, file.size()?)
    }

    fn traits(&self, file: &dyn VfsFile, modified: Option<Timestamp>) -> Result<Traits, SegmentError> {
        let size = file.size()?;
        let mut last_bytes = vec![0; usize::try_from(size.min(LAST_BYTES)).unwrap_or(0)];
        let read = file.read_at(&mut last_bytes, size.saturating_sub(LAST_BYTES))?;
        last_bytes.truncate(read);
        Ok(Traits { size, modified, last_bytes })
    }
}

/// What is at a place of a `.log`.
enum Next {
    Batch(RecordBatch),
    /// Nothing, zeros, or a beginning of a batch.
    End,
    /// What is no batch, and where it ends if it is one that is being written.
    Damage {
        source: FormatError,
        rest: Position,
    },
}

/// Reads a `.log` front to back in chunks.
struct Tail<'a> {
    file: &'a dyn VfsFile,
    end: u64,
    bytes: Bytes,
    /// Where in the file `bytes` begin.
    start: u64,
}

impl Tail<'_> {
    fn batch_at(&mut self, position: Position) -> Result<Next, SegmentError> {
        let left = self.end.saturating_sub(position.value());
        let head = self.bytes_at(position, left.min(BatchHeader::PEEK_SIZE as u64))?;
        if head.is_empty() || is_end_of_log(&head) {
            return Ok(Next::End);
        }
        let header = match BatchHeader::peek(&head) {
            Ok(header) if u64::from(header.size()) <= left => header,
            Ok(_) | Err(FormatError::Incomplete { .. }) => return Ok(Next::End),
            Err(source) => return Ok(Next::Damage { source, rest: position.plus(BatchHeader::PEEK_SIZE as u64) }),
        };
        let size = u64::from(header.size());
        Ok(match RecordBatch::parse(self.bytes_at(position, size)?) {
            Ok(batch) => Next::Batch(batch),
            Err(source) => Next::Damage { source, rest: position.plus(size) },
        })
    }

    /// Whether the file has anything but zeros at `position`, as far as one header reaches.
    fn has_bytes_at(&mut self, position: Position) -> Result<bool, SegmentError> {
        let left = self.end.saturating_sub(position.value());
        let bytes = self.bytes_at(position, left.min(BatchHeader::PEEK_SIZE as u64))?;
        Ok(bytes.iter().any(|byte| *byte != 0))
    }

    /// `size` bytes from `position`, fewer where the file ends.
    fn bytes_at(&mut self, position: Position, size: u64) -> Result<Bytes, SegmentError> {
        let covered = self.start.saturating_add(self.bytes.len() as u64);
        if position.value() < self.start || position.plus(size).value() > covered {
            let wanted = size.max(CHUNK).min(self.end.saturating_sub(position.value()));
            let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
            let read = self.file.read_at(&mut bytes, position.value())?;
            bytes.truncate(read);
            self.bytes = bytes.into();
            self.start = position.value();
        }
        let skip = usize::try_from(position.value() - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = skip.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(self.bytes.len());
        Ok(self.bytes.slice(skip..end))
    }
}
