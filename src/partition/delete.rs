//! Removing the log's start: deleted records, expired segments, and the files that wait to be unlinked (reference 10.8, 11.2).
//!
//! What goes is decided and taken out of the log under the append lock, and no file is touched there. Before the first file loses
//! its name, a mark says durably where the log starts now, and names go oldest first; so a crash leaves the end of the log. The
//! mark is an empty file, which a full disk has room for, and goes with the next checkpoint, when the notes say the same: those of all
//! partitions are written together, so that a tick over many writes them once. A file that can't be renamed stays in line for the
//! next try, and so does one whose producers no durable snapshot tells of. Opening passes over whatever lies below the log start.
//!
//! Ages come from the batches. A damaged one may have been the youngest, so a segment that can't be walked whole goes by the age of its
//! file, and as much later as a record may be ahead of the clock.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Inner, LogError, Partition, SegmentFacts, Trash};
use crate::clock::Deadline;
use crate::format::file_name::FileName;
use crate::segment::{Segment, SegmentError};
use crate::types::{ErrorKind, Offset, Timestamp};
use crate::vfs::{OpenMode, unless_missing};

/// What has left the log and still stands in the folder.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// Segments that still have their names, oldest first.
    waiting: Mutex<VecDeque<Arc<Segment>>>,
    /// The base offset of a segment that is about to take the place of others, of which some have been removed.
    returning: Mutex<Option<Offset>>,
    /// The marks of the log start. Whoever removes segments holds this lock throughout.
    marks: Mutex<Marks>,
    /// The segment of unknown age that a retention pass told of last.
    told: Mutex<Weak<Segment>>,
}

/// Files whose names say where the log starts.
#[derive(Debug, Default)]
struct Marks {
    paths: Vec<PathBuf>,
    /// Counts how often something was removed under a mark.
    removals: u64,
}

/// Marks that may go once the notes were renewed.
#[derive(Debug)]
pub(crate) struct SettledMarks {
    partition: Partition,
    removals: u64,
}

impl Removals {
    pub(super) fn new(marks: Vec<PathBuf>) -> Self {
        let marks = Marks { paths: marks, removals: 0 };
        Self { marks: Mutex::new(marks), ..Self::default() }
    }

    /// Sees to marks that stand in the folder, too.
    pub(super) fn take_over(&self, found: &[PathBuf]) {
        let mut marks = self.marks.lock();
        let new = found.iter().filter(|mark| !marks.paths.contains(mark)).cloned().collect::<Vec<_>>();
        marks.paths.extend(new);
    }

    /// Has these removed instead of those that waited.
    pub(super) fn replace_waiting(&self, segments: Vec<Arc<Segment>>) {
        *self.waiting.lock() = segments.into();
    }

    /// The base offset of the oldest of those that still have their names or are about to get them.
    pub(super) fn first_base(&self) -> Option<Offset> {
        let waiting = self.waiting.lock().front().map(|segment| segment.base_offset());
        waiting.into_iter().chain(*self.returning.lock()).min()
    }

    pub(super) fn set_returning(&self, base: Option<Offset>) {
        *self.returning.lock() = base;
    }

    /// Notes that somebody is told of a segment of unknown age; returns whether that is news.
    fn tell(&self, segment: &Arc<Segment>) -> bool {
        let mut told = self.told.lock();
        let is_news = !std::ptr::eq(told.as_ptr(), Arc::as_ptr(segment));
        *told = Arc::downgrade(segment);
        is_news
    }

    pub(super) fn holds(&self, segment: &Arc<Segment>) -> bool {
        self.waiting.lock().iter().any(|other| Arc::ptr_eq(other, segment))
    }
}

/// What a retention pass took out of a log.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    pub segments: usize,
    /// Bytes of their `.log` files.
    pub bytes: u64,
    /// The damage for which a segment stayed that looks old enough to go. Of each segment it is told once.
    pub kept_for: Option<LogError>,
}

/// What verifying the ages of segments came to.
struct Ages {
    /// How many of the oldest segments look as if they could go.
    candidates: usize,
    /// Those of them whose ages damage hides.
    unknown: Vec<UnknownAge>,
}

/// A segment whose age damage hides.
struct UnknownAge {
    base: Offset,
    damage: SegmentError,
    /// A segment whose file was last written after all of the records that may be hidden.
    witness: Arc<Segment>,
}

impl Ages {
    /// The witness of a segment whose age is unknown.
    fn witness(&self, segment: &Segment) -> Option<&Segment> {
        let unknown = self.unknown.iter().find(|unknown| unknown.base == segment.base_offset());
        unknown.map(|unknown| &*unknown.witness)
    }
}

/// What is to leave a log.
struct Doomed {
    segments: Vec<Arc<Segment>>,
    /// What stays for want of an age.
    kept: Option<(Arc<Segment>, SegmentError)>,
}

impl Partition {
    /// Raises the log start offset to `offset`, never lowers it; whole segments below it go with the next retention pass.
    /// Returns the log start offset that holds now.
    ///
    /// # Durability
    /// Durable with the store's next checkpoint; a crash before may bring the records back, as in Kafka.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] above the high watermark; [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn delete_records_before(&self, offset: Offset) -> Result<Offset, LogError> {
        let _inside = self.inner.enter_writable()?;
        let _writer = self.inner.writer.lock();
        self.inner.check_online()?;
        let (start, end) = (self.log_start_offset(), self.high_watermark());
        if offset > end {
            return Err(LogError::OffsetOutOfRange { partition: self.id().clone(), got: offset, start, end });
        }
        self.inner.raise_log_start(offset);
        Ok(self.log_start_offset())
    }

    /// Removes the oldest segments, as many as `count` says of the log as it stands, and raises the log start offset to the
    /// first that stays; where that is none, a new one is begun first.
    pub(crate) fn delete_expired(
        &self,
        count: impl Fn(&[SegmentFacts], Offset, Offset) -> usize,
    ) -> Result<Expired, LogError> {
        let _inside = self.inner.enter_to_reopen()?;
        let _structure = self.inner.structure.lock();
        // What an earlier pass could not remove goes first.
        self.inner.finish_removals()?;
        let Doomed { segments, kept } = self.inner.take_expired(&|facts| {
            let (start, end) = (self.log_start_offset(), self.high_watermark());
            count(facts, start, end)
        })?;
        if !segments.is_empty() {
            self.inner.counters.segments_deleted.add(segments.len() as u64);
            self.inner.counters.bytes_deleted.add(size_of(&segments));
            self.inner.finish_removals()?;
        }
        let news = kept.filter(|(segment, _)| self.inner.removals.tell(segment));
        let kept_for = news.map(|(_, damage)| self.inner.wrap(damage));
        Ok(Expired { segments: segments.len(), bytes: size_of(&segments), kept_for })
    }

    /// The marks of the log start, if there are any, once all that was removed under them is gone durably. They may go when the
    /// notes were renewed after this. Those that somebody removes something under just now stay. The caller keeps the folder from being
    /// given away.
    pub(crate) fn settle_marks(&self) -> Result<Option<SettledMarks>, LogError> {
        let Some(marks) = self.inner.removals.marks.try_lock().filter(|marks| !marks.paths.is_empty()) else {
            return Ok(None);
        };
        self.inner.sync_folder()?;
        Ok(Some(SettledMarks { partition: self.clone(), removals: marks.removals }))
    }

    /// Unlinks files that were deleted longer ago than `file.delete.delay.ms`; returns how many. One that can't be unlinked is
    /// tried again by the next call.
    pub(crate) fn remove_expired_files(&self, now: Timestamp) -> Result<usize, LogError> {
        let _inside = self.inner.enter_to_reopen()?;
        let due: Vec<Trash> = {
            let mut trash = self.inner.trash.lock();
            trash.extract_if(.., |entry| entry.due.is_over(now, &*self.inner.clock)).collect()
        };
        let (mut removed, mut failure, mut left) = (0, None, Vec::new());
        for entry in due {
            for file in &entry.files {
                match self.inner.vfs.remove_file(file) {
                    Ok(()) => removed += 1,
                    // An index that was never written, or a file that somebody removed by hand.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => {
                        failure.get_or_insert(error);
                        left.push(file.clone());
                    }
                }
            }
            if !left.is_empty() {
                let files = std::mem::take(&mut left);
                self.inner.trash.lock().push(Trash { files, due: entry.due });
            }
        }
        failure.map_or(Ok(removed), |error| Err(self.inner.wrap(error)))
    }
}

impl SettledMarks {
    /// Removes the marks, whose place the notes have taken, unless more was removed under them meanwhile. What stays goes with a later
    /// checkpoint.
    pub(crate) fn give_up(self) -> Result<(), LogError> {
        let inner = &self.partition.inner;
        match inner.removals.marks.try_lock() {
            Some(mut marks) if marks.removals == self.removals => inner.remove_marks(&mut marks.paths),
            _ => Ok(()),
        }
    }
}

fn size_of(segments: &[Arc<Segment>]) -> u64 {
    segments.iter().map(|segment| segment.size()).sum()
}

impl Inner {
    /// What retention decides on, oldest segment first. No record of a segment whose age is unknown can be younger than the file of its
    /// witness by more than an append lets pass.
    fn segment_facts(&self, ages: Option<&Ages>) -> Result<Vec<SegmentFacts>, LogError> {
        let list = self.list();
        let ahead_ms = self.settings.read().message_timestamp_after_max_ms;
        let ends = list.iter().skip(1).map(|segment| segment.base_offset()).chain([self.offsets.log_end()]);
        let facts = list.iter().zip(ends).map(|(segment, end_offset)| {
            let largest_timestamp = if let Some(witness) = ages.and_then(|ages| ages.witness(segment)) {
                witness.modified()?.map(|modified| modified.saturating_add(ahead_ms))
            } else {
                match segment.largest_timestamp() {
                    Ok(Some(timestamp)) => Some(timestamp),
                    Ok(None) | Err(SegmentError::Format { .. }) => segment.modified()?,
                    Err(error) => return Err(error),
                }
            };
            Ok(SegmentFacts { size: segment.size(), largest_timestamp, end_offset })
        });
        facts.collect::<Result<_, SegmentError>>().map_err(|error| self.wrap(error))
    }

    /// Decides which segments go and takes them out of the log, under one lock: an append or a roll in between would make the
    /// decision one about another log.
    fn take_expired(&self, count: &dyn Fn(&[SegmentFacts]) -> usize) -> Result<Doomed, LogError> {
        let ages = self.verify_ages(count)?;
        let mut writer = self.writer.lock();
        let count = count(&self.segment_facts(Some(&ages))?).min(ages.candidates);
        let kept = self.kept_for_damage(ages, count);
        if count == 0 {
            return Ok(Doomed { segments: Vec::new(), kept });
        }
        self.check_online()?;
        if count > self.list().sealed().len() && self.list().active().size() > 0 {
            let rolled = self.roll_to(&mut writer, self.offsets.log_end());
            let is_full = rolled.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull);
            // On a full disk the sealed segments go first. They make room for another one, and the next look takes this one.
            if !is_full || self.list().sealed().is_empty() {
                rolled?;
            }
        }
        let list = self.list();
        let segments: Vec<_> = list.sealed().iter().take(count).cloned().collect();
        let left = list.without_first(segments.len());
        // They wait before they leave: whoever notes the log start must know that they still have their names.
        self.removals.waiting.lock().extend(segments.iter().cloned());
        self.raise_log_start(left.first().base_offset());
        *self.segments.write() = left;
        Ok(Doomed { segments, kept })
    }

    /// Sees to it that the ages of what would go now come from the batches and not from an index: a damaged index must cost
    /// time, not records. Nor may records that are missing behind a segment go with it, which may be younger.
    fn verify_ages(&self, count: &dyn Fn(&[SegmentFacts]) -> usize) -> Result<Ages, LogError> {
        let (list, candidates) = (self.list(), count(&self.segment_facts(None)?));
        let mut unknown = Vec::new();
        let nexts = list.iter().skip(1).map(Some).chain([None]);
        for (segment, next) in list.iter().zip(nexts).take(candidates) {
            let reaches = || next.map_or(Ok(()), |next| self.check_reaches(segment, next.base_offset()));
            let (damage, witness) = match segment.exact_greatest().map(|_| reaches()) {
                Ok(Ok(())) => continue,
                Ok(Err(hole)) => (hole, next.unwrap_or(segment)),
                Err(damage) => (damage, segment),
            };
            if !matches!(damage, SegmentError::Format { .. }) {
                return Err(self.wrap(damage));
            }
            unknown.push(UnknownAge { base: segment.base_offset(), damage, witness: Arc::clone(witness) });
        }
        Ok(Ages { candidates, unknown })
    }

    /// The first segment that stays, and the damage that hides its age, if that is why it does.
    fn kept_for_damage(&self, ages: Ages, count: usize) -> Option<(Arc<Segment>, SegmentError)> {
        let list = self.list();
        let kept = list.iter().take(ages.candidates).nth(count)?;
        let unknown = ages.unknown.into_iter().find(|unknown| unknown.base == kept.base_offset())?;
        Some((Arc::clone(kept), unknown.damage))
    }

    fn raise_log_start(&self, offset: Offset) {
        if offset > self.offsets.log_start() {
            self.offsets.moving().set_log_start(offset);
            self.epochs.update(|table| table.truncate_from_start(offset));
        }
    }

    /// Takes the names of segments that have left the log, oldest first, under a mark that says where the log starts.
    pub(super) fn finish_removals(&self) -> Result<(), LogError> {
        let mut marks = self.removals.marks.lock();
        let mut waiting: Vec<_> = self.removals.waiting.lock().iter().cloned().collect();
        let mut secured = Ok(());
        if !waiting.is_empty() {
            let count;
            (count, secured) = self.count_removable(&waiting);
            waiting.truncate(count);
        }
        if !waiting.is_empty() {
            self.mark_start(&mut marks)?;
            // Until now a crash brought them back: they had to be synced with the others.
            self.forget(&waiting);
        }
        for segment in &waiting {
            self.mark_deleted(segment)?;
            self.removals.waiting.lock().pop_front();
        }
        secured
    }

    /// How many of these, oldest first, may lose their names: a snapshot must tell of the producers below the first segment that
    /// keeps its name. With the error, where those are not all.
    fn count_removable(&self, waiting: &[Arc<Segment>]) -> (usize, Result<(), LogError>) {
        let Err(error) = self.secure_producers(self.list().first().base_offset()) else {
            return (waiting.len(), Ok(()));
        };
        // On a full disk, those that an earlier snapshot covers make room for the next one.
        let is_covered = |segment: &Arc<Segment>| self.secure_snapshot(segment.base_offset()).is_ok_and(|found| found);
        (waiting.iter().rposition(is_covered).unwrap_or(0), Err(error))
    }

    fn mark_start(&self, marks: &mut Marks) -> Result<(), LogError> {
        let mark = self.dir.join(FileName::trimmed(self.offsets.log_start()).to_string());
        marks.removals += 1;
        if !marks.paths.contains(&mark) {
            self.vfs.open(&mark, OpenMode::Create).map_err(|error| self.wrap(error))?;
            marks.paths.push(mark.clone());
        }
        self.sync_folder()?;
        // Older ones say less, and would be one more for each removal until the next checkpoint.
        marks.paths.retain(|older| *older == mark || self.vfs.remove_file(older).is_err());
        Ok(())
    }

    /// The marks don't come back after the next sync of the folder: whatever lowers the log start syncs it.
    pub(super) fn remove_marks(&self, marks: &mut Vec<PathBuf>) -> Result<(), LogError> {
        while let Some(mark) = marks.last() {
            unless_missing(self.vfs.remove_file(mark)).map_err(|error| self.wrap(error))?;
            marks.pop();
        }
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))
    }

    /// Sees to it that no mark of the log start is left, which would contradict a lower one.
    pub(super) fn require_no_marks(&self) -> Result<(), LogError> {
        self.finish_removals()?;
        let mut marks = self.removals.marks.lock();
        if marks.paths.is_empty() {
            return Ok(());
        }
        self.sync_folder()?;
        self.renew_notes()?;
        self.remove_marks(&mut marks.paths)
    }

    /// Renames the files of segments at the log's end that leave it, newest first, and remembers when to unlink them. Where a gap
    /// would not tell that one went before a newer one, each is gone for good before the next goes.
    pub(super) fn discard(&self, segments: &[Arc<Segment>], may_have_gaps: bool) -> Result<(), LogError> {
        self.forget(segments);
        for segment in segments.iter().rev() {
            self.mark_deleted(segment)?;
            if may_have_gaps {
                self.sync_folder()?;
            }
        }
        self.sync_folder()
    }

    fn mark_deleted(&self, segment: &Segment) -> Result<(), LogError> {
        let due = Deadline::after(&*self.clock, self.settings.read().file_delete_delay_ms);
        self.forget_snapshot(segment.base_offset());
        let files = segment.mark_deleted().map_err(|error| self.wrap(error))?;
        self.trash.lock().push(Trash { files, due });
        Ok(())
    }
}
