//! Which files the tool reads, in which order, and who prints them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stratalog::format::file_name::{self, FileKind, FileName, Suffix};
use stratalog::types::Offset;

use crate::report::Report;
use crate::{files, index, log};

/// What a file holds.
#[derive(Debug, Clone, Copy)]
enum Content {
    Log(Option<Offset>),
    OffsetIndex(Offset),
    TimeIndex(Offset),
    TxnIndex(Offset),
    Snapshot,
    LeaderEpochs,
    Metadata,
    Checkpoint,
    Properties,
    CleanShutdown,
}

/// A file that can be printed.
pub struct KnownFile {
    path: PathBuf,
    name: String,
    content: Content,
}

impl KnownFile {
    /// The file at `path`, when its name says what it holds; a suffix such as `.deleted` doesn't matter.
    pub fn new(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let content = content_of(&name)?;
        Some(Self { path: path.to_owned(), name, content })
    }

    /// The live files of a folder that can be printed, in their order.
    pub fn list(folder: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_live = name.to_str().is_some_and(|name| stem_of(name) == name);
            if is_live && entry.file_type()?.is_file() {
                found.extend(Self::new(&entry.path()));
            }
        }
        found.sort_by(|a, b| (rank(a.content), &a.name).cmp(&(rank(b.content), &b.name)));
        Ok(found)
    }

    /// Prints everything in the file.
    pub fn dump(&self, report: &mut Report<'_>) -> io::Result<()> {
        let path = self.path.as_path();
        report.begin(&self.name)?;
        match self.content {
            Content::Log(base) => log::dump(report, path, base),
            Content::OffsetIndex(base) => index::dump_offset_index(report, path, base),
            Content::TimeIndex(base) => index::dump_time_index(report, path, base),
            Content::TxnIndex(base) => index::dump_txn_index(report, path, base),
            Content::Snapshot => files::dump_snapshot(report, path),
            Content::LeaderEpochs => files::dump_leader_epochs(report, path),
            Content::Metadata => files::dump_metadata(report, path),
            Content::Checkpoint => files::dump_checkpoint(report, path),
            Content::Properties => files::dump_properties(report, path),
            Content::CleanShutdown => files::dump_clean_shutdown(report, path),
        }
    }
}

/// The place of a kind in a folder's order.
const fn rank(content: Content) -> u8 {
    match content {
        Content::Log(_) => 0,
        Content::OffsetIndex(_) => 1,
        Content::TimeIndex(_) => 2,
        Content::TxnIndex(_) => 3,
        Content::Snapshot => 4,
        Content::LeaderEpochs => 5,
        Content::Metadata => 6,
        Content::Checkpoint => 7,
        Content::Properties => 8,
        Content::CleanShutdown => 9,
    }
}

/// The name without the suffix of a file that isn't live.
fn stem_of(name: &str) -> &str {
    let suffixes = [Suffix::Deleted, Suffix::Cleaned, Suffix::Swap, Suffix::Tmp, Suffix::Cut];
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix.as_str())).unwrap_or(name)
}

fn content_of(name: &str) -> Option<Content> {
    let name = stem_of(name);
    if let Some(known) = FileName::parse(name) {
        let base = known.offset().unwrap_or(Offset::ZERO);
        return Some(match known.kind() {
            FileKind::Log => Content::Log(known.offset()),
            FileKind::OffsetIndex => Content::OffsetIndex(base),
            FileKind::TimeIndex => Content::TimeIndex(base),
            FileKind::TxnIndex => Content::TxnIndex(base),
            FileKind::Snapshot => Content::Snapshot,
            // Its name says all there is.
            FileKind::Replaced | FileKind::Restarted | FileKind::Trimmed | FileKind::Truncated => return None,
            FileKind::LeaderEpochs => Content::LeaderEpochs,
            FileKind::PartitionMetadata => Content::Metadata,
        });
    }
    match name {
        file_name::META_PROPERTIES => Some(Content::Properties),
        file_name::CLEAN_SHUTDOWN => Some(Content::CleanShutdown),
        _ if name.ends_with("-offset-checkpoint") => Some(Content::Checkpoint),
        // Snapshots of the controllers' own log, and logs that were given another name: batches too.
        _ if name.ends_with(".checkpoint") || name.ends_with(".log") => Some(Content::Log(None)),
        _ => None,
    }
}
