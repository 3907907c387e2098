//! Snappy in the xerial framing of the Java library; what doesn't begin with its magic is read as one bare block.
//!
//! | bytes | field | value |
//! |------:|-------|-------|
//! | 8 | magic | `82 53 4E 41 50 50 59 00` |
//! | 4 | version | 1, i32 |
//! | 4 | compatible version | 1, i32 |
//! | 4 | block size | i32, then that many bytes of one raw snappy block; repeated to the end |
//!
//! A raw block begins with the size of its content as a varint. Nothing says how many blocks there are, so a stream
//! cut between two blocks can't be told from a shorter one: the batch's checksum and record count have to. Where a block's
//! size should stand, the first half of the magic begins another stream.

use super::{Refusal, check_limit};
use crate::format::cursor::Cursor;
use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// The first half of the magic, read as a block's size.
const ANOTHER_STREAM: i32 = i32::from_be_bytes([0x82, b'S', b'N', b'A']);
/// What follows the magic: version 1, compatible with version 1.
const VERSIONS: [u8; 8] = [0, 0, 0, 1, 0, 0, 0, 1];
/// Content bytes that the writer puts into one block.
const BLOCK_SIZE: usize = 32 * 1024;
/// Content that one byte of a block can stand for at most: a copy, the densest there is, takes 2 or more bytes for up to 64.
const MAX_EXPANSION: usize = 64;

/// Appends one xerial stream.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSIONS);
    let mut encoder = Encoder::new();
    for content in input.chunks(BLOCK_SIZE) {
        let start = out.len();
        out.resize(start + 4 + max_compress_len(content.len()), 0);
        let Some((size_field, block)) = out.get_mut(start..).and_then(|tail| tail.split_first_chunk_mut::<4>()) else {
            return Err("no room for a block".into());
        };
        let size = encoder.compress(content, block).map_err(|error| Refusal::Codec(error.to_string()))?;
        *size_field = i32::try_from(size).map_err(|error| Refusal::Codec(error.to_string()))?.to_be_bytes();
        out.truncate(start + 4 + size);
    }
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::new();
    if !input.starts_with(&MAGIC) {
        append_block(input, limit, &mut content)?;
        return Ok(content);
    }
    let mut cursor = Cursor::new(input);
    while cursor.remaining() > 0 {
        let size = cursor.read_i32("block size")?;
        if size == ANOTHER_STREAM {
            finish_header(&mut cursor)?;
            continue;
        }
        let size = usize::try_from(size).map_err(|_| Refusal::from("negative block size"))?;
        append_block(cursor.take(size, "block")?, limit, &mut content)?;
    }
    Ok(content)
}

/// Reads the header of a stream behind the first half of its magic.
fn finish_header(cursor: &mut Cursor<'_>) -> Result<(), Refusal> {
    if Some(cursor.take(4, "magic")?) != MAGIC.get(4..) {
        return Err("no xerial stream begins here".into());
    }
    if cursor.read_i32("version")? < 1 || cursor.read_i32("compatible version")? > 1 {
        return Err("unknown version of the xerial framing".into());
    }
    Ok(())
}

/// Decodes one raw block onto the end of `content`.
fn append_block(block: &[u8], limit: usize, content: &mut Vec<u8>) -> Result<(), Refusal> {
    if block.is_empty() {
        return Err("an empty block".into());
    }
    let size = decompress_len(block).map_err(|error| Refusal::Codec(error.to_string()))?;
    let start = content.len();
    check_limit(start.saturating_add(size), limit)?;
    if size > block.len().saturating_mul(MAX_EXPANSION) {
        return Err("a block declares more content than its bytes can hold".into());
    }
    content.resize(start + size, 0);
    let target = content.get_mut(start..).unwrap_or_default();
    let written = Decoder::new().decompress(block, target).map_err(|error| Refusal::Codec(error.to_string()))?;
    if written == size { Ok(()) } else { Err("a block holds less content than it declares".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_begins_with_the_golden_header_and_has_blocks_of_32_kib() {
        let mut out = Vec::new();
        assert!(compress(&[7; BLOCK_SIZE + 1], &mut out).is_ok());
        assert_eq!(out[..16], [0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(decompress_len(&out[20..]), Ok(BLOCK_SIZE));
    }

    #[test]
    fn a_bare_block_is_read() {
        let block = Encoder::new().compress_vec(b"bare bare bare").expect("compresses");
        assert!(matches!(decompress(&block, 14), Ok(content) if content == b"bare bare bare"));
    }

    #[test]
    fn a_declared_size_that_the_block_cannot_hold_is_refused_before_it_is_allocated() {
        // A varint of nearly 4 GiB, and a limit that would allow it.
        let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'a'];
        assert!(matches!(decompress(&block, usize::MAX), Err(Refusal::Codec(_))));
    }

    #[test]
    fn negative_and_overlong_blocks_and_unknown_versions_are_refused() {
        let stream = |versions: &[u8], size: i32| [&MAGIC, versions, &size.to_be_bytes(), &[1, 0, b'a']].concat();
        assert!(decompress(&stream(&VERSIONS, 3), 10).is_ok());
        assert!(decompress(&stream(&VERSIONS, -1), 10).is_err());
        assert!(decompress(&stream(&VERSIONS, 4), 10).is_err());
        assert!(decompress(&stream(&[0; 8], 3), 10).is_err());
        assert!(decompress(&stream(&[0, 0, 0, 2, 0, 0, 0, 2], 3), 10).is_err());
    }

    #[test]
    fn a_stream_may_have_any_number_of_blocks_and_streams_even_empty_ones() {
        let block = |content: &[u8]| {
            let block = Encoder::new().compress_vec(content).expect("compresses");
            [&i32::try_from(block.len()).expect("small").to_be_bytes(), &block[..]].concat()
        };
        let header = [MAGIC, VERSIONS].concat();
        let bytes = [&header[..], &block(b"a"), &block(b""), &block(b"b"), &header, &header, &block(b"c")].concat();
        assert!(matches!(decompress(&bytes, 3), Ok(content) if content == b"abc"));
        assert!(matches!(decompress(&bytes, 2), Err(Refusal::TooLarge(3))));
        assert!(matches!(decompress(&header, 0), Ok(content) if content.is_empty()));
    }

    #[test]
    fn half_a_magic_that_begins_no_stream_is_refused() {
        let header = [MAGIC, VERSIONS].concat();
        for tail in [&MAGIC[..4], &MAGIC[..], &[0x82, b'S', b'N', b'A', 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]] {
            assert!(decompress(&[&header[..], tail].concat(), 10).is_err());
        }
    }
}
