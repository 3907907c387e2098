//! How long to pause so that bytes go through at a given rate in the mean. Arithmetic only: sleeping is for the caller.

use std::time::Duration;

use crate::types::Timestamp;

/// Less than this isn't worth a sleep; it is owed until more has come together.
const PAUSE_MIN: Duration = Duration::from_millis(5);

/// The longest pause for one step, in seconds: a rate may be as low as one byte a second.
const PAUSE_MAX_SECONDS: f64 = 86_400.0;

/// A rate that work is held to.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: f64,
    /// What the work so far should have taken longer.
    owed: Duration,
    last: Timestamp,
}

impl Throttle {
    /// `bytes_per_second` counts from `now`; a rate below 1 counts as 1.
    pub(super) fn new(bytes_per_second: f64, now: Timestamp) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1.0), owed: Duration::ZERO, last: now }
    }

    /// How long to pause now that `bytes` more have gone through. Time that passes until the next call, the pause included, is
    /// taken off what that call asks for; a clock that stands still or goes back takes nothing off but the pause.
    pub(super) fn pause(&mut self, bytes: u64, now: Timestamp) -> Duration {
        let passed = Duration::from_millis(u64::try_from(now.millis_since(self.last)).unwrap_or(0));
        self.last = now;
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no exact count")]
        let due = (bytes as f64 / self.bytes_per_second).min(PAUSE_MAX_SECONDS);
        self.owed = self.owed.saturating_sub(passed) + Duration::from_secs_f64(due);
        if self.owed < PAUSE_MIN {
            return Duration::ZERO;
        }
        let pause = self.owed;
        self.owed = Duration::ZERO;
        // The pause itself will show on the clock.
        self.last = now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).expect("a legal time")
    }

    #[test]
    fn work_that_took_no_time_is_paused_for_its_share() {
        let mut throttle = Throttle::new(1000.0, at(0));
        assert_eq!(throttle.pause(500, at(0)), Duration::from_millis(500));
        assert_eq!(throttle.pause(500, at(500)), Duration::from_millis(500));
    }

    #[test]
    fn time_that_the_work_took_is_taken_off() {
        let mut throttle = Throttle::new(1000.0, at(0));
        assert_eq!(throttle.pause(1000, at(0)), Duration::from_secs(1));
        assert_eq!(throttle.pause(1, at(1000)), Duration::ZERO);
        assert_eq!(throttle.pause(999, at(1000)), Duration::from_secs(1));
    }

    #[test]
    fn a_clock_that_goes_back_lets_nothing_through_unpaused() {
        let mut throttle = Throttle::new(1000.0, at(100_000));
        assert_eq!(throttle.pause(100, at(0)), Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn no_rate_and_no_time_makes_a_pause_without_bound(
            rate in prop_oneof![
                Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(0.0), Just(-1.0), Just(f64::MIN_POSITIVE),
                Just(1.0), Just(f64::MAX), any::<f64>()
            ],
            steps in prop::collection::vec(
                (prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()], prop_oneof![Just(0), Just(i64::MAX), 0..i64::MAX]),
                1..20
            ),
        ) {
            let mut throttle = Throttle::new(rate, at(0));
            for (bytes, millis) in steps {
                prop_assert!(throttle.pause(bytes, at(millis)) <= Duration::from_secs(86_400) + PAUSE_MIN);
            }
        }
    }

    #[test]
    fn without_a_limit_nothing_is_paused() {
        let mut throttle = Throttle::new(f64::MAX, at(0));
        assert_eq!(throttle.pause(u64::MAX, at(0)), Duration::ZERO);
        assert!(Throttle::new(0.0, at(0)).pause(u64::MAX, at(0)) <= Duration::from_secs(86_400));
    }
}
