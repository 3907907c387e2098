//! The three index files: entries of one size each, one after the other.
//!
//! An index that was in use when its process ended is preallocated: the zeros up to its end are room, not entries, and
//! not damage. Entries that go backwards, can't be, or are cut off are damage.

use std::io;
use std::path::Path;

use stratalog::format::{AbortedTransaction, FormatError, OffsetIndexEntry, TimeIndexEntry};
use stratalog::types::{Offset, Position, Timestamp};

use crate::line::Line;
use crate::pieces::Pieces;
use crate::report::Report;

/// Prints an `.index` of the segment with this base offset.
pub fn dump_offset_index(report: &mut Report<'_>, path: &Path, base: Offset) -> io::Result<()> {
    let mut last: Option<(Offset, u32)> = None;
    each_entry(report, path, OffsetIndexEntry::SIZE, |bytes| {
        let OffsetIndexEntry { relative_offset, position } = OffsetIndexEntry::parse(bytes)?;
        let offset = absolute(base, relative_offset)?;
        let rises = last.is_none_or(|(before, at)| offset > before && position > at);
        last = Some((offset, position));
        Ok((Line::Index { offset, position }, rises))
    })
}

/// Prints a `.timeindex` of the segment with this base offset.
pub fn dump_time_index(report: &mut Report<'_>, path: &Path, base: Offset) -> io::Result<()> {
    let mut last: Option<(Timestamp, Offset)> = None;
    each_entry(report, path, TimeIndexEntry::SIZE, |bytes| {
        let TimeIndexEntry { timestamp, relative_offset } = TimeIndexEntry::parse(bytes)?;
        let offset = absolute(base, relative_offset)?;
        let rises = last.is_none_or(|(before, at)| timestamp > before && offset >= at);
        last = Some((timestamp, offset));
        Ok((Line::TimeIndex { timestamp, offset }, rises))
    })
}

/// Prints a `.txnindex`.
pub fn dump_txn_index(report: &mut Report<'_>, path: &Path, base: Offset) -> io::Result<()> {
    let mut last: Option<Offset> = None;
    each_entry(report, path, AbortedTransaction::SIZE, |bytes| {
        let entry = AbortedTransaction::parse(bytes)?;
        let rises = entry.last_offset >= base && last.is_none_or(|before| entry.last_offset > before);
        last = Some(entry.last_offset);
        Ok((Line::TxnIndex(entry), rises))
    })
}

fn absolute(base: Offset, relative_offset: u32) -> Result<Offset, FormatError> {
    base.checked_add(relative_offset.into()).ok_or(FormatError::Invalid {
        field: "relative offset",
        position: Position::ZERO,
        expected: "an offset below 2^63 with the base offset added",
        got: relative_offset.into(),
    })
}

/// Prints what `parse` makes of each entry; it says as well whether the entry rises above the one before.
fn each_entry(
    report: &mut Report<'_>,
    path: &Path,
    entry_size: usize,
    mut parse: impl FnMut(&[u8]) -> Result<(Line<'static>, bool), FormatError>,
) -> io::Result<()> {
    let mut file = Pieces::open(path)?;
    let mut position = 0;
    loop {
        let bytes = file.read(position, entry_size)?;
        let is_only_entry = position == 0 && file.size() == entry_size as u64;
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        if bytes.is_empty() || (is_zero && !is_only_entry && file.is_zero_from(position)?) {
            break;
        }
        match parse(&bytes) {
            Ok((line, rises)) => {
                report.line(&line)?;
                if !rises {
                    report.damage_words(position, "out_of_order: the entry doesn't rise above the one before")?;
                }
            }
            Err(error) => report.damage(position, error)?,
        }
        position += bytes.len() as u64;
    }
    check_end(report, file.size(), position, entry_size as u64)
}

/// A preallocated file ends with a whole entry too; a cut entry was reported already unless zeros hid it.
fn check_end(report: &mut Report<'_>, size: u64, position: u64, entry_size: u64) -> io::Result<()> {
    let rest = size % entry_size;
    if rest == 0 || position == size {
        return Ok(());
    }
    let (position, needed) = (Position::new(size - rest), entry_size);
    let error = FormatError::Incomplete { what: "index entry", position: Position::ZERO, needed, available: rest };
    report.damage(position.value(), error)
}
