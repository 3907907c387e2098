//! Any operation may be held at any of its calls while another one runs: the outcome is that of one after the other, nothing
//! waits for ever, and what was acknowledged is there.
//!
//! `STRATALOG_RACES` says how many are run, `STRATALOG_SEED` which, `STRATALOG_SCRIPT` of which pairs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "support/history.rs"]
mod history;
#[path = "support/machine/mod.rs"]
mod machine;
mod support;

use machine::campaign::{Campaign, chosen, number};
use machine::op::{ALL, Past};
use machine::promises::check;
use machine::race::{Pair, race_everywhere};

/// Races in a run of the whole test suite.
const RACES: u64 = 700;

/// Of a pair that is run, at least so many.
const RACES_PER_PAIR: u64 = 2;

/// About how many calls each operation makes.
const CALLS: u64 = 30;

#[test]
fn two_operations_at_once_give_what_one_after_the_other_gives() {
    let campaign = Campaign::new("race_everywhere");
    let mut pairs = Vec::new();
    for past in [Past::Settled, Past::Unflushed, Past::Recovered] {
        for held in ALL {
            pairs.extend(ALL.map(|other| Pair { past, held, other }));
        }
    }
    let races = number("STRATALOG_RACES", RACES);
    let one_in = pairs.len() as u64 * RACES_PER_PAIR / races.max(1);
    let pairs = chosen(pairs, Pair::name, one_in);
    let point_in = (pairs.len() as u64 * CALLS / races.max(1)).max(1);
    campaign.each(&pairs, |pair| race_everywhere(&campaign, *pair, point_in, check));
    campaign.end("races");
}
