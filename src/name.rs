//! Legal topic names, partition numbers, and the pair of both.
//!
//! A [`TopicName`] has been checked against Kafka's rules when it was made, so it is safe as part of a folder's name:
//! no separator, no `.` or `..`, ASCII only, short enough. Folder names themselves are built and parsed in `format/`.
//! Whether two names may stand beside each other is the store's question; [`TopicName::collides_with`] answers it.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::types::ErrorKind;

/// The most characters a topic name may have: 255 of a file name less `-` and a five-digit partition.
pub const TOPIC_NAME_LENGTH_MAX: usize = 249;

/// The topic of Kafka's own controllers: readable, never written.
const CLUSTER_METADATA: &str = "__cluster_metadata";

/// The topics that Kafka makes for itself.
const INTERNAL_TOPICS: [&str; 4] =
    ["__consumer_offsets", "__transaction_state", "__share_group_state", CLUSTER_METADATA];

/// How many characters of a refused text an error repeats.
const SHOWN_LENGTH_MAX: usize = 64;

/// A topic name that Kafka would accept. Cloning it is cheap.
///
/// # Example
///
/// ```
/// use stratalog::name::TopicName;
///
/// let orders = TopicName::parse("orders.eu")?;
/// assert_eq!(orders.as_str(), "orders.eu");
/// assert!(TopicName::parse("../orders").is_err());
/// # Ok::<(), stratalog::name::NameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Takes `name` if it is legal: 1 to 249 of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`, and neither `.` nor `..`.
    ///
    /// # Errors
    ///
    /// A [`NameError`] that says which rule was broken.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name == "." || name == ".." {
            return Err(NameError::Reserved { name: name.to_owned() });
        }
        if let Some((index, character)) = name.chars().enumerate().find(|(_, c)| !is_legal(*c)) {
            return Err(NameError::IllegalCharacter { name: shortened(name), character, index });
        }
        if name.len() > TOPIC_NAME_LENGTH_MAX {
            return Err(NameError::TooLong { name: shortened(name), length: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the two names differ at most by `.` against `_`. Kafka refuses to create such a neighbour.
    #[must_use]
    pub fn collides_with(&self, other: &Self) -> bool {
        let folded = |byte: u8| if byte == b'.' { b'_' } else { byte };
        self.0.bytes().map(folded).eq(other.0.bytes().map(folded))
    }

    /// Whether Kafka keeps this topic for itself (`__consumer_offsets` and its like, `__cluster_metadata` included).
    #[must_use]
    pub fn is_internal(&self) -> bool {
        INTERNAL_TOPICS.contains(&self.as_str())
    }

    /// Whether this is the log of Kafka's controllers, which is read but never written here.
    #[must_use]
    pub fn is_cluster_metadata(&self) -> bool {
        self.as_str() == CLUSTER_METADATA
    }
}

const fn is_legal(character: char) -> bool {
    matches!(character, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-')
}

/// The beginning of `text`, short enough for an error message whatever the caller handed in.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_LENGTH_MAX).and_then(|(end, _)| text.get(..end)) {
        Some(beginning) => format!("{beginning}…"),
        None => text.to_owned(),
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for TopicName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        Self::parse(name)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// Lets a map keyed by topic names be asked with plain text.
impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// A text that is no topic name. The text is shortened to 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("topic name is empty: expected 1 to {TOPIC_NAME_LENGTH_MAX} characters")]
    Empty,
    /// The name is `.` or `..`.
    #[error("topic name {name:?} is reserved")]
    Reserved {
        /// The name.
        name: String,
    },
    /// The name is over 249 characters.
    #[error("topic name {name:?} is too long: expected at most {TOPIC_NAME_LENGTH_MAX} characters, got {length}")]
    TooLong {
        /// The name, shortened.
        name: String,
        /// Its length in characters.
        length: usize,
    },
    /// A character outside the legal ones.
    #[error(
        "topic name {name:?} has the illegal character {character:?} at index {index}: \
         expected ASCII letters, digits, '.', '_' or '-'"
    )]
    IllegalCharacter {
        /// The name, shortened.
        name: String,
        /// The first illegal character.
        character: char,
        /// How many characters stand before it.
        index: usize,
    },
}

impl NameError {
    /// What this error means for a caller.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }
}

/// The number of a partition in its topic, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(i32);

impl PartitionId {
    /// The first partition.
    pub const ZERO: Self = Self(0);
    /// The largest number that a folder name can carry.
    pub const MAX: Self = Self(i32::MAX);

    /// Wraps `value`; `None` when it is negative.
    #[must_use]
    pub const fn new(value: i32) -> Option<Self> {
        if value < 0 { None } else { Some(Self(value)) }
    }

    /// The plain number, never negative.
    #[must_use]
    pub const fn value(self) -> i32 {
        self.0
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic; prints as `orders-3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition in it.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// The pair.
    #[must_use]
    pub const fn new(topic: TopicName, partition: PartitionId) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    #[test]
    fn every_legal_character_and_both_ends_of_the_length_are_accepted() {
        for text in ["a", "Z", "0", "-", "_", "...", ".a", "orders.eu_1-x", &"x".repeat(249)] {
            assert_eq!(name(text).as_str(), text);
        }
    }

    #[test]
    fn a_name_of_250_characters_is_too_long() {
        let error = TopicName::parse(&"x".repeat(250)).unwrap_err();
        assert!(matches!(&error, NameError::TooLong { length: 250, .. }), "{error}");
        assert!(error.to_string().contains("249") && error.to_string().len() < 200, "{error}");
    }

    #[test]
    fn path_tricks_are_refused() {
        for text in ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "a\0b", "a b", "a\n", "ä", "a:b", "~", "a/../b"] {
            assert!(TopicName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_error_names_the_character_and_where_it_stands() {
        let expected = NameError::IllegalCharacter { name: "oü/x".into(), character: 'ü', index: 1 };
        assert_eq!(TopicName::parse("oü/x"), Err(expected));
    }

    #[test]
    fn a_huge_refused_name_is_shortened_in_the_error() {
        let error = TopicName::parse(&"ü".repeat(100_000)).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
        assert_eq!(shortened(&"ü".repeat(64)), "ü".repeat(64));
        assert_eq!(shortened(&"ü".repeat(65)), format!("{}…", "ü".repeat(64)));
    }

    #[test]
    fn dots_and_underscores_collide_and_nothing_else_does() {
        assert!(name("a.b_c").collides_with(&name("a_b.c")));
        assert!(name("a").collides_with(&name("a")));
        assert!(!name("a-b").collides_with(&name("a_b")));
        assert!(!name("a.b").collides_with(&name("a.b.")));
    }

    #[test]
    fn kafkas_own_topics_are_internal() {
        for text in ["__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"] {
            assert!(name(text).is_internal());
        }
        assert!(!name("__mine").is_internal());
        assert!(name("__cluster_metadata").is_cluster_metadata() && !name("__consumer_offsets").is_cluster_metadata());
    }

    #[test]
    fn a_topic_partition_prints_like_its_folder() {
        let third = TopicPartition::new(name("orders-eu"), PartitionId::new(3).unwrap());
        assert_eq!(third.to_string(), "orders-eu-3");
        assert_eq!(PartitionId::new(-1), None);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_is_kept(text in ".{0,300}") {
            if let Ok(name) = TopicName::parse(&text) {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
