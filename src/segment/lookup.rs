//! Finding batches in one segment, by offset and by time.
//!
//! The indexes only say where to begin. An entry counts when it leads to the batch that it names; where it doesn't, the index is
//! wrong, and the search begins at the file's start. Of the time index that isn't enough, for many batches may have one time: what it says
//! is held against the offset index too. So a damaged index costs time and hides nothing.

use super::log_file::HeaderWalk;
use super::time_index::Place;
use super::{Growth, Segment, SegmentError, Source};
use crate::format::{BatchHeader, RecordBatch};
use crate::types::{Offset, Position, Timestamp};

/// A greatest timestamp with the last offset of its batch.
type Greatest = Option<(Timestamp, Offset)>;

impl Segment {
    /// Walks the batch headers from `position`, which must be the start of a batch.
    pub(super) fn walk(&self, position: Position) -> HeaderWalk<'_> {
        self.log.headers_from(position, self.base_offset)
    }

    /// The first batch whose last offset is at or above `offset`.
    pub(crate) fn find(&self, offset: Offset) -> Result<Option<(Position, BatchHeader)>, SegmentError> {
        self.walk_to(offset)?.next_header()
    }

    /// As [`Segment::find`]. Where a gap takes the place of `offset`, the batch before it is verified: a damaged header may say that it ends
    /// too early.
    pub(crate) fn find_past_gaps(&self, offset: Offset) -> Result<Option<(Position, BatchHeader)>, SegmentError> {
        let (mut walk, mut before) = (self.walk_from(offset)?, None);
        let found = loop {
            match walk.next_header()? {
                Some((position, header)) if header.last_offset() < offset => before = Some((position, header)),
                found => break found,
            }
        };
        if found.is_none_or(|(_, header)| header.base_offset() > offset) {
            self.check_gap(before, offset.next())?;
        }
        Ok(found)
    }

    /// Verifies the batch before a gap, in a segment that may have some: its header may say that it ends too early, or hide the next one.
    fn check_gap(&self, before: Option<(Position, BatchHeader)>, next: Offset) -> Result<(), SegmentError> {
        match before {
            Some((position, header)) if !self.is_dense() && header.last_offset().next() < next => {
                self.log.parse_at(position, &header).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// The base offset of a batch that begins at or behind `position`, not far from it where the index has one.
    pub(crate) fn offset_behind(&self, position: Position) -> Result<Option<Offset>, SegmentError> {
        let Some((indexed, at)) = self.offset_index.ceiling(position)?.filter(|(_, at)| *at >= position) else {
            return Ok(None);
        };
        let found = self.walk(at).next_header().ok().flatten();
        Ok(found.filter(|(_, header)| header.last_offset() == indexed).map(|(_, header)| header.base_offset()))
    }

    /// The headers of the batches from one at or before `offset` on, with their positions; ends at the end of the log or after
    /// an error.
    pub(crate) fn headers_from(
        &self,
        offset: Offset,
    ) -> Result<impl Iterator<Item = Result<(Position, BatchHeader), SegmentError>> + '_, SegmentError> {
        let mut walk = self.walk_from(offset)?;
        Ok(std::iter::from_fn(move || walk.next_header().transpose()))
    }

    /// The whole batch at `position`, checksum verified; `None` where the log ends.
    pub(crate) fn batch_at(&self, position: Position) -> Result<Option<RecordBatch>, SegmentError> {
        self.log.batch_at(position, self.base_offset)
    }

    /// A walk that is sure to meet the first batch at or above `offset`.
    fn walk_from(&self, offset: Offset) -> Result<HeaderWalk<'_>, SegmentError> {
        let (indexed, position) = self.offset_index.floor(offset)?;
        let mut walk = self.walk(position);
        if position > Position::ZERO && !leads_to(&mut walk, indexed) {
            walk = self.walk(Position::ZERO);
        }
        Ok(walk)
    }

    /// A walk whose next batch is the first one whose last offset is at or above `offset`.
    fn walk_to(&self, offset: Offset) -> Result<HeaderWalk<'_>, SegmentError> {
        let mut walk = self.walk_from(offset)?;
        while let Some((_, header)) = walk.peek()?
            && header.last_offset() < offset
        {
            walk.next_header()?;
        }
        Ok(walk)
    }

    /// The first batch, not before `offset`, whose greatest timestamp is at or after `target`.
    pub(crate) fn find_by_time(
        &self,
        target: Timestamp,
        offset: Offset,
    ) -> Result<Option<(Position, RecordBatch)>, SegmentError> {
        let qualifies = |header: &BatchHeader| {
            header.last_offset() >= offset && header.max_timestamp().is_some_and(|timestamp| timestamp >= target)
        };
        let (mut walk, mut before) = (self.walk_to_time(target, offset)?, None);
        while let Some((position, header)) = walk.next_header()? {
            self.check_gap(before, header.base_offset())?;
            if qualifies(&header) {
                return self.log.parse_at(position, &header).map(|batch| Some((position, batch)));
            }
            before = Some((position, header));
        }
        Ok(None)
    }

    /// A walk that is sure to meet the first batch, not before `offset`, with a timestamp at or after `target`.
    fn walk_to_time(&self, target: Timestamp, offset: Offset) -> Result<HeaderWalk<'_>, SegmentError> {
        // An entry of the very time may have been led behind the first batch that has it. One of an earlier time passes over none.
        let place = self.time_index.below(target)?.filter(|place| place.offset > offset);
        match place.and_then(|place| self.walk_to_place(place)) {
            Some(walk) => Ok(walk),
            None => self.walk_from(offset),
        }
    }

    /// A walk that passes over no batch with a timestamp above that of an entry of the time index; `None` where the batch that the
    /// entry tells of doesn't stand so in the log.
    fn walk_to_place(&self, place: Place) -> Option<HeaderWalk<'_>> {
        let mut walk = self.walk_to(place.offset).ok()?;
        let (_, header) = walk.peek().ok()??;
        if header.last_offset() != place.offset || header.max_timestamp() != Some(place.timestamp) {
            return None;
        }
        // A flipped bit may lead to a later batch of the same time. Each entry of the offset index was written together with what the
        // time index had to say by then, so up to the last one before the next place there is no greater time.
        let before_next = place.next.map_or(Offset::MAX, |next| Offset::new(next.value() - 1).unwrap_or(Offset::ZERO));
        let (covered, _) = self.offset_index.floor(before_next).ok()?;
        if place.offset <= covered { Some(walk) } else { self.walk_from(covered).ok() }
    }

    /// Where the batches end and the offset after the last one, by walking from the last index entry.
    pub(crate) fn end(&self) -> Result<(Position, Offset), SegmentError> {
        let (mut next, mut end) = (self.base_offset, Position::ZERO);
        let mut walk = self.walk_from(Offset::MAX)?;
        while let Some((position, header)) = walk.next_header()? {
            next = header.last_offset().next();
            end = position.plus(u64::from(header.size()));
        }
        Ok((end, next))
    }

    /// The offset after the last batch that ends at or below `limit`; the base offset where none does.
    pub(crate) fn end_below(&self, limit: Offset) -> Result<Offset, SegmentError> {
        let mut end = self.base_offset;
        let Some(last) = Offset::new(limit.value() - 1) else { return Ok(end) };
        let mut walk = self.walk_from(last)?;
        while let Some((_, header)) = walk.next_header()?
            && header.last_offset() < limit
        {
            end = header.last_offset().next();
        }
        Ok(end)
    }

    /// The greatest timestamp with the last offset of its batch: the time index's last entry, or a later batch's.
    pub(crate) fn greatest(&self) -> Result<Greatest, SegmentError> {
        let size = self.size();
        {
            let growth = self.growth.lock();
            if let Some(known) = growth.known_greatest() {
                return Ok(known);
            }
            if let Some((_, position, damage)) = growth.damage.as_ref().filter(|(met_at, ..)| *met_at == size) {
                return Err(self.format_error(*position, damage.clone()));
            }
        }
        let found = self.glance(Self::find_greatest);
        let mut growth = self.growth.lock();
        // Another process may have put another file in the place of this one, which looks like damage.
        if let Err(SegmentError::Format { position, source, .. }) = &found
            && !self.options.foreign
        {
            growth.damage = Some((size, *position, source.clone()));
        }
        let (found, source) = found?;
        // What another process appended meanwhile may be missing in it.
        if growth.greatest.is_none() && self.size() == size {
            growth.greatest = Some(found);
            growth.source = source;
        }
        Ok(growth.known_greatest().unwrap_or(found))
    }

    /// An upper bound of its timestamps; the greatest possible one where damage hides some. A search of the segment then meets the
    /// damage, unless it finds what it wants before.
    pub(crate) fn ceiling(&self) -> Result<Option<Timestamp>, SegmentError> {
        match self.largest_timestamp() {
            Err(SegmentError::Format { .. }) => Ok(Some(Timestamp::MAX)),
            found => found,
        }
    }

    /// Looks up the greatest timestamp, which appending keeps up from then on. Damage that hides it keeps nobody from appending.
    pub(super) fn look_up_greatest(&self) -> Result<(), SegmentError> {
        if self.growth.lock().greatest.is_some() {
            return Ok(());
        }
        match self.greatest() {
            Err(SegmentError::Format { .. }) => {
                let mut growth = self.growth.lock();
                *growth = Growth { first: growth.first, ..Growth::behind_damage(growth.unindexed_size) };
                Ok(())
            }
            found => found.map(|_| ()),
        }
    }

    /// As [`Segment::greatest`], by the batches alone: whatever removes records by their age must not believe an index. Damage
    /// anywhere is an error.
    pub(crate) fn exact_greatest(&self) -> Result<Greatest, SegmentError> {
        let greatest = self.greatest()?;
        if self.growth.lock().source == Source::Batches {
            return Ok(greatest);
        }
        let found = self.glance(Self::greatest_of_batches)?;
        let mut growth = self.growth.lock();
        if growth.source == Source::Remains {
            return Ok(found);
        }
        // A batch that was appended meanwhile may have a greater one.
        let appended = growth.greatest.flatten().filter(|known| Some(*known) != greatest);
        let is_greater = |known: &(Timestamp, Offset)| found.is_none_or(|(timestamp, _)| known.0 > timestamp);
        growth.greatest = Some(appended.filter(is_greater).or(found));
        growth.source = Source::Batches;
        Ok(growth.greatest.flatten())
    }

    /// The greatest timestamp of all batches, by their headers. Where the time index knows of a greater one, either of them is damaged,
    /// and the batches are verified.
    fn greatest_of_batches(&self) -> Result<Greatest, SegmentError> {
        let found = greatest_of(self.walk(Position::ZERO), None)?;
        let claimed = self.time_index.last().unwrap_or_default();
        if claimed.map(|(timestamp, _)| timestamp) > found.map(|(timestamp, _)| timestamp) {
            self.batches().try_for_each(|batch| batch.map(|_| ()))?;
        }
        Ok(found)
    }

    /// The greatest timestamp and what it comes from. A walk that damage ends says nothing: a batch behind it may have a greater one.
    pub(super) fn find_greatest(&self) -> Result<(Greatest, Source), SegmentError> {
        // An index that lost its last entries says what was true when its last one was written: the walk goes on from there, and
        // usually that is the last batch.
        let last = self.time_index.last().unwrap_or_default();
        let place = last.map(|(timestamp, offset)| Place { timestamp, offset, next: None });
        match place.and_then(|place| self.walk_to_place(place)) {
            Some(walk) => Ok((greatest_of(walk, last)?, Source::Index)),
            None => Ok((self.greatest_of_batches()?, Source::Batches)),
        }
    }

    /// The greatest timestamp of the first batch; `None` for an empty segment or a batch without one.
    pub(crate) fn first_timestamp(&self) -> Result<Option<Timestamp>, SegmentError> {
        if let Some(known) = self.growth.lock().first {
            return Ok(known);
        }
        let first = self.glance(|segment| segment.walk(Position::ZERO).next_header())?;
        let found = first.and_then(|(_, header)| header.max_timestamp());
        self.growth.lock().first = Some(found);
        Ok(found)
    }
}

/// Whether an entry of the offset index has led to a batch that ends at the entry's offset.
fn leads_to(walk: &mut HeaderWalk<'_>, indexed: Offset) -> bool {
    matches!(walk.peek(), Ok(Some((_, header))) if header.base_offset() <= indexed && header.last_offset() == indexed)
}

/// The greatest timestamp of a walk's batches and of what is known.
fn greatest_of(mut walk: HeaderWalk<'_>, known: Greatest) -> Result<Greatest, SegmentError> {
    let mut greatest = known;
    while let Some((_, header)) = walk.next_header()? {
        if let Some(timestamp) = header.max_timestamp()
            && greatest.is_none_or(|(known, _)| timestamp > known)
        {
            greatest = Some((timestamp, header.last_offset()));
        }
    }
    Ok(greatest)
}
