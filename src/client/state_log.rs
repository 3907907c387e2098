//! The topic `__transaction_state`: read when the coordinator opens, written one record at a time. It knows no rules: what a
//! record says is in `format/transaction_state.rs`, what may follow what in `transitions.rs`.

use std::collections::BTreeMap;

use super::error::TransactionError;
use crate::format::{
    FormatError, Record, RecordBatch, TransactionEntry, encode_transaction_key, parse_transaction_key,
};
use crate::group::{FollowError, follow};
use crate::partition::{Durability, Partition};
use crate::store::{LogStore, StoreError, Topic};
use crate::types::{LeaderEpoch, Offset};

/// Kafka's topic of transactions.
const TOPIC: &str = "__transaction_state";

/// The topic, made when it isn't there.
pub(super) fn topic(store: &LogStore) -> Result<Topic, StoreError> {
    store.internal_topic(TOPIC, store.settings().transaction_state_log_num_partitions)
}

/// One partition of the topic, to be written to.
#[derive(Debug, Clone)]
pub(super) struct StateLog {
    partition: Partition,
    /// The term of the coordinator that writes here, which goes into markers: the greatest in the log. None begins here.
    coordinator_epoch: LeaderEpoch,
}

/// What a partition's records add up to: the last entry of each transactional id.
#[derive(Debug, Default)]
struct Replayed {
    entries: BTreeMap<String, TransactionEntry>,
    coordinator_epoch: Option<LeaderEpoch>,
}

impl StateLog {
    /// Reads a partition of the topic: the log, and the last entry of each transactional id in it.
    ///
    /// # Durability
    /// What was read survives a power loss when this returns.
    ///
    /// # Errors
    /// [`TransactionError::Log`], [`TransactionError::Damaged`].
    pub(super) fn load(partition: Partition) -> Result<(Self, BTreeMap<String, TransactionEntry>), TransactionError> {
        let mut replayed = Replayed::default();
        let result = follow(&partition, partition.log_start_offset(), |batch| replayed.apply(batch));
        match result {
            Ok(_) => {}
            Err(FollowError::Log(error)) => return Err(error.into()),
            Err(FollowError::Damaged { offset, source }) => {
                return Err(TransactionError::Damaged { partition: partition.id().clone(), offset, source });
            }
        }
        // After a kill the last records may not be on the disk yet, and nothing may follow from what a power loss can still undo.
        partition.flush()?;
        let coordinator_epoch = replayed.coordinator_epoch.unwrap_or(LeaderEpoch::ZERO);
        Ok((Self { partition, coordinator_epoch }, replayed.entries))
    }

    pub(super) const fn coordinator_epoch(&self) -> LeaderEpoch {
        self.coordinator_epoch
    }

    /// Makes `entry` the last one of the id.
    pub(super) fn put(
        &self,
        id: &str,
        entry: &TransactionEntry,
        durability: Durability,
    ) -> Result<(), TransactionError> {
        let (key, value) = (encode_transaction_key(id), entry.encode());
        self.partition.append_with(&[Record::keyed(&key, &value)], durability)?;
        Ok(())
    }

    /// Forgets the id.
    pub(super) fn remove(&self, id: &str) -> Result<(), TransactionError> {
        self.partition.append_with(&[Record::tombstone(&encode_transaction_key(id))], Durability::Durable)?;
        Ok(())
    }
}

impl Replayed {
    fn apply(&mut self, batch: &RecordBatch) -> Result<(), (Offset, FormatError)> {
        self.coordinator_epoch = self.coordinator_epoch.max(batch.header().leader_epoch());
        if batch.header().is_control() {
            return Ok(());
        }
        for record in batch.records() {
            let record = record.map_err(|error| (batch.header().base_offset(), error))?;
            let damaged = |error| (record.offset(), error);
            let Some(id) = record.key().map(parse_transaction_key).transpose().map_err(damaged)?.flatten() else {
                continue;
            };
            match record.value() {
                Some(value) => {
                    let entry = TransactionEntry::parse(value).map_err(damaged)?;
                    self.entries.insert(id.to_owned(), entry);
                }
                None => {
                    self.entries.remove(id);
                }
            }
        }
        Ok(())
    }
}
