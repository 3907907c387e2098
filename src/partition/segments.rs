//! The segments of a partition in offset order, as an immutable list.
//!
//! The writer replaces the list; readers keep the one they took, with every segment in it, for as long as they like.
//! A list is never empty: the last segment is the active one.

use std::sync::Arc;

use super::sealed_facts::SealedFacts;
use super::sealed_segments::SealedSegments;
use crate::segment::{Segment, SegmentError};
use crate::types::{Offset, Timestamp};

#[derive(Debug, Clone)]
pub(super) struct SegmentList {
    sealed: Arc<Sealed>,
    active: Arc<Segment>,
}

/// The sealed segments. With what is known of them, so that taking a list counts up no more than two references.
#[derive(Debug)]
struct Sealed {
    segments: SealedSegments,
    facts: Arc<SealedFacts>,
}

impl SegmentList {
    pub(super) fn new(sealed: Vec<Arc<Segment>>, active: Arc<Segment>) -> Self {
        let nexts = sealed.iter().skip(1).chain([&active]);
        sealed.iter().zip(nexts).for_each(|(segment, next)| segment.limit_to(next.base_offset()));
        Self { sealed: Arc::new(Sealed { segments: SealedSegments::new(&sealed), facts: Arc::default() }), active }
    }

    pub(super) const fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    pub(super) fn sealed(&self) -> &SealedSegments {
        &self.sealed.segments
    }

    pub(super) fn first(&self) -> &Arc<Segment> {
        self.sealed.segments.get(0).unwrap_or(&self.active)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.sealed.segments.iter().chain(std::iter::once(&self.active))
    }

    /// The segments from the one at `position` on, the active one in any case.
    fn iter_from(&self, position: usize) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.sealed.segments.iter_from(position).chain(std::iter::once(&self.active))
    }

    /// Whether `segment` is one of these.
    pub(super) fn contains(&self, segment: &Arc<Segment>) -> bool {
        self.from(segment.base_offset()).next().is_some_and(|found| Arc::ptr_eq(found, segment))
    }

    /// The segments from the one that `offset` belongs to, the one with the greatest base at or below it.
    pub(super) fn from(&self, offset: Offset) -> impl Iterator<Item = &Arc<Segment>> {
        self.iter_from(self.position_of(offset))
    }

    /// Where the segment that `offset` belongs to is in the list.
    fn position_of(&self, offset: Offset) -> usize {
        if self.active.base_offset() <= offset {
            return self.sealed.segments.len();
        }
        self.sealed.segments.count_up_to(offset).saturating_sub(1)
    }

    /// The segments from the first on that can hold a record at or above `start` with a timestamp at or after `target`.
    pub(super) fn since(
        &self,
        target: Timestamp,
        start: Offset,
    ) -> Result<impl Iterator<Item = &Arc<Segment>>, SegmentError> {
        let first = self.sealed.facts.first_up_to_date(self.sealed(), target)?.unwrap_or(self.sealed().len());
        Ok(self.iter_from(first.max(self.position_of(start))))
    }

    /// The first of the segments that has the greatest timestamp of all, if any has one, and that timestamp. It is the last possible one
    /// where damage may hide a greater one than can be read.
    pub(super) fn peak(&self) -> Result<Option<(&Arc<Segment>, Timestamp)>, SegmentError> {
        let (sealed, active) = (self.sealed.facts.ceiling(self.sealed())?, self.active.ceiling()?);
        let Some(greatest) = sealed.max(active) else { return Ok(None) };
        let first = if sealed == Some(greatest) {
            self.sealed
                .facts
                .first_up_to_date(self.sealed(), greatest)?
                .and_then(|first| self.sealed.segments.get(first))
        } else {
            None
        };
        Ok(Some((first.unwrap_or(&self.active), greatest)))
    }

    /// Does `check` on each segment that has to reach up to the next one so that the log has no hole between `start` and `base`, where one
    /// begins; what was found sound is remembered.
    pub(super) fn check_reaching(
        &self,
        start: Offset,
        base: Offset,
        check: impl Fn(&Segment, Offset) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        let (sealed, count) = (self.sealed(), self.position_of(base));
        let base_of = |position: usize| sealed.get(position).unwrap_or(&self.active).base_offset();
        let check = |position: usize, segment: &Segment| check(segment, base_of(position + 1));
        self.sealed.facts.check_reaching(sealed, self.position_of(start), count, check)
    }

    /// Those of the segments from the one that `offset` belongs to on that may list aborted transactions.
    pub(super) fn aborting_from(&self, offset: Offset) -> impl Iterator<Item = &Arc<Segment>> {
        let mut next = Some(self.position_of(offset));
        let sealed = std::iter::from_fn(move || {
            let position = self.sealed.facts.next_aborting(self.sealed(), next?)?;
            next = position.checked_add(1);
            self.sealed.segments.get(position)
        });
        sealed.chain(std::iter::once(&self.active))
    }

    /// This list with `active` behind all others.
    pub(super) fn rolled(&self, active: Arc<Segment>) -> Self {
        self.active.limit_to(active.base_offset());
        let segments = self.sealed.segments.with(Arc::clone(&self.active));
        let facts = Arc::clone(&self.sealed.facts);
        Self { sealed: Arc::new(Sealed { segments, facts }), active }
    }

    /// This list without its first `count` segments; the active one stays in any case.
    pub(super) fn without_first(&self, count: usize) -> Self {
        Self::new(self.sealed.segments.iter().skip(count).cloned().collect(), Arc::clone(&self.active))
    }

    /// The segments that end at or below `start`, and a list of the others.
    pub(super) fn split_below(&self, start: Offset) -> (Vec<Arc<Segment>>, Self) {
        let count = self.position_of(start);
        (self.sealed.segments.iter().take(count).cloned().collect(), self.without_first(count))
    }

    pub(super) fn to_vec(&self) -> Vec<Arc<Segment>> {
        self.iter().cloned().collect()
    }
}
