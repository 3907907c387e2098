//! What follows from a log that was just opened or reopened: its producers, what the next syncs must write, the epochs' ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Opened;
use crate::partition::segments::SegmentList;
use crate::partition::sync::Rewrite;
use crate::partition::{Inner, LogError, Writer, load};
use crate::segment::{Segment, SegmentError};
use crate::types::{ErrorKind, Offset, Position};

impl Inner {
    /// What follows from a log that was just opened: its producers, what the next syncs must write, the epochs' ends.
    pub(super) fn adopt(&self, writer: &mut Writer, mut opened: Opened) -> Result<(), LogError> {
        let (start, end) = (opened.log_start, opened.log_end);
        let mut snapshots = std::mem::take(&mut opened.producers.found);
        self.adopt_producers(writer, opened.producers);
        if self.read_only {
            return Ok(());
        }
        let has_left_some = !opened.below_start.is_empty();
        self.removals.replace_waiting(opened.below_start);
        if let Some(from) = opened.unsynced_from {
            snapshots.split_off(&from).into_iter().for_each(|offset| self.distrust_snapshot(offset));
            if has_left_some {
                self.secure_start();
            }
        }
        self.hand_over_unsynced(&opened.list, opened.unsynced_from, &opened.reindexed)?;
        // What can't be written now is written before the recovery point moves.
        self.persist_aborted().ok();
        let is_new = opened.unsynced_from.is_some() || !opened.report.rebuilt.is_empty();
        self.epochs.update(|table| {
            *table = opened.epochs;
            table.truncate_from_end(end) | table.truncate_from_start(start) | is_new
        });
        if let Some(obstacle) = opened.obstacle {
            self.go_offline(&obstacle);
        }
        Ok(())
    }

    /// Makes the producers durable whose batches have just left the log: nobody syncs those batches any more. What can't be done now is
    /// tried again by the next sync, and before a file goes.
    fn secure_start(&self) {
        let first = self.list().first().base_offset();
        if self.secure_producers(first).and_then(|()| self.sync_folder()).is_err() {
            self.distrust_snapshot(first);
        }
    }

    /// After an unclean stop nothing above the recovery point counts as synced: it is written again and synced by the next sync.
    fn hand_over_unsynced(
        &self,
        list: &SegmentList,
        unsynced_from: Option<Offset>,
        reindexed: &BTreeSet<Offset>,
    ) -> Result<(), LogError> {
        let point = load(&self.recovery_point);
        let is_unsynced = |segment: &Arc<Segment>| unsynced_from.is_some_and(|from| segment.base_offset() >= from);
        for segment in list.sealed().iter() {
            if is_unsynced(segment) {
                self.hand_over(Arc::clone(segment));
            } else if reindexed.contains(&segment.base_offset()) {
                self.sync_reindexed(segment)?;
            }
        }
        let mut rewrites = Vec::new();
        for segment in list.iter().filter(|segment| is_unsynced(segment)) {
            let to = Position::new(segment.size());
            let from = match segment.find(point) {
                Ok(found) => found.map_or(to, |(position, _)| position),
                Err(error @ SegmentError::Io(_)) => return Err(self.wrap(error)),
                // Damage that this boot wrote over verified bytes. Readers will be told; what it hides must be durable all the same.
                Err(_) => Position::ZERO,
            };
            if from < to {
                rewrites.push(Rewrite { segment: Arc::clone(segment), from, to });
            }
        }
        self.hand_over_rewrites(rewrites);
        Ok(())
    }

    /// Nothing but this opening knows that the indexes of a segment below the recovery point were made anew.
    fn sync_reindexed(&self, segment: &Segment) -> Result<(), LogError> {
        let synced = segment.persist_aborted().and_then(|()| segment.sync_all()).map_err(|error| self.wrap(error));
        let synced = synced.and_then(|()| self.vfs.sync_dir(&self.dir).map_err(|error| self.wrap(error)));
        match synced {
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                self.go_offline(&error);
                Ok(())
            }
            other => {
                segment.release();
                other
            }
        }
    }
}
