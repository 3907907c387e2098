//! The first readable record with the greatest timestamp (reference 5.3).
//!
//! Readable is what a consumer may get: at or above the log start, no control record, not in an aborted transaction. Each
//! segment remembers the greatest timestamp of its batches, which no record of it exceeds. Usually the record that has it is
//! readable, and two small reads find it. Where it isn't, or compaction left a batch without it, the segment's batch
//! headers are gone through and batches are looked into, those with the greatest timestamps first.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::transactions::aborted_between;
use super::{Partition, View};
use crate::format::{BatchHeader, RecordBatch};
use crate::segment::{Segment, SegmentError};
use crate::types::{Offset, Position, Timestamp};

/// How many batches are chosen in one pass over a segment's headers.
const CHOSEN_MAX: usize = 256;

/// A batch by its greatest timestamp, descending, then by its offset.
type Candidate = (Reverse<Timestamp>, Offset, Position);

impl Partition {
    /// The record and its timestamp; `None` when no readable record has a timestamp.
    pub(super) fn find_max_timestamp(&self) -> Result<Option<(Offset, Timestamp)>, SegmentError> {
        let view = self.inner.view();
        let mut search = Search { view: &view, best: None };
        search.run()?;
        self.check_reached(&view.list, view.log_start, view.list.active().base_offset())?;
        self.check_not_cut(&view.list)?;
        Ok(search.best)
    }
}

/// One search of a log.
struct Search<'a> {
    view: &'a View,
    best: Option<(Offset, Timestamp)>,
}

impl Search<'_> {
    fn run(&mut self) -> Result<(), SegmentError> {
        // Usually the first segment with the greatest timestamp of all has it in a record that can be read, and no other is asked.
        if let Some((segment, greatest)) = self.view.list.peak()?
            && self.is_readable(segment)
            && self.try_peak(segment, greatest)?
        {
            return Ok(());
        }
        self.search_all()
    }

    /// Whether a segment reaches above the log start.
    fn is_readable(&self, segment: &Segment) -> bool {
        self.view
            .list
            .from(self.view.log_start)
            .next()
            .is_some_and(|first| first.base_offset() <= segment.base_offset())
    }

    fn search_all(&mut self) -> Result<(), SegmentError> {
        let mut segments: Vec<(Reverse<Timestamp>, &Arc<Segment>)> = Vec::new();
        for segment in self.view.list.from(self.view.log_start) {
            segments.extend(segment.ceiling()?.map(|largest| (Reverse(largest), segment)));
        }
        segments.sort_by_key(|(largest, segment)| (*largest, segment.base_offset()));
        for (Reverse(largest), segment) in segments {
            if !self.may_improve(largest, segment.base_offset()) {
                break;
            }
            if !self.try_peak(segment, largest)? {
                self.go_through(segment)?;
            }
        }
        Ok(())
    }

    /// Whether a record at or above `first` with a timestamp of at most `greatest` can be better than the best so far.
    fn may_improve(&self, greatest: Timestamp, first: Offset) -> bool {
        self.best.is_none_or(|(offset, timestamp)| greatest > timestamp || greatest == timestamp && first < offset)
    }

    /// Looks for the segment's greatest timestamp where its time index says that it is; returns whether it is there.
    fn try_peak(&mut self, segment: &Segment, largest: Timestamp) -> Result<bool, SegmentError> {
        let before = self.best;
        if let Some((position, batch)) = segment.find_by_time(largest, self.view.log_start)? {
            self.look_into(segment, position, &batch)?;
        }
        Ok(self.best != before && self.best.is_some_and(|(_, timestamp)| timestamp == largest))
    }

    fn go_through(&mut self, segment: &Segment) -> Result<(), SegmentError> {
        let mut behind = None;
        loop {
            let chosen = self.choose(segment, behind)?;
            for (Reverse(greatest), first, position) in &chosen {
                if !self.may_improve(*greatest, *first) {
                    return Ok(());
                }
                if let Some(batch) = segment.batch_at(*position)? {
                    self.look_into(segment, *position, &batch)?;
                }
            }
            if chosen.len() < CHOSEN_MAX {
                return Ok(());
            }
            behind = chosen.last().copied();
        }
    }

    /// The most promising batches of a segment, of those that come after `behind`.
    fn choose(&self, segment: &Segment, behind: Option<Candidate>) -> Result<BTreeSet<Candidate>, SegmentError> {
        let mut chosen = BTreeSet::new();
        for item in segment.headers_from(self.view.log_start)? {
            let (position, header) = item?;
            if header.base_offset() >= self.view.log_end {
                break;
            }
            let Some(greatest) = header.max_timestamp().filter(|_| self.may_hold_readable(&header)) else { continue };
            let candidate = (Reverse(greatest), header.base_offset(), position);
            if behind.is_none_or(|behind| candidate > behind) && self.may_improve(greatest, header.base_offset()) {
                chosen.insert(candidate);
                if chosen.len() > CHOSEN_MAX {
                    chosen.pop_last();
                }
            }
        }
        Ok(chosen)
    }

    fn may_hold_readable(&self, header: &BatchHeader) -> bool {
        let is_empty = header.magic() == 2 && header.record_count() == 0;
        header.last_offset() >= self.view.log_start && !header.is_control() && !is_empty
    }

    fn look_into(&mut self, segment: &Segment, position: Position, batch: &RecordBatch) -> Result<(), SegmentError> {
        let header = batch.header();
        if !self.may_hold_readable(header) || self.is_aborted(header)? {
            return Ok(());
        }
        for record in batch.records() {
            let record = record.map_err(|source| segment.format_error(position, source))?;
            let is_inside = record.offset() >= self.view.log_start && record.offset() < self.view.log_end;
            if let Some(timestamp) = record.timestamp().filter(|_| is_inside)
                && self.may_improve(timestamp, record.offset())
            {
                self.best = Some((record.offset(), timestamp));
            }
        }
        Ok(())
    }

    fn is_aborted(&self, header: &BatchHeader) -> Result<bool, SegmentError> {
        if !header.is_transactional() {
            return Ok(false);
        }
        let end = header.last_offset().next();
        let aborted = aborted_between(&self.view.list, header.base_offset(), end)?;
        Ok(aborted.iter().any(|(producer, _)| Some(*producer) == header.producer_id()))
    }
}
