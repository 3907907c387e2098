//! The swap of a run of sealed segments for others that say the same, as compaction makes them: all or nothing, whenever the
//! machine ends (reference 10.3).
//!
//! On disk the steps are: a mark that says which segments go, `.cleaned` to `.swap` from the last replacement to the first,
//! the old files to `.deleted`, `.swap` to the final name from the first to the last, the mark removed. Once the first
//! replacement is a `.swap` and no `.cleaned` is left, the replacements win; before that the originals do. The folder is synced
//! between steps that must not overtake each other. Opening a partition finishes or drops what a crash left (`recover.rs`).
//!
//! The mark is needed because the replacements may end long before the last segment that they replace. Kafka ignores it.
//!
//! Readers keep the segments they hold. Appends wait only while the list of segments is exchanged, never for I/O.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::segments::SegmentList;
use super::{Generation, Inner, LogError, Partition, Trash, store};
use crate::clock::Deadline;
use crate::format::file_name::{FileName, Suffix};
use crate::segment::{Segment, SegmentError};
use crate::types::Offset;
use crate::vfs::OpenMode;

/// What is to be swapped for what.
struct Swap {
    /// Those of the sources that are still there.
    sources: Vec<Arc<Segment>>,
    replacements: Vec<Arc<Segment>>,
}

impl Partition {
    /// Which log this is; see [`Partition::replace`].
    pub(crate) fn generation(&self) -> Generation {
        self.inner.generation()
    }

    /// Puts finished `replacements` in the place of `sources`, a run of sealed segments. Sources that retention removed
    /// meanwhile are not missed. Where the log has changed in another way since the `generation` that they were read from,
    /// nothing is done, the replacements' files are removed, and the answer is `false`.
    ///
    /// # Durability
    /// The replacements' content must be durable; on return their names are too.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the disk fails. Once the first file has another name the partition is offline then, and reopening
    /// it brings back either the sources or the replacements. [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    pub(crate) fn replace(
        &self,
        generation: Generation,
        sources: &[Arc<Segment>],
        replacements: Vec<Segment>,
    ) -> Result<bool, LogError> {
        let entered = self.inner.enter_writable();
        let _structure = self.inner.structure.lock();
        let mut replacements: Vec<_> = replacements.into_iter().map(Arc::new).collect();
        let prepared = match &entered {
            Ok(_) if generation == self.generation() => self.inner.prepare_swap(sources, &mut replacements),
            Ok(_) => Ok(None),
            Err(_) => entered.map(|_| None),
        };
        let noted = prepared.and_then(|swap| {
            let Some(swap) = swap else { return Ok(None) };
            let noted = self.inner.note_swap(&swap);
            if noted.is_err() {
                self.inner.removals.set_returning(None);
                replacements.clone_from(&swap.replacements);
            }
            noted.map(|()| Some(swap))
        });
        let Ok(Some(swap)) = noted else {
            let removed = self.inner.remove_files(&replacements);
            return noted.and(removed).map(|()| false);
        };
        self.inner.carry_out(|| self.inner.swap(&swap))?;
        Ok(true)
    }

    /// Removes the drafts that a failed cleaning left: after a crash, they would make the next one's replacements look unfinished. The
    /// caller holds the cleaning lock and has made none yet.
    pub(crate) fn remove_drafts(&self) -> Result<(), LogError> {
        let _inside = self.inner.enter_writable()?;
        let _structure = self.inner.structure.lock();
        let (vfs, dir) = (&*self.inner.vfs, &self.inner.dir);
        let entries = vfs.read_dir(dir).map_err(|error| self.inner.wrap(error))?;
        let names = entries.iter().filter_map(|entry| FileName::parse(&entry.name));
        for name in names.filter(|name| name.suffix() == Suffix::Cleaned) {
            vfs.remove_file(&dir.join(name.to_string())).map_err(|error| self.inner.wrap(error))?;
        }
        Ok(())
    }
}

impl Inner {
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// What can still fail without harm; takes out of `replacements` what ends up in the swap. `None` when the log has changed.
    fn prepare_swap(
        &self,
        sources: &[Arc<Segment>],
        replacements: &mut Vec<Arc<Segment>>,
    ) -> Result<Option<Swap>, LogError> {
        self.finish_removals()?;
        let list = self.list();
        let sealed = list.sealed().to_vec();
        let Some((start, end)) = run_of(&sealed, sources) else { return Ok(None) };
        let Some((before, rest)) = sealed.split_at_checked(start) else { return Ok(None) };
        let Some((found, after)) = rest.split_at_checked(end - start) else { return Ok(None) };
        if let (true, Some(first)) = (found.len() < sources.len(), found.first()) {
            // Retention removed the records of those replacements that end before what is left begins.
            let gone = replacements.iter().skip(1).take_while(|next| next.base_offset() <= first.base_offset()).count();
            let doomed: Vec<_> = replacements.drain(..gone).collect();
            self.remove_files(&doomed)?;
        }
        let bases = before.iter().chain(&*replacements).chain(after).map(|segment| segment.base_offset());
        if replacements.is_empty() || !bases.is_sorted_by(|left, right| left < right) {
            return Ok(None);
        }
        for source in found {
            source.detach().map_err(|error| self.wrap(error))?;
        }
        Ok(Some(Swap { sources: found.to_vec(), replacements: std::mem::take(replacements) }))
    }

    /// The steps of the swap, in their order.
    fn swap(&self, swap: &Swap) -> Result<(), LogError> {
        let mark = self.set_mark(&swap.sources)?;
        for replacement in swap.replacements.iter().rev() {
            self.step(replacement.rename_indexes(Suffix::Swap))?;
            self.step(replacement.rename_log(Suffix::Swap))?;
            self.sync_folder()?;
        }
        self.exchange(swap)?;
        self.removals.set_returning(None);
        self.discard_sources(swap)?;
        for replacement in &swap.replacements {
            // As long as there is a `.log.swap`, live files from its base on are taken for originals: so it goes first, alone.
            self.step(replacement.rename_log(Suffix::None))?;
            self.sync_folder()?;
            self.step(replacement.rename_indexes(Suffix::None))?;
        }
        self.sync_folder()?;
        self.vfs.remove_file(&mark).map_err(|error| self.wrap(error))
    }

    /// Says durably, before it is so, that the log may have gaps up to where the last of the sources ends, and where it starts if a
    /// replacement begins below that, because retention removed some of its sources meanwhile.
    fn note_swap(&self, swap: &Swap) -> Result<(), LogError> {
        self.removals.set_returning(swap.replacements.first().map(|first| first.base_offset()));
        let last = swap.sources.last().map_or(Offset::ZERO, |source| source.base_offset());
        let writer = self.writer.lock();
        let list = self.list();
        let next = list.iter().find(|segment| segment.base_offset() > last);
        let end = next.unwrap_or(list.active()).base_offset();
        store(&self.unbroken_from, end.max(super::load(&self.unbroken_from)));
        drop(writer);
        self.renew_notes()
    }

    /// Shows readers the replacements in the place of the sources. Only rolls can have changed the list since it was looked at.
    fn exchange(&self, swap: &Swap) -> Result<(), LogError> {
        let _writer = self.writer.lock();
        self.check_online()?;
        let list = self.list();
        let is_source = |segment: &&Arc<Segment>| swap.sources.iter().any(|source| Arc::ptr_eq(source, segment));
        let sealed = list.sealed().to_vec();
        let start = sealed.iter().take_while(|segment| !is_source(segment)).count();
        let (before, rest) = sealed.split_at_checked(start).unwrap_or_default();
        let after = rest.iter().skip(swap.sources.len());
        let sealed: Vec<_> = before.iter().chain(&swap.replacements).chain(after).cloned().collect();
        *self.segments.write() = SegmentList::new(sealed, Arc::clone(list.active()));
        Ok(())
    }

    /// Writes down in a file's name which segments go. The sync also makes final what was removed before: strays, and the
    /// mark of an earlier swap.
    fn set_mark(&self, sources: &[Arc<Segment>]) -> Result<PathBuf, LogError> {
        let last = sources.last().map_or(Offset::ZERO, |source| source.base_offset());
        let mark = self.dir.join(FileName::replaced(last).to_string());
        self.vfs.open(&mark, OpenMode::Create).map_err(|error| self.wrap(error))?;
        self.sync_folder()?;
        Ok(mark)
    }

    fn discard_sources(&self, swap: &Swap) -> Result<(), LogError> {
        let due = Deadline::after(&*self.clock, self.settings.read().file_delete_delay_ms);
        self.forget(&swap.sources);
        for source in swap.sources.iter().rev() {
            // With its snapshot: an open transaction in there would never end, where compaction took the marker behind it.
            let files = source.mark_deleted().map_err(|error| self.wrap(error))?;
            self.trash.lock().push(Trash { files, due });
        }
        self.sync_folder()
    }

    fn remove_files(&self, segments: &[Arc<Segment>]) -> Result<(), LogError> {
        segments.iter().try_for_each(|segment| self.step(segment.remove()))
    }

    fn step(&self, result: Result<(), SegmentError>) -> Result<(), LogError> {
        result.map_err(|error| self.wrap(error))
    }

    pub(super) fn sync_folder(&self) -> Result<(), LogError> {
        self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error))
    }
}

/// Where in `sealed` the `sources` stand, or those of them that retention left.
fn run_of(sealed: &[Arc<Segment>], sources: &[Arc<Segment>]) -> Option<(usize, usize)> {
    let last = sources.last()?;
    let end = sealed.iter().position(|segment| Arc::ptr_eq(segment, last))? + 1;
    let candidates = sealed.get(..end)?.iter().rev();
    let count =
        candidates.zip(sources.iter().rev()).take_while(|(segment, source)| Arc::ptr_eq(segment, source)).count();
    let start = end - count;
    // Retention removes from the front: whatever else is missing was cut, or brought back by a reopening.
    (count == sources.len() || start == 0).then_some((start, end))
}

#[cfg(test)]
mod tests;
