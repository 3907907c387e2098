//! A read-only store that stays open beside the writer of a model, and must show what the writer shows.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use stratalog::vfs::{FaultyVfs, Hook, MemoryVfs, Operation};
use stratalog::{Clock, Isolation, LogError, LogStore, ManualClock, OffsetSpec, Partition, StoreOptions, Timestamp};

use crate::history::{Row, rows, try_rows};

/// Opened when it is asked first, in the folder `/log`. To be made anew where the files are others.
#[derive(Default)]
pub struct Follower(Option<LogStore>);

impl Follower {
    /// Holds what it shows from an offset on against what the writer shows, which was held against the model; the dice decide where to
    /// look, and whether: what it misses now it must find later. It may know of a log start that was raised inside a segment only after
    /// the next checkpoint.
    pub fn check(
        &mut self,
        memory: &MemoryVfs,
        clock: &ManualClock,
        own: &Partition,
        (from, dice): (i64, u32),
    ) -> Result<(), String> {
        match dice % 11 {
            0 => self.0 = None,
            1..6 => {}
            _ => return Ok(()),
        }
        let followed = self.partition(memory, clock)?;
        let max_bytes = [1, 200, 1 << 20][dice as usize / 11 % 3];
        for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
            let read = |partition| rows(partition, from, max_bytes, isolation);
            is_same(&format!("{isolation:?} from {from}"), [own, &followed].map(read))?;
        }
        is_same("the log's end", [own, &followed].map(Partition::log_end_offset))?;
        if followed.log_start_offset() != own.log_start_offset() {
            return Ok(());
        }
        is_same("the last stable offset", [own, &followed].map(Partition::last_stable_offset))?;
        let target = clock.now().millis() - i64::from(dice % 8000) + 1500;
        let target = Timestamp::from_millis(target).ok_or("a time before all times")?;
        for spec in [OffsetSpec::Timestamp(target), OffsetSpec::MaxTimestamp] {
            let find = |partition: &Partition| {
                let found = partition.find_offset(spec).map_err(|error| error.to_string());
                found.map(|found| found.map(|found| (found.offset, found.timestamp)))
            };
            is_same(&format!("{spec:?}"), [own, &followed].map(find))?;
        }
        Ok(())
    }
}

impl Follower {
    fn partition(&mut self, memory: &MemoryVfs, clock: &ManualClock) -> Result<Partition, String> {
        let open = || {
            let options = StoreOptions::new().vfs(Arc::new(memory.clone())).clock(Arc::new(clock.clone()));
            options.read_only(true).open("/log")
        };
        let store = match self.0.take() {
            Some(store) => Ok(store),
            None => open(),
        };
        let store = self.0.insert(store.map_err(|error| format!("following: {error}"))?);
        let followed = store.topic("t").and_then(|topic| topic.partition(0));
        followed.map_err(|error| format!("following: {error}"))
    }

    /// What a killed process left, unless that is to be looked at again.
    pub fn see(&mut self, memory: &MemoryVfs, clock: &ManualClock) -> Option<Left> {
        match self.partition(memory, clock).map(|partition| Shown::by(&partition)) {
            Ok(Ok(shown)) => Some(Left(Ok(shown))),
            Ok(Err(LogError::Changed { .. })) => None,
            Ok(Err(error)) => Some(Left(Err(error.to_string()))),
            Err(error) => Some(Left(Err(error))),
        }
    }

    /// Lets the follower look while the writer is at its `nth` change from here on.
    pub fn glance(
        &mut self,
        (memory, vfs): (&MemoryVfs, &FaultyVfs),
        clock: &ManualClock,
        own: &Partition,
        nth: u64,
    ) -> Result<Glance, String> {
        let followed = self.partition(memory, clock)?;
        let glance = Glance { before: Shown::by(own).map_err(|error| error.to_string())?, seen: Arc::default() };
        let seen = Arc::clone(&glance.seen);
        vfs.hook(Hook::at(Operation::Mutation).nth(nth), move |path| {
            *seen.lock().unwrap() = Some((path.to_owned(), Shown::by(&followed)));
        });
        Ok(glance)
    }
}

/// What a follower saw before the writer's next process opened the store.
pub struct Left(Result<Shown, String>);

impl Left {
    /// Refuses what isn't the log that the writer found there. Of a transaction whose marker was the last that was written, the follower
    /// may not know the end.
    pub fn judge(self, own: &Partition) -> Result<(), String> {
        let seen = self.0.map_err(|error| format!("after a kill a follower finds: {error}"))?;
        let found = Shown::by(own).map_err(|error| error.to_string())?;
        let start = seen.start.max(found.start);
        let ([all, committed], [seen_all, seen_committed]) = (found.from(start), seen.from(start));
        is_same("after a kill", [&all, &seen_all])?;
        let known = committed.get(..seen_committed.len()).unwrap_or(&committed);
        is_same("committed after a kill", [known, seen_committed.as_slice()])
    }
}

/// Where the writer changed something, and what there was to be seen.
type Seen = (PathBuf, Result<Shown, LogError>);

/// What a follower saw in the middle of a call.
pub struct Glance {
    before: Shown,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Glance {
    /// Refuses what the writer showed neither after the call nor at some moment before it, when the log ended earlier; where it may have
    /// compacted, also nothing between the two. The log start may lie anywhere between that before and that after.
    pub fn judge(self, own: &Partition, may_compact: bool) -> Result<(), String> {
        let Some((path, seen)) = self.seen.lock().unwrap().take() else { return Ok(()) };
        let seen = match seen {
            Ok(seen) => seen,
            Err(LogError::Changed { .. }) => return Ok(()),
            Err(error) => return Err(format!("at a change of {}: {error}", path.display())),
        };
        let after = Shown::by(own).map_err(|error| error.to_string())?;
        let from = [&self.before, &after].map(|shown| seen.start.max(shown.start));
        let rows = seen.from(from[0]).into_iter().zip(seen.from(from[1]));
        let shown = self.before.from(from[0]).into_iter().zip(after.from(from[1]));
        let (mut was, mut is, mut is_between) = (true, true, true);
        for ((seen_of_old, seen_of_new), (old, new)) in rows.zip(shown) {
            was &= old.starts_with(&seen_of_old);
            is &= new == seen_of_new;
            is_between &=
                seen_of_old.iter().all(|row| old.contains(row)) && new.iter().all(|row| seen_of_new.contains(row));
        }
        if seen.start <= self.before.start.max(after.start) && (was || is || may_compact && is_between) {
            return Ok(());
        }
        let Self { before, .. } = self;
        Err(format!(
            "at a change of {} a follower saw {seen:?}\n  before {before:?}\n  after {after:?}",
            path.display()
        ))
    }
}

/// What a partition shows.
#[derive(Debug)]
struct Shown {
    start: i64,
    all: Vec<Row>,
    committed: Vec<Row>,
}

impl Shown {
    /// Again where a look has moved the log start.
    fn by(partition: &Partition) -> Result<Self, LogError> {
        let shown = Self::from_start(partition);
        let has_moved = |shown: &Self| shown.start != partition.log_start_offset().value();
        match &shown {
            Err(LogError::OffsetOutOfRange { .. }) => Self::from_start(partition),
            Ok(shown) if has_moved(shown) => Self::from_start(partition),
            _ => shown,
        }
    }

    /// Its records, and those that are committed, from an offset on.
    fn from(&self, start: i64) -> [Vec<Row>; 2] {
        [&self.all, &self.committed].map(|rows| rows.iter().filter(|row| row.offset >= start).cloned().collect())
    }

    fn from_start(partition: &Partition) -> Result<Self, LogError> {
        let start = partition.log_start_offset().value();
        let [all, committed] = [Isolation::ReadUncommitted, Isolation::ReadCommitted]
            .map(|isolation| try_rows(partition, start, 1 << 20, isolation));
        Ok(Self { start, all: all?, committed: committed? })
    }
}

fn is_same<T: PartialEq + std::fmt::Debug>(what: &str, [own, followed]: [T; 2]) -> Result<(), String> {
    if own == followed { Ok(()) } else { Err(format!("{what}: {own:?}, to a follower {followed:?}")) }
}
