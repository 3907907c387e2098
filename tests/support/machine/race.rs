//! One operation is held at each of its calls while another one runs; then it goes on.
//!
//! The outcome must be what the two give one after the other, in either order, by what each answered: an operation that
//! failed may have done its work or not. Where the other one waits for the first, the first goes on, and both must end.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use stratalog::ManualClock;
use stratalog::vfs::{Hook, MemoryVfs, Operation};

use super::action::{Action, Done, Handles};
use super::campaign::{Campaign, hash, mixed};
use super::line::Loss;
use super::op::{IDEMPOTENT, Op, Past, TRANSACTIONAL};
use super::truth::{RETENTION_MS, Truth};
use super::world::{World, observe};
use crate::history::Kind;

/// How long the second operation has before it counts as waiting for the first.
const TURN: Duration = Duration::from_millis(15);

/// After this, two operations that have not ended wait for each other.
const PATIENCE: Duration = Duration::from_secs(10);

/// A call and its answer.
type Step = (Action, Result<Done, String>);

/// Two operations on a log with that past.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub past: Past,
    pub held: Op,
    pub other: Op,
}

impl Pair {
    pub fn name(&self) -> String {
        format!("{:?}/{:?} held for {:?}", self.past, self.held, self.other)
    }

    fn is_compacted(&self) -> bool {
        self.held == Op::Compact || self.other == Op::Compact
    }
}

/// Holds the first operation at each of its calls, one in `point_in` of them. The first violation ends it.
pub fn race_everywhere(
    campaign: &Campaign,
    pair: Pair,
    point_in: u64,
    check: impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) {
    let name = pair.name();
    let calls = calls(pair);
    for call in 1..=calls {
        let key = mixed(campaign.seed(), &[hash(&name), call]);
        if !key.is_multiple_of(point_in) {
            continue;
        }
        let place = || format!("{name}, at its call {call} of {calls}, seed {key}");
        if !campaign.trial(place, || race(pair, call, key, &check)) {
            return;
        }
    }
}

fn prepared(pair: Pair) -> World {
    let mut world = World::new(pair.is_compacted());
    world.prepare(pair.past);
    if pair.held == Op::Tick || pair.other == Op::Tick {
        world.handles.clock.advance(RETENTION_MS.unsigned_abs() / 2);
    }
    world
}

/// How many calls the first operation makes alone.
fn calls(pair: Pair) -> u64 {
    let mut world = prepared(pair);
    let before = world.vfs.calls();
    let now = world.now();
    for action in pair.held.actions(&world.truth, &mut world.serial, now) {
        let _ = world.handles.perform(&action);
    }
    world.vfs.calls() - before
}

fn race(
    pair: Pair,
    call: u64,
    seed: u64,
    check: &impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) -> Result<(), String> {
    let World { memory, vfs, handles, truth, mut serial, .. } = prepared(pair);
    let now = stratalog::Clock::now(&handles.clock).millis();
    let held = pair.held.actions(&truth, &mut serial, now);
    let other: Vec<_> = pair.other.actions(&truth, &mut serial, now).into_iter().map(by_another_producer).collect();
    let handles = Arc::new(handles);
    let gate = vfs.block(Hook::at(Operation::Any).nth(call));
    let first = spawn(&handles, held);
    let is_held = gate.wait_until_reached(TURN) || gate.wait_until_reached(TURN * 20);
    let second = spawn(&handles, other);
    let early = if is_held { second.recv_timeout(TURN).ok() } else { None };
    gate.release();
    let ended = |steps: Option<Vec<Step>>, receiver: &Receiver<Vec<Step>>, which: &str| match steps {
        Some(steps) => Ok(steps),
        None => receiver.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => format!("{which} operation never ends"),
            RecvTimeoutError::Disconnected => format!("{which} operation panicked"),
        }),
    };
    let second = ended(early, &second, "the second")?;
    let first = ended(None, &first, "the held")?;
    vfs.clear_hooks();
    if handles.store().is_err() {
        handles.open()?;
    }
    let told = |reason: String| format!("{reason}\n  held: {}\n  other: {}", brief(&first), brief(&second));
    let candidates = outcomes(&handles, &truth, &first, &second).map_err(told)?;
    for (loss, image) in [(Loss::Process, memory.process_crash_image()), (Loss::Power, memory.torn_crash_image(seed))] {
        any(&candidates, |truth| check(&image.process_crash_image(), truth, &handles.clock, loss, seed))
            .map_err(|reason| told(format!("{loss:?} lost after it: {reason}")))?;
    }
    let truth = candidates.into_iter().next().unwrap();
    let handles = Arc::into_inner(handles).ok_or("an operation that ended still holds the store")?;
    go_on(
        World { memory, vfs, handles, truth, serial, violation: None, last_error: None, story: Vec::new() },
        seed,
        check,
    )
    .map_err(told)
}

/// Appends and a last loss of power.
fn go_on(
    mut world: World,
    seed: u64,
    check: &impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) -> Result<(), String> {
    world.end();
    world.told()?;
    if let Some(error) = world.last_error {
        return Err(format!("going on: {error}"));
    }
    check(&world.memory.torn_crash_image(seed), &world.truth, &world.handles.clock, Loss::Power, seed)
        .map_err(|reason| format!("power lost in the end: {reason}"))
}

/// Makes the calls in a thread of its own, until one fails.
fn spawn(handles: &Arc<Handles>, actions: Vec<Action>) -> Receiver<Vec<Step>> {
    let (sender, receiver) = channel();
    let handles = Arc::clone(handles);
    thread::spawn(move || {
        let mut steps: Vec<Step> = Vec::new();
        for action in actions {
            let result = handles.perform(&action);
            let failed = result.is_err();
            steps.push((action, result));
            if failed {
                break;
            }
        }
        // First, so that the receiver may take the handles apart.
        drop(handles);
        sender.send(steps).ok();
    });
    receiver
}

/// Two operations never share a producer: which of two batches with one sequence comes first can't be told afterwards.
fn by_another_producer(action: Action) -> Action {
    let Action::Append { mut batch, durable, is_encoded } = action else { return action };
    if let Kind::Data { producer, sequence, .. } = &mut batch.kind
        && [IDEMPOTENT, TRANSACTIONAL].contains(producer)
    {
        *producer += 10;
        *sequence = 0;
    }
    Action::Append { batch, durable, is_encoded }
}

/// What may be true after both, as far as the store shows the same.
fn outcomes(handles: &Handles, before: &Truth, first: &[Step], second: &[Step]) -> Result<Vec<Truth>, String> {
    let store = handles.store()?;
    let mut possible = Vec::new();
    let mut reasons = Vec::new();
    for order in orders(first, second) {
        for truth in told_by(before, &order) {
            let mut truth = match truth {
                Ok(truth) => truth,
                Err(reason) => {
                    reasons.push(reason);
                    continue;
                }
            };
            match observe(&store, &mut truth, true) {
                Ok(()) => possible.push(truth),
                Err(reason) => reasons.push(reason),
            }
        }
    }
    if possible.is_empty() {
        return Err(format!("no order of the two explains what is there:\n  {}", reasons.join("\n  or else: ")));
    }
    Ok(possible)
}

/// All ways to do the steps of both, each in its order.
fn orders(first: &[Step], second: &[Step]) -> Vec<Vec<Step>> {
    match (first.split_first(), second.split_first()) {
        (None, _) => vec![second.to_vec()],
        (_, None) => vec![first.to_vec()],
        (Some((step, rest)), Some((other, others))) => {
            let begin = |step: &Step, orders: Vec<Vec<Step>>| -> Vec<Vec<Step>> {
                orders.into_iter().map(|order| [vec![step.clone()], order].concat()).collect()
            };
            [begin(step, orders(rest, second)), begin(other, orders(first, others))].concat()
        }
    }
}

/// What is true after the steps; one that failed may have had its effect or none.
fn told_by(before: &Truth, steps: &[Step]) -> Vec<Result<Truth, String>> {
    let mut truths = vec![Ok(before.clone())];
    for (action, result) in steps {
        let mut next: Vec<Result<Truth, String>> = Vec::new();
        for truth in truths {
            let Ok(mut truth) = truth else {
                next.push(truth);
                continue;
            };
            if result.is_err() {
                next.push(Ok(truth.clone()));
            }
            truth.begin(action);
            next.push(match result {
                Ok(done) => truth.finish(action, done).map(|()| truth),
                Err(_) => Ok(truth),
            });
        }
        truths = next;
    }
    truths
}

/// Whether `check` holds for one of the truths; else the reason that the first one gives.
fn any(truths: &[Truth], check: impl Fn(&Truth) -> Result<(), String>) -> Result<(), String> {
    let mut first = None;
    for truth in truths {
        match check(truth) {
            Ok(()) => return Ok(()),
            Err(reason) => drop(first.get_or_insert(reason)),
        }
    }
    first.map_or(Ok(()), Err)
}

fn brief(steps: &[Step]) -> String {
    let text = |(action, result): &Step| format!("{} -> {result:?}", action.brief());
    steps.iter().map(text).collect::<Vec<_>>().join("; ")
}
