//! `stratalog-cuts`: what recovery takes out of a partition's log, written before it is taken out and kept until somebody has
//! read of it. A file of our own in the partition's folder.
//!
//! It is a sealed text file (see `sealed_text.rs`) of kind `stratalog-cuts`, version 1:
//!
//! | line | words | meaning |
//! |---|---|---|
//! | cut | `cut <file> <moved to> <position> <bytes> <from offset> <reason>` | names without the folder, escaped like the reason |
//!
//! Deleting the file loses the report of an opening that was cut short, never data.

use std::fmt::Write as _;

use super::error::FormatError;
use super::sealed_text::{Line, escape, seal, unescape, unseal};
use crate::types::{Offset, Position};

/// The first word of the file.
const KIND: &str = "stratalog-cuts";

/// The version this build writes and knows.
const VERSION: u32 = 1;

/// One piece that is cut out of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CutEntry {
    /// The name of the file that it is cut out of.
    pub file: String,
    /// The name of the file that it goes to.
    pub moved_to: String,
    /// Where in the file it begins.
    pub position: Position,
    /// How many bytes it has.
    pub bytes: u64,
    /// The log ends before this offset then.
    pub from_offset: Offset,
    /// Why the log can't go on there.
    pub reason: String,
}

/// The bytes of the file.
pub(crate) fn encode_cut_list(entries: &[CutEntry]) -> Vec<u8> {
    let mut body = String::new();
    for entry in entries {
        let [file, moved_to, reason] = [&entry.file, &entry.moved_to, &entry.reason].map(|text| escape(text));
        let CutEntry { position, bytes, from_offset, .. } = entry;
        // Writing to a String can't fail.
        let _ = writeln!(body, "cut {file} {moved_to} {position} {bytes} {from_offset} {reason}");
    }
    seal(KIND, VERSION, &body)
}

/// The entries of a file.
///
/// # Errors
/// A [`FormatError`] for a file that was changed since it was written, or that a later version wrote.
pub(crate) fn parse_cut_list(bytes: &[u8]) -> Result<Vec<CutEntry>, FormatError> {
    unseal(KIND, VERSION, bytes)?.map(|line| parse_entry(&line)).collect()
}

fn parse_entry(line: &Line<'_>) -> Result<CutEntry, FormatError> {
    let expected = "a cut with file, target, position, size, offset and reason";
    let [word, file, moved_to, position, bytes, from_offset, reason] = line.words(expected)?;
    // They are joined to a folder's path, and what is moved to is overwritten.
    let name = |word, end: &str| unescape(word).filter(|name| !name.contains(['/', '\\']) && name.ends_with(end));
    let entry = || {
        Some(CutEntry {
            file: name(file, ".log")?,
            moved_to: name(moved_to, ".cut")?,
            position: Position::new(position.parse().ok()?),
            bytes: bytes.parse().ok()?,
            from_offset: Offset::new(from_offset.parse().ok()?)?,
            reason: unescape(reason)?,
        })
    };
    entry().filter(|_| word == "cut").ok_or_else(|| line.refused(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_come_back_as_they_were_written() {
        let entry = CutEntry {
            file: "00000000000000000000.log".into(),
            moved_to: "00000000000000000000.log.cut".into(),
            position: Position::new(150),
            bytes: 225,
            from_offset: Offset::new(2).unwrap(),
            reason: "crc_mismatch: a reason\nof two lines".into(),
        };
        let entries = [entry.clone(), CutEntry { reason: String::new(), ..entry }];
        assert_eq!(parse_cut_list(&encode_cut_list(&entries)), Ok(entries.to_vec()));
        assert_eq!(parse_cut_list(&encode_cut_list(&[])), Ok(vec![]));
        assert!(parse_cut_list(b"stratalog-cuts 1\nend 00000000\n").is_err());
    }

    #[test]
    fn a_cut_that_leads_out_of_its_folder_or_to_another_kind_of_file_is_refused() {
        let (log, cut) = ("00000000000000000000.log", "00000000000000000000.log.cut");
        let pairs = [("../0.log", cut), (log, "../0.log.cut"), (log, "/etc/0.cut"), (log, log), (cut, cut), ("", "")];
        for (file, moved_to) in pairs {
            let entry = CutEntry {
                file: file.into(),
                moved_to: moved_to.into(),
                position: Position::ZERO,
                bytes: 1,
                from_offset: Offset::ZERO,
                reason: String::new(),
            };
            assert!(parse_cut_list(&encode_cut_list(&[entry])).is_err(), "{file} to {moved_to}");
        }
    }
}
