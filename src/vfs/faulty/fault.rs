//! A scripted fault: which calls it strikes, how often, and what becomes of them.

use std::io;
use std::path::Path;

use super::operation::{Call, Operation};
use super::path_filter::PathFilter;

#[cfg(doc)]
use crate::vfs::MemoryVfs;

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing is done and the operation fails. A failed [`Operation::Sync`] over a [`MemoryVfs`] loses the file's unsynced
    /// bytes: readers still see them, and no later sync makes them durable.
    Error(io::ErrorKind),
    /// As [`Effect::Error`], with an error number of the operating system: 24 is `EMFILE` on Linux. For errors that have no
    /// [`io::ErrorKind`] of their own.
    OsError(i32),
    /// At most `size` bytes are written, then the operation fails. An error with nothing done for other operations.
    ShortWrite {
        /// Bytes written.
        size: usize,
        /// What it fails with.
        kind: io::ErrorKind,
    },
    /// At most `size` bytes are written and success is reported, as by a disk that lies. Other operations are done in full.
    TornWrite {
        /// Bytes written.
        size: usize,
    },
}

impl Effect {
    /// The error of a call that this effect lets fail.
    pub(super) fn error(self) -> Option<io::Error> {
        match self {
            Self::Error(kind) | Self::ShortWrite { kind, .. } => {
                Some(io::Error::new(kind, format!("injected fault: {kind}")))
            }
            Self::OsError(number) => Some(io::Error::from_raw_os_error(number)),
            Self::TornWrite { .. } => None,
        }
    }
}

/// A scripted fault: which calls it strikes, and how.
///
/// # Example
/// The third and fourth sync of any `.log` file fail:
/// ```
/// use std::io::ErrorKind;
/// use stratalog::vfs::{Effect, Fault, Operation};
///
/// let fault = Fault {
///     path_contains: ".log".to_owned(),
///     after: 2,
///     times: 2,
///     ..Fault::new(Operation::Sync, Effect::Error(ErrorKind::Other))
/// };
/// # let _ = fault;
/// ```
/// From the tenth call of any kind on, the process has no descriptor left:
/// ```
/// use stratalog::vfs::{Effect, Fault, Operation};
///
/// let fault = Fault::new(Operation::Any, Effect::OsError(24)).from_nth(10);
/// assert_eq!((fault.after, fault.times), (9, u64::MAX));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The operation it strikes, or the operations.
    pub operation: Operation,
    /// Only paths that contain this, as text; empty for all. A file's path is the one it was opened under.
    pub path_contains: String,
    /// Only paths that this filter lets through, too.
    pub path: PathFilter,
    /// How many matching calls pass before it strikes.
    pub after: u64,
    /// How often it strikes before it is spent; `u64::MAX` for always.
    pub times: u64,
    /// What it does.
    pub effect: Effect,
}

impl Fault {
    /// A fault that strikes the next call of `operation`, on any path, once.
    #[must_use]
    pub const fn new(operation: Operation, effect: Effect) -> Self {
        Self { operation, path_contains: String::new(), path: PathFilter::Any, after: 0, times: 1, effect }
    }

    /// The same on the paths that `filter` lets through.
    #[must_use]
    pub fn on(self, filter: PathFilter) -> Self {
        Self { path: filter, ..self }
    }

    /// The same at the `nth` matching call alone; the first is 1.
    #[must_use]
    pub fn nth(self, nth: u64) -> Self {
        Self { after: nth.saturating_sub(1), times: 1, ..self }
    }

    /// The same at the `nth` matching call, the first is 1, and at every one after it.
    #[must_use]
    pub fn from_nth(self, nth: u64) -> Self {
        Self { after: nth.saturating_sub(1), times: u64::MAX, ..self }
    }

    pub(super) fn matches(&self, call: Call<'_>) -> bool {
        self.operation.includes(call) && self.times > 0 && self.is_for(call.path)
    }

    fn is_for(&self, path: &Path) -> bool {
        let contains = self.path_contains.is_empty() || path.to_string_lossy().contains(&self.path_contains);
        contains && self.path.includes(path)
    }

    /// Counts a matching call; the effect when it strikes.
    pub(super) const fn count(&mut self) -> Option<Effect> {
        if self.after > 0 {
            self.after -= 1;
            return None;
        }
        if self.times != u64::MAX {
            self.times -= 1;
        }
        Some(self.effect)
    }
}
