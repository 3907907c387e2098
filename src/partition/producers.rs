//! What the log knows of its producers, and which batches of theirs it may take (reference 6.2).
//!
//! Of each producer: its epoch, its last five batches, its last coordinator's epoch and its open transaction. The table is
//! memory only. It is brought up by every batch that is in the log, at the time of the append or when the log is replayed, so
//! it never knows more than the log; `snapshots.rs` keeps it in files. Callers hold the partition's append lock from a check
//! until the batch has been noted.

use std::collections::{BTreeMap, VecDeque};

use super::transactions::{Completed, OpenTransactions};
use crate::format::{
    BatchHeader, ControlKind, ControlRecord, ProducerEntry, ProducerSnapshot, ProducerStamp, TransactionMarker,
    TransactionResult,
};
use crate::types::{ErrorKind, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// How many batches of a producer are remembered, so that a repeated one is recognised.
const BATCHES_KEPT: usize = 5;

/// Why a producer's batch or marker is refused. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProducerError {
    /// The producer was fenced: a newer one of its id has written here. Kafka's `INVALID_PRODUCER_EPOCH`.
    #[error("producer {producer_id} has epoch {got}, expected {known} or more")]
    InvalidEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        got: ProducerEpoch,
        /// The greatest epoch seen.
        known: ProducerEpoch,
    },
    /// A batch is missing before this one, or this one overlaps with what is there. Kafka's `OUT_OF_ORDER_SEQUENCE_NUMBER`.
    #[error("producer {producer_id} in epoch {epoch} sent sequence {got}, expected {expected}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The batch's epoch.
        epoch: ProducerEpoch,
        /// The batch's first sequence.
        got: Sequence,
        /// The sequence that must come next.
        expected: Sequence,
    },
    /// A batch outside a transaction while the producer has one open. Kafka's `INVALID_TXN_STATE`.
    #[error(
        "producer {producer_id} has a transaction open since offset {first_offset}, expected a transactional batch"
    )]
    TransactionOpen {
        /// The producer.
        producer_id: ProducerId,
        /// Where its transaction begins.
        first_offset: Offset,
    },
    /// A marker of a transaction coordinator that was replaced. Kafka's `TRANSACTION_COORDINATOR_FENCED`.
    #[error("the marker for producer {producer_id} has coordinator epoch {got}, expected {known} or more")]
    CoordinatorFenced {
        /// The producer.
        producer_id: ProducerId,
        /// The marker's coordinator epoch.
        got: i32,
        /// The greatest one seen.
        known: u32,
    },
}

impl ProducerError {
    /// What this error means for a caller.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidEpoch { .. } | Self::CoordinatorFenced { .. } => ErrorKind::Fenced,
            Self::OutOfOrderSequence { .. } => ErrorKind::OutOfOrder,
            Self::TransactionOpen { .. } => ErrorKind::InvalidTransaction,
        }
    }
}

/// A data batch that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchTrace {
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub timestamp: Option<Timestamp>,
    first_sequence: Option<Sequence>,
    last_sequence: Option<Sequence>,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    batches: VecDeque<BatchTrace>,
    timestamp: Option<Timestamp>,
    coordinator_epoch: Option<u32>,
    transaction: Option<Offset>,
}

/// The producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProducerTable {
    producers: BTreeMap<ProducerId, Producer>,
    open: OpenTransactions,
}

impl ProducerTable {
    /// The table that a snapshot of the log up to `end` describes; `None` when it can't be one: it names offsets behind `end`,
    /// a producer twice, or one offset as the beginning of two transactions.
    pub(super) fn load(snapshot: &ProducerSnapshot, end: Offset) -> Option<Self> {
        let mut table = Self::default();
        for entry in &snapshot.entries {
            let first_offset = entry.current_transaction_first_offset;
            let begins = first_offset.is_none_or(|first| table.open.begin(first, entry.producer_id));
            let is_new = table.producers.insert(entry.producer_id, Producer::from(entry)).is_none();
            let is_below_end = entry.last_offset.max(first_offset).is_none_or(|offset| offset < end);
            if !(begins && is_new && is_below_end) {
                return None;
            }
        }
        Some(table)
    }

    /// The table as a snapshot, by ascending producer ids as Kafka writes it.
    pub(super) fn snapshot(&self) -> ProducerSnapshot {
        ProducerSnapshot { entries: self.producers.iter().map(|(id, producer)| producer.entry(*id)).collect() }
    }

    /// What the snapshot of the log up to `end` would tell, as far as it is remembered.
    pub(super) fn snapshot_below(&self, end: Offset) -> ProducerSnapshot {
        let below = self.producers.iter().filter_map(|(id, producer)| Some(producer.below(end)?.entry(*id)));
        ProducerSnapshot { entries: below.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    pub(super) const fn open_transactions(&self) -> &OpenTransactions {
        &self.open
    }

    /// Whether the batch's producer has a transaction open.
    pub(super) fn has_open_transaction(&self, header: &BatchHeader) -> bool {
        let producer = header.producer_id().and_then(|id| self.producers.get(&id));
        producer.is_some_and(|producer| producer.transaction.is_some())
    }

    /// Whether the producer's last epoch is `epoch` and no transaction of it is open.
    #[cfg(feature = "client")]
    pub(super) fn has_ended_in(&self, id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.producers.get(&id).is_some_and(|producer| producer.epoch == epoch && producer.transaction.is_none())
    }

    /// Whether the log may take the `count` records of a batch; `Some` for one that it has taken already.
    pub(super) fn check(&self, stamp: &ProducerStamp, count: u32) -> Result<Option<BatchTrace>, ProducerError> {
        let Some(producer) = self.producers.get(&stamp.id) else { return Ok(None) };
        let last_sequence = stamp.base_sequence.wrapping_add(count.saturating_sub(1));
        if let Some(known) = producer.duplicate(stamp, last_sequence) {
            return Ok(Some(*known));
        }
        producer.check_epoch(stamp.id, stamp.epoch)?;
        if let Some(expected) = producer.next_sequence(stamp.epoch).filter(|next| *next != stamp.base_sequence) {
            let (producer_id, epoch, got) = (stamp.id, stamp.epoch, stamp.base_sequence);
            return Err(ProducerError::OutOfOrderSequence { producer_id, epoch, got, expected });
        }
        match producer.transaction {
            Some(first_offset) if !stamp.transactional => {
                Err(ProducerError::TransactionOpen { producer_id: stamp.id, first_offset })
            }
            _ => Ok(None),
        }
    }

    /// Whether the log may take a marker. One that ends no transaction is taken too: a coordinator that doesn't know whether
    /// its marker arrived repeats it, and its epoch fences older producers of the id (reference 6.2).
    pub(super) fn check_marker(&self, marker: &TransactionMarker) -> Result<(), ProducerError> {
        let producer_id = marker.producer_id;
        let Some(producer) = self.producers.get(&producer_id) else { return Ok(()) };
        producer.check_epoch(producer_id, marker.producer_epoch)?;
        match producer.coordinator_epoch {
            Some(known) if i64::from(marker.coordinator_epoch) < i64::from(known) => {
                Err(ProducerError::CoordinatorFenced { producer_id, got: marker.coordinator_epoch, known })
            }
            _ => Ok(()),
        }
    }

    /// Notes a data batch that is in the log now.
    pub(super) fn note_data(&mut self, header: &BatchHeader) {
        let (Some(id), Some(epoch)) = (header.producer_id(), header.producer_epoch()) else { return };
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(epoch));
        producer.enter(epoch);
        producer.timestamp = header.max_timestamp();
        if producer.begins_anew_with(header.base_sequence()) {
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.pop_front();
        }
        producer.batches.push_back(BatchTrace {
            first_offset: header.base_offset(),
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp(),
            first_sequence: header.base_sequence(),
            last_sequence: header.last_sequence(),
        });
        if header.is_transactional() && producer.transaction.is_none() {
            producer.transaction = Some(header.base_offset());
            self.open.begin(header.base_offset(), id);
        }
    }

    /// Notes a marker that is in the log now; returns the transaction that it ended, if one was open.
    pub(super) fn note_marker(&mut self, header: &BatchHeader, record: &ControlRecord) -> Option<Completed> {
        let result = match record.kind() {
            ControlKind::Abort => TransactionResult::Abort,
            ControlKind::Commit => TransactionResult::Commit,
            _ => return None,
        };
        let (id, epoch) = (header.producer_id()?, header.producer_epoch()?);
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(epoch));
        producer.enter(epoch);
        producer.timestamp = header.max_timestamp();
        producer.coordinator_epoch = record.coordinator_epoch().and_then(|epoch| u32::try_from(epoch).ok());
        let first_offset = producer.transaction.take()?;
        Some(self.open.end(id, first_offset, header.last_offset(), result))
    }

    /// Notes a control batch without a record: its producer's epoch is all that it tells.
    pub(super) fn note_epoch(&mut self, header: &BatchHeader) {
        let (Some(id), Some(epoch)) = (header.producer_id(), header.producer_epoch()) else { return };
        let producer = self.producers.entry(id).or_insert_with(|| Producer::new(epoch));
        producer.enter(epoch);
        producer.timestamp = header.max_timestamp();
    }

    /// Forgets producers without an open transaction that last wrote `expiration_ms` or longer ago; returns how many.
    pub(super) fn expire(&mut self, now: Timestamp, expiration_ms: u64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, producer| {
            let idle = producer.timestamp.map_or(i64::MAX, |last| now.millis_since(last));
            producer.transaction.is_some() || u64::try_from(idle).unwrap_or(0) < expiration_ms
        });
        before - self.producers.len()
    }
}

impl Producer {
    fn new(epoch: ProducerEpoch) -> Self {
        Self { epoch, batches: VecDeque::new(), timestamp: None, coordinator_epoch: None, transaction: None }
    }

    /// A new epoch knows nothing of the batches before it.
    fn enter(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches.clear();
        }
    }

    /// Whether a batch in the log shows that the producer had been forgotten before it: the sequences go back. A retry of what it sent
    /// before that would have been stored. Where they leap ahead, compaction took the batches between.
    fn begins_anew_with(&self, base: Option<Sequence>) -> bool {
        let last = self.batches.back().and_then(|batch| batch.last_sequence);
        last.zip(base).is_some_and(|(last, base)| base <= last && base != last.wrapping_add(1))
    }

    fn check_epoch(&self, producer_id: ProducerId, got: ProducerEpoch) -> Result<(), ProducerError> {
        if got >= self.epoch {
            return Ok(());
        }
        Err(ProducerError::InvalidEpoch { producer_id, got, known: self.epoch })
    }

    fn duplicate(&self, stamp: &ProducerStamp, last_sequence: Sequence) -> Option<&BatchTrace> {
        let same = |batch: &&BatchTrace| {
            batch.first_sequence == Some(stamp.base_sequence) && batch.last_sequence == Some(last_sequence)
        };
        self.batches.iter().find(same).filter(|_| self.epoch == stamp.epoch)
    }

    /// The sequence that the next batch of `epoch` must begin with; `None` where the batches before it are forgotten: a snapshot tells
    /// of the last one only, and a cut may have taken that.
    fn next_sequence(&self, epoch: ProducerEpoch) -> Option<Sequence> {
        if epoch != self.epoch {
            return Some(Sequence::ZERO);
        }
        let last = self.batches.back().and_then(|batch| batch.last_sequence);
        match last {
            // It has a batch here that began the transaction.
            None if self.transaction.is_some() => None,
            last => Some(last.map_or(Sequence::ZERO, |last| last.wrapping_add(1))),
        }
    }

    /// What is known of it from below `end`; `None` for one that is known from behind it only.
    fn below(&self, end: Offset) -> Option<Self> {
        let mut known = self.clone();
        known.batches.retain(|batch| batch.last_offset < end);
        known.transaction = self.transaction.filter(|first| *first < end);
        let is_from_behind = known.batches.is_empty() && known.transaction.is_none() && !self.batches.is_empty();
        (!is_from_behind).then_some(known)
    }

    fn entry(&self, producer_id: ProducerId) -> ProducerEntry {
        let last = self.batches.back();
        ProducerEntry {
            producer_id,
            producer_epoch: self.epoch,
            last_sequence: last.and_then(|batch| batch.last_sequence),
            last_offset: last.map(|batch| batch.last_offset),
            offset_delta: last
                .map_or(0, |batch| u32::try_from(batch.last_offset.since(batch.first_offset)).unwrap_or(u32::MAX)),
            timestamp: self.timestamp,
            coordinator_epoch: self.coordinator_epoch,
            current_transaction_first_offset: self.transaction,
        }
    }
}

impl From<&ProducerEntry> for Producer {
    fn from(entry: &ProducerEntry) -> Self {
        let trace = |last_offset: Offset| BatchTrace {
            first_offset: Offset::new(last_offset.value() - i64::from(entry.offset_delta)).unwrap_or(Offset::ZERO),
            last_offset,
            timestamp: entry.timestamp,
            first_sequence: entry.last_sequence.map(|last| last.wrapping_sub(entry.offset_delta)),
            last_sequence: entry.last_sequence,
        };
        Self {
            epoch: entry.producer_epoch,
            batches: entry.last_offset.map(trace).into_iter().collect(),
            timestamp: entry.timestamp,
            coordinator_epoch: entry.coordinator_epoch,
            transaction: entry.current_transaction_first_offset,
        }
    }
}

#[cfg(test)]
mod tests;
