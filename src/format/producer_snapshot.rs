//! The `.snapshot` file: what the log knows of its producers up to an offset, which is the file's name.
//!
//! All numbers are big endian.
//!
//! | byte | field | type | meaning |
//! |-----:|-------|------|---------|
//! | 0 | version | i16 | 1 |
//! | 2 | checksum | u32 | CRC-32C of everything after it |
//! | 6 | count | i32 | number of entries |
//! | 10 | entries | | 46 bytes each, to the end of the file |
//!
//! One entry:
//!
//! | byte | field | type | meaning; none |
//! |-----:|-------|------|---------------|
//! | 0 | producer id | i64 | |
//! | 8 | producer epoch | i16 | |
//! | 10 | last sequence | i32 | of its last data batch; -1 |
//! | 14 | last offset | i64 | of its last data batch; -1 |
//! | 22 | offset delta | i32 | last minus first offset of that batch; 0 |
//! | 26 | timestamp | i64 | greatest of its last batch, data or marker; -1 |
//! | 34 | coordinator epoch | i32 | of the last marker; -1 |
//! | 38 | current transaction's first offset | i64 | -1 |

use super::checksum::crc32c;
use super::cursor::Cursor;
use super::error::FormatError;
use crate::types::{Offset, Position, ProducerEpoch, ProducerId, Sequence, Timestamp};

const VERSION: i16 = 1;
/// Bytes before the part that the checksum covers.
const CHECKED_FROM: usize = 6;
/// Bytes before the first entry.
const HEADER_SIZE: usize = 10;
/// Bytes of one entry.
const ENTRY_SIZE: usize = 46;

/// The producers of a partition as of one offset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProducerSnapshot {
    /// One entry a producer; Kafka writes them by ascending producer id, any order is read.
    pub entries: Vec<ProducerEntry>,
}

/// What the log knows of one producer: its last data batch and its open transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Who.
    pub producer_id: ProducerId,
    /// Its generation.
    pub producer_epoch: ProducerEpoch,
    /// The last sequence of its last data batch in this epoch.
    pub last_sequence: Option<Sequence>,
    /// The last offset of that batch.
    pub last_offset: Option<Offset>,
    /// The last minus the first offset of that batch; 0 when there is none. At most 2147483647.
    pub offset_delta: u32,
    /// The greatest timestamp of its last batch, data or marker.
    pub timestamp: Option<Timestamp>,
    /// The epoch of the coordinator that wrote its last marker.
    pub coordinator_epoch: Option<u32>,
    /// Where its open transaction begins.
    pub current_transaction_first_offset: Option<Offset>,
}

impl ProducerSnapshot {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_SIZE + self.entries.len() * ENTRY_SIZE);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "2^32 entries of 46 bytes are more than a map of producers holds"
        )]
        let count = self.entries.len() as u32;
        bytes.extend_from_slice(&count.to_be_bytes());
        for entry in &self.entries {
            entry.encode_into(&mut bytes);
        }
        let checksum = crc32c(bytes.get(CHECKED_FROM..).unwrap_or_default());
        if let Some(field) = bytes.get_mut(2..CHECKED_FROM) {
            field.copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// `Incomplete`, `Checksum` or `Invalid` when the bytes are not exactly one snapshot of version 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        let version = cursor.read_i16("version")?;
        if version != VERSION {
            return Err(invalid("version", Position::ZERO, "version 1 of a producer snapshot", version.into()));
        }
        let stored = cursor.read_u32("checksum")?;
        let computed = crc32c(bytes.get(CHECKED_FROM..).unwrap_or_default());
        if stored != computed {
            return Err(FormatError::Checksum { position: cursor.position(), stored, computed });
        }
        let position = cursor.position();
        let count = cursor.read_i32("count")?;
        // The count is never trusted with memory: it has to match the bytes that are there.
        let there = cursor.remaining() / ENTRY_SIZE;
        if !cursor.remaining().is_multiple_of(ENTRY_SIZE) || usize::try_from(count) != Ok(there) {
            return Err(invalid("count", position, "the number of entries up to the end of the file", count.into()));
        }
        let entries = (0..there).map(|_| ProducerEntry::read(&mut cursor)).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl ProducerEntry {
    fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.producer_id.value().to_be_bytes());
        bytes.extend_from_slice(&self.producer_epoch.value().to_be_bytes());
        bytes.extend_from_slice(&Sequence::to_wire(self.last_sequence).to_be_bytes());
        bytes.extend_from_slice(&Offset::to_wire(self.last_offset).to_be_bytes());
        bytes.extend_from_slice(&self.offset_delta.to_be_bytes());
        bytes.extend_from_slice(&Timestamp::to_wire(self.timestamp).to_be_bytes());
        bytes.extend_from_slice(&self.coordinator_epoch.unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&Offset::to_wire(self.current_transaction_first_offset).to_be_bytes());
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        const NOT_NEGATIVE: &str = "a number that is not negative";
        let at = cursor.position();
        let producer_id = cursor.read_i64("producer id")?;
        let producer_epoch = cursor.read_i16("producer epoch")?;
        let entry = Self {
            producer_id: ProducerId::new(producer_id)
                .ok_or_else(|| invalid("producer id", at, NOT_NEGATIVE, producer_id))?,
            producer_epoch: ProducerEpoch::new(producer_epoch)
                .ok_or_else(|| invalid("producer epoch", at.plus(8), NOT_NEGATIVE, producer_epoch.into()))?,
            last_sequence: optional(cursor, "last sequence", Cursor::read_i32, Sequence::new)?,
            last_offset: optional(cursor, "last offset", Cursor::read_i64, Offset::new)?,
            offset_delta: {
                let delta = cursor.read_i32("offset delta")?;
                u32::try_from(delta).map_err(|_| invalid("offset delta", at.plus(22), NOT_NEGATIVE, delta.into()))?
            },
            timestamp: optional(cursor, "timestamp", Cursor::read_i64, Timestamp::from_millis)?,
            coordinator_epoch: optional(cursor, "coordinator epoch", Cursor::read_i32, |epoch| {
                u32::try_from(epoch).ok()
            })?,
            current_transaction_first_offset: optional(
                cursor,
                "current transaction's first offset",
                Cursor::read_i64,
                Offset::new,
            )?,
        };
        debug_assert_eq!(cursor.position(), at.plus(ENTRY_SIZE as u64));
        Ok(entry)
    }
}

/// Reads a number of which -1 means none and everything else must be legal.
fn optional<'a, N: Copy + Into<i64>, T>(
    cursor: &mut Cursor<'a>,
    field: &'static str,
    read: impl Fn(&mut Cursor<'a>, &'static str) -> Result<N, FormatError>,
    wrap: impl Fn(N) -> Option<T>,
) -> Result<Option<T>, FormatError> {
    let position = cursor.position();
    let number = read(cursor, field)?;
    let value = wrap(number);
    if value.is_none() && number.into() != -1 {
        return Err(invalid(field, position, "-1 or a number that is not negative", number.into()));
    }
    Ok(value)
}

const fn invalid(field: &'static str, position: Position, expected: &'static str, got: i64) -> FormatError {
    FormatError::Invalid { field, position, expected, got }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: [u8; 56] = [
        0x00, 0x01, 0xf7, 0x10, 0xcf, 0x00, 0x00, 0x00, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0x10, 0x92, 0x00, 0x03, 0, 0, 0,
        0x09, 0, 0, 0, 0, 0, 0, 0, 0x6d, 0, 0, 0, 0x02, 0, 0, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0, 0, 0, 0, 0x0f, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];

    /// Where the fields of an entry begin.
    const FIELDS: [usize; 8] = [0, 8, 10, 14, 22, 26, 34, 38];

    fn golden() -> ProducerSnapshot {
        ProducerSnapshot {
            entries: vec![ProducerEntry {
                producer_id: ProducerId::new(4242).expect("legal"),
                producer_epoch: ProducerEpoch::new(3).expect("legal"),
                last_sequence: Sequence::new(9),
                last_offset: Offset::new(109),
                offset_delta: 2,
                timestamp: Timestamp::from_millis(1_700_000_000_000),
                coordinator_epoch: Some(15),
                current_transaction_first_offset: None,
            }],
        }
    }

    /// The checksum that belongs to `bytes`, put in its place.
    fn seal(bytes: &mut [u8]) {
        let checksum = crc32c(&bytes[CHECKED_FROM..]);
        bytes[2..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn snapshots_have_kafkas_bytes() {
        assert_eq!(golden().encode(), GOLDEN);
        assert_eq!(ProducerSnapshot::parse(&GOLDEN), Ok(golden()));
        let empty = [0x00, 0x01, 0x48, 0x67, 0x4b, 0xc7, 0, 0, 0, 0];
        assert_eq!(ProducerSnapshot::default().encode(), empty);
        assert_eq!(ProducerSnapshot::parse(&empty), Ok(ProducerSnapshot::default()));
    }

    #[test]
    fn a_snapshot_cut_anywhere_or_with_a_tail_is_refused() {
        for size in 0..GOLDEN.len() {
            assert!(ProducerSnapshot::parse(&GOLDEN[..size]).is_err());
        }
        assert!(ProducerSnapshot::parse(&[&GOLDEN[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_snapshot_with_one_bit_flipped_is_refused() {
        for at in 0..GOLDEN.len() {
            for bit in 0..8 {
                let mut bytes = GOLDEN;
                bytes[at] ^= 1 << bit;
                assert!(ProducerSnapshot::parse(&bytes).is_err());
            }
        }
    }

    #[test]
    fn a_count_that_the_bytes_do_not_hold_is_refused_even_under_a_right_checksum() {
        for count in [0_i32, 2, -1, i32::MAX, i32::MIN] {
            let mut bytes = GOLDEN;
            bytes[6..10].copy_from_slice(&count.to_be_bytes());
            seal(&mut bytes);
            let error = ProducerSnapshot::parse(&bytes).expect_err("one entry is there");
            assert_eq!(error.position(), Some(Position::new(6)));
        }
    }

    #[test]
    fn numbers_below_minus_one_are_refused_even_under_a_right_checksum() {
        for at in FIELDS {
            let mut bytes = GOLDEN;
            bytes[HEADER_SIZE + at] = 0x80;
            seal(&mut bytes);
            let error = ProducerSnapshot::parse(&bytes).expect_err("negative");
            assert_eq!(error.position(), Some(Position::new((HEADER_SIZE + at) as u64)));
        }
    }

    proptest! {
        #[test]
        fn random_bytes_under_a_right_checksum_never_panic(mut bytes: Vec<u8>) {
            let _ = ProducerSnapshot::parse(&bytes);
            if bytes.len() >= HEADER_SIZE {
                bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
                seal(&mut bytes);
                let _ = ProducerSnapshot::parse(&bytes);
            }
        }

        #[test]
        fn random_entries_that_parse_encode_to_the_same_bytes(entry: [u8; ENTRY_SIZE]) {
            let mut bytes = [&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1], &entry[..]].concat();
            // Clearing the signs makes every field legal; otherwise next to nothing would parse.
            for at in FIELDS {
                bytes[HEADER_SIZE + at] &= 0x7f;
            }
            seal(&mut bytes);
            prop_assert_eq!(ProducerSnapshot::parse(&bytes).map(|snapshot| snapshot.encode()), Ok(bytes));
        }
    }
}
