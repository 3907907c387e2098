//! Every byte on disk: layout tables, encoders and parsers. No I/O, no clock, no lock.

mod checkpoint;
mod checksum;
mod clean_shutdown;
mod compression;
mod cursor;
mod error;
pub mod file_name;
mod index_entry;
mod partition_metadata;
mod producer_snapshot;
mod properties;

pub use checkpoint::{LeaderEpochCheckpoint, OffsetCheckpoint};
pub use clean_shutdown::CleanShutdown;
pub use compression::Compression;
pub use error::FormatError;
pub use index_entry::{AbortedTransaction, OffsetIndexEntry, TimeIndexEntry};
pub use partition_metadata::{PartitionMetadata, TopicId};
pub use producer_snapshot::{ProducerEntry, ProducerSnapshot};
pub use properties::MetaProperties;
