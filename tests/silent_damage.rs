//! Damage is told by whatever meets it: a read, a lookup, a compaction, an opening, a follower. It never looks like fewer records.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
use stratalog::{ErrorKind, LogStore, ManualClock, OffsetSpec, Partition, Record, StoreOptions};
use support::{Rig, append, append_at, at, offset, open, partition_of, read_all};

/// The header of a batch.
const HEADER: u64 = 61;

/// A compacted topic with a key for each number: 0 to 4 in the first segment, 5 in the second, a third one.
fn rig() -> Rig {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("index.interval.bytes", "0")]);
    for number in 0..6 {
        let key = format!("k{number}");
        rig.partition.append(&[Record::keyed(&key, "value").timestamp(at(number))]).unwrap();
        if number >= 4 {
            rig.partition.roll().unwrap();
        }
    }
    rig
}

fn first_log(partition: &Partition) -> PathBuf {
    partition.path().join("00000000000000000000.log")
}

/// Bytes of each of the five batches of the first segment.
fn batch_size(rig: &Rig) -> u64 {
    rig.memory.metadata(&first_log(&rig.partition)).unwrap().unwrap().size / 5
}

fn overwrite(rig: &Rig, position: u64, bytes: &[u8]) {
    rig.memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap().write_at(bytes, position).unwrap();
}

fn zero(rig: &Rig, position: u64, size: u64) {
    overwrite(rig, position, &vec![0; usize::try_from(size).unwrap()]);
}

fn kind_at(partition: &Partition, place: i64) -> Option<ErrorKind> {
    let batches = match partition.read(offset(place)).max_bytes(1).fetch() {
        Ok(batches) => batches,
        Err(error) => return Some(error.kind()),
    };
    batches.records().find_map(Result::err).map(|error| error.kind())
}

fn is_corrupt<T: std::fmt::Debug>(result: Result<T, stratalog::LogError>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
}

fn follow(memory: &MemoryVfs, clock: &ManualClock) -> LogStore {
    let options = StoreOptions::new().vfs(Arc::new(memory.clone())).clock(Arc::new(clock.clone()));
    options.read_only(true).open("/log").unwrap()
}

#[test]
fn zeros_before_intact_batches_are_damage_to_a_reader_and_to_a_compaction() {
    for number in 0..5 {
        let rig = rig();
        zero(&rig, number * batch_size(&rig), HEADER);
        assert_eq!(kind_at(&rig.partition, i64::try_from(number).unwrap()), Some(ErrorKind::Corrupt), "batch {number}");
        is_corrupt(rig.partition.compact());
        assert!(rig.partition.uncleanable().is_some(), "batch {number}");
    }
}

#[test]
fn a_compaction_hides_no_hole() {
    for number in 1..5 {
        let rig = rig();
        let size = batch_size(&rig);
        zero(&rig, number * size, (5 - number) * size);
        let place = i64::try_from(number).unwrap();
        assert_eq!(kind_at(&rig.partition, place), Some(ErrorKind::Corrupt), "from batch {number} on");
        is_corrupt(rig.partition.compact());
        assert_eq!(kind_at(&rig.partition, place), Some(ErrorKind::Corrupt), "from batch {number} on, afterwards");
    }
}

#[test]
fn a_cut_inside_a_batch_hides_no_hole_below_it() {
    for (lost, cut) in [("segment", 9), ("segment", 11), ("batch", 9), ("end", 7), ("end", 9), ("end", 12)] {
        let rig = Rig::new(&[]);
        for number in 0..8 {
            rig.partition.append(&[Record::new("a"), Record::new("b")]).unwrap();
            if number % 2 == 1 && number < 7 {
                rig.partition.roll().unwrap();
            }
        }
        rig.store.clone().close().unwrap();
        let path = rig.partition.path().join("00000000000000000004.log");
        let file = rig.memory.open(&path, OpenMode::Write).unwrap();
        let size = file.size().unwrap() / 2;
        match lost {
            "segment" => rig.memory.remove_file(&path).unwrap(),
            "batch" => file.write_at(&vec![0; usize::try_from(size).unwrap()], size).unwrap(),
            _ => file.set_size(size).unwrap(),
        }
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        let partition = partition_of(&store);
        let hole = if lost == "segment" { 4 } else { 6 };
        assert_eq!(kind_at(&partition, hole), Some(ErrorKind::Corrupt), "the {lost} is gone");
        partition.truncate_to(offset(cut)).ok();
        append(&partition, "next");
        store.close().unwrap();
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        let after = kind_at(&partition_of(&store), hole);
        assert_eq!(after, Some(ErrorKind::Corrupt), "the {lost} is gone, after a cut to {cut}");
    }
}

#[test]
fn a_lookup_by_time_passes_over_no_hole() {
    let rig = rig();
    let size = batch_size(&rig);
    zero(&rig, 3 * size, 2 * size);
    is_corrupt(rig.partition.find_offset(OffsetSpec::Timestamp(at(3))));
    let found = rig.partition.find_offset(OffsetSpec::Timestamp(at(2))).unwrap().unwrap();
    assert_eq!(found.offset, offset(2), "before the hole");
}

#[test]
fn a_base_offset_in_the_next_segment_or_beyond_the_log_is_damage_to_all() {
    // The checksum doesn't cover the base offset of the last batch of the first segment.
    for base in [5_i64, 6, 7, 1_000_000] {
        let rig = rig();
        overwrite(&rig, 4 * batch_size(&rig), &base.to_be_bytes());
        let segments = rig.partition.segments();
        let last = segments[0].batches().last().unwrap();
        assert!(last.is_err(), "base {base}: {last:?}");
        is_corrupt(rig.partition.find_offset(OffsetSpec::Timestamp(at(4))));
        assert_eq!(kind_at(&rig.partition, 4), Some(ErrorKind::Corrupt), "base {base}");
        is_corrupt(rig.partition.compact());
        assert_eq!(kind_at(&rig.partition, 5), None, "base {base}: the next segment is whole");
    }
}

#[test]
fn a_damaged_batch_in_a_sealed_segment_without_an_index_is_no_end() {
    for is_clean in [true, false] {
        let rig = rig();
        rig.partition.flush().unwrap();
        rig.store.checkpoint().unwrap();
        if is_clean {
            rig.store.clone().close().unwrap();
        }
        for entry in rig.memory.read_dir(rig.partition.path()).unwrap() {
            if entry.name.ends_with("index") {
                rig.memory.remove_file(&rig.partition.path().join(entry.name)).unwrap();
            }
        }
        overwrite(&rig, 2 * batch_size(&rig) + HEADER + 5, b"?");
        let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
        let partition = partition_of(&store);
        assert_eq!(partition.log_end_offset(), offset(6));
        assert_eq!(kind_at(&partition, 2), Some(ErrorKind::Corrupt), "clean: {is_clean}");
        assert_eq!(kind_at(&partition, 3), None, "clean: {is_clean}");
        is_corrupt(partition.compact());
        assert_eq!(kind_at(&partition, 3), None, "clean: {is_clean}, afterwards");
    }
}

#[test]
fn a_read_below_the_log_end_is_an_error_where_the_active_segment_lost_its_end() {
    let rig = Rig::new(&[]);
    (0..5).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    let size = batch_size(&rig);
    zero(&rig, 2 * size, 3 * size);
    assert_eq!(kind_at(&rig.partition, 2), Some(ErrorKind::Corrupt));
    assert!(rig.partition.read(offset(5)).fetch().unwrap().is_empty(), "at the end there is nothing");
}

#[test]
fn an_opening_says_that_a_log_ends_below_what_was_synced() {
    for is_clean in [true, false] {
        let rig = Rig::new(&[]);
        (0..5).for_each(|number| _ = append(&rig.partition, &number.to_string()));
        let size = batch_size(&rig);
        rig.store.flush().unwrap();
        if is_clean {
            rig.store.clone().close().unwrap();
        }
        zero(&rig, 2 * size, 3 * size);
        let store = open(Arc::new(rig.memory.process_crash_image()), &rig.clock);
        assert_eq!(read_all(&partition_of(&store)).len(), 2);
        let report = store.open_report();
        let warnings = &report.partitions[0].warnings;
        assert_eq!(warnings, &["the log ends at 2, though it had been synced up to 5"], "clean: {is_clean}");
    }
}

#[test]
fn a_follower_is_told_of_a_hole() {
    let rig = rig();
    rig.store.flush().unwrap();
    let size = batch_size(&rig);
    zero(&rig, 3 * size, 2 * size);
    let store = follow(&rig.memory, &rig.clock);
    let partition = partition_of(&store);
    assert_eq!(kind_at(&partition, 2), None);
    assert_eq!(kind_at(&partition, 3), Some(ErrorKind::Corrupt));
}

#[test]
fn a_follower_passes_over_a_gap_that_compaction_left() {
    let rig = rig();
    rig.partition.append(&[Record::keyed("k4", "newer")]).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    let store = follow(&rig.memory, &rig.clock);
    assert_eq!(read_all(&partition_of(&store)), read_all(&rig.partition));
}

#[test]
fn the_greatest_timestamp_is_unknown_to_a_follower_where_the_end_is() {
    let rig = Rig::new(&[]);
    (0..5).for_each(|number| _ = append(&rig.partition, &number.to_string()));
    overwrite(&rig, 2 * batch_size(&rig) + HEADER + 4, &[0xff]);
    let store = follow(&rig.memory, &rig.clock);
    let partition = partition_of(&store);
    is_corrupt(partition.find_offset(OffsetSpec::Latest));
    is_corrupt(partition.find_offset(OffsetSpec::MaxTimestamp));
}

/// Four batches of four records each, in a sealed segment or in the active one.
fn dense(is_sealed: bool) -> Rig {
    let rig = Rig::new(&[]);
    for _ in 0..4 {
        rig.partition.append(&["a", "b", "c", "d"].map(|value| Record::new(value).timestamp(at(0)))).unwrap();
    }
    if is_sealed {
        rig.partition.roll().unwrap();
        append(&rig.partition, "behind");
    }
    rig
}

#[test]
fn a_batch_that_hides_the_one_behind_it_or_its_own_end_is_damage_to_whoever_passes_it() {
    for is_sealed in [true, false] {
        let size = dense(is_sealed).memory.metadata(&first_log(&dense(is_sealed).partition)).unwrap().unwrap().size / 4;
        // The second batch ends at 5 instead of 7; it is a message of an old format; it takes the place of the third as well.
        for (position, byte) in [(26, 1), (16, 0), (11, u8::try_from(2 * size - 12).unwrap())] {
            let rig = dense(is_sealed);
            overwrite(&rig, size + position, &[byte]);
            let kinds: Vec<_> = (6..12).filter_map(|place| kind_at(&rig.partition, place)).collect();
            assert!(kinds.contains(&ErrorKind::Corrupt), "byte {position}, sealed: {is_sealed}");
            let delivered = |place| read_at(&rig.partition, place).is_some_and(|found| found > place);
            assert!(!(0..16).any(delivered), "byte {position}, sealed: {is_sealed}: a later record in place of one");
        }
    }
}

/// The first record at or above `place` that a read delivers.
fn read_at(partition: &Partition, place: i64) -> Option<i64> {
    let batches = partition.read(offset(place)).fetch().ok()?;
    batches.records().next()?.ok().map(|record| record.offset().value())
}

/// What a reader gets from `from` on in steps of one batch, and why it ends there.
fn walk(partition: &Partition, from: i64) -> (Vec<i64>, Option<ErrorKind>) {
    let (mut next, mut found) = (offset(from), Vec::new());
    loop {
        let batches = match partition.read(next).max_bytes(1).fetch() {
            Ok(batches) if batches.is_empty() => return (found, None),
            Ok(batches) => batches,
            Err(error) => return (found, Some(error.kind())),
        };
        for record in batches.records() {
            match record {
                Ok(record) => found.extend(Some(record.offset().value()).filter(|at| *at >= from)),
                Err(error) => return (found, Some(error.kind())),
            }
        }
        assert!(batches.next_offset() > next, "no step forward from {next}");
        next = batches.next_offset();
    }
}

/// The epoch of a batch is of no matter to its place.
#[test]
fn no_flipped_bit_before_the_checksum_makes_a_follower_pass_over_records_or_give_them_other_offsets() {
    for (is_sealed, end) in [(true, 17), (false, 16)] {
        let rig = dense(is_sealed);
        rig.store.flush().unwrap();
        let log = rig.memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap();
        let size = log.size().unwrap() / 4;
        for (batch, byte, bit) in (0..4)
            .flat_map(|batch| (0..12).chain(16..27).flat_map(move |byte| (0..8).map(move |bit| (batch, byte, bit))))
        {
            let mut before = [0];
            log.read_at(&mut before, batch * size + byte).unwrap();
            log.write_at(&[before[0] ^ 1 << bit], batch * size + byte).unwrap();
            let store = follow(&rig.memory, &rig.clock);
            for from in [0, 5, 10, 15] {
                let (found, why) = walk(&partition_of(&store), from);
                let expected: Vec<i64> = (from..end).collect();
                let case = format!(
                    "sealed: {is_sealed}, batch {batch}, byte {byte}, bit {bit}, from {from}: {found:?} {why:?}"
                );
                assert!(expected.starts_with(&found), "{case}");
                // What looks like a batch that is being written is the end of a growing segment.
                assert!(found == expected || why.is_some() || !is_sealed, "{case}");
            }
            log.write_at(&before, batch * size + byte).unwrap();
        }
    }
}

#[test]
fn a_lookup_by_time_passes_over_no_hole_at_a_segments_end_or_in_the_place_of_one() {
    for lost in ["segment", "end", "zeros"] {
        let rig = Rig::new(&[]);
        for number in 0..6 {
            append_at(&rig.partition, "value", number);
            append_at(&rig.partition, "value", number);
            rig.partition.roll().unwrap();
        }
        append_at(&rig.partition, "value", 0);
        rig.store.clone().close().unwrap();
        let path = rig.partition.path().join(format!("{:020}.log", 4));
        let log = rig.memory.open(&path, OpenMode::Write).unwrap();
        let size = log.size().unwrap() / 2;
        match lost {
            "segment" => rig.memory.remove_file(&path).unwrap(),
            "end" => log.set_size(size).unwrap(),
            _ => log.write_at(&vec![0; usize::try_from(size).unwrap()], size).unwrap(),
        }
        for store in [follow(&rig.memory, &rig.clock), open(Arc::new(rig.memory.clone()), &rig.clock)] {
            let partition = partition_of(&store);
            // Above a hole the first record of a time may have been lost.
            for time in 3..6 {
                is_corrupt(partition.find_offset(OffsetSpec::Timestamp(at(time))));
            }
            is_corrupt(partition.find_offset(OffsetSpec::MaxTimestamp));
            let found = partition.find_offset(OffsetSpec::Timestamp(at(1))).unwrap().unwrap();
            assert_eq!(found.offset, offset(2), "before the hole, the {lost} is gone");
        }
    }
}

#[test]
fn a_batch_that_was_taken_out_is_missed_by_a_read_of_any_length() {
    for max_bytes in [1, 1 << 20] {
        let rig = dense(true);
        let size = rig.memory.metadata(&first_log(&rig.partition)).unwrap().unwrap().size / 4;
        let file = rig.memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap();
        let rest = file.map(size * 4).unwrap().slice(usize::try_from(size * 2).unwrap()..).to_vec();
        rig.store.clone().close().unwrap();
        let file = rig.memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap();
        file.write_at(&rest, size).unwrap();
        file.set_size(size * 3).unwrap();
        let store = open(Arc::new(rig.memory.clone()), &rig.clock);
        assert!(support::read_from(&partition_of(&store), 0, max_bytes).map_or(true, |found| found.len() < 5));
        assert_eq!(kind_at(&partition_of(&store), 4), Some(ErrorKind::Corrupt));
    }
}

#[test]
fn a_compaction_that_needs_an_age_which_damage_hides_gives_up_once() {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("min.compaction.lag.ms", "50000")]);
    for time in [0, 100_000, 0, 100_001, 0] {
        rig.partition.append(&[Record::keyed("k", "value").timestamp(at(time))]).unwrap();
    }
    rig.partition.roll().unwrap();
    rig.store.clone().close().unwrap();
    zero(&rig, 3 * batch_size(&rig) + 8, 40);
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    let failures: Vec<_> = (0..3).flat_map(|n| store.tick(at(100_002 + n)).unwrap().failures).collect();
    assert_eq!(failures.len(), 1, "{failures:?}");
    let partition = partition_of(&store);
    assert!(partition.uncleanable().is_some());
    is_corrupt(partition.compact());
}

#[test]
fn a_lookup_by_time_finds_what_lies_before_damage_and_tells_of_the_rest() {
    let times = [3, 9, 4, 11, 5];
    for interval in ["0", "4096"] {
        for batch in 0..5_u64 {
            let rig = Rig::new(&[("index.interval.bytes", interval)]);
            times.iter().for_each(|time| _ = append_at(&rig.partition, "v", *time));
            rig.partition.roll().unwrap();
            append_at(&rig.partition, "w", 1);
            rig.store.clone().close().unwrap();
            zero(&rig, batch * batch_size(&rig) + 8, 40);
            let follower = follow(&rig.memory, &rig.clock);
            for store in [follower, open(Arc::new(rig.memory.clone()), &rig.clock)] {
                let partition = partition_of(&store);
                let case = format!("interval {interval}, batch {batch}");
                for time in 0..12 {
                    let place = times.iter().position(|known| *known >= time).unwrap();
                    let expected = offset(i64::try_from(place).unwrap());
                    match partition.find_offset(OffsetSpec::Timestamp(at(time))) {
                        Ok(found) => assert_eq!(found.unwrap().offset, expected, "{case}: time {time}"),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}");
                            assert!(place as u64 >= batch, "{case}: time {time} lies before the damage");
                        }
                    }
                }
                match partition.find_offset(OffsetSpec::MaxTimestamp) {
                    Ok(found) => assert_eq!(found.unwrap().offset, offset(3), "{case}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}"),
                }
            }
        }
    }
}

#[test]
fn damage_below_the_log_start_or_behind_the_answer_is_no_matter_to_a_lookup_by_time() {
    let rig = Rig::new(&[]);
    for _ in 0..2 {
        [3, 9, 4, 11, 5].iter().for_each(|time| _ = append_at(&rig.partition, "v", *time));
        rig.partition.roll().unwrap();
    }
    append_at(&rig.partition, "w", 1);
    rig.store.clone().close().unwrap();
    zero(&rig, 3 * batch_size(&rig) + 8, 40);
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    let partition = partition_of(&store);
    let place = |spec| partition.find_offset(spec).unwrap().unwrap().offset.value();
    assert_eq!(place(OffsetSpec::Timestamp(at(8))), 1);
    is_corrupt(partition.find_offset(OffsetSpec::Timestamp(at(10))));
    partition.delete_records_before(offset(5)).unwrap();
    assert_eq!(place(OffsetSpec::Timestamp(at(10))), 8);
    assert_eq!(place(OffsetSpec::MaxTimestamp), 8);
}

#[test]
fn a_read_inside_of_a_batch_that_says_it_ends_too_early_is_an_error_in_a_log_with_gaps_too() {
    // A bit of the last offset delta, and one of the magic.
    for (byte, bit) in [(26, 0), (26, 1), (16, 1)] {
        let rig = Rig::new(&[("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0")]);
        for round in 0..3 {
            let keys = ["gone".to_owned(), format!("a{round}"), format!("b{round}"), format!("c{round}")];
            rig.partition.append(&keys.each_ref().map(|key| Record::keyed(key, "v").timestamp(at(round)))).unwrap();
        }
        rig.partition.roll().unwrap();
        rig.partition.append(&[Record::keyed("gone", "last").timestamp(at(3))]).unwrap();
        rig.partition.roll().unwrap();
        rig.partition.compact().unwrap();
        rig.store.clone().close().unwrap();
        let mut before = [0];
        let log = rig.memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap();
        log.read_at(&mut before, byte).unwrap();
        log.write_at(&[before[0] ^ 1 << bit], byte).unwrap();
        for store in [follow(&rig.memory, &rig.clock), open(Arc::new(rig.memory.clone()), &rig.clock)] {
            assert_eq!(kind_at(&partition_of(&store), 3), Some(ErrorKind::Corrupt), "byte {byte}, bit {bit}");
            is_corrupt(partition_of(&store).find_offset(OffsetSpec::Timestamp(at(1))));
        }
    }
}

/// Forgets that the log was written here without a gap, as a copied folder of Kafka's has it.
fn forget_gaps(memory: &MemoryVfs) {
    memory.remove_file(Path::new("/log/stratalog-unbroken")).unwrap();
}

#[test]
fn zeros_at_the_end_of_a_sealed_segment_are_damage_in_a_log_that_may_have_gaps_too() {
    for (is_clean, is_ours) in [(true, true), (true, false), (false, true), (false, false)] {
        let rig = Rig::new(&[]);
        (0..3).for_each(|_| _ = append(&rig.partition, "v"));
        rig.partition.roll().unwrap();
        append(&rig.partition, "v");
        rig.store.flush().unwrap();
        rig.store.checkpoint().unwrap();
        if is_clean {
            rig.store.clone().close().unwrap();
        }
        let memory = rig.memory.process_crash_image();
        if !is_ours {
            forget_gaps(&memory);
        }
        let log = memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap();
        let size = log.size().unwrap() / 3;
        log.write_at(&vec![0; usize::try_from(size).unwrap()], 2 * size).unwrap();
        for store in [follow(&memory, &rig.clock), open(Arc::new(memory.clone()), &rig.clock)] {
            let case = format!("clean: {is_clean}, ours: {is_ours}");
            assert_eq!(kind_at(&partition_of(&store), 1), None, "{case}");
            assert_eq!(kind_at(&partition_of(&store), 2), Some(ErrorKind::Corrupt), "{case}");
        }
    }
}

#[test]
fn a_damaged_first_batch_of_the_active_segment_keeps_nobody_from_appending() {
    for is_clean in [true, false] {
        let rig = Rig::new(&[]);
        (0..3).for_each(|_| _ = append(&rig.partition, "v"));
        rig.store.flush().unwrap();
        rig.store.checkpoint().unwrap();
        if is_clean {
            rig.store.clone().close().unwrap();
        }
        let memory = rig.memory.process_crash_image();
        memory.open(&first_log(&rig.partition), OpenMode::Write).unwrap().write_at(&[9], 16).unwrap();
        let store = open(Arc::new(memory), &rig.clock);
        let partition = partition_of(&store);
        let end = partition.log_end_offset().value();
        assert_eq!([append(&partition, "new"), append(&partition, "newer")], [end, end + 1], "clean: {is_clean}");
        partition.roll().unwrap();
        partition.flush().unwrap();
    }
}
