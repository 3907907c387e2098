//! What the tests against folders of a real Kafka share: where they stand, what is expected of them, how to copy and compare.
#![allow(dead_code, reason = "each test file uses some of these helpers")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use stratalog::Offset;

/// A file's name and its bytes, for all files of a folder and of those in it.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `store/plain-0`.
pub fn short_name(folder: &Path) -> String {
    folder.strip_prefix(golden()).unwrap().to_str().unwrap().replace('\\', "/")
}

pub fn expected_path(folder: &Path) -> PathBuf {
    folder.with_file_name(format!("{}.jsonl", folder.file_name().unwrap().to_str().unwrap()))
}

pub fn expected(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(expected_path(folder)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn expected_records(folder: &Path, from: Offset) -> Vec<Value> {
    let is_wanted = |line: &Value| line["type"] == "record" && line["offset"].as_i64().unwrap() >= from.value();
    expected(folder).into_iter().filter(is_wanted).collect()
}

/// The files of a folder whose names end in `suffix`, in order.
pub fn files(folder: &Path, suffix: &str) -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

pub fn snapshot(root: &Path) -> Files {
    let mut found = Files::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                pending.push(entry);
            } else {
                let bytes = fs::read(&entry).unwrap();
                found.insert(entry.strip_prefix(root).unwrap().to_path_buf(), bytes);
            }
        }
    }
    found
}

pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in snapshot(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub fn assert_same(name: &str, got: &[Value], want: &[Value]) {
    for (number, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got, want, "{name}: line {number}");
    }
    assert_eq!(got.len(), want.len(), "{name}: number of lines");
}
