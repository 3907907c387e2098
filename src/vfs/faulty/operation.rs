//! The kinds of calls that faults and hooks can name.

use std::path::Path;

#[cfg(doc)]
use crate::vfs::{Vfs, VfsFile};

/// A kind of call. [`Operation::Any`] and [`Operation::Mutation`] name several kinds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Every call of the file system and of its files.
    Any,
    /// Every call that changes something: writes, syncs, changes of sizes, times and names, and opening that creates or
    /// truncates.
    Mutation,
    /// [`Vfs::open`], creating or not.
    Open,
    /// [`Vfs::create_dir_all`].
    CreateDir,
    /// [`Vfs::read_dir`].
    ReadDir,
    /// [`Vfs::metadata`] and [`VfsFile::size`].
    Metadata,
    /// [`Vfs::rename`]; the path is the old name.
    Rename,
    /// [`Vfs::remove_file`] and [`Vfs::remove_dir`].
    Remove,
    /// [`Vfs::sync_dir`].
    SyncDir,
    /// [`Vfs::lock_dir`].
    Lock,
    /// [`VfsFile::read_at`].
    Read,
    /// [`VfsFile::write_at`].
    Write,
    /// [`VfsFile::set_size`].
    SetSize,
    /// [`VfsFile::allocate`].
    Allocate,
    /// [`VfsFile::set_modified`].
    SetModified,
    /// [`VfsFile::sync_data`].
    Sync,
    /// [`VfsFile::map`].
    Map,
}

impl Operation {
    /// The verb for messages.
    pub(super) const fn verb(self) -> &'static str {
        match self {
            Self::Any => "use",
            Self::Mutation => "change",
            Self::Open => "open",
            Self::CreateDir => "create folder",
            Self::ReadDir => "list",
            Self::Metadata => "look up",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDir => "sync folder",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::SetSize => "set the size of",
            Self::Allocate => "allocate",
            Self::SetModified => "set the time of",
            Self::Sync => "sync",
            Self::Map => "map",
        }
    }

    pub(super) const fn is_sync(self) -> bool {
        matches!(self, Self::Sync | Self::SyncDir)
    }

    /// Whether `call` is of this kind, or of one of these kinds.
    pub(super) fn includes(self, call: Call<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Mutation => call.mutates,
            kind => kind == call.operation,
        }
    }
}

/// One call, as far as faults and hooks care. Its operation is a single kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) path: &'a Path,
    pub(super) mutates: bool,
}
