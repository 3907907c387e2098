//! Faults on demand over any [`Vfs`]: scripted or seeded errors, short and torn writes, failing syncs, and a crash at any point.
//!
//! What it injects: errors of every operation, with nothing done or, for a write, a beginning done; writes that report
//! success and are torn; syncs that fail and, over a [`MemoryVfs`], take the unsynced bytes with them; the end of the
//! machine before or within a given mutating operation. What it never does: change bytes that no operation touches.
//!
//! After a crash every operation fails, so the file system beneath stands still and its
//! [crash images](FaultyVfs::crash_image) are those of that moment. Operations that other threads have begun before the
//! crash may still end after it: take the image when they are joined.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::memory::MemoryFile;
use super::random::Random;
use super::{DirEntry, DirLock, IoError, MemoryVfs, Metadata, OpenMode, Vfs, VfsFile};
use crate::types::Timestamp;

/// What a fault can strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// [`Vfs::open`], creating or not.
    Open,
    /// [`Vfs::create_dir_all`].
    CreateDir,
    /// [`Vfs::read_dir`].
    ReadDir,
    /// [`Vfs::metadata`] and [`VfsFile::size`].
    Metadata,
    /// [`Vfs::rename`]; the path is the old name.
    Rename,
    /// [`Vfs::remove_file`] and [`Vfs::remove_dir`].
    Remove,
    /// [`Vfs::sync_dir`].
    SyncDir,
    /// [`Vfs::lock_dir`].
    Lock,
    /// [`VfsFile::read_at`].
    Read,
    /// [`VfsFile::write_at`].
    Write,
    /// [`VfsFile::set_size`].
    SetSize,
    /// [`VfsFile::allocate`].
    Allocate,
    /// [`VfsFile::set_modified`].
    SetModified,
    /// [`VfsFile::sync_data`].
    Sync,
    /// [`VfsFile::map`].
    Map,
}

impl Operation {
    const fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::CreateDir => "create folder",
            Self::ReadDir => "list",
            Self::Metadata => "look up",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::SyncDir => "sync folder",
            Self::Lock => "lock",
            Self::Read => "read",
            Self::Write => "write",
            Self::SetSize => "set the size of",
            Self::Allocate => "allocate",
            Self::SetModified => "set the time of",
            Self::Sync => "sync",
            Self::Map => "map",
        }
    }

    const fn is_sync(self) -> bool {
        matches!(self, Self::Sync | Self::SyncDir)
    }
}

/// What a fault does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing is done and the operation fails. A failed [`Operation::Sync`] over a [`MemoryVfs`] loses the file's unsynced
    /// bytes: readers still see them, and no later sync makes them durable.
    Error(io::ErrorKind),
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The operation it strikes.
    pub operation: Operation,
    /// Only paths that contain this, as text; empty for all. A file's path is the one it was opened under.
    pub path_contains: String,
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
        Self { operation, path_contains: String::new(), after: 0, times: 1, effect }
    }

    fn matches(&self, operation: Operation, path: &Path) -> bool {
        self.operation == operation && self.times > 0 && path.to_string_lossy().contains(&self.path_contains)
    }

    /// Counts a matching call; the effect when it strikes.
    const fn count(&mut self) -> Option<Effect> {
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

/// A file system that fails when told to. Clones share the faults and the crash.
///
/// # Example
/// A sync that fails loses the bytes before it, and the next one, though it succeeds, doesn't bring them back:
/// ```
/// use std::io::ErrorKind;
/// use std::path::Path;
/// use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, OpenMode, Operation, Vfs};
///
/// # fn main() -> Result<(), stratalog::vfs::IoError> {
/// let memory = MemoryVfs::new();
/// let vfs = FaultyVfs::new(memory.clone());
/// let file = vfs.open(Path::new("a"), OpenMode::Create)?;
/// vfs.sync_dir(Path::new("/"))?;
/// file.write_at(b"hello", 0)?;
///
/// vfs.inject(Fault::new(Operation::Sync, Effect::Error(ErrorKind::Other)));
/// assert!(file.sync_data().is_err());
/// assert!(file.sync_data().is_ok());
/// let survivor = memory.crash_image().open(Path::new("a"), OpenMode::Read)?;
/// assert_eq!(survivor.size()?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FaultyVfs {
    beneath: Beneath,
    script: Arc<Script>,
}

/// What the faults lie over: a [`MemoryVfs`] can lose bytes, others can't.
#[derive(Debug, Clone)]
enum Beneath {
    Memory(MemoryVfs),
    Other(Arc<dyn Vfs>),
}

impl Beneath {
    fn vfs(&self) -> &dyn Vfs {
        match self {
            Self::Memory(memory) => memory,
            Self::Other(other) => other.as_ref(),
        }
    }
}

impl From<MemoryVfs> for FaultyVfs {
    fn from(memory: MemoryVfs) -> Self {
        Self::new(memory)
    }
}

impl FaultyVfs {
    /// No faults yet, over files in memory: failed syncs lose bytes and crash images can be taken.
    #[must_use]
    pub fn new(memory: MemoryVfs) -> Self {
        Self { beneath: Beneath::Memory(memory), script: Arc::default() }
    }

    /// No faults yet, over any file system: a failed sync is an error that loses nothing, and there are no crash images.
    #[must_use]
    pub fn over(inner: Arc<dyn Vfs>) -> Self {
        Self { beneath: Beneath::Other(inner), script: Arc::default() }
    }

    /// Adds a scripted fault. Faults that match the same call all count it; the first one that strikes decides.
    pub fn inject(&self, fault: Fault) {
        self.script.state.lock().faults.push(fault);
    }

    /// Lets every call fail with this `probability` (0 to 1) from now on, as `seed` decides: with an I/O error or a full
    /// disk, writes with a beginning written in half of the cases.
    pub fn inject_randomly(&self, seed: u64, probability: f64) {
        self.script.state.lock().random = Some((Random::new(seed), probability));
    }

    /// Like [`FaultyVfs::new`] followed by [`FaultyVfs::inject_randomly`].
    #[must_use]
    pub fn seeded(memory: MemoryVfs, seed: u64, probability: f64) -> Self {
        let vfs = Self::new(memory);
        vfs.inject_randomly(seed, probability);
        vfs
    }

    /// Ends all faults, scripted and random, and forgets a crash that is still to come. One that happened stays.
    pub fn clear_faults(&self) {
        let mut state = self.script.state.lock();
        state.faults.clear();
        state.random = None;
        state.mutations_until_crash = None;
    }

    /// Lets the machine end within the mutating operation after the next `mutations` of them (see [`FaultyVfs::mutations`]).
    /// That operation has reached the file system beneath but nothing of it is durable, a sync has no effect at all, and
    /// its caller and every later one get an error.
    pub fn crash_after(&self, mutations: u64) {
        self.script.state.lock().mutations_until_crash = Some(mutations);
    }

    /// Ends the machine now: every later operation fails.
    pub fn crash(&self) {
        self.script.state.lock().is_crashed = true;
    }

    /// Whether the machine has ended.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.script.state.lock().is_crashed
    }

    /// How many operations that change something were called so far: writes, syncs, changes of sizes and names, opening
    /// that creates or truncates. Those that a fault struck are counted too, those after a crash are not.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.script.state.lock().mutations
    }

    /// How often a fault struck so far, the crash not counted.
    #[must_use]
    pub fn faults_struck(&self) -> u64 {
        self.script.state.lock().struck
    }

    /// What a power loss at this moment may leave, as [`MemoryVfs::torn_crash_image`] says; seed 0 leaves only what was
    /// synced. `None` when there is no [`MemoryVfs`] beneath.
    #[must_use]
    pub fn crash_image(&self, seed: u64) -> Option<MemoryVfs> {
        match &self.beneath {
            Beneath::Memory(memory) => Some(memory.torn_crash_image(seed)),
            Beneath::Other(_) => None,
        }
    }

    /// Runs an operation on names.
    fn run<T>(
        &self,
        operation: Operation,
        path: &Path,
        mutates: bool,
        action: impl FnOnce(&dyn Vfs) -> Result<T, IoError>,
    ) -> Result<T, IoError> {
        self.script.run(Call { operation, path, mutates }, || action(self.beneath.vfs()))
    }

    fn open_beneath(&self, path: &Path, mode: OpenMode) -> Result<FaultyFile, IoError> {
        let (inner, memory): (Arc<dyn VfsFile>, _) = match &self.beneath {
            Beneath::Memory(memory) => {
                let file = memory.open_file(path, mode)?;
                (Arc::<MemoryFile>::clone(&file), Some(file))
            }
            Beneath::Other(other) => (other.open(path, mode)?, None),
        };
        Ok(FaultyFile { inner, memory, script: Arc::clone(&self.script), path: path.to_path_buf() })
    }

    /// Whether opening changes names or bytes. A look that fails is left to the opening itself to report.
    fn opening_mutates(&self, path: &Path, mode: OpenMode) -> bool {
        match mode {
            OpenMode::Read | OpenMode::Write => false,
            OpenMode::Create => matches!(self.beneath.vfs().metadata(path), Ok(None)),
            OpenMode::Truncate => true,
        }
    }
}

impl Vfs for FaultyVfs {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn VfsFile>, IoError> {
        let call = Call { operation: Operation::Open, path, mutates: self.opening_mutates(path, mode) };
        Ok(Arc::new(self.script.run(call, || self.open_beneath(path, mode))?))
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), IoError> {
        let mutates = !matches!(self.beneath.vfs().metadata(path), Ok(Some(_)));
        self.run(Operation::CreateDir, path, mutates, |vfs| vfs.create_dir_all(path))
    }

    fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>, IoError> {
        self.run(Operation::ReadDir, path, false, |vfs| vfs.read_dir(path))
    }

    fn metadata(&self, path: &Path) -> Result<Option<Metadata>, IoError> {
        self.run(Operation::Metadata, path, false, |vfs| vfs.metadata(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), IoError> {
        self.run(Operation::Rename, from, true, |vfs| vfs.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<(), IoError> {
        self.run(Operation::Remove, path, true, |vfs| vfs.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), IoError> {
        self.run(Operation::Remove, path, true, |vfs| vfs.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), IoError> {
        self.run(Operation::SyncDir, path, true, |vfs| vfs.sync_dir(path))
    }

    fn lock_dir(&self, path: &Path) -> Result<Box<dyn DirLock>, IoError> {
        self.run(Operation::Lock, path, false, |vfs| vfs.lock_dir(path))
    }

    fn boot_id(&self) -> Option<String> {
        self.beneath.vfs().boot_id()
    }
}

/// One open file; `memory` is the same file as `inner` where it can lose bytes.
struct FaultyFile {
    inner: Arc<dyn VfsFile>,
    memory: Option<Arc<MemoryFile>>,
    script: Arc<Script>,
    path: PathBuf,
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
            Verdict::Strike(Effect::ShortWrite { size, kind }) => {
                self.write_prefix(bytes, size, position)?;
                Err(call.injected(kind))
            }
            Verdict::Strike(Effect::TornWrite { size }) => self.write_prefix(bytes, size, position),
            verdict => call.carry_out(verdict, || self.inner.write_at(bytes, position)),
        }
    }

    fn size(&self) -> Result<u64, IoError> {
        self.script.run(self.call(Operation::Metadata, false), || self.inner.size())
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
        if let (Verdict::Strike(Effect::Error(_) | Effect::ShortWrite { .. }), Some(memory)) = (verdict, &self.memory) {
            memory.lose_unsynced();
        }
        call.carry_out(verdict, || self.inner.sync_data())
    }

    fn map(&self, size: u64) -> Result<Bytes, IoError> {
        self.script.run(self.call(Operation::Map, false), || self.inner.map(size))
    }
}

/// One call, as far as faults care.
#[derive(Debug, Clone, Copy)]
struct Call<'a> {
    operation: Operation,
    path: &'a Path,
    mutates: bool,
}

/// What is to become of a call.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Proceed,
    Strike(Effect),
    /// The machine ends within this call.
    CrashNow,
    /// The machine has ended.
    Crashed,
}

impl Call<'_> {
    fn injected(self, kind: io::ErrorKind) -> IoError {
        IoError::new(self.operation.verb(), self.path, io::Error::new(kind, format!("injected fault: {kind}")))
    }

    fn crashed(self) -> IoError {
        IoError::new(self.operation.verb(), self.path, io::Error::other("the machine crashed (injected)"))
    }

    fn carry_out<T>(self, verdict: Verdict, action: impl FnOnce() -> Result<T, IoError>) -> Result<T, IoError> {
        match verdict {
            Verdict::Proceed | Verdict::Strike(Effect::TornWrite { .. }) => action(),
            Verdict::Strike(Effect::Error(kind) | Effect::ShortWrite { kind, .. }) => Err(self.injected(kind)),
            Verdict::CrashNow => {
                // The change has left the process and is in nobody's hands: done, and not durable. The caller never
                // learns how it ended, so its result is dropped.
                if !self.operation.is_sync() {
                    drop(action());
                }
                Err(self.crashed())
            }
            Verdict::Crashed => Err(self.crashed()),
        }
    }
}

/// The faults to come, shared by all clones and open files.
#[derive(Debug, Default)]
struct Script {
    state: Mutex<ScriptState>,
}

#[derive(Debug, Default)]
struct ScriptState {
    faults: Vec<Fault>,
    random: Option<(Random, f64)>,
    mutations: u64,
    mutations_until_crash: Option<u64>,
    is_crashed: bool,
    struck: u64,
}

impl Script {
    fn decide(&self, call: Call<'_>) -> Verdict {
        self.state.lock().decide(call)
    }

    fn run<T>(&self, call: Call<'_>, action: impl FnOnce() -> Result<T, IoError>) -> Result<T, IoError> {
        call.carry_out(self.decide(call), action)
    }
}

impl ScriptState {
    fn decide(&mut self, call: Call<'_>) -> Verdict {
        if self.is_crashed {
            return Verdict::Crashed;
        }
        if call.mutates {
            if self.mutations_until_crash == Some(0) {
                self.is_crashed = true;
                return Verdict::CrashNow;
            }
            self.mutations_until_crash = self.mutations_until_crash.map(|left| left - 1);
            self.mutations += 1;
        }
        match self.scripted(call).or_else(|| self.drawn(call)) {
            Some(effect) => {
                self.struck += 1;
                Verdict::Strike(effect)
            }
            None => Verdict::Proceed,
        }
    }

    fn scripted(&mut self, call: Call<'_>) -> Option<Effect> {
        let mut striking = None;
        for fault in self.faults.iter_mut().filter(|fault| fault.matches(call.operation, call.path)) {
            if striking.is_some() && fault.after == 0 {
                continue;
            }
            striking = fault.count().or(striking);
        }
        striking
    }

    fn drawn(&mut self, call: Call<'_>) -> Option<Effect> {
        let (random, probability) = self.random.as_mut()?;
        if !random.happens(*probability) {
            return None;
        }
        let may_fill_up = call.mutates && !call.operation.is_sync();
        let kind = if may_fill_up && random.below(2) == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        // A short write of at most 4 KiB is short of most batches, and tears the header of many.
        Some(if random.below(2) == 0 {
            Effect::Error(kind)
        } else {
            Effect::ShortWrite { size: random.below(4096), kind }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::DiskVfs;
    use crate::vfs::conformance;

    fn without_faults(check: impl FnOnce(&dyn Vfs, &Path)) {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        vfs.create_dir_all(Path::new("/root")).unwrap();
        check(&vfs, Path::new("/root"));
    }

    conformance::suite!(without_faults);

    const EIO: Effect = Effect::Error(io::ErrorKind::Other);

    fn path(name: &str) -> &Path {
        Path::new(name)
    }

    fn faulty() -> (FaultyVfs, Arc<dyn VfsFile>) {
        let vfs = FaultyVfs::new(MemoryVfs::new());
        let file = vfs.open(path("a.log"), OpenMode::Create).unwrap();
        vfs.sync_dir(path("/")).unwrap();
        (vfs, file)
    }

    fn surviving(vfs: &FaultyVfs, seed: u64) -> Vec<u8> {
        let image = vfs.crash_image(seed).unwrap();
        let file = image.open(path("a.log"), OpenMode::Read).unwrap();
        file.map(file.size().unwrap()).unwrap().to_vec()
    }

    #[test]
    fn a_fault_strikes_the_calls_it_names_and_no_others() {
        let (vfs, file) = faulty();
        let other = vfs.open(path("a.index"), OpenMode::Create).unwrap();
        let effect = Effect::Error(io::ErrorKind::StorageFull);
        vfs.inject(Fault { path_contains: ".log".into(), after: 1, times: 2, ..Fault::new(Operation::Write, effect) });
        other.write_at(b"x", 0).unwrap();
        file.write_at(b"1", 0).unwrap();
        for _ in 0..2 {
            let refused = file.write_at(b"2", 1).unwrap_err();
            assert_eq!((refused.io_kind(), refused.path()), (io::ErrorKind::StorageFull, path("a.log")));
            assert_eq!(refused.kind(), crate::types::ErrorKind::StorageFull);
        }
        file.write_at(b"3", 1).unwrap();
        assert_eq!(file.map(2).unwrap(), "13");
        assert_eq!(vfs.faults_struck(), 2);
    }

    #[test]
    fn every_operation_can_fail_and_then_does_nothing() {
        use Operation as Op;
        let (vfs, file) = faulty();
        file.write_at(b"abc", 0).unwrap();
        vfs.create_dir_all(path("d")).unwrap();
        type Try<'a> = &'a dyn Fn() -> Result<(), IoError>;
        let calls: [(Operation, Try<'_>); 14] = [
            (Op::Open, &|| vfs.open(path("new"), OpenMode::Create).map(drop)),
            (Op::CreateDir, &|| vfs.create_dir_all(path("new"))),
            (Op::ReadDir, &|| vfs.read_dir(path("/")).map(drop)),
            (Op::Metadata, &|| vfs.metadata(path("d")).map(drop)),
            (Op::Rename, &|| vfs.rename(path("a.log"), path("new"))),
            (Op::Remove, &|| vfs.remove_file(path("a.log"))),
            (Op::Remove, &|| vfs.remove_dir(path("d"))),
            (Op::SyncDir, &|| vfs.sync_dir(path("/"))),
            (Op::Lock, &|| vfs.lock_dir(path("/")).map(drop)),
            (Op::Read, &|| file.read_at(&mut [0], 0).map(drop)),
            (Op::Write, &|| file.write_at(b"zzzz", 0)),
            (Op::SetSize, &|| file.set_size(1)),
            (Op::Allocate, &|| file.allocate(100)),
            (Op::Map, &|| file.map(1).map(drop)),
        ];
        for (operation, call) in calls {
            vfs.inject(Fault::new(operation, EIO));
            assert_eq!(call().unwrap_err().io_kind(), io::ErrorKind::Other, "{operation:?}");
        }
        let names: Vec<_> = vfs.read_dir(path("/")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a.log", "d"]);
        assert_eq!((file.size().unwrap(), file.map(3).unwrap()), (3, "abc".into()));
    }

    #[test]
    fn short_writes_fail_after_their_bytes_and_torn_ones_report_success() {
        let (vfs, file) = faulty();
        vfs.inject(Fault::new(Operation::Write, Effect::ShortWrite { size: 2, kind: io::ErrorKind::StorageFull }));
        assert!(file.write_at(b"abcd", 0).is_err());
        assert_eq!(file.size().unwrap(), 2);
        vfs.inject(Fault::new(Operation::Write, Effect::TornWrite { size: 3 }));
        file.write_at(b"efgh", 0).unwrap();
        assert_eq!(file.map(file.size().unwrap()).unwrap(), "efg");
    }

    #[test]
    fn a_failed_sync_loses_the_bytes_before_it_for_good() {
        let (vfs, file) = faulty();
        file.write_at(b"lost", 0).unwrap();
        vfs.inject(Fault::new(Operation::Sync, EIO));
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert_eq!(file.map(4).unwrap(), "lost");
        assert_eq!(surviving(&vfs, 0), b"");
        file.write_at(b"kept", 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(surviving(&vfs, 0), b"kept");
    }

    #[test]
    fn a_crash_lets_so_many_mutations_pass_and_nothing_after_them() {
        let (vfs, file) = faulty();
        let before = vfs.mutations();
        assert_eq!(before, 2, "creating the file and syncing its folder");
        vfs.crash_after(3);
        file.write_at(b"ab", 0).unwrap();
        file.sync_data().unwrap();
        file.read_at(&mut [0], 0).unwrap();
        file.write_at(b"cd", 2).unwrap();
        assert!(!vfs.is_crashed());
        file.sync_data().unwrap_err();
        assert!(vfs.is_crashed());
        assert_eq!(vfs.mutations(), before + 3);
        assert!(file.read_at(&mut [0], 0).is_err());
        assert!(vfs.open(path("a.log"), OpenMode::Read).is_err());
        assert!(vfs.clone().metadata(path("a.log")).is_err());
        assert_eq!(surviving(&vfs, 0), b"ab", "the sync at the crash had no effect");
        assert!((0..50).any(|seed| surviving(&vfs, seed) == b"abcd"), "its bytes may be there all the same");
    }

    #[test]
    fn the_write_at_the_crash_may_survive_in_part() {
        let (vfs, file) = faulty();
        vfs.crash_after(0);
        file.write_at(b"abcd", 0).unwrap_err();
        assert_eq!(surviving(&vfs, 0), b"");
        let survivors: std::collections::BTreeSet<_> = (0..200).map(|seed| surviving(&vfs, seed)).collect();
        assert!(
            survivors.contains(&b"ab"[..]) && survivors.contains(&b"abcd"[..]) && survivors.contains(&b"a\0\0\0"[..])
        );
    }

    #[test]
    fn seeded_faults_repeat_with_their_seed_and_end_when_cleared() {
        let run = |seed| {
            let vfs = FaultyVfs::new(MemoryVfs::new());
            let file = vfs.open(path("a"), OpenMode::Create).unwrap();
            vfs.inject_randomly(seed, 0.3);
            let results: Vec<bool> = (0..200).map(|index| file.write_at(b"abc", index).is_ok()).collect();
            vfs.clear_faults();
            file.write_at(b"abc", 0).unwrap();
            (results, vfs.faults_struck())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let (_, struck) = run(3);
        assert!((30..90).contains(&struck), "{struck} of 200 at 0.3");
        assert!(FaultyVfs::seeded(MemoryVfs::new(), 1, 1.0).read_dir(path("/")).is_err());
    }

    #[test]
    fn faults_work_over_the_disk_too() {
        let folder = tempfile::tempdir().unwrap();
        let vfs = FaultyVfs::over(Arc::new(DiskVfs::new()));
        let file = vfs.open(&folder.path().join("a"), OpenMode::Create).unwrap();
        vfs.inject(Fault::new(Operation::Sync, EIO));
        file.sync_data().unwrap_err();
        file.sync_data().unwrap();
        assert!(vfs.crash_image(0).is_none());
    }
}
