//! The background work of a store, as steps: flush by age, retention, compaction, expiry of producers, removal of deleted
//! files, checkpoints.
//!
//! Nothing here runs by itself. Either the program calls [`LogStore::tick`] now and then, or it asks for threads with
//! [`LogStore::spawn_maintenance`] and keeps the handle.

mod cleaner;
mod compact;
mod compaction;
mod key_map;
mod retention;
mod survey;
mod threads;
mod throttle;
mod transactions;
mod walk;

use std::ops::ControlFlow;
use std::time::Duration;

pub use compact::{CompactionOptions, CompactionProgress, CompactionReport};
pub use threads::MaintenanceHandle;

use crate::config::{StoreSettings, TopicSettings};
use crate::partition::{LogError, Partition};
use crate::store::{LogStore, StoreError};
use crate::types::Timestamp;

use compaction::Extent;
use key_map::KeyMapLimits;

/// What one step of background work did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TickReport {
    /// Partitions that were synced because their oldest unsynced record was older than `flush.ms`.
    pub flushed_partitions: usize,
    /// Segments that retention removed from their logs.
    pub expired_segments: usize,
    /// Bytes of their `.log` files.
    pub expired_bytes: u64,
    /// Files that were unlinked after `file.delete.delay.ms`.
    pub removed_files: usize,
    /// Producers that were forgotten after `producer.id.expiration.ms`, each counted in every partition.
    pub expired_producers: usize,
    /// Partitions that were compacted.
    pub compacted_partitions: usize,
    /// Bytes of batches that compactions read, those that did not go through included.
    pub compaction_bytes_read: u64,
    /// Bytes of batches that they wrote.
    pub compaction_bytes_written: u64,
    /// Whether the checkpoints were written.
    pub checkpointed: bool,
    /// Partitions whose work failed; the others were looked after nevertheless.
    pub failures: Vec<LogError>,
}

impl LogStore {
    /// One step of background work: syncs partitions by `flush.ms`, applies retention, compacts what is dirty enough, forgets idle
    /// producers, unlinks files that were deleted long enough ago, writes the checkpoints. Looks at every partition once; `now`
    /// is the time that all of it goes by. With `log.cleaner.io.max.bytes.per.second`, compaction sleeps in between.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::ReadOnly`], and [`StoreError::Io`] when a checkpoint can't be written. What fails in
    /// one partition stands in the report.
    ///
    /// # Example
    ///
    /// ```
    /// use stratalog::{LogStore, Record, TopicConfig};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let store = LogStore::open(folder.path())?;
    /// let topic = store.create_topic("metrics", 1, TopicConfig::new().retention_ms(Some(1000)))?;
    /// let partition = topic.partition(0)?;
    /// partition.append(&[Record::new("an old value")])?;
    ///
    /// let later = stratalog::Timestamp::MAX;
    /// assert_eq!(store.tick(later)?.expired_segments, 1);
    /// assert_eq!(partition.log_start_offset(), partition.log_end_offset());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tick(&self, now: Timestamp) -> Result<TickReport, StoreError> {
        self.step(now, Work::ALL, &Pace { is_stopped: &|| false, sleep: &std::thread::sleep })
    }

    fn step(&self, now: Timestamp, work: Work, pace: &Pace<'_>) -> Result<TickReport, StoreError> {
        let mut report = TickReport::default();
        let partitions = self.maintained_partitions()?;
        for partition in &partitions {
            if let Err(error) = report.look_after(partition, now, work) {
                report.failures.push(error);
            }
        }
        if work.compaction && self.settings().cleaner_enable {
            report.compact_in_turn(&partitions, now, self.settings(), pace);
        }
        report.removed_files += self.remove_expired(now)?;
        if work.checkpoint {
            self.checkpoint()?;
            report.checkpointed = true;
        }
        Ok(report)
    }
}

/// What a step does besides unlinking deleted files.
#[derive(Debug, Clone, Copy)]
struct Work {
    flush: bool,
    retention: bool,
    compaction: bool,
    producers: bool,
    checkpoint: bool,
}

impl Work {
    const ALL: Self = Self { flush: true, retention: true, compaction: true, producers: true, checkpoint: true };
}

/// How work that takes long sleeps, and learns that it is to end.
struct Pace<'a> {
    is_stopped: &'a dyn Fn() -> bool,
    sleep: &'a dyn Fn(Duration),
}

impl TickReport {
    fn look_after(&mut self, partition: &Partition, now: Timestamp, work: Work) -> Result<(), LogError> {
        if work.producers {
            self.expired_producers += partition.expire_producers(now);
        }
        let settings = partition.settings();
        if work.flush && partition.unflushed_ms(now) >= settings.flush_ms {
            partition.flush()?;
            self.flushed_partitions += 1;
        }
        self.removed_files += partition.remove_expired_files(now)?;
        if work.retention { self.expire(partition, &settings, now) } else { Ok(()) }
    }

    fn expire(&mut self, partition: &Partition, settings: &TopicSettings, now: Timestamp) -> Result<(), LogError> {
        let segments = partition.segment_facts()?;
        let (start, end) = (partition.log_start_offset(), partition.high_watermark());
        let count = retention::expired(&segments, settings, start, end, now);
        if count > 0 {
            self.expired_bytes += partition.delete_oldest(count)?;
            self.expired_segments += count;
        }
        Ok(())
    }

    /// Compacts each partition that is due: those overdue first, then the dirtiest. As many logs as are eligible now, each once.
    fn compact_in_turn(&mut self, partitions: &[Partition], now: Timestamp, settings: &StoreSettings, pace: &Pace<'_>) {
        let mut due = Vec::new();
        for partition in partitions {
            match eligible(partition, now) {
                Ok(extent) => due.extend(extent.map(|extent| (partition, extent))),
                // Closed by somebody else meanwhile.
                Err(LogError::Closed { .. }) => {}
                Err(error) => self.failures.push(error),
            }
        }
        let extents: Vec<_> = due.iter().map(|(_, extent)| *extent).collect();
        let progress = |_| if (pace.is_stopped)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let options = CompactionOptions {
            limits: KeyMapLimits {
                budget: settings.cleaner_dedupe_buffer_size,
                load_factor: settings.cleaner_io_buffer_load_factor,
            },
            bytes_per_second: settings.cleaner_io_max_bytes_per_second,
            progress: &progress,
            sleep: pace.sleep,
        };
        for position in compaction::order(&extents) {
            if let Some((partition, extent)) = due.get(position) {
                self.compact(partition, *extent, now, &options);
            }
        }
    }

    fn compact(&mut self, partition: &Partition, extent: Extent, now: Timestamp, options: &CompactionOptions<'_>) {
        // Somebody compacts it by hand.
        let Some(_only) = partition.try_lock_cleaning() else { return };
        match compact::compact(partition, &partition.settings(), extent, now, options) {
            Ok(done) => {
                self.compacted_partitions += usize::from(done.is_complete);
                self.compaction_bytes_read += done.bytes_read;
                self.compaction_bytes_written += done.bytes_written;
            }
            Err(error) => self.failures.push(error),
        }
    }
}

/// What is to be compacted of a partition in the background, if anything is.
fn eligible(partition: &Partition, now: Timestamp) -> Result<Option<Extent>, LogError> {
    let settings = partition.settings();
    if !settings.cleanup_policy.compacts() || partition.uncleanable().is_some() || partition.check_cleanable().is_err()
    {
        return Ok(None);
    }
    let extent = compact::extent(partition, &settings, now)?;
    if extent.is_note_wrong {
        partition.set_compacted_to(extent.first_dirty);
    }
    Ok(extent.is_eligible(&settings).then_some(extent))
}
