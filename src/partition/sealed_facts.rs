//! What lookups have found out about the sealed segments of a log, so that the next lookup doesn't ask all of them again.
//!
//! - What no timestamp of the first `n` segments exceeds, for each `n`: their greatest one, where no damage hides some. These ascend,
//!   so the first segment with a record of some time or a later one is found by a binary search.
//! - Up to which segment the log has no hole.
//! - Which segments list aborted transactions: most have none.
//!
//! Lists of which one begins with the segments of the other share the facts. A sealed segment doesn't change, so they stay true.
//! Nothing is locked while a segment is asked.

use parking_lot::Mutex;

use super::sealed_segments::SealedSegments;
use crate::segment::{Segment, SegmentError};
use crate::types::Timestamp;

#[derive(Debug, Default)]
pub(super) struct SealedFacts {
    /// Those of the first one, two, three segments and so on, as far as somebody asked.
    ceilings: Mutex<Vec<Option<Timestamp>>>,
    /// How many segments were found to reach the next one.
    reaching: Mutex<usize>,
    aborting: Mutex<Aborting>,
}

#[derive(Debug, Default)]
struct Aborting {
    /// How many segments were asked.
    asked: usize,
    /// Those of them that list aborted transactions, or that could not tell.
    positions: Vec<usize>,
}

impl SealedFacts {
    /// The first of the `sealed` segments that has a timestamp at or after `target`, or damage that may hide one. Asks no segment behind it.
    pub(super) fn first_up_to_date(
        &self,
        sealed: &SealedSegments,
        target: Timestamp,
    ) -> Result<Option<usize>, SegmentError> {
        loop {
            let (asked, ceiling) = {
                let ceilings = self.ceilings.lock();
                let known = ceilings.get(..sealed.len().min(ceilings.len())).unwrap_or_default();
                let ceiling = known.last().copied().flatten();
                if ceiling >= Some(target) {
                    return Ok(Some(known.partition_point(|ceiling| *ceiling < Some(target))));
                }
                (known.len(), ceiling)
            };
            let Some(next) = sealed.get(asked) else { return Ok(None) };
            let ceiling = ceiling.max(next.ceiling()?);
            let mut ceilings = self.ceilings.lock();
            if ceilings.len() == asked {
                ceilings.push(ceiling);
            }
        }
    }

    /// An upper bound of the timestamps of the `sealed` segments. Asks those that were not asked yet.
    pub(super) fn ceiling(&self, sealed: &SealedSegments) -> Result<Option<Timestamp>, SegmentError> {
        // Whatever it returns, it has asked up to the greatest.
        self.first_up_to_date(sealed, Timestamp::MAX)?;
        let ceilings = self.ceilings.lock();
        let known = ceilings.get(..sealed.len().min(ceilings.len())).unwrap_or_default();
        Ok(known.last().copied().flatten())
    }

    /// Does `check` on those of the first `count` segments that nobody has checked, from position `from` on: what lies before is of no
    /// interest to anybody any more.
    pub(super) fn check_reaching(
        &self,
        sealed: &SealedSegments,
        from: usize,
        count: usize,
        check: impl Fn(usize, &Segment) -> Result<(), SegmentError>,
    ) -> Result<(), SegmentError> {
        let reached = (*self.reaching.lock()).max(from);
        for position in reached..count {
            sealed.get(position).map_or(Ok(()), |segment| check(position, segment))?;
        }
        let mut reaching = self.reaching.lock();
        *reaching = (*reaching).max(count);
        Ok(())
    }

    /// The first of the `sealed` segments, from position `from` on, that may list aborted transactions.
    pub(super) fn next_aborting(&self, sealed: &SealedSegments, from: usize) -> Option<usize> {
        if from >= sealed.len() {
            return None;
        }
        let asked = self.aborting.lock().asked;
        let is_aborting = |position: &usize| {
            let entries = sealed.get(*position).map(|segment| segment.aborted());
            // One that can't be read is an error for the reader who needs it.
            entries.is_some_and(|entries| entries.map_or(true, |entries| !entries.is_empty()))
        };
        let found: Vec<usize> = (asked..sealed.len()).filter(is_aborting).collect();
        let mut aborting = self.aborting.lock();
        if aborting.asked == asked && asked < sealed.len() {
            aborting.positions.extend(found);
            aborting.asked = sealed.len();
        }
        let next = aborting.positions.partition_point(|position| *position < from);
        aborting.positions.get(next).copied().filter(|position| *position < sealed.len())
    }
}
