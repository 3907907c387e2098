//! What idempotent and transactional producers append: batches with sequences, and the markers that end transactions.
//!
//! The table of producers is asked before a batch is written and told after it (reference 6.2). The order of the latter keeps
//! the last stable offset right at every moment: a transaction is open before its first batch can be read, and closed only when
//! its marker is in the log and, for an aborted one, in the transaction index.

use super::append::{Draft, Origin};
use super::offsets::Moving;
use super::producers::{BatchTrace, ProducerError};
use super::{Appended, Durability, Generation, Inner, LogError, Partition};
use crate::format::{
    BatchHeader, Compression, ProducerEntry, ProducerStamp, Record, RecordBatch, TransactionMarker, marker_batch,
};
use crate::segment::Segment;
#[cfg(feature = "client")]
use crate::types::ProducerEpoch;
use crate::types::{Offset, ProducerId, Timestamp};

impl Partition {
    /// Appends records as one batch of an idempotent or transactional producer. A batch that is in the log already, by its
    /// epoch and sequences, isn't written again: [`Appended::is_duplicate`], with the offsets it has. The last five batches of
    /// a producer are known, after reopening the last one. A producer that the log doesn't know may begin with any sequence.
    ///
    /// A transactional batch opens the producer's transaction here, if it isn't open; [`Partition::end_transaction`] ends it.
    ///
    /// # Errors
    /// [`LogError::Producer`] for a fenced epoch, a sequence out of order, or a batch outside of the open transaction, and then
    /// nothing was written; otherwise see [`Partition::append_with`].
    ///
    /// # Example
    ///
    /// ```
    /// use stratalog::format::ProducerStamp;
    /// use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
    /// use stratalog::{Durability, LogStore, Record, TopicConfig};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let store = LogStore::open(folder.path())?;
    /// let payments = store.create_topic("payments", 1, TopicConfig::new())?.partition(0)?;
    /// let stamp = ProducerStamp {
    ///     id: ProducerId::ZERO,
    ///     epoch: ProducerEpoch::ZERO,
    ///     base_sequence: Sequence::ZERO,
    ///     transactional: false,
    /// };
    /// let first = payments.append_from(stamp, &[Record::new("5 euros")], Durability::Written)?;
    /// let again = payments.append_from(stamp, &[Record::new("5 euros")], Durability::Written)?;
    /// assert!(again.is_duplicate && again.base_offset == first.base_offset);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_from(
        &self,
        producer: ProducerStamp,
        records: &[Record<'_>],
        durability: Durability,
    ) -> Result<Appended, LogError> {
        let inner = &self.inner;
        inner.count_failure(inner.append_records(records, Compression::None, Some(producer), durability))
    }

    /// Ends the producer's open transaction with a marker; what it wrote here becomes visible to readers of committed records,
    /// or never does. A marker of a higher epoch than the transaction's fences whoever still writes with the old one.
    ///
    /// Where no transaction of the producer is open the marker is written all the same and fences in the same way, so that a
    /// coordinator may repeat a marker until it knows that it is there.
    ///
    /// # Errors
    /// [`LogError::Producer`] for a lower epoch than the producer's own, or an older coordinator epoch, and then nothing was
    /// written. [`LogError::Segment`] when the disk fails: where the marker is in the log and its entry in the
    /// transaction index isn't, the partition is offline, and reopening it writes the entry.
    pub fn end_transaction(&self, marker: &TransactionMarker, durability: Durability) -> Result<Appended, LogError> {
        self.inner.count_failure(self.inner.append_marker(marker, durability))
    }

    /// What the log knows of its producers, by ascending producer ids.
    #[must_use]
    pub fn producers(&self) -> Vec<ProducerEntry> {
        self.inner.producers.lock().snapshot().entries
    }

    /// The producers with an open transaction and the offset where it begins, the oldest first.
    #[must_use]
    pub fn open_transactions(&self) -> Vec<(ProducerId, Offset)> {
        self.inner.producers.lock().open_transactions().iter().collect()
    }

    /// Whether the producer's last epoch is `epoch` and no transaction of it is open.
    #[cfg(feature = "client")]
    pub(crate) fn has_ended_in(&self, id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.inner.producers.lock().has_ended_in(id, epoch)
    }

    /// Forgets producers without an open transaction that wrote nothing for `producer.id.expiration.ms`; returns how many.
    pub(crate) fn expire_producers(&self, now: Timestamp) -> usize {
        // No append may stand between its check and its note.
        let _writer = self.inner.writer.lock();
        self.inner.producers.lock().expire(now, self.inner.producer_expiration_ms)
    }
}

impl Inner {
    fn append_marker(&self, marker: &TransactionMarker, durability: Durability) -> Result<Appended, LogError> {
        let inside = self.enter_writable()?;
        let settings = self.current_settings();
        let mut bytes = marker_batch(marker);
        let (max_timestamp, origin) = (Some(marker.timestamp), Origin::Marker(*marker));
        let draft = Draft { bytes: &mut bytes, count: 1, max_timestamp, append_time: None, origin };
        self.commit(&inside, &settings, draft, durability)
    }

    /// Whether the log may take what a producer sends; `Some` for a batch that it has.
    pub(super) fn admit(&self, draft: &Draft<'_>) -> Result<Option<BatchTrace>, LogError> {
        let admitted = match &draft.origin {
            Origin::Plain => return Ok(None),
            Origin::Producer(stamp) => self.producers.lock().check(stamp, draft.count),
            Origin::Marker(marker) => self.producers.lock().check_marker(marker).map(|()| None),
        };
        admitted.map_err(|source: ProducerError| LogError::Producer { partition: self.id.clone(), source })
    }

    /// The answer to a batch that is in the log already.
    pub(super) fn answer_duplicate(
        &self,
        known: BatchTrace,
        append_time: Option<Timestamp>,
        durability: Durability,
        written_in: Generation,
    ) -> Result<Appended, LogError> {
        let end = known.last_offset.next();
        if durability == Durability::Durable {
            self.make_durable(end, Some(written_in))?;
        }
        Ok(Appended {
            base_offset: known.first_offset,
            last_offset: known.last_offset,
            timestamp: append_time.and(known.timestamp),
            durability: self.reached(end),
            is_duplicate: true,
        })
    }

    /// Notes a written data batch, before readers can see it.
    pub(super) fn note_data(&self, draft: &Draft<'_>, moving: &Moving<'_>) {
        if matches!(draft.origin, Origin::Producer(_))
            && let Ok(header) = BatchHeader::peek(draft.bytes)
        {
            let mut producers = self.producers.lock();
            producers.note_data(&header);
            moving.set_first_unstable(producers.open_transactions().first_unstable());
        }
    }

    /// Notes a marker that readers can see, in `active`.
    pub(super) fn note_marker(&self, draft: &Draft<'_>, active: &Segment, moving: &Moving<'_>) -> Result<(), LogError> {
        if !matches!(draft.origin, Origin::Marker(_)) {
            return Ok(());
        }
        let refused = |source| LogError::InvalidBatch { partition: self.id.clone(), source };
        let batch = RecordBatch::parse(draft.bytes.to_vec().into()).map_err(refused)?;
        let Some(record) = batch.control_record().map_err(refused)? else { return Ok(()) };
        let mut producers = self.producers.lock();
        let completed = producers.note_marker(batch.header(), &record);
        if let Some(entry) = completed.and_then(|completed| completed.aborted()) {
            active.add_aborted(entry).map_err(|error| self.wrap(error))?;
        }
        moving.set_first_unstable(producers.open_transactions().first_unstable());
        Ok(())
    }
}
