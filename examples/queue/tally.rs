//! What went through the queue, small enough to keep and strict enough to prove that nothing was lost or changed.

use std::collections::HashMap;

use crate::options::SEQUENCE_SIZE;

/// A count, a checksum over all keys and values that doesn't depend on the order of partitions, and how far each key came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    checksum: u64,
    /// The sequence number that each key goes on with.
    next: HashMap<Vec<u8>, u64>,
}

impl Tally {
    /// Counts a record, whose value begins with its sequence number within its key.
    ///
    /// # Errors
    /// Words about a record that is missing, repeated or out of order.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let name = || String::from_utf8_lossy(key).into_owned();
        let Some(sequence) = value.first_chunk::<SEQUENCE_SIZE>().map(|bytes| u64::from_be_bytes(*bytes)) else {
            return Err(format!("{}: a value of {} bytes, nobody produced that", name(), value.len()));
        };
        if let Some(next) = self.next.get_mut(key) {
            if *next != sequence {
                return Err(format!("{}: expected record {next}, got {sequence}", name()));
            }
            *next += 1;
        } else {
            self.next.insert(key.to_vec(), sequence + 1);
        }
        self.records += 1;
        self.bytes += (key.len() + value.len()) as u64;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(key), value);
        self.checksum = self.checksum.wrapping_add(checksum.into());
        Ok(())
    }

    /// This and `other` together, which have no key in common.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.records += other.records;
        self.bytes += other.bytes;
        self.checksum = self.checksum.wrapping_add(other.checksum);
        self.next.extend(other.next);
        self
    }

    /// Holds this against what was produced.
    ///
    /// # Errors
    /// Words about what differs.
    pub fn must_equal(&self, produced: &Self) -> Result<(), String> {
        if self == produced {
            return Ok(());
        }
        let describe = |tally: &Self| format!("{} records, checksum {:016x}", tally.records, tally.checksum);
        Err(format!("records were lost or changed: expected {}, got {}", describe(produced), describe(self)))
    }
}
