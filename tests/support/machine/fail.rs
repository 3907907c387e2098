//! Every call of a script fails, once or from then on, with every kind of error; then the disk heals and life goes on.
//!
//! After the disk has healed, the store opens or its partition is reopened, appends succeed, a restart shows the same, and a
//! loss of power keeps what was called durable.

use std::io::ErrorKind;
use std::ops::Range;

use stratalog::ManualClock;
use stratalog::vfs::{Effect, Fault, MemoryVfs, Operation};

use super::action::Action;
use super::campaign::{Campaign, hash, mixed};
use super::line::Loss;
use super::op::Script;
use super::truth::Truth;
use super::world::World;

/// EIO, ENOSPC, EMFILE, ENOMEM, EACCES, and a full disk in the middle of a write. A sync that fails loses bytes.
pub const EFFECTS: [Effect; 6] = [
    Effect::Error(ErrorKind::Other),
    Effect::Error(ErrorKind::StorageFull),
    Effect::OsError(24),
    Effect::Error(ErrorKind::OutOfMemory),
    Effect::Error(ErrorKind::PermissionDenied),
    Effect::ShortWrite { size: 70, kind: ErrorKind::StorageFull },
];

/// How many faults one call can be given: each kind, once and from then on.
pub const FAULTS_PER_CALL: u64 = 2 * EFFECTS.len() as u64;

/// What a user does when the disk has healed.
#[derive(Debug, Clone, Copy)]
enum Healing {
    Reopen,
    DropAndOpen,
    CloseAndOpen,
}

const HEALINGS: [Healing; 3] = [Healing::Reopen, Healing::DropAndOpen, Healing::CloseAndOpen];

/// Lets each call that `script` makes fail, one fault in `fault_in` of those possible, and holds `check` against what is left in
/// the end. The first violation ends it.
pub fn fail_everywhere(
    campaign: &Campaign,
    script: &Script,
    fault_in: u64,
    check: impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) {
    let name = script.name();
    for call in calls(script) {
        for (number, effect) in EFFECTS.into_iter().enumerate() {
            for times in [1, u64::MAX] {
                let key = mixed(campaign.seed(), &[hash(&name), call, number as u64, times]);
                if !key.is_multiple_of(fault_in) {
                    continue;
                }
                let fault = Fault { after: call, times, ..Fault::new(Operation::Any, effect) };
                let healing = HEALINGS[(mixed(key, &[1]) % 3) as usize];
                let how = if times == 1 { "once" } else { "from then on" };
                let place = || format!("{name}, call {call} fails {how} with {effect:?}, then {healing:?}, seed {key}");
                if !campaign.trial(place, || fail(script, fault, healing, key, &check)) {
                    return;
                }
            }
        }
    }
}

/// The calls that the operations make; of a script without any, those of its past.
fn calls(script: &Script) -> Range<u64> {
    let mut world = World::new(script.is_compacted);
    world.prepare(script.past);
    let first = if script.ops.is_empty() { 0 } else { world.vfs.calls() };
    world.go(script);
    first..world.vfs.calls()
}

fn fail(
    script: &Script,
    fault: Fault,
    healing: Healing,
    seed: u64,
    check: &impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) -> Result<(), String> {
    let mut world = World::new(script.is_compacted);
    world.vfs.inject(fault);
    go(&mut world, script, healing, seed, check).map_err(|reason| {
        let is_asked = std::env::var("STRATALOG_SCRIPT").is_ok();
        if is_asked { format!("{reason}\n    {}", world.story.join("\n    ")) } else { reason }
    })
}

fn go(
    world: &mut World,
    script: &Script,
    healing: Healing,
    seed: u64,
    check: &impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) -> Result<(), String> {
    world.prepare(script.past);
    world.go(script);
    world.vfs.clear_faults();
    world.told()?;
    heal(world, healing)?;

    world.last_error = None;
    world.end();
    world.told()?;
    if let Some(error) = world.last_error.take() {
        return Err(format!("after the disk has healed: {error}"));
    }
    world.call(&Action::Drop);
    world.told().map_err(|reason| format!("after a restart: {reason}"))?;
    let clock = &world.handles.clock;
    check(&world.memory.process_crash_image(), &world.truth, clock, Loss::Process, seed)
        .map_err(|reason| format!("killed in the end: {reason}"))?;
    for seed in [0, seed] {
        check(&world.memory.torn_crash_image(seed), &world.truth, clock, Loss::Power, seed)
            .map_err(|reason| format!("power lost in the end, {seed}: {reason}"))?;
    }
    Ok(())
}

fn heal(world: &mut World, healing: Healing) -> Result<(), String> {
    let is_whole = |world: &World| {
        let topic = world.truth.topics.get("t");
        world.handles.partition().is_ok() && topic.is_some_and(|topic| topic.may_be_there && !topic.may_be_gone)
    };
    world.last_error = None;
    match healing {
        Healing::Reopen if is_whole(world) => world.call(&Action::Reopen),
        Healing::CloseAndOpen if world.handles.store().is_ok() => {
            world.call(&Action::Close);
            // What can't be closed in order is opened all the same.
            world.last_error = None;
        }
        _ => world.call(&Action::Drop),
    }
    world.told()?;
    if let Some(error) = world.last_error.take() {
        return Err(format!("the disk has healed, and yet: {error}"));
    }
    Ok(())
}
