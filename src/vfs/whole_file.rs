//! Small files that are read whole and replaced whole.
//!
//! A replaced file is, after a crash of the machine, either what it was or the whole new one. That it is the new one is
//! certain once the folder was synced, which is left to the caller so that several replacements share one sync.

use std::path::{Path, PathBuf};

use super::{IoError, OpenMode, Vfs};

/// The most bytes of a file that is read whole: more than a million partitions or producers need.
const SIZE_MAX: u64 = 128 << 20;

/// The bytes of the file at `path`, at most the first 128 MiB: a parser sees that the rest is missing. `None` when it isn't there.
///
/// # Errors
/// As the operating system says.
pub(crate) fn read_whole(vfs: &dyn Vfs, path: &Path) -> Result<Option<Vec<u8>>, IoError> {
    let file = match vfs.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.size()?.min(SIZE_MAX)).unwrap_or(0)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Puts a synced file of these bytes at `path`, in place of one that is there.
///
/// # Errors
/// As the operating system says; then the old file, or the draft beside it, may still be there.
pub(crate) fn replace_whole(vfs: &dyn Vfs, path: &Path, bytes: &[u8]) -> Result<(), IoError> {
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
