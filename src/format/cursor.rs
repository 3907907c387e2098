//! A bounds-checked big-endian reader over bytes that nobody has checked yet, and the writer of variable-length integers
//! into room that was measured for them.
//!
//! Every read names what it reads, so that an error carries the field and its position. Nothing here panics on any input.

use super::error::FormatError;
use crate::types::Position;

/// Reads integers and slices from the front of `bytes`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    pub(crate) const fn position(&self) -> Position {
        Position::new(self.at as u64)
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// All bytes that have not been read.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The next `count` bytes.
    #[inline]
    pub(crate) fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(count);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(slice) => {
                self.at += count;
                Ok(slice)
            }
            None => Err(self.incomplete(count, what)),
        }
    }

    #[cold]
    fn incomplete(&self, count: usize, what: &'static str) -> FormatError {
        let (needed, available) = (count as u64, self.remaining() as u64);
        FormatError::Incomplete { what, position: self.position(), needed, available }
    }

    /// A cursor over the next `count` bytes alone, whose positions go on from this one's.
    #[inline]
    pub(crate) fn split(&mut self, count: usize, what: &'static str) -> Result<Self, FormatError> {
        let start = self.at;
        match start.checked_add(count).and_then(|end| self.bytes.get(..end)) {
            Some(bytes) => {
                self.at = bytes.len();
                Ok(Self { bytes, at: start })
            }
            None => Err(self.incomplete(count, what)),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], FormatError> {
        let slice = self.take(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(slice);
        Ok(array)
    }

    #[inline]
    pub(crate) fn read_i8(&mut self, what: &'static str) -> Result<i8, FormatError> {
        self.array(what).map(i8::from_be_bytes)
    }

    #[inline]
    pub(crate) fn read_i16(&mut self, what: &'static str) -> Result<i16, FormatError> {
        self.array(what).map(i16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn read_i32(&mut self, what: &'static str) -> Result<i32, FormatError> {
        self.array(what).map(i32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn read_u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        self.array(what).map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn read_i64(&mut self, what: &'static str) -> Result<i64, FormatError> {
        self.array(what).map(i64::from_be_bytes)
    }

    /// A zig-zag varint of at most 5 bytes; surplus high bits of the fifth are dropped, as Kafka does.
    #[inline]
    pub(crate) fn read_varint(&mut self, what: &'static str) -> Result<i32, FormatError> {
        if let Some(byte) = self.single_group() {
            return Ok(i32::from(byte >> 1) ^ -i32::from(byte & 1));
        }
        let raw = self.read_groups(5, what)?;
        #[expect(clippy::cast_possible_truncation, reason = "Kafka drops what does not fit in 32 bits")]
        let raw = raw as u32;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    /// A zig-zag varlong of at most 10 bytes.
    #[inline]
    pub(crate) fn read_varlong(&mut self, what: &'static str) -> Result<i64, FormatError> {
        if let Some(byte) = self.single_group() {
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        let raw = self.read_groups(10, what)?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    /// An unsigned varint of at most 5 bytes; surplus high bits of the fifth are dropped, as Kafka does.
    pub(crate) fn read_uvarint(&mut self, what: &'static str) -> Result<u32, FormatError> {
        #[expect(clippy::cast_possible_truncation, reason = "Kafka drops what does not fit in 32 bits")]
        self.read_groups(5, what).map(|raw| raw as u32)
    }

    /// The next byte if it is a variable-length integer on its own, as most of them are.
    #[inline]
    fn single_group(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied().filter(|byte| *byte < 0x80)?;
        self.at += 1;
        Some(byte)
    }

    /// Base-128 groups, least significant first, at most `max` bytes.
    fn read_groups(&mut self, max: u32, what: &'static str) -> Result<u64, FormatError> {
        let start = self.at;
        let mut value = 0_u64;
        for group in 0..max {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(FormatError::Incomplete {
                    what,
                    position: Position::new(start as u64),
                    needed: u64::from(group) + 1,
                    available: u64::from(group),
                });
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << (7 * group);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(FormatError::Invalid {
            field: what,
            position: Position::new(start as u64),
            expected: "a variable-length integer that ends",
            got: i64::from(max),
        })
    }
}

/// Fills room that its caller has measured beforehand; what doesn't fit is left out. A vector would ask for room once a byte.
pub(crate) struct Filler<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl<'a> Filler<'a> {
    #[inline]
    pub(crate) const fn new(room: &'a mut [u8]) -> Self {
        Self { room, at: 0 }
    }

    /// Bytes of room that nothing has been put into.
    pub(crate) const fn left(&self) -> usize {
        self.room.len() - self.at
    }

    #[inline]
    pub(crate) fn put_byte(&mut self, byte: u8) {
        if let Some(slot) = self.room.get_mut(self.at) {
            *slot = byte;
            self.at += 1;
        }
    }

    #[inline]
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) {
        if let Some(slots) = self.room.get_mut(self.at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            slots.copy_from_slice(bytes);
            self.at += bytes.len();
        }
    }

    /// A zig-zag varint.
    #[inline]
    pub(crate) fn put_varint(&mut self, value: i32) {
        self.put_groups(u64::from(((value << 1) ^ (value >> 31)).cast_unsigned()));
    }

    /// A zig-zag varlong.
    #[inline]
    pub(crate) fn put_varlong(&mut self, value: i64) {
        self.put_groups(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    #[inline]
    fn put_groups(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_byte((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.put_byte((value & 0x7f) as u8);
    }
}

/// Bytes of a zig-zag varint.
#[inline]
pub(crate) const fn varint_size(value: i32) -> usize {
    groups_size(((value << 1) ^ (value >> 31)).cast_unsigned() as u64)
}

/// Bytes of a zig-zag varlong.
#[inline]
pub(crate) const fn varlong_size(value: i64) -> usize {
    groups_size(((value << 1) ^ (value >> 63)).cast_unsigned())
}

#[inline]
const fn groups_size(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn endless_variable_length_integers_are_rejected() {
        assert!(Cursor::new(&[0xff; 5]).read_varint("n").is_err());
        assert!(Cursor::new(&[0xff; 10]).read_varlong("n").is_err());
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x7f]).read_varint("n"), Ok(i32::MIN));
    }

    #[test]
    fn reading_past_the_end_says_what_and_where() {
        let mut cursor = Cursor::new(&[0, 1, 2]);
        cursor.read_i16("first").expect("two bytes are there");
        let error = cursor.read_i32("second").expect_err("one byte is left");
        assert_eq!(error.to_string(), "incomplete second at position 2: needs 4 bytes, 1 are there");
    }

    proptest! {
        #[test]
        fn variable_length_integers_round_trip(small: i32, large: i64) {
            let mut bytes = vec![0; varint_size(small) + varlong_size(large)];
            let mut out = Filler::new(&mut bytes);
            out.put_varint(small);
            prop_assert_eq!(out.left(), varlong_size(large));
            out.put_varlong(large);
            prop_assert_eq!(out.left(), 0);
            let mut cursor = Cursor::new(&bytes);
            prop_assert_eq!(cursor.read_varint("small"), Ok(small));
            prop_assert_eq!(cursor.read_varlong("large"), Ok(large));
            prop_assert_eq!(cursor.remaining(), 0);
        }
    }
}
