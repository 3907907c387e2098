//! `partition.metadata`: which topic a partition folder belongs to, and the id of a topic, in the text that it has there.
//!
//! | line | content |
//! |-----:|---------|
//! | 1 | `version: 0`; newer versions are read as far as line 2 |
//! | 2 | `topic_id: ` and the id; no line end after it when written |
//!
//! An id is 128 bits, in text 22 characters of URL-safe Base64 without padding.

use super::error::FormatError;
use std::fmt;
use std::str::FromStr;

/// The identity of a topic, which outlives its name: a topic created again has another one.
///
/// # Example
/// ```
/// use stratalog::format::TopicId;
///
/// let id: TopicId = "v0M09RQnQGSwJyGa4Y-6ug".parse()?;
/// assert_eq!(id.to_string(), "v0M09RQnQGSwJyGa4Y-6ug");
/// # Ok::<(), stratalog::format::FormatError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId([u8; 16]);

/// The digits of URL-safe Base64, by value.
const DIGITS: [u8; 64] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Digits of 128 bits, the last of them with 4 bits to spare.
const ID_SIZE: usize = 22;

impl TopicId {
    /// Kafka's "no topic"; no partition has it.
    pub const ZERO: Self = Self([0; 16]);

    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// A new id from 128 random bits, of which 6 give way to those that mark a random UUID. It is none of Kafka's
    /// reserved ids, 0 and 1, and its text never begins with `-`, which command lines would take for an option.
    #[must_use]
    pub fn from_random(high: u64, low: u64) -> Self {
        let version_4 = high & !0xf000 | 0x4000;
        let variant_1 = low & !(0b11 << 62) | 0b10 << 62;
        let bits = u128::from(version_4) << 64 | u128::from(variant_1);
        let dash = 0b11_1110;
        let bits = if bits >> 122 == dash { bits ^ 1 << 127 } else { bits };
        Self(bits.to_be_bytes())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        let text: String = (0..ID_SIZE)
            .map(|digit| {
                // 21 digits from the top, and the 2 bits that are left at the top of the last one.
                let value = if digit == ID_SIZE - 1 { bits << 4 } else { bits >> (122 - 6 * digit) } & 0x3f;
                let index = usize::try_from(value).unwrap_or_default();
                char::from(DIGITS.get(index).copied().unwrap_or_default())
            })
            .collect();
        f.pad(&text)
    }
}

impl FromStr for TopicId {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        parse_base64(text.as_bytes()).ok_or_else(|| {
            FormatError::text("topic id", 1, "22 characters of URL-safe Base64 without padding", text.as_bytes())
        })
    }
}

fn parse_base64(text: &[u8]) -> Option<TopicId> {
    let value = |digit: &u8| DIGITS.iter().position(|known| known == digit).map(|value| value as u128);
    let (last, digits) = text.split_last()?;
    if text.len() != ID_SIZE {
        return None;
    }
    let bits = digits.iter().try_fold(0, |bits: u128, digit| Some(bits << 6 | value(digit)?))?;
    let last = value(last)?;
    // The spare bits are zero in every id that was written; a text with others would be a second name of the same id.
    (last & 0b1111 == 0).then(|| TopicId((bits << 2 | last >> 4).to_be_bytes()))
}

/// What `partition.metadata` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The topic that the folder belongs to; never [`TopicId::ZERO`] when parsed.
    pub topic_id: TopicId,
}

impl PartitionMetadata {
    const WHAT: &'static str = "partition.metadata";

    /// Reads a whole file.
    ///
    /// # Errors
    /// `Text` at the first line that breaks the format.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut lines = bytes.split(|&byte| byte == b'\n');
        let line = lines.next().unwrap_or_default();
        value_of(line, "version:")
            .and_then(|version| version.parse::<i32>().ok())
            .filter(|&version| version >= 0)
            .ok_or_else(|| FormatError::text(Self::WHAT, 1, "`version: ` and a version", line))?;
        let line = lines.next().unwrap_or_default();
        value_of(line, "topic_id:")
            .and_then(|id| parse_base64(id.as_bytes()))
            .filter(|&topic_id| topic_id != TopicId::ZERO)
            .map(|topic_id| Self { topic_id })
            .ok_or_else(|| FormatError::text(Self::WHAT, 2, "`topic_id: ` and an id other than zero", line))
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        format!("version: 0\ntopic_id: {}", self.topic_id).into_bytes()
    }
}

/// The second of exactly two tokens, when the first is `name`.
fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a str> {
    let mut tokens = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(first), Some(value), None) if first == name => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    const FILE: &[u8] = b"version: 0\ntopic_id: v0M09RQnQGSwJyGa4Y-6ug";

    #[test]
    fn the_file_has_kafkas_bytes() {
        let metadata = PartitionMetadata::parse(FILE).expect("legal");
        assert_eq!(metadata.topic_id.to_string(), "v0M09RQnQGSwJyGa4Y-6ug");
        assert_eq!(metadata.encode(), FILE);
        let metadata_log = PartitionMetadata::parse(b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ").expect("legal");
        assert_eq!(metadata_log.topic_id, TopicId::from_bytes(1_u128.to_be_bytes()));
    }

    #[test]
    fn a_newer_version_is_read() {
        assert!(PartitionMetadata::parse(b"version: 7\ntopic_id:\tv0M09RQnQGSwJyGa4Y-6ug\r\nmore: 1\n").is_ok());
    }

    #[test]
    fn lines_that_break_the_format_are_named() {
        let cases: [(&[u8], usize); 10] = [
            (b"", 1),
            (b"version:0\ntopic_id: v0M09RQnQGSwJyGa4Y-6ug", 1),
            (b"version: -1\ntopic_id: v0M09RQnQGSwJyGa4Y-6ug", 1),
            (b"version: 0 0\ntopic_id: v0M09RQnQGSwJyGa4Y-6ug", 1),
            (b"version: 0", 2),
            (b"version: 0\ntopic_id: v0M09RQnQGSwJyGa4Y-6u", 2),
            (b"version: 0\ntopic_id: v0M09RQnQGSwJyGa4Y-6ugA", 2),
            (b"version: 0\ntopic_id: v0M09RQnQGSwJyGa4Y+6ug", 2),
            (b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA", 2),
            (b"version: 0\ntopic_id: v0M09RQnQGSwJyGa4Y-6uh", 2),
        ];
        for (file, bad) in cases {
            let error = PartitionMetadata::parse(file).expect_err("breaks the format");
            assert!(matches!(error, FormatError::Text { line, .. } if line == bad), "{error}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        for size in 0..FILE.len() {
            assert!(PartitionMetadata::parse(&FILE[..size]).is_err());
        }
    }

    #[test]
    fn new_ids_are_never_reserved_and_never_begin_with_a_dash() {
        assert_eq!(TopicId::from_random(0, 0).to_string(), "AAAAAAAAQACAAAAAAAAAAA");
        let would_begin_with_a_dash = 0b11_1110 << 58;
        assert!(TopicId::from_random(would_begin_with_a_dash, 1).to_string().starts_with('e'));
    }

    proptest! {
        #[test]
        fn ids_are_url_safe_base64(bytes: [u8; 16]) {
            let id = TopicId::from_bytes(bytes);
            prop_assert_eq!(id.to_string(), URL_SAFE_NO_PAD.encode(bytes));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn new_ids_are_random_uuids(high: u64, low: u64) {
            let id = TopicId::from_random(high, low);
            prop_assert!(!id.to_string().starts_with('-'));
            prop_assert_eq!((id.to_bytes()[6] >> 4, id.to_bytes()[8] >> 6), (4, 0b10));
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, text: String) {
            let _ = PartitionMetadata::parse(&bytes);
            let _ = text.parse::<TopicId>();
        }
    }
}
