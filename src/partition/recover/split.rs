//! Splitting a segment whose offsets reach beyond 31 bits above its base, as very old Kafkas wrote them (reference 10.5).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Opening;
use crate::format::file_name::{FileName, Suffix};
use crate::partition::LogError;
use crate::segment::{CleanedSegment, Segment};
use crate::vfs::OpenMode;

impl Opening<'_> {
    /// Puts segments with the same batches in the place of the one at `index`. Where damage ends its batches early, what follows,
    /// later segments included, is cut off first.
    pub(super) fn split(&mut self, segments: &mut Vec<Arc<Segment>>, index: usize) -> Result<(), LogError> {
        let Some(base) = segments.get(index).map(|segment| segment.base_offset()) else { return Ok(()) };
        // Verifying it has hidden what lies behind the first batch that is out of range.
        let Some(whole) = self.open_segments(&BTreeSet::from([base]))?.pop() else { return Ok(()) };
        let create =
            |base| CleanedSegment::create(Arc::clone(&self.params.vfs), &self.params.dir, base, self.options());
        let parts = whole.split(&create).map_err(|error| self.wrap(error))?;
        if let Some((position, next, reason)) = parts.damage {
            let later = segments.split_off(index + 1);
            self.cut_log(&whole, position, next, &reason, &later)?;
        }
        let mark = self.params.dir.join(FileName::replaced(base).to_string());
        self.io(self.params.vfs.open(&mark, OpenMode::Create))?;
        self.sync_dir()?;
        let bases: BTreeSet<_> = parts.segments.iter().map(Segment::base_offset).collect();
        for part in parts.segments.iter().rev() {
            part.rename_indexes(Suffix::Swap).map_err(|error| self.wrap(error))?;
            part.rename_log(Suffix::Swap).map_err(|error| self.wrap(error))?;
            self.sync_dir()?;
        }
        let names = self.names()?;
        self.finish_swaps(&names)?;
        segments.splice(index..=index, self.open_segments(&bases)?);
        Ok(())
    }
}
