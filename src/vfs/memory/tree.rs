//! The names of an in-memory file system, and which of them would survive a power loss.
//!
//! Every folder has its live names and its durable ones. Between them stands a journal of the name changes (create,
//! rename, remove) that no sync of a folder covered yet. Invariants:
//!
//! - The live names are the durable ones with the whole journal applied, in order.
//! - A rename is one entry of the journal, whichever folders it touches: it becomes durable as a whole.
//! - An entry never becomes durable before an earlier one that touched the same name, nor the removal of a folder before the
//!   removals inside it. So no choice of entries makes a file appear under two names or lose both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Component, Path};
use std::sync::Arc;

use super::inode::Inode;
use super::survival::{Fate, Survival};

/// The identity of a folder, which a rename keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FolderId(u64);

const ROOT: FolderId = FolderId(0);

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Arc<Inode>),
    Folder(FolderId),
}

type Names = BTreeMap<OsString, Node>;

#[derive(Debug, Default)]
struct Folder {
    live: Names,
    durable: Names,
}

/// One name of one folder, and what it stands for after a change.
#[derive(Debug)]
struct Assignment {
    folder: FolderId,
    name: OsString,
    node: Option<Node>,
}

/// An entry of the journal: all of its assignments happen or none does.
#[derive(Debug)]
struct NameChange {
    assignments: Vec<Assignment>,
    /// The folder that ceases to exist with this change.
    removed: Option<FolderId>,
}

/// The names and folders that some changes touch.
#[derive(Debug, Default)]
struct Touched<'a> {
    names: BTreeSet<(FolderId, &'a OsString)>,
    folders: BTreeSet<FolderId>,
    removed: BTreeSet<FolderId>,
}

impl<'a> Touched<'a> {
    fn add(&mut self, change: &'a NameChange) {
        for Assignment { folder, name, .. } in &change.assignments {
            self.names.insert((*folder, name));
            self.folders.insert(*folder);
        }
        self.removed.extend(change.removed);
    }

    fn has_name_of(&self, change: &NameChange) -> bool {
        change.assignments.iter().any(|one| self.names.contains(&(one.folder, &one.name)))
    }

    /// Whether one of these must not be durable without `earlier`.
    fn needs(&self, earlier: &NameChange) -> bool {
        self.has_name_of(earlier) || earlier.assignments.iter().any(|one| self.removed.contains(&one.folder))
    }

    /// Whether `later` must not be durable without all of these.
    fn is_needed_by(&self, later: &NameChange) -> bool {
        self.has_name_of(later) || later.removed.is_some_and(|folder| self.folders.contains(&folder))
    }
}

/// All folders, and the journal of their names.
#[derive(Debug)]
pub(super) struct Tree {
    folders: BTreeMap<FolderId, Folder>,
    journal: Vec<NameChange>,
    next_id: u64,
}

impl Tree {
    /// An empty root.
    pub(super) fn new() -> Self {
        Self { folders: BTreeMap::from([(ROOT, Folder::default())]), journal: Vec::new(), next_id: 1 }
    }

    /// What stands at `path`; relative paths begin at the root.
    pub(super) fn find(&self, path: &Path) -> Result<Node, ErrorKind> {
        let mut node = Node::Folder(ROOT);
        for name in components(path)? {
            let Node::Folder(folder) = node else { return Err(ErrorKind::NotADirectory) };
            node = self.live(folder).and_then(|names| names.get(&name)).cloned().ok_or(ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    pub(super) fn find_folder(&self, path: &Path) -> Result<FolderId, ErrorKind> {
        match self.find(path)? {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(ErrorKind::NotADirectory),
        }
    }

    /// The live names of a folder, sorted.
    pub(super) fn list(&self, path: &Path) -> Result<impl Iterator<Item = (&OsString, bool)>, ErrorKind> {
        let names = self.live(self.find_folder(path)?).ok_or(ErrorKind::NotFound)?;
        Ok(names.iter().map(|(name, node)| (name, matches!(node, Node::Folder(_)))))
    }

    /// The file at `path`, made when missing.
    pub(super) fn find_or_create_file(&mut self, path: &Path) -> Result<Arc<Inode>, ErrorKind> {
        let (folder, name) = self.place(path)?;
        match self.child(folder, &name) {
            Some(Node::File(inode)) => Ok(inode),
            Some(Node::Folder(_)) => Err(ErrorKind::IsADirectory),
            None => {
                let inode = Arc::new(Inode::new());
                self.assign(folder, name, Node::File(Arc::clone(&inode)));
                Ok(inode)
            }
        }
    }

    pub(super) fn create_folders(&mut self, path: &Path) -> Result<(), ErrorKind> {
        let mut folder = ROOT;
        for name in components(path)? {
            folder = match self.child(folder, &name) {
                Some(Node::Folder(inner)) => inner,
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory),
                None => {
                    let inner = self.new_folder();
                    self.assign(folder, name, Node::Folder(inner));
                    inner
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), ErrorKind> {
        let (from_folder, from_name) = self.place(from)?;
        let (to_folder, to_name) = self.place(to)?;
        let node = self.child(from_folder, &from_name).ok_or(ErrorKind::NotFound)?;
        if (from_folder, &from_name) == (to_folder, &to_name) {
            return Ok(());
        }
        let (from_names, to_names) = (components(from)?, components(to)?);
        if to_names.starts_with(&from_names) {
            return Err(ErrorKind::InvalidInput);
        }
        let removed = match (&node, self.child(to_folder, &to_name)) {
            (_, None) | (Node::File(_), Some(Node::File(_))) => None,
            (Node::Folder(_), Some(Node::File(_))) => return Err(ErrorKind::NotADirectory),
            (Node::File(_), Some(Node::Folder(_))) => return Err(ErrorKind::IsADirectory),
            (Node::Folder(_), Some(Node::Folder(target))) => Some(self.check_empty(target)?),
        };
        let assignments = vec![
            Assignment { folder: from_folder, name: from_name, node: None },
            Assignment { folder: to_folder, name: to_name, node: Some(node) },
        ];
        self.change(NameChange { assignments, removed });
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> Result<(), ErrorKind> {
        let (folder, name) = self.place(path)?;
        match self.child(folder, &name).ok_or(ErrorKind::NotFound)? {
            Node::Folder(_) => Err(ErrorKind::IsADirectory),
            Node::File(_) => {
                self.change(NameChange { assignments: vec![Assignment { folder, name, node: None }], removed: None });
                Ok(())
            }
        }
    }

    pub(super) fn remove_folder(&mut self, path: &Path) -> Result<(), ErrorKind> {
        let (folder, name) = self.place(path)?;
        match self.child(folder, &name).ok_or(ErrorKind::NotFound)? {
            Node::File(_) => Err(ErrorKind::NotADirectory),
            Node::Folder(inner) => {
                let removed = Some(self.check_empty(inner)?);
                self.change(NameChange { assignments: vec![Assignment { folder, name, node: None }], removed });
                Ok(())
            }
        }
    }

    /// Makes the names of a folder durable, and with them what they depend on.
    pub(super) fn sync_folder(&mut self, path: &Path) -> Result<(), ErrorKind> {
        let folder = self.find_folder(path)?;
        let mut chosen = vec![false; self.journal.len()];
        let mut touched = Touched::default();
        for (change, chosen) in self.journal.iter().zip(&mut chosen).rev() {
            if change.assignments.iter().any(|one| one.folder == folder) || touched.needs(change) {
                *chosen = true;
                touched.add(change);
            }
        }
        let journal = std::mem::take(&mut self.journal);
        for (change, chosen) in journal.into_iter().zip(chosen) {
            if chosen {
                self.make_durable(change);
            } else {
                self.journal.push(change);
            }
        }
        Ok(())
    }

    /// The names after a power loss, all durable: those that were synced, and of the rest what `survival` says.
    pub(super) fn after_power_loss(&self, survival: &mut Survival) -> Self {
        let mut names: BTreeMap<FolderId, Names> = BTreeMap::new();
        for (id, folder) in &self.folders {
            names.insert(*id, folder.durable.clone());
        }
        let fates = survival.fates(self.journal.len());
        let mut dropped = Touched::default();
        for (change, fate) in self.journal.iter().zip(fates) {
            if fate != Fate::Kept || dropped.is_needed_by(change) {
                dropped.add(change);
                continue;
            }
            for Assignment { folder, name, node } in &change.assignments {
                set(names.entry(*folder).or_default(), name.clone(), node.clone());
            }
        }
        Self::from_names(names, survival, self.next_id)
    }

    /// Keeps what hangs on the root, with every file as the power loss left it.
    fn from_names(mut names: BTreeMap<FolderId, Names>, survival: &mut Survival, next_id: u64) -> Self {
        let mut folders = BTreeMap::new();
        let mut waiting = vec![ROOT];
        while let Some(id) = waiting.pop() {
            let mut durable = names.remove(&id).unwrap_or_default();
            for node in durable.values_mut() {
                match node {
                    Node::File(inode) => *inode = Arc::new(inode.after_power_loss(survival)),
                    Node::Folder(inner) => waiting.push(*inner),
                }
            }
            folders.insert(id, Folder { live: durable.clone(), durable });
        }
        Self { folders, journal: Vec::new(), next_id }
    }

    /// An independent copy, journal included.
    pub(super) fn copy(&self) -> Self {
        // One file may stand in live and durable names and in the journal, and must be one file in the copy too.
        let mut copies: HashMap<*const Inode, Arc<Inode>> = HashMap::new();
        let mut copy = |node: &Node| match node {
            Node::Folder(id) => Node::Folder(*id),
            Node::File(inode) => {
                let copied = copies.entry(Arc::as_ptr(inode)).or_insert_with(|| Arc::new(inode.copy()));
                Node::File(Arc::clone(copied))
            }
        };
        let mut folders = BTreeMap::new();
        for (id, folder) in &self.folders {
            let live = folder.live.iter().map(|(name, node)| (name.clone(), copy(node))).collect();
            let durable = folder.durable.iter().map(|(name, node)| (name.clone(), copy(node))).collect();
            folders.insert(*id, Folder { live, durable });
        }
        let mut journal = Vec::new();
        for NameChange { assignments, removed } in &self.journal {
            let assignments = assignments
                .iter()
                .map(|one| Assignment {
                    folder: one.folder,
                    name: one.name.clone(),
                    node: one.node.as_ref().map(&mut copy),
                })
                .collect();
            journal.push(NameChange { assignments, removed: *removed });
        }
        Self { folders, journal, next_id: self.next_id }
    }

    fn live(&self, folder: FolderId) -> Option<&Names> {
        self.folders.get(&folder).map(|folder| &folder.live)
    }

    fn child(&self, folder: FolderId, name: &OsString) -> Option<Node> {
        self.live(folder)?.get(name).cloned()
    }

    /// The folder that holds, or would hold, the last name of `path`, and that name. The root has none.
    fn place(&self, path: &Path) -> Result<(FolderId, OsString), ErrorKind> {
        let mut names = components(path)?;
        let last = names.pop().ok_or(ErrorKind::IsADirectory)?;
        Ok((self.find_folder(&names.iter().collect::<std::path::PathBuf>())?, last))
    }

    fn check_empty(&self, folder: FolderId) -> Result<FolderId, ErrorKind> {
        if self.live(folder).is_some_and(|names| !names.is_empty()) {
            return Err(ErrorKind::DirectoryNotEmpty);
        }
        Ok(folder)
    }

    fn new_folder(&mut self) -> FolderId {
        let id = FolderId(self.next_id);
        self.next_id += 1;
        self.folders.insert(id, Folder::default());
        id
    }

    fn assign(&mut self, folder: FolderId, name: OsString, node: Node) {
        self.change(NameChange { assignments: vec![Assignment { folder, name, node: Some(node) }], removed: None });
    }

    fn change(&mut self, change: NameChange) {
        for Assignment { folder, name, node } in &change.assignments {
            if let Some(folder) = self.folders.get_mut(folder) {
                set(&mut folder.live, name.clone(), node.clone());
            }
        }
        self.journal.push(change);
    }

    fn make_durable(&mut self, change: NameChange) {
        for Assignment { folder, name, node } in change.assignments {
            if let Some(folder) = self.folders.get_mut(&folder) {
                set(&mut folder.durable, name, node);
            }
        }
        if let Some(folder) = change.removed {
            self.folders.remove(&folder);
        }
    }
}

fn set(names: &mut Names, name: OsString, node: Option<Node>) {
    match node {
        Some(node) => names.insert(name, node),
        None => names.remove(&name),
    };
}

/// The names of a path from the root on; `..` takes back the name before it.
fn components(path: &Path) -> Result<Vec<OsString>, ErrorKind> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => drop(names.pop()),
            Component::Normal(name) => names.push(name.to_os_string()),
            Component::Prefix(_) => return Err(ErrorKind::InvalidInput),
        }
    }
    Ok(names)
}
