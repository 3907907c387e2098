//! The end of the machine, or of the process, at every change that a script makes, and again at every change of the recovery.

use std::ops::RangeInclusive;
use std::sync::Arc;

use stratalog::vfs::{FaultyVfs, MemoryVfs, Vfs};
use stratalog::{Clock, ManualClock, StoreError};

use super::action::open;
use super::campaign::{Campaign, hash, mixed};
use super::line::Loss;
use super::op::Script;
use super::truth::Truth;
use super::world::World;

/// How many images are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Density {
    /// How many power losses at each point that is chosen.
    pub losses: u64,
    /// One point in so many is chosen.
    pub point_in: u64,
    /// At one point in so many of those, a power loss is followed by a crash at each change of its recovery.
    pub recovery_in: u64,
}

/// What is known when the machine ends, and the file system that is left to take images of.
struct Crash {
    memory: MemoryVfs,
    vfs: FaultyVfs,
    truth: Truth,
    clock: ManualClock,
}

/// Lets the machine end at each change that `script` makes, and holds `check` against what is left. The first violation ends
/// it: others of the same script are mostly the same.
pub fn crash_everywhere(
    campaign: &Campaign,
    script: &Script,
    density: Density,
    check: impl Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>,
) {
    let name = script.name();
    let mut span = 0..=0;
    if !campaign.trial(|| format!("{name}, undisturbed"), || run_undisturbed(script).map(|found| span = found)) {
        return;
    }
    for point in span.clone() {
        let key = mixed(campaign.seed(), &[hash(&name), point]);
        if !key.is_multiple_of(density.point_in) {
            continue;
        }
        let place = |what: &str, seed: u64| format!("{name}, end at change {point} of {span:?}, {what} {seed}");
        let recovers = (key / density.point_in).is_multiple_of(density.recovery_in);
        let trials = Trials { campaign, crash: &crash_at(script, point), place: &place, check: &check, key };
        let goes_on = trials.kill()
            && (0..density.losses).all(|loss| trials.lose_power(loss))
            && (!recovers || trials.crash_in_recovery());
        if !goes_on {
            return;
        }
    }
}

/// How many changes there are before the operations, and with them.
fn run_undisturbed(script: &Script) -> Result<RangeInclusive<u64>, String> {
    let mut world = World::new(script.is_compacted);
    world.prepare(script.past);
    let first = if script.ops.is_empty() { 0 } else { world.vfs.mutations() };
    world.go(script);
    match world.violation {
        Some(violation) => Err(violation),
        None => Ok(first..=world.vfs.mutations()),
    }
}

fn crash_at(script: &Script, point: u64) -> Crash {
    let mut world = World::new(script.is_compacted);
    world.vfs.crash_after(point);
    world.prepare(script.past);
    world.go(script);
    world.vfs.crash();
    let World { memory, vfs, truth, handles, .. } = world;
    let clock = ManualClock::new(handles.clock.now());
    // Its threads have ended, and it must not write any more.
    handles.drop_store();
    Crash { memory, vfs, truth, clock }
}

/// What is tried at one point.
struct Trials<'a, C> {
    campaign: &'a Campaign,
    crash: &'a Crash,
    place: &'a dyn Fn(&str, u64) -> String,
    check: &'a C,
    key: u64,
}

impl<C: Fn(&MemoryVfs, &Truth, &ManualClock, Loss, u64) -> Result<(), String>> Trials<'_, C> {
    fn check(&self, image: &MemoryVfs, loss: Loss, seed: u64) -> Result<(), String> {
        (self.check)(image, &self.crash.truth, &self.crash.clock, loss, seed)
    }

    fn kill(&self) -> bool {
        let image = self.crash.memory.process_crash_image();
        self.campaign.trial(|| (self.place)("kill", self.key), || self.check(&image, Loss::Process, self.key))
    }

    fn lose_power(&self, loss: u64) -> bool {
        // The first one keeps nothing that wasn't synced.
        let seed = if loss == 0 { 0 } else { mixed(self.key, &[loss]) };
        let image = self.crash.vfs.crash_image(seed).unwrap();
        let place = || (self.place)("power loss", seed);
        self.campaign.trial(place, || self.check(&image, Loss::Power, mixed(seed, &[1])))
    }

    fn crash_in_recovery(&self) -> bool {
        let seed = mixed(self.key, &[u64::MAX]);
        let image = self.crash.vfs.crash_image(seed).unwrap();
        let place = (self.place)("power loss", seed);
        let untouched = image.process_crash_image();
        if !self.campaign.trial(|| place.clone(), || self.check(&untouched, Loss::Power, mixed(seed, &[1]))) {
            return false;
        }
        let undisturbed = FaultyVfs::new(image.process_crash_image());
        let _ = self.recover(&undisturbed);
        (0..undisturbed.mutations()).all(|point| {
            let memory = image.process_crash_image();
            let vfs = FaultyVfs::new(memory.clone());
            vfs.crash_after(point);
            let opened = self.recover(&vfs);
            let left = match mixed(seed, &[point]) {
                even if even.is_multiple_of(2) => memory.process_crash_image(),
                odd => memory.torn_crash_image(odd),
            };
            let place = || format!("{place}, then end at change {point} of its recovery");
            self.campaign.trial(place, || {
                if opened.is_ok() && !vfs.is_crashed() {
                    return Err("the recovery makes other changes the second time".to_owned());
                }
                self.check(&left, Loss::Power, mixed(seed, &[point, 1]))
            })
        })
    }

    fn recover(&self, vfs: &FaultyVfs) -> Result<(), StoreError> {
        let vfs: Arc<dyn Vfs> = Arc::new(vfs.clone());
        open(&vfs, &self.crash.clock).map(drop)
    }
}
