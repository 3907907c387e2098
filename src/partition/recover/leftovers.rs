//! What interrupted work left in a partition's folder: a log that was being emptied begins anew, unfinished swaps are dropped,
//! decided ones completed, files without a segment removed (reference 10.2, steps 1 to 5).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{EpochTable, Opening};
use crate::format::file_name::{FileKind, FileName, Suffix};
use crate::partition::LogError;
use crate::partition::notes::NoteLine;
use crate::segment::{Segment, file_path};
use crate::types::Offset;

impl Opening<'_> {
    /// Ends what a crash interrupted: drops unfinished replacements, completes finished ones (reference 10.2, steps 1 to 4;
    /// the order in which names are left is that of `replace.rs`). Returns whether any of the folder's `names` has changed.
    pub(super) fn finish_swaps(&self, names: &[String]) -> Result<bool, LogError> {
        let parsed: Vec<_> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        let with_suffix = |suffix| parsed.iter().filter(move |name| name.suffix() == suffix);
        let cleaned_from = with_suffix(Suffix::Cleaned).filter_map(|name| name.offset()).min();
        let (dropped, mut swaps): (Vec<_>, Vec<_>) =
            with_suffix(Suffix::Swap).partition(|name| cleaned_from.is_some() && name.offset() >= cleaned_from);
        if !dropped.is_empty() {
            // As long as there is a `.cleaned`, these are known to be unfinished.
            self.remove_all(&dropped)?;
            self.sync_dir()?;
        }
        let is_leftover = |name: &&FileName| match name.suffix() {
            Suffix::Deleted => !self.reopening,
            Suffix::Cleaned => true,
            Suffix::Tmp => name.offset().is_some(),
            _ => false,
        };
        let leftovers: Vec<_> = parsed.iter().filter(is_leftover).collect();
        self.remove_all(&leftovers)?;
        swaps.sort_by_key(|name| (name.offset(), name.kind()));
        if !swaps.is_empty() {
            self.complete_swaps(&swaps, &parsed)?;
        }
        let marks: Vec<_> = with_suffix(Suffix::None).filter(|name| name.kind() == FileKind::Replaced).collect();
        self.remove_all(&marks)?;
        Ok([&dropped, &leftovers, &swaps, &marks].iter().any(|names| !names.is_empty()))
    }

    /// Lets finished replacements take their places; `swaps` ascend, each `.log` before its indexes.
    fn complete_swaps(&self, swaps: &[&FileName], all: &[FileName]) -> Result<(), LogError> {
        self.sync_dir()?;
        let (logs, indexes): (Vec<_>, Vec<_>) = swaps.iter().partition(|name| name.kind() == FileKind::Log);
        self.remove_all(&self.replaced_by(&logs, all)?)?;
        self.sync_dir()?;
        for log in logs {
            self.make_live(log)?;
            self.sync_dir()?;
        }
        indexes.into_iter().try_for_each(|index| self.make_live(index))?;
        self.sync_dir()
    }

    /// Empties a log that was being emptied when a crash interrupted it, and begins it anew where the mark says; the notes follow
    /// before the mark goes. Returns whether there was a mark.
    pub(super) fn finish_restart(&mut self, names: &[String]) -> Result<bool, LogError> {
        let parsed: Vec<_> = names.iter().filter_map(|name| FileName::parse(name)).collect();
        let (marks, others): (Vec<&FileName>, Vec<&FileName>) =
            parsed.iter().partition(|name| name.kind() == FileKind::Restarted && name.suffix() == Suffix::None);
        let Some(start) = marks.iter().filter_map(|name| name.offset()).max() else { return Ok(false) };
        let belongs = |name: &&&FileName| {
            let is_kept = matches!(name.suffix(), Suffix::Cut) || (self.reopening && name.suffix() == Suffix::Deleted);
            name.offset().is_some() && !is_kept
        };
        // Without the mark, a loss of power could bring a part of the old log back.
        self.sync_dir()?;
        self.remove_all(&others.iter().filter(belongs).copied().collect::<Vec<_>>())?;
        self.sync_dir()?;
        self.create(start)?;
        if self.reopening {
            // They stay until the partition knows that it has started over: where this reopening fails, the next one must know.
            self.restart_marks = marks.iter().map(|mark| self.params.dir.join(mark.to_string())).collect();
        } else {
            self.io(self.params.notes.renew(&self.params.id, &|| NoteLine::of_empty(start)))?;
            self.remove_all(&marks)?;
            self.sync_dir()?;
        }
        self.restarted_at = Some(start);
        // What is noted speaks of the old log.
        self.noted_start = Some(start);
        self.epochs = EpochTable::default();
        Ok(true)
    }

    /// Finds the marks of cuts that were interrupted, and left the old log or a prefix of it. They go when what else they left is gone.
    pub(super) fn read_cut_marks(&mut self, names: &[String]) {
        let marks = names.iter().filter_map(|name| FileName::parse(name));
        let marks = marks.filter(|name| name.kind() == FileKind::Truncated && name.suffix() == Suffix::None);
        self.cut_marks = marks.map(|mark| self.params.dir.join(mark.to_string())).collect();
    }

    /// Finds the marks of the log start. They go with the next checkpoint, when the notes say the same.
    pub(super) fn read_trim_marks(&mut self, names: &[String]) {
        let marks = names.iter().filter_map(|name| FileName::parse(name));
        for mark in marks.filter(|name| name.kind() == FileKind::Trimmed && name.suffix() == Suffix::None) {
            self.noted_start = self.noted_start.max(mark.offset());
            self.marked_start = self.marked_start.max(mark.offset());
            self.trim_marks.push(self.params.dir.join(mark.to_string()));
        }
    }

    fn make_live(&self, swap: &FileName) -> Result<(), LogError> {
        let path = |name: FileName| self.params.dir.join(name.to_string());
        self.io(self.params.vfs.rename(&path(*swap), &path(swap.with_suffix(Suffix::None))))
    }

    /// The live files of the segments that the `.log.swap` files replace, and their producer snapshots.
    fn replaced_by<'n>(&self, logs: &[&FileName], all: &'n [FileName]) -> Result<Vec<&'n FileName>, LogError> {
        let bases: BTreeSet<_> = logs.iter().filter_map(|name| name.offset()).collect();
        let Some(first) = bases.first().copied() else { return Ok(Vec::new()) };
        let live = |name: &&FileName| name.suffix() == Suffix::None && name.offset().is_some_and(|base| base >= first);
        let mark = all.iter().filter(live).filter(|name| name.kind() == FileKind::Replaced);
        let marked_end = mark.filter_map(|name| name.offset()).min().map_or(Offset::ZERO, Offset::next);
        let mut end = marked_end;
        for base in bases {
            end = end.max(self.swap_end(base)?);
        }
        let is_replaced = |name: &&FileName| match (name.kind(), name.offset()) {
            (FileKind::Replaced, _) | (_, None) => false,
            (_, Some(offset)) => offset < end,
        };
        Ok(all.iter().filter(live).filter(is_replaced).collect())
    }

    /// The offset after the last batch of a `.log.swap`. A damaged one replaces nothing: the partition isn't opened.
    fn swap_end(&self, base: Offset) -> Result<Offset, LogError> {
        let path = file_path(&self.params.dir, FileKind::Log, base, Suffix::Swap);
        let end = Segment::end_of_file(Arc::clone(&self.params.vfs), &path, base).map_err(|error| self.wrap(error))?;
        Ok(end.max(base.next()))
    }

    pub(super) fn remove_orphans(&self, names: &[String], bases: &BTreeSet<Offset>) -> Result<(), LogError> {
        for name in names {
            let Some(parsed) = FileName::parse(name) else { continue };
            let is_index = matches!(parsed.kind(), FileKind::OffsetIndex | FileKind::TimeIndex | FileKind::TxnIndex);
            let is_orphan = parsed.offset().is_some_and(|offset| !bases.contains(&offset));
            if is_index && is_orphan && parsed.suffix() == Suffix::None {
                self.remove(name)?;
            }
        }
        Ok(())
    }
}
