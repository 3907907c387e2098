//! Who may use a partition: its status, and who is inside.
//!
//! A call that writes is *inside* from its look at the status until it ends. Ending the partition lets nobody in any more and then
//! waits for those inside. So no write of a store that was closed, dropped, or whose topic was deleted reaches the files of the
//! next one.

use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::{Mutex, RwLockReadGuard};

use super::{Inner, LogError, Partition};

const ONLINE: u8 = 0;
const OFFLINE: u8 = 1;
const CLOSED: u8 = 2;
/// Online for those who come: they wait for the outcome. What the notes say of the files doesn't count.
const REOPENING: u8 = 3;

/// Whether the partition can be used. A look costs a load; a partition that was closed stays so.
#[derive(Debug, Default)]
pub(super) struct Status {
    state: AtomicU8,
    /// Why it is offline. Held over every change of the state.
    reason: Mutex<String>,
}

impl Status {
    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    pub(super) fn is_offline(&self) -> bool {
        self.state.load(Ordering::Acquire) == OFFLINE
    }

    pub(super) fn is_online(&self) -> bool {
        self.state.load(Ordering::Acquire) == ONLINE
    }

    /// Says that a partition that is online is being reopened.
    pub(super) fn begin_reopening(&self) {
        self.change(&[ONLINE], REOPENING, String::new());
    }

    /// Online again, unless it was closed meanwhile.
    pub(super) fn come_back(&self) {
        self.change(&[OFFLINE, REOPENING], ONLINE, String::new());
    }

    fn go_offline(&self, reason: String) {
        self.change(&[ONLINE, REOPENING], OFFLINE, reason);
    }

    fn change(&self, from: &[u8], to: u8, why: String) {
        let mut reason = self.reason.lock();
        if from.contains(&self.state.load(Ordering::Acquire)) {
            *reason = why;
            self.state.store(to, Ordering::Release);
        }
    }

    fn close(&self) {
        let _reason = self.reason.lock();
        self.state.store(CLOSED, Ordering::Release);
    }
}

/// Proof of being inside; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    _gate: RwLockReadGuard<'a, ()>,
}

/// A change of the files that has begun. One that panics takes the partition offline.
pub(super) struct Pending<'a> {
    inner: &'a Inner,
    has_ended: bool,
}

impl Pending<'_> {
    pub(super) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.inner.change_status(|status| status.go_offline("a change of its files panicked".to_owned()));
        }
    }
}

impl Partition {
    /// Ends the use of this partition by every clone, and waits for the calls that are inside. Nothing is flushed.
    pub(crate) fn invalidate(&self) {
        self.inner.set_closed();
        drop(self.inner.gate.write());
    }

    /// Enters to write, as long as the partition is online.
    pub(crate) fn enter_writable(&self) -> Result<Inside<'_>, LogError> {
        self.inner.enter_writable()
    }
}

impl Inner {
    /// Enters to write, as long as the partition is online. A call that is inside may enter again.
    pub(super) fn enter_writable(&self) -> Result<Inside<'_>, LogError> {
        self.enter(Self::check_writable)
    }

    /// As [`Inner::enter_writable`], also when the partition is offline.
    pub(super) fn enter_to_reopen(&self) -> Result<Inside<'_>, LogError> {
        self.enter(Self::check_reopenable)
    }

    /// Who may not enter doesn't try: whoever ends the partition would never find the gate free while others come and go.
    fn enter(&self, check: impl Fn(&Self) -> Result<(), LogError>) -> Result<Inside<'_>, LogError> {
        check(self)?;
        let inside = Inside { _gate: self.gate.read_recursive() };
        check(self)?;
        Ok(inside)
    }

    /// Lets nobody in any more. What is inside goes on.
    pub(super) fn set_closed(&self) {
        self.change_status(Status::close);
    }

    /// Changes the status, and wakes who waits: that may be over now.
    pub(super) fn change_status(&self, change: impl FnOnce(&Status)) {
        change(&self.status);
        self.offsets.waiters().wake();
    }

    /// Refuses to go on when the partition is closed or can't be written.
    pub(super) fn check_reopenable(&self) -> Result<(), LogError> {
        match self.check_writable() {
            Ok(()) | Err(LogError::Offline { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Refuses to go on when the partition is offline or closed.
    pub(super) fn check_online(&self) -> Result<(), LogError> {
        self.check_not_offline()?;
        self.check_open()
    }

    /// Refuses to go on when the partition is offline. One that was closed lets those inside come to their end.
    pub(super) fn check_not_offline(&self) -> Result<(), LogError> {
        if self.status.is_offline() {
            return Err(LogError::Offline { partition: self.id.clone(), reason: self.status.reason.lock().clone() });
        }
        Ok(())
    }

    pub(super) fn check_writable(&self) -> Result<(), LogError> {
        if self.read_only {
            return Err(LogError::ReadOnly { partition: self.id.clone() });
        }
        self.check_online()
    }

    /// Refuses to read a partition that was closed; one that is offline can still be read.
    pub(super) fn check_open(&self) -> Result<(), LogError> {
        if self.status.is_closed() {
            return Err(LogError::Closed { partition: self.id.clone() });
        }
        Ok(())
    }

    /// Refuses every further change until the partition is reopened.
    pub(super) fn go_offline(&self, reason: &LogError) {
        self.change_status(|status| status.go_offline(reason.to_string()));
    }

    /// Begins a change of the files.
    pub(super) fn pending(&self) -> Pending<'_> {
        Pending { inner: self, has_ended: false }
    }

    /// Does a change that takes the partition offline when it ends half-way.
    pub(super) fn carry_out<T>(&self, change: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
        let pending = self.pending();
        let result = change();
        pending.end();
        result.inspect_err(|error| self.go_offline(error))
    }
}
