//! A file of fixed-size entries, ordered by the caller: the storage under both sparse indexes.
//!
//! The entries of a growing index live in memory and are written behind, in larger pieces; those of a sealed one are
//! mapped on first use. A lost or stale index costs a rebuild or a longer scan, never data, so nothing here is synced
//! unless asked. Nobody outside sees the mapped bytes: they are only lent to a closure under the lock, so cutting the file is safe.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::error::SegmentError;
use crate::vfs::{OpenMode, Vfs};

/// Unwritten entries that are collected before they go to the file, in bytes.
const WRITE_BEHIND: usize = 4096;

#[derive(Debug)]
pub(crate) struct IndexFile {
    vfs: Arc<dyn Vfs>,
    entry_size: usize,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    path: PathBuf,
    content: Content,
    /// How many bytes of the content the file already holds.
    written: usize,
    /// Whether no other process may be writing this file: then it may be mapped and changed.
    own: bool,
    /// Whether the segment was deleted: then its name may come to stand for another file, and this one is never touched again.
    retired: bool,
}

#[derive(Debug)]
enum Content {
    /// In the file only.
    Unloaded,
    /// Sealed, mapped.
    Mapped(Bytes),
    /// Growing.
    Memory(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Unloaded => &[],
            Self::Mapped(bytes) => bytes,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl IndexFile {
    /// The entries that stand in the file; a missing file has none.
    pub(crate) fn open(vfs: Arc<dyn Vfs>, path: PathBuf, entry_size: usize, own: bool) -> Self {
        let state = State { path, content: Content::Unloaded, written: 0, own, retired: false };
        Self { vfs, entry_size, state: RwLock::new(state) }
    }

    /// No entries; a file of that name is overwritten with the first write.
    pub(crate) fn empty(vfs: Arc<dyn Vfs>, path: PathBuf, entry_size: usize, own: bool) -> Self {
        let state = State { path, content: Content::Memory(Vec::new()), written: 0, own, retired: false };
        Self { vfs, entry_size, state: RwLock::new(state) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.state.read().path.clone()
    }

    /// Lends all entries, whole ones only.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&[u8]) -> R) -> Result<R, SegmentError> {
        {
            let state = self.state.read();
            if !matches!(state.content, Content::Unloaded) {
                return Ok(look(state.content.bytes()));
            }
        }
        let mut state = self.state.write();
        if matches!(state.content, Content::Unloaded) {
            state.content = self.load(&state)?;
            state.written = state.content.bytes().len();
        }
        Ok(look(state.content.bytes()))
    }

    fn load(&self, state: &State) -> Result<Content, SegmentError> {
        let Some(metadata) = self.vfs.metadata(&state.path)? else { return Ok(Content::Memory(Vec::new())) };
        let whole = metadata.size - metadata.size % self.entry_size as u64;
        let file = self.vfs.open(&state.path, OpenMode::Read)?;
        if state.own {
            return Ok(Content::Mapped(file.map(whole)?));
        }
        let mut bytes = vec![0; usize::try_from(whole).unwrap_or(0)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read - read % self.entry_size);
        Ok(Content::Memory(bytes))
    }

    /// Appends one entry in memory; full pages of entries go to the file.
    pub(crate) fn push(&self, entry: &[u8]) -> Result<(), SegmentError> {
        self.with(|_| ())?;
        let mut state = self.state.write();
        let state = &mut *state;
        let memory = state.content.make_memory();
        memory.extend_from_slice(entry);
        if memory.len() - state.written >= WRITE_BEHIND {
            // What can't be written now (a full disk) stays pending for the next page, the flush or the seal.
            self.write_pending(state).ok();
        }
        Ok(())
    }

    /// Keeps the first `count` entries, in memory and in the file.
    pub(crate) fn truncate(&self, count: usize) -> Result<(), SegmentError> {
        self.with(|_| ())?;
        let mut state = self.state.write();
        let state = &mut *state;
        let size = count.saturating_mul(self.entry_size);
        state.content.make_memory().truncate(size);
        if state.written > size && state.own {
            self.vfs.open(&state.path, OpenMode::Write)?.set_size(size as u64)?;
            state.written = size;
        }
        Ok(())
    }

    /// Writes what isn't in the file yet; creates the file when it isn't there.
    pub(crate) fn persist(&self) -> Result<(), SegmentError> {
        self.write_pending(&mut self.state.write())
    }

    fn write_pending(&self, state: &mut State) -> Result<(), SegmentError> {
        let Content::Memory(memory) = &state.content else { return Ok(()) };
        if state.retired {
            return Ok(());
        }
        let pending = memory.get(state.written..).unwrap_or_default();
        // A first write replaces what an earlier life of this name left behind.
        let mode = if state.written == 0 { OpenMode::Truncate } else { OpenMode::Create };
        self.vfs.open(&state.path, mode)?.write_at(pending, state.written as u64)?;
        state.written = memory.len();
        Ok(())
    }

    /// Makes all entries durable.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        let mut state = self.state.write();
        self.write_pending(&mut state)?;
        if state.retired {
            return Ok(());
        }
        Ok(self.vfs.open(&state.path, OpenMode::Write)?.sync_data()?)
    }

    /// Writes all entries and frees the memory; they are mapped when used again.
    pub(crate) fn seal(&self) -> Result<(), SegmentError> {
        let mut state = self.state.write();
        self.write_pending(&mut state)?;
        if state.own && !state.retired {
            state.content = Content::Unloaded;
        }
        Ok(())
    }

    /// Gives the file its last name. The entries stay in memory, so that they are readable when the name is another file's.
    pub(crate) fn retire(&self, to: PathBuf) -> Result<(), SegmentError> {
        self.rename(to)?;
        self.state.write().retired = true;
        Ok(())
    }

    /// Removes the file and leaves its name to others. The entries stay in memory.
    pub(crate) fn remove(&self) -> Result<(), SegmentError> {
        self.with(|_| ())?;
        let mut state = self.state.write();
        state.retired = true;
        match self.vfs.remove_file(&state.path) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Drops all entries and the file with them: the next write makes a new one. Whoever has mapped the old file keeps it.
    pub(crate) fn clear(&self) -> Result<(), SegmentError> {
        let mut state = self.state.write();
        match self.vfs.remove_file(&state.path) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
        state.content = Content::Memory(Vec::new());
        state.written = 0;
        Ok(())
    }

    /// Gives the file another name; a file that was never written is left alone.
    pub(crate) fn rename(&self, to: PathBuf) -> Result<(), SegmentError> {
        self.with(|_| ())?;
        let mut state = self.state.write();
        match self.vfs.rename(&state.path, &to) {
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => state.path = to,
        }
        Ok(())
    }
}

impl Content {
    /// The entries as growable memory; a mapped index is copied out, which also ends its map.
    fn make_memory(&mut self) -> &mut Vec<u8> {
        if !matches!(self, Self::Memory(_)) {
            *self = Self::Memory(self.bytes().to_vec());
        }
        match self {
            Self::Memory(bytes) => bytes,
            Self::Unloaded | Self::Mapped(_) => unreachable!("made memory on the lines above"),
        }
    }
}
