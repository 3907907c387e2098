//! Which leader epoch began at which offset, kept in `leader-epoch-checkpoint` (reference section 7).
//!
//! Epochs and start offsets both strictly increase. The pure table is [`EpochTable`]; [`EpochCache`] keeps it on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::format::LeaderEpochCheckpoint;
use crate::format::file_name::FileName;
use crate::types::{LeaderEpoch, Offset};
use crate::vfs::{IoError, Vfs, replace_whole};

/// Epochs with their start offsets, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EpochTable(Vec<(LeaderEpoch, Offset)>);

impl EpochTable {
    pub(super) fn new(entries: Vec<(LeaderEpoch, Offset)>) -> Self {
        Self(entries)
    }

    pub(super) fn latest(&self) -> Option<(LeaderEpoch, Offset)> {
        self.0.last().copied()
    }

    /// Notes that `epoch` began at `offset`; newer or later entries that contradict it go. Returns whether anything changed.
    pub(super) fn assign(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        if self.latest().is_some_and(|(latest, start)| latest == epoch && offset >= start) {
            return false;
        }
        while self.latest().is_some_and(|(latest, start)| latest >= epoch || start >= offset) {
            self.0.pop();
        }
        self.0.push((epoch, offset));
        true
    }

    /// Notes the epoch of a batch in the log; one that is not newer than the latest says nothing.
    pub(super) fn note(&mut self, epoch: Option<LeaderEpoch>, offset: Offset) {
        if let Some(epoch) = epoch
            && self.latest().is_none_or(|(latest, _)| epoch > latest)
        {
            self.assign(epoch, offset);
        }
    }

    /// The epoch that `offset` belongs to.
    pub(super) fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.0.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).and_then(|i| self.0.get(i)).map(|(epoch, _)| *epoch)
    }

    /// Forgets epochs that begin at or after `end`.
    pub(super) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.0.len();
        self.0.retain(|(_, start)| *start < end);
        self.0.len() != before
    }

    /// Forgets epochs that end at or before `start`; the one that holds `start` begins there.
    pub(super) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let dropped = self.0.partition_point(|(_, begin)| *begin <= start);
        let Some(last) = dropped.checked_sub(1).and_then(|i| self.0.get(i)).copied() else { return false };
        if dropped == 1 && last.1 == start {
            return false;
        }
        self.0.splice(..dropped, [(last.0, start)]);
        true
    }

    pub(super) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.0).is_empty()
    }
}

/// An [`EpochTable`] and its file. The file may lag behind; it is written before the recovery point moves, so that what it lacks
/// is found in batches that recovery looks at.
#[derive(Debug)]
pub(super) struct EpochCache {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    table: RwLock<EpochTable>,
    is_behind: AtomicBool,
    /// Held while the file is written.
    writing: Mutex<()>,
}

impl EpochCache {
    pub(super) fn new(vfs: Arc<dyn Vfs>, dir: PathBuf, table: EpochTable) -> Self {
        let (table, is_behind) = (RwLock::new(table), AtomicBool::new(false));
        Self { vfs, dir, table, is_behind, writing: Mutex::new(()) }
    }

    /// The epoch of the next append: the last known one, else 0.
    pub(super) fn current(&self) -> LeaderEpoch {
        self.table.read().latest().map_or(LeaderEpoch::ZERO, |(epoch, _)| epoch)
    }

    /// The epoch that `offset` belongs to.
    pub(super) fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.table.read().epoch_for(offset)
    }

    /// Notes that the current epoch has a batch at `offset`; returns the epoch.
    pub(super) fn note_append(&self, offset: Offset) -> LeaderEpoch {
        if let Some((epoch, start)) = self.table.read().latest()
            && start <= offset
        {
            return epoch;
        }
        let epoch = self.current();
        self.update(|table| table.assign(epoch, offset));
        epoch
    }

    /// Applies `change`, which says whether it changed anything. [`EpochCache::persist`] writes it.
    pub(super) fn update(&self, change: impl FnOnce(&mut EpochTable) -> bool) {
        if change(&mut self.table.write()) {
            self.is_behind.store(true, Ordering::Release);
        }
    }

    /// Replaces the file durably where it lags behind. After an error it still does, and the next call tries again.
    pub(super) fn persist(&self) -> Result<(), IoError> {
        if !self.is_behind.load(Ordering::Acquire) {
            return Ok(());
        }
        let _writing = self.writing.lock();
        if !self.is_behind.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let bytes = LeaderEpochCheckpoint { entries: self.table.read().0.clone() }.encode();
        let path = self.dir.join(FileName::leader_epochs().to_string());
        let written = replace_whole(&*self.vfs, &path, &bytes).and_then(|()| self.vfs.sync_dir(&self.dir));
        written.inspect_err(|_| self.is_behind.store(true, Ordering::Release))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, Operation, read_whole};

    fn table(entries: &[(i32, i64)]) -> EpochTable {
        let entry = |&(epoch, start)| (LeaderEpoch::new(epoch).expect("epoch"), offset(start));
        EpochTable::new(entries.iter().map(entry).collect())
    }

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("a legal offset")
    }

    #[test]
    fn deleting_a_prefix_keeps_the_epoch_that_holds_the_start() {
        let mut epochs = table(&[(0, 0), (1, 7), (2, 10)]);
        assert!(epochs.truncate_from_start(offset(5)));
        assert_eq!(epochs, table(&[(0, 5), (1, 7), (2, 10)]));
        assert!(epochs.truncate_from_start(offset(12)));
        assert_eq!(epochs, table(&[(2, 12)]));
    }

    #[test]
    fn assigning_drops_what_contradicts() {
        let mut epochs = table(&[(0, 0), (1, 7), (2, 10)]);
        assert!(!epochs.assign(LeaderEpoch::new(2).expect("epoch"), offset(30)));
        assert!(epochs.assign(LeaderEpoch::new(3).expect("epoch"), offset(8)));
        assert_eq!(epochs, table(&[(0, 0), (1, 7), (3, 8)]));
    }

    #[test]
    fn an_offset_belongs_to_the_last_epoch_at_or_before_it() {
        let epochs = table(&[(3, 5), (4, 9)]);
        assert_eq!(epochs.epoch_for(offset(4)), None);
        assert_eq!(epochs.epoch_for(offset(8)), LeaderEpoch::new(3));
        assert_eq!(epochs.epoch_for(offset(9)), LeaderEpoch::new(4));
    }

    #[test]
    fn truncating_the_end_drops_epochs_without_records() {
        let mut epochs = table(&[(0, 0), (1, 7)]);
        assert!(epochs.truncate_from_end(offset(7)));
        assert_eq!(epochs, table(&[(0, 0)]));
    }

    #[test]
    fn after_a_write_that_failed_anywhere_the_file_catches_up_with_the_table() {
        let entries = [(0, 0), (1, 5)];
        for nth in 1.. {
            let memory = MemoryVfs::new();
            let vfs = FaultyVfs::new(memory.clone());
            let cache = EpochCache::new(Arc::new(vfs.clone()), "/".into(), EpochTable::default());
            cache.update(|known| std::mem::replace(known, table(&entries)) != *known);
            vfs.inject(Fault::new(Operation::Any, Effect::Error(std::io::ErrorKind::Other)).nth(nth));
            let written = cache.persist();
            let has_struck = vfs.faults_struck() > 0;
            vfs.clear_faults();
            cache.persist().expect("the disk is well again");
            let path = std::path::Path::new("/").join(FileName::leader_epochs().to_string());
            let bytes = read_whole(&memory.crash_image(), &path).expect("readable").expect("a durable file");
            let found = LeaderEpochCheckpoint::parse(&bytes).expect("whole");
            assert_eq!(EpochTable::new(found.entries), table(&entries), "call {nth}: {written:?}");
            if !has_struck {
                break;
            }
        }
    }
}
