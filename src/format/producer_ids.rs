//! `stratalog-producer-ids`: the first producer id that was never handed out. A file of our own; Kafka keeps its like in the
//! controllers' log.
//!
//! It is a sealed text file (see `sealed_text.rs`) of kind `stratalog-producer-ids`, version 1, whose body is one line:
//!
//! | line | words | meaning |
//! |---|---|---|
//! | next | `next <id>` | every id below has been, or may have been, given to a producer |
//!
//! Deleting the file loses no record: ids go on above the greatest that the logs know.

use super::error::FormatError;
use super::sealed_text::{seal, unseal};
use crate::types::ProducerId;

/// The first word of the file.
const KIND: &str = "stratalog-producer-ids";

/// The version this build writes and knows.
const VERSION: u32 = 1;

/// The bytes of the file.
#[must_use]
pub(crate) fn encode_producer_ids(next: ProducerId) -> Vec<u8> {
    seal(KIND, VERSION, &format!("next {next}\n"))
}

/// The id that a file names.
///
/// # Errors
/// A [`FormatError`] for a file that was changed since it was written, or that a later version wrote.
pub(crate) fn parse_producer_ids(bytes: &[u8]) -> Result<ProducerId, FormatError> {
    const EXPECTED: &str = "one line: `next` and a producer id";
    let lines: Vec<_> = unseal(KIND, VERSION, bytes)?.collect();
    let [line] = lines.as_slice() else {
        return Err(FormatError::text(KIND, 2, EXPECTED, bytes));
    };
    let [word, id] = line.words(EXPECTED)?;
    let id = id.parse().ok().and_then(ProducerId::new);
    id.filter(|_| word == "next").ok_or_else(|| line.refused(EXPECTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_survives_and_nothing_else_parses() {
        for id in [ProducerId::ZERO, ProducerId::MAX] {
            assert_eq!(parse_producer_ids(&encode_producer_ids(id)), Ok(id));
        }
        for body in ["", "next -1\n", "next x\n", "last 1\n", "next 1\nnext 2\n", "next 1 2\n"] {
            assert!(parse_producer_ids(&seal(KIND, VERSION, body)).is_err(), "{body:?}");
        }
    }
}
