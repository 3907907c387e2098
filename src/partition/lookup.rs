//! Finding an offset by name or by time (reference 5.2, 5.3; Kafka's `ListOffsets`).

use std::sync::Arc;

use super::segments::SegmentList;
use super::{LogError, Partition};
use crate::format::RecordBatch;
use crate::segment::{Segment, SegmentError};
use crate::types::{LeaderEpoch, Offset, Position, Timestamp};

/// Which offset is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetSpec {
    /// The log start offset (Kafka's -2).
    Earliest,
    /// The high watermark (Kafka's -1).
    Latest,
    /// The first record with the greatest timestamp (Kafka's -3), of those that can be read: at or above the log start, and
    /// in no aborted transaction. Records of open transactions count.
    MaxTimestamp,
    /// The first record whose timestamp is at or after this one.
    Timestamp(Timestamp),
}

/// An offset that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundOffset {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp; `None` for [`OffsetSpec::Earliest`] and [`OffsetSpec::Latest`].
    pub timestamp: Option<Timestamp>,
    /// The leader epoch the offset belongs to, where it is known.
    pub leader_epoch: Option<LeaderEpoch>,
}

impl Partition {
    /// Finds an offset; `None` when no record qualifies.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the disk fails or the log is damaged where it was looked into; [`LogError::Changed`]
    /// read-only, see there; [`LogError::Closed`].
    pub fn find_offset(&self, spec: OffsetSpec) -> Result<Option<FoundOffset>, LogError> {
        self.inner.check_open()?;
        if self.inner.read_only {
            self.follow_log_start();
            let is_of_all = matches!(spec, OffsetSpec::Latest | OffsetSpec::MaxTimestamp);
            return self.following(|| self.find_now(spec), |found| found.is_none() || is_of_all);
        }
        self.again_if_cut(|| self.find_now(spec))
    }

    fn find_now(&self, spec: OffsetSpec) -> Result<Option<FoundOffset>, LogError> {
        let found = match spec {
            OffsetSpec::Earliest => Ok(Some((self.log_start_offset(), None))),
            OffsetSpec::Latest => Ok(Some((self.high_watermark(), None))),
            OffsetSpec::MaxTimestamp => {
                self.find_max_timestamp().map(|found| found.map(|(offset, timestamp)| (offset, Some(timestamp))))
            }
            OffsetSpec::Timestamp(target) => self.find_timestamp(target),
        };
        let found = found.map_err(|error| self.inner.wrap(error))?;
        if let Some((offset, Some(_))) = found
            && self.inner.read_only
        {
            self.check_unchanged_at(offset)?;
        }
        Ok(found.map(|(offset, timestamp)| FoundOffset {
            offset,
            timestamp,
            leader_epoch: self.inner.epochs.epoch_for(offset),
        }))
    }

    /// Refuses what was found in a sealed segment that another process has replaced meanwhile.
    fn check_unchanged_at(&self, offset: Offset) -> Result<(), LogError> {
        let list = self.inner.list();
        let place = list.from(offset).next().filter(|segment| !Arc::ptr_eq(segment, list.active()));
        place.map_or(Ok(()), |segment| segment.check_unchanged()).map_err(|error| self.inner.wrap(error))
    }

    /// Refuses what was found in the segment at `base` where the log has a hole before it: a record that is lost may have been the answer.
    pub(super) fn check_reached(&self, list: &SegmentList, start: Offset, base: Offset) -> Result<(), SegmentError> {
        list.check_reaching(start, base, |segment, next| self.inner.check_reaches(segment, next))
    }

    /// Refuses an answer that rests on several files of another process, where the log was cut meanwhile: some may be old ones, and others new.
    /// A cut takes or replaces the last one.
    pub(super) fn check_not_cut(&self, list: &SegmentList) -> Result<(), SegmentError> {
        if self.inner.read_only { list.active().check_still_followed() } else { Ok(()) }
    }

    fn find_timestamp(&self, target: Timestamp) -> Result<Option<(Offset, Option<Timestamp>)>, SegmentError> {
        let start = self.log_start_offset();
        let list = self.inner.list();
        for segment in list.since(target, start)? {
            let is_candidate = segment.ceiling()?.is_some_and(|largest| largest >= target);
            if !is_candidate {
                continue;
            }
            // A batch may qualify by a record below the log start only; then the search goes on behind it.
            let mut from = start;
            while let Some((position, batch)) = segment.find_by_time(target, from)? {
                let found = first_record(segment, position, &batch, start, |timestamp| timestamp >= target)?;
                if let Some((offset, timestamp)) = found {
                    self.check_reached(&list, start, segment.base_offset())?;
                    self.check_not_cut(&list)?;
                    return Ok(Some((offset, Some(timestamp))));
                }
                from = batch.last_offset().next();
            }
        }
        self.check_reached(&list, start, list.active().base_offset())?;
        self.check_not_cut(&list)?;
        Ok(None)
    }
}

/// The first record at or after `start` whose timestamp `qualifies`.
fn first_record(
    segment: &Segment,
    position: Position,
    batch: &RecordBatch,
    start: Offset,
    qualifies: impl Fn(Timestamp) -> bool,
) -> Result<Option<(Offset, Timestamp)>, SegmentError> {
    for record in batch.records() {
        let record = record.map_err(|source| segment.format_error(position, source))?;
        if let Some(timestamp) = record.timestamp()
            && record.offset() >= start
            && qualifies(timestamp)
        {
            return Ok(Some((record.offset(), timestamp)));
        }
    }
    Ok(None)
}
