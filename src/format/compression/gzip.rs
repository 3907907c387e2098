//! gzip: one RFC 1952 member, written with no name and no time in its header.

use super::{Refusal, check_limit};
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
    // One byte more than allowed, so that content of exactly the limit still has its trailer checked.
    let mut decoder = GzDecoder::new(input).take((limit as u64).saturating_add(1));
    decoder.read_to_end(&mut content)?;
    check_limit(content.len(), limit)?;
    if decoder.into_inner().into_inner().is_empty() {
        Ok(content)
    } else {
        Err("bytes after the end of the member".into())
    }
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
}
