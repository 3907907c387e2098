//! `meta.properties`: the identity of a log directory, as a Java properties file. Read only.
//!
//! The bytes are Latin-1. Lines that begin with `#` or `!` after their blanks are comments; a backslash at its end
//! joins a line with the next. A key ends at the first `=`, `:` or blank, and `\` begins an escape: `\t`, `\n`, `\r`,
//! `\f`, `\uXXXX`, or the character itself. What the keys mean, and which must be there, is for the caller.

use super::error::FormatError;
use std::iter::Peekable;
use std::str::Chars;

const WHAT: &str = "meta.properties";

/// The keys and values of a `meta.properties`.
///
/// # Example
/// ```
/// use stratalog::format::MetaProperties;
///
/// let properties = MetaProperties::parse(b"#\n#Sat Nov 21\nnode.id=1\nversion=1\n")?;
/// assert_eq!(properties.get("node.id"), Some("1"));
/// assert_eq!(properties.get("broker.id"), None);
/// # Ok::<(), stratalog::format::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetaProperties {
    entries: Vec<(String, String)>,
}

impl MetaProperties {
    /// Reads a whole file.
    ///
    /// # Errors
    /// `Text` at a line with a `\u` escape that is no character.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut entries = Vec::new();
        let mut lines = natural_lines(bytes).enumerate();
        while let Some((index, first)) = lines.next() {
            let mut line = without_blanks(first);
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let mut goes_on = ends_in_backslash(first);
            while goes_on {
                line.pop();
                let Some((_, next)) = lines.next() else { break };
                line.push_str(&without_blanks(next));
                goes_on = ends_in_backslash(next);
            }
            let entry = parse_line(&line);
            let expected = "`\\u` and four hexadecimal digits of a character";
            entries.push(entry.ok_or_else(|| FormatError::text(WHAT, index + 1, expected, line.as_bytes()))?);
        }
        Ok(Self { entries })
    }

    /// The value of `key`; the last one when the key stands there more than once.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries().rev().find(|&(known, _)| known == key).map(|(_, value)| value)
    }

    /// Keys and values in the file's order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The lines as they stand, without `\n` or `\r\n`.
fn natural_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// The characters of a line from its first that is no blank.
fn without_blanks(line: &[u8]) -> String {
    line.iter().map(|&byte| char::from(byte)).skip_while(|&character| is_blank(character)).collect()
}

const fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{c}')
}

/// Whether the last backslash is not itself escaped by one before it.
fn ends_in_backslash(line: &[u8]) -> bool {
    line.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// Key and value of a joined line; `None` when an escape is no character.
fn parse_line(line: &str) -> Option<(String, String)> {
    let mut rest = line.chars().peekable();
    let key = unescape(&mut rest, |character| is_blank(character) || matches!(character, '=' | ':'))?;
    while rest.next_if(|&character| is_blank(character)).is_some() {}
    if rest.next_if(|&character| matches!(character, '=' | ':')).is_some() {
        while rest.next_if(|&character| is_blank(character)).is_some() {}
    }
    Some((key, unescape(&mut rest, |_| false)?))
}

/// The text up to the first character that ends it, in UTF-16 on the way because `\u` escapes come in its units.
fn unescape(rest: &mut Peekable<Chars<'_>>, ends: impl Fn(char) -> bool) -> Option<String> {
    let mut units = Vec::new();
    while let Some(character) = rest.next_if(|&character| !ends(character)) {
        let meant = match character {
            '\\' => match rest.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    units.push(unit(rest)?);
                    continue;
                }
                Some(other) => other,
                None => break,
            },
            plain => plain,
        };
        units.extend_from_slice(meant.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

/// The four hexadecimal digits of a `\u` escape.
fn unit(rest: &mut Peekable<Chars<'_>>) -> Option<u16> {
    (0..4).try_fold(0, |unit: u16, _| {
        let digit = rest.next()?.to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries(file: &[u8]) -> Vec<(String, String)> {
        MetaProperties::parse(file).expect("legal").entries
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn a_file_of_kafka_is_read_in_its_order() {
        let file = b"#\n#Sat Nov 21 11:17:13 UTC 2026\nnode.id=1\ndirectory.id=OSwEsWxtaJIuYpUDXByg6Q\nversion=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAg\n";
        let expected = [
            pair("node.id", "1"),
            pair("directory.id", "OSwEsWxtaJIuYpUDXByg6Q"),
            pair("version", "1"),
            pair("cluster.id", "AAAAAAAAAAAAAAAAAAAAAg"),
        ];
        assert_eq!(entries(file), expected);
    }

    #[test]
    fn keys_end_at_an_equals_sign_a_colon_or_a_blank() {
        for file in ["k=v", "k:v", "k v", " \tk = v", "k\t:  v", "k=v\r\n", "\n\r\nk=v\n\n"] {
            assert_eq!(entries(file.as_bytes()), [pair("k", "v")], "{file:?}");
        }
        assert_eq!(entries(b"k==v"), [pair("k", "=v")]);
        assert_eq!(entries(b"k=v \nk"), [pair("k", "v "), pair("k", "")]);
    }

    #[test]
    fn escapes_stand_for_their_characters() {
        assert_eq!(entries(b"a\\=b\\ c=d\\te\\\\\\q"), [pair("a=b c", "d\te\\q")]);
        assert_eq!(entries(b"k=\\u00fc\\uD83D\\uDE00"), [pair("k", "ü😀")]);
        assert_eq!(entries(b"k=\xfc"), [pair("k", "ü")]);
        assert_eq!(entries(b"k=a\\\n   b\\\\\n#c=\\\nx=y\\"), [pair("k", "ab\\"), pair("x", "y")]);
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let properties = MetaProperties::parse(b"k=1\nk=2\n").expect("legal");
        assert_eq!(properties.get("k"), Some("2"));
        assert_eq!(properties.get("K"), None);
    }

    #[test]
    fn escapes_that_are_no_characters_are_refused_with_their_line() {
        for file in ["\nk=\\u12", "\nk=\\u12g4", "\nk=\\uD83D"] {
            let error = MetaProperties::parse(file.as_bytes()).expect_err("no character");
            assert!(matches!(error, FormatError::Text { line: 2, .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, text in "[a=:# \\\\\nu0-9]{0,60}") {
            let _ = MetaProperties::parse(&bytes);
            let _ = MetaProperties::parse(text.as_bytes());
        }
    }
}
