//! Reading by offset: whole batches as they stand on disk, at least one where there is one (reference section 9), all of them or
//! only what is decided and not aborted (reference 6.1, KIP-98).

use std::sync::Arc;

use bytes::Bytes;

use super::transactions::{CommittedFilter, aborted_between};
use super::{LogError, Partition, View};
use crate::format::{BatchHeader, ControlKind, FormatError, OwnedRecord, RecordBatch};
use crate::segment::Segment;
use crate::types::{Offset, Position, ProducerId};

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
        self.fetch_now()
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
        let (bytes, aborted) = self.find_bytes(&view, end)?;
        let counters = &self.partition.inner.counters;
        counters.fetches.add(1);
        counters.fetched_bytes.add(bytes.len() as u64);
        let (requested, isolation) = (self.offset, self.isolation);
        Ok(Batches { bytes, requested, isolation, high_watermark, last_stable_offset, aborted })
    }

    fn check_range(&self, view: &View) -> Result<(), LogError> {
        let (start, end) = (view.log_start, view.log_end);
        if (start..=end).contains(&self.offset) {
            return Ok(());
        }
        Err(LogError::OffsetOutOfRange { partition: self.partition.id().clone(), got: self.offset, start, end })
    }

    fn find_bytes(&self, view: &View, end: Offset) -> Result<(Bytes, Aborted), LogError> {
        let inner = &self.partition.inner;
        // The log start may lie inside of a batch of an open transaction: the end is there too, and the batch begins before it.
        if self.offset >= end {
            return Ok((Bytes::new(), Aborted::default()));
        }
        let mut segments = view.list.from(self.offset).peekable();
        while let Some(segment) = segments.next() {
            let Some((position, header)) = segment.find(self.offset).map_err(|error| inner.wrap(error))? else {
                continue;
            };
            if header.base_offset() >= end {
                break;
            }
            let size = self.size_limit(view, segment, position, end)?.max(u64::from(header.size()));
            let bytes = segment.read(position, size).map_err(|error| inner.wrap(error))?;
            if self.isolation == Isolation::ReadUncommitted {
                self.check_unchanged(view, segment)?;
                return Ok((bytes, Aborted::default()));
            }
            // Not all that the segment lists: only what can matter to these bytes.
            let behind = segment.offset_behind(position.plus(bytes.len() as u64)).map_err(|error| inner.wrap(error))?;
            let next_base = segments.peek().map(|next| next.base_offset());
            let upper = [behind, next_base].into_iter().flatten().fold(end, Offset::min);
            let aborted = aborted_between(&view.list, self.offset, upper).map_err(|error| inner.wrap(error))?;
            self.check_unchanged(view, segment)?;
            return Ok((bytes, aborted.into()));
        }
        Ok((Bytes::new(), Aborted::default()))
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

/// Aborted transactions by their producers and first offsets.
type Aborted = Arc<[(ProducerId, Offset)]>;

/// The batches of one read. Their bytes stay valid and unchanged whatever happens to the log.
#[derive(Debug, Clone)]
pub struct Batches {
    bytes: Bytes,
    requested: Offset,
    isolation: Isolation,
    high_watermark: Offset,
    last_stable_offset: Offset,
    aborted: Aborted,
}

impl Batches {
    /// The batches, each verified against its checksum when it is reached. The first may begin before the requested offset:
    /// records below it are not asked for. The offset to read next is the last batch's last offset plus one.
    pub fn iter(&self) -> BatchIter {
        BatchIter { batches: crate::format::Batches::new(self.bytes.clone()) }
    }

    /// The batches that a consumer gets: no control batches, and with [`Isolation::ReadCommitted`] none of aborted transactions.
    /// The offset to read next is not known from these: see [`Batches::next_offset`].
    pub fn delivered(&self) -> impl Iterator<Item = Result<RecordBatch, FormatError>> + use<> {
        let mut filter = CommittedFilter::new(&self.aborted);
        let committed = self.isolation == Isolation::ReadCommitted;
        self.iter().filter_map(move |batch| match batch {
            Ok(batch) if batch.header().is_control() && !committed => None,
            Ok(batch) if batch.header().is_control() => match is_abort(&batch) {
                Ok(is_abort) => {
                    filter.admits(batch.header(), is_abort);
                    None
                }
                Err(error) => Some(Err(error)),
            },
            Ok(batch) => (!committed || filter.admits(batch.header(), false)).then_some(Ok(batch)),
            Err(error) => Some(Err(error)),
        })
    }

    /// The records of [`Batches::delivered`] at or after the requested offset, each an owned copy. Where the copies cost too
    /// much, walk the batches and each batch's records, which borrow.
    pub fn records(&self) -> impl Iterator<Item = Result<OwnedRecord, FormatError>> + use<> {
        let from = self.requested;
        self.delivered().flat_map(move |batch| {
            let records: Vec<_> = match &batch {
                Ok(batch) => batch.records().map(|record| record.map(|record| record.detach())).collect(),
                Err(error) => vec![Err(error.clone())],
            };
            records.into_iter().filter(move |record| record.as_ref().map_or(true, |record| record.offset() >= from))
        })
    }

    /// The aborted transactions that a reader of committed records must leave out: producer and first offset of each, in the
    /// order of the latter; it may name some without a batch here. Empty with [`Isolation::ReadUncommitted`]. A transaction ends at
    /// its producer's next abort marker.
    #[must_use]
    pub fn aborted_transactions(&self) -> &[(ProducerId, Offset)] {
        &self.aborted
    }

    /// The last stable offset when this was read.
    #[must_use]
    pub const fn last_stable_offset(&self) -> Offset {
        self.last_stable_offset
    }

    /// The offset to read next: after the last whole batch here, delivered or not; the requested one where there is no batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        let (mut rest, mut next) = (self.bytes.as_ref(), self.requested);
        while let Ok(header) = BatchHeader::peek(rest)
            && let Some(behind) = usize::try_from(header.size()).ok().and_then(|size| rest.get(size..))
        {
            next = next.max(header.last_offset().next());
            rest = behind;
        }
        next
    }

    /// Whether there is nothing at or after the requested offset yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes as on disk; the last batch may be cut short by the read's size limit.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The offset that was asked for.
    #[must_use]
    pub const fn requested(&self) -> Offset {
        self.requested
    }

    /// The high watermark when this was read.
    #[must_use]
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
}

/// Whether a control batch aborts its producer's transaction; one that compaction emptied doesn't.
fn is_abort(batch: &RecordBatch) -> Result<bool, FormatError> {
    Ok(batch.control_record()?.is_some_and(|record| record.kind() == ControlKind::Abort))
}

impl IntoIterator for &Batches {
    type Item = Result<RecordBatch, FormatError>;
    type IntoIter = BatchIter;

    fn into_iter(self) -> BatchIter {
        self.iter()
    }
}

/// Iterates over the batches of one read.
#[derive(Debug)]
pub struct BatchIter {
    batches: crate::format::Batches,
}

impl BatchIter {
    /// Where the next batch begins, in bytes from the start of the read.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.batches.position()
    }
}

impl Iterator for BatchIter {
    type Item = Result<RecordBatch, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}
