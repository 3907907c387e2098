//! The sealed segments of a log in offset order, in blocks that the lists before and after a roll share. So a roll copies one
//! block and the list of blocks, however many segments the log has.
//!
//! Invariant: no block is empty, and all but the last have [`BLOCK_SIZE`] segments.

use std::sync::Arc;

use crate::segment::Segment;
use crate::types::Offset;

/// Segments in a block. About as many as a log of some ten thousand segments has blocks, so that a roll copies the fewest.
const BLOCK_SIZE: usize = 128;

#[derive(Debug, Clone, Default)]
pub(super) struct SealedSegments {
    blocks: Vec<Arc<Vec<Arc<Segment>>>>,
}

impl SealedSegments {
    pub(super) fn new(segments: &[Arc<Segment>]) -> Self {
        Self { blocks: segments.chunks(BLOCK_SIZE).map(|block| Arc::new(block.to_vec())).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK_SIZE + last.len())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(super) fn get(&self, position: usize) -> Option<&Arc<Segment>> {
        self.blocks.get(position / BLOCK_SIZE)?.get(position % BLOCK_SIZE)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.blocks.iter().flat_map(|block| block.iter())
    }

    /// The segments from `position` on. Passes over no others.
    pub(super) fn iter_from(&self, position: usize) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        let block = position / BLOCK_SIZE;
        let first = self.blocks.get(block).and_then(|block| block.get(position % BLOCK_SIZE..)).unwrap_or_default();
        let later = self.blocks.get(block + 1..).unwrap_or_default();
        first.iter().chain(later.iter().flat_map(|block| block.iter()))
    }

    /// How many segments have a base offset at or below `offset`.
    pub(super) fn count_up_to(&self, offset: Offset) -> usize {
        let is_below = |segment: &Arc<Segment>| segment.base_offset() <= offset;
        let blocks = self.blocks.partition_point(|block| block.first().is_some_and(is_below));
        let Some(last) = blocks.checked_sub(1) else { return 0 };
        last * BLOCK_SIZE + self.blocks.get(last).map_or(0, |block| block.partition_point(is_below))
    }

    /// These segments and one behind them.
    pub(super) fn with(&self, segment: Arc<Segment>) -> Self {
        let mut blocks = self.blocks.clone();
        match blocks.last_mut().filter(|last| last.len() < BLOCK_SIZE) {
            Some(last) => Arc::make_mut(last).push(segment),
            None => blocks.push(Arc::new(vec![segment])),
        }
        Self { blocks }
    }

    pub(super) fn to_vec(&self) -> Vec<Arc<Segment>> {
        self.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Residency, SegmentOptions};
    use crate::vfs::MemoryVfs;

    /// Segments with the base offsets 0, 10, 20 and so on.
    fn segments(count: usize) -> Vec<Arc<Segment>> {
        let open = |number: usize| {
            let base = Offset::new(i64::try_from(number).unwrap() * 10).unwrap();
            let options = SegmentOptions {
                index_interval_bytes: 4096,
                index_size_max: 1024,
                preallocate: 0,
                foreign: true,
                residency: Arc::new(Residency::default()),
            };
            Arc::new(Segment::open(Arc::new(MemoryVfs::new()), "/log".as_ref(), base, 0, options).unwrap())
        };
        (0..count).map(open).collect()
    }

    fn same<'a>(left: impl Iterator<Item = &'a Arc<Segment>>, right: &[Arc<Segment>]) -> bool {
        left.map(Arc::as_ptr).eq(right.iter().map(Arc::as_ptr))
    }

    #[test]
    fn growing_one_by_one_comes_to_the_same_as_being_made_at_once_on_both_sides_of_a_blocks_end() {
        let all = segments(2 * BLOCK_SIZE + 1);
        let mut grown = SealedSegments::default();
        for (count, segment) in all.iter().enumerate() {
            let known = all.get(..count).unwrap();
            if [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE].contains(&count) {
                for sealed in [&grown, &SealedSegments::new(known)] {
                    assert!(same(sealed.iter(), known) && sealed.len() == count);
                    assert_eq!(sealed.is_empty(), count == 0);
                    assert!(sealed.get(count).is_none());
                    for from in [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, count, count + 1, 5 * BLOCK_SIZE] {
                        assert!(same(sealed.iter_from(from), known.get(from..).unwrap_or_default()), "{count} {from}");
                    }
                }
            }
            let next = grown.with(Arc::clone(segment));
            assert!(grown.len() == count && same(grown.iter(), known), "a list that readers hold stays as it is");
            grown = next;
        }
    }

    #[test]
    fn a_list_that_grows_shares_all_blocks_but_the_last() {
        let all = segments(3 * BLOCK_SIZE);
        let (last, known) = all.split_last().unwrap();
        let old = SealedSegments::new(known);
        let new = old.with(Arc::clone(last));
        let is_shared = |(left, right): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(left, right);
        assert_eq!(old.blocks.iter().zip(&new.blocks).filter(|pair| is_shared(*pair)).count(), 2);
    }

    #[test]
    fn an_offset_is_found_in_every_block() {
        let all = segments(BLOCK_SIZE + 2);
        let sealed = SealedSegments::new(&all);
        for (position, segment) in all.iter().enumerate() {
            let base = segment.base_offset();
            assert_eq!(sealed.count_up_to(base), position + 1);
            assert_eq!(sealed.count_up_to(base.checked_add(9).unwrap()), position + 1);
            assert!(sealed.get(position).is_some_and(|found| Arc::ptr_eq(found, segment)));
        }
        assert_eq!(SealedSegments::default().count_up_to(Offset::MAX), 0);
    }
}
