//! Cases of Kafka's own edge cases (reference 16) that no other test looks at, by their numbers there; and where the others of
//! 1 to 15, 40 to 55 and 79 to 89 are.
//!
//! | case | test |
//! |---:|---|
//! | 1 | `format/batch/tests.rs`: a_batch_with_one_byte_changed_is_refused, offset_and_leader_epoch_are_not_covered_by_the_checksum |
//! | 2 | a_length_that_is_too_small_is_corrupt_and_one_beyond_the_end_is_incomplete |
//! | 3 | a_record_count_that_is_wrong_by_one_is_refused, and _in_every_codec |
//! | 4, 5 | seventeen_bytes_are_the_least_that_tell_anything |
//! | 6 | append_time_gives_every_record_the_greatest_timestamp |
//! | 7 | `format/record.rs`: header_counts_and_names_that_cannot_be_are_refused, null_and_empty_are_different |
//! | 8, 9 | variable_length_integers_without_end_are_refused, a_body_that_is_not_used_up_or_too_short_is_refused |
//! | 10 | here |
//! | 11, 12 | `format/control.rs`: keys_and_markers_that_are_too_short_or_of_a_negative_version_are_refused, later_versions_are_read_by_their_known_prefix, an_unknown_type_is_no_error |
//! | 13 | `format/rewrite.rs`: an_emptied_batch_has_kafkas_bytes |
//! | 14 | no buffer of a fixed size: batches are rewritten one by one |
//! | 15 | `format/legacy.rs`: relative_inner_offsets_end_at_the_offset_of_the_wrapper |
//! | 40, 41 | here; an index file grows as it needs |
//! | 42, 43 | `segment/txn_index.rs`: markers_must_ascend_and_a_reopened_file_goes_on_after_its_old_end, entries_below_the_base_and_damaged_files_are_not_sane |
//! | 44 | entries_that_are_added_after_a_rename_reach_the_renamed_file |
//! | 45 to 49 | `partition/producers/tests.rs`: an_unknown_producer_may_begin_with_any_sequence, zero_follows_the_largest_sequence_and_one_does_not, a_lower_epoch_is_fenced_and_a_higher_one_begins_at_zero, a_marker_of_a_higher_epoch_lets_data_begin_at_zero, a_batch_outside_of_the_open_transaction_is_refused |
//! | 50 | an_idle_producer_expires_and_one_with_an_open_transaction_never_does |
//! | 51 | here; `idempotence.rs`: a_damaged_snapshot_is_dropped_and_the_log_read_instead |
//! | 52, 53 | a_snapshot_keeps_the_last_batch_and_where_the_transaction_begins, a_marker_of_an_older_coordinator_is_fenced and _that_is_in_the_log_counts |
//! | 54 | `isolation.rs`: no_snapshot_brings_a_transaction_back_whose_marker_was_compacted_away |
//! | 55 | here |
//! | 79, 80 | `compaction.rs`: records_without_a_key_are_dropped_and_counted, a_record_larger_than_any_buffer_and_than_the_limit_of_today_is_compacted |
//! | 81 | a_batch_that_claims_more_than_its_segment_makes_the_partition_uncleanable_once |
//! | 82 | here |
//! | 83, 84 | how_far_a_log_is_compacted_survives_closing_and_a_wrong_note_is_reset, where_only_the_active_segment_holds_data_nothing_happens |
//! | 85, 86 | segments_that_retention_removes_meanwhile_are_not_missed, a_tombstone_of_long_ago_survives_the_first_pass_and_goes_after_its_horizon |
//! | 87 | a_key_with_the_bytes_of_a_marker_touches_no_marker |
//! | 88 | `segment/cleaned.rs`: the_files_are_those_that_plain_appends_make_trimmed_to_their_content |
//! | 89 | `maintenance/key_map.rs`: of_a_key_put_twice_the_place_before_comes_out, a_full_map_takes_no_new_key_and_still_updates_and_misses |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
use stratalog::{Durability, LogStore, OffsetSpec, Record, StoreOptions, TopicConfig};
use support::{Rig, append, append_at, at, bases, config, offset, open, partition_of, read_all, stamp};

fn contents(vfs: &MemoryVfs, path: &Path) -> Vec<u8> {
    let file = vfs.open(path, OpenMode::Read).unwrap();
    file.map(file.size().unwrap()).unwrap().to_vec()
}

fn put(vfs: &MemoryVfs, path: &Path, bytes: &[u8]) {
    vfs.open(path, OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
}

#[test]
fn case_10_a_file_longer_than_positions_reach_is_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = {
        let store = LogStore::open(folder.path()).unwrap();
        let partition = store.create_topic("t", 1, TopicConfig::new()).unwrap().partition(0).unwrap();
        append(&partition, "v");
        let path = partition.segments().first().unwrap().path();
        store.close().unwrap();
        path
    };
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 31).unwrap();
    // Whether the store or the partition is refused: nobody appends to it.
    let partition = LogStore::open(folder.path()).ok().and_then(|store| store.topic("t").ok()?.partition(0).ok());
    assert!(partition.is_none_or(|partition| partition.append(&[Record::new("v")]).is_err()));
}

#[test]
fn cases_40_and_41_a_time_index_that_cannot_be_right_misleads_no_lookup() {
    let rig = Rig::new(&[("index.interval.bytes", "0")]);
    for time in [10, 20, 30, 40, 50] {
        append_at(&rig.partition, "v", time);
    }
    rig.store.clone().close().unwrap();
    let path = rig.partition.path().join(format!("{:020}.timeindex", 0));
    let sound = contents(&rig.memory, &path);
    assert!(sound.len() >= 36 && sound.len().is_multiple_of(12));
    let (first, rest) = sound.split_at(12);
    let damages = [
        [&sound[..], &[7]].concat(),
        [rest, first].concat(),
        [&sound[..], &[0x7f; 12]].concat(),
        [&sound[..sound.len() - 4], &[0xff; 4]].concat(),
        Vec::new(),
    ];
    for damage in damages {
        let image = rig.memory.process_crash_image();
        put(&image, &path, &damage);
        let store = open(Arc::new(image), &rig.clock);
        let partition = partition_of(&store);
        for target in 0..=50 {
            let found = partition.find_offset(OffsetSpec::Timestamp(at(target))).unwrap();
            let expected = (target.max(1) + 9) / 10 - 1;
            assert_eq!(found.map(|found| found.offset.value()), Some(expected), "{target} with {damage:?}");
        }
        assert_eq!(partition.find_offset(OffsetSpec::Timestamp(at(51))).unwrap(), None);
    }
}

#[test]
fn case_51_without_progress_no_snapshot_is_written() {
    let rig = Rig::new(&[]);
    rig.partition.append_from(stamp(7, 0, 0), &[Record::new("v")], Durability::Written).unwrap();
    rig.store.checkpoint().unwrap();
    let (files, mutations) = (rig.files(), rig.vfs.mutations());
    rig.store.checkpoint().unwrap();
    assert_eq!((rig.files(), rig.vfs.mutations()), (files, mutations));
}

#[test]
fn case_55_a_snapshot_that_somebody_deleted_is_missed_by_nobody() {
    let rig = Rig::new(&[("segment.bytes", "300"), ("file.delete.delay.ms", "0")]);
    let remove_all = || {
        for name in rig.files().iter().filter(|name| name.ends_with(".snapshot")) {
            rig.memory.remove_file(&rig.partition.path().join(name)).unwrap();
        }
    };
    let send = |sequence| rig.partition.append_from(stamp(7, 0, sequence), &[Record::new("v")], Durability::Written);
    for sequence in 0..20 {
        send(sequence).unwrap();
    }
    assert!(bases(&rig.partition).len() > 3);
    remove_all();
    rig.partition.flush().unwrap();
    rig.partition.delete_records_before(offset(15)).unwrap();
    assert!(rig.store.tick(at(10)).unwrap().expired_segments > 0);
    remove_all();
    rig.partition.truncate_to(offset(18)).unwrap();
    remove_all();
    send(18).unwrap();
    rig.partition.roll().unwrap();
    remove_all();
    rig.store.tick(at(20)).unwrap();
    rig.store.clone().close().unwrap();
    let store = open(Arc::new(rig.memory.clone()), &rig.clock);
    assert_eq!(read_all(&partition_of(&store)).len(), 4);
}

/// A log of one sealed segment that begins at `start`, with the same key three times, and an active one.
fn log_at(start: i64) -> Rig {
    let rig = Rig::new(&[]);
    rig.partition.truncate_fully_and_start_at(offset(start)).unwrap();
    for value in ["a", "b", "c"] {
        rig.partition.append(&[Record::keyed("k", value)]).unwrap();
    }
    rig.partition.roll().unwrap();
    rig.partition.append(&[Record::keyed("other", "d")]).unwrap();
    rig.store.clone().close().unwrap();
    rig
}

#[test]
fn case_82_segments_further_apart_than_31_bits_are_compacted_apart() {
    // A partition folder without any note of ours, as a copy of Kafka's is.
    let far = 3_000_000_000;
    let image = MemoryVfs::new();
    let dir = Path::new("/log/t-0");
    image.create_dir_all(dir).unwrap();
    for start in [0, far] {
        let rig = log_at(start);
        for name in rig.files().iter().filter(|name| name.ends_with(".log")) {
            put(&image, &dir.join(name), &contents(&rig.memory, &dir.join(name)));
        }
    }
    let clock = stratalog::ManualClock::new(at(0));
    let options = || StoreOptions::new().vfs(Arc::new(image.clone())).clock(Arc::new(clock.clone()));
    let store = options().open("/log").unwrap();
    let partition = partition_of(&store);
    assert_eq!(partition.log_end_offset(), offset(far + 4));
    store.topic("t").unwrap().alter_config(config(&[("cleanup.policy", "compact")])).unwrap();
    let report = partition.compact().unwrap();
    assert!(report.is_complete);
    assert_eq!(report.end_offset, offset(far + 3), "it passes over the gap");
    let left: Vec<_> = read_all(&partition).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(left, [3, far + 2, far + 3]);
    assert!(bases(&partition).contains(&far));
}
