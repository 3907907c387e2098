//! The rules of sequences, epochs and markers, each on a table alone (reference section 16, cases 45 to 53).

use super::*;
use crate::format::{BatchBuilder, BatchOptions, Record, RecordBatch, assign_offsets, marker_batch};
use crate::types::LeaderEpoch;

const ID: ProducerId = ProducerId::ZERO;

fn epoch(value: i16) -> ProducerEpoch {
    ProducerEpoch::new(value).expect("a legal epoch")
}

fn sequence(value: i32) -> Sequence {
    Sequence::new(value).expect("a legal sequence")
}

fn offset(value: i64) -> Offset {
    Offset::new(value).expect("a legal offset")
}

fn millis(value: i64) -> Timestamp {
    Timestamp::from_millis(value).expect("a legal time")
}

fn stamp(producer_epoch: i16, base_sequence: i32) -> ProducerStamp {
    ProducerStamp { id: ID, epoch: epoch(producer_epoch), base_sequence: sequence(base_sequence), transactional: false }
}

fn in_transaction(stamp: ProducerStamp) -> ProducerStamp {
    ProducerStamp { transactional: true, ..stamp }
}

/// The table, and the log's end in offsets.
#[derive(Default)]
struct Log {
    table: ProducerTable,
    end: i64,
}

impl Log {
    /// Does what an append does: asks, and notes what was admitted.
    fn append(&mut self, stamp: ProducerStamp, count: u32) -> Result<Option<BatchTrace>, ProducerError> {
        let known = self.table.check(&stamp, count)?;
        if known.is_none() {
            self.note(stamp, count);
        }
        Ok(known)
    }

    fn note(&mut self, stamp: ProducerStamp, count: u32) {
        let mut builder = BatchBuilder::new(BatchOptions { producer: Some(stamp), ..BatchOptions::default() });
        for _ in 0..count {
            builder.push(&Record::new("value"), Some(millis(1000))).expect("a small record");
        }
        let mut bytes = builder.finish().expect("records").to_vec();
        assign_offsets(&mut bytes, offset(self.end), LeaderEpoch::ZERO).expect("a batch");
        self.table.note_data(&BatchHeader::peek(&bytes).expect("a batch"));
        self.end += i64::from(count);
    }

    fn marker(&mut self, marker: TransactionMarker) -> Result<Option<Completed>, ProducerError> {
        self.table.check_marker(&marker)?;
        Ok(self.note_marker(marker))
    }

    fn note_marker(&mut self, marker: TransactionMarker) -> Option<Completed> {
        let mut bytes = marker_batch(&marker);
        assign_offsets(&mut bytes, offset(self.end), LeaderEpoch::ZERO).expect("a batch");
        let batch = RecordBatch::parse(bytes.into()).expect("a batch");
        let record = batch.control_record().expect("a control batch").expect("a record");
        self.end += 1;
        self.table.note_marker(batch.header(), &record)
    }
}

fn marker(result: TransactionResult, producer_epoch: i16, coordinator_epoch: i32) -> TransactionMarker {
    let timestamp = millis(2000);
    TransactionMarker { result, producer_id: ID, producer_epoch: epoch(producer_epoch), coordinator_epoch, timestamp }
}

fn commit(producer_epoch: i16) -> TransactionMarker {
    marker(TransactionResult::Commit, producer_epoch, 0)
}

#[test]
fn an_unknown_producer_may_begin_with_any_sequence() {
    let mut log = Log::default();
    assert_eq!(log.append(stamp(3, 17), 2), Ok(None));
    assert_eq!(log.append(stamp(3, 19), 1), Ok(None));
}

#[test]
fn zero_follows_the_largest_sequence_and_one_does_not() {
    let mut log = Log::default();
    log.append(stamp(0, i32::MAX - 1), 2).expect("in order");
    let error = log.append(stamp(0, 1), 1).expect_err("a gap");
    assert!(matches!(error, ProducerError::OutOfOrderSequence { expected: Sequence::ZERO, .. }));
    assert_eq!(log.append(stamp(0, 0), 1), Ok(None));
}

#[test]
fn a_batch_may_wrap_inside_itself() {
    let mut log = Log::default();
    log.append(stamp(0, i32::MAX - 1), 4).expect("in order");
    let known = log.append(stamp(0, i32::MAX - 1), 4).expect("known").expect("a duplicate");
    assert_eq!((known.first_offset, known.last_offset), (offset(0), offset(3)));
    assert_eq!(log.append(stamp(0, 2), 1), Ok(None));
}

#[test]
fn each_of_the_last_five_batches_is_a_duplicate_and_an_older_one_is_out_of_order() {
    let mut log = Log::default();
    for index in 0..6 {
        log.append(stamp(0, index * 2), 2).expect("in order");
    }
    for index in 1..6 {
        let known = log.append(stamp(0, index * 2), 2).expect("known").expect("a duplicate");
        assert_eq!(known.first_offset, offset(i64::from(index) * 2));
    }
    assert!(matches!(log.append(stamp(0, 0), 2), Err(ProducerError::OutOfOrderSequence { .. })));
}

#[test]
fn a_batch_that_overlaps_in_part_is_out_of_order() {
    let mut log = Log::default();
    log.append(stamp(0, 0), 3).expect("in order");
    for (base, count) in [(0, 2), (1, 2), (2, 2), (0, 4)] {
        assert!(matches!(log.append(stamp(0, base), count), Err(ProducerError::OutOfOrderSequence { .. })));
    }
}

#[test]
fn a_lower_epoch_is_fenced_and_a_higher_one_begins_at_zero() {
    let mut log = Log::default();
    log.append(stamp(5, 0), 3).expect("in order");
    assert!(matches!(log.append(stamp(4, 3), 1), Err(ProducerError::InvalidEpoch { .. })));
    assert!(matches!(log.append(stamp(6, 3), 1), Err(ProducerError::OutOfOrderSequence { .. })));
    assert_eq!(log.append(stamp(6, 0), 1), Ok(None));
    // What the old epoch sent is forgotten with it.
    assert!(matches!(log.append(stamp(5, 0), 3), Err(ProducerError::InvalidEpoch { .. })));
}

#[test]
fn a_marker_of_a_higher_epoch_lets_data_begin_at_zero() {
    let mut log = Log::default();
    log.append(in_transaction(stamp(0, 0)), 3).expect("in order");
    log.marker(commit(1)).expect("a transaction is open");
    assert!(matches!(log.append(in_transaction(stamp(0, 3)), 1), Err(ProducerError::InvalidEpoch { .. })));
    assert!(matches!(log.append(in_transaction(stamp(1, 3)), 1), Err(ProducerError::OutOfOrderSequence { .. })));
    assert_eq!(log.append(in_transaction(stamp(1, 0)), 1), Ok(None));
}

#[test]
fn a_producer_known_by_a_marker_only_begins_at_zero() {
    let mut log = Log::default();
    log.note_marker(commit(2));
    assert!(matches!(log.append(stamp(2, 4), 1), Err(ProducerError::OutOfOrderSequence { .. })));
    assert_eq!(log.append(stamp(2, 0), 1), Ok(None));
}

#[test]
fn a_batch_outside_of_the_open_transaction_is_refused() {
    let mut log = Log::default();
    log.append(in_transaction(stamp(0, 0)), 1).expect("in order");
    let error = log.append(stamp(0, 1), 1).expect_err("a transaction is open");
    assert_eq!(error, ProducerError::TransactionOpen { producer_id: ID, first_offset: offset(0) });
    log.marker(commit(0)).expect("a transaction is open");
    assert_eq!(log.append(stamp(0, 1), 1), Ok(None));
}

#[test]
fn a_marker_without_a_transaction_is_taken_and_only_changes_the_epoch() {
    let mut log = Log::default();
    assert_eq!(log.marker(commit(0)), Ok(None), "of an unknown producer");
    log.append(stamp(0, 0), 1).expect("in order");
    assert_eq!(log.marker(commit(0)), Ok(None), "of the producer's own epoch");
    log.append(stamp(0, 1), 1).expect("in order: the epoch is the same");
    assert_eq!(log.marker(commit(1)), Ok(None));
    assert_eq!(log.marker(commit(1)), Ok(None), "repeated");
    assert!(matches!(log.append(stamp(0, 2), 1), Err(ProducerError::InvalidEpoch { .. })));
    assert!(matches!(log.marker(commit(0)), Err(ProducerError::InvalidEpoch { .. })));
    assert_eq!(log.append(stamp(1, 0), 1), Ok(None));
}

#[test]
fn a_marker_without_a_transaction_names_its_coordinator_all_the_same() {
    let mut log = Log::default();
    log.marker(marker(TransactionResult::Abort, 0, 7)).expect("taken");
    let error = log.marker(marker(TransactionResult::Abort, 1, 6)).expect_err("an older coordinator");
    assert_eq!(error, ProducerError::CoordinatorFenced { producer_id: ID, got: 6, known: 7 });
}

#[test]
fn a_marker_of_an_older_coordinator_is_fenced() {
    let mut log = Log::default();
    log.append(in_transaction(stamp(0, 0)), 1).expect("in order");
    log.marker(marker(TransactionResult::Abort, 0, 7)).expect("a transaction is open");
    log.append(in_transaction(stamp(0, 1)), 1).expect("in order");
    let error = log.marker(marker(TransactionResult::Commit, 0, 6)).expect_err("an older coordinator");
    assert_eq!(error, ProducerError::CoordinatorFenced { producer_id: ID, got: 6, known: 7 });
}

#[test]
fn a_marker_of_an_older_coordinator_that_is_in_the_log_counts() {
    let mut log = Log::default();
    log.append(in_transaction(stamp(0, 0)), 1).expect("in order");
    log.marker(marker(TransactionResult::Abort, 0, 7)).expect("a transaction is open");
    log.append(in_transaction(stamp(0, 1)), 1).expect("in order");
    assert!(log.note_marker(marker(TransactionResult::Commit, 0, 6)).is_some());
    assert_eq!(log.table.open_transactions().first_unstable(), None);
    assert_eq!(log.table.snapshot().entries[0].coordinator_epoch, Some(6));
}

#[test]
fn an_idle_producer_expires_and_one_with_an_open_transaction_never_does() {
    let mut log = Log::default();
    log.append(stamp(0, 0), 1).expect("in order");
    assert_eq!(log.table.expire(millis(1099), 100), 0);
    assert_eq!(log.table.expire(millis(1100), 100), 1);
    // Unknown again, so that any sequence is taken.
    log.append(in_transaction(stamp(0, 40)), 1).expect("in order");
    assert_eq!(log.table.expire(Timestamp::MAX, 100), 0);
}

#[test]
fn a_snapshot_keeps_the_last_batch_and_where_the_transaction_begins() {
    let mut log = Log::default();
    log.append(in_transaction(stamp(4, 0)), 3).expect("in order");
    log.append(in_transaction(stamp(4, 3)), 2).expect("in order");
    let mut loaded =
        Log { table: ProducerTable::load(&log.table.snapshot(), offset(100)).expect("sound"), end: log.end };
    assert_eq!(loaded.table.open_transactions().first_unstable(), Some(offset(0)));
    let known = loaded.append(in_transaction(stamp(4, 3)), 2).expect("known").expect("a duplicate");
    assert_eq!((known.first_offset, known.last_offset), (offset(3), offset(4)));
    assert!(matches!(loaded.append(in_transaction(stamp(4, 0)), 3), Err(ProducerError::OutOfOrderSequence { .. })));
    assert_eq!(loaded.table.snapshot(), log.table.snapshot());
}

#[test]
fn a_snapshot_after_a_marker_of_a_new_epoch_has_no_batch() {
    let mut log = Log::default();
    log.append(in_transaction(stamp(0, 0)), 1).expect("in order");
    log.marker(commit(1)).expect("a transaction is open");
    let entry = log.table.snapshot().entries[0];
    assert_eq!((entry.last_sequence, entry.last_offset, entry.offset_delta), (None, None, 0));
    assert_eq!((entry.timestamp, entry.coordinator_epoch), (Some(millis(2000)), Some(0)));
}

#[test]
fn behind_a_batch_that_was_cut_with_all_that_is_known_a_transaction_goes_on_with_any_sequence() {
    let mut log = Log::default();
    for base_sequence in 0..3 {
        log.append(in_transaction(stamp(0, base_sequence)), 1).expect("in order");
    }
    // A snapshot has the last batch only.
    let mut restarted = Log { table: ProducerTable::load(&log.table.snapshot(), offset(3)).expect("sound"), end: 3 };
    let below = restarted.table.snapshot_below(offset(2));
    restarted = Log { table: ProducerTable::load(&below, offset(2)).expect("sound"), end: 2 };
    assert_eq!(restarted.append(in_transaction(stamp(0, 2)), 1), Ok(None));
    assert!(restarted.append(in_transaction(stamp(0, 9)), 1).is_err(), "known again");
    assert!(restarted.append(stamp(0, 3), 1).is_err(), "the transaction is open");
    assert_eq!(restarted.append(in_transaction(stamp(1, 0)), 1), Ok(None), "a new epoch begins at zero");
}
