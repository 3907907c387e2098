//! Consumer groups. What is here: the offsets that groups have committed, kept where Kafka keeps them.
//!
//! - `offset_log.rs`: [`OffsetLog`], over the topic `__consumer_offsets`.
//! - `follow.rs`: the walk over such a partition.
//! - `replay.rs`: what the records of one of its partitions add up to; no I/O.
//!
//! Which member of a group reads which partition is its caller's affair, and so is whether a caller may commit for a group.

mod error;
mod follow;
mod offset_log;
mod replay;

pub use crate::format::CommittedOffset;
pub use error::GroupError;
pub use offset_log::{OFFSET_METADATA_SIZE_MAX, OffsetLog};

#[cfg(feature = "client")]
#[cfg(feature = "client")]
pub(crate) use follow::{FollowError, follow};
