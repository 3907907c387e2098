//! Batches that Kafka wrote, in hexadecimal, for the tests of this folder.

use bytes::Bytes;

use super::batches::Batches;
use super::record::OwnedRecord;

/// Three records with nulls, empties and headers; base offset 0, leader epoch 0.
pub(super) const A1: &str = "0000000000000000000000510000000002f7b67da30000000000020000018bcfe568000000018bcfe56805ffffffffffffffffffffffffffff0000000314000000046b31047631001a000a0201000402680278026e010c001304000100";
/// [`A1`], transactional, with producer id 4242, epoch 3, base sequence 7.
pub(super) const A2: &str = "00000000000000000000005100000000026dc75ad80010000000020000018bcfe568000000018bcfe5680500000000000010920003000000070000000314000000046b31047631001a000a0201000402680278026e010c001304000100";
/// The marker of a commit at offset 100, coordinator epoch 15.
pub(super) const A3: &str = "00000000000000640000004200000000023c61aa380030000000000000018bcfe568000000018bcfe5680000000000000010920003ffffffff000000012000000008000000010c00000000000f00";
/// A batch that compaction emptied: offsets 15 to 37, producer id 23423.
pub(super) const A4: &str = "000000000000000f000000310000000f025d4e3d62000000000016ffffffffffffffff0000018bcfe568000000000000005b7f0091000003d700000000";
/// A tombstone at offset 7 with a delete horizon.
pub(super) const A5: &str = "00000000000000070000003c0000000202b06ca6c80040000000000000018bd50bc4000000018bcfe56800ffffffffffffffffffffffffffff000000011400ffefb25200026b0100";
/// A message of magic 0.
pub(super) const A6_V0: &str = "00000000000000000000001257e7496e0000000000026b31000000027631";
/// A message of magic 1.
pub(super) const A6_V1: &str = "00000000000000000000001aa5da6a6201000000018bcfe56800000000026b31000000027631";

/// The logs of the golden folders `__transaction_state-*`.
pub(super) const TRANSACTION_STATE_LOGS: [&[u8]; 2] = [
    include_bytes!("../../tests/golden/store/__transaction_state-0/00000000000000000000.log"),
    include_bytes!("../../tests/golden/store/__transaction_state-1/00000000000000000000.log"),
];
/// The logs of the golden folders `__consumer_offsets-*`.
pub(super) const CONSUMER_OFFSETS_LOGS: [&[u8]; 4] = [
    include_bytes!("../../tests/golden/store/__consumer_offsets-0/00000000000000000000.log"),
    include_bytes!("../../tests/golden/store/__consumer_offsets-1/00000000000000000000.log"),
    include_bytes!("../../tests/golden/store/__consumer_offsets-2/00000000000000000000.log"),
    include_bytes!("../../tests/golden/store/__consumer_offsets-3/00000000000000000000.log"),
];

/// Every record of a log that holds no control batches.
pub(super) fn records_of(log: &'static [u8]) -> Vec<OwnedRecord> {
    let mut records = Vec::new();
    for batch in Batches::new(Bytes::from_static(log)) {
        let batch = batch.expect("whole batches");
        records.extend(batch.records().map(|record| record.expect("whole records").detach()));
    }
    records
}

/// The bytes of a hexadecimal text.
pub(super) fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}
