//! Every byte on disk: layout tables, encoders and parsers. No I/O, no clock, no lock.

mod batch;
mod batch_builder;
mod batches;
mod checkpoint;
mod checksum;
mod clean_shutdown;
mod compression;
mod control;
mod coordinator_partition;
mod cursor;
mod cut_list;
mod error;
pub mod file_name;
mod flexible;
mod group_offset;
mod index_entry;
mod legacy;
mod partition_metadata;
#[cfg(feature = "client")]
mod producer_ids;
mod producer_snapshot;
mod properties;
mod record;
mod rewrite;
mod sealed_text;
#[cfg(test)]
mod test_vectors;
mod topic_list;
mod transaction_state;
mod unbroken;
mod verified_points;

pub use batch::{
    BATCH_HEADER_SIZE, BatchHeader, DECOMPRESSED_SIZE_MAX, RecordBatch, Records, assign_offsets, set_timestamps,
};
pub use batch_builder::{BATCH_SIZE_MAX, BatchBuilder, BatchOptions, ProducerStamp};
pub use batches::Batches;
pub(crate) use batches::Places;
pub use checkpoint::{LeaderEpochCheckpoint, OffsetCheckpoint};
pub use clean_shutdown::CleanShutdown;
pub use compression::Compression;
pub use control::{ControlKind, ControlRecord, MARKER_BATCH_SIZE, TransactionMarker, TransactionResult, marker_batch};
pub use coordinator_partition::{coordinator_partition, java_hash};
pub(crate) use cut_list::{CutEntry, encode_cut_list, parse_cut_list};
pub use error::FormatError;
pub use group_offset::{CommittedOffset, GroupLogKey, encode_offset_key};
pub use index_entry::{AbortedTransaction, OffsetIndexEntry, TimeIndexEntry};
pub use partition_metadata::{PartitionMetadata, TopicId};
#[cfg(feature = "client")]
pub(crate) use producer_ids::{encode_producer_ids, parse_producer_ids};
pub use producer_snapshot::{ProducerEntry, ProducerSnapshot};
pub use properties::MetaProperties;
pub use record::{HeaderRef, Headers, OwnedRecord, Record, RecordRef};
pub(crate) use rewrite::{Rewriter, Survivors, empty_batch};
pub(crate) use topic_list::{PARTITION_COUNT_MAX, TopicEntry, TopicState, encode_topic_list, parse_topic_list};
pub use transaction_state::{TransactionEntry, TransactionState, encode_transaction_key, parse_transaction_key};
pub(crate) use unbroken::{UnbrokenEntry, encode_unbroken, parse_unbroken};
pub(crate) use verified_points::VerifiedPoints;
