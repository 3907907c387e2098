//! How many maps and open files the segments of one store keep, all of them together.
//!
//! A segment keeps its map and its open file for the next reader. Each is kept in a [`Slot`], and a store has one [`Residency`]
//! with a budget for both kinds. A new one that exceeds the budget makes an old one go that nobody has used for a while (the
//! clock algorithm). Only the kept reference goes: bytes and files that a reader holds stay valid, and the next use opens or maps
//! the file again.
//!
//! Slots that must stay, because the name of their file may become another file's or because bytes were not synced yet, leave
//! the budget; [`Slot::admit`] brings them back. The latter have a limit of their own (`descriptor.rs`).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::descriptor::UnsyncedFiles;

/// Maps and copies of files that a store keeps. Linux allows a process 65,530 maps by default.
const MAPS_MAX: usize = 8192;

/// Open files that a store keeps, half of them with bytes that were not synced. Those are more than most stores have partitions:
/// above that, an append waits for a sync.
const FILES_MAX: usize = 8192;

/// What is kept in a [`Slot`]; its default is to keep nothing.
pub(crate) trait Kept: Default + Debug + Send + Sync + 'static {
    /// Whether it can be had again from the file.
    fn may_go(&self) -> bool;
}

/// A place for something that can be had again.
#[derive(Debug, Default)]
pub(crate) struct Slot<T> {
    value: RwLock<T>,
    /// Whether somebody used it since the budget last looked.
    used: AtomicBool,
    /// How many there are for whom it must stay.
    pins: AtomicUsize,
    /// Whether a budget knows it.
    listed: AtomicBool,
}

impl<T: Kept> Slot<T> {
    pub(crate) fn new(value: T) -> Arc<Self> {
        Arc::new(Self { value: RwLock::new(value), ..Self::default() })
    }

    /// For a short look.
    pub(crate) fn read(&self) -> parking_lot::RwLockReadGuard<'_, T> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.value.read()
    }

    pub(crate) fn write(&self) -> parking_lot::RwLockWriteGuard<'_, T> {
        self.value.write()
    }

    /// From here on it stays, until [`Slot::unpin`] was called as often as this.
    pub(crate) fn pin(&self) {
        self.pins.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn unpin(&self) {
        self.pins.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }

    /// Drops what is kept, if it may go.
    pub(crate) fn empty(&self) -> bool {
        let mut value = self.value.write();
        let goes = !self.is_pinned() && value.may_go();
        let gone = if goes { std::mem::take(&mut *value) } else { T::default() };
        drop(value);
        // Closing or unmapping takes its time.
        drop(gone);
        goes
    }

    /// Lets `budget` count it. The caller holds no lock of the slot.
    pub(crate) fn admit(self: &Arc<Self>, budget: &Budget) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            let slot: Weak<Self> = Arc::downgrade(self);
            budget.add(slot);
        }
    }
}

/// A slot as a budget sees it.
trait Resident: Debug + Send + Sync {
    /// Whether it was used since the last call.
    fn was_used(&self) -> bool;

    /// Takes it off the budget, and drops what it keeps if that may go.
    fn leave(&self);
}

impl<T: Kept> Resident for Slot<T> {
    fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn leave(&self) {
        // First, so that whoever fills the slot from here on lists it again.
        self.listed.store(false, Ordering::Release);
        self.empty();
    }
}

/// The most slots of one kind that keep something.
#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    slots: Mutex<VecDeque<Weak<dyn Resident>>>,
}

impl Budget {
    fn new(max: usize) -> Self {
        Self { max, slots: Mutex::default() }
    }

    fn add(&self, slot: Weak<dyn Resident>) {
        let mut leaving = Vec::new();
        {
            let mut slots = self.slots.lock();
            slots.push_back(slot);
            // In the first round all of them may turn out to be in use.
            let mut looks = slots.len().saturating_mul(2);
            while slots.len() > self.max && looks > 0 {
                looks -= 1;
                let Some(oldest) = slots.pop_front() else { break };
                match oldest.upgrade() {
                    Some(resident) if looks > self.max && resident.was_used() => slots.push_back(oldest),
                    resident => leaving.extend(resident),
                }
            }
        }
        leaving.iter().for_each(|resident| resident.leave());
    }
}

/// The budgets that all segments of a store share.
#[derive(Debug)]
pub(crate) struct Residency {
    pub maps: Budget,
    pub files: Budget,
    pub unsynced: UnsyncedFiles,
}

impl Residency {
    /// The budgets of a process that may have `open_files_max` files open.
    pub(crate) fn of_process(open_files_max: Option<u64>) -> Self {
        let half = open_files_max.and_then(|max| usize::try_from(max / 2).ok());
        Self::new(MAPS_MAX, half.unwrap_or(FILES_MAX).min(FILES_MAX))
    }

    pub(crate) fn new(maps_max: usize, files_max: usize) -> Self {
        let unsynced_max = files_max / 2;
        let files = Budget::new(files_max - unsynced_max);
        Self { maps: Budget::new(maps_max), files, unsynced: UnsyncedFiles::new(unsynced_max) }
    }
}

impl Default for Residency {
    fn default() -> Self {
        Self::new(MAPS_MAX, FILES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Thing {
        is_there: bool,
        must_stay: bool,
    }

    impl Kept for Thing {
        fn may_go(&self) -> bool {
            !self.must_stay
        }
    }

    fn slot(budget: &Budget) -> Arc<Slot<Thing>> {
        let slot = Slot::new(Thing { is_there: true, must_stay: false });
        slot.admit(budget);
        slot
    }

    fn kept(slots: &[Arc<Slot<Thing>>]) -> Vec<bool> {
        slots.iter().map(|slot| slot.value.read().is_there).collect()
    }

    #[test]
    fn the_one_that_nobody_used_goes_first() {
        let budget = Budget::new(3);
        let slots: Vec<_> = (0..3).map(|_| slot(&budget)).collect();
        drop((slots[0].read(), slots[2].read()));
        let _new = slot(&budget);
        assert_eq!(kept(&slots), [true, false, true]);
    }

    #[test]
    fn never_more_than_the_budget_stay_however_much_they_are_used() {
        let budget = Budget::new(3);
        let mut slots = Vec::new();
        for _ in 0..20 {
            slots.push(slot(&budget));
            slots.iter().for_each(|slot| drop(slot.read()));
            assert!(kept(&slots).iter().filter(|kept| **kept).count() <= 3);
        }
    }

    #[test]
    fn pinned_ones_and_those_that_must_stay_leave_the_budget_to_the_others() {
        let budget = Budget::new(2);
        let slots: Vec<_> = (0..2).map(|_| slot(&budget)).collect();
        slots[0].pin();
        slots[1].write().must_stay = true;
        let others: Vec<_> = (0..3).map(|_| slot(&budget)).collect();
        assert_eq!((kept(&slots), kept(&others)), (vec![true, true], vec![false, true, true]));
        // As often as it was pinned.
        slots[0].pin();
        slots[0].unpin();
        assert!(!slots[0].empty());
        slots[0].unpin();
        slots[0].admit(&budget);
        let _more: Vec<_> = (0..2).map(|_| slot(&budget)).collect();
        assert_eq!(kept(&slots), [false, true]);
    }

    #[test]
    fn slots_that_are_gone_take_no_room() {
        let budget = Budget::new(2);
        (0..100).for_each(|_| drop(slot(&budget)));
        let slots: Vec<_> = (0..2).map(|_| slot(&budget)).collect();
        assert_eq!(kept(&slots), [true, true]);
        assert!(budget.slots.lock().len() <= 2);
    }
}
