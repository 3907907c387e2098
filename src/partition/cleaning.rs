//! What compaction needs of a partition besides reading it: one cleaning at a time, where to write, and what it came to.
//!
//! The rules of compaction are not here: this is the state that they leave behind.

use std::sync::atomic::Ordering;
use std::thread::ThreadId;

use parking_lot::{Mutex, MutexGuard};

use super::{Generation, Inner, LogError, Partition};
use crate::clock::Clock;
use crate::format::AbortedTransaction;
use crate::metrics::Counters;
use crate::segment::{CleanedSegment, SegmentError};
use crate::types::Offset;

/// Lets one cleaning go on at a time, and knows which thread does it.
#[derive(Debug, Default)]
pub(super) struct CleaningLock {
    turn: Mutex<()>,
    cleaner: Mutex<Option<ThreadId>>,
}

impl CleaningLock {
    fn hold<'a>(&'a self, turn: MutexGuard<'a, ()>) -> Cleaning<'a> {
        *self.cleaner.lock() = Some(std::thread::current().id());
        Cleaning { lock: self, _turn: turn }
    }

    /// Whether this thread is the one that cleans: then it is in a callback.
    fn is_own(&self) -> bool {
        *self.cleaner.lock() == Some(std::thread::current().id())
    }
}

/// The right to clean a partition, until it is dropped.
#[derive(Debug)]
pub(crate) struct Cleaning<'a> {
    lock: &'a CleaningLock,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Cleaning<'_> {
    fn drop(&mut self) {
        *self.lock.cleaner.lock() = None;
    }
}

impl Partition {
    /// Why compaction gave this partition up: the damage that it found. It is not tried again until the partition is opened anew.
    #[must_use]
    pub fn uncleanable(&self) -> Option<String> {
        self.inner.uncleanable.lock().clone()
    }

    /// Gives the partition up; returns whether it was not given up before.
    pub(crate) fn set_uncleanable(&self, reason: String) -> bool {
        let is_new = self.inner.uncleanable.lock().replace(reason).is_none();
        if is_new {
            self.counters().uncleanable_partitions.add(1);
        }
        is_new
    }

    /// Waits until no other cleaning of this partition goes on, and holds off the next. Refused to the thread that cleans, which would
    /// wait for itself.
    pub(crate) fn lock_cleaning(&self) -> Result<Cleaning<'_>, LogError> {
        let lock = &self.inner.cleaning;
        if lock.is_own() {
            return Err(LogError::InsideCompaction { partition: self.id().clone() });
        }
        Ok(lock.hold(lock.turn.lock()))
    }

    /// As [`Partition::lock_cleaning`], but `None` while another cleaning goes on.
    pub(crate) fn try_lock_cleaning(&self) -> Option<Cleaning<'_>> {
        let lock = &self.inner.cleaning;
        Some(lock.hold(lock.turn.try_lock()?))
    }

    /// Waits until no cleaning goes on: one that finds the partition closed soon ends, and has removed its drafts by then. The
    /// thread that cleans doesn't wait for itself: its progress callback may close the store.
    pub(crate) fn wait_for_cleaning(&self) {
        let lock = &self.inner.cleaning;
        if !lock.is_own() {
            drop(lock.turn.lock());
        }
    }

    /// Refuses what a partition that is offline, closed or read-only can't do.
    pub(crate) fn check_cleanable(&self) -> Result<(), LogError> {
        self.inner.check_writable()
    }

    /// Begins a segment that will take the place of others.
    pub(crate) fn create_cleaned(&self, base: Offset) -> Result<CleanedSegment, SegmentError> {
        let inner = &self.inner;
        CleanedSegment::create(std::sync::Arc::clone(&inner.vfs), &inner.dir, base, inner.segment_options())
    }

    /// The aborted transactions of the whole log, in the order of their markers.
    pub(crate) fn aborted_transactions(&self) -> Result<Vec<AbortedTransaction>, SegmentError> {
        let mut all = Vec::new();
        for segment in self.inner.list().iter() {
            all.extend_from_slice(&segment.aborted()?);
        }
        Ok(all)
    }

    /// Notes that the log is compacted up to `end`, unless it has been cut since that `generation`.
    pub(crate) fn set_compacted_to(&self, generation: Generation, end: Offset) {
        let _writer = self.inner.writer.lock();
        if generation != self.generation() {
            return;
        }
        let end = end.min(self.inner.list().active().base_offset());
        self.inner.first_dirty.store(end.value(), Ordering::Release);
    }

    /// The time by the store's clock.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// The store's counters.
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }
}

impl Inner {
    /// Lets compaction try again.
    pub(super) fn clear_uncleanable(&self) {
        *self.uncleanable.lock() = None;
    }
}
