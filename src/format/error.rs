//! What can be wrong with bytes: which field, at which position, what was expected and what was there.
//!
//! Positions count from the start of the bytes that were handed in; the layer that knows the file adds its name.

use crate::types::{ErrorKind, Position};

/// Bytes that are not what their format says they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the thing they begin does.
    #[error("incomplete {what} at position {position}: needs {needed} bytes, {available} are there")]
    Incomplete {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        position: Position,
        /// Bytes it needs.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// A field holds a value that it can't hold.
    #[error("invalid {field} at position {position}: expected {expected}, got {got}")]
    Invalid {
        /// The field's name in the layout table.
        field: &'static str,
        /// Where it stands.
        position: Position,
        /// What would have been legal.
        expected: &'static str,
        /// What was there.
        got: i64,
    },
    /// A checksum doesn't match the bytes it covers.
    #[error("checksum mismatch at position {position}: stored {stored:08x}, computed {computed:08x}")]
    Checksum {
        /// Where the covered thing begins.
        position: Position,
        /// The checksum that stands in the bytes.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A compressed stream can't be decoded.
    #[error("cannot decompress {codec} at position {position}: {reason}")]
    Decompress {
        /// The codec's name.
        codec: &'static str,
        /// Where the stream begins.
        position: Position,
        /// The decoder's words.
        reason: String,
    },
    /// A codec refused to compress.
    #[error("cannot compress with {codec}: {reason}")]
    Compress {
        /// The codec's name.
        codec: &'static str,
        /// The encoder's words.
        reason: String,
    },
    /// The data needs a codec whose cargo feature is off.
    #[error("records are compressed with {codec}: build with the cargo feature `{codec}`")]
    MissingFeature {
        /// The codec's name, which is the feature's name too.
        codec: &'static str,
    },
    /// Something is larger than its bound.
    #[error("{what} at position {position} is too large: limit {limit} bytes, got {got}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Where it stands.
        position: Position,
        /// The bound in bytes.
        limit: u64,
        /// Its size as far as known.
        got: u64,
    },
    /// A line of a text file breaks its format.
    #[error("line {line} of {what}: expected {expected}, got {got:?}")]
    Text {
        /// The kind of file.
        what: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// What would have been legal.
        expected: &'static str,
        /// The line as it stands, shortened.
        got: String,
    },
}

/// Characters of a damaged line that an error repeats.
const SHOWN_LINE_SIZE: usize = 80;

impl FormatError {
    /// A [`Self::Text`] that repeats the beginning of `got`, which need not be UTF-8.
    pub(super) fn text(what: &'static str, line: usize, expected: &'static str, got: &[u8]) -> Self {
        // No character takes more than four bytes, so this is enough for what is shown.
        let beginning = got.get(..SHOWN_LINE_SIZE * 4).unwrap_or(got);
        let got = String::from_utf8_lossy(beginning).chars().take(SHOWN_LINE_SIZE).collect();
        Self::Text { what, line, expected, got }
    }

    /// The short, stable code of this error, as damage reports print it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Incomplete { .. } => "incomplete",
            Self::Invalid { .. } => "invalid_field",
            Self::Checksum { .. } => "crc_mismatch",
            Self::Decompress { .. } | Self::Compress { .. } => "bad_compression",
            Self::MissingFeature { .. } => "missing_feature",
            Self::TooLarge { .. } => "too_large",
            Self::Text { .. } => "invalid_text",
        }
    }

    /// What this error means for a caller.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::MissingFeature { .. } => ErrorKind::Unsupported,
            Self::Compress { .. } => ErrorKind::InvalidInput,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::Corrupt,
        }
    }

    /// Where in the bytes it stands, when it has a place.
    #[must_use]
    pub const fn position(&self) -> Option<Position> {
        match self {
            Self::Incomplete { position, .. }
            | Self::Invalid { position, .. }
            | Self::Checksum { position, .. }
            | Self::Decompress { position, .. }
            | Self::TooLarge { position, .. } => Some(*position),
            _ => None,
        }
    }

    /// The same error, with a position that counts from `base` bytes further back.
    #[cold]
    pub(crate) fn shifted(self, base: usize) -> Self {
        match self.position() {
            Some(position) => self.placed(position.plus(base as u64)),
            None => self,
        }
    }

    /// The same error, standing at `place`.
    #[cold]
    pub(crate) fn placed(mut self, place: Position) -> Self {
        if let Self::Incomplete { position, .. }
        | Self::Invalid { position, .. }
        | Self::Checksum { position, .. }
        | Self::Decompress { position, .. }
        | Self::TooLarge { position, .. } = &mut self
        {
            *position = place;
        }
        self
    }

    /// The same error, found inside bytes that are all there: what is too short is wrong, more of the file won't complete it.
    #[cold]
    pub(crate) fn enclosed(self) -> Self {
        match self {
            Self::Incomplete { what, position, available, .. } => Self::Invalid {
                field: what,
                position,
                expected: "to end inside the bytes that hold it",
                got: i64::try_from(available).unwrap_or(i64::MAX),
            },
            other => other,
        }
    }
}
