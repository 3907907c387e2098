//! The Kafka log as a Rust library: topics, partitions and segments on your own disk, in Kafka's own bytes, without a server.
//!
//! ```
//! use stratalog::{LogStore, Offset, Record, TopicConfig};
//!
//! let folder = tempfile::tempdir()?;
//! let store = LogStore::open(folder.path())?;
//! let orders = store.create_topic("orders", 1, TopicConfig::new())?.partition(0)?;
//! orders.append(&[Record::keyed("alice", "2 apples"), Record::keyed("bob", "1 pear")])?;
//! for batch in &orders.read(Offset::ZERO).fetch()? {
//!     for record in batch?.records() {
//!         println!("{:?}", record?.value());
//!     }
//! }
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//!
//! Each layer uses only those before it: [`types`], then [`name`], [`clock`] and [`metrics`], then [`mod@format`] (every byte on disk)
//! and [`vfs`] (the seam to the operating system), then [`segment`] (the files of one base offset) and [`config`], then
//! [`partition`] (the log), [`store`] (topics in a folder), `group` (committed offsets), [`maintenance`] (background work as steps),
//! `client` (transactions), [`error`].
//! What most programs need stands at the root.
//!
//! # Cargo features
//!
//! `gzip`, `snappy`, `lz4`, `zstd`: the codecs, all on by default. Without one, its batches are stored and carried as bytes, and
//! reading their records says which feature is missing. `groups`: the committed offsets of consumer groups. `client`, which needs
//! `groups`: transactions over partitions and committed offsets, and the partitioner of Kafka's client.

#[cfg(feature = "client")]
pub mod client;
pub mod clock;
pub mod config;
pub mod error;
pub mod format;
#[cfg(feature = "groups")]
pub mod group;
pub mod location;
pub mod maintenance;
pub mod metrics;
pub mod name;
pub mod partition;
pub mod segment;
pub mod store;
pub mod types;
pub mod vfs;

#[cfg(feature = "client")]
pub use client::{Transaction, TransactionCoordinator, TransactionError, TransactionalProducer};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{CleanupPolicy, CompressionType, StoreConfig, TopicConfig, TopicSettings};
pub use error::Error;
pub use format::{CommittedOffset, Compression, OwnedRecord, Record, RecordBatch, RecordRef};
#[cfg(feature = "groups")]
pub use group::{GroupError, OffsetLog};
pub use location::Location;
pub use maintenance::{
    CompactionOptions, CompactionProgress, CompactionReport, MaintenanceFailure, MaintenanceHandle, MaintenanceWork,
    TickReport,
};
pub use metrics::StoreMetrics;
pub use name::{PartitionId, TopicName, TopicPartition};
pub use partition::{
    Appended, Batches, CutFiles, Durability, FoundOffset, Isolation, LogError, OffsetSpec, Partition,
    PartitionRecovery, ProducerError,
};
pub use segment::Segment;
pub use store::{FailedPartition, LogStore, OpenReport, OpenWarning, StoreError, StoreOptions, Topic};
pub use types::{ErrorKind, LeaderEpoch, Offset, Position, Timestamp, TimestampType};

/// Compiles the README's program, so that it stays one that works.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
