//! Bytes with the checksums that a fuzzer can't guess.

use stratalog::format::BATCH_HEADER_SIZE;

/// Bytes of the base offset and the size, which the size doesn't count.
const SIZE_END: usize = 12;
const MAGIC_AT: usize = 16;
/// In a batch of magic 2; in a message of magic 0 or 1 it stands before the magic, at [`SIZE_END`].
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;

/// The same bytes with batches made of them: each as long as it says, the last as long as there are bytes, and with the
/// checksum of its bytes.
pub fn sealed_log(bytes: &[u8]) -> Vec<u8> {
    let mut log = bytes.to_vec();
    let mut rest = log.as_mut_slice();
    while rest.len() >= BATCH_HEADER_SIZE {
        let said = u32::from_be_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize;
        let left = rest.len() - SIZE_END;
        let size = if (BATCH_HEADER_SIZE - SIZE_END..=left).contains(&said) { said } else { left };
        let (batch, behind) = rest.split_at_mut(SIZE_END + size);
        batch[8..SIZE_END].copy_from_slice(&u32::try_from(size).expect("a small input").to_be_bytes());
        if batch[MAGIC_AT] == 2 {
            let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
            batch[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
        } else {
            let crc = crc32fast::hash(&batch[MAGIC_AT..]);
            batch[SIZE_END..MAGIC_AT].copy_from_slice(&crc.to_be_bytes());
        }
        rest = behind;
    }
    log
}

/// The same bytes as a producer snapshot with a right version, count and checksum.
pub fn sealed_snapshot(bytes: &[u8]) -> Vec<u8> {
    let mut snapshot = bytes.to_vec();
    if let Some(count) = bytes.len().checked_sub(10).map(|size| size / 46) {
        snapshot.truncate(10 + 46 * count);
        snapshot[..2].copy_from_slice(&[0, 1]);
        snapshot[6..10].copy_from_slice(&u32::try_from(count).expect("a small input").to_be_bytes());
        let crc = crc32c::crc32c(&snapshot[6..]);
        snapshot[2..6].copy_from_slice(&crc.to_be_bytes());
    }
    snapshot
}
