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
//!
//! A compressed message of magic 0 or 1 is written anew with the messages inside that stay, and its last offset is theirs. It has
//! no horizon, and can't be without records.

use super::batch::{BATCH_HEADER_SIZE, BatchHeader, RecordBatch, seal};
use super::batch_builder::{BATCH_SIZE_MAX, too_large};
use super::compression::{Compression, compress};
use super::cursor::{Cursor, Filler, varint_size, varlong_size};
use super::error::FormatError;
use super::legacy::{KeptMessage, encode_wrapper};
use super::record::RecordRef;
use crate::types::{Timestamp, TimestampType};

/// Rewrites one batch after the other, in the same memory.
#[derive(Debug, Default)]
pub(crate) struct Rewriter {
    /// Where the records that stay stand among the batch's records: runs of them, in order.
    runs: Vec<Run>,
    kept: Kept,
    /// Room for the header, then records.
    records: Vec<u8>,
    /// Room for the header, then the compressed records.
    packed: Vec<u8>,
}

/// Bytes of records that stay, one behind the other.
#[derive(Debug, Clone, Copy)]
struct Run {
    start: usize,
    end: usize,
}

/// What is known of the records that stay.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    count: u32,
    /// The first one's timestamp in milliseconds, -1 for none.
    first_timestamp: i64,
    /// The greatest timestamp, -1 for none.
    max_timestamp: i64,
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
        self.runs.clear();
        self.kept = Kept { count: 0, first_timestamp: -1, max_timestamp: -1 };
        let mut survivors = Survivors::default();
        let mut records = batch.records();
        loop {
            let start = records.at();
            let Some(record) = records.next().transpose()? else { return Ok(survivors) };
            survivors.records += 1;
            if keep(&record) {
                survivors.kept += 1;
                survivors.has_tombstone |= record.value().is_none();
                self.keep(Timestamp::to_wire(record.timestamp()), Run { start, end: records.at() });
            }
        }
    }

    fn keep(&mut self, timestamp: i64, record: Run) {
        if self.kept.count == 0 {
            self.kept.first_timestamp = timestamp;
        }
        self.kept.count += 1;
        self.kept.max_timestamp = self.kept.max_timestamp.max(timestamp);
        match self.runs.last_mut() {
            Some(run) if run.end == record.start => run.end = record.end,
            _ => self.runs.push(record),
        }
    }

    /// The batch that was filtered last, with the records that stay: at least one. `horizon` is set as its delete horizon unless
    /// it has one, or is of magic 0 or 1.
    ///
    /// # Errors
    /// Those of decompressing and compressing; [`FormatError::TooLarge`] when larger deltas made it too large.
    pub(crate) fn encode(&mut self, batch: &RecordBatch, horizon: Option<Timestamp>) -> Result<&[u8], FormatError> {
        let header = batch.header();
        if header.magic() < 2 {
            return self.encode_legacy(batch);
        }
        let horizon = header.delete_horizon().or(horizon);
        let base_timestamp = horizon.map_or(self.kept.first_timestamp, Timestamp::millis);
        self.records.clear();
        self.records.resize(BATCH_HEADER_SIZE, 0);
        self.copy_records(batch.stream()?, header, base_timestamp)?;

        let max_timestamp = match header.timestamp_type() {
            Some(TimestampType::LogAppend) => Timestamp::to_wire(header.max_timestamp()),
            _ => self.kept.max_timestamp,
        };
        let header = header.with_records(self.kept.count, base_timestamp, max_timestamp, horizon.is_some());
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

    fn encode_legacy(&mut self, batch: &RecordBatch) -> Result<&[u8], FormatError> {
        let stream = batch.stream()?;
        let mut runs = self.runs.iter().peekable();
        let mut kept = Vec::new();
        let mut records = batch.records();
        loop {
            let start = records.at();
            let Some(record) = records.next().transpose()? else { break };
            while runs.next_if(|run| run.end <= start).is_some() {}
            if runs.peek().is_some_and(|run| run.start <= start) {
                let entry = stream.get(start..records.at()).unwrap_or_default();
                let timestamp = Timestamp::to_wire(record.timestamp());
                kept.push(KeptMessage { offset: record.offset(), timestamp, entry });
            }
        }
        self.packed = encode_wrapper(batch.header(), &kept)?;
        Ok(&self.packed)
    }

    fn copy_records(&mut self, stream: &[u8], header: &BatchHeader, base: i64) -> Result<(), FormatError> {
        // The deltas of a batch of append time are never read; Kafka writes those of the append time all the same.
        let append_delta = match header.timestamp_type() {
            Some(TimestampType::LogAppend) => Some(Timestamp::to_wire(header.max_timestamp()).wrapping_sub(base)),
            _ => None,
        };
        let shift = header.base_timestamp().wrapping_sub(base);
        for run in &self.runs {
            let bytes = stream.get(run.start..run.end).unwrap_or_default();
            if append_delta.is_none() && shift == 0 {
                self.records.extend_from_slice(bytes);
            } else {
                push_shifted(&mut self.records, bytes, |delta| append_delta.unwrap_or(delta.wrapping_add(shift)))?;
            }
            check_size(self.records.len())?;
        }
        Ok(())
    }
}

/// Appends the encoded records `bytes` with other timestamp deltas.
fn push_shifted(out: &mut Vec<u8>, bytes: &[u8], delta: impl Fn(i64) -> i64) -> Result<(), FormatError> {
    let mut cursor = Cursor::new(bytes);
    while cursor.remaining() > 0 {
        let length = usize::try_from(cursor.read_varint("record length")?).unwrap_or(0);
        let mut body = cursor.split(length, "record")?;
        let [attributes] = body.read_i8("record attributes")?.to_be_bytes();
        let timestamp_delta = delta(body.read_varlong("timestamp delta")?);
        let rest = body.rest();
        let size = rest.len().saturating_add(1 + varlong_size(timestamp_delta));
        let length = i32::try_from(size).map_err(|_| too_large(size))?;
        let start = out.len();
        out.resize(start + varint_size(length) + size, 0);
        let mut room = Filler::new(out.get_mut(start..).unwrap_or_default());
        room.put_varint(length);
        room.put_byte(attributes);
        room.put_varlong(timestamp_delta);
        room.put_bytes(rest);
        check_size(out.len())?;
    }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::HashMap;

    use super::*;
    use crate::format::Batches;
    use crate::format::batch::{assign_offsets, set_timestamps};
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

    /// A file that Kafka wrote.
    macro_rules! golden {
        ($($name:literal),+) => {
            [$(&include_bytes!(concat!("../../tests/golden/", $name))[..]),+]
        };
    }

    fn batches(files: &[&'static [u8]]) -> Vec<RecordBatch> {
        let all = files.iter().flat_map(|file| Batches::new(Bytes::from_static(file)));
        all.map(|batch| batch.expect("sound")).collect()
    }

    #[test]
    #[cfg_attr(
        not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
        ignore = "the files hold batches of every codec"
    )]
    fn what_kafkas_cleaner_made_of_a_batch_is_made_here_byte_for_byte() {
        // What the last pass read, and what it wrote.
        let before = batches(&golden![
            "store/compacted-0/00000000000000000000.log.deleted",
            "store/compacted-0/00000000000000000217.log.deleted",
            "store/compacted-0/00000000000000000253.log.deleted",
            "store/compacted-0/00000000000000000289.log.deleted",
            "store/compacted-0/00000000000000000333.log.deleted",
            "store/compacted-transactions-0/00000000000000000390.log.deleted"
        ]);
        let after = batches(&golden![
            "store/compacted-0/00000000000000000000.log",
            "store/compacted-0/00000000000000000253.log",
            "store/compacted-0/00000000000000000289.log",
            "store/compacted-0/00000000000000000333.log",
            "store/compacted-transactions-0/00000000000000000390.log"
        ]);
        let key = |batch: &RecordBatch| (batch.header().producer_id(), batch.last_offset());
        let before: HashMap<_, _> = before.into_iter().map(|batch| (key(&batch), batch)).collect();
        let mut changed = 0;
        for after in after {
            let before = &before[&key(&after)];
            let kept: Vec<_> = after.records().map(|record| record.expect("sound").offset().value()).collect();
            let bytes = if kept.is_empty() {
                empty_batch(before.header()).to_vec()
            } else {
                rewrite(before, after.header().delete_horizon(), |offset| kept.contains(&offset))
            };
            // Encoders of one codec differ in their streams, and in nothing else.
            let got = parse(bytes);
            assert_eq!(got.stream(), after.stream(), "batch {}", after.last_offset());
            let compared =
                if got.header().compression() == Compression::None { 0..after.bytes().len() } else { 21..61 };
            assert_eq!(got.bytes().get(compared.clone()), after.bytes().get(compared), "batch {}", after.last_offset());
            changed += usize::from(before.bytes() != after.bytes());
        }
        assert!(changed > 10, "{changed} batches were changed");
    }

    #[test]
    #[cfg_attr(
        not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
        ignore = "the files hold batches of every codec"
    )]
    fn compressed_messages_of_the_old_formats_keep_what_stays_at_its_offset() {
        let files = golden![
            "legacy/v0-gzip-0/00000000000000000000.log",
            "legacy/v0-snappy-0/00000000000000000000.log",
            "legacy/v0-lz4-0/00000000000000000000.log",
            "legacy/v1-gzip-0/00000000000000000000.log",
            "legacy/v1-snappy-0/00000000000000000000.log",
            "legacy/v1-lz4-0/00000000000000000000.log"
        ];
        for (position, file) in files.into_iter().enumerate() {
            let mut rewritten = 0;
            for batch in batches(&[file]) {
                let keep = |offset: i64| offset % 3 != 0;
                let read = |batch: &RecordBatch| -> Vec<_> {
                    batch.records().map(|record| record.expect("sound").detach()).collect()
                };
                let mut expected = read(&batch);
                expected.retain(|record| keep(record.offset().value()));
                let Some(last) = expected.last().filter(|_| batch.header().compression() != Compression::None) else {
                    continue;
                };
                let after = parse(rewrite(&batch, None, keep));
                assert_eq!(format!("{:?}", read(&after)), format!("{expected:?}"), "file {position}");
                assert_eq!((after.header().magic(), after.last_offset()), (batch.header().magic(), last.offset()));
                let max = expected.iter().filter_map(|record| record.timestamp()).max();
                assert_eq!(after.header().max_timestamp(), max);
                if (batch.header().magic(), batch.header().compression()) == (0, Compression::Lz4) {
                    assert_eq!(after.bytes()[26..33], batch.bytes()[26..33], "the frame's odd checksum");
                }
                rewritten += 1;
            }
            assert!(rewritten > 3, "file {position}: {rewritten}");
        }
    }

    proptest! {
        #[test]
        fn kept_records_read_the_same_whatever_the_codec(
            times in prop::collection::vec(prop::option::of(0..i64::MAX), 1..20),
            mask: u32,
            horizon in prop::option::of(0..i64::MAX),
            codec in 0_u8..5,
            append: bool,
        ) {
            let compression = Compression::from_id(codec).expect("five codecs");
            let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
            for (index, time) in times.iter().enumerate() {
                let key = index.to_string();
                builder.push(&Record::keyed(&key, "value").header("h", "x"), time.and_then(at)).expect("small");
            }
            let mut bytes = match builder.finish() {
                Err(FormatError::MissingFeature { .. }) => return Ok(()),
                bytes => bytes.expect("at least one").to_vec(),
            };
            if append {
                set_timestamps(&mut bytes, TimestampType::LogAppend, at(TIME)).expect("a batch");
            }
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
