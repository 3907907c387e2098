//! What is noted of a partition outside of its log, for the next opening: offsets in the store's checkpoint files, and where its
//! log is known to have no gap.
//!
//! A note must never outlive what it describes. So before the log is cut, the notes are lowered on disk to what will hold
//! afterwards ([`Inner::lower_notes`]), and before segments at the log's start are removed, the new log start is noted. The store
//! keeps the files ([`Notes`]). While it holds its lock over them it asks the partition for its line, for which only those locks are
//! taken that come last in the order of `mod.rs`.

use std::fmt;
use std::sync::atomic::Ordering;

use super::{Inner, LogError, Partition, VerifiedPoint, load};
use crate::name::TopicPartition;
use crate::segment::Gaps;
use crate::types::{LeaderEpoch, Offset};
use crate::vfs::IoError;

/// Where a store keeps the notes of its partitions.
pub(crate) trait Notes: fmt::Debug + Send + Sync {
    /// Puts what `line` returns in the place of what is noted of the partition, durably.
    fn renew(&self, partition: &TopicPartition, line: &dyn Fn() -> NoteLine) -> Result<(), IoError>;

    /// As [`Notes::renew`], but where another partition's notes are being written just now, this one's are left to the next checkpoint.
    fn renew_unless_busy(&self, partition: &TopicPartition, line: &dyn Fn() -> NoteLine) -> Result<(), IoError>;

    /// Forgets what was verified in this boot, of all partitions, where [`Notes::renew`] has failed. This needs no room.
    fn forget_verified(&self);
}

/// What is noted of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoteLine {
    /// Everything below survives a power loss.
    pub recovery_point: Offset,
    pub log_start: Offset,
    /// The base offset of the oldest segment that has its name.
    pub first_base: Offset,
    pub high_watermark: Offset,
    /// Up to where the log was compacted.
    pub first_dirty: Option<Offset>,
    /// Up to where the active segment was written in this boot of the machine.
    pub verified: Option<VerifiedPoint>,
    /// Nothing is known of a log that was only ever written elsewhere.
    pub unbroken: Option<Unbroken>,
}

/// Where a log that is written here has no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unbroken {
    /// From here on every offset was appended.
    pub from: Offset,
    /// The log start offset.
    pub log_start: Offset,
    /// The leader epoch of what is appended. A newer one in the log says that another program has written it since.
    pub leader_epoch: LeaderEpoch,
}

impl Unbroken {
    /// Which gaps the log may have. `compacted_to` is what the cleaner's checkpoint says, whoever wrote it.
    pub(super) fn gaps(self, compacted_to: Option<Offset>, newest_epoch: Option<LeaderEpoch>) -> Gaps {
        if newest_epoch > Some(self.leader_epoch) {
            return Gaps::Anywhere;
        }
        Gaps::Below(compacted_to.map_or(self.from, |end| end.max(self.from)))
    }
}

/// What the notes may say at most while the log is being cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ceiling {
    /// The offset that the log will end at.
    pub end: Offset,
    /// Up to where what is left may count as compacted.
    pub first_dirty: Offset,
}

impl Inner {
    /// The line that holds now.
    pub(super) fn note_line(&self) -> NoteLine {
        // First: while there is none, the log is not cut before this line was written, and then another one is.
        let ceiling = *self.ceiling.lock();
        let list = self.list();
        let first = list.first().base_offset();
        let is_complete = self.status.is_online() && !self.has_unwritten_aborted();
        let verified = is_complete.then(|| VerifiedPoint::of(list.active()));
        let mut line = NoteLine {
            recovery_point: load(&self.recovery_point).min(self.offsets.log_end()),
            log_start: self.offsets.log_start(),
            first_base: self.removals.first_base().map_or(first, |base| base.min(first)),
            high_watermark: self.offsets.log_end(),
            first_dirty: Offset::new(self.first_dirty.load(Ordering::Acquire)),
            verified,
            unbroken: Some(Unbroken {
                from: load(&self.unbroken_from),
                log_start: self.offsets.log_start(),
                leader_epoch: self.epochs.current(),
            }),
        };
        if let Some(ceiling) = ceiling {
            line.lower(ceiling);
        }
        line
    }

    /// Brings the notes up to date, durably.
    pub(super) fn renew_notes(&self) -> Result<(), LogError> {
        self.notes.renew(&self.id, &|| self.note_line()).map_err(|error| self.wrap(error))?;
        self.has_noted_gaps.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes the note of where the log has no gap, if the opening could not. Everything that makes the log longer calls this first: with
    /// the old note, recovery would take what a power loss tore out of the new records for a gap of the log's own.
    pub(super) fn require_noted_gaps(&self) -> Result<(), LogError> {
        if self.has_noted_gaps.load(Ordering::Acquire) { Ok(()) } else { self.renew_notes() }
    }

    /// Brings the notes up to date for an append, which must not wait for the notes of another partition. The next checkpoint does what
    /// is not done here.
    pub(super) fn renew_notes_in_passing(&self) {
        self.notes.renew_unless_busy(&self.id, &|| self.note_line()).ok();
    }

    /// Lowers the notes, durably, to what will hold once the log is cut. They stay down until [`Inner::lift_ceiling`].
    pub(super) fn lower_notes(&self, ceiling: Ceiling) -> Result<(), LogError> {
        *self.ceiling.lock() = Some(ceiling);
        self.renew_notes()
    }

    /// Lets the notes follow the log again. The next checkpoint writes them.
    pub(super) fn lift_ceiling(&self) {
        *self.ceiling.lock() = None;
    }
}

impl Partition {
    /// The line that holds now.
    pub(crate) fn note_line(&self) -> NoteLine {
        self.inner.note_line()
    }

    /// Whether it is noted where the log has no gap.
    pub(crate) fn has_noted_gaps(&self) -> bool {
        self.inner.has_noted_gaps.load(Ordering::Acquire)
    }

    /// Learns that its line was written, durably.
    pub(crate) fn learn_of_notes(&self) {
        self.inner.has_noted_gaps.store(true, Ordering::Release);
    }
}

impl NoteLine {
    fn lower(&mut self, ceiling: Ceiling) {
        self.recovery_point = self.recovery_point.min(ceiling.end);
        self.log_start = self.log_start.min(ceiling.end);
        self.high_watermark = self.high_watermark.min(ceiling.end);
        self.first_dirty = self.first_dirty.map(|offset| offset.min(ceiling.first_dirty));
        self.verified = None;
        // Until the log has been cut it has all its gaps.
        self.unbroken =
            self.unbroken.map(|unbroken| Unbroken { log_start: unbroken.log_start.min(ceiling.end), ..unbroken });
    }

    /// What holds of a log that has nothing in it and begins at `start`.
    pub(super) fn of_empty(start: Offset) -> Self {
        Self {
            recovery_point: start,
            log_start: start,
            first_base: start,
            high_watermark: start,
            first_dirty: None,
            verified: None,
            unbroken: Some(Unbroken { from: start, log_start: start, leader_epoch: LeaderEpoch::ZERO }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn a_gap_is_the_logs_own_below_what_was_compacted_and_where_another_program_wrote() {
        let leader_epoch = LeaderEpoch::new(3).unwrap();
        let unbroken = Unbroken { from: offset(10), log_start: Offset::ZERO, leader_epoch };
        assert_eq!(unbroken.gaps(None, Some(leader_epoch)), Gaps::Below(offset(10)));
        assert_eq!(unbroken.gaps(Some(offset(20)), Some(leader_epoch)), Gaps::Below(offset(20)));
        assert_eq!(unbroken.gaps(Some(offset(5)), None), Gaps::Below(offset(10)));
        assert_eq!(unbroken.gaps(None, LeaderEpoch::new(4)), Gaps::Anywhere);
    }
}
