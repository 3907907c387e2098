//! Transactions: records in several partitions and committed offsets that readers of committed records see all of, or nothing.
//!
//! A [`TransactionalProducer`] has one transaction at a time. Before each append the transactional id's lock is taken and the producer's
//! right is checked, so that a producer that was fenced writes nothing. Sequences begin at 0 in every partition with every transaction, because
//! every transaction has an epoch of its own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::error::TransactionError;
use super::transaction_log::{Status, TransactionCoordinator, TransactionalId};
use crate::format::{CommittedOffset, ProducerStamp, Record, TransactionResult};
use crate::name::{TopicPartition, shortened};
use crate::partition::{Appended, Durability, Partition};
use crate::types::{ProducerEpoch, ProducerId, Sequence};

/// The producer of a transactional id, made by [`TransactionCoordinator::init_producer`]. The next one of the same id fences it.
#[derive(Debug)]
pub struct TransactionalProducer {
    coordinator: TransactionCoordinator,
    id: Arc<TransactionalId>,
    owner: u64,
}

/// An open transaction. Dropping it aborts it; where that fails, the next transaction or producer of the id does, or the timeout.
#[derive(Debug)]
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'a> {
    producer: &'a mut TransactionalProducer,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    partitions: HashMap<TopicPartition, Member>,
    /// Something was to be part of it and is not.
    has_failed: bool,
    has_ended: bool,
}

/// A partition that the transaction has written to.
#[derive(Debug)]
struct Member {
    partition: Partition,
    next_sequence: Sequence,
}

impl TransactionCoordinator {
    /// A new producer for a transactional id, and the end of the one before it: its open transaction is aborted, and whatever it does
    /// from now on is refused. `timeout_ms` is how long its transactions may take.
    ///
    /// # Durability
    /// When it returns, the new producer survives a power loss: no older one of the id can commit any more.
    ///
    /// # Errors
    /// [`TransactionError::InvalidTransactionalId`], [`TransactionError::InvalidTimeout`] with nothing changed;
    /// [`TransactionError::Store`], [`TransactionError::Log`]; [`TransactionError::Unfinished`] when the last transaction's outcome
    /// can't be finished.
    pub fn init_producer(
        &self,
        transactional_id: &str,
        timeout_ms: u32,
    ) -> Result<TransactionalProducer, TransactionError> {
        let (id, owner) = self.take_over(transactional_id, timeout_ms)?;
        Ok(TransactionalProducer { coordinator: self.clone(), id, owner })
    }
}

impl TransactionalProducer {
    /// The transactional id.
    #[must_use]
    pub fn transactional_id(&self) -> &str {
        self.id.name()
    }

    /// Begins a transaction. Nothing is written before its first append. What an earlier one left behind, because ending it
    /// failed, is finished or aborted first.
    ///
    /// # Errors
    /// [`TransactionError::Fenced`]; as [`Transaction::abort`] when what was left behind can't be ended.
    pub fn begin(&mut self) -> Result<Transaction<'_>, TransactionError> {
        let mut status = self.lock()?;
        self.coordinator.settle(&self.id, &mut status, false)?;
        let Some(entry) = &status.entry else { return Err(self.id.fenced()) };
        let (producer_id, producer_epoch) = (entry.producer_id, entry.producer_epoch);
        drop(status);
        Ok(Transaction {
            producer: self,
            producer_id,
            producer_epoch,
            partitions: HashMap::new(),
            has_failed: false,
            has_ended: false,
        })
    }

    /// Holds the id's lock, if this producer is the one in use.
    fn lock(&self) -> Result<MutexGuard<'_, Status>, TransactionError> {
        let status = self.id.status.lock();
        if status.owner == self.owner { Ok(status) } else { Err(self.id.fenced()) }
    }

    /// Holds the id's lock, if the transaction of this producer id and epoch is still its own.
    fn lock_in(
        &self,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
    ) -> Result<MutexGuard<'_, Status>, TransactionError> {
        let status = self.lock()?;
        let is_same = status
            .entry
            .as_ref()
            .is_some_and(|entry| (entry.producer_id, entry.producer_epoch) == (producer_id, producer_epoch));
        if is_same { Ok(status) } else { Err(self.id.fenced()) }
    }
}

impl Transaction<'_> {
    /// The producer id that its batches carry.
    #[must_use]
    pub const fn producer_id(&self) -> ProducerId {
        self.producer_id
    }

    /// The epoch that its batches carry; its markers carry the next one.
    #[must_use]
    pub const fn producer_epoch(&self) -> ProducerEpoch {
        self.producer_epoch
    }

    /// Appends records to a partition, as one batch. Readers of committed records see them once the transaction is committed.
    ///
    /// # Durability
    /// Written. [`Transaction::commit`] makes it durable.
    ///
    /// # Errors
    /// [`TransactionError::Fenced`], [`TransactionError::InternalTopic`], [`TransactionError::Store`] for a partition that isn't there,
    /// [`TransactionError::Log`] as [`Partition::append_from`]. After an error the transaction can only be aborted.
    pub fn append(&mut self, to: &TopicPartition, records: &[Record<'_>]) -> Result<Appended, TransactionError> {
        let appended = if to.topic.is_internal() {
            Err(TransactionError::InternalTopic { partition: to.clone() })
        } else {
            self.append_to(to, records)
        };
        self.note(appended)
    }

    /// Commits offsets of a consumer group as part of the transaction: they count once it is committed. With no offsets
    /// nothing is done.
    ///
    /// # Errors
    /// [`TransactionError::Group`] for a name or metadata that is too long; otherwise as [`Transaction::append`].
    pub fn commit_offsets(
        &mut self,
        group: &str,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<(), TransactionError> {
        let committed = self.append_offsets(group, offsets);
        self.note(committed)
    }

    /// Commits: readers of committed records see all of the transaction from now on.
    ///
    /// # Durability
    /// When it returns `Ok`, everything in the transaction survives a power loss, and so does that it was committed. After
    /// [`TransactionError::Unfinished`] that holds as well, but readers have to wait for the rest of it. After any other error it is
    /// aborted, now or in the end, unless the disk failed while the decision was being written: then it is one or the other, for all
    /// of it, and reopening the store tells which.
    ///
    /// # Errors
    /// [`TransactionError::Fenced`]; [`TransactionError::AppendFailed`] when an append or a commit of offsets in it had failed;
    /// [`TransactionError::Unfinished`]; [`TransactionError::Log`], [`TransactionError::Store`].
    pub fn commit(mut self) -> Result<(), TransactionError> {
        if self.has_failed {
            self.end(TransactionResult::Abort)?;
            let transactional_id = shortened(self.producer.id.name());
            return Err(TransactionError::AppendFailed { transactional_id });
        }
        self.end(TransactionResult::Commit)
    }

    /// Aborts: readers of committed records never see any of the transaction.
    ///
    /// # Errors
    /// [`TransactionError::Fenced`], when it is or will be aborted anyway; [`TransactionError::Unfinished`];
    /// [`TransactionError::Log`], [`TransactionError::Store`].
    pub fn abort(mut self) -> Result<(), TransactionError> {
        self.end(TransactionResult::Abort)
    }

    fn append_offsets(
        &mut self,
        group: &str,
        offsets: &[(TopicPartition, CommittedOffset)],
    ) -> Result<(), TransactionError> {
        let commit = self.producer.coordinator.offsets()?.prepare(group, offsets)?;
        if !offsets.is_empty() {
            self.append_to(commit.partition.id(), &commit.records())?;
        }
        Ok(())
    }

    fn append_to(&mut self, to: &TopicPartition, records: &[Record<'_>]) -> Result<Appended, TransactionError> {
        let producer = &*self.producer;
        let mut status = producer.lock_in(self.producer_id, self.producer_epoch)?;
        if !self.partitions.contains_key(to) {
            let partition = producer.coordinator.partition(to)?;
            producer.coordinator.add_partition(&producer.id, &mut status, to)?;
            self.partitions.insert(to.clone(), Member { partition, next_sequence: Sequence::ZERO });
        }
        let Some(member) = self.partitions.get_mut(to) else { return Err(producer.id.fenced()) };
        let stamp = ProducerStamp {
            id: self.producer_id,
            epoch: self.producer_epoch,
            base_sequence: member.next_sequence,
            transactional: true,
        };
        let appended = member.partition.append_from(stamp, records, Durability::Written)?;
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        member.next_sequence = member.next_sequence.wrapping_add(count);
        Ok(appended)
    }

    fn end(&mut self, result: TransactionResult) -> Result<(), TransactionError> {
        let mut status = self.producer.lock_in(self.producer_id, self.producer_epoch)?;
        let ended = self.producer.coordinator.end(&self.producer.id, &mut status, result);
        drop(status);
        self.has_ended = matches!(ended, Ok(()) | Err(TransactionError::Unfinished { .. }));
        ended
    }

    fn note<T>(&mut self, result: Result<T, TransactionError>) -> Result<T, TransactionError> {
        self.has_failed |= result.is_err();
        result
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            // Whoever comes next finds it open and aborts it.
            let _ = self.end(TransactionResult::Abort);
        }
    }
}
