//! Bringing a partition back that is in use: opening its folder anew under the readers that hold its files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{OpenParams, Opening, PartitionRecovery};
use crate::clock::Moment;
use crate::partition::inside::Status;
use crate::partition::segments::SegmentList;
use crate::partition::{Inner, LogError, Partition, Writer};
use crate::segment::Segment;
use crate::types::{Offset, Position};

impl Partition {
    /// Brings a partition back that went offline: verifies what lies above the recovery point and writes it anew, so that
    /// nothing rests on bytes whose sync failed. Does the same to a partition that is online.
    ///
    /// # Durability
    /// On return every record of the log survives a power loss.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the disk still fails, and then the partition is offline; [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn reopen(&self) -> Result<PartitionRecovery, LogError> {
        let inner = &self.inner;
        let _inside = inner.enter_to_reopen()?;
        let _structure = inner.structure.lock();
        let report = {
            let mut writer = inner.writer.lock();
            inner.check_reopenable()?;
            // Whatever fails from here on leaves the partition offline, and its files for the next try to verify. Appends that
            // come meanwhile wait for the outcome.
            inner.status.begin_reopening();
            let report = inner.carry_out(|| {
                inner.renew_notes()?;
                inner.between_syncs(|| self.reopen_files(&mut writer))
            })?;
            inner.change_status(Status::come_back);
            writer.last_flush = Moment::of(&*inner.clock);
            report
        };
        inner.finish_reopening(report.log_end_offset).inspect_err(|error| inner.go_offline(error))?;
        self.count_cut_files();
        Ok(report)
    }

    fn reopen_files(&self, writer: &mut Writer) -> Result<PartitionRecovery, LogError> {
        let inner = &self.inner;
        // What holds also where a cut was interrupted.
        let noted = inner.note_line();
        let params = OpenParams {
            vfs: Arc::clone(&inner.vfs),
            clock: Arc::clone(&inner.clock),
            counters: Arc::clone(&inner.counters),
            dir: inner.dir.clone(),
            id: inner.id.clone(),
            settings: self.settings(),
            log_start_offset: Some(noted.log_start),
            recovery_point: Some(noted.recovery_point),
            clean: false,
            verified: None,
            read_only: false,
            residency: Arc::clone(&inner.residency),
            first_dirty_offset: noted.first_dirty,
            producer_expiration_ms: inner.producer_expiration_ms,
            unbroken: noted.unbroken,
            notes: Arc::clone(&inner.notes),
        };
        for segment in inner.list().iter() {
            // Their transaction indexes are about to be written anew.
            segment.detach().map_err(|error| inner.wrap(error))?;
        }
        inner.generation.fetch_add(1, Ordering::AcqRel);
        let mut opened = Opening::new(&params).reopening().run()?;
        if let Some(obstacle) = opened.obstacle.take() {
            return Err(obstacle);
        }
        inner.lower_recovery_point(opened.log_end);
        inner.lower_first_dirty(opened.list.active().base_offset());
        opened.list = inner.rewrite_above(&opened.list, self.recovery_point())?;
        inner.show(opened.list.clone(), opened.log_start, opened.log_end, opened.producers.first_unstable());
        inner.lower_unbroken(&opened.list, opened.log_end);
        inner.clear_uncleanable();
        let report = opened.report.clone();
        let mut restart_marks = std::mem::take(&mut opened.restart_marks);
        inner.removals.take_over(&opened.trim_marks);
        // The segments are others over the same files now. What the old ones still had to sync, these have to.
        opened.reindexed.extend(inner.take_sealed());
        inner.adopt(writer, opened)?;
        // All that an opening would have written again was just written to new files.
        inner.hand_over_rewrites(Vec::new());
        // What it cut must not count as durable once somebody appends. A cut that was interrupted is over now.
        inner.lift_ceiling();
        inner.renew_notes()?;
        if !restart_marks.is_empty() {
            inner.remove_marks(&mut restart_marks)?;
        }
        Ok(report)
    }
}

impl Inner {
    /// Makes the log durable, up to `end`, and lets the notes say so.
    fn finish_reopening(&self, end: Offset) -> Result<(), LogError> {
        self.make_durable(end, None)?;
        self.renew_notes()
    }

    fn rewrite_above(&self, list: &SegmentList, recovery_point: Offset) -> Result<SegmentList, LogError> {
        let rewrite = |segment: &Arc<Segment>| {
            let size = Position::new(segment.size());
            segment.rewrite(size, Offset::MAX).map(Arc::new).map_err(|error| self.wrap(error))
        };
        let first = list.from(recovery_point).next().map_or(Offset::ZERO, |segment| segment.base_offset());
        let mut all = Vec::new();
        for segment in list.iter() {
            all.push(if segment.base_offset() >= first { rewrite(segment)? } else { Arc::clone(segment) });
        }
        let active = all.pop().unwrap_or_else(|| Arc::clone(list.active()));
        Ok(SegmentList::new(all, active))
    }
}
