//! A key-value table that lives in a compacted topic: its newest records are all that is kept, and reading them from the start
//! gives the table back.
//!
//! A deleted key is a tombstone, a record with a null value. Compaction keeps it for `delete.retention.ms`, so that whoever reads
//! meanwhile learns of the deletion, and then drops it. The store lives in memory here, and a clock of our own makes a day pass
//! at once.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use stratalog::vfs::MemoryVfs;
use stratalog::{CleanupPolicy, Clock, ManualClock, Partition, Record, StoreOptions, SystemClock, TopicConfig};

const KEYS: u32 = 500;
const BATCHES: usize = 200;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

type Table = BTreeMap<String, String>;
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let clock = ManualClock::new(SystemClock.now());
    let store = StoreOptions::new().vfs(Arc::new(MemoryVfs::new())).clock(Arc::new(clock.clone())).open("/table")?;
    let config = TopicConfig::new().cleanup_policy(CleanupPolicy::COMPACT).delete_retention_ms(DAY_MS);
    let partition = store.create_topic("balances", 1, config.segment_bytes(128 * 1024))?.partition(0)?;

    let (mut random, mut table) = (fastrand::Rng::with_seed(4), Table::new());
    change(&partition, &mut table, &mut random)?;
    compact(&partition, &table)?;
    println!("two days later, after as many changes again");
    clock.advance(2 * DAY_MS);
    change(&partition, &mut table, &mut random)?;
    compact(&partition, &table)?;
    println!("two days later, without a change");
    clock.advance(2 * DAY_MS);
    match compact(&partition, &table)? {
        0 => Ok(store.close()?),
        tombstones => Err(format!("{tombstones} deleted keys are still in the log").into()),
    }
}

/// Puts and deletes keys, in the log and in the table alike.
fn change(partition: &Partition, table: &mut Table, random: &mut fastrand::Rng) -> Outcome<()> {
    for batch in 0..BATCHES {
        let mut changes: Vec<(String, Option<String>)> = Vec::new();
        for _ in 0..100 {
            let value = format!("{} euros since batch {batch}", random.u32(..10_000));
            changes.push((format!("account {:03}", random.u32(..KEYS)), (random.u32(..5) > 0).then_some(value)));
        }
        let records = changes.iter().map(|(key, value)| match value {
            Some(value) => Record::keyed(key, value),
            None => Record::tombstone(key),
        });
        partition.append(&records.collect::<Vec<_>>())?;
        for (key, value) in changes {
            match value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        }
    }
    println!("{} changes of {KEYS} keys; the table has {} of them", 100 * BATCHES, table.len());
    Ok(())
}

/// Compacts all that was written, and checks that the log still tells the table; returns how many tombstones it has.
fn compact(partition: &Partition, table: &Table) -> Outcome<usize> {
    let size_before = partition.size();
    partition.roll()?; // the active segment is never compacted
    let report = partition.compact()?;
    let (records_before, size_after) = (report.records_before, partition.size());
    println!("  {records_before} records, {size_before} bytes: compacted to {}, {size_after}", report.records_after);
    let latest = latest_values(partition)?;
    let tombstones = latest.values().filter(|value| value.is_none()).count();
    if !latest.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).eq(table) {
        return Err("the table in the log isn't the table in memory".into());
    }
    println!("  rebuilt from the log: {} keys, all equal, and {tombstones} tombstones", table.len());
    Ok(tombstones)
}

/// Reads the log from its start: what each key was set to last, `None` where it was deleted.
fn latest_values(partition: &Partition) -> Outcome<BTreeMap<String, Option<String>>> {
    let (mut latest, mut next) = (BTreeMap::new(), partition.log_start_offset());
    while next < partition.log_end_offset() {
        let batches = partition.read(next).fetch()?;
        for record in batches.records() {
            let record = record?;
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            latest.insert(text(record.key().ok_or("a record without a key")?), record.value().map(text));
        }
        next = batches.next_offset();
    }
    Ok(latest)
}
