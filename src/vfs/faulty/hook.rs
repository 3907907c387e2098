//! Hooks: run something, or stop, at a chosen call, while everything else goes on.
//!
//! A test of what happens *between* two calls of an operation needs the operation to wait there. A hook waits at the
//! n-th call that matches: it runs a closure there, or holds the calling thread until a [`Gate`] is released. The call
//! itself is made afterwards. Invariants:
//!
//! - No lock of the file system is held while a hook runs, so its closure and other threads may use the same file system.
//! - A hook fires once. It is taken out before it fires, so calls that its closure makes can't fire it again.
//! - A gate that is dropped is released: a test that fails never leaves a thread behind it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::operation::{Call, Operation};
use super::path_filter::PathFilter;

#[cfg(doc)]
use super::FaultyVfs;

/// The call that a hook waits for: the n-th one of a kind, on some paths, counted from when the hook is set.
///
/// # Example
/// The second write to a `.log` file:
/// ```
/// use stratalog::vfs::{Hook, Operation};
///
/// let second_write = Hook::at(Operation::Write).path(".log").nth(2);
/// # let _ = second_write;
/// ```
#[derive(Debug, Clone)]
pub struct Hook {
    operation: Operation,
    path: PathFilter,
    calls_before: u64,
}

impl Hook {
    /// The next call of `operation`, on any path.
    #[must_use]
    pub const fn at(operation: Operation) -> Self {
        Self { operation, path: PathFilter::Any, calls_before: 0 }
    }

    /// Counts only calls on paths that contain `text`.
    #[must_use]
    pub fn path(self, text: impl Into<String>) -> Self {
        self.on(PathFilter::contains(text))
    }

    /// Counts only calls on paths that `filter` lets through.
    #[must_use]
    pub fn on(self, filter: PathFilter) -> Self {
        Self { path: filter, ..self }
    }

    /// Fires at the `nth` matching call; the first is 1.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        Self { calls_before: nth.saturating_sub(1), ..self }
    }

    fn includes(&self, call: Call<'_>) -> bool {
        self.operation.includes(call) && self.path.includes(call.path)
    }
}

/// What happens at the call.
type Action = Box<dyn FnOnce(&Path) + Send>;

/// A hook that hasn't fired.
pub(super) struct PendingHook {
    hook: Hook,
    action: Action,
}

impl PendingHook {
    pub(super) fn new(hook: Hook, action: impl FnOnce(&Path) + Send + 'static) -> Self {
        Self { hook, action: Box::new(action) }
    }

    pub(super) fn fire(self, path: &Path) {
        (self.action)(path);
    }

    /// Counts the call if it matches; whether it is the one.
    fn is_due(&mut self, call: Call<'_>) -> bool {
        if !self.hook.includes(call) {
            return false;
        }
        let is_due = self.hook.calls_before == 0;
        self.hook.calls_before = self.hook.calls_before.saturating_sub(1);
        is_due
    }
}

impl fmt::Debug for PendingHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingHook").field(&self.hook).finish()
    }
}

/// Takes out the hooks that wait for this call, in the order in which they were set.
pub(super) fn take_due(hooks: &mut Vec<PendingHook>, call: Call<'_>) -> Vec<PendingHook> {
    hooks.extract_if(.., |hook| hook.is_due(call)).collect()
}

/// Holds a call until it is released; see [`FaultyVfs::block`]. Dropping it releases the call.
///
/// # Example
/// See [`FaultyVfs::block`].
#[derive(Debug)]
#[must_use = "dropping a gate opens it"]
pub struct Gate {
    door: Arc<Door>,
}

/// What the holder of a gate shares with the thread that is held.
#[derive(Debug, Default)]
pub(super) struct Door {
    state: Mutex<DoorState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DoorState {
    is_reached: bool,
    is_open: bool,
}

impl Door {
    /// Waits until the gate is released.
    pub(super) fn pass(&self) {
        let mut state = self.state.lock();
        state.is_reached = true;
        self.changed.notify_all();
        while !state.is_open {
            self.changed.wait(&mut state);
        }
    }
}

impl Gate {
    pub(super) fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    /// Waits until a thread arrived at the call, `timeout` at most; whether one did. A thread that was released counts.
    #[must_use]
    pub fn wait_until_reached(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.door.state.lock();
        while !state.is_reached {
            match deadline {
                Some(deadline) if self.door.changed.wait_until(&mut state, deadline).timed_out() => break,
                Some(_) => {}
                None => self.door.changed.wait(&mut state),
            }
        }
        state.is_reached
    }

    /// Whether a thread arrived at the call.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.door.state.lock().is_reached
    }

    /// Lets the thread go on; one that arrives later isn't held.
    pub fn release(&self) {
        self.door.state.lock().is_open = true;
        self.door.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.release();
    }
}
