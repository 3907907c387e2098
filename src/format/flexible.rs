//! The pieces that records of Kafka's internal topics are made of: strings, arrays and tagged fields, in both encodings.
//!
//! | piece | plain encoding | flexible encoding |
//! |---|---|---|
//! | string | i16 length, UTF-8 | unsigned varint length + 1, UTF-8 |
//! | array | i32 count, elements; -1 is null | unsigned varint count + 1, elements; 0 is null |
//! | tagged fields, after each struct | none | unsigned varint count, then for each unsigned varint tag, unsigned varint size, bytes |
//!
//! Which one a version of a record uses is a constant of that version; a [`Reader`] or [`Writer`] is made for one of them.
//! Nothing is allocated for a length that the bytes at hand don't hold. Positions count from the start of the record's key or value.

use super::cursor::Cursor;
use super::error::FormatError;
use crate::name::{PartitionId, TopicName};
use crate::types::Position;

/// How lengths are written and whether structs end in tagged fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Plain,
    Flexible,
}

/// Reads pieces from the front of a record's key or value.
pub(crate) struct Reader<'a> {
    cursor: Cursor<'a>,
    encoding: Encoding,
}

impl<'a> Reader<'a> {
    /// Begins with plain pieces; what stands first in every key and value is a plain i16.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(bytes), encoding: Encoding::Plain }
    }

    /// Goes on in `encoding`.
    pub(crate) const fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
    }

    pub(crate) const fn position(&self) -> Position {
        self.cursor.position()
    }

    pub(crate) fn i8(&mut self, what: &'static str) -> Result<i8, FormatError> {
        self.cursor.read_i8(what).map_err(FormatError::enclosed)
    }

    pub(crate) fn i16(&mut self, what: &'static str) -> Result<i16, FormatError> {
        self.cursor.read_i16(what).map_err(FormatError::enclosed)
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32, FormatError> {
        self.cursor.read_i32(what).map_err(FormatError::enclosed)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, FormatError> {
        self.cursor.read_i64(what).map_err(FormatError::enclosed)
    }

    /// A number that `wrap` must accept.
    pub(crate) fn wrapped<N: Copy + Into<i64>, T>(
        &mut self,
        what: &'static str,
        expected: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<N, FormatError>,
        wrap: impl FnOnce(N) -> Option<T>,
    ) -> Result<T, FormatError> {
        let position = self.position();
        let number = read(self, what)?;
        wrap(number).ok_or_else(|| invalid(what, position, expected, number.into()))
    }

    /// A string that must be there.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<&'a str, FormatError> {
        let position = self.position();
        let size = self.length(what)?;
        let Some(size) = size else { return Err(invalid(what, position, "a string that is not null", -1)) };
        let start = self.position();
        let bytes = self.cursor.take(size, what).map_err(FormatError::enclosed)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = start.plus(error.valid_up_to() as u64);
            invalid(what, at, "UTF-8", bytes.get(error.valid_up_to()).copied().unwrap_or_default().into())
        })
    }

    fn length(&mut self, what: &'static str) -> Result<Option<usize>, FormatError> {
        match self.encoding {
            Encoding::Plain => {
                let position = self.position();
                match self.i16(what)? {
                    -1 => Ok(None),
                    size => usize::try_from(size)
                        .map(Some)
                        .map_err(|_| invalid(what, position, "a length of -1 or more", size.into())),
                }
            }
            Encoding::Flexible => self.compact_length(what),
        }
    }

    fn compact_length(&mut self, what: &'static str) -> Result<Option<usize>, FormatError> {
        let position = self.position();
        match self.cursor.read_uvarint(what).map_err(FormatError::enclosed)?.checked_sub(1) {
            None => Ok(None),
            Some(size) => usize::try_from(size)
                .map(Some)
                .map_err(|_| invalid(what, position, "a length that this machine can address", size.into())),
        }
    }

    /// The number of elements of an array, none for null. Each element takes at least one byte, which bounds the number.
    pub(crate) fn count(&mut self, what: &'static str) -> Result<Option<usize>, FormatError> {
        let position = self.position();
        let count = match self.encoding {
            Encoding::Flexible => self.compact_length(what)?,
            Encoding::Plain => match self.i32(what)? {
                -1 => None,
                count => Some(usize::try_from(count).unwrap_or(usize::MAX)),
            },
        };
        match count {
            Some(count) if count > self.cursor.remaining() => {
                let got = i64::try_from(count).unwrap_or(i64::MAX);
                Err(invalid(what, position, "null, or at most as many elements as there are bytes", got))
            }
            count => Ok(count),
        }
    }

    /// The tagged fields of a struct, each handed to `field` with its tag; nothing in the plain encoding.
    pub(crate) fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<(), FormatError>,
    ) -> Result<(), FormatError> {
        if self.encoding == Encoding::Plain {
            return Ok(());
        }
        let count = self.cursor.read_uvarint("tagged field count").map_err(FormatError::enclosed)?;
        // Each takes two bytes at least, so a count that lies ends at the end of the bytes.
        for _ in 0..count {
            let tag = self.cursor.read_uvarint("tag").map_err(FormatError::enclosed)?;
            let size = self.cursor.read_uvarint("tagged field size").map_err(FormatError::enclosed)?;
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            let cursor = self.cursor.split(size, "tagged field").map_err(FormatError::enclosed)?;
            field(tag, &mut Self { cursor, encoding: self.encoding })?;
        }
        Ok(())
    }

    pub(crate) fn bytes<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let slice = self.cursor.take(N, what).map_err(FormatError::enclosed)?;
        let mut array = [0; N];
        array.copy_from_slice(slice);
        Ok(array)
    }

    pub(crate) fn topic(&mut self) -> Result<TopicName, FormatError> {
        let position = self.position();
        let name = self.string("topic")?;
        TopicName::parse(name).map_err(|_| {
            invalid("topic", position, "a legal topic name", i64::try_from(name.len()).unwrap_or(i64::MAX))
        })
    }

    pub(crate) fn partition(&mut self) -> Result<PartitionId, FormatError> {
        self.wrapped("partition", "a number that is not negative", Self::i32, PartitionId::new)
    }

    /// Refuses bytes that are left.
    pub(crate) fn end(&self, what: &'static str) -> Result<(), FormatError> {
        match self.cursor.remaining() {
            0 => Ok(()),
            left => {
                let left = i64::try_from(left).unwrap_or(i64::MAX);
                Err(invalid(what, self.position(), "no bytes after its last field", left))
            }
        }
    }
}

#[cold]
pub(crate) const fn invalid(field: &'static str, position: Position, expected: &'static str, got: i64) -> FormatError {
    FormatError::Invalid { field, position, expected, got }
}

/// Puts pieces one behind the other.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    encoding: Encoding,
}

impl Writer {
    /// Begins with the version, which is plain, and goes on in `encoding`.
    pub(crate) fn new(version: i16, encoding: Encoding) -> Self {
        Self { bytes: version.to_be_bytes().to_vec(), encoding }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A string. In the plain encoding it has at most 32767 bytes; its caller has seen to that.
    pub(crate) fn put_string(&mut self, text: &str) {
        match self.encoding {
            Encoding::Plain => {
                let size = i16::try_from(text.len());
                debug_assert!(size.is_ok(), "the caller has bounded the string");
                self.put(&size.unwrap_or(i16::MAX).to_be_bytes());
            }
            Encoding::Flexible => self.put_uvarint(plus_one(text.len())),
        }
        self.put(text.as_bytes());
    }

    /// The number of elements of an array; none for null.
    pub(crate) fn put_count(&mut self, count: Option<usize>) {
        match self.encoding {
            Encoding::Plain => {
                let count = count.map_or(-1, |count| i32::try_from(count).unwrap_or(i32::MAX));
                self.put(&count.to_be_bytes());
            }
            Encoding::Flexible => self.put_uvarint(count.map_or(0, plus_one)),
        }
    }

    /// The tagged fields that end a struct, by ascending tags; nothing in the plain encoding.
    pub(crate) fn put_tags(&mut self, fields: &[(u32, &[u8])]) {
        if self.encoding == Encoding::Plain {
            return;
        }
        self.put_uvarint(u32::try_from(fields.len()).unwrap_or(u32::MAX));
        for (tag, bytes) in fields {
            self.put_uvarint(*tag);
            self.put_uvarint(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            self.put(bytes);
        }
    }

    fn put_uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// A length as the flexible encoding writes it. Records are far smaller than what doesn't fit.
fn plus_one(length: usize) -> u32 {
    u32::try_from(length).map_or(u32::MAX, |length| length.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn flexible(bytes: &[u8]) -> Reader<'_> {
        let mut reader = Reader::new(bytes);
        reader.set_encoding(Encoding::Flexible);
        reader
    }

    #[test]
    fn a_string_that_is_cut_null_or_not_utf_8_is_refused_with_its_place() {
        assert_eq!(flexible(&[3, b'a']).string("s").expect_err("cut").position(), Some(Position::new(1)));
        assert!(flexible(&[0]).string("s").is_err());
        assert!(Reader::new(&[0xff, 0xff]).string("s").is_err());
        assert!(Reader::new(&[0x80, 0]).string("s").is_err());
        let error = flexible(&[4, b'a', 0xc3, b'b']).string("s").expect_err("no UTF-8");
        assert_eq!(error.position(), Some(Position::new(2)));
    }

    #[test]
    fn a_count_beyond_the_bytes_that_are_there_is_refused_before_anything_is_made() {
        assert!(flexible(&[0xff, 0xff, 0xff, 0xff, 0x0f]).count("n").is_err());
        assert!(Reader::new(&[0x7f, 0xff, 0xff, 0xff, 0]).count("n").is_err());
        assert!(Reader::new(&[0x80, 0, 0, 0, 0]).count("n").is_err());
        assert_eq!(Reader::new(&[0xff; 4]).count("n"), Ok(None));
        assert_eq!(flexible(&[0]).count("n"), Ok(None));
        assert_eq!(flexible(&[2, 9]).count("n"), Ok(Some(1)));
    }

    #[test]
    fn tagged_fields_without_end_are_refused() {
        let seen = |bytes: &[u8]| {
            let mut tags = Vec::new();
            let result = flexible(bytes).tags(|tag, _| {
                tags.push(tag);
                Ok(())
            });
            (result.is_ok(), tags)
        };
        assert_eq!(seen(&[0]), (true, vec![]));
        assert_eq!(seen(&[2, 1, 1, 9, 5, 0]), (true, vec![1, 5]));
        assert_eq!(seen(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 0]), (false, vec![1]));
        assert_eq!(seen(&[1, 1, 2, 9]), (false, vec![]));
    }

    proptest! {
        #[test]
        fn pieces_round_trip_in_both_encodings(text in ".{0,200}", count in proptest::option::of(0_usize..300)) {
            for encoding in [Encoding::Plain, Encoding::Flexible] {
                let mut writer = Writer::new(7, encoding);
                writer.put_string(&text);
                writer.put_count(count);
                writer.put_tags(&[(3, text.as_bytes())]);
                writer.put(&[0; 300]);
                let bytes = writer.finish();
                let mut reader = Reader::new(&bytes);
                prop_assert_eq!(reader.i16("version"), Ok(7));
                reader.set_encoding(encoding);
                prop_assert_eq!(reader.string("text"), Ok(&text[..]));
                prop_assert_eq!(reader.count("count"), Ok(count));
                let mut sizes = Vec::new();
                reader.tags(|tag, field| { sizes.push((tag, field.cursor.remaining())); Ok(()) }).expect("one field");
                prop_assert_eq!(sizes, if encoding == Encoding::Plain { vec![] } else { vec![(3, text.len())] });
            }
        }
    }
}
