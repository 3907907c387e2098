//! What the log has done since it was opened, as plain counters read in one snapshot.
//!
//! Every counter only grows, and starts at 0 with each open; the gauges say what is there now. The numbers of one snapshot are read one after the other
//! while work goes on, so they may be a few events apart. Sending them anywhere is the caller's business.

use std::sync::atomic::{AtomicU64, Ordering};

/// One growing number, shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Relaxed: a counter orders nothing else.
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Declares the public snapshot and its live counterpart from one list.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counters of a store at one moment.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct StoreMetrics {
            $($(#[$doc])* pub $name: u64,)+
            /// Gauge: files in the partitions' folders that recovery took out of a log (`.cut`) and nobody removed.
            pub cut_files: u64,
            /// Gauge: the bytes of those files.
            pub cut_file_bytes: u64,
        }

        /// The live counters that the engine feeds.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)+
        }

        impl Counters {
            /// The counters as they stand now, without the gauges.
            pub(crate) fn snapshot(&self) -> StoreMetrics {
                StoreMetrics { $($name: self.$name.value(),)+ ..StoreMetrics::default() }
            }
        }
    };
}

counters! {
    /// Batches written to a log.
    appended_batches,
    /// Records in those batches.
    appended_records,
    /// Bytes of those batches as they stand on disk.
    appended_bytes,
    /// Appends that were refused or failed; nothing of them is readable.
    append_failures,
    /// Reads that returned, empty ones included.
    fetches,
    /// Bytes of batches that those reads returned.
    fetched_bytes,
    /// Calls to sync that reached the disk and succeeded; appends that shared one count it once.
    syncs,
    /// Calls to sync that failed; each took its partition offline.
    sync_failures,
    /// Segments closed in favour of a new one.
    rolls,
    /// Segments taken out of a log by retention, truncation or deletion of records.
    segments_deleted,
    /// Bytes of the `.log` files of those segments.
    bytes_deleted,
    /// Segments scanned because the log was not closed cleanly.
    segments_recovered,
    /// Bytes that recovery took out of a log and kept in `.cut` files.
    bytes_cut,
    /// Compactions of a partition that went through.
    compactions,
    /// Bytes of batches that compactions read, those that were given up included.
    compaction_bytes_read,
    /// Bytes of batches that they wrote.
    compaction_bytes_written,
    /// Partitions that compaction gave up because of damage.
    uncleanable_partitions,
    /// Pieces of background work that failed, in ticks and in maintenance threads.
    maintenance_failures,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_was_added_from_all_threads() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| counters.appended_records.add(2)));
            }
        });
        counters.rolls.add(1);
        let expected = StoreMetrics { appended_records: 8000, rolls: 1, ..StoreMetrics::default() };
        assert_eq!(counters.snapshot(), expected);
    }
}
