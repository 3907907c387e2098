//! What the operating system refused: the operation, the path, and its own error.

use std::io;
use std::path::{Path, PathBuf};

use crate::types::ErrorKind;

/// `EMFILE` and `ENFILE`: a folder is opened to sync it, and only opening needs a descriptor.
const OUT_OF_DESCRIPTORS: [Option<i32>; 2] =
    [Some(rustix::io::Errno::MFILE.raw_os_error()), Some(rustix::io::Errno::NFILE.raw_os_error())];

/// An operation on a file or folder that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct IoError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl IoError {
    /// `operation` is a verb in words ("open", "sync"), `path` what it was done to.
    #[must_use]
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self { operation, path: path.to_path_buf(), source }
    }

    /// The verb that failed.
    #[must_use]
    pub const fn operation(&self) -> &'static str {
        self.operation
    }

    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The operating system's kind of error.
    #[must_use]
    pub fn io_kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the file or folder isn't there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether a file or folder could not even be opened, for want of descriptors for example: nothing was written or synced then,
    /// and a later try may succeed.
    #[must_use]
    pub fn failed_to_open(&self) -> bool {
        let is_folder_sync = self.operation == "sync folder";
        self.operation == "open" || is_folder_sync && OUT_OF_DESCRIPTORS.contains(&self.source.raw_os_error())
    }

    /// What this error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            io::ErrorKind::WouldBlock => ErrorKind::Locked,
            _ => ErrorKind::Io,
        }
    }
}
/// The result of a call on a file that need not be there.
///
/// # Errors
/// `result`'s, other than that the file is missing.
pub(crate) fn unless_missing(result: Result<(), IoError>) -> Result<(), IoError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
