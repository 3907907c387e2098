//! Looks at a sealed segment that leave nothing open or mapped behind.
//!
//! Retention and lookups by time ask every segment of a log once. If each of them stayed mapped, a long log would use up the
//! maps of the process.

use super::{Segment, SegmentError};
use crate::types::Offset;

impl Segment {
    /// The offset after the last batch.
    pub(crate) fn end_offset(&self) -> Result<Offset, SegmentError> {
        self.glance(Self::end).map(|(_, next)| next)
    }

    /// Does `look`, then lets go of what it opened or mapped. What was kept before stays.
    pub(super) fn glance<R>(&self, look: impl FnOnce(&Self) -> R) -> R {
        let had_log = self.log.is_kept();
        let indexes = [self.offset_index.file(), self.time_index.file()];
        let had = indexes.map(super::index_file::IndexFile::is_loaded);
        let found = look(self);
        if !had_log {
            self.log.let_go();
        }
        indexes.into_iter().zip(had).filter(|(_, had)| !had).for_each(|(index, _)| index.unload());
        found
    }
}
