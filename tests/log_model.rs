//! Whatever is done to a partition that isn't compacted, in whatever order, it holds what a plain vector would hold.
//!
//! Random scripts of appends by producers with and without transactions, cuts at both ends, retention, kills, losses of power,
//! and calls that fail until the disk heals. After each step everything that can be read is held against the vector
//! (`support/machine/truth.rs`); a store that was opened read-only earlier must show the same. `STRATALOG_CASES` sets how many scripts
//! are run, default 150.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/follower.rs"]
mod follower;
#[path = "support/history.rs"]
mod history;
#[path = "support/machine/mod.rs"]
mod machine;
mod support;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use follower::{Follower, Glance};
use history::{Batch, History, Kind, Known, Row, Sent, rows};
use machine::action::{Action, append};
use machine::campaign::number;
use machine::fail::EFFECTS;
use machine::truth::RETENTION_MS;
use machine::world::{World, find};
use proptest::prelude::*;
use stratalog::format::ProducerEntry;
use stratalog::vfs::{Fault, MemoryVfs, Operation, Vfs};
use stratalog::{Isolation, OffsetSpec, Timestamp};
use support::offset;

/// A record that a step appends: how far its time is from the clock's, bytes of padding.
type Draft = (i16, u8);

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Draft>, bool),
    /// By one of three producers; always in a transaction where one is open.
    Send {
        producer: u8,
        transactional: bool,
        drafts: Vec<Draft>,
        durable: bool,
    },
    /// Ends a transaction, where one is open; a bump makes the marker's epoch one higher than the producer's.
    Decide {
        producer: u8,
        commit: bool,
        bump: bool,
        durable: bool,
    },
    /// The producer's last batch again, which must not be written again.
    Repeat(u8),
    /// A gap in the sequences, and an old epoch.
    Refused(u8),
    Roll,
    Flush,
    FlushStore,
    Checkpoint,
    Tick,
    Wait(u16),
    DeleteRecords(u8),
    Truncate(u8),
    /// To any place, also inside a batch.
    TruncateInside(u8),
    /// To begin at a place of the log, or above it.
    StartOver(u8),
    Reopen,
    Close,
    Drop,
    Kill,
    PowerLoss(u64),
    /// The machine ends at the change after so many, by a loss of power where there is a seed, else by a kill. Then perhaps again, after
    /// so many changes of the opening.
    End {
        after: u8,
        seed: Option<u64>,
        again: Option<u8>,
    },
    /// After so many calls the next one fails, once or all from then on, until the disk heals.
    Fault {
        after: u8,
        effect: usize,
        once: bool,
    },
    /// The disk heals; the partition is reopened, or the store is dropped and opened again.
    Heal(bool),
}

#[derive(Clone)]
struct Script {
    segment_size: u16,
    /// `retention.bytes`, where there is one.
    retention_bytes: Option<u16>,
    preallocate: bool,
    steps: Vec<Step>,
}

/// One step a line.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment_size, retention_bytes, preallocate, steps } = self;
        writeln!(f, "segment_size: {segment_size}, retention_bytes: {retention_bytes:?}, preallocate: {preallocate}")?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    prop::collection::vec((-1500..1500_i16, 0..60_u8), 1..5)
}

fn step() -> impl Strategy<Value = Step> {
    let durable = || prop::bool::weighted(0.15);
    prop_oneof![
        12 => (drafts(), durable()).prop_map(|(drafts, durable)| Step::Append(drafts, durable)),
        14 => (0..3_u8, prop::bool::weighted(0.6), drafts(), durable()).prop_map(
            |(producer, transactional, drafts, durable)| Step::Send { producer, transactional, drafts, durable }
        ),
        7 => (0..3_u8, any::<bool>(), prop::bool::weighted(0.3), durable())
            .prop_map(|(producer, commit, bump, durable)| Step::Decide { producer, commit, bump, durable }),
        3 => (0..3_u8).prop_map(Step::Repeat),
        1 => (0..3_u8).prop_map(Step::Refused),
        3 => Just(Step::Roll),
        1 => Just(Step::Flush),
        1 => Just(Step::FlushStore),
        1 => Just(Step::Checkpoint),
        3 => Just(Step::Tick),
        4 => (0..4000_u16).prop_map(Step::Wait),
        2 => any::<u8>().prop_map(Step::DeleteRecords),
        3 => any::<u8>().prop_map(Step::Truncate),
        1 => any::<u8>().prop_map(Step::TruncateInside),
        1 => any::<u8>().prop_map(Step::StartOver),
        1 => Just(Step::Reopen),
        2 => Just(Step::Close),
        1 => Just(Step::Drop),
        2 => Just(Step::Kill),
        3 => prop_oneof![Just(0_u64), any::<u64>()].prop_map(Step::PowerLoss),
        2 => (0..40_u8, 0..EFFECTS.len(), any::<bool>())
            .prop_map(|(after, effect, once)| Step::Fault { after, effect, once }),
        2 => any::<bool>().prop_map(Step::Heal),
        2 => (0..60_u8, any::<Option<u64>>(), prop::option::weighted(0.3, 0..40_u8))
            .prop_map(|(after, seed, again)| Step::End { after, seed, again }),
    ]
}

fn scripts() -> impl Strategy<Value = Script> {
    let retention_bytes = prop::option::weighted(0.4, 500..3000_u16);
    (450..1500_u16, retention_bytes, prop::bool::weighted(0.3), prop::collection::vec(step(), 1..70)).prop_map(
        |(segment_size, retention_bytes, preallocate, steps)| Script {
            segment_size,
            retention_bytes,
            preallocate,
            steps,
        },
    )
}

/// The id of the producer with that number.
fn id_of(producer: u8) -> i64 {
    100 + i64::from(producer)
}

struct Model {
    world: World,
    retention_bytes: Option<u64>,
    /// Whether calls may fail now.
    is_faulty: bool,
    serial: u32,
    /// The end of the machine that is to come: how, and where it ends again.
    end: Option<(Option<u64>, Option<u8>)>,
    follower: Follower,
    /// Whether something was cut, failed or lost: then producers whose last batch is deleted may be forgotten.
    may_forget: bool,
}

impl Model {
    fn new(script: &Script) -> Self {
        let mut world = World::new(false);
        let entries = &mut world.handles.topic_config;
        entries.retain(|(key, _)| *key != "segment.bytes");
        entries.push(("segment.bytes", script.segment_size.to_string()));
        entries.push(("preallocate", script.preallocate.to_string()));
        if let Some(bytes) = script.retention_bytes {
            entries.push(("retention.bytes", bytes.to_string()));
        }
        world.handles.open().unwrap();
        world.call(&Action::CreateTopic { name: "t" });
        Self {
            world,
            retention_bytes: script.retention_bytes.map(u64::from),
            is_faulty: false,
            serial: 0,
            end: None,
            follower: Follower::default(),
            may_forget: false,
        }
    }

    /// Whether the call that comes next may fail.
    const fn may_fail(&self) -> bool {
        self.is_faulty || self.end.is_some()
    }

    /// What the vector tells, but for producers whose records are deleted: of those the partition is asked, where it may have
    /// forgotten them.
    fn history(&self) -> History {
        let line = self.world.truth.log().current();
        let mut history = line.history(line.start, line.end);
        let Ok(partition) = self.world.handles.partition() else { return history };
        if self.may_forget {
            let is_told = |id: i64, known: &Known| {
                !line.doubts(id)
                    && known.last.is_some_and(|last| last.first_offset >= line.start)
                    && known.open.is_none_or(|first| first >= line.start)
            };
            let appended = std::mem::take(&mut history.producers);
            history.producers = partition.producers().iter().map(adopt).collect();
            history.producers.retain(|id, found| appended.contains_key(id) || !is_told(*id, found));
            history.producers.extend(appended.into_iter().filter(|(id, known)| is_told(*id, known)));
        }
        history
    }

    /// Lets the follower look in the middle of a step that changes nothing but what the step is there for.
    fn glance(&mut self, step: &Step, dice: u32) -> Result<Option<Glance>, String> {
        self.world.vfs.clear_hooks();
        if self.may_fail() || matches!(step, Step::Fault { .. } | Step::End { .. }) || !dice.is_multiple_of(3) {
            return Ok(None);
        }
        let own = self.world.handles.partition()?;
        let files = (&self.world.memory, &self.world.vfs);
        let nth = u64::from(dice / 3 % 24) + 1;
        self.follower.glance(files, &self.world.handles.clock, &own, nth).map(Some)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let History { start, end, producers, .. } = self.history();
        let place = |fraction: u8| start + (end - start) * i64::from(fraction) / 255;
        self.may_forget |= matches!(
            step,
            Step::Truncate(_)
                | Step::TruncateInside(_)
                | Step::StartOver(_)
                | Step::PowerLoss(_)
                | Step::End { .. }
                | Step::Fault { .. }
        );
        match step {
            Step::Append(drafts, durable) => self.append(Kind::Plain, drafts, *durable),
            Step::Send { producer, transactional, drafts, durable } => {
                let id = id_of(*producer);
                let known = producers.get(&id);
                let transactional = *transactional || known.is_some_and(|known| known.open.is_some());
                let epoch = known.map_or(0, |known| known.epoch);
                let sequence = known.and_then(|known| known.last).map_or(0, |last| last.last_sequence + 1);
                self.append(Kind::Data { producer: id, epoch, sequence, transactional }, drafts, *durable);
            }
            Step::Decide { producer, commit, bump, durable } => {
                let id = id_of(*producer);
                if let Some(known) = producers.get(&id).filter(|known| known.open.is_some()) {
                    let kind = Kind::Marker { producer: id, epoch: known.epoch + i16::from(*bump), commit: *commit };
                    let batch = Batch { base: 0, last: 0, kind, rows: Vec::new(), time: self.world.now() };
                    self.world.call(&Action::Append { batch, durable: *durable, is_encoded: false });
                }
            }
            Step::Repeat(producer) if !self.may_fail() => {
                self.repeat(producers.get(&id_of(*producer)), id_of(*producer))?
            }
            Step::Refused(producer) if !self.may_fail() => {
                self.refused(producers.get(&id_of(*producer)), id_of(*producer))?
            }
            Step::Repeat(_) | Step::Refused(_) => {}
            Step::Roll => self.world.call(&Action::Roll),
            Step::Flush => self.world.call(&Action::Flush),
            Step::FlushStore => self.world.call(&Action::FlushStore),
            Step::Checkpoint => self.world.call(&Action::Checkpoint),
            Step::Tick => self.tick()?,
            Step::Wait(millis) => self.world.handles.clock.advance(u64::from(*millis)),
            Step::DeleteRecords(fraction) => self.world.call(&Action::DeleteRecords { offset: place(*fraction) }),
            Step::Truncate(fraction) => {
                let line = self.world.truth.log().current();
                let bases = line.batches.iter().map(|batch| batch.base);
                let offset = bases.filter(|base| *base <= place(*fraction)).max().unwrap_or(end);
                self.world.call(&Action::Truncate { offset });
            }
            Step::TruncateInside(fraction) => self.world.call(&Action::Truncate { offset: place(*fraction) }),
            Step::StartOver(fraction) => {
                let offset = start + (end + 20 - start) * i64::from(*fraction) / 255;
                self.world.call(&Action::StartOver { offset });
            }
            Step::Reopen => self.world.call(&Action::Reopen),
            Step::Close => self.world.call(&Action::Close),
            Step::Drop => self.world.call(&Action::Drop),
            Step::Kill => self.end_machine(None, None)?,
            Step::PowerLoss(seed) => self.end_machine(Some(*seed), None)?,
            Step::End { after, seed, again } => {
                self.world.vfs.crash_after(u64::from(*after));
                self.end = Some((*seed, *again));
            }
            Step::Fault { after, effect, once } => {
                let times = if *once { 1 } else { u64::MAX };
                let fault = Fault::new(Operation::Any, EFFECTS[*effect]);
                self.world.vfs.inject(Fault { after: u64::from(*after), times, ..fault });
                self.is_faulty = true;
            }
            Step::Heal(by_reopening) => self.heal(*by_reopening),
        }
        self.recover_if_ended()?;
        self.world.told()
    }

    /// Opens the store again where the machine has ended as it was to.
    fn recover_if_ended(&mut self) -> Result<(), String> {
        match self.end.take_if(|_| self.world.vfs.is_crashed()) {
            Some((seed, again)) => self.end_machine(seed, again),
            None => Ok(()),
        }
    }

    fn append(&mut self, kind: Kind, drafts: &[Draft], durable: bool) {
        let now = self.world.now();
        let rows: Vec<_> = (0..)
            .zip(drafts)
            .map(|(offset, (lag, padding))| {
                self.serial += 1;
                let value = format!("#{:04}# {}", self.serial % 10_000, ".".repeat(usize::from(*padding)));
                Row { offset, key: "k".to_owned(), value: Some(value), time: now + i64::from(*lag) }
            })
            .collect();
        let time = rows.iter().map(|row| row.time).max().unwrap();
        let last = i64::try_from(rows.len()).unwrap() - 1;
        self.world.call(&Action::Append {
            batch: Batch { base: 0, last, kind, rows, time },
            durable,
            is_encoded: false,
        });
    }

    fn repeat(&self, known: Option<&Known>, id: i64) -> Result<(), String> {
        let Some(last) = known.and_then(|known| known.last) else { return Ok(()) };
        let line = self.world.truth.log().current();
        let Some(batch) = line.batches.iter().find(|batch| batch.base == last.first_offset) else { return Ok(()) };
        let answer = append(&self.world.handles.partition()?, batch, false);
        let expected = machine::action::Done::Appended { base: batch.base, last: batch.last, is_duplicate: true };
        if answer != Ok(expected) {
            return Err(format!("{id} sent {}..={} again: {answer:?}", batch.base, batch.last));
        }
        Ok(())
    }

    fn refused(&self, known: Option<&Known>, id: i64) -> Result<(), String> {
        let Some(known) = known else { return Ok(()) };
        let next = known.last.map_or(0, |last| last.last_sequence + 1);
        let (epoch, transactional) = (known.epoch, known.open.is_some());
        let row = Row { offset: 0, key: "k".to_owned(), value: Some("refused".to_owned()), time: self.world.now() };
        for (epoch, sequence) in [(epoch, next + 1), (epoch - 1, next)].into_iter().filter(|(epoch, _)| *epoch >= 0) {
            let kind = Kind::Data { producer: id, epoch, sequence, transactional };
            let batch = Batch { base: 0, last: 0, kind, rows: vec![row.clone()], time: row.time };
            // A producer whose epoch a marker has raised may begin anew with any sequence.
            let may_begin = known.last.is_none() && epoch == known.epoch;
            if !may_begin && let Ok(done) = append(&self.world.handles.partition()?, &batch, false) {
                return Err(format!("{id} in epoch {epoch} with sequence {sequence}: {done:?}"));
            }
        }
        Ok(())
    }

    /// Retention must leave nothing that is due, and take nothing that isn't.
    fn tick(&mut self) -> Result<(), String> {
        let now = self.world.now();
        let bound = self.sized_bound();
        // Before the call, which then asks for the bound by time.
        let current = self.world.truth.log_mut().current_mut();
        current.start_high = current.start_high.max(bound);
        self.world.call(&Action::Tick { now });
        if self.may_fail() || self.world.violation.is_some() {
            return Ok(());
        }
        let segments = self.world.handles.partition()?.segments();
        let [first, next, ..] = segments.as_slice() else { return Ok(()) };
        let line = self.world.truth.log().current();
        let span = first.base_offset().value()..next.base_offset().value();
        let in_first = || line.batches.iter().filter(|batch| span.contains(&batch.base));
        if in_first().next().is_some() && in_first().all(|batch| batch.time < now - RETENTION_MS) {
            return Err(format!("the segment at {} has expired and is left", span.start));
        }
        let size: u64 = segments.iter().map(|segment| segment.size()).sum();
        if self.retention_bytes.is_some_and(|limit| size - first.size() >= limit) {
            return Err(format!("{size} bytes are left, and the segment at {} can be spared", span.start));
        }
        Ok(())
    }

    /// Where the log starts when retention by size has done its work.
    fn sized_bound(&self) -> i64 {
        let (Some(limit), Ok(partition)) = (self.retention_bytes, self.world.handles.partition()) else { return 0 };
        let segments = partition.segments();
        let mut size: u64 = segments.iter().map(|segment| segment.size()).sum();
        let mut bound = 0;
        for pair in segments.windows(2) {
            size -= pair[0].size();
            if size < limit {
                break;
            }
            bound = pair[1].base_offset().value();
        }
        bound
    }

    /// Ends the machine or the process, and opens the store again; the latter perhaps twice, as the machine ends at a change of the first
    /// opening.
    fn end_machine(&mut self, seed: Option<u64>, again: Option<u8>) -> Result<(), String> {
        let image = |memory: &MemoryVfs| match seed {
            Some(seed) => memory.torn_crash_image(seed),
            None => memory.process_crash_image(),
        };
        self.world.move_to(image(&self.world.memory));
        (self.is_faulty, self.end, self.world.last_error) = (false, None, None);
        self.follower = Follower::default();
        if let Some(after) = again {
            self.world.vfs.crash_after(u64::from(after));
            self.world.handles.open().ok();
            self.world.move_to(image(&self.world.memory));
        }
        if seed.is_none() {
            let seen = self.follower.see(&self.world.memory, &self.world.handles.clock);
            self.world.call(&Action::Drop);
            let partition = self.world.handles.partition()?;
            return seen.map_or(Ok(()), |seen| seen.judge(&partition));
        }
        self.world.handles.open()?;
        let found = find(&self.world.handles.partition()?)?;
        self.world.truth.log_mut().survive(&found)
    }

    fn heal(&mut self, by_reopening: bool) {
        self.world.vfs.clear_faults();
        self.is_faulty = false;
        self.world.last_error = None;
        let can_reopen = by_reopening && self.world.handles.partition().is_ok();
        self.world.call(if can_reopen { &Action::Reopen } else { &Action::Drop });
    }

    /// Holds everything that can be read against the vector; `dice` decides where to look.
    fn check(&mut self, dice: u32) -> Result<(), String> {
        if self.is_faulty {
            return Ok(());
        }
        if let Some(error) = self.world.last_error.take() {
            return Err(error);
        }
        self.world.observe(true)?;
        let partition = self.world.handles.partition()?;
        let line = self.world.truth.log().current();
        let history = self.history();
        let end = partition.log_end_offset().value();
        if end != line.end {
            return Err(format!("the log ends at {end}, not at {}", line.end));
        }
        let from = history.start + (history.end - history.start) * i64::from(dice % 97) / 96;
        let all = line.batches.iter().flat_map(|batch| &batch.rows);
        let expected: Vec<_> = all.filter(|row| row.offset >= from).collect();
        let found = rows(&partition, from, [1, 200, 1 << 20][dice as usize % 3], Isolation::ReadUncommitted);
        if found.iter().ne(expected.iter().copied()) {
            return Err(format!("read from {from}: {found:?}, expected {expected:?}"));
        }
        self.check_times(dice)?;
        self.check_greatest_time(&history)?;
        self.check_producers(&history)?;
        self.follower.check(&self.world.memory, &self.world.handles.clock, &partition, (from, dice))?;
        let names = self.world.memory.read_dir(partition.path()).unwrap();
        // Checkpoints leave their `.tmp` for the next one to overwrite; segments must not.
        let is_of_segment = |name: &str| name.starts_with(|first: char| first.is_ascii_digit());
        let unfinished = [".cleaned", ".swap", ".replaced", ".tmp"];
        let is_unfinished = |name: &str| is_of_segment(name) && unfinished.iter().any(|suffix| name.ends_with(suffix));
        match names.iter().find(|entry| is_unfinished(&entry.name)) {
            Some(left) => Err(format!("{} is left", left.name)),
            None => Ok(()),
        }
    }

    fn check_times(&self, dice: u32) -> Result<(), String> {
        let target = self.world.now() - i64::from(dice % 8000) + 1500;
        let time = OffsetSpec::Timestamp(Timestamp::from_millis(target).unwrap());
        let found = self.world.handles.partition()?.find_offset(time).map_err(|error| error.to_string())?;
        let found = found.map(|found| (found.offset.value(), found.timestamp.unwrap().millis()));
        let line = self.world.truth.log().current();
        let mut times = line.batches.iter().flat_map(Batch::times).filter(|(place, _)| *place >= line.start);
        let expected = times.find(|(_, time)| *time >= target);
        if found != expected {
            return Err(format!("the first record since {target} is {found:?}, not {expected:?}"));
        }
        Ok(())
    }

    fn check_greatest_time(&self, history: &History) -> Result<(), String> {
        let found = self.world.handles.partition()?.find_offset(OffsetSpec::MaxTimestamp);
        let found = found.map_err(|error| error.to_string())?;
        let found = found.map(|found| (found.timestamp.unwrap().millis(), found.offset.value()));
        let times = history.not_aborted().map(|row| (row.time, Reverse(row.offset)));
        let expected = times.max().map(|(time, Reverse(place))| (time, place));
        if found != expected {
            return Err(format!("the greatest time is {found:?}, not {expected:?}"));
        }
        Ok(())
    }

    fn check_producers(&self, history: &History) -> Result<(), String> {
        let partition = self.world.handles.partition()?;
        let facts = |known: &Known| (known.epoch, known.last, known.open);
        let found: BTreeMap<_, _> = partition.producers().iter().map(adopt).collect();
        for (id, known) in &history.producers {
            if found.get(id).map(facts) != Some(facts(known)) {
                return Err(format!("producer {id} is known as {:?}, not {known:?}", found.get(id)));
            }
        }
        if partition.last_stable_offset() != offset(history.last_stable()) {
            let expected = history.last_stable();
            return Err(format!("the last stable offset is {}, not {expected}", partition.last_stable_offset()));
        }
        Ok(())
    }
}

/// A producer as the partition knows it.
fn adopt(entry: &ProducerEntry) -> (i64, Known) {
    let last = entry.last_offset.map(|last| Sent {
        first_offset: last.value() - i64::from(entry.offset_delta),
        last_offset: last.value(),
        last_sequence: entry.last_sequence.unwrap().value(),
    });
    let known = Known {
        epoch: entry.producer_epoch.value(),
        last,
        open: entry.current_transaction_first_offset.map(|first| first.value()),
        time: entry.timestamp.unwrap().millis(),
        newest: last.map_or(-1, |last| last.last_offset),
    };
    (entry.producer_id.value(), known)
}

fn run(script: &Script) -> Result<(), String> {
    let mut model = Model::new(script);
    let mut dice = 12345_u32;
    for (number, step) in script.steps.iter().enumerate() {
        let told = |reason: String| format!("step {number}, {step:?}: {reason}");
        let glance = model.glance(step, dice >> 8).map_err(told)?;
        model.step(step).map_err(told)?;
        if let Some(glance) = glance
            && !model.is_faulty
        {
            glance.judge(&model.world.handles.partition()?, false).map_err(told)?;
        }
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let vfs = model.world.vfs.clone();
        vfs.undisturbed(|| model.check(dice >> 8)).map_err(told)?;
    }
    Ok(())
}

fn cases() -> u32 {
    u32::try_from(number("STRATALOG_CASES", 150)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_partition_holds_what_a_vector_would_hold(script in scripts()) {
        prop_assert_eq!(run(&script), Ok(()));
    }
}
