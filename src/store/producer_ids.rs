//! The one transaction coordinator of a store, and producer ids that no producer of the store ever had: blocks of them, each of which is on disk as taken before any of
//! it is handed out. A crash wastes the rest of a block, of which there are enough for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::StoreError;
use super::{LogStore, Shared, layout};
use crate::format::{FormatError, encode_producer_ids, parse_producer_ids};
use crate::types::{Position, ProducerId};
use crate::vfs::{read_whole, replace_whole};

impl LogStore {
    /// Takes `count` ids, none of them below `floor` or known to a partition; returns the first.
    ///
    /// # Durability
    /// When it returns, no later call returns one of them, also after a power loss.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file of ids can't be understood or there are no ids left, [`StoreError::Io`],
    /// [`StoreError::ReadOnly`], [`StoreError::Closed`].
    pub(crate) fn take_producer_ids(&self, floor: ProducerId, count: u32) -> Result<ProducerId, StoreError> {
        let admin = self.shared.change()?;
        let (vfs, root) = (&*self.shared.opener.vfs, &self.shared.opener.root);
        let path = root.join(layout::PRODUCER_IDS);
        let damaged = |source| StoreError::Damaged { path: path.clone(), source };
        let noted = read_whole(vfs, &path)?.map(|bytes| parse_producer_ids(&bytes)).transpose().map_err(damaged)?;
        let first = noted.unwrap_or(ProducerId::ZERO).max(self.first_unseen_id()).max(floor);
        let end = first.value().checked_add(i64::from(count)).and_then(ProducerId::new);
        let end = end.ok_or_else(|| {
            let (field, expected) = ("next producer id", "an id with a block of ids behind it");
            damaged(FormatError::Invalid { field, position: Position::ZERO, expected, got: first.value() })
        })?;
        replace_whole(vfs, &path, &encode_producer_ids(end))?;
        vfs.sync_dir(root)?;
        drop(admin);
        Ok(first)
    }

    /// Makes the caller the only transaction coordinator of this store, until it drops what it gets; `None` when there is one.
    pub(crate) fn claim_coordinator(&self) -> Option<CoordinatorClaim> {
        let taken = self.shared.has_coordinator.swap(true, Ordering::SeqCst);
        (!taken).then(|| CoordinatorClaim { shared: Arc::clone(&self.shared) })
    }

    /// One more than the greatest id that a partition knows: folders copied from Kafka bring ids that were not taken here.
    fn first_unseen_id(&self) -> ProducerId {
        let partitions = self.shared.own_partitions();
        let seen = partitions.iter().flat_map(|partition| partition.producers().into_iter().map(|one| one.producer_id));
        seen.max().and_then(|id| ProducerId::new(id.value().checked_add(1)?)).unwrap_or(ProducerId::ZERO)
    }
}

/// The right to coordinate the transactions of a store.
#[derive(Debug)]
pub(crate) struct CoordinatorClaim {
    shared: Arc<Shared>,
}

impl Drop for CoordinatorClaim {
    fn drop(&mut self) {
        self.shared.has_coordinator.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::StoreOptions;
    use crate::types::ErrorKind;
    use crate::vfs::{FaultyVfs, MemoryVfs, OpenMode, Vfs};

    const ROOT: &str = "/log";

    fn open(vfs: &(impl Vfs + Clone + 'static)) -> LogStore {
        StoreOptions::new().vfs(Arc::new(vfs.clone())).open(ROOT).unwrap()
    }

    fn take(store: &LogStore, floor: i64) -> i64 {
        store.take_producer_ids(ProducerId::new(floor).unwrap(), 10).unwrap().value()
    }

    #[test]
    fn blocks_follow_each_other_and_the_floor_also_after_a_power_loss() {
        let vfs = MemoryVfs::new();
        let store = open(&vfs);
        assert_eq!([take(&store, 0), take(&store, 0), take(&store, 55)], [0, 10, 55]);
        drop(store);
        let store = open(&vfs.crash_image());
        assert_eq!(take(&store, 0), 65);
    }

    #[test]
    fn no_id_repeats_whenever_the_machine_ends() {
        for crash_at in 0..40 {
            let vfs = FaultyVfs::new(MemoryVfs::new());
            let store = open(&vfs);
            vfs.crash_after(vfs.mutations() + crash_at);
            let taken: Vec<i64> = (0..8)
                .map_while(|_| store.take_producer_ids(ProducerId::ZERO, 10).ok().map(ProducerId::value))
                .collect();
            drop(store);
            for seed in 0..4 {
                let next = take(&open(&vfs.crash_image(seed).unwrap()), 0);
                assert!(taken.iter().all(|first| first + 10 <= next), "{taken:?}, then {next}");
            }
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_without_it_ids_start_again() {
        let vfs = MemoryVfs::new();
        let store = open(&vfs);
        take(&store, 7);
        let path = Path::new(ROOT).join(layout::PRODUCER_IDS);
        vfs.open(&path, OpenMode::Write).unwrap().write_at(b"x", 3).unwrap();
        let error = store.take_producer_ids(ProducerId::ZERO, 1).unwrap_err();
        assert_eq!((error.kind(), error.location().file()), (ErrorKind::Corrupt, Some(&*path)));
        vfs.remove_file(&path).unwrap();
        assert_eq!(take(&store, 0), 0);
        assert!(store.take_producer_ids(ProducerId::MAX, 1).is_err(), "no ids are left");
    }

    #[test]
    fn a_store_has_one_coordinator_at_a_time() {
        let store = open(&MemoryVfs::new());
        let claim = store.claim_coordinator().unwrap();
        assert!(store.clone().claim_coordinator().is_none());
        drop(claim);
        assert!(store.claim_coordinator().is_some());
    }
}
