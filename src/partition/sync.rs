//! Making appends durable: one sync serves every append that was written before it began.
//!
//! A failed sync is final: what the disk holds of the unsynced bytes is unknown, so the partition goes offline, and every
//! append that waited for that sync gets the error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use super::{Inner, LogError, Partition, load, store};
use crate::clock::Moment;
use crate::segment::Segment;
use crate::types::Offset;
use crate::vfs::OpenMode;

/// Who syncs now; the others wait for the end of it.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    running: Mutex<bool>,
    ended: Condvar,
    /// Segments that were sealed and not synced since, as far as they are still in the log.
    sealed: Mutex<Vec<Arc<Segment>>>,
    /// The offsets of producer snapshots that were written and not synced since.
    snapshots: Mutex<BTreeSet<Offset>>,
}

impl Partition {
    /// Makes everything that was appended before this call durable, and hands sealed segments over to the disk.
    ///
    /// # Durability
    /// On return every record below the log end offset at the time of the call survives a power loss.
    ///
    /// # Errors
    /// [`LogError::Segment`] when a sync fails; the partition is offline from then on.
    pub fn flush(&self) -> Result<(), LogError> {
        if self.inner.read_only {
            return Ok(());
        }
        self.inner.check_online()?;
        self.inner.make_durable(self.log_end_offset())?;
        self.inner.secure_snapshots(Offset::MAX)?;
        self.inner.writer.lock().last_flush = Moment::of(&*self.inner.clock);
        Ok(())
    }
}

impl Inner {
    /// Returns once everything below `end` is durable, by an own sync or by somebody else's.
    pub(super) fn make_durable(&self, end: Offset) -> Result<(), LogError> {
        loop {
            let mut running = self.commits.running.lock();
            // A segment may have been sealed behind the last sync: its indexes are not durable yet.
            if load(&self.recovery_point) >= end && self.commits.sealed.lock().is_empty() {
                return Ok(());
            }
            self.check_online()?;
            if !*running {
                *running = true;
                drop(running);
                let result = self.sync_all();
                *self.commits.running.lock() = false;
                self.commits.ended.notify_all();
                return result;
            }
            self.commits.ended.wait(&mut running);
        }
    }

    /// Syncs the segments that were sealed since the last time, indexes included, and the active one's batches.
    fn sync_all(&self) -> Result<(), LogError> {
        let end = load(&self.log_end);
        let from = load(&self.recovery_point);
        let result = self.sync_segments(from);
        if let Err(error) = &result {
            self.counters.sync_failures.add(1);
            self.go_offline(error);
            return result;
        }
        self.recovery_point.fetch_max(end.value(), Ordering::AcqRel);
        self.counters.syncs.add(1);
        Ok(())
    }

    fn sync_segments(&self, from: Offset) -> Result<(), LogError> {
        // The active segment first: one that a roll seals from here on is among the sealed ones or is this one.
        let active = Arc::clone(self.list().active());
        let sealed = std::mem::take(&mut *self.commits.sealed.lock());
        for segment in &sealed {
            match segment.sync_all() {
                Ok(()) => segment.release(),
                // Retention or truncation removed it meanwhile: there is nothing left to sync.
                Err(_) if !self.holds(segment) => {}
                Err(error) => return Err(self.wrap(error)),
            }
        }
        match active.sync_log() {
            Err(error) if self.holds(&active) => return Err(self.wrap(error)),
            _ => {}
        }
        self.sync_snapshots()?;
        if !sealed.is_empty() || active.base_offset() >= from {
            self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))?;
        }
        Ok(())
    }

    /// Syncs the snapshots that were taken since the last time; those that are gone again are no loss.
    pub(super) fn sync_snapshots(&self) -> Result<(), LogError> {
        for offset in std::mem::take(&mut *self.commits.snapshots.lock()) {
            let path = super::snapshots::path_of(&self.dir, offset);
            match self.vfs.open(&path, OpenMode::Write).and_then(|file| file.sync_data()) {
                Err(error) if !error.is_not_found() => return Err(self.wrap(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the pending snapshots durable, names included, if one at or below `offset` is among them. Batches below a snapshot may
    /// go for good only after this: nothing else remembers their producers then.
    pub(super) fn secure_snapshots(&self, offset: Offset) -> Result<(), LogError> {
        if self.commits.snapshots.lock().first().is_none_or(|first| *first > offset) {
            return Ok(());
        }
        self.sync_snapshots()?;
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))
    }

    /// Does `work` while no sync runs: one that began before the log was cut would raise the recovery point above what is left.
    pub(super) fn between_syncs<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut running = self.commits.running.lock();
        while *running {
            self.commits.ended.wait(&mut running);
        }
        work()
    }

    /// Hands a segment that won't grow any more to the next flush.
    pub(super) fn hand_over(&self, sealed: Arc<Segment>) {
        self.commits.sealed.lock().push(sealed);
    }

    /// Takes back segments that left the log: nobody has to sync them, and they would be held until the next flush, which may never
    /// come.
    pub(super) fn forget(&self, segments: &[Arc<Segment>]) {
        let gone: BTreeSet<_> = segments.iter().map(Arc::as_ptr).collect();
        self.commits.sealed.lock().retain(|segment| !gone.contains(&Arc::as_ptr(segment)));
    }

    /// Hands a producer snapshot to the next flush.
    pub(super) fn hand_over_snapshot(&self, offset: Offset) {
        self.commits.snapshots.lock().insert(offset);
    }

    /// Takes back a producer snapshot that was removed.
    pub(super) fn forget_snapshot(&self, offset: Offset) {
        self.commits.snapshots.lock().remove(&offset);
    }

    fn holds(&self, segment: &Arc<Segment>) -> bool {
        self.list().iter().any(|other| Arc::ptr_eq(other, segment))
    }

    /// Lowers the recovery point when the log was cut below it.
    pub(super) fn lower_recovery_point(&self, end: Offset) {
        if load(&self.recovery_point) > end {
            store(&self.recovery_point, end);
        }
    }
}
