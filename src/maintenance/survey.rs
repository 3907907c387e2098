//! The first reading of a compaction: of what has been written since the last one, which records have given way to newer ones.
//!
//! Records are counted as they are read, from 0 on. The map of keys knows where the newest record of each key stands in that count; when
//! a newer one comes, the one before is marked, with one bit a record. So the second reading looks up no key of what was surveyed: it counts the
//! same records again and looks at their marks. Only older records, which the last compaction left, have their keys looked up.
//!
//! Checksums are verified here, before anything is left out anywhere: a record may go for the sake of one that stands far behind it.

use std::ops::Range;
use std::sync::Arc;

use super::key_map::{FETCH_COUNT, KeyHash, KeyMap, KeyMapLimits, PLACES_MAX, Put};
use super::transactions::Transactions;
use super::walk::{Amount, Stopped, Walk, Watch, tell};
use crate::format::{AbortedTransaction, BatchHeader, FormatError, RecordBatch};
use crate::segment::Segment;
use crate::types::Offset;

/// What is known of the records of a range of offsets.
#[derive(Debug)]
pub(super) struct Survey {
    map: KeyMap,
    /// Its end is where the survey had to stop, if it had to.
    range: Range<Offset>,
    marks: Marks,
    /// The base offset of each segment, and how many records were counted before it.
    segments: Vec<(Offset, u32)>,
    /// The checksum of every batch up to here was verified, from the first of the segments on.
    verified_to: Offset,
}

/// A bit for each counted record: whether a newer one of its key was read.
#[derive(Debug, Default)]
struct Marks {
    words: Vec<u64>,
    count: u32,
}

impl Marks {
    /// Counts records up to `count` in all.
    fn grow_to(&mut self, count: u32) {
        self.count = count;
        self.words.resize(word_of(count) + 1, 0);
    }

    fn mark(&mut self, place: u32) {
        if let Some(word) = self.words.get_mut(word_of(place)) {
            *word |= 1 << (place % u64::BITS);
        }
    }

    fn is_marked(&self, place: u32) -> bool {
        self.words.get(word_of(place)).is_some_and(|word| word & (1 << (place % u64::BITS)) != 0)
    }
}

const fn word_of(place: u32) -> usize {
    (place / u64::BITS) as usize
}

impl Survey {
    /// Reads the records of `range` in `segments`, which reach from the one that holds its start to the one before its end. Stops before
    /// the first record whose key did not fit into the map, or that there is no bit for. That is above the start if there is anything.
    pub(super) fn of(
        limits: KeyMapLimits,
        segments: &[Arc<Segment>],
        aborted: &[AbortedTransaction],
        range: Range<Offset>,
        watch: &mut Watch<'_>,
    ) -> Result<Self, Stopped> {
        let mut survey = Self {
            map: KeyMap::new(limits, range.end.since(range.start)),
            verified_to: range.start,
            range,
            marks: Marks::default(),
            segments: Vec::with_capacity(segments.len()),
        };
        // Bits take a quarter of the memory for keys at most.
        let records_max = u32::try_from(limits.budget.saturating_mul(2)).unwrap_or(PLACES_MAX).min(PLACES_MAX);
        let mut transactions = Transactions::new(aborted, survey.range.start);
        let mut chunk = Vec::with_capacity(FETCH_COUNT);
        for segment in segments {
            survey.segments.push((segment.base_offset(), survey.marks.count));
            let mut walk = Walk::new(segment)?;
            while let Some(batch) = walk.next(RecordBatch::parse)? {
                let header = batch.header();
                if header.base_offset() >= survey.range.end {
                    return Ok(survey);
                }
                survey.verified_to = walk.next_offset();
                if header.last_offset() < survey.range.start {
                    continue;
                }
                tell(watch, Amount { read: header.size().into(), written: 0 })?;
                if header.is_control() {
                    transactions.marker(&batch).map_err(|error| walk.error(&batch, error))?;
                    continue;
                }
                if transactions.is_aborted(header) {
                    continue;
                }
                // The first batch is counted in any case, however many records it has.
                let room = records_max.saturating_sub(survey.marks.count);
                let is_too_much = survey.marks.count > 0 && room < header.record_count();
                let full = if is_too_much {
                    Some(header.base_offset())
                } else {
                    survey.count(&batch, &mut chunk).map_err(|error| walk.error(&batch, error))?
                };
                if let Some(end) = full {
                    survey.range.end = end.max(survey.range.start);
                    return Ok(survey);
                }
            }
        }
        Ok(survey)
    }

    /// Counts the records of a batch; returns the offset of the first one whose key does not fit.
    fn count(
        &mut self,
        batch: &RecordBatch,
        chunk: &mut Vec<(KeyHash, u32, Offset)>,
    ) -> Result<Option<Offset>, FormatError> {
        let mut records = batch.records();
        loop {
            chunk.clear();
            let before = self.marks.count;
            let mut count = before;
            for record in records.by_ref().take(FETCH_COUNT) {
                let record = record?;
                let place = count;
                count = count.saturating_add(1);
                if let (Some(key), true) = (record.key(), self.range.contains(&record.offset())) {
                    chunk.push((self.map.hash(key), place, record.offset()));
                }
            }
            if count == before {
                return Ok(None);
            }
            self.marks.grow_to(count);
            self.map.fetch(chunk.iter().map(|(key, ..)| *key));
            for &(key, place, offset) in chunk.iter() {
                match self.map.put(key, place) {
                    Put::Added => {}
                    Put::Replaced(older) => self.marks.mark(older),
                    Put::Full => return Ok(Some(offset)),
                }
            }
        }
    }

    /// Nothing is known of records from here on.
    pub(super) const fn end(&self) -> Offset {
        self.range.end
    }

    pub(super) const fn map(&self) -> &KeyMap {
        &self.map
    }

    /// How many records were counted before a segment; `None` for one that was not surveyed.
    pub(super) fn counted_before(&self, segment: &Segment) -> Option<u32> {
        let found = self.segments.binary_search_by_key(&segment.base_offset(), |(base, _)| *base).ok()?;
        self.segments.get(found).map(|(_, count)| *count)
    }

    /// Whether the checksum of the batch at `next` in a surveyed segment has been verified.
    pub(super) fn has_verified(&self, next: Offset) -> bool {
        next < self.verified_to
    }

    /// Whether the records of a data batch in a surveyed segment were counted, unless its transaction was aborted.
    pub(super) fn counts(&self, header: &BatchHeader) -> bool {
        header.last_offset() >= self.range.start && header.base_offset() < self.range.end
    }

    /// Whether a counted record has given way to a newer one. `key` is asked for only where it lies below the range.
    pub(super) fn is_superseded(&self, place: u32, offset: Offset, key: &[u8]) -> bool {
        if offset < self.range.start { self.map.contains(self.map.hash(key)) } else { self.marks.is_marked(place) }
    }

    /// Whether all of `count` counted records from `first` on have given way, which makes it needless to look at them.
    pub(super) fn are_all_superseded(&self, first: u32, count: u32) -> bool {
        (first..first.saturating_add(count)).all(|place| self.marks.is_marked(place))
    }
}
