//! The segments of a partition in offset order, as an immutable list.
//!
//! The writer replaces the list; readers keep the one they took, with every segment in it, for as long as they like.
//! A list is never empty: the last segment is the active one.

use std::sync::Arc;

use crate::segment::Segment;
use crate::types::Offset;

#[derive(Debug, Clone)]
pub(super) struct SegmentList {
    sealed: Arc<[Arc<Segment>]>,
    active: Arc<Segment>,
}

impl SegmentList {
    pub(super) fn new(sealed: Vec<Arc<Segment>>, active: Arc<Segment>) -> Self {
        Self { sealed: sealed.into(), active }
    }

    pub(super) const fn active(&self) -> &Arc<Segment> {
        &self.active
    }

    pub(super) fn sealed(&self) -> &[Arc<Segment>] {
        &self.sealed
    }

    pub(super) fn first(&self) -> &Arc<Segment> {
        self.sealed.first().unwrap_or(&self.active)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.sealed.iter().chain(std::iter::once(&self.active))
    }

    /// The segments from the one that `offset` belongs to, the one with the greatest base at or below it.
    pub(super) fn from(&self, offset: Offset) -> impl Iterator<Item = &Arc<Segment>> {
        let skip = if self.active.base_offset() <= offset {
            self.sealed.len()
        } else {
            self.sealed.partition_point(|segment| segment.base_offset() <= offset).saturating_sub(1)
        };
        self.iter().skip(skip)
    }

    /// This list with `active` behind all others.
    pub(super) fn rolled(&self, active: Arc<Segment>) -> Self {
        Self::new(self.iter().cloned().collect(), active)
    }

    /// This list without its first `count` segments; the active one stays in any case.
    pub(super) fn without_first(&self, count: usize) -> Self {
        Self::new(self.sealed.iter().skip(count).cloned().collect(), Arc::clone(&self.active))
    }

    pub(super) fn to_vec(&self) -> Vec<Arc<Segment>> {
        self.iter().cloned().collect()
    }
}
