//! A read-only store beside the process that writes: it sees what a reader in that process saw at some moment, a little later, or
//! says that it must look again; never other records, never fewer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stratalog::format::TransactionResult;
use stratalog::vfs::{
    DirEntry, DirLock, Effect, Fault, FaultyVfs, Hook, IoError, MemoryVfs, Metadata, OpenMode, Operation, Vfs, VfsFile,
};
use stratalog::{Durability, ErrorKind, Isolation, LogError, LogStore, OffsetSpec, Partition, Record, StoreOptions};
use support::{
    Rig, append, append_at, at, bases, config, in_transaction, marker, offset, open, partition_of, read_all,
    read_committed, read_from,
};

/// A store beside the one of a rig, over a file system of its own.
struct Beside {
    vfs: FaultyVfs,
    store: LogStore,
    partition: Partition,
}

impl Beside {
    fn new(rig: &Rig) -> Self {
        let vfs = FaultyVfs::new(rig.memory.clone());
        let store = open_beside(Arc::new(vfs.clone()), rig);
        let partition = partition_of(&store);
        Self { vfs, store, partition }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.vfs.mutations(), 0, "a follower changes nothing");
        }
    }
}

fn open_beside(vfs: Arc<dyn Vfs>, rig: &Rig) -> LogStore {
    StoreOptions::new().vfs(vfs).clock(Arc::new(rig.clock.clone())).read_only(true).open("/log").unwrap()
}

fn append_values(partition: &Partition, numbers: std::ops::Range<i64>) {
    for number in numbers {
        append(partition, &format!("value {number}"));
    }
}

fn earliest(partition: &Partition) -> i64 {
    partition.find_offset(OffsetSpec::Earliest).unwrap().unwrap().offset.value()
}

fn latest(partition: &Partition) -> i64 {
    partition.find_offset(OffsetSpec::Latest).unwrap().unwrap().offset.value()
}

#[test]
fn what_is_appended_and_rolled_at_any_moment_of_a_look_is_read() {
    for rolls in 0..3 {
        for nth in 1..60 {
            let rig = Rig::new(&[("index.interval.bytes", "0")]);
            append(&rig.partition, "first");
            let beside = Beside::new(&rig);
            assert_eq!(read_all(&beside.partition).len(), 1);
            append(&rig.partition, "second");
            let writer = rig.partition.clone();
            beside.vfs.hook(Hook::at(Operation::Any).nth(nth), move |_| {
                append(&writer, "third");
                for round in 0..rolls {
                    writer.roll().unwrap();
                    append(&writer, &format!("after roll {round}"));
                }
            });
            for _ in 0..2 {
                let read = read_from(&beside.partition, 0, 1 << 20).unwrap();
                assert!(read_all(&rig.partition).starts_with(&read), "{rolls} rolls at call {nth}: {read:?}");
            }
            beside.vfs.clear_hooks();
            assert_eq!(read_all(&beside.partition), read_all(&rig.partition), "{rolls} rolls at call {nth}");
        }
    }
}

#[test]
fn what_retention_removed_is_out_of_range_and_earliest_moves() {
    for reads_before in [false, true] {
        let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
        for number in 0..10 {
            append(&rig.partition, &format!("value {number}"));
            rig.partition.roll().unwrap();
        }
        let beside = Beside::new(&rig);
        if reads_before {
            assert_eq!(read_all(&beside.partition).len(), 10);
        }
        rig.partition.delete_records_before(offset(4)).unwrap();
        rig.store.tick(at(0)).unwrap();
        rig.store.tick(at(0)).unwrap();
        assert_eq!(earliest(&beside.partition), 4);
        let below = beside.partition.read(offset(2)).fetch().unwrap_err();
        assert!(matches!(below, LogError::OffsetOutOfRange { .. }), "{below}");
        assert_eq!(read_from(&beside.partition, 4, 1 << 20).unwrap(), read_all(&rig.partition));
        // All of it, and new ones behind.
        rig.partition.delete_records_before(offset(10)).unwrap();
        rig.store.tick(at(0)).unwrap();
        rig.store.tick(at(0)).unwrap();
        append(&rig.partition, "new");
        assert_eq!((earliest(&beside.partition), read_all(&beside.partition)), (10, read_all(&rig.partition)));
    }
}

#[test]
fn a_log_start_that_was_raised_inside_a_segment_is_followed_once_it_is_checkpointed() {
    let rig = Rig::new(&[]);
    append_values(&rig.partition, 0..10);
    let beside = Beside::new(&rig);
    rig.partition.delete_records_before(offset(4)).unwrap();
    rig.store.checkpoint().unwrap();
    assert_eq!(earliest(&beside.partition), 4);
    assert!(matches!(beside.partition.read(offset(3)).fetch(), Err(LogError::OffsetOutOfRange { .. })));
}

/// Reads everything; `None` when the follower says that it must look again.
fn try_read_all(partition: &Partition) -> Option<Vec<(i64, String)>> {
    match read_from(partition, partition.log_start_offset().value(), 200) {
        Ok(records) => Some(records),
        Err(error) => {
            assert!(error.kind() == ErrorKind::Changed, "{error}");
            None
        }
    }
}

#[test]
fn compaction_shows_the_old_records_or_the_new_ones_or_says_to_look_again_at_each_of_its_steps() {
    for reads_before in [false, true] {
        for nth in 1..80 {
            let rig = Rig::new(&[("cleanup.policy", "compact"), ("file.delete.delay.ms", "0")]);
            for number in 0..12 {
                let (key, value) = (format!("k{}", number % 3), format!("value {number}"));
                rig.partition.append(&[Record::keyed(&key, &value)]).unwrap();
                if number % 3 == 2 {
                    rig.partition.roll().unwrap();
                }
            }
            let beside = Beside::new(&rig);
            let old = read_all(&rig.partition);
            if reads_before {
                assert_eq!(read_all(&beside.partition), old);
            }
            let (follower, before) = (beside.partition.clone(), old.clone());
            let seen = Arc::new(std::sync::Mutex::new(None));
            let sink = Arc::clone(&seen);
            rig.vfs.hook(Hook::at(Operation::Mutation).nth(nth), move |_| {
                *sink.lock().unwrap() = try_read_all(&follower);
            });
            rig.partition.compact().unwrap();
            let new = read_all(&rig.partition);
            assert!(new.len() < before.len());
            if let Some(seen) = seen.lock().unwrap().take() {
                // One after the other, segments may turn from old to new; every latest value is there at any time.
                assert!(seen.iter().all(|record| old.contains(record)), "step {nth}: {seen:?}");
                assert!(new.iter().all(|record| seen.contains(record)), "step {nth}: {seen:?}");
                assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "step {nth}: {seen:?}");
            }
            rig.store.tick(at(100)).unwrap();
            rig.store.tick(at(100)).unwrap();
            assert_eq!(read_all(&beside.partition), read_all(&rig.partition), "step {nth}");
        }
    }
}

/// The log start and every record, as a follower sees them now; `None` when it says that it must look again.
fn try_look(partition: &Partition) -> Option<(i64, Vec<(i64, String)>)> {
    let looked = partition.find_offset(OffsetSpec::Earliest).and_then(|found| {
        let start = found.unwrap().offset.value();
        Ok((start, read_from(partition, start, 200)?))
    });
    match looked {
        Ok(seen) => Some(seen),
        Err(error) => {
            assert!(error.kind() == ErrorKind::Changed, "{error}");
            None
        }
    }
}

#[test]
fn a_cut_shows_the_old_log_or_the_new_one_or_says_to_look_again_at_each_of_its_steps() {
    type Cut = fn(&Rig);
    let cuts: [(&str, Cut); 6] = [
        ("inside a batch", |rig| rig.partition.truncate_to(offset(13)).unwrap()),
        ("inside a segment", |rig| rig.partition.truncate_to(offset(5)).unwrap()),
        ("between two segments", |rig| rig.partition.truncate_to(offset(6)).unwrap()),
        ("start over above", |rig| rig.partition.truncate_fully_and_start_at(offset(50)).unwrap()),
        ("start over at a segment", |rig| rig.partition.truncate_fully_and_start_at(offset(3)).unwrap()),
        ("retention", |rig| {
            rig.partition.delete_records_before(offset(9)).unwrap();
            assert_eq!(rig.store.tick(at(0)).unwrap().expired_segments, 3);
        }),
    ];
    for (what, cut) in cuts {
        let mut seen_new = 0;
        for (nth, reads_before) in (1..60).flat_map(|nth| [(nth, false), (nth, true)]) {
            let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
            for number in 0..12 {
                append(&rig.partition, &format!("value {number}"));
                if number % 3 == 2 {
                    rig.partition.roll().unwrap();
                }
            }
            rig.partition.append(&[Record::new("a pair"), Record::new("a pair")]).unwrap();
            let beside = Beside::new(&rig);
            let old = try_look(&rig.partition).unwrap();
            if reads_before {
                assert_eq!(try_look(&beside.partition).as_ref(), Some(&old));
            }
            let follower = beside.partition.clone();
            let seen = Arc::new(std::sync::Mutex::new(None));
            let sink = Arc::clone(&seen);
            rig.vfs.hook(Hook::at(Operation::Mutation).nth(nth), move |_| {
                *sink.lock().unwrap() = try_look(&follower);
            });
            cut(&rig);
            rig.vfs.clear_hooks();
            let new = try_look(&rig.partition).unwrap();
            if let Some(seen) = seen.lock().unwrap().take() {
                assert!(seen == old || seen == new, "{what}, step {nth}: {seen:?}");
                seen_new += usize::from(seen == new);
            }
            assert_eq!(try_look(&beside.partition), Some(new), "{what}, step {nth}");
            assert!(!rig.files().iter().any(|name| name.ends_with(".truncated")), "{what}");
        }
        assert!(seen_new > 0 || !what.contains("retention"), "{what}");
    }
}

#[test]
fn what_recovery_cuts_is_there_for_a_follower_or_is_not_at_each_of_its_steps() {
    for nth in 1..60 {
        let rig = Rig::new(&[]);
        for number in 0..12 {
            append(&rig.partition, &format!("value {number}"));
            if number % 3 == 2 {
                rig.partition.roll().unwrap();
            }
        }
        let beside = Beside::new(&rig);
        assert_eq!(latest(&beside.partition), 12);
        let log = rig.memory.open(&rig.partition.path().join("00000000000000000003.log"), OpenMode::Write).unwrap();
        log.write_at(b"damage", 70).unwrap();
        let follower = beside.partition.clone();
        let seen = Arc::new(std::sync::Mutex::new(None));
        let sink = Arc::clone(&seen);
        rig.vfs.hook(Hook::at(Operation::Mutation).nth(nth), move |_| {
            *sink.lock().unwrap() = Some(follower.find_offset(OffsetSpec::Latest));
        });
        let report = rig.partition.reopen().unwrap();
        rig.vfs.clear_hooks();
        assert_eq!(report.cuts.len(), 4, "{:?}", report.cuts);
        match seen.lock().unwrap().take() {
            Some(Ok(found)) => assert!([3, 12].contains(&found.unwrap().offset.value()), "step {nth}: {found:?}"),
            Some(Err(error)) => {
                assert!([ErrorKind::Changed, ErrorKind::Corrupt].contains(&error.kind()), "step {nth}: {error}");
            }
            None => {}
        }
        assert_eq!(latest(&beside.partition), 3, "step {nth}");
    }
}

#[test]
fn a_log_that_was_cut_and_went_on_with_other_records_is_read_anew() {
    type Cut = fn(&Partition);
    let cuts: [(&str, Cut); 4] = [
        ("inside the active segment", |partition| partition.truncate_to(offset(10)).unwrap()),
        ("inside a sealed segment", |partition| partition.truncate_to(offset(5)).unwrap()),
        ("between two segments", |partition| partition.truncate_to(offset(8)).unwrap()),
        ("all of it", |partition| partition.truncate_fully_and_start_at(offset(0)).unwrap()),
    ];
    let fill = |partition: &Partition, from: i64, value: &str| {
        for number in from..12 {
            append(partition, &format!("{value} {number:02}"));
            if number % 4 == 3 && number < 11 {
                partition.roll().unwrap();
            }
        }
    };
    for (what, cut) in cuts {
        for regrows in [false, true] {
            let rig = Rig::new(&[("index.interval.bytes", "0"), ("file.delete.delay.ms", "0")]);
            fill(&rig.partition, 0, "old");
            let beside = Beside::new(&rig);
            assert_eq!(read_all(&beside.partition).len(), 12);
            cut(&rig.partition);
            let end = rig.partition.log_end_offset();
            if regrows {
                fill(&rig.partition, end.value(), "new");
            }
            let expected = read_all(&rig.partition);
            assert_eq!(latest(&beside.partition), rig.partition.log_end_offset().value(), "{what}");
            assert_eq!(read_all(&beside.partition), expected, "{what}");
            for (from, count) in (0..).zip(0..expected.len()) {
                assert_eq!(read_from(&beside.partition, from, 1).unwrap(), expected[count..], "{what} {from}");
            }
        }
    }
}

#[test]
fn a_deleted_topic_closes_its_followers_also_when_another_has_its_name() {
    for (was_empty, creates) in [(false, false), (false, true), (true, true), (true, false)] {
        let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
        if !was_empty {
            append(&rig.partition, "old");
        }
        let beside = Beside::new(&rig);
        assert_eq!(read_all(&beside.partition).len(), usize::from(!was_empty));
        rig.store.delete_topic("t").unwrap();
        if creates {
            let partition = rig.store.create_topic("t", 1, config(&[])).unwrap().partition(0).unwrap();
            append(&partition, "new");
        }
        for _ in 0..2 {
            let read = beside.partition.read(offset(0)).fetch();
            assert!(matches!(read, Err(LogError::Closed { .. })), "{read:?}");
        }
    }
}

#[test]
fn a_disk_that_fails_is_an_error_and_not_the_end() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "first");
    let beside = Beside::new(&rig);
    assert_eq!(read_all(&beside.partition).len(), 1);
    append(&rig.partition, "second");
    rig.partition.roll().unwrap();
    append(&rig.partition, "third");
    for operation in [Operation::Read, Operation::Open, Operation::Metadata] {
        let fault = Fault::new(operation, Effect::Error(std::io::ErrorKind::Other));
        beside.vfs.inject(Fault { times: u64::MAX, ..fault });
        let error = beside.partition.read(offset(1)).fetch().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{operation:?}");
        assert_eq!(beside.partition.find_offset(OffsetSpec::Latest).unwrap_err().kind(), ErrorKind::Io);
        beside.vfs.clear_faults();
    }
    assert_eq!(read_all(&beside.partition), read_all(&rig.partition));
}

#[test]
fn a_half_written_batch_and_zeros_are_the_end_and_damage_before_other_batches_is_an_error() {
    let rig = Rig::new(&[]);
    append_values(&rig.partition, 0..4);
    let path = rig.partition.path().join("00000000000000000000.log");
    let file = rig.memory.open(&path, OpenMode::Write).unwrap();
    let (size, batch) = (file.size().unwrap(), file.size().unwrap() / 4);
    let put = |position: u64, bytes: &[u8]| file.write_at(bytes, position).unwrap();
    let mut last = vec![0; usize::try_from(batch).unwrap()];
    file.read_at(&mut last, size - batch).unwrap();
    let all = || read_from(&Beside::new(&rig).partition, 0, 1 << 20).map(|records| records.len());
    // Whatever is there of the last batch, in space that was reserved or not. Its last byte is a zero.
    for written in 0..batch - 1 {
        put(size - batch, &vec![0; last.len()]);
        put(size - batch, &last[..usize::try_from(written).unwrap()]);
        assert_eq!(all().unwrap(), 3, "{written} bytes");
        file.set_size(size - batch + written).unwrap();
        assert_eq!(all().unwrap(), 3, "cut after {written} bytes");
    }
    put(size - batch, &last);
    file.set_size(size + 1000).unwrap();
    assert_eq!(all().unwrap(), 4);
    put(2 * batch + 65, &[0xff]);
    let error = read_from(&Beside::new(&rig).partition, 2, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn records_below_damage_are_read_by_a_follower_that_met_it_later() {
    let rig = Rig::new(&[]);
    append_values(&rig.partition, 0..2);
    let beside = Beside::new(&rig);
    assert_eq!(read_all(&beside.partition).len(), 2);
    let path = rig.partition.path().join("00000000000000000000.log");
    let position = rig.memory.metadata(&path).unwrap().unwrap().size;
    append_values(&rig.partition, 2..4);
    rig.memory.open(&path, OpenMode::Write).unwrap().write_at(&[0xff], position + 65).unwrap();
    let batches = beside.partition.read(offset(0)).fetch().unwrap();
    assert_eq!(batches.records().count(), 2);
    assert_eq!(beside.partition.read(offset(2)).fetch().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_preallocated_log_is_followed_through_rolls() {
    let rig = Rig::new(&[("preallocate", "true"), ("segment.bytes", "4096")]);
    let beside = Beside::new(&rig);
    for number in 0..200 {
        append(&rig.partition, &format!("value {number}"));
        assert_eq!(latest(&beside.partition), number + 1);
    }
    assert_eq!(read_all(&beside.partition), read_all(&rig.partition));
}

#[test]
fn waiting_ends_when_the_read_only_store_is_closed() {
    let rig = Rig::new(&[]);
    let beside = Beside::new(&rig);
    let waiter = beside.partition.clone();
    let thread = std::thread::spawn(move || (waiter.wait_for(offset(0), Duration::from_secs(60)), Instant::now()));
    std::thread::sleep(Duration::from_millis(50));
    let closed = Instant::now();
    beside.store.clone().close().unwrap();
    let (found, ended) = thread.join().unwrap();
    assert!(!found && ended.saturating_duration_since(closed) < Duration::from_secs(10));
}

#[test]
fn a_waiting_follower_sees_the_next_record() {
    let rig = Rig::new(&[]);
    let beside = Beside::new(&rig);
    let waiter = beside.partition.clone();
    let thread = std::thread::spawn(move || waiter.wait_for(offset(0), Duration::from_secs(60)));
    append(&rig.partition, "it");
    assert!(thread.join().unwrap());
}

/// Counts the bytes that are read, and tells no file from another.
#[derive(Debug, Clone)]
struct CountingVfs {
    inner: MemoryVfs,
    read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct CountingFile {
    inner: Arc<dyn VfsFile>,
    read: Arc<AtomicU64>,
}

impl Vfs for CountingVfs {
    fn open(&self, path: &std::path::Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>, IoError> {
        assert_eq!(mode, OpenMode::Read, "a follower changes nothing");
        Ok(Arc::new(CountingFile { inner: self.inner.open(path, mode)?, read: Arc::clone(&self.read) }))
    }
    fn create_dir_all(&self, _: &std::path::Path) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn read_dir(&self, path: &std::path::Path) -> Result<Vec<DirEntry>, IoError> {
        self.inner.read_dir(path)
    }
    fn metadata(&self, path: &std::path::Path) -> Result<Option<Metadata>, IoError> {
        self.inner.metadata(path)
    }
    fn rename(&self, _: &std::path::Path, _: &std::path::Path) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn remove_file(&self, _: &std::path::Path) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn remove_dir(&self, _: &std::path::Path) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn sync_dir(&self, _: &std::path::Path) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn lock_dir(&self, _: &std::path::Path) -> Result<Box<dyn DirLock>, IoError> {
        unreachable!("a follower takes no lock")
    }
    fn boot_id(&self) -> Option<String> {
        self.inner.boot_id()
    }
}

impl VfsFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, IoError> {
        let read = self.inner.read_at(buffer, position)?;
        self.read.fetch_add(read as u64, Ordering::SeqCst);
        Ok(read)
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn size(&self) -> Result<u64, IoError> {
        self.inner.size()
    }
    fn identity(&self) -> Result<Option<u64>, IoError> {
        // As of a file system that gives each file the number of the one that was removed last.
        Ok(Some(1))
    }
    fn set_size(&self, _: u64) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn allocate(&self, _: u64) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn set_modified(&self, _: stratalog::Timestamp) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn sync_data(&self) -> Result<(), IoError> {
        unreachable!("a follower changes nothing")
    }
    fn map(&self, _: u64) -> Result<bytes::Bytes, IoError> {
        unreachable!("files of another process are never mapped")
    }
}

#[test]
fn a_fetch_at_the_tail_reads_no_more_of_a_large_log_than_of_a_small_one() {
    let rig = Rig::new(&[]);
    let value = "x".repeat(1000);
    append_at(&rig.partition, &value, 0);
    let read = Arc::new(AtomicU64::new(0));
    let store = open_beside(Arc::new(CountingVfs { inner: rig.memory.clone(), read: Arc::clone(&read) }), &rig);
    let follower = partition_of(&store);
    let append_many = |count: usize, time: i64| {
        for _ in 0..count {
            append_at(&rig.partition, &value, time);
        }
    };
    let mut next = 0;
    let mut cost_of_tail = || {
        next = append_at(&rig.partition, &value, next);
        let before = read.load(Ordering::SeqCst);
        let batches = follower.read(offset(next)).fetch().unwrap();
        assert_eq!(batches.records().count(), 1);
        read.load(Ordering::SeqCst) - before
    };
    let mut worst = Vec::new();
    for size in [10, 100, 3000, 10_000] {
        append_many(size, 1);
        cost_of_tail();
        worst.push((0..20).map(|_| cost_of_tail()).max().unwrap());
    }
    assert!(worst.iter().all(|worst| *worst < 30_000), "{worst:?}");
    // Catching up costs what was written, not more for each batch of it.
    let before = read.load(Ordering::SeqCst);
    append_many(1000, 2);
    assert_eq!(latest(&follower), rig.partition.log_end_offset().value());
    let caught_up = read.load(Ordering::SeqCst) - before;
    assert!(caught_up < 3_000_000, "{caught_up}");
    let found = follower.find_offset(OffsetSpec::Timestamp(at(2))).unwrap().unwrap();
    assert!(found.timestamp >= Some(at(2)));
}

#[test]
fn topics_and_partitions_that_are_created_later_are_seen_and_deleted_ones_are_gone() {
    let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
    let beside = Beside::new(&rig);
    let names = || beside.store.topics().iter().map(|topic| topic.name().to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["t"]);
    assert_eq!(beside.store.topic("later").unwrap_err().kind(), ErrorKind::NotFound);
    let later = rig.store.create_topic("later", 1, config(&[("retention.ms", "12345")])).unwrap();
    append(&later.partition(0).unwrap(), "value");
    let seen = beside.store.topic("later").unwrap();
    assert_eq!((seen.id(), seen.settings().retention_ms), (later.id(), Some(12345)));
    assert_eq!(read_all(&seen.partition(0).unwrap()).len(), 1);
    assert_eq!(names(), ["later", "t"]);

    rig.store.add_partitions("later", 3).unwrap();
    append(&later.partition(2).unwrap(), "in a new partition");
    let again = beside.store.topic("later").unwrap();
    assert_eq!(again.partitions().len(), 3);
    assert_eq!(read_all(&seen.partition(2).unwrap()).len(), 1, "older handles see them too");

    let follower = seen.partition(0).unwrap();
    rig.store.delete_topic("later").unwrap();
    assert_eq!(names(), ["t"]);
    assert_eq!(beside.store.topic("later").unwrap_err().kind(), ErrorKind::NotFound);
    assert!(matches!(follower.read(offset(0)).fetch(), Err(LogError::Closed { .. })));
    let anew = rig.store.create_topic("later", 1, config(&[])).unwrap();
    assert_eq!(beside.store.topic("later").unwrap().id(), anew.id());

    // Deleted and created anew between two looks.
    rig.store.delete_topic("later").unwrap();
    let last = rig.store.create_topic("later", 2, config(&[])).unwrap();
    let seen = beside.store.topic("later").unwrap();
    assert_eq!((seen.id(), seen.partitions().len()), (last.id(), 2));
}

#[test]
fn asking_a_read_only_store_for_a_topic_that_is_known_lists_nothing() {
    let rig = Rig::new(&[]);
    let beside = Beside::new(&rig);
    for number in 0..50 {
        rig.store.create_topic(&format!("topic-{number}"), 1, config(&[])).unwrap();
    }
    assert_eq!(beside.store.topics().len(), 51);
    let before = beside.vfs.calls();
    beside.store.topic("topic-7").unwrap();
    assert!(beside.vfs.calls() - before < 10);
}

#[test]
fn transactions_in_a_topic_that_is_created_later_are_still_open_to_its_follower() {
    use support::in_transaction;
    let rig = Rig::new(&[]);
    let beside = Beside::new(&rig);
    let later = rig.store.create_topic("later", 1, config(&[])).unwrap().partition(0).unwrap();
    append(&later, "a");
    let records = [Record::new("open")];
    later.append_from(in_transaction(1, 0, 0), &records, stratalog::Durability::Written).unwrap();
    let follower = beside.store.topic("later").unwrap().partition(0).unwrap();
    assert_eq!((follower.last_stable_offset(), follower.log_end_offset()), (offset(1), offset(2)));
}

#[test]
fn a_follower_of_a_busy_writer_reads_every_record_in_order_on_a_real_disk() {
    const RECORDS: i64 = 8000;
    for compacts in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let clock = stratalog::ManualClock::new(at(0));
        let options = |read_only| StoreOptions::new().clock(Arc::new(clock.clone())).read_only(read_only);
        let store = options(false).open(folder.path()).unwrap();
        let policy = if compacts { "compact" } else { "delete" };
        let entries = [
            ("cleanup.policy", policy),
            ("segment.bytes", "20000"),
            ("retention.bytes", "200000"),
            ("file.delete.delay.ms", "0"),
            ("min.cleanable.dirty.ratio", "0.01"),
        ];
        let partition = store.create_topic("t", 1, config(&entries)).unwrap().partition(0).unwrap();
        let beside = options(true).open(folder.path()).unwrap();
        let follower = partition_of(&beside);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..RECORDS {
                    let (key, value) = (format!("k{}", number % 700), format!("value {number}"));
                    partition.append(&[Record::keyed(&key, &value)]).unwrap();
                    if number % 500 == 499 {
                        let report = store.tick(at(number)).unwrap();
                        assert!(report.failures.is_empty(), "{:?}", report.failures);
                    }
                }
            });
            let mut next = offset(0);
            while next < offset(RECORDS) {
                let batches = match follower.read(next).max_bytes(3000).fetch() {
                    Ok(batches) => batches,
                    Err(LogError::OffsetOutOfRange { .. }) => {
                        next = offset(earliest(&follower)).max(next);
                        continue;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
                        continue;
                    }
                };
                let from = next;
                for batch in batches.iter().filter_map(Result::ok) {
                    for record in batch.records().map(Result::unwrap).filter(|record| record.offset() >= from) {
                        assert!(compacts || record.offset() == next, "{} after {next}", record.offset());
                        let expected = format!("value {}", record.offset());
                        assert_eq!(record.value(), Some(expected.as_bytes()));
                        next = record.offset().next();
                    }
                }
                if writer.is_finished() && batches.is_empty() && next < offset(RECORDS) {
                    assert!(follower.read(next).fetch().unwrap().next_offset() > next, "stuck at {next}");
                }
            }
            writer.join().unwrap();
        });
        assert_eq!(read_from(&follower, earliest(&follower), 1 << 20).unwrap(), read_all(&partition));
    }
}

#[test]
fn damage_in_a_sealed_segment_is_an_error_and_not_its_end() {
    // The length, the checksum; seen by a follower that knew the segment, or that did not.
    for (at_byte, byte) in [(8, 1), (11, 0xff), (8, 0xff), (70, 0xff)] {
        for knew in [false, true] {
            let rig = Rig::new(&[]);
            append_values(&rig.partition, 0..3);
            let beside = knew.then(|| Beside::new(&rig));
            if let Some(beside) = &beside {
                assert_eq!(read_all(&beside.partition).len(), 3);
            }
            rig.partition.roll().unwrap();
            append(&rig.partition, "behind");
            let path = rig.partition.path().join("00000000000000000000.log");
            let size = rig.memory.metadata(&path).unwrap().unwrap().size;
            let file = rig.memory.open(&path, OpenMode::Write).unwrap();
            file.write_at(&[byte], size / 3 + at_byte).unwrap();
            let beside = beside.unwrap_or_else(|| Beside::new(&rig));
            let read = |from: i64| {
                let batches = beside.partition.read(offset(from)).fetch().map_err(|error| error.kind())?;
                let records: Result<Vec<_>, _> = batches.records().collect();
                records.map(|records| records.len()).map_err(|error| error.kind())
            };
            assert_eq!(read(1), Err(ErrorKind::Corrupt), "{at_byte} {byte} {knew}");
            assert_eq!(read(3), Ok(1));
        }
    }
}

#[test]
fn a_follower_that_was_opened_before_a_cut_reads_the_log_as_it_is_afterwards() {
    for nth in 1..60 {
        let rig = Rig::new(&[]);
        append_values(&rig.partition, 10..14);
        rig.partition.roll().unwrap();
        append_values(&rig.partition, 14..18);
        let beside = Beside::new(&rig);
        let writer = rig.partition.clone();
        beside.vfs.hook(Hook::at(Operation::Any).nth(nth), move |_| {
            writer.truncate_to(offset(2)).unwrap();
            // As many bytes as before.
            append_values(&writer, 22..28);
            writer.roll().unwrap();
            append_values(&writer, 28..29);
        });
        beside.partition.read(offset(0)).fetch().ok();
        beside.vfs.clear_hooks();
        let found = (0..5).find_map(|_| try_read_all(&beside.partition));
        assert_eq!(found, Some(read_all(&rig.partition)), "cut at call {nth}");
    }
}

/// Two aborted transactions and two records that belong to none, in two segments.
fn with_aborted() -> Rig {
    let rig = Rig::new(&[("file.delete.delay.ms", "0")]);
    for sequence in 0..2 {
        append(&rig.partition, "plain");
        let aborted = [Record::new("aborted")];
        rig.partition.append_from(in_transaction(1, 0, sequence), &aborted, Durability::Written).unwrap();
        rig.partition.end_transaction(&marker(TransactionResult::Abort, 1, 0), Durability::Written).unwrap();
        if sequence == 0 {
            rig.partition.roll().unwrap();
        }
    }
    rig
}

#[test]
fn a_follower_gets_no_aborted_record_while_its_segment_is_removed() {
    let removals: [fn(&Rig); 4] = [
        |rig| {
            rig.partition.delete_records_before(offset(4)).unwrap();
            rig.store.tick(at(0)).unwrap();
        },
        |rig| rig.partition.truncate_to(offset(2)).unwrap(),
        |rig| rig.partition.truncate_fully_and_start_at(offset(0)).unwrap(),
        |rig| rig.store.delete_topic("t").unwrap(),
    ];
    for (number, remove) in removals.iter().enumerate() {
        for nth in 1..40 {
            for is_cold in [true, false] {
                let rig = with_aborted();
                let warm = Beside::new(&rig);
                assert_eq!(try_read_committed(&warm.partition).map(|values| values.len()), Some(2));
                let gate = rig.vfs.block(Hook::at(Operation::Any).nth(nth));
                std::thread::scope(|scope| {
                    let removing = scope.spawn(|| remove(&rig));
                    while !gate.is_reached() && !removing.is_finished() {
                        std::thread::yield_now();
                    }
                    let beside =
                        if is_cold { open_beside(Arc::new(rig.memory.clone()), &rig) } else { warm.store.clone() };
                    let partition = beside.topic("t").and_then(|topic| topic.partition(0)).ok();
                    let found = partition.and_then(|partition| try_read_committed(&partition)).unwrap_or_default();
                    gate.release();
                    let case = format!("removal {number}, at call {nth}, cold: {is_cold}");
                    assert!(found.iter().all(|value| value == "plain"), "{case}: {found:?}");
                });
            }
        }
    }
}

/// What a reader of committed records gets until an error.
fn try_read_committed(partition: &Partition) -> Option<Vec<String>> {
    let (mut next, mut values) = (partition.log_start_offset(), Vec::new());
    loop {
        let batches = partition.read(next).isolation(Isolation::ReadCommitted).fetch().ok()?;
        if batches.is_empty() {
            return Some(values);
        }
        for record in batches.records() {
            values.push(String::from_utf8(record.ok()?.value()?.to_vec()).unwrap());
        }
        next = batches.next_offset();
    }
}

#[test]
fn a_follower_that_has_read_nothing_yet_is_closed_with_its_topic() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "old");
    let beside = Beside::new(&rig);
    rig.store.delete_topic("t").unwrap();
    let again = rig.store.create_topic("t", 1, config(&[])).unwrap().partition(0).unwrap();
    append(&again, "new");
    let read = beside.partition.read(offset(0)).fetch();
    assert!(matches!(read, Err(LogError::Closed { .. })), "{read:?}");
}

#[test]
fn an_index_that_was_padded_beyond_all_memory_costs_a_follower_a_longer_walk() {
    let folder = tempfile::tempdir().unwrap();
    let store = stratalog::LogStore::open(folder.path()).unwrap();
    let topic = store.create_topic("t", 1, stratalog::TopicConfig::new()).unwrap();
    for value in ["0", "1"] {
        append(&topic.partition(0).unwrap(), value);
        topic.partition(0).unwrap().roll().unwrap();
    }
    store.flush().unwrap();
    for name in ["00000000000000000000.index", "00000000000000000000.timeindex"] {
        let file = std::fs::File::options().write(true).open(folder.path().join("t-0").join(name)).unwrap();
        file.set_len(1 << 43).unwrap();
    }
    let follower = stratalog::StoreOptions::new().read_only(true).open(folder.path()).unwrap();
    assert_eq!(read_all(&partition_of(&follower)), [(0, "0".to_owned()), (1, "1".to_owned())]);
}

#[test]
fn opening_read_only_moves_no_file_though_the_noted_log_start_lies_above_the_log() {
    let rig = Rig::new(&[]);
    append_values(&rig.partition, 0..5);
    let note = rig.memory.open("/log/log-start-offset-checkpoint".as_ref(), OpenMode::Truncate).unwrap();
    note.write_at(b"0\n1\nt 0 100\n", 0).unwrap();
    let before = rig.files();
    let beside = Beside::new(&rig);
    assert_eq!((beside.vfs.mutations(), rig.files()), (0, before));
    assert_eq!(read_from(&beside.partition, earliest(&beside.partition), 1 << 20).unwrap(), read_all(&rig.partition));
}

/// Where a log has its first record of each time, and its greatest.
fn times(partition: &Partition) -> Vec<Option<i64>> {
    let specs = (0..70).step_by(5).map(|time| OffsetSpec::Timestamp(at(time))).chain([OffsetSpec::MaxTimestamp]);
    specs.map(|spec| partition.find_offset(spec).unwrap().map(|found| found.offset.value())).collect()
}

#[test]
fn a_follower_finds_by_time_what_a_time_index_that_lags_behind_does_not_tell() {
    for interval in ["0", "100"] {
        for entries in 0..4 {
            let rig = Rig::new(&[("index.interval.bytes", interval)]);
            [0, 10, 20, 50, 30].into_iter().for_each(|time| _ = append_at(&rig.partition, "v", time));
            rig.store.flush().unwrap();
            let index = rig.partition.path().join(format!("{:020}.timeindex", 0));
            rig.memory.open(&index, OpenMode::Write).unwrap().set_size(12 * entries).unwrap();
            let (fresh, beside) = (Beside::new(&rig), Beside::new(&rig));
            assert_eq!(times(&beside.partition), times(&rig.partition), "interval {interval}, {entries} entries");
            for time in [40, 45, 60, 55] {
                append_at(&rig.partition, "v", time);
                assert_eq!(
                    times(&beside.partition),
                    times(&rig.partition),
                    "interval {interval}, {entries} entries, {time}"
                );
            }
            assert_eq!(
                times(&fresh.partition),
                times(&rig.partition),
                "interval {interval}, {entries}, first asked now"
            );
        }
    }
}

#[test]
fn a_follower_of_what_a_loss_of_power_left_finds_by_time() {
    for interval in ["0", "100"] {
        let rig = Rig::new(&[("index.interval.bytes", interval)]);
        for time in [0, 10, 20, 50, 30] {
            let record = [Record::new("v").timestamp(at(time))];
            rig.partition.append_with(&record, Durability::Durable).unwrap();
        }
        rig.store.checkpoint().unwrap();
        for seed in 0..100 {
            let store = open_beside(Arc::new(rig.memory.torn_crash_image(seed)), &rig);
            let partition = partition_of(&store);
            assert_eq!(times(&partition), times(&rig.partition), "interval {interval}, image {seed}");
        }
    }
}

#[test]
fn a_follower_sees_at_once_what_is_appended_behind_a_cut_inside_a_batch_that_it_has_not_seen() {
    let rig = Rig::new(&[]);
    append(&rig.partition, "first");
    let Beside { partition, .. } = &Beside::new(&rig);
    assert_eq!(read_all(partition).len(), 1);
    rig.partition.append(&["a", "b", "c"].map(Record::new)).unwrap();
    rig.partition.truncate_to(offset(3)).unwrap();
    append(&rig.partition, "next");
    assert_eq!(read_all(partition), [(0, "first".to_owned()), (3, "next".to_owned())]);
}

#[test]
fn a_follower_reads_the_notes_again_though_their_file_has_the_size_the_number_and_the_time_of_the_one_before() {
    let rig = Rig::new(&[]);
    let modified = |notes: &Path| rig.memory.metadata(notes).unwrap().unwrap().modified.unwrap();
    append(&rig.partition, "first");
    rig.store.checkpoint().unwrap();
    let notes = Path::new("/log/stratalog-unbroken");
    let (size, time) = (rig.memory.metadata(notes).unwrap().unwrap().size, modified(notes));
    let vfs = CountingVfs { inner: rig.memory.clone(), read: Arc::default() };
    let store = open_beside(Arc::new(vfs), &rig);
    let follower = partition_of(&store);
    assert_eq!(read_all(&follower).len(), 1);
    rig.partition.append(&["a", "b", "c"].map(Record::new)).unwrap();
    rig.partition.truncate_to(offset(3)).unwrap();
    append(&rig.partition, "next");
    rig.memory.open(notes, OpenMode::Write).unwrap().set_modified(time).unwrap();
    assert_eq!((rig.memory.metadata(notes).unwrap().unwrap().size, modified(notes)), (size, time));
    assert_eq!(read_all(&follower), [(0, "first".to_owned()), (3, "next".to_owned())]);
}

#[test]
fn a_follower_notices_that_a_log_was_written_anew_with_the_same_last_batch() {
    let rig = Rig::new(&[]);
    (0..3).for_each(|number| _ = append_at(&rig.partition, &format!("old {number}"), 0));
    let Beside { partition, .. } = &Beside::new(&rig);
    assert_eq!(read_all(partition).len(), 3);
    rig.partition.truncate_to(offset(1)).unwrap();
    append_at(&rig.partition, "new 1", 0);
    append_at(&rig.partition, "old 2", 0);
    assert_eq!(read_all(partition), read_all(&rig.partition));
}

#[test]
fn a_follower_whose_disk_failed_once_at_any_call_sees_everything_afterwards() {
    for size in [10, 50_000] {
        for nth in 1.. {
            let rig = Rig::new(&[]);
            append(&rig.partition, "first");
            let Beside { vfs, partition, .. } = &Beside::new(&rig);
            assert_eq!(read_all(partition).len(), 1);
            (0..4).for_each(|_| _ = append(&rig.partition, &"x".repeat(size)));
            vfs.inject(Fault::new(Operation::Any, Effect::OsError(5)).nth(nth));
            while partition.read(partition.log_end_offset()).fetch().is_ok_and(|batches| !batches.is_empty()) {}
            let has_struck = vfs.faults_struck() > 0;
            vfs.clear_faults();
            if !has_struck {
                break;
            }
            assert_eq!(read_all(partition).len(), 5, "call {nth}");
            append(&rig.partition, "later");
            assert_eq!(latest(partition), 6, "call {nth}");
            assert_eq!(read_all(partition), read_all(&rig.partition), "call {nth}");
        }
    }
}

#[test]
fn a_follower_sees_what_was_appended_while_it_found_the_folder_changed() {
    for nth in 1.. {
        let rig = Rig::new(&[("retention.ms", "1000"), ("file.delete.delay.ms", "0")]);
        append_at(&rig.partition, "old", 0);
        rig.partition.roll().unwrap();
        append_at(&rig.partition, "young", 100_000);
        rig.store.checkpoint().unwrap();
        let Beside { vfs, partition, .. } = &Beside::new(&rig);
        let (writer, clock, store) = (rig.partition.clone(), rig.clock.clone(), rig.store.clone());
        vfs.hook(Hook::at(Operation::Any).nth(nth), move |_| {
            clock.set(at(100_001));
            append_at(&writer, "new", 100_001);
            store.tick(at(100_001)).unwrap();
        });
        partition.find_offset(OffsetSpec::Latest).ok();
        if rig.partition.log_end_offset() < offset(3) {
            break;
        }
        assert_eq!(latest(partition), 3, "call {nth}");
        append_at(&rig.partition, "newer", 100_002);
        assert_eq!(latest(partition), 4, "call {nth}");
        assert_eq!(read_from(partition, 1, 1 << 20).unwrap(), read_all(&rig.partition), "call {nth}");
    }
}

#[test]
fn a_follower_sees_at_once_what_follows_a_cut_inside_a_batch_of_a_segment_that_it_has_not_seen() {
    let rig = Rig::new(&[]);
    append_values(&rig.partition, 0..1);
    let beside = Beside::new(&rig);
    assert_eq!(read_all(&beside.partition).len(), 1);
    rig.partition.roll().unwrap();
    append(&rig.partition, "1");
    rig.partition.append(&[Record::new("2"), Record::new("3")]).unwrap();
    rig.partition.truncate_to(offset(3)).unwrap();
    (3..5).for_each(|number| assert_eq!(append(&rig.partition, "behind the gap"), number));
    // The segment at 1 ends at 2, and the next one begins at 3.
    assert_eq!(latest(&beside.partition), 5);
    assert_eq!(read_from(&beside.partition, 4, 1).unwrap(), [(4, "behind the gap".to_owned())]);
    assert!(beside.partition.wait_for(offset(4), Duration::from_millis(1)));
}

#[test]
fn a_follower_of_a_folder_whose_writer_was_killed_under_a_mark_of_the_log_start_begins_there() {
    for changes in 0.. {
        let rig = Rig::new(&[("segment.bytes", "200"), ("file.delete.delay.ms", "0")]);
        append_values(&rig.partition, 0..12);
        rig.store.flush().unwrap();
        rig.partition.delete_records_before(offset(7)).unwrap();
        rig.vfs.crash_after(changes);
        rig.store.tick(at(0)).ok();
        let has_ended = !rig.vfs.is_crashed();
        let store = open_beside(Arc::new(rig.memory.process_crash_image()), &rig);
        let follower = partition_of(&store);
        assert_eq!(read_from(&follower, follower.log_start_offset().value(), 1 << 20).unwrap().last().unwrap().0, 11);
        if has_ended {
            return;
        }
    }
}

/// What a follower asks.
type Look = fn(&Partition) -> Result<Option<i64>, LogError>;

#[test]
fn a_log_that_is_rolled_and_cut_while_a_follower_looks_is_not_taken_for_a_damaged_one() {
    let looks: [Look; 3] = [
        |follower| follower.read(offset(2)).fetch().map(|_| None),
        |follower| follower.find_offset(OffsetSpec::MaxTimestamp).map(|_| None),
        |follower| follower.find_offset(OffsetSpec::Timestamp(at(5))).map(|_| None),
    ];
    for look in looks {
        for (roll_at, cut_after) in (1..12).flat_map(|roll_at| (1..70).map(move |cut_after| (roll_at, cut_after))) {
            let rig = Rig::new(&[]);
            (0..3).for_each(|time| _ = append_at(&rig.partition, "v", time));
            let beside = Beside::new(&rig);
            let writer = rig.partition.clone();
            beside.vfs.hook(Hook::at(Operation::Any).nth(roll_at), move |_| {
                writer.roll().unwrap();
                (10..12).for_each(|time| _ = append_at(&writer, "rolled", time));
            });
            let writer = rig.partition.clone();
            beside.vfs.hook(Hook::at(Operation::Any).nth(roll_at + cut_after), move |_| {
                writer.truncate_to(offset(1)).unwrap();
            });
            let looked = look(&beside.partition);
            let is_damage = looked.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt);
            assert!(!is_damage, "call {roll_at}, then {cut_after} later: {looked:?}");
            beside.vfs.clear_hooks();
        }
    }
}

#[test]
fn a_followers_lookup_by_time_beside_a_cut_answers_for_the_old_log_or_the_new_one() {
    let looks: [(Look, Option<i64>, i64); 2] = [
        (|follower| found_by(follower, OffsetSpec::Timestamp(at(50))), None, 0),
        (|follower| found_by(follower, OffsetSpec::MaxTimestamp), Some(1), 0),
    ];
    for (look, of_old, of_new) in looks {
        for (is_warm, nth) in (1..40).flat_map(|nth| [(false, nth), (true, nth)]) {
            let rig = Rig::new(&[]);
            for (value, time) in [("old 0", 10), ("old 1", 20), ("old 2", 20)] {
                append_at(&rig.partition, value, time);
                rig.partition.roll().unwrap();
            }
            let beside = Beside::new(&rig);
            if is_warm {
                read_all(&beside.partition);
            }
            let writer = rig.partition.clone();
            beside.vfs.hook(Hook::at(Operation::Any).nth(nth), move |_| {
                writer.truncate_to(offset(0)).unwrap();
                for value in ["new 0", "new 1", "new 2"] {
                    append_at(&writer, value, 100);
                    writer.roll().unwrap();
                }
            });
            match look(&beside.partition) {
                Err(LogError::Changed { .. }) => {}
                found => {
                    let found = found.unwrap();
                    assert!(found == of_old || found == Some(of_new), "call {nth}, warm {is_warm}: {found:?}");
                }
            }
            beside.vfs.clear_hooks();
        }
    }
}

fn found_by(follower: &Partition, spec: OffsetSpec) -> Result<Option<i64>, LogError> {
    Ok(follower.find_offset(spec)?.map(|found| found.offset.value()))
}

#[test]
fn a_rotten_length_below_the_known_end_is_an_error_to_a_follower_and_not_the_end() {
    for bit in 0..32_u64 {
        let rig = Rig::new(&[("index.interval.bytes", "0")]);
        append_values(&rig.partition, 0..9);
        let path = rig.partition.path().join("00000000000000000000.log");
        let size = rig.partition.size() / 9;
        let Rig { memory, clock, store, .. } = rig;
        store.close().unwrap();
        let file = memory.open(&path, OpenMode::Write).unwrap();
        let place = 4 * size + 8 + bit / 8;
        let mut byte = [0];
        file.read_at(&mut byte, place).unwrap();
        file.write_at(&[byte[0] ^ 1 << (bit % 8)], place).unwrap();
        let options = StoreOptions::new().vfs(Arc::new(memory)).clock(Arc::new(clock)).read_only(true);
        let store = options.open("/log").unwrap();
        let follower = partition_of(&store);
        let batches = follower.read(offset(4)).fetch().map_err(|error| error.kind());
        let read: Result<Vec<_>, _> =
            batches.and_then(|batches| batches.records().map(|record| record.map_err(|error| error.kind())).collect());
        assert_eq!(read.map(|records| records.len()), Err(ErrorKind::Corrupt), "bit {bit}");
    }
}

#[test]
fn a_follower_takes_no_producers_from_a_torn_segment_below_the_log_start() {
    let rig = Rig::new(&[("segment.bytes", "200")]);
    rig.partition.append_from(in_transaction(7, 0, 0), &[Record::new("open")], Durability::Written).unwrap();
    append_values(&rig.partition, 1..8);
    rig.partition.delete_records_before(offset(4)).unwrap();
    rig.store.flush().unwrap();
    let image = rig.memory.process_crash_image();
    for name in rig.files().into_iter().filter(|name| name.ends_with(".snapshot")) {
        image.remove_file(&Path::new("/log/t-0").join(name)).unwrap();
    }
    let log = image.open(Path::new("/log/t-0/00000000000000000000.log"), OpenMode::Write).unwrap();
    log.write_at(&[0xff], 65).unwrap();

    let left = open_beside(Arc::new(image.process_crash_image()), &rig);
    let writer = open(Arc::new(image.clone()), &rig.clock);
    let beside = open_beside(Arc::new(image.clone()), &rig);
    let [left, own, beside] = [&left, &writer, &beside].map(|store| read_committed(&partition_of(store), 1 << 20));
    assert_eq!(own.first().map(|(at, _)| *at), Some(4));
    assert_eq!(left, own, "a follower of what is left");
    assert_eq!(beside, own, "a follower beside the writer");
}

#[test]
fn a_follower_that_was_opened_in_the_middle_of_a_cut_knows_what_is_open_once_the_cut_is_over() {
    for changes in 0.. {
        let rig = Rig::new(&[("segment.bytes", "400")]);
        append_values(&rig.partition, 0..2);
        let records = ["a", "b", "c", "d"].map(Record::new);
        rig.partition.append_from(in_transaction(7, 0, 0), &records, Durability::Written).unwrap();
        append_values(&rig.partition, 6..9);
        rig.vfs.crash_after(changes);
        rig.partition.truncate_to(offset(3)).ok();
        let has_ended = !rig.vfs.is_crashed();
        let image = rig.memory.process_crash_image();
        let beside = open_beside(Arc::new(image.clone()), &rig);
        let writer = open(Arc::new(image), &rig.clock);
        let [own, seen] = [&writer, &beside].map(partition_of);
        assert_eq!(read_committed(&seen, 1 << 20), read_committed(&own, 1 << 20), "change {changes}");
        assert_eq!(read_all(&seen), read_all(&own), "change {changes}");
        if has_ended {
            return;
        }
    }
}

#[test]
fn a_cut_that_was_interrupted_is_no_damage_to_a_follower_while_recovery_undoes_it() {
    for changes in 0.. {
        let rig = Rig::new(&[]);
        rig.partition.append(&["a", "b", "c"].map(Record::new)).unwrap();
        rig.vfs.crash_after(changes);
        rig.partition.truncate_to(offset(1)).ok();
        let has_ended = !rig.vfs.is_crashed();
        for again in 0.. {
            let memory = rig.memory.process_crash_image();
            let vfs = FaultyVfs::new(memory.clone());
            vfs.crash_after(again);
            StoreOptions::new().vfs(Arc::new(vfs.clone())).clock(Arc::new(rig.clock.clone())).open("/log").ok();
            let store = open_beside(Arc::new(memory), &rig);
            match partition_of(&store).read(offset(0)).fetch() {
                Ok(_) | Err(LogError::Changed { .. }) => {}
                Err(error) => panic!("changes {changes} and {again}: {error}"),
            }
            if !vfs.is_crashed() {
                break;
            }
        }
        if has_ended {
            return;
        }
    }
}

#[test]
fn a_follower_finds_by_time_in_a_compacted_segment_that_has_the_size_of_the_one_before() {
    let rig = Rig::new(&[("cleanup.policy", "compact"), ("segment.bytes", "1000"), ("min.cleanable.dirty.ratio", "0")]);
    let put = |key: &str, value: &str, millis: i64| {
        rig.partition.append(&[Record::keyed(key, value).timestamp(at(millis))]).unwrap();
    };
    let Beside { partition, .. } = &Beside::new(&rig);
    let since_3000 = || found_by(partition, OffsetSpec::Timestamp(at(3000))).unwrap();
    put("x", "v", 1000);
    put("x", "v", 1000);
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!(since_3000(), None);
    let size = rig.partition.segments()[0].size();
    put("y", "v", 5000);
    rig.partition.roll().unwrap();
    // Too large to be merged with the segments before it.
    let large = "z".repeat(900);
    let records = [Record::keyed("x", "v"), Record::keyed("z", &large)].map(|record| record.timestamp(at(1000)));
    rig.partition.append(&records).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.compact().unwrap();
    assert_eq!((rig.partition.segments()[0].size(), bases(&rig.partition)[0]), (size, 0));
    assert_eq!(since_3000(), Some(2));
}
