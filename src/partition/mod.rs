//! The log of one partition: records in, offsets out, in order, for ever.
//!
//! # The five offsets
//!
//! `log start <= last stable <= high watermark <= log end`, and `recovery point <= log end`. Until a partition is replicated the
//! high watermark is the log end. The last stable offset is the first offset of the oldest open transaction, else the high
//! watermark.
//!
//! # Threads
//!
//! All methods take `&self`. Appends and everything that changes the segment list take the append lock. Reads take no lock that
//! is held over I/O, except in a read-only partition, where each read first follows the log under the append lock (`follow.rs`).
//! Locks are taken in this order:
//!
//! 1. `gate`, shared: held by every call that writes, from its first look at the status to its end. Whatever ends the
//!    partition waits for it.
//! 2. `cleaning`: one compaction at a time.
//! 3. `structure`: held by whatever takes segments out of the log or replaces them, over all of its I/O.
//! 4. `writer`, the append lock: held over the write of one batch, over a cut, and for a moment to publish another list.
//! 5. `commits.running`: held over a cut and a reopening, so that no sync runs meanwhile.
//! 6. `removals.marks`: held over the removal of files.
//! 7. The lock of the store's notes (`notes.rs`), under which the partition tells its line.
//! 8. The locks of the other fields, for a moment; `epochs` holds one over the writing of its file.
//!
//! A writer makes a batch visible in this order: bytes in the file, log end offset, published size. So a reader that sees a batch
//! also sees a log end offset above it.

mod append;
mod batches;
mod cleaning;
mod close;
mod cuts;
mod delete;
mod epochs;
mod error;
mod follow;
mod holes;
mod inside;
mod lookup;
mod max_timestamp;
mod notes;
mod offsets;
mod producers;
mod read;
mod recover;
mod replace;
mod replay;
mod roll;
mod sealed_facts;
mod sealed_segments;
mod segments;
mod snapshots;
mod stamped;
mod sync;
mod transactions;
mod truncate;
mod validate;
mod wait;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

pub use append::{Appended, Durability};
pub use batches::Batches;
pub use cuts::CutFiles;
pub use error::LogError;
pub use lookup::{FoundOffset, OffsetSpec};
pub use producers::ProducerError;
pub use read::{Isolation, Read};
pub use recover::{Cut, PartitionRecovery, VerifiedPoint};

pub(crate) use delete::SettledMarks;
pub(crate) use inside::Inside;
pub(crate) use notes::{NoteLine, Notes, Unbroken};
pub(crate) use recover::OpenParams;

use crate::clock::{Clock, Deadline, Moment};
use crate::config::TopicSettings;
use crate::metrics::Counters;
use crate::name::TopicPartition;
use crate::segment::{Residency, Segment, SegmentOptions};
use crate::types::{Offset, Timestamp};
use crate::vfs::Vfs;
use append::BuilderPool;
use cleaning::CleaningLock;
use cuts::CutGauge;
use delete::Removals;
use epochs::EpochCache;
use inside::Status;
use notes::Ceiling;
use offsets::Offsets;
use producers::ProducerTable;
use segments::SegmentList;
use sync::GroupCommit;

/// The log of one partition. Clones share it.
///
/// # Life
/// A partition is open as long as its store and its topic are. [`LogStore::close`](crate::store::LogStore::close), dropping the last
/// [`LogStore`](crate::store::LogStore) and [`Topic`](crate::store::Topic), and deleting the topic end it for every clone, also while
/// other threads use it: a call that is inside comes to its end first, every later one fails with [`LogError::Closed`], "orders-0 is
/// closed", and who waits for records wakes up. A `Partition` alone keeps no store open, so a program keeps a `LogStore` or a `Topic`
/// beside it; where it drops the last one without `close`, the log ends as in a crash: nothing is flushed.
#[derive(Debug, Clone)]
pub struct Partition {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: TopicPartition,
    dir: PathBuf,
    vfs: Arc<dyn Vfs>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    read_only: bool,
    residency: Arc<Residency>,
    settings: RwLock<Arc<TopicSettings>>,
    status: Status,
    /// Replaced by whoever holds `writer`; readers clone it.
    segments: RwLock<SegmentList>,
    offsets: Offsets,
    recovery_point: AtomicI64,
    /// Where the next compaction begins; -1 when there was none.
    first_dirty: AtomicI64,
    /// Changed by whoever holds `writer`.
    producers: Mutex<ProducerTable>,
    /// `producer.id.expiration.ms`.
    producer_expiration_ms: u64,
    epochs: EpochCache,
    /// Held, shared, by every call that writes.
    gate: RwLock<()>,
    /// Held by whatever takes segments out of the log or replaces them.
    structure: Mutex<()>,
    writer: Mutex<Writer>,
    commits: GroupCommit,
    builders: BuilderPool,
    removals: Removals,
    trash: Mutex<Vec<Trash>>,
    notes: Arc<dyn Notes>,
    /// Set while the log is being cut.
    ceiling: Mutex<Option<Ceiling>>,
    /// From here on the log was appended to without a gap.
    unbroken_from: AtomicI64,
    /// Whether the notes on disk say so, at least: an opening that can't write them leaves it to the next append.
    has_noted_gaps: AtomicBool,
    /// Counts the cuts and reopenings: what was read of the log before one says nothing about it afterwards.
    generation: AtomicU64,
    /// Held while the partition is compacted.
    cleaning: CleaningLock,
    /// The damage that made compaction give up.
    uncleanable: Mutex<Option<String>>,
    cut_files: CutGauge,
}

/// Tells a log from what a cut or a reopening made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// The log at one moment, for a reader.
#[derive(Debug)]
struct View {
    list: SegmentList,
    /// Bytes of the active segment; all batches in them lie below `log_end`, unless another process writes the log.
    active_size: u64,
    log_start: Offset,
    log_end: Offset,
    last_stable_offset: Offset,
}

/// What only the holder of the append lock touches.
#[derive(Debug)]
struct Writer {
    /// When the active segment was created, by the clock.
    segment_created: Timestamp,
    /// The random part of `segment.jitter.ms` for the active segment.
    jitter_ms: u64,
    /// When the last flush ended or the partition was opened.
    last_flush: Moment,
    /// The offset of the newest producer snapshot that stands for the log as it is.
    last_snapshot: Option<Offset>,
    /// Up to where the table of producers has followed a log that another process writes.
    replayed: Offset,
    /// What following such a log remembers.
    following: follow::Following,
}

/// Files with the suffix `.deleted`, to be removed at `due`.
#[derive(Debug)]
struct Trash {
    files: Vec<PathBuf>,
    due: Deadline,
}

/// A segment as retention sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    /// Bytes of its `.log`.
    pub size: u64,
    /// Its greatest timestamp. Where no record has one, the time when its `.log` was last written. `None` where damage hides it.
    pub largest_timestamp: Option<Timestamp>,
    /// The next segment's base offset, or the log end offset.
    pub end_offset: Offset,
}

impl Partition {
    /// The topic and the number of this partition.
    #[must_use]
    pub fn id(&self) -> &TopicPartition {
        &self.inner.id
    }

    /// The folder its files stand in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.dir
    }

    /// The first offset that can be read.
    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.inner.offsets.log_start()
    }

    /// The offset that the next record gets.
    #[must_use]
    pub fn log_end_offset(&self) -> Offset {
        self.inner.offsets.log_end()
    }

    /// The end of what consumers may read; equal to the log end offset until the partition is replicated.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.log_end_offset()
    }

    /// The end of what read-committed consumers may read: the first offset of the oldest open transaction, else the high
    /// watermark.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        self.inner.offsets.last_stable(self.log_end_offset())
    }

    /// Every record below this offset survives a power loss.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        load(&self.inner.recovery_point).min(self.log_end_offset())
    }

    /// Bytes of all `.log` files.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.list().iter().map(|segment| segment.size()).sum()
    }

    /// The segments in offset order, the active one last; none when the partition is closed. They stay readable whatever happens to the
    /// log.
    #[must_use]
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        let segments = self.inner.list().to_vec();
        // Closed after this, the partition finds them held, and opens their files before their names go to others.
        if self.inner.check_open().is_ok() { segments } else { Vec::new() }
    }

    /// The config values in force.
    #[must_use]
    pub fn settings(&self) -> Arc<TopicSettings> {
        self.inner.current_settings()
    }

    /// Puts other config values in force; segments that exist keep their index spacing.
    pub(crate) fn set_settings(&self, settings: Arc<TopicSettings>) {
        *self.inner.settings.write() = settings;
    }

    /// Up to where the log has been compacted; `None` when it never was.
    pub(crate) fn first_dirty_offset(&self) -> Option<Offset> {
        Offset::new(self.inner.first_dirty.load(Ordering::Acquire))
    }

    /// Milliseconds since the last flush, or since the partition was opened; 0 when all is durable. A wall clock that was set
    /// back doesn't put a flush off.
    pub(crate) fn unflushed_ms(&self, now: Timestamp) -> u64 {
        if self.recovery_point() >= self.log_end_offset() {
            return 0;
        }
        self.inner.writer.lock().last_flush.millis_until(now, &*self.inner.clock)
    }
}

impl Inner {
    fn list(&self) -> SegmentList {
        self.segments.read().clone()
    }

    /// The log as it is now. The segment list is locked meanwhile, so that no cut falls in between; appends go on, which is why
    /// the order counts: size, log end, open transactions, each read after what lies below it.
    fn view(&self) -> View {
        let segments = self.segments.read();
        let list = segments.clone();
        let active_size = list.active().size();
        let log_end = self.offsets.log_end();
        let last_stable_offset = self.offsets.last_stable(log_end);
        View { list, active_size, log_start: self.offsets.log_start(), log_end, last_stable_offset }
    }

    /// Publishes the segment list and all offsets together. A reader mixing old and new could treat an open transaction as
    /// committed.
    fn show(&self, list: SegmentList, start: Offset, end: Offset, first_unstable: Option<Offset>) {
        let moving = self.offsets.moving();
        let mut segments = self.segments.write();
        moving.set_log_start(start);
        moving.set_log_end(end);
        moving.set_first_unstable(first_unstable);
        *segments = list;
    }

    fn current_settings(&self) -> Arc<TopicSettings> {
        Arc::clone(&self.settings.read())
    }

    fn segment_options(&self) -> SegmentOptions {
        recover::segment_options(&self.settings.read(), self.read_only, &self.residency)
    }

    fn wrap(&self, error: impl Into<crate::segment::SegmentError>) -> LogError {
        LogError::segment(&self.id, error)
    }
}

fn load(offset: &AtomicI64) -> Offset {
    Offset::new(offset.load(Ordering::Acquire)).unwrap_or(Offset::ZERO)
}

fn store(offset: &AtomicI64, value: Offset) {
    offset.store(value.value(), Ordering::Release);
}
