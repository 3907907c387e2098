//! The background work of a store, as steps: expiry of producers, retention, removal of deleted files, flush by age, compaction,
//! checkpoints.
//!
//! Nothing here runs by itself. Either the program calls [`LogStore::tick`] now and then, or it asks for threads with
//! [`LogStore::spawn_maintenance`] and keeps the handle.

mod cleaner;
mod compact;
mod compaction;
mod key_map;
mod report;
mod retention;
mod survey;
mod threads;
mod throttle;
mod transactions;
mod walk;

use std::ops::ControlFlow;
use std::time::Duration;

pub use compact::{CompactionOptions, CompactionProgress, CompactionReport};
pub use report::{MaintenanceFailure, MaintenanceWork, TickReport};
pub use threads::MaintenanceHandle;

use crate::config::{StoreSettings, TopicSettings};
use crate::partition::{LogError, Partition};
use crate::store::{LogStore, StoreError};
use crate::types::Timestamp;

use compaction::Extent;
use key_map::KeyMapLimits;

impl LogStore {
    /// One step of background work: forgets idle producers, applies retention, unlinks files that were deleted long enough ago, syncs
    /// partitions by `flush.ms`, compacts what is dirty enough, writes the checkpoints. Looks at every partition once; `now`
    /// is the time that all of it goes by. With `log.cleaner.io.max.bytes.per.second`, compaction sleeps in between.
    ///
    /// # Errors
    /// [`StoreError::Closed`] and [`StoreError::ReadOnly`], with nothing done. Everything else that fails is listed in
    /// [`TickReport::failures`], and keeps no other work from its turn.
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
        let pace = Pace { is_stopped: &|| false, sleep: &std::thread::sleep, on_failure: &|_| () };
        self.step(now, Work::ALL, &pace)
    }

    fn step(&self, now: Timestamp, work: Work, pace: &Pace<'_>) -> Result<TickReport, StoreError> {
        let mut report = TickReport::default();
        let partitions = self.maintained_partitions()?;
        for partition in &partitions {
            report.look_after(partition, now, work, pace);
        }
        if work.compaction && self.settings().cleaner_enable {
            report.compact_in_turn(&partitions, now, self.settings(), pace);
        }
        if let Some(removed) = report.note(MaintenanceWork::Removal, self.remove_expired(now), pace) {
            report.removed_files += removed.folders;
            report.note(MaintenanceWork::Removal, removed.failure.map_or(Ok(()), Err), pace);
        }
        if work.checkpoint {
            for partition in &partitions {
                report.note(MaintenanceWork::Checkpoint, partition.persist_state(), pace);
            }
            report.checkpointed = report.note(MaintenanceWork::Checkpoint, self.checkpoint(), pace).is_some();
        }
        self.counters().maintenance_failures.add(report.failures.len() as u64);
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

/// How work that takes long sleeps, and learns that it is to end; and who is told of failures.
struct Pace<'a> {
    is_stopped: &'a dyn Fn() -> bool,
    sleep: &'a dyn Fn(Duration),
    on_failure: &'a dyn Fn(&MaintenanceFailure),
}

impl TickReport {
    fn look_after(&mut self, partition: &Partition, now: Timestamp, work: Work, pace: &Pace<'_>) {
        if work.producers {
            self.expired_producers += partition.expire_producers(now);
        }
        let settings = partition.settings();
        // First what frees space: on a full disk a flush fails, and takes the partition offline.
        if work.retention {
            let expired = self.expire(partition, &settings, now);
            self.note(MaintenanceWork::Retention, expired, pace);
        }
        let removed = self.note(MaintenanceWork::Removal, partition.remove_expired_files(now), pace);
        self.removed_files += removed.unwrap_or(0);
        if work.flush && partition.unflushed_ms(now) >= settings.flush_ms {
            let flushed = self.note(MaintenanceWork::Flush, partition.flush(), pace);
            self.flushed_partitions += usize::from(flushed.is_some());
        }
        // What rolls left to be synced.
        self.note(MaintenanceWork::Flush, partition.sync_sealed(), pace);
    }

    fn expire(&mut self, partition: &Partition, settings: &TopicSettings, now: Timestamp) -> Result<(), LogError> {
        let expired =
            partition.delete_expired(|segments, start, end| retention::expired(segments, settings, start, end, now))?;
        self.expired_bytes += expired.bytes;
        self.expired_segments += expired.segments;
        expired.kept_for.map_or(Ok(()), Err)
    }

    /// Compacts each partition that is due: those overdue first, then the dirtiest. As many logs as are eligible now, each once.
    fn compact_in_turn(&mut self, partitions: &[Partition], now: Timestamp, settings: &StoreSettings, pace: &Pace<'_>) {
        let mut due = Vec::new();
        for partition in partitions {
            let extent = self.note(MaintenanceWork::Compaction, eligible(partition, now), pace).flatten();
            due.extend(extent.map(|extent| (partition, extent)));
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
            if let Some((partition, _)) = due.get(position) {
                let done = self.note(MaintenanceWork::Compaction, compact_if_due(partition, now, &options), pace);
                self.add_compaction(done.flatten());
            }
        }
    }

    fn add_compaction(&mut self, done: Option<CompactionReport>) {
        let Some(done) = done else { return };
        self.compacted_partitions += usize::from(done.is_complete);
        self.compaction_bytes_read += done.bytes_read;
        self.compaction_bytes_written += done.bytes_written;
    }
}

/// Compacts a partition, unless somebody else does. The log may have been cut or compacted while others had their turn, so what
/// is to be compacted is found out anew.
fn compact_if_due(
    partition: &Partition,
    now: Timestamp,
    options: &CompactionOptions<'_>,
) -> Result<Option<CompactionReport>, LogError> {
    let Some(_only) = partition.try_lock_cleaning() else { return Ok(None) };
    let generation = partition.generation();
    let Some(extent) = eligible(partition, now)? else { return Ok(None) };
    compact::compact(partition, &partition.settings(), (generation, extent), now, options).map(Some)
}

/// What is to be compacted of a partition in the background, if anything is.
fn eligible(partition: &Partition, now: Timestamp) -> Result<Option<Extent>, LogError> {
    let settings = partition.settings();
    if !settings.cleanup_policy.compacts() || partition.uncleanable().is_some() || partition.check_cleanable().is_err()
    {
        return Ok(None);
    }
    let generation = partition.generation();
    let Some(extent) = compact::extent(partition, generation, &settings, now)? else { return Ok(None) };
    if extent.is_note_wrong {
        partition.set_compacted_to(generation, extent.first_dirty);
    }
    Ok(extent.is_eligible(&settings).then_some(extent))
}
