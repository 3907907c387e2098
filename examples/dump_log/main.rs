//! Prints what stands in the files of a log, for people or as JSON, and what is wrong with them.
//!
//! ```text
//! cargo run --release --example dump_log -- [--json] [--no-records] PATH...
//! ```
//!
//! Files are read as they are: nothing is recovered, nothing is written, no lock is taken. The JSON lines are a contract
//! that other programs use. Exit code: 0 clean, 1 damage found, 2 bad usage or nothing there.
//!
//! The reason of a damage line begins with one of these codes:
//!
//! | code | meaning |
//! |---|---|
//! | `crc_mismatch` | a stored checksum isn't that of the bytes |
//! | `incomplete` | the file ends before the thing does |
//! | `invalid_field` | a field holds what it can't hold |
//! | `out_of_order` | a batch or an entry goes backwards |
//! | `bad_compression` | compressed records can't be decompressed |
//! | `missing_feature` | the tool was built without the codec |
//! | `too_large` | something is over its bound |
//! | `invalid_text` | a line of a text file breaks its format |
//! | `search_abandoned` | too many places look like a batch to find the next one |
//! | `unreadable` | the operating system refused to read on |

mod content;
mod files;
mod index;
#[path = "../support/json.rs"]
mod json;
mod line;
mod log;
mod pieces;
mod report;
mod table;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use content::KnownFile;
use report::{Report, Style};

const USAGE: &str = "\
usage: dump_log [--json] [--no-records] PATH...
  PATH          a partition folder, or one of the files in it or beside it
  --json        one JSON object a line
  --no-records  batches without their records";

/// What ends a run early.
enum Failure {
    /// Bad arguments, or nothing to print.
    Usage(String),
    /// Standard output can't be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(words) => write!(f, "dump_log: {words}"),
            Self::Output(error) => write!(f, "dump_log: cannot write: {error}"),
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(damaged) => ExitCode::from(u8::from(damaged)),
        // Whoever read has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(2)
        }
    }
}

/// Prints everything that was asked for; whether there is damage in it.
fn run() -> Result<bool, Failure> {
    let (style, paths) = parse_arguments()?;
    let mut work = Vec::new();
    for path in &paths {
        work.extend(files_at(path)?);
    }
    let mut report = Report::new(io::stdout().lock(), style);
    for file in &work {
        match file.dump(&mut report) {
            Err(error) if !report.is_broken() => report.damage_words(0, &format!("unreadable: {error}"))?,
            result => result?,
        }
    }
    Ok(report.finish()?)
}

fn parse_arguments() -> Result<(Style, Vec<PathBuf>), Failure> {
    let (mut style, mut paths, mut only_paths) = (Style::default(), Vec::new(), false);
    for argument in std::env::args_os().skip(1) {
        match argument.to_str().filter(|_| !only_paths) {
            Some("--") => only_paths = true,
            Some("--json") => style.json = true,
            Some("--no-records") => style.no_records = true,
            Some(option) if option.starts_with('-') && option.len() > 1 => {
                return Err(Failure::Usage(format!("unknown option {option}\n{USAGE}")));
            }
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    if paths.is_empty() {
        return Err(Failure::Usage(format!("no path given\n{USAGE}")));
    }
    Ok((style, paths))
}

/// The files that a path stands for.
fn files_at(path: &Path) -> Result<Vec<KnownFile>, Failure> {
    let nothing = |words: &str| Failure::Usage(format!("{}: {words}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| nothing(&error.to_string()))?;
    if !metadata.is_dir() {
        let known = KnownFile::new(path);
        return known.map(|file| vec![file]).ok_or_else(|| nothing("not a kind of file that is known by its name"));
    }
    let files = KnownFile::list(path).map_err(|error| nothing(&error.to_string()))?;
    if files.is_empty() { Err(nothing("no file of a log in this folder")) } else { Ok(files) }
}
