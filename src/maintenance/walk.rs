//! Going over the batches of sealed segments: what both readings of a compaction have in common.
//!
//! Whatever is read is checked like bytes from anywhere. Whoever watches is told of the bytes that go by, and may end the work.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::format::{FormatError, RecordBatch};
use crate::segment::{Segment, SegmentError};
use crate::types::{Offset, Position};

/// Why cleaning ended early. What it had written is removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stopped {
    /// The disk failed, or a batch is damaged.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Whoever watches said so.
    #[error("cancelled")]
    Cancelled,
}

/// Who is told of every few bytes read and written, and may end the work.
pub(super) type Watch<'a> = dyn FnMut(Amount) -> ControlFlow<()> + 'a;

/// Bytes of batches that went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    pub read: u64,
    pub written: u64,
}

pub(super) fn tell(watch: &mut Watch<'_>, amount: Amount) -> Result<(), Stopped> {
    match watch(amount) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Stopped::Cancelled),
    }
}

/// The batches of one sealed segment in order, without copying them.
pub(super) struct Walk<'a> {
    segment: &'a Segment,
    bytes: Bytes,
    at: usize,
    /// No batch may begin below: a base offset is not covered by its checksum.
    next: Offset,
}

impl<'a> Walk<'a> {
    pub(super) fn new(segment: &'a Segment) -> Result<Self, SegmentError> {
        Ok(Self { segment, bytes: segment.bytes()?, at: 0, next: segment.base_offset() })
    }

    /// The next batch. Unlike a reader, who stops at an incomplete batch, this is an error in a sealed segment.
    pub(super) fn next(
        &mut self,
        parse: fn(Bytes) -> Result<RecordBatch, FormatError>,
    ) -> Result<Option<RecordBatch>, SegmentError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        // Zeros are the end only where nothing else follows.
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let position = Position::new(self.at as u64);
        let batch = parse(self.bytes.slice(self.at..)).map_err(|error| self.segment.format_error(position, error))?;
        let header = batch.header();
        if header.base_offset() < self.next || header.last_offset() >= self.segment.limit() {
            let expected = "an offset above those before it and below the next segment's base";
            let (field, got) = ("base offset", header.base_offset().value());
            let error = FormatError::Invalid { field, position: Position::ZERO, expected, got };
            return Err(self.segment.format_error(position, error));
        }
        self.next = header.last_offset().next();
        self.at += header.size() as usize;
        Ok(Some(batch))
    }

    /// No batch that is still to come begins below this offset.
    pub(super) const fn next_offset(&self) -> Offset {
        self.next
    }

    /// An error in the records of the batch that came last.
    pub(super) fn error(&self, batch: &RecordBatch, error: FormatError) -> SegmentError {
        let start = self.at.saturating_sub(batch.header().size() as usize);
        self.segment.format_error(Position::new(start as u64), error)
    }
}
