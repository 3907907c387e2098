//! What to compact: facts about logs in, extents, choices and groups out (reference 12.1 and 12.3). No disk, no clock.

use std::ops::Range;

use crate::config::TopicSettings;
use crate::types::{Offset, Timestamp};

/// What a segment or a distance between offsets may come to: numbers on disk are signed and have 32 bits.
const SPAN_MAX: u64 = i32::MAX as u64;

/// A sealed segment as compaction sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentSpan {
    pub base: Offset,
    /// The next segment's base offset.
    pub end: Offset,
    /// Bytes of its `.log`.
    pub size: u64,
    /// The greatest timestamp of its first batch.
    pub first_timestamp: Option<Timestamp>,
    /// Its greatest timestamp, or when it was last written.
    pub largest_timestamp: Option<Timestamp>,
}

/// A log as compaction sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogFacts<'a> {
    /// In offset order, without the active one.
    pub sealed: &'a [SegmentSpan],
    pub log_start: Offset,
    pub log_end: Offset,
    pub last_stable: Offset,
    /// Up to where it was compacted, as noted.
    pub compacted_to: Option<Offset>,
}

/// Which part of a log is to be compacted, and how urgent that is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    /// Everything below was compacted.
    pub first_dirty: Offset,
    /// Nothing from here on may be compacted yet; never below `first_dirty`.
    pub first_uncleanable: Offset,
    /// Bytes of the segments below the first dirty offset.
    pub clean_size: u64,
    /// Bytes of the segments between the two offsets.
    pub cleanable_size: u64,
    /// Whether what was noted lies outside the log and must be noted anew.
    pub is_note_wrong: bool,
    /// Whether something has waited longer than `max.compaction.lag.ms`.
    pub is_overdue: bool,
}

impl Extent {
    /// Looks at a log at the time `now`.
    pub(super) fn of(log: &LogFacts<'_>, settings: &TopicSettings, now: Timestamp) -> Self {
        let noted = log.compacted_to.unwrap_or(log.log_start);
        let is_note_wrong = noted < log.log_start || noted > log.log_end;
        let first_dirty = if is_note_wrong { log.log_start } else { noted };
        let dirty = || log.sealed.iter().filter(move |segment| segment.end > first_dirty);
        let sealed_end = log.sealed.last().map_or(first_dirty, |last| last.end);
        let too_young = dirty().find(|segment| is_too_young(segment, settings.min_compaction_lag_ms, now));
        let first_uncleanable =
            too_young.map_or(sealed_end, |segment| segment.base).min(sealed_end).min(log.last_stable).max(first_dirty);
        let cleanable = || dirty().filter(|segment| segment.base < first_uncleanable);
        let cleanable_size = if first_uncleanable > first_dirty { total(cleanable()) } else { 0 };
        let oldest =
            dirty().filter_map(|segment| segment.first_timestamp).filter(|first| *first > Timestamp::ZERO).min();
        let has_waited =
            oldest.is_some_and(|oldest| is_longer(now.millis_since(oldest), settings.max_compaction_lag_ms));
        Self {
            first_dirty,
            first_uncleanable,
            clean_size: total(log.sealed.iter().filter(|segment| segment.end <= first_dirty)),
            cleanable_size,
            is_note_wrong,
            is_overdue: cleanable_size > 0 && has_waited,
        }
    }

    /// The share of what is to be compacted in all that a compaction would read.
    pub(super) fn dirty_ratio(&self) -> f64 {
        let all = self.clean_size.saturating_add(self.cleanable_size);
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        if all == 0 { 0.0 } else { self.cleanable_size as f64 / all as f64 }
    }

    /// Whether background work should compact the log.
    pub(super) fn is_eligible(&self, settings: &TopicSettings) -> bool {
        self.is_overdue || self.dirty_ratio() > settings.min_cleanable_dirty_ratio
    }
}

fn total<'a>(segments: impl Iterator<Item = &'a SegmentSpan>) -> u64 {
    segments.fold(0, |sum, segment| sum.saturating_add(segment.size))
}

fn is_too_young(segment: &SegmentSpan, lag_ms: u64, now: Timestamp) -> bool {
    lag_ms > 0 && segment.largest_timestamp.is_some_and(|largest| !is_at_least(now.millis_since(largest), lag_ms))
}

fn is_longer(waited_ms: i64, limit_ms: u64) -> bool {
    u64::try_from(waited_ms).is_ok_and(|waited| waited > limit_ms)
}

fn is_at_least(waited_ms: i64, limit_ms: u64) -> bool {
    u64::try_from(waited_ms).is_ok_and(|waited| waited >= limit_ms)
}

/// The order in which to compact logs: those that are overdue before all others, then by their share of dirty bytes.
/// Returns positions in `extents`.
pub(super) fn order(extents: &[Extent]) -> Vec<usize> {
    let mut order: Vec<_> = extents.iter().enumerate().collect();
    order.sort_by(|(_, left), (_, right)| {
        right.is_overdue.cmp(&left.is_overdue).then(right.dirty_ratio().total_cmp(&left.dirty_ratio()))
    });
    order.into_iter().map(|(position, _)| position).collect()
}

/// What a segment brings into a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupMember {
    pub base: Offset,
    /// The next segment's base offset; of the last one, at most the first uncleanable offset.
    pub end: Offset,
    /// Bytes of its `.log`.
    pub size: u64,
    /// Bytes of its offset index.
    pub offset_index_size: u64,
    /// Bytes of its time index.
    pub time_index_size: u64,
}

/// Runs of segments, each of which becomes one segment: filled from the left, none beyond what the topic allows a segment.
pub(super) fn groups(members: &[GroupMember], settings: &TopicSettings) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut sum =
        GroupMember { base: Offset::ZERO, end: Offset::ZERO, size: 0, offset_index_size: 0, time_index_size: 0 };
    for (position, member) in members.iter().enumerate() {
        let joined = GroupMember {
            base: sum.base,
            end: member.end,
            size: sum.size.saturating_add(member.size),
            offset_index_size: sum.offset_index_size.saturating_add(member.offset_index_size),
            time_index_size: sum.time_index_size.saturating_add(member.time_index_size),
        };
        match groups.last_mut() {
            Some(group) if fits(&joined, member, settings) => {
                group.end = position + 1;
                sum = joined;
            }
            _ => {
                groups.push(position..position + 1);
                sum = *member;
            }
        }
    }
    groups
}

fn fits(joined: &GroupMember, member: &GroupMember, settings: &TopicSettings) -> bool {
    let index_size_max = u64::from(settings.segment_index_bytes);
    // The last offset is one below the end. Empty segments name no offsets: gaps of them are merged away.
    let span = joined.end.since(joined.base).saturating_sub(1);
    joined.size <= u64::from(settings.segment_bytes).min(SPAN_MAX)
        && joined.offset_index_size <= index_size_max
        && joined.time_index_size <= index_size_max
        && (member.size == 0 || span <= SPAN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicConfig;
    use proptest::prelude::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("a legal offset")
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).expect("a legal time")
    }

    fn settings(config: TopicConfig) -> TopicSettings {
        config.resolve(&TopicConfig::new()).expect("legal config")
    }

    /// Segments of 10 offsets and 100 bytes each, with timestamps `i * 1000` to `i * 1000 + 500` in segment i from 1 on.
    fn sealed(count: i64) -> Vec<SegmentSpan> {
        (1..=count)
            .map(|i| SegmentSpan {
                base: offset(i * 10 - 10),
                end: offset(i * 10),
                size: 100,
                first_timestamp: Some(at(i * 1000)),
                largest_timestamp: Some(at(i * 1000 + 500)),
            })
            .collect()
    }

    fn log(sealed: &[SegmentSpan], compacted_to: Option<i64>) -> LogFacts<'_> {
        let end = sealed.last().map_or(5, |last| last.end.value() + 5);
        LogFacts {
            sealed,
            log_start: offset(0),
            log_end: offset(end),
            last_stable: offset(end),
            compacted_to: compacted_to.map(offset),
        }
    }

    fn extent(log: &LogFacts<'_>, config: TopicConfig) -> Extent {
        Extent::of(log, &settings(config), at(10_000))
    }

    #[test]
    fn everything_sealed_and_stable_that_was_not_compacted_is_cleanable() {
        let segments = sealed(4);
        let extent = extent(&log(&segments, Some(10)), TopicConfig::new());
        assert_eq!((extent.first_dirty, extent.first_uncleanable), (offset(10), offset(40)));
        assert_eq!((extent.clean_size, extent.cleanable_size), (100, 300));
        assert!((extent.dirty_ratio() - 0.75).abs() < 1e-9);
        assert!(!extent.is_note_wrong && !extent.is_overdue);
    }

    #[test]
    fn where_only_the_active_segment_holds_data_nothing_is_cleanable() {
        let extent = extent(&log(&[], None), TopicConfig::new());
        assert_eq!((extent.cleanable_size, extent.first_uncleanable), (0, offset(0)));
        assert!(!extent.is_eligible(&settings(TopicConfig::new().min_cleanable_dirty_ratio(0.0))));
    }

    #[test]
    fn a_note_outside_the_log_is_reset_to_the_log_start() {
        let segments = sealed(3);
        let above = extent(&log(&segments, Some(36)), TopicConfig::new());
        assert_eq!((above.first_dirty, above.is_note_wrong), (offset(0), true));
        let below = extent(&LogFacts { log_start: offset(12), ..log(&segments, Some(3)) }, TopicConfig::new());
        assert_eq!((below.first_dirty, below.is_note_wrong), (offset(12), true));
        assert!(!extent(&log(&segments, Some(35)), TopicConfig::new()).is_note_wrong);
        assert!(!extent(&log(&segments, None), TopicConfig::new()).is_note_wrong);
    }

    #[test]
    fn open_transactions_and_young_segments_are_left_alone() {
        let segments = sealed(4);
        let unstable = LogFacts { last_stable: offset(25), ..log(&segments, None) };
        assert_eq!(extent(&unstable, TopicConfig::new()).first_uncleanable, offset(25));
        let lag = |ms| TopicConfig::new().min_compaction_lag_ms(ms);
        assert_eq!(extent(&log(&segments, None), lag(5500)).first_uncleanable, offset(40));
        assert_eq!(extent(&log(&segments, None), lag(5501)).first_uncleanable, offset(30));
        let young = extent(&log(&segments, Some(20)), lag(100_000));
        assert_eq!((young.first_uncleanable, young.cleanable_size), (offset(20), 0));
    }

    #[test]
    fn what_has_waited_too_long_is_eligible_whatever_the_ratio() {
        let segments = sealed(4);
        let config = |ms| TopicConfig::new().max_compaction_lag_ms(ms).min_cleanable_dirty_ratio(1.0);
        let waiting = extent(&log(&segments, Some(20)), config(7000));
        assert!(!waiting.is_overdue && !waiting.is_eligible(&settings(config(7000))));
        let overdue = extent(&log(&segments, Some(20)), config(6999));
        assert!(overdue.is_overdue && overdue.is_eligible(&settings(config(6999))));
        let clean = extent(&log(&segments, Some(40)), config(1));
        assert!(!clean.is_overdue, "nothing is cleanable");
    }

    #[test]
    fn the_ratio_must_be_exceeded() {
        let segments = sealed(4);
        let extent = extent(&log(&segments, Some(20)), TopicConfig::new());
        assert!(!extent.is_eligible(&settings(TopicConfig::new().min_cleanable_dirty_ratio(0.5))));
        assert!(extent.is_eligible(&settings(TopicConfig::new().min_cleanable_dirty_ratio(0.49))));
    }

    #[test]
    fn overdue_logs_go_first_and_then_the_dirtiest() {
        let extent = |clean_size, is_overdue| Extent {
            first_dirty: offset(0),
            first_uncleanable: offset(1),
            clean_size,
            cleanable_size: 100,
            is_note_wrong: false,
            is_overdue,
        };
        let extents = [extent(50, false), extent(900, true), extent(0, false), extent(100, true)];
        assert_eq!(order(&extents), [3, 1, 2, 0]);
    }

    fn edge() -> impl Strategy<Value = i64> {
        prop_oneof![
            Just(0),
            Just(1),
            Just(i64::from(i32::MAX)),
            Just(i64::from(i32::MAX) + 1),
            Just(i64::MAX - 1),
            Just(i64::MAX),
            0..i64::MAX
        ]
    }

    fn size() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(1), Just(SPAN_MAX), Just(SPAN_MAX + 1), Just(u64::MAX), any::<u64>()]
    }

    fn span() -> impl Strategy<Value = SegmentSpan> {
        let time = || prop::option::of(edge().prop_map(at));
        (edge(), edge(), size(), time(), time()).prop_map(|(base, end, size, first_timestamp, largest_timestamp)| {
            SegmentSpan { base: offset(base), end: offset(end), size, first_timestamp, largest_timestamp }
        })
    }

    proptest! {
        #[test]
        fn no_sizes_offsets_or_times_break_the_arithmetic(
            sealed in prop::collection::vec(span(), 0..5),
            (log_start, log_end, last_stable, now) in (edge(), edge(), edge(), edge()),
            compacted_to in prop::option::of(edge()),
            lag in edge(),
        ) {
            let log = LogFacts {
                sealed: &sealed,
                log_start: offset(log_start),
                log_end: offset(log_end),
                last_stable: offset(last_stable),
                compacted_to: compacted_to.map(offset),
            };
            let config = TopicConfig::new()
                .max_compaction_lag_ms(lag.max(1).unsigned_abs())
                .min_compaction_lag_ms(lag.unsigned_abs());
            let settings = settings(config);
            let extent = Extent::of(&log, &settings, at(now));
            prop_assert!(extent.first_uncleanable >= extent.first_dirty);
            prop_assert!((0.0..=1.0).contains(&extent.dirty_ratio()));
            prop_assert_eq!(order(&[extent, extent]), [0, 1]);
        }

        #[test]
        fn groups_are_runs_that_cover_everything_whatever_the_sizes(
            members in prop::collection::vec((edge(), edge(), size(), size(), size()), 0..8),
            segment_bytes in prop_oneof![Just(14_u32), Just(i32::MAX.unsigned_abs())],
            segment_index_bytes in prop_oneof![Just(4_u32), Just(i32::MAX.unsigned_abs())],
        ) {
            let members: Vec<_> = members
                .into_iter()
                .map(|(base, end, size, offset_index_size, time_index_size)| GroupMember {
                    base: offset(base), end: offset(end), size, offset_index_size, time_index_size
                })
                .collect();
            let config = TopicConfig::new().segment_bytes(segment_bytes).segment_index_bytes(segment_index_bytes);
            let groups = groups(&members, &settings(config));
            prop_assert_eq!(groups.iter().cloned().flatten().collect::<Vec<_>>(), (0..members.len()).collect::<Vec<_>>());
        }
    }

    fn member(base: i64, end: i64, size: u64) -> GroupMember {
        GroupMember { base: offset(base), end: offset(end), size, offset_index_size: 8, time_index_size: 12 }
    }

    #[test]
    fn groups_are_filled_up_to_the_size_of_a_segment() {
        let config = settings(TopicConfig::new().segment_bytes(250));
        let members =
            [member(0, 10, 100), member(10, 20, 150), member(20, 30, 1), member(30, 40, 300), member(40, 50, 1)];
        assert_eq!(groups(&members, &config), [0..2, 2..3, 3..4, 4..5]);
        assert!(groups(&[], &config).is_empty());
    }

    #[test]
    fn indexes_bound_a_group_too() {
        let config = settings(TopicConfig::new().segment_index_bytes(24));
        let members: Vec<_> = (0..5).map(|i| member(i * 10, i * 10 + 10, 100)).collect();
        assert_eq!(groups(&members, &config), [0..2, 2..4, 4..5]);
    }

    #[test]
    fn a_gap_wider_than_31_bits_parts_groups_but_for_empty_segments() {
        let config = settings(TopicConfig::new());
        let far = 1 << 31;
        let count = |end, size| groups(&[member(0, 10, 100), member(10, end, size)], &config).len();
        assert_eq!((count(far, 100), count(far + 1, 100), count(far + 1, 0)), (1, 2, 1));
    }
}
