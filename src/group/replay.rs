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
