//! The record batch: the unit that is appended, stored, checksummed and compressed.
//!
//! A `.log` file is batches and nothing else. [`BatchHeader::peek`] reads the framing alone, for walking a file;
//! [`RecordBatch::parse`] is the only way to a [`RecordBatch`], whose length and checksum are right. Whether its *records* are
//! right shows when they are read: [`RecordBatch::records`] checks all of them, their number included.
//!
//! Layout of a batch of magic 2, big-endian, [`BATCH_HEADER_SIZE`] bytes before the records:
//!
//! | position | bytes | type | field | meaning |
//! |---:|---:|---|---|---|
//! | 0 | 8 | i64 | base offset | offset of the batch's first record |
//! | 8 | 4 | i32 | length | bytes behind this field, at least 49 |
//! | 12 | 4 | i32 | leader epoch | -1 none |
//! | 16 | 1 | i8 | magic | 2 |
//! | 17 | 4 | u32 | crc | CRC-32C of everything behind this field |
//! | 21 | 2 | i16 | attributes | bits 0-2 codec, 3 `LogAppendTime`, 4 transactional, 5 control, 6 delete horizon |
//! | 23 | 4 | i32 | last offset delta | last offset - base offset, holes included |
//! | 27 | 8 | i64 | base timestamp | what timestamp deltas count from; the delete horizon if bit 6 is set |
//! | 35 | 8 | i64 | max timestamp | greatest timestamp of the records; with bit 3, the timestamp of all of them |
//! | 43 | 8 | i64 | producer id | -1 none |
//! | 51 | 2 | i16 | producer epoch | -1 none |
//! | 53 | 4 | i32 | base sequence | -1 none |
//! | 57 | 4 | i32 | record count | records that are there; compaction may leave none |
//! | 61 | | | records | one after the other, or one compressed stream of them |
//!
//! The first four fields stand before the checksum's range, so that a log can number a batch without computing it again.
//! Messages of magic 0 and 1 ([`super::legacy`]) share offset, length and the place of the magic, and are read as batches.

use super::checksum::{crc32_ieee, crc32c};
use super::compression::{Compression, decompress};
use super::control::ControlRecord;
use super::cursor::Cursor;
use super::error::FormatError;
use super::legacy::{self, LegacyRecords, Wrapper};
use super::record::{self, RECORD_SIZE_MIN, RecordBase, RecordRef};
use crate::types::{LeaderEpoch, Offset, Position, ProducerEpoch, ProducerId, Sequence, Timestamp, TimestampType};
use bytes::Bytes;
use std::fmt;
use std::sync::OnceLock;

/// Bytes of the header of a batch of magic 2.
pub const BATCH_HEADER_SIZE: usize = 61;
/// The most bytes that the records of one compressed batch may decompress to.
pub const DECOMPRESSED_SIZE_MAX: usize = 1 << 30;

const LENGTH_AT: usize = 8;
const EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const COUNT_AT: usize = 57;

/// Bytes before what the length field counts.
const LENGTH_OVERHEAD: u32 = 12;
/// The least value of the length field of magic 2.
const LENGTH_MIN: i32 = 49;

const _: () = assert!(COUNT_AT + size_of::<i32>() == BATCH_HEADER_SIZE);
const _: () = assert!(LENGTH_AT + size_of::<i32>() == LENGTH_OVERHEAD as usize);
const _: () = assert!(LENGTH_MIN as usize + LENGTH_OVERHEAD as usize == BATCH_HEADER_SIZE);
const _: () = assert!(CRC_AT + size_of::<u32>() == ATTRIBUTES_AT);

const CODEC_BITS: u8 = 0x07;
pub(super) const LOG_APPEND_TIME_BIT: u8 = 0x08;
pub(super) const TRANSACTIONAL_BIT: u8 = 0x10;
pub(super) const CONTROL_BIT: u8 = 0x20;
const DELETE_HORIZON_BIT: u8 = 0x40;

/// What a batch says about itself, whatever its magic. Its framing has been checked, its checksum has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    base_offset: Offset,
    last_offset: Offset,
    size: u32,
    leader_epoch: i32,
    magic: u8,
    attributes: u8,
    compression: Compression,
    crc: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    count: u32,
}

/// What the maker of a new batch decides; the rest of its header follows, or is assigned by the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderFields {
    pub(super) attributes: u8,
    pub(super) count: u32,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
}

impl BatchHeader {
    /// The most bytes that [`peek`](Self::peek) looks at.
    pub const PEEK_SIZE: usize = BATCH_HEADER_SIZE;

    /// Reads the header that `bytes` begin with and checks what it says about lengths and counts. The checksum isn't looked
    /// at, and the batch need not be there as a whole: [`PEEK_SIZE`](Self::PEEK_SIZE) bytes always suffice.
    ///
    /// # Errors
    /// [`FormatError::Incomplete`] when the header isn't all there, [`FormatError::Invalid`] when it can't be one.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::new(bytes);
        let base_offset = cursor.read_i64("base offset")?;
        let length = cursor.read_i32("batch length")?;
        check_length(length, legacy::LENGTH_MIN_V0)?;
        let leader_epoch = cursor.read_i32("leader epoch")?;
        let magic = cursor.read_i8("magic")?;
        let Some(base_offset) = Offset::new(base_offset) else {
            return Err(invalid("base offset", 0, "0 or more", base_offset));
        };
        let framing = Framing { base_offset, length, fourth: leader_epoch };
        match magic {
            2 => Self::peek_v2(cursor, framing),
            0 | 1 => Self::peek_legacy(cursor, framing, magic == 1),
            _ => Err(invalid("magic", MAGIC_AT, "0, 1 or 2", magic.into())),
        }
    }

    #[inline]
    fn peek_v2(mut cursor: Cursor<'_>, framing: Framing) -> Result<Self, FormatError> {
        check_length(framing.length, LENGTH_MIN)?;
        let crc = cursor.read_u32("crc")?;
        let [_, attributes] = cursor.read_i16("attributes")?.to_be_bytes();
        let last_offset_delta = cursor.read_i32("last offset delta")?;
        let base_timestamp = cursor.read_i64("base timestamp")?;
        let max_timestamp = cursor.read_i64("max timestamp")?;
        let producer_id = cursor.read_i64("producer id")?;
        let producer_epoch = cursor.read_i16("producer epoch")?;
        let base_sequence = cursor.read_i32("base sequence")?;
        let count = cursor.read_i32("record count")?;
        let Ok(count) = u32::try_from(count) else {
            return Err(invalid("record count", COUNT_AT, "0 or more", count.into()));
        };
        Ok(Self {
            base_offset: framing.base_offset,
            last_offset: last_offset(framing.base_offset, last_offset_delta)?,
            size: framing.size(),
            leader_epoch: framing.fourth,
            magic: 2,
            attributes,
            compression: read_compression(attributes, ATTRIBUTES_AT)?,
            crc,
            base_timestamp,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            count,
        })
    }

    #[cold]
    fn peek_legacy(mut cursor: Cursor<'_>, framing: Framing, v1: bool) -> Result<Self, FormatError> {
        let attributes_at = cursor.at();
        let [attributes] = cursor.read_i8("attributes")?.to_be_bytes();
        let timestamp = if v1 {
            check_length(framing.length, legacy::LENGTH_MIN_V1)?;
            cursor.read_i64("timestamp")?
        } else {
            -1
        };
        let compression = read_compression(attributes, attributes_at)?;
        if compression == Compression::Zstd {
            return Err(invalid("attributes", attributes_at, "a codec that is older than zstd", attributes.into()));
        }
        Ok(Self {
            base_offset: framing.base_offset,
            last_offset: framing.base_offset,
            size: framing.size(),
            leader_epoch: -1,
            magic: u8::from(v1),
            attributes: attributes & (CODEC_BITS | if v1 { LOG_APPEND_TIME_BIT } else { 0 }),
            compression,
            crc: framing.fourth.cast_unsigned(),
            base_timestamp: timestamp,
            max_timestamp: timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count: 1,
        })
    }

    /// The header of a new batch, with offsets from 0, without leader epoch, and not sealed yet.
    pub(super) fn new(fields: &HeaderFields) -> Self {
        Self {
            base_offset: Offset::ZERO,
            last_offset: Offset::ZERO.checked_add(fields.count.saturating_sub(1).into()).unwrap_or(Offset::ZERO),
            size: 0,
            leader_epoch: -1,
            magic: 2,
            attributes: fields.attributes,
            compression: Compression::from_id(fields.attributes & CODEC_BITS).unwrap_or_default(),
            crc: 0,
            base_timestamp: fields.base_timestamp,
            max_timestamp: fields.max_timestamp,
            producer_id: fields.producer_id,
            producer_epoch: fields.producer_epoch,
            base_sequence: fields.base_sequence,
            count: fields.count,
        }
    }

    /// This header for the same batch of magic 2 with fewer records: its offsets, producer and sequences stay. `horizon` stands
    /// for the base timestamp being a delete horizon.
    pub(super) const fn with_records(self, count: u32, base_timestamp: i64, max_timestamp: i64, horizon: bool) -> Self {
        let attributes = self.attributes & !DELETE_HORIZON_BIT;
        let attributes = if horizon { attributes | DELETE_HORIZON_BIT } else { attributes };
        Self { attributes, count, base_timestamp, max_timestamp, ..self }
    }

    /// This header for the same batch of magic 2 without any record: the greatest timestamp stays too.
    pub(super) const fn without_records(self) -> Self {
        let attributes = self.attributes & !(CODEC_BITS | DELETE_HORIZON_BIT);
        Self { attributes, count: 0, base_timestamp: -1, ..self }
    }

    /// The header's bytes in a batch of magic 2.
    fn encode(&self) -> [u8; BATCH_HEADER_SIZE] {
        let mut out = [0; BATCH_HEADER_SIZE];
        let length = self.size.saturating_sub(LENGTH_OVERHEAD);
        #[expect(clippy::cast_possible_truncation, reason = "it was an i32, or comes from a count below 2^31")]
        let last_offset_delta = self.last_offset.since(self.base_offset) as u32;
        out[..LENGTH_AT].copy_from_slice(&self.base_offset.value().to_be_bytes());
        out[LENGTH_AT..EPOCH_AT].copy_from_slice(&length.to_be_bytes());
        out[EPOCH_AT..MAGIC_AT].copy_from_slice(&self.leader_epoch.to_be_bytes());
        out[MAGIC_AT] = self.magic;
        out[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&self.crc.to_be_bytes());
        out[ATTRIBUTES_AT..LAST_OFFSET_DELTA_AT].copy_from_slice(&i16::from(self.attributes).to_be_bytes());
        out[LAST_OFFSET_DELTA_AT..BASE_TIMESTAMP_AT].copy_from_slice(&last_offset_delta.to_be_bytes());
        out[BASE_TIMESTAMP_AT..MAX_TIMESTAMP_AT].copy_from_slice(&self.base_timestamp.to_be_bytes());
        out[MAX_TIMESTAMP_AT..PRODUCER_ID_AT].copy_from_slice(&self.max_timestamp.to_be_bytes());
        out[PRODUCER_ID_AT..PRODUCER_EPOCH_AT].copy_from_slice(&self.producer_id.to_be_bytes());
        out[PRODUCER_EPOCH_AT..BASE_SEQUENCE_AT].copy_from_slice(&self.producer_epoch.to_be_bytes());
        out[BASE_SEQUENCE_AT..COUNT_AT].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[COUNT_AT..].copy_from_slice(&self.count.to_be_bytes());
        out
    }

    /// The offset of the first record, counting those that compaction removed. In magic 0 and 1 it is the entry's own offset:
    /// that of the *last* record if the entry is compressed ([`RecordBatch::base_offset`] knows better).
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// The offset of the last record, counting those that compaction removed.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        self.last_offset
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// The version of the format: 0, 1 or 2.
    #[must_use]
    pub const fn magic(&self) -> u8 {
        self.magic
    }

    /// The checksum as it is stored: CRC-32C in magic 2, CRC-32 of IEEE before.
    #[must_use]
    pub const fn crc(&self) -> u32 {
        self.crc
    }

    /// The attribute bits that the magic knows.
    #[must_use]
    pub const fn attributes(&self) -> u8 {
        self.attributes
    }

    /// How the records are compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Who set the timestamps; `None` in magic 0, which has none.
    #[must_use]
    pub const fn timestamp_type(&self) -> Option<TimestampType> {
        match (self.magic, self.attributes & LOG_APPEND_TIME_BIT) {
            (0, _) => None,
            (_, 0) => Some(TimestampType::Create),
            _ => Some(TimestampType::LogAppend),
        }
    }

    /// The greatest timestamp of the records; `None` when none has one.
    #[must_use]
    pub const fn max_timestamp(&self) -> Option<Timestamp> {
        Timestamp::from_millis(self.max_timestamp)
    }

    /// What the records' timestamp deltas count from, in milliseconds as stored; -1 for none.
    #[must_use]
    pub const fn base_timestamp(&self) -> i64 {
        self.base_timestamp
    }

    /// The epoch of the leader that appended the batch; `None` before it is appended, and in magic 0 and 1.
    #[must_use]
    pub const fn leader_epoch(&self) -> Option<LeaderEpoch> {
        LeaderEpoch::new(self.leader_epoch)
    }

    /// The producer, when it is idempotent or transactional.
    #[must_use]
    pub const fn producer_id(&self) -> Option<ProducerId> {
        ProducerId::new(self.producer_id)
    }

    /// The generation of the producer.
    #[must_use]
    pub const fn producer_epoch(&self) -> Option<ProducerEpoch> {
        ProducerEpoch::new(self.producer_epoch)
    }

    /// The sequence of the first record, counting those that compaction removed.
    #[must_use]
    pub const fn base_sequence(&self) -> Option<Sequence> {
        Sequence::new(self.base_sequence)
    }

    /// The sequence of the last record, counting those that compaction removed.
    #[must_use]
    pub fn last_sequence(&self) -> Option<Sequence> {
        let delta = u32::try_from(self.last_offset.since(self.base_offset)).ok()?;
        self.base_sequence().map(|base| base.wrapping_add(delta))
    }

    /// Whether the records belong to a transaction.
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the records are control records, which applications never see.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// When tombstones and markers in this batch may go; `None` before a cleaner first kept them.
    #[must_use]
    pub const fn delete_horizon(&self) -> Option<Timestamp> {
        match self.attributes & DELETE_HORIZON_BIT {
            0 => None,
            _ => Timestamp::from_millis(self.base_timestamp),
        }
    }

    /// The number of records in the batch. For a message of magic 0 or 1 it is 1, also if that message holds others
    /// ([`RecordBatch::record_count`] counts them).
    #[must_use]
    pub const fn record_count(&self) -> u32 {
        self.count
    }

    /// The whole batch at the start of `bytes`.
    fn frame<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], FormatError> {
        bytes.get(..self.size as usize).ok_or(FormatError::Incomplete {
            what: "batch",
            position: Position::ZERO,
            needed: self.size.into(),
            available: bytes.len() as u64,
        })
    }

    /// Whether so many records can stand in the batch `frame`.
    fn check_count(&self, frame: &[u8]) -> Result<(), FormatError> {
        let fits = frame.len().saturating_sub(BATCH_HEADER_SIZE) / RECORD_SIZE_MIN;
        if self.magic == 2 && self.compression == Compression::None && self.count as usize > fits {
            let expected = "no more records than fit into the batch";
            return Err(invalid("record count", COUNT_AT, expected, self.count.into()));
        }
        Ok(())
    }
}

/// The fields in front of the magic, which all formats share.
#[derive(Clone, Copy)]
struct Framing {
    base_offset: Offset,
    length: i32,
    /// The leader epoch in magic 2, the checksum before.
    fourth: i32,
}

impl Framing {
    const fn size(self) -> u32 {
        self.length.cast_unsigned() + LENGTH_OVERHEAD
    }
}

fn check_length(length: i32, least: i32) -> Result<(), FormatError> {
    if length >= least {
        return Ok(());
    }
    let expected = match least {
        LENGTH_MIN => "at least 49 (magic 2)",
        legacy::LENGTH_MIN_V1 => "at least 22 (magic 1)",
        _ => "at least 14",
    };
    Err(invalid("batch length", LENGTH_AT, expected, length.into()))
}

fn last_offset(base: Offset, delta: i32) -> Result<Offset, FormatError> {
    u64::try_from(delta)
        .ok()
        .and_then(|delta| base.checked_add(delta))
        .ok_or_else(|| invalid("last offset delta", LAST_OFFSET_DELTA_AT, "0 up to the largest offset", delta.into()))
}

fn read_compression(attributes: u8, position: usize) -> Result<Compression, FormatError> {
    Compression::from_id(attributes & CODEC_BITS)
        .ok_or_else(|| invalid("attributes", position, "a codec from 0 to 4", attributes.into()))
}

#[cold]
fn invalid(field: &'static str, position: usize, expected: &'static str, got: i64) -> FormatError {
    FormatError::Invalid { field, position: Position::new(position as u64), expected, got }
}

/// One batch with its bytes, of any magic, whose length and checksum have been checked. Cloning copies no records.
#[derive(Clone)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
    /// What had to be decompressed to read the records, made at the first need.
    unpacked: OnceLock<Result<Unpacked, FormatError>>,
}

#[derive(Clone)]
enum Unpacked {
    Records(Bytes),
    Wrapper(Wrapper),
}

impl RecordBatch {
    /// Takes the batch that `bytes` begin with; what follows it is left out. Nothing is copied.
    ///
    /// # Errors
    /// Those of [`BatchHeader::peek`]; [`FormatError::Incomplete`] when the batch isn't all there;
    /// [`FormatError::Checksum`]; [`FormatError::Invalid`] for more records than fit into its bytes.
    pub fn parse(bytes: Bytes) -> Result<Self, FormatError> {
        let header = BatchHeader::peek(&bytes)?;
        verify_crc(&header, header.frame(&bytes)?)?;
        Self::with_header(header, bytes)
    }

    /// As [`parse`](Self::parse), and takes the batch off the front of `bytes`, which an error leaves as they were.
    pub(super) fn split_off(bytes: &mut Bytes) -> Result<Self, FormatError> {
        let header = BatchHeader::peek(bytes)?;
        let frame = header.frame(bytes)?;
        verify_crc(&header, frame)?;
        header.check_count(frame)?;
        let size = frame.len();
        Ok(Self { header, bytes: bytes.split_to(size), unpacked: OnceLock::new() })
    }

    /// [`parse`](Self::parse) without a look at the checksum: for a first pass over bytes that a second one verifies.
    pub(crate) fn parse_unverified(bytes: Bytes) -> Result<Self, FormatError> {
        Self::with_header(BatchHeader::peek(&bytes)?, bytes)
    }

    fn with_header(header: BatchHeader, mut bytes: Bytes) -> Result<Self, FormatError> {
        header.check_count(header.frame(&bytes)?)?;
        bytes.truncate(header.size as usize);
        Ok(Self { header, bytes, unpacked: OnceLock::new() })
    }

    /// What the batch says about itself.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as it is stored.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The offset of the first record, counting those that compaction removed. A compressed message of magic 0 or 1 is
    /// decompressed for it.
    ///
    /// # Errors
    /// Those of reading such a message; a batch of magic 2 has none.
    pub fn base_offset(&self) -> Result<Offset, FormatError> {
        Ok(self.wrapper()?.map_or(self.header.base_offset, Wrapper::base_offset))
    }

    /// The offset of the last record, counting those that compaction removed.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        self.header.last_offset
    }

    /// The number of records in the batch. A compressed message of magic 0 or 1 is decompressed for it.
    ///
    /// # Errors
    /// Those of reading such a message; a batch of magic 2 has none.
    pub fn record_count(&self) -> Result<u32, FormatError> {
        Ok(self.wrapper()?.map_or(self.header.count, Wrapper::count))
    }

    /// The records in order. A compressed batch is decompressed once, at the first call.
    ///
    /// The iterator yields an error in place of the first record that is wrong, and ends there: [`FormatError::Invalid`] for a
    /// broken record or a wrong number of them, [`FormatError::Decompress`], [`FormatError::TooLarge`] past
    /// [`DECOMPRESSED_SIZE_MAX`], [`FormatError::MissingFeature`] for a codec that isn't built in. Positions count from the
    /// start of the batch; inside a compressed one it is where the compressed bytes begin.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records(match self.source() {
            Ok(source) => source,
            Err(error) => Source::Failed(Some(error)),
        })
    }

    /// The control record of a control batch; `None` for other batches, and for one whose record compaction removed.
    ///
    /// # Errors
    /// Those of [`records`](Self::records) and [`ControlRecord::parse`].
    pub fn control_record(&self) -> Result<Option<ControlRecord>, FormatError> {
        if !self.header.is_control() {
            return Ok(None);
        }
        let Some(record) = self.records().next().transpose()? else { return Ok(None) };
        let place = Position::new(BATCH_HEADER_SIZE as u64);
        ControlRecord::parse(record.key(), record.value()).map(Some).map_err(|error| error.placed(place))
    }

    fn source(&self) -> Result<Source<'_>, FormatError> {
        if self.header.magic < 2 {
            let override_with = match self.header.timestamp_type() {
                Some(TimestampType::LogAppend) => Some(self.header.max_timestamp),
                _ => None,
            };
            return Ok(Source::Legacy(match self.wrapper()? {
                Some(wrapper) => wrapper.records(override_with),
                None => LegacyRecords::of_message(&self.bytes),
            }));
        }
        Ok(Source::Batch(BatchRecords {
            cursor: Cursor::new(self.stream()?),
            left: self.header.count,
            lowest_delta: 0,
            compressed: self.header.compression != Compression::None,
            base: RecordBase {
                offset: self.header.base_offset,
                last_delta: i64::try_from(self.header.last_offset.since(self.header.base_offset)).unwrap_or(i64::MAX),
                timestamp: self.header.base_timestamp,
                append_timestamp: match self.header.timestamp_type() {
                    Some(TimestampType::LogAppend) => Some(self.header.max_timestamp),
                    _ => None,
                },
            },
        }))
    }

    /// The records as they are encoded, decompressed. An uncompressed message of magic 0 or 1 is its own record.
    pub(super) fn stream(&self) -> Result<&[u8], FormatError> {
        Ok(match self.unpacked()? {
            Some(Unpacked::Records(stream)) => stream,
            Some(Unpacked::Wrapper(wrapper)) => wrapper.stream(),
            None if self.header.magic < 2 => &self.bytes,
            None => self.bytes.get(BATCH_HEADER_SIZE..).unwrap_or_default(),
        })
    }

    fn wrapper(&self) -> Result<Option<&Wrapper>, FormatError> {
        if self.header.magic == 2 {
            return Ok(None);
        }
        Ok(match self.unpacked()? {
            Some(Unpacked::Wrapper(wrapper)) => Some(wrapper),
            _ => None,
        })
    }

    /// The decompressed records; `None` when they aren't compressed.
    fn unpacked(&self) -> Result<Option<&Unpacked>, FormatError> {
        if self.header.compression == Compression::None {
            return Ok(None);
        }
        self.unpacked.get_or_init(|| self.unpack()).as_ref().map(Some).map_err(Clone::clone)
    }

    fn unpack(&self) -> Result<Unpacked, FormatError> {
        if self.header.magic < 2 {
            return Wrapper::open(&self.header, &self.bytes).map(Unpacked::Wrapper);
        }
        let packed = self.bytes.get(BATCH_HEADER_SIZE..).unwrap_or_default();
        let place = Position::new(BATCH_HEADER_SIZE as u64);
        // A batch that compaction emptied may keep its codec bits, and has no stream.
        if self.header.count == 0 && packed.is_empty() {
            return Ok(Unpacked::Records(Bytes::new()));
        }
        decompress(self.header.compression, packed, place, DECOMPRESSED_SIZE_MAX)
            .map(|records| Unpacked::Records(Bytes::from(records)))
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordBatch").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Checks the checksum of the whole batch `frame`.
fn verify_crc(header: &BatchHeader, frame: &[u8]) -> Result<(), FormatError> {
    let computed = match header.magic {
        2 => crc32c(frame.get(ATTRIBUTES_AT..).unwrap_or_default()),
        _ => crc32_ieee(frame.get(MAGIC_AT..).unwrap_or_default()),
    };
    if computed == header.crc {
        Ok(())
    } else {
        Err(FormatError::Checksum { position: Position::ZERO, stored: header.crc, computed })
    }
}

/// The records of one batch; see [`RecordBatch::records`].
#[derive(Debug)]
pub struct Records<'a>(Source<'a>);

#[derive(Debug)]
enum Source<'a> {
    Batch(BatchRecords<'a>),
    Legacy(LegacyRecords<'a>),
    /// Yields the error once, then nothing.
    Failed(Option<FormatError>),
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Source::Batch(records) = &mut self.0
            && records.has_next()
        {
            return Some(match records.decode_next() {
                Ok(record) => Ok(record),
                Err(error) => {
                    let error = records.locate(error);
                    self.0 = Source::Failed(None);
                    Err(error)
                }
            });
        }
        self.next_otherwise()
    }
}

impl<'a> Records<'a> {
    /// Where the next record begins in [`RecordBatch::stream`].
    pub(super) const fn at(&self) -> usize {
        match &self.0 {
            Source::Batch(records) => records.cursor.at(),
            Source::Legacy(records) => records.at(),
            Source::Failed(_) => 0,
        }
    }

    /// Anything but the next record of a batch.
    #[cold]
    fn next_otherwise(&mut self) -> Option<Result<RecordRef<'a>, FormatError>> {
        let item = match &mut self.0 {
            Source::Batch(records) => records.end().map(Err),
            Source::Legacy(records) => records.next(),
            Source::Failed(error) => error.take().map(Err),
        };
        if matches!(item, Some(Err(_))) {
            self.0 = Source::Failed(None);
        }
        item
    }
}

impl std::iter::FusedIterator for Records<'_> {}

#[derive(Debug)]
struct BatchRecords<'a> {
    cursor: Cursor<'a>,
    left: u32,
    /// The lowest offset delta that the next record may have.
    lowest_delta: i64,
    compressed: bool,
    base: RecordBase,
}

impl<'a> BatchRecords<'a> {
    #[inline]
    fn decode_next(&mut self) -> Result<RecordRef<'a>, FormatError> {
        let record = record::decode(&mut self.cursor, &self.base, &mut self.lowest_delta)?;
        self.left -= 1;
        Ok(record)
    }

    #[inline]
    const fn has_next(&self) -> bool {
        self.left > 0 && self.cursor.remaining() > 0
    }

    /// Where records or bytes have run out: an error unless both have.
    #[cold]
    fn end(&self) -> Option<FormatError> {
        let surplus = self.cursor.remaining();
        if self.left > 0 {
            Some(invalid("record count", COUNT_AT, "the number of records in the batch", -i64::from(self.left)))
        } else if surplus > 0 {
            let surplus = i64::try_from(surplus).unwrap_or(i64::MAX);
            Some(self.locate(invalid("records", self.cursor.at(), "no bytes after the last record", surplus)))
        } else {
            None
        }
    }

    #[cold]
    fn locate(&self, error: FormatError) -> FormatError {
        let error = error.enclosed();
        match self.compressed {
            true => error.placed(Position::new(BATCH_HEADER_SIZE as u64)),
            false => error.shifted(BATCH_HEADER_SIZE),
        }
    }
}

/// Writes `header` into the first [`BATCH_HEADER_SIZE`] bytes of the otherwise finished `batch`, with its size and checksum.
pub(super) fn seal(batch: &mut [u8], mut header: BatchHeader) {
    header.size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
    if let Some((start, _)) = batch.split_first_chunk_mut() {
        *start = header.encode();
    }
    update_crc(batch);
}

fn update_crc(batch: &mut [u8]) {
    let crc = crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    if let Some(field) = batch.get_mut(CRC_AT..ATTRIBUTES_AT) {
        field.copy_from_slice(&crc.to_be_bytes());
    }
}

/// Numbers the batch of magic 2 that `bytes` begin with: its first record gets offset `base`. The checksum stays right, for it
/// doesn't cover these fields.
///
/// # Errors
/// Those of [`BatchHeader::peek`]; [`FormatError::Invalid`] for another magic, or when the last offset would be too large.
pub fn assign_offsets(bytes: &mut [u8], base: Offset, epoch: LeaderEpoch) -> Result<(), FormatError> {
    let header = peek_v2_only(bytes)?;
    let delta = header.last_offset.since(header.base_offset);
    if base.checked_add(delta).is_none() {
        return Err(invalid("base offset", 0, "room for the batch's offsets", base.value()));
    }
    if let Some((start, _)) = bytes.split_first_chunk_mut::<MAGIC_AT>() {
        start[..LENGTH_AT].copy_from_slice(&base.value().to_be_bytes());
        start[EPOCH_AT..].copy_from_slice(&epoch.value().to_be_bytes());
    }
    Ok(())
}

/// Sets who set the timestamps, and the greatest of them, in the batch of magic 2 that `bytes` begin with. Tells whether
/// that changed anything; only then the checksum is computed again.
///
/// # Errors
/// Those of [`BatchHeader::peek`]; [`FormatError::Invalid`] for another magic; [`FormatError::Incomplete`] when the batch
/// isn't all there.
pub fn set_timestamps(
    bytes: &mut [u8],
    timestamp_type: TimestampType,
    max: Option<Timestamp>,
) -> Result<bool, FormatError> {
    let header = peek_v2_only(bytes)?;
    let max_timestamp = Timestamp::to_wire(max);
    if header.timestamp_type() == Some(timestamp_type) && header.max_timestamp == max_timestamp {
        return Ok(false);
    }
    let size = header.frame(bytes)?.len();
    let batch = bytes.get_mut(..size).unwrap_or_default();
    if let Some((start, _)) = batch.split_first_chunk_mut::<BATCH_HEADER_SIZE>() {
        match timestamp_type {
            TimestampType::Create => start[ATTRIBUTES_AT + 1] &= !LOG_APPEND_TIME_BIT,
            TimestampType::LogAppend => start[ATTRIBUTES_AT + 1] |= LOG_APPEND_TIME_BIT,
        }
        start[MAX_TIMESTAMP_AT..PRODUCER_ID_AT].copy_from_slice(&max_timestamp.to_be_bytes());
    }
    update_crc(batch);
    Ok(true)
}

fn peek_v2_only(bytes: &[u8]) -> Result<BatchHeader, FormatError> {
    let header = BatchHeader::peek(bytes)?;
    match header.magic {
        2 => Ok(header),
        other => Err(invalid("magic", MAGIC_AT, "2", other.into())),
    }
}

#[cfg(test)]
mod tests;
