//! Deleted partitions: their folders get a `-delete` name at once, and are removed some time later in small steps.
//!
//! The delay is for other processes that still read the folder; readers in this process keep what they hold anyway.
//! A folder whose removal was cut short is found by its name and goes on being removed by the next opening.

use std::path::{Path, PathBuf};

use super::layout;
use super::random::random_id;
use crate::clock::{Clock, Deadline};
use crate::format::file_name::PartitionDirName;
use crate::name::TopicName;
use crate::types::Timestamp;
use crate::vfs::{IoError, Vfs, unless_missing};

/// The most files that one step removes.
const STEP_COUNT: usize = 1024;

/// How deep folders inside a partition's folder are followed; Kafka makes none.
const DEPTH_MAX: u32 = 8;

/// Folders that wait to be removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: Vec<(Deadline, PathBuf)>,
}

impl Removals {
    /// Has `dir` removed at `due`.
    pub(super) fn add(&mut self, due: Deadline, dir: PathBuf) {
        self.waiting.push((due, dir));
    }

    /// Removes files of folders whose time has come, at most 1024 of them. A folder that can't be removed keeps no other one
    /// from its turn, and is tried again by the next step.
    pub(super) fn step(&mut self, vfs: &dyn Vfs, clock: &dyn Clock, now: Timestamp) -> Removed {
        let mut budget = STEP_COUNT;
        let mut failure = None;
        let before = self.waiting.len();
        self.waiting.retain(|(due, dir)| {
            if !due.is_over(now, clock) || budget == 0 {
                return true;
            }
            remove_tree(vfs, dir, DEPTH_MAX, &mut budget).map(|gone| !gone).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                true
            })
        });
        Removed { folders: before - self.waiting.len(), failure }
    }
}

/// What a step of removals did.
#[derive(Debug)]
pub(crate) struct Removed {
    /// How many folders are gone now.
    pub folders: usize,
    /// The first failure.
    pub failure: Option<IoError>,
}

/// Removes a folder and what is in it, as far as `budget` goes; whether it is gone.
fn remove_tree(vfs: &dyn Vfs, dir: &Path, depth: u32, budget: &mut usize) -> Result<bool, IoError> {
    let entries = match vfs.read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.is_not_found() => return Ok(true),
        Err(error) => return Err(error),
    };
    for entry in entries {
        if *budget == 0 || depth == 0 {
            return Ok(false);
        }
        *budget -= 1;
        let path = dir.join(&entry.name);
        if !entry.is_dir {
            unless_missing(vfs.remove_file(&path))?;
        } else if !remove_tree(vfs, &path, depth - 1, budget)? {
            return Ok(false);
        }
    }
    unless_missing(vfs.remove_dir(dir)).map(|()| true)
}

/// Renames, durably, the folders of all partitions of `topic`, so that nobody takes them for live ones. Adds the new paths to `renamed`,
/// also where another folder fails.
pub(super) fn mark_deleted(
    vfs: &dyn Vfs,
    root: &Path,
    topic: &TopicName,
    now: Timestamp,
    renamed: &mut Vec<PathBuf>,
) -> Result<(), IoError> {
    for id in layout::partitions_of(vfs, root, topic)? {
        let target = root.join(PartitionDirName::delete(topic.as_str(), id.partition.value(), random_id(now)));
        vfs.rename(&layout::partition_dir(root, &id), &target)?;
        renamed.push(target);
    }
    vfs.sync_dir(root)
}
