//! Where a log starts, and what is made of notes of its start and its end that the files contradict.

use std::sync::Arc;

use super::Opening;
use crate::format::file_name::FileName;
use crate::partition::LogError;
use crate::partition::segments::SegmentList;
use crate::partition::snapshots;
use crate::segment::{Gaps, Segment};
use crate::types::Offset;
use crate::vfs::OpenMode;

impl Opening<'_> {
    /// Where the log starts. One that ends below that has nothing to read: it begins anew, and knows its producers.
    pub(super) fn begin(
        &mut self,
        segments: &mut Vec<Arc<Segment>>,
        log_end: Offset,
        names: &mut Vec<String>,
    ) -> Result<Offset, LogError> {
        let log_start = self.log_start(segments);
        let Some(first) = segments.first().filter(|_| log_end < log_start) else { return Ok(log_start) };
        if self.params.read_only {
            // The note is another process's and of another moment, and so are the files.
            return Ok(first.base_offset());
        }
        // Those below the start too: a note that the files contradict destroys nothing.
        let all: Vec<_> = self.below_start.drain(..).chain(segments.drain(..)).collect();
        self.keep_producers(&all, log_end, log_start, names)?;
        self.set_aside(&all, log_start, "the log ends before the log start offset")?;
        Ok(log_start)
    }

    /// Writes what segments that are to be set aside tell of producers, as the snapshot of the log up to `log_start`.
    fn keep_producers(
        &self,
        segments: &[Arc<Segment>],
        log_end: Offset,
        log_start: Offset,
        names: &mut Vec<String>,
    ) -> Result<(), LogError> {
        let Some((last, sealed)) = segments.split_last() else { return Ok(()) };
        let list = SegmentList::new(sealed.to_vec(), Arc::clone(last));
        let known = self.rebuild_producers(&list, false, log_end, names)?.table;
        if known.is_empty() {
            return Ok(());
        }
        names.push(FileName::snapshot(log_start).to_string());
        let (vfs, dir) = (&*self.params.vfs, &self.params.dir);
        self.io(snapshots::write_durable(vfs, dir, log_start, &known.snapshot()))
    }

    /// The first segment of a log of which nothing is left. Where it begins above 0, a mark says so: a loss of power may leave some of the
    /// notes that are about to be renewed, and not those that know of it.
    pub(super) fn begin_at(&mut self, log_start: Offset) -> Result<Segment, LogError> {
        let mark = self.params.dir.join(FileName::trimmed(log_start).to_string());
        if !self.params.read_only && log_start > Offset::ZERO && !self.trim_marks.contains(&mark) {
            self.io(self.params.vfs.open(&mark, OpenMode::Create))?;
            self.trim_marks.push(mark);
        }
        self.create(log_start)
    }

    /// Where the log starts: at what is noted, or where its first segment begins if that is later.
    fn log_start(&self, segments: &[Arc<Segment>]) -> Offset {
        let first = segments.first().map(|segment| segment.base_offset());
        // Where nothing is left of a log that is known to have begun somewhere, it begins there again.
        let noted = self.noted_start.max(self.params.unbroken.map(|unbroken| unbroken.log_start));
        first.max(self.noted_start).or(noted).max(self.restarted_at).unwrap_or(Offset::ZERO)
    }

    /// After an orderly stop everything is synced, so that a log start above the recovery point can't be true.
    pub(super) fn distrust_start(&mut self) {
        let point = self.params.recovery_point.filter(|_| self.params.clean && self.restarted_at.is_none());
        if let (Some(point), Some(start)) = (point, self.noted_start)
            && start > point
        {
            let warning = format!("the log start is noted as {start}, but the log was synced up to {point} only");
            self.report.warnings.push(warning);
            self.noted_start = self.params.unbroken.map(|unbroken| unbroken.log_start);
        }
        self.distrust_checkpoint_of_start();
    }

    /// Kafka's file of log starts has no checksum; the note of where the log is unbroken has one, and says the same of a log that nobody
    /// else has written since. Where the former says more, believing it would lose records.
    fn distrust_checkpoint_of_start(&mut self) {
        let is_ours = self.restarted_at.is_none() && matches!(self.gaps(), Gaps::Below(_));
        let Some(unbroken) = self.params.unbroken.filter(|_| is_ours) else { return };
        let known = self.marked_start.max(Some(unbroken.log_start));
        let Some(start) = self.noted_start.filter(|start| Some(*start) > known) else { return };
        if Some(start) > self.params.recovery_point {
            return;
        }
        if self.params.clean {
            let warning =
                format!("the log start is noted as {start} in one file, as {} in another", unbroken.log_start);
            self.report.warnings.push(warning);
        }
        self.noted_start = known;
    }

    /// A log without gaps begins where it is noted to, unless somebody has taken its first files.
    pub(super) fn warn_of_lost_start(&mut self, first: Offset, gaps: Gaps) {
        let Some(unbroken) = self.params.unbroken.filter(|_| self.restarted_at.is_none()) else { return };
        let noted = self.noted_start.max(Some(unbroken.log_start)).filter(|noted| *noted < first);
        if let (Some(noted), Gaps::Below(_)) = (noted, gaps) {
            let warning = format!("the log begins at {first}, though its start is noted as {noted}");
            self.report.warnings.push(warning);
        }
    }

    /// A log can't end below what was synced, unless somebody else has changed its files or the disk lost what it had.
    pub(super) fn warn_of_lost_end(&mut self, log_end: Offset) {
        let Some(point) = self.params.recovery_point.filter(|point| *point > log_end) else { return };
        if self.restarted_at.is_none() {
            let warning = format!("the log ends at {log_end}, though it had been synced up to {point}");
            self.report.warnings.push(warning);
        }
    }
}
