//! Read-only maps of a file's first bytes: the one module with `unsafe` in it.
//!
//! It guarantees that every byte of a new map is backed by the file at the moment of mapping. It leaves to its
//! caller, and by the contract of [`VfsFile::map`](super::VfsFile::map) to whoever holds the bytes, that nobody cuts
//! the file below the mapped size or gives a mapped byte another value while the map lives: the first would end the process
//! with a bus error, the second would change bytes that safe code believes to be immutable. Recovery writes again, with the
//! values they have, bytes that may be mapped.
#![expect(unsafe_code, reason = "a file can't be mapped without it; every other module is free of it")]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// Maps the first `size` bytes of `file`.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file is shorter, [`io::ErrorKind::OutOfMemory`] when the address space is
/// too small, else as the operating system says.
pub(super) fn map_prefix(file: &File, size: u64) -> io::Result<Bytes> {
    let length = file.metadata()?.len();
    if size > length {
        let reason = format!("cannot map {size} bytes of a file of {length}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    if size == 0 {
        return Ok(Bytes::new());
    }
    let size = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    Ok(Bytes::from_owner(map_backed_bytes(file, size)?))
}

fn map_backed_bytes(file: &File, size: usize) -> io::Result<Mmap> {
    // SAFETY: the pages are backed, because `map_prefix` saw a length of at least `size` and nobody cuts a file below a
    // mapped length; the bytes don't change, because nobody writes other values over mapped bytes. Both are kept by the
    // callers of `VfsFile::map`, to whom its contract in `vfs/mod.rs` says so: logs grow at their end only, a live
    // truncation goes to a new file, and what `Segment::write_again` writes is what it has just read there.
    unsafe { MmapOptions::new().len(size).map(file) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_shorter_than_the_map_is_refused_instead_of_a_bus_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        assert_eq!(map_prefix(&file, 4).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(map_prefix(&file, u64::MAX).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(map_prefix(&file, 3).unwrap(), "abc");
        assert_eq!(map_prefix(&file, 0).unwrap(), "");
    }
}
