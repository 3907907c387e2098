//! The machine or the process may end at any change of any operation, or pair of operations, and again while the store
//! recovers: every promise holds afterwards (`support/machine/promises.rs` lists them).
//!
//! `STRATALOG_IMAGES` says how many images are looked at, `STRATALOG_SEED` which, `STRATALOG_SCRIPT` of which scripts.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/history.rs"]
mod history;
#[path = "support/machine/mod.rs"]
mod machine;
mod support;

use machine::campaign::{Campaign, chosen, number};
use machine::crash::{Density, crash_everywhere};
use machine::op::{Script, longer, scripts};
use machine::promises::check;

/// Images in a run of the whole test suite.
const IMAGES: u64 = 4_000;

/// Of a script that is run, at least so many.
const IMAGES_PER_SCRIPT: u64 = 4;

/// About how many changes each script makes, and its recovery.
const POINTS: u64 = 40;
const RECOVERY_POINTS: u64 = 40;

/// Spreads the images over the points of all scripts: the kill and the power losses of each chosen point, and about as many
/// in recoveries.
fn density(images: u64, scripts: u64) -> Density {
    let points = scripts * POINTS;
    let point_in = (6 * points / images).max(1);
    let at_point = (images * point_in / points).max(2);
    Density { losses: at_point / 2, point_in, recovery_in: (2 * RECOVERY_POINTS / at_point).max(1) }
}

#[test]
fn after_the_end_of_the_machine_at_any_change_every_promise_holds() {
    let campaign = Campaign::new("crash_everywhere");
    let images = number("STRATALOG_IMAGES", IMAGES).max(1);
    let mut all = scripts();
    all.extend(longer(number("STRATALOG_LONGER", 0)));
    let one_in = all.len() as u64 * IMAGES_PER_SCRIPT / images;
    let scripts = chosen(all, Script::name, one_in);
    let density = density(images, scripts.len() as u64);
    campaign.each(&scripts, |script| crash_everywhere(&campaign, script, density, check));
    campaign.end("images");
}
