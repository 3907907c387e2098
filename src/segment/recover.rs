//! Bringing a segment back after a crash or cutting it: verify every batch, rebuild both indexes, set aside what is damaged.
//!
//! Recovery works on files that nobody reads yet, so it may cut in place. A cut under readers goes through
//! [`Segment::rewrite`], which leaves their file as it was.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::log_file::{LogFile, is_end_of_log};
use super::{BatchFacts, Growth, Segment, SegmentError, file_path};
use crate::format::file_name::{FileKind, Suffix};
use crate::format::{BatchHeader, FormatError, RecordBatch};
use crate::types::{Offset, Position};
use crate::vfs::OpenMode;

/// Bytes that are read at once while a segment is verified, and copied at once while one is rewritten.
const CHUNK: u64 = 1024 * 1024;

/// What verifying a segment found.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// The offset after the last good batch.
    pub next_offset: Offset,
    /// Where the good batches end and why, when something other than zeros stands behind them.
    pub damage: Option<(Position, String)>,
}

/// From where on a segment must be verified.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scan {
    /// From its first byte.
    Whole,
    /// From here on: what lies before was verified by this library in the same boot of the machine.
    From(Position),
}

impl Segment {
    /// Verifies the batches, rebuilds the indexes and hides everything from the first bad batch on; the file itself isn't cut.
    /// `visit` sees every good batch in order.
    pub(crate) fn recover(&self, scan: Scan, visit: &mut dyn FnMut(&BatchHeader)) -> Result<Recovered, SegmentError> {
        let (start, mut next_offset) = self.trusted_start(scan)?;
        let reader = LogFile::new(Arc::clone(&self.vfs), self.log.path(), self.log.size(), false, true);
        let mut window = Window { log: &reader, start, bytes: Bytes::new() };
        let mut position = start;
        let damage = loop {
            let batch = match window.batch_at(position)? {
                Next::Batch(batch) => batch,
                Next::End => break None,
                Next::Damage(error) => break Some(error.to_string()),
            };
            let header = batch.header();
            if let Some(reason) = self.misplaced(header, next_offset) {
                break Some(reason);
            }
            self.file_batch(position, u64::from(header.size()), BatchFacts::from(header))?;
            visit(header);
            next_offset = header.last_offset().next();
            position = position.plus(u64::from(header.size()));
        };
        self.log.publish(position.value());
        // As when a segment is sealed: the last entry says the true maximum, whoever asks for it later.
        if let Some((timestamp, offset)) = self.greatest()? {
            self.time_index.maybe_append(timestamp, offset)?;
        }
        Ok(Recovered { next_offset, damage: damage.map(|reason| (position, reason)) })
    }

    /// Why a batch with a good checksum can't stand here.
    fn misplaced(&self, header: &BatchHeader, next_offset: Offset) -> Option<String> {
        if header.last_offset() < next_offset {
            return Some(format!("offset_order: expected offset {next_offset} or more, got {}", header.last_offset()));
        }
        (!self.has_room_for(header.last_offset()))
            .then(|| format!("offset_order: offset {} is out of the segment's range", header.last_offset()))
    }

    /// Empties the indexes, or keeps what they say of the trusted part. Falls back to the whole file where that part isn't whole.
    fn trusted_start(&self, scan: Scan) -> Result<(Position, Offset), SegmentError> {
        if let Scan::From(trusted) = scan
            && let Some(start) = self.trust_up_to(trusted)?
        {
            return Ok(start);
        }
        self.offset_index.file().clear()?;
        self.time_index.file().clear()?;
        *self.growth.lock() = Growth { unindexed_size: 0, greatest: Some(None), first: Some(None) };
        Ok((Position::ZERO, self.base_offset))
    }

    fn trust_up_to(&self, trusted: Position) -> Result<Option<(Position, Offset)>, SegmentError> {
        if trusted.value() > self.size() || !self.offset_index.is_sane(self.size())? || !self.time_index.is_sane()? {
            return Ok(None);
        }
        self.offset_index.truncate_positions(trusted)?;
        let indexed = self.offset_index.last()?;
        let mut walk = self.log.headers_from(indexed.map_or(Position::ZERO, |(_, position)| position));
        let (mut end, mut next) = (Position::ZERO, self.base_offset);
        while end < trusted {
            let Ok(Some((position, header))) = walk.next_header() else { return Ok(None) };
            end = position.plus(u64::from(header.size()));
            next = header.last_offset().next();
        }
        if end != trusted {
            return Ok(None);
        }
        self.time_index.truncate(next)?;
        let unindexed_size = trusted.value() - indexed.map_or(0, |(_, position)| position.value());
        let hidden = self.size();
        self.log.publish(trusted.value());
        let greatest = self.find_greatest();
        self.log.publish(hidden);
        *self.growth.lock() = Growth { unindexed_size, greatest: Some(greatest?), first: None };
        Ok(Some((trusted, next)))
    }

    /// Copies what stands behind the published length to `to`, makes the copy durable, and cuts it off. Only before readers exist.
    pub(crate) fn cut_tail_into(&self, to: &Path) -> Result<u64, SegmentError> {
        let source = self.log.file()?;
        let (start, end) = (self.size(), source.size()?);
        let target = self.vfs.open(to, OpenMode::Truncate)?;
        copy(&*source, start, end, &*target)?;
        target.sync_data()?;
        self.vfs.sync_dir(&self.dir)?;
        self.log.cut_back()?;
        Ok(end.saturating_sub(start))
    }

    /// A new segment in this one's place that holds its first `size` bytes, which must end between two batches. Those who read the
    /// old one go on undisturbed. The copy is durable when this returns.
    pub(crate) fn rewrite(&self, size: Position) -> Result<Self, SegmentError> {
        self.detach()?;
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
        let recovered = segment.recover(Scan::Whole, &mut |_| {})?;
        // The file still holds as many entries as the whole segment may have.
        segment.txn_index.truncate(recovered.next_offset, self.size())?;
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
        if is_end_of_log(&head) && self.is_zero_from(position)? {
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

    /// Whether nothing but zeros follows: space that was reserved and never written.
    fn is_zero_from(&mut self, position: Position) -> Result<bool, SegmentError> {
        let mut at = position;
        while at.value() < self.log.size() {
            let chunk = self.log.read(at, CHUNK)?;
            if chunk.is_empty() || chunk.iter().any(|byte| *byte != 0) {
                return Ok(chunk.is_empty());
            }
            at = at.plus(chunk.len() as u64);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{AbortedTransaction, BatchBuilder, BatchOptions, Compression, Record, assign_offsets};
    use crate::segment::SegmentOptions;
    use crate::types::{LeaderEpoch, ProducerId, TimestampType};
    use crate::vfs::{MemoryVfs, Vfs};

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
            segment.publish(bytes.len() as u64, BatchFacts { last_offset: offset(base), max_timestamp: None }).unwrap();
        }
        segment.seal().unwrap();
        let place = segment.find(offset(900)).unwrap().unwrap().0;
        let again = Segment::open(vfs, dir.path(), Offset::ZERO, segment.size(), options).unwrap();
        again.recover(Scan::Whole, &mut |_| {}).unwrap();
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
            segment.publish(bytes.len() as u64, BatchFacts { last_offset: offset(base), max_timestamp: None }).unwrap();
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
        let rewritten = segment.rewrite(end).unwrap();
        assert_eq!((markers(&rewritten), markers(&segment)), (vec![2, 5], vec![2, 5, 8]));
        let whole = rewritten.rewrite(Position::new(rewritten.size())).unwrap();
        assert_eq!(markers(&whole), [2, 5]);
        whole.sync_all().unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        vfs.sync_dir(dir).unwrap();
        let survivor = vfs.crash_image();
        let opened = Segment::open(Arc::new(survivor), dir, Offset::ZERO, whole.size(), options).unwrap();
        assert_eq!(markers(&opened), [2, 5]);
        assert!(opened.has_sane_txn_index());
    }
}
