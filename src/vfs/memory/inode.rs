//! The content of one file in memory, and what of it would survive a power loss.
//!
//! The bytes are what every reader sees. Beside them stands a journal of the changes that no successful sync covered, each
//! with the bytes it overwrote: undoing it from the end gives the durable bytes, doing some of it again gives any
//! other image. A sync empties the journal, so the cost of a change is its own size, however large the file is.
//!
//! After a failed sync the changes before it are *lost*: no later sync makes them durable, though readers go on
//! seeing them, as they do on an operating system that marks failed pages clean. Changes made and synced
//! later are durable, and the journal is kept from the first lost change on.

use std::io;
use std::mem;
use std::time::SystemTime;

use parking_lot::RwLock;

use super::survival::{Fate, Survival};

/// The largest file, so that a wild size from a caller is an error and not the end of the process.
pub(super) const FILE_SIZE_MAX: u64 = 4 << 30;

/// How durable a journaled change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No sync came after it.
    Unsynced,
    /// A failed sync came after it; no later one helps.
    Lost,
    /// Synced, and journaled still because a lost change stands before it.
    Synced,
}

/// One change of the bytes, with what is needed to undo it.
#[derive(Debug, Clone)]
struct Change {
    /// Where it begins, in bytes.
    position: usize,
    /// The bytes that stood from `position` on and were overwritten or cut.
    overwritten: Vec<u8>,
    /// How many bytes were written at `position`; 0 for a change of the size alone.
    written: usize,
    size_before: usize,
    size_after: usize,
    standing: Standing,
}

impl Change {
    /// Takes the change back; returns the bytes that it had written.
    fn undo(&self, bytes: &mut Vec<u8>) -> Vec<u8> {
        let end = self.position.saturating_add(self.written);
        let written = bytes.get(self.position..end).unwrap_or_default().to_vec();
        bytes.resize(self.size_before, 0);
        put(bytes, self.position, &self.overwritten);
        written
    }

    /// Does it again, or a part of it, on bytes that may lack the changes before it.
    fn redo(&self, bytes: &mut Vec<u8>, written: &[u8], fate: Fate) {
        match fate {
            Fate::Dropped => {}
            Fate::Kept if !written.is_empty() => put(bytes, self.position, written),
            Fate::Torn(choice) if !written.is_empty() => self.redo_torn(bytes, written, choice),
            Fate::Torn(_) | Fate::Kept if self.size_after < self.size_before => bytes.truncate(self.size_after),
            Fate::Torn(_) | Fate::Kept => bytes.resize(bytes.len().max(self.size_after), 0),
        }
    }

    /// A beginning of the bytes; in every second case the file has its full length nevertheless, with zeros at its end.
    fn redo_torn(&self, bytes: &mut Vec<u8>, written: &[u8], choice: u64) {
        let torn_at = usize::try_from(choice / 2).unwrap_or(0).checked_rem(written.len()).unwrap_or(0);
        put(bytes, self.position, written.get(..torn_at).unwrap_or_default());
        let end = self.position.saturating_add(written.len());
        if choice.is_multiple_of(2) && bytes.len() < end {
            bytes.resize(end, 0);
        }
    }
}

/// Overwrites from `position` on, zero-filling up to it and growing as needed. Nothing is done for no bytes.
fn put(bytes: &mut Vec<u8>, position: usize, new: &[u8]) {
    let end = position.saturating_add(new.len());
    if new.is_empty() {
        return;
    }
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(target) = bytes.get_mut(position..end) {
        target.copy_from_slice(new);
    }
}

#[derive(Debug, Clone)]
struct Content {
    bytes: Vec<u8>,
    journal: Vec<Change>,
    modified: SystemTime,
}

impl Content {
    /// Makes room and journals the change; the caller then makes it.
    fn begin_change(&mut self, position: usize, written: usize, size_after: usize) -> io::Result<()> {
        let size_before = self.bytes.len();
        self.bytes.try_reserve(size_after.saturating_sub(size_before)).map_err(|_| io::ErrorKind::StorageFull)?;
        // A cut overwrites all that stands behind the new end.
        let end =
            if size_after < size_before { size_before } else { position.saturating_add(written).min(size_before) };
        let overwritten = self.bytes.get(position..end).unwrap_or_default().to_vec();
        let standing = Standing::Unsynced;
        self.journal.push(Change { position, overwritten, written, size_before, size_after, standing });
        self.modified = SystemTime::now();
        Ok(())
    }

    fn resize(&mut self, size: usize) -> io::Result<()> {
        if size != self.bytes.len() {
            self.begin_change(size.min(self.bytes.len()), 0, size)?;
            self.bytes.resize(size, 0);
        }
        Ok(())
    }
}

/// One file, apart from its names.
#[derive(Debug)]
pub(super) struct Inode {
    content: RwLock<Content>,
}

impl Inode {
    pub(super) fn new() -> Self {
        let content = Content { bytes: Vec::new(), journal: Vec::new(), modified: SystemTime::now() };
        Self { content: RwLock::new(content) }
    }

    /// An independent copy, journal included.
    pub(super) fn copy(&self) -> Self {
        Self { content: RwLock::new(self.content.read().clone()) }
    }

    /// The file after a power loss: what was synced, and of the rest what `survival` says.
    pub(super) fn after_power_loss(&self, survival: &mut Survival) -> Self {
        let Content { mut bytes, mut journal, modified } = self.content.read().clone();
        let mut written: Vec<Vec<u8>> = journal.iter().rev().map(|change| change.undo(&mut bytes)).collect();
        let fates = survival.fates(journal.len());
        for (change, fate) in journal.drain(..).zip(fates) {
            let fate = if change.standing == Standing::Synced { Fate::Kept } else { fate };
            change.redo(&mut bytes, &written.pop().unwrap_or_default(), fate);
        }
        Self { content: RwLock::new(Content { bytes, journal, modified }) }
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> usize {
        let content = self.content.read();
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        let rest = content.bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(target), Some(source)) = (buffer.get_mut(..count), rest.get(..count)) {
            target.copy_from_slice(source);
        }
        count
    }

    pub(super) fn write_at(&self, new: &[u8], position: u64) -> io::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let end = position.checked_add(new.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        let (position, end) = (legal_size(position)?, legal_size(end)?);
        let mut content = self.content.write();
        let size_after = content.bytes.len().max(end);
        content.begin_change(position, new.len(), size_after)?;
        put(&mut content.bytes, position, new);
        Ok(())
    }

    pub(super) fn size(&self) -> u64 {
        self.content.read().bytes.len() as u64
    }

    pub(super) fn modified(&self) -> SystemTime {
        self.content.read().modified
    }

    pub(super) fn set_modified(&self, modified: SystemTime) {
        self.content.write().modified = modified;
    }

    pub(super) fn set_size(&self, size: u64) -> io::Result<()> {
        self.content.write().resize(legal_size(size)?)
    }

    pub(super) fn grow_to(&self, size: u64) -> io::Result<()> {
        let mut content = self.content.write();
        let size = legal_size(size)?.max(content.bytes.len());
        content.resize(size)
    }

    pub(super) fn sync(&self) {
        let mut content = self.content.write();
        if content.journal.iter().all(|change| change.standing == Standing::Unsynced) {
            // Taken, not cleared: a long journal's memory is given back.
            drop(mem::take(&mut content.journal));
            return;
        }
        content.restand(Standing::Synced);
    }

    /// What a sync that fails leaves behind: all that it should have made durable is lost.
    pub(super) fn lose_unsynced(&self) {
        self.content.write().restand(Standing::Lost);
    }

    /// A copy of the first `size` bytes; `None` when the file is shorter.
    pub(super) fn prefix(&self, size: u64) -> Option<Vec<u8>> {
        let size = usize::try_from(size).ok()?;
        self.content.read().bytes.get(..size).map(<[u8]>::to_vec)
    }
}

impl Content {
    fn restand(&mut self, standing: Standing) {
        for change in self.journal.iter_mut().filter(|change| change.standing == Standing::Unsynced) {
            change.standing = standing;
        }
    }
}

fn legal_size(size: u64) -> io::Result<usize> {
    if size > FILE_SIZE_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(inode: &Inode) -> Vec<u8> {
        inode.prefix(inode.size()).unwrap()
    }

    fn durable(inode: &Inode) -> Vec<u8> {
        bytes(&inode.after_power_loss(&mut Survival::new(0)))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u8, u64, usize),
        SetSize(u64),
        Grow(u64),
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..=255u8, 0..40u64, 0..20usize).prop_map(|(byte, position, size)| Step::Write(byte, position, size)),
            1 => (0..50u64).prop_map(Step::SetSize),
            1 => (0..50u64).prop_map(Step::Grow),
            1 => Just(Step::Sync),
        ]
    }

    proptest! {
        /// The journal undoes any mix of writes, cuts and growth to exactly the bytes of the last sync, and whatever
        /// survives beyond them, an image never panics and never holds a byte that nobody wrote.
        #[test]
        fn undoing_the_journal_gives_the_bytes_of_the_last_sync(steps in prop::collection::vec(step(), 0..30), seed in 1..u64::MAX) {
            let inode = Inode::new();
            let mut synced = Vec::new();
            for step in steps {
                match step {
                    Step::Write(byte, position, size) => inode.write_at(&vec![byte; size], position).unwrap(),
                    Step::SetSize(size) => inode.set_size(size).unwrap(),
                    Step::Grow(size) => inode.grow_to(size).unwrap(),
                    Step::Sync => {
                        inode.sync();
                        synced = bytes(&inode);
                    }
                }
            }
            prop_assert_eq!(durable(&inode), synced);
            prop_assert!(inode.after_power_loss(&mut Survival::new(seed)).size() <= 60);
        }
    }

    #[test]
    fn bytes_lost_by_a_failed_sync_stay_lost_and_later_ones_are_durable() {
        let inode = Inode::new();
        inode.write_at(b"aaaa", 0).unwrap();
        inode.sync();
        inode.write_at(b"bbbb", 4).unwrap();
        inode.lose_unsynced();
        inode.sync();
        assert_eq!(bytes(&inode), b"aaaabbbb");
        assert_eq!(durable(&inode), b"aaaa");
        inode.write_at(b"cc", 6).unwrap();
        inode.sync();
        assert_eq!(durable(&inode), b"aaaa\0\0cc");
        inode.write_at(b"bbbbbb", 4).unwrap();
        assert_eq!(durable(&inode), b"aaaa\0\0cc");
        inode.sync();
        assert_eq!(durable(&inode), b"aaaabbbbbb");
    }

    #[test]
    fn a_torn_write_leaves_a_beginning_and_at_most_zeros_after_it() {
        let change = Change {
            position: 2,
            overwritten: Vec::new(),
            written: 4,
            size_before: 2,
            size_after: 6,
            standing: Standing::Unsynced,
        };
        let torn = |choice| {
            let mut bytes = b"ab".to_vec();
            change.redo(&mut bytes, b"cdef", Fate::Torn(choice));
            bytes
        };
        assert_eq!(torn(0), b"ab\0\0\0\0");
        assert_eq!(torn(1), b"ab");
        assert_eq!(torn(4), b"abcd\0\0");
        assert_eq!(torn(7), b"abcde");
    }

    #[test]
    fn a_wild_size_is_an_error_and_changes_nothing() {
        let inode = Inode::new();
        assert_eq!(inode.set_size(u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(inode.grow_to(FILE_SIZE_MAX + 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(inode.write_at(b"x", u64::MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(inode.write_at(b"x", FILE_SIZE_MAX).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!((inode.size(), inode.prefix(1)), (0, None));
    }
}
