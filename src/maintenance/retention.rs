//! Which segments have outlived `retention.ms`, `retention.bytes` or the log start offset: facts in, a count out (reference section 11).

use crate::config::TopicSettings;
use crate::partition::SegmentFacts;
use crate::types::{Offset, Timestamp};

/// How many of the oldest segments must go. The three rules run one after the other, each on what the ones before left, and
/// each stops at the first segment that stays. `segments` ends with the active one, which goes only when all others do and it
/// holds records.
pub(super) fn expired(
    segments: &[SegmentFacts],
    settings: &TopicSettings,
    log_start: Offset,
    high_watermark: Offset,
    now: Timestamp,
) -> usize {
    let mut count = below_log_start(segments, log_start);
    if settings.cleanup_policy.deletes() {
        count += over_size(segments.get(count..).unwrap_or_default(), settings.retention_bytes);
        count += over_age(segments.get(count..).unwrap_or_default(), settings.retention_ms, now);
    }
    let deletable = segments.iter().take_while(|segment| segment.end_offset <= high_watermark).count();
    let empty_active = segments.last().is_some_and(|active| active.size == 0);
    count.min(deletable).min(segments.len() - usize::from(empty_active && !segments.is_empty()))
}

fn below_log_start(segments: &[SegmentFacts], log_start: Offset) -> usize {
    let sealed = segments.len().saturating_sub(1);
    segments.iter().take(sealed).take_while(|segment| segment.end_offset <= log_start).count()
}

/// Segments go while what remains is still `limit` bytes or more: the limit is a floor.
fn over_size(segments: &[SegmentFacts], limit: Option<u64>) -> usize {
    let total = segments.iter().fold(0_u64, |sum, segment| sum.saturating_add(segment.size));
    let Some(mut surplus) = limit.and_then(|limit| total.checked_sub(limit)) else { return 0 };
    let fits = |segment: &&SegmentFacts| match surplus.checked_sub(segment.size) {
        Some(rest) => {
            surplus = rest;
            true
        }
        None => false,
    };
    segments.iter().take_while(fits).count()
}

fn over_age(segments: &[SegmentFacts], limit_ms: Option<u64>, now: Timestamp) -> usize {
    let Some(limit) = limit_ms.and_then(|ms| i64::try_from(ms).ok()) else { return 0 };
    let is_old =
        |segment: &&SegmentFacts| segment.largest_timestamp.is_some_and(|largest| now.millis_since(largest) > limit);
    segments.iter().take_while(is_old).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::TopicConfig;

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("a legal offset")
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).expect("a legal time")
    }

    /// Segments of 10 offsets and 100 bytes each, the last with `active` bytes, whose timestamps are 1000, 2000, ...
    fn segments(count: i64, active: u64) -> Vec<SegmentFacts> {
        (1..=count)
            .map(|i| SegmentFacts {
                size: if i == count { active } else { 100 },
                largest_timestamp: Some(at(i * 1000)),
                end_offset: offset(i * 10),
            })
            .collect()
    }

    fn settings(config: TopicConfig) -> TopicSettings {
        config.resolve(&TopicConfig::new()).expect("legal config")
    }

    fn keep() -> TopicConfig {
        TopicConfig::new().retention_ms(None).retention_bytes(None)
    }

    #[test]
    fn segments_wholly_below_the_log_start_go_whatever_the_policy() {
        let settings = settings(keep());
        assert_eq!(expired(&segments(3, 50), &settings, offset(10), offset(30), at(0)), 1);
        assert_eq!(expired(&segments(3, 50), &settings, offset(19), offset(30), at(0)), 1);
        assert_eq!(expired(&segments(3, 50), &settings, offset(20), offset(30), at(0)), 2);
    }

    #[test]
    fn the_size_limit_is_a_floor() {
        let by_size = |limit| settings(keep().retention_bytes(Some(limit)));
        assert_eq!(expired(&segments(4, 100), &by_size(301), offset(0), offset(40), at(0)), 0);
        assert_eq!(expired(&segments(4, 100), &by_size(300), offset(0), offset(40), at(0)), 1);
        assert_eq!(expired(&segments(4, 100), &by_size(0), offset(0), offset(40), at(0)), 4);
    }

    #[test]
    fn age_is_strict_and_stops_at_the_first_young_segment() {
        let by_age = settings(keep().retention_ms(Some(500)));
        assert_eq!(expired(&segments(3, 50), &by_age, offset(0), offset(30), at(1500)), 0);
        assert_eq!(expired(&segments(3, 50), &by_age, offset(0), offset(30), at(1501)), 1);
        let mut future = segments(3, 50);
        if let Some(first) = future.first_mut() {
            first.largest_timestamp = Some(at(9_000_000));
        }
        assert_eq!(expired(&future, &by_age, offset(0), offset(30), at(1_000_000)), 0);
    }

    proptest! {
        #[test]
        fn no_sizes_limits_or_times_break_the_arithmetic(
            sizes in prop::collection::vec(prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()], 0..5),
            limit in prop_oneof![Just(0), Just(1), Just(i64::MAX.unsigned_abs()), 0..i64::MAX.unsigned_abs()],
            (time, now) in (prop_oneof![Just(0), Just(i64::MAX)], prop_oneof![Just(0), Just(i64::MAX)]),
        ) {
            let facts = |size| SegmentFacts { size, largest_timestamp: Some(at(time)), end_offset: Offset::MAX };
            let segments: Vec<_> = sizes.into_iter().map(facts).collect();
            let settings = settings(keep().retention_ms(Some(limit)).retention_bytes(Some(limit)));
            let count = expired(&segments, &settings, Offset::MAX, Offset::MAX, at(now));
            prop_assert!(count <= segments.len());
        }
    }

    #[test]
    fn an_empty_active_segment_stays_and_a_full_one_may_go() {
        let by_age = settings(keep().retention_ms(Some(0)));
        assert_eq!(expired(&segments(3, 0), &by_age, offset(0), offset(30), at(1_000_000)), 2);
        assert_eq!(expired(&segments(3, 1), &by_age, offset(0), offset(30), at(1_000_000)), 3);
    }

    #[test]
    fn nothing_at_or_above_the_high_watermark_goes() {
        let by_age = settings(keep().retention_ms(Some(0)));
        assert_eq!(expired(&segments(3, 1), &by_age, offset(0), offset(19), at(1_000_000)), 1);
    }

    #[test]
    fn without_the_delete_policy_age_and_size_do_not_count() {
        let compacted = TopicConfig::new().cleanup_policy(crate::config::CleanupPolicy::COMPACT).retention_ms(Some(0));
        assert_eq!(expired(&segments(3, 1), &settings(compacted), offset(10), offset(30), at(1_000_000)), 1);
    }
}
