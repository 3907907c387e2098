//! What can go wrong with transactions.

use crate::format::{FormatError, TransactionResult};
use crate::group::GroupError;
use crate::location::Location;
use crate::name::TopicPartition;
use crate::partition::LogError;
use crate::store::StoreError;
use crate::types::{ErrorKind, Offset};

/// An error of a transaction or its coordinator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The store: a topic or partition isn't there, or producer ids could not be taken.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A partition could not be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The offsets of a group can't be committed.
    #[error(transparent)]
    Group(Box<GroupError>),
    /// Somebody in this process coordinates the store's transactions already. Clone that one.
    #[error("the store has a transaction coordinator already")]
    AlreadyCoordinated,
    /// No transactional id: it is empty or has over 32767 bytes.
    #[error("a transactional id has 1 to {limit} bytes, got {got}")]
    InvalidTransactionalId {
        /// The most bytes.
        limit: usize,
        /// The bytes of this one.
        got: usize,
    },
    /// A timeout of 0, or over `transaction.max.timeout.ms`.
    #[error("transactional id {transactional_id:?}: a timeout is 1 to {max} ms, got {got}")]
    InvalidTimeout {
        /// The transactional id, shortened.
        transactional_id: String,
        /// The longest legal one in milliseconds.
        max: u64,
        /// What was asked for, in milliseconds.
        got: u32,
    },
    /// A newer producer of the same transactional id has taken over, or the transaction timed out. Nothing was written. The
    /// producer is of no use any more.
    #[error("the producer of transactional id {transactional_id:?} is fenced: a newer one took over, or it timed out")]
    Fenced {
        /// The transactional id, shortened.
        transactional_id: String,
    },
    /// Records for one of Kafka's internal topics, which only coordinators write.
    #[error("{partition} is kept by coordinators: a transaction can't append to it")]
    InternalTopic {
        /// The partition.
        partition: TopicPartition,
    },
    /// The transaction was to be committed although something in it had failed; it was aborted instead.
    #[error("the transaction of {transactional_id:?} was aborted instead of committed: an append in it had failed")]
    AppendFailed {
        /// The transactional id, shortened.
        transactional_id: String,
    },
    /// The outcome is decided and durable, but not every partition knows it yet. It must not be tried again: the next transaction
    /// or producer of this id, [`abort_timed_out`](super::TransactionCoordinator::abort_timed_out) or the next opening finishes it.
    #[error("the {} of {transactional_id:?} is decided, but not finished: {source}", verb(*result))]
    Unfinished {
        /// The transactional id, shortened.
        transactional_id: String,
        /// The outcome.
        result: TransactionResult,
        /// What went wrong.
        source: Box<Self>,
    },
    /// A record of the transaction log can't be understood.
    #[error("{partition}: the record at offset {offset} is damaged: {source}")]
    Damaged {
        /// The partition of the transaction log.
        partition: TopicPartition,
        /// The record, or the batch that should hold it.
        offset: Offset,
        /// What is wrong with it.
        source: FormatError,
    },
}

const fn verb(result: TransactionResult) -> &'static str {
    match result {
        TransactionResult::Abort => "abort",
        TransactionResult::Commit => "commit",
    }
}

impl From<StoreError> for TransactionError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<GroupError> for TransactionError {
    fn from(error: GroupError) -> Self {
        Self::Group(Box::new(error))
    }
}

impl TransactionError {
    /// What this error means for a caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(source) => source.kind(),
            Self::Log(source) => source.kind(),
            Self::Group(source) => source.kind(),
            Self::AlreadyCoordinated => ErrorKind::Locked,
            Self::InvalidTransactionalId { .. } | Self::InvalidTimeout { .. } | Self::InternalTopic { .. } => {
                ErrorKind::InvalidInput
            }
            Self::Fenced { .. } => ErrorKind::Fenced,
            Self::AppendFailed { .. } => ErrorKind::InvalidTransaction,
            Self::Unfinished { source, .. } => source.kind(),
            Self::Damaged { source, .. } => source.kind(),
        }
    }

    /// The partition, file and position it happened at, as far as known.
    #[must_use]
    pub fn location(&self) -> Location {
        match self {
            Self::Store(source) => source.location(),
            Self::Log(source) => source.location(),
            Self::Group(source) => source.location(),
            Self::Unfinished { source, .. } => source.location(),
            Self::InternalTopic { partition } | Self::Damaged { partition, .. } => {
                Location::unknown().in_partition(partition.clone())
            }
            _ => Location::unknown(),
        }
    }
}
