//! Verifying what a crash may have damaged, as a chain: batch after batch, segment after segment, each begins where the one before
//! verifiably ended (reference 10.4). At the first place where it doesn't, the log is cut.
//!
//! A log may have gaps of its own: compaction leaves some, and other programs may. Where it is noted to have none, a gap is a hole.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Opening;
use crate::partition::LogError;
use crate::segment::{Fault, Gaps, Recovered, Scan, Segment};
use crate::types::{Offset, Position};

impl Opening<'_> {
    /// Verifies what may be damaged and cuts the log at the first damage. Returns the base offset of the first segment that may hold
    /// anything unsynced: verifying may begin behind it, where this boot of the machine has seen the bytes. Segments that were
    /// verified from their start have new indexes: they are taken out of `unindexed`.
    pub(super) fn recover_segments(
        &mut self,
        segments: &mut Vec<Arc<Segment>>,
        unindexed: &mut BTreeSet<Offset>,
    ) -> Result<Option<Offset>, LogError> {
        if self.params.read_only {
            return Ok(None);
        }
        // First: a segment can't be told to lie below the log start by the base of a stray behind it.
        self.drop_empty_strays(segments)?;
        self.drop_below_start(segments);
        let Some(first) = self.first_unverified(segments)? else { return Ok(None) };
        let unsynced = if self.params.clean { first } else { first.min(self.first_unsynced(segments)) };
        let unsynced_from = segments.get(unsynced).map(|segment| segment.base_offset());
        let gaps = self.gaps();
        let mut end = if first == 0 { self.due_start(segments) } else { None };
        let mut index = first;
        while let Some(segment) = segments.get(index).cloned() {
            if let Some(reason) = gap_reason(end, segment.base_offset(), gaps) {
                let later = segments.split_off(index);
                let cut = self.cut_between(end.unwrap_or(Offset::ZERO), &reason, &later);
                self.tolerate_full_disk(cut)?;
                break;
            }
            let found = self.recover_segment(&segment, gaps, unindexed)?;
            self.report.recovered_segments += 1;
            self.params.counters.segments_recovered.add(1);
            index += 1;
            match found.fault {
                None if self.ends_in_a_hole(&segment, found.next_offset, segments.get(index))? => {
                    let later = segments.split_off(index);
                    let reason = "zeros before the offsets of the next segment";
                    let cut = self.cut_between(found.next_offset, reason, &later);
                    // At last: until they are gone, they tell of the hole.
                    let cut = cut.and_then(|()| self.drop_zeros(&segment));
                    self.tolerate_full_disk(cut)?;
                    break;
                }
                None => self.drop_zeros(&segment)?,
                Some(Fault::Damage(reason)) => {
                    let later = segments.split_off(index);
                    let cut = self.cut_log(&segment, found.end, found.next_offset, &reason, &later);
                    self.tolerate_full_disk(cut)?;
                    break;
                }
                Some(Fault::Overflow) => {
                    index -= 1;
                    self.split(segments, index)?;
                    continue;
                }
            }
            segment.release();
            end = Some(found.next_offset);
        }
        Ok(unsynced_from)
    }

    /// Which gaps are the log's own.
    pub(super) fn gaps(&self) -> Gaps {
        let newest = self.epochs.latest().map(|(epoch, _)| epoch);
        let noted = self.params.unbroken.map(|unbroken| unbroken.gaps(self.params.first_dirty_offset, newest));
        noted.unwrap_or(Gaps::Anywhere)
    }

    /// Where a log must begin whose first segment is to be verified: at its start, if that is noted; anywhere below the recovery
    /// point.
    fn due_start(&self, segments: &[Arc<Segment>]) -> Option<Offset> {
        let unbroken = self.params.unbroken.filter(|_| self.restarted_at.is_none())?;
        let start = unbroken.log_start.max(self.noted_start.unwrap_or(Offset::ZERO));
        let start = start.max(self.params.recovery_point.unwrap_or(Offset::ZERO));
        // The first segment may begin below the log start.
        let first = segments.first()?.base_offset();
        Some(if first < start { first } else { start })
    }

    /// The first segment that needs to be verified; `None` after a clean stop that left the active segment whole, and the log as
    /// long as it was synced.
    fn first_unverified(&self, segments: &[Arc<Segment>]) -> Result<Option<usize>, LogError> {
        let Some(active) = segments.last() else { return Ok(None) };
        if self.params.clean {
            let end = active.end().ok().filter(|(end, _)| end.value() == active.size()).map(|(_, next)| next);
            let is_whole = end.is_some_and(|end| self.ends_soundly(active, end));
            return Ok((!is_whole || !active.has_sane_indexes()).then(|| self.first_unsynced(segments)));
        }
        let unsynced = self.first_unsynced(segments);
        let first = self
            .params
            .verified
            .map_or(unsynced, |verified| last_that(segments, |base| base <= verified.base_offset).max(unsynced));
        Ok(Some(first))
    }

    /// Whether a log that was closed in order can end at `end`. A longer one than was synced must show it.
    fn ends_soundly(&self, active: &Segment, end: Offset) -> bool {
        let Some(point) = self.params.recovery_point.filter(|point| *point != end) else { return true };
        let is_sound =
            || active.sound_end(Position::new(active.size()), self.gaps()).is_ok_and(|found| found == Some(end));
        point < end && is_sound()
    }

    /// The first segment that may hold anything that was never synced.
    fn first_unsynced(&self, segments: &[Arc<Segment>]) -> usize {
        // The recovery point speaks of batches. A segment that ends right there may have been sealed after that flush, or been
        // verified by an earlier opening: then its indexes, that of transactions too, are not synced before the next flush.
        let point = self.params.recovery_point.unwrap_or(Offset::ZERO);
        last_that(segments, |base| base < point)
    }

    /// Segments below the log start may be damaged or missing in any order: nobody syncs them. They were on their way out, so they
    /// leave the log now, and their files go with the next removal.
    fn drop_below_start(&mut self, segments: &mut Vec<Arc<Segment>>) {
        let start = self.noted_start.unwrap_or(Offset::ZERO);
        let first = last_that(segments, |base| base <= start);
        self.below_start = segments.drain(..first).collect();
    }

    /// Takes empty files out of the log that stand where the segment before doesn't end: nobody rolled there, or the cut that began
    /// them never came to its end.
    fn drop_empty_strays(&mut self, segments: &mut Vec<Arc<Segment>>) -> Result<(), LogError> {
        let (gaps, start) = (self.gaps(), self.noted_start.unwrap_or(Offset::ZERO));
        let (mut kept, mut strays): (Vec<Arc<Segment>>, Vec<Arc<Segment>>) = Default::default();
        for segment in segments.drain(..) {
            let base = segment.base_offset();
            // What lies below the log start may have lost its end to a crash. Nobody syncs it.
            let fits = |end: Offset| if base <= start { end <= base } else { gaps.allow(end, base) };
            let before = kept.last().filter(|_| segment.size() == 0);
            let is_stray = before.is_some_and(|before| before.end().is_ok_and(|(_, end)| !fits(end)));
            if is_stray { strays.push(segment) } else { kept.push(segment) }
        }
        *segments = kept;
        for stray in strays {
            let reason = "an empty segment where the one before doesn't end";
            let cut = self.set_aside(std::slice::from_ref(&stray), stray.base_offset(), reason);
            self.tolerate_full_disk(cut)?;
        }
        Ok(())
    }

    fn recover_segment(
        &mut self,
        segment: &Segment,
        gaps: Gaps,
        unindexed: &mut BTreeSet<Offset>,
    ) -> Result<Recovered, LogError> {
        let base = segment.base_offset();
        let scan = match self.params.verified {
            Some(verified) if verified.base_offset == base && !unindexed.contains(&base) => {
                Scan::From(verified.position)
            }
            _ => Scan::Whole,
        };
        if matches!(scan, Scan::Whole) {
            self.reindex(segment);
        }
        let (epochs, mut has_producers) = (&mut self.epochs, false);
        let recovered = segment.recover(scan, gaps, &mut |header| {
            has_producers |= header.producer_id().is_some();
            epochs.note(header.leader_epoch(), header.base_offset());
        });
        if matches!(scan, Scan::Whole) {
            unindexed.remove(&base);
            if !has_producers {
                self.plain.insert(base);
            }
        }
        recovered.map_err(|error| self.wrap(error))
    }

    /// Gives back space behind the last batch that was reserved and never written.
    fn drop_zeros(&mut self, segment: &Segment) -> Result<(), LogError> {
        if self.reopening || !self.has_zeros(segment)? {
            return Ok(());
        }
        match segment.cut_tail().map_err(|error| self.wrap(error)) {
            // They harm nobody: readers end before them, and appends go over them.
            Err(error) if error.kind() == crate::types::ErrorKind::StorageFull => {
                self.report.warnings.push(error.to_string());
                Ok(())
            }
            dropped => dropped,
        }
    }

    /// Whether zeros stand where a segment should reach up to the next one.
    fn ends_in_a_hole(&self, segment: &Segment, end: Offset, next: Option<&Arc<Segment>>) -> Result<bool, LogError> {
        Ok(next.is_some_and(|next| next.base_offset() != end) && self.has_zeros(segment)?)
    }

    /// Whether a segment's file goes on behind its last batch.
    fn has_zeros(&self, segment: &Segment) -> Result<bool, LogError> {
        let size = self.io(self.params.vfs.metadata(&segment.path()))?.map_or(0, |metadata| metadata.size);
        Ok(size > segment.size())
    }

    /// Where a full disk has no room for what must be kept aside, the partition can be read up to there, and be reopened later.
    fn tolerate_full_disk(&mut self, cut: Result<(), LogError>) -> Result<(), LogError> {
        match cut {
            Err(error) if error.kind() == crate::types::ErrorKind::StorageFull && !self.reopening => {
                self.report.warnings.push(error.to_string());
                self.obstacle = Some(error);
                self.forget_unfinished_cuts();
                Ok(())
            }
            other => other,
        }
    }
}

/// The last of the first segments whose base offsets hold; the first segment where none does.
fn last_that(segments: &[Arc<Segment>], holds: impl Fn(Offset) -> bool) -> usize {
    segments.partition_point(|segment| holds(segment.base_offset())).saturating_sub(1)
}

/// Why a segment at `base` can't follow a log that ends at `end`.
fn gap_reason(end: Option<Offset>, base: Offset, gaps: Gaps) -> Option<String> {
    let end = end.filter(|end| !gaps.allow(*end, base))?;
    Some(format!("offset_order: the log ends at offset {end}, and the next segment begins at {base}"))
}
