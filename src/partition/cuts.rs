//! The `.cut` files in a partition's folder: what recovery took out of the log and nobody has removed yet.
//!
//! Recovery never removes one, and the log never reads one. They are kept for a person to look at, so they are counted, and
//! go by an explicit call only.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{LogError, Partition};
use crate::format::file_name::is_cut_name;
use crate::vfs::unless_missing;

/// An amount of `.cut` files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CutFiles {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl CutFiles {
    /// Both amounts together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { files: self.files.saturating_add(other.files), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// The amount that was there at the last count.
#[derive(Debug, Default)]
pub(super) struct CutGauge {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Partition {
    /// The `.cut` files in the partition's folder, as counted when it was opened, reopened, or rid of them.
    #[must_use]
    pub fn cut_files(&self) -> CutFiles {
        let gauge = &self.inner.cut_files;
        CutFiles { files: gauge.files.load(Ordering::Relaxed), bytes: gauge.bytes.load(Ordering::Relaxed) }
    }

    /// Removes the files that recovery cut out of the log: all names of the partition's folder that begin with an offset and end
    /// in `.cut`. Returns what is gone. Nothing in the log changes, but what the files hold can't be salvaged any more.
    ///
    /// # Durability
    /// None is promised: after a power loss the files may be back.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the folder can't be listed or a file can't be removed; the files before it are gone.
    /// [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn remove_cut_files(&self) -> Result<CutFiles, LogError> {
        let _inside = self.inner.enter_writable()?;
        // Recovery by `reopen` makes such files under this lock.
        let _writer = self.inner.writer.lock();
        let before = self.list_cut_files()?;
        let mut removed = CutFiles::default();
        for (name, bytes) in before {
            unless_missing(self.inner.vfs.remove_file(&self.inner.dir.join(name))).map_err(|error| {
                self.count_cut_files();
                self.inner.wrap(error)
            })?;
            removed = removed.plus(CutFiles { files: 1, bytes });
        }
        self.count_cut_files();
        Ok(removed)
    }

    /// Counts the `.cut` files anew. What can't be listed now counts as none.
    pub(crate) fn count_cut_files(&self) {
        let found = self.list_cut_files().unwrap_or_default();
        self.inner.cut_files.files.store(found.len() as u64, Ordering::Relaxed);
        self.inner.cut_files.bytes.store(found.iter().map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
    }

    /// Names and sizes.
    fn list_cut_files(&self) -> Result<Vec<(String, u64)>, LogError> {
        let inner = &self.inner;
        let entries = inner.vfs.read_dir(&inner.dir).map_err(|error| inner.wrap(error))?;
        let cuts = entries.into_iter().filter(|entry| !entry.is_dir && is_cut_name(&entry.name));
        let sized = cuts.map(|entry| {
            let metadata = inner.vfs.metadata(&inner.dir.join(&entry.name)).map_err(|error| inner.wrap(error))?;
            Ok((entry.name, metadata.map_or(0, |metadata| metadata.size)))
        });
        sized.collect()
    }
}
