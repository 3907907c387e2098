//! What a store must and may hold, told by what was asked of it and what it answered.
//!
//! Before each operation [`Truth::begin`] notes what it may do, after it [`Truth::finish`] what it did. In between, and after
//! an error, both the state before and the one after are possible. An answer that can't be right is an error of `finish`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::action::{Action, Done};
use super::line::{Found, Line, Loss};
use crate::history::Batch;

/// Records older than this go, in topics that aren't compacted.
pub const RETENTION_MS: i64 = 10_000;

/// What is known of one partition. At least one line.
#[derive(Debug, Clone)]
pub struct LogTruth {
    /// The last one is the log as it is, or as the operation under way will leave it.
    pub lines: Vec<Line>,
    pub is_compacted: bool,
    /// Whether a call failed since the log was opened or reopened.
    pub is_unsettled: bool,
}

/// What is known of one topic.
#[derive(Debug, Clone)]
pub struct TopicTruth {
    pub may_be_there: bool,
    pub may_be_gone: bool,
    /// How many partitions are sure.
    pub partitions: usize,
    /// As many as there may be.
    pub logs: Vec<LogTruth>,
    /// The values of `max.message.bytes` that may be set.
    pub limits: BTreeSet<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct Truth {
    pub topics: BTreeMap<&'static str, TopicTruth>,
    /// The `.cut` files that some report named.
    pub reported: BTreeSet<PathBuf>,
    pub is_compacted: bool,
}

impl LogTruth {
    pub fn new(is_compacted: bool) -> Self {
        Self { lines: vec![Line::empty(0)], is_compacted, is_unsettled: false }
    }

    /// The log as it is.
    pub fn current(&self) -> &Line {
        self.lines.last().unwrap()
    }

    pub fn current_mut(&mut self) -> &mut Line {
        self.lines.last_mut().unwrap()
    }

    /// Everything below `end` has been called durable.
    pub fn promise(&mut self, end: i64) {
        let current = self.current().clone();
        self.lines.retain(|line| line.agrees_below(&current, end));
        for line in &mut self.lines {
            line.durable = line.durable.max(end);
        }
    }

    /// The line that what was found is left of: the newest that fits, but one that the process saw end there before one that would have
    /// lost its end, and one with the same open transactions before others. Where they began below the log start, nothing else tells
    /// lines apart.
    pub fn check(&self, found: &Found, loss: Loss) -> Result<usize, String> {
        self.first_that(found, |line| line.check(found, loss, self.is_compacted))
    }

    fn first_that(&self, found: &Found, fits: impl Fn(&Line) -> Result<(), String>) -> Result<usize, String> {
        let mut reasons = Vec::new();
        let mut lines: Vec<_> = self.lines.iter().enumerate().rev().collect();
        lines.sort_by_cached_key(|(_, line)| {
            (line.end != found.end || line.written.is_none(), line.open(found.end) != found.open)
        });
        for (index, line) in lines {
            match fits(line) {
                Ok(()) => return Ok(index),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("\n  or else: "))
    }

    /// Takes what the store shows for the log as it is, if it may be. Where it is `settled`, by an answer or a new opening,
    /// the end of the process can't bring back anything else.
    pub fn adopt(&mut self, found: &Found, settled: bool) -> Result<(), String> {
        let index = if settled {
            self.check(found, Loss::Process)?
        } else {
            self.first_that(found, |line| line.check_log(found, Loss::Process, self.is_compacted))?
        };
        self.take(index, found, settled, Loss::Process);
        Ok(())
    }

    /// Takes what an opening after a loss of power found for the log as it is.
    pub fn survive(&mut self, found: &Found) -> Result<(), String> {
        let index = self.check(found, Loss::Power)?;
        self.take(index, found, true, Loss::Power);
        Ok(())
    }

    fn take(&mut self, index: usize, found: &Found, settled: bool, loss: Loss) {
        let mut current = self.lines[index].clone();
        current.doubt_below(found.start, loss);
        if current.end > found.end {
            // What was begun and came to nothing may yet be on the disk.
            current = current.cut(found.end);
        } else {
            self.lines.remove(index);
        }
        current.start = found.start;
        self.is_unsettled = !settled;
        if settled {
            self.lines.iter_mut().for_each(|line| line.written = None);
            current.written = Some(found.end);
            current.start_high = found.start;
            current.start_low = current.start_low.min(found.start);
        }
        self.lines.push(current);
    }

    /// Everything below `end` has been acknowledged: the process sees no line that lacks it.
    fn acknowledge(&mut self, end: i64) {
        let current = self.current().clone();
        for line in self.lines.iter_mut().filter(|line| line.written.is_some()) {
            line.written = line.agrees_below(&current, end).then_some(end);
        }
    }

    fn begin_cut(&mut self, end: i64) {
        let mut new = self.current().cut(end);
        if end < self.current().start_high {
            new.doubt_all_below(end);
        }
        for line in &mut self.lines {
            line.durable = line.durable.min(end);
            line.written = line.written.map(|written| written.min(end));
            // The note of the log start is lowered first.
            line.start_low = line.start_low.min(end);
        }
        self.lines.push(new);
    }

    fn begin_start_over(&mut self, offset: i64) {
        let mut new = Line::empty(offset);
        new.written = Some(offset);
        for line in &mut self.lines {
            // Of what is to go, a beginning may be left, but not nothing: the offsets to come would be forgotten.
            let first = line.batches.iter().find(|batch| batch.last >= line.start_high);
            let kept = first.map_or(line.end, |batch| batch.last + 1);
            line.durable = line.durable.min(kept);
            line.written = line.written.map(|written| written.min(kept));
        }
        self.lines.push(new);
    }

    /// Ends the ambiguity of a cut that was confirmed, as far as the process sees it.
    fn only_last_is_written(&mut self) {
        let (_, older) = self.lines.split_last_mut().unwrap();
        older.iter_mut().for_each(|line| line.written = None);
    }

    fn begin_retention(&mut self, now: i64) {
        if self.is_compacted {
            return self.begin_compaction();
        }
        let current = self.current_mut();
        // By size, or where the start is uncertain, it may begin behind batches that are younger.
        let from = current.start.max(current.start_high);
        let first_kept = current.batches.iter().find(|batch| batch.last >= from && batch.time >= now - RETENTION_MS);
        current.start_high = first_kept.map_or(current.end, |batch| batch.base).max(current.start_high);
    }

    fn begin_compaction(&mut self) {
        let current = self.current_mut();
        current.frozen = current.end;
    }

    fn settle_start(&mut self) {
        // A cut that failed may have lowered the note on the disk, and may be finished by the next opening.
        if self.is_unsettled {
            return;
        }
        let current = self.current_mut();
        (current.start_low, current.start_high) = (current.start, current.start);
    }
}

impl TopicTruth {
    fn new(partitions: usize, is_compacted: bool, limit: u32) -> Self {
        Self {
            may_be_there: true,
            may_be_gone: true,
            partitions,
            logs: vec![LogTruth::new(is_compacted); partitions],
            limits: BTreeSet::from([limit]),
        }
    }
}

impl Truth {
    /// What is known of partition `t-0`.
    pub fn log(&self) -> &LogTruth {
        &self.topics["t"].logs[0]
    }

    pub fn log_mut(&mut self) -> &mut LogTruth {
        &mut self.topics.get_mut("t").unwrap().logs[0]
    }

    pub fn all_logs(&mut self) -> impl Iterator<Item = &mut LogTruth> {
        self.topics.values_mut().flat_map(|topic| &mut topic.logs)
    }

    pub fn begin(&mut self, action: &Action) {
        match action {
            Action::Append { batch, .. } => {
                let log = self.log_mut();
                let batch = moved_to(batch, log.current().end);
                log.current_mut().push(batch);
            }
            Action::Truncate { offset } if *offset < self.log().current().start => {
                self.log_mut().begin_start_over(*offset);
            }
            Action::Truncate { offset } if *offset < self.log().current().end => self.log_mut().begin_cut(*offset),
            Action::StartOver { offset } => self.log_mut().begin_start_over(*offset),
            Action::DeleteRecords { offset } => {
                let current = self.log_mut().current_mut();
                current.start_high = current.start_high.max((*offset).min(current.end));
            }
            Action::Tick { now } => self.all_logs().for_each(|log| log.begin_retention(*now)),
            Action::Compact => self.log_mut().begin_compaction(),
            Action::CreateTopic { name } => {
                let is_compacted = self.is_compacted;
                let new = || TopicTruth::new(1, is_compacted, DEFAULT_LIMIT);
                let topic = self.topics.entry(name).or_insert_with(new);
                if !topic.may_be_there {
                    *topic = new();
                }
            }
            Action::AddPartitions { total } => {
                let topic = self.topics.get_mut("t").unwrap();
                topic.logs.resize(*total, LogTruth::new(self.is_compacted));
            }
            Action::AlterConfig { limit } => drop(self.topics.get_mut("t").unwrap().limits.insert(*limit)),
            Action::DeleteTopic => self.topics.get_mut("t").unwrap().may_be_gone = true,
            _ => {}
        }
    }

    /// # Errors
    /// An answer that can't be right.
    pub fn finish(&mut self, action: &Action, done: &Done) -> Result<(), String> {
        match (action, done) {
            (Action::Append { batch, durable, .. }, Done::Appended { base, last, is_duplicate }) => {
                let current = self.log_mut().current_mut();
                let expected = current.end - (batch.last - batch.base + 1);
                if (*base, *last) != (expected, current.end - 1) || *is_duplicate {
                    return Err(format!("appended at {base}..={last} (again: {is_duplicate}), expected {expected}"));
                }
                let end = current.end;
                self.log_mut().acknowledge(end);
                if *durable {
                    self.log_mut().promise(end);
                    self.topics.get_mut("t").unwrap().may_be_gone = false;
                }
            }
            (Action::Truncate { .. } | Action::StartOver { .. }, _) => self.log_mut().only_last_is_written(),
            (Action::DeleteRecords { offset }, Done::Start(start)) => {
                let current = self.log_mut().current_mut();
                current.start = current.start.max(*offset);
                current.start_high = current.start;
                if *start != current.start {
                    return Err(format!("the log starts at {start} after deleting up to {offset}"));
                }
            }
            (Action::Flush | Action::Reopen | Action::ReopenPartition, done) => {
                if let Done::Reopened(cuts) = done {
                    self.reported.extend(cuts.iter().cloned());
                }
                let end = self.log().current().end;
                self.log_mut().promise(end);
            }
            (Action::Checkpoint, _) => self.all_logs().for_each(LogTruth::settle_start),
            (Action::FlushStore | Action::Close, _) => {
                for log in self.all_logs() {
                    log.promise(log.current().end);
                    log.settle_start();
                }
            }
            (Action::CreateTopic { name }, _) => self.topics.get_mut(name).unwrap().may_be_gone = false,
            (Action::DeleteTopic, _) => {
                let topic = self.topics.get_mut("t").unwrap();
                (topic.may_be_there, topic.may_be_gone) = (false, true);
            }
            (Action::AddPartitions { total }, _) => self.topics.get_mut("t").unwrap().partitions = *total,
            (Action::AlterConfig { limit }, _) => {
                self.topics.get_mut("t").unwrap().limits = BTreeSet::from([*limit]);
            }
            _ => {}
        }
        Ok(())
    }
}

/// `max.message.bytes` of new topics here.
pub const DEFAULT_LIMIT: u32 = 1 << 20;

/// The batch as it is when it begins at `base`.
pub fn moved_to(batch: &Batch, base: i64) -> Batch {
    let by = base - batch.base;
    let mut moved = batch.clone();
    (moved.base, moved.last) = (batch.base + by, batch.last + by);
    for row in &mut moved.rows {
        row.offset += by;
    }
    moved
}
