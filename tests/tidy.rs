//! The rules of the house that no compiler checks: who may import whom, where `unsafe` and `std::fs` may stand, how a
//! file begins, and what never gets checked in. Each test lists every place that breaks its rule.
//!
//! The checks read lines, not syntax: they are meant to catch slips, not to withstand somebody who wants around them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Every module of the crate and its floor: a module imports from lower floors only, and never from its own.
const RANKS: [(&str, u8); 19] = [
    ("types", 0),
    ("name", 1),
    ("clock", 1),
    ("metrics", 1),
    ("format", 2),
    ("vfs", 2),
    ("location", 2),
    ("segment", 3),
    ("config", 3),
    ("partition", 4),
    ("store", 5),
    ("tier", 6),
    ("group", 6),
    ("replication", 6),
    ("maintenance", 7),
    ("client", 8),
    ("error", 9),
    ("lib", 10),
    ("main", 10),
];

/// The one file of `src` with `unsafe` in it.
const UNSAFE_FILE: &str = "src/vfs/mmap.rs";

/// The folders whose sources are checked.
const SOURCE_DIRS: [&str; 6] = ["src", "tests", "benches", "examples", "fuzz/src", "fuzz/fuzz_targets"];

/// A source file with its path from the root of the project, `/` between the parts.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Line number, from 1, and line, of what is not a comment.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// Line number, from 1, and line.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// The top-level module that a file of `src` belongs to: `src/vfs/disk.rs` is of `vfs`.
    fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        let first = path.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dirs: &[&str]) -> io::Result<Vec<Source>> {
    let mut paths = Vec::new();
    for dir in dirs {
        collect(&root().join(dir), &mut paths)?;
    }
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let parts = path.strip_prefix(root()).map_err(io::Error::other)?.iter();
            let parts: Vec<_> = parts.map(|part| part.to_string_lossy()).collect();
            Ok(Source { path: parts.join("/"), text: fs::read_to_string(&path)? })
        })
        .collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

fn rank(module: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

const fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// The rest of `text` after each place where `word` stands alone.
fn after_each<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(word).filter_map(move |(start, _)| {
        let (before, rest) = text.split_at_checked(start)?;
        let after = rest.strip_prefix(word)?;
        let alone = !before.ends_with(is_word) && (!word.ends_with(is_word) || !after.starts_with(is_word));
        alone.then_some(after)
    })
}

fn has_word(text: &str, word: &str) -> bool {
    after_each(text, word).next().is_some()
}

/// The names that `crate::` is followed by: one, or the first names of each part of a group.
fn crate_imports(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for after in after_each(code, "crate::") {
        match after.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.push(after.chars().take_while(|c| is_word(*c)).collect()),
        }
    }
    names
}

/// The first name of each part of a `{...}` group whose opening brace has been read.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut part = String::new();
    let mut depth = 0_usize;
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut part)),
            _ => part.push(character),
        }
    }
    heads.push(part);
    let first_name = |part: String| part.trim().chars().take_while(|c| is_word(*c)).collect::<String>();
    heads.into_iter().map(first_name).filter(|name| !name.is_empty()).collect()
}

/// What is wrong with the imports of one file of the crate.
fn rank_offences(source: &Source) -> Vec<String> {
    let offence = |problem: String| format!("{}: {problem}", source.path);
    let Some(module) = source.module() else { return Vec::new() };
    let Some(own) = rank(module) else { return vec![offence(format!("module `{module}` has no rank in RANKS"))] };
    if module == "lib" {
        return Vec::new();
    }
    let code: String = source.code().flat_map(|(_, line)| [line, "\n"]).collect();
    let mut offences = Vec::new();
    if has_word(&code, "super::super") {
        offences.push(offence("climbs by `super::super`; name the module from `crate`".to_owned()));
    }
    for import in crate_imports(&code).into_iter().filter(|import| import != module) {
        match rank(&import) {
            None => {
                offences.push(offence(format!("`crate::{import}` is not a module; import from the one that owns it")))
            }
            Some(other) if other >= own => {
                offences.push(offence(format!("`{module}` (rank {own}) imports `{import}` (rank {other})")));
            }
            Some(_) => {}
        }
    }
    offences
}

/// Every line of code for which `is_wrong` holds.
fn line_offences(sources: &[Source], is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut offences = Vec::new();
    for source in sources {
        let wrong = source.code().filter(|(_, line)| is_wrong(line));
        offences.extend(wrong.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())));
    }
    offences
}

/// Whether a line looks like code behind `//`. Doc comments may hold code, in their examples.
fn is_commented_out_code(line: &str) -> bool {
    let comment = line.trim().strip_prefix("//").filter(|rest| !rest.starts_with(['/', '!']));
    comment.is_some_and(|comment| comment.ends_with([';', '{']) || comment.trim() == "}")
}

/// Whether a line names the file system of the standard library.
fn names_std_fs(line: &str) -> bool {
    has_word(line, "std::fs")
        || after_each(line, "std::{").any(|group| group_heads(group).iter().any(|name| name == "fs"))
}

#[test]
fn modules_import_only_from_lower_ranks() {
    let sources = sources(&["src"]).unwrap();
    assert!(!sources.is_empty());
    let offences: Vec<_> = sources.iter().flat_map(rank_offences).collect();
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let mut sources = sources(&["src"]).unwrap();
    sources.retain(|source| source.path != UNSAFE_FILE);
    let lifts_the_lint =
        |line: &str| has_word(line, "unsafe_code") && !line.contains("deny(") && !line.contains("forbid(");
    let offences = line_offences(&sources, |line| has_word(line, "unsafe") || lifts_the_lint(line));
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn only_the_vfs_names_the_file_system() {
    let mut sources = sources(&["src"]).unwrap();
    sources.retain(|source| source.module() != Some("vfs"));
    let offences = line_offences(&sources, names_std_fs);
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn every_file_opens_with_a_paragraph() {
    let sources = sources(&SOURCE_DIRS).unwrap();
    let bare = sources.iter().filter(|source| !source.text.starts_with("//! "));
    let offences: Vec<_> = bare.map(|source| &source.path).collect();
    assert!(offences.is_empty(), "no `//!` head: {offences:#?}");
}

#[test]
fn nothing_unfinished_is_checked_in() {
    // Put together here, so that this file doesn't hold them.
    let words = ["TO-DO", "FIX-ME", "to-do!", "d-bg!", "un-implemented!"].map(|word| word.replace('-', ""));
    let mut offences = Vec::new();
    for source in &sources(&SOURCE_DIRS).unwrap() {
        let unfinished = source.lines().filter(|(_, line)| words.iter().any(|word| has_word(line, word)));
        offences.extend(unfinished.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())));
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn no_code_is_commented_out() {
    let mut offences = Vec::new();
    for source in &sources(&SOURCE_DIRS).unwrap() {
        let commented = source.lines().filter(|(_, line)| is_commented_out_code(line));
        offences.extend(commented.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())));
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn the_readme_names_every_config_key() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else { return };
    // Whole words, so that `delete.retention.ms` doesn't stand for `retention.ms`.
    let words: HashSet<_> =
        readme.split(|c: char| !is_word(c) && c != '.').map(|word| word.trim_matches('.')).collect();
    let (topic, store) = (stratalog::config::TopicConfig::new(), stratalog::config::StoreConfig::new());
    let keys = topic.entries().chain(store.entries()).map(|(key, _)| key);
    let missing: Vec<_> = keys.filter(|key| !words.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_checks_see_what_they_are_for() {
    let partition = |text: &str| Source { path: "src/partition/read.rs".into(), text: text.into() };
    for (text, offences) in [
        ("use crate::types::Offset;", 0),
        ("use crate::partition::segments;", 0),
        ("/// See [`crate::store`].", 0),
        ("let offset = crate::store::open();", 1),
        ("use crate::Offset;", 1),
        ("use crate::{types::{Offset, Position}, store::Topic,\n    client};", 2),
        ("use super::super::store;", 1),
        ("pub(crate) fn f() {}", 0),
    ] {
        assert_eq!(rank_offences(&partition(text)).len(), offences, "{text}");
    }
    let equal = Source { path: "src/vfs/disk.rs".into(), text: "use crate::format::FormatError;".into() };
    assert_eq!(rank_offences(&equal).len(), 1);
    let unranked = Source { path: "src/util.rs".into(), text: String::new() };
    assert_eq!(rank_offences(&unranked).len(), 1);
    assert!(names_std_fs("use std::fs::File;") && names_std_fs("use std::{fmt, fs::File};"));
    assert!(!names_std_fs("use std::{fmt, io};"));
    assert!(is_commented_out_code("    // let x = 1;") && is_commented_out_code("// if x {"));
    assert!(!is_commented_out_code("/// let x = 1;") && !is_commented_out_code("// A sentence."));
    assert!(has_word("unsafe { f() }", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
