//! Bringing the table of producers up by the batches that are in the log (reference 6.5).
//!
//! A damaged marker ends nothing; its transaction stays open.

use std::ops::Range;
use std::sync::Arc;

use super::producers::ProducerTable;
use super::segments::SegmentList;
use crate::format::{BatchHeader, ControlKind};
use crate::segment::{Segment, SegmentError};
use crate::types::{Offset, Position};

/// Tells the table of every batch in a range of offsets, those in segments to `skip` aside, and the transaction indexes of aborted
/// transactions they don't know. Returns up to where this went: a marker that another process hasn't finished yet ends it.
pub(super) fn replay(
    table: &mut ProducerTable,
    list: &SegmentList,
    range: Range<Offset>,
    read_only: bool,
    skip: &dyn Fn(&Segment) -> bool,
) -> Result<Offset, SegmentError> {
    Replay { list, read_only, is_verified: true, skip, at_segment: &mut |_, _| {} }.run(table, range)
}

/// One replay of a log; see [`replay`].
pub(super) struct Replay<'a> {
    pub list: &'a SegmentList,
    pub read_only: bool,
    /// Whether the batches are known to be sound. Else their checksums tell: a torn one would speak of producers that never were.
    pub is_verified: bool,
    pub skip: &'a dyn Fn(&Segment) -> bool,
    /// Called with the table of the log up to the beginning of a segment, unless damage hides a part of that.
    pub at_segment: &'a mut dyn FnMut(&ProducerTable, Offset),
}

impl Replay<'_> {
    pub(super) fn run(
        self,
        table: &mut ProducerTable,
        Range { start: from, end }: Range<Offset>,
    ) -> Result<Offset, SegmentError> {
        let mut is_whole = true;
        // A segment that begins at the end has no batch below it, and its base is a place for a snapshot.
        for segment in self.list.from(from).filter(|_| from < end) {
            if segment.base_offset() > from && segment.base_offset() <= end && is_whole {
                (self.at_segment)(table, segment.base_offset());
            }
            if (self.skip)(segment) {
                continue;
            }
            let entries = match (self.read_only, Arc::ptr_eq(segment, self.list.active())) {
                (false, _) => Entries::Ours,
                (true, true) => Entries::Growing { indexed: None },
                (true, false) => Entries::Finished,
            };
            let is_in_question = !self.is_verified && segment.base_offset() < end;
            let unsound = if is_in_question { first_unsound(segment)? } else { None };
            is_whole &= unsound.is_none();
            match replay_segment(table, segment, entries, from, unsound.map_or(end, |unsound| unsound.min(end)))? {
                Ended::Whole => {}
                Ended::Damaged => is_whole = false,
                Ended::Unfinished(marker) => return Ok(marker),
            }
        }
        Ok(end)
    }
}

/// Where the sound batches of a segment end, unless all of them are.
fn first_unsound(segment: &Segment) -> Result<Option<Offset>, SegmentError> {
    let mut end = segment.base_offset();
    for item in segment.headers_from(Offset::ZERO)? {
        let sound = item.and_then(|(position, header)| segment.batch_at(position).map(|_| header.last_offset().next()));
        match sound {
            Ok(next) => end = next,
            Err(error) if error.position().is_some() => return Ok(Some(end)),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// How far the replay of a segment went.
enum Ended {
    Whole,
    /// Nobody can read on behind damage.
    Damaged,
    /// At a marker that can't count yet.
    Unfinished(Offset),
}

/// Who sees to the transaction index of a segment that is replayed.
enum Entries {
    /// This process.
    Ours,
    /// Another one, which may not have come to it yet; read up to this marker.
    Growing { indexed: Option<Offset> },
    /// Another one, which is done with it.
    Finished,
}

fn replay_segment(
    table: &mut ProducerTable,
    segment: &Segment,
    mut entries: Entries,
    from: Offset,
    end: Offset,
) -> Result<Ended, SegmentError> {
    for item in segment.headers_from(from)? {
        let (position, header) = match item {
            Ok(found) => found,
            Err(error) if error.position().is_some() => return Ok(Ended::Damaged),
            Err(error) => return Err(error),
        };
        if header.base_offset() >= end {
            break;
        }
        if header.last_offset() < from || header.producer_id().is_none() {
            continue;
        }
        if !header.is_control() {
            table.note_data(&header);
        } else if !replay_marker(table, segment, position, &header, &mut entries)? {
            return Ok(Ended::Unfinished(header.base_offset()));
        }
    }
    Ok(Ended::Whole)
}

/// Returns false for a marker that can't count yet.
fn replay_marker(
    table: &mut ProducerTable,
    segment: &Segment,
    position: Position,
    header: &BatchHeader,
    entries: &mut Entries,
) -> Result<bool, SegmentError> {
    let batch = match segment.batch_at(position) {
        Err(error) if error.position().is_none() => return Err(error),
        batch => batch.ok().flatten(),
    };
    let record = match batch.map(|batch| batch.control_record()) {
        Some(Ok(Some(record))) => record,
        // Compaction emptied it and left it for the epoch's sake.
        Some(Ok(None)) => {
            table.note_epoch(header);
            return Ok(true);
        }
        // Damaged it ends nothing, so that its transaction stays open.
        _ => return Ok(true),
    };
    let marker = header.last_offset();
    let last_indexed = || Ok::<_, SegmentError>(segment.aborted()?.last().map(|entry| entry.last_offset));
    // The process that writes this log adds the index entry after the marker; until then the transaction counts as open.
    if let Entries::Growing { indexed } = entries
        && record.kind() == ControlKind::Abort
        && table.has_open_transaction(header)
        && *indexed < Some(marker)
    {
        *indexed = last_indexed()?;
        if *indexed < Some(marker) {
            return Ok(false);
        }
    }
    if let Some(entry) = table.note_marker(header, &record).and_then(|completed| completed.aborted())
        && matches!(entries, Entries::Ours)
        && last_indexed()? < Some(marker)
    {
        segment.add_aborted(entry)?;
    }
    Ok(true)
}
