//! Real files: positional reads and writes, `fdatasync`, atomic renames, preallocation, maps and the folder lock.
//!
//! It keeps the durability contract of [`vfs`](super) as far as the operating system and the disk do. It leaves to its
//! caller to sync folders after making, renaming or removing names, and to respect what is mapped.
//! Nothing is cached and no state is shared, so a [`DiskVfs`] costs nothing to make, clone or drop.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::FlockOperation;

use super::mmap::map_prefix;
use super::{DirEntry, DirLock, IoError, Metadata, OpenMode, Vfs, VfsFile};
use crate::types::Timestamp;

/// The file whose `flock` keeps a second store out, in this process or another.
pub(super) const OWN_LOCK_NAME: &str = ".stratalog.lock";

/// The file whose `fcntl` lock keeps Kafka out, which doesn't see a `flock`.
pub(super) const KAFKA_LOCK_NAME: &str = ".lock";

/// The most bytes of zeros written at once where blocks can't be reserved.
const ZERO_CHUNK_SIZE: usize = 64 * 1024;

/// The files and folders of this machine.
///
/// The file `.lock` of a locked folder must not be opened through this value, nor by any other code of the process:
/// closing any handle of it would end Kafka's half of the lock.
///
/// # Example
/// ```
/// use stratalog::vfs::{DiskVfs, OpenMode, Vfs};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let vfs = DiskVfs::new();
/// let file = vfs.open(&folder.path().join("greeting"), OpenMode::Create)?;
/// file.write_at(b"hello", 0)?;
/// file.sync_data()?;
/// vfs.sync_dir(folder.path())?;
/// assert_eq!(file.map(5)?, "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskVfs;

impl DiskVfs {
    /// The files and folders of this machine.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Vfs for DiskVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>, IoError> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::Write => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
            OpenMode::Truncate => options.write(true).create(true).truncate(true),
        };
        let file = options.open(path).map_err(|source| IoError::new("open", path, source))?;
        Ok(Arc::new(DiskFile { file, path: path.to_path_buf() }))
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        fs::create_dir_all(path).map_err(|source| IoError::new("create folder", path, source))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, IoError> {
        let list = || -> io::Result<Vec<DirEntry>> {
            let mut entries = Vec::new();
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string() {
                    entries.push(DirEntry { name, is_dir: is_folder(&entry)? });
                }
            }
            entries.sort_unstable();
            Ok(entries)
        };
        list().map_err(|source| IoError::new("list", path, source))
    }

    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, IoError> {
        match fs::metadata(path) {
            Ok(found) => Ok(Some(Metadata {
                size: found.len(),
                modified: found.modified().ok().and_then(to_timestamp),
                is_dir: found.is_dir(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IoError::new("look up", path, source)),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        fs::rename(from, to).map_err(|source| IoError::new("rename", from, source))
    }

    fn remove_file(&self, path: &Path) -> Result<(), IoError> {
        fs::remove_file(path).map_err(|source| IoError::new("remove", path, source))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), IoError> {
        fs::remove_dir(path).map_err(|source| IoError::new("remove folder", path, source))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        // The parent of a relative path of one name is the empty path, which stands for the current folder.
        let folder = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let opened = File::open(folder).map_err(|source| IoError::new("open", path, source))?;
        opened.sync_all().map_err(|source| IoError::new("sync folder", path, source))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError> {
        // The order matters: the flock fails when this very process holds the folder, before `.lock` is opened. An fcntl
        // lock ends when the process closes any handle of the file, so a second open of `.lock` would lose the first's.
        let own = take_lock(&path.join(OWN_LOCK_NAME), |file| {
            rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
        })?;
        let kafka = take_lock(&path.join(KAFKA_LOCK_NAME), |file| {
            rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)
        })?;
        Ok(Box::new(DiskLock { _kafka: kafka, _own: own }))
    }

    fn boot_id(&self) -> Option<String> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let id = text.trim();
        (!id.is_empty()).then(|| id.to_owned())
    }

    fn open_files_max(&self) -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
}

/// Whether an entry is a folder, or a link to one.
fn is_folder(entry: &fs::DirEntry) -> io::Result<bool> {
    let kind = entry.file_type()?;
    Ok(kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()))
}

/// `None` for times before 1970.
pub(super) fn to_timestamp(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Timestamp::from_millis(i64::try_from(since.as_millis()).ok()?)
}

/// `None` for a time that the operating system can't express.
pub(super) fn from_timestamp(time: Timestamp) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(time.millis()).ok()?))
}

/// Opens the lock file, made when missing, and locks it without waiting.
fn take_lock(path: &Path, lock: impl FnOnce(&File) -> rustix::io::Result<()>) -> Result<File, IoError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| IoError::new("open", path, source))?;
    match lock(&file) {
        Ok(()) => Ok(file),
        // `fcntl` may report a held lock as either of these.
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::ACCESS) => {
            Err(IoError::new("lock", path, io::Error::new(io::ErrorKind::WouldBlock, "somebody else holds the lock")))
        }
        Err(errno) => Err(IoError::new("lock", path, errno.into())),
    }
}

/// Both locks of a folder. `_kafka` is dropped first, so that whoever gets the `flock` finds the other one free.
#[derive(Debug)]
struct DiskLock {
    _kafka: File,
    _own: File,
}

impl DirLock for DiskLock {}

/// One open file; `path` is the name it was opened under, for messages.
#[derive(Debug)]
struct DiskFile {
    file: File,
    path: PathBuf,
}

impl DiskFile {
    fn refused(&self, operation: &'static str) -> impl FnOnce(io::Error) -> IoError {
        move |source| IoError::new(operation, &self.path, source)
    }
}

impl VfsFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, IoError> {
        let mut rest = buffer;
        let mut next = position;
        let mut total: usize = 0;
        while !rest.is_empty() {
            match self.file.read_at(rest, next) {
                Ok(0) => break,
                Ok(count) => {
                    rest = rest.get_mut(count..).unwrap_or_default();
                    next = next.saturating_add(count as u64);
                    total = total.saturating_add(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(IoError::new("read", &self.path, source)),
            }
        }
        Ok(total)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), IoError> {
        // The standard loop goes on after short writes and interrupts, and reports a write of nothing as an error.
        self.file.write_all_at(bytes, position).map_err(self.refused("write"))
    }

    fn size(&self) -> Result<u64, IoError> {
        Ok(self.file.metadata().map_err(self.refused("look up"))?.len())
    }

    #[cfg(unix)]
    fn identity(&self) -> Result<Option<u64>, IoError> {
        use std::os::unix::fs::MetadataExt;
        Ok(Some(self.file.metadata().map_err(self.refused("look up"))?.ino()))
    }

    fn set_size(&self, size: u64) -> Result<(), IoError> {
        self.file.set_len(size).map_err(self.refused("set the size of"))
    }

    fn allocate(&self, size: u64) -> Result<(), IoError> {
        reserve(&self.file, size).map_err(self.refused("allocate"))
    }

    fn set_modified(&self, modified: Timestamp) -> Result<(), IoError> {
        let time = from_timestamp(modified).ok_or_else(|| io::ErrorKind::InvalidInput.into());
        time.and_then(|time| self.file.set_modified(time)).map_err(self.refused("set the time of"))
    }

    fn sync_data(&self) -> Result<(), IoError> {
        self.file.sync_data().map_err(self.refused("sync"))
    }

    fn map(&self, size: u64) -> Result<Bytes, IoError> {
        map_prefix(&self.file, size).map_err(self.refused("map"))
    }
}

/// Reserves blocks up to `size`; where the file system can't, zeros are written after the end of the file.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    if size == 0 {
        return Ok(());
    }
    if i64::try_from(size).is_err() {
        // The system call would say "invalid", which the zeros below would take for "can't reserve here".
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    match fallocate(file, size) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            extend_with_zeros(file, size)
        }
        result => Ok(result?),
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn fallocate(file: &File, size: u64) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(file.as_fd(), rustix::fs::FallocateFlags::empty(), 0, size))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn fallocate(_file: &File, _size: u64) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::OPNOTSUPP)
}

/// Writes zeros from the end of the file up to `size`. When that fails, the file gets its old length back.
fn extend_with_zeros(file: &File, size: u64) -> io::Result<()> {
    let length = file.metadata()?.len();
    let zeros = [0; ZERO_CHUNK_SIZE];
    let mut position = length;
    while position < size {
        let count = usize::try_from(size - position).unwrap_or(usize::MAX).min(ZERO_CHUNK_SIZE);
        if let Err(error) = file.write_all_at(zeros.get(..count).unwrap_or_default(), position) {
            file.set_len(length)?;
            return Err(error);
        }
        position += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::conformance;

    fn on_disk(check: impl FnOnce(&dyn Vfs, &Path)) {
        let folder = tempfile::tempdir().unwrap();
        check(&DiskVfs::new(), folder.path());
    }

    conformance::suite!(on_disk);

    #[test]
    fn a_held_lock_is_refused_by_name() {
        on_disk(|vfs, root| {
            let held = vfs.lock_dir(root).unwrap();
            let refused = vfs.lock_dir(root).unwrap_err();
            assert_eq!(refused.path(), root.join(OWN_LOCK_NAME));
            assert!(refused.to_string().contains(OWN_LOCK_NAME), "{refused}");
            drop(held);
        });
    }

    #[test]
    fn where_blocks_cannot_be_reserved_zeros_follow_the_old_end() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        extend_with_zeros(&file, 2).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        let size = 3 * ZERO_CHUNK_SIZE as u64 + 7;
        extend_with_zeros(&file, size).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size);
        let mapped = map_prefix(&file, size).unwrap();
        assert!(mapped.starts_with(b"abc") && mapped[3..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn names_that_are_not_utf8_are_left_out() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        on_disk(|vfs, root| {
            File::create(root.join(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
            File::create(root.join("plain")).unwrap();
            assert_eq!(vfs.read_dir(root).unwrap(), [DirEntry { name: "plain".into(), is_dir: false }]);
        });
    }
}
