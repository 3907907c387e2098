//! The open file behind one `.log`, and how many of them may have bytes that were not synced.
//!
//! A file with such bytes stays open: closing it could lose the report of a write-back that failed. So these files don't count
//! among those that the budget closes at will ([`super::residency`]) but have a limit of their own for a store. Above
//! it the oldest is synced, by whoever wrote last and outside of the locks of its log. A sync that fails there is told to the next sync of
//! that file: the operating system reports a failure once, and who synced last doesn't know whose records were lost.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::residency::{Kept, Residency, Slot};
use crate::vfs::{IoError, VfsFile};

/// Every write was synced.
const SYNCED: u8 = 0;
/// A write has ended that no sync covers.
const WRITTEN: u8 = 1;
/// Somebody writes. A sync that ends meanwhile may not have covered it.
const WRITING: u8 = 2;

/// How far the writes to a file have come. One thread writes at a time; any may sync.
#[derive(Debug, Default)]
struct Writes(AtomicU8);

impl Writes {
    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Release);
    }

    /// Goes from one state to another, and stays where it isn't in the first.
    fn turn(&self, from: u8, to: u8) {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).ok();
    }

    fn are_synced(&self) -> bool {
        self.0.load(Ordering::Acquire) == SYNCED
    }
}

/// An open file, or none; and the writes of its [`Descriptor`].
#[derive(Debug, Default)]
pub(super) struct OpenFile {
    file: Option<Arc<dyn VfsFile>>,
    writes: Arc<Writes>,
}

impl Kept for OpenFile {
    fn may_go(&self) -> bool {
        self.writes.are_synced()
    }
}

/// Opened by the first write or copying read, kept until [`Descriptor::let_go`] or until the store's budget needs the room.
#[derive(Debug)]
pub(super) struct Descriptor {
    slot: Arc<Slot<OpenFile>>,
    writes: Arc<Writes>,
    /// The first sync that failed, by its path and kind of error. Held over every sync.
    failed: Mutex<Option<(PathBuf, ErrorKind)>>,
    /// Whether the store's list of unsynced files has it.
    listed: AtomicBool,
    residency: Arc<Residency>,
}

impl Descriptor {
    pub(super) fn new(residency: &Arc<Residency>) -> Arc<Self> {
        Arc::new(Self {
            slot: Slot::new(OpenFile::default()),
            writes: Arc::default(),
            failed: Mutex::default(),
            listed: AtomicBool::new(false),
            residency: Arc::clone(residency),
        })
    }

    /// The open file, as far as there is one.
    pub(super) fn opened(&self) -> Option<Arc<dyn VfsFile>> {
        self.slot.read().file.clone()
    }

    /// The file, opened with `open` if it isn't.
    pub(super) fn get(
        &self,
        open: impl FnOnce() -> Result<Arc<dyn VfsFile>, IoError>,
    ) -> Result<Arc<dyn VfsFile>, IoError> {
        if let Some(file) = self.opened() {
            return Ok(file);
        }
        let file = {
            let mut slot = self.slot.write();
            let file = slot.file.clone().map_or_else(open, Ok)?;
            *slot = self.opened_as(&file);
            file
        };
        self.admit();
        Ok(file)
    }

    /// Does `write` with the file, opened with `open` if it isn't: from here on it stays open until a sync covers what was written.
    pub(super) fn write<E: From<IoError>>(
        self: &Arc<Self>,
        open: impl FnOnce() -> Result<Arc<dyn VfsFile>, IoError>,
        write: impl FnOnce(&dyn VfsFile) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = self.begin_write(open)?;
        let result = write(&*file);
        self.writes.set(WRITTEN);
        if !self.listed.load(Ordering::Relaxed) {
            self.residency.unsynced.add(self);
        }
        result
    }

    fn begin_write(
        &self,
        open: impl FnOnce() -> Result<Arc<dyn VfsFile>, IoError>,
    ) -> Result<Arc<dyn VfsFile>, IoError> {
        {
            let slot = self.slot.read();
            if let Some(file) = &slot.file {
                self.writes.set(WRITING);
                return Ok(Arc::clone(file));
            }
        }
        let mut slot = self.slot.write();
        let file = slot.file.clone().map_or_else(open, Ok)?;
        self.writes.set(WRITING);
        *slot = self.opened_as(&file);
        Ok(file)
    }

    fn opened_as(&self, file: &Arc<dyn VfsFile>) -> OpenFile {
        OpenFile { file: Some(Arc::clone(file)), writes: Arc::clone(&self.writes) }
    }

    /// Goes on with a file that was just opened under this one's name.
    pub(super) fn adopt(&self, file: &Arc<dyn VfsFile>) {
        *self.slot.write() = self.opened_as(file);
        self.admit();
    }

    /// Makes durable what was written to `file`, the open one.
    pub(super) fn sync(&self, file: &dyn VfsFile) -> Result<(), IoError> {
        let mut failed = self.failed.lock();
        if let Some((path, kind)) = &*failed {
            let source = std::io::Error::new(*kind, "an earlier sync failed, and what it covered may be lost");
            return Err(IoError::new("sync", path, source));
        }
        self.writes.turn(WRITTEN, SYNCED);
        let result = file.sync_data();
        if let Err(error) = &result {
            self.writes.turn(SYNCED, WRITTEN);
            *failed = Some((error.path().to_path_buf(), error.io_kind()));
        }
        drop(failed);
        self.admit();
        result
    }

    /// Whether it goes on in the list of unsynced files.
    fn stays_listed(&self) -> bool {
        let stays = !self.writes.are_synced();
        self.listed.store(stays, Ordering::Release);
        stays
    }

    /// Closes the file, if it may be opened again.
    pub(super) fn let_go(&self) {
        self.slot.empty();
    }

    /// Keeps the file open, if it is.
    pub(super) fn pin(&self) {
        self.slot.pin();
    }

    pub(super) fn unpin(&self) {
        self.slot.unpin();
    }

    /// Lets the store's budget count it.
    pub(super) fn admit(&self) {
        self.slot.admit(&self.residency.files);
    }
}

/// The files of a store that may have bytes that were not synced, oldest first.
#[derive(Debug)]
pub(crate) struct UnsyncedFiles {
    max: usize,
    files: Mutex<VecDeque<Weak<Descriptor>>>,
    /// How many there are.
    count: AtomicUsize,
}

impl UnsyncedFiles {
    pub(super) fn new(max: usize) -> Self {
        Self { max, files: Mutex::default(), count: AtomicUsize::new(0) }
    }

    fn add(&self, descriptor: &Arc<Descriptor>) {
        let mut files = self.files.lock();
        if !descriptor.listed.swap(true, Ordering::AcqRel) {
            files.push_back(Arc::downgrade(descriptor));
            self.count.store(files.len(), Ordering::Relaxed);
        }
    }

    /// Syncs the oldest as long as there are too many. The caller holds no lock that appends or readers take.
    pub(crate) fn relieve(&self) {
        let mut tries = self.count.load(Ordering::Relaxed).saturating_sub(self.max);
        while tries > 0
            && let Some(oldest) = self.take_excess()
        {
            tries -= 1;
            if let Some(file) = oldest.opened() {
                // Whoever syncs it next hears of a failure.
                oldest.sync(&*file).ok();
            }
        }
    }

    /// The oldest of too many, which leaves the list.
    fn take_excess(&self) -> Option<Arc<Descriptor>> {
        let mut files = self.files.lock();
        files.retain(|file| file.upgrade().is_some_and(|file| file.stays_listed()));
        let excess = if files.len() > self.max { files.pop_front().and_then(|file| file.upgrade()) } else { None };
        self.count.store(files.len(), Ordering::Relaxed);
        excess.inspect(|file| file.listed.store(false, Ordering::Release))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{Effect, Fault, FaultyVfs, Hook, MemoryVfs, OpenMode, Operation, Vfs};

    /// Files of which one may have unsynced bytes.
    struct Rig {
        vfs: FaultyVfs,
        residency: Arc<Residency>,
    }

    impl Rig {
        fn new() -> Self {
            Self { vfs: FaultyVfs::new(MemoryVfs::new()), residency: Arc::new(Residency::new(2, 2)) }
        }

        fn written(&self, name: &str) -> Arc<Descriptor> {
            let descriptor = Descriptor::new(&self.residency);
            self.write(&descriptor, name);
            descriptor
        }

        fn write(&self, descriptor: &Arc<Descriptor>, name: &str) {
            let open = || self.vfs.open(name.as_ref(), OpenMode::Create);
            descriptor.write(open, |file| file.write_at(b"bytes", 0)).unwrap();
            self.residency.unsynced.relieve();
        }
    }

    fn is_open(descriptor: &Descriptor) -> bool {
        descriptor.opened().is_some()
    }

    #[test]
    fn files_with_unsynced_bytes_stay_open_up_to_a_number_and_the_oldest_is_synced_for_the_next() {
        let rig = Rig::new();
        let files: Vec<_> = ["a", "b", "c", "d"].iter().map(|name| rig.written(name)).collect();
        let unsynced: Vec<_> = files.iter().map(|file| file.stays_listed()).collect();
        assert_eq!(unsynced, [false, false, false, true]);
        assert!(files.iter().filter(|file| is_open(file)).count() <= 2);
    }

    #[test]
    fn a_file_that_was_synced_meanwhile_takes_no_room_and_comes_back_with_its_next_write() {
        let rig = Rig::new();
        let first = rig.written("a");
        first.sync(&*first.opened().unwrap()).unwrap();
        let second = rig.written("b");
        assert!(second.stays_listed());
        rig.write(&first, "a");
        assert_eq!((first.stays_listed(), second.stays_listed()), (true, false));
    }

    #[test]
    fn a_file_whose_sync_overtook_a_write_stays_open() {
        let rig = Rig::new();
        let file = rig.written("a");
        let syncing = Arc::clone(&file);
        rig.vfs.hook(Hook::at(Operation::Write), move |_| {
            syncing.sync(&*syncing.opened().unwrap()).unwrap();
            syncing.let_go();
            assert!(is_open(&syncing), "a write goes on");
        });
        rig.write(&file, "a");
        file.let_go();
        assert!(is_open(&file) && file.stays_listed());
        file.sync(&*file.opened().unwrap()).unwrap();
        file.let_go();
        assert!(!is_open(&file) && !file.stays_listed());
    }

    #[test]
    fn a_sync_that_failed_while_it_made_room_is_told_to_the_next_sync_of_that_file() {
        let rig = Rig::new();
        let first = rig.written("a");
        rig.vfs.inject(Fault::new(Operation::Sync, Effect::OsError(5)));
        let second = rig.written("b");
        let error = first.sync(&*first.opened().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "cannot sync a: an earlier sync failed, and what it covered may be lost");
        second.sync(&*second.opened().unwrap()).unwrap();
    }
}
