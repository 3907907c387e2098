//! `stratalog-topics`: the topics of a store with their number of partitions and their config. A file of our own.
//!
//! It is a sealed text file (see `sealed_text.rs`) of kind `stratalog-topics`, version 1:
//!
//! | line | words | meaning |
//! |---|---|---|
//! | topic | `topic <name> <id> <partitions> <state>` | a topic; `<id>` is 22 characters of Base64, or `-` for none |
//! | config | `config <key> <value>` | one value that was set for the topic above; `<value>` is escaped, and empty for an empty text |
//!
//! `<state>` is `created` (made here), `adopted` (found as folders that Kafka wrote: what isn't set for it never
//! expires) or `deleting` (its folders are being renamed; opening the store goes on with that).
//! Keys and values are kept as text here; whether they are legal is the config layer's question.

use std::fmt::Write as _;

use super::error::FormatError;
use super::partition_metadata::TopicId;
use super::sealed_text::{Line, escape, seal, unescape, unseal};
use crate::name::TopicName;

/// The first word of the file.
const KIND: &str = "stratalog-topics";

/// The version this build writes and knows.
const VERSION: u32 = 1;

/// The most partitions of a topic: their numbers have at most five digits, so that the longest topic name still makes a
/// folder's name of 255 bytes.
pub(crate) const PARTITION_COUNT_MAX: u32 = 100_000;

/// Stands for a missing id.
const NO_ID: &str = "-";

/// Where a topic stands between creation and deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicState {
    /// Made by this store.
    Created,
    /// Found as folders that somebody else wrote.
    Adopted,
    /// On its way out.
    Deleting,
}

impl TopicState {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Created, "created"), (Self::Adopted, "adopted"), (Self::Deleting, "deleting")];

    fn word(self) -> &'static str {
        Self::ALL.into_iter().find(|(state, _)| *state == self).map_or("created", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == word).map(|(state, _)| state)
    }
}

/// One topic of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    /// Its name.
    pub name: TopicName,
    /// Its id; `None` where Kafka gave it none.
    pub id: Option<TopicId>,
    /// There must be partitions 0 up to this number, exclusive; missing ones are created. An adopted topic may have
    /// more.
    pub partition_count: u32,
    /// Created, adopted or deleting.
    pub state: TopicState,
    /// The values set for it.
    pub config: Vec<(String, String)>,
}

/// The bytes of a list of topics.
#[must_use]
pub(crate) fn encode_topic_list<'a>(entries: impl IntoIterator<Item = &'a TopicEntry>) -> Vec<u8> {
    let mut body = String::new();
    for entry in entries {
        let id = entry.id.map_or_else(|| NO_ID.to_owned(), |id| id.to_string());
        // Writing to a String can't fail.
        let _ = writeln!(body, "topic {} {id} {} {}", entry.name, entry.partition_count, entry.state.word());
        for (key, value) in &entry.config {
            let _ = writeln!(body, "config {} {}", escape(key), escape(value));
        }
    }
    seal(KIND, VERSION, &body)
}

/// The topics of a file.
///
/// # Errors
/// A [`FormatError`] for a file that was changed since it was written, or that a later version wrote.
pub(crate) fn parse_topic_list(bytes: &[u8]) -> Result<Vec<TopicEntry>, FormatError> {
    let mut entries: Vec<TopicEntry> = Vec::new();
    for line in unseal(KIND, VERSION, bytes)? {
        match line.kind() {
            "topic" => entries.push(parse_topic(&line)?),
            "config" => {
                let entry = entries.last_mut().ok_or_else(|| line.refused("a topic before its config"))?;
                entry.config.push(parse_config(&line)?);
            }
            _ => return Err(line.refused("`topic` or `config`")),
        }
    }
    Ok(entries)
}

fn parse_topic(line: &Line<'_>) -> Result<TopicEntry, FormatError> {
    let [_, name, id, partition_count, state] = line.words("a topic with name, id, partitions and state")?;
    let count = partition_count.parse().ok().filter(|count| *count <= PARTITION_COUNT_MAX);
    let id = match id {
        NO_ID => None,
        text => Some(text.parse().map_err(|_| line.refused("a topic id of 22 Base64 characters"))?),
    };
    Ok(TopicEntry {
        name: TopicName::parse(name).map_err(|_| line.refused("a legal topic name"))?,
        id,
        partition_count: count.ok_or_else(|| line.refused("a number of partitions up to 100000"))?,
        state: TopicState::parse(state).ok_or_else(|| line.refused("the state created, adopted or deleting"))?,
        config: Vec::new(),
    })
}

fn parse_config(line: &Line<'_>) -> Result<(String, String), FormatError> {
    let [_, key, value] = line.words("a config key and its value")?;
    let text = |word| unescape(word).ok_or_else(|| line.refused("escaped text"));
    Ok((text(key)?, text(value)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, state: TopicState, config: &[(&str, &str)]) -> TopicEntry {
        TopicEntry {
            name: TopicName::parse(name).unwrap(),
            id: Some(TopicId::from_bytes([7; 16])),
            partition_count: 3,
            state,
            config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn every_field_survives() {
        let adopted = TopicEntry { id: None, ..entry("b", TopicState::Adopted, &[]) };
        let config = [("retention.ms", "-1"), ("cleanup.policy", ""), ("odd", "a b%\n")];
        let list = [entry("a", TopicState::Created, &config), adopted, entry("c", TopicState::Deleting, &[])];
        assert_eq!(parse_topic_list(&encode_topic_list(&list)).unwrap(), list);
        assert_eq!(parse_topic_list(&encode_topic_list(&[])).unwrap(), []);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused_by_its_number() {
        for body in [
            "config retention.ms 1\n",
            "topic a - 1\n",
            "topic ../a - 1 created\n",
            "topic a - -1 created\n",
            "topic a - 100001 created\n",
            "topic a - 1 gone\n",
            "topic a short 1 created\n",
            "other\n",
        ] {
            let error = parse_topic_list(&seal(KIND, VERSION, body)).unwrap_err();
            assert!(matches!(error, FormatError::Text { line: 2, .. }), "{body:?}: {error}");
        }
    }
}
