//! Verifying what a crash may have damaged, batch by batch, and cutting the log at the first damage (reference 10.4). What is cut
//! stays in the folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Cut, Opening};
use crate::format::file_name::{FileKind, Suffix};
use crate::partition::LogError;
use crate::segment::{Recovered, Scan, Segment, file_path};
use crate::types::{Offset, Position};

/// Names tried for one `.cut` file before the oldest is replaced.
const CUT_NAMES_MAX: u32 = 1000;

impl Opening<'_> {
    /// Verifies what may be damaged and cuts the log at the first damage. Returns whether anything was verified.
    pub(super) fn recover_segments(&mut self, segments: &mut Vec<Arc<Segment>>) -> Result<bool, LogError> {
        if self.params.read_only {
            return Ok(false);
        }
        let first = match self.first_unverified(segments)? {
            Some(first) => first,
            None => return Ok(false),
        };
        for index in first..segments.len() {
            let Some(segment) = segments.get(index).cloned() else { break };
            let found = self.recover_segment(&segment)?;
            self.report.recovered_segments += 1;
            self.params.counters.segments_recovered.add(1);
            if let Some((position, reason)) = found.damage {
                self.cut_tail(&segment, position, found.next_offset, reason.clone())?;
                let later = segments.split_off(index + 1);
                self.set_aside(&later, found.next_offset, &format!("follows a cut: {reason}"))?;
                break;
            }
            segment.cut_back().map_err(|error| self.wrap(error))?;
            segment.release();
        }
        Ok(true)
    }

    /// The first segment that needs to be verified; `None` after a clean stop that left the active segment whole.
    fn first_unverified(&self, segments: &[Arc<Segment>]) -> Result<Option<usize>, LogError> {
        let Some(last) = segments.len().checked_sub(1) else { return Ok(None) };
        if self.params.clean {
            let Some(active) = segments.get(last) else { return Ok(None) };
            let whole = matches!(active.end(), Ok((end, _)) if end.value() == active.size());
            return Ok((!whole || !active.has_sane_indexes()).then_some(last));
        }
        let first = match self.params.verified {
            Some(verified) => segments.partition_point(|segment| segment.base_offset() <= verified.base_offset),
            // The recovery point speaks of batches. A segment that ends right there may have been sealed after that flush, or been
            // verified by an earlier opening: then its indexes, that of transactions too, are not synced before the next flush.
            None => {
                let point = self.params.recovery_point.unwrap_or(Offset::ZERO);
                segments.partition_point(|segment| segment.base_offset() < point)
            }
        };
        Ok(Some(first.saturating_sub(1)))
    }

    fn recover_segment(&mut self, segment: &Segment) -> Result<Recovered, LogError> {
        let scan = match self.params.verified {
            Some(verified) if verified.base_offset == segment.base_offset() => Scan::From(verified.position),
            _ => Scan::Whole,
        };
        if matches!(scan, Scan::Whole) {
            self.reindex(segment)?;
        }
        let (epochs, mut has_producers) = (&mut self.epochs, false);
        let recovered = segment.recover(scan, &mut |header| {
            has_producers |= header.producer_id().is_some();
            if let Some(epoch) = header.leader_epoch()
                && epochs.latest().is_none_or(|(latest, _)| epoch > latest)
            {
                epochs.assign(epoch, header.base_offset());
            }
        });
        if matches!(scan, Scan::Whole) && !has_producers {
            self.plain.insert(segment.base_offset());
        }
        recovered.map_err(|error| LogError::segment(&self.params.id, error))
    }

    fn cut_tail(
        &mut self,
        segment: &Segment,
        position: Position,
        from_offset: Offset,
        reason: String,
    ) -> Result<(), LogError> {
        let file = segment.path();
        let moved_to = self.cut_name(&file)?;
        let bytes = segment.cut_tail_into(&moved_to).map_err(|error| self.wrap(error))?;
        self.params.counters.bytes_cut.add(bytes);
        self.report.cuts.push(Cut { file, moved_to, position, bytes, from_offset, reason });
        Ok(())
    }

    /// Takes whole segments out of the log, keeping their batches as `.cut` files.
    pub(super) fn set_aside(
        &mut self,
        segments: &[Arc<Segment>],
        from_offset: Offset,
        reason: &str,
    ) -> Result<(), LogError> {
        for segment in segments {
            let file = segment.path();
            let moved_to = self.cut_name(&file)?;
            self.io(self.params.vfs.rename(&file, &moved_to))?;
            for kind in [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex, FileKind::Snapshot] {
                let path = file_path(&self.params.dir, kind, segment.base_offset(), Suffix::None);
                match self.params.vfs.remove_file(&path) {
                    Err(error) if !error.is_not_found() => return Err(self.wrap(error)),
                    _ => {}
                }
            }
            let bytes = segment.size();
            self.params.counters.bytes_cut.add(bytes);
            let (position, reason) = (Position::ZERO, reason.to_owned());
            self.report.cuts.push(Cut { file, moved_to, position, bytes, from_offset, reason });
        }
        self.io(self.params.vfs.sync_dir(&self.params.dir))
    }

    /// A free name for what is cut out of `file`: `<file>.cut`, then `<file>.2.cut` and so on.
    fn cut_name(&self, file: &Path) -> Result<PathBuf, LogError> {
        let stem = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mut path = self.params.dir.join(format!("{stem}.cut"));
        for number in 2..CUT_NAMES_MAX {
            if self.io(self.params.vfs.metadata(&path))?.is_none() {
                break;
            }
            path = self.params.dir.join(format!("{stem}.{number}.cut"));
        }
        Ok(path)
    }
}
