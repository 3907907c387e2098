//! Every call to the file system may fail, once or from then on, with any error: what was acknowledged stays, and when the disk
//! has healed everything goes on.
//!
//! `STRATALOG_FAULTS` says how many faults are tried, `STRATALOG_SEED` which, `STRATALOG_SCRIPT` in which scripts.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/history.rs"]
mod history;
#[path = "support/machine/mod.rs"]
mod machine;
mod support;

use machine::campaign::{Campaign, chosen, number};
use machine::fail::{FAULTS_PER_CALL, fail_everywhere};
use machine::op::{Script, longer, scripts};
use machine::promises::check;

/// Faults in a run of the whole test suite.
const FAULTS: u64 = 1_200;

/// Of a script that is run, at least so many.
const FAULTS_PER_SCRIPT: u64 = 4;

/// About how many calls each script makes.
const CALLS: u64 = 80;

#[test]
fn after_any_call_has_failed_with_any_error_every_promise_holds() {
    let campaign = Campaign::new("fail_everywhere");
    let faults = number("STRATALOG_FAULTS", FAULTS);
    let mut all = scripts();
    all.extend(longer(number("STRATALOG_LONGER", 0)));
    let one_in = all.len() as u64 * FAULTS_PER_SCRIPT / faults.max(1);
    let scripts = chosen(all, Script::name, one_in);
    let possible = scripts.len() as u64 * CALLS * FAULTS_PER_CALL;
    let fault_in = (possible / faults.max(1)).max(1);
    campaign.each(&scripts, |script| fail_everywhere(&campaign, script, fault_in, check));
    campaign.end("faults");
}
