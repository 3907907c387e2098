//! A store in the current folder of the process, which is one for all threads: so this test has a file of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use stratalog::LogStore;
use stratalog::TopicConfig;
use support::{append, partition_of};

#[test]
fn empty_and_relative_paths_work_on_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["", ".", "a", "b/c/d", "./e/f"] {
        let current = folder.path().join(format!("for-{}", path.replace(['/', '.'], "-")));
        std::fs::create_dir(&current).unwrap();
        std::env::set_current_dir(&current).unwrap();
        for records in 0..2 {
            let store = LogStore::open(path).unwrap();
            if records == 0 {
                store.create_topic("t", 1, TopicConfig::new()).unwrap();
            }
            assert_eq!(append(&partition_of(&store), "v"), records, "{path:?}");
            store.close().unwrap();
        }
        assert!(current.join(path).join("t-0").is_dir());
    }
    std::env::set_current_dir("/").unwrap();
}
