//! What can go wrong with a segment: the disk, the bytes, or an append that breaks the segment's own order.

use std::path::{Path, PathBuf};

use crate::format::FormatError;
use crate::types::{ErrorKind, Offset, Position};
use crate::vfs::IoError;

/// An error of one segment, with the file it happened in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The disk or the operating system failed.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A batch in the `.log` is not what its format says.
    #[error("{} at position {position}: {source}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Where in the file the batch begins.
        position: Position,
        /// What is wrong; positions in it count from the batch's start.
        source: FormatError,
    },
    /// An append whose last offset doesn't fit into a segment's 31 bits above its base.
    #[error("{}: offset {last_offset} is out of the segment's range, base {base_offset} plus at most 2147483647", file.display())]
    OffsetOverflow {
        /// The file.
        file: PathBuf,
        /// The segment's base offset.
        base_offset: Offset,
        /// The last offset of the refused batch.
        last_offset: Offset,
    },
    /// An index append that goes backwards, or an index that is full.
    #[error("{}: index entry refused: expected {expected}, got offset {got}", file.display())]
    IndexOrder {
        /// The index file.
        file: PathBuf,
        /// The rule it breaks.
        expected: &'static str,
        /// The offset of the refused entry.
        got: Offset,
    },
    /// Another process replaced, cut or removed the file since it was last looked at.
    #[error("{} was changed by another process", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A `.log` longer than positions can address.
    #[error("{} is too large: expected at most 2147483647 bytes, got {got}", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Its length in bytes.
        got: u64,
    },
}

impl SegmentError {
    pub(crate) fn format(file: &Path, position: Position, source: FormatError) -> Self {
        Self::Format { file: file.to_path_buf(), position, source }
    }

    /// What this error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(error) => error.kind(),
            Self::Format { source, .. } => source.kind(),
            Self::OffsetOverflow { .. } => ErrorKind::InvalidInput,
            Self::Changed { .. } => ErrorKind::Changed,
            Self::IndexOrder { .. } | Self::TooLarge { .. } => ErrorKind::Corrupt,
        }
    }

    /// The file it happened in.
    #[must_use]
    pub fn file(&self) -> &Path {
        match self {
            Self::Io(error) => error.path(),
            Self::Format { file, .. }
            | Self::OffsetOverflow { file, .. }
            | Self::IndexOrder { file, .. }
            | Self::Changed { file }
            | Self::TooLarge { file, .. } => file,
        }
    }

    /// Where in the file, when that is known.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Format { position, .. } => Some(*position),
            _ => None,
        }
    }
}
