//! The table of producers in files, and how it is brought back: the newest `.snapshot` that is sound, then the log after it
//! (reference 6.4 and 6.5).
//!
//! A snapshot is named after the offset that it describes the log up to. It is taken at every roll, at every checkpoint, at an
//! orderly close, and wherever the replay of a log that was not closed in order passes the beginning of a segment. A lost or
//! damaged snapshot only costs a longer replay, so snapshots are written in place; their checksum tells.
//!
//! Producers are remembered longer than their records, unlike in Kafka: a snapshot counts also where the log starts at it or
//! above it, as long as every batch behind it is still in the files. So one has to be durable before the segments below it go;
//! an opening that finds none replays those that still wait to be removed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::producers::ProducerTable;
use super::replay::Replay;
use super::segments::SegmentList;
use super::{Inner, LogError, Writer};
use crate::format::ProducerSnapshot;
use crate::format::file_name::{FileKind, FileName, Suffix};
use crate::segment::{Segment, SegmentError, file_path};
use crate::types::{ErrorKind, Offset, Timestamp};
use crate::vfs::{IoError, OpenMode, Vfs, VfsFile, read_whole, unless_missing};

/// The table of a log that was just opened or cut.
#[derive(Debug, Clone)]
pub(super) struct Rebuilt {
    pub table: ProducerTable,
    /// Every batch below this offset is in the table.
    pub end: Offset,
    /// The newest snapshot in the folder.
    pub last_snapshot: Option<Offset>,
    /// The snapshots that the replay took. They are not synced.
    pub taken: Vec<Offset>,
    /// Those that were there and stay.
    pub found: BTreeSet<Offset>,
}

impl Rebuilt {
    /// What follows from a log without a batch.
    pub(super) fn of_empty_log(end: Offset) -> Self {
        Self { table: ProducerTable::default(), end, last_snapshot: None, taken: Vec::new(), found: BTreeSet::new() }
    }

    /// The first offset of the oldest open transaction.
    pub(super) fn first_unstable(&self) -> Option<Offset> {
        self.table.open_transactions().first_unstable()
    }
}

/// What the table is rebuilt from.
pub(super) struct Rebuild<'a> {
    pub vfs: &'a dyn Vfs,
    pub dir: &'a Path,
    pub list: &'a SegmentList,
    pub log_end: Offset,
    /// Begin here or before, because the transaction indexes from here on are to be written anew.
    pub from: Option<Offset>,
    /// The bases of segments that are known to hold no batch of a producer with an id.
    pub plain: &'a BTreeSet<Offset>,
    /// Segments below the first one that wait to be removed. After a crash some may be missing or damaged.
    pub below: &'a [Arc<Segment>],
    /// Whether the log was closed in order.
    pub clean: bool,
    pub read_only: bool,
    /// Whether the batches of the list are known to be sound.
    pub is_verified: bool,
    pub now: Timestamp,
    pub expiration_ms: u64,
}

/// The table of the log up to its first segment.
struct Below {
    table: ProducerTable,
    /// Whether it knows of everything that was ever there.
    is_complete: bool,
}

/// The offsets of the snapshots among a folder's names.
pub(super) fn offsets_of<'n>(names: impl IntoIterator<Item = &'n str>) -> BTreeSet<Offset> {
    names
        .into_iter()
        .filter_map(FileName::parse)
        .filter(|name| name.kind() == FileKind::Snapshot && name.suffix() == Suffix::None)
        .filter_map(|name| name.offset())
        .collect()
}

impl Rebuild<'_> {
    /// Loads the newest sound snapshot and replays the log after it. Snapshots that don't belong to this log are removed.
    pub(super) fn run(&self, snapshots: &BTreeSet<Offset>) -> Result<Rebuilt, SegmentError> {
        if snapshots.is_empty() && self.clean && self.from.is_none() {
            // Kafka's rule: such a log was closed before there were producers with an id.
            return Ok(Rebuilt::of_empty_log(self.log_end));
        }
        let mut kept = self.drop_foreign(snapshots)?;
        let first = self.list.first().base_offset();
        // Segments below the first one need no transaction index any more, and nothing but snapshots may remember their producers.
        let limit = self.from.map_or(self.log_end, |from| from.max(first)).min(self.log_end);
        let behind = kept.split_off(&limit.next());
        let mut loaded = self.load_newest(kept.range(first..).rev())?;
        if loaded.is_none() {
            loaded = match self.replay_below(kept.range(..first).rev())? {
                Some(Below { table, is_complete: true }) => Some((table, first)),
                replayed => self.load_deleted(&behind)?.or(replayed.map(|below| (below.table, first))),
            };
        }
        // Those behind the replay's beginning may tell of batches that a power loss took.
        self.remove_all(&behind)?;
        // One that was found damaged must not keep the next from being taken.
        let mut last_snapshot = loaded.as_ref().map(|(_, offset)| *offset);
        let (mut table, start) = loaded.unwrap_or_else(|| (ProducerTable::default(), first));
        table.expire(self.now, self.expiration_ms);
        let mut taken = Vec::new();
        let replay = Replay {
            list: self.list,
            read_only: self.read_only,
            is_verified: self.is_verified,
            skip: &|segment| self.plain.contains(&segment.base_offset()),
            at_segment: &mut |table, base| taken.extend(self.take(table, base)),
        };
        let end = replay.run(&mut table, start..self.log_end)?;
        last_snapshot = last_snapshot.max(taken.last().copied());
        table.expire(self.now, self.expiration_ms);
        Ok(Rebuilt { table, end, last_snapshot, taken, found: kept })
    }

    /// What later snapshots tell of producers whose last batches lie below the first segment, and of transactions that began there,
    /// where the snapshot of its base is missing: compaction removes it, or it was damaged. It is written anew before those that tell
    /// of it are removed.
    fn load_deleted(&self, later: &BTreeSet<Offset>) -> Result<Option<(ProducerTable, Offset)>, SegmentError> {
        let first = self.list.first().base_offset();
        if first == Offset::ZERO {
            return Ok(None);
        }
        for offset in later.iter().rev() {
            let bytes = read_whole(self.vfs, &path_of(self.dir, *offset))?;
            let snapshot = bytes.and_then(|bytes| ProducerSnapshot::parse(&bytes).ok());
            let later = snapshot.and_then(|snapshot| ProducerTable::load(&snapshot, *offset));
            let below = later.map(|later| later.snapshot_below(first));
            let Some(table) = below.and_then(|below| ProducerTable::load(&below, first)) else { continue };
            if !self.read_only {
                // On a full disk the next checkpoint makes up for it.
                write_durable(self.vfs, self.dir, first, &table.snapshot()).ok();
            }
            return Ok(Some((table, first)));
        }
        Ok(None)
    }

    /// The table of the log up to the first segment, from those that wait to be removed because a snapshot of it is missing. A loss of
    /// power may have taken some of their batches, but none that was durable: segments lose their names only once such a snapshot is.
    fn replay_below<'o>(&self, newest_first: impl Iterator<Item = &'o Offset>) -> Result<Option<Below>, SegmentError> {
        let Some(base) = self.below.first().map(|oldest| oldest.base_offset()) else { return Ok(None) };
        let first = Arc::clone(self.list.first());
        let end = first.base_offset();
        let next = self.below.iter().skip(1).chain([&first]).map(|segment| segment.base_offset());
        let leads_up = |(segment, next): (&Arc<Segment>, Offset)| segment.end().is_ok_and(|(_, end)| end == next);
        let has_no_gap = self.below.iter().zip(next).all(leads_up);
        let list = SegmentList::new(self.below.to_vec(), first);
        let loaded = self.load_newest(newest_first)?.filter(|(_, offset)| *offset >= base);
        let knows_older = loaded.is_some() || base == Offset::ZERO;
        let (mut table, start) = loaded.unwrap_or((ProducerTable::default(), base));
        let mut is_whole = false;
        let replay = Replay {
            list: &list,
            // Their indexes of aborted transactions stay as they are.
            read_only: true,
            is_verified: false,
            skip: &|_| false,
            at_segment: &mut |_, base| is_whole |= base == end,
        };
        // What can't be read is passed over: it is on its way out.
        let is_read = replay.run(&mut table, start..end).is_ok();
        Ok(Some(Below { table, is_complete: has_no_gap && knows_older && is_read && is_whole }))
    }

    /// Writes the snapshot of the log up to `base`, where the replay is; there is none yet. One that can't be written is missing,
    /// nothing else.
    fn take(&self, table: &ProducerTable, base: Offset) -> Option<Offset> {
        // A log that was closed in order gets one when it is closed again.
        if self.read_only || self.clean {
            return None;
        }
        let written = write(self.vfs, self.dir, base, &table.snapshot());
        written.is_ok().then_some(base)
    }

    /// Removes the snapshots outside the log's files, and those that no segment begins at, the newest one beyond the last base
    /// excepted; segments that wait to be removed count. Between a snapshot below the first segment and that segment, batches are
    /// missing: it would make a producer
    /// look as if it had sent fewer.
    fn drop_foreign(&self, snapshots: &BTreeSet<Offset>) -> Result<BTreeSet<Offset>, SegmentError> {
        let bases: BTreeSet<Offset> =
            self.below.iter().chain(self.list.iter()).map(|segment| segment.base_offset()).collect();
        let newest = snapshots.range(..=self.log_end).next_back().copied();
        let first = self.below.first().unwrap_or(self.list.first()).base_offset();
        let belongs = |offset: &Offset| {
            let inside = *offset >= first && *offset <= self.log_end;
            inside && (bases.contains(offset) || (Some(*offset) == newest && Some(offset) > bases.last()))
        };
        let (kept, foreign): (BTreeSet<_>, BTreeSet<_>) = snapshots.iter().copied().partition(belongs);
        // One that came back after a crash could speak of a log that was written anew meanwhile.
        self.remove_all(&foreign)?;
        Ok(kept)
    }

    /// Removes snapshots for good.
    fn remove_all(&self, snapshots: &BTreeSet<Offset>) -> Result<(), SegmentError> {
        for offset in snapshots {
            self.remove(*offset)?;
        }
        if !snapshots.is_empty() && !self.read_only {
            self.vfs.sync_dir(self.dir)?;
        }
        Ok(())
    }

    fn load_newest<'o>(
        &self,
        newest_first: impl Iterator<Item = &'o Offset>,
    ) -> Result<Option<(ProducerTable, Offset)>, SegmentError> {
        for offset in newest_first {
            let Some(bytes) = read_whole(self.vfs, &path_of(self.dir, *offset))? else { continue };
            let snapshot = ProducerSnapshot::parse(&bytes).ok();
            if let Some(table) = snapshot.and_then(|snapshot| ProducerTable::load(&snapshot, *offset)) {
                return Ok(Some((table, *offset)));
            }
            self.remove(*offset)?;
        }
        Ok(None)
    }

    fn remove(&self, offset: Offset) -> Result<(), IoError> {
        if self.read_only { Ok(()) } else { remove(self.vfs, self.dir, offset) }
    }
}

impl Inner {
    /// Writes the table as the snapshot of the log up to `end`, unless there is one. Nothing is synced; the next flush does.
    /// Returns whether it wrote one.
    pub(super) fn take_snapshot(&self, writer: &mut Writer, end: Offset) -> Result<bool, LogError> {
        // Where all records were deleted, the snapshot alone remembers their producers.
        let is_needless = match writer.last_snapshot {
            Some(last) => end <= last,
            None => end <= self.offsets.log_start() && self.producers.lock().is_empty(),
        };
        if is_needless {
            return Ok(false);
        }
        // A replay that begins with the snapshot doesn't meet the markers below it.
        self.persist_aborted()?;
        let snapshot = self.producers.lock().snapshot();
        write(&*self.vfs, &self.dir, end, &snapshot).map_err(|error| self.wrap(error))?;
        self.hand_over_snapshot(end);
        let list = self.list();
        if let Some(last) = writer.last_snapshot.replace(end)
            && list.from(last).next().is_none_or(|segment| segment.base_offset() != last)
        {
            self.forget_snapshot(last);
            remove(&*self.vfs, &self.dir, last).map_err(|error| self.wrap(error))?;
        }
        Ok(true)
    }

    /// Sees to it that the producers below `base`, where a segment begins, are in a snapshot; its name is durable with the next sync
    /// of the folder. Segments below may go for good only then: nothing else remembers those producers afterwards.
    pub(super) fn secure_producers(&self, base: Offset) -> Result<(), LogError> {
        if self.secure_snapshot(base)? {
            return Ok(());
        }
        let below = self.producers.lock().snapshot_below(base);
        if below.entries.is_empty() {
            return Ok(());
        }
        self.write_durable_snapshot(base, &below)
    }

    /// Writes a snapshot of the log up to `base` and syncs it; its name is durable with the next sync of the folder.
    pub(super) fn write_durable_snapshot(&self, base: Offset, snapshot: &ProducerSnapshot) -> Result<(), LogError> {
        write_durable(&*self.vfs, &self.dir, base, snapshot).map_err(|error| self.wrap(error))
    }

    /// Makes the snapshot of the log up to `base` durable, but for its name. Returns whether there is a sound one.
    pub(super) fn secure_snapshot(&self, base: Offset) -> Result<bool, LogError> {
        let path = path_of(&self.dir, base);
        let bytes = read_whole(&*self.vfs, &path).map_err(|error| self.wrap(error))?;
        let snapshot = bytes.and_then(|bytes| ProducerSnapshot::parse(&bytes).ok());
        let Some(table) = snapshot.and_then(|snapshot| ProducerTable::load(&snapshot, base)) else { return Ok(false) };
        if table.is_empty() {
            // There is nothing to lose.
            return Ok(true);
        }
        match self.write_snapshot_again(&path) {
            // Removing segments is what makes room. What is there may do, unless a sync of it has failed.
            Err(error) if error.kind() == ErrorKind::StorageFull && !self.is_snapshot_distrusted(base) => {}
            written => written.map_err(|error| self.wrap(error))?,
        }
        let synced = self.vfs.open(&path, OpenMode::Write).and_then(|file| file.sync_data());
        synced.inspect_err(|_| self.distrust_snapshot(base)).map_err(|error| self.wrap(error)).map(|()| true)
    }

    /// The table of a log that was cut; snapshots above `end` must be gone durably.
    pub(super) fn rebuild_producers(&self, list: &SegmentList, end: Offset) -> Result<Rebuilt, LogError> {
        let names = self.vfs.read_dir(&self.dir).map_err(|error| self.wrap(error))?;
        let rebuild = Rebuild {
            vfs: &*self.vfs,
            dir: &self.dir,
            list,
            log_end: end,
            from: None,
            plain: &BTreeSet::new(),
            below: &[],
            clean: false,
            read_only: false,
            is_verified: true,
            now: self.clock.now(),
            expiration_ms: self.producer_expiration_ms,
        };
        let snapshots = offsets_of(names.iter().map(|entry| entry.name.as_str()));
        rebuild.run(&snapshots).map_err(|error| self.wrap(error))
    }

    pub(super) fn adopt_producers(&self, writer: &mut Writer, rebuilt: Rebuilt) {
        self.offsets.moving().set_first_unstable(rebuilt.first_unstable());
        *self.producers.lock() = rebuilt.table;
        rebuilt.taken.iter().for_each(|offset| self.hand_over_snapshot(*offset));
        writer.last_snapshot = rebuilt.last_snapshot;
        writer.replayed = rebuilt.end;
    }

    /// Removes the snapshots above `end`; the caller syncs the folder.
    pub(super) fn drop_snapshots_above(&self, end: Offset) -> Result<(), LogError> {
        let names = self.vfs.read_dir(&self.dir).map_err(|error| self.wrap(error))?;
        for offset in offsets_of(names.iter().map(|entry| entry.name.as_str())) {
            if offset > end {
                remove(&*self.vfs, &self.dir, offset).map_err(|error| self.wrap(error))?;
            }
        }
        Ok(())
    }
}

pub(super) fn path_of(dir: &Path, offset: Offset) -> PathBuf {
    file_path(dir, FileKind::Snapshot, offset, Suffix::None)
}

/// Writes a snapshot; it is not synced. A part of one that could not be written is removed; where that fails too, its checksum
/// tells.
fn write(vfs: &dyn Vfs, dir: &Path, offset: Offset, snapshot: &ProducerSnapshot) -> Result<Arc<dyn VfsFile>, IoError> {
    let file = vfs.open(&path_of(dir, offset), OpenMode::Truncate)?;
    file.write_at(&snapshot.encode(), 0).inspect_err(|_| _ = remove(vfs, dir, offset))?;
    Ok(file)
}

/// As [`write`], and syncs it; its name is durable with the next sync of the folder.
pub(super) fn write_durable(
    vfs: &dyn Vfs,
    dir: &Path,
    offset: Offset,
    snapshot: &ProducerSnapshot,
) -> Result<(), IoError> {
    write(vfs, dir, offset, snapshot)?.sync_data()
}

/// Removes a snapshot; one that somebody removed before is fine.
fn remove(vfs: &dyn Vfs, dir: &Path, offset: Offset) -> Result<(), IoError> {
    unless_missing(vfs.remove_file(&path_of(dir, offset)))
}
