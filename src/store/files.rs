//! Small files that are read whole and replaced whole.
//!
//! A replaced file is, after a crash of the machine, either what it was or the whole new one. That it is the new one is
//! certain once the folder was synced, which is left to the caller so that several replacements share one sync.

use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::format::FormatError;
use crate::types::Position;
use crate::vfs::{IoError, OpenMode, Vfs};

/// The most bytes of a file that is read whole: more than a million partitions need.
const SIZE_MAX: u64 = 128 << 20;

/// The bytes of the file at `path`; `None` when it isn't there.
///
/// # Errors
/// [`StoreError::Io`], and [`StoreError::Damaged`] for a file over 128 MiB.
pub(super) fn read(vfs: &dyn Vfs, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match vfs.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let size = file.size()?;
    let length = usize::try_from(size).ok().filter(|_| size <= SIZE_MAX).ok_or_else(|| StoreError::Damaged {
        path: path.to_path_buf(),
        source: FormatError::TooLarge { what: "file", position: Position::ZERO, limit: SIZE_MAX, got: size },
    })?;
    let mut bytes = vec![0; length];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Puts a synced file of these bytes at `path`, in place of one that is there.
///
/// # Errors
/// As the operating system says; then the old file, or the draft beside it, may still be there.
pub(super) fn replace(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    let draft = draft_of(path);
    let file = vfs.open(&draft, OpenMode::Truncate)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    vfs.rename(&draft, path)
}

/// The name under which a file is written before it takes its place: with `.tmp` behind it, as Kafka does.
fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}
