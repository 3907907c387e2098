//! The files of a small good partition, of which an input replaces, changes, cuts or removes any.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use stratalog::format::{Compression, ProducerStamp, TransactionMarker, TransactionResult};
use stratalog::types::{ProducerEpoch, ProducerId, Sequence};
use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
use stratalog::{
    CleanupPolicy, Durability, LogStore, Record, StoreConfig, StoreError, StoreOptions, Timestamp, TopicConfig,
};

use crate::sealing::{sealed_log, sealed_snapshot};

/// What is done to the good files.
#[derive(Debug, Arbitrary)]
pub struct Input {
    /// By the place of the file in the list of all files.
    pub changes: Vec<(u8, Change)>,
    /// Whether logs and snapshots get right checksums.
    pub is_sealed: bool,
    /// Whether the mark of an orderly stop is left.
    pub is_clean: bool,
    pub is_read_only: bool,
}

/// What is done to one file.
#[derive(Debug, Arbitrary)]
pub enum Change {
    /// These are its bytes.
    Whole(Vec<u8>),
    /// From this place on it has these.
    Bytes(u16, Vec<u8>),
    /// It ends here.
    Cut(u16),
    /// It isn't there.
    Removed,
}

impl Input {
    /// Opens what this makes of the good files.
    ///
    /// # Errors
    /// Those of [`StoreOptions::open`].
    pub fn open(&self) -> Result<LogStore, StoreError> {
        let vfs = MemoryVfs::new();
        vfs.create_dir_all(Path::new("/log/t-0")).expect("a folder in memory");
        for (name, bytes) in self.files() {
            let file = vfs.open(&Path::new("/log").join(name), OpenMode::Create).expect("a file in memory");
            file.write_at(&bytes, 0).expect("a write in memory");
        }
        open(&vfs, self.is_read_only)
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = GOOD.clone();
        files.retain(|(name, _)| self.is_clean || name != ".kafka_cleanshutdown");
        for (place, change) in &self.changes {
            let place = usize::from(*place) % files.len();
            let bytes = &mut files[place].1;
            match change {
                Change::Whole(whole) => bytes.clone_from(whole),
                Change::Bytes(at, new) => overwrite(bytes, usize::from(*at), new),
                Change::Cut(size) => bytes.truncate(usize::from(*size)),
                Change::Removed if files.len() > 1 => drop(files.remove(place)),
                Change::Removed => {}
            }
        }
        for (name, bytes) in files.iter_mut().filter(|_| self.is_sealed) {
            if name.ends_with(".log") {
                *bytes = sealed_log(bytes);
            } else if name.ends_with(".snapshot") {
                *bytes = sealed_snapshot(bytes);
            }
        }
        files
    }
}

fn overwrite(file: &mut Vec<u8>, place: usize, bytes: &[u8]) {
    let place = place.min(file.len());
    let end = file.len().min(place + bytes.len());
    drop(file.splice(place..end, bytes.iter().copied()));
}

fn open(vfs: &MemoryVfs, is_read_only: bool) -> Result<LogStore, StoreError> {
    let topics = TopicConfig::new().segment_bytes(600).index_interval_bytes(100).segment_index_bytes(120);
    let config = StoreConfig::new().topic_defaults(topics.cleanup_policy(CleanupPolicy::COMPACT));
    StoreOptions::new().vfs(Arc::new(vfs.clone())).config(config).read_only(is_read_only).open("/log")
}

/// Each file of a store with one partition, its name below the store's folder.
static GOOD: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let vfs = MemoryVfs::new();
    write(&vfs).expect("a good store");
    let mut files = Vec::new();
    for folder in ["", "t-0/"] {
        let entries = vfs.read_dir(&Path::new("/log").join(folder)).expect("a list");
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            let name = format!("{folder}{}", entry.name);
            let file = vfs.open(&Path::new("/log").join(&name), OpenMode::Read).expect("a file");
            let mut bytes = vec![0; usize::try_from(file.size().expect("a size")).expect("a small file")];
            file.read_at(&mut bytes, 0).expect("a read in memory");
            files.push((name, bytes));
        }
    }
    files
});

fn write(vfs: &MemoryVfs) -> Result<(), Box<dyn Error>> {
    let store = open(vfs, false)?;
    let partition = store.create_topic("t", 1, TopicConfig::new())?.partition(0)?;
    for (number, codec) in (0..).zip(Compression::ALL) {
        let time = Timestamp::from_millis(number).expect("not negative");
        let keyed = Record::keyed("a", "one").header("h", "1").null_header("n").timestamp(time);
        partition.append_compressed(&[keyed, Record::tombstone("b")], codec, Durability::Written)?;
        let (id, epoch) = (ProducerId::new(number % 2).expect("not negative"), ProducerEpoch::ZERO);
        let base_sequence = Sequence::new(i32::try_from(number / 2).expect("small")).expect("not negative");
        let stamp = ProducerStamp { id, epoch, base_sequence, transactional: true };
        partition.append_from(stamp, &[Record::keyed("c", "in a transaction")], Durability::Written)?;
        if number < 4 {
            let result = if number % 2 == 0 { TransactionResult::Abort } else { TransactionResult::Commit };
            let marker = TransactionMarker {
                result,
                producer_id: id,
                producer_epoch: epoch,
                coordinator_epoch: 0,
                timestamp: time,
            };
            partition.end_transaction(&marker, Durability::Written)?;
        }
    }
    Ok(store.close()?)
}
