//! An open file whose calls may fail.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::fault::Effect;
use super::operation::{Call, Operation};
use super::script::{Script, Verdict};
use crate::types::Timestamp;
use crate::vfs::memory::MemoryFile;
use crate::vfs::{IoError, VfsFile};

/// One open file; `memory` is the same file as `inner` where it can lose bytes.
pub(super) struct FaultyFile {
    pub(super) inner: Arc<dyn VfsFile>,
    pub(super) memory: Option<Arc<MemoryFile>>,
    pub(super) script: Arc<Script>,
    pub(super) path: PathBuf,
}

impl fmt::Debug for FaultyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyFile").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl FaultyFile {
    fn call(&self, operation: Operation, mutates: bool) -> Call<'_> {
        Call { operation, path: &self.path, mutates }
    }

    fn write_prefix(&self, bytes: &[u8], size: usize, position: u64) -> Result<(), IoError> {
        self.inner.write_at(bytes.get(..size).unwrap_or(bytes), position)
    }
}

impl VfsFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<usize, IoError> {
        self.script.run(self.call(Operation::Read, false), || self.inner.read_at(buffer, position))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), IoError> {
        let call = self.call(Operation::Write, true);
        match self.script.decide(call) {
            Verdict::Strike(effect @ (Effect::ShortWrite { size, .. } | Effect::TornWrite { size })) => {
                self.write_prefix(bytes, size, position)?;
                call.injected(effect).map_or(Ok(()), Err)
            }
            verdict => call.carry_out(verdict, || self.inner.write_at(bytes, position)),
        }
    }

    fn size(&self) -> Result<u64, IoError> {
        self.script.run(self.call(Operation::Metadata, false), || self.inner.size())
    }

    fn identity(&self) -> Result<Option<u64>, IoError> {
        self.script.run(self.call(Operation::Metadata, false), || self.inner.identity())
    }

    fn set_size(&self, size: u64) -> Result<(), IoError> {
        self.script.run(self.call(Operation::SetSize, true), || self.inner.set_size(size))
    }

    fn allocate(&self, size: u64) -> Result<(), IoError> {
        self.script.run(self.call(Operation::Allocate, true), || self.inner.allocate(size))
    }

    fn set_modified(&self, modified: Timestamp) -> Result<(), IoError> {
        self.script.run(self.call(Operation::SetModified, true), || self.inner.set_modified(modified))
    }

    fn sync_data(&self) -> Result<(), IoError> {
        let call = self.call(Operation::Sync, true);
        let verdict = self.script.decide(call);
        if let (Verdict::Strike(effect), Some(memory)) = (verdict, &self.memory)
            && effect.error().is_some()
        {
            memory.lose_unsynced();
        }
        call.carry_out(verdict, || self.inner.sync_data())
    }

    fn map(&self, size: u64) -> Result<Bytes, IoError> {
        self.script.run(self.call(Operation::Map, false), || self.inner.map(size))
    }
}
