//! One error for a user's `?`: the sum of what the layers return.

#[cfg(feature = "client")]
use crate::client::TransactionError;
use crate::config::ConfigError;
use crate::format::FormatError;
#[cfg(feature = "groups")]
use crate::group::GroupError;
use crate::location::Location;
use crate::name::NameError;
use crate::partition::LogError;
use crate::segment::SegmentError;
use crate::store::StoreError;
use crate::types::ErrorKind;
use crate::vfs::IoError;

/// Any error of this crate. Each layer's methods return that layer's error, which converts into this one.
///
/// # Example
///
/// ```
/// fn open() -> Result<(), stratalog::Error> {
///     let name = stratalog::name::TopicName::parse("a topic")?;
///     println!("{name}");
///     Ok(())
/// }
/// assert_eq!(open().unwrap_err().kind(), stratalog::types::ErrorKind::InvalidInput);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A store: its folder, its topics.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A partition.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The committed offsets of a group.
    #[cfg(feature = "groups")]
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A transaction or its coordinator.
    #[cfg(feature = "client")]
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A segment, read by itself.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Bytes that are not what their format says.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A config key or value.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A topic name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The disk or the operating system.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl Error {
    /// What the error means for the caller.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Log(error) => error.kind(),
            #[cfg(feature = "groups")]
            Self::Group(error) => error.kind(),
            #[cfg(feature = "client")]
            Self::Transaction(error) => error.kind(),
            Self::Segment(error) => error.kind(),
            Self::Format(error) => error.kind(),
            Self::Config(error) => error.kind(),
            Self::Name(error) => error.kind(),
            Self::Io(error) => error.kind(),
        }
    }

    /// Whether bytes on disk, or handed in, are damaged.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        self.kind() == ErrorKind::Corrupt
    }

    /// Whether the same call may succeed later without anybody changing its arguments: the disk is full, somebody else holds the folder,
    /// or another process changed the log while it was read.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self.kind(), ErrorKind::StorageFull | ErrorKind::Locked | ErrorKind::Changed)
    }

    /// Partition, file and position, as far as known.
    #[must_use]
    pub fn location(&self) -> Location {
        match self {
            Self::Store(error) => error.location(),
            Self::Log(error) => error.location(),
            #[cfg(feature = "groups")]
            Self::Group(error) => error.location(),
            #[cfg(feature = "client")]
            Self::Transaction(error) => error.location(),
            Self::Segment(error) => {
                let location = Location::unknown().in_file(error.file());
                error.position().map_or(location.clone(), |position| location.at_position(position))
            }
            Self::Format(error) => {
                error.position().map_or(Location::unknown(), |position| Location::unknown().at_position(position))
            }
            Self::Io(error) => Location::unknown().in_file(error.path()),
            Self::Config(_) | Self::Name(_) => Location::unknown(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Position;

    #[test]
    fn an_error_keeps_its_address_on_the_way_up() {
        let format = FormatError::Checksum { position: Position::new(61), stored: 1, computed: 2 };
        let error = Error::from(format);
        assert!(error.is_corruption());
        assert!(!error.is_retriable());
        assert_eq!(error.location().to_string(), "position 61");
    }
}
