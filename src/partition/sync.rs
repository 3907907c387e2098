//! Making appends durable: one sync serves every append that was written before it began.
//!
//! The recovery point is what a sync that covered the bytes made of it, and moves by nothing else. A failed sync is final: what
//! the disk holds of the unsynced bytes is unknown, so the partition goes offline, and every append that waited for that sync gets
//! the error. For the same reason nothing that an unclean opening found above the recovery point counts as synced, even where a
//! sync succeeds: the bytes are written again first.
//!
//! Sealed segments and their producer snapshots wait for the next tick, which syncs them outside the append lock. Where nobody ticks,
//! an appender does it when more than a few wait.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};

use super::{Generation, Inner, LogError, Partition, load, store};
use crate::clock::Moment;
use crate::segment::Segment;
use crate::types::{Offset, Position};
use crate::vfs::{IoError, OpenMode, read_whole, unless_missing};

/// How many sealed segments may wait for a tick before an appender syncs them.
const SEALED_WAITING_MAX: usize = 8;

/// Who syncs now; the others wait for the end of it.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    running: Mutex<bool>,
    ended: Condvar,
    /// Segments that were sealed and not synced since, as far as they are still in the log.
    sealed: Mutex<Vec<Arc<Segment>>>,
    /// What an unclean opening found above the recovery point, oldest first.
    rewrites: Mutex<Vec<Rewrite>>,
    /// Whether what a failed append left was cut off, and no sync has covered that. A loss of power would bring it back.
    has_cut_back: AtomicBool,
    /// The offsets of producer snapshots that were written and not synced since, and whether a sync failed.
    snapshots: Mutex<BTreeMap<Offset, bool>>,
}

/// The turn of the one who syncs. However that ends, the next one gets it.
struct Turn<'a>(&'a GroupCommit);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.running.lock() = false;
        self.0.ended.notify_all();
    }
}

/// Bytes that must be written again before a sync makes them durable.
#[derive(Debug, Clone)]
pub(super) struct Rewrite {
    pub segment: Arc<Segment>,
    pub from: Position,
    pub to: Position,
}

impl Partition {
    /// Makes everything that was appended before this call durable, and hands sealed segments over to the disk.
    ///
    /// # Durability
    /// On return every record below the log end offset at the time of the call survives a power loss.
    ///
    /// # Errors
    /// [`LogError::Segment`] when a sync of the log fails; the partition is offline from then on. It stays online where a file can't be
    /// opened, or epochs, transaction indexes or snapshots of producers can't be written. [`LogError::Offline`], [`LogError::Closed`].
    /// A partition opened read-only has nothing to flush.
    pub fn flush(&self) -> Result<(), LogError> {
        if self.inner.read_only {
            return Ok(());
        }
        let _inside = self.inner.enter_writable()?;
        self.inner.make_durable(self.log_end_offset(), None)?;
        match self.inner.sync_snapshots_up_to(Offset::MAX) {
            // It stays in line: no record rests on it.
            Err(error) if error.failed_to_open() => {}
            secured => secured?,
        }
        self.inner.writer.lock().last_flush = Moment::of(&*self.inner.clock);
        Ok(())
    }

    /// Syncs the segments that were sealed since the last time and their snapshots, closes their files and moves the recovery point to
    /// the active segment. Returns whether there were any; none are where the partition is offline or closed.
    pub(crate) fn sync_sealed(&self) -> Result<bool, LogError> {
        let Ok(_inside) = self.inner.enter_writable() else { return Ok(false) };
        self.inner.sync_sealed()
    }
}

impl Inner {
    /// Returns once everything below `end` is durable, by an own sync or by somebody else's. Where that was `written_in` another log
    /// than the one that stands now, nobody knows whether it is still there.
    pub(super) fn make_durable(&self, end: Offset, written_in: Option<Generation>) -> Result<(), LogError> {
        let is_done = || {
            if written_in.is_some_and(|written_in| written_in != self.generation()) {
                return Err(LogError::OutcomeUnknown { partition: self.id.clone() });
            }
            let has_all = load(&self.recovery_point) >= end && !self.commits.has_cut_back.load(Ordering::Acquire);
            Ok(has_all && self.commits.sealed.lock().is_empty())
        };
        self.lead_sync(is_done, || self.sync_all())
    }

    /// As [`Partition::sync_sealed`].
    fn sync_sealed(&self) -> Result<bool, LogError> {
        if self.commits.sealed.lock().is_empty() {
            return Ok(false);
        }
        let is_done = || Ok(self.commits.sealed.lock().is_empty());
        self.lead_sync(is_done, || {
            let end = self.list().active().base_offset();
            self.sync_up_to(end, |_| self.sync_pending().map(|_| ()))?;
            // Each roll left one. Where nobody appends durably, they would be more and more, for one append to sync.
            self.sync_snapshots().map(|_| ())
        })?;
        Ok(true)
    }

    /// Syncs sealed segments where more wait than should, and notes how far the log is durable, so that a kill leaves few to sync
    /// again.
    pub(super) fn sync_sealed_if_many(&self) -> Result<(), LogError> {
        if self.commits.sealed.lock().len() > SEALED_WAITING_MAX && self.sync_sealed()? {
            self.renew_notes_in_passing();
        }
        Ok(())
    }

    /// Lets one caller at a time `sync`; the others wait for the end of it, and go on when that made them `is_done`. All of them are
    /// inside, and come to their end also when the partition is closed meanwhile.
    fn lead_sync(
        &self,
        is_done: impl Fn() -> Result<bool, LogError>,
        sync: impl FnOnce() -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        loop {
            let mut running = self.commits.running.lock();
            if is_done()? {
                return Ok(());
            }
            self.check_not_offline()?;
            if !*running {
                *running = true;
                drop(running);
                let _turn = Turn(&self.commits);
                let pending = self.pending();
                let result = sync();
                pending.end();
                return result;
            }
            self.commits.ended.wait(&mut running);
        }
    }

    /// Syncs the segments that were sealed since the last time, indexes included, and the active one's batches.
    fn sync_all(&self) -> Result<(), LogError> {
        let end = self.offsets.log_end();
        let had_cut_back = self.commits.has_cut_back.swap(false, Ordering::AcqRel);
        let synced = self.sync_up_to(end, |from| self.sync_segments(from));
        if had_cut_back && synced.is_err() {
            self.note_cut_back();
        }
        synced
    }

    /// Has the next flush sync what an append has just cut off again.
    pub(super) fn note_cut_back(&self) {
        self.commits.has_cut_back.store(true, Ordering::Release);
    }

    /// Does `sync` and moves the recovery point to `end`. A sync that fails takes the partition offline; one that can't begin, because
    /// a file can't be opened, leaves all as it was.
    fn sync_up_to(&self, end: Offset, sync: impl FnOnce(Offset) -> Result<(), LogError>) -> Result<(), LogError> {
        self.persist_notes_of_batches()?;
        let from = load(&self.recovery_point);
        let result = sync(from);
        if let Err(error) = &result {
            self.counters.sync_failures.add(1);
            if !error.failed_to_open() {
                self.go_offline(error);
                self.distrust_verified();
            }
            return result;
        }
        self.recovery_point.fetch_max(end.value(), Ordering::AcqRel);
        self.counters.syncs.add(1);
        Ok(())
    }

    /// Writes what recovery finds in the batches above the recovery point, and nowhere else below it: epochs, and which transactions
    /// were aborted. Where there is no room for it, nothing has been lost, and the recovery point stays.
    fn persist_notes_of_batches(&self) -> Result<(), LogError> {
        self.require_noted_gaps()?;
        self.epochs.persist().map_err(|error| self.wrap(error))?;
        self.persist_aborted()
    }

    /// Writes the aborted transactions that are only in memory.
    pub(super) fn persist_aborted(&self) -> Result<(), LogError> {
        let sealed = self.commits.sealed.lock().clone();
        for segment in sealed.iter().chain([self.list().active()]).filter(|segment| self.holds(segment)) {
            segment.persist_aborted().map_err(|error| self.wrap(error))?;
        }
        Ok(())
    }

    /// Whether aborted transactions are in memory only: then the next opening has to verify their segments.
    pub(super) fn has_unwritten_aborted(&self) -> bool {
        let sealed = self.commits.sealed.lock().clone();
        sealed.iter().chain([self.list().active()]).any(|segment| segment.has_unwritten_aborted())
    }

    /// What was noted as verified in this boot may not be there any more.
    pub(super) fn distrust_verified(&self) {
        if self.renew_notes().is_err() {
            self.notes.forget_verified();
        }
    }

    fn sync_segments(&self, from: Offset) -> Result<(), LogError> {
        // The active segment first: one that a roll seals from here on is among the sealed ones or is this one.
        let active = Arc::clone(self.list().active());
        let has_synced = self.sync_pending()?;
        match active.sync_log() {
            Err(error) if self.holds(&active) => return Err(self.wrap(error)),
            _ => {}
        }
        // A snapshot is a hint. What of them can't be synced now stays in line.
        let is_folder_synced = self.sync_snapshots().unwrap_or(false);
        if !is_folder_synced && (has_synced || active.base_offset() >= from) {
            self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))?;
        }
        Ok(())
    }

    /// Writes again what must be, and syncs the sealed segments; returns whether there were any. Where a file can't be opened, all of
    /// them stay in line.
    fn sync_pending(&self) -> Result<bool, LogError> {
        let rewrites = std::mem::take(&mut *self.commits.rewrites.lock());
        let sealed = std::mem::take(&mut *self.commits.sealed.lock());
        let has_sealed = !sealed.is_empty();
        let result = self.write_again(&rewrites).and_then(|()| self.sync_each(&sealed));
        if result.as_ref().is_err_and(LogError::failed_to_open) {
            self.commits.rewrites.lock().splice(0..0, rewrites);
            self.commits.sealed.lock().splice(0..0, sealed);
        }
        result.map(|()| has_sealed)
    }

    fn sync_each(&self, sealed: &[Arc<Segment>]) -> Result<(), LogError> {
        for segment in sealed {
            match segment.sync_all() {
                Ok(()) => segment.release(),
                // Retention or truncation removed it meanwhile: there is nothing left to sync.
                Err(_) if !self.holds(segment) => {}
                Err(error) => return Err(self.wrap(error)),
            }
        }
        if sealed.is_empty() { Ok(()) } else { self.sync_folder() }
    }

    fn write_again(&self, due: &[Rewrite]) -> Result<(), LogError> {
        for Rewrite { segment, from, to } in due {
            match segment.write_again(*from, *to) {
                Err(error) if self.holds(segment) => return Err(self.wrap(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes everything below a cut durable, whose caller keeps other syncs off.
    pub(super) fn sync_below_cut(&self, active: &Segment) -> Result<(), LogError> {
        self.sync_pending()?;
        active.sync_log().map_err(|error| self.wrap(error))
    }

    /// Syncs the snapshots that were taken since the last time, names included; those that are gone again are no loss. One whose
    /// sync fails stays in line, and is written again first the next time. Returns whether there were any.
    pub(super) fn sync_snapshots(&self) -> Result<bool, LogError> {
        let due = self.commits.snapshots.lock().clone();
        for (offset, has_failed) in &due {
            let path = super::snapshots::path_of(&self.dir, *offset);
            let written = if *has_failed { self.write_snapshot_again(&path) } else { Ok(()) };
            let open = || self.vfs.open(&path, OpenMode::Write);
            unless_missing(written.and_then(|()| open()).and_then(|file| file.sync_data())).map_err(|error| {
                self.distrust_snapshot(*offset);
                self.wrap(error)
            })?;
        }
        if !due.is_empty() {
            self.sync_folder()?;
            self.commits.snapshots.lock().retain(|offset, _| !due.contains_key(offset));
        }
        Ok(!due.is_empty())
    }

    /// Writes the bytes of a snapshot again. Where a sync of it has failed, in this life or an earlier one, another sync alone would find
    /// nothing to do.
    pub(super) fn write_snapshot_again(&self, path: &Path) -> Result<(), IoError> {
        let Some(bytes) = read_whole(&*self.vfs, path)? else { return Ok(()) };
        self.vfs.open(path, OpenMode::Write)?.write_at(&bytes, 0)
    }

    /// Makes the pending snapshots durable, names included, if one at or below `offset` is among them. Batches below a snapshot may
    /// go for good only after this: nothing else remembers their producers then.
    pub(super) fn sync_snapshots_up_to(&self, offset: Offset) -> Result<(), LogError> {
        let is_due = self.commits.snapshots.lock().first_key_value().is_some_and(|(first, _)| *first <= offset);
        if is_due {
            self.sync_snapshots()?;
        }
        Ok(())
    }

    /// Does `work` while no sync runs: one that began before the log was cut would raise the recovery point above what is left.
    pub(super) fn between_syncs<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut running = self.commits.running.lock();
        while *running {
            self.commits.ended.wait(&mut running);
        }
        work()
    }

    /// Hands a segment that won't grow any more to the next tick or flush.
    pub(super) fn hand_over(&self, sealed: Arc<Segment>) {
        self.commits.sealed.lock().push(sealed);
    }

    /// Takes back segments that left the log: nobody has to sync them, and they would be held until the next flush, which may never
    /// come.
    pub(super) fn forget(&self, segments: &[Arc<Segment>]) {
        let gone: BTreeSet<_> = segments.iter().map(Arc::as_ptr).collect();
        self.commits.sealed.lock().retain(|segment| !gone.contains(&Arc::as_ptr(segment)));
        self.commits.rewrites.lock().retain(|rewrite| !gone.contains(&Arc::as_ptr(&rewrite.segment)));
    }

    /// Takes back all sealed segments; returns their base offsets.
    pub(super) fn take_sealed(&self) -> Vec<Offset> {
        self.commits.rewrites.lock().clear();
        let sealed = std::mem::take(&mut *self.commits.sealed.lock());
        sealed.iter().map(|segment| segment.base_offset()).collect()
    }

    /// Has these bytes written again before the next sync of their segment.
    pub(super) fn hand_over_rewrites(&self, rewrites: Vec<Rewrite>) {
        *self.commits.rewrites.lock() = rewrites;
    }

    /// Takes back what was to be written again of segments that reach to `end`: a cut there has made them anew.
    pub(super) fn forget_rewrites_from(&self, end: Offset) {
        let list = self.list();
        let cut = list.from(end).next().map(|segment| segment.base_offset());
        self.commits.rewrites.lock().retain(|rewrite| Some(rewrite.segment.base_offset()) < cut);
    }

    /// Hands a producer snapshot to the next flush.
    pub(super) fn hand_over_snapshot(&self, offset: Offset) {
        self.commits.snapshots.lock().insert(offset, false);
    }

    /// Has the next flush write a producer snapshot again, and sync it.
    pub(super) fn distrust_snapshot(&self, offset: Offset) {
        self.commits.snapshots.lock().insert(offset, true);
    }

    /// Whether a sync of a producer snapshot has failed since it was written.
    pub(super) fn is_snapshot_distrusted(&self, offset: Offset) -> bool {
        self.commits.snapshots.lock().get(&offset) == Some(&true)
    }

    /// Takes back a producer snapshot that was removed.
    pub(super) fn forget_snapshot(&self, offset: Offset) {
        self.commits.snapshots.lock().remove(&offset);
    }

    /// Whether a crash would still find the segment in the log.
    fn holds(&self, segment: &Arc<Segment>) -> bool {
        self.list().contains(segment) || self.removals.holds(segment)
    }

    /// Lowers the recovery point when the log was cut below it.
    pub(super) fn lower_recovery_point(&self, end: Offset) {
        if load(&self.recovery_point) > end {
            store(&self.recovery_point, end);
        }
    }
}
