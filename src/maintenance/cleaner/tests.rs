//! Cleaning against what Kafka's cleaner did: the golden folders still hold the segments that its last pass read.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use bytes::Bytes;

use super::*;
use crate::config::{TopicConfig, TopicSettings};
use crate::format::file_name::Suffix;
use crate::format::{Batches, ProducerSnapshot};
use crate::maintenance::compaction::{GroupMember, groups};
use crate::maintenance::key_map::KeyMapLimits;
use crate::segment::SegmentOptions;
use crate::vfs::{DiskVfs, MemoryVfs, OpenMode, Vfs, read_whole};

const DIR: &str = "/t-0";
const DAY_MS: u64 = 86_400_000;

fn offset(value: i64) -> Offset {
    Offset::new(value).expect("a legal offset")
}

fn options(index_interval_bytes: u64) -> SegmentOptions {
    SegmentOptions {
        index_interval_bytes,
        index_size_max: 10_485_760,
        preallocate: 0,
        foreign: false,
        residency: Arc::default(),
    }
}

fn batches(bytes: Vec<u8>) -> Vec<RecordBatch> {
    Batches::new(Bytes::from(bytes)).map(|batch| batch.expect("sound")).collect()
}

fn disk_file(folder: &Path, name: &str) -> Option<Vec<u8>> {
    read_whole(&DiskVfs::new(), &folder.join(name)).expect("readable")
}

/// Only what the last pass read: what an earlier segment reaches into had been merged with it by a pass before.
fn without_leftovers(segments: Vec<Arc<Segment>>) -> Vec<Arc<Segment>> {
    let mut end = Offset::ZERO;
    let mut kept = Vec::new();
    for segment in segments {
        if segment.base_offset() >= end {
            end = segment.end().expect("readable").1;
            kept.push(segment);
        }
    }
    kept
}

/// A folder in memory that holds what Kafka's last cleaning began with.
struct Golden {
    vfs: MemoryVfs,
    folder: PathBuf,
    sources: Vec<Arc<Segment>>,
    aborted: Vec<AbortedTransaction>,
    producers: Vec<ProducerEntry>,
    active_base: Offset,
    settings: TopicSettings,
    index_interval_bytes: u64,
}

impl Golden {
    fn open(folder: &str, index_interval_bytes: u64, segment_bytes: u32) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store").join(folder);
        let vfs = MemoryVfs::new();
        vfs.create_dir_all(Path::new(DIR)).expect("a folder");
        let mut names: Vec<_> =
            DiskVfs::new().read_dir(&folder).expect("a folder").into_iter().map(|entry| entry.name).collect();
        names.sort();
        let bases = |suffix: &str| -> Vec<Offset> {
            names
                .iter()
                .filter_map(|name| name.strip_suffix(suffix))
                .map(|base| offset(base.parse().expect("a number")))
                .collect()
        };
        let active_base = *bases(".log").last().expect("an active segment");
        let read = |name: &str| disk_file(&folder, name).expect("a file");
        let size = |name: &str| read(name).len() as u64;
        let copy = |from: &str, to: &str| {
            let bytes = read(from);
            let file = vfs.open(&Path::new(DIR).join(to), OpenMode::Truncate).expect("a new file");
            file.write_at(&bytes, 0).expect("written");
        };
        for name in &names {
            if let Some(source) = name.strip_suffix(".deleted") {
                copy(name, source);
            }
        }
        let active_txn = format!("{:020}.txnindex", active_base.value());
        if names.contains(&active_txn) {
            copy(&active_txn, &active_txn);
        }
        let open = |base: Offset, size| {
            let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
            Arc::new(Segment::open(vfs, Path::new(DIR), base, size, options(index_interval_bytes)).expect("a segment"))
        };
        let sources: Vec<_> = bases(".log.deleted")
            .into_iter()
            .map(|base| open(base, size(&format!("{:020}.log.deleted", base.value()))))
            .collect();
        let sources = without_leftovers(sources);
        let active = open(active_base, size(&format!("{:020}.log", active_base.value())));
        let aborted =
            sources.iter().chain([&active]).flat_map(|segment| segment.aborted().expect("sane").to_vec()).collect();
        let snapshot = names.iter().rfind(|name| name.ends_with(".snapshot")).expect("a snapshot");
        let snapshot = ProducerSnapshot::parse(&read(snapshot)).expect("sound");
        let config = TopicConfig::new().segment_bytes(segment_bytes);
        let settings = config.resolve(&TopicConfig::new()).expect("legal");
        let producers = snapshot.entries;
        Self { vfs, folder, sources, aborted, producers, active_base, settings, index_interval_bytes }
    }

    /// Kafka's outcome: the base offset and the batches of each segment but the active one.
    fn expected(&self) -> Vec<(Offset, Vec<RecordBatch>)> {
        let mut expected = Vec::new();
        for source in &self.sources {
            let name = format!("{:020}.log", source.base_offset().value());
            if let Some(bytes) = disk_file(&self.folder, &name) {
                expected.push((source.base_offset(), batches(bytes)));
            }
        }
        expected
    }

    fn clean(&self, now: Timestamp, delete_retention_ms: u64) -> (Vec<Segment>, Counts) {
        self.try_clean(now, delete_retention_ms).expect("sound")
    }

    fn try_clean(&self, now: Timestamp, delete_retention_ms: u64) -> Result<(Vec<Segment>, Counts), Stopped> {
        let limits = KeyMapLimits { budget: 1 << 20, load_factor: 0.9 };
        let mut watch = |_| ControlFlow::Continue(());
        let survey = Survey::of(limits, &self.sources, &self.aborted, Offset::ZERO..self.active_base, &mut watch)?;
        let end = survey.end();
        assert_eq!(end, self.active_base);
        let known = Known {
            survey: &survey,
            first_uncleanable: end,
            producers: &self.producers,
            aborted: &self.aborted,
            start: Offset::ZERO,
            now,
            delete_retention_ms,
            legacy_horizon: None,
        };
        let ends = self.sources.iter().skip(1).map(|next| next.base_offset()).chain([end]);
        let members: Vec<_> = self
            .sources
            .iter()
            .zip(ends)
            .map(|(segment, end)| {
                let (offset_index_size, time_index_size) = segment.index_sizes().expect("sane");
                let (base, size) = (segment.base_offset(), segment.size());
                GroupMember { base, end, size, offset_index_size, time_index_size }
            })
            .collect();
        let mut pass = Pass::new(known);
        let mut cleaned = Vec::new();
        for group in groups(&members, &self.settings) {
            let create = |base| {
                CleanedSegment::create(
                    Arc::new(self.vfs.clone()),
                    Path::new(DIR),
                    base,
                    options(self.index_interval_bytes),
                )
            };
            cleaned.extend(pass.clean(&self.sources[group], &create, &mut watch)?);
        }
        Ok((cleaned, pass.counts()))
    }

    /// When Kafka's last pass ran, by the horizons that it gave.
    fn pass_time(&self, delete_retention_ms: u64) -> Timestamp {
        let all = self.expected().into_iter().flat_map(|(_, batches)| batches);
        let newest = all.filter_map(|batch| batch.header().delete_horizon()).max().expect("a horizon");
        let millis = newest.millis() - i64::try_from(delete_retention_ms).expect("small");
        Timestamp::from_millis(millis).expect("a time")
    }

    fn assert_same(&self, cleaned: &[Segment]) {
        let expected = self.expected();
        let bases: Vec<_> = cleaned.iter().map(Segment::base_offset).collect();
        assert_eq!(bases, expected.iter().map(|(base, _)| *base).collect::<Vec<_>>());
        for (segment, (base, expected)) in cleaned.iter().zip(&expected) {
            let got = batches(segment.bytes().expect("there").to_vec());
            let offsets =
                |batches: &[RecordBatch]| batches.iter().map(|batch| batch.last_offset().value()).collect::<Vec<_>>();
            assert_eq!(offsets(&got), offsets(expected), "segment {base}");
            let mut same = true;
            for (got, expected) in got.iter().zip(expected) {
                let compressed = expected.header().compression() != crate::format::Compression::None;
                let range = if compressed { 21..61 } else { 0..expected.bytes().len() };
                assert_eq!(got.bytes().get(range.clone()), expected.bytes().get(range), "{:?}", expected.header());
                let records = |batch: &RecordBatch| {
                    batch.records().map(|record| format!("{:?}", record.expect("sound").detach())).collect::<Vec<_>>()
                };
                assert_eq!(records(got), records(expected));
                same &= got.bytes() == expected.bytes();
            }
            if same {
                self.assert_same_indexes(segment);
            }
        }
    }

    fn assert_same_indexes(&self, segment: &Segment) {
        for kind in ["index", "timeindex", "txnindex"] {
            let name = format!("{:020}.{kind}", segment.base_offset().value());
            let expected = disk_file(&self.folder, &name);
            let path = Path::new(DIR).join(format!("{name}{}", Suffix::Cleaned.as_str()));
            assert_eq!(read_whole(&self.vfs, &path).expect("readable"), expected, "{name}");
        }
    }
}

#[test]
#[cfg_attr(
    not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    ignore = "the files hold batches of every codec"
)]
fn a_compacted_log_comes_out_as_kafkas_cleaner_made_it() {
    let golden = Golden::open("compacted-0", 200, 4096);
    let (cleaned, counts) = golden.clean(golden.pass_time(DAY_MS), DAY_MS);
    golden.assert_same(&cleaned);
    assert!(counts.records_written < counts.records_read && counts.unkeyed == 0);
}

#[test]
#[cfg_attr(
    not(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd")),
    ignore = "the files hold batches of every codec"
)]
fn expired_tombstones_go_as_kafkas_cleaner_lets_them() {
    let golden = Golden::open("compacted-expired-0", 4096, 4096);
    let (cleaned, _) = golden.clean(golden.pass_time(0), 0);
    golden.assert_same(&cleaned);
}

#[test]
fn transactions_are_cleaned_as_kafkas_cleaner_does() {
    let golden = Golden::open("compacted-transactions-0", 4096, 2048);
    let (cleaned, _) = golden.clean(golden.pass_time(DAY_MS), DAY_MS);
    golden.assert_same(&cleaned);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn damage_anywhere_is_an_error_or_changes_nothing_that_is_checked(at: prop::sample::Index, bit in 0_u8..8) {
        let golden = Golden::open("compacted-transactions-0", 4096, 2048);
        let total: u64 = golden.sources.iter().map(|segment| segment.size()).sum();
        let mut at = at.index(usize::try_from(total).expect("small")) as u64;
        for segment in &golden.sources {
            if at < segment.size() {
                let file = golden.vfs.open(&segment.path(), OpenMode::Write).expect("a file");
                let mut byte = [0];
                file.read_at(&mut byte, at).expect("readable");
                file.write_at(&[byte[0] ^ (1 << bit)], at).expect("writable");
                break;
            }
            at -= segment.size();
        }
        // Base offsets and leader epochs are outside of the checksum, so some damage goes through.
        let outcome = golden.try_clean(golden.pass_time(DAY_MS), DAY_MS);
        prop_assert!(matches!(outcome, Ok(_) | Err(Stopped::Segment(_))));
    }
}
