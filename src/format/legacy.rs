//! Messages of magic 0 and 1, which old segments still hold: read, and written again when compaction takes some of them out.
//!
//! A message stands in an entry; an uncompressed one is a batch of one record.
//!
//! | position | bytes | type | field | meaning |
//! |---:|---:|---|---|---|
//! | 0 | 8 | i64 | offset | of the message; of the *last* inner one if it is compressed |
//! | 8 | 4 | i32 | size | bytes behind this field: at least 14 in magic 0, 22 in magic 1 |
//! | 12 | 4 | u32 | crc | CRC-32 (IEEE) of everything behind this field |
//! | 16 | 1 | i8 | magic | 0 or 1 |
//! | 17 | 1 | i8 | attributes | bits 0-2 codec (never zstd), in magic 1 bit 3 `LogAppendTime` |
//! | 18 | 0 / 8 | i64 | timestamp | magic 1 only |
//! | 18 / 26 | 4.. | i32, bytes | key | length -1 is null |
//! | | 4.. | i32, bytes | value | length -1 is null; the compressed inner entries if the codec bits are set |
//!
//! A compressed message ([`Wrapper`]) is opened as a whole: every inner entry is checked, and offsets are made absolute.
//! Inner offsets are absolute in a wrapper of magic 0. In one of magic 1 they are relative to each other, and the wrapper's
//! offset is that of the last. A wrapper of magic 1 around messages of magic 0, as an old cleaner wrote, is read by the rule of
//! the wrapper. Inner checksums are not looked at: the wrapper's covers them.

use super::batch::{BatchHeader, DECOMPRESSED_SIZE_MAX};
use super::checksum::crc32_ieee;
use super::compression::{Compression, compress, decompress, decompress_magic0_lz4};
use super::cursor::Cursor;
use super::error::FormatError;
use super::record::RecordRef;
use crate::types::{Offset, Position, Timestamp, TimestampType};

/// The least value of the size field of magic 0: crc, magic, attributes and two lengths.
pub(super) const LENGTH_MIN_V0: i32 = 4 + 1 + 1 + 4 + 4;
/// The least value of the size field of magic 1, which adds a timestamp.
pub(super) const LENGTH_MIN_V1: i32 = LENGTH_MIN_V0 + 8;

const _: () = assert!(LENGTH_MIN_V0 == 14 && LENGTH_MIN_V1 == 22);

const CODEC_BITS: i8 = 0x07;
/// The largest value of a size field.
const MESSAGE_SIZE_MAX: u64 = i32::MAX as u64;
/// Bytes of a wrapper of magic 1 around its value.
const WRAPPER_OVERHEAD: usize = 12 + LENGTH_MIN_V1 as usize;
/// Where an LZ4 frame has the checksum of its header.
const LZ4_HEADER_CHECKSUM_AT: usize = 6;
/// What stands there in magic 0, for the one header that is written: computed over the frame's magic bytes too.
const LZ4_HEADER_CHECKSUM_MAGIC0: u8 = 0x1a;

/// One entry, split into its fields.
struct Entry<'a> {
    offset: i64,
    position: Position,
    attributes: i8,
    /// Negative for none, as always in magic 0.
    timestamp: i64,
    has_timestamp: bool,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    value_position: Position,
}

impl<'a> Entry<'a> {
    /// Reads the next entry. Positions in errors count from the start of the cursor's bytes.
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, FormatError> {
        let position = cursor.position();
        let offset = cursor.read_i64("message offset")?;
        let size_position = cursor.position();
        let size = cursor.read_i32("message size")?;
        if size < LENGTH_MIN_V0 {
            return Err(invalid("message size", size_position, "at least 14", size.into()));
        }
        let start = cursor.at();
        let body = cursor.take(usize::try_from(size).unwrap_or(0), "message")?;
        let mut entry = Self::read_message(Cursor::new(body)).map_err(|error| error.enclosed().shifted(start))?;
        entry.offset = offset;
        entry.position = position;
        entry.value_position = entry.value_position.plus(start as u64);
        Ok(entry)
    }

    fn read_message(mut body: Cursor<'a>) -> Result<Self, FormatError> {
        body.take(4, "message crc")?;
        let magic_position = body.position();
        let magic = body.read_i8("magic")?;
        let attributes = body.read_i8("attributes")?;
        let timestamp = match magic {
            0 => -1,
            1 => body.read_i64("timestamp")?,
            _ => return Err(invalid("magic", magic_position, "0 or 1", magic.into())),
        };
        let key = read_nullable(&mut body, "message key")?;
        let value = read_nullable(&mut body, "message value")?;
        let end = body.position();
        if body.remaining() > 0 {
            let surplus = i64::try_from(body.remaining()).unwrap_or(i64::MAX);
            return Err(invalid("message", end, "no bytes after the value", surplus));
        }
        let value_size = value.map_or(0, <[u8]>::len) as u64;
        Ok(Self {
            offset: 0,
            position: Position::ZERO,
            attributes,
            timestamp,
            has_timestamp: magic == 1,
            key,
            value,
            value_position: Position::new(end.value().saturating_sub(value_size)),
        })
    }
}

fn read_nullable<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
    match usize::try_from(cursor.read_i32(what)?) {
        Ok(size) => cursor.take(size, what).map(Some),
        Err(_) => Ok(None),
    }
}

#[cold]
fn invalid(field: &'static str, position: Position, expected: &'static str, got: i64) -> FormatError {
    FormatError::Invalid { field, position, expected, got }
}

/// A compressed message, decompressed: its inner entries have all been checked.
#[derive(Clone)]
pub(super) struct Wrapper {
    /// The inner entries.
    stream: Vec<u8>,
    /// What makes the offset of an inner entry absolute.
    shift: i64,
    base_offset: Offset,
    count: u32,
    /// Where the compressed bytes begin in the wrapper: errors inside of them are placed there.
    position: Position,
}

impl Wrapper {
    /// Decompresses the message `bytes`, whose header is `header`.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a null value, no inner message, one that is compressed itself or broken, and offsets that
    /// can't be; those of the codec.
    pub(super) fn open(header: &BatchHeader, bytes: &[u8]) -> Result<Self, FormatError> {
        let outer = Entry::read(&mut Cursor::new(bytes)).map_err(FormatError::enclosed)?;
        let position = outer.value_position;
        let Some(value) = outer.value else {
            return Err(invalid("message value", position, "compressed messages", -1));
        };
        let stream = match (header.magic(), header.compression()) {
            (0, Compression::Lz4) => decompress_magic0_lz4(value, position, DECOMPRESSED_SIZE_MAX)?,
            (_, codec) => decompress(codec, value, position, DECOMPRESSED_SIZE_MAX)?,
        };
        let mut wrapper = Self { stream, shift: 0, base_offset: Offset::ZERO, count: 0, position };
        let offsets = wrapper.check_inner()?;
        wrapper.shift = shift(header, offsets.last, position)?;
        wrapper.base_offset = absolute(offsets.first, wrapper.shift, position)?;
        Ok(wrapper)
    }

    /// Checks and counts the inner entries.
    fn check_inner(&mut self) -> Result<InnerOffsets, FormatError> {
        let mut cursor = Cursor::new(&self.stream);
        let mut offsets: Option<InnerOffsets> = None;
        while cursor.remaining() > 0 {
            let entry = Entry::read(&mut cursor).map_err(|error| error.enclosed().placed(self.position))?;
            if entry.attributes & CODEC_BITS != 0 {
                let got = entry.attributes.into();
                return Err(invalid("inner message attributes", self.position, "no codec inside of another", got));
            }
            let (first, last) = offsets.map_or((entry.offset, None), |offsets| (offsets.first, Some(offsets.last)));
            if last >= Some(entry.offset) {
                let expected = "above that of the message before";
                return Err(invalid("inner message offset", self.position, expected, entry.offset));
            }
            offsets = Some(InnerOffsets { first, last: entry.offset });
            self.count = self.count.saturating_add(1);
        }
        offsets.ok_or_else(|| invalid("inner message count", self.position, "at least one", 0))
    }

    /// The inner entries, decompressed.
    pub(super) fn stream(&self) -> &[u8] {
        &self.stream
    }

    /// The offset of the first inner message.
    pub(super) const fn base_offset(&self) -> Offset {
        self.base_offset
    }

    /// The number of inner messages.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// The inner messages; `append_timestamp` overrides the timestamps of those that have one.
    pub(super) fn records(&self, append_timestamp: Option<i64>) -> LegacyRecords<'_> {
        LegacyRecords {
            cursor: Cursor::new(&self.stream),
            shift: self.shift,
            append_timestamp,
            place: Some(self.position),
        }
    }
}

/// Offsets of the first and the last inner entry, as stored.
#[derive(Clone, Copy)]
struct InnerOffsets {
    first: i64,
    last: i64,
}

/// What to add to inner offsets, the last of which is `last`.
fn shift(header: &BatchHeader, last: i64, position: Position) -> Result<i64, FormatError> {
    let outer = header.base_offset().value();
    // Some producers in C left the outer offset at 0: the inner ones then count from 0.
    if outer == 0 {
        return Ok(0);
    }
    match outer.checked_sub(last) {
        Some(0..) if header.magic() == 0 => Ok(0),
        Some(shift @ 0..) => Ok(shift),
        _ => Err(invalid("inner message offset", position, "at most the offset of its wrapper", last)),
    }
}

fn absolute(offset: i64, shift: i64, position: Position) -> Result<Offset, FormatError> {
    offset
        .checked_add(shift)
        .and_then(Offset::new)
        .ok_or_else(|| invalid("inner message offset", position, "an offset of 0 or more", offset))
}

/// A message inside a wrapper that stays when others go.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptMessage<'a> {
    pub(super) offset: Offset,
    /// Milliseconds, -1 for none.
    pub(super) timestamp: i64,
    /// Its entry as it stands in the decompressed wrapper.
    pub(super) entry: &'a [u8],
}

/// The wrapper behind `header` with some of its messages alone: same codec and magic; its offset is the last message's.
///
/// # Errors
/// [`FormatError::Invalid`] for an entry that is none, those of the codec, [`FormatError::TooLarge`].
pub(super) fn encode_wrapper(header: &BatchHeader, kept: &[KeptMessage<'_>]) -> Result<Vec<u8>, FormatError> {
    let first = kept.first().map_or(Offset::ZERO, |message| message.offset);
    let last = kept.last().map_or(first, |message| message.offset);
    let mut inner = Vec::new();
    for message in kept {
        let offset = if header.magic() == 0 { message.offset.value() } else { message.offset.value() - first.value() };
        let entry = Entry::read(&mut Cursor::new(message.entry)).map_err(FormatError::enclosed)?;
        // An old cleaner put messages of magic 0 into a wrapper of magic 1: they become what their wrapper says.
        if entry.has_timestamp == (header.magic() == 1) {
            inner.extend_from_slice(&offset.to_be_bytes());
            inner.extend_from_slice(message.entry.get(size_of::<i64>()..).unwrap_or_default());
        } else {
            let (magic, timestamp) = (header.magic(), message.timestamp);
            Message { magic, attributes: 0, timestamp, key: entry.key, value: entry.value }.push(&mut inner, offset)?;
        }
    }
    let mut packed = Vec::new();
    compress(header.compression(), None, &inner, &mut packed)?;
    if (header.magic(), header.compression()) == (0, Compression::Lz4)
        && let Some(checksum) = packed.get_mut(LZ4_HEADER_CHECKSUM_AT)
    {
        *checksum = LZ4_HEADER_CHECKSUM_MAGIC0;
    }
    let timestamp = match header.timestamp_type() {
        Some(TimestampType::LogAppend) => Timestamp::to_wire(header.max_timestamp()),
        _ => kept.iter().map(|message| message.timestamp).max().unwrap_or(-1),
    };
    let mut wrapper = Vec::with_capacity(packed.len().saturating_add(WRAPPER_OVERHEAD));
    let (magic, attributes) = (header.magic(), header.attributes());
    Message { magic, attributes, timestamp, key: None, value: Some(&packed) }.push(&mut wrapper, last.value())?;
    Ok(wrapper)
}

/// A message to be written.
struct Message<'a> {
    magic: u8,
    attributes: u8,
    /// Left out in magic 0.
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl Message<'_> {
    /// Appends it as the entry of that offset.
    fn push(&self, out: &mut Vec<u8>, offset: i64) -> Result<(), FormatError> {
        let mut message = vec![self.magic, self.attributes];
        if self.magic == 1 {
            message.extend_from_slice(&self.timestamp.to_be_bytes());
        }
        for field in [self.key, self.value] {
            let size = field.map_or(Ok(-1), |bytes| i32::try_from(bytes.len()).map_err(|_| too_large(bytes.len())))?;
            message.extend_from_slice(&size.to_be_bytes());
            message.extend_from_slice(field.unwrap_or_default());
        }
        let size = message.len().saturating_add(size_of::<u32>());
        let length = i32::try_from(size).map_err(|_| too_large(size))?;
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&crc32_ieee(&message).to_be_bytes());
        out.extend_from_slice(&message);
        Ok(())
    }
}

#[cold]
fn too_large(got: usize) -> FormatError {
    FormatError::TooLarge { what: "message", position: Position::ZERO, limit: MESSAGE_SIZE_MAX, got: got as u64 }
}

/// The record of a message, or those inside a wrapper.
#[derive(Debug)]
pub(super) struct LegacyRecords<'a> {
    cursor: Cursor<'a>,
    shift: i64,
    append_timestamp: Option<i64>,
    /// Where errors stand, when the bytes are not those of the file.
    place: Option<Position>,
}

impl<'a> LegacyRecords<'a> {
    /// The one record of an uncompressed message.
    pub(super) const fn of_message(bytes: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(bytes), shift: 0, append_timestamp: None, place: None }
    }

    /// Where the next message begins in the decompressed wrapper, or in the bytes of the message.
    pub(super) const fn at(&self) -> usize {
        self.cursor.at()
    }

    pub(super) fn next(&mut self) -> Option<Result<RecordRef<'a>, FormatError>> {
        (self.cursor.remaining() > 0).then(|| self.read().map_err(|error| self.locate(error)))
    }

    fn read(&mut self) -> Result<RecordRef<'a>, FormatError> {
        let entry = Entry::read(&mut self.cursor)?;
        let offset = absolute(entry.offset, self.shift, entry.position)?;
        let timestamp = match self.append_timestamp {
            Some(timestamp) if entry.has_timestamp => timestamp,
            _ => entry.timestamp,
        };
        Ok(RecordRef::from_message(offset, timestamp, entry.key, entry.value))
    }

    fn locate(&self, error: FormatError) -> FormatError {
        let error = error.enclosed();
        match self.place {
            Some(place) => error.placed(place),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::RecordBatch;
    use crate::format::test_vectors::{A6_V0, A6_V1, hex};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn size_of_bytes(bytes: &[u8]) -> i32 {
        i32::try_from(bytes.len()).expect("small")
    }

    /// An entry with a right checksum; `timestamp` makes it one of magic 1.
    fn entry(offset: i64, attributes: u8, timestamp: Option<i64>, value: Option<&[u8]>) -> Vec<u8> {
        let mut message = vec![u8::from(timestamp.is_some()), attributes];
        message.extend(timestamp.map(i64::to_be_bytes).iter().flatten());
        message.extend((-1_i32).to_be_bytes());
        message.extend(value.map_or(-1, size_of_bytes).to_be_bytes());
        message.extend(value.unwrap_or_default());
        let mut out = offset.to_be_bytes().to_vec();
        out.extend((size_of_bytes(&message) + 4).to_be_bytes());
        out.extend(crc32_ieee(&message).to_be_bytes());
        out.extend(message);
        out
    }

    /// Opens an entry as if its value had been compressed and were decompressed already.
    fn open(outer: &[u8], inner: &[u8]) -> Result<Wrapper, FormatError> {
        let header = BatchHeader::peek(outer)?;
        let mut wrapper = Wrapper {
            stream: inner.to_vec(),
            shift: 0,
            base_offset: Offset::ZERO,
            count: 0,
            position: Position::new(34),
        };
        let offsets = wrapper.check_inner()?;
        wrapper.shift = shift(&header, offsets.last, wrapper.position)?;
        wrapper.base_offset = absolute(offsets.first, wrapper.shift, wrapper.position)?;
        Ok(wrapper)
    }

    fn offsets(wrapper: &Wrapper) -> Vec<i64> {
        let mut records = wrapper.records(None);
        std::iter::from_fn(|| records.next()).map(|record| record.expect("sound").offset().value()).collect()
    }

    fn relative(count: i64) -> Vec<u8> {
        (0..count).flat_map(|i| entry(i, 0, Some(1000 + i), Some(b"v"))).collect()
    }

    #[test]
    fn kafkas_messages_are_batches_of_one_record() {
        let v0 = RecordBatch::parse(Bytes::from(hex(A6_V0))).expect("sound");
        let v1 = RecordBatch::parse(Bytes::from(hex(A6_V1))).expect("sound");
        assert_eq!((v0.header().magic(), v1.header().magic()), (0, 1));
        assert_eq!((v0.header().timestamp_type(), v0.header().max_timestamp()), (None, None));
        assert_eq!(v1.header().timestamp_type(), Some(TimestampType::Create));
        assert_eq!(v1.header().max_timestamp(), Timestamp::from_millis(1_700_000_000_000));
        for batch in [v0, v1] {
            assert_eq!((batch.base_offset(), batch.record_count()), (Ok(Offset::ZERO), Ok(1)));
            let records: Result<Vec<_>, _> = batch.records().collect();
            let records = records.expect("sound");
            assert_eq!(records.len(), 1);
            assert_eq!((records[0].key(), records[0].value()), (Some(&b"k1"[..]), Some(&b"v1"[..])));
            assert_eq!(records[0].timestamp(), batch.header().max_timestamp());
            assert_eq!(records[0].headers().len(), 0);
            assert_eq!(batch.header().leader_epoch(), None);
        }
    }

    #[test]
    fn a_changed_byte_of_a_message_is_refused() {
        for at in 16..hex(A6_V1).len() {
            let mut bytes = hex(A6_V1);
            bytes[at] ^= 0x40;
            assert!(RecordBatch::parse(Bytes::from(bytes)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn relative_inner_offsets_end_at_the_offset_of_the_wrapper() {
        let wrapper = open(&entry(41, 1, Some(1002), Some(b"packed")), &relative(3)).expect("sound");
        assert_eq!(offsets(&wrapper), [39, 40, 41]);
        assert_eq!((wrapper.base_offset().value(), wrapper.count()), (39, 3));
    }

    #[test]
    fn holes_among_relative_inner_offsets_stay() {
        let inner = [entry(1, 0, Some(0), None), entry(5, 0, Some(0), None)].concat();
        assert_eq!(offsets(&open(&entry(105, 2, Some(0), Some(b"")), &inner).expect("sound")), [101, 105]);
    }

    #[test]
    fn a_wrapper_at_offset_0_counts_from_0() {
        let wrapper = open(&entry(0, 1, Some(1002), Some(b"")), &relative(3)).expect("tolerated");
        assert_eq!(offsets(&wrapper), [0, 1, 2]);
    }

    #[test]
    fn a_wrapper_below_its_last_inner_offset_is_refused() {
        assert!(open(&entry(1, 1, Some(1002), Some(b"")), &relative(3)).is_err());
    }

    #[test]
    fn inner_offsets_that_do_not_ascend_or_lie_above_the_wrapper_are_refused() {
        for (magic, offsets) in [(1, [1, 0]), (1, [1, 1]), (0, [5, 4]), (0, [9, 10])] {
            let time = (magic == 1).then_some(1000);
            let inner: Vec<u8> = offsets.iter().flat_map(|offset| entry(*offset, 0, time, Some(b"v"))).collect();
            let error = open(&entry(9, 2, time, Some(b"?")), &inner).err();
            assert!(matches!(error, Some(FormatError::Invalid { field: "inner message offset", .. })), "{error:?}");
        }
    }

    #[test]
    fn inner_offsets_of_magic_0_are_absolute() {
        let inner = [entry(7, 0, None, Some(b"a")), entry(9, 0, None, Some(b"b"))].concat();
        let wrapper = open(&entry(9, 1, None, Some(b"")), &inner).expect("sound");
        assert_eq!(offsets(&wrapper), [7, 9]);
    }

    #[test]
    fn a_wrapper_of_magic_1_may_hold_messages_of_magic_0_which_stay_without_timestamp() {
        let inner = [entry(0, 0, None, Some(b"a")), entry(1, 0, None, Some(b"b"))].concat();
        let wrapper = open(&entry(9, 1, Some(5), Some(b"")), &inner).expect("tolerated");
        assert_eq!(offsets(&wrapper), [8, 9]);
        let record = wrapper.records(Some(77)).next().expect("two").expect("sound").timestamp();
        assert_eq!(record, None);
    }

    #[test]
    fn append_time_of_the_wrapper_overrides_inner_timestamps() {
        let wrapper = open(&entry(2, 1, Some(5000), Some(b"")), &relative(3)).expect("sound");
        let mut records = wrapper.records(Some(5000));
        while let Some(record) = records.next() {
            assert_eq!(record.expect("sound").timestamp(), Timestamp::from_millis(5000));
        }
    }

    #[test]
    fn wrappers_without_messages_or_with_broken_ones_are_refused() {
        let outer = entry(9, 1, Some(0), Some(b""));
        let mut short = entry(9, 0, Some(0), None);
        short[11] = 13;
        let mut cut = entry(9, 0, Some(0), Some(b"value"));
        cut.pop();
        let nested = entry(9, 2, Some(0), Some(b"x"));
        for (inner, what) in [(vec![], "none"), (short, "size 13"), (cut, "cut"), (nested, "compressed itself")] {
            let Err(error) = open(&outer, &inner) else { panic!("{what} was accepted") };
            assert_eq!(error.code(), "invalid_field", "{what}");
        }
    }

    #[test]
    fn a_wrapper_without_value_and_one_of_zstd_are_refused() {
        let null = RecordBatch::parse(Bytes::from(entry(9, 1, Some(0), None))).expect("framing is right");
        assert_eq!(null.base_offset().expect_err("no inner messages").code(), "invalid_field");
        assert_eq!(null.records().filter(Result::is_err).count(), 1);
        assert!(RecordBatch::parse(Bytes::from(entry(9, 4, Some(0), Some(b"x")))).is_err());
    }

    #[test]
    fn a_size_below_the_least_of_its_magic_is_refused() {
        let mut v1 = hex(A6_V1);
        v1[11] = 21;
        assert!(BatchHeader::peek(&v1).expect_err("22 is the least").to_string().contains("magic 1"));
        let mut v0 = hex(A6_V0);
        v0[11] = 13;
        assert!(matches!(BatchHeader::peek(&v0), Err(FormatError::Invalid { field: "batch length", .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(inner in prop::collection::vec(any::<u8>(), 0..200), outer_offset in 0_i64..3) {
            if let Ok(wrapper) = open(&entry(outer_offset, 1, Some(0), Some(b"")), &inner) {
                let mut records = wrapper.records(None);
                while let Some(Ok(_)) = records.next() {}
            }
        }
    }
}
