//! Zstandard: one frame, written without content size and checksum as Kafka does. Read are any number of frames, some of
//! which may be empty or to be skipped; libzstd goes through them by itself and refuses whatever else follows a frame.
//!
//! The size of the content is known only after decoding, so the target starts small and is enlarged until the content
//! fits or the limit is reached. Decoding straight into the target needs no window: the window that a damaged header
//! declares is never allocated.

use super::Refusal;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{DCtx, get_error_name};

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
    if input.is_empty() {
        return Err("no zstd frame begins here".into());
    }
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
    fn frames_to_be_skipped_may_stand_anywhere() {
        let frame = |content: &[u8]| Compressor::new(3).expect("creates").compress(content).expect("compresses");
        let skipped = |number: u8, size: u8| {
            [&[0x50 + number, 0x2a, 0x4d, 0x18, size, 0, 0, 0][..], &vec![9; size.into()]].concat()
        };
        let bytes =
            [skipped(0, 0), frame(b"one "), skipped(15, 3), frame(b""), frame(b"two"), skipped(7, 200)].concat();
        assert!(matches!(decompress(&bytes, 7), Ok(content) if content == b"one two"));
        assert!(matches!(decompress(&bytes, 6), Err(Refusal::TooLarge(7))));
        assert!(matches!(decompress(&skipped(3, 5), 0), Ok(content) if content.is_empty()));
        for cut in 1..13 {
            assert!(decompress(&skipped(3, 5)[..cut], 100).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_window_that_a_frame_declares_is_not_allocated() {
        // A window of 2^41 bytes before a raw block of one byte: single pass decoding needs none.
        let bytes = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x09, 0, 0, b'a'];
        assert!(!matches!(decompress(&bytes, 100), Ok(content) if content != b"a"));
    }
}
