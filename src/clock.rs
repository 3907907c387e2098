//! The time, through a seam: whatever depends on "now" asks a [`Clock`], so that a test can set it.
//!
//! A clock has two times. The wall time is what records carry; it may jump in either direction, as a machine's does. The
//! monotonic time never goes back; intervals and ages go by it.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::types::Timestamp;

/// Where the current time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The current wall-clock time.
    fn now(&self) -> Timestamp;

    /// How long some fixed moment lies back: never less than any call returned before, whatever happens to the wall clock.
    ///
    /// The default asks the operating system's monotonic clock. Override it where the time is not the machine's own.
    fn monotonic(&self) -> Duration {
        since_first_call()
    }
}

/// The monotonic time since the first call in this process. An `Instant` can only be told as a distance from another one,
/// so the first one is kept.
fn since_first_call() -> Duration {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}

/// One moment by both times of a clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    wall: Timestamp,
    monotonic: Duration,
}

impl Moment {
    /// This moment.
    pub(crate) fn of(clock: &dyn Clock) -> Self {
        Self { wall: clock.now(), monotonic: clock.monotonic() }
    }

    /// Milliseconds from this moment to the wall time `now`, and at least those that `clock` counted monotonically. A wall
    /// clock that was set back makes nothing younger.
    pub(crate) fn millis_until(&self, now: Timestamp, clock: &dyn Clock) -> u64 {
        let by_wall = u64::try_from(now.millis_since(self.wall)).unwrap_or(0);
        let counted = clock.monotonic().saturating_sub(self.monotonic);
        by_wall.max(u64::try_from(counted.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The end of a delay, which a wall clock that is set back doesn't put off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    since: Moment,
    delay_ms: u64,
}

impl Deadline {
    /// So long from this moment on.
    pub(crate) fn after(clock: &dyn Clock, delay_ms: u64) -> Self {
        Self { since: Moment::of(clock), delay_ms }
    }

    /// Whether it is over at the wall time `now`, or has been counted monotonically.
    pub(crate) fn is_over(&self, now: Timestamp, clock: &dyn Clock) -> bool {
        self.since.millis_until(now, clock) >= self.delay_ms
    }
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

/// A clock that stands still until it is moved. Clones show the same time. The monotonic time begins at 0.
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
///
/// clock.set(Timestamp::ZERO);
/// assert_eq!(shared.monotonic().as_millis(), 1_500);
/// ```
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Hands>);

/// Both times of a [`ManualClock`] in milliseconds.
#[derive(Debug)]
struct Hands {
    wall: AtomicI64,
    monotonic: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Hands { wall: AtomicI64::new(now.millis()), monotonic: AtomicU64::new(0) }))
    }

    /// Shows the wall time `now` from here on, be it earlier or later than before. The monotonic time stays.
    pub fn set(&self, now: Timestamp) {
        self.0.wall.store(now.millis(), Ordering::SeqCst);
    }

    /// Moves both times on by `millis` milliseconds, held at the last legal time.
    pub fn advance(&self, millis: u64) {
        let later = |now: i64| Some(Timestamp::from_millis(now)?.saturating_add(millis).millis());
        // The update fails only for a negative time, which no constructor lets in.
        let moved = self.0.wall.fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
        debug_assert!(moved.is_ok());
        let counted = |time: u64| Some(time.saturating_add(millis));
        let moved = self.0.monotonic.fetch_update(Ordering::SeqCst, Ordering::SeqCst, counted);
        debug_assert!(moved.is_ok());
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.wall.load(Ordering::SeqCst)).unwrap_or(Timestamp::ZERO)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.monotonic.load(Ordering::SeqCst))
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
    fn setting_the_wall_time_leaves_the_monotonic_time() {
        let clock = ManualClock::new(Timestamp::from_millis(10).unwrap());
        clock.advance(5);
        clock.set(Timestamp::ZERO);
        clock.set(Timestamp::MAX);
        assert_eq!(clock.clone().monotonic(), Duration::from_millis(5));
        clock.advance(u64::MAX);
        assert_eq!(clock.monotonic(), Duration::from_millis(u64::MAX));
    }

    #[test]
    fn a_moment_ages_by_the_time_that_went_further() {
        let clock = ManualClock::new(Timestamp::from_millis(1000).unwrap());
        let moment = Moment::of(&clock);
        assert_eq!(moment.millis_until(Timestamp::from_millis(1700).unwrap(), &clock), 700);
        clock.advance(50);
        clock.set(Timestamp::ZERO);
        assert_eq!(moment.millis_until(clock.now(), &clock), 50);
    }

    #[test]
    fn the_system_clock_is_past_2020_and_a_clock_without_a_monotonic_time_gets_one() {
        #[derive(Debug)]
        struct Stuck;
        impl Clock for Stuck {
            fn now(&self) -> Timestamp {
                Timestamp::ZERO
            }
        }
        assert!(SystemClock.now().millis() > 1_577_836_800_000);
        let before = Stuck.monotonic();
        while Stuck.monotonic() <= before {
            std::hint::spin_loop();
        }
    }
}
