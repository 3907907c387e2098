//! What was appended to a partition, in a plain vector that is never compacted, and what follows from it.
#![allow(dead_code, reason = "each test file uses some of this")]

use std::collections::BTreeMap;

use stratalog::format::ControlKind;
use stratalog::{Isolation, LogError, Partition, RecordBatch};

use crate::support::offset;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub offset: i64,
    pub key: String,
    pub value: Option<String>,
    pub time: i64,
}

/// Who appended a batch, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Data {
        producer: i64,
        epoch: i16,
        sequence: i32,
        transactional: bool,
    },
    Marker {
        producer: i64,
        epoch: i16,
        commit: bool,
    },
    /// Found in files only: a control batch that compaction took the marker out of.
    SpentMarker {
        producer: i64,
        epoch: i16,
    },
}

/// One batch; `time` is its greatest timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub base: i64,
    pub last: i64,
    pub kind: Kind,
    pub rows: Vec<Row>,
    pub time: i64,
}

/// The newest values, as a table that is rebuilt from the rows.
pub fn table<'r>(rows: impl IntoIterator<Item = &'r Row>) -> BTreeMap<String, String> {
    let mut table = BTreeMap::new();
    for row in rows {
        match &row.value {
            Some(value) => drop(table.insert(row.key.clone(), value.clone())),
            None => drop(table.remove(&row.key)),
        }
    }
    table
}

impl Batch {
    /// Offset and timestamp of each record, a marker included.
    pub fn times(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        let marker = matches!(self.kind, Kind::Marker { .. }).then_some((self.base, self.time));
        self.rows.iter().map(|row| (row.offset, row.time)).chain(marker)
    }
}

/// A producer's last data batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub first_offset: i64,
    pub last_offset: i64,
    pub last_sequence: i32,
}

/// What is known of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub epoch: i16,
    /// In this epoch.
    pub last: Option<Sent>,
    /// Where its open transaction begins.
    pub open: Option<i64>,
    /// The greatest timestamp of its newest batch.
    pub time: i64,
    /// The last offset of its newest batch, data or marker.
    pub newest: i64,
}

/// All that was appended and not cut since.
#[derive(Debug, Default)]
pub struct History {
    pub batches: Vec<Batch>,
    pub start: i64,
    pub end: i64,
    pub producers: BTreeMap<i64, Known>,
    /// Everything below is known to survive a power loss.
    pub durable: i64,
    /// A crash may bring the log start back to this.
    pub checkpointed_start: i64,
    /// Nothing at or above was ever compacted.
    pub cleaned_to: i64,
    /// The log end at the last compaction, which knew of everything below.
    pub frozen: i64,
    pub was_cut_below_cleaned: bool,
    /// When a compaction was run, and where the log ended then.
    cleanings: Vec<(i64, i64)>,
}

impl History {
    pub fn push(&mut self, batch: Batch) {
        self.end = batch.last + 1;
        note(&mut self.producers, &batch);
        self.batches.push(batch);
    }

    /// The producers as the batches tell them.
    pub fn replay(&self) -> BTreeMap<i64, Known> {
        let mut producers = BTreeMap::new();
        for batch in &self.batches {
            note(&mut producers, batch);
        }
        producers
    }

    pub fn batch_at(&self, place: i64) -> Option<&Batch> {
        self.batches.iter().find(|batch| (batch.base..=batch.last).contains(&place))
    }

    /// Takes away the batches at or above `durable` of which no file holds anything.
    pub fn lose(&mut self, durable: i64, files: &[Batch]) -> bool {
        let before = self.batches.len();
        self.batches.retain(|batch| batch.last < durable || files.iter().any(|found| found.base == batch.base));
        self.batches.len() < before
    }

    /// Takes away all batches that reach to `end`.
    pub fn cut(&mut self, end: i64) {
        self.batches.retain(|batch| batch.last < end);
        self.end = end;
        self.cleaned_to = self.cleaned_to.min(end);
        self.frozen = self.frozen.min(end);
        self.durable = self.durable.min(end);
        for (_, seen) in &mut self.cleanings {
            *seen = end.min(*seen);
        }
    }

    pub fn note_cleaning(&mut self, now: i64, end: i64) {
        self.cleaned_to = self.cleaned_to.max(end);
        self.frozen = self.end;
        self.cleanings.push((now, self.end));
    }

    /// Tombstones below this offset were met by a compaction and, after `retention`, by another one.
    pub fn outlived_tombstones(&self, retention: i64) -> i64 {
        let last = self.cleanings.last().map_or(i64::MIN, |(time, _)| *time);
        let met = self.cleanings.iter().filter(|(time, _)| last >= time + retention);
        met.map(|(_, seen)| *seen).max().unwrap_or(0)
    }

    pub fn last_stable(&self) -> i64 {
        let first = self.producers.values().filter_map(|known| known.open).min();
        first.unwrap_or(i64::MAX).clamp(self.start, self.end)
    }

    /// What readers of committed records would get if nothing had been compacted.
    pub fn decided(&self) -> BTreeMap<i64, &Row> {
        let (mut rows, _) = self.by_outcome();
        let readable = self.start..self.last_stable();
        rows.retain(|offset, _| readable.contains(offset));
        rows
    }

    /// All rows but those of aborted transactions.
    pub fn not_aborted(&self) -> impl Iterator<Item = &Row> {
        let (rows, open) = self.by_outcome();
        rows.into_values().chain(open).filter(|row| row.offset >= self.start)
    }

    /// The rows outside of transactions and in committed ones, and those in open ones.
    fn by_outcome(&self) -> (BTreeMap<i64, &Row>, Vec<&Row>) {
        let mut rows = BTreeMap::new();
        let mut waiting: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
        for batch in &self.batches {
            match batch.kind {
                Kind::Data { producer, transactional: true, .. } => {
                    waiting.entry(producer).or_default().extend(&batch.rows);
                }
                Kind::Marker { producer, commit, .. } => {
                    let decided = waiting.remove(&producer).unwrap_or_default();
                    rows.extend(decided.into_iter().filter(|_| commit).map(|row| (row.offset, row)));
                }
                _ => rows.extend(batch.rows.iter().map(|row| (row.offset, row))),
            }
        }
        (rows, waiting.into_values().flatten().collect())
    }

    /// The appended batch that `found` is what is left of, with the rows that are left.
    pub fn same(&self, found: &Batch) -> Batch {
        let appended = self.batch_at(found.base);
        let appended = appended.unwrap_or_else(|| panic!("never appended: {found:?}"));
        assert_eq!((appended.base, appended.last), (found.base, found.last), "{found:?}");
        match (&appended.kind, &found.kind) {
            (Kind::Marker { producer, epoch, .. }, Kind::SpentMarker { producer: found_id, epoch: found_epoch }) => {
                assert_eq!((producer, epoch), (found_id, found_epoch), "{found:?}");
            }
            (appended, found) => assert_eq!(appended, found),
        }
        for row in &found.rows {
            let same = appended.rows.iter().find(|appended| appended.offset == row.offset);
            assert_eq!(same, Some(row), "what was appended at that offset");
        }
        found.clone()
    }
}

fn note(producers: &mut BTreeMap<i64, Known>, batch: &Batch) {
    let (Kind::Data { producer, epoch, .. }
    | Kind::Marker { producer, epoch, .. }
    | Kind::SpentMarker { producer, epoch }) = batch.kind
    else {
        return;
    };
    let new = Known { epoch, last: None, open: None, time: batch.time, newest: batch.last };
    let known = producers.entry(producer).or_insert(new);
    if known.epoch != epoch {
        (known.epoch, known.last) = (epoch, None);
    }
    (known.time, known.newest) = (batch.time, batch.last);
    match batch.kind {
        Kind::Data { sequence, transactional, .. } => {
            let last_sequence = sequence + i32::try_from(batch.last - batch.base).unwrap();
            known.last = Some(Sent { first_offset: batch.base, last_offset: batch.last, last_sequence });
            if transactional {
                known.open.get_or_insert(batch.base);
            }
        }
        Kind::Marker { .. } => known.open = None,
        _ => {}
    }
}

/// Every batch in the files, below the log start too.
pub fn physical(partition: &Partition) -> Vec<Batch> {
    let segments = partition.segments();
    let batches = segments.iter().flat_map(|segment| segment.batches().map(|batch| batch.unwrap().1));
    batches.map(|batch| describe(&batch)).collect()
}

pub fn describe(batch: &RecordBatch) -> Batch {
    let header = batch.header();
    let stamp = header.producer_id().map(|id| (id.value(), header.producer_epoch().unwrap().value()));
    let kind = match stamp {
        Some((producer, epoch)) if header.is_control() => match batch.control_record().unwrap() {
            Some(record) => Kind::Marker { producer, epoch, commit: record.kind() == ControlKind::Commit },
            None => Kind::SpentMarker { producer, epoch },
        },
        Some((producer, epoch)) => {
            let sequence = header.base_sequence().unwrap().value();
            Kind::Data { producer, epoch, sequence, transactional: header.is_transactional() }
        }
        None => Kind::Plain,
    };
    let rows = if header.is_control() {
        Vec::new()
    } else {
        batch.records().map(|record| row(&record.unwrap().detach())).collect()
    };
    let (base, last) = (header.base_offset().value(), header.last_offset().value());
    Batch { base, last, kind, rows, time: header.max_timestamp().unwrap().millis() }
}

fn row(record: &stratalog::OwnedRecord) -> Row {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Row {
        offset: record.offset().value(),
        key: record.key().map(text).unwrap(),
        value: record.value().map(text),
        time: record.timestamp().unwrap().millis(),
    }
}

/// Everything that a reader gets from `from` on, in fetches of at most `max_bytes`.
pub fn rows(partition: &Partition, from: i64, max_bytes: usize, isolation: Isolation) -> Vec<Row> {
    try_rows(partition, from, max_bytes, isolation).unwrap()
}

/// The same, where reading may fail.
pub fn try_rows(
    partition: &Partition,
    from: i64,
    max_bytes: usize,
    isolation: Isolation,
) -> Result<Vec<Row>, LogError> {
    let mut next = offset(from);
    let mut rows = Vec::new();
    loop {
        let batches = partition.read(next).max_bytes(max_bytes).isolation(isolation).fetch()?;
        rows.extend(batches.records().filter_map(Result::ok).map(|record| row(&record)));
        if batches.is_empty() {
            return Ok(rows);
        }
        assert!(batches.next_offset() > next, "a read that isn't empty holds a whole batch");
        next = batches.next_offset();
    }
}

/// The same for readers of committed records.
pub fn committed_rows(partition: &Partition, from: i64, max_bytes: usize) -> Vec<Row> {
    rows(partition, from, max_bytes, Isolation::ReadCommitted)
}
