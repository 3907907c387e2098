//! Cutting the end of a log: exact afterwards, and nothing that a reader holds changes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Rig, append, bases, offset, read_all};

#[test]
fn appending_and_cutting_the_last_record_thirty_times_reads_exact_each_time() {
    let rig = Rig::new(&[("index.interval.bytes", "0")]);
    (0..5).for_each(|i| assert_eq!(append(&rig.partition, &format!("kept {i}")), i));
    let kept = read_all(&rig.partition);
    let held = rig.partition.read(offset(0)).fetch().unwrap();
    let bytes = held.bytes().to_vec();
    for round in 0..30 {
        assert_eq!(append(&rig.partition, &format!("cut {round}")), 5);
        let reader = rig.partition.read(offset(5)).fetch().unwrap();
        rig.partition.truncate_to(offset(5)).unwrap();
        assert_eq!(read_all(&rig.partition), kept);
        let value = reader.iter().next().unwrap().unwrap();
        let values: Vec<_> = value.records().map(|record| record.unwrap().value().unwrap().to_vec()).collect();
        assert_eq!(values, [format!("cut {round}").into_bytes()]);
    }
    assert_eq!(held.bytes()[..], bytes);
}

#[test]
fn at_or_beyond_the_end_nothing_is_cut_and_below_the_first_segment_everything() {
    let rig = Rig::new(&[]);
    rig.partition.truncate_fully_and_start_at(offset(10)).unwrap();
    (10..14).for_each(|i| assert_eq!(append(&rig.partition, "v"), i));
    for end in [14, 15, 1000] {
        rig.partition.truncate_to(offset(end)).unwrap();
        assert_eq!(read_all(&rig.partition).len(), 4);
    }
    rig.partition.truncate_to(offset(3)).unwrap();
    assert_eq!((bases(&rig.partition), rig.partition.log_end_offset()), (vec![3], offset(3)));
    assert_eq!(append(&rig.partition, "again"), 3);
}

#[test]
fn later_segments_go_and_the_cut_one_is_appended_to_again() {
    let rig = Rig::new(&[]);
    for i in 0..12 {
        append(&rig.partition, &i.to_string());
        if i % 3 == 2 {
            rig.partition.roll().unwrap();
        }
    }
    rig.partition.truncate_to(offset(4)).unwrap();
    assert_eq!(bases(&rig.partition), [0, 3]);
    assert_eq!(append(&rig.partition, "new"), 4);
    assert_eq!(read_all(&rig.partition).last().unwrap(), &(4, "new".to_owned()));
}
