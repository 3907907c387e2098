//! The question whether the active segment is full, as data in and a reason out (reference 8.2).

use crate::config::TopicSettings;
use crate::types::Timestamp;

/// What the answer depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct RollInput {
    /// Bytes in the active segment.
    pub size: u64,
    /// Bytes about to be appended.
    pub append_size: u64,
    /// `segment.bytes`.
    pub size_max: u64,
    /// `segment.ms`, for compacted topics at most `max.compaction.lag.ms`.
    pub age_ms_max: u64,
    /// The random part of `segment.jitter.ms` drawn for this segment.
    pub jitter_ms: u64,
    /// The greatest timestamp of the segment's first batch.
    pub first_timestamp: Option<Timestamp>,
    /// The greatest timestamp of what is about to be appended.
    pub append_timestamp: Option<Timestamp>,
    /// When the segment was created, by the clock.
    pub created: Timestamp,
    /// The clock.
    pub now: Timestamp,
    /// An index has no room.
    pub index_full: bool,
    /// The last offset would not fit into 31 bits above the base.
    pub offset_overflow: bool,
}

/// Why a new segment must be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RollReason {
    Size,
    Age,
    IndexFull,
    OffsetOverflow,
}

/// Whether to begin a new segment before this append.
pub(super) fn should_roll(input: &RollInput) -> Option<RollReason> {
    if input.size > 0 && input.size.saturating_add(input.append_size) > input.size_max {
        return Some(RollReason::Size);
    }
    if input.size > 0 && waited_ms(input) > i64::try_from(limit_ms(input)).unwrap_or(i64::MAX) {
        return Some(RollReason::Age);
    }
    if input.index_full && input.size > 0 {
        return Some(RollReason::IndexFull);
    }
    input.offset_overflow.then_some(RollReason::OffsetOverflow)
}

fn limit_ms(input: &RollInput) -> u64 {
    input.age_ms_max.saturating_sub(input.jitter_ms)
}

/// The segment's age by record time where its first batch has one, else by the clock.
fn waited_ms(input: &RollInput) -> i64 {
    match (input.first_timestamp, input.append_timestamp) {
        (Some(first), Some(append)) => append.millis_since(first),
        (Some(_), None) => -1,
        (None, _) => input.now.millis_since(input.created),
    }
}

/// A random number below `segment.jitter.ms`, so that many partitions don't roll at once.
pub(super) fn draw_jitter(settings: &TopicSettings) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    let bound = settings.segment_jitter_ms.min(settings.segment_ms);
    if bound == 0 { 0 } else { std::collections::hash_map::RandomState::new().build_hasher().finish() % bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).expect("a legal time")
    }

    fn input() -> RollInput {
        RollInput {
            size: 90,
            append_size: 10,
            size_max: 100,
            age_ms_max: 1000,
            jitter_ms: 0,
            first_timestamp: Some(at(5000)),
            append_timestamp: Some(at(5000)),
            created: at(0),
            now: at(1_000_000),
            index_full: false,
            offset_overflow: false,
        }
    }

    #[test]
    fn a_batch_that_just_fits_stays_and_one_byte_more_rolls() {
        assert_eq!(should_roll(&input()), None);
        assert_eq!(should_roll(&RollInput { append_size: 11, ..input() }), Some(RollReason::Size));
    }

    #[test]
    fn an_empty_segment_rolls_by_neither_size_nor_age() {
        let empty = RollInput { size: 0, append_size: 1000, first_timestamp: None, ..input() };
        assert_eq!(should_roll(&empty), None);
    }

    #[test]
    fn age_counts_record_time_and_is_strict() {
        let aged = |ms: i64| RollInput { append_timestamp: Some(at(5000 + ms)), ..input() };
        assert_eq!(should_roll(&aged(1000)), None);
        assert_eq!(should_roll(&aged(1001)), Some(RollReason::Age));
        assert_eq!(should_roll(&RollInput { append_timestamp: Some(at(0)), ..input() }), None);
    }

    #[test]
    fn records_without_timestamp_age_by_the_clock_only_in_a_segment_without_any() {
        let none = RollInput { append_timestamp: None, ..input() };
        assert_eq!(should_roll(&none), None);
        let unstamped = RollInput { first_timestamp: None, now: at(1001), ..none };
        assert_eq!(should_roll(&unstamped), Some(RollReason::Age));
        assert_eq!(should_roll(&RollInput { now: at(1000), ..unstamped }), None);
    }

    #[test]
    fn jitter_brings_the_roll_forward() {
        let jittered = |ms: i64| RollInput { jitter_ms: 300, append_timestamp: Some(at(5000 + ms)), ..input() };
        assert_eq!(should_roll(&jittered(700)), None);
        assert_eq!(should_roll(&jittered(701)), Some(RollReason::Age));
    }

    #[test]
    fn full_indexes_and_far_offsets_roll() {
        assert_eq!(should_roll(&RollInput { index_full: true, ..input() }), Some(RollReason::IndexFull));
        assert_eq!(should_roll(&RollInput { offset_overflow: true, ..input() }), Some(RollReason::OffsetOverflow));
    }
}
