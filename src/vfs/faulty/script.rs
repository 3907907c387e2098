//! What is to become of each call: the faults, the hooks and the crash to come, and the counts of what was called.

use std::io;

use parking_lot::Mutex;

use super::fault::{Effect, Fault};
use super::hook::{PendingHook, take_due};
use super::operation::Call;
use crate::vfs::IoError;
use crate::vfs::random::Random;

/// What is to become of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Proceed,
    Strike(Effect),
    /// The machine ends within this call.
    CrashNow,
    /// The machine has ended.
    Crashed,
}

impl Call<'_> {
    /// The error of a call that `effect` lets fail.
    pub(super) fn injected(self, effect: Effect) -> Option<IoError> {
        Some(IoError::new(self.operation.verb(), self.path, effect.error()?))
    }

    fn crashed(self) -> IoError {
        IoError::new(self.operation.verb(), self.path, io::Error::other("the machine crashed (injected)"))
    }

    pub(super) fn carry_out<T>(
        self,
        verdict: Verdict,
        action: impl FnOnce() -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        match verdict {
            Verdict::Proceed => action(),
            Verdict::Strike(effect) => self.injected(effect).map_or_else(action, Err),
            Verdict::CrashNow => {
                // The change has left the process and is in nobody's hands: done, and not durable. The caller never
                // learns how it ended, so its result is dropped.
                if !self.operation.is_sync() {
                    drop(action());
                }
                Err(self.crashed())
            }
            Verdict::Crashed => Err(self.crashed()),
        }
    }
}

/// What is to come, shared by all clones of a file system and by its open files.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) state: Mutex<ScriptState>,
}

#[derive(Debug, Default)]
pub(super) struct ScriptState {
    pub(super) faults: Vec<Fault>,
    pub(super) hooks: Vec<PendingHook>,
    /// The generator of random faults, and how likely they are.
    pub(super) random: Option<(Random, f64)>,
    pub(super) calls: u64,
    pub(super) mutations: u64,
    pub(super) mutations_until_crash: Option<u64>,
    pub(super) is_crashed: bool,
    pub(super) struck: u64,
    /// How many looks go on for which nothing strikes and nothing is counted.
    pub(super) looks: usize,
}

impl Script {
    /// Fires the hooks that wait for this call, then decides. A fault that a hook injects may strike the call.
    pub(super) fn decide(&self, call: Call<'_>) -> Verdict {
        for hook in self.due_hooks(call) {
            hook.fire(call.path);
        }
        self.state.lock().decide(call)
    }

    pub(super) fn run<T>(&self, call: Call<'_>, action: impl FnOnce() -> Result<T, IoError>) -> Result<T, IoError> {
        call.carry_out(self.decide(call), action)
    }

    /// The lock ends with this function: hooks run without it.
    fn due_hooks(&self, call: Call<'_>) -> Vec<PendingHook> {
        let mut state = self.state.lock();
        if state.hooks.is_empty() || state.is_crashed || state.looks > 0 {
            return Vec::new();
        }
        take_due(&mut state.hooks, call)
    }
}

impl ScriptState {
    fn decide(&mut self, call: Call<'_>) -> Verdict {
        if self.is_crashed {
            return Verdict::Crashed;
        }
        if self.looks > 0 {
            return Verdict::Proceed;
        }
        self.calls += 1;
        if call.mutates {
            if self.mutations_until_crash == Some(0) {
                self.is_crashed = true;
                return Verdict::CrashNow;
            }
            self.mutations_until_crash = self.mutations_until_crash.map(|left| left - 1);
            self.mutations += 1;
        }
        match self.scripted(call).or_else(|| self.drawn(call)) {
            Some(effect) => {
                self.struck += 1;
                Verdict::Strike(effect)
            }
            None => Verdict::Proceed,
        }
    }

    fn scripted(&mut self, call: Call<'_>) -> Option<Effect> {
        let mut striking = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.matches(call)) {
            if striking.is_some() && fault.after == 0 {
                continue;
            }
            striking = fault.count().or(striking);
        }
        striking
    }

    fn drawn(&mut self, call: Call<'_>) -> Option<Effect> {
        let (random, probability) = self.random.as_mut()?;
        if !random.happens(*probability) {
            return None;
        }
        let may_fill_up = call.mutates && !call.operation.is_sync();
        let kind = if may_fill_up && random.below(2) == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        // A short write of at most 4 KiB is short of most batches, and tears the header of many.
        Some(if random.below(2) == 0 {
            Effect::Error(kind)
        } else {
            Effect::ShortWrite { size: random.below(4096), kind }
        })
    }
}
