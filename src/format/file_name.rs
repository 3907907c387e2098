//! The names of files and folders: built and parsed here and nowhere else.
//!
//! | name | what |
//! |------|------|
//! | `<offset>.log`, `.index`, `.timeindex`, `.txnindex` | a segment; the offset is its base offset, 20 digits |
//! | `<offset>.snapshot` | the producers before that offset |
//! | `<offset>.replaced` | the last of the segments that a swap in progress replaces; no content |
//! | `<offset>.restarted` | where a log that is being emptied begins anew; no content |
//! | `<offset>.trimmed` | the log start while segments below it lose their names; no content |
//! | `<offset>.truncated` | the end that a log gets while it is being cut; no content |
//! | `stratalog-cuts` | what recovery cut off and nobody has read of yet, in a partition folder |
//! | `leader-epoch-checkpoint`, `partition.metadata` | one of each in a partition folder |
//! | any of these, then `.deleted`, `.cleaned`, `.swap`, `.tmp` or `.cut` | not live: going, coming or put aside |
//! | any of these, then `.2.cut`, `.3.cut` and so on | put aside where there was a `.cut` already |
//! | `<topic>-<partition>` | the folder of a partition |
//! | `<topic>-<partition>.<id>-delete`, `-future`, `-stray` | a partition folder that isn't live |
//!
//! A name parses only if building it again gives the same name, so that no two files stand for the same thing.
//! Whether a topic's name is legal is for the layer that knows topics.

use crate::types::Offset;
use std::fmt;

/// The file that Kafka locks while a log directory is in use.
pub const LOCK: &str = ".lock";
/// The file whose existence says that the store was closed in order.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// The identity of a log directory.
pub const META_PROPERTIES: &str = "meta.properties";
/// Below which offset each partition is known to be on disk.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// Where each partition starts that doesn't start at its first segment.
pub const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// From where on each log has no gap. Ours, not Kafka's.
pub(crate) const UNBROKEN: &str = "stratalog-unbroken";
/// The high watermark of each partition.
pub const REPLICATION_CHECKPOINT: &str = "replication-offset-checkpoint";
/// The first offset of each compacted partition that isn't cleaned yet.
pub const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// The leader epochs of a partition, in its folder.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// The topic id of a partition, in its folder.
pub const PARTITION_METADATA: &str = "partition.metadata";

/// What recovery cut off in a partition and nobody has read of yet, in its folder; this crate's own.
pub const CUT_LIST: &str = "stratalog-cuts";

/// Digits of the offset in a file's name.
const OFFSET_DIGITS: usize = 20;
/// Characters that the name of a folder may have at most.
const MAX_DIR_NAME_SIZE: usize = 255;

/// What a file in a partition folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// `.log`: the batches of a segment.
    Log,
    /// `.index`: offsets to positions.
    OffsetIndex,
    /// `.timeindex`: timestamps to offsets.
    TimeIndex,
    /// `.txnindex`: aborted transactions.
    TxnIndex,
    /// `.snapshot`: the producers before an offset.
    Snapshot,
    /// `.replaced`: while other segments take its place and that of those before it, this segment's base stands in this name;
    /// this crate's own, and empty.
    Replaced,
    /// `.restarted`: while a log is being emptied, the offset that it begins anew at stands in this name; this crate's own, and empty.
    Restarted,
    /// `.trimmed`: while segments at the log's start are removed, the new log start stands in this name; this crate's own, and
    /// empty.
    Trimmed,
    /// `.truncated`: while a log is being cut, the offset that it will end at stands in this name; this crate's own, and empty.
    Truncated,
    /// `leader-epoch-checkpoint`.
    LeaderEpochs,
    /// `partition.metadata`.
    PartitionMetadata,
}

impl FileKind {
    /// The kinds whose files are named after an offset, with their extensions.
    const NUMBERED: [(Self, &'static str); 9] = [
        (Self::Log, "log"),
        (Self::OffsetIndex, "index"),
        (Self::TimeIndex, "timeindex"),
        (Self::TxnIndex, "txnindex"),
        (Self::Snapshot, "snapshot"),
        (Self::Replaced, "replaced"),
        (Self::Restarted, "restarted"),
        (Self::Trimmed, "trimmed"),
        (Self::Truncated, "truncated"),
    ];
}

/// What a file is that isn't live: the ending after its ordinary name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Suffix {
    /// Live.
    #[default]
    None,
    /// `.deleted`: waits to be removed.
    Deleted,
    /// `.cleaned`: the unfinished output of compaction or of a split.
    Cleaned,
    /// `.swap`: a finished replacement on its way into place.
    Swap,
    /// `.tmp`: a checkpoint that is being written.
    Tmp,
    /// `.cut`: what recovery cut off and put aside; this crate's own.
    Cut,
}

impl Suffix {
    const ALL: [Self; 5] = [Self::Deleted, Self::Cleaned, Self::Swap, Self::Tmp, Self::Cut];

    /// The ending as it stands in a name, with its dot; empty for a live file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Deleted => ".deleted",
            Self::Cleaned => ".cleaned",
            Self::Swap => ".swap",
            Self::Tmp => ".tmp",
            Self::Cut => ".cut",
        }
    }
}

/// The name of a file in a partition folder; displayed as it stands on disk.
///
/// # Example
/// ```
/// use stratalog::format::file_name::{FileKind, FileName, Suffix};
/// use stratalog::types::Offset;
///
/// let name = FileName::log(Offset::ZERO).with_suffix(Suffix::Deleted);
/// assert_eq!(name.to_string(), "00000000000000000000.log.deleted");
/// assert_eq!(FileName::parse("00000000000000000000.log.deleted"), Some(name));
/// assert_eq!((name.kind(), name.offset()), (FileKind::Log, Some(Offset::ZERO)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// Some exactly for the numbered kinds.
    offset: Option<Offset>,
    kind: FileKind,
    suffix: Suffix,
}

impl FileName {
    pub(crate) const fn numbered(kind: FileKind, offset: Offset) -> Self {
        Self { kind, offset: Some(offset), suffix: Suffix::None }
    }

    /// The `.log` of the segment with this base offset.
    #[must_use]
    pub const fn log(base: Offset) -> Self {
        Self::numbered(FileKind::Log, base)
    }

    /// The `.index` of the segment with this base offset.
    #[must_use]
    pub const fn offset_index(base: Offset) -> Self {
        Self::numbered(FileKind::OffsetIndex, base)
    }

    /// The `.timeindex` of the segment with this base offset.
    #[must_use]
    pub const fn time_index(base: Offset) -> Self {
        Self::numbered(FileKind::TimeIndex, base)
    }

    /// The `.txnindex` of the segment with this base offset.
    #[must_use]
    pub const fn txn_index(base: Offset) -> Self {
        Self::numbered(FileKind::TxnIndex, base)
    }

    /// The `.snapshot` of the producers before this offset.
    #[must_use]
    pub const fn snapshot(end: Offset) -> Self {
        Self::numbered(FileKind::Snapshot, end)
    }

    /// The mark of a swap in progress that replaces segments up to the one with this base offset.
    #[must_use]
    pub const fn replaced(last: Offset) -> Self {
        Self::numbered(FileKind::Replaced, last)
    }

    /// The mark of a log that is being emptied and begins anew at this offset.
    #[must_use]
    pub const fn restarted(start: Offset) -> Self {
        Self::numbered(FileKind::Restarted, start)
    }

    /// The mark of a log that starts at this offset, whatever stands below it.
    #[must_use]
    pub const fn trimmed(log_start: Offset) -> Self {
        Self::numbered(FileKind::Trimmed, log_start)
    }

    /// The mark of a log that is being cut and will end at this offset.
    #[must_use]
    pub const fn truncated(end: Offset) -> Self {
        Self::numbered(FileKind::Truncated, end)
    }

    /// `leader-epoch-checkpoint`.
    #[must_use]
    pub const fn leader_epochs() -> Self {
        Self { kind: FileKind::LeaderEpochs, offset: None, suffix: Suffix::None }
    }

    /// `partition.metadata`.
    #[must_use]
    pub const fn partition_metadata() -> Self {
        Self { kind: FileKind::PartitionMetadata, offset: None, suffix: Suffix::None }
    }

    /// The same name with this suffix in place of the one it has.
    #[must_use]
    pub const fn with_suffix(self, suffix: Suffix) -> Self {
        Self { suffix, ..self }
    }

    /// What the file holds.
    #[must_use]
    pub const fn kind(self) -> FileKind {
        self.kind
    }

    /// The offset in the name: the base offset of a segment's file, the end offset of a snapshot.
    #[must_use]
    pub const fn offset(self) -> Option<Offset> {
        self.offset
    }

    /// Whether the file is live, or else what becomes of it.
    #[must_use]
    pub const fn suffix(self) -> Suffix {
        self.suffix
    }

    /// The name that `name` is, with at most one suffix; `None` when it is no name of a file in a partition folder.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let stripped = Suffix::ALL.into_iter().find_map(|suffix| Some((name.strip_suffix(suffix.as_str())?, suffix)));
        let (name, suffix) = stripped.unwrap_or((name, Suffix::None));
        let live = match name {
            LEADER_EPOCH_CHECKPOINT => Self::leader_epochs(),
            PARTITION_METADATA => Self::partition_metadata(),
            _ => Self::parse_numbered(name)?,
        };
        Some(live.with_suffix(suffix))
    }

    fn parse_numbered(name: &str) -> Option<Self> {
        let (digits, extension) = name.split_once('.')?;
        let (kind, _) = FileKind::NUMBERED.into_iter().find(|&(_, known)| known == extension)?;
        if digits.len() != OFFSET_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self::numbered(kind, Offset::new(digits.parse().ok()?)?))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extension = FileKind::NUMBERED.into_iter().find(|&(kind, _)| kind == self.kind).map(|(_, name)| name);
        match (self.offset, extension, self.kind) {
            (Some(offset), Some(extension), _) => write!(f, "{:0OFFSET_DIGITS$}.{extension}", offset.value())?,
            (_, _, FileKind::LeaderEpochs) => f.write_str(LEADER_EPOCH_CHECKPOINT)?,
            _ => f.write_str(PARTITION_METADATA)?,
        }
        f.write_str(self.suffix.as_str())
    }
}

/// The `number`th name, counted from 1, for what recovery cuts out of the file `name`.
pub(crate) fn cut_name(name: &str, number: u64) -> String {
    let suffix = Suffix::Cut.as_str();
    if number > 1 { format!("{name}.{number}{suffix}") } else { format!("{name}{suffix}") }
}

/// Whether recovery gives a file such a name. Another file that ends in `.cut` is somebody's own.
pub(crate) fn is_cut_name(name: &str) -> bool {
    let offset = name.get(..OFFSET_DIGITS);
    let begins_with_offset = offset.is_some_and(|offset| offset.bytes().all(|byte| byte.is_ascii_digit()));
    let rest = name.get(OFFSET_DIGITS..).unwrap_or_default();
    begins_with_offset && rest.starts_with('.') && rest.ends_with(Suffix::Cut.as_str())
}

/// What the name of a folder in a log directory says.
///
/// The topic of a folder that isn't live may be cut short: such names are limited to 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PartitionDirName {
    /// `<topic>-<partition>`: a live partition.
    Live {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: i32,
    },
    /// `-delete`: waits to be removed.
    Delete {
        /// The topic's name, or its beginning.
        topic: String,
        /// The partition's number.
        partition: i32,
    },
    /// `-future`: a copy that is being built.
    Future {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: i32,
    },
    /// `-stray`: put aside by Kafka, and never removed by itself.
    Stray {
        /// The topic's name, or its beginning.
        topic: String,
        /// The partition's number.
        partition: i32,
    },
}

impl PartitionDirName {
    /// The partition folder that `name` is; `None` for any other name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some((topic, partition)) = parse_with_id(name, "-delete") {
            return Some(Self::Delete { topic, partition });
        }
        if let Some((topic, partition)) = parse_with_id(name, "-future") {
            return Some(Self::Future { topic, partition });
        }
        if let Some((topic, partition)) = parse_with_id(name, "-stray") {
            return Some(Self::Stray { topic, partition });
        }
        let (topic, partition) = parse_topic_partition(name)?;
        Some(Self::Live { topic, partition })
    }

    /// The topic's name, or its beginning when the folder isn't live.
    #[must_use]
    pub fn topic(&self) -> &str {
        match self {
            Self::Live { topic, .. }
            | Self::Delete { topic, .. }
            | Self::Future { topic, .. }
            | Self::Stray { topic, .. } => topic,
        }
    }

    /// The partition's number; never negative.
    #[must_use]
    pub const fn partition(&self) -> i32 {
        match self {
            Self::Live { partition, .. }
            | Self::Delete { partition, .. }
            | Self::Future { partition, .. }
            | Self::Stray { partition, .. } => *partition,
        }
    }

    /// The name of a live partition's folder.
    #[must_use]
    pub fn live(topic: &str, partition: i32) -> String {
        format!("{topic}-{partition}")
    }

    /// The name that a partition's folder gets before it is removed; `id` keeps apart those of the same partition.
    /// The topic is cut so that the name has at most 255 bytes.
    #[must_use]
    pub fn delete(topic: &str, partition: i32, id: u128) -> String {
        let ending = format!("-{partition}.{id:032x}-delete");
        let room = MAX_DIR_NAME_SIZE.saturating_sub(ending.len());
        let prefix = (0..=room.min(topic.len())).rev().find_map(|size| topic.get(..size)).unwrap_or_default();
        format!("{prefix}{ending}")
    }
}

/// Parses `<topic>-<partition>.<id><ending>`, cut at the last dot.
fn parse_with_id(name: &str, ending: &str) -> Option<(String, i32)> {
    let (partition, id) = name.strip_suffix(ending)?.rsplit_once('.')?;
    if id.is_empty() || id.contains(char::is_whitespace) {
        return None;
    }
    parse_topic_partition(partition)
}

/// Parses `<topic>-<partition>`, cut at the last dash.
fn parse_topic_partition(name: &str) -> Option<(String, i32)> {
    let (topic, digits) = name.rsplit_once('-')?;
    let partition: i32 = digits.parse().ok()?;
    // Neither `t-+1` nor `t-01`: they would be the same partition as `t-1`.
    let is_canonical = partition >= 0 && digits == partition.to_string();
    let is_topic = !topic.is_empty() && !topic.contains(char::is_whitespace);
    (is_canonical && is_topic).then(|| (topic.to_owned(), partition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("legal")
    }

    #[test]
    fn only_names_that_recovery_gives_are_cut_files() {
        for number in [1, 2, 100] {
            assert!(is_cut_name(&cut_name("00000000000000000007.log", number)), "{number}");
        }
        for name in
            ["", "notes.cut", "00000000000000000007.log", "00000000000000000007cut", "ä0000000000000000000.log.cut"]
        {
            assert!(!is_cut_name(name), "{name}");
        }
    }

    #[test]
    fn names_have_twenty_digits_and_the_suffix_last() {
        let cases = [
            (FileName::log(offset(42)), "00000000000000000042.log"),
            (FileName::offset_index(Offset::ZERO).with_suffix(Suffix::Deleted), "00000000000000000000.index.deleted"),
            (FileName::time_index(offset(9)).with_suffix(Suffix::Swap), "00000000000000000009.timeindex.swap"),
            (FileName::txn_index(offset(9)).with_suffix(Suffix::Cleaned), "00000000000000000009.txnindex.cleaned"),
            (FileName::snapshot(Offset::MAX), "09223372036854775807.snapshot"),
            (FileName::log(offset(1)).with_suffix(Suffix::Cut), "00000000000000000001.log.cut"),
            (FileName::replaced(offset(20)), "00000000000000000020.replaced"),
            (FileName::leader_epochs(), "leader-epoch-checkpoint"),
            (FileName::partition_metadata().with_suffix(Suffix::Tmp), "partition.metadata.tmp"),
        ];
        for (name, text) in cases {
            assert_eq!(name.to_string(), text);
            assert_eq!(FileName::parse(text), Some(name));
        }
    }

    #[test]
    fn other_names_are_no_files_of_a_partition() {
        let names = [
            "",
            ".",
            ".log",
            "0.log",
            "0000000000000000000.log",
            "000000000000000000000.log",
            "0000000000000000004+.log",
            "-0000000000000000001.log",
            "09223372036854775808.log",
            "00000000000000000000.LOG",
            "00000000000000000000.log.",
            "00000000000000000000",
            "00000000000000000000.log.deleted.deleted",
            "00000000000000000000.log.bak",
            "00000000000000000238-0000000001.checkpoint",
            "quorum-state",
            "leader-epoch-checkpoint.old",
            "０0000000000000000000.log",
            "../00000000000000000000.log",
            ".lock",
        ];
        for name in names {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn partition_folders_are_cut_at_the_last_dash() {
        let live = |topic: &str, partition| Some(PartitionDirName::Live { topic: topic.to_owned(), partition });
        assert_eq!(PartitionDirName::parse("orders-0"), live("orders", 0));
        assert_eq!(PartitionDirName::parse("a-b-12"), live("a-b", 12));
        assert_eq!(PartitionDirName::parse("a--1"), live("a-", 1));
        assert_eq!(PartitionDirName::parse("a.b-delete-3"), live("a.b-delete", 3));
        assert_eq!(PartitionDirName::parse("--2147483647"), live("-", i32::MAX));
    }

    #[test]
    fn folders_that_are_not_live_say_so() {
        let id = "0123456789abcdef0123456789abcdef";
        let topic = "a.b".to_owned();
        assert_eq!(
            PartitionDirName::parse(&format!("a.b-1.{id}-delete")),
            Some(PartitionDirName::Delete { topic: topic.clone(), partition: 1 })
        );
        assert_eq!(
            PartitionDirName::parse(&format!("a.b-1.{id}-future")),
            Some(PartitionDirName::Future { topic: topic.clone(), partition: 1 })
        );
        let stray = PartitionDirName::parse(&format!("a.b-1.{id}-stray"));
        assert_eq!(stray, Some(PartitionDirName::Stray { topic, partition: 1 }));
    }

    #[test]
    fn other_folders_are_no_partitions() {
        for name in [
            "",
            "-",
            "orders",
            "orders-",
            "-0",
            "orders-x",
            "orders--",
            "orders-2147483648",
            "orders-+1",
            "orders-01",
            "or ders-1",
            "orders-1.-delete",
            "orders-1-delete",
            "orders.0123-delete",
            "-1.0123-delete",
            "lost+found",
            "remote-log-index-cache",
            "orders-1.01 23-stray",
        ] {
            assert_eq!(PartitionDirName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn names_for_deletion_keep_to_255_characters() {
        let name = PartitionDirName::delete("orders", 7, 0xabc);
        assert_eq!(name, "orders-7.00000000000000000000000000000abc-delete");
        assert_eq!(
            PartitionDirName::parse(&name),
            Some(PartitionDirName::Delete { topic: "orders".to_owned(), partition: 7 })
        );

        let name = PartitionDirName::delete(&"t".repeat(249), i32::MAX, u128::MAX);
        assert_eq!(name.len(), 255);
        let parsed = PartitionDirName::parse(&name).expect("still a partition");
        assert_eq!((parsed.topic(), parsed.partition()), ("t".repeat(204).as_str(), i32::MAX));
    }

    proptest! {
        #[test]
        fn what_parses_builds_the_same_name(text in "[0-9]{20}\\.(log|index|timeindex|txnindex|snapshot|replaced)(\\.deleted|\\.cleaned|\\.swap|\\.tmp|\\.cut)?") {
            if let Some(name) = FileName::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_a_name_or_not_but_never_a_panic(text: String, topic: String, partition: i32, id: u128) {
            let _ = FileName::parse(&text);
            if let Some(PartitionDirName::Live { topic, partition }) = PartitionDirName::parse(&text) {
                prop_assert_eq!(PartitionDirName::live(&topic, partition), text);
            }
            prop_assert!(PartitionDirName::delete(&topic, partition, id).len() <= 255);
        }

        #[test]
        fn live_folders_round_trip(topic in "[a-zA-Z0-9._-]{1,249}", partition in 0..=i32::MAX) {
            let name = PartitionDirName::live(&topic, partition);
            prop_assert_eq!(PartitionDirName::parse(&name), Some(PartitionDirName::Live { topic, partition }));
        }
    }
}
