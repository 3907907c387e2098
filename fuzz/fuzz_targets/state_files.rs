//! Any bytes as each of the small files, state records and file names: no panic, and what parses encodes to what parses equal.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use stratalog::format::{
    AbortedTransaction, CleanShutdown, CommittedOffset, ControlRecord, FormatError, GroupLogKey, LeaderEpochCheckpoint,
    MetaProperties, OffsetCheckpoint, OffsetIndexEntry, PartitionMetadata, ProducerSnapshot, TimeIndexEntry,
    TransactionEntry, encode_offset_key, encode_transaction_key, file_name::FileName, parse_transaction_key,
};
use stratalog_fuzz::sealing::sealed_snapshot;

fuzz_target!(|bytes: &[u8]| {
    comes_back(bytes, ProducerSnapshot::parse, ProducerSnapshot::encode);
    comes_back(&sealed_snapshot(bytes), ProducerSnapshot::parse, ProducerSnapshot::encode);
    comes_back(bytes, TransactionEntry::parse, TransactionEntry::encode);
    comes_back(bytes, CommittedOffset::parse, CommittedOffset::encode);
    comes_back(bytes, LeaderEpochCheckpoint::parse, LeaderEpochCheckpoint::encode);
    comes_back(bytes, OffsetCheckpoint::parse, OffsetCheckpoint::encode);
    comes_back(bytes, PartitionMetadata::parse, PartitionMetadata::encode);
    comes_back(bytes, OffsetIndexEntry::parse, |entry| entry.encode().to_vec());
    comes_back(bytes, TimeIndexEntry::parse, |entry| entry.encode().to_vec());
    comes_back(bytes, AbortedTransaction::parse, |entry| entry.encode().to_vec());
    comes_back(bytes, |bytes| Ok(CleanShutdown::parse(bytes)), |clean| clean.encode());
    if let Ok(key @ GroupLogKey::Offset { .. }) = GroupLogKey::parse(bytes) {
        let GroupLogKey::Offset { group, partition } = &key else { return };
        assert_eq!(GroupLogKey::parse(&encode_offset_key(group, partition)), Ok(key));
    }
    if let Ok(Some(id)) = parse_transaction_key(bytes) {
        assert_eq!(parse_transaction_key(&encode_transaction_key(id)), Ok(Some(id)));
    }
    if let Ok(name) = std::str::from_utf8(bytes) {
        assert!(FileName::parse(name).is_none_or(|parsed| parsed.to_string() == name));
    }
    let _ = ControlRecord::parse(Some(bytes), None);
    if let Ok(properties) = MetaProperties::parse(bytes) {
        assert!(properties.entries().all(|(key, _)| properties.get(key).is_some()));
    }
});

fn comes_back<T: PartialEq + Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    if let Ok(value) = parse(bytes) {
        assert_eq!(parse(&encode(&value)), Ok(value));
    }
}
