//! Cleaning: a group of segments in, the segments that take their place out, by the rules of Kafka's cleaner (reference 12.4).
//!
//! A [`Pass`] goes over groups of segments from the log's start on and keeps, of the records that a [`Survey`] knows about, the newest of
//! each key. Every batch's checksum is verified once, by the survey or here. The sources are not changed.
//!
//! Choosing what to clean, and putting the outcome in place, is for the caller.

use std::collections::HashMap;
use std::sync::Arc;

use super::key_map::{FETCH_COUNT, KeyHash};
use super::survey::Survey;
use super::transactions::{Marker, Transactions};
use super::walk::{Amount, Stopped, Walk, Watch, tell};
use crate::format::{
    AbortedTransaction, BatchHeader, FormatError, ProducerEntry, RecordBatch, RecordRef, Records, Rewriter, Survivors,
    empty_batch,
};
use crate::segment::{BatchFacts, CleanedSegment, Segment, SegmentError};
use crate::types::{Offset, ProducerId, Timestamp};

/// What a pass knows of the log before it begins.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// Records from its end on stay.
    pub survey: &'a Survey,
    /// The batch before this offset stays at least as a header, so that the last offset is known.
    pub first_uncleanable: Offset,
    /// The producers that may write again.
    pub producers: &'a [ProducerEntry],
    /// The aborted transactions of the whole log.
    pub aborted: &'a [AbortedTransaction],
    /// Where the pass begins.
    pub start: Offset,
    pub now: Timestamp,
    /// `delete.retention.ms`.
    pub delete_retention_ms: u64,
    /// Segments last written after this keep tombstones of magic 0 and 1.
    pub legacy_horizon: Option<Timestamp>,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Records before; those of an emptied batch no more.
    pub records_read: u64,
    pub records_written: u64,
    /// Records without a key, which can't be compacted and are dropped.
    pub unkeyed: u64,
}

/// One cleaning of a log, group by group in offset order.
pub(super) struct Pass<'a> {
    known: Known<'a>,
    producers: HashMap<ProducerId, ProducerEntry>,
    transactions: Transactions,
    rewriter: Rewriter,
    /// Memory for the keys that are looked up next.
    keys: Vec<Option<KeyHash>>,
    /// How many records the survey had counted when it came here; `None` in a segment that it did not read.
    counted: Option<u32>,
    counts: Counts,
}

/// What becomes of a batch.
enum Fate<'b> {
    Goes,
    /// With the bytes it has.
    Stays,
    Becomes(&'b [u8]),
    /// A header without records.
    IsEmptied,
}

impl<'a> Pass<'a> {
    pub(super) fn new(known: Known<'a>) -> Self {
        let producers = known.producers.iter().map(|entry| (entry.producer_id, *entry)).collect();
        let transactions = Transactions::new(known.aborted, known.start);
        let (rewriter, keys) = (Rewriter::default(), Vec::with_capacity(FETCH_COUNT));
        Self { known, producers, transactions, rewriter, keys, counted: None, counts: Counts::default() }
    }

    /// What was done so far.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Cleans a group into the segments that take its place: one, which may be empty, unless it doesn't fit into one.
    pub(super) fn clean(
        &mut self,
        group: &[Arc<Segment>],
        create: &dyn Fn(Offset) -> Result<CleanedSegment, SegmentError>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Segment>, Stopped> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(Vec::new()) };
        let modified = last.modified()?;
        let mut output = Output { finished: Vec::new(), current: create(first.base_offset())?, modified, create };
        match self.clean_into(group, &mut output, watch).and_then(|()| Ok(output.current.finish(modified)?)) {
            Ok(segment) => {
                output.finished.push(segment);
                Ok(output.finished)
            }
            Err(error) => {
                for segment in &output.finished {
                    segment.remove()?;
                }
                Err(error)
            }
        }
    }

    fn clean_into(
        &mut self,
        group: &[Arc<Segment>],
        output: &mut Output<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(), Stopped> {
        for segment in group {
            let keeps_legacy = match (segment.modified()?, self.known.legacy_horizon) {
                (Some(modified), Some(horizon)) => modified > horizon,
                _ => true,
            };
            self.counted = self.known.survey.counted_before(segment);
            let mut walk = Walk::new(segment)?;
            loop {
                let is_verified = self.counted.is_some() && self.known.survey.has_verified(walk.next_offset());
                let parse = if is_verified { RecordBatch::parse_unverified } else { RecordBatch::parse };
                let Some(batch) = walk.next(parse)? else { break };
                let written = self.clean_batch(&batch, keeps_legacy, &walk, output)?;
                let read = batch.header().size().into();
                self.counts.bytes_read += read;
                self.counts.bytes_written += written;
                tell(watch, Amount { read, written })?;
            }
        }
        Ok(())
    }

    /// Decides about one batch and writes what is left of it; returns how many bytes that is.
    fn clean_batch(
        &mut self,
        batch: &RecordBatch,
        keeps_legacy: bool,
        walk: &Walk<'_>,
        output: &mut Output<'_>,
    ) -> Result<u64, SegmentError> {
        let header = batch.header();
        let base = batch.base_offset().map_err(|error| walk.error(batch, error))?;
        let (fate, aborted) = self.decide(batch, keeps_legacy).map_err(|error| walk.error(batch, error))?;
        let emptied;
        let bytes = match fate {
            Fate::Goes => return Ok(0),
            Fate::Stays => batch.bytes(),
            Fate::Becomes(bytes) => bytes,
            Fate::IsEmptied => {
                emptied = empty_batch(header);
                &emptied
            }
        };
        output.write(bytes, base).map_err(|error| match error {
            Refused::Format(error) => walk.error(batch, error),
            Refused::Segment(error) => error,
        })?;
        if let Some(aborted) = aborted {
            output.current.add_aborted(aborted)?;
        }
        Ok(bytes.len() as u64)
    }

    /// What becomes of a batch, and the entry of its transaction in the `.txnindex` if that is still needed.
    fn decide(
        &mut self,
        batch: &RecordBatch,
        keeps_legacy: bool,
    ) -> Result<(Fate<'_>, Option<AbortedTransaction>), FormatError> {
        let header = *batch.header();
        let (mut is_spent, mut aborted) = (false, None);
        let discards = if header.is_control() {
            match self.transactions.marker(batch)? {
                Marker::InUse(entry) => aborted = entry,
                Marker::Spent => is_spent = true,
            }
            is_spent && header.delete_horizon().is_some_and(|horizon| horizon <= self.known.now)
        } else {
            self.transactions.is_aborted(&header)
        };
        let survivors = self.survivors(batch, &header, discards, keeps_legacy)?;
        self.counts.records_read += u64::from(survivors.records);
        self.counts.records_written += u64::from(survivors.kept);
        let fate = if survivors.kept == 0 {
            self.fate_without_records(&header)
        } else {
            self.fate_with_records(batch, survivors, is_spent)?
        };
        Ok((fate, aborted))
    }

    /// Which records of a batch stay: they are in the rewriter then.
    fn survivors(
        &mut self,
        batch: &RecordBatch,
        header: &BatchHeader,
        discards: bool,
        keeps_legacy: bool,
    ) -> Result<Survivors, FormatError> {
        let judge = Judge { known: &self.known, header, discards, keeps_legacy };
        let unkeyed = &mut self.counts.unkeyed;
        if discards || header.is_control() {
            return self.rewriter.filter(batch, |record| judge.keeps(record, |_| false, unkeyed));
        }
        let survey = self.known.survey;
        let Some(first) = self.counted.filter(|_| survey.counts(header)) else {
            let mut older = Older::of(survey, batch, &mut self.keys);
            return self.rewriter.filter(batch, |record| {
                let is_superseded = older.next();
                judge.keeps(record, |_| is_superseded, unkeyed)
            });
        };
        let count = header.record_count();
        if header.magic() == 2 && count > 0 && survey.are_all_superseded(first, count) {
            self.counted = Some(first.saturating_add(count));
            return Ok(Survivors { records: count, ..Survivors::default() });
        }
        let mut place = first;
        let survivors = self.rewriter.filter(batch, |record| {
            let here = place;
            place = place.saturating_add(1);
            judge.keeps(record, |key| survey.is_superseded(here, record.offset(), key), unkeyed)
        })?;
        self.counted = Some(place);
        Ok(survivors)
    }

    fn fate_without_records(&self, header: &BatchHeader) -> Fate<'static> {
        match (self.must_stay_known(header), header.magic()) {
            (false, _) => Fate::Goes,
            (true, 2) => Fate::IsEmptied,
            // The old formats know no empty batch.
            (true, _) => Fate::Stays,
        }
    }

    fn fate_with_records(
        &mut self,
        batch: &RecordBatch,
        survivors: Survivors,
        is_spent: bool,
    ) -> Result<Fate<'_>, FormatError> {
        let header = batch.header();
        let is_undated = header.magic() == 2 && header.delete_horizon().is_none();
        let gets_horizon = is_undated && (survivors.has_tombstone || is_spent);
        if survivors.kept == survivors.records && !gets_horizon {
            return Ok(Fate::Stays);
        }
        let horizon = gets_horizon.then(|| self.known.now.saturating_add(self.known.delete_retention_ms));
        self.rewriter.encode(batch, horizon).map(Fate::Becomes)
    }

    /// Whether offset and sequence of a batch without records are still needed: it is the last one that a producer wrote, or the
    /// last one that can be cleaned.
    fn must_stay_known(&self, header: &BatchHeader) -> bool {
        let is_producers_last =
            header.producer_id().and_then(|id| self.producers.get(&id)).is_some_and(|entry| match entry.last_offset {
                Some(last) => header.last_offset() == last,
                None => header.is_control() && header.producer_epoch() == Some(entry.producer_epoch),
            });
        is_producers_last || header.last_offset().next() == self.known.first_uncleanable
    }
}

/// Which records of one batch stay.
struct Judge<'a> {
    known: &'a Known<'a>,
    header: &'a BatchHeader,
    discards: bool,
    keeps_legacy: bool,
}

impl Judge<'_> {
    /// `is_superseded` tells of the record's key whether a newer record has it.
    fn keeps(&self, record: &RecordRef<'_>, is_superseded: impl FnOnce(&[u8]) -> bool, unkeyed: &mut u64) -> bool {
        if self.discards {
            return false;
        }
        if self.header.is_control() || record.offset() >= self.known.survey.end() {
            return true;
        }
        let Some(key) = record.key() else {
            *unkeyed += 1;
            return false;
        };
        !is_superseded(key) && (record.value().is_some() || self.keeps_tombstones())
    }

    fn keeps_tombstones(&self) -> bool {
        if self.header.magic() < 2 {
            return self.keeps_legacy;
        }
        self.header.delete_horizon().is_none_or(|horizon| self.known.now < horizon)
    }
}

/// Whether the records of a batch that is older than the survey have newer ones in it, looked up some ahead.
struct Older<'a> {
    survey: &'a Survey,
    ahead: Records<'a>,
    keys: &'a mut Vec<Option<KeyHash>>,
    /// The next one of `keys`.
    at: usize,
}

impl<'a> Older<'a> {
    fn of(survey: &'a Survey, batch: &'a RecordBatch, keys: &'a mut Vec<Option<KeyHash>>) -> Self {
        keys.clear();
        Self { survey, ahead: batch.records(), keys, at: 0 }
    }

    /// Whether the next record has given way.
    fn next(&mut self) -> bool {
        if self.at == self.keys.len() {
            self.look_ahead();
        }
        let key = self.keys.get(self.at).copied().flatten();
        self.at += 1;
        key.is_some_and(|key| self.survey.map().contains(key))
    }

    fn look_ahead(&mut self) {
        self.at = 0;
        self.keys.clear();
        // Whoever reads the records one by one meets the same error.
        for record in self.ahead.by_ref().take(FETCH_COUNT).map_while(Result::ok) {
            let key = record.key().filter(|_| record.offset() < self.survey.end());
            self.keys.push(key.map(|key| self.survey.map().hash(key)));
        }
        self.survey.map().fetch(self.keys.iter().flatten().copied());
    }
}

/// Where a group's batches go.
struct Output<'a> {
    finished: Vec<Segment>,
    current: CleanedSegment,
    modified: Option<Timestamp>,
    create: &'a dyn Fn(Offset) -> Result<CleanedSegment, SegmentError>,
}

enum Refused {
    Format(FormatError),
    Segment(SegmentError),
}

impl From<SegmentError> for Refused {
    fn from(error: SegmentError) -> Self {
        Self::Segment(error)
    }
}

impl Output<'_> {
    /// Writes one batch. Horizons and another encoder can make batches larger than they were: where no room is left, the
    /// segment is finished, and another one begins at `base`.
    fn write(&mut self, bytes: &[u8], base: Offset) -> Result<(), Refused> {
        let header = BatchHeader::peek(bytes).map_err(Refused::Format)?;
        if self.current.size() > 0 && !self.current.has_room_for(bytes.len() as u64, header.last_offset()) {
            let full = std::mem::replace(&mut self.current, (self.create)(base)?);
            self.finished.push(full.finish(self.modified)?);
        }
        Ok(self.current.append(bytes, BatchFacts::from(&header))?)
    }
}

#[cfg(test)]
mod tests;
