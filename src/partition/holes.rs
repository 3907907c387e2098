//! Telling a hole from a gap while a log is read: where a segment ends below the next one's base, batches were lost, unless the log
//! is known to have gaps there.
//!
//! Compaction, a leader's gaps and cuts inside a batch leave gaps, and the note of where the log is unbroken is raised before
//! they can be seen. A reader in another process reads that note where it meets a gap.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segments::SegmentList;
use super::{Inner, LogError, Partition, load};
use crate::format::FormatError;
use crate::segment::{Segment, SegmentError};
use crate::types::{ErrorKind, Offset, Position};

/// How often a reader looks at a log that is cut or reopened again and again, before what it met counts.
const LOOKS_MAX: usize = 4;

impl Inner {
    /// Says that the log is unbroken from `end` on, once `list` is what readers see. Who still reads the old log, which may have gaps there,
    /// learns from the generation that it isn't the one this speaks of.
    pub(super) fn lower_unbroken(&self, list: &SegmentList, end: Offset) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.unbroken_from.fetch_min(end.value(), Ordering::AcqRel);
        self.expect_dense(list);
    }

    /// Lets readers take gaps inside of segments for damage where the log has none. A reader in another process notes what the writer says
    /// when it lists the folder.
    pub(super) fn expect_dense(&self, list: &SegmentList) {
        let unbroken_from = load(&self.unbroken_from);
        let is_unbroken = |segment: &&Arc<Segment>| !self.read_only && segment.base_offset() >= unbroken_from;
        list.iter().filter(is_unbroken).for_each(|segment| segment.expect_dense());
    }

    /// Takes gaps inside of a segment for damage, or for the log's own, as it is known now.
    pub(super) fn judge_gaps(&self, segment: &Segment) {
        if segment.base_offset() >= load(&self.unbroken_from) { segment.expect_dense() } else { segment.allow_gaps() }
    }

    /// The error of a reader who comes to the end of `segment` and must not go on at `next`; `None` where the log may have a gap.
    pub(super) fn hole_before(&self, segment: &Segment, next: Offset) -> Option<SegmentError> {
        let unbroken_from = if self.read_only { self.noted_unbroken_from() } else { load(&self.unbroken_from) };
        let (field, expected) = ("the next segment's base offset", "the offset where this segment ends");
        let source = FormatError::Invalid { field, position: Position::ZERO, expected, got: next.value() };
        (next > unbroken_from).then(|| segment.format_error(Position::new(segment.size()), source))
    }

    /// Refuses to pass from the end of `segment` to `next` over a hole.
    pub(super) fn check_reaches(&self, segment: &Segment, next: Offset) -> Result<(), SegmentError> {
        if !self.read_only && next <= load(&self.unbroken_from) {
            return Ok(());
        }
        if segment.end_offset()? == next {
            return Ok(());
        }
        self.hole_before(segment, next).map_or(Ok(()), Err)
    }

    /// Refuses segments with a hole between two of them: what leaves them out, rewrites them, or lets the log have gaps up to there would
    /// hide it for good.
    pub(super) fn check_no_holes(&self, segments: &[Arc<Segment>]) -> Result<(), SegmentError> {
        let next_bases = segments.iter().skip(1).map(|next| next.base_offset());
        segments.iter().zip(next_bases).try_for_each(|(segment, next)| self.check_reaches(segment, next))
    }
}

impl Partition {
    /// Does `look`, again where it met damage in a log that was cut or reopened meanwhile: what is known of gaps is known of the new one.
    /// What was found in a partition that was closed meanwhile is dropped: files are opened by their names, which may be those of another
    /// topic by now.
    pub(super) fn again_if_cut<T>(&self, look: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
        let mut looks = 0;
        loop {
            let generation = self.generation();
            let looked = look();
            self.inner.check_open()?;
            looks += 1;
            let may_be_old = looks < LOOKS_MAX && generation != self.generation();
            match looked {
                Err(error) if may_be_old && error.kind() == ErrorKind::Corrupt => {}
                looked => return looked,
            }
        }
    }

    /// As [`Inner::check_no_holes`].
    pub(crate) fn check_no_holes(&self, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        self.inner.check_no_holes(segments).map_err(|error| self.inner.wrap(error))
    }
}
