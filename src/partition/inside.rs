//! Who may use a partition: its status, and who is inside.
//!
//! A call that writes is *inside* from its look at the status until it ends. Ending the partition lets nobody in any more and then
//! waits for those inside. So no write of a store that was closed, dropped, or whose topic was deleted reaches the files of the
//! next one.

use parking_lot::RwLockReadGuard;

use super::{Inner, LogError, Partition, Status};

/// Proof of being inside; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    _gate: RwLockReadGuard<'a, ()>,
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
        let inside = Inside { _gate: self.gate.read_recursive() };
        self.check_writable()?;
        Ok(inside)
    }

    /// Lets nobody in any more. What is inside goes on.
    pub(super) fn set_closed(&self) {
        *self.status.write() = Status::Closed;
        self.waiters.wake();
    }

    /// As [`Inner::enter_writable`], also when the partition is offline.
    pub(super) fn enter_to_reopen(&self) -> Result<Inside<'_>, LogError> {
        let inside = Inside { _gate: self.gate.read_recursive() };
        self.check_reopenable()?;
        Ok(inside)
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
        match &*self.status.read() {
            Status::Online => Ok(()),
            Status::Offline(reason) => Err(LogError::Offline { partition: self.id.clone(), reason: reason.clone() }),
            Status::Closed => Err(LogError::Closed { partition: self.id.clone() }),
        }
    }

    pub(super) fn check_writable(&self) -> Result<(), LogError> {
        if self.read_only {
            return Err(LogError::ReadOnly { partition: self.id.clone() });
        }
        self.check_online()
    }

    /// Refuses to read a partition that was closed; one that is offline can still be read.
    pub(super) fn check_open(&self) -> Result<(), LogError> {
        match &*self.status.read() {
            Status::Closed => Err(LogError::Closed { partition: self.id.clone() }),
            _ => Ok(()),
        }
    }

    /// Refuses every further change until the partition is reopened.
    pub(super) fn go_offline(&self, reason: &LogError) {
        let mut status = self.status.write();
        if matches!(*status, Status::Online) {
            *status = Status::Offline(reason.to_string());
        }
    }
}
