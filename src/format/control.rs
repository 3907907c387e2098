//! Control records: what stands in a control batch in place of a user's records.
//!
//! | part | field | bytes | type | meaning |
//! |---|---|---|---|---|
//! | key | version | 2 | i16 | 0; a greater one is read as 0 |
//! | key | type | 2 | i16 | 0 abort, 1 commit, 2..=6 the controller's own, others unknown and skipped |
//! | value of a marker | version | 2 | i16 | 0; a greater one is read as 0, whatever follows |
//! | value of a marker | coordinator epoch | 4 | i32 | the transaction coordinator's term |
//!
//! The batch's control bit decides, never the key: a user's key may be equal to these bytes. Values other than those of markers
//! are left alone.

use super::batch::{BATCH_HEADER_SIZE, BatchHeader, CONTROL_BIT, HeaderFields, TRANSACTIONAL_BIT, seal};
use super::cursor::Cursor;
use super::error::FormatError;
use super::record::{self, RECORD_SIZE_MIN, Record};
use crate::types::{Position, ProducerEpoch, ProducerId, Timestamp};

/// Bytes of a control record's key.
const KEY_SIZE: usize = 4;
/// Bytes of a transaction marker's value.
const MARKER_VALUE_SIZE: usize = 6;
/// Bytes of the one record of a marker batch: seven fields of one byte, key and value.
const MARKER_RECORD_SIZE: usize = RECORD_SIZE_MIN + KEY_SIZE + MARKER_VALUE_SIZE;
/// Bytes of a batch that [`marker_batch`] makes.
pub const MARKER_BATCH_SIZE: usize = BATCH_HEADER_SIZE + MARKER_RECORD_SIZE;

const _: () = assert!(MARKER_BATCH_SIZE == 78);

/// What a control record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlKind {
    /// The producer's open transaction on this partition was aborted.
    Abort,
    /// The producer's open transaction on this partition was committed.
    Commit,
    /// A new leader of the controllers' own log.
    LeaderChange,
    /// The start of a snapshot of the controllers' own log.
    SnapshotHeader,
    /// The end of a snapshot of the controllers' own log.
    SnapshotFooter,
    /// The version of the controllers' protocol.
    KraftVersion,
    /// The set of voting controllers.
    KraftVoters,
    /// A type that this version doesn't know, to be skipped.
    Unknown(i16),
}

impl ControlKind {
    const fn from_id(id: i16) -> Self {
        match id {
            0 => Self::Abort,
            1 => Self::Commit,
            2 => Self::LeaderChange,
            3 => Self::SnapshotHeader,
            4 => Self::SnapshotFooter,
            5 => Self::KraftVersion,
            6 => Self::KraftVoters,
            other => Self::Unknown(other),
        }
    }

    /// The short, stable name that dumps print.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Commit => "commit",
            Self::LeaderChange => "leader_change",
            Self::SnapshotHeader => "snapshot_header",
            Self::SnapshotFooter => "snapshot_footer",
            Self::KraftVersion => "kraft_version",
            Self::KraftVoters => "kraft_voters",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A decoded control record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlRecord {
    kind: ControlKind,
    coordinator_epoch: Option<i32>,
}

impl ControlRecord {
    /// Decodes the key and value of a record that stands in a control batch.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] for a key under 4 bytes, a marker's value under 6, or a negative version.
    pub fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Self, FormatError> {
        let mut key = Cursor::new(key.unwrap_or_default());
        read_version(&mut key, "control record key version")?;
        let kind = key.read_i16("control record type").map(ControlKind::from_id).map_err(FormatError::enclosed)?;
        let coordinator_epoch = match kind {
            ControlKind::Abort | ControlKind::Commit => Some(read_coordinator_epoch(value.unwrap_or_default())?),
            _ => None,
        };
        Ok(Self { kind, coordinator_epoch })
    }

    /// What it says.
    #[must_use]
    pub const fn kind(&self) -> ControlKind {
        self.kind
    }

    /// The transaction coordinator's epoch; `None` for anything but abort and commit.
    #[must_use]
    pub const fn coordinator_epoch(&self) -> Option<i32> {
        self.coordinator_epoch
    }
}

fn read_coordinator_epoch(value: &[u8]) -> Result<i32, FormatError> {
    let mut value = Cursor::new(value);
    read_version(&mut value, "transaction marker version")?;
    value.read_i32("coordinator epoch").map_err(FormatError::enclosed)
}

fn read_version(cursor: &mut Cursor<'_>, field: &'static str) -> Result<i16, FormatError> {
    match cursor.read_i16(field).map_err(FormatError::enclosed)? {
        version @ 0.. => Ok(version),
        got => Err(FormatError::Invalid { field, position: Position::ZERO, expected: "0 or more", got: got.into() }),
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionResult {
    /// Its records must not be read by readers of committed data.
    Abort,
    /// Its records count.
    Commit,
}

/// The end of a transaction on one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionMarker {
    /// How it ended.
    pub result: TransactionResult,
    /// The transaction's producer.
    pub producer_id: ProducerId,
    /// The producer epoch that the marker carries.
    pub producer_epoch: ProducerEpoch,
    /// The epoch of the transaction coordinator that decided.
    pub coordinator_epoch: i32,
    /// When the marker is written.
    pub timestamp: Timestamp,
}

/// The control batch of one transaction marker: [`MARKER_BATCH_SIZE`] bytes, with base offset 0 and no leader epoch yet.
#[must_use]
pub fn marker_batch(marker: &TransactionMarker) -> Vec<u8> {
    let kind: u8 = match marker.result {
        TransactionResult::Abort => 0,
        TransactionResult::Commit => 1,
    };
    let [a, b, c, d] = marker.coordinator_epoch.to_be_bytes();
    let (key, value) = ([0, 0, 0, kind], [0, 0, a, b, c, d]);
    let record = Record::keyed(&key, &value);

    let mut batch = vec![0; MARKER_BATCH_SIZE];
    if let Some(room) = batch.get_mut(BATCH_HEADER_SIZE..) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "16, known at compile time")]
        record::encode(room, &record, 0, 0, (MARKER_RECORD_SIZE - 1) as i32);
    }
    let timestamp = marker.timestamp.millis();
    let header = BatchHeader::new(&HeaderFields {
        attributes: TRANSACTIONAL_BIT | CONTROL_BIT,
        count: 1,
        base_timestamp: timestamp,
        max_timestamp: timestamp,
        producer_id: marker.producer_id.value(),
        producer_epoch: marker.producer_epoch.value(),
        base_sequence: -1,
    });
    seal(&mut batch, header);
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::batch::{RecordBatch, assign_offsets};
    use crate::format::test_vectors::{A3, hex};
    use crate::types::{LeaderEpoch, Offset};
    use bytes::Bytes;

    #[test]
    fn a_marker_batch_has_kafkas_bytes() {
        let marker = TransactionMarker {
            result: TransactionResult::Commit,
            producer_id: ProducerId::new(4242).expect("positive"),
            producer_epoch: ProducerEpoch::new(3).expect("positive"),
            coordinator_epoch: 15,
            timestamp: Timestamp::from_millis(1_700_000_000_000).expect("positive"),
        };
        let mut batch = marker_batch(&marker);
        assign_offsets(&mut batch, Offset::new(100).expect("positive"), LeaderEpoch::ZERO).expect("a batch");
        assert_eq!(batch, hex(A3));
        assert_eq!(batch.len(), MARKER_BATCH_SIZE);
        let parsed = RecordBatch::parse(Bytes::from(batch)).expect("a whole batch");
        let control = parsed.control_record().expect("a marker").expect("a control batch");
        assert_eq!((control.kind(), control.coordinator_epoch()), (ControlKind::Commit, Some(15)));
        assert_eq!(parsed.header().base_sequence(), None);
        assert!(parsed.header().is_control() && parsed.header().is_transactional());
    }

    #[test]
    fn keys_and_markers_that_are_too_short_or_of_a_negative_version_are_refused() {
        let marker = &[0, 0, 0, 0, 0, 15][..];
        for (key, value) in [
            (None, Some(marker)),
            (Some(&[0, 0, 0][..]), Some(marker)),
            (Some(&[0xff, 0xff, 0, 1]), Some(marker)),
            (Some(&[0, 0, 0, 1]), None),
            (Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0])),
            (Some(&[0, 0, 0, 1]), Some(&[0xff, 0xff, 0, 0, 0, 15])),
        ] {
            let error = ControlRecord::parse(key, value).expect_err("broken");
            assert_eq!(error.code(), "invalid_field", "{key:?} {value:?}");
        }
    }

    #[test]
    fn later_versions_are_read_by_their_known_prefix() {
        let control = ControlRecord::parse(Some(&[0, 1, 0, 0, 9]), Some(&[0, 1, 0, 0, 0, 15, 9, 9])).expect("readable");
        assert_eq!((control.kind(), control.coordinator_epoch()), (ControlKind::Abort, Some(15)));
    }

    #[test]
    fn an_unknown_type_is_no_error() {
        let control = ControlRecord::parse(Some(&[0, 0, 0, 77]), None).expect("skippable");
        assert_eq!((control.kind(), control.kind().name()), (ControlKind::Unknown(77), "unknown"));
    }
}
