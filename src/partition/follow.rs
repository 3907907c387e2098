//! Reading beside the process that writes.
//!
//! Every read first looks at the end of the log ([`Inner::look`]): new batches in the active segment, and the segment that was begun
//! at its end. That costs a few calls, however large the log is. Where a file isn't what it was, the folder is listed again
//! ([`Inner::list_again`]): the writer has removed, compacted or cut segments, or begun the topic anew. What was read from a file that
//! was replaced meanwhile is read again.
//!
//! A follower shows what a reader in the writing process saw at some moment, or says that it must look again
//! ([`LogError::Changed`]); the latter while the writer swaps compacted segments, when a listing can miss some, and while it cuts the
//! log or starts it over, when the files go one by one. Where the writer fails or dies in the middle of that, it is so until it
//! reopens the partition, or somebody opens the store for writing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::epochs::EpochTable;
use super::notes::Unbroken;
use super::recover::log_bases;
use super::replay::replay;
use super::segments::SegmentList;
use super::snapshots::{self, Rebuild};
use super::{Inner, LogError, Partition, Writer, store};
use crate::format::file_name::{
    CLEANER_CHECKPOINT, FileKind, FileName, LEADER_EPOCH_CHECKPOINT, LOG_START_CHECKPOINT, Suffix, UNBROKEN,
};
use crate::format::{LeaderEpochCheckpoint, OffsetCheckpoint, PartitionMetadata, TopicId, parse_unbroken};
use crate::segment::{Gaps, Segment, SegmentError, file_path};
use crate::types::{ErrorKind, Offset};
use crate::vfs::{IoError, OpenMode, Vfs, read_whole};

/// How often a read is tried before the caller is told to look again.
const LOOKS_MAX: usize = 4;

/// After so many looks the folder is listed, for what no look at the log's end can find.
const LOOKS_PER_LISTING: u32 = 64;

/// What a follower remembers between two looks.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Looks since the folder was listed; `None` when it wasn't yet.
    looks: Option<u32>,
    /// The id that the topic had when the partition was opened, if it says one.
    topic_id: Option<TopicId>,
    /// Whether what is shown was taken from a folder that was in the middle of nothing.
    is_settled: bool,
    /// The file of notes as it was read last, and up to where it said that the log may have gaps, if it did.
    gaps_noted: Option<(NoteStamp, Option<Offset>)>,
}

/// What tells the file of notes from another one of its name: its size and its last bytes, which are the checksum of all others. Not
/// its identity and time: a file that is replaced twice in a millisecond may have them again.
type NoteStamp = (u64, Vec<u8>);

/// At least as many bytes as the line with the checksum has.
const STAMP_BYTES: u64 = 16;

impl Following {
    /// Of a partition that is about to be opened in `dir`.
    pub(super) fn of(vfs: &dyn Vfs, dir: &Path) -> Result<Self, IoError> {
        let topic_id = read_topic_id(vfs, dir)?.flatten();
        Ok(Self { looks: None, topic_id, is_settled: Settled::in_folder(vfs, dir)?.is_some(), gaps_noted: None })
    }

    /// The partition was opened with these segments.
    pub(super) fn opened(&mut self, vfs: &dyn Vfs, dir: &Path, list: &SegmentList) -> Result<(), IoError> {
        // What was shown before the opening may be over, and what it saw half-way may have come to its end.
        let settled = Settled::in_folder(vfs, dir)?;
        let bases = list.iter().map(|segment| segment.base_offset());
        self.is_settled &= settled.is_some_and(|settled| bases.eq(settled.bases));
        Ok(())
    }
}

/// The id that a folder's `partition.metadata` says; the outer `None` where there is no such file.
fn read_topic_id(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Option<TopicId>>, IoError> {
    let bytes = read_whole(vfs, &dir.join(FileName::partition_metadata().to_string()))?;
    Ok(bytes.map(|bytes| PartitionMetadata::parse(&bytes).ok().map(|metadata| metadata.topic_id)))
}

/// A log as a listing shows it.
struct Listed {
    list: SegmentList,
    end: Offset,
    /// Whether it goes on where the known log ended.
    continues: bool,
}

/// What the names in a folder say.
struct Settled {
    /// The bases of the segments.
    bases: BTreeSet<Offset>,
    /// Below this, segments are on their way out, one by one.
    log_start: Offset,
}

impl Settled {
    /// What a folder says while the writer is in the middle of nothing; else `None`.
    fn in_folder(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Self>, IoError> {
        let names = file_names(vfs, dir)?;
        let parsed: Vec<_> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        if parsed.iter().any(is_unsettled) {
            return Ok(None);
        }
        let marks = parsed.iter().filter(|name| name.kind() == FileKind::Trimmed && name.suffix() == Suffix::None);
        let log_start = marks.filter_map(|name| name.offset()).max().unwrap_or(Offset::ZERO);
        Ok(Some(Self { bases: log_bases(names.iter().map(String::as_str)), log_start }))
    }
}

fn file_names(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<String>, IoError> {
    let entries = vfs.read_dir(dir)?;
    Ok(entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name).collect())
}

/// Whether a file of this name says that the writer is changing the log. Segments that are being swapped are under neither name for a
/// moment, and then without their indexes; a log that is cut or starts over loses them one by one.
fn is_unsettled(name: &FileName) -> bool {
    match name.suffix() {
        Suffix::Swap => true,
        Suffix::None => matches!(name.kind(), FileKind::Restarted | FileKind::Truncated),
        _ => false,
    }
}

impl Partition {
    /// Does `read` on the log as another process has written it by now; again when that process changed what was read. Only for a
    /// partition opened read-only. Damage behind the known end is an error for those only who look there: `is_at_end` says whether the
    /// answer depends on where the log ends.
    pub(super) fn following<T>(
        &self,
        read: impl Fn() -> Result<T, LogError>,
        is_at_end: impl Fn(&T) -> bool,
    ) -> Result<T, LogError> {
        let mut must_list = false;
        let mut damage = None;
        for _ in 0..LOOKS_MAX {
            let looked = self.look(must_list);
            let found = match looked {
                Ok(()) => read(),
                Err(error) if error.kind() == ErrorKind::Corrupt && must_list => {
                    read().and_then(|found| if is_at_end(&found) { Err(error) } else { Ok(found) })
                }
                Err(error) => Err(error),
            };
            match found {
                Err(error) if is_change(&error) => {}
                // Old indexes and sizes over a new file look like damage, and so does a file that was cut since it was listed. Damage is
                // what two listings show.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let again = error.to_string();
                    if must_list && damage.as_ref() == Some(&again) {
                        return Err(error);
                    }
                    damage = must_list.then_some(again);
                }
                found => return found,
            }
            must_list = true;
        }
        Err(LogError::Changed { partition: self.id().clone() })
    }

    fn look(&self, must_list: bool) -> Result<(), LogError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_open()?;
        let result = if must_list || writer.following.looks.is_none() {
            self.inner.list_again(&mut writer)
        } else {
            self.inner.look(&mut writer)
        };
        drop(writer);
        if matches!(result, Err(LogError::Closed { .. })) {
            self.invalidate();
        }
        result
    }

    /// Takes over a log start that the writer raised without removing a segment.
    pub(super) fn follow_log_start(&self) {
        let _writer = self.inner.writer.lock();
        self.inner.raise_followed_start(self.log_end_offset());
    }
}

/// Whether an error says that a file isn't what it was when it was last looked at.
fn is_change(error: &LogError) -> bool {
    match error {
        LogError::Changed { .. } | LogError::Segment { source: SegmentError::Changed { .. }, .. } => true,
        error => error.is_not_found(),
    }
}

impl Inner {
    /// Follows the log from where it ended at the last look.
    fn look(&self, writer: &mut Writer) -> Result<(), LogError> {
        let first = Arc::clone(self.list().first());
        if self.io(self.vfs.metadata(&first.path()))?.is_none() {
            return Err(self.changed());
        }
        loop {
            let list = self.list();
            let end = self.follow_active(writer, &list)?;
            let Some(base) = self.next_base(writer, &list, end)? else { return Ok(()) };
            // A batch may have been appended before the new segment was begun.
            let end = self.follow_active(writer, &list)?;
            if end > base {
                return Err(self.changed());
            }
            list.active().end_following().map_err(|error| self.wrap(error))?;
            let segment = self.open_followed(base, 0)?;
            self.judge_gaps(&segment);
            let end = segment.start_following().map_err(|error| self.wrap(error))?.max(base);
            self.show_followed(writer, list.rolled(Arc::new(segment)), end)?;
        }
    }

    /// Follows the active segment; returns the log's end.
    fn follow_active(&self, writer: &mut Writer, list: &SegmentList) -> Result<Offset, LogError> {
        let known = self.offsets.log_end();
        let was_empty = list.active().size() == 0;
        let end = list.active().follow(known).map_err(|error| self.wrap(error))?;
        if end > known || writer.replayed < end {
            if was_empty {
                // Nothing of the old topic is there to tell it from a new one.
                self.check_same_topic(writer)?;
            }
            self.show_followed(writer, list.clone(), end)?;
        }
        Ok(end)
    }

    /// The base of the segment behind the active one, if it has been begun.
    fn next_base(&self, writer: &mut Writer, list: &SegmentList, end: Offset) -> Result<Option<Offset>, LogError> {
        let active = list.active().base_offset();
        let path = file_path(&self.dir, FileKind::Log, end, Suffix::None);
        if end > active && self.io(self.vfs.metadata(&path))?.is_some() {
            return Ok(Some(end));
        }
        let looks = writer.following.looks.unwrap_or(0).saturating_add(1);
        writer.following.looks = Some(looks % LOOKS_PER_LISTING);
        if looks < LOOKS_PER_LISTING && !self.may_go_on_above(writer, end) {
            return Ok(None);
        }
        // A log with a gap, such as a copy of a compacted one, goes on above its end.
        self.raise_followed_start(end);
        Ok(log_bases(self.names()?.iter().map(String::as_str)).into_iter().find(|base| *base > active))
    }

    /// Whether the log may go on above its end, behind a gap that the writer has noted: it has cut inside a batch. The notes are read
    /// when their file is another one.
    fn may_go_on_above(&self, writer: &mut Writer, end: Offset) -> bool {
        let Some(stamp) = self.note_stamp() else { return false };
        let known = &mut writer.following.gaps_noted;
        if known.as_ref().is_none_or(|(known, _)| *known != stamp) {
            *known = Some((stamp, self.noted_gaps_end()));
        }
        known.as_ref().and_then(|(_, from)| *from).is_some_and(|from| from > end)
    }

    fn note_stamp(&self) -> Option<NoteStamp> {
        let file = self.vfs.open(&self.dir.parent()?.join(UNBROKEN), OpenMode::Read).ok()?;
        let size = file.size().ok()?;
        let mut last = vec![0; usize::try_from(size.min(STAMP_BYTES)).ok()?];
        let read = file.read_at(&mut last, size.saturating_sub(STAMP_BYTES)).ok()?;
        last.truncate(read);
        Some((size, last))
    }

    /// Shows readers what was followed: a transaction's end before the offsets behind it.
    fn show_followed(&self, writer: &mut Writer, list: SegmentList, end: Offset) -> Result<(), LogError> {
        let mut producers = self.producers.lock();
        let reached =
            replay(&mut producers, &list, writer.replayed..end, true, &|_| false).map_err(|error| self.wrap(error))?;
        writer.replayed = reached;
        self.show(list, self.offsets.log_start(), end, producers.open_transactions().first_unstable());
        Ok(())
    }

    /// Takes the log from the folder as it is now.
    fn list_again(&self, writer: &mut Writer) -> Result<(), LogError> {
        self.check_same_topic(writer)?;
        let settled = self.settled()?;
        let mut sealed: Vec<Offset> = settled.bases.iter().copied().collect();
        let Some(last) = sealed.pop() else {
            // A folder without a log, as it was when it was opened.
            let is_empty = self.list().first().size() == 0 && self.list().sealed().is_empty();
            return if is_empty { Ok(()) } else { Err(self.changed()) };
        };
        let listed = self.open_listed(&sealed, last, writer.following.is_settled)?;
        // A listing isn't taken at one moment: only what it shows twice was there at once.
        if self.settled()?.bases != settled.bases {
            return Err(self.changed());
        }
        let first = listed.list.first().base_offset();
        let known = if listed.continues { self.offsets.log_start() } else { Offset::ZERO };
        let start = known.max(first).max(settled.log_start).min(listed.end);
        self.follow_epochs()?;
        if listed.continues {
            self.offsets.moving().set_log_start(start);
            self.show_followed(writer, listed.list, listed.end)?;
        } else {
            self.show_anew(writer, listed.list, start, listed.end)?;
        }
        self.raise_followed_start(listed.end);
        writer.following.looks = Some(0);
        writer.following.is_settled = true;
        Ok(())
    }

    fn settled(&self) -> Result<Settled, LogError> {
        self.io(Settled::in_folder(&*self.vfs, &self.dir))?.ok_or_else(|| self.changed())
    }

    /// The segments of these bases, the known ones as far as they are unchanged, if what is known is to be relied on.
    fn open_listed(&self, sealed: &[Offset], last: Offset, is_known: bool) -> Result<Listed, LogError> {
        let known = self.list();
        let mut end = self.offsets.log_end();
        // The active segment may be a sealed one by now.
        let active = if is_known { self.followed_to_end(known.active(), &mut end, last)? } else { None };
        let continues = active.is_some() && last >= known.active().base_offset();
        let known_segment = |base: Offset| {
            let same = known.sealed().iter().find(|segment| segment.base_offset() == base);
            let unchanged = same.filter(|segment| is_known && segment.check_unchanged().is_ok()).cloned();
            unchanged.or_else(|| active.clone().filter(|active| active.base_offset() == base))
        };
        let mut segments = Vec::with_capacity(sealed.len());
        for base in sealed {
            segments.push(match known_segment(*base) {
                Some(segment) => segment,
                None => Arc::new(self.open_sealed(*base)?),
            });
        }
        // After the sealed ones were opened: the writer says where its log may have gaps before it has them.
        store(&self.unbroken_from, self.noted_unbroken_from());
        segments.iter().for_each(|segment| self.judge_gaps(segment));
        if let Some(active) = active.filter(|active| active.base_offset() == last) {
            self.judge_gaps(&active);
            return Ok(Listed { list: SegmentList::new(segments, active), end, continues });
        }
        let active = self.open_followed(last, 0)?;
        self.judge_gaps(&active);
        let end = active.start_following().map_err(|error| self.wrap(error))?.max(last);
        Ok(Listed { list: SegmentList::new(segments, Arc::new(active)), end, continues })
    }

    /// The active segment as followed to its end, and sealed if `last` is another one; `None` when it isn't what it was.
    fn followed_to_end(
        &self,
        active: &Arc<Segment>,
        end: &mut Offset,
        last: Offset,
    ) -> Result<Option<Arc<Segment>>, LogError> {
        let followed = active.follow(*end).and_then(|followed| {
            if active.base_offset() < last { active.end_following().map(|()| followed) } else { Ok(followed) }
        });
        match followed {
            Ok(followed) => {
                *end = followed;
                Ok(Some(Arc::clone(active)))
            }
            Err(SegmentError::Changed { .. }) => Ok(None),
            Err(error) => Err(self.wrap(error)),
        }
    }

    fn open_sealed(&self, base: Offset) -> Result<Segment, LogError> {
        let path = file_path(&self.dir, FileKind::Log, base, Suffix::None);
        let size = self.io(self.vfs.metadata(&path))?.ok_or_else(|| self.changed())?.size;
        let segment = self.open_followed(base, size)?;
        // Whatever lookups find out about it is of the file that it is now.
        segment.check_unchanged().map_err(|error| self.wrap(error))?;
        Ok(segment)
    }

    fn open_followed(&self, base: Offset, size: u64) -> Result<Segment, LogError> {
        let options = self.segment_options();
        Segment::open(Arc::clone(&self.vfs), &self.dir, base, size, options).map_err(|error| self.wrap(error))
    }

    /// Shows a log that doesn't go on where the known one ended.
    fn show_anew(&self, writer: &mut Writer, list: SegmentList, start: Offset, end: Offset) -> Result<(), LogError> {
        let names = self.names()?;
        // Nobody has verified those below, and the writer's recovery doesn't take them for a part of the log.
        let (below, above) = list.split_below(start);
        let rebuild = Rebuild {
            vfs: &*self.vfs,
            dir: &self.dir,
            list: &above,
            log_end: end,
            from: None,
            plain: &BTreeSet::new(),
            below: &below,
            clean: false,
            read_only: true,
            is_verified: true,
            now: self.clock.now(),
            expiration_ms: self.producer_expiration_ms,
        };
        let rebuilt = rebuild.run(&snapshots::offsets_of(names.iter().map(String::as_str)));
        let rebuilt = rebuilt.map_err(|error| self.wrap(error))?;
        self.show(list, start, end, rebuilt.first_unstable());
        self.adopt_producers(writer, rebuilt);
        Ok(())
    }

    /// Ends the use of a partition whose topic was deleted, also when another one has its name now.
    fn check_same_topic(&self, writer: &mut Writer) -> Result<(), LogError> {
        let closed = || LogError::Closed { partition: self.id.clone() };
        let found = self.io(read_topic_id(&*self.vfs, &self.dir))?;
        if found.is_none() && self.io(self.vfs.metadata(&self.dir))?.is_none() {
            return Err(closed());
        }
        match (writer.following.topic_id, found.flatten()) {
            (Some(known), Some(found)) if known != found => Err(closed()),
            (known, found) => {
                writer.following.topic_id = known.or(found);
                Ok(())
            }
        }
    }

    fn follow_epochs(&self) -> Result<(), LogError> {
        let path = self.dir.join(LEADER_EPOCH_CHECKPOINT);
        let bytes = self.io(read_whole(&*self.vfs, &path))?;
        // A damaged file is no more than a hint that is missing.
        if let Some(checkpoint) = bytes.and_then(|bytes| LeaderEpochCheckpoint::parse(&bytes).ok()) {
            let table = EpochTable::new(checkpoint.entries);
            self.epochs.update(|known| {
                *known = table;
                false
            });
        }
        Ok(())
    }

    /// Raises the log start to what is noted in the store, if that is inside the log. Kafka's file has no checksum: it counts where nobody
    /// but another program has written the log.
    fn raise_followed_start(&self, end: Offset) {
        let current = self.epochs.current();
        let ours = self.noted_unbroken().filter(|unbroken| current <= unbroken.leader_epoch);
        let noted = ours.map(|unbroken| unbroken.log_start).or_else(|| self.noted_offset(LOG_START_CHECKPOINT));
        if let Some(start) = noted
            && start > self.offsets.log_start()
            && start <= end
        {
            self.offsets.moving().set_log_start(start);
        }
    }

    /// From where on the log has no gap, by what the other process notes; nowhere, if it notes nothing.
    pub(super) fn noted_unbroken_from(&self) -> Offset {
        self.noted_gaps_end().unwrap_or(Offset::MAX)
    }

    /// Up to where the log may have gaps, if the other process notes that.
    fn noted_gaps_end(&self) -> Option<Offset> {
        match self.noted_unbroken()?.gaps(self.noted_first_dirty(), Some(self.epochs.current())) {
            Gaps::Below(limit) => Some(limit),
            Gaps::Anywhere => None,
        }
    }

    fn noted_unbroken(&self) -> Option<Unbroken> {
        let bytes = self.read_in_root(UNBROKEN)?;
        let mut entries = parse_unbroken(&bytes).ok()?.into_iter();
        let entry = entries.find(|entry| entry.partition == self.id)?;
        Some(Unbroken { from: entry.from, log_start: entry.log_start, leader_epoch: entry.leader_epoch })
    }

    /// Up to where the log was compacted, whoever did it.
    fn noted_first_dirty(&self) -> Option<Offset> {
        self.noted_offset(CLEANER_CHECKPOINT)
    }

    /// What a checkpoint file of the store says of this partition. The file is a hint here: one that can't be read says nothing.
    fn noted_offset(&self, file: &str) -> Option<Offset> {
        let checkpoint = OffsetCheckpoint::parse(&self.read_in_root(file)?).ok()?;
        let is_own =
            |entry: &&(String, i32, Offset)| entry.0 == self.id.topic.as_str() && entry.1 == self.id.partition.value();
        checkpoint.entries.iter().find(is_own).map(|(_, _, offset)| *offset)
    }

    fn read_in_root(&self, file: &str) -> Option<Vec<u8>> {
        read_whole(&*self.vfs, &self.dir.parent()?.join(file)).ok().flatten()
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        self.io(file_names(&*self.vfs, &self.dir))
    }

    fn io<T>(&self, result: Result<T, crate::vfs::IoError>) -> Result<T, LogError> {
        result.map_err(|error| self.wrap(error))
    }

    fn changed(&self) -> LogError {
        LogError::Changed { partition: self.id.clone() }
    }
}
