//! LZ4 frames: written with independent 64 KiB blocks and no checksums, read by Kafka's rules.
//!
//! | bytes | field | meaning |
//! |------:|-------|---------|
//! | 4 | magic | `04 22 4D 18` |
//! | 1 | FLG | bits 7-6 version 1, 5 independent blocks (must be set), 4 block checksums, 3 content size, 2 content checksum, 1-0 reserved |
//! | 1 | BD | bits 6-4 block size code 4 to 7: largest block 2^(8 + 2 code) bytes; others reserved |
//! | 0 or 8 | content size | skipped |
//! | 1 | header checksum | second byte of the XXH32 of FLG up to here; messages v0 counted the magic in |
//! | 4 | block size | little endian, top bit set: stored raw; then the block, then its XXH32 if flagged; repeated |
//! | 4 | end mark | 0 |
//! | 0 or 4 | content checksum | skipped: the batch has a checksum of its own |
//!
//! Frames may follow each other, and so may frames to be skipped: a magic of `5x 2A 4D 18`, a size of 4 bytes (little
//! endian), then so many bytes.
//!
//! Frames are walked here and only their blocks go to the LZ4 library, because a frame without an end mark, or with an
//! empty block in its middle, must be an error and not a shorter stream.

use super::{Refusal, check_limit};
use crate::format::cursor::Cursor;
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use twox_hash::XxHash32;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// The magic of a frame to be skipped, little endian, its lowest four bits aside. Its size follows, then so many bytes.
const SKIPPABLE: u32 = 0x184d_2a50;
/// What the writer begins a frame with: magic, FLG, BD, header checksum.
const HEADER: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
const END_MARK: [u8; 4] = [0; 4];
/// Content bytes that the writer puts into one block.
const BLOCK_SIZE: usize = 64 * 1024;
/// The bit of a block's size that says it is stored raw.
const RAW: u32 = 1 << 31;
/// Content that one byte of a block can stand for at most.
const MAX_EXPANSION: usize = 255;

/// What the header checksum of a frame to be read may cover.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderChecksum {
    /// The descriptor, as the format says.
    Descriptor,
    /// The magic and the descriptor, as writers of messages v0 had it, or the descriptor alone.
    MagicToo,
}

/// The parts of a frame's header that decide how its blocks are read.
struct Header {
    max_block_size: usize,
    has_block_checksums: bool,
    has_content_checksum: bool,
}

/// Appends one frame.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    out.extend_from_slice(&HEADER);
    for content in input.chunks(BLOCK_SIZE) {
        let start = out.len();
        out.resize(start + 4 + get_maximum_output_size(content.len()), 0);
        let Some((size_field, block)) = out.get_mut(start..).and_then(|tail| tail.split_first_chunk_mut::<4>()) else {
            return Err("no room for a block".into());
        };
        let size = compress_into(content, block).map_err(|error| Refusal::Codec(error.to_string()))?;
        if size < content.len() {
            *size_field = block_size_field(size)?.to_le_bytes();
            out.truncate(start + 4 + size);
        } else {
            *size_field = (block_size_field(content.len())? | RAW).to_le_bytes();
            out.truncate(start + 4);
            out.extend_from_slice(content);
        }
    }
    out.extend_from_slice(&END_MARK);
    Ok(())
}

fn block_size_field(size: usize) -> Result<u32, Refusal> {
    u32::try_from(size).map_err(|error| Refusal::Codec(error.to_string()))
}

pub(super) fn decompress(input: &[u8], checksum: HeaderChecksum, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::with_capacity(input.len().saturating_mul(3).min(limit));
    let mut rest = input;
    loop {
        let mut cursor = Cursor::new(rest);
        let magic = cursor.array("magic")?;
        if magic == MAGIC {
            append_frame(rest, &mut cursor, checksum, limit, &mut content)?;
        } else if u32::from_le_bytes(magic) & !0xf == SKIPPABLE {
            let size = read_u32_le(&mut cursor, "size of what is to be skipped")?;
            cursor.take(size as usize, "what is to be skipped")?;
        } else {
            return Err("no LZ4 frame begins here".into());
        }
        rest = rest.get(cursor.at()..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(content);
        }
    }
}

/// Decodes the frame that `input` begins with onto the end of `content`; `cursor` is behind its magic.
fn append_frame(
    input: &[u8],
    cursor: &mut Cursor<'_>,
    checksum: HeaderChecksum,
    limit: usize,
    content: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let header = read_header(input, cursor, checksum)?;
    loop {
        let field = read_u32_le(cursor, "block size")?;
        if field == 0 {
            break;
        }
        let block = cursor.take((field & !RAW) as usize, "block")?;
        if block.len() > header.max_block_size {
            return Err("a block is longer than the frame's largest".into());
        }
        if header.has_block_checksums && read_u32_le(cursor, "block checksum")? != XxHash32::oneshot(0, block) {
            return Err("wrong block checksum".into());
        }
        if field & RAW == 0 {
            append_block(block, header.max_block_size, content)?;
        } else {
            content.extend_from_slice(block);
        }
        check_limit(content.len(), limit)?;
    }
    if header.has_content_checksum {
        cursor.take(4, "content checksum")?;
    }
    Ok(())
}

/// `input` begins with the frame, whose magic `cursor` has passed.
fn read_header(input: &[u8], cursor: &mut Cursor<'_>, checksum: HeaderChecksum) -> Result<Header, Refusal> {
    let flags = cursor.read_i8("FLG")?.cast_unsigned();
    let block_descriptor = cursor.read_i8("BD")?.cast_unsigned();
    let is_set = |bit: u32| flags & (1 << bit) != 0;
    if flags >> 6 != 1 {
        return Err("unknown frame version".into());
    }
    if flags & 0b11 != 0 || block_descriptor & 0b1000_1111 != 0 {
        return Err("reserved bits are set".into());
    }
    if !is_set(5) {
        return Err("blocks that depend on each other are not supported".into());
    }
    let code = block_descriptor >> 4;
    if code < 4 {
        return Err("unknown block size code".into());
    }
    if is_set(3) {
        cursor.take(8, "content size")?;
    }
    let (described, _) = input.split_at_checked(cursor.at()).unwrap_or_default();
    check_header(described, cursor.read_i8("header checksum")?.cast_unsigned(), checksum)?;
    Ok(Header { max_block_size: 1 << (8 + 2 * code), has_block_checksums: is_set(4), has_content_checksum: is_set(2) })
}

/// `described` is the header up to its checksum, which is `stored`.
fn check_header(described: &[u8], stored: u8, checksum: HeaderChecksum) -> Result<(), Refusal> {
    let second_byte = |bytes: &[u8]| XxHash32::oneshot(0, bytes).to_le_bytes()[1];
    let descriptor = described.get(MAGIC.len()..).unwrap_or_default();
    let is_right =
        stored == second_byte(descriptor) || checksum == HeaderChecksum::MagicToo && stored == second_byte(described);
    if is_right { Ok(()) } else { Err("wrong header checksum".into()) }
}

fn read_u32_le(cursor: &mut Cursor<'_>, what: &'static str) -> Result<u32, Refusal> {
    Ok(cursor.read_u32(what)?.swap_bytes())
}

/// Decodes one compressed block onto the end of `content`.
fn append_block(block: &[u8], max_block_size: usize, content: &mut Vec<u8>) -> Result<(), Refusal> {
    let start = content.len();
    let room = max_block_size.min(block.len().saturating_mul(MAX_EXPANSION));
    content.resize(start + room, 0);
    let target = content.get_mut(start..).unwrap_or_default();
    let size = decompress_into(block, target).map_err(|error| Refusal::Codec(error.to_string()))?;
    content.truncate(start + size);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
    use std::io::{Read, Write};

    fn frame(info: FrameInfo, content: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).expect("writes");
        encoder.finish().expect("finishes")
    }

    fn read(input: &[u8]) -> Result<Vec<u8>, String> {
        read_as(input, HeaderChecksum::Descriptor)
    }

    fn read_as(input: &[u8], checksum: HeaderChecksum) -> Result<Vec<u8>, String> {
        decompress(input, checksum, 1 << 24).map_err(|refusal| match refusal {
            Refusal::Codec(reason) => reason,
            _ => "other".to_owned(),
        })
    }

    fn sample() -> Vec<u8> {
        (0..300_000_u32).map(|n| (n / 7).to_le_bytes()[(n % 2) as usize]).collect()
    }

    #[test]
    fn frames_begin_with_the_golden_header_and_another_reader_reads_them() {
        let mut out = Vec::new();
        assert!(compress(&sample(), &mut out).is_ok());
        assert_eq!(out[..7], HEADER);
        let mut content = Vec::new();
        FrameDecoder::new(&out[..]).read_to_end(&mut content).expect("reads");
        assert_eq!(content, sample());
    }

    #[test]
    fn frames_with_checksums_content_size_and_larger_blocks_are_read() {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Independent)
            .block_size(BlockSize::Max256KB)
            .block_checksums(true)
            .content_checksum(true)
            .content_size(Some(sample().len() as u64));
        let mut out = frame(info, &sample());
        assert_eq!(read(&out), Ok(sample()));
        let in_first_block = 7 + 8 + 4 + 10;
        out[in_first_block] ^= 1;
        assert_eq!(read(&out), Err("wrong block checksum".to_owned()));
    }

    #[test]
    fn dependent_blocks_are_refused() {
        let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
        let reason = read(&frame(info, &sample())).expect_err("dependent");
        assert_eq!(reason, "blocks that depend on each other are not supported");
    }

    #[test]
    fn the_header_checksum_of_messages_v0_is_accepted_only_where_asked_for() {
        let mut out = Vec::new();
        assert!(compress(b"k1v1", &mut out).is_ok());
        assert_eq!(read_as(&out, HeaderChecksum::MagicToo), Ok(b"k1v1".to_vec()));
        out[6] = 0x1a;
        assert_eq!(read_as(&out, HeaderChecksum::MagicToo), Ok(b"k1v1".to_vec()));
        assert_eq!(read(&out), Err("wrong header checksum".to_owned()));
        out[6] = 0x1b;
        assert!(read_as(&out, HeaderChecksum::MagicToo).is_err());
    }

    #[test]
    fn wrong_descriptors_are_refused_even_with_a_right_checksum() {
        for (flags, block_descriptor) in
            [(0xa0, 0x40), (0x61, 0x40), (0x62, 0x40), (0x40, 0x40), (0x60, 0x30), (0x60, 0xc0), (0x60, 0x41)]
        {
            let checksum = XxHash32::oneshot(0, &[flags, block_descriptor]).to_le_bytes()[1];
            let bytes = [&MAGIC[..], &[flags, block_descriptor, checksum], &END_MARK].concat();
            assert!(read(&bytes).is_err(), "{flags:02x} {block_descriptor:02x}");
        }
    }

    #[test]
    fn frames_of_different_kinds_and_frames_to_be_skipped_may_follow_each_other() {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Independent)
            .block_size(BlockSize::Max256KB)
            .block_checksums(true)
            .content_checksum(true);
        let mut first = Vec::new();
        assert!(compress(b"one ", &mut first).is_ok());
        let skipped = |number: u8, size: u8| {
            [&[0x50 + number, 0x2a, 0x4d, 0x18, size, 0, 0, 0][..], &vec![9; size.into()]].concat()
        };
        let parts =
            [skipped(0, 0), first, skipped(15, 3), frame(info.clone(), &sample()), frame(info, b""), skipped(7, 200)];
        assert_eq!(read(&parts.concat()), Ok([b"one ".to_vec(), sample()].concat()));
        assert_eq!(read(&skipped(3, 5)), Ok(Vec::new()));
        for cut in 0..13 {
            assert!(read(&skipped(3, 5)[..cut]).is_err(), "cut at {cut}");
        }
        let huge = [0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff];
        assert!(read(&huge).is_err());
        let legacy = [0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0];
        assert!(read(&legacy).is_err());
    }

    #[test]
    fn an_overlong_block_is_refused_and_an_empty_block_does_not_end_the_frame() {
        let block =
            |size: usize| [&(u32::try_from(size).expect("small") | RAW).to_le_bytes()[..], &vec![1; size]].concat();
        let frame = |blocks: &[Vec<u8>]| [&HEADER[..], &blocks.concat(), &END_MARK].concat();
        assert!(read(&frame(&[block(BLOCK_SIZE)])).is_ok());
        assert!(read(&frame(&[block(BLOCK_SIZE + 1)])).is_err());
        assert_eq!(read(&frame(&[block(1), block(0), block(1)])), Ok(vec![1, 1]));
        let empty = vec![1, 0, 0, 0, 0];
        assert_eq!(read(&frame(&[block(1), empty, block(1)])), Ok(vec![1, 1]));
    }
}
