//! Follows a log while it grows: one thread appends slowly, another waits for each record and prints it.
//!
//! Nobody polls: [`Partition::wait_for`] sleeps until the record is there. The example ends by itself.

use std::error::Error;
use std::thread;
use std::time::Duration;

use stratalog::{LogStore, Offset, Partition, Record, TopicConfig};

const RECORDS: i64 = 10;
const PAUSE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let folder = std::env::temp_dir().join(format!("stratalog-tail-{}", std::process::id()));
    let store = LogStore::open(&folder)?;
    let seen = follow_while_growing(&store);
    store.close()?;
    std::fs::remove_dir_all(&folder)?;
    println!("followed {} records as they came", seen?);
    Ok(())
}

fn follow_while_growing(store: &LogStore) -> Outcome<i64> {
    let partition = store.create_topic("temperatures", 1, TopicConfig::new())?.partition(0)?;
    thread::scope(|threads| {
        let writer = threads.spawn(|| append_slowly(&partition));
        let seen = follow(&partition);
        writer.join().map_err(|_| "the writing thread panicked")??;
        seen
    })
}

fn append_slowly(partition: &Partition) -> Outcome<()> {
    for number in 0..RECORDS {
        thread::sleep(PAUSE);
        partition.append(&[Record::keyed("kitchen", &format!("{}.{} C", 18 + number / 3, number % 10))])?;
    }
    Ok(())
}

/// Prints every record up to the last one that will be written; returns how many.
fn follow(partition: &Partition) -> Outcome<i64> {
    let (mut next, mut seen) = (Offset::ZERO, 0);
    while seen < RECORDS {
        if !partition.wait_for(next, PATIENCE) {
            return Err(format!("nothing came at offset {next} for {PATIENCE:?}").into());
        }
        for batch in &partition.read(next).fetch()? {
            let batch = batch?;
            for record in batch.records() {
                let record = record?;
                let value = String::from_utf8_lossy(record.value().unwrap_or_default());
                println!("offset {}: {value}", record.offset());
                seen += 1;
            }
            next = batch.last_offset().next();
        }
    }
    Ok(seen)
}
