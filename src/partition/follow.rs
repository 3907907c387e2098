//! Reading beside the process that writes: new batches, segments and transactions are looked for where a reader asks for more.

use std::sync::Arc;

use super::recover::log_bases;
use super::replay::replay;
use super::segments::SegmentList;
use super::{Inner, LogError, Partition, Writer, store};
use crate::segment::Segment;
use crate::types::Offset;

impl Partition {
    /// Looks for what another process wrote since the last look; only for a partition opened read-only.
    pub(super) fn refresh(&self) -> Result<(), LogError> {
        let mut writer = self.inner.writer.lock();
        let inner = &self.inner;
        let mut end = self.log_end_offset();
        loop {
            let list = inner.list();
            end = list.active().follow(end).map_err(|error| inner.wrap(error))?;
            inner.follow_producers(&mut writer, &list, end)?;
            store(&inner.log_end, end);
            let entries = inner.vfs.read_dir(&inner.dir).map_err(|error| inner.wrap(error))?;
            let next = log_bases(entries.iter().map(|entry| entry.name.as_str()))
                .into_iter()
                .find(|base| *base > list.active().base_offset());
            let Some(base) = next else { return Ok(()) };
            let options = inner.segment_options();
            let segment = Segment::open(Arc::clone(&inner.vfs), &inner.dir, base, 0, options);
            let segment = segment.map_err(|error| inner.wrap(error))?;
            end = end.max(base);
            *inner.segments.write() = list.rolled(Arc::new(segment));
        }
    }
}

impl Inner {
    /// Follows what another process appended up to `end`, before it is shown to readers.
    fn follow_producers(&self, writer: &mut Writer, list: &SegmentList, end: Offset) -> Result<(), LogError> {
        let mut producers = self.producers.lock();
        let reached =
            replay(&mut producers, list, writer.replayed..end, true, &|_| false).map_err(|error| self.wrap(error))?;
        writer.replayed = reached;
        self.publish_first_unstable(producers.open_transactions().first_unstable());
        Ok(())
    }
}
