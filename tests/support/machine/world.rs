//! A store in a file system that fails on demand, and what is known of it: scripts run here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use stratalog::vfs::{FaultyVfs, MemoryVfs, OpenMode, Vfs};
use stratalog::{Clock, Isolation, LogStore, ManualClock, Partition};

use super::action::{Action, Done, Handles};
use super::line::Found;
use super::op::{Op, Past, Script, Serial};
use super::truth::{RETENTION_MS, Truth};
use crate::history::{Batch, committed_rows, describe, rows};
use crate::support::at;

pub struct World {
    pub memory: MemoryVfs,
    pub vfs: FaultyVfs,
    pub handles: Handles,
    pub truth: Truth,
    pub serial: Serial,
    /// The first answer that can't be right.
    pub violation: Option<String>,
    /// The last error that a call gave.
    pub last_error: Option<String>,
    /// What was called and what it answered, for whoever looks at one script.
    pub story: Vec<String>,
}

impl World {
    pub fn new(is_compacted: bool) -> Self {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        let topic_config = vec![
            ("cleanup.policy", if is_compacted { "compact" } else { "delete" }.to_owned()),
            ("retention.ms", RETENTION_MS.to_string()),
            ("segment.bytes", "420".to_owned()),
            ("index.interval.bytes", "150".to_owned()),
            ("file.delete.delay.ms", "100".to_owned()),
            ("delete.retention.ms", "1000".to_owned()),
            ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ];
        let handles = Handles {
            vfs: Arc::new(vfs.clone()),
            clock: ManualClock::new(at(0)),
            store: Mutex::new(None),
            partition: Mutex::new(None),
            topic_config,
            opening: Mutex::new(()),
        };
        let truth = Truth { is_compacted, ..Truth::default() };
        Self {
            memory,
            vfs,
            handles,
            truth,
            serial: Serial::default(),
            violation: None,
            last_error: None,
            story: Vec::new(),
        }
    }

    pub fn now(&self) -> i64 {
        self.handles.clock.now().millis()
    }

    /// Whether the script need not go on.
    pub fn is_over(&self) -> bool {
        self.violation.is_some() || self.vfs.is_crashed()
    }

    /// Goes on with another file system, of which the store isn't open yet.
    pub fn move_to(&mut self, memory: MemoryVfs) {
        self.handles.drop_store();
        self.vfs = FaultyVfs::new(memory.clone());
        self.handles.vfs = Arc::new(self.vfs.clone());
        self.memory = memory;
    }

    /// The first answer that couldn't be right, as an error.
    pub fn told(&self) -> Result<(), String> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// Opens the store and gives the log its past.
    pub fn prepare(&mut self, past: Past) {
        if let Err(error) = self.handles.open() {
            self.last_error = Some(error);
            return;
        }
        self.call(&Action::CreateTopic { name: "t" });
        self.all(&[Op::Append, Op::Send, Op::SendInTransaction, Op::Append]);
        self.handles.clock.advance(6000);
        self.all(&[Op::Abort, Op::Send, Op::SendInTransaction]);
        if past != Past::Unflushed {
            self.all(&[Op::Commit, Op::Flush, Op::Checkpoint]);
        }
        self.all(&[Op::Append, Op::SendInTransaction]);
        if past == Past::Recovered && !self.is_over() {
            self.handles.drop_store();
            self.write_garbage();
            self.all(&[Op::Drop]);
        }
        self.all(&[Op::Append, Op::Send]);
    }

    /// Leaves bytes behind the log that are no batch, as an append that was killed half-way.
    fn write_garbage(&self) {
        let folder = Path::new("/log/t-0");
        let logs =
            self.memory.read_dir(folder).unwrap_or_default().into_iter().filter(|entry| entry.name.ends_with(".log"));
        let Some(active) = logs.map(|entry| folder.join(entry.name)).max() else { return };
        let file = self.memory.open(&active, OpenMode::Write).unwrap();
        file.write_at(b"no batch", file.size().unwrap()).unwrap();
    }

    /// The operations, and some appends after them.
    pub fn go(&mut self, script: &Script) {
        self.all(&script.ops);
        self.end();
    }

    /// Appends, to a topic that is there.
    pub fn end(&mut self) {
        if self.truth.topics.get("t").is_none_or(|topic| !topic.may_be_there) {
            self.call(&Action::CreateTopic { name: "t" });
        }
        self.all(&[Op::Append, Op::AppendDurable, Op::Append]);
    }

    fn all(&mut self, ops: &[Op]) {
        for op in ops {
            self.run(*op);
        }
    }

    pub fn run(&mut self, op: Op) {
        if self.is_over() || !self.truth.topics.contains_key("t") {
            return;
        }
        if op == Op::Tick {
            self.handles.clock.advance(RETENTION_MS.unsigned_abs() / 2);
        }
        let now = self.now();
        for action in op.actions(&self.truth, &mut self.serial, now) {
            self.call(&action);
        }
    }

    pub fn call(&mut self, action: &Action) {
        if self.is_over() {
            return;
        }
        let needs_partition = matches!(
            action,
            Action::Append { .. }
                | Action::Roll
                | Action::Flush
                | Action::DeleteRecords { .. }
                | Action::Truncate { .. }
                | Action::StartOver { .. }
                | Action::Compact
                | Action::Reopen
        );
        if needs_partition && self.handles.partition().is_err() {
            return;
        }
        self.truth.begin(action);
        let was_open = self.handles.partition().is_ok();
        let result = self.handles.perform(action);
        self.story.push(format!("{} -> {result:?}", action.brief()));
        if self.vfs.is_crashed() {
            return;
        }
        self.note_reports();
        // Asking for the report removes a list, at which the machine may end.
        if self.vfs.is_crashed() {
            return;
        }
        if let Err(violation) = self.settle(action, result, was_open) {
            self.violation = Some(format!("{action:?}: {violation}"));
        }
    }

    fn settle(&mut self, action: &Action, result: Result<Done, String>, was_open: bool) -> Result<(), String> {
        let is_new = matches!(action, Action::Reopen | Action::ReopenPartition | Action::Close | Action::Drop);
        match result {
            Ok(done) => {
                if let Done::Reopened(cuts) = &done {
                    self.truth.reported.extend(cuts.iter().cloned());
                }
                if is_new || matches!(action, Action::Tick { .. }) {
                    // A tick settles nothing about a call that failed before it.
                    self.observe(is_new)?;
                }
                // A partition that could not be opened is not synced, and what is noted of it stays as it is.
                if was_open || !matches!(action, Action::Checkpoint | Action::Close | Action::ReopenPartition) {
                    self.truth.finish(action, &done)?;
                }
                if was_open && matches!(action, Action::Tick { .. }) {
                    // It ends with a checkpoint.
                    self.truth.finish(&Action::Checkpoint, &Done::Nothing)?;
                }
            }
            Err(error) => {
                self.last_error = Some(format!("{action:?}: {error}"));
                self.observe(matches!(action, Action::Close | Action::Drop))?;
            }
        }
        if matches!(action, Action::Close | Action::Drop) { self.settle_topics() } else { Ok(()) }
    }

    /// Holds what the running store shows against the truth, and takes it for the truth where that leaves a choice.
    pub fn observe(&mut self, settled: bool) -> Result<(), String> {
        let Ok(store) = self.handles.store() else { return Ok(()) };
        self.vfs.undisturbed(|| observe(&store, &mut self.truth, settled))
    }

    /// After an opening, topics are there or gone for good.
    fn settle_topics(&mut self) -> Result<(), String> {
        let Ok(store) = self.handles.store() else { return Ok(()) };
        for (name, topic) in &mut self.truth.topics {
            match store.topic(name) {
                // Some that are there may have failed.
                Ok(found) => topic.partitions = topic.partitions.max(found.partitions().len()),
                Err(_) => topic.may_be_there = false,
            }
        }
        Ok(())
    }

    fn note_reports(&mut self) {
        let Ok(store) = self.handles.store() else { return };
        let cuts = store.open_report().partitions.iter().flat_map(|recovery| &recovery.cuts);
        self.truth.reported.extend(cuts.map(|cut| cut.moved_to.clone()));
    }
}

/// What a store shows, held against `truth` and taken for it.
pub fn observe(store: &LogStore, truth: &mut Truth, settled: bool) -> Result<(), String> {
    for (name, topic) in &mut truth.topics {
        let Ok(found) = store.topic(name) else {
            if !topic.may_be_gone {
                return Err(format!("topic {name} is gone"));
            }
            continue;
        };
        if !topic.may_be_there {
            return Err(format!("topic {name} is back"));
        }
        for (number, log) in topic.logs.iter_mut().enumerate() {
            // It may have failed to open.
            let Ok(partition) = found.partition(u32::try_from(number).unwrap()) else { continue };
            match find(&partition) {
                Ok(found) => log.adopt(&found, settled).map_err(|reason| format!("{}: {reason}", partition.id()))?,
                // A deletion that failed may have closed it, and what failed may have left it offline.
                Err(_) if !settled => {}
                Err(error) => return Err(format!("{}: {error}", partition.id())),
            }
        }
    }
    Ok(())
}

/// Everything that a partition holds, in its files and for its readers.
pub fn find(partition: &Partition) -> Result<Found, String> {
    let (start, end) = (partition.log_start_offset().value(), partition.log_end_offset().value());
    let mut batches: Vec<Batch> = Vec::new();
    for segment in partition.segments() {
        for batch in segment.batches() {
            let (_, batch) = batch.map_err(|error| format!("walking the segments: {error}"))?;
            batches.push(describe(&batch));
        }
    }
    for pair in batches.windows(2) {
        if pair[0].last >= pair[1].base {
            return Err(format!("twice in the files: {:?} and {:?}", pair[0], pair[1]));
        }
    }
    batches.retain(|batch| batch.last >= start);
    partition.read(crate::support::offset(start)).fetch().map_err(|error| format!("reading at {start}: {error}"))?;
    let read = rows(partition, start, 1 << 20, Isolation::ReadUncommitted);
    let in_files: Vec<_> = batches.iter().flat_map(|batch| &batch.rows).filter(|row| row.offset >= start).collect();
    if read.iter().ne(in_files.iter().copied()) {
        return Err(format!("readers get {read:?}, the files hold {in_files:?}"));
    }
    let committed = committed_rows(partition, start, 300);
    let last_stable = partition.last_stable_offset().value();
    let mut producers = partition.producers();
    producers.retain(|entry| entry.current_transaction_first_offset.is_some());
    let open = producers.iter().map(|entry| entry.producer_id.value());
    Ok(Found { start, end, batches, last_stable, committed, open: open.collect() })
}

/// The `.cut` files of a file system.
pub fn cut_files(vfs: &MemoryVfs) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in folders(vfs) {
        let names = vfs.read_dir(&folder).unwrap_or_default();
        found.extend(names.iter().filter(|entry| entry.name.ends_with(".cut")).map(|entry| folder.join(&entry.name)));
    }
    found
}

/// The folders of partitions, and the root.
pub fn folders(vfs: &MemoryVfs) -> Vec<PathBuf> {
    let root = Path::new("/log");
    let entries = vfs.read_dir(root).unwrap_or_default();
    let mut folders = vec![root.to_path_buf()];
    folders.extend(entries.iter().filter(|entry| entry.is_dir).map(|entry| root.join(&entry.name)));
    folders
}
