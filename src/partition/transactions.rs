//! The open transactions of a partition, and which aborted ones a reader has to know (reference 6.1, 6.3, 8.7).
//!
//! A transaction is open from its first batch until its marker is in the log. Readers of committed records stop before the
//! oldest open one, at the last stable offset, and leave out batches of aborted ones, which the segments' `.txnindex` files
//! list.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::segments::SegmentList;
use crate::format::{AbortedTransaction, BatchHeader, TransactionResult};
use crate::segment::SegmentError;
use crate::types::{Offset, ProducerId};

/// Open transactions by their first offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OpenTransactions(BTreeMap<Offset, ProducerId>);

/// A transaction that its marker just ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Completed {
    result: TransactionResult,
    entry: AbortedTransaction,
}

impl Completed {
    /// What the transaction index has to say about it; nothing about a committed one.
    pub(super) fn aborted(&self) -> Option<AbortedTransaction> {
        (self.result == TransactionResult::Abort).then_some(self.entry)
    }
}

impl OpenTransactions {
    /// Returns whether no other one begins there.
    pub(super) fn begin(&mut self, first: Offset, producer: ProducerId) -> bool {
        self.0.insert(first, producer).is_none()
    }

    pub(super) fn end(
        &mut self,
        producer_id: ProducerId,
        first_offset: Offset,
        marker: Offset,
        result: TransactionResult,
    ) -> Completed {
        self.0.remove(&first_offset);
        let last_stable_offset = self.first_unstable().unwrap_or(marker.next());
        let entry = AbortedTransaction { producer_id, first_offset, last_offset: marker, last_stable_offset };
        Completed { result, entry }
    }

    /// The first offset of the oldest open transaction.
    pub(super) fn first_unstable(&self) -> Option<Offset> {
        self.0.keys().next().copied()
    }

    /// Producers with the first offsets of their transactions, oldest transaction first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ProducerId, Offset)> {
        self.0.iter().map(|(first, producer)| (*producer, *first))
    }
}

/// The aborted transactions that may have records in `[from, end)`: by their producers and first offsets, in the order of the
/// latter. It may name some that have none there.
pub(super) fn aborted_between(
    list: &SegmentList,
    from: Offset,
    end: Offset,
) -> Result<Vec<(ProducerId, Offset)>, SegmentError> {
    let mut found = Vec::new();
    'segments: for segment in list.aborting_from(from) {
        let entries = segment.aborted()?;
        let ended_before = entries.partition_point(|entry| entry.last_offset < from);
        for entry in entries.iter().skip(ended_before) {
            if entry.last_offset >= from && entry.first_offset < end {
                found.push((entry.producer_id, entry.first_offset));
            }
            if entry.last_stable_offset >= end {
                break 'segments;
            }
        }
    }
    found.sort_unstable_by_key(|(_, first)| *first);
    Ok(found)
}

/// Tells, batch by batch, which ones a reader of committed records gets.
#[derive(Debug)]
pub(super) struct CommittedFilter {
    /// Aborted transactions that have not been reached yet, by their first offsets.
    pending: VecDeque<(ProducerId, Offset)>,
    /// Producers inside of an aborted transaction.
    aborting: BTreeSet<ProducerId>,
}

impl CommittedFilter {
    /// `aborted` as from [`aborted_between`].
    pub(super) fn new(aborted: &[(ProducerId, Offset)]) -> Self {
        Self { pending: aborted.iter().copied().collect(), aborting: BTreeSet::new() }
    }

    /// Whether the batch belongs to no aborted transaction. Must see every batch in order, control batches included;
    /// `is_abort` says that it is an abort marker.
    pub(super) fn admits(&mut self, header: &BatchHeader, is_abort: bool) -> bool {
        while let Some((producer, first)) = self.pending.front().copied()
            && first <= header.last_offset()
        {
            self.pending.pop_front();
            self.aborting.insert(producer);
        }
        let Some(producer) = header.producer_id() else { return true };
        if is_abort {
            self.aborting.remove(&producer);
        }
        !(header.is_transactional() && self.aborting.contains(&producer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer(id: i64) -> ProducerId {
        ProducerId::new(id).expect("a legal id")
    }

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("a legal offset")
    }

    #[test]
    fn the_oldest_open_transaction_is_the_first_unstable_offset() {
        let mut open = OpenTransactions::default();
        assert_eq!(open.first_unstable(), None);
        open.begin(offset(5), producer(1));
        open.begin(offset(9), producer(2));
        assert_eq!(open.first_unstable(), Some(offset(5)));
        open.end(producer(1), offset(5), offset(12), TransactionResult::Commit);
        assert_eq!(open.first_unstable(), Some(offset(9)));
    }

    #[test]
    fn an_aborted_entry_says_where_the_log_was_stable_then() {
        let mut open = OpenTransactions::default();
        open.begin(offset(5), producer(1));
        open.begin(offset(9), producer(2));
        let second = open.end(producer(2), offset(9), offset(12), TransactionResult::Abort).aborted().expect("aborted");
        assert_eq!(second.last_stable_offset, offset(5));
        let first = open.end(producer(1), offset(5), offset(13), TransactionResult::Abort).aborted().expect("aborted");
        assert_eq!((first.last_stable_offset, first.last_offset), (offset(14), offset(13)));
    }

    #[test]
    fn a_committed_transaction_has_no_entry() {
        let mut open = OpenTransactions::default();
        open.begin(offset(5), producer(1));
        assert_eq!(open.end(producer(1), offset(5), offset(6), TransactionResult::Commit).aborted(), None);
    }
}
