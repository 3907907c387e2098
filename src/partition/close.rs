//! The orderly end of a partition's use, and what is written down now and then in case the end doesn't come in order.

use std::sync::Arc;

use super::{LogError, Partition};

impl Partition {
    /// Ends the use of this partition by every clone after writing and syncing everything.
    pub(crate) fn close(&self) -> Result<(), LogError> {
        let result = self.close_files();
        self.invalidate();
        result
    }

    fn close_files(&self) -> Result<(), LogError> {
        if self.inner.read_only {
            return Ok(());
        }
        let _inside = self.inner.enter_writable()?;
        let _structure = self.inner.structure.lock();
        // What can't be removed now is passed over by the next opening.
        self.inner.finish_removals().ok();
        self.flush()?;
        let mut writer = self.inner.writer.lock();
        self.inner.check_online()?;
        // Appends that came in since the flush end here too.
        self.inner.make_durable(self.log_end_offset(), None)?;
        self.inner.take_snapshot(&mut writer, self.log_end_offset())?;
        self.inner.sync_snapshots()?;
        let active = Arc::clone(self.inner.list().active());
        active.seal().and_then(|()| active.sync_all()).map_err(|error| self.inner.wrap(error))?;
        self.inner.vfs.sync_dir(&self.inner.dir).map_err(|error| self.inner.wrap(error))?;
        self.inner.set_closed();
        Ok(())
    }

    /// Lets those who hold segments go on reading them when the folder gets another name, or another life of the store. A segment that
    /// can't be opened now, for want of descriptors or memory, doesn't keep its topic from being deleted.
    pub(crate) fn detach_held(&self) {
        let list = self.inner.list();
        // The list has one reference.
        let held = list.iter().filter(|segment| Arc::strong_count(segment) > 1);
        held.for_each(|segment| drop(segment.detach()));
    }

    /// Writes the epochs, index entries and producers that are only in memory, so that another process, or this one after a kill,
    /// finds them. A partition that is offline or closed has nothing to write.
    pub(crate) fn persist_state(&self) -> Result<(), LogError> {
        let Ok(_inside) = self.inner.enter_writable() else { return Ok(()) };
        // The epochs of another program tell that our older note of the log start and of gaps is not to be believed.
        self.inner.require_noted_gaps()?;
        self.inner.epochs.persist().map_err(|error| self.inner.wrap(error))?;
        let mut writer = self.inner.writer.lock();
        self.inner.check_online()?;
        let is_new = self.inner.take_snapshot(&mut writer, self.log_end_offset())?;
        let active = Arc::clone(self.inner.list().active());
        drop(writer);
        self.inner.sync_snapshots_up_to(self.log_start_offset())?;
        if !is_new {
            // Nothing was appended since the last time.
            return Ok(());
        }
        active.persist_indexes().map_err(|error| self.inner.wrap(error))
    }
}
