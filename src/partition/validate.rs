//! What an append must satisfy before it gets offsets (reference 2.10).

use super::LogError;
use crate::config::TopicSettings;
use crate::format::{FormatError, RecordBatch};
use crate::name::TopicPartition;
use crate::types::{Position, Timestamp, TimestampType};

/// The rules of one append: the topic's config and the clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub partition: &'a TopicPartition,
    pub settings: &'a TopicSettings,
    pub now: Timestamp,
}

impl Rules<'_> {
    /// The rules of a single record: a key where the topic is compacted, a timestamp near the clock where producers set it.
    pub(super) fn check_record(
        &self,
        index: usize,
        key: Option<&[u8]>,
        timestamp: Option<Timestamp>,
    ) -> Result<(), LogError> {
        if key.is_none() && self.settings.cleanup_policy.compacts() {
            return Err(LogError::InvalidRecord {
                partition: self.partition.clone(),
                index,
                expected: "a key, because the topic is compacted",
                got: "a null key".to_owned(),
            });
        }
        match timestamp {
            Some(got) if self.settings.message_timestamp_type == TimestampType::Create => self.check_time(index, got),
            _ => Ok(()),
        }
    }

    fn check_time(&self, index: usize, got: Timestamp) -> Result<(), LogError> {
        let behind = u64::try_from(self.now.millis_since(got)).unwrap_or(0);
        let ahead = u64::try_from(got.millis_since(self.now)).unwrap_or(0);
        let (before, after) =
            (self.settings.message_timestamp_before_max_ms, self.settings.message_timestamp_after_max_ms);
        if behind <= before && ahead <= after {
            return Ok(());
        }
        let earliest = i64::try_from(before).ok().and_then(|ms| self.now.millis().checked_sub(ms));
        Err(LogError::InvalidTimestamp {
            partition: self.partition.clone(),
            index,
            got,
            earliest: earliest.and_then(Timestamp::from_millis).unwrap_or(Timestamp::ZERO),
            latest: self.now.saturating_add(after),
        })
    }

    /// The size limits of an encoded batch.
    pub(super) fn check_size(&self, size: usize) -> Result<(), LogError> {
        let limits = [
            (u64::from(self.settings.max_message_bytes), "max.message.bytes"),
            (u64::from(self.settings.segment_bytes), "segment.bytes"),
        ];
        for (limit, limit_key) in limits {
            if size as u64 > limit {
                return Err(LogError::TooLarge {
                    partition: self.partition.clone(),
                    got: size as u64,
                    limit,
                    limit_key,
                });
            }
        }
        Ok(())
    }

    /// Refuses bytes behind the batch.
    pub(super) fn check_whole(&self, batch: &RecordBatch, size: usize) -> Result<(), LogError> {
        let whole = batch.bytes().len();
        let got = i64::try_from(size).unwrap_or(i64::MAX);
        self.expect(whole == size, "batchLength", "one batch and nothing behind it", got)
    }

    /// Every rule for a batch that a producer encoded: one data batch v2, dense offsets from 0, legal records.
    /// Returns the greatest record timestamp.
    pub(super) fn check_batch(&self, batch: &RecordBatch) -> Result<Option<Timestamp>, LogError> {
        let header = batch.header();
        let count = i64::from(header.record_count());
        self.expect(header.magic() == 2, "magic", "2", i64::from(header.magic()))?;
        self.expect(!header.is_control(), "attributes", "a data batch", 1)?;
        self.expect(header.base_offset().value() == 0, "baseOffset", "0", header.base_offset().value())?;
        let span = header.last_offset().value() + 1;
        self.expect(count > 0 && count == span, "recordsCount", "lastOffsetDelta + 1", count)?;
        let has_id = header.producer_id().is_some();
        let sequenced = !has_id || header.base_sequence().is_some();
        self.expect(sequenced, "baseSequence", "0 or more with a producer id", -1)?;
        let epoch = !has_id || header.producer_epoch().is_some();
        self.expect(epoch, "producerEpoch", "0 or more with a producer id", -1)?;
        self.expect(has_id || !header.is_transactional(), "producerId", "0 or more in a transactional batch", -1)?;
        self.expect(
            header.delete_horizon().is_none(),
            "attributes",
            "no delete horizon, which only a cleaner sets",
            1,
        )?;
        let log_append = header.timestamp_type() == Some(TimestampType::LogAppend);
        self.expect(!log_append, "attributes", "CreateTime", 1)?;
        let mut greatest = None;
        for (index, record) in batch.records().enumerate() {
            let record = record.map_err(|source| self.invalid(source))?;
            let expected = i64::try_from(index).unwrap_or(i64::MAX);
            self.expect(record.offset().value() == expected, "offsetDelta", "0, 1, 2, ...", record.offset().value())?;
            self.check_record(index, record.key(), record.timestamp())?;
            greatest = greatest.max(record.timestamp());
        }
        Ok(greatest)
    }

    fn expect(&self, holds: bool, field: &'static str, expected: &'static str, got: i64) -> Result<(), LogError> {
        if holds {
            return Ok(());
        }
        Err(self.invalid(FormatError::Invalid { field, position: Position::ZERO, expected, got }))
    }

    pub(super) fn invalid(&self, source: FormatError) -> LogError {
        LogError::InvalidBatch { partition: self.partition.clone(), source }
    }
}
