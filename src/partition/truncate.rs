//! Cutting the log's end, when a leader says so (reference 10.6, 10.7).
//!
//! A power loss at any moment of a cut leaves the old log, or a prefix of it that holds everything below the new end:
//! - The notes on disk are lowered first. What they no longer vouch for, recovery verifies, and a hole in it ends the log.
//! - Where no batch will reach up to the new end, an empty segment is begun there first: what went before it could go unnoticed
//!   otherwise, and its offsets be given again.
//! - Whole segments go from the end on, before the last one is cut.
//! - A log that starts over leaves a mark that says where. From then on opening finishes what a crash interrupted.
//!
//! A mark says meanwhile that the log is being cut: followers in other processes look again, and see the old log or the new one.
//!
//! Files that a reader may hold are never cut in place: a segment that loses its end is rewritten under the same name.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::notes::Ceiling;
use super::segments::SegmentList;
use super::snapshots::Rebuilt;
use super::{Inner, LogError, Partition, Writer, load, store};
use crate::format::file_name::FileName;
use crate::segment::{Segment, SegmentError, SegmentOptions};
use crate::types::{Offset, Position};
use crate::vfs::OpenMode;

impl Partition {
    /// Cuts the log so that its end is `offset`; whatever lies at or above it is gone. A batch that `offset` falls into goes
    /// whole, and the next record gets `offset` all the same. An `offset` at or above the log end cuts nothing, and leader epochs that
    /// begin behind the log end are forgotten; with one below the log start the log starts over there, as by
    /// [`Partition::truncate_fully_and_start_at`], for no record is left.
    ///
    /// # Durability
    /// On return the cut survives a power loss.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the disk fails or the log is damaged at that place; a cut inside a batch leaves a gap, and is refused
    /// where a hole below would be taken for one too. Once the cut has begun, such an error takes the partition offline.
    /// [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn truncate_to(&self, offset: Offset) -> Result<(), LogError> {
        let _inside = self.inner.enter_writable()?;
        let _structure = self.inner.structure.lock();
        let mut writer = self.inner.writer.lock();
        self.inner.check_online()?;
        let end = self.log_end_offset();
        if offset >= end {
            self.inner.epochs.update(|table| table.truncate_from_end(end));
            return Ok(());
        }
        self.inner.between_syncs(|| {
            if offset < self.log_start_offset() {
                self.inner.start_over(&mut writer, offset)
            } else {
                self.inner.cut_end(&mut writer, offset)
            }
        })
    }

    /// Empties the log and lets the next record get `offset`.
    ///
    /// # Durability
    /// On return this survives a power loss.
    ///
    /// # Errors
    /// As [`Partition::truncate_to`].
    pub fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), LogError> {
        let _inside = self.inner.enter_writable()?;
        let _structure = self.inner.structure.lock();
        let mut writer = self.inner.writer.lock();
        self.inner.check_online()?;
        self.inner.between_syncs(|| self.inner.start_over(&mut writer, offset))
    }
}

/// What a cut leaves of the segments, found before anything is changed.
struct CutPlan {
    sealed: Vec<Arc<Segment>>,
    /// The segment that the new end lies in.
    last: Arc<Segment>,
    /// Where it is cut; `None` when nothing of it goes.
    position: Option<Position>,
    /// Where the last batch that stays in it ends; `None` where damage hides that.
    end: Option<Offset>,
    dropped: Vec<Arc<Segment>>,
}

impl Inner {
    fn cut_end(&self, writer: &mut Writer, offset: Offset) -> Result<(), LogError> {
        let Some(plan) = self.plan_cut(offset)? else { return self.start_over(writer, offset) };
        if plan.end != Some(offset) && load(&self.unbroken_from) < offset {
            self.check_no_hole_below(&plan, offset).map_err(|error| self.wrap(error))?;
        }
        self.require_no_marks()?;
        let mark = self.mark_cut(offset)?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.carry_out(|| {
            self.carry_out_cut(writer, plan, offset)?;
            self.vfs.remove_file(&mark).map_err(|error| self.wrap(error))
        })
    }

    fn plan_cut(&self, offset: Offset) -> Result<Option<CutPlan>, LogError> {
        let list = self.list();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            list.iter().cloned().partition(|segment| segment.base_offset() <= offset);
        let Some((last, sealed)) = kept.split_last() else { return Ok(None) };
        let cut = last.find(offset).map_err(|error| self.wrap(error))?;
        let position = cut.map(|(position, _)| position);
        let end = match last.end_below(offset) {
            Err(error @ SegmentError::Io(_)) => return Err(self.wrap(error)),
            end => end.ok(),
        };
        Ok(Some(CutPlan { sealed: sealed.to_vec(), last: Arc::clone(last), position, end, dropped }))
    }

    /// Refuses a cut that lets the log have gaps up to its end, where it has a hole that would be taken for one of them.
    fn check_no_hole_below(&self, plan: &CutPlan, offset: Offset) -> Result<(), SegmentError> {
        let kept: Vec<_> = plan.sealed.iter().chain([&plan.last]).cloned().collect();
        self.check_no_holes(&kept)?;
        if plan.position.is_none() {
            let next = plan.dropped.first().map_or(self.offsets.log_end(), |next| next.base_offset());
            return self.check_reaches(&plan.last, next);
        }
        if !plan.last.is_dense() {
            return Ok(());
        }
        // The cut rewrites it, and what it is from then on isn't known to have none.
        let mut headers = plan.last.headers_from(Offset::ZERO)?;
        while let Some((_, header)) = headers.next().transpose()?
            && header.last_offset() < offset
        {}
        Ok(())
    }

    fn carry_out_cut(&self, writer: &mut Writer, plan: CutPlan, offset: Offset) -> Result<(), LogError> {
        let had_gaps_above = load(&self.unbroken_from) > offset;
        let needs_keeper = plan.end != Some(offset);
        self.begin_cut(&plan, needs_keeper, offset)?;
        let CutPlan { sealed, last, position, end, dropped } = plan;
        let kept = SegmentList::new(sealed.clone(), Arc::clone(&last));
        let mut producers = self.rebuild_producers(&kept, end.unwrap_or(offset))?;
        let keeper = if needs_keeper { Some(self.keep_end(&mut producers, offset)?) } else { None };
        self.discard(&dropped, had_gaps_above)?;
        let active = match position {
            Some(position) => Arc::new(last.rewrite(position, offset).map_err(|error| self.wrap(error))?),
            None if Arc::ptr_eq(&last, self.list().active()) => last,
            // It will grow again. What took it for a sealed segment, to replace it, must find that it is another one now.
            None => Arc::new(last.reopened().map_err(|error| self.wrap(error))?),
        };
        if active.size() == 0 || keeper.is_some() {
            writer.segment_created = self.clock.now();
        }
        let list = self.end_with(sealed, active, keeper)?;
        self.lower_recovery_point(offset);
        self.lower_first_dirty(list.active().base_offset());
        self.forget_rewrites_from(offset);
        self.show(list.clone(), self.offsets.log_start().min(offset), offset, producers.first_unstable());
        self.lower_unbroken(&list, offset);
        self.adopt_producers(writer, producers);
        self.epochs.update(|table| table.truncate_from_end(offset));
        self.epochs.persist().map_err(|error| self.wrap(error))?;
        self.lift_ceiling();
        if had_gaps_above {
            // What is appended from here on must have none.
            self.renew_notes()?;
        }
        Ok(())
    }

    /// Lowers the notes to what will be left.
    fn begin_cut(&self, plan: &CutPlan, needs_keeper: bool, offset: Offset) -> Result<(), LogError> {
        if needs_keeper || plan.position.is_none() {
            // Above a gap that the log may have, nothing would tell that what lies below was lost; and of a file that stays, what it
            // lacks to be durable would be forgotten.
            self.sync_below_cut(&plan.last)?;
        }
        // Another segment over its file takes its place.
        self.forget(std::slice::from_ref(&plan.last));
        if needs_keeper {
            self.unbroken_from.fetch_max(offset.value(), Ordering::AcqRel);
        }
        self.lower_notes(Ceiling { end: offset, first_dirty: plan.last.base_offset() })?;
        self.drop_snapshots_above(offset)
    }

    /// Tells other processes, in a file's name, that the log is being cut to `end`. It is for those who look meanwhile: no recovery
    /// needs it, so nothing is synced.
    fn mark_cut(&self, end: Offset) -> Result<PathBuf, LogError> {
        let mark = self.dir.join(FileName::truncated(end).to_string());
        self.vfs.open(&mark, OpenMode::Create).map_err(|error| self.wrap(error))?;
        Ok(mark)
    }

    /// Begins the empty segment that keeps the new end of a log whose last batch ends below: the cut takes one that began there, or
    /// compaction took some. The notes have told of the gap before. Deleting records may make this segment the log's first one, so
    /// the producers below it are in a durable snapshot.
    fn keep_end(&self, producers: &mut Rebuilt, offset: Offset) -> Result<Arc<Segment>, LogError> {
        producers.end = offset;
        if !producers.table.is_empty() {
            self.write_durable_snapshot(offset, &producers.table.snapshot())?;
            producers.last_snapshot = Some(offset);
        }
        // Recovery knows one whose cut never came to its end by its empty file.
        let options = SegmentOptions { preallocate: 0, ..self.segment_options() };
        let keeper = self.create_segment_with(offset, options)?;
        self.sync_folder()?;
        Ok(keeper)
    }

    /// The segments that are left: `active` is the last one, or a sealed one where another keeps the end.
    fn end_with(
        &self,
        mut sealed: Vec<Arc<Segment>>,
        active: Arc<Segment>,
        keeper: Option<Arc<Segment>>,
    ) -> Result<SegmentList, LogError> {
        let Some(keeper) = keeper else { return Ok(SegmentList::new(sealed, active)) };
        active.seal().map_err(|error| self.wrap(error))?;
        self.hand_over(Arc::clone(&active));
        sealed.push(active);
        Ok(SegmentList::new(sealed, keeper))
    }

    fn start_over(&self, writer: &mut Writer, offset: Offset) -> Result<(), LogError> {
        self.require_no_marks()?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.carry_out(|| self.carry_out_start_over(writer, offset))
    }

    fn carry_out_start_over(&self, writer: &mut Writer, offset: Offset) -> Result<(), LogError> {
        // Before the notes: lower ones alone would make a hole of what lies below an old log.
        let mark = self.mark_restart(offset)?;
        self.lower_notes(Ceiling { end: offset.min(self.offsets.log_end()), first_dirty: Offset::ZERO })?;
        let old = self.list().to_vec();
        self.drop_snapshots_above(Offset::ZERO)?;
        self.discard(&old, false)?;
        let new = self.create_segment(offset)?;
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))?;
        writer.segment_created = self.clock.now();
        self.show(SegmentList::new(Vec::new(), new), offset, offset, None);
        store(&self.recovery_point, offset);
        // The old log may have had gaps above.
        self.generation.fetch_add(1, Ordering::AcqRel);
        store(&self.unbroken_from, offset);
        self.forget_rewrites_from(Offset::ZERO);
        self.first_dirty.store(Offset::to_wire(None), Ordering::Release);
        self.adopt_producers(writer, Rebuilt::of_empty_log(offset));
        self.epochs.update(super::epochs::EpochTable::clear);
        self.epochs.persist().map_err(|error| self.wrap(error))?;
        // The mark goes last: without it, a note of the old log start would make a hole of what lies before the new one.
        self.lift_ceiling();
        self.renew_notes()?;
        self.vfs.remove_file(&mark).map_err(|error| self.wrap(error))?;
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))
    }

    /// Says durably, in a file's name, that the log starts over at `offset`: from here on no crash brings the old one back.
    fn mark_restart(&self, offset: Offset) -> Result<PathBuf, LogError> {
        let mark = self.dir.join(FileName::restarted(offset).to_string());
        self.vfs.open(&mark, OpenMode::Create).map_err(|error| self.wrap(error))?;
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))?;
        Ok(mark)
    }

    /// What was compacted and is gone now must not count as compacted when it is written anew.
    pub(super) fn lower_first_dirty(&self, active_base: Offset) {
        self.first_dirty.fetch_min(active_base.value(), Ordering::AcqRel);
    }
}
