//! The background work of a store, as steps: flush by age, retention, removal of deleted files, checkpoints.
//!
//! Nothing here runs by itself. Either the program calls [`LogStore::tick`] now and then, or it asks for a thread with
//! [`LogStore::spawn_maintenance`] and keeps the handle.

mod retention;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::partition::{LogError, Partition};
use crate::store::{LogStore, StoreError};
use crate::types::Timestamp;

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
    /// Whether the checkpoints were written.
    pub checkpointed: bool,
    /// Partitions whose work failed; the others were looked after nevertheless.
    pub failures: Vec<LogError>,
}

impl LogStore {
    /// One step of background work: syncs partitions by `flush.ms`, applies retention, unlinks files that were deleted long
    /// enough ago, writes the checkpoints. Looks at every partition once; `now` is the time that all of it goes by.
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
        let mut report = TickReport::default();
        for partition in self.maintained_partitions()? {
            if let Err(error) = report.look_after(&partition, now) {
                report.failures.push(error);
            }
        }
        report.removed_files += self.remove_expired(now)?;
        self.checkpoint()?;
        report.checkpointed = true;
        Ok(report)
    }

    /// Starts a thread that calls [`LogStore::tick`] every `interval`, by the store's clock, until the handle stops it or the store is closed.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::ReadOnly`]; [`StoreError::Thread`] when the operating system gives no thread.
    pub fn spawn_maintenance(&self, interval: Duration) -> Result<MaintenanceHandle, StoreError> {
        self.maintained_partitions()?;
        let stop = Arc::new(Stop::default());
        let (store, signal) = (self.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("stratalog-maintenance".to_owned())
            .spawn(move || run(&store, interval, &signal))
            .map_err(|source| StoreError::Thread { path: self.path().to_path_buf(), source })?;
        Ok(MaintenanceHandle { stop, thread: Some(thread) })
    }
}

impl TickReport {
    fn look_after(&mut self, partition: &Partition, now: Timestamp) -> Result<(), LogError> {
        let settings = partition.settings();
        if partition.unflushed_ms(now) >= settings.flush_ms {
            partition.flush()?;
            self.flushed_partitions += 1;
        }
        self.removed_files += partition.remove_expired_files(now)?;
        let segments = partition.segment_facts()?;
        let (start, end) = (partition.log_start_offset(), partition.high_watermark());
        let count = retention::expired(&segments, &settings, start, end, now);
        if count > 0 {
            self.expired_bytes += partition.delete_oldest(count)?;
            self.expired_segments += count;
        }
        partition.persist_indexes()
    }
}

fn run(store: &LogStore, interval: Duration, stop: &Stop) -> Result<(), StoreError> {
    while !stop.wait(interval) {
        match store.tick(store.clock().now()) {
            Err(StoreError::Closed { .. }) => break,
            result => drop(result?),
        }
    }
    Ok(())
}

/// The signal that ends the thread.
#[derive(Debug, Default)]
struct Stop {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits at most `interval`; returns whether to stop.
    fn wait(&self, interval: Duration) -> bool {
        let mut requested = self.requested.lock();
        if !*requested {
            self.changed.wait_for(&mut requested, interval);
        }
        *requested
    }

    fn request(&self) {
        *self.requested.lock() = true;
        self.changed.notify_all();
    }
}

/// A running maintenance thread. Dropping it stops the thread and waits for it; [`MaintenanceHandle::stop`] also tells how it ended.
#[derive(Debug)]
#[must_use = "dropping the handle stops the thread"]
pub struct MaintenanceHandle {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<Result<(), StoreError>>>,
}

impl MaintenanceHandle {
    /// Stops the thread, waits for it, and returns the error that it ended with, if any.
    ///
    /// # Errors
    /// What [`LogStore::tick`] failed with.
    ///
    /// # Panics
    /// When the thread panicked, with its panic.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.end().unwrap_or(Ok(()))
    }

    fn end(&mut self) -> Option<Result<(), StoreError>> {
        self.stop.request();
        match self.thread.take()?.join() {
            Ok(result) => Some(result),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for MaintenanceHandle {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            // How it ended was not asked for: `stop` is the way to ask.
            drop(thread.join());
        }
    }
}
