//! One way in which the log may have gone: the batches in order, and how much of them may be missing.
//!
//! A script of appends has one line. Each cut begins another one, and so does an append that failed: until something
//! durable decides, a loss of power may leave either. What is found must be a beginning of *one* line, never a mix of two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use crate::history::{Batch, History, Kind, Known, Row, table};

/// What a partition holds, as its files and its offsets tell it. `batches` are those that reach to `start` or above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub start: i64,
    pub end: i64,
    pub batches: Vec<Batch>,
    /// Above all that readers of committed records may see.
    pub last_stable: i64,
    /// What they see.
    pub committed: Vec<Row>,
    /// The producers with an open transaction, also where it began below the log start.
    pub open: BTreeSet<i64>,
}

/// What the end of a machine or of a process may leave of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The power: all that was not synced may be gone.
    Power,
    /// The process alone: whatever was acknowledged is there.
    Process,
}

#[derive(Debug, Clone)]
pub struct Line {
    pub batches: Vec<Batch>,
    pub end: i64,
    /// The log start offset as it is now.
    pub start: i64,
    /// The log start offset may be anywhere from here, where it was checkpointed, ...
    pub start_low: i64,
    /// ... to here, where an operation that has begun may have brought it.
    pub start_high: i64,
    /// All below survives a loss of power.
    pub durable: i64,
    /// All below survives the end of the process; none when this line is not what the process sees.
    pub written: Option<i64>,
    /// A compaction has seen all below, and may have taken what is superseded there.
    pub frozen: i64,
    /// Whether the log was cut below that: then values that were superseded by cut ones may be gone, and transactions that were
    /// ended by cut markers.
    is_cut_below_frozen: bool,
    /// A loss of power may have taken these batches below the log start, and nobody can see whether it did.
    doubtful: Range<i64>,
}

impl Line {
    /// An empty log that begins at `start`.
    pub const fn empty(start: i64) -> Self {
        Self {
            batches: Vec::new(),
            end: start,
            start,
            start_low: start,
            start_high: start,
            durable: start,
            written: Some(start),
            frozen: start,
            is_cut_below_frozen: false,
            doubtful: start..start,
        }
    }

    pub fn push(&mut self, batch: Batch) {
        self.end = batch.last + 1;
        self.batches.push(batch);
    }

    /// The same without what lies at or above `end`, and without a batch that reaches up to there or further.
    pub fn cut(&self, end: i64) -> Self {
        let mut cut = self.clone();
        cut.doubt_reopened(end);
        cut.batches.retain(|batch| batch.last < end);
        cut.end = end;
        cut.start = cut.start.min(end);
        cut.start_low = cut.start_low.min(end);
        cut.start_high = cut.start_high.min(end);
        cut.durable = cut.durable.min(end);
        cut.written = cut.written.map(|written| written.min(end));
        cut.is_cut_below_frozen |= end < cut.frozen;
        cut.frozen = cut.frozen.min(end);
        cut
    }

    /// A cut takes the marker of a transaction whose records are all deleted: it may be open again, or forgotten.
    fn doubt_reopened(&mut self, end: i64) {
        let is_cut_marker = |batch: &&Batch| batch.last >= end && matches!(batch.kind, Kind::Marker { .. });
        let ended: Vec<i64> = self.batches.iter().filter(is_cut_marker).filter_map(producer_of).collect();
        let is_deleted = |batch: &&Batch| batch.last < self.start_high.min(end);
        let of_ended = |batch: &&Batch| producer_of(batch).is_some_and(|id| ended.contains(&id));
        let first = self.batches.iter().filter(is_deleted).find(of_ended).map(|batch| batch.last);
        if let Some(first) = first {
            self.doubt(first..self.start_high.min(end));
        }
    }

    /// The producers with a transaction that is open in the log up to `end`.
    pub fn open(&self, end: i64) -> BTreeSet<i64> {
        let producers = self.history(self.start, end).producers;
        producers.into_iter().filter(|(_, known)| known.open.is_some()).map(|(id, _)| id).collect()
    }

    /// Whether both hold the same below `end`.
    pub fn agrees_below(&self, other: &Self, end: i64) -> bool {
        let from = self.start_high.max(other.start_high);
        let part = |line: &Self| -> Vec<Batch> {
            line.batches.iter().filter(|batch| batch.last >= from && batch.last < end).cloned().collect()
        };
        self.end >= end && part(self) == part(other)
    }

    /// Everything up to `end`, as the model of compacted logs knows it.
    pub fn history(&self, start: i64, end: i64) -> History {
        let mut history = History::default();
        for batch in self.batches.iter().filter(|batch| batch.last < end) {
            history.push(batch.clone());
        }
        (history.start, history.end) = (start, end);
        history
    }

    /// Whether the log that was found can be what is left of this line, and shows readers what it should.
    pub fn check(&self, found: &Found, loss: Loss, is_compacted: bool) -> Result<(), String> {
        self.check_log(found, loss, is_compacted)?;
        self.check_open(found)?;
        self.check_committed(found, loss, is_compacted)
    }

    /// A transaction is open only of a producer that has sent something.
    fn check_open(&self, found: &Found) -> Result<(), String> {
        let has_sent = |id: &i64| self.batches.iter().any(|batch| producer_of(batch) == Some(*id));
        match found.open.iter().find(|id| !has_sent(id)) {
            Some(id) => Err(format!("{id} has an open transaction and never sent anything")),
            None => Ok(()),
        }
    }

    /// Whether a batch of a log that starts at `start` must be remembered, though it may be deleted.
    pub fn remembers(&self, batch: &Batch, start: i64, loss: Loss) -> bool {
        batch.last >= start || batch.last < self.safe_to(loss) && !self.doubtful.contains(&batch.last)
    }

    /// Whether a batch of the producer may be forgotten.
    #[allow(dead_code, reason = "only the model of the log asks")]
    pub fn doubts(&self, id: i64) -> bool {
        self.batches.iter().any(|batch| self.doubtful.contains(&batch.last) && producer_of(batch) == Some(id))
    }

    fn safe_to(&self, loss: Loss) -> i64 {
        if loss == Loss::Power { self.durable } else { self.written.unwrap_or(self.durable) }
    }

    /// The log is cut below its start: where the files below are gone it begins there anew, and knows no producers.
    pub fn doubt_all_below(&mut self, end: i64) {
        self.doubtful = i64::MIN..end.max(self.doubtful.end);
    }

    /// The log starts at `start` after a loss: what was deleted and not safe may be forgotten from now on.
    pub fn doubt_below(&mut self, start: i64, loss: Loss) {
        self.doubt(self.safe_to(loss)..start);
    }

    fn doubt(&mut self, range: Range<i64>) {
        let known = self.doubtful.clone();
        if known.is_empty() {
            self.doubtful = range;
        } else if !range.is_empty() {
            self.doubtful = known.start.min(range.start)..known.end.max(range.end);
        }
    }

    /// The same without the readers: while a partition is offline, what it knows of transactions may lag behind its log.
    pub fn check_log(&self, found: &Found, loss: Loss, is_compacted: bool) -> Result<(), String> {
        let lowest = match loss {
            Loss::Power => self.durable,
            Loss::Process => self.written.ok_or("not the line that the process saw")?,
        };
        self.check_bounds(found, lowest)?;
        if is_compacted { self.check_survivors(found) } else { self.check_batches(found) }
    }

    fn check_bounds(&self, found: &Found, lowest: i64) -> Result<(), String> {
        let Found { start, end, .. } = *found;
        if end < lowest {
            return Err(format!("the log ends at {end}, acknowledged was up to {lowest}"));
        }
        // In a gap, which a cut inside a batch leaves, it may end anywhere: an interrupted cut below it takes one empty segment after the
        // other.
        let is_boundary = end <= self.end && !self.batches.iter().any(|batch| batch.base < end && end <= batch.last);
        // A log start that was checkpointed may lie above all that survived: the log goes on from there.
        let begins_anew = end == start && (self.start_low..=self.start_high).contains(&start);
        if !is_boundary && !begins_anew {
            return Err(format!("the log ends at {end}, where no batch does"));
        }
        let is_start = (self.start_low..=self.start_high).contains(&start) || (start == end && end < self.start_low);
        if !is_start {
            let (low, high) = (self.start_low, self.start_high);
            return Err(format!("the log starts at {start}, expected {low} to {high}"));
        }
        Ok(())
    }

    fn expected(&self, found: &Found) -> impl Iterator<Item = &Batch> {
        self.batches.iter().filter(|batch| batch.last >= found.start && batch.last < found.end)
    }

    fn check_batches(&self, found: &Found) -> Result<(), String> {
        let expected: Vec<_> = self.expected(found).collect();
        if expected.iter().copied().eq(&found.batches) {
            return Ok(());
        }
        Err(format!("the log holds{}\n    expected{}", brief(&found.batches), brief(expected)))
    }

    /// Of a compacted log: nothing that wasn't appended, and all that no compaction has seen. What else may be missing, the
    /// table of latest values says.
    fn check_survivors(&self, found: &Found) -> Result<(), String> {
        let expected: Vec<_> = self.expected(found).collect();
        let is_ascending = found.batches.windows(2).all(|pair| pair[0].last < pair[1].base);
        let is_left_of = |left: &Batch| {
            let appended = expected.iter().find(|batch| batch.base == left.base && batch.last == left.last);
            appended.is_some_and(|appended| left.rows.iter().all(|row| appended.rows.contains(row)))
        };
        let unseen = expected.iter().copied().filter(|batch| batch.base >= self.frozen);
        let has_unseen = unseen.eq(found.batches.iter().filter(|batch| batch.base >= self.frozen));
        if is_ascending && has_unseen && found.batches.iter().all(is_left_of) {
            return Ok(());
        }
        Err(format!("the log holds{}\n    appended were{}", brief(&found.batches), brief(expected)))
    }

    /// Whether something that compaction went by is not in a log that ends at `end`.
    pub fn lacks_grounds(&self, end: i64) -> bool {
        self.is_cut_below_frozen || end < self.frozen
    }

    /// The producers as they are known where some of the deleted batches that weren't safe are forgotten, if that explains what was
    /// found: a transaction may be open or not, as its beginning or its marker is lost.
    fn producers_with_losses(&self, found: &Found, loss: Loss) -> Option<BTreeMap<i64, Known>> {
        let may_be_lost = |batch: &&Batch| producer_of(batch).is_some() && !self.remembers(batch, found.start, loss);
        let lost: Vec<i64> = self.batches.iter().filter(may_be_lost).map(|batch| batch.base).take(10).collect();
        (0_u32..1 << lost.len()).find_map(|losses| {
            let is_lost = |batch: &Batch| {
                lost.iter().position(|base| *base == batch.base).is_some_and(|place| losses & (1 << place) != 0)
            };
            let mut left = self.clone();
            left.batches.retain(|batch| !is_lost(batch));
            let history = left.history(found.start, found.end.min(self.end));
            (history.last_stable() == found.last_stable).then_some(history.producers)
        })
    }

    fn check_committed(&self, found: &Found, loss: Loss, is_compacted: bool) -> Result<(), String> {
        let end = found.end.min(self.end);
        let mut history = self.history(found.start, end);
        if found.last_stable != history.last_stable()
            && let Some(producers) = self.producers_with_losses(found, loss)
        {
            history.producers = producers;
        }
        if found.last_stable != history.last_stable() {
            if self.lacks_grounds(found.end) {
                // The batches of an aborted transaction may be compacted away, and then its marker was cut: it is open for the
                // model alone, which can't say what is decided.
                return Ok(());
            }
            return Err(format!("the last stable offset is {}, not {}", found.last_stable, history.last_stable()));
        }
        let decided = history.decided();
        let stray = found.committed.iter().find(|row| decided.get(&row.offset) != Some(row));
        if let Some(row) = stray {
            return Err(format!("readers of committed records see {row:?}"));
        }
        let missing = decided.values().find(|row| !found.committed.contains(row));
        let tables = (table(&found.committed), table(decided.values().copied()));
        match missing {
            Some(row) if !is_compacted => Err(format!("readers of committed records miss {row:?}")),
            _ if tables.0 != tables.1 && !self.lacks_grounds(found.end) => {
                Err(format!("the latest values are {:?}, expected {:?}", tables.0, tables.1))
            }
            _ => Ok(()),
        }
    }
}

fn producer_of(batch: &Batch) -> Option<i64> {
    match batch.kind {
        Kind::Data { producer, .. } | Kind::Marker { producer, .. } | Kind::SpentMarker { producer, .. } => {
            Some(producer)
        }
        Kind::Plain => None,
    }
}

/// Base, last offset and values of each batch.
pub fn brief<'b>(batches: impl IntoIterator<Item = &'b Batch>) -> String {
    let mut text = String::new();
    for batch in batches {
        let values: Vec<_> = batch.rows.iter().map(|row| short(row.value.as_deref().unwrap_or("-"))).collect();
        let _ = write!(text, " [{}..={} {}]", batch.base, batch.last, values.join(","));
    }
    text
}

fn short(value: &str) -> &str {
    value.split(' ').next().unwrap_or(value)
}
