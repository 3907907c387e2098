//! Why a key or a value was refused. Texts that came from a caller are shortened to 64 characters.

use crate::types::ErrorKind;

/// A config key or value that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No key of this name exists.
    #[error("unknown config key {key:?}")]
    UnknownKey {
        /// The name, shortened.
        key: String,
    },
    /// The key existed in older versions of Kafka.
    #[error("config key {key} was removed in Kafka 4.0: {reason}")]
    RemovedKey {
        /// The name.
        key: &'static str,
        /// What to do instead.
        reason: &'static str,
    },
    /// The key is Kafka's, but what it steers is not here.
    #[error("config key {key:?} is not supported: {reason}")]
    UnsupportedKey {
        /// The name, shortened.
        key: String,
        /// What is missing.
        reason: &'static str,
    },
    /// The value is not one that the key can take.
    #[error("invalid value {value:?} for config key {key}: expected {expected}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// The value, shortened.
        value: String,
        /// What would have been legal.
        expected: &'static str,
    },
    /// Two values that are legal alone exclude each other.
    #[error("config {key}={value} conflicts with {other_key}={other_value}: expected {expected}")]
    Conflict {
        /// The one key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The other key.
        other_key: &'static str,
        /// Its value.
        other_value: String,
        /// How the two must stand to each other.
        expected: &'static str,
    },
}

impl ConfigError {
    /// What this error means for a caller.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedKey { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    /// The key that is concerned; the first one of a conflict.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::UnknownKey { key } | Self::UnsupportedKey { key, .. } => key,
            Self::RemovedKey { key, .. } | Self::Invalid { key, .. } | Self::Conflict { key, .. } => key,
        }
    }
}
