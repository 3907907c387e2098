//! Where lines go: standard output, as JSON or as a table, with a memory of whether damage was among them.

use std::io::{self, BufWriter, StdoutLock, Write};

use stratalog::format::FormatError;
use stratalog::types::Position;

use crate::line::Line;
use crate::table;

/// What the user asked to see.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// One JSON object a line instead of a table.
    pub json: bool,
    /// Leave out records and control records.
    pub no_records: bool,
}

/// The output of one run.
pub struct Report<'o> {
    out: BufWriter<StdoutLock<'o>>,
    style: Style,
    file: String,
    damaged: bool,
    broken: bool,
}

impl<'o> Report<'o> {
    /// Starts a report on standard output.
    pub fn new(out: StdoutLock<'o>, style: Style) -> Self {
        let out = BufWriter::with_capacity(1 << 16, out);
        Self { out, style, file: String::new(), damaged: false, broken: false }
    }

    /// Lines from here on are about the file of this name.
    pub fn begin(&mut self, file: &str) -> io::Result<()> {
        file.clone_into(&mut self.file);
        let written = if self.style.json { Ok(()) } else { writeln!(self.out, "{file}") };
        written.inspect_err(|_| self.broken = true)
    }

    /// Prints one line, unless it is hidden.
    pub fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        if self.style.no_records && line.is_record() {
            return Ok(());
        }
        let written = if self.style.json {
            writeln!(self.out, "{}", line.to_json(&self.file))
        } else {
            table::write(&mut self.out, line)
        };
        written.inspect_err(|_| self.broken = true)
    }

    /// Prints what is wrong with the thing that begins at `position`. Positions inside the error count from there.
    pub fn damage(&mut self, position: u64, error: FormatError) -> io::Result<()> {
        let error = shifted(error, position);
        self.damage_words(position, &format!("{}: {error}", error.code()))
    }

    /// Prints damage whose reason, code first, is words already.
    pub fn damage_words(&mut self, position: u64, reason: &str) -> io::Result<()> {
        self.damaged = true;
        self.line(&Line::Damage { position, reason })
    }

    /// Whether standard output can't be written any more, so that an error was its own and not a file's.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Writes out what is held back and says whether damage was found.
    pub fn finish(mut self) -> io::Result<bool> {
        self.out.flush()?;
        Ok(self.damaged)
    }
}

/// The error with its position counted from the start of the file instead of from `base`.
fn shifted(mut error: FormatError, base: u64) -> FormatError {
    if let FormatError::Incomplete { position, .. }
    | FormatError::Invalid { position, .. }
    | FormatError::Checksum { position, .. }
    | FormatError::Decompress { position, .. }
    | FormatError::TooLarge { position, .. } = &mut error
    {
        *position = Position::new(base).plus(position.value());
    }
    error
}
