//! Compacting one partition: finds what is dirty, cleans the log group by group, and swaps each group for its outcome.
//!
//! Offsets never change, nor does the order of records; readers keep what they hold. The active segment is not touched. A crash at
//! any point leaves each group either as it was or replaced. Work that ends early has cleaned some groups, and the next run
//! does them again: how far the log is compacted is noted only at the end.

use std::cell::RefCell;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::cleaner::{Counts, Known, Pass};
use super::compaction::{Extent, GroupMember, LogFacts, SegmentSpan, groups};
use super::key_map::KeyMapLimits;
use super::survey::Survey;
use super::throttle::Throttle;
use super::walk::{Amount, Stopped};
use crate::config::TopicSettings;
use crate::partition::{Generation, Inside, LogError, Partition};
use crate::segment::{Segment, SegmentError};
use crate::types::{ErrorKind, Offset, Timestamp};

/// Bytes of batches between two looks at the clock, the partition and the callback.
const STEP_SIZE: u64 = 64 * 1024;

/// The longest sleep of a throttled compaction, so that it can be cancelled in between.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How a partition is compacted; see [`Partition::compact_with`].
#[derive(Clone, Copy)]
pub struct CompactionOptions<'a> {
    pub(super) limits: KeyMapLimits,
    pub(super) bytes_per_second: f64,
    pub(super) progress: &'a dyn Fn(CompactionProgress) -> ControlFlow<()>,
    pub(super) sleep: &'a dyn Fn(Duration),
}

impl fmt::Debug for CompactionOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactionOptions")
            .field("limits", &self.limits)
            .field("bytes_per_second", &self.bytes_per_second)
            .finish_non_exhaustive()
    }
}

impl Default for CompactionOptions<'_> {
    fn default() -> Self {
        Self {
            limits: KeyMapLimits { budget: 128 * 1024 * 1024, load_factor: 0.9 },
            bytes_per_second: f64::MAX,
            progress: &|_| ControlFlow::Continue(()),
            sleep: &|pause| std::thread::sleep(pause),
        }
    }
}

impl<'a> CompactionOptions<'a> {
    /// 128 MiB of memory for keys, as fast as the disk goes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most this many bytes of memory for the map of keys, 20 a key; one key always fits. What doesn't fit is compacted by
    /// the next run.
    #[must_use]
    pub const fn memory(mut self, bytes: u64) -> Self {
        self.limits.budget = bytes;
        self
    }

    /// Reads and writes at most this many bytes a second in the mean; at least 1.
    #[must_use]
    pub const fn bytes_per_second(mut self, bytes: f64) -> Self {
        self.bytes_per_second = bytes;
        self
    }

    /// Calls `progress` at the start and every few bytes. [`ControlFlow::Break`] cancels: groups of segments that were replaced
    /// stay so, the one that is being worked on stays as it was.
    ///
    /// The callback may use the store, and close it. It may not compact the same partition, which is an error, nor wait for a
    /// thread that does, or that compacts another partition in whose callback this one is compacted.
    #[must_use]
    pub const fn on_progress(mut self, progress: &'a dyn Fn(CompactionProgress) -> ControlFlow<()>) -> Self {
        self.progress = progress;
        self
    }
}

/// How far a compaction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CompactionProgress {
    /// Bytes of batches that were read. What has been written since the last compaction is read twice.
    pub bytes_read: u64,
    /// Bytes of batches that were written.
    pub bytes_written: u64,
    /// Bytes that will have been read at the end, at most.
    pub bytes_total: u64,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Bytes of batches that were read.
    pub bytes_read: u64,
    /// Bytes of batches that were written.
    pub bytes_written: u64,
    /// Records in the segments that were compacted, before.
    pub records_before: u64,
    /// Records in what they were replaced by.
    pub records_after: u64,
    /// Records without a key, which were dropped.
    pub unkeyed_records: u64,
    /// Keys that the map held.
    pub keys: u64,
    /// Bytes of memory that the map took.
    pub key_memory: u64,
    /// Keys that the map had room for.
    pub key_room: u64,
    /// Segments that were compacted, before.
    pub segments_before: usize,
    /// Segments that they were replaced by.
    pub segments_after: usize,
    /// Everything below this offset has been compacted.
    pub end_offset: Offset,
    /// Whether it went through; `false` when it was cancelled, or when the log was cut, reopened or closed meanwhile.
    pub is_complete: bool,
    /// How long it took, by the store's clock.
    pub duration: Duration,
}

impl CompactionReport {
    /// Of a compaction that has not begun, in a log that is clean up to `first_dirty`.
    const fn of_nothing(first_dirty: Offset) -> Self {
        Self {
            bytes_read: 0,
            bytes_written: 0,
            records_before: 0,
            records_after: 0,
            unkeyed_records: 0,
            keys: 0,
            key_memory: 0,
            key_room: 0,
            segments_before: 0,
            segments_after: 0,
            end_offset: first_dirty,
            is_complete: false,
            duration: Duration::ZERO,
        }
    }
}

impl Partition {
    /// Compacts all that may be compacted now: of each key, the newest record stays. See [`Partition::compact_with`].
    ///
    /// # Errors
    /// See [`Partition::compact_with`].
    ///
    /// # Example
    ///
    /// ```
    /// use stratalog::{CleanupPolicy, LogStore, Record, TopicConfig};
    ///
    /// let folder = tempfile::tempdir()?;
    /// let store = LogStore::open(folder.path())?;
    /// let config = TopicConfig::new().cleanup_policy(CleanupPolicy::COMPACT);
    /// let partition = store.create_topic("balances", 1, config)?.partition(0)?;
    /// for balance in ["10", "20", "30"] {
    ///     partition.append(&[Record::keyed("alice", balance)])?;
    /// }
    /// partition.roll()?;
    /// let report = partition.compact()?;
    /// assert_eq!((report.records_before, report.records_after), (3, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compact(&self) -> Result<CompactionReport, LogError> {
        self.compact_with(&CompactionOptions::new())
    }

    /// Compacts the segments that are sealed, below every open transaction, and older than `min.compaction.lag.ms`, whatever
    /// the dirty ratio. Nothing is rolled for it. Tombstones and transaction markers get their delete horizon when they are first met, and go
    /// in a compaction after it. Waits while another compaction of the partition goes on.
    ///
    /// # Durability
    /// The log is flushed first and what takes the place of old segments is synced, so that a power loss leaves the old records
    /// or the newer ones that they gave way to.
    ///
    /// # Errors
    /// [`LogError::InsideCompaction`] when the progress callback of a compaction of this partition asks for it.
    /// [`LogError::NotCompacted`] for a topic whose `cleanup.policy` has no `compact`: its records may lack keys.
    /// [`LogError::Segment`] when the disk fails or a batch is damaged; the group it is in stays as it was, and background work
    /// leaves a damaged partition alone from then on ([`Partition::uncleanable`]). [`LogError::Offline`], [`LogError::Closed`], [`LogError::ReadOnly`].
    pub fn compact_with(&self, options: &CompactionOptions<'_>) -> Result<CompactionReport, LogError> {
        let _only = self.lock_cleaning()?;
        self.check_cleanable()?;
        let settings = self.settings();
        if !settings.cleanup_policy.compacts() {
            return Err(LogError::NotCompacted { partition: self.id().clone() });
        }
        let now = self.clock().now();
        let generation = self.generation();
        let Some(extent) = extent(self, generation, &settings, now)? else {
            return Ok(CompactionReport::of_nothing(self.first_dirty_offset().unwrap_or(Offset::ZERO)));
        };
        compact(self, &settings, (generation, extent), now, options)
    }
}

/// What of a partition is to be compacted; `None` where the log was cut or reopened since that `generation`, and what was looked at is
/// gone. No facts are read that its settings don't ask for. Damage that hides an age marks the partition.
pub(super) fn extent(
    partition: &Partition,
    generation: Generation,
    settings: &TopicSettings,
    now: Timestamp,
) -> Result<Option<Extent>, LogError> {
    // In this order: whatever is appended in between is above the last stable offset that was read.
    let (last_stable, log_start) = (partition.last_stable_offset(), partition.log_start_offset());
    let compacted_to = partition.first_dirty_offset();
    let segments = partition.segments();
    let spans: Result<Vec<_>, SegmentError> =
        segments.iter().zip(segments.iter().skip(1)).map(|(segment, next)| span(segment, next, settings)).collect();
    let sealed = match spans {
        Ok(sealed) => sealed,
        Err(error) => return judge(partition, generation, LogError::segment(partition.id(), error)).map(|()| None),
    };
    let log_end = partition.log_end_offset();
    Ok(Some(Extent::of(&LogFacts { sealed: &sealed, log_start, log_end, last_stable, compacted_to }, settings, now)))
}

fn span(segment: &Segment, next: &Segment, settings: &TopicSettings) -> Result<SegmentSpan, SegmentError> {
    let largest_timestamp = match settings.min_compaction_lag_ms {
        0 => None,
        _ => segment.largest_timestamp()?.map_or_else(|| segment.modified(), |largest| Ok(Some(largest)))?,
    };
    let is_bounded = i64::try_from(settings.max_compaction_lag_ms).is_ok_and(|lag| lag < i64::MAX);
    let first_timestamp = if is_bounded { segment.first_timestamp()? } else { None };
    let (base, end) = (segment.base_offset(), next.base_offset());
    Ok(SegmentSpan { base, end, size: segment.size(), first_timestamp, largest_timestamp })
}

/// Compacts that extent of a partition, whose cleaning lock the caller holds. What fails for damage marks the partition.
pub(super) fn compact(
    partition: &Partition,
    settings: &TopicSettings,
    (generation, extent): (Generation, Extent),
    now: Timestamp,
    options: &CompactionOptions<'_>,
) -> Result<CompactionReport, LogError> {
    let run = Run { partition, generation, settings, extent, now, options };
    let begun = partition.clock().now();
    let report = run.run()?;
    partition.counters().compactions.add(u64::from(report.is_complete));
    let ended = partition.clock().now();
    let duration = Duration::from_millis(u64::try_from(ended.millis_since(begun)).unwrap_or(0));
    Ok(CompactionReport { duration, ..report })
}

/// What an error says of the log: nothing where it was cut or reopened since that `generation`, for the files that were looked at are gone,
/// and what is known of gaps is known of the new ones. One that would come again marks the partition.
fn judge(partition: &Partition, generation: Generation, error: LogError) -> Result<(), LogError> {
    let is_damage = is_about_the_bytes(error.kind());
    if generation != partition.generation() && (is_damage || error.is_not_found()) {
        return Ok(());
    }
    if is_damage {
        partition.set_uncleanable(error.to_string());
    }
    Err(error)
}

/// Whether reading the same bytes again ends in the same error. What the operating system refuses passes: a full disk, no
/// descriptor, no memory.
const fn is_about_the_bytes(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::TooLarge)
}

/// One compaction of one partition.
struct Run<'a> {
    partition: &'a Partition,
    /// The log that the extent was found in.
    generation: Generation,
    settings: &'a TopicSettings,
    extent: Extent,
    now: Timestamp,
    options: &'a CompactionOptions<'a>,
}

/// Why a run ended early.
enum Early {
    Failed(LogError),
    Cancelled,
}

impl From<LogError> for Early {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

impl Run<'_> {
    fn run(&self) -> Result<CompactionReport, LogError> {
        let mut report = CompactionReport::of_nothing(self.extent.first_dirty);
        let meter = RefCell::new(Meter::new(self));
        let outcome = self.clean(&mut report, &meter);
        let amount = meter.into_inner().total;
        let counters = self.partition.counters();
        counters.compaction_bytes_read.add(amount.read);
        counters.compaction_bytes_written.add(amount.written);
        (report.bytes_read, report.bytes_written) = (amount.read, amount.written);
        match outcome {
            Ok(end) => {
                self.partition.set_compacted_to(self.generation, end);
                Ok(CompactionReport { end_offset: end, is_complete: true, ..report })
            }
            Err(Early::Cancelled) => Ok(report),
            Err(Early::Failed(error)) => judge(self.partition, self.generation, error).map(|()| report),
        }
    }

    /// Cleans everything below the end of what the map of keys covers; returns that end.
    fn clean(&self, report: &mut CompactionReport, meter: &RefCell<Meter<'_>>) -> Result<Offset, Early> {
        let Extent { first_dirty, first_uncleanable, .. } = self.extent;
        let segments = self.partition.segments();
        let sealed = segments.split_last().map_or(&[][..], |(_, sealed)| sealed);
        let below = |offset: Offset| {
            let count = sealed.partition_point(|segment| segment.base_offset() < offset);
            sealed.get(..count).unwrap_or_default()
        };
        let cleanable = below(first_uncleanable);
        let (Some(first), Some(last)) = (cleanable.first(), cleanable.last()) else { return Ok(first_dirty) };
        // The segment that holds the first dirty offset is the last one that begins at or below it.
        let clean_count = below(first_dirty.next()).len().saturating_sub(1);
        let dirty = cleanable.get(clean_count..).unwrap_or_default();
        meter.borrow_mut().plan(dirty.iter().chain(cleanable).map(|segment| segment.size()).sum());
        let mut watch = |amount: Amount| meter.borrow_mut().pass(amount);
        // Before anything is opened or allocated.
        if watch(Amount::default()).is_break() {
            return Err(Early::Cancelled);
        }

        self.partition.check_no_holes(segments.get(..=cleanable.len()).unwrap_or_default())?;
        self.partition.remove_drafts()?;
        // What is left out rests on newer records and on markers beyond the range: a power loss must not take those.
        self.partition.flush()?;
        let aborted = self.partition.aborted_transactions().map_err(|error| self.early(error))?;
        let range = first_dirty..first_uncleanable;
        let survey = Survey::of(self.options.limits, dirty, &aborted, range, &mut watch);
        let survey = survey.map_err(|stopped| self.stopped(stopped))?;
        let (map, end) = (survey.map(), survey.end());
        (report.keys, report.key_memory, report.key_room) = (map.len() as u64, map.size(), map.capacity() as u64);
        let producers = self.partition.producers();
        let newest_clean = sealed.iter().take_while(|segment| segment.base_offset() < first_dirty).last();
        let mut pass = Pass::new(Known {
            survey: &survey,
            first_uncleanable,
            producers: &producers,
            aborted: &aborted,
            start: first.base_offset(),
            now: self.now,
            delete_retention_ms: self.settings.delete_retention_ms,
            legacy_horizon: newest_clean.map(|segment| self.legacy_horizon(segment)).transpose()?.flatten(),
        });
        debug_assert!(last.base_offset() < first_uncleanable);
        let cleaned = below(end);
        for group in self.groups(cleaned)? {
            let sources = cleaned.get(group).unwrap_or_default();
            let create = |base| self.partition.create_cleaned(base);
            let replacements = pass.clean(sources, &create, &mut watch).map_err(|stopped| self.stopped(stopped))?;
            let count = replacements.len();
            if !self.partition.replace(self.generation, sources, replacements)? {
                return Err(Early::Cancelled);
            }
            report.segments_before += sources.len();
            report.segments_after += count;
            let Counts { records_read, records_written, unkeyed, .. } = pass.counts();
            (report.records_before, report.records_after) = (records_read, records_written);
            report.unkeyed_records = unkeyed;
        }
        Ok(end)
    }

    fn groups(&self, segments: &[Arc<Segment>]) -> Result<Vec<std::ops::Range<usize>>, Early> {
        let ends = segments.iter().skip(1).map(|next| next.base_offset()).chain([self.extent.first_uncleanable]);
        let members = segments.iter().zip(ends).map(|(segment, end)| {
            let (offset_index_size, time_index_size) = segment.index_sizes()?;
            Ok(GroupMember {
                base: segment.base_offset(),
                end,
                size: segment.size(),
                offset_index_size,
                time_index_size,
            })
        });
        let members: Result<Vec<_>, SegmentError> = members.collect();
        Ok(groups(&members.map_err(|error| self.early(error))?, self.settings))
    }

    fn legacy_horizon(&self, newest_clean: &Segment) -> Result<Option<Timestamp>, Early> {
        let modified = newest_clean.modified().map_err(|error| self.early(error))?;
        let retention = i64::try_from(self.settings.delete_retention_ms).unwrap_or(i64::MAX);
        Ok(modified.and_then(|modified| Timestamp::from_millis(modified.millis().saturating_sub(retention))))
    }

    fn early(&self, error: SegmentError) -> Early {
        Early::Failed(LogError::segment(self.partition.id(), error))
    }

    fn stopped(&self, stopped: Stopped) -> Early {
        match stopped {
            Stopped::Segment(error) => self.early(error),
            Stopped::Cancelled => Early::Cancelled,
        }
    }
}

/// Counts what goes through, slows it down, and asks whether to go on.
struct Meter<'a> {
    run: &'a Run<'a>,
    /// Held while work goes on, so that the partition isn't ended in the middle of it; not held while the callback runs.
    inside: Option<Inside<'a>>,
    throttle: Throttle,
    total: Amount,
    /// Bytes that will be read at most.
    planned: u64,
    /// Bytes since the last step.
    since_step: u64,
}

impl<'a> Meter<'a> {
    fn new(run: &'a Run<'a>) -> Self {
        let throttle = Throttle::new(run.options.bytes_per_second, run.partition.clock().now());
        Self { run, inside: None, throttle, total: Amount::default(), planned: 0, since_step: STEP_SIZE }
    }

    fn plan(&mut self, planned: u64) {
        self.planned = planned;
    }

    fn pass(&mut self, amount: Amount) -> ControlFlow<()> {
        self.total.read += amount.read;
        self.total.written += amount.written;
        self.since_step += amount.read + amount.written;
        if self.since_step < STEP_SIZE {
            return ControlFlow::Continue(());
        }
        let passed = std::mem::take(&mut self.since_step);
        let mut pause = self.throttle.pause(passed, self.run.partition.clock().now());
        loop {
            self.ask()?;
            if pause.is_zero() {
                return ControlFlow::Continue(());
            }
            let slice = pause.min(PAUSE_MAX);
            (self.run.options.sleep)(slice);
            pause -= slice;
        }
    }

    fn ask(&mut self) -> ControlFlow<()> {
        // The callback may close the store, which waits for those inside.
        self.inside = None;
        let answer = (self.run.options.progress)(CompactionProgress {
            bytes_read: self.total.read,
            bytes_written: self.total.written,
            bytes_total: self.planned,
        });
        self.inside = self.run.partition.enter_writable().ok();
        if self.inside.is_none() { ControlFlow::Break(()) } else { answer }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::{CleanupPolicy, TopicConfig};
    use crate::format::Record;
    use crate::store::{LogStore, StoreOptions};
    use crate::vfs::MemoryVfs;

    /// A store with a partition of a megabyte, all of one key.
    fn filled(clock: &ManualClock) -> (LogStore, Partition) {
        let options = StoreOptions::new().vfs(Arc::new(MemoryVfs::new())).clock(Arc::new(clock.clone()));
        let config = TopicConfig::new().cleanup_policy(CleanupPolicy::COMPACT);
        let store = options.open("/log").expect("a new store");
        let partition = store.create_topic("t", 1, config).expect("a new topic").partition(0).expect("one partition");
        let value = "v".repeat(10_000);
        for _ in 0..100 {
            partition.append(&[Record::keyed("k", &value)]).expect("appended");
        }
        partition.roll().expect("rolled");
        (store, partition)
    }

    #[test]
    fn a_throttled_compaction_takes_the_time_that_its_bytes_are_worth() {
        let clock = ManualClock::new(Timestamp::ZERO.saturating_add(1_000_000));
        let (_store, partition) = filled(&clock);
        let longest = Cell::new(Duration::ZERO);
        let sleep = |pause: Duration| {
            longest.set(longest.get().max(pause));
            clock.advance(u64::try_from(pause.as_millis()).expect("short"));
        };
        let options = CompactionOptions { sleep: &sleep, ..CompactionOptions::new().bytes_per_second(100_000.0) };
        let report = partition.compact_with(&options).expect("compacted");
        let bytes = report.bytes_read + report.bytes_written;
        assert!(bytes > 2_000_000, "{bytes}");
        let (seconds, expected) = (report.duration.as_secs(), bytes / 100_000);
        assert!(seconds.abs_diff(expected) <= 1, "{seconds} s for {bytes} bytes");
        assert!(longest.get() <= PAUSE_MAX, "it can be cancelled in between");
    }

    #[test]
    fn a_throttled_compaction_can_be_cancelled_while_it_sleeps() {
        let clock = ManualClock::new(Timestamp::ZERO);
        let (_store, partition) = filled(&clock);
        let sleeps = Cell::new(0);
        let sleep = |_| sleeps.set(sleeps.get() + 1);
        let progress = |_| if sleeps.get() > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let slow = CompactionOptions::new().bytes_per_second(1.0).on_progress(&progress);
        let report = partition.compact_with(&CompactionOptions { sleep: &sleep, ..slow }).expect("cancelled");
        assert!(!report.is_complete && sleeps.get() == 3);
    }
}
