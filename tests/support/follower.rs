//! A read-only store that stays open beside the writer of a model, and must show what the writer shows.

use std::sync::Arc;

use stratalog::vfs::MemoryVfs;
use stratalog::{Clock, Isolation, LogStore, ManualClock, OffsetSpec, Partition, StoreOptions, Timestamp};

use crate::history::rows;

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
        if self.0.is_none() {
            let options = StoreOptions::new().vfs(Arc::new(memory.clone())).clock(Arc::new(clock.clone()));
            self.0 = Some(options.read_only(true).open("/log").map_err(|error| format!("following: {error}"))?);
        }
        let Some(store) = &self.0 else { return Ok(()) };
        let followed = store.topic("t").and_then(|topic| topic.partition(0));
        let followed = followed.map_err(|error| format!("following: {error}"))?;
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

fn is_same<T: PartialEq + std::fmt::Debug>(what: &str, [own, followed]: [T; 2]) -> Result<(), String> {
    if own == followed { Ok(()) } else { Err(format!("{what}: {own:?}, to a follower {followed:?}")) }
}
