//! One record inside a batch v2: what a caller hands in ([`Record`]), what is read back ([`RecordRef`], [`OwnedRecord`]),
//! and the layout between the two.
//!
//! | field | bytes | type | meaning |
//! |---|---|---|---|
//! | length | 1..5 | varint | bytes of everything that follows |
//! | attributes | 1 | i8 | always 0 |
//! | timestamp delta | 1..10 | varlong | timestamp = the batch's base timestamp + this |
//! | offset delta | 1..5 | varint | offset = the batch's base offset + this |
//! | key length, key | 1.. | varint, bytes | a negative length means null |
//! | value length, value | 1.. | varint, bytes | a negative length means null: with a key, a tombstone |
//! | header count | 1..5 | varint | |
//! | header* | 2.. | varint, bytes, varint, bytes | name (never null) and value (may be null) |
//!
//! Decoding checks every length and all headers once, so that the getters of a [`RecordRef`] can't fail. It copies nothing.
//! That the number of records is right, and that nothing follows the last one, is the business of the batch.

use super::cursor::{Cursor, Filler, varint_size, varlong_size};
use super::error::FormatError;
use crate::types::{Offset, Position, Timestamp};

/// The fewest bytes that a record can take: seven fields of one byte each.
pub(crate) const RECORD_SIZE_MIN: usize = 7;

/// A record to append: borrowed key, value and headers. Without headers it takes no memory of its own.
///
/// ```
/// use stratalog::format::Record;
///
/// let record = Record::keyed("user-7", "signed in").header("source", "web");
/// assert_eq!(record.key(), Some(&b"user-7"[..]));
/// assert_eq!(Record::tombstone("user-7").value(), None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<HeaderRef<'a>>,
    timestamp: Option<Timestamp>,
}

impl<'a> Record<'a> {
    /// A record without a key.
    #[must_use]
    pub fn new(value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::from_parts(None, Some(value.as_ref()))
    }

    /// A record with a key.
    #[must_use]
    pub fn keyed(key: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::from_parts(Some(key.as_ref()), Some(value.as_ref()))
    }

    /// A key with a null value: on a compacted topic, the deletion of that key.
    #[must_use]
    pub fn tombstone(key: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        Self::from_parts(Some(key.as_ref()), None)
    }

    /// A record of any key and value, where `None` is Kafka's null.
    #[must_use]
    pub const fn from_parts(key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> Self {
        Self { key, value, headers: Vec::new(), timestamp: None }
    }

    /// Adds a header. Names may repeat and keep their order.
    #[must_use]
    pub fn header(self, name: &'a (impl AsRef<[u8]> + ?Sized), value: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.with_header(HeaderRef { name: name.as_ref(), value: Some(value.as_ref()) })
    }

    /// Adds a header whose value is null.
    #[must_use]
    pub fn null_header(self, name: &'a (impl AsRef<[u8]> + ?Sized)) -> Self {
        self.with_header(HeaderRef { name: name.as_ref(), value: None })
    }

    /// Adds a header as it was read from another record.
    #[must_use]
    pub fn with_header(mut self, header: HeaderRef<'a>) -> Self {
        self.headers.push(header);
        self
    }

    /// Sets the time of creation. Without one, the record gets the log's time when it is appended.
    #[must_use]
    pub const fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// The key; `None` is null.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` is null.
    #[must_use]
    pub const fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, in order.
    #[must_use]
    pub fn headers(&self) -> &[HeaderRef<'a>] {
        &self.headers
    }

    /// The time of creation, when one was set.
    #[must_use]
    pub const fn create_time(&self) -> Option<Timestamp> {
        self.timestamp
    }
}

/// A header of a record. Names are UTF-8 by convention, and bytes in fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The value; `None` is null.
    pub value: Option<&'a [u8]>,
}

/// A record as it stands in a batch: borrowed from it, and cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    offset: Offset,
    /// Milliseconds as stored, negative for none.
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Headers<'a>,
}

impl<'a> RecordRef<'a> {
    /// A record that stands in a message of the old formats, which know no headers.
    pub(super) const fn from_message(
        offset: Offset,
        timestamp: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
    ) -> Self {
        Self { offset, timestamp, key, value, headers: Headers { encoded: &[], left: 0 } }
    }

    /// The record's number in its partition.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// The record's time; `None` when it has none.
    #[must_use]
    pub const fn timestamp(&self) -> Option<Timestamp> {
        Timestamp::from_millis(self.timestamp)
    }

    /// The key; `None` is null.
    #[must_use]
    pub const fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The value; `None` is null, which with a key makes a tombstone.
    #[must_use]
    pub const fn value(&self) -> Option<&'a [u8]> {
        self.value
    }

    /// The headers, in order.
    #[must_use]
    pub const fn headers(&self) -> Headers<'a> {
        self.headers
    }

    /// A copy that outlives the batch.
    #[must_use]
    pub fn detach(&self) -> OwnedRecord {
        OwnedRecord {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.map(Box::from),
            value: self.value.map(Box::from),
            headers: Box::from(self.headers.encoded),
            header_count: self.headers.left,
        }
    }
}

/// The headers of a record, in order.
#[derive(Debug, Clone, Copy)]
pub struct Headers<'a> {
    /// Headers that were checked when the record was decoded.
    encoded: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor::new(self.encoded);
        let header = read_header(&mut cursor).ok();
        self.encoded = cursor.rest();
        header
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// A record that holds its own bytes; see [`RecordRef::detach`].
#[derive(Debug, Clone)]
pub struct OwnedRecord {
    offset: Offset,
    timestamp: i64,
    key: Option<Box<[u8]>>,
    value: Option<Box<[u8]>>,
    headers: Box<[u8]>,
    header_count: u32,
}

impl OwnedRecord {
    /// The record's number in its partition.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// The record's time; `None` when it has none.
    #[must_use]
    pub const fn timestamp(&self) -> Option<Timestamp> {
        Timestamp::from_millis(self.timestamp)
    }

    /// The key; `None` is null.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value; `None` is null, which with a key makes a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The headers, in order.
    #[must_use]
    pub fn headers(&self) -> Headers<'_> {
        Headers { encoded: &self.headers, left: self.header_count }
    }
}

/// What the deltas of a batch's records count from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordBase {
    pub(crate) offset: Offset,
    /// The greatest delta of an offset.
    pub(crate) last_delta: i64,
    pub(crate) timestamp: i64,
    /// The timestamp that overrides all others, in a batch of type `LogAppendTime`.
    pub(crate) append_timestamp: Option<i64>,
}

/// Reads the next record, whose offset delta is `lowest` or more, and sets that for the one behind it. Positions in errors count from
/// the start of the cursor's bytes.
#[inline]
pub(crate) fn decode<'a>(
    cursor: &mut Cursor<'a>,
    base: &RecordBase,
    lowest: &mut i64,
) -> Result<RecordRef<'a>, FormatError> {
    let start = cursor.position();
    let length = cursor.read_varint("record length")?;
    let Ok(size) = usize::try_from(length) else {
        return Err(invalid("record length", start, "0 or more", length.into()));
    };
    let mut body = cursor.split(size, "record")?;
    body.take(1, "record attributes")?;
    let timestamp_delta = body.read_varlong("timestamp delta")?;
    let delta_position = body.position();
    let offset_delta = i64::from(body.read_varint("offset delta")?);
    let key = read_nullable(&mut body, "record key")?;
    let value = read_nullable(&mut body, "record value")?;
    let headers = read_headers(&mut body)?;

    // A sum beyond the largest offset wraps around to a negative number, which is no offset either.
    let offset = Offset::new(base.offset.value().wrapping_add(offset_delta));
    let Some(offset) = offset.filter(|_| offset_delta >= *lowest && offset_delta <= base.last_delta) else {
        let expected = "above that of the record before, up to the batch's last offset";
        return Err(invalid("offset delta", delta_position, expected, offset_delta));
    };
    *lowest = offset_delta + 1;
    let timestamp = base.append_timestamp.unwrap_or_else(|| base.timestamp.wrapping_add(timestamp_delta));
    Ok(RecordRef { offset, timestamp, key, value, headers })
}

/// The headers, which must be all that is left.
#[inline]
fn read_headers<'a>(body: &mut Cursor<'a>) -> Result<Headers<'a>, FormatError> {
    let position = body.position();
    let count = body.read_varint("header count")?;
    let encoded = body.rest();
    let left = match u32::try_from(count) {
        Ok(left) if left as usize <= body.remaining() => left,
        _ => return Err(invalid("header count", position, "0 up to the bytes left in the record", count.into())),
    };
    for _ in 0..left {
        read_header(body)?;
    }
    if body.remaining() > 0 {
        let surplus = i64::try_from(body.remaining()).unwrap_or(i64::MAX);
        return Err(invalid("record", body.position(), "no bytes after the last header", surplus));
    }
    Ok(Headers { encoded, left })
}

fn read_header<'a>(cursor: &mut Cursor<'a>) -> Result<HeaderRef<'a>, FormatError> {
    let position = cursor.position();
    let Some(name) = read_nullable(cursor, "header name")? else {
        return Err(invalid("header name", position, "a length of 0 or more", -1));
    };
    Ok(HeaderRef { name, value: read_nullable(cursor, "header value")? })
}

/// Bytes behind their length; any negative length is null.
#[inline]
fn read_nullable<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<Option<&'a [u8]>, FormatError> {
    match usize::try_from(cursor.read_varint(what)?) {
        Ok(size) => cursor.take(size, what).map(Some),
        Err(_) => Ok(None),
    }
}

#[cold]
fn invalid(field: &'static str, position: Position, expected: &'static str, got: i64) -> FormatError {
    FormatError::Invalid { field, position, expected, got }
}

/// Bytes of the record behind its length field; `None` when they are too many for it.
#[inline]
pub(crate) fn body_size(record: &Record<'_>, timestamp_delta: i64, offset_delta: i32) -> Option<i32> {
    let mut size = 1_usize
        .checked_add(varlong_size(timestamp_delta))?
        .checked_add(varint_size(offset_delta))?
        .checked_add(nullable_size(record.key)?)?
        .checked_add(nullable_size(record.value)?)?
        .checked_add(varint_size(i32::try_from(record.headers.len()).ok()?))?;
    for header in &record.headers {
        size = size.checked_add(nullable_size(Some(header.name))?)?.checked_add(nullable_size(header.value)?)?;
    }
    i32::try_from(size).ok()
}

#[inline]
fn nullable_size(field: Option<&[u8]>) -> Option<usize> {
    match field {
        None => Some(1),
        Some(bytes) => varint_size(i32::try_from(bytes.len()).ok()?).checked_add(bytes.len()),
    }
}

/// Bytes of a record whose [`body_size`] is `size`.
#[inline]
pub(crate) fn encoded_size(size: i32) -> usize {
    varint_size(size) + usize::try_from(size).unwrap_or(0)
}

/// Writes a record whose [`body_size`] is `size` into `room`, which is exactly as large as it.
#[inline]
pub(crate) fn encode(room: &mut [u8], record: &Record<'_>, timestamp_delta: i64, offset_delta: i32, size: i32) {
    let mut out = Filler::new(room);
    out.put_varint(size);
    out.put_byte(0);
    out.put_varlong(timestamp_delta);
    out.put_varint(offset_delta);
    put_nullable(&mut out, record.key);
    put_nullable(&mut out, record.value);
    put_size(&mut out, record.headers.len());
    for header in &record.headers {
        put_nullable(&mut out, Some(header.name));
        put_nullable(&mut out, header.value);
    }
    debug_assert_eq!(out.left(), 0, "body_size and encode agree");
}

#[inline]
fn put_nullable(out: &mut Filler<'_>, field: Option<&[u8]>) {
    match field {
        None => out.put_varint(-1),
        Some(bytes) => {
            put_size(out, bytes.len());
            out.put_bytes(bytes);
        }
    }
}

#[inline]
fn put_size(out: &mut Filler<'_>, size: usize) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "body_size has bounded it")]
    out.put_varint(size as i32);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: RecordBase =
        RecordBase { offset: Offset::ZERO, last_delta: i32::MAX as i64, timestamp: 1000, append_timestamp: None };

    fn encoded(record: &Record<'_>, timestamp_delta: i64, offset_delta: i32) -> Vec<u8> {
        let size = body_size(record, timestamp_delta, offset_delta).expect("a small record");
        let mut out = vec![0; encoded_size(size)];
        encode(&mut out, record, timestamp_delta, offset_delta, size);
        out
    }

    /// `body` behind its length, decoded.
    fn decoded(body: &[u8]) -> Result<OwnedRecord, FormatError> {
        let size = i32::try_from(body.len()).expect("small");
        let mut bytes = vec![0; encoded_size(size)];
        let mut out = Filler::new(&mut bytes);
        out.put_varint(size);
        out.put_bytes(body);
        decode(&mut Cursor::new(&bytes), &BASE, &mut 0).map(|record| record.detach())
    }

    fn refused(body: &[u8]) -> FormatError {
        decoded(body).expect_err("this body breaks a rule")
    }

    #[test]
    fn null_and_empty_are_different() {
        let null = encoded(&Record::from_parts(None, None), 0, 0);
        let empty = encoded(&Record::keyed("", ""), 0, 0);
        assert_eq!(null, [12, 0, 0, 0, 1, 1, 0]);
        assert_eq!(empty, [12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(null.len(), RECORD_SIZE_MIN);
        let record = decoded(&empty[1..]).expect("a legal record");
        assert_eq!((record.key(), record.value()), (Some(&[][..]), Some(&[][..])));
    }

    #[test]
    fn a_detached_record_keeps_everything() {
        let bytes = encoded(&Record::keyed("k", "v").header("a", "1").null_header("a"), -3, 70);
        let record = decode(&mut Cursor::new(&bytes), &BASE, &mut 0).expect("a legal record").detach();
        assert_eq!(record.offset(), Offset::new(70).expect("positive"));
        assert_eq!(record.timestamp(), Timestamp::from_millis(997));
        assert_eq!((record.key(), record.value()), (Some(&b"k"[..]), Some(&b"v"[..])));
        let headers: Vec<_> = record.headers().collect();
        assert_eq!(headers[0], HeaderRef { name: b"a", value: Some(b"1") });
        assert_eq!(headers[1], HeaderRef { name: b"a", value: None });
        assert_eq!(headers.len(), record.headers().len());
    }

    #[test]
    fn any_negative_length_of_key_or_value_means_null() {
        let record = decoded(&[0, 0, 0, 3, 5, 0]).expect("Kafka reads it as null");
        assert_eq!((record.key(), record.value()), (None, None));
    }

    #[test]
    fn header_counts_and_names_that_cannot_be_are_refused() {
        assert_eq!(decoded(&[0, 0, 0, 1, 1, 1]).expect_err("count -1").code(), "invalid_field");
        assert!(refused(&[0, 0, 0, 1, 1, 6, 0, 1]).to_string().contains("header count"));
        assert!(refused(&[0, 0, 0, 1, 1, 2, 1, 1]).to_string().contains("header name"));
        let null_value = decoded(&[0, 0, 0, 1, 1, 2, 0, 1]).expect("a null header value is legal");
        assert_eq!(null_value.headers().next(), Some(HeaderRef { name: b"", value: None }));
    }

    #[test]
    fn a_body_that_is_not_used_up_or_too_short_is_refused() {
        assert!(refused(&[0, 0, 0, 1, 1, 0, 0]).to_string().contains("at position 7: expected no bytes after"));
        assert!(matches!(refused(&[0, 0, 0, 1, 8, 0]), FormatError::Incomplete { what: "record value", .. }));
        assert!(matches!(refused(&[]), FormatError::Incomplete { what: "record attributes", .. }));
    }

    #[test]
    fn variable_length_integers_without_end_are_refused() {
        assert!(decode(&mut Cursor::new(&[0xff; 40]), &BASE, &mut 0).is_err());
        let mut long_delta = vec![0];
        long_delta.extend([0xff; 10]);
        long_delta.extend([0, 1, 1, 0]);
        assert!(refused(&long_delta).to_string().contains("timestamp delta"));
    }

    #[test]
    fn an_offset_below_zero_is_refused() {
        assert!(refused(&[0, 0, 1, 1, 1, 0]).to_string().contains("offset delta"));
    }

    #[test]
    fn a_negative_record_length_is_refused() {
        assert!(decode(&mut Cursor::new(&[1, 0, 0, 0, 0, 0, 0, 0]), &BASE, &mut 0).is_err());
    }
}
