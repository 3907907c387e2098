//! What every opening after a loss must hold to. One call of [`check`] opens an image three times:
//!
//! 1. The log is what one line of the truth leaves; producers get their offsets again; whatever was cut is in `.cut` files, and
//!    those are in the report.
//! 2. A second opening finds the same, and so does a follower beside it, by offset and by time. The next append gets the next offset.
//! 3. That append was durable: after a loss of power it is there, with all that was found before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use stratalog::vfs::{MemoryVfs, OpenMode, Vfs};
use stratalog::{Isolation, LogStore, ManualClock, Offset, OffsetSpec, Partition, StoreOptions, Timestamp};

use super::action::{Done, append, open};
use super::line::{Found, Line, Loss};
use super::truth::{LogTruth, Truth};
use super::world::{cut_files, find, folders};
use crate::history::{Batch, Kind, Row, committed_rows, rows};
use crate::support::at;

/// What each partition holds, by its name.
type Findings = BTreeMap<String, Found>;

/// # Errors
/// The first promise that is broken.
pub fn check(image: &MemoryVfs, truth: &Truth, clock: &ManualClock, loss: Loss, seed: u64) -> Result<(), String> {
    let before = files(image);
    let broken =
        |reason| if names_files() { format!("{reason}\n  before:{before}\n  after:{}", files(image)) } else { reason };
    check_openings(image, truth, clock, loss, seed).map_err(broken)
}

/// Whether violations are to be told with all files: where one script is looked at.
fn names_files() -> bool {
    std::env::var("STRATALOG_SCRIPT").is_ok()
}

/// Names, sizes and the numbers of the records in each.
fn files(image: &MemoryVfs) -> String {
    let mut text = String::new();
    for folder in folders(image).into_iter().filter(|_| names_files()) {
        for entry in image.read_dir(&folder).unwrap_or_default().into_iter().filter(|entry| !entry.is_dir) {
            let bytes = read(image, &folder.join(&entry.name));
            let serials: Vec<_> = serials_in(&bytes).collect();
            let _ = write!(text, "\n    {}/{} {} {}", folder.display(), entry.name, bytes.len(), serials.join(" "));
        }
    }
    text
}

fn check_openings(image: &MemoryVfs, truth: &Truth, clock: &ManualClock, loss: Loss, seed: u64) -> Result<(), String> {
    let serials_before = if truth.is_compacted { BTreeSet::new() } else { serials(image, &[".log"]) };
    let store = open_image(image, clock).map_err(|error| format!("opening: {error}"))?;
    if let Some(failed) = store.open_report().failed.first() {
        return Err(format!("opened without a partition: {failed:?}"));
    }
    let findings = check_topics(&store, truth, loss)?;
    check_cuts(image, &store, truth)?;
    if !truth.is_compacted {
        check_nothing_vanished(image, truth, &findings, &serials_before, loss)?;
    }
    let cuts = cut_files(image);
    drop(store);

    let store = open_image(image, clock).map_err(|error| format!("opening again: {error}"))?;
    let again = look(&store)?;
    if again != findings {
        return Err(format!("a second opening finds {again:?}\n  the first found {findings:?}"));
    }
    if cut_files(image) != cuts {
        return Err(format!("a second opening cuts: {:?}", cut_files(image)));
    }
    check_follower(image, &store, &findings, clock)?;
    let Ok(topic) = store.topic("t") else { return Ok(()) };
    let partition = topic.partition(0).map_err(|error| error.to_string())?;
    let found = &findings["t-0"];
    check_retries(&partition, truth.log(), found, loss)?;
    let next = next_batch(found.end);
    match append(&partition, &next, true).map_err(|error| format!("appending after it: {error}"))? {
        Done::Appended { base, .. } if base == found.end => {}
        done => return Err(format!("the next append went to {done:?}, the log ended at {}", found.end)),
    }
    drop((partition, topic, store));

    let image = image.torn_crash_image(seed);
    let store = open_image(&image, clock).map_err(|error| format!("opening after a second loss: {error}"))?;
    let last = look(&store)?;
    let last = last.get("t-0").ok_or("topic t is gone after a second loss")?;
    let kept: Vec<_> = last.batches.iter().filter(|batch| batch.last >= found.start).collect();
    let expected: Vec<_> = found.batches.iter().chain([&next]).collect();
    if kept != expected {
        let (kept, expected) = (super::line::brief(kept), super::line::brief(expected));
        return Err(format!(
            "after a durable append and a second loss of power the log holds{kept}\n  expected{expected}"
        ));
    }
    Ok(())
}

/// A store that is opened read-only beside the writer's shows the same.
fn check_follower(
    image: &MemoryVfs,
    writer: &LogStore,
    findings: &Findings,
    clock: &ManualClock,
) -> Result<(), String> {
    let options = StoreOptions::new().vfs(Arc::new(image.clone())).clock(Arc::new(clock.clone()));
    let store = options.read_only(true).open("/log").map_err(|error| format!("following: {error}"))?;
    for (name, found) in findings {
        let [own, other] = [writer, &store].map(|store| partition_named(store, name));
        let (own, other) = (own?, other?);
        let [seen, expected] = [&other, &own].map(read_through);
        if seen != expected {
            return Err(format!("{name}: a follower finds {seen:?}\n  the writer finds {expected:?}"));
        }
        let times: BTreeSet<_> = found.batches.iter().flat_map(|batch| [batch.time, batch.time + 1]).collect();
        let specs = times.into_iter().filter_map(Timestamp::from_millis).map(OffsetSpec::Timestamp);
        for spec in specs.chain([OffsetSpec::MaxTimestamp]) {
            let answers = [&own, &other].map(|partition| found_by(partition, spec));
            if answers[0].is_err() || answers[0] != answers[1] {
                return Err(format!("{name}: {spec:?} is {:?}, to a follower {:?}", answers[0], answers[1]));
            }
        }
    }
    Ok(())
}

/// The log start, its end, and what readers of all and of committed records get. Of what lies below the start nothing is promised.
fn read_through(partition: &Partition) -> (i64, i64, Vec<Row>, Vec<Row>) {
    let (start, end) = (partition.log_start_offset().value(), partition.log_end_offset().value());
    let all = rows(partition, start, 1 << 20, Isolation::ReadUncommitted);
    (start, end, all, committed_rows(partition, start, 300))
}

/// The offset and the timestamp; the file of epochs may lag behind.
fn found_by(partition: &Partition, spec: OffsetSpec) -> Result<Option<(Offset, Option<Timestamp>)>, String> {
    let found = partition.find_offset(spec).map_err(|error| error.to_string())?;
    Ok(found.map(|found| (found.offset, found.timestamp)))
}

fn partition_named(store: &LogStore, name: &str) -> Result<Partition, String> {
    let partitions = store.topics().into_iter().flat_map(|topic| topic.partitions());
    let mut named = partitions.filter(|partition| partition.id().to_string() == name);
    named.next().ok_or_else(|| format!("{name} isn't there"))
}

fn open_image(image: &MemoryVfs, clock: &ManualClock) -> Result<LogStore, String> {
    let vfs: Arc<dyn Vfs> = Arc::new(image.clone());
    open(&vfs, clock).map_err(|error| error.to_string())
}

/// What every partition holds.
fn look(store: &LogStore) -> Result<Findings, String> {
    let partitions = store.topics().into_iter().flat_map(|topic| topic.partitions());
    let named = |partition: Partition| {
        let name = partition.id().to_string();
        find(&partition).map(|found| (name.clone(), found)).map_err(|error| format!("{name}: {error}"))
    };
    partitions.map(named).collect()
}

fn check_topics(store: &LogStore, truth: &Truth, loss: Loss) -> Result<Findings, String> {
    let findings = look(store)?;
    for topic in store.topics() {
        if !truth.topics.get(topic.name().as_str()).is_some_and(|known| known.may_be_there) {
            return Err(format!("topic {} was deleted, or never made", topic.name()));
        }
    }
    for (name, known) in &truth.topics {
        let Ok(topic) = store.topic(name) else {
            if known.may_be_gone {
                continue;
            }
            return Err(format!("topic {name} is gone"));
        };
        let count = topic.partitions().len();
        if !(known.partitions..=known.logs.len()).contains(&count) {
            return Err(format!("topic {name} has {count} partitions, expected {}", known.partitions));
        }
        let limit = topic.settings().max_message_bytes;
        if !known.limits.contains(&limit) {
            return Err(format!("topic {name} has max.message.bytes {limit}, expected {:?}", known.limits));
        }
        for (number, log) in known.logs.iter().enumerate().take(count) {
            let id = format!("{name}-{number}");
            let found = findings.get(&id).ok_or_else(|| format!("{id} isn't there"))?;
            log.check(found, loss).map_err(|reason| format!("{id}: {reason}"))?;
        }
    }
    Ok(findings)
}

/// Every `.cut` file was reported, now or by an opening before, with its size.
fn check_cuts(image: &MemoryVfs, store: &LogStore, truth: &Truth) -> Result<(), String> {
    let cuts: Vec<_> = store.open_report().partitions.iter().flat_map(|recovery| &recovery.cuts).collect();
    for file in cut_files(image) {
        if !truth.reported.contains(&file) && !cuts.iter().any(|cut| cut.moved_to == file) {
            return Err(format!("{} is in no report", file.display()));
        }
    }
    let counted = store.open_report().cut_files;
    if counted.files != cut_files(image).len() as u64 {
        return Err(format!("{counted:?} are counted, there are {:?}", cut_files(image)));
    }
    for cut in cuts {
        let size = image.metadata(&cut.moved_to).ok().flatten().map(|found| found.size);
        if size != Some(cut.bytes) {
            return Err(format!("{} is reported with {} bytes and has {size:?}", cut.moved_to.display(), cut.bytes));
        }
    }
    Ok(())
}

/// Each record of the line that was in a `.log` before is in one now, or in a `.cut` file.
fn check_nothing_vanished(
    image: &MemoryVfs,
    truth: &Truth,
    findings: &Findings,
    before: &BTreeSet<String>,
    loss: Loss,
) -> Result<(), String> {
    let after = serials(image, &[".log", ".cut"]);
    let vanished: Vec<_> = before.difference(&after).collect();
    if vanished.is_empty() {
        return Ok(());
    }
    let rows = |line: &Line, start: i64| -> Vec<Row> {
        line.batches.iter().flat_map(|batch| &batch.rows).filter(|row| row.offset >= start).cloned().collect()
    };
    let Some(found) = findings.get("t-0") else { return Ok(()) };
    let line = &truth.log().lines[truth.log().check(found, loss)?];
    for row in rows(line, found.start) {
        let serial = row.value.as_deref().and_then(|value| value.split(' ').next()).unwrap_or_default();
        if vanished.iter().any(|vanished| vanished.as_str() == serial) {
            return Err(format!("{serial} at {} was in a log file and is in no file now", row.offset));
        }
    }
    Ok(())
}

/// The numbers of the records whose bytes are in files with such names.
fn serials(image: &MemoryVfs, endings: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in folders(image) {
        for entry in image.read_dir(&folder).unwrap_or_default() {
            if endings.iter().any(|ending| entry.name.ends_with(ending)) {
                found.extend(serials_in(&read(image, &folder.join(&entry.name))));
            }
        }
    }
    found
}

fn serials_in(bytes: &[u8]) -> impl Iterator<Item = String> + '_ {
    let is_serial = |word: &&[u8]| word[0] == b'#' && word[5] == b'#' && word[1..5].iter().all(u8::is_ascii_digit);
    bytes.windows(6).filter(is_serial).map(|word| String::from_utf8_lossy(word).into_owned())
}

fn read(image: &MemoryVfs, path: &Path) -> Vec<u8> {
    let bytes = image.open(path, OpenMode::Read).and_then(|file| file.map(file.size()?));
    bytes.map(|bytes| bytes.to_vec()).unwrap_or_default()
}

/// The last batch of each producer, sent again, is answered with the offsets it has.
fn check_retries(partition: &Partition, log: &LogTruth, found: &Found, loss: Loss) -> Result<(), String> {
    let line = &log.lines[log.check(found, loss)?];
    if line.lacks_grounds(found.end) {
        // What compaction took on the grounds of what is cut now says nothing of its producers any more.
        return Ok(());
    }
    let mut newest: BTreeMap<i64, &Batch> = BTreeMap::new();
    for batch in line.batches.iter().filter(|batch| batch.last < found.end) {
        if let Kind::Data { producer, .. } = batch.kind {
            newest.insert(producer, batch);
        }
    }
    for (producer, batch) in newest.into_iter().filter(|(_, batch)| line.remembers(batch, found.start, loss)) {
        let answer = append(partition, batch, false).map_err(|error| format!("{producer} again: {error}"))?;
        let expected = Done::Appended { base: batch.base, last: batch.last, is_duplicate: true };
        if answer != expected {
            return Err(format!("{producer} sent {}..={} again: {answer:?}", batch.base, batch.last));
        }
    }
    Ok(())
}

fn next_batch(base: i64) -> Batch {
    let time = at(0).millis();
    let row = Row { offset: base, key: "next".to_owned(), value: Some("next".to_owned()), time };
    Batch { base, last: base, kind: Kind::Plain, rows: vec![row], time }
}
