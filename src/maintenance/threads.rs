//! Background work on threads of its own, for programs that don't want to call `tick`: they belong to a handle, which stops them.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Pace, Work};
use crate::config::StoreSettings;
use crate::store::{LogStore, StoreError};
use crate::types::Timestamp;

/// The longest sleep of a maintenance thread in milliseconds, so that it sees a closed store soon.
const PAUSE_MS_MAX: u64 = 1000;

impl LogStore {
    /// Starts threads that do the work of [`LogStore::tick`] by the store's clock and intervals (`log.flush.scheduler.interval.ms`,
    /// `log.retention.check.interval.ms`, `log.cleaner.backoff.ms`, the checkpoint intervals), until the handle stops them or the
    /// store is closed: one, and with `log.cleaner.enable` another one for compaction, so that nothing waits for a long one.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::ReadOnly`]; [`StoreError::Thread`] when the operating system gives no thread.
    pub fn spawn_maintenance(&self) -> Result<MaintenanceHandle, StoreError> {
        self.maintained_partitions()?;
        let mut handle = MaintenanceHandle { stop: Arc::default(), threads: Vec::new() };
        handle.start(self, Role::Upkeep)?;
        if self.settings().cleaner_enable {
            handle.start(self, Role::Compaction)?;
        }
        Ok(handle)
    }
}

/// What one of the threads does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Everything but compaction.
    Upkeep,
    Compaction,
}

impl Role {
    const fn thread_name(self) -> &'static str {
        match self {
            Self::Upkeep => "stratalog-maintenance",
            Self::Compaction => "stratalog-compaction",
        }
    }
}

/// When a thread does what next.
#[derive(Debug)]
struct Schedule {
    role: Role,
    flush: Due,
    retention: Due,
    compaction: Due,
    producers: Due,
    checkpoint: Due,
}

/// A task that comes back every `interval_ms`.
#[derive(Debug)]
struct Due {
    interval_ms: u64,
    at: Timestamp,
}

impl Due {
    fn every(interval_ms: u64, from: Timestamp) -> Self {
        Self { interval_ms, at: from.saturating_add(interval_ms) }
    }

    /// Whether it is time; then it is put off by one interval.
    fn take(&mut self, now: Timestamp) -> bool {
        let due = now >= self.at;
        if due {
            self.at = now.saturating_add(self.interval_ms);
        }
        due
    }
}

impl Schedule {
    fn new(role: Role, settings: &StoreSettings, now: Timestamp) -> Self {
        let checkpoint = settings
            .flush_offset_checkpoint_interval_ms
            .min(settings.flush_start_offset_checkpoint_interval_ms)
            .min(settings.high_watermark_checkpoint_interval_ms);
        Self {
            role,
            flush: Due::every(settings.flush_scheduler_interval_ms, now),
            retention: Due::every(settings.retention_check_interval_ms, now),
            compaction: Due::every(settings.cleaner_backoff_ms, now),
            producers: Due::every(settings.producer_id_expiration_check_interval_ms, now),
            checkpoint: Due::every(checkpoint, now),
        }
    }

    fn take(&mut self, now: Timestamp) -> Work {
        let is_upkeep = self.role == Role::Upkeep;
        Work {
            flush: self.flush.take(now) && is_upkeep,
            retention: self.retention.take(now) && is_upkeep,
            compaction: self.compaction.take(now) && !is_upkeep,
            producers: self.producers.take(now) && is_upkeep,
            checkpoint: self.checkpoint.take(now) && is_upkeep,
        }
    }

    /// How long a thread may sleep without missing anything by much.
    fn pause(&self) -> Duration {
        let all = [&self.flush, &self.retention, &self.compaction, &self.producers, &self.checkpoint];
        let shortest = all.map(|due| due.interval_ms);
        let shortest = shortest.into_iter().min().unwrap_or(PAUSE_MS_MAX);
        Duration::from_millis(shortest.clamp(1, PAUSE_MS_MAX))
    }
}

fn run(store: &LogStore, role: Role, stop: &Stop) -> Result<(), StoreError> {
    let mut schedule = Schedule::new(role, store.settings(), store.clock().now());
    let pace = Pace { is_stopped: &|| stop.is_requested(), sleep: &|pause| _ = stop.wait(pause) };
    while !stop.wait(schedule.pause()) {
        let now = store.clock().now();
        match store.step(now, schedule.take(now), &pace) {
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

    fn is_requested(&self) -> bool {
        *self.requested.lock()
    }

    fn request(&self) {
        *self.requested.lock() = true;
        self.changed.notify_all();
    }
}

/// Running maintenance threads. Dropping it stops them and waits for them; [`MaintenanceHandle::stop`] also tells how they ended.
#[derive(Debug)]
#[must_use = "dropping the handle stops the threads"]
pub struct MaintenanceHandle {
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<Result<(), StoreError>>>,
}

impl MaintenanceHandle {
    /// Stops the threads, waits for them, and returns the error that one ended with, if any. A compaction that goes on is cancelled.
    ///
    /// # Errors
    /// What [`LogStore::tick`] failed with.
    ///
    /// # Panics
    /// When a thread panicked, with its panic.
    pub fn stop(mut self) -> Result<(), StoreError> {
        self.stop.request();
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        ended.into_iter().try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Starts one more thread.
    fn start(&mut self, store: &LogStore, role: Role) -> Result<(), StoreError> {
        let (own, stop) = (store.clone(), Arc::clone(&self.stop));
        let thread = std::thread::Builder::new().name(role.thread_name().to_owned());
        let thread = thread.spawn(move || run(&own, role, &stop));
        self.threads.push(thread.map_err(|source| StoreError::Thread { path: store.path().to_path_buf(), source })?);
        Ok(())
    }
}

impl Drop for MaintenanceHandle {
    fn drop(&mut self) {
        self.stop.request();
        for thread in self.threads.drain(..) {
            // How it ended was not asked for: `stop` is the way to ask.
            drop(thread.join());
        }
    }
}
