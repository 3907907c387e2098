//! The store-wide checkpoint files, written together; and the mark of an orderly stop.
//!
//! | file | a line for | says | when it can't be read |
//! |---|---|---|---|
//! | `recovery-point-offset-checkpoint` | every partition | everything below survives a power loss | all is verified after a crash |
//! | `log-start-offset-checkpoint` | partitions whose log start lies above their first segment's base | the log start offset | logs start at their first segment |
//! | `cleaner-offset-checkpoint` | partitions that were compacted | up to where | compaction starts at the log start |
//! | `replication-offset-checkpoint` | every partition | the high watermark | never read: it is the log end until a partition is replicated |
//! | `stratalog-verified` | every partition that is online | see `format/verified_points.rs` | recovery goes by the recovery points |
//!
//! A damaged file never keeps a store from opening: it is reported, and the last column holds. Each file is replaced
//! as a whole, and one that would not change is left alone, so that an idle store writes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::StoreError;
use super::failed::Lines;
use super::layout::{self, SkipReason, Skipped};
use crate::format::{CleanShutdown, FormatError, OffsetCheckpoint, VerifiedPoints};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::partition::{Partition, VerifiedPoint};
use crate::types::Offset;
use crate::vfs::{IoError, Vfs, read_whole, replace_whole};

/// What the files said when the store was opened.
#[derive(Debug, Default)]
pub(super) struct Checkpointed {
    pub recovery_points: BTreeMap<TopicPartition, Offset>,
    pub log_start_offsets: BTreeMap<TopicPartition, Offset>,
    pub first_dirty_offsets: BTreeMap<TopicPartition, Offset>,
    pub verified: BTreeMap<TopicPartition, VerifiedPoint>,
}

impl Checkpointed {
    /// Reads the files; damaged ones count as empty and are reported in `skipped`. What was verified counts only after
    /// a crash in this boot of the machine.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub(super) fn load(
        vfs: &dyn Vfs,
        root: &Path,
        clean: bool,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Self, StoreError> {
        let verified = if clean { BTreeMap::new() } else { load_verified(vfs, root, skipped)? };
        Ok(Self {
            recovery_points: load_offsets(vfs, root, layout::RECOVERY_POINTS, skipped)?,
            log_start_offsets: load_offsets(vfs, root, layout::LOG_START_OFFSETS, skipped)?,
            first_dirty_offsets: load_offsets(vfs, root, layout::CLEANER_OFFSETS, skipped)?,
            verified,
        })
    }
}

fn load_offsets(
    vfs: &dyn Vfs,
    root: &Path,
    name: &str,
    skipped: &mut Vec<Skipped>,
) -> Result<BTreeMap<TopicPartition, Offset>, StoreError> {
    let checkpoint = load(vfs, root, name, skipped, OffsetCheckpoint::parse)?.unwrap_or_default();
    // A line that names no possible partition speaks of none of ours.
    let entries = checkpoint.entries.into_iter().filter_map(|(topic, partition, offset)| {
        let id = TopicPartition::new(TopicName::parse(&topic).ok()?, PartitionId::new(partition)?);
        Some((id, offset))
    });
    Ok(entries.collect())
}

fn load_verified(
    vfs: &dyn Vfs,
    root: &Path,
    skipped: &mut Vec<Skipped>,
) -> Result<BTreeMap<TopicPartition, VerifiedPoint>, StoreError> {
    let Some(boot_id) = vfs.boot_id() else { return Ok(BTreeMap::new()) };
    let verified = load(vfs, root, layout::VERIFIED_POINTS, skipped, VerifiedPoints::parse)?;
    let points =
        verified.filter(|verified| verified.boot_id == boot_id).map_or_else(Vec::new, |verified| verified.points);
    let point = |(id, base_offset, position)| (id, VerifiedPoint { base_offset, position });
    Ok(points.into_iter().map(point).collect())
}

/// Reads and parses a file of the root; `None` when it isn't there, or when it is damaged, which is reported.
fn load<T>(
    vfs: &dyn Vfs,
    root: &Path,
    name: &str,
    skipped: &mut Vec<Skipped>,
    parse: impl FnOnce(&[u8]) -> Result<T, FormatError>,
) -> Result<Option<T>, StoreError> {
    let path = root.join(name);
    let Some(bytes) = read_whole(vfs, &path)? else { return Ok(None) };
    match parse(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            skipped.push(Skipped { path, reason: SkipReason::Damaged(error) });
            Ok(None)
        }
    }
}

/// Writes the files, and remembers what they hold.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    written: BTreeMap<&'static str, Vec<u8>>,
}

impl Checkpoints {
    /// Brings the checkpoint files up to date with `partitions`, durably. What they said of `failed` ones stays.
    ///
    /// # Errors
    /// As the operating system says; files not reached yet still hold what they held.
    pub(super) fn write(
        &mut self,
        vfs: &dyn Vfs,
        root: &Path,
        partitions: &[Partition],
        failed: &[(TopicPartition, Lines)],
    ) -> Result<(), IoError> {
        let mut contents = offsets(partitions, failed);
        contents.extend(verified(vfs, partitions, failed));
        let mut changed = false;
        for (name, bytes) in contents {
            if self.written.get(name) != Some(&bytes) {
                replace_whole(vfs, &root.join(name), &bytes)?;
                self.written.insert(name, bytes);
                changed = true;
            }
        }
        if changed { vfs.sync_dir(root).inspect_err(|_| self.written.clear()) } else { Ok(()) }
    }
}

/// Kafka's files.
fn offsets(partitions: &[Partition], failed: &[(TopicPartition, Lines)]) -> Vec<(&'static str, Vec<u8>)> {
    let all = || partitions.iter();
    let raised = all().filter(|partition| partition.log_start_offset() > partition.first_base_offset());
    let kept =
        |line: fn(&Lines) -> Option<Offset>| failed.iter().filter_map(move |(id, lines)| Some((id, line(lines)?)));
    vec![
        (layout::RECOVERY_POINTS, encode(all(), Partition::recovery_point, kept(|lines| lines.recovery_point))),
        (layout::LOG_START_OFFSETS, encode(raised, Partition::log_start_offset, kept(|lines| lines.log_start_offset))),
        (layout::HIGH_WATERMARKS, encode(all(), Partition::high_watermark, std::iter::empty())),
        (
            layout::CLEANER_OFFSETS,
            encode_some(all(), Partition::first_dirty_offset, kept(|lines| lines.first_dirty_offset)),
        ),
    ]
}

fn encode<'a>(
    partitions: impl Iterator<Item = &'a Partition>,
    offset: impl Fn(&Partition) -> Offset,
    kept: impl Iterator<Item = (&'a TopicPartition, Offset)>,
) -> Vec<u8> {
    encode_some(partitions, |partition| Some(offset(partition)), kept)
}

fn encode_some<'a>(
    partitions: impl Iterator<Item = &'a Partition>,
    offset: impl Fn(&Partition) -> Option<Offset>,
    kept: impl Iterator<Item = (&'a TopicPartition, Offset)>,
) -> Vec<u8> {
    let open = partitions.filter_map(|partition| Some((partition.id(), offset(partition)?)));
    let entry = |(id, offset): (&TopicPartition, Offset)| (id.topic.as_str().to_owned(), id.partition.value(), offset);
    OffsetCheckpoint { entries: open.chain(kept).map(entry).collect() }.encode()
}

/// Our file, where the machine tells its boots apart.
fn verified(
    vfs: &dyn Vfs,
    partitions: &[Partition],
    failed: &[(TopicPartition, Lines)],
) -> Option<(&'static str, Vec<u8>)> {
    let boot_id = vfs.boot_id()?;
    let open = partitions.iter().map(|partition| (partition.id(), partition.verified_point()));
    let kept = failed.iter().map(|(id, lines)| (id, lines.verified));
    let point = |(id, point): (&TopicPartition, Option<VerifiedPoint>)| {
        let VerifiedPoint { base_offset, position } = point?;
        Some((id.clone(), base_offset, position))
    };
    let points = open.chain(kept).filter_map(point).collect();
    Some((layout::VERIFIED_POINTS, VerifiedPoints { boot_id, points }.encode()))
}

/// Forgets what was verified, before anything changes that it speaks of.
pub(super) fn forget_verified(vfs: &dyn Vfs, root: &Path) -> Result<(), IoError> {
    match vfs.remove_file(&root.join(layout::VERIFIED_POINTS)) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Whether the store was stopped in order.
pub(super) fn is_clean(vfs: &dyn Vfs, root: &Path) -> Result<bool, IoError> {
    Ok(vfs.metadata(&root.join(layout::CLEAN_MARK))?.is_some())
}

/// As [`is_clean`], and takes the mark away durably, so that a crash from here on is seen as one.
pub(super) fn take_clean_mark(vfs: &dyn Vfs, root: &Path) -> Result<bool, IoError> {
    match vfs.remove_file(&root.join(layout::CLEAN_MARK)) {
        Ok(()) => vfs.sync_dir(root).map(|()| true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says, durably, that the store was stopped in order. Everything else must be durable already.
pub(super) fn put_clean_mark(vfs: &dyn Vfs, root: &Path) -> Result<(), IoError> {
    replace_whole(vfs, &root.join(layout::CLEAN_MARK), &CleanShutdown { broker_epoch: None }.encode())?;
    vfs.sync_dir(root)
}
