//! What can go wrong with a store: its folder, its lock, its topics and their config.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::ConfigError;
use crate::format::{FormatError, TopicId};
use crate::location::Location;
use crate::name::{NameError, PartitionId, TopicName, TopicPartition};
use crate::partition::LogError;
use crate::types::ErrorKind;
use crate::vfs::IoError;

/// An error of a store or one of its topics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk or the operating system failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A partition failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The name is no topic name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Another store, in this process or another, or a Kafka broker has the folder open for writing.
    #[error("folder {} is in use: {source}", path.display())]
    Locked {
        /// The store's folder.
        path: PathBuf,
        /// Which lock is held.
        source: IoError,
    },
    /// There is no folder, and a read-only store creates none.
    #[error("folder {} does not exist", path.display())]
    Missing {
        /// The store's folder.
        path: PathBuf,
    },
    /// The operating system gave no thread.
    #[error("no thread for the maintenance of {}: {source}", path.display())]
    Thread {
        /// The store's folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// What stands at the path is a file.
    #[error("{} is not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The folder is not empty, and neither Kafka nor this crate wrote what is in it. Nothing was changed.
    #[error("folder {} is not a store and not empty: it holds {found:?}", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// The first entry in it.
        found: String,
    },
    /// A file of the store that must be readable is not. Removing it loses no record, see the file's documentation.
    #[error("{}: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The store was closed.
    #[error("the store in {} is closed", path.display())]
    Closed {
        /// The store's folder.
        path: PathBuf,
    },
    /// A change to a store that is open for reading only.
    #[error("the store in {} is open read-only", path.display())]
    ReadOnly {
        /// The store's folder.
        path: PathBuf,
    },
    /// No such topic.
    #[error("topic {name:?} does not exist")]
    UnknownTopic {
        /// The name that was asked for, shortened.
        name: String,
    },
    /// No such partition.
    #[error("topic {topic} has no partition {got}, it has {partition_count}")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// The number that was asked for.
        got: u32,
        /// How many partitions there are.
        partition_count: u32,
    },
    /// The partition is there, but could not be opened. The rest of the store works; see
    /// [`Topic::reopen_partition`](super::Topic::reopen_partition).
    #[error("{partition} could not be opened, reopen it: {source}")]
    PartitionFailed {
        /// The partition.
        partition: TopicPartition,
        /// What opening it failed with.
        source: Arc<StoreError>,
    },
    /// A topic of this name is there.
    #[error("topic {name} already exists")]
    TopicExists {
        /// The name.
        name: TopicName,
    },
    /// The name differs from that of a topic only by `.` against `_`.
    #[error("topic name {name} collides with topic {existing}: '.' and '_' count as equal")]
    NameCollision {
        /// The name that was asked for.
        name: TopicName,
        /// The topic that is there.
        existing: TopicName,
    },
    /// Only Kafka's controllers write this topic.
    #[error("topic {name} belongs to Kafka's controllers and is never changed here")]
    ReservedTopic {
        /// The name.
        name: TopicName,
    },
    /// A number of partitions that a topic can't have or get.
    #[error("topic {topic} can have {min} to {max} partitions, got {got}")]
    PartitionCount {
        /// The topic.
        topic: TopicName,
        /// The smallest legal number: one more than there are when partitions are added.
        min: u32,
        /// The largest legal number.
        max: u32,
        /// What was asked for.
        got: u32,
    },
    /// An internal topic of the coordinators can't get more partitions: the count decides in which partition a group or
    /// transactional id is kept, so with another count its committed offsets would not be found.
    #[error("topic {topic} keeps its number of partitions: groups and transactional ids are assigned by it")]
    FixedPartitionCount {
        /// The topic.
        topic: TopicName,
    },
    /// A folder that a new partition needs is there already.
    #[error("cannot create {partition}: folder {} is in the way", path.display())]
    FolderInTheWay {
        /// The partition.
        partition: TopicPartition,
        /// The folder.
        path: PathBuf,
    },
    /// A config key or value is refused: of the store, or of a topic.
    #[error("{}{source}", topic.as_ref().map(|topic| format!("topic {topic}: ")).unwrap_or_default())]
    Config {
        /// The topic; `None` for the store's own config.
        topic: Option<TopicName>,
        /// The key, the value and what would have been legal.
        source: ConfigError,
    },
    /// A partition's folder belongs to another topic of the same name, such as one that was deleted and created again.
    #[error("{partition}: {} names topic id {got}, expected {expected}", path.display())]
    TopicIdMismatch {
        /// The partition.
        partition: TopicPartition,
        /// Its `partition.metadata`.
        path: PathBuf,
        /// The topic's id.
        expected: TopicId,
        /// The id in the file.
        got: TopicId,
    },
}

impl StoreError {
    /// What this error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(source) => source.kind(),
            Self::Log(source) => source.kind(),
            Self::Name(source) => source.kind(),
            Self::Locked { .. } | Self::ReadOnly { .. } => ErrorKind::Locked,
            Self::Missing { .. } | Self::UnknownTopic { .. } | Self::UnknownPartition { .. } => ErrorKind::NotFound,
            Self::NotAFolder { .. }
            | Self::NotAStore { .. }
            | Self::NameCollision { .. }
            | Self::ReservedTopic { .. }
            | Self::PartitionCount { .. }
            | Self::FixedPartitionCount { .. } => ErrorKind::InvalidInput,
            Self::Damaged { source, .. } => source.kind(),
            Self::Closed { .. } => ErrorKind::Offline,
            Self::TopicExists { .. } | Self::FolderInTheWay { .. } => ErrorKind::AlreadyExists,
            Self::Config { source, .. } => source.kind(),
            Self::TopicIdMismatch { .. } => ErrorKind::Corrupt,
            Self::PartitionFailed { source, .. } => source.kind(),
            Self::Thread { .. } => ErrorKind::Io,
        }
    }

    /// The partition, file and position it happened at, as far as known.
    #[must_use]
    pub fn location(&self) -> Location {
        match self {
            Self::Io(source) => Location::unknown().in_file(source.path()),
            Self::Log(source) => source.location(),
            Self::Locked { path, .. }
            | Self::Missing { path }
            | Self::NotAFolder { path }
            | Self::Thread { path, .. }
            | Self::NotAStore { path, .. }
            | Self::Closed { path }
            | Self::ReadOnly { path } => Location::unknown().in_file(path),
            Self::Damaged { path, source } => {
                let location = Location::unknown().in_file(path);
                match source.position() {
                    Some(position) => location.at_position(position),
                    None => location,
                }
            }
            Self::FolderInTheWay { partition, path } | Self::TopicIdMismatch { partition, path, .. } => {
                Location::unknown().in_partition(partition.clone()).in_file(path)
            }
            Self::UnknownPartition { topic, got, .. } => location_of(topic, *got),
            Self::PartitionFailed { partition, source } => source.location().in_partition(partition.clone()),
            _ => Location::unknown(),
        }
    }
}

fn location_of(topic: &TopicName, partition: u32) -> Location {
    match i32::try_from(partition).ok().and_then(PartitionId::new) {
        Some(partition) => Location::unknown().in_partition(TopicPartition::new(topic.clone(), partition)),
        None => Location::unknown(),
    }
}
