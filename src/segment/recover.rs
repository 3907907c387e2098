//! Bringing a segment back after a crash or cutting it: verify every batch, rebuild both indexes, set aside what is damaged.
//!
//! Recovery works on files that nobody reads yet, so it may cut in place. A cut under readers goes through
//! [`Segment::rewrite`], which leaves their file as it was.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::log_file::{LogFile, is_end_of_log};
use super::{BatchFacts, CleanedSegment, Growth, Segment, SegmentError, file_path};
use crate::format::file_name::{FileKind, Suffix};
use crate::format::{BatchHeader, FormatError, RecordBatch};
use crate::types::{Offset, Position};
use crate::vfs::{OpenMode, Vfs};

/// Bytes that are read at once while a segment is verified, and copied at once while one is rewritten.
const CHUNK: u64 = 1024 * 1024;

/// What verifying a segment found.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Where the good batches end.
    pub end: Position,
    /// The offset after the last good batch.
    pub next_offset: Offset,
    /// Why the batches end there, when something other than zeros follows.
    pub fault: Option<Fault>,
}

/// What splitting a segment came to.
#[derive(Debug)]
pub(crate) struct Parts {
    /// With `.cleaned` names, durable.
    pub segments: Vec<Segment>,
    /// Where the batches end early, the offset that was due there, and why.
    pub damage: Option<(Position, Offset, String)>,
}

/// Why a segment can't go on with the batch at some position.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes are no batch, or not the one that belongs there.
    Damage(String),
    /// The batch is a good one, too far above the segment's base for its indexes.
    Overflow,
}

/// Where a log may lack offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// Anywhere: compaction, or another program that wrote the log, may have left some.
    Anywhere,
    /// Below this offset. From here on the log was appended to without a gap, so that one is a hole.
    Below(Offset),
}

impl Gaps {
    /// Whether a batch or segment at `next` may follow a log that ends at `end`.
    pub(crate) fn allow(self, end: Offset, next: Offset) -> bool {
        match self {
            Self::Anywhere => next >= end,
            Self::Below(limit) => next == end || (next > end && next <= limit),
        }
    }
}

/// From where on a segment must be verified.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scan {
    /// From its first byte.
    Whole,
    /// From here on: what lies before was verified by this library in the same boot of the machine.
    From(Position),
}

/// Whether the time index ends with the greatest timestamp, as that of a segment at rest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClosingEntry {
    /// It does.
    Written,
    /// It doesn't: the segment goes on growing.
    Omitted,
}

impl Segment {
    /// Verifies the batches, rebuilds the indexes and hides everything from the first bad batch on; the file itself isn't cut.
    /// `visit` sees every good batch in order.
    pub(crate) fn recover(
        &self,
        scan: Scan,
        gaps: Gaps,
        visit: &mut dyn FnMut(&BatchHeader),
    ) -> Result<Recovered, SegmentError> {
        let (start, next) = self.trusted_start(scan, gaps)?;
        let found = self.verify(start, next, gaps, &mut |position, header| {
            self.file_batch(position, u64::from(header.size()), BatchFacts::from(header));
            visit(header);
        })?;
        self.log.publish(found.end.value());
        self.close_time_index();
        Ok(found)
    }

    /// Makes both indexes anew from the batches. They end where the log can't be read on; what it holds is not decided here. Returns
    /// why they do.
    pub(crate) fn rebuild_indexes(&self, closing: ClosingEntry) -> Result<Option<Fault>, SegmentError> {
        let (start, next) = self.trusted_start(Scan::Whole, Gaps::Anywhere)?;
        let found = self.verify(start, next, Gaps::Anywhere, &mut |position, header| {
            self.file_batch(position, u64::from(header.size()), BatchFacts::from(header));
        })?;
        if closing == ClosingEntry::Written {
            self.close_time_index();
        }
        if found.fault.is_some() {
            // What lies behind the fault has no part in the greatest timestamp yet.
            let mut growth = self.growth.lock();
            *growth = Growth { first: growth.first, unindexed_size: growth.unindexed_size, ..Growth::default() };
        }
        Ok(found.fault)
    }

    /// As when a segment is sealed: the last entry says the true maximum to whatever asks for it later. An index that refuses it
    /// is found wrong by that.
    pub(super) fn close_time_index(&self) {
        let greatest = self.growth.lock().known_greatest().flatten();
        if let Some((timestamp, offset)) = greatest {
            self.time_index.maybe_append(timestamp, offset).ok();
        }
    }

    /// Checks batch after batch from `start` on, where the offset `next` is due.
    fn verify(
        &self,
        start: Position,
        next: Offset,
        gaps: Gaps,
        visit: &mut dyn FnMut(Position, &BatchHeader),
    ) -> Result<Recovered, SegmentError> {
        let reader = LogFile::new(Arc::clone(&self.vfs), self.log.path(), self.log.size(), false, true);
        let mut window = Window { log: &reader, start, bytes: Bytes::new() };
        let (mut end, mut next_offset) = (start, next);
        let fault = loop {
            let batch = match window.batch_at(end)? {
                Next::Batch(batch) => batch,
                Next::End => break None,
                Next::Damage(error) => break Some(Fault::Damage(error.to_string())),
            };
            let header = batch.header();
            if let Some(fault) = self.misplaced(header, next_offset, gaps) {
                break Some(fault);
            }
            visit(end, header);
            next_offset = header.last_offset().next();
            end = end.plus(u64::from(header.size()));
        };
        Ok(Recovered { end, next_offset, fault })
    }

    /// The offset after the last batch of the `.log` at `path`, whatever its suffix, of which every batch is verified; `base` when it
    /// has none.
    pub(crate) fn end_of_file(vfs: Arc<dyn Vfs>, path: &Path, base: Offset) -> Result<Offset, SegmentError> {
        let size = vfs.metadata(path)?.map_or(0, |metadata| metadata.size);
        let log = LogFile::new(vfs, path.to_path_buf(), size, false, true);
        let mut window = Window { log: &log, start: Position::ZERO, bytes: Bytes::new() };
        let (mut at, mut end) = (Position::ZERO, base);
        while at.value() < size {
            let damage = |source| SegmentError::format(path, at, source);
            match window.batch_at(at)? {
                Next::Batch(batch) if batch.header().base_offset() >= end => {
                    end = batch.last_offset().next();
                    at = at.plus(u64::from(batch.header().size()));
                }
                Next::Batch(batch) => {
                    let (field, expected) = ("baseOffset", "an offset above those of the batches before it");
                    let (position, got) = (Position::ZERO, batch.header().base_offset().value());
                    return Err(damage(FormatError::Invalid { field, position, expected, got }));
                }
                Next::End if at > Position::ZERO => break,
                Next::End => {
                    let (needed, position) = (BatchHeader::PEEK_SIZE as u64, Position::ZERO);
                    return Err(damage(FormatError::Incomplete { what: "batch", position, needed, available: 0 }));
                }
                Next::Damage(source) => return Err(damage(source)),
            }
        }
        Ok(end)
    }

    /// Why a batch with a good checksum can't stand where the offset `next` is due.
    fn misplaced(&self, header: &BatchHeader, next: Offset, gaps: Gaps) -> Option<Fault> {
        // A wrapper of the old formats names only its last offset.
        let is_due = header.magic() < 2 || gaps.allow(next, header.base_offset());
        if header.base_offset() < next || !is_due {
            let got = header.base_offset();
            return Some(Fault::Damage(format!("offset_order: expected a batch at offset {next}, got one at {got}")));
        }
        (!self.has_room_for(header.last_offset())).then_some(Fault::Overflow)
    }

    /// Copies the batches into segments of their own, so that each has all its offsets within 31 bits above its base
    /// (reference 10.5). The first one has this segment's base and may be empty. Damage ends it; then what follows is hidden.
    pub(crate) fn split(
        &self,
        create: &dyn Fn(Offset) -> Result<CleanedSegment, SegmentError>,
    ) -> Result<Parts, SegmentError> {
        let reader = LogFile::new(Arc::clone(&self.vfs), self.log.path(), self.log.size(), false, true);
        let mut window = Window { log: &reader, start: Position::ZERO, bytes: Bytes::new() };
        let (mut segments, mut part) = (Vec::new(), create(self.base_offset)?);
        let (mut position, mut next) = (Position::ZERO, self.base_offset);
        let damage = loop {
            let batch = match window.batch_at(position)? {
                Next::Batch(batch) => batch,
                Next::End => break None,
                Next::Damage(error) => break Some(error.to_string()),
            };
            let header = batch.header();
            if header.base_offset() < next {
                break Some(format!("offset_order: expected offset {next} or more, got {}", header.base_offset()));
            }
            if !part.has_offset_room_for(header.last_offset()) {
                let base = batch.base_offset().map_err(|source| self.format_error(position, source))?;
                segments.push(std::mem::replace(&mut part, create(base)?).finish(None)?);
            }
            part.append(batch.bytes(), BatchFacts::from(header))?;
            next = header.last_offset().next();
            position = position.plus(u64::from(header.size()));
        };
        segments.push(part.finish(None)?);
        self.log.publish(position.value());
        Ok(Parts { segments, damage: damage.map(|reason| (position, next, reason)) })
    }

    /// Empties the indexes, or keeps what they say of the trusted part. Falls back to the whole file where that part isn't whole.
    fn trusted_start(&self, scan: Scan, gaps: Gaps) -> Result<(Position, Offset), SegmentError> {
        if let Scan::From(trusted) = scan
            && let Some(start) = self.trust_up_to(trusted, gaps)?
        {
            return Ok(start);
        }
        self.clear_indexes()?;
        *self.growth.lock() = Growth::of_empty();
        Ok((Position::ZERO, self.base_offset))
    }

    fn trust_up_to(&self, trusted: Position, gaps: Gaps) -> Result<Option<(Position, Offset)>, SegmentError> {
        if trusted.value() > self.size() || !self.offset_index.is_sane(self.size())? || !self.time_index.is_sane()? {
            return Ok(None);
        }
        self.offset_index.truncate_positions(trusted)?;
        let Some(next) = self.sound_end(trusted, gaps)? else { return Ok(None) };
        self.time_index.truncate(next)?;
        let indexed = self.offset_index.last()?;
        let unindexed_size = trusted.value() - indexed.map_or(0, |(_, position)| position.value());
        let hidden = self.size();
        self.log.publish(trusted.value());
        let greatest = self.find_greatest();
        self.log.publish(hidden);
        *self.growth.lock() = match greatest {
            Ok((greatest, source)) => {
                Growth { unindexed_size, greatest: Some(greatest), source, first: None, damage: None }
            }
            Err(SegmentError::Format { .. }) => Growth::behind_damage(unindexed_size),
            Err(error) => return Err(error),
        };
        Ok(Some((trusted, next)))
    }

    /// The offset after the batches that end at `end`, without verifying them all; `None` where none ends there. It comes from headers,
    /// of which a checksum covers some: so the last batch is verified, and none may begin where the one before doesn't end.
    pub(crate) fn sound_end(&self, end: Position, gaps: Gaps) -> Result<Option<Offset>, SegmentError> {
        let indexed = self.offset_index.last()?;
        let mut walk = self.walk(indexed.map_or(Position::ZERO, |(_, position)| position));
        let (mut last, mut reached, mut next) = (Position::ZERO, Position::ZERO, self.base_offset);
        while reached < end {
            let Ok(Some((position, header))) = walk.next_header() else { return Ok(None) };
            let is_in_place = match indexed {
                Some((offset, indexed)) if indexed == position => header.last_offset() == offset,
                _ => self.misplaced(&header, next, gaps).is_none(),
            };
            if !is_in_place {
                return Ok(None);
            }
            last = position;
            reached = position.plus(u64::from(header.size()));
            next = header.last_offset().next();
        }
        Ok((reached == end && self.batch_at(last).is_ok()).then_some(next))
    }

    /// Copies what follows the published length to `to` and makes the copy durable. Returns how many bytes that is.
    pub(crate) fn copy_tail_to(&self, to: &Path) -> Result<u64, SegmentError> {
        let source = self.log.file()?;
        let (start, end) = (self.size(), source.size()?);
        let target = self.vfs.open(to, OpenMode::Truncate)?;
        copy(&*source, start, end, &*target)?;
        target.sync_data()?;
        self.vfs.sync_dir(&self.dir)?;
        Ok(end.saturating_sub(start))
    }

    /// Whether a file holds exactly what follows the published length.
    pub(crate) fn has_tail_in(&self, path: &Path) -> Result<bool, SegmentError> {
        let (source, copy) = (self.log.file()?, self.vfs.open(path, OpenMode::Read)?);
        let (start, end) = (self.size(), source.size()?);
        if copy.size()? != end.saturating_sub(start) {
            return Ok(false);
        }
        let mut at = start;
        while at < end {
            let wanted = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
            let (mut left, mut right) = (vec![0; wanted], vec![0; wanted]);
            let read = (source.read_at(&mut left, at)?, copy.read_at(&mut right, at - start)?);
            if read != (wanted, wanted) || left != right {
                return Ok(false);
            }
            at += wanted as u64;
        }
        Ok(true)
    }

    /// Cuts off what follows the published length, durably. Only while nobody else reads the segment: verifying may have mapped
    /// the file beyond the cut, so that map goes first.
    pub(crate) fn cut_tail(&self) -> Result<(), SegmentError> {
        self.log.let_go();
        self.log.cut_back()?;
        self.log.sync()
    }

    /// Writes the bytes from `from` to `to` once more, as they are, and the index of aborted transactions. A sync that failed may have
    /// dropped them from what a later one writes; what is written anew, the next sync does cover.
    pub(crate) fn write_again(&self, from: Position, to: Position) -> Result<(), SegmentError> {
        self.log.write_with(|file| {
            let mut at = from.value();
            while at < to.value() {
                let bytes = self.log.read_copied(at, to.value().min(at.saturating_add(CHUNK)))?;
                if bytes.is_empty() {
                    break;
                }
                file.write_at(&bytes, at)?;
                at = at.saturating_add(bytes.len() as u64);
            }
            Ok(())
        })?;
        self.txn_index.write_again(self.size())
    }

    /// A new segment in this one's place that holds its first `size` bytes, which must end between two batches, and the aborted
    /// transactions that end below `end`. Those who read the old one go on undisturbed. The copy is durable when this returns.
    pub(crate) fn rewrite(&self, size: Position, end: Offset) -> Result<Self, SegmentError> {
        self.detach()?;
        // The new segment reads the file.
        self.persist_aborted()?;
        let source = self.log.file()?;
        let copy_path = file_path(&self.dir, FileKind::Log, self.base_offset, Suffix::Tmp);
        let target = self.vfs.open(&copy_path, OpenMode::Truncate)?;
        copy(&*source, 0, size.value(), &*target)?;
        target.sync_data()?;
        self.offset_index.file().remove()?;
        self.time_index.file().remove()?;
        self.vfs.rename(&copy_path, &file_path(&self.dir, FileKind::Log, self.base_offset, Suffix::None))?;
        self.vfs.sync_dir(&self.dir)?;
        let vfs = Arc::clone(&self.vfs);
        let segment = Self::over(vfs, &self.dir, self.base_offset, size.value(), self.options.clone());
        segment.rebuild_indexes(ClosingEntry::Omitted)?;
        // The file still holds as many entries as the whole segment may have.
        segment.txn_index.truncate(end, self.size())?;
        segment.growth.lock().unindexed_size = 0;
        Ok(segment)
    }
}

fn copy(
    source: &dyn crate::vfs::VfsFile,
    start: u64,
    end: u64,
    target: &dyn crate::vfs::VfsFile,
) -> Result<(), SegmentError> {
    let mut at = start;
    let mut buffer = vec![0; usize::try_from(CHUNK.min(end.saturating_sub(start))).unwrap_or(0)];
    while at < end {
        let wanted = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
        let read = source.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)?;
        if read == 0 {
            break;
        }
        target.write_at(buffer.get(..read).unwrap_or_default(), at - start)?;
        at += read as u64;
    }
    Ok(())
}

/// What stands at a place of a `.log`.
enum Next {
    Batch(RecordBatch),
    /// Nothing, or zeros.
    End,
    Damage(FormatError),
}

/// Reads a `.log` front to back in chunks.
struct Window<'a> {
    log: &'a LogFile,
    start: Position,
    bytes: Bytes,
}

impl Window<'_> {
    fn batch_at(&mut self, position: Position) -> Result<Next, SegmentError> {
        let left = self.log.size().saturating_sub(position.value());
        let head = self.bytes_at(position, (BatchHeader::PEEK_SIZE as u64).min(left))?;
        if is_end_of_log(&head) && self.log.is_zero_from(position)? {
            return Ok(Next::End);
        }
        let size = match BatchHeader::peek(&head) {
            Ok(header) => u64::from(header.size()),
            Err(error) => return Ok(Next::Damage(error)),
        };
        if size > left {
            return Ok(Next::Damage(FormatError::Incomplete {
                what: "batch",
                position: Position::ZERO,
                needed: size,
                available: left,
            }));
        }
        Ok(match RecordBatch::parse(self.bytes_at(position, size)?) {
            Ok(batch) => Next::Batch(batch),
            Err(error) => Next::Damage(error),
        })
    }

    fn bytes_at(&mut self, position: Position, size: u64) -> Result<Bytes, SegmentError> {
        let covered = self.start.plus(self.bytes.len() as u64);
        if position < self.start || position.plus(size) > covered {
            self.bytes = self.log.read(position, size.max(CHUNK))?;
            self.start = position;
        }
        let skip = usize::try_from(position.value() - self.start.value()).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = skip.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(self.bytes.len());
        Ok(self.bytes.slice(skip..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{AbortedTransaction, BatchBuilder, BatchOptions, Compression, Record, assign_offsets};
    use crate::segment::SegmentOptions;
    use crate::types::{LeaderEpoch, ProducerId, TimestampType};
    use crate::vfs::MemoryVfs;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn batch(base: i64) -> Vec<u8> {
        let options = BatchOptions {
            compression: Compression::None,
            level: None,
            timestamp_type: TimestampType::Create,
            producer: None,
        };
        let mut builder = BatchBuilder::new(options);
        builder.push(&Record::new(b"value"), None).unwrap();
        let bytes = builder.finish().unwrap();
        assign_offsets(bytes, offset(base), LeaderEpoch::ZERO).unwrap();
        bytes.to_vec()
    }

    #[test]
    fn recovery_leaves_the_indexes_alone_that_another_reader_of_the_segment_has_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let vfs: Arc<dyn Vfs> = Arc::new(crate::vfs::DiskVfs::new());
        let options = SegmentOptions {
            index_interval_bytes: 0,
            index_size_max: 65536,
            preallocate: 0,
            foreign: false,
            residency: Arc::default(),
        };
        let segment = Segment::create(Arc::clone(&vfs), dir.path(), Offset::ZERO, options.clone()).unwrap();
        for base in 0..1000 {
            let bytes = batch(base);
            segment.write(&bytes, offset(base)).unwrap();
            segment.publish(bytes.len() as u64, BatchFacts { last_offset: offset(base), max_timestamp: None });
        }
        segment.seal().unwrap();
        let place = segment.find(offset(900)).unwrap().unwrap().0;
        let again = Segment::open(vfs, dir.path(), Offset::ZERO, segment.size(), options).unwrap();
        again.recover(Scan::Whole, Gaps::Anywhere, &mut |_| {}).unwrap();
        assert_eq!(segment.offset_index.floor(offset(900)).unwrap(), (offset(900), place));
    }

    #[test]
    fn a_rewritten_segment_keeps_the_aborted_transactions_below_its_end() {
        let vfs = Arc::new(MemoryVfs::new());
        let dir = Path::new("/p");
        vfs.create_dir_all(dir).unwrap();
        let options = SegmentOptions {
            index_interval_bytes: 0,
            index_size_max: 4096,
            preallocate: 0,
            foreign: false,
            residency: Arc::default(),
        };
        let segment = Segment::create(Arc::<MemoryVfs>::clone(&vfs), dir, Offset::ZERO, options.clone()).unwrap();
        for base in 0..10 {
            let bytes = batch(base);
            segment.write(&bytes, offset(base)).unwrap();
            segment.publish(bytes.len() as u64, BatchFacts { last_offset: offset(base), max_timestamp: None });
        }
        for marker in [2, 5, 8] {
            let last_offset = offset(marker);
            let entry = AbortedTransaction {
                producer_id: ProducerId::ZERO,
                first_offset: Offset::ZERO,
                last_offset,
                last_stable_offset: last_offset.next(),
            };
            segment.add_aborted(entry).unwrap();
        }
        let markers = |segment: &Segment| -> Vec<i64> {
            segment.aborted().unwrap().iter().map(|entry| entry.last_offset.value()).collect()
        };
        let end = segment.find(offset(8)).unwrap().unwrap().0;
        let rewritten = segment.rewrite(end, offset(8)).unwrap();
        assert_eq!((markers(&rewritten), markers(&segment)), (vec![2, 5], vec![2, 5, 8]));
        let whole = rewritten.rewrite(Position::new(rewritten.size()), Offset::MAX).unwrap();
        assert_eq!(markers(&whole), [2, 5]);
        whole.sync_all().unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        vfs.sync_dir(dir).unwrap();
        let survivor = vfs.crash_image();
        let opened = Segment::open(Arc::new(survivor), dir, Offset::ZERO, whole.size(), options).unwrap();
        assert_eq!(markers(&opened), [2, 5]);
        assert!(opened.has_sane_txn_index().unwrap());
    }
}
