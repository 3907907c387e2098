//! The transaction coordinator of one store: which transactions are open, and what became of the others, durably.
//!
//! # The order that makes a commit atomic
//!
//! 1. `Ongoing` with a partition is durable before the transaction's first batch is in that partition. So whatever a power loss leaves of a
//!    transaction, the log knows where.
//! 2. Every partition of the transaction is made durable.
//! 3. `PrepareCommit` is made durable. **This is the decision**: before it the transaction is aborted in the end, after it
//!    it is committed in the end.
//! 4. A commit marker is made durable in each partition, in no order that matters.
//! 5. `CompleteCommit` is written. It needs no sync: without it, the next opening repeats step 4 and finds every marker there.
//!
//! An abort is the same without step 2. A coordinator that opens first makes durable what it read, since after a kill that is not
//! certain, and goes on at step 4 where step 3 was reached. Transactions that are
//! `Ongoing` then are left so: their producer aborts them when it comes back, or [`TransactionCoordinator::abort_timed_out`] does.
//! Until then they hold up readers of committed records, and so does a transaction between steps 3 and 4.
//!
//! # Locks
//!
//! Each transactional id has a lock, held over every step of its transactions, disk work included: a producer that was fenced can't be in
//! the middle of an append while its successor is handed out. Under it only locks of partitions, of the store's folder and of the block of producer
//! ids are taken, by calls that return without calling back. The list of ids has a lock of its own, under which nothing else is done.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::TransactionError;
use super::state_log::{self, StateLog};
use super::transitions;
use crate::format::{TransactionEntry, TransactionMarker, TransactionResult};
use crate::group::OffsetLog;
use crate::name::{PartitionId, TopicPartition, shortened};
use crate::partition::{Durability, LogError, Partition};
use crate::store::{CoordinatorClaim, LogStore, StoreError, Topic};
use crate::types::{ProducerId, Timestamp};

/// Producer ids taken at a time.
const ID_BLOCK: u32 = 1000;

/// The most bytes of a transactional id: what its length field holds.
const ID_SIZE_MAX: usize = 32_767;

/// The coordinator of the transactions of one store. Clones share it; a store has at most one, and its end, with the last clone
/// and the last producer, is no more than its process's end would be.
///
/// # Example
///
/// ```
/// use stratalog::client::TransactionCoordinator;
/// use stratalog::format::CommittedOffset;
/// use stratalog::{LogStore, Record, TopicConfig};
///
/// let folder = tempfile::tempdir()?;
/// let store = LogStore::open(folder.path())?;
/// let orders = store.create_topic("orders", 1, TopicConfig::new())?.partition(0)?;
/// let bills = store.create_topic("bills", 1, TopicConfig::new())?.partition(0)?;
/// orders.append(&[Record::new("2 apples")])?;
///
/// let (coordinator, _) = TransactionCoordinator::open(&store)?;
/// let mut producer = coordinator.init_producer("billing", 60_000)?;
/// let mut transaction = producer.begin()?;
/// transaction.append(bills.id(), &[Record::new("3 euros")])?;
/// let position = CommittedOffset::new(orders.log_end_offset());
/// transaction.commit_offsets("billing", &[(orders.id().clone(), position)])?;
/// transaction.commit()?;
/// println!("the bill and the position after it are both there, or neither is");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct TransactionCoordinator {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: LogStore,
    topic: Topic,
    logs: BTreeMap<PartitionId, StateLog>,
    ids: Mutex<BTreeMap<String, Arc<TransactionalId>>>,
    /// The rest of the block of producer ids, and what all others are below.
    producer_ids: Mutex<Range<i64>>,
    offsets: Mutex<Option<OffsetLog>>,
    _claim: CoordinatorClaim,
}

/// One transactional id.
#[derive(Debug)]
pub(super) struct TransactionalId {
    name: String,
    log: StateLog,
    pub(super) status: Mutex<Status>,
}

/// Where a transactional id stands.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// As in the log; none before the first producer.
    pub(super) entry: Option<TransactionEntry>,
    /// The number of the producer in use; a producer with another one is fenced.
    pub(super) owner: u64,
    /// The id has expired, and a new one of its name may be there.
    is_removed: bool,
}

/// What opening a coordinator found and did. The names are transactional ids.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CoordinatorReport {
    /// Transactional ids that are known.
    pub transactional_ids: usize,
    /// Transactions that were to be committed, and are now.
    pub committed: Vec<String>,
    /// Transactions that were to be aborted, and are now.
    pub aborted: Vec<String>,
    /// Transactions that are open: aborted once their producer is back or their time is over.
    pub ongoing: Vec<String>,
    /// Transactions whose decided outcome could not be finished, and why.
    pub unfinished: Vec<(String, TransactionError)>,
}

/// What is known of a transactional id, for tools.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionDescription {
    /// The transactional id.
    pub transactional_id: String,
    /// Its last entry in the transaction log: state, producer, partitions, times.
    pub entry: TransactionEntry,
}

impl TransactionCoordinator {
    /// Opens the coordinator of `store`: reads `__transaction_state`, which is made when it isn't there, and finishes every
    /// transaction whose outcome was decided. What can't be finished is reported, and tried again by the next producer of the id.
    ///
    /// # Errors
    /// [`TransactionError::AlreadyCoordinated`], [`TransactionError::Store`], [`TransactionError::Log`], [`TransactionError::Damaged`].
    pub fn open(store: &LogStore) -> Result<(Self, CoordinatorReport), TransactionError> {
        let claim = store.claim_coordinator().ok_or(TransactionError::AlreadyCoordinated)?;
        let topic = state_log::topic(store)?;
        let (mut logs, mut ids) = (BTreeMap::new(), BTreeMap::new());
        for partition in topic.partitions() {
            let number = partition.id().partition;
            let (log, entries) = StateLog::load(partition)?;
            for (name, entry) in entries {
                let status = Mutex::new(Status { entry: Some(entry), ..Status::default() });
                ids.insert(name.clone(), Arc::new(TransactionalId { name, log: log.clone(), status }));
            }
            logs.insert(number, log);
        }
        let floor = ids.values().filter_map(|id| id.greatest_producer_id()).max().map_or(0, |id| id.saturating_add(1));
        let shared = Shared {
            store: store.clone(),
            topic,
            logs,
            ids: Mutex::new(ids),
            producer_ids: Mutex::new(floor..floor),
            offsets: Mutex::new(None),
            _claim: claim,
        };
        let coordinator = Self { shared: Arc::new(shared) };
        let report = coordinator.settle_all();
        Ok((coordinator, report))
    }

    /// Makes whoever asks the owner of a transactional id; returns the id and the owner's number. See
    /// [`TransactionCoordinator::init_producer`].
    pub(super) fn take_over(
        &self,
        transactional_id: &str,
        timeout_ms: u32,
    ) -> Result<(Arc<TransactionalId>, u64), TransactionError> {
        self.check_init(transactional_id, timeout_ms)?;
        loop {
            let id = self.id(transactional_id)?;
            let mut status = id.status.lock();
            if status.is_removed {
                continue;
            }
            let is_fenced = self.settle(&id, &mut status, true)?;
            let now = self.now();
            let entry =
                transitions::initialised(status.entry.as_ref(), is_fenced, timeout_ms, now, || self.new_producer_id())?;
            id.log.put(&id.name, &entry, Durability::Durable)?;
            status.entry = Some(entry);
            status.owner += 1;
            let owner = status.owner;
            drop(status);
            return Ok((id, owner));
        }
    }

    /// A producer id that no producer of this store ever had, for a producer that is idempotent and not transactional.
    ///
    /// # Durability
    /// No later call returns it, also after a power loss.
    ///
    /// # Errors
    /// [`TransactionError::Store`].
    pub fn new_producer_id(&self) -> Result<ProducerId, TransactionError> {
        let mut block = self.shared.producer_ids.lock();
        if block.is_empty() {
            let floor = ProducerId::new(block.end).unwrap_or(ProducerId::ZERO);
            let first = self.shared.store.take_producer_ids(floor, ID_BLOCK)?.value();
            *block = first..first + i64::from(ID_BLOCK);
        }
        let id = block.start;
        block.start += 1;
        drop(block);
        Ok(ProducerId::new(id).unwrap_or(ProducerId::ZERO))
    }

    /// Aborts the transactions that take longer than their timeout, which fences their producers, and finishes outcomes that were
    /// decided earlier and could not be. Returns how many were aborted. A program that uses transactions calls it every few seconds.
    ///
    /// # Errors
    /// The first failure, as in [`TransactionError`]; the other transactions were looked after nevertheless.
    pub fn abort_timed_out(&self, now: Timestamp) -> Result<usize, TransactionError> {
        let (mut count, mut result) = (0, Ok(()));
        for id in self.all_ids() {
            let mut status = id.status.lock();
            let is_due = status
                .entry
                .as_ref()
                .is_some_and(|entry| transitions::is_timed_out(entry, now) || transitions::undone(entry).is_some());
            if !is_due {
                continue;
            }
            match self.settle(&id, &mut status, true) {
                Ok(is_aborted) => count += usize::from(is_aborted),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result.map(|()| count)
    }

    /// Forgets transactional ids under which nothing has happened for `transactional.id.expiration.ms`; returns how many. Their
    /// producers are fenced.
    ///
    /// # Errors
    /// [`TransactionError::Log`]; the ids up to there are forgotten.
    pub fn expire_ids(&self, now: Timestamp) -> Result<usize, TransactionError> {
        let expiration_ms = self.shared.store.settings().transactional_id_expiration_ms;
        let mut count = 0;
        for id in self.all_ids() {
            let mut status = id.status.lock();
            if status.entry.as_ref().is_some_and(|entry| transitions::is_expired(entry, now, expiration_ms)) {
                id.log.remove(&id.name)?;
                *status = Status { entry: None, owner: status.owner + 1, is_removed: true };
                self.shared.ids.lock().remove(&id.name);
                count += 1;
            }
        }
        Ok(count)
    }

    /// The transactional ids, in order.
    #[must_use]
    pub fn describe(&self) -> Vec<TransactionDescription> {
        let describe = |id: Arc<TransactionalId>| {
            let entry = id.status.lock().entry.clone()?;
            Some(TransactionDescription { transactional_id: id.name.clone(), entry })
        };
        self.all_ids().into_iter().filter_map(describe).collect()
    }

    /// The committed offsets of groups, as transactions write them.
    pub(super) fn offsets(&self) -> Result<OffsetLog, TransactionError> {
        let mut offsets = self.shared.offsets.lock();
        let log = match offsets.take() {
            Some(log) => log,
            None => OffsetLog::open(&self.shared.store)?,
        };
        *offsets = Some(log.clone());
        Ok(log)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.store.clock().now()
    }

    /// The partition that a transaction appends to.
    pub(super) fn partition(&self, id: &TopicPartition) -> Result<Partition, StoreError> {
        let topic = self.shared.store.topic(id.topic.as_str())?;
        topic.partition(id.partition.value().unsigned_abs())
    }

    /// Adds a partition to the id's transaction, durably, unless it is in it.
    pub(super) fn add_partition(
        &self,
        id: &TransactionalId,
        status: &mut Status,
        partition: &TopicPartition,
    ) -> Result<(), TransactionError> {
        let Some(entry) = &status.entry else { return Err(id.fenced()) };
        if let Some(entry) = transitions::with_partition(entry, partition, self.now()) {
            id.log.put(&id.name, &entry, Durability::Durable)?;
            status.entry = Some(entry);
        }
        Ok(())
    }

    /// Ends the id's transaction, if one is open. After [`TransactionError::Unfinished`] it has ended, after another error it is open.
    pub(super) fn end(
        &self,
        id: &TransactionalId,
        status: &mut Status,
        result: TransactionResult,
    ) -> Result<(), TransactionError> {
        let Some(entry) = status.entry.as_ref().filter(|entry| transitions::is_ongoing(entry)) else { return Ok(()) };
        if result == TransactionResult::Commit {
            for partition in &entry.partitions {
                self.on_live(partition, Partition::flush)?;
            }
        }
        let entry = transitions::decided(entry, result, self.now(), || self.new_producer_id())?;
        id.log.put(&id.name, &entry, Durability::Durable)?;
        status.entry = Some(entry);
        self.finish(id, status)
    }

    /// Leaves the id without a transaction that is open or undecided; whether one had to be aborted. `is_taken`: by somebody else than its
    /// producer, which is fenced then.
    pub(super) fn settle(
        &self,
        id: &TransactionalId,
        status: &mut Status,
        is_taken: bool,
    ) -> Result<bool, TransactionError> {
        let Some(entry) = &status.entry else { return Ok(false) };
        if transitions::is_ongoing(entry) {
            status.owner += u64::from(is_taken);
            self.end(id, status, TransactionResult::Abort)?;
            return Ok(true);
        }
        self.finish(id, status)?;
        Ok(false)
    }

    /// Tells every partition what was decided, and notes that it was done.
    fn finish(&self, id: &TransactionalId, status: &mut Status) -> Result<(), TransactionError> {
        let Some(entry) = &status.entry else { return Ok(()) };
        let Some(result) = transitions::undone(entry) else { return Ok(()) };
        let now = self.now();
        let marker = TransactionMarker {
            result,
            producer_id: entry.producer_id,
            producer_epoch: entry.producer_epoch,
            coordinator_epoch: id.log.coordinator_epoch().value(),
            timestamp: now,
        };
        let marked = entry
            .partitions
            .iter()
            .try_for_each(|partition| self.on_live(partition, |partition| put_marker(partition, &marker)));
        let complete = transitions::completed(entry, result, now);
        let finished = marked.and_then(|()| id.log.put(&id.name, &complete, Durability::Written));
        finished.map_err(|source| TransactionError::Unfinished {
            transactional_id: shortened(&id.name),
            result,
            source: Box::new(source),
        })?;
        status.entry = Some(complete);
        Ok(())
    }

    /// Does `work` for a partition, unless it was deleted since it was added to the transaction.
    fn on_live(
        &self,
        id: &TopicPartition,
        work: impl FnOnce(&Partition) -> Result<(), LogError>,
    ) -> Result<(), TransactionError> {
        let partition = match self.partition(id) {
            Ok(partition) => partition,
            Err(StoreError::UnknownTopic { .. } | StoreError::UnknownPartition { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match work(&partition) {
            // It may be that the topic was deleted just now.
            Err(LogError::Closed { .. }) if self.partition(id).is_err_and(|error| is_unknown(&error)) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Finishes what was decided before this coordinator was opened.
    fn settle_all(&self) -> CoordinatorReport {
        let ids = self.all_ids();
        let mut report = CoordinatorReport { transactional_ids: ids.len(), ..CoordinatorReport::default() };
        for id in ids {
            let mut status = id.status.lock();
            let Some(entry) = &status.entry else { continue };
            if transitions::is_ongoing(entry) {
                report.ongoing.push(id.name.clone());
                continue;
            }
            let Some(result) = transitions::undone(entry) else { continue };
            match (self.finish(&id, &mut status), result) {
                (Ok(()), TransactionResult::Commit) => report.committed.push(id.name.clone()),
                (Ok(()), TransactionResult::Abort) => report.aborted.push(id.name.clone()),
                (Err(error), _) => report.unfinished.push((id.name.clone(), error)),
            }
        }
        report
    }

    fn check_init(&self, transactional_id: &str, timeout_ms: u32) -> Result<(), TransactionError> {
        let got = transactional_id.len();
        if !(1..=ID_SIZE_MAX).contains(&got) {
            return Err(TransactionError::InvalidTransactionalId { limit: ID_SIZE_MAX, got });
        }
        // The log keeps the timeout in a signed 32-bit field.
        let max = self.shared.store.settings().transaction_max_timeout_ms.min(i32::MAX.unsigned_abs().into());
        if !(1..=max).contains(&u64::from(timeout_ms)) {
            let transactional_id = shortened(transactional_id);
            return Err(TransactionError::InvalidTimeout { transactional_id, max, got: timeout_ms });
        }
        Ok(())
    }

    fn id(&self, name: &str) -> Result<Arc<TransactionalId>, TransactionError> {
        let kept_in = self.shared.topic.partition_for(name)?.id().clone();
        let log = self.shared.logs.get(&kept_in.partition).cloned();
        let log = log.ok_or_else(|| TransactionError::from(StoreError::UnknownTopic { name: kept_in.to_string() }))?;
        let new = || Arc::new(TransactionalId { name: name.to_owned(), log, status: Mutex::default() });
        Ok(Arc::clone(self.shared.ids.lock().entry(name.to_owned()).or_insert_with(new)))
    }

    fn all_ids(&self) -> Vec<Arc<TransactionalId>> {
        self.shared.ids.lock().values().cloned().collect()
    }
}

impl TransactionalId {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The error for a producer that is not in use any more.
    pub(super) fn fenced(&self) -> TransactionError {
        TransactionError::Fenced { transactional_id: shortened(&self.name) }
    }

    /// The greatest producer id that its entry names.
    fn greatest_producer_id(&self) -> Option<i64> {
        let status = self.status.lock();
        let entry = status.entry.as_ref()?;
        let named = [Some(entry.producer_id), entry.previous_producer_id, entry.next_producer_id];
        named.into_iter().flatten().map(ProducerId::value).max()
    }
}

/// Ends a transaction in one partition, durably, unless that was done before. Where nothing was ever written, the marker
/// fences what might still come.
fn put_marker(partition: &Partition, marker: &TransactionMarker) -> Result<(), LogError> {
    if partition.has_ended_in(marker.producer_id, marker.producer_epoch) {
        // The marker may not be durable yet when the process died behind it.
        return partition.flush();
    }
    partition.end_transaction(marker, Durability::Durable).map(|_| ())
}

const fn is_unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::UnknownTopic { .. } | StoreError::UnknownPartition { .. })
}
