//! The two checksums of the log, never mixed: CRC-32C for batches and producer snapshots, CRC-32 IEEE for messages v0 and v1.

/// CRC-32C (Castagnoli), as in batches v2 and producer snapshots.
#[must_use]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32 (IEEE, zlib's polynomial), as in messages v0 and v1.
#[must_use]
pub(crate) fn crc32_ieee(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_both_polynomials() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32_ieee(b"123456789"), 0xcbf4_3926);
    }
}
