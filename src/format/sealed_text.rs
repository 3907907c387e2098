//! The frame of our own text files: a first line with kind and version, body lines, and a last line with a checksum.
//!
//! | line | content |
//! |---|---|
//! | first | `<kind> <version>`, for example `stratalog-topics 1` |
//! | body | words separated by single spaces, the first of them naming the kind of line |
//! | last | `end <checksum>`: CRC-32C of every byte before this line, eight lowercase hex digits |
//!
//! Every line ends in `\n`. Free text is escaped: every byte but ASCII letters, digits and `.,:;/+*=_-` stands as `%` and two
//! uppercase hex digits, so that a word holds neither space nor line end. A file that was cut, extended or changed
//! anywhere does not parse: the checksum covers all but itself, and nothing may follow it.

use std::fmt::Write as _;

use super::checksum::crc32c;
use super::error::FormatError;

/// How much of a refused line an error repeats.
const SHOWN_LENGTH_MAX: usize = 64;

/// Wraps `body`, whose lines each end in `\n`.
#[must_use]
pub(crate) fn seal(kind: &str, version: u32, body: &str) -> Vec<u8> {
    let mut text = format!("{kind} {version}\n{body}");
    let checksum = crc32c(text.as_bytes());
    // Writing to a String can't fail.
    let _ = writeln!(text, "end {checksum:08x}");
    text.into_bytes()
}

/// One line of a file's body, cut into words.
pub(crate) struct Line<'a> {
    what: &'static str,
    number: usize,
    text: &'a str,
}

impl<'a> Line<'a> {
    /// The words of this line when there are exactly `N`.
    ///
    /// # Errors
    /// [`FormatError::Text`] that says `expected`.
    pub(crate) fn words<const N: usize>(&self, expected: &'static str) -> Result<[&'a str; N], FormatError> {
        let words: Vec<&str> = self.text.split(' ').collect();
        words.try_into().map_err(|_| self.refused(expected))
    }

    /// The first word.
    pub(crate) fn kind(&self) -> &'a str {
        self.text.split(' ').next().unwrap_or_default()
    }

    /// The error for this line.
    pub(crate) fn refused(&self, expected: &'static str) -> FormatError {
        let got = self.text.chars().take(SHOWN_LENGTH_MAX).collect();
        FormatError::Text { what: self.what, line: self.number, expected, got }
    }
}

/// Checks the frame of a file of `kind` (its first word and name in errors) and gives its body.
///
/// # Errors
/// [`FormatError::Text`] for another kind, an unknown version or a missing last line, [`FormatError::Checksum`] for changed bytes.
pub(crate) fn unseal<'a>(
    kind: &'static str,
    version: u32,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = Line<'a>>, FormatError> {
    let whole = |expected| FormatError::Text { what: kind, line: 1, expected, got: String::new() };
    let text = std::str::from_utf8(bytes).map_err(|_| whole("ASCII text"))?;
    let head = Line { what: kind, number: 1, text: text.lines().next().unwrap_or_default() };
    if head.kind() != kind {
        return Err(head.refused("the kind of the file and its version"));
    }
    let end = text.strip_suffix('\n').and_then(|text| text.rfind('\n'));
    let (sealed, last) = end.map(|end| text.split_at(end + 1)).ok_or_else(|| whole("a last line `end <checksum>`"))?;
    let last = Line { what: kind, number: sealed.lines().count() + 1, text: last.trim_end_matches('\n') };
    let expected = "the last line: `end` and eight hex digits";
    let [word, checksum] = last.words(expected)?;
    let stored = u32::from_str_radix(checksum, 16).map_err(|_| last.refused(expected))?;
    if word != "end" || checksum.len() != 8 {
        return Err(last.refused(expected));
    }
    let computed = crc32c(sealed.as_bytes());
    if stored != computed {
        return Err(FormatError::Checksum { position: crate::types::Position::ZERO, stored, computed });
    }
    if head.text != format!("{kind} {version}") {
        return Err(head.refused("a version that this build knows"));
    }
    let lines = sealed.lines().enumerate().skip(1);
    Ok(lines.map(move |(index, text)| Line { what: kind, number: index + 1, text }))
}

/// `text` as one word.
#[must_use]
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".,:;/+*=_-".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The text that [`escape`] made `word` of; `None` when it made no such word.
#[must_use]
pub(crate) fn unescape(word: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        if first == '%' {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            rest = rest.get(3..)?;
        } else {
            let (plain, tail) = rest.split_at(first.len_utf8());
            bytes.extend_from_slice(plain.as_bytes());
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(bytes: &[u8]) -> Result<Vec<String>, FormatError> {
        unseal("kind", 1, bytes).map(|lines| lines.map(|line| line.text.to_owned()).collect())
    }

    #[test]
    fn a_sealed_body_comes_back_line_by_line() {
        let bytes = seal("kind", 1, "one 1\ntwo 2\n");
        assert!(bytes.starts_with(b"kind 1\none 1\ntwo 2\nend "));
        assert_eq!(body(&bytes).unwrap(), ["one 1", "two 2"]);
        assert_eq!(body(&seal("kind", 1, "")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_cut_and_every_changed_bit_is_noticed() {
        let bytes = seal("kind", 1, "one 1\n");
        for end in 0..bytes.len() {
            assert!(body(&bytes[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let same_checksum = changed.to_ascii_lowercase() == bytes;
            assert!(body(&changed).is_err() || same_checksum, "bit {bit}");
        }
        assert!(body(&[bytes.as_slice(), b"x"].concat()).is_err());
        assert!(body(&[bytes.as_slice(), &bytes].concat()).is_err());
    }

    #[test]
    fn another_kind_and_another_version_are_refused_by_name() {
        let version = body(&seal("kind", 2, "")).unwrap_err();
        assert!(version.to_string().contains("kind 2"), "{version}");
        assert!(body(&seal("other", 1, "")).is_err());
        assert!(body(b"").is_err());
        assert!(body(&[0xff; 40]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_survives_escaping(text in ".*") {
            let word = escape(&text);
            prop_assert!(!word.contains([' ', '\n']));
            prop_assert_eq!(unescape(&word), Some(text));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), word in ".{0,20}") {
            let _ = body(&bytes);
            let _ = unescape(&word);
        }
    }
}
