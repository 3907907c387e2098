//! The text checkpoints: offsets of many partitions (one file a store and purpose), and leader epochs (one a partition).
//!
//! | line | content |
//! |-----:|---------|
//! | 1 | version, always 0 |
//! | 2 | number of entries |
//! | 3... | an entry: `topic partition offset`, or `epoch startOffset` |
//!
//! Every line ends with `\n` when written, with tokens one space apart; any run of blanks between tokens is read. An
//! empty file, and one that ends after its version, has no entries. There is no checksum: the count must match, and
//! writing them so that they are whole or not there is for the caller. Order and duplicates are the caller's too.

use super::error::FormatError;
use crate::types::{LeaderEpoch, Offset};
use std::fmt::Write;
use std::str::{FromStr, SplitAsciiWhitespace};

const VERSION: i32 = 0;

/// An offset for each of many partitions: recovery points, log starts, high watermarks or cleaned offsets.
///
/// # Example
/// ```
/// use stratalog::format::OffsetCheckpoint;
///
/// let checkpoint = OffsetCheckpoint::parse(b"0\n1\norders 3 77\n")?;
/// let (topic, partition, offset) = &checkpoint.entries[0];
/// assert_eq!((topic.as_str(), *partition, offset.value()), ("orders", 3, 77));
/// assert_eq!(checkpoint.encode(), b"0\n1\norders 3 77\n");
/// # Ok::<(), stratalog::format::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OffsetCheckpoint {
    /// Topic, partition and its offset, in the file's order, which means nothing. A topic without a name or with a
    /// blank in it can't be written.
    pub entries: Vec<(String, i32, Offset)>,
}

impl OffsetCheckpoint {
    const WHAT: &'static str = "offset checkpoint";

    /// Reads a whole file.
    ///
    /// # Errors
    /// `Text` at the first line that breaks the format.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let entries = parse_entries(bytes, Self::WHAT, "`topic partition offset`", |tokens| {
            let topic = tokens.next()?.to_owned();
            let partition = number(tokens).filter(|&partition: &i32| partition >= 0)?;
            Some((topic, partition, Offset::new(number(tokens)?)?))
        })?;
        Ok(Self { entries })
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_entries(&self.entries, |text, (topic, partition, offset)| writeln!(text, "{topic} {partition} {offset}"))
    }
}

/// The first offset of each leader epoch of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaderEpochCheckpoint {
    /// Epoch and its first offset, in the file's order; Kafka writes both ascending.
    pub entries: Vec<(LeaderEpoch, Offset)>,
}

impl LeaderEpochCheckpoint {
    const WHAT: &'static str = "leader epoch checkpoint";

    /// Reads a whole file.
    ///
    /// # Errors
    /// `Text` at the first line that breaks the format.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let entries = parse_entries(bytes, Self::WHAT, "`epoch startOffset`", |tokens| {
            Some((LeaderEpoch::new(number(tokens)?)?, Offset::new(number(tokens)?)?))
        })?;
        Ok(Self { entries })
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_entries(&self.entries, |text, (epoch, offset)| writeln!(text, "{epoch} {offset}"))
    }
}

/// Reads the version and the count, then one entry a line. Memory grows with the lines that are there, never with the
/// count that the file declares.
fn parse_entries<T>(
    bytes: &[u8],
    what: &'static str,
    expected: &'static str,
    entry: impl Fn(&mut SplitAsciiWhitespace<'_>) -> Option<T>,
) -> Result<Vec<T>, FormatError> {
    let mut lines = lines(bytes).enumerate();
    let Some((_, line)) = lines.next() else {
        return Ok(Vec::new());
    };
    if only(line, number::<i32>) != Some(VERSION) {
        return Err(FormatError::text(what, 1, "version 0", line));
    }
    let Some((_, line)) = lines.next() else {
        return Ok(Vec::new());
    };
    let count = only(line, number::<u32>).ok_or_else(|| FormatError::text(what, 2, "the number of entries", line))?;
    let mut entries = Vec::new();
    for (index, line) in lines {
        entries.push(only(line, &entry).ok_or_else(|| FormatError::text(what, index + 1, expected, line))?);
    }
    if u32::try_from(entries.len()) == Ok(count) {
        Ok(entries)
    } else {
        Err(FormatError::text(what, 2, "as many entries as lines follow", line))
    }
}

/// The lines of a file; the last one may lack its end.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let count = if bytes.is_empty() { 0 } else { usize::MAX };
    body.split(|&byte| byte == b'\n').take(count)
}

/// What `read` takes from the tokens of `line`, when it takes all of them.
fn only<T>(line: &[u8], read: impl Fn(&mut SplitAsciiWhitespace<'_>) -> Option<T>) -> Option<T> {
    let mut tokens = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let value = read(&mut tokens)?;
    tokens.next().is_none().then_some(value)
}

fn number<N: FromStr>(tokens: &mut SplitAsciiWhitespace<'_>) -> Option<N> {
    tokens.next()?.parse().ok()
}

fn encode_entries<T>(entries: &[T], write: impl Fn(&mut String, &T) -> std::fmt::Result) -> Vec<u8> {
    let mut text = format!("{VERSION}\n{}\n", entries.len());
    let written = entries.iter().try_for_each(|entry| write(&mut text, entry));
    debug_assert_eq!(written, Ok(()), "writing to a string can't fail");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offset(value: i64) -> Offset {
        Offset::new(value).expect("legal")
    }

    fn epochs(pairs: &[(i32, i64)]) -> LeaderEpochCheckpoint {
        let entry = |&(epoch, start)| (LeaderEpoch::new(epoch).expect("legal"), offset(start));
        LeaderEpochCheckpoint { entries: pairs.iter().map(entry).collect() }
    }

    #[test]
    fn files_have_kafkas_bytes() {
        let file = b"0\n3\ncompacted-transactions 0 401\ncompacted-expired 0 385\ncompacted 0 385\n";
        let checkpoint = OffsetCheckpoint::parse(file).expect("legal");
        assert_eq!(checkpoint.entries[1], ("compacted-expired".to_owned(), 0, offset(385)));
        assert_eq!(checkpoint.encode(), file);

        let file = b"0\n2\n0 0\n2 600\n";
        assert_eq!(LeaderEpochCheckpoint::parse(file), Ok(epochs(&[(0, 0), (2, 600)])));
        assert_eq!(epochs(&[(0, 0), (2, 600)]).encode(), file);
        assert_eq!(OffsetCheckpoint::default().encode(), b"0\n0\n");
    }

    #[test]
    fn an_empty_file_and_a_lone_version_have_no_entries() {
        for file in ["", "0", "0\n", "0\n0", "0\n0\n"] {
            assert_eq!(OffsetCheckpoint::parse(file.as_bytes()), Ok(OffsetCheckpoint::default()), "{file:?}");
            assert_eq!(LeaderEpochCheckpoint::parse(file.as_bytes()), Ok(LeaderEpochCheckpoint::default()));
        }
    }

    #[test]
    fn any_run_of_blanks_separates_tokens_and_the_last_line_may_lack_its_end() {
        let checkpoint = OffsetCheckpoint::parse(b"0\r\n1\r\norders \t 3\t77").expect("legal");
        assert_eq!(checkpoint.entries, [("orders".to_owned(), 3, offset(77))]);
    }

    #[test]
    fn lines_that_break_the_format_are_named() {
        let cases: [(&[u8], usize); 16] = [
            (b"\n", 1),
            (b"1\n0\n", 1),
            (b"0 0\n", 1),
            (b"x\n", 1),
            (b"0\n-1\n", 2),
            (b"0\n\n", 2),
            (b"0\n2\na 0 1\n", 2),
            (b"0\n0\na 0 1\n", 2),
            (b"0\n4294967295\na 0 1\n", 2),
            (b"0\n1\na 0\n", 3),
            (b"0\n1\na 0 1 2\n", 3),
            (b"0\n1\na b 1\n", 3),
            (b"0\n1\na -1 1\n", 3),
            (b"0\n1\na 0 -1\n", 3),
            (b"0\n1\na 0 9223372036854775808\n", 3),
            (b"0\n2\na 0 1\n\xff 0 1\n", 4),
        ];
        for (file, bad) in cases {
            let error = OffsetCheckpoint::parse(file).expect_err("breaks the format");
            assert!(matches!(error, FormatError::Text { line, .. } if line == bad), "{error}");
        }
        assert!(LeaderEpochCheckpoint::parse(b"0\n1\n0 0 0\n").is_err());
        assert!(LeaderEpochCheckpoint::parse(b"0\n1\n-1 0\n").is_err());
    }

    #[test]
    fn errors_repeat_at_most_80_characters_of_a_line() {
        let file = format!("0\n1\n{}\n", "ü".repeat(1_000));
        let Err(FormatError::Text { got, .. }) = OffsetCheckpoint::parse(file.as_bytes()) else {
            panic!("no entry");
        };
        assert_eq!(got, "ü".repeat(80));
    }

    #[test]
    fn a_file_cut_at_a_line_is_refused() {
        let file = OffsetCheckpoint { entries: vec![("a".to_owned(), 0, offset(5)); 3] }.encode();
        for (cut, _) in file.iter().enumerate().filter(|&(at, &byte)| at > 1 && byte == b'\n') {
            assert_eq!(OffsetCheckpoint::parse(&file[..cut]).is_ok(), cut + 1 == file.len());
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, text in "0\n[0-3]\n([a0-9 ]{0,6}\n){0,4}") {
            for file in [&bytes[..], text.as_bytes()] {
                let _ = OffsetCheckpoint::parse(file);
                let _ = LeaderEpochCheckpoint::parse(file);
            }
        }

        #[test]
        fn entries_round_trip(
            offsets in prop::collection::vec(("[a-zA-Z0-9._-]{1,20}", 0..=i32::MAX, 0..=i64::MAX), 0..8),
            pairs in prop::collection::vec((0..=i32::MAX, 0..=i64::MAX), 0..8),
        ) {
            let entries = offsets.into_iter().map(|(topic, partition, value)| (topic, partition, offset(value))).collect();
            let checkpoint = OffsetCheckpoint { entries };
            prop_assert_eq!(OffsetCheckpoint::parse(&checkpoint.encode()), Ok(checkpoint));
            let checkpoint = epochs(&pairs);
            prop_assert_eq!(LeaderEpochCheckpoint::parse(&checkpoint.encode()), Ok(checkpoint));
        }
    }
}
