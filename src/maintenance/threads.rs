//! Background work on threads of its own, for programs that don't want to call `tick`: they belong to a handle, which stops them.

//!
//! The threads go on after any failure, which they tell to a callback and count; a closed store ends them. Intervals run on the
//! clock's monotonic time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{MaintenanceFailure, MaintenanceWork, Pace, Work};
use crate::config::StoreSettings;
use crate::store::{LogStore, StoreError};

/// The longest sleep of a maintenance thread, so that it sees a closed store soon.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The shortest, so that an interval of 0 is no busy loop.
const PAUSE_MIN: Duration = Duration::from_millis(1);

impl LogStore {
    /// Starts threads that do the work of [`LogStore::tick`] by the store's clock and intervals (`log.flush.scheduler.interval.ms`,
    /// `log.retention.check.interval.ms`, `log.cleaner.backoff.ms`, the checkpoint intervals), until the handle stops them or the
    /// store is closed: one, and with `log.cleaner.enable` another one for compaction, so that nothing waits for a long one.
    /// Retention, flushing and checkpoints begin `log.initial.task.delay.ms` after the start, or one interval if that is shorter.
    ///
    /// A failure ends no thread: the next round tries again. Failures are counted in
    /// [`StoreMetrics::maintenance_failures`](crate::metrics::StoreMetrics::maintenance_failures);
    /// [`LogStore::spawn_maintenance_with`] tells them as they come.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::ReadOnly`]; [`StoreError::Thread`] when the operating system gives no thread.
    pub fn spawn_maintenance(&self) -> Result<MaintenanceHandle, StoreError> {
        self.spawn_maintenance_with(|_| ())
    }

    /// As [`LogStore::spawn_maintenance`], and calls `on_failure` with each failure, from the thread that met it. It may call
    /// back into the store. A panic in it ends that thread, which [`MaintenanceHandle::is_running`] then shows.
    ///
    /// # Errors
    /// As [`LogStore::spawn_maintenance`].
    ///
    /// # Example
    ///
    /// ```
    /// use stratalog::LogStore;
    ///
    /// let folder = tempfile::tempdir()?;
    /// let store = LogStore::open(folder.path())?;
    /// let maintenance = store.spawn_maintenance_with(|failure| eprintln!("{} failed: {failure}", failure.work))?;
    /// assert!(maintenance.is_running());
    /// maintenance.stop()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn_maintenance_with(
        &self,
        on_failure: impl Fn(&MaintenanceFailure) + Send + Sync + 'static,
    ) -> Result<MaintenanceHandle, StoreError> {
        self.maintained_partitions()?;
        let on_failure: Arc<OnFailure> = Arc::new(on_failure);
        let mut handle = MaintenanceHandle { stop: Arc::default(), threads: Vec::new() };
        handle.start(self, Role::Upkeep, &on_failure)?;
        if self.settings().cleaner_enable {
            handle.start(self, Role::Compaction, &on_failure)?;
        }
        Ok(handle)
    }
}

/// Who is told of failures.
type OnFailure = dyn Fn(&MaintenanceFailure) + Send + Sync;

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

/// A task that comes back every `interval`, by the clock's monotonic time.
#[derive(Debug)]
struct Due {
    interval: Duration,
    at: Duration,
}

impl Due {
    fn every(interval_ms: u64, now: Duration) -> Self {
        Self::starting(u64::MAX, interval_ms, now)
    }

    /// The first time after `delay_ms`, or after one interval if that is shorter.
    fn starting(delay_ms: u64, interval_ms: u64, now: Duration) -> Self {
        let first = Duration::from_millis(delay_ms.min(interval_ms));
        Self { interval: Duration::from_millis(interval_ms), at: now.saturating_add(first) }
    }

    /// Whether it is time; then it is put off by one interval.
    fn take(&mut self, now: Duration) -> bool {
        let due = now >= self.at;
        if due {
            self.at = now.saturating_add(self.interval);
        }
        due
    }

    /// How long a thread may sleep: until it is time, and never longer than one interval, because the clock may be one that a
    /// test moves.
    fn pause(&self, now: Duration) -> Duration {
        self.at.saturating_sub(now).min(self.interval)
    }
}

impl Schedule {
    fn new(role: Role, settings: &StoreSettings, now: Duration) -> Self {
        let checkpoint = settings
            .flush_offset_checkpoint_interval_ms
            .min(settings.flush_start_offset_checkpoint_interval_ms)
            .min(settings.high_watermark_checkpoint_interval_ms);
        let delay = settings.initial_task_delay_ms;
        Self {
            role,
            flush: Due::starting(delay, settings.flush_scheduler_interval_ms, now),
            retention: Due::starting(delay, settings.retention_check_interval_ms, now),
            compaction: Due::every(settings.cleaner_backoff_ms, now),
            producers: Due::every(settings.producer_id_expiration_check_interval_ms, now),
            checkpoint: Due::starting(delay, checkpoint, now),
        }
    }

    fn take(&mut self, now: Duration) -> Work {
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
    fn pause(&self, now: Duration) -> Duration {
        let all = [&self.flush, &self.retention, &self.compaction, &self.producers, &self.checkpoint];
        let shortest = all.into_iter().map(|due| due.pause(now)).min();
        shortest.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

/// What failed last in each kind of work that has not succeeded since.
#[derive(Debug, Default)]
struct Outstanding(BTreeMap<MaintenanceWork, MaintenanceFailure>);

impl Outstanding {
    fn update(&mut self, done: Work, failures: Vec<MaintenanceFailure>) {
        self.0.retain(|work, _| !done.covers(*work));
        self.0.extend(failures.into_iter().map(|failure| (failure.work, failure)));
    }

    fn into_result(self) -> Result<(), StoreError> {
        self.0.into_values().next().map_or(Ok(()), |failure| Err(failure.error))
    }
}

impl Work {
    /// Whether a step that does this does `work`.
    const fn covers(self, work: MaintenanceWork) -> bool {
        match work {
            MaintenanceWork::Flush => self.flush,
            MaintenanceWork::Retention => self.retention,
            MaintenanceWork::Compaction => self.compaction,
            MaintenanceWork::Removal => true,
            MaintenanceWork::Checkpoint => self.checkpoint,
        }
    }
}

fn run(store: &LogStore, role: Role, stop: &Stop, on_failure: &OnFailure) -> Result<(), StoreError> {
    let clock = store.clock();
    let mut schedule = Schedule::new(role, store.settings(), clock.monotonic());
    let pace = Pace { is_stopped: &|| stop.is_requested(), sleep: &|pause| _ = stop.wait(pause), on_failure };
    let mut outstanding = Outstanding::default();
    while !stop.wait(schedule.pause(clock.monotonic())) {
        let work = schedule.take(clock.monotonic());
        match store.step(clock.now(), work, &pace) {
            Ok(report) => outstanding.update(work, report.failures),
            // The store was closed.
            Err(_) => break,
        }
    }
    outstanding.into_result()
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
    /// Whether every thread of this handle still works. They end when the store is closed, within a second; and one ends
    /// by a panic, of the failure callback for example: [`MaintenanceHandle::stop`] goes on with that panic.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Stops the threads and waits for them. A compaction that goes on is cancelled.
    ///
    /// # Errors
    /// The last failure in a kind of work that has not succeeded since, if there is one.
    ///
    /// # Panics
    /// When a thread panicked, with its panic.
    pub fn stop(mut self) -> Result<(), StoreError> {
        let ended = self.end();
        ended.into_iter().try_for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Starts one more thread.
    fn start(&mut self, store: &LogStore, role: Role, on_failure: &Arc<OnFailure>) -> Result<(), StoreError> {
        let (own, stop, on_failure) = (store.clone(), Arc::clone(&self.stop), Arc::clone(on_failure));
        let thread = std::thread::Builder::new().name(role.thread_name().to_owned());
        let thread = thread.spawn(move || run(&own, role, &stop, &*on_failure));
        self.threads.push(thread.map_err(|source| StoreError::Thread { path: store.path().to_path_buf(), source })?);
        Ok(())
    }

    /// Stops the threads and waits for all but the current one: a failure callback may drop the handle that it belongs to.
    fn end(&mut self) -> Vec<std::thread::Result<Result<(), StoreError>>> {
        self.stop.request();
        let current = std::thread::current().id();
        let others = self.threads.drain(..).filter(|thread| thread.thread().id() != current);
        others.map(JoinHandle::join).collect()
    }
}

impl Drop for MaintenanceHandle {
    fn drop(&mut self) {
        // How the threads ended was not asked for: `stop` is the way to ask.
        drop(self.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreConfig;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn schedule(config: StoreConfig) -> Schedule {
        Schedule::new(Role::Upkeep, &config.resolve().unwrap(), ms(7))
    }

    #[test]
    fn the_first_retention_comes_after_the_initial_delay_and_the_next_one_an_interval_later() {
        let mut schedule = schedule(StoreConfig::new());
        assert!(!schedule.take(ms(30_006)).retention);
        assert!(schedule.take(ms(30_007)).retention);
        assert!(!schedule.take(ms(330_006)).retention);
        assert!(schedule.take(ms(330_007)).retention);
    }

    #[test]
    fn an_interval_below_the_initial_delay_is_not_put_off_by_it() {
        let mut schedule = schedule(StoreConfig::new().retention_check_interval_ms(10));
        assert!(schedule.take(ms(17)).retention);
    }

    #[test]
    fn a_thread_sleeps_until_the_next_task_at_most_a_second_and_never_not_at_all() {
        let long = StoreConfig::new().flush_scheduler_interval_ms(u64::from(u32::MAX)).initial_task_delay_ms(50);
        assert_eq!(schedule(long).pause(ms(7)), ms(50));
        assert_eq!(schedule(StoreConfig::new()).pause(ms(7)), PAUSE_MAX);
        assert_eq!(schedule(StoreConfig::new().flush_scheduler_interval_ms(0)).pause(ms(100)), PAUSE_MIN);
    }
}
