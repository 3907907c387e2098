//! Cutting the log at either end: the end goes when a leader says so, the start when records are deleted.
//!
//! Files that a reader may hold are never cut in place: a segment that loses its end is rewritten under the same name
//! (reference 10.6 to 10.8, DESIGN 6.3).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segments::SegmentList;
use super::snapshots::Rebuilt;
use super::{Inner, LogError, Partition, Trash, Writer, load, store};
use crate::segment::Segment;
use crate::types::{Offset, Timestamp};

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
        let _writer = self.inner.writer.lock();
        self.inner.check_writable()?;
        let (start, end) = (self.log_start_offset(), self.high_watermark());
        if offset > end {
            return Err(LogError::OffsetOutOfRange { partition: self.id().clone(), got: offset, start, end });
        }
        self.inner.raise_log_start(offset)?;
        Ok(self.log_start_offset())
    }

    /// Cuts the log so that its end is `offset`; whatever lies at or above it is gone. A batch that `offset` falls into goes
    /// whole. An `offset` at or above the log end changes nothing; one below the first segment empties the log.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the disk fails, and then the partition is offline; [`LogError::Offline`], [`LogError::Closed`],
    /// [`LogError::ReadOnly`].
    pub fn truncate_to(&self, offset: Offset) -> Result<(), LogError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_writable()?;
        let end = self.log_end_offset();
        if offset >= end {
            let mut epochs = self.inner.epochs.lock();
            return epochs.update(|table| table.truncate_from_end(end)).map_err(|error| self.inner.wrap(error));
        }
        let result = self.inner.between_syncs(|| {
            if offset < self.first_base_offset() {
                self.inner.start_over(&mut writer, offset)
            } else {
                self.inner.cut_end(&mut writer, offset)
            }
        });
        result.inspect_err(|error| self.inner.go_offline(error))
    }

    /// Empties the log and lets the next record get `offset`.
    ///
    /// # Errors
    /// As [`Partition::truncate_to`].
    pub fn truncate_fully_and_start_at(&self, offset: Offset) -> Result<(), LogError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_writable()?;
        let result = self.inner.between_syncs(|| self.inner.start_over(&mut writer, offset));
        result.inspect_err(|error| self.inner.go_offline(error))
    }

    /// Removes the `count` oldest segments and raises the log start offset to the next one; where that is all of them, a new
    /// one is begun first. Returns the bytes of the removed `.log` files.
    pub(crate) fn delete_oldest(&self, count: usize) -> Result<u64, LogError> {
        let mut writer = self.inner.writer.lock();
        self.inner.check_writable()?;
        if count > self.inner.list().sealed().len() && self.inner.list().active().size() > 0 {
            self.inner.roll_to(&mut writer, self.log_end_offset())?;
        }
        let list = self.inner.list();
        let doomed: Vec<_> = list.sealed().iter().take(count).cloned().collect();
        let kept = list.without_first(doomed.len());
        self.inner.secure_snapshots(kept.first().base_offset())?;
        self.inner.raise_log_start(kept.first().base_offset())?;
        *self.inner.segments.write() = kept;
        let bytes = doomed.iter().map(|segment| segment.size()).sum();
        self.inner.counters.segments_deleted.add(doomed.len() as u64);
        self.inner.counters.bytes_deleted.add(bytes);
        self.inner.discard(&doomed)?;
        Ok(bytes)
    }

    /// Unlinks files that were deleted longer ago than `file.delete.delay.ms`; returns how many.
    pub(crate) fn remove_expired_files(&self, now: Timestamp) -> Result<usize, LogError> {
        let due: Vec<Trash> = {
            let mut trash = self.inner.trash.lock();
            trash.extract_if(.., |entry| entry.due <= now).collect()
        };
        let mut removed = 0;
        for file in due.iter().flat_map(|entry| &entry.files) {
            match self.inner.vfs.remove_file(file) {
                Ok(()) => removed += 1,
                // An index that was never written, or a file that somebody removed by hand.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(self.inner.wrap(error)),
            }
        }
        Ok(removed)
    }
}

impl Inner {
    fn raise_log_start(&self, offset: Offset) -> Result<(), LogError> {
        if offset <= load(&self.log_start) {
            return Ok(());
        }
        store(&self.log_start, offset);
        self.recovery_point.fetch_max(offset.value(), Ordering::AcqRel);
        self.epochs.lock().update(|table| table.truncate_from_start(offset)).map_err(|error| self.wrap(error))
    }

    fn cut_end(&self, writer: &mut Writer, offset: Offset) -> Result<(), LogError> {
        let list = self.list();
        let (kept, dropped): (Vec<_>, Vec<_>) =
            list.iter().cloned().partition(|segment| segment.base_offset() <= offset);
        let (last, sealed) = match kept.split_last() {
            Some((last, sealed)) => (Arc::clone(last), sealed.to_vec()),
            None => return self.start_over(writer, offset),
        };
        self.drop_snapshots_above(offset)?;
        // From the end on, so that a crash in between leaves a log without a hole. This syncs the folder.
        self.discard(&dropped)?;
        let cut = last.find(offset).map_err(|error| self.wrap(error))?;
        let active = match cut {
            Some((position, _)) => Arc::new(last.rewrite(position).map_err(|error| self.wrap(error))?),
            None if Arc::ptr_eq(&last, self.list().active()) => last,
            // It will grow again. Who took it for a sealed segment, to replace it, must find that it is another one now.
            None => Arc::new(last.reopened().map_err(|error| self.wrap(error))?),
        };
        if active.size() == 0 {
            writer.segment_created = self.clock.now();
        }
        self.lower_recovery_point(offset);
        let list = SegmentList::new(sealed, active);
        self.lower_first_dirty(list.active().base_offset());
        let producers = self.rebuild_producers(&list, offset)?;
        self.show(list, load(&self.log_start).min(offset), offset, producers.first_unstable());
        self.adopt_producers(writer, producers);
        self.epochs.lock().update(|table| table.truncate_from_end(offset)).map_err(|error| self.wrap(error))
    }

    fn start_over(&self, writer: &mut Writer, offset: Offset) -> Result<(), LogError> {
        let old = self.list().to_vec();
        self.drop_snapshots_above(Offset::ZERO)?;
        self.discard(&old)?;
        let options = self.segment_options();
        let new =
            Segment::create(Arc::clone(&self.vfs), &self.dir, offset, options).map_err(|error| self.wrap(error))?;
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))?;
        writer.segment_created = self.clock.now();
        self.show(SegmentList::new(Vec::new(), Arc::new(new)), offset, offset, None);
        store(&self.recovery_point, offset);
        self.first_dirty.store(Offset::to_wire(None), Ordering::Release);
        self.adopt_producers(writer, Rebuilt::of_empty_log(offset));
        self.epochs.lock().update(super::epochs::EpochTable::clear).map_err(|error| self.wrap(error))
    }

    /// What was compacted and is gone now must not count as compacted when it is written anew.
    fn lower_first_dirty(&self, active_base: Offset) {
        self.first_dirty.fetch_min(active_base.value(), Ordering::AcqRel);
    }

    /// Renames the files of segments that left the list, newest first, and remembers when to unlink them.
    fn discard(&self, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        let delay = self.settings.read().file_delete_delay_ms;
        let due = self.clock.now().saturating_add(delay);
        self.forget(segments);
        for segment in segments.iter().rev() {
            self.forget_snapshot(segment.base_offset());
            let files = segment.mark_deleted().map_err(|error| self.wrap(error))?;
            self.trash.lock().push(Trash { files, due });
        }
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))
    }
}
