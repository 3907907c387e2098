//! Swaps of segments: what they leave on disk, what readers see, and what remains when the disk or the machine fails.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::clock::ManualClock;
use crate::config::{TopicConfig, TopicSettings};
use crate::format::file_name::FileKind;
use crate::format::{AbortedTransaction, ProducerSnapshot, Record};
use crate::name::{PartitionId, TopicName, TopicPartition};
use crate::partition::{LogError, NoteLine, Notes, OpenParams};
use crate::segment::{BatchFacts, CleanedSegment};
use crate::types::{ProducerId, Timestamp};
use crate::vfs::{Effect, Fault, FaultyVfs, IoError, MemoryVfs, Operation, Vfs};

const DIR: &str = "/log/t-0";

/// Seeds of crash images; 0 keeps only what was synced.
const SEEDS: u64 = 8;

/// Replacements of the segments 0 to 30: the base of each and the offsets that it keeps.
type Plan = &'static [(i64, &'static [i64])];

/// One that ends before the last segment begins, one that keeps the end, two, three of other bases, and nothing at all.
const PLANS: [Plan; 5] = [
    &[(0, &[0, 4, 12])],
    &[(0, &[3, 17, 29])],
    &[(0, &[0, 4]), (20, &[22, 25])],
    &[(0, &[]), (15, &[15, 16, 17]), (23, &[23])],
    &[(0, &[])],
];

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

fn settings() -> TopicSettings {
    let entries = [("index.interval.bytes", "0"), ("file.delete.delay.ms", "60000")];
    TopicConfig::from_map(entries).unwrap().resolve(&TopicConfig::new()).unwrap()
}

fn params(vfs: Arc<dyn Vfs>) -> OpenParams {
    OpenParams {
        vfs,
        clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000).unwrap())),
        counters: Arc::default(),
        dir: DIR.into(),
        id: TopicPartition::new(TopicName::parse("t").unwrap(), PartitionId::ZERO),
        settings: Arc::new(settings()),
        log_start_offset: None,
        recovery_point: None,
        clean: true,
        verified: None,
        read_only: false,
        residency: Arc::default(),
        first_dirty_offset: None,
        producer_expiration_ms: 86_400_000,
        unbroken: None,
        notes: Arc::new(NoNotes),
    }
}

/// Nothing of what is noted outside of the folder.
#[derive(Debug)]
struct NoNotes;

impl Notes for NoNotes {
    fn renew(&self, _: &TopicPartition, _: &dyn Fn() -> NoteLine) -> Result<(), IoError> {
        Ok(())
    }

    fn renew_unless_busy(&self, _: &TopicPartition, _: &dyn Fn() -> NoteLine) -> Result<(), IoError> {
        Ok(())
    }

    fn forget_verified(&self) {}
}

fn open(vfs: Arc<dyn Vfs>) -> Partition {
    Partition::open(params(vfs)).unwrap().0
}

struct Rig {
    memory: MemoryVfs,
    vfs: FaultyVfs,
    partition: Partition,
}

/// Three sealed segments of ten batches, each with an aborted transaction and a snapshot, and an active one of two batches.
fn rig() -> Rig {
    let memory = MemoryVfs::new();
    memory.create_dir_all(Path::new(DIR)).unwrap();
    memory.sync_dir(Path::new("/")).unwrap();
    memory.sync_dir(Path::new("/log")).unwrap();
    let vfs = FaultyVfs::new(memory.clone());
    let partition = open(Arc::new(vfs.clone()));
    for at in 0..32 {
        partition.append(&[Record::new(format!("value {at}").as_bytes())]).unwrap();
        if at % 10 == 9 {
            partition.inner.list().active().add_aborted(aborted(at - 5)).unwrap();
            partition.roll().unwrap();
        }
    }
    for base in [0, 10, 20, 30] {
        let file = memory.open(&path(FileName::snapshot(offset(base))), OpenMode::Truncate).unwrap();
        file.write_at(&ProducerSnapshot { entries: Vec::new() }.encode(), 0).unwrap();
        file.sync_data().unwrap();
    }
    partition.flush().unwrap();
    partition.persist_state().unwrap();
    partition.inner.list().active().sync_all().unwrap();
    memory.sync_dir(Path::new(DIR)).unwrap();
    Rig { memory, vfs, partition }
}

impl Rig {
    fn sources(&self) -> Vec<Arc<Segment>> {
        self.partition.inner.list().sealed().to_vec()
    }

    fn replacements(&self, plan: Plan) -> Vec<Segment> {
        let batches: Vec<_> = self.sources().iter().flat_map(|segment| batches(segment)).collect();
        plan.iter()
            .map(|(base, kept)| {
                let options = self.partition.inner.segment_options();
                let vfs = Arc::new(self.vfs.clone());
                let mut cleaned = CleanedSegment::create(vfs, Path::new(DIR), offset(*base), options).unwrap();
                for (at, bytes, facts) in &batches {
                    if kept.contains(at) {
                        cleaned.append(bytes, *facts).unwrap();
                    }
                }
                if let Some(last) = kept.last() {
                    cleaned.add_aborted(aborted(*last)).unwrap();
                }
                cleaned.finish(Some(Timestamp::from_millis(77_000).unwrap())).unwrap()
            })
            .collect()
    }

    fn replace(&self, plan: Plan) -> Result<bool, LogError> {
        self.partition.replace(self.partition.generation(), &self.sources(), self.replacements(plan))
    }
}

fn aborted(marker: i64) -> AbortedTransaction {
    AbortedTransaction {
        producer_id: ProducerId::ZERO,
        first_offset: Offset::ZERO,
        last_offset: offset(marker),
        last_stable_offset: offset(marker + 1),
    }
}

fn batches(segment: &Segment) -> Vec<(i64, Vec<u8>, BatchFacts)> {
    let batch = |found: Result<(_, crate::format::RecordBatch), _>| {
        let (_, batch) = found.unwrap();
        (batch.last_offset().value(), batch.bytes().to_vec(), BatchFacts::from(batch.header()))
    };
    segment.batches().map(batch).collect()
}

fn path(name: FileName) -> PathBuf {
    Path::new(DIR).join(name.to_string())
}

fn names(vfs: &dyn Vfs) -> Vec<FileName> {
    vfs.read_dir(Path::new(DIR)).unwrap().iter().map(|entry| FileName::parse(&entry.name).unwrap()).collect()
}

/// The bases of the segments, with the offsets and the markers in each.
type Content = Vec<(i64, Vec<i64>, Vec<i64>)>;

fn content(partition: &Partition) -> Content {
    let of = |segment: &Arc<Segment>| {
        let offsets = batches(segment).into_iter().map(|(at, ..)| at).collect();
        let markers = segment.aborted().unwrap().iter().map(|entry| entry.last_offset.value()).collect();
        (segment.base_offset().value(), offsets, markers)
    };
    partition.segments().iter().map(of).collect()
}

fn originals() -> Content {
    let sealed = [0, 10, 20].map(|base| (base, (base..base + 10).collect(), vec![base + 4]));
    sealed.into_iter().chain([(30, vec![30, 31], vec![])]).collect()
}

fn replaced(plan: Plan) -> Content {
    let sealed = plan.iter().map(|(base, kept)| (*base, kept.to_vec(), kept.last().copied().into_iter().collect()));
    sealed.chain([(30, vec![30, 31], vec![])]).collect()
}

fn survivors(vfs: &dyn Vfs, suffixes: &[Suffix]) -> Vec<String> {
    let is_left = |name: &FileName| suffixes.contains(&name.suffix()) || name.kind() == FileKind::Replaced;
    names(vfs).into_iter().filter(is_left).map(|name| name.to_string()).collect()
}

/// Opens what is left and sees that it is one or the other.
fn check(image: &MemoryVfs, plan: Plan, when: &str) -> Content {
    let partition = open(Arc::new(image.clone()));
    let found = content(&partition);
    assert!(found == originals() || found == replaced(plan), "{when}: {found:?}");
    let left = survivors(image, &[Suffix::Cleaned, Suffix::Swap, Suffix::Deleted]);
    assert!(left.is_empty(), "{when}: {left:?}");
    let names = names(image);
    // What is left of a segment may lack the markers that its snapshot relies on.
    let kept: &[_] = if found == originals() { &[10, 20, 30] } else { &[30] };
    for base in [10, 20, 30] {
        let is_there = names.contains(&FileName::snapshot(offset(base)));
        assert_eq!(is_there, kept.contains(&base), "{when}: the snapshot of {base}");
    }
    for kind in [FileName::offset_index, FileName::time_index] {
        assert!(found.iter().all(|(base, ..)| names.contains(&kind(offset(*base)))), "{when}: an index is gone");
    }
    assert_eq!(partition.log_end_offset(), offset(32), "{when}");
    found
}

#[test]
fn a_crash_at_any_moment_leaves_all_originals_or_all_replacements() {
    for (number, plan) in PLANS.into_iter().enumerate() {
        let mut outcomes = [0, 0];
        for crash_at in 0.. {
            let rig = rig();
            let (sources, replacements) = (rig.sources(), rig.replacements(plan));
            rig.vfs.crash_after(crash_at);
            let done = rig.partition.replace(rig.partition.generation(), &sources, replacements);
            let images = (0..SEEDS).map(|seed| rig.vfs.crash_image(seed).unwrap());
            for (seed, image) in images.chain([rig.memory.process_crash_image()]).enumerate() {
                let when = format!("plan {number}, end at {crash_at}, image {seed}");
                let found = check(&image, plan, &when);
                outcomes[usize::from(found == replaced(plan))] += 1;
                assert!(done.is_err() || found == replaced(plan), "{when}: the swap was called done");
                assert_eq!(check(&image.crash_image(), plan, &when), found, "{when}, opened again");
            }
            if done.is_ok() {
                break;
            }
        }
        assert!(outcomes.into_iter().all(|count| count > 0), "both ends were seen: {outcomes:?}");
    }
}

#[test]
fn a_crash_while_a_swap_is_finished_changes_nothing() {
    let plan = PLANS[2];
    for swap_crash in 0.. {
        let rig = rig();
        let (sources, replacements) = (rig.sources(), rig.replacements(plan));
        rig.vfs.crash_after(swap_crash);
        if rig.partition.replace(rig.partition.generation(), &sources, replacements).is_ok() {
            break;
        }
        let expected = check(&rig.vfs.crash_image(0).unwrap(), plan, "the first opening");
        for crash_at in 0..40 {
            let image = FaultyVfs::new(rig.vfs.crash_image(0).unwrap());
            image.crash_after(crash_at);
            drop(Partition::open(params(Arc::new(image.clone()))));
            for seed in 0..4 {
                let when = format!("swap ended at {swap_crash}, opening at {crash_at}, image {seed}");
                assert_eq!(check(&image.crash_image(seed).unwrap(), plan, &when), expected, "{when}");
            }
            if !image.is_crashed() {
                break;
            }
        }
    }
}

#[test]
fn a_failing_disk_takes_the_partition_offline_and_reopening_brings_back_one_or_the_other() {
    for plan in PLANS {
        for operation in [Operation::Rename, Operation::SyncDir, Operation::Remove] {
            for after in 0.. {
                let rig = rig();
                let (sources, replacements) = (rig.sources(), rig.replacements(plan));
                rig.vfs.inject(Fault { after, ..Fault::new(operation, Effect::Error(std::io::ErrorKind::Other)) });
                let result = rig.partition.replace(rig.partition.generation(), &sources, replacements);
                rig.vfs.clear_faults();
                let when = format!("{operation:?} {after}");
                if result.is_ok() {
                    assert_eq!(content(&rig.partition), replaced(plan), "{when}");
                    break;
                }
                assert!(matches!(rig.partition.inner.check_online(), Err(LogError::Offline { .. })), "{when}");
                rig.partition.reopen().unwrap();
                let found: Vec<_> =
                    content(&rig.partition).into_iter().map(|(base, offsets, _)| (base, offsets)).collect();
                let without_markers = |content: Content| {
                    content.into_iter().map(|(base, offsets, _)| (base, offsets)).collect::<Vec<_>>()
                };
                let expected = [originals(), replaced(plan)].map(without_markers);
                assert!(expected.contains(&found), "{when}: {found:?}");
                assert_eq!(survivors(&rig.memory, &[Suffix::Cleaned, Suffix::Swap]), [""; 0], "{when}");
                let held: Vec<_> = sources.iter().flat_map(|segment| batches(segment)).collect();
                assert_eq!(held.len(), 30, "{when}: who holds the old segments reads on");
                rig.partition.append(&[Record::new(b"after")]).unwrap();
            }
        }
    }
}

#[test]
fn readers_keep_the_old_segments_and_new_ones_see_the_replacements() {
    let rig = rig();
    let sources = rig.sources();
    assert!(rig.replace(PLANS[0]).unwrap());
    assert_eq!(content(&rig.partition), replaced(PLANS[0]));
    assert_eq!(rig.partition.segments()[0].modified().unwrap(), Timestamp::from_millis(77_000));
    assert!(
        rig.partition.replace(rig.partition.generation(), &rig.sources(), rig.replacements(&[(0, &[12])])).unwrap()
    );
    rig.partition.flush().unwrap();
    let later = Timestamp::MAX;
    assert!(rig.partition.remove_expired_files(later).unwrap() > 0);
    assert_eq!(survivors(&rig.memory, &[Suffix::Cleaned, Suffix::Swap, Suffix::Deleted]), [""; 0]);
    for (segment, base) in sources.iter().zip([0, 10, 20]) {
        let found: Vec<_> = batches(segment).into_iter().map(|(at, ..)| at).collect();
        assert_eq!(found, (base..base + 10).collect::<Vec<_>>());
        assert_eq!(segment.aborted().unwrap().len(), 1);
        assert!(segment.find(offset(base + 7)).unwrap().is_some());
    }
    assert_eq!(content(&rig.partition)[0], (0, vec![12], vec![12]));
}

#[test]
fn snapshots_go_with_the_segments_that_are_replaced() {
    let rig = rig();
    assert!(rig.replace(PLANS[2]).unwrap());
    let is_of_a_base = |name: &FileName| name.kind() == FileKind::Snapshot && name.offset() <= Some(offset(30));
    let snapshots: Vec<_> = names(&rig.memory).into_iter().filter(is_of_a_base).map(|name| name.to_string()).collect();
    let expected = ["00.snapshot.deleted", "10.snapshot.deleted", "20.snapshot.deleted", "30.snapshot"];
    assert_eq!(snapshots, expected.map(|name| format!("{}{name}", "0".repeat(18))));
}

#[test]
fn the_next_flush_does_not_miss_sources_that_were_never_synced() {
    let rig = rig();
    rig.partition.append(&[Record::new(b"unsynced")]).unwrap();
    rig.partition.roll().unwrap();
    rig.partition.append(&[Record::new(b"unsynced")]).unwrap();
    assert_eq!(rig.sources().len(), 4);
    assert!(rig.replace(&[(0, &[30, 32])]).unwrap());
    assert!(rig.partition.remove_expired_files(Timestamp::MAX).unwrap() > 0);
    rig.partition.flush().unwrap();
    let found = content(&open(Arc::new(rig.memory.crash_image())));
    assert_eq!(found, [(0, vec![30, 32], vec![32]), (33, vec![33], vec![])]);
}

#[test]
fn sources_that_retention_removed_are_not_missed_and_deleted_only_once() {
    let rig = rig();
    let (sources, replacements) = (rig.sources(), rig.replacements(PLANS[2]));
    rig.partition.delete_expired(|_, _, _| 2).unwrap();
    assert!(rig.partition.replace(rig.partition.generation(), &sources, replacements).unwrap());
    let trash: Vec<_> = rig.partition.inner.trash.lock().iter().flat_map(|entry| entry.files.clone()).collect();
    let unique: BTreeSet<_> = trash.iter().collect();
    assert_eq!(trash.len(), unique.len());
    assert_eq!(content(&rig.partition), replaced(&[(20, &[22, 25])]), "the other replacement's records are deleted");
    assert_eq!(survivors(&rig.memory, &[Suffix::Cleaned, Suffix::Swap]), [""; 0]);
    assert_eq!(rig.partition.log_start_offset(), offset(20));
}

#[test]
fn a_log_that_was_cut_or_deleted_meanwhile_is_left_as_it_is() {
    let changes: [fn(&Partition); 5] = [
        |partition| assert!(partition.delete_expired(|_, _, _| 3).unwrap().bytes > 0),
        |partition| partition.truncate_to(offset(25)).unwrap(),
        |partition| partition.truncate_to(offset(5)).unwrap(),
        |partition| partition.truncate_fully_and_start_at(offset(40)).unwrap(),
        |partition| drop(partition.reopen().unwrap()),
    ];
    for change in changes {
        let rig = rig();
        let (sources, replacements) = (rig.sources(), rig.replacements(PLANS[2]));
        change(&rig.partition);
        let before = content(&rig.partition);
        assert!(!rig.partition.replace(rig.partition.generation(), &sources, replacements).unwrap());
        assert_eq!(content(&rig.partition), before);
        assert_eq!(survivors(&rig.memory, &[Suffix::Cleaned, Suffix::Swap]), [""; 0]);
    }
}

#[test]
fn a_source_that_became_the_active_segment_and_grew_is_not_replaced() {
    let rig = rig();
    assert!(rig.replace(PLANS[2]).unwrap());
    let (sources, replacements) = (rig.sources(), rig.replacements(PLANS[0]));
    // Nothing of the last source is cut: it ends before.
    rig.partition.truncate_to(offset(26)).unwrap();
    rig.partition.append(&[Record::new(b"not in the replacement")]).unwrap();
    rig.partition.roll().unwrap();
    assert!(!rig.partition.replace(rig.partition.generation(), &sources, replacements).unwrap());
    assert_eq!(content(&rig.partition)[1], (20, vec![22, 25, 26], vec![25]));
}

#[test]
fn what_an_earlier_cleaning_left_does_not_undo_a_swap() {
    for crash_at in 0.. {
        let rig = rig();
        let left = path(FileName::offset_index(offset(10)).with_suffix(Suffix::Cleaned));
        rig.memory.open(&left, OpenMode::Create).unwrap();
        rig.memory.sync_dir(Path::new(DIR)).unwrap();
        rig.partition.remove_drafts().unwrap();
        let (sources, replacements) = (rig.sources(), rig.replacements(PLANS[2]));
        rig.vfs.crash_after(crash_at);
        let done = rig.partition.replace(rig.partition.generation(), &sources, replacements);
        for seed in 0..SEEDS {
            check(&rig.vfs.crash_image(seed).unwrap(), PLANS[2], &format!("end at {crash_at}, image {seed}"));
        }
        if done.is_ok() {
            break;
        }
    }
}

#[test]
fn a_partition_that_is_offline_or_closed_refuses_and_removes_the_replacements() {
    let rig = rig();
    let (sources, replacements) = (rig.sources(), rig.replacements(PLANS[0]));
    rig.partition.invalidate();
    assert!(matches!(
        rig.partition.replace(rig.partition.generation(), &sources, replacements),
        Err(LogError::Closed { .. })
    ));
    assert_eq!(survivors(&rig.memory, &[Suffix::Cleaned, Suffix::Swap]), [""; 0]);
}
