//! The time, through a seam: whatever depends on "now" asks a [`Clock`], so that a test can set it.
//!
//! A clock may jump in either direction, as a machine's does; whoever asks must cope with a time before the last one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// Where the current time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The current wall-clock time.
    fn now(&self) -> Timestamp;
}

/// The operating system's wall clock. A machine set to before 1970 reads as 1970.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_epoch.as_millis()).ok().and_then(Timestamp::from_millis).unwrap_or(Timestamp::MAX)
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
///
/// # Example
///
/// ```
/// use stratalog::clock::{Clock, ManualClock};
/// use stratalog::types::Timestamp;
///
/// let clock = ManualClock::new(Timestamp::ZERO);
/// let shared = clock.clone();
/// clock.advance(1_500);
/// assert_eq!(shared.now().millis(), 1_500);
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(AtomicI64::new(now.millis())))
    }

    /// Shows `now` from here on, be it earlier or later than before.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.millis(), Ordering::SeqCst);
    }

    /// Moves the time on by `millis` milliseconds, held at the last legal time.
    pub fn advance(&self, millis: u64) {
        let later = |now: i64| Some(Timestamp::from_millis(now)?.saturating_add(millis).millis());
        // The update fails only for a negative time, which no constructor lets in.
        let moved = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
        debug_assert!(moved.is_ok());
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst)).unwrap_or(Timestamp::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told_and_for_all_its_clones() {
        let clock = ManualClock::new(Timestamp::from_millis(10).unwrap());
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        assert_eq!(shared.now().millis(), 10);
        clock.advance(5);
        assert_eq!(shared.now().millis(), 15);
        clock.set(Timestamp::ZERO);
        assert_eq!(shared.now(), Timestamp::ZERO);
        clock.advance(u64::MAX);
        assert_eq!(shared.now(), Timestamp::MAX);
    }

    #[test]
    fn the_system_clock_is_past_2020() {
        assert!(SystemClock.now().millis() > 1_577_836_800_000);
    }
}
