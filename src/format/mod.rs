//! Every byte on disk: layout tables, encoders and parsers. No I/O, no clock, no lock.

mod checksum;
mod compression;
mod cursor;
mod error;

pub use compression::Compression;
pub use error::FormatError;
