//! Every batch of a partition from an offset to the log's end: how the logs that coordinators keep are read.

use crate::format::{FormatError, RecordBatch};
use crate::partition::{LogError, Partition};
use crate::types::Offset;

/// Why a log could not be read to its end.
#[derive(Debug)]
pub(crate) enum FollowError {
    Log(LogError),
    /// What stands at the offset can't be understood.
    Damaged {
        offset: Offset,
        source: FormatError,
    },
}

/// Hands every batch at or after `from` to `visit`, transactional and control batches included, and returns the offset behind the last.
/// `from` is the log start offset or what an earlier call returned.
///
/// # Errors
/// What the log says, or what `visit` says with the offset of the record it found damaged.
pub(crate) fn follow(
    partition: &Partition,
    from: Offset,
    mut visit: impl FnMut(&RecordBatch) -> Result<(), (Offset, FormatError)>,
) -> Result<Offset, FollowError> {
    let mut next = from;
    loop {
        let start = next;
        for batch in &partition.read(start).fetch().map_err(FollowError::Log)? {
            let batch = match batch {
                Ok(batch) => batch,
                // The read's size limit cut the last batch, which comes with the next read.
                Err(FormatError::Incomplete { .. }) if next > start => break,
                Err(source) => return Err(FollowError::Damaged { offset: next, source }),
            };
            visit(&batch).map_err(|(offset, source)| FollowError::Damaged { offset, source })?;
            next = batch.last_offset().next();
        }
        if next == start {
            return Ok(next);
        }
    }
}
