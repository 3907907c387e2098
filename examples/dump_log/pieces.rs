//! A file read in pieces of bounded size, whatever its length and whatever its bytes claim.
//!
//! One piece is kept, so that walking forward through small batches costs one read a mebibyte. Bytes handed out share the
//! piece's memory. The length is taken once, when the file is opened: what a writer adds meanwhile isn't seen.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;

/// Bytes of a piece, unless more are asked for at once.
const PIECE_SIZE: usize = 1 << 20;

/// A file and the piece of it that was read last.
pub struct Pieces {
    file: File,
    size: u64,
    piece: Bytes,
    piece_at: u64,
}

impl Pieces {
    /// Opens the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, piece: Bytes::new(), piece_at: 0 })
    }

    /// Length in bytes when it was opened.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Up to `count` bytes from `position`: fewer only at the end of the file.
    pub fn read(&mut self, position: u64, count: usize) -> io::Result<Bytes> {
        let count = usize::try_from(self.size.saturating_sub(position)).unwrap_or(usize::MAX).min(count);
        if let Some(bytes) = self.kept(position, count) {
            return Ok(bytes);
        }
        self.file.seek(SeekFrom::Start(position))?;
        let mut piece = Vec::new();
        let wanted = u64::try_from(count.max(PIECE_SIZE)).unwrap_or(u64::MAX);
        (&mut self.file).take(wanted.min(self.size - position)).read_to_end(&mut piece)?;
        self.piece = Bytes::from(piece);
        self.piece_at = position;
        Ok(self.piece.slice(..count.min(self.piece.len())))
    }

    /// The bytes, when the kept piece holds them all.
    fn kept(&self, position: u64, count: usize) -> Option<Bytes> {
        let start = usize::try_from(position.checked_sub(self.piece_at)?).ok()?;
        let end = start.checked_add(count)?;
        (end <= self.piece.len()).then(|| self.piece.slice(start..end))
    }

    /// Hands the bytes of a range to `take`, piece by piece.
    pub fn each(&mut self, from: u64, to: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut position = from;
        while position < to {
            let room = usize::try_from(to - position).unwrap_or(usize::MAX).min(PIECE_SIZE);
            let bytes = self.read(position, room)?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            take(&bytes);
            position += bytes.len() as u64;
        }
        Ok(())
    }

    /// Whether nothing but zeros stands from `position` to the end.
    pub fn is_zero_from(&mut self, mut position: u64) -> io::Result<bool> {
        while position < self.size {
            // Small first: most calls meet a batch and end with the first bytes.
            let bytes = self.read(position, 4096)?;
            if bytes.is_empty() || bytes.iter().any(|&byte| byte != 0) {
                return Ok(bytes.is_empty());
            }
            position += bytes.len() as u64;
        }
        Ok(true)
    }
}
