//! A log of many segments is read without holding a file open for each. Alone in its file, for it counts what the process holds.
#![cfg(target_os = "linux")]

use stratalog::{LogStore, Offset, Record, TopicConfig};

const SEGMENTS: usize = 200;

#[test]
fn reading_many_sealed_segments_keeps_no_file_open_for_each() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let store = LogStore::open(folder.path())?;
    let partition = store.create_topic("t", 1, TopicConfig::new())?.partition(0)?;
    for _ in 0..SEGMENTS {
        partition.append(&[Record::new("a value")])?;
        partition.roll()?;
    }
    partition.flush()?;
    let mut next = Offset::ZERO;
    while next < partition.log_end_offset() {
        for batch in &partition.read(next).fetch()? {
            next = batch?.last_offset().next();
        }
    }
    let open = std::fs::read_dir("/proc/self/fd")?.count();
    assert!(open < SEGMENTS / 4, "{open} files are open");
    Ok(())
}
