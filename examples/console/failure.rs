//! How a command fails: whose fault it is decides the exit code.

use std::fmt::{self, Display};
use std::io;
use std::process::ExitCode;

use stratalog::config::ConfigError;
use stratalog::format::FormatError;
use stratalog::partition::LogError;
use stratalog::store::StoreError;
use stratalog::types::ErrorKind;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// What the user gave can't be done: exit 2.
    Input(String),
    /// The disk failed, or what stands on it is damaged: exit 1.
    Disk(String),
    /// Whoever read standard output has seen enough: a quiet exit 0.
    EnoughSeen,
}

impl Failure {
    /// Bad input, in words.
    pub fn input(words: impl Into<String>) -> Self {
        Self::Input(words.into())
    }

    /// An error of the library, judged by what it means.
    fn of(kind: ErrorKind, error: &impl Display) -> Self {
        match kind {
            ErrorKind::Io | ErrorKind::StorageFull | ErrorKind::Corrupt | ErrorKind::Offline => {
                Self::Disk(error.to_string())
            }
            _ => Self::Input(error.to_string()),
        }
    }

    /// The same failure with more about where it happened.
    pub fn with_context(self, add: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Input(words) => Self::Input(add(words)),
            Self::Disk(words) => Self::Disk(add(words)),
            Self::EnoughSeen => Self::EnoughSeen,
        }
    }

    /// Whether other input could have gone well.
    pub const fn is_input(&self) -> bool {
        matches!(self, Self::Input(_))
    }

    /// The exit code that the contract gives it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(2),
            Self::Disk(_) => ExitCode::FAILURE,
            Self::EnoughSeen => ExitCode::SUCCESS,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(words) | Self::Disk(words) => f.write_str(words),
            Self::EnoughSeen => f.write_str("nobody reads the output any more"),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::of(error.kind(), &error)
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Self::of(error.kind(), &error)
    }
}

/// Standard input and output are all that this tool reads and writes itself.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::EnoughSeen,
            _ => Self::Disk(format!("standard input or output: {error}")),
        }
    }
}
