//! The lines for people: aligned, times as dates, bytes as text where they are text.

use std::fmt;
use std::io::{self, Write};

use stratalog::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::line::{BatchLine, Line};

/// Characters of a key or value that are shown.
const SHOWN_SIZE: usize = 60;

/// Prints one line.
pub fn write(out: &mut impl Write, line: &Line<'_>) -> io::Result<()> {
    match line {
        Line::Batch(batch) => write_batch(out, batch),
        Line::Record(record) => {
            let time = Time(record.timestamp());
            let (key, value) = (Shown(record.key()), Shown(record.value()));
            write!(out, "  {:>12}  {time}  {key} = {value}", record.offset().value())?;
            for header in record.headers() {
                write!(out, "  [{}: {}]", String::from_utf8_lossy(header.name), Shown(header.value))?;
            }
            writeln!(out)
        }
        Line::Control { offset, timestamp, record } => {
            write!(out, "  {:>12}  {}  * {}", offset.value(), Time(*timestamp), record.kind().name())?;
            match record.coordinator_epoch() {
                Some(epoch) => writeln!(out, ", coordinator epoch {epoch}"),
                None => writeln!(out),
            }
        }
        Line::Index { offset, position } => writeln!(out, "  offset {:>12}  position {position:>10}", offset.value()),
        Line::TimeIndex { timestamp, offset } => {
            writeln!(out, "  {}  offset {:>12}", Time(Some(*timestamp)), offset.value())
        }
        Line::TxnIndex(entry) => writeln!(
            out,
            "  producer {:>8}  aborted {}..{}  last stable offset {}",
            entry.producer_id, entry.first_offset, entry.last_offset, entry.last_stable_offset
        ),
        Line::Producer(entry) => {
            let (sequence, offset) = (Sequence::to_wire(entry.last_sequence), Offset::to_wire(entry.last_offset));
            let open = Offset::to_wire(entry.current_transaction_first_offset);
            write!(out, "  producer {:>8}  epoch {:>5}", entry.producer_id.value(), entry.producer_epoch.value())?;
            write!(out, "  {}  last sequence {sequence:>8}  last offset {offset:>8}", Time(entry.timestamp))?;
            let coordinator = entry.coordinator_epoch.map_or(-1, i64::from);
            writeln!(out, "  ({} before it)  coordinator epoch {coordinator}  open from {open}", entry.offset_delta)
        }
        Line::LeaderEpoch { epoch, start_offset } => {
            writeln!(out, "  leader epoch {:>6}  from offset {:>12}", epoch.value(), start_offset.value())
        }
        Line::Checkpoint { topic, partition, offset } => {
            writeln!(out, "  {:<40}  offset {:>12}", format!("{topic}-{partition}"), offset.value())
        }
        Line::TopicId(id) => writeln!(out, "  topic id {id}"),
        Line::Meta { key, value } => writeln!(out, "  {key} = {value}"),
        Line::CleanShutdown(Some(epoch)) => writeln!(out, "  stopped in order, broker epoch {epoch}"),
        Line::CleanShutdown(None) => writeln!(out, "  stopped in order"),
        Line::Damage { position, reason } => writeln!(out, "! damage at position {position}: {reason}"),
    }
}

fn write_batch(out: &mut impl Write, batch: &BatchLine) -> io::Result<()> {
    let header = &batch.header;
    let offsets = format!("{}..{}", batch.base_offset, header.last_offset());
    write!(out, "@ {:>10}  offsets {offsets:<17}  {:>6} records", batch.position, batch.count)?;
    write!(out, "  {:>8} bytes  v{}  {:<6}", header.size(), header.magic(), header.compression().name())?;
    write!(out, "  {} ({})", Time(header.max_timestamp()), batch.timestamp_type())?;
    write!(out, "  epoch {}", LeaderEpoch::to_wire(header.leader_epoch()))?;
    if header.producer_id().is_some() {
        let epoch = ProducerEpoch::to_wire(header.producer_epoch());
        let sequence = Sequence::to_wire(header.base_sequence());
        write!(out, "  producer {}/{epoch} from sequence {sequence}", ProducerId::to_wire(header.producer_id()))?;
    }
    if let Some(horizon) = header.delete_horizon() {
        write!(out, "  delete horizon {}", Time(Some(horizon)))?;
    }
    let flags =
        [(header.is_transactional(), "transactional"), (header.is_control(), "control"), (!batch.valid, "BROKEN")];
    for (_, name) in flags.iter().filter(|(on, _)| *on) {
        write!(out, "  {name}")?;
    }
    writeln!(out, "  crc {:08x}", header.crc())
}

/// Bytes as text, escaped and cut.
struct Shown<'a>(Option<&'a [u8]>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("null") };
        // A character takes at most four bytes: no need to decode what won't be shown.
        let start = bytes.get(..bytes.len().min(4 * SHOWN_SIZE)).unwrap_or_default();
        let text = String::from_utf8_lossy(start);
        let shown: String = text.chars().take(SHOWN_SIZE).collect();
        write!(f, "\"{}\"", shown.escape_debug())?;
        if shown.len() < text.len() || start.len() < bytes.len() {
            write!(f, "... {} bytes", bytes.len())?;
        }
        Ok(())
    }
}

/// A time as a date in UTC, or dashes of the same width.
struct Time(Option<Timestamp>);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = self.0 else { return f.write_str("-----------------------") };
        let millis = time.millis();
        let (year, month, day) = civil_from_days(millis / 86_400_000);
        let (second, milli) = (millis / 1000 % 86_400, millis % 1000);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{milli:03}")
    }
}

/// Year, month and day of a number of days since 1970 that isn't negative, in the Gregorian calendar.
const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of the year 0, so that leap days come last in their year.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}
