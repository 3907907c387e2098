//! Waiting for the log to grow, from any number of threads; an append pays one load when nobody waits.
//!
//! A wait compares state and counts no signals. What it looks at, the offsets and the status, wakes it where it is stored:
//! `offsets.rs` and `Inner::change_status`.

use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Partition;
use crate::types::Offset;

/// How often a partition that another process writes is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Threads that wait for an offset to move, or for the end of the partition's use.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    count: AtomicUsize,
    lock: Mutex<()>,
    grown: Condvar,
}

impl Waiters {
    /// Wakes everybody; to be called after what they look at was stored.
    pub(super) fn wake(&self) {
        // Pairs with the fence in `wait`: either this sees the waiter, or the waiter sees what is new.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) > 0 {
            drop(self.lock.lock());
            self.grown.notify_all();
        }
    }

    /// Waits until `done` or the deadline; returns what `done` said last.
    fn wait(&self, deadline: Option<Instant>, done: impl Fn() -> bool) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut guard = self.lock.lock();
        let mut reached = done();
        while !reached {
            let timed_out = match deadline {
                Some(deadline) => self.grown.wait_until(&mut guard, deadline).timed_out(),
                None => {
                    self.grown.wait(&mut guard);
                    false
                }
            };
            reached = done();
            if timed_out {
                break;
            }
        }
        drop(guard);
        self.count.fetch_sub(1, Ordering::Relaxed);
        reached
    }
}

impl Partition {
    /// Waits until the log has come past `offset`, at most `timeout`; returns whether it has. Usually the record is there then; one that
    /// has been deleted, or that the log started over above, is told by the read. Returns early, with `false`, when the partition is
    /// closed, and when it goes offline meanwhile; reopening one that is online ends no wait. A wait for a partition that is
    /// offline already lasts until that is reopened and written to, so that a loop of waiting and reading doesn't spin. A
    /// partition opened read-only looks for what another process wrote every 10 ms.
    #[must_use]
    pub fn wait_for(&self, offset: Offset, timeout: Duration) -> bool {
        self.wait_until(timeout, || self.log_end_offset() > offset)
    }

    /// Waits until readers of committed records can read `offset`: until it lies below the last stable offset. Otherwise as
    /// [`Partition::wait_for`].
    #[must_use]
    pub fn wait_for_committed(&self, offset: Offset, timeout: Duration) -> bool {
        self.wait_until(timeout, || self.last_stable_offset() > offset)
    }

    fn wait_until(&self, timeout: Duration, is_there: impl Fn() -> bool) -> bool {
        if is_there() {
            return true;
        }
        let deadline = Instant::now().checked_add(timeout);
        if self.inner.read_only {
            return self.poll_until(deadline, is_there);
        }
        let was_online = !self.inner.status.is_offline();
        let is_over = || self.inner.status.is_closed() || was_online && self.inner.status.is_offline();
        self.inner.offsets.waiters().wait(deadline, || is_there() || is_over());
        is_there()
    }

    fn poll_until(&self, deadline: Option<Instant>, is_there: impl Fn() -> bool) -> bool {
        loop {
            // A folder that can't be read just now may be readable at the next look.
            let looked = self.following(|| Ok(()), |()| true);
            if matches!(looked, Err(super::LogError::Closed { .. })) {
                return false;
            }
            if is_there() {
                return true;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return false;
            }
            let next = now.checked_add(POLL);
            let is_closed = || self.inner.status.is_closed();
            self.inner.offsets.waiters().wait(next.min(deadline).or(next), || is_there() || is_closed());
        }
    }
}
