//! The batches that stand one after the other in some bytes, and the places that their offsets may take.

use bytes::Bytes;

use super::batch::{BatchHeader, RecordBatch};
use super::error::FormatError;
use crate::types::{Offset, Position};

/// Where the next batch may stand: no checksum covers its offsets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// It begins here or above.
    floor: Offset,
    /// It ends below.
    ceiling: Offset,
    /// Whether each batch begins where the one before ended.
    dense: bool,
    /// Where the next one begins, if that is known.
    due: Option<Offset>,
}

impl Places {
    /// From `floor` on, all of it below `ceiling`, with gaps or `dense`.
    pub(crate) const fn between(floor: Offset, ceiling: Offset, dense: bool) -> Self {
        Self { floor, ceiling, dense, due: None }
    }

    /// Takes a batch's place, so that the next one stands behind it.
    #[inline]
    pub(crate) fn take(&mut self, header: &BatchHeader) -> Result<(), FormatError> {
        let (base, last) = (header.base_offset(), header.last_offset());
        let is_due = header.magic() < 2 || self.due.is_none_or(|due| due == base);
        if base >= self.floor && last < self.ceiling && is_due {
            self.floor = last.next();
            self.due = self.dense.then_some(self.floor);
            return Ok(());
        }
        let expected = match is_due {
            true => "an offset above those before it, within the segment's range",
            false => "the offset behind the batch before it",
        };
        Err(FormatError::Invalid { field: "baseOffset", position: Position::ZERO, expected, got: base.value() })
    }
}

/// The batches that stand one after the other in some bytes, of any magic.
///
/// It ends quietly at an incomplete last batch and where nothing but zeros follows, as a log does. At the first batch that
/// is wrong it yields the error, with its position in these bytes, and ends.
#[derive(Debug)]
pub struct Batches {
    bytes: Bytes,
    position: Position,
    /// Where they may stand, if that is known.
    places: Option<Places>,
    ended: bool,
}

impl Batches {
    /// Walks `bytes` from their start.
    #[must_use]
    pub const fn new(bytes: Bytes) -> Self {
        Self { bytes, position: Position::ZERO, places: None, ended: false }
    }

    /// As [`new`](Self::new); a batch that is out of place is wrong.
    pub(crate) const fn in_places(bytes: Bytes, places: Places) -> Self {
        Self { bytes, position: Position::ZERO, places: Some(places), ended: false }
    }

    /// Where the next batch begins, in bytes from the start.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.position
    }

    #[cold]
    fn end_with(&mut self, error: FormatError) -> Option<<Self as Iterator>::Item> {
        self.ended = true;
        let base = usize::try_from(self.position.value()).unwrap_or(usize::MAX);
        Some(Err(error.shifted(base)))
    }

    /// The end at what is no whole batch: quiet where a log ends so.
    #[cold]
    fn end_at(&mut self, error: FormatError) -> Option<<Self as Iterator>::Item> {
        self.ended = true;
        let is_quiet = matches!(error, FormatError::Incomplete { .. }) || self.bytes.iter().all(|byte| *byte == 0);
        if is_quiet { None } else { self.end_with(error) }
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = match RecordBatch::split_off(&mut self.bytes) {
            Ok(batch) => batch,
            Err(error) => return self.end_at(error),
        };
        if let Some(places) = &mut self.places
            && let Err(error) = places.take(batch.header())
        {
            return self.end_with(error);
        }
        self.position = self.position.plus(batch.header().size().into());
        Some(Ok(batch))
    }
}

impl std::iter::FusedIterator for Batches {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{BatchBuilder, BatchOptions, Record, assign_offsets};
    use crate::types::LeaderEpoch;

    /// A batch of one record at `offset`.
    fn batch_at(offset: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(&Record::new("value"), None).expect("it fits");
        let mut bytes = builder.finish().expect("a batch").to_vec();
        assign_offsets(&mut bytes, Offset::new(offset).expect("not negative"), LeaderEpoch::ZERO).expect("numbered");
        bytes
    }

    #[test]
    fn a_batch_out_of_place_is_wrong_also_where_nothing_follows() {
        let [floor, ceiling] = [5, 8].map(|value| Offset::new(value).expect("not negative"));
        for (offsets, dense, sound) in [
            (vec![5, 6, 7], true, 3),
            (vec![4], false, 0),
            (vec![6, 6], false, 1),
            (vec![5, 8], false, 1),
            (vec![7, 5, 7], false, 1),
            (vec![5, 7], false, 2),
            (vec![5, 7], true, 1),
            (vec![6, 7], true, 2),
        ] {
            let bytes: Vec<u8> = offsets.iter().flat_map(|offset| batch_at(*offset)).collect();
            let batches = Batches::in_places(Bytes::from(bytes), Places::between(floor, ceiling, dense));
            let found: Vec<_> = batches.map(|batch| batch.is_ok()).collect();
            let mut expected = vec![true; sound];
            expected.extend((sound < offsets.len()).then_some(false));
            assert_eq!(found, expected, "{offsets:?}, dense: {dense}");
        }
    }
}
