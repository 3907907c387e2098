//! Every file of a store damaged in every way: cut, extended, zero-filled, bit-flipped.
//!
//! Whatever a damaged file holds, opening (after an orderly stop, after a crash, read-only), reading and looking up end
//! soon, without a panic, with an error or with a shorter log; and a record that comes out is the one that went in at
//! that offset. All in memory, from fixed seeds.
#![cfg(all(feature = "gzip", feature = "snappy", feature = "lz4", feature = "zstd"))]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of a test: whatever goes wrong here must fail it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use stratalog::config::{StoreConfig, TopicConfig};
use stratalog::format::{Batches, Compression, HeaderRef, OwnedRecord};
use stratalog::types::{Offset, Timestamp};
use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
use stratalog::{Durability, LogStore, OffsetSpec, Partition, Record, StoreOptions};

/// Longer than any case takes, by far; a loop without end is what this finds.
const CASE_TIME_MAX: Duration = Duration::from_secs(20);

/// A case reads this often at most: no log here has as many batches.
const FETCHES_MAX: usize = 5_000;

const CLEAN_MARK: &str = ".kafka_cleanshutdown";
const ROOT: &str = "/store";

/// Every file of a store, by its path.
type Image = BTreeMap<PathBuf, Vec<u8>>;

/// Every record of a store, by partition and offset.
type Records = BTreeMap<(String, Offset), OwnedRecord>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Clean,
    Unclean,
    ReadOnly,
}

const OPENINGS: [Opening; 3] = [Opening::Clean, Opening::Unclean, Opening::ReadOnly];

fn read(vfs: &dyn Vfs, path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(vfs.metadata(path).unwrap().unwrap().size).unwrap()];
    let read = vfs.open(path, OpenMode::Read).unwrap().read_at(&mut bytes, 0).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn image_of(vfs: &dyn Vfs) -> Image {
    let (mut image, mut pending) = (Image::new(), vec![PathBuf::from(ROOT)]);
    while let Some(dir) = pending.pop() {
        for entry in vfs.read_dir(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if entry.is_dir {
                pending.push(path);
            } else {
                image.insert(path.clone(), read(vfs, &path));
            }
        }
    }
    image
}

fn disk_with(image: &Image) -> MemoryVfs {
    let vfs = MemoryVfs::new();
    for (path, bytes) in image {
        vfs.create_dir_all(path.parent().unwrap()).unwrap();
        vfs.open(path, OpenMode::Truncate).unwrap().write_at(bytes, 0).unwrap();
    }
    vfs
}

fn config() -> StoreConfig {
    let small = TopicConfig::new().segment_bytes(3_000).index_interval_bytes(150).segment_index_bytes(400);
    StoreConfig::new().topic_defaults(small)
}

/// A store with a topic of a few segments for every codec.
fn own_store() -> Image {
    let vfs = MemoryVfs::new();
    let store = StoreOptions::new().vfs(Arc::new(vfs.clone())).config(config()).open(ROOT).unwrap();
    let mut rng = Rng::with_seed(1);
    for codec in Compression::ALL {
        let partition = store.create_topic(codec.name(), 1, TopicConfig::new()).unwrap().partition(0).unwrap();
        for number in 0..24 {
            let value: String = (0..rng.usize(60..300)).map(|_| rng.alphanumeric()).collect();
            let keys: Vec<String> = (0..rng.usize(1..4)).map(|key| format!("key-{number}-{key}")).collect();
            let time = Timestamp::from_millis(1_700_000_000_000 + rng.i64(0..1_000) + number * 500).unwrap();
            let record = |key| Record::keyed(key, &value).header("number", "one").null_header("none").timestamp(time);
            let records: Vec<Record<'_>> = keys.iter().map(record).collect();
            partition.append_compressed(&records, codec, Durability::Written).unwrap();
        }
        assert!(partition.segments().len() >= 2, "{}: one segment only", codec.name());
    }
    store.close().unwrap();
    image_of(&vfs)
}

/// Folders that Kafka wrote, as one store.
fn kafka_store() -> Image {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut image = Image::new();
    for folder in ["store/transactions-0", "store/compacted-transactions-0", "legacy/v0-gzip-0", "legacy/v1-lz4-0"] {
        let from = golden.join(folder);
        for entry in fs::read_dir(&from).unwrap().map(Result::unwrap) {
            let to = Path::new(ROOT).join(from.file_name().unwrap()).join(entry.file_name());
            image.insert(to, fs::read(entry.path()).unwrap());
        }
    }
    let mark = fs::read(golden.join("store").join(CLEAN_MARK)).unwrap();
    image.insert(Path::new(ROOT).join(CLEAN_MARK), mark);
    image
}

/// A record's timestamp, key, value and headers.
type Content<'a> = (Option<Timestamp>, Option<&'a [u8]>, Option<&'a [u8]>, Vec<HeaderRef<'a>>);

fn content(record: &OwnedRecord) -> Content<'_> {
    (record.timestamp(), record.key(), record.value(), record.headers().collect())
}

/// Reads all that can be read, skipping what can't; every record must be the original one.
fn read_all(partition: &Partition, mut check: impl FnMut(OwnedRecord)) {
    let (mut next, end) = (partition.log_start_offset(), partition.log_end_offset());
    for _ in 0..FETCHES_MAX {
        if next >= end {
            return;
        }
        let before = next;
        if let Ok(batches) = partition.read(next).max_bytes(2_000).fetch() {
            for batch in &batches {
                let Ok(batch) = batch else { break };
                for record in batch.records() {
                    let Ok(record) = record else { break };
                    check(record.detach());
                }
                next = next.max(batch.last_offset().next());
            }
        }
        if next == before {
            next = next.next();
        }
    }
    assert!(end.since(partition.log_start_offset()) > FETCHES_MAX as u64, "{}: never at the end", partition.id());
}

fn look_up(partition: &Partition) -> Vec<Offset> {
    let times = [0, 1_700_000_000_000, 1_700_000_006_000, i64::MAX].map(|time| Timestamp::from_millis(time).unwrap());
    let specs = [OffsetSpec::Earliest, OffsetSpec::Latest, OffsetSpec::MaxTimestamp];
    let specs = specs.into_iter().chain(times.map(OffsetSpec::Timestamp));
    specs.filter_map(|spec| partition.find_offset(spec).ok().flatten()).map(|found| found.offset).collect()
}

fn open(vfs: MemoryVfs, opening: Opening) -> Option<LogStore> {
    let options = StoreOptions::new().vfs(Arc::new(vfs)).config(config());
    options.read_only(opening == Opening::ReadOnly).open(ROOT).ok()
}

fn originals(image: &Image) -> Records {
    let mut records = Records::new();
    let store = open(disk_with(image), Opening::Clean).unwrap();
    for partition in store.topics().iter().flat_map(|topic| topic.partitions()) {
        read_all(&partition, |record| {
            records.insert((partition.id().to_string(), record.offset()), record);
        });
    }
    assert!(records.len() > 200, "only {} records", records.len());
    records
}

/// Opens the damaged store in one way, uses all of it, and holds what comes out against the originals.
fn survives(image: &Image, originals: &Records, opening: Opening, case: &str) {
    let began = Instant::now();
    let vfs = disk_with(image);
    if opening == Opening::Unclean {
        let _ = vfs.remove_file(&Path::new(ROOT).join(CLEAN_MARK));
    }
    let Some(store) = open(vfs.clone(), opening) else { return };
    let mut survivors = Vec::new();
    for partition in store.topics().iter().flat_map(|topic| topic.partitions()) {
        let name = partition.id().to_string();
        read_all(&partition, |record| {
            let key = (name.clone(), record.offset());
            let original = originals.get(&key).unwrap_or_else(|| panic!("{case} {opening:?}: {key:?} never was"));
            assert_eq!(content(&record), content(original), "{case} {opening:?}: {key:?}");
            survivors.push(key);
        });
        look_up(&partition);
    }
    let closed = store.close().is_ok();
    assert!(began.elapsed() < CASE_TIME_MAX, "{case} {opening:?} took {:?}", began.elapsed());
    if opening == Opening::Unclean && closed {
        keeps(&vfs, &survivors, case);
    }
}

/// What a recovery kept is there after the next, orderly opening.
fn keeps(vfs: &MemoryVfs, survivors: &[(String, Offset)], case: &str) {
    let Some(store) = open(vfs.clone(), Opening::Clean) else { panic!("{case}: not opened a second time") };
    let mut again = Vec::new();
    for partition in store.topics().iter().flat_map(|topic| topic.partitions()) {
        read_all(&partition, |record| again.push((partition.id().to_string(), record.offset())));
    }
    assert_eq!(again, survivors, "{case}: after the second opening");
}

/// Damages every file of the store in turn, each in ways drawn by `damage`, which may also leave it alone.
fn every_file_damaged(image: &Image, kind: &str, rounds: usize, damage: impl Fn(&mut Vec<u8>, &mut Rng)) {
    let originals = originals(image);
    let mut rng = Rng::with_seed(7);
    for path in image.keys() {
        // The lock files' bytes are never read.
        if path.extension().is_some_and(|extension| extension == "lock") || path.ends_with(".lock") {
            continue;
        }
        for round in 0..rounds {
            let folder = path.parent().unwrap();
            let is_related = |other: &&PathBuf| other.starts_with(folder) || other.parent() == Some(Path::new(ROOT));
            let mut damaged: Image = image.keys().filter(is_related).map(|p| (p.clone(), image[p].clone())).collect();
            damage(damaged.get_mut(path).unwrap(), &mut rng);
            for opening in OPENINGS {
                survives(&damaged, &originals, opening, &format!("{kind} {round} of {}", path.display()));
            }
        }
    }
}

fn cut(bytes: &mut Vec<u8>, rng: &mut Rng) {
    bytes.truncate(rng.usize(..=bytes.len()));
}

fn extend(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let count = rng.usize(1..200);
    if rng.bool() {
        bytes.extend((0..count).map(|_| rng.u8(..)));
    } else {
        // A piece of itself looks more like what belongs there.
        let start = rng.usize(..=bytes.len());
        let piece = bytes[start..].iter().copied().take(count).collect::<Vec<u8>>();
        bytes.extend(piece);
    }
}

fn fill_with_zeros(bytes: &mut [u8], rng: &mut Rng) {
    let start = rng.usize(..=bytes.len());
    let end = if rng.bool() { bytes.len() } else { rng.usize(start..=bytes.len()) };
    bytes[start..end].fill(0);
}

/// Flips bits anywhere but in the offsets at the front of batches: Kafka's checksums leave these out, so a flip there that
/// keeps the offsets in order can't be seen by anybody.
fn flip_bits(bytes: &mut [u8], rng: &mut Rng) {
    let offsets = offset_fields(bytes);
    for _ in 0..rng.usize(1..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        if !offsets.iter().any(|field| field.contains(&at)) {
            bytes[at] ^= 1 << rng.u8(..8);
        }
    }
}

/// Where the batches of a `.log` say their offsets; nothing for other files.
fn offset_fields(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut batches = Batches::new(Bytes::copy_from_slice(bytes));
    let mut fields = Vec::new();
    loop {
        let at = usize::try_from(batches.position().value()).unwrap();
        match batches.next() {
            Some(Ok(_)) => fields.push(at..at + size_of::<i64>()),
            _ => return fields,
        }
    }
}

#[test]
fn a_store_with_a_file_cut_short_gives_back_original_records_only() {
    every_file_damaged(&own_store(), "cut", 4, cut);
    every_file_damaged(&kafka_store(), "cut", 4, cut);
}

#[test]
fn a_store_with_a_file_extended_gives_back_original_records_only() {
    every_file_damaged(&own_store(), "extension", 3, extend);
    every_file_damaged(&kafka_store(), "extension", 3, extend);
}

#[test]
fn a_store_with_zeros_in_a_file_gives_back_original_records_only() {
    every_file_damaged(&own_store(), "zeros", 4, |bytes, rng| fill_with_zeros(bytes, rng));
    every_file_damaged(&kafka_store(), "zeros", 4, |bytes, rng| fill_with_zeros(bytes, rng));
}

#[test]
fn a_store_with_flipped_bits_gives_back_original_records_only() {
    every_file_damaged(&own_store(), "flips", 6, |bytes, rng| flip_bits(bytes, rng));
    every_file_damaged(&kafka_store(), "flips", 6, |bytes, rng| flip_bits(bytes, rng));
}
