//! Faults on demand over any [`Vfs`]: scripted or seeded errors, short and torn writes, failing syncs, a crash at any point,
//! and hooks that stop a call halfway.
//!
//! What it injects: errors of every operation, with nothing done or, for a write, a beginning done; writes that report
//! success and are torn; syncs that fail and, over a [`MemoryVfs`], take the unsynced bytes with them; the end of the
//! machine before or within a given mutating operation. What it never does: change bytes that no operation touches.
//!
//! After a crash every operation fails, so the file system beneath stands still and its
//! [crash images](FaultyVfs::crash_image) are those of that moment. Operations that other threads have begun before the
//! crash may still end after it: take the image when they are joined.
//!
//! The map: [`Operation`] names a kind of call, [`PathFilter`] some paths, [`Fault`] and [`Hook`] a call and what becomes of
//! it; `script` decides about each call, and `file` is an open file that asks it.

mod fault;
mod file;
mod hook;
mod operation;
mod path_filter;
mod script;

use std::path::Path;
use std::sync::Arc;

pub use self::fault::{Effect, Fault};
use self::file::FaultyFile;
use self::hook::{Door, PendingHook};
pub use self::hook::{Gate, Hook};
use self::operation::Call;
pub use self::operation::Operation;
pub use self::path_filter::PathFilter;
use self::script::Script;
use super::memory::MemoryFile;
use super::random::Random;
use super::{DirEntry, DirLock, IoError, MemoryVfs, Metadata, OpenMode, Vfs, VfsFile};

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

    /// Runs `action` in the thread that makes the call which `hook` names, before that call is carried out. It is given the
    /// call's path, runs once, and may use this file system, inject faults for the call that waits, or crash the machine.
    /// The file system keeps it until it has run or [`FaultyVfs::clear_hooks`] ends it.
    ///
    /// # Example
    /// Another file is written just before the second write to `a`:
    /// ```
    /// use std::path::Path;
    /// use stratalog::vfs::{FaultyVfs, Hook, MemoryVfs, OpenMode, Operation, Vfs};
    ///
    /// # fn main() -> Result<(), stratalog::vfs::IoError> {
    /// let vfs = FaultyVfs::new(MemoryVfs::new());
    /// let (a, b) = (vfs.open(Path::new("a"), OpenMode::Create)?, vfs.open(Path::new("b"), OpenMode::Create)?);
    /// let (seen, copy) = (a.clone(), b.clone());
    /// vfs.hook(Hook::at(Operation::Write).path("a").nth(2), move |_path| {
    ///     let bytes = seen.map(seen.size().unwrap()).unwrap();
    ///     copy.write_at(&bytes, 0).unwrap();
    /// });
    /// a.write_at(b"one", 0)?;
    /// a.write_at(b"two", 3)?;
    /// assert_eq!(b.map(b.size()?)?, "one");
    /// # Ok(())
    /// # }
    /// ```
    pub fn hook(&self, hook: Hook, action: impl FnOnce(&Path) + Send + 'static) {
        self.script.state.lock().hooks.push(PendingHook::new(hook, action));
    }

    /// Holds the thread that makes the call which `hook` names, before that call is carried out, until the gate is released
    /// or dropped. All other calls go on.
    ///
    /// # Example
    /// A read happens while a write is under way:
    /// ```
    /// use std::path::Path;
    /// use std::time::Duration;
    /// use stratalog::vfs::{FaultyVfs, Hook, MemoryVfs, OpenMode, Operation, Vfs};
    ///
    /// # fn main() -> Result<(), stratalog::vfs::IoError> {
    /// let vfs = FaultyVfs::new(MemoryVfs::new());
    /// let file = vfs.open(Path::new("a"), OpenMode::Create)?;
    /// let gate = vfs.block(Hook::at(Operation::Write).path("a"));
    /// std::thread::scope(|scope| {
    ///     let writer = scope.spawn(|| file.write_at(b"hello", 0));
    ///     assert!(gate.wait_until_reached(Duration::from_secs(10)));
    ///     assert_eq!(file.size()?, 0);
    ///     gate.release();
    ///     writer.join().unwrap()
    /// })?;
    /// assert_eq!(file.size()?, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn block(&self, hook: Hook) -> Gate {
        let door = Arc::<Door>::default();
        let gate = Gate::new(Arc::clone(&door));
        self.hook(hook, move |_| door.pass());
        gate
    }

    /// Ends all hooks that haven't fired. A thread that a gate holds stays there until that gate is released.
    pub fn clear_hooks(&self) {
        let ended = std::mem::take(&mut self.script.state.lock().hooks);
        // Dropped without the lock: what a closure holds may be a file of this file system.
        drop(ended);
    }

    /// Ends all faults, scripted and random, and forgets a crash that is still to come. One that happened stays, and so do
    /// hooks.
    pub fn clear_faults(&self) {
        let mut state = self.script.state.lock();
        state.faults.clear();
        state.random = None;
        state.mutations_until_crash = None;
    }

    /// Runs `look` while no call is struck, counted or hooked, whichever thread makes it: for a test that looks at what it
    /// tests between two steps, without using up a fault that is meant for the next one. A machine that has ended stays so.
    ///
    /// # Example
    /// ```
    /// use std::io::ErrorKind;
    /// use std::path::Path;
    /// use stratalog::vfs::{Effect, Fault, FaultyVfs, MemoryVfs, Operation, Vfs};
    ///
    /// let vfs = FaultyVfs::new(MemoryVfs::new());
    /// vfs.inject(Fault::new(Operation::Any, Effect::Error(ErrorKind::Other)));
    /// assert!(vfs.undisturbed(|| vfs.read_dir(Path::new("/"))).is_ok());
    /// assert!(vfs.read_dir(Path::new("/")).is_err());
    /// ```
    pub fn undisturbed<T>(&self, look: impl FnOnce() -> T) -> T {
        let _look = Look::begin(&self.script);
        look()
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

    /// How many calls of any kind were made so far: every call of the file system and of its files. Those that a fault or
    /// the crash struck are counted too, those after a crash are not.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.script.state.lock().calls
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

/// A look that goes on; one that panics ends too.
struct Look<'a>(&'a Script);

impl<'a> Look<'a> {
    fn begin(script: &'a Script) -> Self {
        script.state.lock().looks += 1;
        Self(script)
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.state.lock().looks -= 1;
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

    fn open_files_max(&self) -> Option<u64> {
        self.beneath.vfs().open_files_max()
    }
}

#[cfg(test)]
mod tests;
