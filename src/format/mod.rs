//! Every byte on disk: layout tables, encoders and parsers. No I/O, no clock, no lock.

mod batch;
mod batch_builder;
mod checksum;
mod compression;
mod control;
mod cursor;
mod error;
mod legacy;
mod record;
#[cfg(test)]
mod test_vectors;

pub use batch::{
    BATCH_HEADER_SIZE, BatchHeader, Batches, DECOMPRESSED_SIZE_MAX, RecordBatch, Records, assign_offsets,
    set_timestamps,
};
pub use batch_builder::{BATCH_SIZE_MAX, BatchBuilder, BatchOptions, ProducerStamp};
pub use compression::Compression;
pub use control::{ControlKind, ControlRecord, MARKER_BATCH_SIZE, TransactionMarker, TransactionResult, marker_batch};
pub use error::FormatError;
pub use record::{HeaderRef, Headers, OwnedRecord, Record, RecordRef};
