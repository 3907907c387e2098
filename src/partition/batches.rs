//! The batches of one read: their bytes as on disk, and what a consumer gets of them.

use std::sync::Arc;

use bytes::Bytes;

use super::Isolation;
use super::transactions::CommittedFilter;
use crate::format::{BatchHeader, ControlKind, FormatError, OwnedRecord, Places, RecordBatch};
use crate::types::{Offset, Position, ProducerId};

/// How many offsets a segment may hold: those within 31 bits above its base.
const OFFSETS_MAX: u64 = 1 << 31;

/// Aborted transactions by their producers and first offsets.
pub(super) type Aborted = Arc<[(ProducerId, Offset)]>;

/// The batches of one read. Their bytes stay valid and unchanged whatever happens to the log.
#[derive(Debug, Clone)]
pub struct Batches {
    pub(super) bytes: Bytes,
    pub(super) places: Places,
    pub(super) requested: Offset,
    pub(super) isolation: Isolation,
    pub(super) high_watermark: Offset,
    pub(super) last_stable_offset: Offset,
    pub(super) aborted: Aborted,
}

/// Where the batches may stand of a segment with this base offset, and the base offset of the one behind it.
pub(super) fn places_within(base: Offset, next_base: Option<Offset>, dense: bool) -> Places {
    let widest = base.checked_add(OFFSETS_MAX).unwrap_or(Offset::MAX);
    Places::between(base, next_base.map_or(widest, |next| next.min(widest)), dense)
}

impl Batches {
    /// The batches, each verified against its checksum, and its offsets against those of the batch before, when it is reached. At the
    /// first one that is wrong there is an error, and that is the end. The first may begin before the requested offset:
    /// records below it are not asked for. The offset to read next is the last batch's last offset plus one.
    pub fn iter(&self) -> BatchIter {
        BatchIter(crate::format::Batches::in_places(self.bytes.clone(), self.places))
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
        let (mut rest, mut next, mut places) = (self.bytes.as_ref(), self.requested, self.places);
        while let Ok(header) = BatchHeader::peek(rest)
            && places.take(&header).is_ok()
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
pub struct BatchIter(crate::format::Batches);

impl BatchIter {
    /// Where the next batch begins, in bytes from the start of the read.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.0.position()
    }
}

impl Iterator for BatchIter {
    type Item = Result<RecordBatch, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
