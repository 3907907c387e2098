//! What stands in a store's root folder, and whether the folder is one that may be touched at all.
//!
//! | entry | kind | whose | meaning |
//! |---|---|---|---|
//! | `<topic>-<partition>/` | folder | Kafka's | one partition |
//! | `<topic>-<partition>.<id>-delete/` | folder | Kafka's | a deleted partition that waits to be removed |
//! | `<topic>-<partition>.<id>-future/`, `-stray/` | folder | Kafka's | left alone and reported |
//! | `remote-log-index-cache/` | folder | Kafka's | left alone |
//! | `recovery-point-offset-checkpoint`, `log-start-offset-checkpoint`, `replication-offset-checkpoint` | file | Kafka's | see `checkpoints.rs` |
//! | `cleaner-offset-checkpoint` | file | Kafka's | see `checkpoints.rs` |
//! | `.kafka_cleanshutdown` | file | Kafka's | there after an orderly stop only |
//! | `.lock`, `.stratalog.lock` | file | both | locked while the store is open; their existence says nothing |
//! | `stratalog-topics` | file | ours | the topics and their config |
//! | `stratalog-producer-ids` | file | ours | see `producer_ids.rs` |
//! | `stratalog-unbroken`, `stratalog-verified` | file | ours | see `checkpoints.rs` |
//!
//! Other files are ignored; other folders are skipped and reported.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::format::FormatError;
use crate::format::file_name::{FileName, PartitionDirName};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::vfs::{DirEntry, IoError, Vfs};

pub(super) use crate::format::file_name::{
    CLEANER_CHECKPOINT as CLEANER_OFFSETS, LOG_START_CHECKPOINT as LOG_START_OFFSETS,
    RECOVERY_POINT_CHECKPOINT as RECOVERY_POINTS, REPLICATION_CHECKPOINT as HIGH_WATERMARKS, UNBROKEN,
};

/// Kafka's mark of an orderly stop.
pub(super) const CLEAN_MARK: &str = ".kafka_cleanshutdown";
/// Our list of topics.
pub(super) const TOPIC_LIST: &str = "stratalog-topics";
/// Our note of what was verified in this boot.
pub(super) const VERIFIED_POINTS: &str = "stratalog-verified";

/// Our note of the producer ids that were handed out.
#[cfg(feature = "client")]
pub(super) const PRODUCER_IDS: &str = "stratalog-producer-ids";

/// Any of these files makes a folder a store.
const SIGNS: [&str; 7] =
    [RECOVERY_POINTS, LOG_START_OFFSETS, HIGH_WATERMARKS, CLEANER_OFFSETS, TOPIC_LIST, VERIFIED_POINTS, UNBROKEN];

/// These may stand in a folder that nobody has used yet.
const LOCKS: [&str; 2] = [".lock", ".stratalog.lock"];

/// A folder that a fresh volume has; only its file system uses it.
const LOST_AND_FOUND: &str = "lost+found";

/// A folder of Kafka's that holds no partition.
const INDEX_CACHE: &str = "remote-log-index-cache";

/// Something in the root folder, or about it, that was left out when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The folder or file.
    pub path: PathBuf,
    /// Why it was left out.
    pub reason: SkipReason,
}

/// Why something was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The folder's name is not that of a partition.
    NotAPartition,
    /// The folder's name is that of a partition, but nothing in it is a partition's.
    NoLogInside,
    /// A copy that Kafka was building (`-future`).
    Future,
    /// A partition that Kafka put aside (`-stray`).
    Stray,
    /// The folder vanished while a read-only store was being opened.
    Vanished,
    /// The folder can't be listed, and nothing else speaks of a topic of this name.
    Unreadable(std::io::ErrorKind),
    /// The file can't be understood; the store opened as if it weren't there.
    Damaged(FormatError),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPartition => f.write_str("not the name of a partition"),
            Self::NoLogInside => f.write_str("named like a partition, but holds no file of one"),
            Self::Future => f.write_str("an unfinished copy of a partition"),
            Self::Stray => f.write_str("a partition that Kafka put aside"),
            Self::Vanished => f.write_str("removed while the store was being opened"),
            Self::Unreadable(kind) => write!(f, "cannot be listed: {kind}"),
            Self::Damaged(error) => error.fmt(f),
        }
    }
}

/// What a root folder holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Live partitions, in the order of their folders' names.
    pub partitions: Vec<TopicPartition>,
    /// Folders named like partitions that can't be listed, so that their names prove nothing yet.
    pub unreadable: Vec<(TopicPartition, Skipped)>,
    /// Folders of deleted partitions.
    pub deleted: Vec<PathBuf>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

/// The folder of a partition.
pub(super) fn partition_dir(root: &Path, id: &TopicPartition) -> PathBuf {
    root.join(PartitionDirName::live(id.topic.as_str(), id.partition.value()))
}

/// The live partitions of `topic` that have a folder.
///
/// # Errors
/// [`IoError`] when the root can't be listed.
pub(super) fn partitions_of(vfs: &dyn Vfs, root: &Path, topic: &TopicName) -> Result<Vec<TopicPartition>, IoError> {
    let entries = vfs.read_dir(root)?.into_iter().filter(|entry| entry.is_dir);
    let partition = |entry: DirEntry| match PartitionDirName::parse(&entry.name)? {
        PartitionDirName::Live { topic: name, partition } if name == topic.as_str() => PartitionId::new(partition),
        _ => None,
    };
    Ok(entries.filter_map(partition).map(|partition| TopicPartition::new(topic.clone(), partition)).collect())
}

/// Refuses a folder that is not empty and that neither Kafka nor we ever used.
///
/// A folder's name proves little (`backup-2024` could be a partition), so one of a live partition counts only with a
/// partition's file in it.
///
/// # Errors
/// [`StoreError::NotAStore`]; [`StoreError::Io`] when a folder can't be listed and no other one proves the store.
pub(super) fn check_ours(vfs: &dyn Vfs, root: &Path) -> Result<(), StoreError> {
    let entries = vfs.read_dir(root)?;
    let is_empty_volumes =
        |entry: &DirEntry| LOCKS.contains(&entry.name.as_str()) || (entry.is_dir && entry.name == LOST_AND_FOUND);
    let mut strangers = entries.iter().filter(|entry| !is_empty_volumes(entry)).peekable();
    let Some(first) = strangers.peek() else { return Ok(()) };
    let found = first.name.clone();
    let mut failure = None;
    for entry in strangers {
        match proves_a_store(vfs, root, entry) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Another entry may prove it.
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure.map_or_else(|| StoreError::NotAStore { path: root.to_path_buf(), found }, StoreError::from))
}

fn proves_a_store(vfs: &dyn Vfs, root: &Path, entry: &DirEntry) -> Result<bool, IoError> {
    if !entry.is_dir {
        // A draft of such a file is all that a crash during the first opening leaves.
        let name = entry.name.strip_suffix(".tmp").unwrap_or(&entry.name);
        return Ok(SIGNS.contains(&name));
    }
    match PartitionDirName::parse(&entry.name) {
        Some(PartitionDirName::Live { .. }) => Ok(contents(vfs, &root.join(&entry.name))? == Contents::Log),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

/// What a folder with a partition's name holds.
#[derive(PartialEq, Eq)]
enum Contents {
    /// Nothing: its creation was cut short.
    Nothing,
    /// A partition's files.
    Log,
    /// Something else.
    Other,
}

fn contents(vfs: &dyn Vfs, dir: &Path) -> Result<Contents, IoError> {
    let entries = vfs.read_dir(dir)?;
    if entries.is_empty() {
        return Ok(Contents::Nothing);
    }
    let is_log = entries.iter().any(|entry| !entry.is_dir && FileName::parse(&entry.name).is_some());
    Ok(if is_log { Contents::Log } else { Contents::Other })
}

/// Sorts out the folders in `root`. Those of partitions that `is_listed` vouches for are not looked into.
///
/// # Errors
/// [`IoError`] when the root can't be listed.
pub(super) fn scan(vfs: &dyn Vfs, root: &Path, is_listed: impl Fn(&TopicPartition) -> bool) -> Result<Found, IoError> {
    let mut found = Found::default();
    for entry in vfs.read_dir(root)?.into_iter().filter(|entry| entry.is_dir && entry.name != INDEX_CACHE) {
        let path = root.join(&entry.name);
        match classify(vfs, &path, &entry.name, &is_listed) {
            Folder::Partition(id) => found.partitions.push(id),
            Folder::Unreadable(id, kind) => {
                found.unreadable.push((id, Skipped { path, reason: SkipReason::Unreadable(kind) }));
            }
            Folder::Deleted => found.deleted.push(path),
            Folder::Skip(reason) => found.skipped.push(Skipped { path, reason }),
        }
    }
    Ok(found)
}

enum Folder {
    Partition(TopicPartition),
    Unreadable(TopicPartition, std::io::ErrorKind),
    Deleted,
    Skip(SkipReason),
}

fn classify(vfs: &dyn Vfs, path: &Path, name: &str, is_listed: impl Fn(&TopicPartition) -> bool) -> Folder {
    let (topic, partition) = match PartitionDirName::parse(name) {
        Some(PartitionDirName::Live { topic, partition }) => (topic, partition),
        Some(PartitionDirName::Delete { .. }) => return Folder::Deleted,
        Some(PartitionDirName::Future { .. }) => return Folder::Skip(SkipReason::Future),
        Some(PartitionDirName::Stray { .. }) => return Folder::Skip(SkipReason::Stray),
        None => return Folder::Skip(SkipReason::NotAPartition),
    };
    let (Ok(topic), Some(partition)) = (TopicName::parse(&topic), PartitionId::new(partition)) else {
        return Folder::Skip(SkipReason::NotAPartition);
    };
    let id = TopicPartition::new(topic, partition);
    if is_listed(&id) {
        return Folder::Partition(id);
    }
    match contents(vfs, path) {
        Ok(Contents::Other) => Folder::Skip(SkipReason::NoLogInside),
        Ok(Contents::Nothing | Contents::Log) => Folder::Partition(id),
        // Another process removed it since the root was listed.
        Err(error) if error.is_not_found() => Folder::Skip(SkipReason::Vanished),
        Err(error) => Folder::Unreadable(id, error.io_kind()),
    }
}
