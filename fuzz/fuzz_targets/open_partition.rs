//! Any bytes in the files of a partition: opening, reading, looking up and compacting end without a panic, and offsets ascend.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stratalog::{Isolation, OffsetSpec, Partition, Record, Timestamp};
use stratalog_fuzz::damage::Input;
use stratalog_fuzz::reading::rows;

fuzz_target!(|input: Input| {
    let Ok(store) = input.open() else { return };
    let Ok(partition) = store.topic("t").and_then(|topic| topic.partition(0)) else { return };
    use_all(&partition);
    let _ = partition.append(&[Record::keyed("k", "after")]);
    let _ = partition.roll();
    let _ = partition.compact();
    use_all(&partition);
    let _ = store.close();
});

fn use_all(partition: &Partition) {
    let all = rows(partition, Isolation::ReadUncommitted);
    let committed = rows(partition, Isolation::ReadCommitted);
    assert!(!all.1 || committed.0.iter().all(|row| all.0.contains(row)), "a committed record is a record");
    let times = [0, 5, i64::MAX].map(|time| OffsetSpec::Timestamp(Timestamp::from_millis(time).expect("not negative")));
    for spec in [OffsetSpec::Earliest, OffsetSpec::Latest, OffsetSpec::MaxTimestamp].into_iter().chain(times) {
        let _ = partition.find_offset(spec);
    }
    let (start, end) = (partition.log_start_offset(), partition.log_end_offset());
    assert!(start <= partition.last_stable_offset() && partition.last_stable_offset() <= end, "{partition:?}");
}
