//! Which paths a fault or a hook is meant for.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

type Predicate = dyn Fn(&Path) -> bool + Send + Sync;

/// A condition on a path. Paths are compared as text; a file's path is the one it was opened under.
///
/// # Example
/// ```
/// use std::path::Path;
/// use stratalog::vfs::PathFilter;
///
/// let filter = PathFilter::ends_with(".log");
/// assert!(filter.includes(Path::new("t-0/00000000000000000000.log")));
/// assert!(!filter.includes(Path::new("t-0/00000000000000000000.log.deleted")));
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum PathFilter {
    /// Every path.
    #[default]
    Any,
    /// Paths that contain this text.
    Contains(String),
    /// Paths that end with this text, which may be a part of the last name: `".log"`.
    EndsWith(String),
    /// Paths for which the function says so. It runs while the file system's faults are locked, so it must not use that
    /// file system.
    Predicate(Arc<Predicate>),
}

impl PathFilter {
    /// Paths that contain `text`.
    pub fn contains(text: impl Into<String>) -> Self {
        Self::Contains(text.into())
    }

    /// Paths that end with `text`.
    pub fn ends_with(text: impl Into<String>) -> Self {
        Self::EndsWith(text.into())
    }

    /// Paths for which `predicate` holds. It must not use the file system that the filter is given to.
    pub fn matching(predicate: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        Self::Predicate(Arc::new(predicate))
    }

    /// Whether the filter lets `path` through.
    #[must_use]
    pub fn includes(&self, path: &Path) -> bool {
        match self {
            Self::Any => true,
            Self::Contains(text) => path.to_string_lossy().contains(text),
            Self::EndsWith(text) => path.to_string_lossy().ends_with(text),
            Self::Predicate(predicate) => predicate(path),
        }
    }
}

impl fmt::Debug for PathFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("Any"),
            Self::Contains(text) => f.debug_tuple("Contains").field(text).finish(),
            Self::EndsWith(text) => f.debug_tuple("EndsWith").field(text).finish(),
            Self::Predicate(_) => f.write_str("Predicate"),
        }
    }
}

/// Two predicates are equal when one is a clone of the other.
impl PartialEq for PathFilter {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, Self::Any) => true,
            (Self::Contains(one), Self::Contains(two)) | (Self::EndsWith(one), Self::EndsWith(two)) => one == two,
            (Self::Predicate(one), Self::Predicate(two)) => Arc::ptr_eq(one, two),
            _ => false,
        }
    }
}

impl Eq for PathFilter {}
