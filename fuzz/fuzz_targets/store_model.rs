//! Any operations on a partition over a disk that fails and ends: no panic, and what was called durable is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stratalog_fuzz::model::{STEPS_MAX, Step, World};

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (compacts, steps) = input;
    let mut world = World::new(compacts);
    for step in steps.iter().take(STEPS_MAX) {
        world.step(step);
    }
    world.lose_power(0);
});
