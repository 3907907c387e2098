//! What the records of one partition of `__consumer_offsets` add up to, batch after batch in the order of the log.
//!
//! Of the records of one key the one with the greatest offset counts, whenever its transaction ended: so that compaction, which goes by
//! offsets too, changes nothing. What a transaction wrote is kept aside, by its producer, until its marker: a commit brings it in,
//! an abort drops it.

use std::collections::HashMap;

use crate::format::{CommittedOffset, ControlKind, FormatError, GroupLogKey, RecordBatch};
use crate::name::TopicPartition;
use crate::types::{Offset, ProducerId};

/// A group and a partition it reads.
type Key = (String, TopicPartition);

/// The last record of a key; no value for a tombstone.
#[derive(Debug)]
struct Latest {
    offset: Offset,
    value: Option<CommittedOffset>,
}

/// The offsets of the groups of one partition.
#[derive(Debug, Default)]
pub(super) struct GroupOffsets {
    latest: HashMap<Key, Latest>,
    /// What open transactions wrote.
    pending: HashMap<ProducerId, Vec<(Key, Latest)>>,
}

impl GroupOffsets {
    pub(super) fn get(&self, group: &str, partition: &TopicPartition) -> Option<&CommittedOffset> {
        self.latest.get(&(group.to_owned(), partition.clone())).and_then(|latest| latest.value.as_ref())
    }

    /// Takes in the next batch of the log.
    ///
    /// # Errors
    /// The record's offset, or the batch's, and what is wrong with it; what came before it has been taken in.
    pub(super) fn apply(&mut self, batch: &RecordBatch) -> Result<(), (Offset, FormatError)> {
        let header = batch.header();
        let producer = header.producer_id().filter(|_| header.is_transactional());
        if header.is_control() {
            let control = batch.control_record().map_err(|error| (header.base_offset(), error))?;
            if let (Some(producer), Some(control)) = (producer, control) {
                self.end(producer, control.kind());
            }
            return Ok(());
        }
        for record in batch.records() {
            let record = record.map_err(|error| (header.base_offset(), error))?;
            let damaged = |error| (record.offset(), error);
            // A record without a key is none of Kafka's, and compaction would drop it.
            let Some(key) = record.key() else { continue };
            let GroupLogKey::Offset { group, partition } = GroupLogKey::parse(key).map_err(damaged)? else { continue };
            let value = record.value().map(CommittedOffset::parse).transpose().map_err(damaged)?;
            let latest = Latest { offset: record.offset(), value };
            match producer {
                Some(producer) => self.pending.entry(producer).or_default().push(((group, partition), latest)),
                None => self.put((group, partition), latest),
            }
        }
        self.forget_tombstones();
        Ok(())
    }

    fn end(&mut self, producer: ProducerId, kind: ControlKind) {
        let written = self.pending.remove(&producer).unwrap_or_default();
        if kind == ControlKind::Commit {
            for (key, latest) in written {
                self.put(key, latest);
            }
        }
        self.forget_tombstones();
    }

    fn put(&mut self, key: Key, latest: Latest) {
        if self.latest.get(&key).is_none_or(|known| known.offset < latest.offset) {
            self.latest.insert(key, latest);
        }
    }

    /// Tombstones matter only as long as a transaction may bring in something older.
    fn forget_tombstones(&mut self) {
        if self.pending.is_empty() {
            self.latest.retain(|_, latest| latest.value.is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::format::{
        BatchBuilder, BatchOptions, ProducerStamp, Record, TransactionMarker, TransactionResult, assign_offsets,
        encode_offset_key, marker_batch,
    };
    use crate::name::{PartitionId, TopicName};
    use crate::types::{LeaderEpoch, ProducerEpoch, Sequence, Timestamp};

    /// A log that is only replayed.
    #[derive(Default)]
    struct Log {
        offsets: GroupOffsets,
        end: i64,
    }

    impl Log {
        fn put(&mut self, mut bytes: Vec<u8>) -> Result<(), (Offset, FormatError)> {
            let base = Offset::new(self.end).expect("legal");
            assign_offsets(&mut bytes, base, LeaderEpoch::ZERO).expect("a batch");
            let batch = RecordBatch::parse(Bytes::from(bytes)).expect("a whole batch");
            self.end = batch.last_offset().value() + 1;
            self.offsets.apply(&batch)
        }

        fn append(
            &mut self,
            transaction: Option<i64>,
            key: &[u8],
            value: Option<&[u8]>,
        ) -> Result<(), (Offset, FormatError)> {
            let producer = transaction.map(|id| ProducerStamp {
                id: ProducerId::new(id).expect("legal"),
                epoch: ProducerEpoch::ZERO,
                base_sequence: Sequence::ZERO,
                transactional: true,
            });
            let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
            builder.push(&Record::from_parts(Some(key), value), None).expect("small");
            let bytes = builder.finish().expect("a batch").to_vec();
            self.put(bytes)
        }

        fn commit(&mut self, transaction: Option<i64>, offset: i64) {
            let value = CommittedOffset::new(Offset::new(offset).expect("legal")).encode();
            self.append(transaction, &key(), Some(&value)).expect("applied");
        }

        fn delete(&mut self, transaction: Option<i64>) {
            self.append(transaction, &key(), None).expect("applied");
        }

        fn end(&mut self, transaction: i64, result: TransactionResult) {
            let marker = TransactionMarker {
                result,
                producer_id: ProducerId::new(transaction).expect("legal"),
                producer_epoch: ProducerEpoch::ZERO,
                coordinator_epoch: 0,
                timestamp: Timestamp::ZERO,
            };
            self.put(marker_batch(&marker)).expect("applied");
        }

        fn committed(&self) -> Option<i64> {
            self.offsets.get("g", &partition()).map(|committed| committed.offset.value())
        }
    }

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicName::parse("t").expect("legal"), PartitionId::ZERO)
    }

    fn key() -> Vec<u8> {
        encode_offset_key("g", &partition())
    }

    #[test]
    fn the_last_record_counts_and_a_tombstone_takes_it_away() {
        let mut log = Log::default();
        log.commit(None, 5);
        log.commit(None, 3);
        assert_eq!(log.committed(), Some(3));
        assert_eq!(log.offsets.get("h", &partition()), None);
        log.delete(None);
        assert_eq!(log.committed(), None);
        assert!(log.offsets.latest.is_empty(), "a tombstone takes no memory");
    }

    #[test]
    fn what_a_transaction_wrote_appears_with_its_commit_and_vanishes_with_its_abort() {
        let mut log = Log::default();
        log.commit(None, 1);
        log.commit(Some(7), 2);
        log.commit(Some(8), 3);
        assert_eq!(log.committed(), Some(1));
        log.end(7, TransactionResult::Commit);
        assert_eq!(log.committed(), Some(2));
        log.end(8, TransactionResult::Abort);
        assert_eq!(log.committed(), Some(2));
        log.delete(Some(7));
        assert_eq!(log.committed(), Some(2));
        log.end(7, TransactionResult::Commit);
        assert_eq!(log.committed(), None);
        assert!(log.offsets.pending.is_empty() && log.offsets.latest.is_empty());
    }

    #[test]
    fn the_order_of_the_records_decides_and_not_that_of_the_markers() {
        let mut log = Log::default();
        log.commit(Some(7), 1);
        log.commit(None, 2);
        log.end(7, TransactionResult::Commit);
        assert_eq!(log.committed(), Some(2));
        log.commit(Some(7), 3);
        log.delete(None);
        log.end(7, TransactionResult::Commit);
        assert_eq!(log.committed(), None, "compaction would leave the tombstone");
    }

    #[test]
    fn a_marker_without_a_transaction_and_records_of_other_kinds_change_nothing() {
        let mut log = Log::default();
        log.commit(None, 1);
        log.end(7, TransactionResult::Commit);
        log.append(None, &[0, 2, 0, 1, b'g'], Some(b"a group")).expect("left alone");
        assert_eq!(log.committed(), Some(1));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_an_error_with_its_offset() {
        let mut log = Log::default();
        log.commit(None, 1);
        let (offset, _) = log.append(None, &key(), Some(&[0, 9])).expect_err("version 9");
        assert_eq!(offset.value(), 1);
        let (offset, _) = log.append(None, &[0, 1, 0], Some(&[])).expect_err("a key cut short");
        assert_eq!(offset.value(), 2);
    }
}
