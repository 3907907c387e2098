//! Reading by offset: whole batches as they stand on disk, at least one where there is one (reference section 9), all of them or
//! only what is decided and not aborted (reference 6.1, KIP-98).

use std::sync::Arc;

use bytes::Bytes;

use super::batches::{Aborted, Batches, places_within};
use super::transactions::aborted_between;
use super::{LogError, Partition, View};
use crate::format::Places;
use crate::segment::Segment;
use crate::types::{Offset, Position};

/// What a read returns at most unless it says otherwise, in bytes.
const MAX_BYTES_DEFAULT: usize = 1024 * 1024;

/// Which records of transactions a read returns; Kafka's `isolation.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Isolation {
    /// All, up to the high watermark: also those of open and aborted transactions.
    #[default]
    ReadUncommitted,
    /// Only those of committed ones, up to the last stable offset; and all that belong to none.
    ReadCommitted,
}

/// What a read found.
struct Found {
    bytes: Bytes,
    places: Places,
    aborted: Aborted,
}

impl Found {
    fn nothing() -> Self {
        Self { bytes: Bytes::new(), places: places_within(Offset::ZERO, None, false), aborted: Aborted::default() }
    }
}

/// A read that is being described; [`Read::fetch`] does it.
#[derive(Debug)]
#[must_use = "nothing is read before `fetch`"]
pub struct Read<'a> {
    partition: &'a Partition,
    offset: Offset,
    max_bytes: usize,
    isolation: Isolation,
}

impl Partition {
    /// Describes a read from `offset` on.
    pub const fn read(&self, offset: Offset) -> Read<'_> {
        Read { partition: self, offset, max_bytes: MAX_BYTES_DEFAULT, isolation: Isolation::ReadUncommitted }
    }
}

impl Read<'_> {
    /// At most this many bytes of batches, default 1 MiB; the first batch comes whole even when it alone is larger.
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Which records of transactions to return, default all.
    pub const fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Reads. The batches come from one segment; at the log's end, or where a gap reaches to it, there are none. With
    /// [`Isolation::ReadCommitted`] the last stable offset is the end, and batches of aborted transactions are among those
    /// returned: [`Batches::records`] and [`Batches::delivered`] leave them out.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] below the log start offset or above the log end offset; [`LogError::Segment`] when the disk
    /// fails or the log is damaged at that place; [`LogError::Changed`] read-only, see there; [`LogError::Closed`].
    pub fn fetch(self) -> Result<Batches, LogError> {
        self.partition.inner.check_open()?;
        if self.partition.inner.read_only {
            return self.partition.following(|| self.fetch_now(), Batches::is_empty);
        }
        self.partition.again_if_cut(|| self.fetch_now())
    }

    fn fetch_now(&self) -> Result<Batches, LogError> {
        // Before anything is looked up: what is aborted below the last stable offset is in the indexes already.
        let view = self.partition.inner.view();
        self.check_range(&view)?;
        let (last_stable_offset, high_watermark) = (view.last_stable_offset, view.log_end);
        let end = match self.isolation {
            Isolation::ReadUncommitted => high_watermark,
            Isolation::ReadCommitted => last_stable_offset,
        };
        let Found { bytes, aborted, places } = self.find(&view, end)?;
        let counters = &self.partition.inner.counters;
        counters.fetches.add(1);
        counters.fetched_bytes.add(bytes.len() as u64);
        let (requested, isolation) = (self.offset, self.isolation);
        Ok(Batches { bytes, places, requested, isolation, high_watermark, last_stable_offset, aborted })
    }

    fn check_range(&self, view: &View) -> Result<(), LogError> {
        let (start, end) = (view.log_start, view.log_end);
        if (start..=end).contains(&self.offset) {
            return Ok(());
        }
        Err(LogError::OffsetOutOfRange { partition: self.partition.id().clone(), got: self.offset, start, end })
    }

    fn find(&self, view: &View, end: Offset) -> Result<Found, LogError> {
        let inner = &self.partition.inner;
        // The log start may lie inside of a batch of an open transaction: the end is there too, and the batch begins before it.
        if self.offset >= end {
            return Ok(Found::nothing());
        }
        let mut segments = view.list.from(self.offset).peekable();
        while let Some(segment) = segments.next() {
            let next_base = segments.peek().map(|next| next.base_offset());
            let found = segment.find_past_gaps(self.offset).map_err(|error| inner.wrap(error))?;
            let Some((position, header)) = found else {
                self.check_no_hole(view, segment, next_base)?;
                self.check_unchanged(view, segment)?;
                continue;
            };
            if header.base_offset() >= end {
                break;
            }
            let size = self.size_limit(view, segment, position, end)?.max(u64::from(header.size()));
            let bytes = segment.read(position, size).map_err(|error| inner.wrap(error))?;
            let places = places_within(segment.base_offset(), next_base, segment.is_dense());
            if self.isolation == Isolation::ReadUncommitted {
                self.check_unchanged(view, segment)?;
                return Ok(Found { bytes, places, aborted: Aborted::default() });
            }
            // Not all that the segment lists: only what can matter to these bytes.
            let behind = segment.offset_behind(position.plus(bytes.len() as u64)).map_err(|error| inner.wrap(error))?;
            let upper = [behind, next_base].into_iter().flatten().fold(end, Offset::min);
            let aborted = aborted_between(&view.list, self.offset, upper).map_err(|error| inner.wrap(error))?;
            self.check_unchanged(view, segment)?;
            return Ok(Found { bytes, places, aborted: aborted.into() });
        }
        Ok(Found::nothing())
    }

    /// Refuses to go on from the end of a segment, or to end there, where the log is known to have no gap: batches were lost.
    fn check_no_hole(&self, view: &View, segment: &Segment, next_base: Option<Offset>) -> Result<(), LogError> {
        let inner = &self.partition.inner;
        // Another process may not have written all of its last segment yet.
        let log_end = Some(view.log_end).filter(|_| !inner.read_only);
        let next = next_base.or(log_end).filter(|next| self.offset < *next);
        let Some(hole) = next.and_then(|next| inner.hole_before(segment, next)) else { return Ok(()) };
        if next_base.is_none() && self.is_being_appended(segment)? {
            return Ok(());
        }
        Err(inner.wrap(hole))
    }

    /// Whether an append brings the requested offset: its batch lies below the log end before it can be found.
    fn is_being_appended(&self, active: &Segment) -> Result<bool, LogError> {
        let inner = &self.partition.inner;
        let is_idle = inner.writer.try_lock().is_some();
        let found = active.find(self.offset).map_err(|error| inner.wrap(error))?;
        Ok(!is_idle || found.is_some())
    }

    /// Refuses what was read of a sealed segment that another process has replaced meanwhile.
    fn check_unchanged(&self, view: &View, segment: &Arc<Segment>) -> Result<(), LogError> {
        let inner = &self.partition.inner;
        if !inner.read_only || Arc::ptr_eq(segment, view.list.active()) {
            return Ok(());
        }
        segment.check_unchanged().map_err(|error| inner.wrap(error))
    }

    /// How many bytes from `position` may be read: `max_bytes`, but none at or above `end`.
    fn size_limit(
        &self,
        view: &View,
        segment: &Arc<Segment>,
        position: Position,
        end: Offset,
    ) -> Result<u64, LogError> {
        let wanted = self.max_bytes as u64;
        if self.isolation == Isolation::ReadUncommitted {
            return Ok(wanted);
        }
        // What is appended from here on lies behind this size; nobody has decided on it.
        let is_active = Arc::ptr_eq(segment, view.list.active());
        let mut limit = if is_active { view.active_size } else { segment.size() };
        // Batches of another process can be read before the log end says so.
        if end < view.log_end || self.partition.inner.read_only {
            let found = segment.find(end).map_err(|error| self.partition.inner.wrap(error))?;
            limit = found.map_or(limit, |(end, _)| limit.min(end.value()));
        }
        Ok(wanted.min(limit.saturating_sub(position.value())))
    }
}
