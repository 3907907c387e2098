//! gzip: one RFC 1952 member, written with no name and no time in its header. Read are any number of members.
//!
//! As in Java's reader, which Kafka uses, bytes behind a member are ignored unless a whole header of another member is
//! there; what follows a header has to be that member.

use super::{FormatError, Refusal, check_limit};
use crate::format::cursor::Cursor;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{Read, Write};

/// Appends one member. Levels are 1 to 9, and -1 for zlib's default.
pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let level = match level.map(u32::try_from) {
        None => flate2::Compression::default(),
        Some(Err(_)) if level == Some(-1) => flate2::Compression::default(),
        Some(Ok(level @ 1..=9)) => flate2::Compression::new(level),
        Some(_) => return Err("levels are 1 to 9, or -1".into()),
    };
    let mut encoder = GzEncoder::new(out, level);
    encoder.write_all(input)?;
    encoder.finish()?;
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::with_capacity(input.len().saturating_mul(4).min(limit));
    let mut rest = input;
    loop {
        // One byte more than allowed, so that content of exactly the limit still has its trailer checked.
        let room = (limit.saturating_sub(content.len()) as u64).saturating_add(1);
        let mut decoder = GzDecoder::new(rest).take(room);
        decoder.read_to_end(&mut content)?;
        check_limit(content.len(), limit)?;
        rest = decoder.into_inner().into_inner();
        if !is_member_header(rest) {
            return Ok(content);
        }
    }
}

/// Whether `bytes` begin with a whole header of a member, its checksum right if it has one.
fn is_member_header(bytes: &[u8]) -> bool {
    header_size(bytes).is_ok_and(|size| size.is_some())
}

/// The size of the header that `bytes` begin with; `None` when they begin with something else.
fn header_size(bytes: &[u8]) -> Result<Option<usize>, FormatError> {
    let mut cursor = Cursor::new(bytes);
    let [first, second, method, flags] = cursor.array("member header")?;
    if [first, second, method] != [0x1f, 0x8b, 8] {
        return Ok(None);
    }
    let is_set = |bit: u8| flags & (1 << bit) != 0;
    cursor.take(6, "time, flags and system")?;
    if is_set(2) {
        let size = u16::from_le_bytes(cursor.array("extra field size")?);
        cursor.take(size.into(), "extra field")?;
    }
    for _ in 0..u32::from(is_set(3)) + u32::from(is_set(4)) {
        while cursor.array("name or comment")? != [0] {}
    }
    if is_set(1) {
        let described = bytes.get(..cursor.at()).unwrap_or_default();
        let [low, high, ..] = crc32fast::hash(described).to_le_bytes();
        if cursor.array("header checksum")? != [low, high] {
            return Ok(None);
        }
    }
    Ok(Some(cursor.at()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_begins_as_kafkas_do() {
        let mut out = Vec::new();
        assert!(compress(None, b"k1v1", &mut out).is_ok());
        assert_eq!(out[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    }

    fn member(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(compress(None, content, &mut out).is_ok());
        out
    }

    /// A member with every optional field in its header.
    fn adorned(content: &[u8]) -> Vec<u8> {
        let plain = member(content);
        let (_, body) = plain.split_at(10);
        let mut header = vec![0x1f, 0x8b, 8, 0b1_1110, 1, 2, 3, 4, 0, 3, 2, 0, b'x', b'y'];
        header.extend_from_slice(b"name\0comment\0");
        let [low, high, ..] = crc32fast::hash(&header).to_le_bytes();
        header.extend_from_slice(&[low, high]);
        [&header, body].concat()
    }

    #[test]
    fn bytes_behind_a_member_are_ignored_unless_another_one_begins() {
        let tails = [&[0][..], &[0; 512], b"\x1f\x8b", b"\x1f\x8b\x07\0\0\0\0\0\0\0", b"text", &member(b"x")[..9]];
        for tail in tails {
            let bytes = [&member(b"abc"), tail].concat();
            assert!(matches!(decompress(&bytes, 3), Ok(content) if content == b"abc"), "{tail:?}");
        }
        let bytes = [member(b"abc"), vec![0; 4], member(b"hidden")].concat();
        assert!(matches!(decompress(&bytes, 100), Ok(content) if content == b"abc"));
    }

    #[test]
    fn every_field_of_a_members_header_is_understood() {
        let bytes = [adorned(b"one"), adorned(b""), adorned(b"two")].concat();
        assert!(matches!(decompress(&bytes, 6), Ok(content) if content == b"onetwo"));
        let mut wrong = adorned(b"two");
        wrong[27] ^= 1;
        let bytes = [adorned(b"one"), wrong.clone()].concat();
        assert!(matches!(decompress(&bytes, 6), Ok(content) if content == b"one"), "its header has a wrong checksum");
        assert!(decompress(&wrong, 6).is_err());
    }

    #[test]
    fn a_member_behind_a_header_must_be_whole_and_right() {
        let mut second = member(b"second");
        let last = second.len() - 1;
        second[last] ^= 1;
        assert!(decompress(&[member(b"first"), second].concat(), 100).is_err(), "a wrong size in its trailer");
    }
}
