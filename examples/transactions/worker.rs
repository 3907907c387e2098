//! The worker: reads amounts, adds them to totals by account, and writes these out, a batch of amounts a transaction.
//!
//! A transaction holds the new totals, in two partitions, and the offset after the amounts that are in them. So the committed
//! totals and the committed offset always tell of the same amounts, whenever the process dies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stratalog::client::{Transaction, TransactionCoordinator};
use stratalog::group::{CommittedOffset, OffsetLog};
use stratalog::{Isolation, LogStore, OwnedRecord, Record, TopicPartition};

use crate::{Outcome, read};

/// The name of the transactional producer, and of the consumer group.
const NAME: &str = "summing-up";
const TIMEOUT_MS: u32 = 60_000;

/// Sums by account.
pub type Totals = BTreeMap<u64, u64>;
/// In which transaction of the worker, and before which step of it, the process is to die.
pub type Death<'a> = (usize, &'a str);

/// Works through the input from where the last committed transaction ended.
pub fn run(folder: &Path, death: Option<Death<'_>>) -> Outcome<()> {
    let store = LogStore::open(folder)?;
    let (coordinator, _) = TransactionCoordinator::open(&store)?;
    // This aborts what the one before left open.
    let mut producer = coordinator.init_producer(NAME, TIMEOUT_MS)?;
    let (amounts, outputs) = (store.topic("amounts")?.partition(0)?, store.topic("totals")?.partitions());
    let committed = OffsetLog::open(&store)?.committed(NAME, amounts.id())?;
    let mut next = committed.map_or(amounts.log_start_offset(), |committed| committed.offset);
    let mut totals = Totals::new();
    for output in &outputs {
        read(output, Isolation::ReadCommitted, |account, total| _ = totals.insert(account, total))?;
    }
    println!("a worker begins at offset {next} of {}", amounts.log_end_offset());

    for number in 1.. {
        let reach = |step: &str| {
            if death == Some((number, step)) {
                std::process::abort()
            }
        };
        reach("next transaction");
        // No size fits, so this is one batch.
        let batch = amounts.read(next).max_bytes(0).fetch()?;
        if batch.is_empty() {
            break;
        }
        let changed = add(&mut totals, batch.records())?;
        next = batch.next_offset();
        let mut transaction = producer.begin()?;
        for (output, remainder) in outputs.iter().zip(0..) {
            let ours = changed.iter().copied().filter(|account| account % 2 == remainder);
            append(&mut transaction, output.id(), &totals, ours)?;
            reach("second partition");
        }
        reach("offsets");
        transaction.commit_offsets(NAME, &[(amounts.id().clone(), CommittedOffset::new(next))])?;
        reach("commit");
        transaction.commit()?;
    }
    Ok(store.close()?)
}

/// Adds amounts to the totals; returns the accounts that changed.
fn add<E: std::error::Error + 'static>(
    totals: &mut Totals,
    amounts: impl Iterator<Item = Result<OwnedRecord, E>>,
) -> Outcome<BTreeSet<u64>> {
    let mut changed = BTreeSet::new();
    for record in amounts {
        let (account, amount) = parse(&record?)?;
        *totals.entry(account).or_default() += amount;
        changed.insert(account);
    }
    Ok(changed)
}

fn append(
    transaction: &mut Transaction<'_>,
    output: &TopicPartition,
    totals: &Totals,
    accounts: impl Iterator<Item = u64>,
) -> Outcome<()> {
    let texts = accounts.filter_map(|account| Some((account.to_string(), totals.get(&account)?.to_string())));
    let texts: Vec<_> = texts.collect();
    let records: Vec<_> = texts.iter().map(|(account, total)| Record::keyed(account, total)).collect();
    transaction.append(output, &records)?;
    Ok(())
}

/// An account and a number, as all records here have them.
pub fn parse(record: &OwnedRecord) -> Outcome<(u64, u64)> {
    let number = |bytes: Option<&[u8]>| -> Outcome<u64> { Ok(str::from_utf8(bytes.unwrap_or_default())?.parse()?) };
    Ok((number(record.key())?, number(record.value())?))
}
