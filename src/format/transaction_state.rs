//! The records of `__transaction_state`: one key for each transactional id, whose last value says where its transactions stand.
//!
//! Key, version 0, plain encoding; an unknown version is to be skipped:
//!
//! | field | type | meaning |
//! |---|---|---|
//! | version | i16 | 0 |
//! | transactional id | string | |
//!
//! Value; version 1 is written, in the flexible encoding (see `flexible.rs`), version 0 is the same in the plain one and without tags:
//!
//! | field | type | meaning; none |
//! |---|---|---|
//! | version | i16 | 1 |
//! | producer id | i64 | the one in use |
//! | producer epoch | i16 | of the next data, and of the markers from `Prepare*` on |
//! | timeout | i32 | milliseconds |
//! | state | i8 | see [`TransactionState`] |
//! | partitions | array | null when `Empty`; of each topic its name, an array of i32 partitions and tags |
//! | last update | i64 | milliseconds |
//! | start | i64 | milliseconds; -1 when `Empty` |
//! | tag 0 | i64 | previous producer id; -1 |
//! | tag 1 | i64 | next producer id, in use once the transaction is complete; -1 |
//! | tag 2 | i16 | the transaction version that the producer speaks; 0 |
//! | tag 3 | i16 | next producer epoch; -1 |
//!
//! A tag that holds none is left out, and one that is unknown is skipped; a later version of a value is an error, of a key is skipped.
//! No value (a tombstone) means that the id has expired.

use super::error::FormatError;
use super::flexible::{Encoding, Reader, Writer, invalid};
use crate::name::TopicPartition;
use crate::types::{Position, ProducerEpoch, ProducerId, Timestamp};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const NOT_NEGATIVE: &str = "a number that is not negative";

/// Where the transactions of an id stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// 0: no transaction since the producer was initialised.
    Empty,
    /// 1: a transaction has partitions.
    Ongoing,
    /// 2: it was decided to commit; some partitions may lack the marker.
    PrepareCommit,
    /// 3: it was decided to abort; some partitions may lack the marker.
    PrepareAbort,
    /// 4: every partition has its commit marker.
    CompleteCommit,
    /// 5: every partition has its abort marker.
    CompleteAbort,
    /// 6: the id is about to be removed.
    Dead,
    /// 7: the producer is being fenced; Kafka keeps this one in memory only.
    PrepareEpochFence,
}

impl TransactionState {
    const ALL: [Self; 8] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
        Self::PrepareEpochFence,
    ];

    /// Kafka's number.
    #[must_use]
    pub const fn id(self) -> i8 {
        match self {
            Self::Empty => 0,
            Self::Ongoing => 1,
            Self::PrepareCommit => 2,
            Self::PrepareAbort => 3,
            Self::CompleteCommit => 4,
            Self::CompleteAbort => 5,
            Self::Dead => 6,
            Self::PrepareEpochFence => 7,
        }
    }

    /// Kafka's name, such as `PrepareCommit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
            Self::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    fn from_id(id: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.id() == id)
    }
}

/// All that is kept of one transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionEntry {
    /// The producer id in use.
    pub producer_id: ProducerId,
    /// The epoch of its next data; of its markers from `Prepare*` on.
    pub producer_epoch: ProducerEpoch,
    /// How long a transaction may take, in milliseconds.
    pub timeout_ms: u32,
    /// Where it stands.
    pub state: TransactionState,
    /// The transaction's partitions; none but when it is ongoing or prepared.
    pub partitions: Vec<TopicPartition>,
    /// When this was written.
    pub last_update: Option<Timestamp>,
    /// When the transaction got its first partition.
    pub start: Option<Timestamp>,
    /// The producer id before this one, where its epochs ran out.
    pub previous_producer_id: Option<ProducerId>,
    /// The producer id from the end of this transaction on, where the epochs of the present one have run out.
    pub next_producer_id: Option<ProducerId>,
    /// The epoch that goes with the next producer id; this crate writes none, Kafka from 4.2 on may.
    pub next_producer_epoch: Option<ProducerEpoch>,
    /// The transaction version that the producer speaks: 2 where every transaction ends with a greater epoch.
    pub client_version: i16,
}

/// The key of a transactional id of at most 32767 bytes.
#[must_use]
pub fn encode_transaction_key(transactional_id: &str) -> Vec<u8> {
    let mut key = Writer::new(KEY_VERSION, Encoding::Plain);
    key.put_string(transactional_id);
    key.finish()
}

/// The transactional id of a key; `None` for a key of another version, which is to be skipped.
///
/// # Errors
/// [`FormatError::Invalid`] for bytes that are no such key.
pub fn parse_transaction_key(key: &[u8]) -> Result<Option<&str>, FormatError> {
    let mut key = Reader::new(key);
    if key.i16("transaction key version")? != KEY_VERSION {
        return Ok(None);
    }
    let id = key.string("transactional id")?;
    key.end("transaction key")?;
    Ok(Some(id))
}

impl TransactionEntry {
    /// The value's bytes, of version 1.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Writer::new(VALUE_VERSION, Encoding::Flexible);
        value.put(&self.producer_id.value().to_be_bytes());
        value.put(&self.producer_epoch.value().to_be_bytes());
        value.put(&self.timeout_ms.to_be_bytes());
        value.put(&self.state.id().to_be_bytes());
        self.put_partitions(&mut value);
        value.put(&Timestamp::to_wire(self.last_update).to_be_bytes());
        value.put(&Timestamp::to_wire(self.start).to_be_bytes());
        let previous = self.previous_producer_id.map(|id| id.value().to_be_bytes());
        let next = self.next_producer_id.map(|id| id.value().to_be_bytes());
        let version = (self.client_version != 0).then_some(self.client_version.to_be_bytes());
        let next_epoch = self.next_producer_epoch.map(|epoch| epoch.value().to_be_bytes());
        let tags: [Option<&[u8]>; 4] = [
            previous.as_ref().map(|bytes| &bytes[..]),
            next.as_ref().map(|bytes| &bytes[..]),
            version.as_ref().map(|bytes| &bytes[..]),
            next_epoch.as_ref().map(|bytes| &bytes[..]),
        ];
        let there: Vec<(u32, &[u8])> = (0..).zip(tags).filter_map(|(tag, bytes)| Some((tag, bytes?))).collect();
        value.put_tags(&there);
        value.finish()
    }

    fn put_partitions(&self, value: &mut Writer) {
        if self.state == TransactionState::Empty {
            value.put_count(None);
            return;
        }
        let topics: Vec<_> = self.partitions.chunk_by(|one, next| one.topic == next.topic).collect();
        value.put_count(Some(topics.len()));
        for partitions in topics {
            if let Some(first) = partitions.first() {
                value.put_string(first.topic.as_str());
            }
            value.put_count(Some(partitions.len()));
            partitions.iter().for_each(|one| value.put(&one.partition.value().to_be_bytes()));
            value.put_tags(&[]);
        }
    }

    /// Reads a value of version 0 or 1.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for another version, and for bytes that are no such value.
    pub fn parse(value: &[u8]) -> Result<Self, FormatError> {
        let mut value = Reader::new(value);
        match value.i16("transaction value version")? {
            0 => {}
            1 => value.set_encoding(Encoding::Flexible),
            got => return Err(invalid("transaction value version", Position::ZERO, "0 or 1", got.into())),
        }
        let mut entry = Self {
            producer_id: value.wrapped("producer id", NOT_NEGATIVE, Reader::i64, ProducerId::new)?,
            producer_epoch: value.wrapped("producer epoch", NOT_NEGATIVE, Reader::i16, ProducerEpoch::new)?,
            timeout_ms: value.wrapped("timeout", NOT_NEGATIVE, Reader::i32, |ms| u32::try_from(ms).ok())?,
            state: value.wrapped("transaction state", "0 to 7", Reader::i8, TransactionState::from_id)?,
            partitions: read_partitions(&mut value)?,
            last_update: value.i64("last update").map(Timestamp::from_millis)?,
            start: value.i64("start").map(Timestamp::from_millis)?,
            previous_producer_id: None,
            next_producer_id: None,
            next_producer_epoch: None,
            client_version: 0,
        };
        value.tags(|tag, field| entry.read_tag(tag, field))?;
        value.end("transaction value")?;
        if entry.state == TransactionState::Empty {
            // Kafka ignores what stands there too.
            entry.partitions.clear();
        }
        Ok(entry)
    }

    fn read_tag(&mut self, tag: u32, field: &mut Reader<'_>) -> Result<(), FormatError> {
        match tag {
            0 => self.previous_producer_id = ProducerId::new(field.i64("previous producer id")?),
            1 => self.next_producer_id = ProducerId::new(field.i64("next producer id")?),
            2 => self.client_version = field.i16("transaction version")?,
            3 => self.next_producer_epoch = ProducerEpoch::new(field.i16("next producer epoch")?),
            _ => return Ok(()),
        }
        field.end("tagged field")
    }
}

fn read_partitions(value: &mut Reader<'_>) -> Result<Vec<TopicPartition>, FormatError> {
    let mut partitions = Vec::new();
    for _ in 0..value.count("topics of the transaction")?.unwrap_or(0) {
        let topic = value.topic()?;
        for _ in 0..value.count("partitions of the topic")?.unwrap_or(0) {
            partitions.push(TopicPartition::new(topic.clone(), value.partition()?));
        }
        value.tags(|_, _| Ok(()))?;
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::test_vectors::{TRANSACTION_STATE_LOGS, hex, records_of};
    use crate::name::{PartitionId, TopicName};
    use proptest::prelude::*;

    fn partition(topic: &str, number: i32) -> TopicPartition {
        TopicPartition::new(TopicName::parse(topic).expect("legal"), PartitionId::new(number).expect("legal"))
    }

    fn ongoing() -> TransactionEntry {
        TransactionEntry {
            producer_id: ProducerId::new(12).expect("legal"),
            producer_epoch: ProducerEpoch::ZERO,
            timeout_ms: 60_000,
            state: TransactionState::Ongoing,
            partitions: vec![partition("transactions", 0), partition("transactions", 1)],
            last_update: Timestamp::from_millis(1_795_259_843_362),
            start: Timestamp::from_millis(1_795_259_843_362),
            previous_producer_id: None,
            next_producer_id: None,
            next_producer_epoch: None,
            client_version: 2,
        }
    }

    #[test]
    fn every_record_that_kafka_wrote_is_read_and_written_again_with_its_bytes() {
        let mut seen = [0; 8];
        for log in TRANSACTION_STATE_LOGS {
            for record in records_of(log) {
                let key = record.key().expect("a key");
                let id = parse_transaction_key(key).expect("Kafka's key").expect("version 0");
                assert_eq!(encode_transaction_key(id), key);
                let value = record.value().expect("no tombstones here");
                let entry = TransactionEntry::parse(value).expect("Kafka's value");
                assert_eq!(entry.encode(), value, "{id}: {entry:?}");
                seen[usize::try_from(entry.state.id()).expect("not negative")] += 1;
            }
        }
        assert!(seen[..6].iter().all(|&count| count > 0), "{seen:?}");
    }

    #[test]
    fn a_value_says_what_kafka_reads_in_it() {
        let golden = hex(
            "0001000000000000000c00000000ea6001020d7472616e73616374696f6e7303000000000000000100000001a1fdd34322000001a1fdd343220102020002",
        );
        assert_eq!(TransactionEntry::parse(&golden), Ok(ongoing()));
    }

    #[test]
    fn every_tag_is_kept_and_one_that_holds_none_is_left_out() {
        let entry = TransactionEntry {
            previous_producer_id: ProducerId::new(7),
            next_producer_id: ProducerId::new(8),
            next_producer_epoch: ProducerEpoch::new(1),
            partitions: vec![partition("a", 2), partition("b", 0), partition("a", 1)],
            ..ongoing()
        };
        assert_eq!(TransactionEntry::parse(&entry.encode()), Ok(entry.clone()));
        let bare = TransactionEntry {
            state: TransactionState::Empty,
            partitions: vec![],
            start: None,
            client_version: 0,
            ..ongoing()
        };
        assert_eq!(bare.encode().last(), Some(&0));
        assert_eq!(TransactionEntry::parse(&bare.encode()), Ok(bare));
    }

    #[test]
    fn version_0_is_the_same_in_the_plain_encoding() {
        let bytes = hex(
            "0000000000000000000c00000000ea600100000001000c7472616e73616374696f6e73000000020000000000000001000001a1fdd34322000001a1fdd34322",
        );
        assert_eq!(TransactionEntry::parse(&bytes), Ok(TransactionEntry { client_version: 0, ..ongoing() }));
        let empty = hex("0000000000000000000c00000000ea6000ffffffff000001a1fdd34322ffffffffffffffff");
        let entry = TransactionEntry::parse(&empty).expect("null partitions");
        assert_eq!((entry.state, entry.partitions, entry.start), (TransactionState::Empty, vec![], None));
    }

    #[test]
    fn an_empty_transaction_has_no_partitions_whatever_stands_there() {
        // The state of a value of version 0 follows 2 + 8 + 2 + 4 bytes.
        let mut bytes = hex(
            "0000000000000000000c00000000ea600100000001000c7472616e73616374696f6e73000000020000000000000001000001a1fdd34322000001a1fdd34322",
        );
        bytes[16] = 0;
        let entry = TransactionEntry::parse(&bytes).expect("sound");
        assert_eq!((entry.state, &entry.partitions), (TransactionState::Empty, &vec![]));
        assert_eq!(TransactionEntry::parse(&entry.encode()), Ok(entry));
    }

    #[test]
    fn unknown_tags_are_skipped_unknown_versions_are_not() {
        let mut bytes = ongoing().encode();
        assert_eq!(bytes.split_off(bytes.len() - 5), [1, 2, 2, 0, 2]);
        bytes.extend([2, 2, 2, 0, 2, 99, 3, 1, 2, 3]);
        assert_eq!(TransactionEntry::parse(&bytes), Ok(ongoing()));
        bytes[1] = 2;
        assert!(TransactionEntry::parse(&bytes).is_err());
        assert_eq!(parse_transaction_key(&[0, 1, 9]), Ok(None));
    }

    #[test]
    fn a_value_cut_anywhere_or_with_a_tail_is_refused() {
        let bytes = ongoing().encode();
        for size in 0..bytes.len() {
            assert!(TransactionEntry::parse(&bytes[..size]).is_err(), "{size} bytes");
        }
        assert!(TransactionEntry::parse(&[&bytes[..], &[0]].concat()).is_err());
        assert!(parse_transaction_key(&[0, 0, 0, 1, b'a', b'b']).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, version in 0_u8..2) {
            let _ = parse_transaction_key(&bytes);
            let _ = TransactionEntry::parse(&bytes);
            let _ = TransactionEntry::parse(&[&[0, version], &bytes[..]].concat());
        }
    }
}
