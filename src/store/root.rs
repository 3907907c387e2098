//! The root folder of a store: checked, made durably with the folders above it, locked.
//!
//! A record is no more durable than the names that lead to it. So every folder that is made is synced, and the one above the
//! topmost of them. An earlier opening may have died between making and syncing them: as long as the root holds no list of
//! topics, which is written afterwards, all folders above it are synced again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::layout;
use crate::vfs::{DirLock, IoError, Vfs};

/// The folder that a user's path means; the empty path is the current folder.
pub(super) fn root_of(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_path_buf() }
}

/// Sees to it that `root` is a folder that may be used. A missing one is made, unless the store is read-only.
pub(super) fn prepare(vfs: &dyn Vfs, root: &Path, read_only: bool) -> Result<(), StoreError> {
    match vfs.metadata(root)? {
        Some(found) if found.is_dir => layout::check_ours(vfs, root),
        Some(_) => Err(StoreError::NotAFolder { path: root.to_path_buf() }),
        None if read_only => Err(StoreError::Missing { path: root.to_path_buf() }),
        None => Ok(create(vfs, root)?),
    }
}

/// Makes `root` and the folders above it that are missing.
fn create(vfs: &dyn Vfs, root: &Path) -> Result<(), IoError> {
    let mut made = Vec::new();
    for folder in root.ancestors() {
        if is_there(vfs, folder)? {
            break;
        }
        made.push(folder);
    }
    vfs.create_dir_all(root)?;
    made.iter().try_for_each(|folder| vfs.sync_dir(folder))?;
    let above = made.last().and_then(|topmost| topmost.parent());
    above.map_or(Ok(()), |folder| sync_foreign(vfs, folder))
}

/// The folder above a relative path of one name is the empty path: the current folder, which is always there.
fn is_there(vfs: &dyn Vfs, folder: &Path) -> Result<bool, IoError> {
    Ok(folder.as_os_str().is_empty() || vfs.metadata(folder)?.is_some())
}

/// Syncs every folder above `root`.
///
/// # Errors
/// As the operating system says. A folder that may not be read, or that can't be synced, is left: it is not ours.
pub(super) fn sync_above(vfs: &dyn Vfs, root: &Path) -> Result<(), IoError> {
    root.ancestors().skip(1).try_for_each(|folder| sync_foreign(vfs, folder))
}

fn sync_foreign(vfs: &dyn Vfs, folder: &Path) -> Result<(), IoError> {
    vfs.sync_dir(folder).or_else(|error| match error.io_kind() {
        ErrorKind::PermissionDenied
        | ErrorKind::Unsupported
        | ErrorKind::InvalidInput
        | ErrorKind::ReadOnlyFilesystem => Ok(()),
        _ => Err(error),
    })
}

/// Takes the root for writing, until the lock is dropped.
///
/// # Errors
/// [`StoreError::Locked`] when somebody else has it.
pub(super) fn lock(vfs: &dyn Vfs, root: &Path) -> Result<Box<dyn DirLock>, StoreError> {
    vfs.lock_dir(root).map_err(|source| {
        let is_held = source.io_kind() == ErrorKind::WouldBlock;
        if is_held { StoreError::Locked { path: root.to_path_buf(), source } } else { source.into() }
    })
}
