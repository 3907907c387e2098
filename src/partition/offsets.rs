//! The offsets that readers see, and the only way to move them.
//!
//! - They are stored through a [`Moving`] alone, whose end wakes whoever waits for them. So no path can forget it, not even one that
//!   fails half-way.
//! - The holder of the append lock moves them. The wake-up comes after the lock where the `Moving` is begun before it.
//! - What is the end of another comes first: a reader that sees a batch sees a log end above it.

use std::sync::atomic::{AtomicI64, Ordering};

use super::wait::Waiters;
use super::{load, store};
use crate::types::Offset;

/// Log start, log end and what is decided between them.
#[derive(Debug)]
pub(super) struct Offsets {
    log_end: AtomicI64,
    log_start: AtomicI64,
    /// The first offset of the oldest open transaction; [`Offset::MAX`] when none is open.
    first_unstable: AtomicI64,
    waiters: Waiters,
}

impl Offsets {
    /// Of a log without an open transaction.
    pub(super) fn new(log_start: Offset, log_end: Offset) -> Self {
        Self {
            log_end: AtomicI64::new(log_end.value()),
            log_start: AtomicI64::new(log_start.value()),
            first_unstable: AtomicI64::new(Offset::MAX.value()),
            waiters: Waiters::default(),
        }
    }

    pub(super) fn log_end(&self) -> Offset {
        load(&self.log_end)
    }

    pub(super) fn log_start(&self) -> Offset {
        load(&self.log_start)
    }

    /// The end of what is decided below the high watermark, which must have been loaded before: a transaction that begins after
    /// that lies above it.
    pub(super) fn last_stable(&self, high_watermark: Offset) -> Offset {
        high_watermark.min(load(&self.first_unstable)).max(load(&self.log_start))
    }

    /// Begins to move offsets.
    pub(super) const fn moving(&self) -> Moving<'_> {
        Moving { offsets: self }
    }

    /// Those who wait for an offset to move.
    pub(super) const fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

/// Stores offsets, and wakes those who wait for them when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it wakes who waits"]
pub(super) struct Moving<'a> {
    offsets: &'a Offsets,
}

impl Moving<'_> {
    pub(super) fn set_log_end(&self, end: Offset) {
        store(&self.offsets.log_end, end);
    }

    pub(super) fn set_log_start(&self, start: Offset) {
        store(&self.offsets.log_start, start);
    }

    /// Lets readers of committed records go up to `first`.
    pub(super) fn set_first_unstable(&self, first: Option<Offset>) {
        self.offsets.first_unstable.store(first.unwrap_or(Offset::MAX).value(), Ordering::Release);
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.offsets.waiters.wake();
    }
}
