//! Reading by offset: whole batches as they stand on disk, at least one where there is one (reference section 9).

use bytes::Bytes;

use super::{LogError, Partition};
use crate::format::{FormatError, OwnedRecord, RecordBatch};
use crate::types::{Offset, Position};

/// What a read returns at most unless it says otherwise, in bytes.
const MAX_BYTES_DEFAULT: usize = 1024 * 1024;

/// A read that is being described; [`Read::fetch`] does it.
#[derive(Debug)]
#[must_use = "nothing is read before `fetch`"]
pub struct Read<'a> {
    partition: &'a Partition,
    offset: Offset,
    max_bytes: usize,
}

impl Partition {
    /// Describes a read from `offset` on.
    pub const fn read(&self, offset: Offset) -> Read<'_> {
        Read { partition: self, offset, max_bytes: MAX_BYTES_DEFAULT }
    }
}

impl Read<'_> {
    /// At most this many bytes of batches, default 1 MiB; the first batch comes whole even when it alone is larger.
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Reads. The batches come from one segment; at the log's end, or where a gap reaches to it, there are none.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] below the log start offset or above the log end offset; [`LogError::Segment`] when the disk
    /// fails or the log is damaged at that place; [`LogError::Closed`].
    pub fn fetch(self) -> Result<Batches, LogError> {
        self.partition.inner.check_open()?;
        if self.partition.inner.read_only && self.offset >= self.partition.log_end_offset() {
            self.partition.refresh()?;
        }
        self.check_range()?;
        let bytes = self.find_bytes()?;
        let counters = &self.partition.inner.counters;
        counters.fetches.add(1);
        counters.fetched_bytes.add(bytes.len() as u64);
        Ok(Batches { bytes, requested: self.offset, high_watermark: self.partition.high_watermark() })
    }

    fn check_range(&self) -> Result<(), LogError> {
        let (start, end) = (self.partition.log_start_offset(), self.partition.log_end_offset());
        if (start..=end).contains(&self.offset) {
            return Ok(());
        }
        Err(LogError::OffsetOutOfRange { partition: self.partition.id().clone(), got: self.offset, start, end })
    }

    fn find_bytes(&self) -> Result<Bytes, LogError> {
        let inner = &self.partition.inner;
        let list = inner.list();
        for segment in list.from(self.offset) {
            if let Some((position, header)) = segment.find(self.offset).map_err(|error| inner.wrap(error))? {
                let size = (self.max_bytes as u64).max(u64::from(header.size()));
                return segment.read(position, size).map_err(|error| inner.wrap(error));
            }
        }
        Ok(Bytes::new())
    }
}

/// The batches of one read. Their bytes stay valid and unchanged whatever happens to the log.
#[derive(Debug, Clone)]
pub struct Batches {
    bytes: Bytes,
    requested: Offset,
    high_watermark: Offset,
}

impl Batches {
    /// The batches, each verified against its checksum when it is reached. The first may begin before the requested offset:
    /// records below it are not asked for. The offset to read next is the last batch's last offset plus one.
    pub fn iter(&self) -> BatchIter {
        BatchIter { batches: crate::format::Batches::new(self.bytes.clone()) }
    }

    /// The records at or after the requested offset, each an owned copy, control records left out. Where the copies cost too much,
    /// walk [`Batches::iter`] and each batch's records, which borrow.
    pub fn records(&self) -> impl Iterator<Item = Result<OwnedRecord, FormatError>> + use<> {
        let from = self.requested;
        self.iter().flat_map(move |batch| {
            let records: Vec<_> = match &batch {
                Ok(batch) if batch.header().is_control() => Vec::new(),
                Ok(batch) => batch.records().map(|record| record.map(|record| record.detach())).collect(),
                Err(error) => vec![Err(error.clone())],
            };
            records.into_iter().filter(move |record| record.as_ref().map_or(true, |record| record.offset() >= from))
        })
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
