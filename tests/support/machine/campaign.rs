//! How much is run: a seeded part in every `cargo test`, or as much as the environment asks for, on all cores; and what came out.

use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// After so many violations a campaign ends; `STRATALOG_VIOLATIONS` says another number.
const VIOLATIONS_MAX: u64 = 40;

/// What a campaign counts, and what it found.
pub struct Campaign {
    name: &'static str,
    seed: u64,
    began: Instant,
    counted: AtomicU64,
    scripts: AtomicU64,
    violations: Mutex<Vec<String>>,
    violations_max: u64,
    is_full: AtomicBool,
}

/// A number from the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}"))
    })
}

/// The scripts that are asked for: all of them, or with a small budget a seeded part.
pub fn chosen<T>(items: Vec<T>, name: impl Fn(&T) -> String, one_in: u64) -> Vec<T> {
    let seed = number("STRATALOG_SEED", 1);
    let is_drawn = |name: &str| mixed(seed, &[hash(name)]).is_multiple_of(one_in.max(1));
    let is_chosen = |item: &T| match std::env::var("STRATALOG_SCRIPT") {
        Ok(wanted) if wanted.ends_with("$") => name(item) == wanted.trim_end_matches("$"),
        Ok(wanted) => name(item).contains(&wanted),
        Err(_) => is_drawn(&name(item)),
    };
    items.into_iter().filter(is_chosen).collect()
}

/// A number for a name.
pub fn hash(name: &str) -> u64 {
    mixed(0, &name.bytes().map(u64::from).collect::<Vec<_>>())
}

/// A number that the seed and a place decide.
pub fn mixed(seed: u64, parts: &[u64]) -> u64 {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    for part in parts {
        state = (state ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state ^= state >> 29;
        state = state.wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 32;
    }
    state
}

impl Campaign {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            seed: number("STRATALOG_SEED", 1),
            began: Instant::now(),
            counted: AtomicU64::new(0),
            scripts: AtomicU64::new(0),
            violations: Mutex::new(Vec::new()),
            violations_max: number("STRATALOG_VIOLATIONS", VIOLATIONS_MAX),
            is_full: AtomicBool::new(false),
        }
    }

    pub const fn seed(&self) -> u64 {
        self.seed
    }

    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Runs one trial and counts it; what it breaks is noted with the words that reproduce it. Returns whether all is well so far.
    #[must_use]
    pub fn trial(&self, place: impl Fn() -> String, run: impl FnOnce() -> Result<(), String>) -> bool {
        self.counted.fetch_add(1, Ordering::Relaxed);
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        });
        if let Err(reason) = &outcome {
            let mut violations = self.violations.lock();
            violations.push(format!("{}: {reason}", place()));
            if violations.len() as u64 >= self.violations_max {
                self.is_full.store(true, Ordering::Relaxed);
            }
        }
        outcome.is_ok() && !self.is_full()
    }

    /// Does `work` for each item on all cores.
    pub fn each<T: Sync>(&self, items: &[T], work: impl Fn(&T) + Sync) {
        let next = AtomicUsize::new(0);
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if self.is_full() {
                            return;
                        }
                        self.scripts.fetch_add(1, Ordering::Relaxed);
                        work(item);
                    }
                });
            }
        });
    }

    /// Prints the totals, and fails with all violations.
    pub fn end(self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let (counted, scripts) = (self.counted.into_inner(), self.scripts.into_inner());
        let violations = self.violations.into_inner();
        // Not by a macro: that is captured where a test passes.
        let mut out = std::io::stderr().lock();
        let (name, seed, count) = (self.name, self.seed, violations.len());
        let line = format!(
            "{name}: {counted} {what} over {scripts} scripts in {seconds:.0} s, seed {seed}: {count} violations\n"
        );
        out.write_all(line.as_bytes()).ok();
        drop(out);
        let mut text = String::new();
        for violation in &violations {
            let _ = write!(text, "\n- {violation}");
        }
        assert!(violations.is_empty(), "{name}, seed {seed}:{text}");
    }
}
