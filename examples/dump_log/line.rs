//! What the tool can say: one variant a kind of line, and its JSON form, which other programs rely on.

use stratalog::format::{AbortedTransaction, BatchHeader, ControlRecord, ProducerEntry, RecordRef};
use stratalog::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TimestampType};

use crate::json::Object;

/// One line of output; `file` is added by whoever prints it.
pub enum Line<'a> {
    /// The header of a batch.
    Batch(BatchLine),
    /// A record of the batch before it.
    Record(RecordRef<'a>),
    /// A control record of the batch before it.
    Control {
        /// Its offset.
        offset: Offset,
        /// Its time.
        timestamp: Option<Timestamp>,
        /// What it says.
        record: ControlRecord,
    },
    /// An entry of an offset index, its offset absolute.
    Index {
        /// Last offset of a batch.
        offset: Offset,
        /// Where that batch begins.
        position: u32,
    },
    /// An entry of a time index, its offset absolute.
    TimeIndex {
        /// Greatest timestamp so far.
        timestamp: Timestamp,
        /// Last offset of the batch that has it.
        offset: Offset,
    },
    /// An aborted transaction.
    TxnIndex(AbortedTransaction),
    /// An entry of a producer snapshot.
    Producer(ProducerEntry),
    /// Where a leader epoch begins.
    LeaderEpoch {
        /// The epoch.
        epoch: LeaderEpoch,
        /// Its first offset.
        start_offset: Offset,
    },
    /// A line of an offset checkpoint.
    Checkpoint {
        /// The topic.
        topic: &'a str,
        /// The partition's number.
        partition: i32,
        /// The offset.
        offset: Offset,
    },
    /// The topic id of `partition.metadata`.
    TopicId(&'a str),
    /// A property of `meta.properties`.
    Meta {
        /// Its name.
        key: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// The mark of an orderly stop.
    CleanShutdown(Option<i64>),
    /// Something that isn't as its format says.
    Damage {
        /// Where, in bytes from the start of the file.
        position: u64,
        /// A code, a colon, and words.
        reason: &'a str,
    },
}

/// A batch as a line: the header, with what only decompressing tells of the old formats.
pub struct BatchLine {
    /// Where the batch begins.
    pub position: u64,
    /// What it says about itself.
    pub header: BatchHeader,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// The number of its records.
    pub count: u32,
    /// Whether its checksum is right.
    pub valid: bool,
}

impl BatchLine {
    /// Who set the timestamps, in the contract's words.
    pub fn timestamp_type(&self) -> &'static str {
        match self.header.timestamp_type() {
            None => "none",
            Some(TimestampType::Create) => "create",
            Some(TimestampType::LogAppend) => "append",
        }
    }

    fn json(&self, file: &str) -> Object {
        let header = &self.header;
        let horizon = header.delete_horizon().map_or_else(|| "null".to_owned(), |time| time.to_string());
        kind("batch")
            .text("file", file)
            .raw("position", &self.position.to_string())
            .number("base_offset", self.base_offset.value())
            .number("last_offset", header.last_offset().value())
            .number("count", self.count)
            .number("magic", header.magic())
            .text("codec", header.compression().name())
            .text("timestamp_type", self.timestamp_type())
            .number("max_timestamp", Timestamp::to_wire(header.max_timestamp()))
            .number("leader_epoch", LeaderEpoch::to_wire(header.leader_epoch()))
            .number("producer_id", ProducerId::to_wire(header.producer_id()))
            .number("producer_epoch", ProducerEpoch::to_wire(header.producer_epoch()))
            .number("base_sequence", Sequence::to_wire(header.base_sequence()))
            .raw("transactional", bool_name(header.is_transactional()))
            .raw("control", bool_name(header.is_control()))
            .raw("delete_horizon", &horizon)
            .number("size", header.size())
            .number("crc", header.crc())
            .raw("valid", bool_name(self.valid))
    }
}

const fn bool_name(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn kind(name: &str) -> Object {
    Object::new().text("type", name)
}

fn of_file(name: &str, file: &str) -> Object {
    kind(name).text("file", file)
}

fn or_null(value: Option<i64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

impl Line<'_> {
    /// Whether `--no-records` hides it.
    pub const fn is_record(&self) -> bool {
        matches!(self, Self::Record(_) | Self::Control { .. })
    }

    /// The line of `file` as one JSON object.
    pub fn to_json(&self, file: &str) -> String {
        let object = match *self {
            Self::Batch(ref batch) => batch.json(file),
            Self::Record(record) => kind("record")
                .number("offset", record.offset().value())
                .number("timestamp", Timestamp::to_wire(record.timestamp()))
                .key_value_headers(record.key(), record.value(), record.headers().map(|h| (h.name, h.value))),
            Self::Control { offset, timestamp, record } => kind("control")
                .number("offset", offset.value())
                .number("timestamp", Timestamp::to_wire(timestamp))
                .text("kind", record.kind().name())
                .raw("coordinator_epoch", &or_null(record.coordinator_epoch().map(i64::from))),
            Self::Index { offset, position } => {
                of_file("index", file).number("offset", offset.value()).number("position", position)
            }
            Self::TimeIndex { timestamp, offset } => {
                of_file("timeindex", file).number("timestamp", timestamp.millis()).number("offset", offset.value())
            }
            Self::TxnIndex(entry) => of_file("txnindex", file)
                .number("producer_id", entry.producer_id.value())
                .number("first_offset", entry.first_offset.value())
                .number("last_offset", entry.last_offset.value())
                .number("last_stable_offset", entry.last_stable_offset.value()),
            Self::Producer(entry) => of_file("producer", file)
                .number("producer_id", entry.producer_id.value())
                .number("producer_epoch", entry.producer_epoch.value())
                .number("last_sequence", Sequence::to_wire(entry.last_sequence))
                .number("last_offset", Offset::to_wire(entry.last_offset))
                .number("offset_delta", entry.offset_delta)
                .number("timestamp", Timestamp::to_wire(entry.timestamp))
                .number("coordinator_epoch", entry.coordinator_epoch.map_or(-1, i64::from))
                .number("current_txn_first_offset", Offset::to_wire(entry.current_transaction_first_offset)),
            Self::LeaderEpoch { epoch, start_offset } => {
                kind("leader_epoch").number("epoch", epoch.value()).number("start_offset", start_offset.value())
            }
            Self::Checkpoint { topic, partition, offset } => {
                kind("checkpoint").text("topic", topic).number("partition", partition).number("offset", offset.value())
            }
            Self::TopicId(id) => kind("topic_id").text("id", id),
            Self::Meta { key, value } => kind("meta").text("key", key).text("value", value),
            Self::CleanShutdown(epoch) => kind("clean_shutdown").raw("broker_epoch", &or_null(epoch)),
            Self::Damage { position, reason } => {
                of_file("damage", file).raw("position", &position.to_string()).text("reason", reason)
            }
        };
        object.finish()
    }
}
