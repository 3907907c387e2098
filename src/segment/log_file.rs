//! The `.log` of one segment: append bytes, read slices, walk batch headers, cut the tail.
//!
//! One writer (the partition's append lock) and any number of readers. The writer publishes the length after the bytes
//! are there; readers never look past the published length, so they need no lock against the writer.
//!
//! A prefix that has been written never changes while this value lives: it is only ever written again with the same bytes, and
//! a cut ([`LogFile::cut_back`]) never goes below the published length. That is what makes mapping it sound.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::descriptor::Descriptor;
use super::error::SegmentError;
use super::offset_index::relative;
use super::residency::{Kept, Residency, Slot};
use crate::format::{BatchHeader, FormatError, RecordBatch};
use crate::types::{Offset, Position};
use crate::vfs::{IoError, OpenMode, Vfs, VfsFile};

/// Bytes that are read at once while looking for anything but zeros.
const ZERO_CHUNK: u64 = 1024 * 1024;

/// Bytes that are read at once while batch headers of an unmapped file are walked.
const WALK_WINDOW: u64 = 16 * 1024;

/// How far the map of a growing file may lag behind its end before a read renews it.
const MAP_STEP: u64 = 4 * 1024 * 1024;

/// Positions in a `.log` are signed 32-bit numbers on disk.
pub(crate) const LOG_SIZE_MAX: u64 = i32::MAX as u64;

/// One `.log` file.
#[derive(Debug)]
pub(crate) struct LogFile {
    vfs: Arc<dyn Vfs>,
    path: RwLock<PathBuf>,
    /// Mapping doesn't keep it open: a log of many sealed segments may be read without holding a descriptor for each.
    descriptor: Arc<Descriptor>,
    /// The mapped prefix; grows by replacement.
    map: Arc<Slot<Bytes>>,
    /// Bytes that readers may see.
    size: AtomicU64,
    /// The base offset of the next segment, as far as there is one.
    limit: AtomicI64,
    /// Whether each batch begins where the one before ended.
    dense: AtomicBool,
    mappable: bool,
    read_only: bool,
    residency: Arc<Residency>,
}

impl Kept for Bytes {
    fn may_go(&self) -> bool {
        true
    }
}

impl LogFile {
    /// A file of which the first `size` bytes are batches. It is opened when first used. `mappable` is false when another
    /// process may cut the file.
    pub(crate) fn new(vfs: Arc<dyn Vfs>, path: PathBuf, size: u64, mappable: bool, read_only: bool) -> Self {
        let residency = Arc::default();
        Self {
            vfs,
            path: RwLock::new(path),
            descriptor: Descriptor::new(&residency),
            map: Slot::new(Bytes::new()),
            size: AtomicU64::new(size),
            limit: AtomicI64::new(Offset::MAX.value()),
            dense: AtomicBool::new(false),
            mappable,
            read_only,
            residency,
        }
    }

    /// Counts what this one keeps open or mapped in `residency`.
    pub(crate) fn within(self, residency: &Arc<Residency>) -> Self {
        Self { residency: Arc::clone(residency), descriptor: Descriptor::new(residency), ..self }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.read().clone()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Notes where the next segment begins.
    pub(crate) fn limit_to(&self, next: Offset) {
        self.limit.store(next.value(), Ordering::Release);
    }

    /// Every batch ends below this offset.
    pub(crate) fn limit(&self) -> Offset {
        Offset::new(self.limit.load(Ordering::Acquire)).unwrap_or(Offset::MAX)
    }

    /// Notes that the file was appended to without a gap: one that is found is damage.
    pub(crate) fn expect_dense(&self) {
        self.dense.store(true, Ordering::Release);
    }

    /// Notes that it may have gaps.
    pub(crate) fn allow_gaps(&self) {
        self.dense.store(false, Ordering::Release);
    }

    pub(crate) fn is_dense(&self) -> bool {
        self.dense.load(Ordering::Acquire)
    }

    /// The open file.
    pub(crate) fn file(&self) -> Result<Arc<dyn VfsFile>, SegmentError> {
        Ok(self.descriptor.get(|| self.open())?)
    }

    fn open(&self) -> Result<Arc<dyn VfsFile>, IoError> {
        let mode = if self.read_only { OpenMode::Read } else { OpenMode::Write };
        self.vfs.open(&self.path(), mode)
    }

    /// Goes on with a file that was just opened under this one's name.
    pub(crate) fn adopt(&self, file: &Arc<dyn VfsFile>) {
        self.descriptor.adopt(file);
    }

    /// Writes `bytes` behind the published length without publishing them. After an error any part of them may have been
    /// written; the caller decides with [`LogFile::cut_back`] whether the file can go on.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<(), SegmentError> {
        let at = self.size.load(Ordering::Relaxed);
        let end = at.saturating_add(bytes.len() as u64);
        if end > LOG_SIZE_MAX {
            return Err(SegmentError::TooLarge { file: self.path(), got: end });
        }
        self.write_with(|file| Ok(file.write_at(bytes, at)?))
    }

    /// Does `write` with the open file, which stays open until a sync covers it.
    pub(super) fn write_with(
        &self,
        write: impl FnOnce(&dyn VfsFile) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        self.descriptor.write(|| self.open(), write)
    }

    /// Sets how many bytes readers may see.
    pub(crate) fn publish(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    /// Removes what lies behind the published length: a failed append's rest, or preallocated space.
    pub(crate) fn cut_back(&self) -> Result<(), SegmentError> {
        Ok(self.file()?.set_size(self.size())?)
    }

    /// Makes the published bytes durable. Nobody waits for it but the caller.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        Ok(self.descriptor.sync(&*self.file()?)?)
    }

    /// Closes the file until it is used again, unless it must stay: somebody may take hold of it just now.
    pub(crate) fn release(&self) {
        self.descriptor.let_go();
    }

    /// Whether a map or an open file is kept.
    pub(crate) fn is_kept(&self) -> bool {
        !self.map.read().is_empty() || self.descriptor.opened().is_some()
    }

    /// Lets go of map and file, as far as they may be opened again.
    pub(crate) fn let_go(&self) {
        self.map.empty();
        self.descriptor.let_go();
    }

    /// Maps or opens the file for good, so that it stays readable after it was renamed and removed.
    pub(crate) fn hold(&self) -> Result<(), SegmentError> {
        self.pin()
    }

    /// Maps or opens the file and keeps it so. A map is no descriptor, of which a process has few.
    fn pin(&self) -> Result<(), SegmentError> {
        self.map.pin();
        self.descriptor.pin();
        let published = self.size();
        if self.map.read().len() as u64 >= published || self.descriptor.opened().is_some() {
            return Ok(());
        }
        if self.mappable && self.read_mapped(0, published, published).is_ok() {
            return Ok(());
        }
        self.file().map(|_| ())
    }

    fn unpin(&self) {
        self.map.unpin();
        self.descriptor.unpin();
    }

    /// Gives the file another name. Readers wait for nothing: they have it open or mapped meanwhile.
    pub(crate) fn rename(&self, to: PathBuf) -> Result<(), SegmentError> {
        let renamed = self.pin().and_then(|()| Ok(self.vfs.rename(&self.path(), &to)?));
        if renamed.is_ok() {
            *self.path.write() = to;
        }
        self.unpin();
        self.map.admit(&self.residency.maps);
        self.descriptor.admit();
        renamed
    }

    /// The bytes `[position, position + size)`, cut at the published length.
    pub(crate) fn read(&self, position: Position, size: u64) -> Result<Bytes, SegmentError> {
        let published = self.size();
        let start = position.value().min(published);
        let end = start.saturating_add(size).min(published);
        if start == end {
            return Ok(Bytes::new());
        }
        // One look at the map: another reader may renew it, even beyond what was published when this one began.
        let mapped = {
            let map = self.map.read();
            if let Some(bytes) = slice(&map, start, end) {
                return Ok(bytes);
            }
            map.len() as u64
        };
        if self.mappable && published.saturating_sub(mapped) >= MAP_STEP.min(published) {
            return self.read_mapped(start, end, published);
        }
        self.read_copied(start, end)
    }

    /// All published bytes, mapped where the file may be: a cleaner doesn't copy a segment into memory.
    pub(crate) fn whole(&self) -> Result<Bytes, SegmentError> {
        let published = self.size();
        match (published, self.mappable) {
            (0, _) => Ok(Bytes::new()),
            (_, true) => self.read_mapped(0, published, published),
            (_, false) => self.read_copied(0, published),
        }
    }

    /// Renews the map up to `published` and reads from it.
    fn read_mapped(&self, start: u64, end: u64, published: u64) -> Result<Bytes, SegmentError> {
        let found = {
            let mut map = self.map.write();
            if (map.len() as u64) < published {
                let file = self.descriptor.opened().map_or_else(|| self.open(), Ok)?;
                *map = file.map(published)?;
            }
            slice(&map, start, end).unwrap_or_default()
        };
        self.map.admit(&self.residency.maps);
        Ok(found)
    }

    /// The bytes from `start` to `end`, as far as the file has them, by copying.
    pub(crate) fn read_copied(&self, start: u64, end: u64) -> Result<Bytes, SegmentError> {
        let file = self.file();
        // If this file was renamed before it was opened here, that name may be gone, or another file's by now. The renaming has mapped it
        // first, or kept it open.
        if let Some(bytes) = slice(&self.map.read(), start, end) {
            return Ok(bytes);
        }
        let mut buffer = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        let read = file?.read_at(&mut buffer, start)?;
        buffer.truncate(read);
        Ok(Bytes::from(buffer))
    }

    /// Walks the batch headers from `position`, which must be the start of a batch, of the segment with base offset `base`.
    pub(crate) fn headers_from(&self, position: Position, base: Offset) -> HeaderWalk<'_> {
        HeaderWalk {
            log: self,
            at: position,
            base,
            floor: base,
            due: (position == Position::ZERO && self.is_dense()).then_some(base),
            limit: self.limit(),
            window: Bytes::new(),
            window_start: position,
            peeked: None,
        }
    }

    /// The whole batch at `position`, checksum verified; `None` when the log ends there. See [`HeaderWalk::next_header`].
    pub(crate) fn batch_at(&self, position: Position, base: Offset) -> Result<Option<RecordBatch>, SegmentError> {
        let Some((_, header)) = self.headers_from(position, base).next_header()? else { return Ok(None) };
        self.parse_at(position, &header).map(Some)
    }

    /// The whole batch at `position` whose header is known, checksum verified.
    pub(crate) fn parse_at(&self, position: Position, header: &BatchHeader) -> Result<RecordBatch, SegmentError> {
        let bytes = self.read(position, u64::from(header.size()))?;
        RecordBatch::parse(bytes).map_err(|source| SegmentError::format(&self.path(), position, source))
    }

    /// Whether nothing but zeros follows up to the published length: space that was reserved and never written.
    pub(crate) fn is_zero_from(&self, position: Position) -> Result<bool, SegmentError> {
        let mut at = position;
        while at.value() < self.size() {
            let chunk = self.read(at, ZERO_CHUNK)?;
            if chunk.is_empty() || chunk.iter().any(|byte| *byte != 0) {
                return Ok(chunk.is_empty());
            }
            at = at.plus(chunk.len() as u64);
        }
        Ok(true)
    }
}

fn slice(map: &Bytes, start: u64, end: u64) -> Option<Bytes> {
    let start = usize::try_from(start).ok()?;
    let end = usize::try_from(end).ok()?;
    (end <= map.len()).then(|| map.slice(start..end))
}

/// Steps from batch to batch by their headers alone; checksums are not looked at. Offsets are: no checksum covers them, so
/// a batch that begins below the one before it, or outside of the segment's range, is damage.
pub(crate) struct HeaderWalk<'a> {
    log: &'a LogFile,
    at: Position,
    /// The segment's base offset.
    base: Offset,
    /// The next batch begins at this offset or above.
    floor: Offset,
    /// It begins right here, where the file has no gaps and the batch before is known.
    due: Option<Offset>,
    /// Every batch ends below this offset.
    limit: Offset,
    window: Bytes,
    window_start: Position,
    /// A batch that was looked at and not stepped over.
    peeked: Option<(Position, BatchHeader)>,
}

impl HeaderWalk<'_> {
    /// The next batch's place and header; `None` at the end of the log: no bytes left, or nothing but zeros. A batch that isn't
    /// all there is damage.
    pub(crate) fn next_header(&mut self) -> Result<Option<(Position, BatchHeader)>, SegmentError> {
        match self.peeked.take() {
            None => self.step(),
            peeked => Ok(peeked),
        }
    }

    /// As [`HeaderWalk::next_header`], which gives the same afterwards.
    pub(crate) fn peek(&mut self) -> Result<Option<(Position, BatchHeader)>, SegmentError> {
        if self.peeked.is_none() {
            self.peeked = self.step()?;
        }
        Ok(self.peeked)
    }

    fn step(&mut self) -> Result<Option<(Position, BatchHeader)>, SegmentError> {
        let position = self.at;
        let left = self.log.size().saturating_sub(position.value());
        if left == 0 {
            return Ok(None);
        }
        self.fill()?;
        let skip = usize::try_from(position.value() - self.window_start.value()).unwrap_or(usize::MAX);
        let bytes = self.window.get(skip..).unwrap_or_default();
        if is_end_of_log(bytes) && self.may_end_here()? {
            return Ok(None);
        }
        match BatchHeader::peek(bytes) {
            Ok(header) if u64::from(header.size()) <= left => {
                self.check_place(&header).map_err(|source| self.damage(source))?;
                self.at = position.plus(u64::from(header.size()));
                self.floor = header.last_offset().next();
                self.due = self.log.is_dense().then_some(self.floor);
                Ok(Some((position, header)))
            }
            Ok(header) => Err(self.damage(FormatError::Incomplete {
                what: "batch",
                position: Position::ZERO,
                needed: u64::from(header.size()),
                available: left,
            })),
            Err(source) => Err(self.damage(source)),
        }
    }

    /// Whether zeros here are space that was reserved and never written. Where another segment follows they are only if all offsets up to
    /// it were passed.
    fn may_end_here(&self) -> Result<bool, SegmentError> {
        let is_complete = self.limit == Offset::MAX || self.floor == self.limit;
        Ok(is_complete && self.log.is_zero_from(self.at)?)
    }

    fn damage(&self, source: FormatError) -> SegmentError {
        SegmentError::format(&self.log.path(), self.at, source)
    }

    fn check_place(&self, header: &BatchHeader) -> Result<(), FormatError> {
        let base_offset = header.base_offset();
        let expected = if base_offset < self.floor {
            "an offset above those of the batches before it"
        } else if header.magic() == 2 && self.due.is_some_and(|due| due != base_offset) {
            "the offset behind the batch before it"
        } else if relative(self.base, header.last_offset()).is_none() {
            "an offset at most 2147483647 above the segment's base"
        } else if header.last_offset() >= self.limit {
            "an offset below the next segment's base"
        } else {
            return Ok(());
        };
        let (field, got) = ("baseOffset", base_offset.value());
        Err(FormatError::Invalid { field, position: Position::ZERO, expected, got })
    }

    /// Sees to it that the window covers a whole header at the current place.
    fn fill(&mut self) -> Result<(), SegmentError> {
        let needed = self.at.plus(BatchHeader::PEEK_SIZE as u64).value().min(self.log.size());
        let covered = self.window_start.plus(self.window.len() as u64).value();
        if needed > covered {
            self.window = self.log.read(self.at, WALK_WINDOW)?;
            self.window_start = self.at;
        }
        Ok(())
    }
}

/// Zeros where a batch's length should be mean that nothing was written from here on (preallocated space).
pub(crate) fn is_end_of_log(bytes: &[u8]) -> bool {
    bytes.iter().take(17).all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::MemoryVfs;

    #[test]
    fn a_file_that_is_held_and_renamed_beside_a_reader_stays_the_one_that_is_read() {
        for _ in 0..300 {
            let vfs = MemoryVfs::new();
            let write = |bytes: &[u8]| {
                let file = vfs.open("/log".as_ref(), OpenMode::Create).unwrap();
                file.write_at(bytes, 0).unwrap();
            };
            write(&[1; 100]);
            let log = LogFile::new(Arc::new(vfs.clone()), "/log".into(), 60, true, false);
            assert_eq!(log.read(Position::ZERO, 60).unwrap(), [1; 60][..], "mapped up to there");
            log.publish(100);
            std::thread::scope(|scope| {
                let read = || (0..30).for_each(|_| assert_eq!(log.read(Position::new(50), 50).unwrap(), [1; 50][..]));
                let readers = [scope.spawn(read), scope.spawn(read)];
                while log.descriptor.opened().is_none() && !readers.iter().all(|reader| reader.is_finished()) {
                    std::thread::yield_now();
                }
                log.release();
                log.hold().unwrap();
                log.release();
                log.rename("/gone".into()).unwrap();
                vfs.remove_file("/gone".as_ref()).unwrap();
                write(&[2; 70]);
            });
        }
    }
}
