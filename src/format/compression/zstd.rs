//! Zstandard: one frame, written without content size and checksum as Kafka does.
//!
//! The size of the content is known only after decoding, so the target starts small and is enlarged until the content
//! fits or the limit is reached. Decoding straight into the target needs no window: the window that a damaged header
//! declares is never allocated.

use super::Refusal;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// libzstd's code for "the target is too small"; its numbers are promised to stay.
const TARGET_TOO_SMALL: usize = 0_usize.wrapping_sub(70);
/// What the target holds at first, per compressed byte; batches rarely compress better.
const LIKELY_EXPANSION: usize = 8;
/// The least size of the first target.
const LEAST_TARGET_SIZE: usize = 16 * 1024;

/// Appends one frame. Levels outside libzstd's range are held at its ends.
pub(super) fn compress(level: Option<i32>, input: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut compressor = Compressor::new(level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL))?;
    compressor.include_contentsize(false)?;
    compressor.include_checksum(false)?;
    out.extend_from_slice(&compressor.compress(input)?);
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    check_one_frame(input)?;
    let mut decoder = DCtx::try_create().ok_or("out of memory")?;
    let mut size = input.len().saturating_mul(LIKELY_EXPANSION).max(LEAST_TARGET_SIZE).min(limit);
    loop {
        let mut content = Vec::new();
        content.try_reserve_exact(size).map_err(|error| Refusal::Codec(error.to_string()))?;
        match decoder.decompress(&mut content, input) {
            Ok(_) if content.len() <= limit => return Ok(content),
            Err(code) if code != TARGET_TOO_SMALL => return Err(get_error_name(code).into()),
            _ if size >= limit => return Err(Refusal::TooLarge((limit as u64).saturating_add(1))),
            _ => size = size.saturating_mul(4).min(limit),
        }
    }
}

/// libzstd by itself would take several frames, and frames to be skipped, for one stream.
fn check_one_frame(input: &[u8]) -> Result<(), Refusal> {
    if !input.starts_with(&MAGIC) {
        return Err("no zstd frame begins here".into());
    }
    let size = find_frame_compressed_size(input).map_err(|code| Refusal::from(get_error_name(code)))?;
    if size == input.len() { Ok(()) } else { Err("bytes after the end of the frame".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_neither_content_size_nor_checksum() {
        let mut out = Vec::new();
        assert!(compress(None, b"k1v1", &mut out).is_ok());
        assert_eq!(out[..5], [0x28, 0xb5, 0x2f, 0xfd, 0x00]);
    }

    #[test]
    fn content_that_compresses_extremely_well_is_read_whole() {
        let mut out = Vec::new();
        assert!(compress(None, &vec![0; 5_000_000], &mut out).is_ok());
        assert!(matches!(decompress(&out, 5_000_000), Ok(content) if content == vec![0; 5_000_000]));
        assert!(matches!(decompress(&out, 4_999_999), Err(Refusal::TooLarge(5_000_000))));
    }

    #[test]
    fn frames_of_other_writers_with_content_size_and_checksum_are_read() {
        let mut compressor = Compressor::new(19).expect("creates");
        compressor.include_checksum(true).expect("sets");
        let mut frame = compressor.compress(b"with a checksum").expect("compresses");
        assert!(matches!(decompress(&frame, 100), Ok(content) if content == b"with a checksum"));
        *frame.last_mut().expect("not empty") ^= 1;
        assert!(decompress(&frame, 100).is_err());
    }

    #[test]
    fn a_frame_to_be_skipped_is_no_stream() {
        assert!(decompress(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], 100).is_err());
    }
}
