//! Finds records by their time: a day of readings, one a minute, and what was read from a quarter past three on.
//!
//! The log keeps a sparse index of timestamps beside each segment, so finding a time reads a few kilobytes, whatever
//! the log's size. The store lives in memory here, through the same seam that disks stand behind.

use std::error::Error;
use std::sync::Arc;

use stratalog::vfs::MemoryVfs;
use stratalog::{Offset, OffsetSpec, Partition, Record, StoreOptions, Timestamp, TopicConfig};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
/// Midnight of 14 November 2023 in UTC, in milliseconds.
const MIDNIGHT: i64 = 1_699_920_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let store = StoreOptions::new().vfs(Arc::new(MemoryVfs::new())).open("/readings")?;
    // Small segments, so that the day takes several of them. The readings are old: they must not expire.
    let config = TopicConfig::new().segment_bytes(8 * 1024).index_interval_bytes(512).retention_ms(None);
    let partition = store.create_topic("readings", 1, config)?.partition(0)?;
    let midnight = Timestamp::from_millis(MIDNIGHT).ok_or("the day lies before 1970")?;
    append_a_day(&partition, midnight)?;
    println!("{} records in {} segments", partition.log_end_offset(), partition.segments().len());

    let quarter_past_three = midnight.saturating_add(15 * HOUR + 15 * MINUTE);
    show(&partition, "15:15", OffsetSpec::Timestamp(quarter_past_three))?;
    show(&partition, "the latest time", OffsetSpec::MaxTimestamp)?;
    show(&partition, "the day before", OffsetSpec::Timestamp(Timestamp::ZERO))?;
    show(&partition, "the day after", OffsetSpec::Timestamp(midnight.saturating_add(24 * HOUR)))?;
    store.close()?;
    Ok(())
}

fn append_a_day(partition: &Partition, midnight: Timestamp) -> Result<(), Box<dyn Error>> {
    for hour in 0..24 {
        let values: Vec<String> = (0..60).map(|minute| format!("reading of {hour:02}:{minute:02}")).collect();
        let time = |minute| midnight.saturating_add(hour * HOUR + minute * MINUTE);
        let records: Vec<Record<'_>> =
            values.iter().zip(0..).map(|(value, minute)| Record::new(value).timestamp(time(minute))).collect();
        partition.append(&records)?;
    }
    Ok(())
}

/// Prints where a time is found, and the three records from there on.
fn show(partition: &Partition, name: &str, spec: OffsetSpec) -> Result<(), Box<dyn Error>> {
    let Some(found) = partition.find_offset(spec)? else {
        println!("{name}: no record at or after it");
        return Ok(());
    };
    println!("{name}: offset {}", found.offset);
    for value in read_values(partition, found.offset, 3)? {
        println!("    {value}");
    }
    Ok(())
}

/// The first `count` values from `offset` on. A batch is read as a whole, so records before `offset` are left out.
fn read_values(partition: &Partition, offset: Offset, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let mut values = Vec::new();
    for batch in &partition.read(offset).fetch()? {
        for record in batch?.records() {
            let record = record?;
            if record.offset() >= offset && values.len() < count {
                values.push(String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned());
            }
        }
    }
    Ok(values)
}
