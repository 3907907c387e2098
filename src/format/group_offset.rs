//! The records of `__consumer_offsets` that say up to where a group has read a partition. The topic's other records, about the
//! groups themselves, are recognised by their keys and left alone.
//!
//! Key, plain encoding (see `flexible.rs`):
//!
//! | field | type | meaning |
//! |---|---|---|
//! | version | i16 | the kind of record: 0 and 1 are committed offsets, 1 is written; others are left alone |
//! | group | string | |
//! | topic | string | |
//! | partition | i32 | |
//!
//! Value; version 4, the only one in the flexible encoding, is written, or 1 when there is an expiry:
//!
//! | field | type | versions | meaning; none |
//! |---|---|---|---|
//! | version | i16 | 0-4 | |
//! | offset | i64 | 0-4 | the next one to read |
//! | leader epoch | i32 | 3-4 | of the last record read; -1 |
//! | metadata | string | 0-4 | the program's own words |
//! | commit timestamp | i64 | 0-4 | milliseconds; -1 |
//! | expire timestamp | i64 | 1 | milliseconds; -1 |
//! | tag 0 | 16 bytes | 4 | the topic's id; left out |
//!
//! No value (a tombstone) means that the offset was deleted or has expired.

use super::error::FormatError;
use super::flexible::{Encoding, Reader, Writer, invalid};
use super::partition_metadata::TopicId;
use crate::name::TopicPartition;
use crate::types::{LeaderEpoch, Offset, Position, Timestamp};

const KEY_VERSION: i16 = 1;
const VALUE_VERSION: i16 = 4;
/// The only version with an expiry.
const EXPIRING_VALUE_VERSION: i16 = 1;

/// What the key of a record in `__consumer_offsets` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GroupLogKey {
    /// The record is a committed offset of a group.
    Offset {
        /// The group.
        group: String,
        /// The partition it has read.
        partition: TopicPartition,
    },
    /// The record is of another kind: a group, its members or what they were assigned.
    Other(i16),
}

impl GroupLogKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a key too short for its version, and for the key of a committed offset that is none.
    pub fn parse(key: &[u8]) -> Result<Self, FormatError> {
        let mut key = Reader::new(key);
        match key.i16("group key version")? {
            0 | 1 => {}
            other => return Ok(Self::Other(other)),
        }
        let group = key.string("group")?.to_owned();
        let partition = TopicPartition::new(key.topic()?, key.partition()?);
        key.end("offset key")?;
        Ok(Self::Offset { group, partition })
    }
}

/// The key of a group's offset in a partition. The group has at most 32767 bytes.
#[must_use]
pub fn encode_offset_key(group: &str, partition: &TopicPartition) -> Vec<u8> {
    let mut key = Writer::new(KEY_VERSION, Encoding::Plain);
    key.put_string(group);
    key.put_string(partition.topic.as_str());
    key.put(&partition.partition.value().to_be_bytes());
    key.finish()
}

/// Up to where a group has read a partition.
///
/// # Example
/// ```
/// use stratalog::Offset;
/// use stratalog::format::CommittedOffset;
///
/// let position = CommittedOffset::new(Offset::ZERO).metadata("before the restart");
/// assert_eq!(position.metadata, "before the restart");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset to read next.
    pub offset: Offset,
    /// The leader epoch of the last record that was read.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The program's own words.
    pub metadata: String,
    /// When it was committed; whoever stores an offset without one puts the present time.
    pub timestamp: Option<Timestamp>,
    /// When it expires, where the commit itself said so.
    pub expire_timestamp: Option<Timestamp>,
    /// The id of the topic, where the commit named it by id.
    pub topic_id: Option<TopicId>,
}

impl CommittedOffset {
    /// The position at which `offset` is to be read next, and nothing more.
    #[must_use]
    pub const fn new(offset: Offset) -> Self {
        Self {
            offset,
            leader_epoch: None,
            metadata: String::new(),
            timestamp: None,
            expire_timestamp: None,
            topic_id: None,
        }
    }

    /// The same with words of the program's own, at most 4096 bytes.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<String>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// The same with the leader epoch of the last record that was read.
    #[must_use]
    pub const fn leader_epoch(mut self, leader_epoch: LeaderEpoch) -> Self {
        self.leader_epoch = Some(leader_epoch);
        self
    }

    /// The value's bytes: version 4, or version 1, which has no room for a leader epoch and a topic id, when there is an expiry.
    /// The metadata of an offset with an expiry has at most 32767 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        if self.expire_timestamp.is_some() {
            return self.encode_expiring();
        }
        let mut value = Writer::new(VALUE_VERSION, Encoding::Flexible);
        value.put(&self.offset.value().to_be_bytes());
        value.put(&LeaderEpoch::to_wire(self.leader_epoch).to_be_bytes());
        value.put_string(&self.metadata);
        value.put(&Timestamp::to_wire(self.timestamp).to_be_bytes());
        match self.topic_id {
            Some(id) => value.put_tags(&[(0, &id.to_bytes())]),
            None => value.put_tags(&[]),
        }
        value.finish()
    }

    fn encode_expiring(&self) -> Vec<u8> {
        let mut value = Writer::new(EXPIRING_VALUE_VERSION, Encoding::Plain);
        value.put(&self.offset.value().to_be_bytes());
        value.put_string(&self.metadata);
        value.put(&Timestamp::to_wire(self.timestamp).to_be_bytes());
        value.put(&Timestamp::to_wire(self.expire_timestamp).to_be_bytes());
        value.finish()
    }

    /// Reads a value of version 0 to 4.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for another version, and for bytes that are no such value.
    pub fn parse(value: &[u8]) -> Result<Self, FormatError> {
        let mut value = Reader::new(value);
        let version = value.i16("offset value version")?;
        match version {
            0..=3 => {}
            VALUE_VERSION => value.set_encoding(Encoding::Flexible),
            got => return Err(invalid("offset value version", Position::ZERO, "0 to 4", got.into())),
        }
        let offset = value.wrapped("offset", "a number that is not negative", Reader::i64, Offset::new)?;
        let leader_epoch = if version >= 3 { LeaderEpoch::new(value.i32("leader epoch")?) } else { None };
        let metadata = value.string("metadata")?.to_owned();
        let timestamp = Timestamp::from_millis(value.i64("commit timestamp")?);
        let expire_timestamp = match version {
            EXPIRING_VALUE_VERSION => Timestamp::from_millis(value.i64("expire timestamp")?),
            _ => None,
        };
        let mut topic_id = None;
        value.tags(|tag, field| {
            if tag == 0 {
                topic_id = Some(TopicId::from_bytes(field.bytes("topic id")?)).filter(|id| *id != TopicId::ZERO);
                field.end("topic id")?;
            }
            Ok(())
        })?;
        value.end("offset value")?;
        Ok(Self { offset, leader_epoch, metadata, timestamp, expire_timestamp, topic_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::test_vectors::{CONSUMER_OFFSETS_LOGS, hex, records_of};
    use crate::name::{PartitionId, TopicName};
    use proptest::prelude::*;

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicName::parse("t").expect("legal"), PartitionId::new(3).expect("legal"))
    }

    fn committed() -> CommittedOffset {
        CommittedOffset {
            timestamp: Timestamp::from_millis(1000),
            ..CommittedOffset::new(Offset::new(42).expect("legal")).leader_epoch(LeaderEpoch::new(7).expect("legal"))
        }
    }

    #[test]
    fn every_offset_that_kafka_wrote_is_read_and_written_again_with_its_bytes() {
        let (mut offsets, mut tombstones, mut others, mut ids, mut words) = (0, 0, 0, 0, 0);
        for record in CONSUMER_OFFSETS_LOGS.into_iter().flat_map(records_of) {
            let key = record.key().expect("a key");
            let GroupLogKey::Offset { group, partition } = GroupLogKey::parse(key).expect("Kafka's key") else {
                others += 1;
                continue;
            };
            assert_eq!(encode_offset_key(&group, &partition), key);
            let Some(value) = record.value() else {
                tombstones += 1;
                continue;
            };
            let committed = CommittedOffset::parse(value).expect("Kafka's value");
            assert_eq!(committed.encode(), value, "{group} {partition}: {committed:?}");
            offsets += 1;
            ids += u32::from(committed.topic_id.is_some());
            words += u32::from(!committed.metadata.is_empty());
        }
        let seen = [offsets, tombstones, others, ids, words];
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    }

    #[test]
    fn keys_and_values_have_kafkas_bytes() {
        let key = hex("000100016700017400000003");
        assert_eq!(encode_offset_key("g", &partition()), key);
        let expected = GroupLogKey::Offset { group: "g".into(), partition: partition() };
        assert_eq!(GroupLogKey::parse(&key), Ok(expected.clone()));
        assert_eq!(GroupLogKey::parse(&[&[0, 0], &key[2..]].concat()), Ok(expected));

        let v4 = hex("0004000000000000002a000000070100000000000003e800");
        assert_eq!(committed().encode(), v4);
        assert_eq!(CommittedOffset::parse(&v4), Ok(committed()));
        let with_id = CommittedOffset { topic_id: Some(TopicId::from_bytes([9; 16])), ..committed() };
        let bytes = [&v4[..v4.len() - 1], &[1, 0, 16], &[9; 16]].concat();
        assert_eq!(with_id.encode(), bytes);
        assert_eq!(CommittedOffset::parse(&bytes), Ok(with_id));
    }

    #[test]
    fn every_older_version_is_read() {
        let without_epoch = CommittedOffset { leader_epoch: None, ..committed() };
        let v0 = hex("0000000000000000002a000000000000000003e8");
        assert_eq!(CommittedOffset::parse(&v0), Ok(without_epoch.clone()));
        let v2 = [&[0, 2], &v0[2..]].concat();
        assert_eq!(CommittedOffset::parse(&v2), Ok(without_epoch.clone()));
        let v1 = [&[0, 1], &v0[2..], &[0, 0, 0, 0, 0, 0, 7, 0xd0]].concat();
        let expiring = CommittedOffset { expire_timestamp: Timestamp::from_millis(2000), ..without_epoch };
        assert_eq!(CommittedOffset::parse(&v1), Ok(expiring.clone()));
        assert_eq!(expiring.encode(), v1);
        let v3 = hex("0003000000000000002a00000007000000000000000003e8");
        assert_eq!(CommittedOffset::parse(&v3), Ok(committed()));
    }

    #[test]
    fn other_kinds_of_records_are_recognised_and_left_alone() {
        for kind in [2, 3, 8, 16, 23, 77, -1] {
            let key = [&i16::to_be_bytes(kind)[..], b"whatever"].concat();
            assert_eq!(GroupLogKey::parse(&key), Ok(GroupLogKey::Other(kind)));
        }
        assert!(GroupLogKey::parse(&[0]).is_err());
    }

    #[test]
    fn keys_and_values_cut_anywhere_or_with_a_tail_are_refused() {
        let (key, value) = (encode_offset_key("g", &partition()), committed().encode());
        assert!((0..key.len()).all(|size| GroupLogKey::parse(&key[..size]).is_err()));
        assert!((0..value.len()).all(|size| CommittedOffset::parse(&value[..size]).is_err()));
        assert!(GroupLogKey::parse(&[&key[..], &[0]].concat()).is_err());
        assert!(CommittedOffset::parse(&[&value[..], &[0]].concat()).is_err());
        assert!(CommittedOffset::parse(&[&[0, 5], &value[2..]].concat()).is_err(), "version 5");
        assert!(GroupLogKey::parse(&hex("0001000167000174ffffffff")).is_err(), "partition -1");
        assert!(GroupLogKey::parse(&hex("000100016700012f00000003")).is_err(), "topic /");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, version in 0_u8..5) {
            let _ = GroupLogKey::parse(&bytes);
            let _ = GroupLogKey::parse(&[&[0, version], &bytes[..]].concat());
            let _ = CommittedOffset::parse(&[&[0, version], &bytes[..]].concat());
        }
    }
}
