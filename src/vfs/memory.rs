//! Files in memory: for examples, documentation tests and fast unit tests, and the ground of every crash test.
//!
//! It keeps the durability contract of [`vfs`](super) to the letter and not one byte beyond it: a [`MemoryVfs`] knows which
//! bytes and names are durable, and [`MemoryVfs::crash_image`] is the file system that a power loss would leave. What was
//! never synced is kept in journals, so memory grows with unsynced changes; a user who syncs files and folders as the
//! contract asks pays for the content alone. Modified times are those of the system's clock.

mod inode;
mod survival;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use self::inode::Inode;
use self::survival::Survival;
use self::tree::{FolderId, Node, Tree};
use super::disk::{KAFKA_LOCK_NAME, OWN_LOCK_NAME, from_timestamp, to_timestamp};
use super::{DirEntry, DirLock, IoError, Metadata, OpenMode, Vfs, VfsFile};
use crate::types::Timestamp;

/// An in-memory file system. Clones share its content; relative paths begin at its root, which is there from the start.
///
/// A file is at most 4 GiB large. Maps are copies, taken when they are made.
///
/// # Example
/// A file whose folder was not synced is gone after a power loss:
/// ```
/// use std::path::Path;
/// use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
///
/// # fn main() -> Result<(), stratalog::vfs::IoError> {
/// let vfs = MemoryVfs::new();
/// let file = vfs.open(Path::new("kept"), OpenMode::Create)?;
/// file.write_at(b"hello", 0)?;
/// file.sync_data()?;
/// assert_eq!(vfs.crash_image().metadata(Path::new("kept"))?, None);
///
/// vfs.sync_dir(Path::new("/"))?;
/// let survivor = vfs.crash_image().open(Path::new("kept"), OpenMode::Read)?;
/// assert_eq!(survivor.map(5)?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryVfs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tree: Mutex<Tree>,
    locked: Mutex<BTreeSet<FolderId>>,
    /// Counts the power losses in this file system's past.
    boot: u64,
}

impl Default for MemoryVfs {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryVfs {
    /// An empty file system.
    #[must_use]
    pub fn new() -> Self {
        Self::with_tree(Tree::new(), 0)
    }

    /// What a power loss at this moment leaves at the worst: the synced content of the files whose names were synced.
    /// The image is a file system of its own, of a new boot, with no locks held; this one goes on unharmed.
    #[must_use]
    pub fn crash_image(&self) -> Self {
        self.torn_crash_image(0)
    }

    /// What a power loss may leave, as `seed` decides. Seed 0 is [`MemoryVfs::crash_image`]; with any other, unsynced changes
    /// may have reached the disk too. A quarter of the seeds keep everything; a quarter keep of each file its first
    /// changes and tear the next; the others choose for each write, size and name alone whether it is kept, dropped or,
    /// a write, torn at some byte. Behind a tear the file is as it was, or filled with zeros up to its full length.
    /// A rename is kept or dropped as a whole, and never kept without the earlier changes of its two names. Bytes that a
    /// failed sync lost count as unsynced. The same seed over the same history gives the same image.
    #[must_use]
    pub fn torn_crash_image(&self, seed: u64) -> Self {
        let mut survival = Survival::new(seed);
        let tree = self.shared.tree.lock().after_power_loss(&mut survival);
        Self::with_tree(tree, self.shared.boot.saturating_add(1))
    }

    /// What a sudden end of the process (`kill -9`) leaves: all of the content, synced or not, in the same boot, with no
    /// locks held. The image is a file system of its own, which remembers what isn't durable yet.
    #[must_use]
    pub fn process_crash_image(&self) -> Self {
        Self::with_tree(self.shared.tree.lock().copy(), self.shared.boot)
    }

    /// Opens a file as [`Vfs::open`] does, as the type that can lose bytes.
    pub(super) fn open_file(&self, path: &Path, mode: OpenMode) -> Result<Arc<MemoryFile>, IoError> {
        let opened = self.open_inode(path, mode).map_err(|source| IoError::new("open", path, source))?;
        Ok(Arc::new(MemoryFile { inode: opened, writable: mode != OpenMode::Read, path: path.to_path_buf() }))
    }

    fn open_inode(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<Inode>> {
        let mut tree = self.shared.tree.lock();
        match mode {
            OpenMode::Read | OpenMode::Write => match tree.find(path)? {
                Node::File(inode) => Ok(inode),
                Node::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
            },
            OpenMode::Create => Ok(tree.find_or_create_file(path)?),
            OpenMode::Truncate => {
                let inode = tree.find_or_create_file(path)?;
                inode.set_size(0)?;
                Ok(inode)
            }
        }
    }

    fn with_tree(tree: Tree, boot: u64) -> Self {
        Self { shared: Arc::new(Shared { tree: Mutex::new(tree), locked: Mutex::new(BTreeSet::new()), boot }) }
    }

    /// Runs `action` on the names.
    fn on_tree<T>(
        &self,
        operation: &'static str,
        path: &Path,
        action: impl FnOnce(&mut Tree) -> Result<T, io::ErrorKind>,
    ) -> Result<T, IoError> {
        action(&mut self.shared.tree.lock()).map_err(|kind| IoError::new(operation, path, kind.into()))
    }
}

impl Vfs for MemoryVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>, IoError> {
        Ok(self.open_file(path, mode)?)
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        self.on_tree("create folder", path, |tree| tree.create_folders(path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, IoError> {
        self.on_tree("list", path, |tree| {
            let in_utf8 = |(name, is_dir): (&std::ffi::OsString, bool)| {
                Some(DirEntry { name: name.to_str()?.to_owned(), is_dir })
            };
            Ok(tree.list(path)?.filter_map(in_utf8).collect())
        })
    }

    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, IoError> {
        self.on_tree("look up", path, |tree| match tree.find(path) {
            Ok(Node::Folder(_)) => Ok(Some(Metadata { size: 0, modified: None, is_dir: true })),
            Ok(Node::File(inode)) => {
                Ok(Some(Metadata { size: inode.size(), modified: to_timestamp(inode.modified()), is_dir: false }))
            }
            Err(io::ErrorKind::NotFound) => Ok(None),
            Err(kind) => Err(kind),
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.on_tree("rename", from, |tree| tree.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<(), IoError> {
        self.on_tree("remove", path, |tree| tree.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), IoError> {
        self.on_tree("remove folder", path, |tree| tree.remove_folder(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        self.on_tree("sync folder", path, |tree| tree.sync_folder(path))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError> {
        let lock_path = path.join(OWN_LOCK_NAME);
        let folder = self.on_tree("lock", &lock_path, |tree| {
            let folder = tree.find_folder(path)?;
            tree.find_or_create_file(&lock_path)?;
            tree.find_or_create_file(&path.join(KAFKA_LOCK_NAME))?;
            Ok(folder)
        })?;
        if !self.shared.locked.lock().insert(folder) {
            let held = io::Error::new(io::ErrorKind::WouldBlock, "somebody else holds the lock");
            return Err(IoError::new("lock", &lock_path, held));
        }
        Ok(Box::new(MemoryLock { shared: Arc::clone(&self.shared), folder }))
    }

    fn boot_id(&self) -> Option<String> {
        Some(format!("memory-{}", self.shared.boot))
    }
}

#[derive(Debug)]
struct MemoryLock {
    shared: Arc<Shared>,
    folder: FolderId,
}

impl DirLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.shared.locked.lock().remove(&self.folder);
    }
}

/// One open file; `path` is the name it was opened under, for messages.
#[derive(Debug)]
pub(super) struct MemoryFile {
    inode: Arc<Inode>,
    writable: bool,
    path: PathBuf,
}

impl MemoryFile {
    /// What a sync that fails leaves behind: the bytes it should have made durable never will be.
    pub(super) fn lose_unsynced(&self) {
        self.inode.lose_unsynced();
    }

    fn change(&self, operation: &'static str, action: impl FnOnce(&Inode) -> io::Result<()>) -> Result<(), IoError> {
        let result = if self.writable {
            action(&self.inode)
        } else {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"))
        };
        result.map_err(|source| IoError::new(operation, &self.path, source))
    }
}

impl VfsFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, IoError> {
        Ok(self.inode.read_at(buffer, position))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), IoError> {
        self.change("write", |inode| inode.write_at(bytes, position))
    }

    fn size(&self) -> Result<u64, IoError> {
        Ok(self.inode.size())
    }

    fn identity(&self) -> Result<Option<u64>, IoError> {
        Ok(u64::try_from(Arc::as_ptr(&self.inode).addr()).ok())
    }

    fn set_size(&self, size: u64) -> Result<(), IoError> {
        self.change("set the size of", |inode| inode.set_size(size))
    }

    fn allocate(&self, size: u64) -> Result<(), IoError> {
        self.change("allocate", |inode| inode.grow_to(size))
    }

    fn set_modified(&self, modified: Timestamp) -> Result<(), IoError> {
        self.change("set the time of", |inode| {
            inode.set_modified(from_timestamp(modified).ok_or(io::ErrorKind::InvalidInput)?);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), IoError> {
        self.inode.sync();
        Ok(())
    }

    fn map(&self, size: u64) -> Result<Bytes, IoError> {
        self.inode.prefix(size).map(Bytes::from).ok_or_else(|| {
            let reason = format!("cannot map {size} bytes of a file of {}", self.inode.size());
            IoError::new("map", &self.path, io::Error::new(io::ErrorKind::UnexpectedEof, reason))
        })
    }
}

#[cfg(test)]
mod tests;
