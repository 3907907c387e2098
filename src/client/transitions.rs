//! The states of a transactional id and the steps between them, by the rules of Kafka's transactions version 2. Pure: an entry
//! and the time in, the next entry out; `transaction_log.rs` puts it on disk before it holds.
//!
//! ```text
//!            first partition               decided                    markers written
//!  Empty ───────────────────> Ongoing ──────────────> PrepareCommit ──────────────────> CompleteCommit
//!    ^                        ^    │                                                      │   │
//!    │                        │    └────────────────> PrepareAbort ───────────────────> CompleteAbort
//!    │                        └──────────── first partition of the next ──────────────────┘   │
//!    └──────────────────────────────────── a new producer ────────────────────────────────────┘
//! ```
//!
//! The epoch grows by one when the outcome is decided: markers carry the greater one, so that whatever a producer that was given
//! up still writes is refused. Where the epochs of a producer id run out, another id follows.

use crate::format::{TransactionEntry, TransactionResult, TransactionState};
use crate::name::TopicPartition;
use crate::types::{ProducerEpoch, ProducerId, Timestamp};

/// The last epoch that a transaction may be written with; the one above it is left for its markers.
const EPOCH_MAX: i16 = i16::MAX - 1;

/// The version of Kafka's transactions in which every one ends with a greater epoch.
const CLIENT_VERSION: i16 = 2;

/// What a new producer begins with. `known` has no transaction open or undecided.
///
/// `is_fenced`: the epoch was raised just now, to abort what the producer before had left; that is enough. `fresh` gives a
/// producer id that was never used.
pub(super) fn initialised<E>(
    known: Option<&TransactionEntry>,
    is_fenced: bool,
    timeout_ms: u32,
    now: Timestamp,
    fresh: impl FnOnce() -> Result<ProducerId, E>,
) -> Result<TransactionEntry, E> {
    let (producer_id, producer_epoch, previous_producer_id) = match known {
        None => (fresh()?, ProducerEpoch::ZERO, None),
        Some(entry) if is_fenced => (entry.producer_id, entry.producer_epoch, entry.previous_producer_id),
        Some(entry) if is_exhausted(entry) => (fresh()?, ProducerEpoch::ZERO, Some(entry.producer_id)),
        Some(entry) => (entry.producer_id, next(entry.producer_epoch), None),
    };
    Ok(TransactionEntry {
        producer_id,
        producer_epoch,
        timeout_ms,
        state: TransactionState::Empty,
        partitions: Vec::new(),
        last_update: Some(now),
        start: None,
        previous_producer_id,
        next_producer_id: None,
        next_producer_epoch: None,
        client_version: known.map_or(0, |entry| entry.client_version),
    })
}

/// With one more partition in the transaction, which begins with its first; `None` when the partition is in it already.
pub(super) fn with_partition(
    entry: &TransactionEntry,
    partition: &TopicPartition,
    now: Timestamp,
) -> Option<TransactionEntry> {
    let is_ongoing = entry.state == TransactionState::Ongoing;
    let (mut partitions, start) = if is_ongoing { (entry.partitions.clone(), entry.start) } else { (Vec::new(), None) };
    if partitions.contains(partition) {
        return None;
    }
    // Partitions of a topic stand side by side, as they do in the record.
    let at = partitions.iter().rposition(|known| known.topic == partition.topic).map_or(partitions.len(), |at| at + 1);
    partitions.insert(at, partition.clone());
    Some(TransactionEntry {
        state: TransactionState::Ongoing,
        partitions,
        last_update: Some(now),
        start: start.or(Some(now)),
        client_version: CLIENT_VERSION,
        ..entry.clone()
    })
}

/// With the outcome of the ongoing transaction decided.
pub(super) fn decided<E>(
    entry: &TransactionEntry,
    result: TransactionResult,
    now: Timestamp,
    fresh: impl FnOnce() -> Result<ProducerId, E>,
) -> Result<TransactionEntry, E> {
    let state = match result {
        TransactionResult::Commit => TransactionState::PrepareCommit,
        TransactionResult::Abort => TransactionState::PrepareAbort,
    };
    let next_producer_id = if is_exhausted(entry) { Some(fresh()?) } else { None };
    Ok(TransactionEntry {
        producer_epoch: next(entry.producer_epoch),
        next_producer_id,
        state,
        last_update: Some(now),
        ..entry.clone()
    })
}

/// What was decided and may not be known to every partition.
pub(super) const fn undone(entry: &TransactionEntry) -> Option<TransactionResult> {
    match entry.state {
        TransactionState::PrepareCommit => Some(TransactionResult::Commit),
        TransactionState::PrepareAbort => Some(TransactionResult::Abort),
        _ => None,
    }
}

/// With every partition told of `result`.
pub(super) fn completed(entry: &TransactionEntry, result: TransactionResult, now: Timestamp) -> TransactionEntry {
    let state = match result {
        TransactionResult::Commit => TransactionState::CompleteCommit,
        TransactionResult::Abort => TransactionState::CompleteAbort,
    };
    let done = TransactionEntry { state, partitions: Vec::new(), last_update: Some(now), ..entry.clone() };
    match entry.next_producer_id {
        None => done,
        Some(producer_id) => TransactionEntry {
            producer_id,
            producer_epoch: entry.next_producer_epoch.unwrap_or(ProducerEpoch::ZERO),
            previous_producer_id: Some(entry.producer_id),
            next_producer_id: None,
            next_producer_epoch: None,
            ..done
        },
    }
}

/// Whether a transaction is open, its outcome undecided.
pub(super) const fn is_ongoing(entry: &TransactionEntry) -> bool {
    matches!(entry.state, TransactionState::Ongoing | TransactionState::PrepareEpochFence)
}

/// Whether the ongoing transaction takes longer than its timeout.
pub(super) fn is_timed_out(entry: &TransactionEntry, now: Timestamp) -> bool {
    let start = entry.start.or(entry.last_update).unwrap_or(Timestamp::ZERO);
    is_ongoing(entry) && now.millis_since(start) > i64::from(entry.timeout_ms)
}

/// Whether nothing has happened under the id for `expiration_ms`.
pub(super) fn is_expired(entry: &TransactionEntry, now: Timestamp, expiration_ms: u64) -> bool {
    let idle = now.millis_since(entry.last_update.unwrap_or(Timestamp::ZERO));
    !is_ongoing(entry) && undone(entry).is_none() && u64::try_from(idle).is_ok_and(|idle| idle >= expiration_ms)
}

const fn is_exhausted(entry: &TransactionEntry) -> bool {
    entry.producer_epoch.value() >= EPOCH_MAX
}

fn next(epoch: ProducerEpoch) -> ProducerEpoch {
    ProducerEpoch::new(epoch.value().saturating_add(1)).unwrap_or(ProducerEpoch::MAX)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::name::{PartitionId, TopicName};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis).expect("legal")
    }

    fn partition(topic: &str, number: i32) -> TopicPartition {
        TopicPartition::new(TopicName::parse(topic).expect("legal"), PartitionId::new(number).expect("legal"))
    }

    fn fresh(id: i64) -> impl FnOnce() -> Result<ProducerId, Infallible> {
        move || Ok(ProducerId::new(id).expect("legal"))
    }

    fn none_needed() -> Result<ProducerId, Infallible> {
        panic!("no new producer id is needed")
    }

    fn empty(epoch: i16) -> TransactionEntry {
        let entry = initialised(None, false, 100, at(5), fresh(7)).expect("infallible");
        TransactionEntry { producer_epoch: ProducerEpoch::new(epoch).expect("legal"), ..entry }
    }

    fn ongoing(epoch: i16) -> TransactionEntry {
        with_partition(&empty(epoch), &partition("t", 0), at(10)).expect("new")
    }

    fn stamp(entry: &TransactionEntry) -> (i64, i16) {
        (entry.producer_id.value(), entry.producer_epoch.value())
    }

    #[test]
    fn each_new_producer_of_an_id_has_a_greater_epoch() {
        let first = empty(0);
        assert_eq!((stamp(&first), first.state), ((7, 0), TransactionState::Empty));
        let second = initialised(Some(&first), false, 100, at(6), none_needed).expect("infallible");
        assert_eq!(stamp(&second), (7, 1));
        let after_abort = initialised(Some(&second), true, 200, at(6), none_needed).expect("infallible");
        assert_eq!((stamp(&after_abort), after_abort.timeout_ms), ((7, 1), 200));
    }

    #[test]
    fn a_transaction_begins_with_its_first_partition_and_knows_each_once() {
        let entry = ongoing(3);
        assert_eq!((entry.state, entry.start), (TransactionState::Ongoing, Some(at(10))));
        assert_eq!(with_partition(&entry, &partition("t", 0), at(11)), None);
        let more = with_partition(&entry, &partition("u", 0), at(12)).expect("new");
        let more = with_partition(&more, &partition("t", 1), at(13)).expect("new");
        assert_eq!(more.partitions, [partition("t", 0), partition("t", 1), partition("u", 0)]);
        assert_eq!((more.start, more.last_update), (Some(at(10)), Some(at(13))));
        assert_eq!(stamp(&more), (7, 3));
    }

    #[test]
    fn deciding_raises_the_epoch_and_completing_forgets_the_partitions() {
        for (result, prepared, complete) in [
            (TransactionResult::Commit, TransactionState::PrepareCommit, TransactionState::CompleteCommit),
            (TransactionResult::Abort, TransactionState::PrepareAbort, TransactionState::CompleteAbort),
        ] {
            let entry = decided(&ongoing(3), result, at(20), none_needed).expect("infallible");
            assert_eq!((entry.state, stamp(&entry), entry.partitions.len()), (prepared, (7, 4), 1));
            assert_eq!(undone(&entry), Some(result));
            let done = completed(&entry, result, at(21));
            assert_eq!((done.state, stamp(&done), done.partitions.len()), (complete, (7, 4), 0));
            assert_eq!((done.start, undone(&done)), (Some(at(10)), None));
            let again = with_partition(&done, &partition("t", 0), at(30)).expect("a new transaction");
            assert_eq!((again.start, stamp(&again)), (Some(at(30)), (7, 4)));
        }
    }

    #[test]
    fn another_producer_id_follows_where_the_epochs_run_out() {
        let entry = decided(&ongoing(i16::MAX - 1), TransactionResult::Commit, at(20), fresh(9)).expect("infallible");
        assert_eq!((stamp(&entry), entry.next_producer_id), ((7, i16::MAX), ProducerId::new(9)));
        let done = completed(&entry, TransactionResult::Commit, at(21));
        assert_eq!((stamp(&done), done.previous_producer_id), ((9, 0), ProducerId::new(7)));
        assert_eq!(done.next_producer_id, None);

        let entry = initialised(Some(&empty(i16::MAX - 1)), false, 1, at(20), fresh(9)).expect("infallible");
        assert_eq!((stamp(&entry), entry.previous_producer_id), ((9, 0), ProducerId::new(7)));
        let entry = decided(&ongoing(i16::MAX - 2), TransactionResult::Commit, at(20), none_needed);
        assert_eq!(stamp(&entry.expect("infallible")), (7, i16::MAX - 1));
    }

    #[test]
    fn a_transaction_times_out_after_its_timeout_and_an_id_expires_when_idle() {
        let entry = ongoing(0);
        assert!(!is_timed_out(&entry, at(110)) && is_timed_out(&entry, at(111)));
        assert!(!is_timed_out(&empty(0), at(1_000_000)));
        assert!(!is_expired(&entry, at(1_000_000), 10), "not while a transaction is open");
        assert!(!is_expired(&empty(0), at(14), 10) && is_expired(&empty(0), at(15), 10));
        assert!(!is_expired(&empty(0), at(1), 10), "a clock that went back");
    }
}
