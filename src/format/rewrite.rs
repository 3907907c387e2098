//! A batch of which some records stay: what compaction makes of it.
//!
//! [`Rewriter::filter`] asks which records stay, and [`Rewriter::encode`] writes the batch anew with those alone. Offsets, codec,
//! producer, sequences, leader epoch and the attribute bits are the batch's own; so are the absolute timestamps of its records.
//! What changes, by the rules of Kafka's cleaner:
//!
//! | field | value |
//! |---|---|
//! | base timestamp | the delete horizon, an earlier one or else the new one; without, the first kept record's timestamp |
//! | max timestamp | the greatest of the kept records; of `LogAppendTime`, and in a batch without records, as it was |
//! | record count, length, crc | of what was kept |
//!
//! A delete horizon, once set, is never moved. Who keeps every record and sets no horizon copies the batch's own bytes instead.
//! Messages of magic 0 and 1 can be filtered, but not encoded.

use super::batch::{BATCH_HEADER_SIZE, BatchHeader, RecordBatch, seal};
use super::batch_builder::BATCH_SIZE_MAX;
use super::compression::{Compression, compress};
use super::cursor::{Cursor, Filler, varint_size, varlong_size};
use super::error::FormatError;
use super::record::RecordRef;
use crate::types::{Position, Timestamp, TimestampType};

/// Rewrites one batch after the other, in the same memory.
#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    kept: Vec<Kept>,
    /// Room for the header, then records.
    records: Vec<u8>,
    /// Room for the header, then the compressed records.
    packed: Vec<u8>,
}

/// A record that stays.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// Where it stands in the batch's records.
    start: usize,
    end: usize,
    /// Its timestamp in milliseconds, -1 for none.
    timestamp: i64,
}

/// What [`Rewriter::filter`] counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Survivors {
    /// Records that were there.
    pub records: u32,
    /// Records that stay.
    pub kept: u32,
    /// Whether one that stays has a null value.
    pub has_tombstone: bool,
}

impl Rewriter {
    /// Asks of each record of `batch` in turn whether to keep it.
    ///
    /// # Errors
    /// Those of [`RecordBatch::records`].
    pub(crate) fn filter(
        &mut self,
        batch: &RecordBatch,
        mut keep: impl FnMut(&RecordRef<'_>) -> bool,
    ) -> Result<Survivors, FormatError> {
        self.kept.clear();
        let mut survivors = Survivors::default();
        let mut records = batch.records();
        loop {
            let start = records.at();
            let Some(record) = records.next().transpose()? else { return Ok(survivors) };
            survivors.records += 1;
            if keep(&record) {
                survivors.kept += 1;
                survivors.has_tombstone |= record.value().is_none();
                let timestamp = Timestamp::to_wire(record.timestamp());
                self.kept.push(Kept { start, end: records.at(), timestamp });
            }
        }
    }

    /// The batch of magic 2 that was filtered last, with the records that stay: at least one. `horizon` is set as its delete
    /// horizon unless it has one.
    ///
    /// # Errors
    /// Those of decompressing and compressing; [`FormatError::TooLarge`] when larger deltas made it too large.
    pub(crate) fn encode(&mut self, batch: &RecordBatch, horizon: Option<Timestamp>) -> Result<&[u8], FormatError> {
        let header = batch.header();
        let horizon = header.delete_horizon().or(horizon);
        let first = self.kept.first().map_or(-1, |record| record.timestamp);
        let base_timestamp = horizon.map_or(first, Timestamp::millis);
        self.records.clear();
        self.records.resize(BATCH_HEADER_SIZE, 0);
        self.copy_records(batch.stream()?, header, base_timestamp)?;

        let max_timestamp = match header.timestamp_type() {
            Some(TimestampType::LogAppend) => Timestamp::to_wire(header.max_timestamp()),
            _ => self.kept.iter().map(|record| record.timestamp).max().unwrap_or(-1),
        };
        let count = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        let header = header.with_records(count, base_timestamp, max_timestamp, horizon.is_some());
        let out = match header.compression() {
            Compression::None => &mut self.records,
            codec => {
                self.packed.clear();
                self.packed.resize(BATCH_HEADER_SIZE, 0);
                compress(codec, None, self.records.get(BATCH_HEADER_SIZE..).unwrap_or_default(), &mut self.packed)?;
                &mut self.packed
            }
        };
        check_size(out.len())?;
        seal(out, header);
        Ok(out)
    }

    fn copy_records(&mut self, stream: &[u8], header: &BatchHeader, base: i64) -> Result<(), FormatError> {
        // A batch of append time reads its deltas never; Kafka writes those of the append time all the same.
        let as_they_are = base == header.base_timestamp() && header.timestamp_type() != Some(TimestampType::LogAppend);
        for record in &self.kept {
            let bytes = stream.get(record.start..record.end).unwrap_or_default();
            if as_they_are {
                self.records.extend_from_slice(bytes);
            } else {
                push_shifted(&mut self.records, bytes, record.timestamp.wrapping_sub(base))?;
            }
            check_size(self.records.len())?;
        }
        Ok(())
    }
}

/// Appends the encoded record `bytes` with another timestamp delta.
fn push_shifted(out: &mut Vec<u8>, bytes: &[u8], timestamp_delta: i64) -> Result<(), FormatError> {
    let mut cursor = Cursor::new(bytes);
    cursor.read_varint("record length")?;
    let [attributes] = cursor.read_i8("record attributes")?.to_be_bytes();
    cursor.read_varlong("timestamp delta")?;
    let rest = cursor.rest();
    let size = rest.len().saturating_add(1 + varlong_size(timestamp_delta));
    let length = i32::try_from(size).map_err(|_| too_large(size))?;
    let start = out.len();
    out.resize(start + varint_size(length) + size, 0);
    let mut room = Filler::new(out.get_mut(start..).unwrap_or_default());
    room.put_varint(length);
    room.put_byte(attributes);
    room.put_varlong(timestamp_delta);
    room.put_bytes(rest);
    Ok(())
}

/// The batch of magic 2 behind `header` without its records: a header that keeps offsets, producer and sequences known.
pub(crate) fn empty_batch(header: &BatchHeader) -> [u8; BATCH_HEADER_SIZE] {
    let mut batch = [0; BATCH_HEADER_SIZE];
    seal(&mut batch, header.without_records());
    batch
}

fn check_size(size: usize) -> Result<(), FormatError> {
    if size > BATCH_SIZE_MAX { Err(too_large(size)) } else { Ok(()) }
}

#[cold]
fn too_large(got: usize) -> FormatError {
    FormatError::TooLarge { what: "batch", position: Position::ZERO, limit: BATCH_SIZE_MAX as u64, got: got as u64 }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::path::Path;

    use super::*;
    use crate::format::batch::{Batches, assign_offsets};
    use crate::format::test_vectors::{A1, A2, A3, A4, A5, hex};
    use crate::format::{BatchBuilder, BatchOptions, ProducerStamp, Record};
    use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

    const TIME: i64 = 1_700_000_000_000;

    fn at(millis: i64) -> Option<Timestamp> {
        Timestamp::from_millis(millis)
    }

    fn parse(bytes: impl Into<Bytes>) -> RecordBatch {
        RecordBatch::parse(bytes.into()).expect("a sound batch")
    }

    /// `batch` with the records whose offset passes `keep`.
    fn rewrite(batch: &RecordBatch, horizon: Option<Timestamp>, keep: impl Fn(i64) -> bool) -> Vec<u8> {
        let mut rewriter = Rewriter::default();
        rewriter.filter(batch, |record| keep(record.offset().value())).expect("sound records");
        rewriter.encode(batch, horizon).expect("small").to_vec()
    }

    #[test]
    fn a_batch_that_keeps_all_without_a_horizon_has_the_same_bytes() {
        for vector in [A1, A2, A3, A5] {
            assert_eq!(rewrite(&parse(hex(vector)), None, |_| true), hex(vector));
        }
    }

    #[test]
    fn the_base_timestamp_is_the_first_kept_records() {
        let batch = parse(rewrite(&parse(hex(A1)), None, |offset| offset != 0));
        let header = batch.header();
        assert_eq!((header.base_timestamp(), header.max_timestamp()), (TIME + 5, at(TIME + 5)));
        assert_eq!((header.base_offset(), header.last_offset().value()), (Offset::ZERO, 2));
        let records: Vec<_> = batch.records().map(|record| record.expect("sound")).collect();
        assert_eq!(records.iter().map(|record| record.offset().value()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(records.iter().map(RecordRef::timestamp).collect::<Vec<_>>(), [at(TIME + 5), at(TIME - 10)]);
        assert_eq!(records[0].headers().count(), 2);
        let last = parse(rewrite(&parse(hex(A1)), None, |offset| offset == 2));
        assert_eq!(last.header().max_timestamp(), at(TIME - 10));
    }

    #[test]
    fn a_horizon_has_kafkas_bytes_and_is_kept_by_later_rewrites() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(&Record::tombstone("k"), at(TIME)).expect("small");
        let plain = builder.finish().expect("one record");
        let epoch = LeaderEpoch::new(2).expect("positive");
        assign_offsets(plain, Offset::new(7).expect("positive"), epoch).expect("a batch");
        let plain = parse(plain.to_vec());
        assert_eq!(rewrite(&plain, at(1_700_086_400_000), |_| true), hex(A5));
        assert_eq!(rewrite(&parse(hex(A5)), at(1_900_000_000_000), |_| true), hex(A5));
    }

    #[test]
    fn an_emptied_batch_has_kafkas_bytes() {
        let header = *parse(hex(A4)).header();
        assert_eq!(empty_batch(&header).to_vec(), hex(A4));
        let stamp = ProducerStamp {
            id: ProducerId::new(23423).expect("positive"),
            epoch: ProducerEpoch::new(145).expect("positive"),
            base_sequence: Sequence::new(983).expect("positive"),
            transactional: false,
        };
        let mut builder = BatchBuilder::new(BatchOptions { producer: Some(stamp), ..BatchOptions::default() });
        for _ in 0..23 {
            builder.push(&Record::keyed("k", "v"), at(TIME)).expect("small");
        }
        let full = builder.finish().expect("records");
        assign_offsets(full, Offset::new(15).expect("positive"), LeaderEpoch::new(15).expect("positive"))
            .expect("a batch");
        assert_eq!(empty_batch(parse(full.to_vec()).header()).to_vec(), hex(A4));
    }

    #[test]
    fn an_emptied_transactional_batch_stays_transactional_and_loses_its_horizon() {
        let stamped = parse(rewrite(&parse(hex(A2)), at(TIME + 9), |_| true));
        assert_eq!(stamped.header().delete_horizon(), at(TIME + 9));
        let emptied = parse(empty_batch(stamped.header()).to_vec());
        assert!(emptied.header().is_transactional());
        assert_eq!((emptied.header().delete_horizon(), emptied.records().count()), (None, 0));
        assert_eq!(emptied.header().last_sequence(), Sequence::new(9));
    }

    #[test]
    fn a_marker_with_a_horizon_a_day_ahead_takes_81_bytes() {
        let stamped = rewrite(&parse(hex(A3)), at(TIME + 86_400_000), |_| true);
        assert_eq!((stamped.len(), parse(stamped).header().attributes()), (81, 0x70));
    }

    #[test]
    fn what_is_null_counts_as_a_tombstone_only_when_it_stays() {
        let mut rewriter = Rewriter::default();
        let batch = parse(hex(A1));
        let all = rewriter.filter(&batch, |_| true).expect("sound");
        assert_eq!(all, Survivors { records: 3, kept: 3, has_tombstone: true });
        let some = rewriter.filter(&batch, |record| record.value().is_some()).expect("sound");
        assert_eq!(some, Survivors { records: 3, kept: 2, has_tombstone: false });
    }

    /// The batches of a golden segment; `suffix` tells what the last cleaning read from what it wrote.
    fn golden(folder: &str, suffix: &str) -> Vec<RecordBatch> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store").join(folder);
        let mut paths: Vec<_> =
            std::fs::read_dir(dir).expect("a folder").map(|file| file.expect("a file").path()).collect();
        paths.retain(|path| path.to_string_lossy().ends_with(suffix));
        paths.sort();
        let batches = |path| Batches::new(Bytes::from(std::fs::read(path).expect("a file")));
        paths.iter().flat_map(batches).map(|batch| batch.expect("sound")).collect()
    }

    #[test]
    fn what_kafkas_cleaner_made_of_a_batch_is_made_here_byte_for_byte() {
        let mut changed = 0;
        for folder in ["compacted-0", "compacted-expired-0", "compacted-transactions-0"] {
            let before: HashMap<_, _> =
                golden(folder, ".log.deleted").into_iter().map(|batch| (batch.last_offset(), batch)).collect();
            for after in golden(folder, ".log") {
                let Some(before) = before.get(&after.last_offset()) else { continue };
                let kept: Vec<_> = after.records().map(|record| record.expect("sound").offset().value()).collect();
                let bytes = if kept.is_empty() {
                    empty_batch(before.header()).to_vec()
                } else {
                    rewrite(before, after.header().delete_horizon(), |offset| kept.contains(&offset))
                };
                // Encoders of one codec differ in their streams, and in nothing else.
                let got = parse(bytes);
                assert_eq!(got.stream(), after.stream(), "{folder}, batch {}", after.last_offset());
                if got.header().compression() == Compression::None {
                    assert_eq!(got.bytes(), after.bytes(), "{folder}, batch {}", after.last_offset());
                } else {
                    assert_eq!(got.bytes().get(21..61), after.bytes().get(21..61));
                }
                changed += usize::from(before.bytes() != after.bytes());
            }
        }
        assert!(changed > 20, "{changed} batches were changed");
    }

    proptest! {
        #[test]
        fn kept_records_read_the_same_whatever_the_codec(
            times in prop::collection::vec(prop::option::of(0..i64::MAX), 1..20),
            mask: u32,
            horizon in prop::option::of(0..i64::MAX),
            codec in 0_u8..5,
        ) {
            let compression = Compression::from_id(codec).expect("five codecs");
            let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
            for (index, time) in times.iter().enumerate() {
                let key = index.to_string();
                builder.push(&Record::keyed(&key, "value").header("h", "x"), time.and_then(at)).expect("small");
            }
            let bytes = match builder.finish() {
                Err(FormatError::MissingFeature { .. }) => return Ok(()),
                bytes => bytes.expect("at least one").to_vec(),
            };
            let batch = parse(bytes);
            let keep = |offset: i64| mask & (1 << offset) != 0;
            let expected: Vec<_> =
                batch.records().map(|record| record.expect("sound").detach()).filter(|record| keep(record.offset().value())).collect();
            prop_assume!(!expected.is_empty());
            let after = parse(rewrite(&batch, horizon.and_then(at), keep));
            prop_assert_eq!(after.header().delete_horizon(), horizon.and_then(at));
            prop_assert_eq!(after.header().max_timestamp(), expected.iter().filter_map(|record| record.timestamp()).max());
            let records: Vec<_> = after.records().map(|record| record.expect("sound").detach()).collect();
            prop_assert_eq!(format!("{records:?}"), format!("{expected:?}"));
        }
    }
}
