//! The machine that ends, fails or races a store at every point of a script, and the promises that it checks.
//!
//! - What is run: `op` (operations and scripts), `action` (one call), `world` (a store and what is known of it).
//! - What must hold: `line` (how one log may have gone), `truth` (all that is known), `promises` (checked on each image).
//! - How: `crash`, `fail`, `race`, each over every point; `campaign` says how much, counts, and reports.
//!
//! See `docs/reliability.md` for the commands.
#![allow(dead_code, reason = "each test file uses some of this")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

pub mod action;
pub mod campaign;
pub mod crash;
pub mod fail;
pub mod line;
pub mod op;
pub mod promises;
pub mod race;
pub mod truth;
pub mod world;
