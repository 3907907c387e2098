//! Cleaning: a group of segments in, the segments that take their place out, by the rules of Kafka's cleaner (reference 12.4).
//!
//! First [`build`] reads what has been written since the last cleaning and maps each key to its newest offset. Then a [`Pass`] goes
//! over groups of segments from the log's start on and keeps, of the records that the map knows about, the newest of each key.
//! Every batch's checksum is verified before anything of it is written or left out; building the map goes without, as it drops
//! nothing. Whatever is read is checked like bytes from anywhere. The sources are not changed.
//!
//! Choosing what to clean, and putting the outcome in place, is for the caller.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::key_map::{FETCH_COUNT, KeyHash, KeyMap};
use super::transactions::{Marker, Transactions};
use crate::format::{
    AbortedTransaction, BatchHeader, FormatError, ProducerEntry, RecordBatch, RecordRef, Records, Rewriter, Survivors,
    empty_batch,
};
use crate::segment::{BatchFacts, CleanedSegment, Segment, SegmentError};
use crate::types::{Offset, Position, ProducerId, Timestamp};

/// Why cleaning ended early. What it had written is removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// The disk failed, or a batch is damaged.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Whoever watches said so.
    #[error("cancelled")]
    Cancelled,
}

/// Who is told of every few bytes read and written, and may end the work.
pub(super) type Watch<'a> = dyn FnMut(Amount) -> ControlFlow<()> + 'a;

/// Bytes of batches that went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    pub read: u64,
    pub written: u64,
}

fn tell(watch: &mut Watch<'_>, amount: Amount) -> Result<(), Stopped> {
    match watch(amount) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Stopped::Cancelled),
    }
}

/// The batches of one sealed segment in order, without copying them.
struct Walk<'a> {
    segment: &'a Segment,
    bytes: Bytes,
    at: usize,
    /// No batch may begin below: a base offset is not covered by its checksum.
    next: Offset,
}

impl<'a> Walk<'a> {
    fn new(segment: &'a Segment) -> Result<Self, SegmentError> {
        Ok(Self { segment, bytes: segment.bytes()?, at: 0, next: segment.base_offset() })
    }

    /// The next batch. Unlike a reader, who stops at an incomplete batch, this is an error in a sealed segment.
    fn next(
        &mut self,
        parse: fn(Bytes) -> Result<RecordBatch, FormatError>,
    ) -> Result<Option<RecordBatch>, SegmentError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.iter().take(BatchHeader::PEEK_SIZE).all(|byte| *byte == 0) {
            return Ok(None);
        }
        let position = Position::new(self.at as u64);
        let batch = parse(self.bytes.slice(self.at..)).map_err(|error| self.segment.format_error(position, error))?;
        let header = batch.header();
        if header.base_offset() < self.next {
            let (field, expected) = ("base offset", "an offset above those before it");
            let got = header.base_offset().value();
            let error = FormatError::Invalid { field, position: Position::ZERO, expected, got };
            return Err(self.segment.format_error(position, error));
        }
        self.next = header.last_offset().next();
        self.at += header.size() as usize;
        Ok(Some(batch))
    }

    /// An error in the records of the batch that came last.
    fn error(&self, batch: &RecordBatch, error: FormatError) -> SegmentError {
        let start = self.at.saturating_sub(batch.header().size() as usize);
        self.segment.format_error(Position::new(start as u64), error)
    }
}

/// Maps the keys from `start` up to `end` in `segments`, which reach from the one that holds `start` to the one before `end`.
/// Returns up to where the map knows the log: the first record whose key did not fit, else `end`. That is above `start` if there
/// is anything, since one key fits into any map.
pub(super) fn build(
    map: &mut KeyMap,
    segments: &[Arc<Segment>],
    aborted: &[AbortedTransaction],
    (start, end): (Offset, Offset),
    watch: &mut Watch<'_>,
) -> Result<Offset, Stopped> {
    let mut transactions = Transactions::new(aborted, start);
    let mut chunk = Vec::with_capacity(FETCH_COUNT);
    for segment in segments {
        let mut walk = Walk::new(segment)?;
        while let Some(batch) = walk.next(RecordBatch::parse_unverified)? {
            let header = batch.header();
            if header.last_offset() < start {
                continue;
            }
            // A batch reaches over the end only where a transaction begins inside of it, which none does.
            if header.base_offset() >= end {
                return Ok(end);
            }
            tell(watch, Amount { read: header.size().into(), written: 0 })?;
            if header.is_control() {
                transactions.marker(&batch).map_err(|error| walk.error(&batch, error))?;
            } else if !transactions.is_aborted(header)
                && let Some(full) =
                    put_all(map, &mut chunk, &batch, start..end).map_err(|error| walk.error(&batch, error))?
            {
                return Ok(full);
            }
        }
    }
    Ok(end)
}

/// Puts the keys of the records of `range` in a batch into the map; returns the offset of the first one that does not fit.
fn put_all(
    map: &mut KeyMap,
    chunk: &mut Vec<(KeyHash, Offset)>,
    batch: &RecordBatch,
    range: Range<Offset>,
) -> Result<Option<Offset>, FormatError> {
    let mut records = batch.records();
    loop {
        chunk.clear();
        let mut is_done = true;
        for record in records.by_ref().take(FETCH_COUNT) {
            let record = record?;
            is_done = false;
            if let (Some(key), true) = (record.key(), range.contains(&record.offset())) {
                chunk.push((map.hash(key), record.offset()));
            }
        }
        if is_done {
            return Ok(None);
        }
        map.fetch(chunk.iter().map(|(key, _)| *key));
        for &(key, offset) in chunk.iter() {
            if !map.put(key, offset) {
                return Ok(Some(offset));
            }
        }
    }
}

/// What a pass knows of the log before it begins.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// The newest offsets of the keys below `end`.
    pub map: &'a KeyMap,
    /// Records from here on stay: the map doesn't know what follows them.
    pub end: Offset,
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
        Self { known, producers, transactions, rewriter, keys, counts: Counts::default() }
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
            let mut walk = Walk::new(segment)?;
            while let Some(batch) = walk.next(RecordBatch::parse)? {
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
        let judge = Judge { known: &self.known, header: &header, discards, keeps_legacy };
        let unkeyed = &mut self.counts.unkeyed;
        let mut newest = Newest::of(&self.known, batch, &mut self.keys);
        let looks_up = !discards && !header.is_control();
        let survivors = self.rewriter.filter(batch, |record| {
            let newest = if looks_up { newest.next() } else { None };
            judge.keeps(record, newest, unkeyed)
        })?;
        self.counts.records_read += u64::from(survivors.records);
        self.counts.records_written += u64::from(survivors.kept);
        let fate = if survivors.kept == 0 {
            self.fate_without_records(&header)
        } else {
            self.fate_with_records(batch, survivors, is_spent)?
        };
        Ok((fate, aborted))
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
    /// `newest` is what the map knows of the record's key.
    fn keeps(&self, record: &RecordRef<'_>, newest: Option<Offset>, unkeyed: &mut u64) -> bool {
        if self.discards {
            return false;
        }
        if self.header.is_control() || record.offset() >= self.known.end {
            return true;
        }
        if record.key().is_none() {
            *unkeyed += 1;
            return false;
        }
        let is_newest = newest.is_none_or(|newest| record.offset() >= newest);
        is_newest && (record.value().is_some() || self.keeps_tombstones())
    }

    fn keeps_tombstones(&self) -> bool {
        if self.header.magic() < 2 {
            return self.keeps_legacy;
        }
        self.header.delete_horizon().is_none_or(|horizon| self.known.now < horizon)
    }
}

/// What the map knows of the keys of a batch, record by record, looked up some ahead.
struct Newest<'a> {
    known: &'a Known<'a>,
    ahead: Records<'a>,
    keys: &'a mut Vec<Option<KeyHash>>,
    /// The next one of `keys`.
    at: usize,
}

impl<'a> Newest<'a> {
    fn of(known: &'a Known<'a>, batch: &'a RecordBatch, keys: &'a mut Vec<Option<KeyHash>>) -> Self {
        keys.clear();
        Self { known, ahead: batch.records(), keys, at: 0 }
    }

    /// The newest offset of the next record's key.
    fn next(&mut self) -> Option<Offset> {
        if self.at == self.keys.len() {
            self.look_ahead();
        }
        let key = self.keys.get(self.at).copied().flatten();
        self.at += 1;
        key.and_then(|key| self.known.map.get(key))
    }

    fn look_ahead(&mut self) {
        self.at = 0;
        self.keys.clear();
        // Whoever reads the records one by one meets the same error.
        for record in self.ahead.by_ref().take(FETCH_COUNT).map_while(Result::ok) {
            let key = record.key().filter(|_| record.offset() < self.known.end);
            self.keys.push(key.map(|key| self.known.map.hash(key)));
        }
        self.known.map.fetch(self.keys.iter().flatten().copied());
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
