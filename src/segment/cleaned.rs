//! The `.cleaned` files of a segment that is being written to take the place of others.
//!
//! Batches come with the offsets they keep, in order. The finished files are what appending the same batches one by one to a
//! fresh segment would have made, trimmed to their content and durable. What is dropped unfinished removes its files.
//! What goes into it, and putting it in place, is for the caller; until then no reader knows of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log_file::LOG_SIZE_MAX;
use super::{BatchFacts, Segment, SegmentError, SegmentOptions, file_path};
use crate::format::AbortedTransaction;
use crate::format::file_name::{FileKind, Suffix};
use crate::types::{Offset, Position, Timestamp};
use crate::vfs::{Vfs, unless_missing};

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
        Ok(self.paths.iter().try_for_each(|path| unless_missing(self.vfs.remove_file(path)))?)
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
        self.segment.file_batch(position, batch.len() as u64, facts);
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

    /// Whether a batch that ends at this offset is within 31 bits above the base.
    pub(crate) fn has_offset_room_for(&self, last_offset: Offset) -> bool {
        self.segment.has_room_for(last_offset)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BatchBuilder, BatchHeader, BatchOptions, Compression, Record, assign_offsets};
    use crate::types::{LeaderEpoch, ProducerId, TimestampType};
    use crate::vfs::{MemoryVfs, OpenMode};

    const DIR: &str = "/p";

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).unwrap()
    }

    fn rig() -> (Arc<MemoryVfs>, SegmentOptions) {
        let vfs = Arc::new(MemoryVfs::new());
        vfs.create_dir_all(Path::new(DIR)).unwrap();
        let options = SegmentOptions {
            index_interval_bytes: 200,
            index_size_max: 4096,
            preallocate: 1 << 16,
            foreign: false,
            residency: Arc::default(),
        };
        (vfs, options)
    }

    fn batch(base: i64, millis: i64) -> (Vec<u8>, BatchFacts) {
        let options = BatchOptions {
            compression: Compression::None,
            level: None,
            timestamp_type: TimestampType::Create,
            producer: None,
        };
        let mut builder = BatchBuilder::new(options);
        builder.push(&Record::new(b"a value of some bytes"), Some(at(millis))).unwrap();
        let bytes = builder.finish().unwrap();
        assign_offsets(bytes, offset(base), LeaderEpoch::ZERO).unwrap();
        (bytes.to_vec(), BatchFacts::from(&BatchHeader::peek(bytes).unwrap()))
    }

    /// Batches with gaps between their offsets and times that go up and down.
    fn batches() -> impl Iterator<Item = (Vec<u8>, BatchFacts)> {
        (0..100).map(|i| batch(1000 + 7 * i, 5000 + (i * 37) % 61))
    }

    fn create(vfs: &Arc<MemoryVfs>, options: SegmentOptions) -> CleanedSegment {
        let vfs: Arc<MemoryVfs> = Arc::clone(vfs);
        CleanedSegment::create(vfs, Path::new(DIR), offset(1000), options).unwrap()
    }

    fn files(vfs: &MemoryVfs) -> Vec<(String, Vec<u8>)> {
        let read = |name: String| {
            let file = vfs.open(&Path::new(DIR).join(&name), OpenMode::Read).unwrap();
            (name, file.map(file.size().unwrap()).unwrap().to_vec())
        };
        vfs.read_dir(Path::new(DIR)).unwrap().into_iter().map(|entry| read(entry.name)).collect()
    }

    fn aborted(marker: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId::ZERO,
            first_offset: offset(3),
            last_offset: offset(marker),
            last_stable_offset: offset(marker + 1),
        }
    }

    #[test]
    fn the_files_are_those_that_plain_appends_make_trimmed_to_their_content() {
        let (plain_vfs, options) = rig();
        let plain =
            Segment::create(Arc::<MemoryVfs>::clone(&plain_vfs), Path::new(DIR), offset(1000), options).unwrap();
        for (bytes, facts) in batches() {
            plain.write(&bytes, facts.last_offset).unwrap();
            plain.publish(bytes.len() as u64, facts);
        }
        plain.add_aborted(aborted(1007)).unwrap();
        plain.seal().unwrap();

        let (vfs, options) = rig();
        let mut cleaned = create(&vfs, options.clone());
        for (bytes, facts) in batches() {
            cleaned.append(&bytes, facts).unwrap();
        }
        cleaned.add_aborted(aborted(1007)).unwrap();
        let segment = cleaned.finish(None).unwrap();
        let expected: Vec<_> =
            files(&plain_vfs).into_iter().map(|(name, bytes)| (format!("{name}.cleaned"), bytes)).collect();
        assert_eq!(files(&vfs), expected);
        assert_eq!(expected.len(), 4);
        assert!(expected.iter().all(|(_, bytes)| bytes.len() >= 34), "all four have content");

        vfs.sync_dir(Path::new(DIR)).unwrap();
        vfs.sync_dir(Path::new("/")).unwrap();
        assert_eq!(files(&vfs.crash_image()), expected, "durable");
        let found: Vec<_> = segment.batches().map(|batch| batch.unwrap().1.bytes().to_vec()).collect();
        assert_eq!(found, batches().map(|(bytes, _)| bytes).collect::<Vec<_>>());
    }

    #[test]
    fn the_log_gets_the_given_modification_time() {
        let (vfs, options) = rig();
        let mut cleaned = create(&vfs, options.clone());
        let (bytes, facts) = batch(1000, 5000);
        cleaned.append(&bytes, facts).unwrap();
        let segment = cleaned.finish(Some(at(123_456))).unwrap();
        assert_eq!(segment.modified().unwrap(), Some(at(123_456)));
    }

    #[test]
    fn nothing_kept_is_an_empty_log_with_empty_indexes() {
        let (vfs, options) = rig();
        let segment = create(&vfs, options.clone()).finish(Some(at(1))).unwrap();
        assert_eq!((segment.size(), segment.largest_timestamp().unwrap()), (0, None));
        let names = ["index", "log", "timeindex"].map(|kind| format!("00000000000000001000.{kind}.cleaned"));
        assert_eq!(files(&vfs), names.map(|name| (name, Vec::new())));
    }

    #[test]
    fn what_is_not_finished_leaves_no_files_and_takes_over_none() {
        let (vfs, options) = rig();
        let left = Path::new(DIR).join("00000000000000001000.txnindex.cleaned");
        vfs.open(&left, OpenMode::Create).unwrap().write_at(&aborted(1001).encode(), 0).unwrap();
        let mut cleaned = create(&vfs, options.clone());
        let (bytes, facts) = batch(1000, 5000);
        cleaned.append(&bytes, facts).unwrap();
        drop(cleaned);
        assert_eq!(files(&vfs), []);
        vfs.open(&left, OpenMode::Create).unwrap().write_at(&aborted(1001).encode(), 0).unwrap();
        assert!(create(&vfs, options.clone()).finish(None).unwrap().aborted().unwrap().is_empty());
        assert_eq!(files(&vfs).len(), 3);
    }

    #[test]
    fn room_ends_with_the_offsets_the_positions_and_the_indexes() {
        let (vfs, options) = rig();
        let mut cleaned = create(&vfs, SegmentOptions { index_size_max: 0, ..options });
        assert!(cleaned.has_room_for(100, offset(1000 + i64::from(i32::MAX))), "an empty one takes any batch");
        assert!(!cleaned.has_room_for(100, offset(1001 + i64::from(i32::MAX))));
        assert!(!cleaned.has_room_for(LOG_SIZE_MAX + 1, offset(1000)));
        assert!(!cleaned.has_room_for(u64::MAX, offset(1000)));
        assert!(!cleaned.has_room_for(0, offset(999)) && !cleaned.has_room_for(0, offset(i64::MAX)));
        let (bytes, mut facts) = batch(1000, 5000);
        cleaned.append(&bytes, facts).unwrap();
        assert_eq!(cleaned.size(), bytes.len() as u64);
        assert!(!cleaned.has_room_for(1, offset(1001)), "its indexes are full");
        facts.last_offset = offset(1001 + i64::from(i32::MAX));
        assert!(matches!(cleaned.append(&bytes, facts), Err(SegmentError::OffsetOverflow { .. })));
    }

    #[test]
    fn renaming_keeps_the_segment_readable_and_moves_every_file() {
        let (vfs, options) = rig();
        let mut cleaned = create(&vfs, options.clone());
        for (bytes, facts) in batches() {
            cleaned.append(&bytes, facts).unwrap();
        }
        cleaned.add_aborted(aborted(1007)).unwrap();
        let segment = cleaned.finish(None).unwrap();
        let is_whole = || segment.batches().count() == 100 && segment.find(offset(1500)).unwrap().is_some();
        for suffix in [Suffix::Swap, Suffix::None] {
            segment.rename_indexes(suffix).unwrap();
            assert!(is_whole());
            segment.rename_log(suffix).unwrap();
            assert!(is_whole());
            let ending = suffix.as_str();
            let expected =
                ["index", "log", "timeindex", "txnindex"].map(|kind| format!("00000000000000001000.{kind}{ending}"));
            assert_eq!(files(&vfs).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), expected);
        }
        segment.add_aborted(aborted(1014)).unwrap();
        assert_eq!(segment.aborted().unwrap().len(), 2);
        assert_eq!(files(&vfs)[3].1.len(), 68);
    }
}
