//! The store-wide checkpoint files, written together; and the mark of an orderly stop.
//!
//! | file | a line for | says | when it can't be read |
//! |---|---|---|---|
//! | `recovery-point-offset-checkpoint` | every partition | everything below survives a power loss | all is verified after a crash |
//! | `log-start-offset-checkpoint` | partitions whose log start lies above their first segment's base | the log start offset | logs start at their first segment |
//! | `cleaner-offset-checkpoint` | partitions that were compacted | up to where | compaction starts at the log start |
//! | `replication-offset-checkpoint` | every partition | the high watermark | the log end takes its place, as it does in every partition that is open |
//! | `stratalog-verified` | every partition that is online | see `format/verified_points.rs` | recovery goes by the recovery points |
//! | `stratalog-unbroken` | every partition | see `format/unbroken.rs` | recovery takes gaps for the logs' own |
//!
//! [`NoteKeeper`] holds a line for each partition and is the only one to write the files. A partition that is about to cut its log
//! has its line lowered there; a checkpoint asks every partition for its line. Both happen under the keeper's lock, so that no
//! checkpoint brings an old line back. The lock is held while the files are written. Under it, only those of a partition's locks are
//! taken that come last in their order (`partition/mod.rs`). Appends don't wait for it, unless the opening could not write the files.
//!
//! A damaged file never keeps a store from opening: it is reported, and the last column holds. Each file is replaced
//! as a whole, and one that would not change is left alone, so that an idle store writes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::StoreError;
use super::layout::{self, SkipReason, Skipped};
use crate::format::{
    CleanShutdown, FormatError, OffsetCheckpoint, UnbrokenEntry, VerifiedPoints, encode_unbroken, parse_unbroken,
};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::partition::{NoteLine, Notes, Partition, Unbroken, VerifiedPoint};
use crate::types::Offset;
use crate::vfs::{IoError, Vfs, read_whole, replace_whole, unless_missing};

/// What the files said when the store was opened.
#[derive(Debug, Default)]
pub(super) struct Checkpointed {
    pub recovery_points: BTreeMap<TopicPartition, Offset>,
    pub log_start_offsets: BTreeMap<TopicPartition, Offset>,
    pub first_dirty_offsets: BTreeMap<TopicPartition, Offset>,
    pub verified: BTreeMap<TopicPartition, VerifiedPoint>,
    high_watermarks: BTreeMap<TopicPartition, Offset>,
    pub unbroken: BTreeMap<TopicPartition, Unbroken>,
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
            high_watermarks: load_offsets(vfs, root, layout::HIGH_WATERMARKS, skipped)?,
            unbroken: load_unbroken(vfs, root, skipped)?,
        })
    }

    /// What was noted of a partition, as a line.
    fn line(&self, id: &TopicPartition) -> NoteLine {
        let offset = |offsets: &BTreeMap<TopicPartition, Offset>| offsets.get(id).copied();
        NoteLine {
            recovery_point: offset(&self.recovery_points).unwrap_or(Offset::ZERO),
            log_start: offset(&self.log_start_offsets).unwrap_or(Offset::ZERO),
            first_base: Offset::ZERO,
            high_watermark: offset(&self.high_watermarks).unwrap_or(Offset::ZERO),
            first_dirty: offset(&self.first_dirty_offsets),
            verified: self.verified.get(id).copied(),
            unbroken: self.unbroken.get(id).copied(),
        }
    }
}

fn load_unbroken(
    vfs: &dyn Vfs,
    root: &Path,
    skipped: &mut Vec<Skipped>,
) -> Result<BTreeMap<TopicPartition, Unbroken>, StoreError> {
    let entries = load(vfs, root, layout::UNBROKEN, skipped, parse_unbroken)?.unwrap_or_default();
    let note = |UnbrokenEntry { partition, from, log_start, leader_epoch }| {
        (partition, Unbroken { from, log_start, leader_epoch })
    };
    Ok(entries.into_iter().map(note).collect())
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

/// The lines of all partitions, and the files that hold them.
#[derive(Debug)]
pub(super) struct NoteKeeper {
    vfs: Arc<dyn Vfs>,
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: BTreeMap<TopicPartition, NoteLine>,
    /// What the files hold.
    written: BTreeMap<&'static str, Vec<u8>>,
}

impl Notes for NoteKeeper {
    fn renew(&self, partition: &TopicPartition, line: &dyn Fn() -> NoteLine) -> Result<(), IoError> {
        self.renew_one(&mut self.state.lock(), partition, line)
    }

    fn renew_unless_busy(&self, partition: &TopicPartition, line: &dyn Fn() -> NoteLine) -> Result<(), IoError> {
        self.state.try_lock().map_or(Ok(()), |mut state| self.renew_one(&mut state, partition, line))
    }

    fn forget_verified(&self) {
        let mut state = self.state.lock();
        state.written.remove(layout::VERIFIED_POINTS);
        // Where even this fails, the disk is in no state to be trusted by anything.
        forget_verified(&*self.vfs, &self.root).ok();
    }
}

impl NoteKeeper {
    /// Keeps what was noted of `partitions`; other lines go with the next write.
    pub(super) fn new<'a>(
        vfs: Arc<dyn Vfs>,
        root: PathBuf,
        noted: &Checkpointed,
        partitions: impl Iterator<Item = &'a TopicPartition>,
    ) -> Self {
        let lines = partitions.map(|id| (id.clone(), noted.line(id))).collect();
        Self { vfs, root, state: Mutex::new(State { lines, written: BTreeMap::new() }) }
    }

    fn renew_one(
        &self,
        state: &mut State,
        partition: &TopicPartition,
        line: &dyn Fn() -> NoteLine,
    ) -> Result<(), IoError> {
        state.lines.insert(partition.clone(), line());
        self.write(state)
    }

    /// Brings the files up to date with `partitions`, durably. Lines of others stay as they are.
    ///
    /// # Errors
    /// As the operating system says; files not reached yet still hold what they held.
    pub(super) fn renew_all(&self, partitions: &[Partition]) -> Result<(), IoError> {
        let mut state = self.state.lock();
        for partition in partitions {
            state.lines.insert(partition.id().clone(), partition.note_line());
        }
        self.write(&mut state)?;
        partitions.iter().for_each(Partition::learn_of_notes);
        Ok(())
    }

    /// What is noted of a partition.
    pub(super) fn line(&self, partition: &TopicPartition) -> Option<NoteLine> {
        self.state.lock().lines.get(partition).copied()
    }

    /// Forgets the partitions of a topic, durably.
    ///
    /// # Errors
    /// As for [`NoteKeeper::renew_all`].
    pub(super) fn forget(&self, topic: &TopicName) -> Result<(), IoError> {
        let mut state = self.state.lock();
        state.lines.retain(|id, _| id.topic != *topic);
        self.write(&mut state)
    }

    /// Brings the files up to date with the lines, durably. After an error nothing is known of what they hold: the next write writes all.
    fn write(&self, state: &mut State) -> Result<(), IoError> {
        let written = self.write_changed(state);
        written.inspect_err(|_| state.written.clear())
    }

    fn write_changed(&self, state: &mut State) -> Result<(), IoError> {
        let mut contents = offsets(&state.lines);
        contents.push((layout::UNBROKEN, unbroken(&state.lines)));
        contents.extend(verified(&*self.vfs, &state.lines));
        let mut changed = false;
        for (name, bytes) in contents {
            if state.written.get(name) != Some(&bytes) {
                replace_whole(&*self.vfs, &self.root.join(name), &bytes)?;
                state.written.insert(name, bytes);
                changed = true;
            }
        }
        if changed { self.vfs.sync_dir(&self.root) } else { Ok(()) }
    }
}

type LinesById = BTreeMap<TopicPartition, NoteLine>;

/// Kafka's files.
fn offsets(lines: &LinesById) -> Vec<(&'static str, Vec<u8>)> {
    let raised = |line: &NoteLine| (line.log_start > line.first_base).then_some(line.log_start);
    vec![
        (layout::RECOVERY_POINTS, encode(lines, |line| Some(line.recovery_point))),
        (layout::LOG_START_OFFSETS, encode(lines, raised)),
        (layout::HIGH_WATERMARKS, encode(lines, |line| Some(line.high_watermark))),
        (layout::CLEANER_OFFSETS, encode(lines, |line| line.first_dirty)),
    ]
}

fn encode(lines: &LinesById, offset: impl Fn(&NoteLine) -> Option<Offset>) -> Vec<u8> {
    let entry = |(id, line): (&TopicPartition, &NoteLine)| {
        Some((id.topic.as_str().to_owned(), id.partition.value(), offset(line)?))
    };
    OffsetCheckpoint { entries: lines.iter().filter_map(entry).collect() }.encode()
}

fn unbroken(lines: &LinesById) -> Vec<u8> {
    let entry = |(id, line): (&TopicPartition, &NoteLine)| {
        let Unbroken { from, log_start, leader_epoch } = line.unbroken?;
        Some(UnbrokenEntry { partition: id.clone(), from, log_start, leader_epoch })
    };
    encode_unbroken(&lines.iter().filter_map(entry).collect::<Vec<_>>())
}

/// Our file of what was verified, where the machine tells its boots apart.
fn verified(vfs: &dyn Vfs, lines: &LinesById) -> Option<(&'static str, Vec<u8>)> {
    let boot_id = vfs.boot_id()?;
    let point = |(id, line): (&TopicPartition, &NoteLine)| {
        let VerifiedPoint { base_offset, position } = line.verified?;
        Some((id.clone(), base_offset, position))
    };
    let points = lines.iter().filter_map(point).collect();
    Some((layout::VERIFIED_POINTS, VerifiedPoints { boot_id, points }.encode()))
}

/// Forgets what was verified, before anything changes that it speaks of.
pub(super) fn forget_verified(vfs: &dyn Vfs, root: &Path) -> Result<(), IoError> {
    unless_missing(vfs.remove_file(&root.join(layout::VERIFIED_POINTS)))
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
