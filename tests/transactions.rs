//! Transactions over partitions and committed offsets: readers of committed records see all of one or nothing, whoever is fenced
//! writes nothing, and none of it changes when the process or the machine ends at any moment.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use stratalog::client::{CoordinatorReport, TransactionCoordinator, TransactionError, TransactionalProducer};
use stratalog::config::StoreConfig;
use stratalog::format::{CommittedOffset, TransactionEntry, TransactionState, encode_transaction_key};
use stratalog::group::{GroupError, OffsetLog};
use stratalog::types::{ProducerEpoch, ProducerId};
use stratalog::vfs::{FaultyVfs, MemoryVfs, Vfs};
use stratalog::{
    Durability, ErrorKind, Isolation, LogStore, ManualClock, Offset, Partition, Record, StoreOptions, TopicConfig,
    TopicName, TopicPartition,
};
use support::{at, offset, read_all};

const ID: &str = "billing";
const GROUP: &str = "readers";
const TIMEOUT_MS: u32 = 1000;

/// A store with the topics `a` and `b` of one partition, in memory.
struct Rig {
    memory: MemoryVfs,
    clock: ManualClock,
    store: LogStore,
    coordinator: TransactionCoordinator,
    offsets: OffsetLog,
    a: Partition,
    b: Partition,
}

fn open(vfs: Arc<dyn Vfs>, clock: &ManualClock) -> Result<LogStore, stratalog::StoreError> {
    let config = StoreConfig::new().offsets_topic_num_partitions(1).transaction_state_log_num_partitions(1);
    StoreOptions::new().vfs(vfs).clock(Arc::new(clock.clone())).config(config).open("/log")
}

impl Rig {
    fn new() -> Self {
        let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
        let store = open(Arc::new(memory.clone()), &clock).unwrap();
        for topic in ["a", "b"] {
            store.create_topic(topic, 1, TopicConfig::new()).unwrap();
        }
        Self::over(memory, clock, store).0
    }

    /// The rig of a store that is open and has the topics.
    fn over(memory: MemoryVfs, clock: ManualClock, store: LogStore) -> (Self, CoordinatorReport) {
        let (coordinator, report) = TransactionCoordinator::open(&store).unwrap();
        let offsets = OffsetLog::open(&store).unwrap();
        let partition = |topic| store.topic(topic).unwrap().partition(0).unwrap();
        let (a, b) = (partition("a"), partition("b"));
        (Self { memory, clock, store, coordinator, offsets, a, b }, report)
    }

    /// What is left when the process ends now, opened again.
    fn reopened(&self) -> (Self, CoordinatorReport) {
        let memory = self.memory.process_crash_image();
        let store = open(Arc::new(memory.clone()), &self.clock).unwrap();
        Self::over(memory, self.clock.clone(), store)
    }

    fn producer(&self) -> TransactionalProducer {
        self.coordinator.init_producer(ID, TIMEOUT_MS).unwrap()
    }

    /// Writes `value` to both partitions and `position` to the group, and ends the transaction.
    fn write(&self, producer: &mut TransactionalProducer, value: &str, position: i64, is_commit: bool) {
        let mut transaction = producer.begin().unwrap();
        transaction.append(self.a.id(), &[Record::new(value)]).unwrap();
        transaction.append(self.b.id(), &[Record::new(value)]).unwrap();
        transaction.commit_offsets(GROUP, &self.position(position)).unwrap();
        if is_commit { transaction.commit().unwrap() } else { transaction.abort().unwrap() }
    }

    fn position(&self, position: i64) -> Vec<(TopicPartition, CommittedOffset)> {
        vec![(self.a.id().clone(), CommittedOffset::new(offset(position)))]
    }

    /// What readers of committed records see: in `a`, in `b`, and the group's position.
    fn seen(&self) -> (Vec<String>, Vec<String>, Option<i64>) {
        let position = self.offsets.committed(GROUP, self.a.id()).unwrap();
        (committed(&self.a), committed(&self.b), position.map(|position| position.offset.value()))
    }

    fn ends(&self) -> Vec<Offset> {
        let topics = self.store.topics();
        topics.iter().flat_map(|topic| topic.partitions()).map(|partition| partition.log_end_offset()).collect()
    }

    fn entry(&self) -> TransactionEntry {
        let described = self.coordinator.describe();
        described.into_iter().find(|described| described.transactional_id == ID).unwrap().entry
    }

    fn epoch(&self) -> i16 {
        self.entry().producer_epoch.value()
    }

    fn topic_partition(&self, topic: &str) -> TopicPartition {
        TopicPartition::new(TopicName::parse(topic).unwrap(), self.a.id().partition)
    }
}

/// The values that a reader of committed records gets.
fn committed(partition: &Partition) -> Vec<String> {
    let (mut next, mut values) = (partition.log_start_offset(), Vec::new());
    loop {
        let batches = partition.read(next).isolation(Isolation::ReadCommitted).fetch().unwrap();
        for record in batches.records() {
            values.push(String::from_utf8(record.unwrap().value().unwrap().to_vec()).unwrap());
        }
        if batches.is_empty() {
            return values;
        }
        next = batches.next_offset();
    }
}

fn values(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn is_fenced<T>(result: Result<T, TransactionError>) -> bool {
    matches!(&result, Err(error @ TransactionError::Fenced { .. }) if error.kind() == ErrorKind::Fenced)
}

#[test]
fn a_commit_shows_all_of_a_transaction_and_an_abort_nothing() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    rig.write(&mut producer, "one", 1, true);
    assert_eq!(rig.seen(), (values(&["one"]), values(&["one"]), Some(1)));
    rig.write(&mut producer, "two", 2, false);
    assert_eq!(rig.seen(), (values(&["one"]), values(&["one"]), Some(1)));
    rig.write(&mut producer, "three", 3, true);
    let expected = (values(&["one", "three"]), values(&["one", "three"]), Some(3));
    assert_eq!(rig.seen(), expected);
    assert_eq!(rig.reopened().0.seen(), expected, "a handle that reads from the start sees the same");
}

#[test]
fn an_open_transaction_is_invisible_and_holds_up_readers_of_committed_records() {
    let rig = Rig::new();
    rig.offsets.commit(GROUP, &rig.position(7), Durability::Written).unwrap();
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    for value in ["one", "two"] {
        transaction.append(rig.a.id(), &[Record::new(value)]).unwrap();
    }
    transaction.commit_offsets(GROUP, &rig.position(8)).unwrap();
    rig.a.append(&[Record::new("from somebody else")]).unwrap();
    assert_eq!(rig.seen(), (values(&[]), values(&[]), Some(7)));
    transaction.commit().unwrap();
    assert_eq!(rig.seen(), (values(&["one", "two", "from somebody else"]), values(&[]), Some(8)));
}

#[test]
fn of_two_commits_for_a_group_the_later_record_counts_not_the_later_marker() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    transaction.commit_offsets(GROUP, &rig.position(1)).unwrap();
    rig.offsets.commit(GROUP, &rig.position(2), Durability::Written).unwrap();
    assert_eq!(rig.seen().2, Some(2));
    transaction.commit().unwrap();
    assert_eq!(rig.seen().2, Some(2));
    assert_eq!(rig.reopened().0.seen().2, Some(2));
}

#[test]
fn a_new_producer_fences_the_one_before_and_aborts_what_it_left() {
    let rig = Rig::new();
    let mut old = rig.producer();
    rig.write(&mut old, "one", 1, true);
    assert_eq!(rig.epoch(), 1);
    let mut transaction = old.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("two")]).unwrap();
    transaction.commit_offsets(GROUP, &rig.position(2)).unwrap();

    let mut new = rig.producer();
    assert_eq!((rig.epoch(), rig.entry().state), (2, TransactionState::Empty));
    assert_eq!(rig.a.last_stable_offset(), rig.a.log_end_offset());
    let ends = rig.ends();
    assert!(is_fenced(transaction.append(rig.a.id(), &[Record::new("late")])));
    assert!(is_fenced(transaction.append(rig.b.id(), &[Record::new("late")])));
    assert!(is_fenced(transaction.commit_offsets(GROUP, &rig.position(9))));
    assert!(is_fenced(transaction.commit()));
    assert!(is_fenced(old.begin().map(drop)));
    assert_eq!(rig.ends(), ends, "a fenced producer writes nothing");

    rig.write(&mut new, "three", 3, true);
    assert_eq!(rig.seen(), (values(&["one", "three"]), values(&["one", "three"]), Some(3)));
}

#[test]
fn a_fenced_producer_can_neither_commit_nor_abort_the_transaction_of_its_successor() {
    let rig = Rig::new();
    let mut old = rig.producer();
    let mut new = rig.producer();
    let mut transaction = new.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("one")]).unwrap();
    assert!(is_fenced(old.begin().map(drop)));
    drop(old);
    transaction.commit().unwrap();
    assert_eq!(committed(&rig.a), ["one"]);
}

#[test]
fn no_append_of_an_old_producer_follows_the_hand_over_of_a_new_one_in_any_interleaving() {
    let rig = Rig::new();
    for round in 0..30 {
        let mut old = rig.producer();
        let (to, other) = (rig.a.id().clone(), rig.b.id().clone());
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for number in 0_u32.. {
                    let ended = old.begin().and_then(|mut transaction| {
                        transaction.append(&to, &[Record::new("old")])?;
                        transaction.append(&other, &[Record::new("old")])?;
                        if number % 3 == 0 { transaction.abort() } else { transaction.commit() }
                    });
                    if let Err(error) = ended {
                        assert!(matches!(error, TransactionError::Fenced { .. }), "{error}");
                        return;
                    }
                }
            });
            std::thread::sleep(std::time::Duration::from_micros(50 * round));
            let _new = rig.producer();
            let ends = rig.ends();
            writer.join().unwrap();
            assert_eq!(rig.ends(), ends, "round {round}");
        });
        assert!(rig.a.open_transactions().is_empty() && rig.b.open_transactions().is_empty());
        assert_eq!(committed(&rig.a).len(), committed(&rig.b).len());
    }
}

#[test]
fn producers_of_different_ids_and_the_look_for_timeouts_do_not_get_in_each_others_way() {
    const ROUNDS: i64 = 20;
    let rig = Rig::new();
    std::thread::scope(|scope| {
        for name in 0..4 {
            let rig = &rig;
            scope.spawn(move || {
                let mut producer = rig.coordinator.init_producer(&name.to_string(), TIMEOUT_MS).unwrap();
                for round in 0..ROUNDS {
                    let (value, group) = (round.to_string(), name.to_string());
                    let mut transaction = producer.begin().unwrap();
                    transaction.append(rig.a.id(), &[Record::keyed(&group, &value)]).unwrap();
                    transaction.commit_offsets(&group, &rig.position(round)).unwrap();
                    transaction.append(rig.b.id(), &[Record::keyed(&group, &value)]).unwrap();
                    if round % 2 == 1 { transaction.commit().unwrap() } else { transaction.abort().unwrap() }
                }
            });
        }
        for _ in 0..ROUNDS {
            assert_eq!(rig.coordinator.abort_timed_out(at(0)).unwrap(), 0);
            assert_eq!(rig.coordinator.expire_ids(at(0)).unwrap(), 0);
            assert!(rig.coordinator.describe().len() <= 4);
        }
    });
    assert_eq!((committed(&rig.a).len(), committed(&rig.b).len()), (40, 40));
    for name in 0..4 {
        let position = rig.offsets.committed(&name.to_string(), rig.a.id()).unwrap().unwrap();
        assert_eq!(position.offset, offset(ROUNDS - 1));
    }
    assert_eq!(rig.a.last_stable_offset(), rig.a.log_end_offset());
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("slow")]).unwrap();
    rig.clock.advance(u64::from(TIMEOUT_MS));
    let now = |rig: &Rig| stratalog::Clock::now(&rig.clock);
    assert_eq!(rig.coordinator.abort_timed_out(now(&rig)).unwrap(), 0);
    rig.clock.advance(1);
    assert_eq!(rig.coordinator.abort_timed_out(now(&rig)).unwrap(), 1);
    assert_eq!(rig.coordinator.abort_timed_out(now(&rig)).unwrap(), 0);
    assert_eq!(rig.entry().state, TransactionState::CompleteAbort);
    let ends = rig.ends();
    assert!(is_fenced(transaction.append(rig.a.id(), &[Record::new("late")])));
    assert!(is_fenced(transaction.commit()));
    assert!(is_fenced(producer.begin().map(drop)));
    assert_eq!(rig.ends(), ends);
    assert_eq!(rig.a.last_stable_offset(), rig.a.log_end_offset());
    rig.write(&mut rig.producer(), "next", 1, true);
    assert_eq!(committed(&rig.a), ["next"]);
}

#[test]
fn a_transaction_that_is_dropped_is_aborted() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("dropped")]).unwrap();
    drop(transaction);
    assert_eq!(rig.a.last_stable_offset(), rig.a.log_end_offset());
    rig.write(&mut producer, "kept", 1, true);
    assert_eq!(committed(&rig.a), ["kept"]);
}

#[test]
fn a_transaction_in_which_an_append_failed_is_not_committed() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("one")]).unwrap();
    let error = transaction.append(&rig.topic_partition("missing"), &[Record::new("one")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, TransactionError::AppendFailed { .. }), "{error}");
    assert_eq!(rig.entry().state, TransactionState::CompleteAbort);
    rig.write(&mut producer, "two", 2, true);
    assert_eq!(rig.seen(), (values(&["two"]), values(&["two"]), Some(2)));
}

#[test]
fn a_transaction_without_appends_writes_nothing() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let ends = rig.ends();
    producer.begin().unwrap().commit().unwrap();
    producer.begin().unwrap().abort().unwrap();
    let mut transaction = producer.begin().unwrap();
    transaction.commit_offsets(GROUP, &[]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(rig.ends(), ends);
    assert_eq!(rig.epoch(), 0);
}

#[test]
fn bad_input_is_refused_with_a_typed_error_and_nothing_written() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let ends = rig.ends();
    for (id, timeout) in [("", 1), (&*"x".repeat(32_768), 1), ("y", 0), ("y", 900_001), ("y", u32::MAX)] {
        let error = rig.coordinator.init_producer(id, timeout).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().len() < 300);
    }
    let long = CommittedOffset::new(Offset::ZERO).metadata("x".repeat(4097));
    let too_long = [(rig.a.id().clone(), CommittedOffset::new(Offset::ZERO)), (rig.b.id().clone(), long)];
    let error = rig.offsets.commit(GROUP, &too_long, Durability::Written).unwrap_err();
    let is_expected = |error: &GroupError| matches!(error, GroupError::MetadataTooLarge { got: 4097, .. });
    assert!(is_expected(&error) && error.kind() == ErrorKind::TooLarge);
    let error = rig.offsets.commit(&"g".repeat(32_768), &rig.position(1), Durability::Written).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    let mut transaction = producer.begin().unwrap();
    let error = transaction.commit_offsets(GROUP, &too_long).unwrap_err();
    assert!(matches!(&error, TransactionError::Group(error) if is_expected(error)), "{error}");
    for topic in ["__consumer_offsets", "__transaction_state"] {
        let error = transaction.append(&rig.topic_partition(topic), &[Record::new("x")]).unwrap_err();
        assert!(matches!(error, TransactionError::InternalTopic { .. }), "{error}");
    }
    drop(transaction);
    let metadata = [(rig.b.id().clone(), CommittedOffset::new(Offset::ZERO).metadata("x".repeat(4096)))];
    assert_eq!(rig.ends(), ends);
    rig.offsets.commit(GROUP, &metadata, Durability::Written).unwrap();
    assert_eq!(rig.offsets.committed(GROUP, rig.b.id()).unwrap().unwrap().metadata.len(), 4096);
    assert_eq!(rig.offsets.committed(GROUP, rig.a.id()).unwrap(), None);
    assert_eq!(rig.offsets.committed("another", rig.b.id()).unwrap(), None);
}

#[test]
fn handles_can_be_shared_and_sent() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<TransactionCoordinator>();
    shared::<OffsetLog>();
    sent::<TransactionalProducer>();
}

#[test]
fn a_store_has_one_coordinator_until_the_last_clone_and_producer_are_gone() {
    let Rig { store, coordinator, .. } = Rig::new();
    let producer = coordinator.init_producer(ID, 1).unwrap();
    let error = TransactionCoordinator::open(&store).unwrap_err();
    assert!(matches!(error, TransactionError::AlreadyCoordinated));
    drop(coordinator);
    assert!(TransactionCoordinator::open(&store).is_err());
    drop(producer);
    let (coordinator, report) = TransactionCoordinator::open(&store).unwrap();
    assert_eq!((report.transactional_ids, coordinator.describe().len()), (1, 1));
}

#[test]
fn a_transaction_of_an_earlier_life_waits_for_its_producer_or_its_timeout() {
    for comes_back in [true, false] {
        let rig = Rig::new();
        let mut producer = rig.producer();
        let mut transaction = producer.begin().unwrap();
        transaction.append(rig.a.id(), &[Record::new("half")]).unwrap();
        transaction.append(rig.b.id(), &[Record::new("half")]).unwrap();
        let (rig, report) = rig.reopened();
        assert_eq!(report.ongoing, [ID]);
        assert!(rig.a.last_stable_offset() < rig.a.log_end_offset());
        if comes_back {
            rig.producer();
        } else {
            rig.clock.advance(u64::from(TIMEOUT_MS) + 1);
            assert_eq!(rig.coordinator.abort_timed_out(stratalog::Clock::now(&rig.clock)).unwrap(), 1);
        }
        assert_eq!(rig.a.last_stable_offset(), rig.a.log_end_offset());
        assert_eq!(rig.b.last_stable_offset(), rig.b.log_end_offset());
        assert_eq!(rig.seen(), (values(&[]), values(&[]), None));
    }
}

#[test]
fn a_decided_transaction_is_finished_by_the_next_opening_and_only_once() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    rig.write(&mut producer, "one", 1, true);
    let mut transaction = producer.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("two")]).unwrap();
    transaction.append(rig.b.id(), &[Record::new("two")]).unwrap();
    let ongoing = rig.entry();
    // What the log holds when the process dies right behind the decision.
    let decided = TransactionEntry {
        state: TransactionState::PrepareCommit,
        producer_epoch: ProducerEpoch::new(ongoing.producer_epoch.value() + 1).unwrap(),
        ..ongoing
    };
    let log = rig.store.topic("__transaction_state").unwrap().partition(0).unwrap();
    log.append(&[Record::keyed(&encode_transaction_key(ID), &decided.encode())]).unwrap();

    let (rig, report) = rig.reopened();
    assert_eq!(report.committed, [ID]);
    assert!(report.unfinished.is_empty() && report.ongoing.is_empty() && report.aborted.is_empty());
    assert_eq!(rig.seen().0, ["one", "two"]);
    assert_eq!(rig.seen().1, ["one", "two"]);
    let (again, report) = rig.reopened();
    assert!(report.committed.is_empty());
    assert_eq!(again.a.log_end_offset(), rig.a.log_end_offset());

    // Deciding it again, as after a crash between the markers and the last record, writes no second marker.
    let log = again.store.topic("__transaction_state").unwrap().partition(0).unwrap();
    log.append(&[Record::keyed(&encode_transaction_key(ID), &decided.encode())]).unwrap();
    let (last, report) = again.reopened();
    assert_eq!((report.committed, last.a.log_end_offset()), (vec![ID.to_owned()], again.a.log_end_offset()));
}

#[test]
fn a_topic_that_is_deleted_meanwhile_does_not_keep_the_rest_from_being_committed() {
    let rig = Rig::new();
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("one")]).unwrap();
    transaction.append(rig.b.id(), &[Record::new("one")]).unwrap();
    rig.store.delete_topic("b").unwrap();
    transaction.commit().unwrap();
    assert_eq!(committed(&rig.a), ["one"]);
    assert_eq!(rig.entry().state, TransactionState::CompleteCommit);
}

#[test]
fn an_outcome_that_a_partition_cannot_be_told_is_reported_and_finished_later() {
    let (memory, clock) = (MemoryVfs::new(), ManualClock::new(at(0)));
    let vfs = FaultyVfs::new(memory.clone());
    let store = open(Arc::new(vfs.clone()), &clock).unwrap();
    for topic in ["a", "b"] {
        store.create_topic(topic, 1, TopicConfig::new()).unwrap();
    }
    let (rig, _) = Rig::over(memory, clock, store);
    let mut producer = rig.producer();
    let mut transaction = producer.begin().unwrap();
    transaction.append(rig.a.id(), &[Record::new("one")]).unwrap();
    transaction.append(rig.b.id(), &[Record::new("one")]).unwrap();
    rig.b.flush().unwrap();
    vfs.inject(no_room_in("b-0"));
    let error = transaction.commit().unwrap_err();
    assert!(matches!(error, TransactionError::Unfinished { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!((committed(&rig.a), committed(&rig.b)), (values(&["one"]), values(&[])));
    assert!(producer.begin().is_err(), "there is no room yet");
    vfs.clear_faults();
    rig.write(&mut producer, "two", 2, true);
    assert_eq!(rig.seen(), (values(&["one", "two"]), values(&["one", "two"]), Some(2)));
}

#[test]
fn producer_ids_never_repeat_not_even_after_a_crash() {
    let mut rig = Rig::new();
    let mut seen = BTreeSet::new();
    for life in 0..4 {
        for number in 0..3 {
            rig.coordinator.init_producer(&format!("{life} {number}"), 1).unwrap();
            assert!(seen.insert(rig.coordinator.new_producer_id().unwrap()));
        }
        let described = rig.coordinator.describe();
        let newest = described.iter().filter(|one| one.transactional_id.starts_with(&life.to_string()));
        for id in newest.map(|one| one.entry.producer_id) {
            assert!(seen.insert(id), "{id} again");
        }
        rig = rig.reopened().0;
    }
    assert_eq!(seen.len(), 24);
}

#[test]
fn an_id_whose_epochs_run_out_goes_on_with_another_producer_id() {
    let rig = Rig::new();
    rig.producer();
    let worn = TransactionEntry { producer_epoch: ProducerEpoch::new(32_764).unwrap(), ..rig.entry() };
    let log = rig.store.topic("__transaction_state").unwrap().partition(0).unwrap();
    log.append(&[Record::keyed(&encode_transaction_key(ID), &worn.encode())]).unwrap();
    let rig = rig.reopened().0;
    let mut producer = rig.producer();
    assert_eq!(rig.epoch(), 32_765);
    let mut stamps = Vec::new();
    for number in 1..=4 {
        rig.write(&mut producer, &number.to_string(), number, true);
        stamps.push((rig.entry().producer_id != worn.producer_id, rig.epoch()));
    }
    assert_eq!(stamps, [(false, 32_766), (true, 0), (true, 1), (true, 2)]);
    assert_eq!(rig.seen().0, ["1", "2", "3", "4"]);
    assert_eq!(rig.reopened().0.seen(), rig.seen());
}

#[test]
fn an_id_that_nobody_used_for_a_week_is_forgotten_and_can_be_used_again() {
    let rig = Rig::new();
    let mut old = rig.producer();
    rig.write(&mut old, "one", 1, true);
    let first = rig.entry().producer_id;
    rig.clock.advance(604_799_999);
    let now = || stratalog::Clock::now(&rig.clock);
    assert_eq!(rig.coordinator.expire_ids(now()).unwrap(), 0);
    rig.clock.advance(1);
    assert_eq!(rig.coordinator.expire_ids(now()).unwrap(), 1);
    assert!(rig.coordinator.describe().is_empty() && is_fenced(old.begin().map(drop)));
    assert_eq!(rig.reopened().1.transactional_ids, 0);
    rig.write(&mut rig.producer(), "two", 2, true);
    assert!(rig.entry().producer_id > first);
    assert_eq!(rig.seen().0, ["one", "two"]);
}

fn no_room_in(folder: &str) -> stratalog::vfs::Fault {
    use stratalog::vfs::{Effect, Fault, Operation};
    let effect = Effect::Error(std::io::ErrorKind::StorageFull);
    Fault { path_contains: folder.to_owned(), times: u64::MAX, ..Fault::new(Operation::Write, effect) }
}

/// What was acknowledged when the machine ended.
#[derive(Default)]
struct Truth {
    committed: Vec<i64>,
    aborted: Vec<i64>,
}

/// Three transactions over two partitions and a group, the second one aborted.
fn script(vfs: Arc<dyn Vfs>, clock: &ManualClock, truth: &mut Truth) -> Result<(), Box<dyn std::error::Error>> {
    let store = open(vfs, clock)?;
    let a = store.create_topic("a", 1, TopicConfig::new())?.partition(0)?;
    let b = store.create_topic("b", 1, TopicConfig::new())?.partition(0)?;
    let (coordinator, _) = TransactionCoordinator::open(&store)?;
    let mut producer = coordinator.init_producer(ID, TIMEOUT_MS)?;
    for number in 1..=3 {
        let value = number.to_string();
        let mut transaction = producer.begin()?;
        transaction.append(a.id(), &[Record::new(&value), Record::new(&value)])?;
        transaction.append(b.id(), &[Record::new(&value)])?;
        transaction.append(a.id(), &[Record::new(&value)])?;
        transaction.commit_offsets(GROUP, &[(a.id().clone(), CommittedOffset::new(offset(number)))])?;
        if number == 2 {
            transaction.abort()?;
            truth.aborted.push(number);
        } else {
            transaction.commit()?;
            truth.committed.push(number);
        }
        store.checkpoint()?;
    }
    Ok(())
}

/// All of every transaction is visible, or none; what was acknowledged is.
fn check(image: &MemoryVfs, clock: &ManualClock, truth: &Truth, when: &str) {
    let store = open(Arc::new(image.clone()), clock).unwrap_or_else(|error| panic!("{when}: {error}"));
    if store.topic("a").is_err() || store.topic("b").is_err() {
        assert!(truth.committed.is_empty(), "{when}: a topic is gone");
        return;
    }
    let (rig, report) = Rig::over(image.clone(), clock.clone(), store);
    assert!(report.unfinished.is_empty(), "{when}: {report:?}");
    let before = rig.seen();
    let mut producer = rig.producer();
    let (a, b, position) = rig.seen();
    assert_eq!(
        (&a, &b, position),
        (&before.0, &before.1, before.2),
        "{when}: aborting what was open shows nothing new"
    );
    let visible: Vec<i64> = b.iter().map(|value| value.parse().unwrap()).collect();
    let thrice: Vec<String> = b.iter().flat_map(|value| vec![value.clone(); 3]).collect();
    assert_eq!(a, thrice, "{when}: all of it, or none");
    assert_eq!(position, visible.last().copied(), "{when}: with the offsets");
    assert!(visible.starts_with(&truth.committed), "{when}: {visible:?}, acknowledged {:?}", truth.committed);
    assert!(!visible.contains(&2), "{when}: aborted");
    for partition in rig.store.topics().iter().flat_map(|topic| topic.partitions()) {
        assert_eq!(partition.last_stable_offset(), partition.log_end_offset(), "{when}: {}", partition.id());
    }
    rig.write(&mut producer, "9", 9, true);
    assert_eq!(committed(&rig.b).last().map(String::as_str), Some("9"), "{when}: it goes on");
    assert_eq!(rig.seen().2, Some(9), "{when}");
}

#[test]
fn after_a_power_loss_at_any_moment_a_transaction_is_visible_in_full_or_not_at_all() {
    let clock = ManualClock::new(at(0));
    let whole = FaultyVfs::new(MemoryVfs::new());
    script(Arc::new(whole.clone()), &clock, &mut Truth::default()).unwrap();
    for crash_at in 0..=whole.mutations() {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        vfs.crash_after(crash_at);
        let mut truth = Truth::default();
        let _ = script(Arc::new(vfs.clone()), &clock, &mut truth);
        for seed in 0..4 {
            let when = format!("end at {crash_at}, image {seed}");
            check(&vfs.crash_image(seed).unwrap(), &clock, &truth, &when);
        }
    }
}

#[test]
fn after_a_kill_at_any_moment_a_transaction_is_visible_in_full_or_not_at_all() {
    let clock = ManualClock::new(at(0));
    let whole = FaultyVfs::new(MemoryVfs::new());
    script(Arc::new(whole.clone()), &clock, &mut Truth::default()).unwrap();
    for crash_at in 0..whole.mutations() {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        vfs.crash_after(crash_at);
        let mut truth = Truth::default();
        script(Arc::new(vfs), &clock, &mut truth).unwrap_err();
        check(&memory.process_crash_image(), &clock, &truth, &format!("kill at {crash_at}"));
    }
}

#[test]
fn a_power_loss_while_the_next_life_recovers_changes_nothing() {
    let clock = ManualClock::new(at(0));
    let whole = FaultyVfs::new(MemoryVfs::new());
    script(Arc::new(whole.clone()), &clock, &mut Truth::default()).unwrap();
    let next_life = |vfs: &FaultyVfs| {
        if let Ok(store) = open(Arc::new(vfs.clone()), &clock)
            && let Ok((coordinator, _)) = TransactionCoordinator::open(&store)
        {
            let _ = coordinator.init_producer(ID, TIMEOUT_MS);
        }
    };
    for crash_at in 0..whole.mutations() {
        let memory = MemoryVfs::new();
        let vfs = FaultyVfs::new(memory.clone());
        vfs.crash_after(crash_at);
        let mut truth = Truth::default();
        script(Arc::new(vfs), &clock, &mut truth).unwrap_err();
        let undisturbed = FaultyVfs::new(memory.process_crash_image());
        next_life(&undisturbed);
        // The moments differ from one first life to the next, so that together they cover all of the second.
        for again_at in (crash_at % 7..=undisturbed.mutations()).step_by(7) {
            let second = FaultyVfs::new(memory.process_crash_image());
            second.crash_after(again_at);
            next_life(&second);
            let when = format!("kill at {crash_at}, then end at {again_at}");
            check(&second.crash_image(0).unwrap(), &clock, &truth, &when);
        }
    }
}

#[test]
fn what_init_handed_out_survives_a_power_loss() {
    let rig = Rig::new();
    for epoch in 0..3 {
        rig.producer();
        let image = rig.memory.crash_image();
        let store = open(Arc::new(image.clone()), &rig.clock).unwrap();
        let (left, _) = Rig::over(image, rig.clock.clone(), store);
        assert_eq!(left.epoch(), epoch);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A store that is open for reading only shows its transactions and groups, and refuses the rest.
fn look_without_touching(folder: &Path) {
    let store = StoreOptions::new().read_only(true).open(folder).unwrap();
    let (coordinator, report) = TransactionCoordinator::open(&store).unwrap();
    assert_eq!((report.ongoing.len(), coordinator.describe().len()), (1, 7));
    assert_eq!(coordinator.init_producer("left-open", 1000).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(coordinator.new_producer_id().unwrap_err().kind(), ErrorKind::Locked);
    let plain = TopicPartition::new(TopicName::parse("plain").unwrap(), stratalog::PartitionId::ZERO);
    let offsets = OffsetLog::open(&store).unwrap();
    assert_eq!(offsets.committed("classic-group-0", &plain).unwrap().unwrap().offset, offset(5));
    let commit = [(plain, CommittedOffset::new(offset(6)))];
    let error = offsets.commit("classic-group-0", &commit, Durability::Written).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
}

#[test]
fn transactions_and_groups_that_kafka_left_behind_are_taken_over() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(&golden).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let is_wanted = ["transactions-", "__transaction_state-", "__consumer_offsets-"];
        if entry.path().is_dir() && is_wanted.iter().any(|start| name.starts_with(start)) {
            copy(&entry.path(), &folder.path().join(name));
        }
    }
    fs::copy(golden.join("recovery-point-offset-checkpoint"), folder.path().join("recovery-point-offset-checkpoint"))
        .unwrap();
    look_without_touching(folder.path());
    let store = LogStore::open(folder.path()).unwrap();
    let partition = store.topic("transactions").unwrap().partition(0).unwrap();
    assert_eq!(partition.last_stable_offset(), offset(144));

    let (coordinator, report) = TransactionCoordinator::open(&store).unwrap();
    assert_eq!((report.transactional_ids, &report.ongoing[..]), (7, &["left-open".to_owned()][..]));
    let known = coordinator.describe();
    let entry_of = |id: &str| {
        let described = coordinator.describe();
        described.into_iter().find(|one| one.transactional_id == id).unwrap().entry
    };
    assert!(known.iter().all(|one| one.entry.producer_id < coordinator.new_producer_id().unwrap()));

    let before = committed(&partition).len();
    let mut producer = coordinator.init_producer("left-open", 1000).unwrap();
    assert_eq!(partition.last_stable_offset(), partition.log_end_offset());
    let entry = entry_of("left-open");
    assert_eq!((entry.producer_id, entry.producer_epoch.value()), (ProducerId::new(1007).unwrap(), 1));
    let mut transaction = producer.begin().unwrap();
    transaction.append(partition.id(), &[Record::new("taken over")]).unwrap();
    transaction.commit().unwrap();
    let after = committed(&partition);
    assert_eq!((after.last().map(String::as_str), after.len() >= before), (Some("taken over"), true));
    assert!(read_all(&partition).len() > after.len(), "what Kafka's producer left is aborted");

    let offsets = OffsetLog::open(&store).unwrap();
    let plain = |number: i32| {
        let partition = stratalog::PartitionId::new(number).unwrap();
        TopicPartition::new(TopicName::parse("plain").unwrap(), partition)
    };
    for (group, position) in [("classic-group-0", Some(5)), ("classic-group-1", Some(6)), ("classic-group-2", None)] {
        let committed = offsets.committed(group, &plain(0)).unwrap();
        assert_eq!(committed.map(|committed| committed.offset.value()), position, "{group}");
    }
    let committed = offsets.committed("consumer-group-2", &plain(0)).unwrap().unwrap();
    assert_eq!((committed.offset, &*committed.metadata), (offset(7), "примечание 2"));
    assert!(committed.topic_id.is_some());
    offsets.commit("consumer-group-2", &[(plain(0), CommittedOffset::new(offset(8)))], Durability::Durable).unwrap();
    assert_eq!(offsets.committed("consumer-group-2", &plain(0)).unwrap().unwrap().offset, offset(8));
}
