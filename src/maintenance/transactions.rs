//! Which transaction a batch belongs to, as compaction meets the batches in offset order: aborted, committed, or emptied before.
//!
//! A pass over the log begins with the list of aborted transactions, from the `.txnindex` of all segments: an abort may be marked
//! beyond the range that is cleaned. What the pass has seen of a transaction decides over its marker: once no batch of it is left,
//! nobody needs the marker to tell what its records were worth.

use std::collections::{HashMap, HashSet};

use crate::format::{AbortedTransaction, BatchHeader, ControlKind, FormatError, RecordBatch};
use crate::types::{Offset, ProducerId};

/// The transactions of a log, as far as a pass over it has come.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// Those that the pass has not come to, the nearest last.
    ahead: Vec<AbortedTransaction>,
    aborted: HashMap<ProducerId, Aborted>,
    /// Producers of which a data batch was seen that no abort covers, since their last marker.
    committed: HashSet<ProducerId>,
}

/// An aborted transaction that the pass is in.
#[derive(Debug)]
struct Aborted {
    transaction: AbortedTransaction,
    has_batches: bool,
}

/// What a transaction marker is still good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// Batches of its transaction are left. If it was aborted, its entry in the `.txnindex` is needed too.
    InUse(Option<AbortedTransaction>),
    /// No batch of its transaction is left, or the marker itself was removed from its batch before.
    Spent,
}

impl Transactions {
    /// A pass that begins at `start`. Entries in any order; one that is listed twice counts once.
    pub(super) fn new(aborted: &[AbortedTransaction], start: Offset) -> Self {
        let mut ahead: Vec<_> = aborted.iter().filter(|entry| entry.last_offset >= start).copied().collect();
        ahead.sort_by_key(|entry| std::cmp::Reverse(entry.first_offset));
        Self { ahead, ..Self::default() }
    }

    /// Whether the data batch belongs to an aborted transaction.
    pub(super) fn is_aborted(&mut self, header: &BatchHeader) -> bool {
        let Some(producer) = header.producer_id().filter(|_| header.is_transactional()) else { return false };
        self.advance(header);
        match self.aborted.get_mut(&producer) {
            Some(aborted) => {
                aborted.has_batches = true;
                true
            }
            None => {
                self.committed.insert(producer);
                false
            }
        }
    }

    /// What the marker in a control batch is good for; other control records are never spent.
    ///
    /// # Errors
    /// Those of [`RecordBatch::control_record`].
    pub(super) fn marker(&mut self, batch: &RecordBatch) -> Result<Marker, FormatError> {
        let header = batch.header();
        self.advance(header);
        let Some(record) = batch.control_record()? else { return Ok(Marker::Spent) };
        let Some(producer) = header.producer_id() else { return Ok(Marker::InUse(None)) };
        Ok(match record.kind() {
            ControlKind::Abort => match self.aborted.remove(&producer) {
                Some(aborted) if aborted.has_batches => Marker::InUse(Some(aborted.transaction)),
                _ => Marker::Spent,
            },
            ControlKind::Commit if self.committed.remove(&producer) => Marker::InUse(None),
            ControlKind::Commit => Marker::Spent,
            _ => Marker::InUse(None),
        })
    }

    /// Enters the aborted transactions that begin at or before this batch, and leaves those whose marker lies before it.
    fn advance(&mut self, header: &BatchHeader) {
        while let Some(next) = self.ahead.pop_if(|next| next.first_offset <= header.last_offset()) {
            // A marker is the last of its transaction: an entry that outlived its marker must not reach the producer's next one.
            if self.aborted.get(&next.producer_id).is_none_or(|known| known.transaction.last_offset < next.last_offset)
            {
                self.aborted.insert(next.producer_id, Aborted { transaction: next, has_batches: false });
            }
        }
        if let Some(producer) = header.producer_id()
            && self.aborted.get(&producer).is_some_and(|known| known.transaction.last_offset < header.base_offset())
        {
            self.aborted.remove(&producer);
        }
    }
}
