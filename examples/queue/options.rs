//! The command line of the queue.

use std::path::PathBuf;

/// Bytes of the sequence number that every value begins with.
pub const SEQUENCE_SIZE: usize = 8;
const VALUE_SIZE_MAX: usize = 64 << 20;

/// How much to do, and where.
pub struct Options {
    /// The store's folder.
    pub dir: PathBuf,
    /// Whether the folder is ours to remove.
    pub is_temporary: bool,
    /// Records to produce.
    pub records: u64,
    /// Bytes of each record's value.
    pub value_size: usize,
}

impl Options {
    /// Reads the words of the command line.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let temporary = std::env::temp_dir().join(format!("stratalog-queue-{}", std::process::id()));
        let mut options = Self { dir: temporary, is_temporary: true, records: 2_000_000, value_size: 100 };
        while let Some(option) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{option} needs a value"));
            match option.as_str() {
                "--dir" => {
                    options.dir = PathBuf::from(value()?);
                    options.is_temporary = false;
                }
                "--records" => {
                    let word = value()?;
                    options.records = word
                        .parse()
                        .ok()
                        .filter(|&records| records > 0)
                        .ok_or_else(|| format!("--records: expected a number from 1, got {word:?}"))?;
                }
                "--size" => {
                    let (word, legal) = (value()?, SEQUENCE_SIZE..=VALUE_SIZE_MAX);
                    options.value_size = word.parse().ok().filter(|size| legal.contains(size)).ok_or_else(|| {
                        format!("--size: expected {SEQUENCE_SIZE} to {VALUE_SIZE_MAX} bytes, got {word:?}")
                    })?;
                }
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(options)
    }
}
