//! A walk through all that can be read of a partition. Fetches make progress and offsets ascend, or it panics.

use stratalog::{Batches, Isolation, LogError, Offset, Partition};

/// Every fetch from the log start on, each of a few batches, as long as they can be read.
///
/// # Errors
/// That of the fetch that failed, after all before it.
fn fetches(partition: &Partition, isolation: Isolation) -> impl Iterator<Item = Result<Batches, LogError>> {
    let mut next = Some(partition.log_start_offset());
    std::iter::from_fn(move || {
        let from = next.take()?;
        let fetched = partition.read(from).max_bytes(2_000).isolation(isolation).fetch();
        if let Ok(batches) = &fetched {
            let after = batches.next_offset();
            assert!(batches.is_empty() || after >= from, "a fetch at {from} goes on at {after}");
            next = (after > from).then_some(after);
        }
        Some(fetched)
    })
}

/// Offset, key and value of each readable record.
pub type Row = (Offset, Option<Vec<u8>>, Option<Vec<u8>>);

/// Every record from the log start to the first that can't be read, and whether that was at the end of the log.
pub fn rows(partition: &Partition, isolation: Isolation) -> (Vec<Row>, bool) {
    let mut rows: Vec<Row> = Vec::new();
    for batches in fetches(partition, isolation) {
        let Ok(batches) = batches else { return (rows, false) };
        for record in batches.records() {
            let Ok(record) = record else { return (rows, false) };
            let last = rows.last().map(|(offset, ..)| *offset);
            assert!(last < Some(record.offset()), "{} after {last:?}", record.offset());
            rows.push((record.offset(), record.key().map(<[u8]>::to_vec), record.value().map(<[u8]>::to_vec)));
        }
    }
    (rows, true)
}
