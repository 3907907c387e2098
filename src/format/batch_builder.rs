//! Records in, one sealed batch of magic 2 out.
//!
//! A builder is reused: after [`BatchBuilder::finish`] the next [`BatchBuilder::push`] begins a new batch in the same memory.
//! Records are encoded right behind the room for the header, so that an uncompressed batch is never copied. The batch has
//! base offset 0 and no leader epoch; the log that appends it assigns them ([`super::assign_offsets`]).

use super::batch::{BATCH_HEADER_SIZE, BatchHeader, HeaderFields, LOG_APPEND_TIME_BIT, TRANSACTIONAL_BIT, seal};
use super::compression::{Compression, compress};
use super::error::FormatError;
use super::record::{self, Record};
use crate::types::{Position, ProducerEpoch, ProducerId, Sequence, Timestamp, TimestampType};

/// The most bytes of a batch.
pub const BATCH_SIZE_MAX: usize = 0x7fff_ffff;
/// The least room that a builder with records has: enough for most batches of single records.
const ROOM_MIN: usize = 512;

/// How a [`BatchBuilder`] makes its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchOptions {
    /// How records are compressed.
    pub compression: Compression,
    /// The codec's level; `None` for its default.
    pub level: Option<i32>,
    /// Who sets the timestamps. With [`TimestampType::LogAppend`] all records read as the greatest timestamp pushed.
    pub timestamp_type: TimestampType,
    /// The producer, when it is idempotent or transactional.
    pub producer: Option<ProducerStamp>,
}

/// What an idempotent producer puts into its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The producer.
    pub id: ProducerId,
    /// Its generation.
    pub epoch: ProducerEpoch,
    /// The sequence of the batch's first record.
    pub base_sequence: Sequence,
    /// Whether the records belong to a transaction.
    pub transactional: bool,
}

/// Builds one batch after the other.
///
/// ```
/// use stratalog::format::{BatchBuilder, BatchOptions, Record, RecordBatch};
///
/// let mut builder = BatchBuilder::new(BatchOptions::default());
/// builder.push(&Record::keyed("k", "v"), None)?;
/// let batch = RecordBatch::parse(builder.finish()?.to_vec().into())?;
/// for record in batch.records() {
///     assert_eq!(record?.key(), Some(&b"k"[..]));
/// }
/// # Ok::<(), stratalog::format::FormatError>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records, then room for more that holds anything.
    records: Vec<u8>,
    /// Bytes of header and records.
    used: usize,
    /// Room for the header, then the compressed records.
    packed: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    finished: bool,
}

impl BatchBuilder {
    /// A builder without records.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self {
            options,
            records: vec![0; BATCH_HEADER_SIZE],
            used: BATCH_HEADER_SIZE,
            packed: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            finished: false,
        }
    }

    /// The number of records pushed into the current batch.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count.cast_unsigned()
    }

    /// Bytes of the current batch before compression, header included.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.used
    }

    /// Drops the current batch and begins one with other options, in the same memory.
    pub fn reset(&mut self, options: BatchOptions) {
        self.options = options;
        self.clear();
    }

    /// Drops the current batch, and keeps its memory for the next.
    pub fn clear(&mut self) {
        self.used = BATCH_HEADER_SIZE;
        self.count = 0;
        self.base_timestamp = -1;
        self.max_timestamp = -1;
        self.finished = false;
    }

    /// Adds a record with `timestamp`, whatever [`Record::create_time`] says: which of the two counts is the caller's decision.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] when the batch would grow past [`BATCH_SIZE_MAX`]; it then stays as it was.
    #[inline]
    pub fn push(&mut self, record: &Record<'_>, timestamp: Option<Timestamp>) -> Result<(), FormatError> {
        if self.finished {
            self.clear();
        }
        let count = self.count;
        let timestamp = Timestamp::to_wire(timestamp);
        let base_timestamp = if self.count == 0 { timestamp } else { self.base_timestamp };
        let timestamp_delta = timestamp.wrapping_sub(base_timestamp);
        let size = record::body_size(record, timestamp_delta, count).ok_or_else(|| too_large(usize::MAX))?;
        let room = self.room(record::encoded_size(size))?;
        record::encode(room, record, timestamp_delta, count, size);
        self.base_timestamp = base_timestamp;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        Ok(())
    }

    /// Takes the next `size` bytes of the batch.
    #[inline]
    fn room(&mut self, size: usize) -> Result<&mut [u8], FormatError> {
        let start = self.used;
        let end = start.saturating_add(size);
        if end > self.records.len() {
            self.grow(end)?;
        }
        self.used = end;
        Ok(self.records.get_mut(start..end).unwrap_or_default())
    }

    #[cold]
    fn grow(&mut self, needed: usize) -> Result<(), FormatError> {
        if needed > BATCH_SIZE_MAX {
            return Err(too_large(needed));
        }
        let size = needed.max(self.records.len().saturating_mul(2)).clamp(ROOM_MIN, BATCH_SIZE_MAX);
        self.records.resize(size, 0);
        Ok(())
    }

    /// Seals the batch: compresses its records, fills in the header, computes the checksum. The log may still number the bytes
    /// in place. The next push begins a new batch.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] without records, [`FormatError::Compress`] and [`FormatError::MissingFeature`] from the codec,
    /// [`FormatError::TooLarge`] when the compressed batch is larger than [`BATCH_SIZE_MAX`].
    pub fn finish(&mut self) -> Result<&mut [u8], FormatError> {
        if self.count == 0 || self.finished {
            return Err(FormatError::Invalid {
                field: "record count",
                position: Position::ZERO,
                expected: "at least one record in a new batch",
                got: 0,
            });
        }
        let header = self.header();
        let batch = match self.options.compression {
            Compression::None => self.records.get_mut(..self.used).unwrap_or_default(),
            codec => {
                self.packed.clear();
                self.packed.resize(BATCH_HEADER_SIZE, 0);
                let records = self.records.get(BATCH_HEADER_SIZE..self.used).unwrap_or_default();
                compress(codec, self.options.level, records, &mut self.packed)?;
                self.packed.as_mut_slice()
            }
        };
        if batch.len() > BATCH_SIZE_MAX {
            return Err(too_large(batch.len()));
        }
        seal(batch, header);
        self.finished = true;
        Ok(batch)
    }

    fn header(&self) -> BatchHeader {
        let mut attributes = self.options.compression.id();
        if self.options.timestamp_type == TimestampType::LogAppend {
            attributes |= LOG_APPEND_TIME_BIT;
        }
        let producer = self.options.producer;
        if producer.is_some_and(|producer| producer.transactional) {
            attributes |= TRANSACTIONAL_BIT;
        }
        BatchHeader::new(&HeaderFields {
            attributes,
            count: self.count(),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: ProducerId::to_wire(producer.map(|producer| producer.id)),
            producer_epoch: ProducerEpoch::to_wire(producer.map(|producer| producer.epoch)),
            base_sequence: Sequence::to_wire(producer.map(|producer| producer.base_sequence)),
        })
    }
}

/// The error of a batch of `got` bytes.
#[cold]
pub(super) fn too_large(got: usize) -> FormatError {
    FormatError::TooLarge { what: "batch", position: Position::ZERO, limit: BATCH_SIZE_MAX as u64, got: got as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Batches;
    use crate::format::batch::{RecordBatch, assign_offsets, set_timestamps};
    use crate::format::test_vectors::{A1, A2, hex};
    use crate::types::{LeaderEpoch, Offset};
    use bytes::Bytes;
    use proptest::prelude::*;

    const TIME: i64 = 1_700_000_000_000;

    fn at(millis: i64) -> Option<Timestamp> {
        Timestamp::from_millis(millis)
    }

    fn push_a1(builder: &mut BatchBuilder) {
        builder.push(&Record::keyed("k1", "v1"), at(TIME)).expect("small");
        builder.push(&Record::new("").header("h", "x").null_header("n"), at(TIME + 5)).expect("small");
        builder.push(&Record::tombstone(""), at(TIME - 10)).expect("small");
    }

    #[test]
    fn a_batch_has_kafkas_bytes() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        push_a1(&mut builder);
        assert_eq!((builder.count(), builder.size()), (3, 93));
        let batch = builder.finish().expect("three records");
        assign_offsets(batch, Offset::ZERO, LeaderEpoch::ZERO).expect("a batch");
        assert_eq!(batch, hex(A1));
    }

    #[test]
    fn a_transactional_batch_has_kafkas_bytes() {
        let producer = Some(ProducerStamp {
            id: ProducerId::new(4242).expect("positive"),
            epoch: ProducerEpoch::new(3).expect("positive"),
            base_sequence: Sequence::new(7).expect("positive"),
            transactional: true,
        });
        let mut builder = BatchBuilder::new(BatchOptions { producer, ..BatchOptions::default() });
        push_a1(&mut builder);
        let batch = builder.finish().expect("three records");
        assign_offsets(batch, Offset::ZERO, LeaderEpoch::ZERO).expect("a batch");
        assert_eq!(batch, hex(A2));
    }

    #[test]
    fn a_builder_starts_over_after_each_batch() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        push_a1(&mut builder);
        let first = builder.finish().expect("three records").to_vec();
        assert!(builder.finish().is_err(), "nothing new was pushed");
        push_a1(&mut builder);
        assert_eq!(builder.finish().expect("three records"), first);
        push_a1(&mut builder);
        builder.clear();
        assert_eq!((builder.count(), builder.size()), (0, BATCH_HEADER_SIZE));
        assert!(builder.finish().is_err(), "a batch without records");
    }

    #[test]
    fn a_batch_of_append_time_gives_all_records_its_greatest_timestamp() {
        let options = BatchOptions { timestamp_type: TimestampType::LogAppend, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        push_a1(&mut builder);
        let batch = RecordBatch::parse(Bytes::copy_from_slice(builder.finish().expect("three"))).expect("a batch");
        assert!(batch.records().all(|record| record.expect("legal").timestamp() == at(TIME + 5)));
    }

    /// A record's parts, owned.
    type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>, Option<i64>);

    fn parts() -> impl Strategy<Value = Parts> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..100);
        let headers = prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4);
        let time = prop_oneof![0..i64::MAX, TIME..TIME + 1000];
        (prop::option::of(bytes()), prop::option::of(bytes()), headers, prop::option::of(time))
    }

    fn record_of(parts: &Parts) -> Record<'_> {
        let mut record = Record::from_parts(parts.0.as_deref(), parts.1.as_deref());
        for (name, value) in &parts.2 {
            record = match value {
                Some(value) => record.header(name, value),
                None => record.null_header(name),
            };
        }
        record
    }

    proptest! {
        #[test]
        fn records_read_back_as_they_were_pushed(
            all in prop::collection::vec(parts(), 1..20),
            base in 0..i64::MAX - 100,
            codec in 0_u8..5,
            append: bool,
        ) {
            let compression = Compression::from_id(codec).expect("five codecs");
            let mut builder = BatchBuilder::new(BatchOptions { compression, ..BatchOptions::default() });
            for parts in &all {
                builder.push(&record_of(parts), parts.3.and_then(at)).expect("small");
            }
            let base = Offset::new(base).expect("positive");
            let bytes = match builder.finish() {
                Err(FormatError::MissingFeature { .. }) => return Ok(()),
                bytes => bytes.expect("at least one"),
            };
            assign_offsets(bytes, base, LeaderEpoch::ZERO).expect("room");
            let now = at(TIME);
            if append {
                prop_assert_eq!(set_timestamps(bytes, TimestampType::LogAppend, now), Ok(true));
                prop_assert_eq!(set_timestamps(bytes, TimestampType::LogAppend, now), Ok(false));
            }
            let mut batches = Batches::new(Bytes::copy_from_slice(bytes));
            let batch = batches.next().expect("one").expect("sound");
            prop_assert!(batches.next().is_none());
            prop_assert_eq!(batch.last_offset(), base.checked_add(all.len() as u64 - 1).expect("room"));
            if !append {
                let max = all.iter().filter_map(|parts| parts.3).max().and_then(at);
                prop_assert_eq!(batch.header().max_timestamp(), max);
            }
            let mut records = batch.records();
            for (index, parts) in all.iter().enumerate() {
                let record = records.next().expect("as many").expect("sound");
                prop_assert_eq!(Some(record.offset()), base.checked_add(index as u64));
                prop_assert_eq!(record.timestamp(), if append { now } else { parts.3.and_then(at) });
                prop_assert_eq!(record.key(), parts.0.as_deref());
                prop_assert_eq!(record.value(), parts.1.as_deref());
                let headers: Vec<_> = record.headers().collect();
                let expected = record_of(parts);
                prop_assert_eq!(&headers[..], expected.headers());
            }
            prop_assert!(records.next().is_none());
        }
    }
}
