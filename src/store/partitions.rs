//! Opening one partition's folder: its identity first, then its log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoints::NoteKeeper;
use super::error::StoreError;
use super::failed::Lines;
use super::layout::{self, SkipReason, Skipped};
use crate::clock::Clock;
use crate::config::TopicSettings;
use crate::format::file_name::FileName;
use crate::format::{PartitionMetadata, TopicId};
use crate::metrics::Counters;
use crate::name::TopicPartition;
use crate::partition::{OpenParams, Partition, PartitionRecovery};
use crate::segment::Residency;
use crate::vfs::{IoError, Vfs, read_whole, replace_whole};

/// What all partitions of a store have in common.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    pub vfs: Arc<dyn Vfs>,
    pub clock: Arc<dyn Clock>,
    pub counters: Arc<Counters>,
    pub root: PathBuf,
    /// Whether nothing needs to be verified.
    pub clean: bool,
    pub read_only: bool,
    /// What the segments of all partitions may keep open.
    pub residency: Arc<Residency>,
    /// `producer.id.expiration.ms`.
    pub producer_expiration_ms: u64,
    pub notes: Arc<NoteKeeper>,
}

/// One partition to open.
#[derive(Debug)]
pub(super) struct Job {
    pub id: TopicPartition,
    pub settings: Arc<TopicSettings>,
    /// The topic's id, where it is known before its folders were looked into.
    pub topic_id: Option<TopicId>,
    /// Whether the folder is missing.
    pub create: bool,
    pub lines: Lines,
}

/// A partition that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub partition: Partition,
    pub recovery: PartitionRecovery,
    /// What `partition.metadata` says.
    pub topic_id: Option<TopicId>,
    /// A `partition.metadata` that says nothing.
    pub damage: Option<Skipped>,
    /// Why a missing `partition.metadata` could not be written.
    pub unwritten: Option<IoError>,
}

impl Opener {
    /// Opens a partition, having created its folder and `partition.metadata` when they are missing; `None` when another process
    /// removed the folder of a read-only store. The root folder must be synced when a folder was created.
    pub(super) fn open(&self, job: &Job) -> Result<Option<Opened>, StoreError> {
        let dir = layout::partition_dir(&self.root, &job.id);
        if job.create {
            self.vfs.create_dir_all(&dir)?;
        }
        match self.open_in(job, dir.clone()) {
            Err(_) if self.read_only && self.vfs.metadata(&dir)?.is_none() => Ok(None),
            result => result.map(Some),
        }
    }

    fn open_in(&self, job: &Job, dir: PathBuf) -> Result<Opened, StoreError> {
        let read_only = self.read_only || job.id.topic.is_cluster_metadata();
        let Identity { topic_id, damage, unwritten } = self.identity(job, &dir, read_only)?;
        let params = OpenParams {
            vfs: Arc::clone(&self.vfs),
            clock: Arc::clone(&self.clock),
            counters: Arc::clone(&self.counters),
            dir,
            id: job.id.clone(),
            settings: Arc::clone(&job.settings),
            log_start_offset: job.lines.log_start_offset,
            recovery_point: job.lines.recovery_point,
            clean: self.clean,
            verified: job.lines.verified,
            read_only,
            residency: Arc::clone(&self.residency),
            first_dirty_offset: job.lines.first_dirty_offset,
            producer_expiration_ms: self.producer_expiration_ms,
            unbroken: job.lines.unbroken,
            notes: Arc::<NoteKeeper>::clone(&self.notes),
        };
        let (partition, recovery) = Partition::open(params)?;
        Ok(Opened { partition, recovery, topic_id, damage, unwritten })
    }

    /// The topic id in the folder. One that is missing is written, if known, before any record comes. Where that fails, on a full
    /// disk for example, the next opening does it: only Kafka and a later topic of the same name would miss it.
    fn identity(&self, job: &Job, dir: &Path, read_only: bool) -> Result<Identity, StoreError> {
        let path = dir.join(FileName::partition_metadata().to_string());
        let bytes = read_whole(&*self.vfs, &path)?;
        match (bytes.map(|bytes| PartitionMetadata::parse(&bytes)), job.topic_id) {
            (Some(Err(error)), _) => {
                let damage = Some(Skipped { path, reason: SkipReason::Damaged(error) });
                Ok(Identity { damage, ..Identity::default() })
            }
            (Some(Ok(PartitionMetadata { topic_id: got })), Some(expected)) if got != expected => {
                Err(StoreError::TopicIdMismatch { partition: job.id.clone(), path, expected, got })
            }
            (Some(Ok(found)), _) => Ok(Identity { topic_id: Some(found.topic_id), ..Identity::default() }),
            (None, Some(topic_id)) if !read_only => {
                let bytes = PartitionMetadata { topic_id }.encode();
                let written = replace_whole(&*self.vfs, &path, &bytes).and_then(|()| self.vfs.sync_dir(dir));
                match written {
                    Err(error) if job.create => Err(error.into()),
                    written => Ok(Identity { topic_id: Some(topic_id), damage: None, unwritten: written.err() }),
                }
            }
            (None, _) => Ok(Identity::default()),
        }
    }

    /// The note about a partition that [`Opener::open`] did not find any more.
    pub(super) fn vanished(&self, id: &TopicPartition) -> Skipped {
        Skipped { path: layout::partition_dir(&self.root, id), reason: SkipReason::Vanished }
    }
}

/// What the folder says of its topic, and what is wrong with that.
#[derive(Debug, Default)]
struct Identity {
    topic_id: Option<TopicId>,
    damage: Option<Skipped>,
    unwritten: Option<IoError>,
}
