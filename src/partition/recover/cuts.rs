//! What recovery takes out of the log: kept under names that end in `.cut`, and listed in the folder before it is taken out, so that
//! a crash in between hides nothing from the next report (format: `format/cut_list.rs`).
//!
//! Cuts go newest first: whole segments from the end on, then the tail of the damaged one. So what a crash leaves has the same
//! damage at its end, and the next opening goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cut, Opening};
use crate::format::file_name::{CUT_LIST, FileKind, FileName, Suffix, cut_name};
use crate::format::{CutEntry, encode_cut_list, parse_cut_list};
use crate::partition::notes::NoteLine;
use crate::partition::{LogError, Partition};
use crate::segment::{Segment, file_path};
use crate::types::{Offset, Position};
use crate::vfs::{OpenMode, read_whole, replace_whole, unless_missing};

impl Opening<'_> {
    /// Reports the cuts of earlier openings that nobody has read of, as far as they were carried out, and remembers those that were
    /// not. A list that is damaged is none.
    pub(super) fn read_cut_list(&mut self) -> Result<(), LogError> {
        let bytes = self.io(read_whole(&*self.params.vfs, &self.params.dir.join(CUT_LIST)))?;
        let entries = bytes.and_then(|bytes| parse_cut_list(&bytes).ok()).unwrap_or_default();
        for entry in entries {
            let cut = cut_of(&self.params.dir, entry);
            let size = self.io(self.params.vfs.metadata(&cut.moved_to))?.map(|metadata| metadata.size);
            if size == Some(cut.bytes) {
                self.report.cuts.push(cut);
            } else {
                self.interrupted_cuts.push(cut);
            }
        }
        Ok(())
    }

    /// Reports what an earlier opening began to keep aside and this one didn't go on with, with the bytes that it has: this one has cut
    /// the log elsewhere.
    pub(super) fn report_interrupted_cuts(&mut self) -> Result<(), LogError> {
        for mut cut in std::mem::take(&mut self.interrupted_cuts) {
            if let Some(found) = self.io(self.params.vfs.metadata(&cut.moved_to))? {
                cut.bytes = found.size;
                self.report.cuts.push(cut);
            }
        }
        self.sort_cuts();
        Ok(())
    }

    fn sort_cuts(&mut self) {
        self.report.cuts.sort_by(|left, right| (&left.file, left.position).cmp(&(&right.file, right.position)));
    }

    /// Cuts the log behind `position` of `segment`, and all of the `later` segments off with it.
    pub(super) fn cut_log(
        &mut self,
        segment: &Segment,
        position: Position,
        from_offset: Offset,
        reason: &str,
        later: &[Arc<Segment>],
    ) -> Result<(), LogError> {
        self.lower_notes(from_offset)?;
        self.set_aside(later, from_offset, &format!("follows a cut: {reason}"))?;
        let file = segment.path();
        let size = self.io(self.params.vfs.metadata(&file))?.map_or(0, |metadata| metadata.size);
        self.mark_cut(from_offset);
        let moved_to = match self.finished_copy(segment, position)? {
            Some(copy) => copy,
            None => self.cut_name(&file, position)?,
        };
        let bytes = size.saturating_sub(position.value());
        let cut = Cut { file, moved_to: moved_to.clone(), position, bytes, from_offset, reason: reason.to_owned() };
        self.announce(vec![cut])?;
        segment.copy_tail_to(&moved_to).map_err(|error| self.wrap(error))?;
        if !self.reopening {
            // Otherwise readers may have mapped it, and what is kept is about to be copied to a new file.
            segment.cut_tail().map_err(|error| self.wrap(error))?;
        }
        self.params.counters.bytes_cut.add(bytes);
        Ok(())
    }

    /// Where an earlier opening copied this very tail to, when it was interrupted before it cut it off.
    fn finished_copy(&self, segment: &Segment, position: Position) -> Result<Option<PathBuf>, LogError> {
        let file = segment.path();
        for cut in self.report.cuts.iter().filter(|cut| cut.file == file && cut.position == position) {
            if segment.has_tail_in(&cut.moved_to).map_err(|error| self.wrap(error))? {
                return Ok(Some(cut.moved_to.clone()));
            }
        }
        Ok(None)
    }

    /// Cuts all of the `later` segments off a log that ends at `end`.
    pub(super) fn cut_between(&mut self, end: Offset, reason: &str, later: &[Arc<Segment>]) -> Result<(), LogError> {
        self.lower_notes(end)?;
        self.set_aside(later, end, reason)
    }

    /// Lowers the notes, durably, where they would be wrong of a log that ends at `end`. Should writing them fail later, the next
    /// opening must not pass over what is appended from there on.
    fn lower_notes(&self, end: Offset) -> Result<(), LogError> {
        let params = self.params;
        let noted = [params.recovery_point, params.first_dirty_offset];
        if self.reopening || noted.iter().flatten().all(|offset| *offset <= end) {
            return Ok(());
        }
        let log_start = self.noted_start.unwrap_or(Offset::ZERO);
        let line = NoteLine {
            recovery_point: params.recovery_point.unwrap_or(Offset::ZERO).min(end),
            log_start,
            first_base: Offset::ZERO,
            high_watermark: end,
            first_dirty: params.first_dirty_offset.map(|offset| offset.min(end)),
            verified: None,
            unbroken: params.unbroken,
        };
        self.io(params.notes.renew(&params.id, &|| line))
    }

    /// Tells followers in other processes, in a file's name, that the log is being cut, until [`Opening::unmark_cut`]. Where it can't be
    /// written, they may see the log half-way.
    fn mark_cut(&mut self, end: Offset) {
        let mark = self.params.dir.join(FileName::truncated(end).to_string());
        if self.cut_marks.is_empty() && self.params.vfs.open(&mark, OpenMode::Create).is_ok() {
            self.cut_marks.push(mark);
        }
    }

    /// Lets followers look at what is left.
    pub(super) fn unmark_cut(&mut self) {
        for mark in std::mem::take(&mut self.cut_marks) {
            if let Err(error) = unless_missing(self.params.vfs.remove_file(&mark)) {
                let warning = format!("other processes can't read the log until it is opened again: {error}");
                self.report.warnings.push(warning);
            }
        }
    }

    /// Takes whole segments out of the log, keeping their batches as `.cut` files.
    pub(super) fn set_aside(
        &mut self,
        segments: &[Arc<Segment>],
        from_offset: Offset,
        reason: &str,
    ) -> Result<(), LogError> {
        let mut cuts = Vec::with_capacity(segments.len());
        for segment in segments {
            let file = segment.path();
            let moved_to = self.cut_name(&file, Position::ZERO)?;
            // The whole file gets the other name, with what follows the last batch.
            let bytes = self.io(self.params.vfs.metadata(&file))?.map_or(0, |metadata| metadata.size);
            let position = Position::ZERO;
            cuts.push(Cut { file, moved_to, position, bytes, from_offset, reason: reason.to_owned() });
        }
        if !cuts.is_empty() {
            self.mark_cut(from_offset);
        }
        self.announce(cuts.clone())?;
        for (segment, Cut { file, moved_to, bytes, .. }) in segments.iter().zip(&cuts).rev() {
            self.io(self.params.vfs.rename(file, moved_to))?;
            self.params.counters.bytes_cut.add(*bytes);
            for kind in [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Snapshot] {
                let path = file_path(&self.params.dir, kind, segment.base_offset(), Suffix::None);
                self.io(unless_missing(self.params.vfs.remove_file(&path)))?;
            }
            self.sync_dir()?;
        }
        Ok(())
    }

    /// Adds cuts to the report and to the list in the folder, before they are carried out.
    fn announce(&mut self, cuts: Vec<Cut>) -> Result<(), LogError> {
        if cuts.is_empty() {
            return Ok(());
        }
        let is_again = |known: &Cut| cuts.iter().any(|cut| cut.moved_to == known.moved_to);
        self.report.cuts.retain(|known| !is_again(known));
        self.report.cuts.extend(cuts);
        self.sort_cuts();
        let entries: Vec<_> = self.report.cuts.iter().chain(&self.interrupted_cuts).map(entry_of).collect();
        self.io(replace_whole(&*self.params.vfs, &self.params.dir.join(CUT_LIST), &encode_cut_list(&entries)))?;
        self.sync_dir()
    }

    /// Takes those cuts out of the report that were not carried out. The list in the folder tells the next opening of them.
    pub(super) fn forget_unfinished_cuts(&mut self) {
        let vfs = &*self.params.vfs;
        let size = |cut: &Cut| vfs.metadata(&cut.moved_to).ok().flatten().map(|metadata| metadata.size);
        self.report.cuts.retain(|cut| size(cut) == Some(cut.bytes));
    }

    /// A free name for what is cut out of `file`. An earlier opening that was
    /// interrupted in the same cut has a name for it, which is given once: an emptied segment may follow its own tail.
    fn cut_name(&mut self, file: &Path, position: Position) -> Result<PathBuf, LogError> {
        let is_same = |cut: &Cut| cut.file == file && cut.position == position;
        if let Some(at) = self.interrupted_cuts.iter().position(is_same) {
            return Ok(self.interrupted_cuts.remove(at).moved_to);
        }
        let stem = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut number = 1_u64;
        let mut path = self.params.dir.join(cut_name(&stem, number));
        // As often as there are such files.
        while self.io(self.params.vfs.metadata(&path))?.is_some() {
            number += 1;
            path = self.params.dir.join(cut_name(&stem, number));
        }
        Ok(path)
    }
}

impl Partition {
    /// Forgets the list of cuts: somebody has read it.
    pub(crate) fn forget_cut_list(&self) {
        if let Ok(_inside) = self.enter_writable() {
            // What can't be removed now is reported once more.
            self.inner.vfs.remove_file(&self.inner.dir.join(CUT_LIST)).ok();
        }
    }
}

fn cut_of(dir: &Path, entry: CutEntry) -> Cut {
    let CutEntry { file, moved_to, position, bytes, from_offset, reason } = entry;
    Cut { file: dir.join(file), moved_to: dir.join(moved_to), position, bytes, from_offset, reason }
}

fn entry_of(cut: &Cut) -> CutEntry {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    CutEntry {
        file: name(&cut.file),
        moved_to: name(&cut.moved_to),
        position: cut.position,
        bytes: cut.bytes,
        from_offset: cut.from_offset,
        reason: cut.reason.clone(),
    }
}
