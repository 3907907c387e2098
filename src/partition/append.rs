//! The only path by which records enter the log: validate, encode, assign offsets, write, publish.
//!
//! Validation and encoding happen before the append lock is taken. Offsets and the leader epoch lie outside a batch's
//! checksum, so under the lock they are only patched in. What producers with an id append, and markers, have rules of their own:
//! `stamped.rs`.

use parking_lot::Mutex;

use super::roll::{RollInput, draw_jitter, should_roll};
use super::validate::Rules;
use super::{Inner, Inside, LogError, Partition, Writer, load};
use crate::config::{CompressionType, TopicSettings};
use crate::format::{
    BatchBuilder, BatchHeader, BatchOptions, Compression, ProducerStamp, Record, RecordBatch, TransactionMarker,
    assign_offsets, set_timestamps,
};
use crate::segment::{BatchFacts, Segment, SegmentError, SegmentOptions};
use crate::types::{Offset, Timestamp, TimestampType};

/// Builders kept for the next append, so that it needs no new buffer.
const BUILDERS_KEPT: usize = 8;

/// A builder whose last batch was larger than this, in bytes, is dropped with its memory.
const BUILDER_SIZE_KEPT: usize = 4 * 1024 * 1024;

/// What an append waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Handed to the operating system: survives the end of this process, even by `kill -9`, not a power loss.
    #[default]
    Written,
    /// Synced to the disk: survives a power loss. Appends that wait at the same time share one sync.
    Durable,
}

/// Where an append's records stand, and what has been reached for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The first record's offset.
    pub base_offset: Offset,
    /// The last record's offset.
    pub last_offset: Offset,
    /// The time the log gave all records, where the topic has `message.timestamp.type=LogAppendTime`.
    pub timestamp: Option<Timestamp>,
    /// What has been reached; at least what was asked.
    pub durability: Durability,
    /// Whether nothing was written because the producer's batch was there already.
    pub is_duplicate: bool,
}

/// An encoded batch on its way into the log.
pub(super) struct Draft<'a> {
    pub bytes: &'a mut [u8],
    pub count: u32,
    pub max_timestamp: Option<Timestamp>,
    pub append_time: Option<Timestamp>,
    pub origin: Origin,
}

/// What decides whether a batch may enter the log besides its content.
pub(super) enum Origin {
    /// Nothing: its producer has no id.
    Plain,
    Producer(ProducerStamp),
    Marker(TransactionMarker),
}

impl From<Option<ProducerStamp>> for Origin {
    fn from(stamp: Option<ProducerStamp>) -> Self {
        stamp.map_or(Self::Plain, Self::Producer)
    }
}

impl Partition {
    /// Appends records as one batch, uncompressed unless the topic's `compression.type` names a codec. They are readable when
    /// this returns.
    ///
    /// # Durability
    /// [`Durability::Written`]: survives this process, not a power loss.
    ///
    /// # Errors
    /// See [`Partition::append_with`].
    pub fn append(&self, records: &[Record<'_>]) -> Result<Appended, LogError> {
        self.append_with(records, Durability::Written)
    }

    /// Appends records as one batch and waits for `durability`. A record without a timestamp gets the clock's.
    ///
    /// # Durability
    /// [`Durability::Durable`]: the records survive a power loss. [`Durability::Written`]: they survive this process.
    ///
    /// # Errors
    /// Before anything is written: [`LogError::NoRecords`], [`LogError::InvalidRecord`], [`LogError::InvalidTimestamp`],
    /// [`LogError::TooLarge`], [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    /// [`LogError::Segment`] when the disk fails: a write that failed left nothing readable; after a sync that failed the
    /// records may or may not survive, and the partition is offline. Where a full disk has no room for the epochs or the aborted
    /// transactions that must be durable with the records, or a file of a sealed segment can't be opened to sync it, the records are
    /// readable and not durable, and the partition stays online: appending them once more stores them twice, unless the producer has an id.
    /// [`LogError::OutcomeUnknown`] when the log was cut or reopened while the records waited for their sync.
    pub fn append_with(&self, records: &[Record<'_>], durability: Durability) -> Result<Appended, LogError> {
        self.append_compressed(records, Compression::None, durability)
    }

    /// As [`Partition::append_with`], compressed with `compression` as a producer would; a topic whose `compression.type` isn't
    /// `producer` decides itself.
    ///
    /// # Errors
    /// See [`Partition::append_with`]; [`LogError::InvalidBatch`] when the codec is switched off in this build.
    pub fn append_compressed(
        &self,
        records: &[Record<'_>],
        compression: Compression,
        durability: Durability,
    ) -> Result<Appended, LogError> {
        self.inner.count_failure(self.inner.append_records(records, compression, None, durability))
    }

    /// Appends one encoded batch v2, as a producer sends it: base offset 0, dense offsets, timestamps of its own. The records
    /// stay the bytes they are unless the topic asks for another codec.
    ///
    /// # Errors
    /// [`LogError::InvalidBatch`] for bytes that aren't one legal data batch; otherwise see [`Partition::append_with`].
    pub fn append_batch(&self, batch: &[u8], durability: Durability) -> Result<Appended, LogError> {
        self.inner.count_failure(self.inner.append_encoded(batch, durability))
    }

    /// Begins a new segment, unless the active one is empty.
    ///
    /// # Durability
    /// None is promised: the next tick or flush syncs the old segment.
    ///
    /// # Errors
    /// [`LogError::Segment`] when the new file can't be created; [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn roll(&self) -> Result<(), LogError> {
        let _inside = self.inner.enter_writable()?;
        {
            let mut writer = self.inner.writer.lock();
            self.inner.check_online()?;
            if self.inner.list().active().size() == 0 {
                return Ok(());
            }
            self.inner.roll_to(&mut writer, self.log_end_offset())?;
        }
        self.inner.sync_sealed_if_many()
    }
}

impl Inner {
    pub(super) fn count_failure<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        result.inspect_err(|_| self.counters.append_failures.add(1))
    }

    pub(super) fn append_records(
        &self,
        records: &[Record<'_>],
        compression: Compression,
        producer: Option<ProducerStamp>,
        durability: Durability,
    ) -> Result<Appended, LogError> {
        if records.is_empty() {
            return Err(LogError::NoRecords { partition: self.id.clone() });
        }
        let inside = self.enter_writable()?;
        let settings = self.current_settings();
        let now = self.clock.now();
        let rules = Rules { partition: &self.id, settings: &settings, now };
        let append_time = (settings.message_timestamp_type == TimestampType::LogAppend).then_some(now);
        let options = BatchOptions { producer, ..batch_options(&settings, compression) };
        self.builders.with(options, |builder| {
            let mut max_timestamp = append_time;
            for (index, record) in records.iter().enumerate() {
                rules.check_record(index, record.key(), record.create_time())?;
                let timestamp = append_time.or(record.create_time()).unwrap_or(now);
                builder.push(record, Some(timestamp)).map_err(|source| rules.invalid(source))?;
                max_timestamp = max_timestamp.max(Some(timestamp));
            }
            let count = builder.count();
            let bytes = builder.finish().map_err(|source| rules.invalid(source))?;
            rules.check_size(bytes.len())?;
            let draft = Draft { bytes, count, max_timestamp, append_time, origin: producer.into() };
            self.commit(&inside, &settings, draft, durability)
        })
    }

    fn append_encoded(&self, bytes: &[u8], durability: Durability) -> Result<Appended, LogError> {
        let inside = self.enter_writable()?;
        let settings = self.current_settings();
        let now = self.clock.now();
        let rules = Rules { partition: &self.id, settings: &settings, now };
        rules.check_size(bytes.len())?;
        let mut own = bytes.to_vec();
        let batch = RecordBatch::parse(own.clone().into()).map_err(|source| rules.invalid(source))?;
        rules.check_whole(&batch, bytes.len())?;
        let greatest = rules.check_batch(&batch)?;
        let append_time = (settings.message_timestamp_type == TimestampType::LogAppend).then_some(now);
        let producer = stamp_of(batch.header());
        let options = BatchOptions { producer, ..batch_options(&settings, batch.header().compression()) };
        if options.compression != batch.header().compression() {
            own = recompress(&batch, options).map_err(|source| rules.invalid(source))?;
            rules.check_size(own.len())?;
        }
        let max_timestamp = append_time.or(greatest);
        let kind = if append_time.is_some() { TimestampType::LogAppend } else { TimestampType::Create };
        set_timestamps(&mut own, kind, max_timestamp).map(|_| ()).map_err(|source| rules.invalid(source))?;
        let count = batch.header().record_count();
        let draft = Draft { bytes: &mut own, count, max_timestamp, append_time, origin: producer.into() };
        self.commit(&inside, &settings, draft, durability)
    }

    /// Gives the batch its offsets and writes it under the append lock, then waits for `durability` outside of it.
    pub(super) fn commit(
        &self,
        _inside: &Inside<'_>,
        settings: &TopicSettings,
        draft: Draft<'_>,
        durability: Durability,
    ) -> Result<Appended, LogError> {
        // It ends after the append lock, also where an error ends both.
        let moving = self.offsets.moving();
        let mut writer = self.writer.lock();
        self.check_online()?;
        let generation = self.generation();
        if let Some(known) = self.admit(&draft)? {
            drop(writer);
            return self.answer_duplicate(known, draft.append_time, durability, generation);
        }
        self.require_noted_gaps()?;
        let base_offset = self.offsets.log_end();
        let end = base_offset.checked_add(u64::from(draft.count)).ok_or_else(|| LogError::TooLarge {
            partition: self.id.clone(),
            got: u64::from(draft.count),
            limit: Offset::MAX.since(base_offset),
            limit_key: "the offset range",
        })?;
        let last_offset = Offset::new(end.value() - 1).unwrap_or(base_offset);
        let epoch = self.epochs.note_append(base_offset);
        assign_offsets(draft.bytes, base_offset, epoch)
            .map_err(|source| LogError::InvalidBatch { partition: self.id.clone(), source })?;
        let facts = BatchFacts { last_offset, max_timestamp: draft.max_timestamp };
        let active = self.segment_for(&mut writer, settings, draft.bytes.len(), facts)?;
        let begins_segment = active.size() == 0;
        if let Err(error) = active.write(draft.bytes, last_offset) {
            return Err(self.undo_write(&active, self.wrap(error)));
        }
        self.note_data(&draft, &moving);
        // The log end first: who sees the batch must find its end inside the log.
        moving.set_log_end(end);
        active.publish(draft.bytes.len() as u64, facts);
        // Before the next append: it would publish a last stable offset for a transaction whose end didn't make it to the index.
        self.note_marker(&draft, &active, &moving).inspect_err(|error| self.go_offline(error))?;
        drop(writer);
        drop(moving);
        // A newer epoch. What can't be written now is written before the recovery point moves.
        self.epochs.persist().ok();
        self.counters.appended_batches.add(1);
        self.counters.appended_records.add(u64::from(draft.count));
        self.counters.appended_bytes.add(draft.bytes.len() as u64);
        let is_due = end.since(load(&self.recovery_point)) >= settings.flush_messages;
        if durability == Durability::Durable || is_due {
            self.make_durable(end, Some(generation))?;
        }
        self.residency.unsynced.relieve();
        if begins_segment {
            // This append has succeeded. Where that fails, the partition is offline from now on.
            self.sync_sealed_if_many().ok();
        }
        let (timestamp, durability) = (draft.append_time, self.reached(end));
        Ok(Appended { base_offset, last_offset, timestamp, durability, is_duplicate: false })
    }

    /// What has been reached for records below `end`.
    pub(super) fn reached(&self, end: Offset) -> Durability {
        if load(&self.recovery_point) >= end { Durability::Durable } else { Durability::Written }
    }

    /// Cuts off what a failed write left, unless it couldn't even begin. Where that fails too, nobody knows what stands there: the
    /// partition goes offline.
    fn undo_write(&self, active: &Segment, error: LogError) -> LogError {
        if !error.failed_to_open() {
            match active.cut_back() {
                Ok(()) => self.note_cut_back(),
                Err(second) => self.go_offline(&self.wrap(second)),
            }
        }
        error
    }

    /// The active segment, a new one where the old one is full.
    fn segment_for(
        &self,
        writer: &mut Writer,
        settings: &TopicSettings,
        size: usize,
        facts: BatchFacts,
    ) -> Result<std::sync::Arc<Segment>, LogError> {
        let active = std::sync::Arc::clone(self.segments.read().active());
        let age_ms_max = if settings.cleanup_policy.compacts() {
            settings.segment_ms.min(settings.max_compaction_lag_ms)
        } else {
            settings.segment_ms
        };
        let input = RollInput {
            size: active.size(),
            append_size: size as u64,
            size_max: u64::from(settings.segment_bytes),
            age_ms_max,
            jitter_ms: writer.jitter_ms.min(settings.segment_ms),
            first_timestamp: self.first_timestamp(&active)?,
            append_timestamp: facts.max_timestamp,
            created: writer.segment_created,
            now: self.clock.now(),
            index_full: active.is_index_full().map_err(|error| self.wrap(error))?,
            offset_overflow: !active.has_room_for(facts.last_offset),
        };
        if should_roll(&input).is_none() {
            return Ok(active);
        }
        self.roll_to(writer, self.offsets.log_end())
    }

    /// The time that the age of the active segment counts from; `None` where its first batch is damaged, so that the clock decides.
    fn first_timestamp(&self, active: &Segment) -> Result<Option<Timestamp>, LogError> {
        match active.first_timestamp() {
            Err(SegmentError::Format { .. }) => Ok(None),
            found => found.map_err(|error| self.wrap(error)),
        }
    }

    /// Seals the active segment and begins one at `base`. Nothing is synced here. The new file comes first, in full or not at all:
    /// after an error the active segment is what it was.
    pub(super) fn roll_to(&self, writer: &mut Writer, base: Offset) -> Result<std::sync::Arc<Segment>, LogError> {
        let list = self.list();
        let old = std::sync::Arc::clone(list.active());
        let replaces = old.size() == 0 && old.base_offset() == base;
        self.require_noted_gaps()?;
        let new = self.create_segment(base)?;
        if !replaces {
            // What of the indexes and the snapshot can't be written now is in memory, or found again in the log.
            old.seal().ok();
            self.take_snapshot(writer, base).ok();
        }
        let replaced = if replaces {
            super::segments::SegmentList::new(list.sealed().to_vec(), std::sync::Arc::clone(&new))
        } else {
            self.hand_over(old);
            list.rolled(std::sync::Arc::clone(&new))
        };
        *self.segments.write() = replaced;
        writer.segment_created = self.clock.now();
        writer.jitter_ms = draw_jitter(&self.settings.read());
        self.counters.rolls.add(1);
        Ok(new)
    }

    /// A new segment. A `.log` that can be neither finished nor removed would be taken for the active segment by the next opening,
    /// so that the partition is offline then.
    pub(super) fn create_segment(&self, base: Offset) -> Result<std::sync::Arc<Segment>, LogError> {
        self.create_segment_with(base, self.segment_options())
    }

    /// As [`Inner::create_segment`], with other options than the topic's.
    pub(super) fn create_segment_with(
        &self,
        base: Offset,
        options: SegmentOptions,
    ) -> Result<std::sync::Arc<Segment>, LogError> {
        let created = Segment::create(std::sync::Arc::clone(&self.vfs), &self.dir, base, options);
        created.inspect(Segment::expect_dense).map(std::sync::Arc::new).map_err(|failed| {
            let error = self.wrap(failed.error);
            if failed.is_left_behind {
                self.go_offline(&error);
            }
            error
        })
    }
}

fn batch_options(settings: &TopicSettings, producer: Compression) -> BatchOptions {
    let (compression, level) = match settings.compression_type {
        CompressionType::Producer => (producer, None),
        CompressionType::Uncompressed => (Compression::None, None),
        CompressionType::Gzip => (Compression::Gzip, Some(settings.compression_gzip_level)),
        CompressionType::Snappy => (Compression::Snappy, None),
        CompressionType::Lz4 => (Compression::Lz4, Some(settings.compression_lz4_level)),
        CompressionType::Zstd => (Compression::Zstd, Some(settings.compression_zstd_level)),
    };
    let timestamp_type = settings.message_timestamp_type;
    BatchOptions { compression, level, timestamp_type, producer: None }
}

/// Who sent a batch, as far as the rules have checked that it says so.
fn stamp_of(header: &BatchHeader) -> Option<ProducerStamp> {
    Some(ProducerStamp {
        id: header.producer_id()?,
        epoch: header.producer_epoch()?,
        base_sequence: header.base_sequence()?,
        transactional: header.is_transactional(),
    })
}

/// The same records in another codec.
fn recompress(batch: &RecordBatch, options: BatchOptions) -> Result<Vec<u8>, crate::format::FormatError> {
    let mut builder = BatchBuilder::new(options);
    for record in batch.records() {
        let record = record?;
        let mut copy = Record::from_parts(record.key(), record.value());
        for header in record.headers() {
            copy = copy.with_header(header);
        }
        builder.push(&copy, record.timestamp())?;
    }
    builder.finish().map(|bytes| bytes.to_vec())
}

/// Builders between two appends.
#[derive(Debug, Default)]
pub(super) struct BuilderPool(Mutex<Vec<BatchBuilder>>);

impl BuilderPool {
    fn with<R>(&self, options: BatchOptions, work: impl FnOnce(&mut BatchBuilder) -> R) -> R {
        let mut builder = self.0.lock().pop().unwrap_or_else(|| BatchBuilder::new(options));
        builder.reset(options);
        let result = work(&mut builder);
        let mut pool = self.0.lock();
        if pool.len() < BUILDERS_KEPT && builder.size() <= BUILDER_SIZE_KEPT {
            pool.push(builder);
        }
        result
    }
}
