//! The operations that scripts are made of, and the scripts: each operation alone and every pair of them, on logs with
//! different pasts.

use super::action::Action;
use super::campaign::{mixed, number};
use super::truth::Truth;
use crate::history::{Batch, Kind, Row};

/// One operation of a script. Where it works on a place of the log, that follows from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Append,
    AppendDurable,
    /// By an idempotent producer.
    Send,
    /// The same, as a batch that the producer has encoded and compressed.
    SendEncoded,
    /// In a transaction, which is opened where none is.
    SendInTransaction,
    Commit,
    Abort,
    Roll,
    Flush,
    FlushStore,
    Checkpoint,
    /// Half of the retention passes first.
    Tick,
    /// A third of the log.
    DeleteRecords,
    /// All of it.
    DeleteAll,
    /// The last batch.
    TruncateEnd,
    /// Two thirds of the log.
    TruncateDeep,
    /// To an offset within a batch, which goes whole.
    TruncateInside,
    /// To begin above the log's end.
    StartOver,
    /// To begin in the middle of the log, and below it where it is empty.
    StartOverBelow,
    Compact,
    Reopen,
    /// By its topic, also when it could not be opened.
    ReopenPartition,
    RemoveCutFiles,
    CreateTopic,
    AddPartitions,
    AlterConfig,
    DeleteTopic,
    Close,
    Drop,
}

/// Every operation that changes a store.
pub const ALL: [Op; 29] = [
    Op::Append,
    Op::AppendDurable,
    Op::Send,
    Op::SendEncoded,
    Op::SendInTransaction,
    Op::Commit,
    Op::Abort,
    Op::Roll,
    Op::Flush,
    Op::FlushStore,
    Op::Checkpoint,
    Op::Tick,
    Op::DeleteRecords,
    Op::DeleteAll,
    Op::TruncateEnd,
    Op::TruncateDeep,
    Op::TruncateInside,
    Op::StartOver,
    Op::StartOverBelow,
    Op::Compact,
    Op::Reopen,
    Op::ReopenPartition,
    Op::RemoveCutFiles,
    Op::CreateTopic,
    Op::AddPartitions,
    Op::AlterConfig,
    Op::DeleteTopic,
    Op::Close,
    Op::Drop,
];

/// What a log went through before the operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Several segments, flushed and checkpointed in the middle.
    Settled,
    /// The same, never flushed.
    Unflushed,
    /// The same, and the process died and recovered in between, which cut off what no batch was.
    Recovered,
}

/// A name like `Settled/compacted/Truncate+Append`, and what it stands for.
#[derive(Debug, Clone)]
pub struct Script {
    pub past: Past,
    pub is_compacted: bool,
    pub ops: Vec<Op>,
}

impl Script {
    pub fn name(&self) -> String {
        let policy = if self.is_compacted { "compacted" } else { "plain" };
        let ops: Vec<_> = self.ops.iter().map(|op| format!("{op:?}")).collect();
        format!("{:?}/{policy}/{}", self.past, ops.join("+"))
    }
}

/// Nothing, each operation alone, and every pair, on each past. Pairs on compacted logs have to do with compaction.
pub fn scripts() -> Vec<Script> {
    let mut scripts = Vec::new();
    for past in [Past::Settled, Past::Unflushed, Past::Recovered] {
        for is_compacted in [false, true] {
            let mut add = |ops: Vec<Op>| scripts.push(Script { past, is_compacted, ops });
            add(Vec::new());
            for first in ALL.into_iter().filter(|op| is_compacted || *op != Op::Compact) {
                add(vec![first]);
                for second in ALL {
                    let compacts = first == Op::Compact || second == Op::Compact;
                    if compacts == is_compacted {
                        add(vec![first, second]);
                    }
                }
            }
        }
    }
    scripts
}

/// So many scripts of three to six operations, as the seed has it.
pub fn longer(count: u64) -> Vec<Script> {
    let seed = number("STRATALOG_SEED", 1);
    let pasts = [Past::Settled, Past::Unflushed, Past::Recovered];
    let script = |script: u64| {
        let draw = |place: usize, of: usize| {
            let drawn = mixed(seed, &[script, place as u64]) % of as u64;
            usize::try_from(drawn).unwrap()
        };
        let is_compacted = draw(0, 2) == 1;
        let ops = (0..3 + draw(1, 4)).map(|place| ALL[draw(3 + place, ALL.len())]);
        let ops = ops.filter(|op| is_compacted || *op != Op::Compact).collect();
        Script { past: pasts[draw(2, 3)], is_compacted, ops }
    };
    (0..count).map(script).collect()
}

/// The producers of the scripts; the one with transactions always has one open when a past ends.
pub const IDEMPOTENT: i64 = 100;
pub const TRANSACTIONAL: i64 = 101;

/// What comes next, numbered: makes records that can be told from each other.
#[derive(Debug, Default)]
pub struct Serial(u32);

impl Serial {
    /// A batch of `count` records by a producer, or by none.
    pub fn batch(&mut self, kind: Kind, count: i64, time: i64) -> Batch {
        let rows = (0..count)
            .map(|offset| {
                self.0 += 1;
                let number = self.0;
                // One in eight is a tombstone, which only compaction cares about.
                let value = (number % 8 != 5).then(|| format!("#{number:04}# {}", "x".repeat(20)));
                Row { offset, key: format!("k{}", number % 5), value, time }
            })
            .collect();
        Batch { base: 0, last: count - 1, kind, rows, time }
    }
}

impl Op {
    /// The calls that this operation makes on a store that is as `truth` says.
    pub fn actions(self, truth: &Truth, serial: &mut Serial, now: i64) -> Vec<Action> {
        let log = truth.log().current();
        let span = log.end - log.start;
        let boundary = |place: i64| {
            let bases = log.batches.iter().map(|batch| batch.base).filter(|base| *base <= place && *base >= log.start);
            bases.max().unwrap_or(log.end)
        };
        let mut append = |kind: Kind, count: i64, durable: bool| Action::Append {
            batch: serial.batch(kind, count, now),
            durable,
            is_encoded: self == Self::SendEncoded,
        };
        let next = |producer: i64| log.history(log.start, log.end).producers.get(&producer).copied();
        let sequence = |producer: i64| {
            let last = next(producer).and_then(|known| known.last);
            last.map_or(0, |last| last.last_sequence + 1)
        };
        let data = |producer: i64, transactional: bool| Kind::Data {
            producer,
            epoch: 0,
            sequence: sequence(producer),
            transactional,
        };
        let is_open = next(TRANSACTIONAL).is_some_and(|known| known.open.is_some());
        match self {
            Self::Append => vec![append(Kind::Plain, 2, false)],
            Self::AppendDurable => vec![append(Kind::Plain, 1, true)],
            Self::Send | Self::SendEncoded => vec![append(data(IDEMPOTENT, false), 2, false)],
            Self::SendInTransaction => vec![append(data(TRANSACTIONAL, true), 1, false)],
            Self::Commit | Self::Abort => {
                let mut actions = Vec::new();
                if !is_open {
                    actions.push(append(data(TRANSACTIONAL, true), 1, false));
                }
                let kind = Kind::Marker { producer: TRANSACTIONAL, epoch: 0, commit: self == Self::Commit };
                let batch = Batch { base: 0, last: 0, kind, rows: Vec::new(), time: now };
                actions.push(Action::Append { batch, durable: false, is_encoded: false });
                actions
            }
            Self::Roll => vec![Action::Roll],
            Self::Flush => vec![Action::Flush],
            Self::FlushStore => vec![Action::FlushStore],
            Self::Checkpoint => vec![Action::Checkpoint],
            Self::Tick => vec![Action::Tick { now }],
            Self::DeleteRecords => vec![Action::DeleteRecords { offset: log.start + span / 3 }],
            Self::DeleteAll => vec![Action::DeleteRecords { offset: log.end }],
            Self::TruncateEnd => vec![Action::Truncate { offset: boundary(log.end - 1) }],
            Self::TruncateDeep => vec![Action::Truncate { offset: boundary(log.start + span / 3) }],
            Self::TruncateInside => {
                let wide =
                    log.batches.iter().filter(|batch| batch.last > batch.base.max(log.start)).map(|batch| batch.last);
                vec![Action::Truncate { offset: wide.max().unwrap_or(log.end) }]
            }
            Self::StartOver => vec![Action::StartOver { offset: log.end + 10 }],
            Self::StartOverBelow => vec![Action::StartOver { offset: (log.start + (span - 1).div_euclid(2)).max(0) }],
            Self::Compact => vec![Action::Roll, Action::Compact],
            Self::Reopen => vec![Action::Reopen],
            Self::ReopenPartition => vec![Action::ReopenPartition],
            Self::RemoveCutFiles => vec![Action::RemoveCutFiles],
            Self::CreateTopic if truth.topics["t"].may_be_there => vec![Action::CreateTopic { name: "u" }],
            Self::CreateTopic => vec![Action::CreateTopic { name: "t" }],
            Self::AddPartitions => vec![Action::AddPartitions { total: truth.topics["t"].logs.len() + 1 }],
            Self::AlterConfig => vec![Action::AlterConfig { limit: 5000 }],
            Self::DeleteTopic => vec![Action::DeleteTopic],
            Self::Close => vec![Action::Close],
            Self::Drop => vec![Action::Drop],
        }
    }
}
