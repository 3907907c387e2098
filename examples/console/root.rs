//! The folder that the commands work on, opened as each of them needs it.

use stratalog::config::{StoreConfig, TopicConfig};
use stratalog::store::{LogStore, StoreOptions};

use crate::failure::Failure;

/// A store's folder and the default config of its topics.
pub struct Root {
    dir: String,
    defaults: TopicConfig,
}

impl Root {
    /// Nothing is opened yet.
    pub const fn new(dir: String, defaults: TopicConfig) -> Self {
        Self { dir, defaults }
    }

    /// Hands the store to `work`, open for reading only.
    pub fn read<T>(&self, work: impl FnOnce(&LogStore) -> Result<T, Failure>) -> Result<T, Failure> {
        let store = self.options().read_only(true).open(&self.dir)?;
        report_opening(&store);
        work(&store)
    }

    /// Hands the store to `work`, open for writing, and closes it in order whatever came of the work.
    pub fn write<T>(&self, work: impl FnOnce(&LogStore) -> Result<T, Failure>) -> Result<T, Failure> {
        let store = self.options().open(&self.dir)?;
        report_opening(&store);
        let done = work(&store);
        let closed = store.close();
        let done = done?;
        closed?;
        Ok(done)
    }

    fn options(&self) -> StoreOptions {
        StoreOptions::new().config(StoreConfig::new().topic_defaults(self.defaults.clone()))
    }
}

/// Says on standard error what opening left out or cut off: nothing goes silently.
fn report_opening(store: &LogStore) {
    let report = store.open_report();
    for skipped in &report.skipped {
        eprintln!("console: left out {}: {}", skipped.path.display(), skipped.reason);
    }
    for failed in &report.failed {
        eprintln!("console: left out {}, which could not be opened: {}", failed.partition, failed.error);
    }
    for warning in &report.warnings {
        eprintln!("console: {warning}");
    }
    for cut in report.partitions.iter().flat_map(|partition| &partition.cuts) {
        let (bytes, file, position) = (cut.bytes, cut.file.display(), cut.position);
        eprintln!("console: cut {bytes} bytes from {file} at position {position}: {}", cut.reason);
        eprintln!(
            "console: they stand in {} now; the log goes on at offset {}",
            cut.moved_to.display(),
            cut.from_offset
        );
    }
}
