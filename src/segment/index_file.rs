//! A file of fixed-size entries, ordered by the caller: the storage under both sparse indexes.
//!
//! The entries of a growing index live in memory and are written behind, in larger pieces. Those of a sealed one are mapped, or
//! copied where the file is small or another process writes it, on first use, and kept as long as the store's budget allows.
//! A lost or stale index costs a rebuild or a longer scan, never data, so nothing here is synced unless asked.
//!
//! Readers and appends take the lock of the entries, which nobody holds over I/O. Writing, renaming and removing the file has a
//! lock of its own. Nobody outside sees the entries' bytes: they are only lent to a closure under the lock.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::error::SegmentError;
use super::residency::{Kept, Residency, Slot};
use crate::vfs::{OpenMode, Vfs, unless_missing};

/// Unwritten entries that are collected before they go to the file, in bytes.
const WRITE_BEHIND: usize = 4096;

/// Bytes that are taken of another process's file: far more than any program writes into one.
const FOREIGN_MAX: u64 = 64 * 1024 * 1024;

/// Files up to this size, in bytes, are copied: a map takes a page of memory too, and a place among the process's maps.
const COPY_MAX: u64 = 4096;

#[derive(Debug)]
pub(crate) struct IndexFile {
    vfs: Arc<dyn Vfs>,
    entry_size: usize,
    path: RwLock<PathBuf>,
    /// Whether no other process may be writing this file: then it may be mapped and changed.
    own: bool,
    content: Arc<Slot<Content>>,
    /// Whether the segment was deleted: then its name may become another file's, and this one is never touched again.
    retired: AtomicBool,
    /// Held while the file is written, renamed or removed.
    file: Mutex<()>,
    residency: Arc<Residency>,
}

#[derive(Debug, Default)]
enum Content {
    /// In the file only.
    #[default]
    Unloaded,
    /// Sealed: mapped or copied.
    Sealed(Bytes),
    /// Growing; the first `written` bytes are in the file.
    Growing { bytes: Vec<u8>, written: usize },
}

impl Content {
    const fn empty() -> Self {
        Self::Growing { bytes: Vec::new(), written: 0 }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Unloaded => &[],
            Self::Sealed(bytes) => bytes,
            Self::Growing { bytes, .. } => bytes,
        }
    }

    /// The entries as growable memory, and how many bytes of them are in the file. A mapped index is copied out, which also ends
    /// its map.
    fn make_growing(&mut self) -> (&mut Vec<u8>, &mut usize) {
        if !matches!(self, Self::Growing { .. }) {
            let bytes = self.bytes().to_vec();
            *self = Self::Growing { written: bytes.len(), bytes };
        }
        match self {
            Self::Growing { bytes, written } => (bytes, written),
            Self::Unloaded | Self::Sealed(_) => unreachable!("made growing on the lines above"),
        }
    }
}

impl Kept for Content {
    fn may_go(&self) -> bool {
        !matches!(self, Self::Growing { .. })
    }
}

impl IndexFile {
    /// The entries that the file holds; a missing file has none.
    pub(crate) fn open(
        vfs: Arc<dyn Vfs>,
        path: PathBuf,
        entry_size: usize,
        own: bool,
        residency: Arc<Residency>,
    ) -> Self {
        Self::with_content(Content::Unloaded, vfs, path, entry_size, own, residency)
    }

    /// No entries; a file of that name is overwritten with the first write.
    pub(crate) fn empty(
        vfs: Arc<dyn Vfs>,
        path: PathBuf,
        entry_size: usize,
        own: bool,
        residency: Arc<Residency>,
    ) -> Self {
        Self::with_content(Content::empty(), vfs, path, entry_size, own, residency)
    }

    fn with_content(
        content: Content,
        vfs: Arc<dyn Vfs>,
        path: PathBuf,
        entry_size: usize,
        own: bool,
        residency: Arc<Residency>,
    ) -> Self {
        let (path, content) = (RwLock::new(path), Slot::new(content));
        Self { vfs, entry_size, path, own, content, retired: AtomicBool::new(false), file: Mutex::default(), residency }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.read().clone()
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Lends all entries, whole ones only.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Result<R, SegmentError> {
        {
            let content = self.content.read();
            if !matches!(*content, Content::Unloaded) {
                return Ok(look(content.bytes()));
            }
        }
        let loaded = self.load();
        let mut content = self.content.write();
        if matches!(*content, Content::Unloaded) {
            *content = loaded?;
        }
        let found = look(content.bytes());
        drop(content);
        self.admit();
        Ok(found)
    }

    fn load(&self) -> Result<Content, SegmentError> {
        let path = self.path();
        let Some(metadata) = self.vfs.metadata(&path)? else { return Ok(Content::empty()) };
        let whole = metadata.size - metadata.size % self.entry_size as u64;
        let file = self.vfs.open(&path, OpenMode::Read)?;
        if self.own && whole > COPY_MAX {
            return Ok(Content::Sealed(file.map(whole)?));
        }
        // A larger one was padded. The log tells all by itself.
        let wanted = if whole > FOREIGN_MAX { 0 } else { whole };
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read - read % self.entry_size);
        Ok(Content::Sealed(bytes.into()))
    }

    /// Counts loaded entries among what the store keeps.
    fn admit(&self) {
        if matches!(*self.content.read(), Content::Sealed(_)) {
            self.content.admit(&self.residency.maps);
        }
    }

    /// Whether the entries are in memory or mapped.
    pub(crate) fn is_loaded(&self) -> bool {
        !matches!(*self.content.read(), Content::Unloaded)
    }

    /// Loads the entries for good: the file's name may become another file's.
    pub(crate) fn hold(&self) -> Result<(), SegmentError> {
        self.content.pin();
        self.with(|_| ())
    }

    /// Lets go of entries that can be loaded again.
    pub(crate) fn unload(&self) {
        self.content.empty();
    }

    /// Does `work` while the entries stay in memory, loaded if need be.
    fn while_loaded<R>(&self, work: impl FnOnce() -> Result<R, SegmentError>) -> Result<R, SegmentError> {
        self.content.pin();
        let result = self.with(|_| ()).and_then(|()| work());
        if !self.is_retired() {
            self.content.unpin();
            self.admit();
        }
        result
    }

    /// Appends one entry in memory; [`IndexFile::persist`] writes it.
    pub(crate) fn push(&self, entry: &[u8]) -> Result<(), SegmentError> {
        self.while_loaded(|| {
            self.content.write().make_growing().0.extend_from_slice(entry);
            Ok(())
        })
    }

    /// Whether so many entries are in memory only that they are worth a write.
    pub(crate) fn is_page_pending(&self) -> bool {
        let pending = match &*self.content.read() {
            Content::Growing { bytes, written } => bytes.len().saturating_sub(*written),
            Content::Unloaded | Content::Sealed(_) => 0,
        };
        self.own && pending >= WRITE_BEHIND
    }

    /// Keeps the first `count` entries, in memory and in the file.
    pub(crate) fn truncate(&self, count: usize) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.while_loaded(|| {
            let size = count.saturating_mul(self.entry_size);
            let written = *self.content.write().make_growing().1;
            if written > size && self.own {
                self.vfs.open(&self.path(), OpenMode::Write)?.set_size(size as u64)?;
            }
            let mut content = self.content.write();
            let (bytes, written) = content.make_growing();
            bytes.truncate(size);
            *written = size.min(*written);
            Ok(())
        })
    }

    /// Writes what isn't in the file yet; creates the file when it isn't there.
    pub(crate) fn persist(&self) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.write_pending()
    }

    /// The caller holds the file's lock.
    fn write_pending(&self) -> Result<(), SegmentError> {
        if !self.own || self.is_retired() {
            return Ok(());
        }
        let (pending, start) = match &*self.content.read() {
            Content::Growing { bytes, written } => (bytes.get(*written..).unwrap_or_default().to_vec(), *written),
            Content::Unloaded | Content::Sealed(_) => return Ok(()),
        };
        // A first write replaces what an earlier life of this name left behind.
        let mode = if start == 0 { OpenMode::Truncate } else { OpenMode::Create };
        self.vfs.open(&self.path(), mode)?.write_at(&pending, start as u64)?;
        *self.content.write().make_growing().1 = start + pending.len();
        Ok(())
    }

    /// Makes all entries durable. Readers and appends don't wait for the disk.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        let file = {
            let _file = self.file.lock();
            self.write_pending()?;
            if !self.own || self.is_retired() {
                return Ok(());
            }
            self.vfs.open(&self.path(), OpenMode::Write)?
        };
        Ok(file.sync_data()?)
    }

    /// Writes all entries and frees the memory; they are loaded when used again. What was noted of another process's log is
    /// dropped: that process has written an index by now.
    pub(crate) fn seal(&self) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.write_pending()?;
        if self.is_retired() {
            return Ok(());
        }
        let mut content = self.content.write();
        let is_in_file = match &*content {
            Content::Growing { bytes, written } => *written == bytes.len() || !self.own,
            Content::Unloaded | Content::Sealed(_) => false,
        };
        if is_in_file && !self.content.is_pinned() {
            *content = Content::Unloaded;
        }
        Ok(())
    }

    /// Gives the file its last name. The entries stay in memory, so that they are readable when the name is another file's.
    pub(crate) fn retire(&self, to: PathBuf) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.while_loaded(|| {
            self.move_file(to)?;
            self.retired.store(true, Ordering::Release);
            Ok(())
        })
    }

    /// Removes the file and leaves its name to others. The entries stay in memory.
    pub(crate) fn remove(&self) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.while_loaded(|| {
            self.retired.store(true, Ordering::Release);
            self.remove_file()
        })
    }

    fn remove_file(&self) -> Result<(), SegmentError> {
        Ok(unless_missing(self.vfs.remove_file(&self.path()))?)
    }

    /// Drops all entries and the file with them: the next write makes a new one. Other readers that have mapped the old file keep it.
    pub(crate) fn clear(&self) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        if self.own {
            self.remove_file()?;
        }
        *self.content.write() = Content::empty();
        Ok(())
    }

    /// Gives the file another name; a file that was never written is left alone. Readers have the entries meanwhile.
    pub(crate) fn rename(&self, to: PathBuf) -> Result<(), SegmentError> {
        let _file = self.file.lock();
        self.while_loaded(|| self.move_file(to))
    }

    fn move_file(&self, to: PathBuf) -> Result<(), SegmentError> {
        unless_missing(self.vfs.rename(&self.path(), &to))?;
        *self.path.write() = to;
        Ok(())
    }
}
