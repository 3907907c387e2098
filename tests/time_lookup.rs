//! An offset is found by name or by time, over any number of segments and whatever order the timestamps came in.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use stratalog::{OffsetSpec, Partition, Timestamp};
use support::{Rig, append_at, at, bases, offset};

fn found(partition: &Partition, spec: OffsetSpec) -> Option<(i64, Option<Timestamp>)> {
    partition.find_offset(spec).unwrap().map(|found| (found.offset.value(), found.timestamp))
}

#[test]
fn an_empty_log_has_both_ends_at_zero_and_no_record_of_any_time() {
    let rig = Rig::new(&[]);
    assert_eq!(found(&rig.partition, OffsetSpec::Earliest), Some((0, None)));
    assert_eq!(found(&rig.partition, OffsetSpec::Latest), Some((0, None)));
    assert_eq!(found(&rig.partition, OffsetSpec::MaxTimestamp), None);
    assert_eq!(found(&rig.partition, OffsetSpec::Timestamp(at(0))), None);
}

#[test]
fn the_first_offset_at_or_after_a_time_is_what_a_walk_over_all_records_finds() {
    let rig = Rig::new(&[("segment.bytes", "500"), ("index.interval.bytes", "0")]);
    let times: Vec<i64> = (0..60).map(|i| (i * 37) % 41 * 10 + i).collect();
    for time in &times {
        append_at(&rig.partition, "some value", *time);
    }
    assert!(bases(&rig.partition).len() > 5);
    for start in [0, 7, 31, 60] {
        rig.partition.delete_records_before(offset(start)).unwrap();
        let live = || (0..).zip(&times).filter(|(i, _)| *i >= start);
        for target in 0..500 {
            let expected = live().find(|(_, time)| **time >= target).map(|(i, time)| (i, Some(at(*time))));
            assert_eq!(found(&rig.partition, OffsetSpec::Timestamp(at(target))), expected, "{target} from {start}");
        }
        assert_eq!(found(&rig.partition, OffsetSpec::Earliest), Some((start, None)));
        assert_eq!(found(&rig.partition, OffsetSpec::Latest), Some((60, None)));
    }
}

#[test]
fn the_greatest_timestamp_is_found_at_the_first_record_that_has_it() {
    let rig = Rig::new(&[]);
    for time in [5, 90, 3, 90, 20] {
        append_at(&rig.partition, "v", time);
        rig.partition.roll().unwrap();
    }
    assert_eq!(found(&rig.partition, OffsetSpec::MaxTimestamp), Some((1, Some(at(90)))));
}
