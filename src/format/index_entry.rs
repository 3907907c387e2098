//! The fixed-size entries of the three index files: `.index`, `.timeindex` and `.txnindex`. All numbers are big endian.
//!
//! Entries are plain values of one file: relative offsets count from the segment's base offset, and what order the
//! entries stand in is for the index to check. `parse` reads the first bytes of what it is given and ignores the rest.

use super::cursor::Cursor;
use super::error::FormatError;
use crate::types::{Offset, Position, ProducerId, Timestamp};

/// Where one batch begins, as an entry of the `.index`.
///
/// | byte | field | type | meaning |
/// |-----:|-------|------|---------|
/// | 0 | relative offset | i32 | the batch's *last* offset, minus the base offset; never negative |
/// | 4 | position | i32 | where the batch begins in the `.log`; never negative |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetIndexEntry {
    /// The last offset of the batch, minus the segment's base offset; at most 2147483647.
    pub relative_offset: u32,
    /// Where the batch begins in the `.log`, in bytes; at most 2147483647.
    pub position: u32,
}

impl OffsetIndexEntry {
    /// Bytes of one entry.
    pub const SIZE: usize = 8;

    /// The entry's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::SIZE] {
        let [a, b, c, d] = self.relative_offset.to_be_bytes();
        let [e, f, g, h] = self.position.to_be_bytes();
        [a, b, c, d, e, f, g, h]
    }

    /// Reads the entry that `bytes` begin with.
    ///
    /// # Errors
    /// `Incomplete` when there are fewer than [`Self::SIZE`] bytes, `Invalid` when a field is negative.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        Ok(Self {
            relative_offset: read_unsigned(&mut cursor, "relative offset")?,
            position: read_unsigned(&mut cursor, "position")?,
        })
    }
}

/// The greatest timestamp up to an offset, as an entry of the `.timeindex`.
///
/// | byte | field | type | meaning |
/// |-----:|-------|------|---------|
/// | 0 | timestamp | i64 | the greatest timestamp from the segment's start up to the offset; never negative |
/// | 8 | relative offset | i32 | the last offset of the batch that has it, minus the base offset; never negative |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeIndexEntry {
    /// The greatest timestamp from the segment's start up to the offset.
    pub timestamp: Timestamp,
    /// The last offset of the batch that has it, minus the segment's base offset; at most 2147483647.
    pub relative_offset: u32,
}

impl TimeIndexEntry {
    /// Bytes of one entry.
    pub const SIZE: usize = 12;

    /// The entry's bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; Self::SIZE] {
        let [a, b, c, d, e, f, g, h] = self.timestamp.millis().to_be_bytes();
        let [i, j, k, l] = self.relative_offset.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// Reads the entry that `bytes` begin with.
    ///
    /// # Errors
    /// `Incomplete` when there are fewer than [`Self::SIZE`] bytes, `Invalid` when a field is negative.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        let position = cursor.position();
        let millis = cursor.read_i64("timestamp")?;
        let timestamp = Timestamp::from_millis(millis).ok_or(FormatError::Invalid {
            field: "timestamp",
            position,
            expected: NOT_NEGATIVE,
            got: millis,
        })?;
        Ok(Self { timestamp, relative_offset: read_unsigned(&mut cursor, "relative offset")? })
    }
}

/// An aborted transaction whose abort marker lies in this segment, as an entry of the `.txnindex`.
///
/// | byte | field | type | meaning |
/// |-----:|-------|------|---------|
/// | 0 | version | i16 | 0 |
/// | 2 | producer id | i64 | |
/// | 10 | first offset | i64 | the transaction's first record, maybe in an earlier segment |
/// | 18 | last offset | i64 | its abort marker |
/// | 26 | last stable offset | i64 | the last stable offset when it was aborted |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose transaction it was.
    pub producer_id: ProducerId,
    /// The transaction's first record, maybe in an earlier segment.
    pub first_offset: Offset,
    /// Its abort marker.
    pub last_offset: Offset,
    /// The partition's last stable offset when it was aborted.
    pub last_stable_offset: Offset,
}

impl AbortedTransaction {
    /// Bytes of one entry.
    pub const SIZE: usize = 34;
    /// The only version there is.
    pub const VERSION: i16 = 0;

    /// The entry's bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let (version, numbers) = bytes.split_at_mut(2);
        version.copy_from_slice(&Self::VERSION.to_be_bytes());
        let values = [
            self.producer_id.value(),
            self.first_offset.value(),
            self.last_offset.value(),
            self.last_stable_offset.value(),
        ];
        for (field, value) in numbers.chunks_exact_mut(8).zip(values) {
            field.copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    /// Reads the entry that `bytes` begin with.
    ///
    /// # Errors
    /// `Incomplete` when there are fewer than [`Self::SIZE`] bytes, `Invalid` when the version is unknown or a field
    /// is negative.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        let version = cursor.read_i16("version")?;
        if version != Self::VERSION {
            return Err(FormatError::Invalid {
                field: "version",
                position: Position::ZERO,
                expected: "version 0 of an aborted transaction",
                got: version.into(),
            });
        }
        let position = cursor.position();
        let producer_id = cursor.read_i64("producer id")?;
        Ok(Self {
            producer_id: ProducerId::new(producer_id).ok_or(FormatError::Invalid {
                field: "producer id",
                position,
                expected: NOT_NEGATIVE,
                got: producer_id,
            })?,
            first_offset: read_offset(&mut cursor, "first offset")?,
            last_offset: read_offset(&mut cursor, "last offset")?,
            last_stable_offset: read_offset(&mut cursor, "last stable offset")?,
        })
    }
}

const NOT_NEGATIVE: &str = "a number that is not negative";

fn read_unsigned(cursor: &mut Cursor<'_>, field: &'static str) -> Result<u32, FormatError> {
    let position = cursor.position();
    let got = cursor.read_i32(field)?;
    u32::try_from(got).map_err(|_| FormatError::Invalid { field, position, expected: NOT_NEGATIVE, got: got.into() })
}

fn read_offset(cursor: &mut Cursor<'_>, field: &'static str) -> Result<Offset, FormatError> {
    let position = cursor.position();
    let got = cursor.read_i64(field)?;
    Offset::new(got).ok_or(FormatError::Invalid { field, position, expected: NOT_NEGATIVE, got })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn aborted() -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId::new(1).expect("legal"),
            first_offset: Offset::ZERO,
            last_offset: Offset::new(29).expect("legal"),
            last_stable_offset: Offset::new(8).expect("legal"),
        }
    }

    #[test]
    fn entries_have_kafkas_bytes() {
        let index = OffsetIndexEntry { relative_offset: 2, position: 4097 };
        assert_eq!(index.encode(), [0, 0, 0, 2, 0, 0, 0x10, 0x01]);
        assert_eq!(OffsetIndexEntry::parse(&index.encode()), Ok(index));

        let timestamp = Timestamp::from_millis(1_700_000_000_000).expect("legal");
        let time = TimeIndexEntry { timestamp, relative_offset: 3 };
        assert_eq!(time.encode(), [0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0, 0, 0, 0, 3]);
        assert_eq!(TimeIndexEntry::parse(&time.encode()), Ok(time));

        let mut golden = [0; 34];
        (golden[9], golden[25], golden[33]) = (1, 0x1d, 8);
        assert_eq!(aborted().encode(), golden);
        assert_eq!(AbortedTransaction::parse(&golden), Ok(aborted()));
    }

    #[test]
    fn an_aborted_transaction_of_another_version_is_refused() {
        let mut bytes = aborted().encode();
        bytes[1] = 1;
        let error = AbortedTransaction::parse(&bytes).expect_err("version 1");
        assert_eq!(
            error.to_string(),
            "invalid version at position 0: expected version 0 of an aborted transaction, got 1"
        );
    }

    #[test]
    fn negative_fields_and_short_entries_are_refused() {
        assert!(OffsetIndexEntry::parse(&[0, 0, 0, 0, 0x80, 0, 0, 0]).is_err());
        assert!(TimeIndexEntry::parse(&[0xff; 12]).is_err());
        for field in [2, 10, 18, 26] {
            let mut bytes = aborted().encode();
            bytes[field] |= 0x80;
            assert!(AbortedTransaction::parse(&bytes).is_err());
        }
        for size in 0..AbortedTransaction::SIZE {
            let bytes = &aborted().encode()[..size];
            assert!(AbortedTransaction::parse(bytes).is_err());
            assert_eq!(OffsetIndexEntry::parse(bytes).is_ok(), size >= OffsetIndexEntry::SIZE);
            assert_eq!(TimeIndexEntry::parse(bytes).is_ok(), size >= TimeIndexEntry::SIZE);
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_encodes_to_the_same_bytes(bytes: [u8; 34]) {
            if let Ok(entry) = OffsetIndexEntry::parse(&bytes) {
                prop_assert_eq!(&entry.encode()[..], &bytes[..8]);
            }
            if let Ok(entry) = TimeIndexEntry::parse(&bytes) {
                prop_assert_eq!(&entry.encode()[..], &bytes[..12]);
            }
            if let Ok(entry) = AbortedTransaction::parse(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }
}
