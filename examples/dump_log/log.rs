//! Walks a file of batches, reports each, and finds its way on behind damage.
//!
//! A batch with a wrong checksum is reported as it describes itself, and the walk goes on behind it if something that can
//! follow it begins there. Where the framing is broken, one damage line is written and every later position is tried
//! until a batch with a right checksum begins. Zeros up to the end are a preallocated tail, not damage.
//!
//! Memory: a batch is loaded only once its checksum was found right in pieces, so no claimed length makes the tool allocate.

use std::io;
use std::path::Path;

use stratalog::format::{BatchHeader, ControlRecord, FormatError, RecordBatch, RecordRef};
use stratalog::types::{Offset, Position};

use crate::line::{BatchLine, Line};
use crate::pieces::Pieces;
use crate::report::Report;

/// Bytes in front of what the checksum of magic 2 covers.
const V2_UNCOVERED: u64 = 21;
/// Bytes in front of what the checksum of magic 0 and 1 covers.
const LEGACY_UNCOVERED: u64 = 16;
/// Where the magic byte stands in every format.
const MAGIC_AT: usize = 16;
/// How often the bytes of a file are checksummed in search of a batch, at most: bytes made to look like
/// a batch at every position must not keep the tool busy for ever.
const SEARCH_EFFORT: u64 = 8;

/// Bytes that a search looks at in one piece.
const SEARCH_SIZE: usize = 1 << 16;

/// What stands at a position.
enum Found {
    /// A whole batch; the error is its checksum's.
    Batch(BatchHeader, Result<(), FormatError>),
    /// Nothing but zeros up to the end.
    Zeros,
    /// No batch.
    Broken(FormatError),
}

/// Prints every batch of the file.
pub fn dump(report: &mut Report<'_>, path: &Path, base_offset: Option<Offset>) -> io::Result<()> {
    let file = Pieces::open(path)?;
    let effort = file.size().saturating_mul(SEARCH_EFFORT);
    let next_offset = base_offset.unwrap_or(Offset::ZERO);
    Walk { report, file, effort, next_offset }.run()
}

/// The walk through one file.
struct Walk<'r, 'o> {
    report: &'r mut Report<'o>,
    file: Pieces,
    /// Bytes that may still be checksummed in search of a batch.
    effort: u64,
    /// The least offset that the next batch may begin with.
    next_offset: Offset,
}

impl Walk<'_, '_> {
    fn run(&mut self) -> io::Result<()> {
        let mut position = 0;
        while position < self.file.size() {
            let next = match self.look(position)? {
                Found::Zeros => return Ok(()),
                Found::Batch(header, Ok(())) => {
                    self.print_batch(position, header)?;
                    Some(position + u64::from(header.size()))
                }
                Found::Batch(header, Err(error)) => {
                    self.print_wrong(position, header, error)?;
                    let behind = position + u64::from(header.size());
                    if self.can_follow(&header, behind)? { Some(behind) } else { self.search(position + 1)? }
                }
                Found::Broken(error) => {
                    self.report.damage(position, error)?;
                    self.search(position + 1)?
                }
            };
            let Some(next) = next else { return Ok(()) };
            position = next;
        }
        Ok(())
    }

    /// What stands at `position`, which is inside the file.
    fn look(&mut self, position: u64) -> io::Result<Found> {
        let head = self.file.read(position, BatchHeader::PEEK_SIZE)?;
        if head.iter().take(MAGIC_AT).all(|&byte| byte == 0) && self.file.is_zero_from(position)? {
            return Ok(Found::Zeros);
        }
        let header = match BatchHeader::peek(&head) {
            Ok(header) => header,
            Err(error) => return Ok(Found::Broken(error)),
        };
        let available = self.file.size() - position;
        if u64::from(header.size()) > available {
            let needed = header.size().into();
            let error = FormatError::Incomplete { what: "batch", position: Position::ZERO, needed, available };
            return Ok(Found::Broken(error));
        }
        let checked = self.check(position, &header)?;
        Ok(Found::Batch(header, checked))
    }

    /// Holds the stored checksum of a whole batch against its bytes, piece by piece.
    fn check(&mut self, position: u64, header: &BatchHeader) -> io::Result<Result<(), FormatError>> {
        let end = position + u64::from(header.size());
        let computed = if header.magic() == 2 {
            let mut crc = 0;
            self.file.each(position + V2_UNCOVERED, end, |bytes| crc = crc32c::crc32c_append(crc, bytes))?;
            crc
        } else {
            let mut crc = crc32fast::Hasher::new();
            self.file.each(position + LEGACY_UNCOVERED, end, |bytes| crc.update(bytes))?;
            crc.finalize()
        };
        let stored = header.crc();
        Ok(if computed == stored {
            Ok(())
        } else {
            Err(FormatError::Checksum { position: Position::ZERO, stored, computed })
        })
    }

    /// Whether the bytes at `behind` look like what comes after the batch of `header`, whose length can't be trusted.
    fn can_follow(&mut self, header: &BatchHeader, behind: u64) -> io::Result<bool> {
        if behind == self.file.size() {
            return Ok(true);
        }
        Ok(match self.look(behind)? {
            Found::Zeros | Found::Batch(_, Ok(())) => true,
            Found::Batch(next, Err(_)) => next.base_offset() > header.base_offset(),
            Found::Broken(_) => false,
        })
    }

    /// The next position from `from` on where a batch with a right checksum begins.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut piece_at = from;
        while piece_at < self.file.size() {
            let piece = self.file.read(piece_at, SEARCH_SIZE + BatchHeader::PEEK_SIZE)?;
            for (position, start) in (piece_at..self.file.size()).zip(0..SEARCH_SIZE) {
                let Some(header) = self.candidate(position, piece.get(start..).unwrap_or_default()) else { continue };
                if self.effort < u64::from(header.size()) {
                    let reason =
                        "search_abandoned: too many places look like a batch; the rest of the file is left out";
                    self.report.damage_words(position, reason)?;
                    return Ok(None);
                }
                self.effort -= u64::from(header.size());
                if self.check(position, &header)?.is_ok() {
                    return Ok(Some(position));
                }
            }
            piece_at += SEARCH_SIZE as u64;
        }
        Ok(None)
    }

    /// The header at `position`, where `bytes` stand, if it can be that of a whole batch.
    fn candidate(&self, position: u64, bytes: &[u8]) -> Option<BatchHeader> {
        // Cheap first: this is asked for every byte of a damaged stretch.
        bytes.get(MAGIC_AT).filter(|&&magic| magic <= 2)?;
        let header = BatchHeader::peek(bytes).ok()?;
        (u64::from(header.size()) <= self.file.size() - position).then_some(header)
    }

    /// Prints a batch whose checksum is wrong; its records mean nothing.
    fn print_wrong(&mut self, position: u64, header: BatchHeader, error: FormatError) -> io::Result<()> {
        let (base_offset, count) = (header.base_offset(), header.record_count());
        self.report.line(&Line::Batch(BatchLine { position, header, base_offset, count, valid: false }))?;
        self.report.damage(position, error)
    }

    /// Prints a batch whose checksum is right, its records, and what is wrong with them.
    fn print_batch(&mut self, position: u64, header: BatchHeader) -> io::Result<()> {
        let size = usize::try_from(header.size()).unwrap_or(usize::MAX);
        let parsed = RecordBatch::parse(self.file.read(position, size)?);
        let described = parsed.and_then(|batch| Ok((batch.base_offset()?, batch.record_count()?, batch)));
        let (base_offset, count, batch) = match described {
            Ok((base_offset, count, batch)) => (base_offset, count, Ok(batch)),
            Err(error) => (header.base_offset(), header.record_count(), Err(error)),
        };
        self.report.line(&Line::Batch(BatchLine { position, header, base_offset, count, valid: true }))?;
        self.check_order(position, base_offset, header.last_offset())?;
        match batch {
            Ok(batch) => self.print_records(position, &batch),
            Err(error) => self.report.damage(position, error),
        }
    }

    /// The checksum doesn't cover the base offset: only the order of the batches tells when it is wrong.
    fn check_order(&mut self, position: u64, base: Offset, last: Offset) -> io::Result<()> {
        let least = std::mem::replace(&mut self.next_offset, last.next());
        if base >= least {
            return Ok(());
        }
        let reason = format!("out_of_order: batch begins at offset {base}, expected {least} or more");
        self.report.damage_words(position, &reason)
    }

    /// Prints the records of a batch, up to the first that is broken.
    fn print_records(&mut self, position: u64, batch: &RecordBatch) -> io::Result<()> {
        for record in batch.records() {
            let line = record.and_then(|record| match batch.header().is_control() {
                true => control_line(&record),
                false => Ok(Line::Record(record)),
            });
            match line {
                Ok(line) => self.report.line(&line)?,
                Err(error) => return self.report.damage(position, error),
            }
        }
        Ok(())
    }
}

fn control_line<'a>(record: &RecordRef<'a>) -> Result<Line<'a>, FormatError> {
    let (offset, timestamp) = (record.offset(), record.timestamp());
    ControlRecord::parse(record.key(), record.value()).map(|record| Line::Control { offset, timestamp, record })
}
