//! The one seam to the operating system: every file, folder, lock and map goes through [`Vfs`].
//!
//! # Durability contract
//!
//! - A write is visible to every later read of the same file at once, and survives the process, not the machine.
//! - [`VfsFile::sync_data`] makes durable every byte written to this file before the call, and its length.
//! - A created, renamed or removed name is durable after [`Vfs::sync_dir`] of its folder. A file whose bytes were synced but
//!   whose folder was not may be gone after a power loss.
//! - [`Vfs::rename`] is atomic: after a power loss the target is either what it was or the whole new file, provided that file was synced before.
//! - After a failed sync the state of the unsynced bytes is unknown; calling it again proves nothing.
//! - Mapped bytes never change value: whoever maps a prefix relies on nobody cutting it or writing other bytes to it (see
//!   [`VfsFile::map`]).

#[cfg(test)]
mod conformance;
mod disk;
mod error;
mod faulty;
mod memory;
mod mmap;
mod random;
mod whole_file;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use disk::DiskVfs;
pub use error::IoError;
pub(crate) use error::unless_missing;
pub use faulty::{Effect, Fault, FaultyVfs, Gate, Hook, Operation, PathFilter};
pub use memory::MemoryVfs;
pub(crate) use whole_file::{read_whole, replace_whole};

use crate::types::Timestamp;

/// How [`Vfs::open`] treats a file that is or isn't there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    Write,
    /// Read and write; created empty when it isn't there, kept as it is when it is.
    Create,
    /// Read and write; created empty, emptied when it is there. Only for files that nobody reads (`.tmp`).
    Truncate,
}

/// What stands in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without the folder. Names that are not UTF-8 are left out by [`Vfs::read_dir`].
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// What [`Vfs::metadata`] tells of a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Length in bytes; meaningless for a folder.
    pub size: u64,
    /// When it was last written; `None` before 1970.
    pub modified: Option<Timestamp>,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Files and folders. Paths are used as given; relative ones are the back end's affair.
pub trait Vfs: fmt::Debug + Send + Sync {
    /// Opens a file.
    ///
    /// # Errors
    /// As the operating system says; a missing file is [`IoError::is_not_found`].
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>, IoError>;

    /// Creates a folder and those above it; one that is there is fine.
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, path: &Path) -> Result<(), IoError>;

    /// The entries of a folder, sorted by name.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, IoError>;

    /// Size, time and kind of a file or folder; `None` when it isn't there.
    ///
    /// # Errors
    /// As the operating system says, a missing file aside.
    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, IoError>;

    /// Gives a file or folder another name, atomically replacing a file of that name.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError>;

    /// Removes a file; open handles and maps of it stay valid.
    ///
    /// # Errors
    /// As the operating system says; a missing file is [`IoError::is_not_found`].
    fn remove_file(&self, path: &Path) -> Result<(), IoError>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove_dir(&self, path: &Path) -> Result<(), IoError>;

    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_dir(&self, path: &Path) -> Result<(), IoError>;

    /// Takes the locks of a store's folder: an exclusive `flock` on `.stratalog.lock`, then an `fcntl` write lock on
    /// `.lock`, Kafka's. Both files are created when missing and never deleted; the locks end with the returned value or the process.
    ///
    /// # Errors
    /// [`std::io::ErrorKind::WouldBlock`] when somebody holds either of them, this process included.
    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError>;

    /// A name of the running boot of this machine: what was written before and not synced is still there as long as this
    /// stays the same. `None` when it can't be known.
    fn boot_id(&self) -> Option<String>;

    /// How many files this process may have open at a time, where there is a limit. A store keeps at most half as many open.
    fn open_files_max(&self) -> Option<u64> {
        None
    }
}

/// Holds the locks of a folder until it is dropped.
pub trait DirLock: fmt::Debug + Send + Sync {}

/// One open file. All positions are in bytes from its start; all methods may be called from many threads at once.
pub trait VfsFile: fmt::Debug + Send + Sync {
    /// Fills `buffer` from `position`, as far as the file goes; returns the bytes read.
    ///
    /// # Errors
    /// As the operating system says; the end of the file is not an error.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, IoError>;

    /// Writes all of `bytes` at `position`, growing the file. After an error any part of them may have been written.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), IoError>;

    /// Length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn size(&self) -> Result<u64, IoError>;

    /// A number that no other file of this file system has as long as this one is open, whatever names they get; `None` where there
    /// is none to be had. It tells a file from another one that has taken its name.
    ///
    /// # Errors
    /// As the operating system says.
    fn identity(&self) -> Result<Option<u64>, IoError> {
        Ok(None)
    }

    /// Cuts or zero-extends the file. Never below a length that was mapped.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_size(&self, size: u64) -> Result<(), IoError>;

    /// Reserves zero-filled blocks up to `size`, so that writing there can't run out of space; the length becomes at least `size`.
    ///
    /// # Errors
    /// As the operating system says.
    fn allocate(&self, size: u64) -> Result<(), IoError>;

    /// Sets when the file was last written, as [`Vfs::metadata`] tells it, until the next write.
    ///
    /// # Durability
    /// None is promised: after a power loss the file may have another time.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_modified(&self, modified: Timestamp) -> Result<(), IoError>;

    /// Makes durable every byte written so far and the file's length.
    ///
    /// # Errors
    /// As the operating system says; after an error nothing is known about the unsynced bytes.
    fn sync_data(&self) -> Result<(), IoError>;

    /// The first `size` bytes as shared memory, which must all be there. They stay valid when the file is renamed or removed.
    /// The caller sees to it that nobody, in this process or another, cuts them or writes others over them while the value lives.
    /// Writing the same bytes again is no change.
    ///
    /// # Errors
    /// As the operating system says; a file shorter than `size` is an error.
    fn map(&self, size: u64) -> Result<Bytes, IoError>;
}
