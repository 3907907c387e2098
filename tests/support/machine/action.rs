//! One call of the public API, ready to be made, and what it answered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stratalog::format::{BatchBuilder, BatchOptions, Compression, ProducerStamp, TransactionResult};
use stratalog::vfs::Vfs;
use stratalog::{
    Appended, Durability, ErrorKind, LogError, LogStore, ManualClock, Partition, Record, StoreError, StoreOptions,
    Timestamp, TopicConfig,
};

use crate::history::{Batch, Kind, Row};
use crate::support::{config, in_transaction, marker, offset, stamp};

/// How long opening may find the folder locked by work that is about to end.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub enum Action {
    Append {
        /// As it is to be, with any base offset.
        batch: Batch,
        durable: bool,
        /// Whether it is handed over as the bytes of a batch.
        is_encoded: bool,
    },
    Roll,
    Flush,
    FlushStore,
    Checkpoint,
    Tick {
        now: i64,
    },
    DeleteRecords {
        offset: i64,
    },
    Truncate {
        offset: i64,
    },
    StartOver {
        offset: i64,
    },
    Compact,
    Reopen,
    ReopenPartition,
    RemoveCutFiles,
    CreateTopic {
        name: &'static str,
    },
    AddPartitions {
        total: usize,
    },
    AlterConfig {
        limit: u32,
    },
    DeleteTopic,
    /// Closes the store and opens it again.
    Close,
    /// Drops the store and opens it again.
    Drop,
}

impl Action {
    pub fn brief(&self) -> String {
        match self {
            Self::Append { batch, durable, .. } => format!("Append{} durable: {durable}", super::line::brief([batch])),
            other => format!("{other:?}"),
        }
    }
}

/// What a call answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    Appended {
        base: i64,
        last: i64,
        is_duplicate: bool,
    },
    Start(i64),
    /// The `.cut` files that the report names.
    Reopened(Vec<PathBuf>),
    Nothing,
}

/// What calls are made on. The store is none after an opening that failed.
#[derive(Debug)]
pub struct Handles {
    pub vfs: Arc<dyn Vfs>,
    pub clock: ManualClock,
    pub store: Mutex<Option<LogStore>>,
    /// `t-0`, once it exists.
    pub partition: Mutex<Option<Partition>>,
    pub topic_config: Vec<(&'static str, String)>,
    /// Held by the thread that opens the store anew.
    pub opening: Mutex<()>,
}

impl Handles {
    pub fn store(&self) -> Result<LogStore, String> {
        self.store.lock().clone().ok_or_else(|| "the store isn't open".to_owned())
    }

    pub fn partition(&self) -> Result<Partition, String> {
        self.partition.lock().clone().ok_or_else(|| "there is no partition".to_owned())
    }

    /// Opens the store, and `t-0` where it exists.
    pub fn open(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let store = loop {
            match open(&self.vfs, &self.clock) {
                // Whoever was inside when the store was dropped holds the lock until it leaves.
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(format!("open: {error}")),
                Ok(store) => break store,
            }
        };
        *self.partition.lock() = store.topic("t").ok().and_then(|topic| topic.partition(0).ok());
        *self.store.lock() = Some(store);
        Ok(())
    }

    /// Lets go of the store as a crash would.
    pub fn drop_store(&self) {
        *self.partition.lock() = None;
        *self.store.lock() = None;
    }

    pub fn topic_config(&self, limit: u32) -> TopicConfig {
        let mut entries: Vec<_> = self.topic_config.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let limit = limit.to_string();
        entries.push(("max.message.bytes", &limit));
        config(&entries)
    }

    pub fn perform(&self, action: &Action) -> Result<Done, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let nothing = Done::Nothing;
        match action {
            Action::Append { batch, durable, is_encoded: false } => return append(&self.partition()?, batch, *durable),
            Action::Append { batch, durable, is_encoded: true } => {
                return append_encoded(&self.partition()?, batch, *durable);
            }
            Action::Roll => self.partition()?.roll().map_err(|error| text(&error))?,
            Action::Flush => self.partition()?.flush().map_err(|error| text(&error))?,
            Action::FlushStore => self.store()?.flush().map_err(|error| text(&error))?,
            Action::Checkpoint => self.store()?.checkpoint().map_err(|error| text(&error))?,
            Action::Tick { now } => {
                let report = self.store()?.tick(Timestamp::from_millis(*now).unwrap()).map_err(|error| text(&error))?;
                let failure = report.failures.first().map(|error| text(error));
                failure.map_or(Ok(()), Err)?;
            }
            Action::DeleteRecords { offset: place } => {
                let start = self.partition()?.delete_records_before(offset(*place)).map_err(|error| text(&error))?;
                return Ok(Done::Start(start.value()));
            }
            Action::Truncate { offset: place } => {
                self.partition()?.truncate_to(offset(*place)).map_err(|error| text(&error))?;
            }
            Action::StartOver { offset: place } => {
                self.partition()?.truncate_fully_and_start_at(offset(*place)).map_err(|error| text(&error))?;
            }
            Action::Compact => drop(self.partition()?.compact().map_err(|error| text(&error))?),
            Action::Reopen => {
                let report = self.partition()?.reopen().map_err(|error| text(&error))?;
                return Ok(Done::Reopened(report.cuts.into_iter().map(|cut| cut.moved_to).collect()));
            }
            Action::ReopenPartition => {
                let topic = self.store()?.topic("t").map_err(|error| text(&error))?;
                let report = topic.reopen_partition(0).map_err(|error| text(&error))?;
                *self.partition.lock() = topic.partition(0).ok();
                return Ok(Done::Reopened(report.cuts.into_iter().map(|cut| cut.moved_to).collect()));
            }
            Action::RemoveCutFiles => drop(self.store()?.remove_cut_files().map_err(|error| text(&error))?),
            Action::CreateTopic { name } => {
                let config = self.topic_config(super::truth::DEFAULT_LIMIT);
                let topic = self.store()?.create_topic(name, 1, config).map_err(|error| text(&error))?;
                if *name == "t" {
                    *self.partition.lock() = Some(topic.partition(0).map_err(|error| text(&error))?);
                }
            }
            Action::AddPartitions { total } => {
                let total = u32::try_from(*total).unwrap();
                self.store()?.add_partitions("t", total).map_err(|error| text(&error))?;
            }
            Action::AlterConfig { limit } => {
                let topic = self.store()?.topic("t").map_err(|error| text(&error))?;
                topic.alter_config(self.topic_config(*limit)).map_err(|error| text(&error))?;
            }
            Action::DeleteTopic => self.store()?.delete_topic("t").map_err(|error| text(&error))?,
            Action::Close => {
                let closed = self.store()?.close();
                let _opening = self.opening.lock();
                // Another thread may have opened it again by now.
                if self.store().is_ok_and(|store| matches!(store.topic("t"), Err(StoreError::Closed { .. }))) {
                    self.drop_store();
                    self.open()?;
                }
                closed.map_err(|error| text(&error))?;
            }
            Action::Drop => {
                let _opening = self.opening.lock();
                self.drop_store();
                self.open()?;
            }
        }
        Ok(nothing)
    }
}

/// Opens the store that all scripts use.
pub fn open(vfs: &Arc<dyn Vfs>, clock: &ManualClock) -> Result<LogStore, StoreError> {
    StoreOptions::new().vfs(Arc::clone(vfs)).clock(Arc::new(clock.clone())).open("/log")
}

fn records(batch: &Batch) -> Vec<Record<'_>> {
    batch.rows.iter().map(record).collect()
}

fn record(row: &Row) -> Record<'_> {
    let value = row.value.as_ref().map(String::as_bytes);
    Record::from_parts(Some(row.key.as_bytes()), value).timestamp(Timestamp::from_millis(row.time).unwrap())
}

fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Written }
}

/// Appends a batch that its producer has encoded.
fn append_encoded(partition: &Partition, batch: &Batch, durable: bool) -> Result<Done, String> {
    let Kind::Data { producer, epoch, sequence, transactional } = batch.kind else {
        return Err("only a producer's batch is encoded here".to_owned());
    };
    let producer = Some(stamp_of(producer, epoch, sequence, transactional));
    let mut builder = BatchBuilder::new(BatchOptions { compression: Compression::Lz4, producer, ..Default::default() });
    for row in &batch.rows {
        builder.push(&record(row), Timestamp::from_millis(row.time)).map_err(|error| error.to_string())?;
    }
    let bytes = builder.finish().map_err(|error| error.to_string())?;
    answer(partition.append_batch(bytes, durability(durable)))
}

/// Appends a batch as its producer would.
pub fn append(partition: &Partition, batch: &Batch, durable: bool) -> Result<Done, String> {
    let (records, durability) = (records(batch), durability(durable));
    answer(match batch.kind {
        Kind::Data { producer, epoch, sequence, transactional } => {
            partition.append_from(stamp_of(producer, epoch, sequence, transactional), &records, durability)
        }
        Kind::Marker { producer, epoch, commit } => {
            let result = if commit { TransactionResult::Commit } else { TransactionResult::Abort };
            let mut marker = marker(result, producer, epoch);
            marker.timestamp = Timestamp::from_millis(batch.time).unwrap();
            partition.end_transaction(&marker, durability)
        }
        Kind::Plain | Kind::SpentMarker { .. } => partition.append_with(&records, durability),
    })
}

fn answer(appended: Result<Appended, LogError>) -> Result<Done, String> {
    let appended = appended.map_err(|error| match error.kind() {
        ErrorKind::Offline | ErrorKind::OutcomeUnknown => format!("offline: {error}"),
        _ => error.to_string(),
    })?;
    Ok(Done::Appended {
        base: appended.base_offset.value(),
        last: appended.last_offset.value(),
        is_duplicate: appended.is_duplicate,
    })
}

fn stamp_of(producer: i64, epoch: i16, sequence: i32, transactional: bool) -> ProducerStamp {
    if transactional { in_transaction(producer, epoch, sequence) } else { stamp(producer, epoch, sequence) }
}
