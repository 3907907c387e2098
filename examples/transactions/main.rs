//! Consume, transform, produce, exactly once: amounts come in, totals by account go out, and the process dies at bad moments.
//!
//! The program starts itself as a worker, which aborts itself in the middle of a transaction. The next worker goes on where the
//! last committed transaction ended. In the end the totals that readers of committed records see must be the plain sums of all
//! amounts: none lost, none counted twice.

mod worker;

use std::error::Error;
use std::path::Path;
use std::process::Command;

use stratalog::{Isolation, LogStore, Partition, Record, TopicConfig};

use worker::{Death, Totals};

const BATCHES: usize = 40;
const AMOUNTS_PER_BATCH: usize = 50;
/// Where workers die, one after the other: in which of their transactions, and before which of its steps.
const DEATHS: [(usize, &str); 5] =
    [(1, "second partition"), (7, "offsets"), (9, "commit"), (4, "next transaction"), (1, "commit")];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--worker", folder] => worker::run(Path::new(folder), None),
        ["--worker", folder, number, step] => worker::run(Path::new(folder), Some((number.parse()?, step))),
        _ => {
            let folder = std::env::temp_dir().join(format!("stratalog-transactions-{}", std::process::id()));
            let done = run_workers(&folder);
            std::fs::remove_dir_all(&folder)?;
            done
        }
    }
}

fn run_workers(folder: &Path) -> Outcome<()> {
    write_amounts(folder)?;
    for death in DEATHS {
        run_worker(folder, Some(death))?;
        println!("  killed in its transaction {} before the {}", death.0, death.1);
    }
    run_worker(folder, None)?;
    check_totals(folder)
}

/// Fills the input. The amounts are random, and the same in every run.
fn write_amounts(folder: &Path) -> Outcome<()> {
    let store = LogStore::open(folder)?;
    let amounts = store.create_topic("amounts", 1, TopicConfig::new())?.partition(0)?;
    store.create_topic("totals", 2, TopicConfig::new())?;
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..BATCHES {
        let mut draw = || (random.u64(..20).to_string(), random.u64(1..1000).to_string());
        let batch: Vec<_> = (0..AMOUNTS_PER_BATCH).map(|_| draw()).collect();
        amounts.append(&batch.iter().map(|(account, amount)| Record::keyed(account, amount)).collect::<Vec<_>>())?;
    }
    Ok(store.close()?)
}

/// Runs a worker in a process of its own, which must end as it was told to.
fn run_worker(folder: &Path, death: Option<Death<'_>>) -> Outcome<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--worker").arg(folder);
    if let Some((number, step)) = death {
        command.args([&number.to_string(), step]);
    }
    let status = command.status()?;
    // A process that fails or panics has an exit code; one that is aborted has none.
    let is_as_told = if death.is_some() { status.code().is_none() } else { status.success() };
    if is_as_told { Ok(()) } else { Err(format!("a worker that was to die at {death:?} ended with {status}").into()) }
}

/// Holds the totals in the log against the sums of the amounts in the log.
fn check_totals(folder: &Path) -> Outcome<()> {
    let store = LogStore::open(folder)?;
    let (mut sums, mut totals, mut written, mut committed) = (Totals::new(), Totals::new(), 0, 0);
    let amounts = store.topic("amounts")?.partition(0)?;
    let count =
        read(&amounts, Isolation::ReadCommitted, |account, amount| *sums.entry(account).or_default() += amount)?;
    for partition in store.topic("totals")?.partitions() {
        written += read(&partition, Isolation::ReadUncommitted, |_, _| ())?;
        committed += read(&partition, Isolation::ReadCommitted, |account, total| _ = totals.insert(account, total))?;
    }
    println!("{written} totals were written, and {committed} of them are committed: the others nobody sees");
    if totals != sums {
        return Err(format!("the totals are {totals:?}, the sums {sums:?}").into());
    }
    println!("the totals of {} accounts equal the sums of {count} amounts", totals.len());
    Ok(store.close()?)
}

/// Hands the key and value of every record to `take`; returns how many there are.
fn read(partition: &Partition, isolation: Isolation, mut take: impl FnMut(u64, u64)) -> Outcome<usize> {
    let (mut next, mut count) = (partition.log_start_offset(), 0);
    loop {
        let batches = partition.read(next).isolation(isolation).fetch()?;
        for record in batches.records() {
            let (account, amount) = worker::parse(&record?)?;
            take(account, amount);
            count += 1;
        }
        if batches.is_empty() {
            return Ok(count);
        }
        next = batches.next_offset();
    }
}
